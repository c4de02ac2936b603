//! Fetch from outside: our requests are read by another implementation, its responses are read by us, in any pieces.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::protocol::Decodable;
use milena_protocol::Uuid;
use milena_protocol::fetch::*;
use milena_protocol::records::{Batch, BatchError, PinnedMemory, RawBatch, Scratch};
use support::fetch_response::{events, response};
use support::{built, records_of};

#[test]
fn another_implementation_reads_our_request_in_every_version() {
    let topics = [
        FetchTopic {
            topic: "orders",
            topic_id: Uuid::from_u128(7),
            partitions: (0..3)
                .map(|partition| FetchPartition {
                    partition,
                    leader_epoch: 5,
                    offset: 1 << 40,
                    last_fetched_epoch: 4,
                    max_bytes: 1 << 20,
                })
                .collect(),
        },
        FetchTopic { topic: "empty", topic_id: Uuid::from_u128(8), partitions: Vec::new() },
    ];
    let forgotten = [ForgottenTopic { topic: "gone", topic_id: Uuid::from_u128(9), partitions: (0..200).collect() }];
    let fetch = Fetch {
        max_wait_ms: 500,
        min_bytes: 1,
        max_bytes: 50 << 20,
        read_committed: true,
        session_id: 1234,
        session_epoch: 5,
        topics: &topics,
        forgotten: &forgotten,
        rack: "rack-1",
    };
    for version in VERSIONS {
        let mut bytes = fetch.encode(version).unwrap();
        let theirs = FetchRequest::decode(&mut bytes, version).unwrap();
        assert!(bytes.is_empty(), "v{version}");
        assert_eq!((theirs.max_wait_ms, theirs.min_bytes, theirs.max_bytes), (500, 1, 50 << 20));
        assert_eq!((theirs.isolation_level, theirs.replica_id.0), (1, -1));
        let session = if version >= 7 { (1234, 5) } else { (0, -1) };
        assert_eq!((theirs.session_id, theirs.session_epoch), session);
        assert_eq!(theirs.rack_id.as_str(), if version >= 11 { "rack-1" } else { "" });
        assert_eq!(theirs.topics.len(), 2);
        let orders = &theirs.topics[0];
        if by_id(version) {
            assert_eq!(orders.topic_id, Uuid::from_u128(7));
        } else {
            assert_eq!(orders.topic.0.as_str(), "orders");
        }
        assert_eq!(orders.partitions.len(), 3);
        let last = &orders.partitions[2];
        assert_eq!((last.partition, last.fetch_offset, last.partition_max_bytes), (2, 1 << 40, 1 << 20));
        assert_eq!(last.current_leader_epoch, if version >= 9 { 5 } else { -1 });
        assert_eq!(last.last_fetched_epoch, if version >= 12 { 4 } else { -1 });
        assert_eq!(last.log_start_offset, -1);
        if version >= 7 {
            assert_eq!(theirs.forgotten_topics_data[0].partitions.len(), 200);
        }
    }
}

#[test]
fn a_request_by_id_needs_the_id() {
    let topics = [FetchTopic { topic: "new", topic_id: Uuid::nil(), partitions: Vec::new() }];
    let fetch = Fetch {
        max_wait_ms: 0,
        min_bytes: 0,
        max_bytes: 0,
        read_committed: false,
        session_id: 0,
        session_epoch: -1,
        topics: &topics,
        forgotten: &[],
        rack: "",
    };
    assert!(fetch.encode(12).is_ok());
    assert!(fetch.encode(13).unwrap_err().to_string().contains("\"new\""));
    assert!(fetch.encode(3).is_err() && fetch.encode(19).is_err());
}

#[test]
fn a_response_of_every_version_gives_its_events_in_any_pieces() {
    let mut batches = 0;
    for version in VERSIONS {
        let mut parser = FetchParser::with_chunk(8 * 1024);
        let mut rng = fastrand::Rng::with_seed(version as u64);
        for seed in 0..40 {
            let (body, expected) = response(version, seed);
            let at_once = events(&mut parser, version, &body, || usize::MAX).unwrap();
            assert_eq!(at_once, expected, "v{version}, seed {seed}, at once");
            batches += expected.iter().filter(|event| matches!(event, FetchEvent::Batch(_))).count();
            let pieces = events(&mut parser, version, &body, || rng.usize(1..2_000)).unwrap();
            assert_eq!(pieces, expected, "v{version}, seed {seed}, in random pieces");
            if seed < 5 {
                let bytes = events(&mut parser, version, &body, || 1).unwrap();
                assert_eq!(bytes, expected, "v{version}, seed {seed}, byte by byte");
            }
        }
    }
    assert!(batches > 1_000, "only {batches} batches were drawn: the test would prove little");
}

#[test]
fn a_response_that_is_cut_off_is_never_done_and_one_with_bytes_left_over_is_broken() {
    for version in [4, 11, 12, 18] {
        let (body, _) = response(version, 3);
        for len in 0..body.len().min(400) {
            let error = events(&mut FetchParser::new(), version, &body[..len], || usize::MAX).unwrap_err();
            assert!(error.to_string().contains("the Fetch v"), "{error}");
        }
        let longer = [&body[..], &[0]].concat();
        assert!(events(&mut FetchParser::new(), version, &longer, || usize::MAX).is_err());
    }
}

#[test]
fn a_batch_larger_than_a_chunk_arrives_in_one_piece() {
    let mut records = records_of(1, 1);
    records[0].value = Some(vec![7; 300_000]);
    let batch = built(&records);
    let body = v4_body(&[&batch[..], &batch[..], &batch[..1_000]].concat());
    for chunk in [4 * 1024, 64 * 1024, 256 * 1024, 1 << 20] {
        let mut parser = FetchParser::with_chunk(chunk);
        let events = events(&mut parser, 4, &body, || 10_000).unwrap();
        let batches: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                FetchEvent::Batch(raw) => Some(raw),
                _ => None,
            })
            .collect();
        assert_eq!(batches.len(), 2);
        for raw in batches {
            assert_eq!(raw.bytes(), &batch);
            raw.verify_crc().unwrap();
        }
        assert_eq!(events.last(), Some(&FetchEvent::End(FetchEnd { node_endpoints: Vec::new(), cut_bytes: 1_000 })));
    }
}

#[test]
fn a_length_alone_buys_no_memory() {
    // A batch of 100 MB is announced, in a response that is as long; nothing but its header arrives.
    let mut batch = BytesMut::from(&built(&records_of(1, 1))[..61]);
    batch[8..12].copy_from_slice(&100_000_000i32.to_be_bytes());
    let mut body = BytesMut::from(&v4_body(&batch)[..]);
    let at = body.len() - 61 - 4;
    body[at..at + 4].copy_from_slice(&100_000_012i32.to_be_bytes());
    let mut parser = FetchParser::new();
    parser.begin(4, body.len() - 61 + 100_000_012).unwrap();
    parser.buffer().extend_from_slice(&body);
    while parser.next_event().unwrap().is_some() {}
    let mut filled = body.len();
    while filled < 10_000_000 {
        let buffer = parser.buffer();
        assert!(buffer.capacity() <= (1 << 20).max(2 * filled), "{} for {filled}", buffer.capacity());
        let spare = buffer.capacity() - buffer.len();
        buffer.resize(buffer.len() + spare, 0);
        filled += spare;
        assert_eq!(parser.next_event().unwrap(), None);
    }
}

#[test]
fn a_partition_that_holds_no_batch_does_not_spoil_the_others() {
    let good = built(&records_of(2, 3));
    let mut old = BytesMut::from(&good[..]);
    old[16] = 1;
    let mut negative = BytesMut::from(&good[..]);
    negative[0] = 0xff;
    for (bad, expected) in [
        (&old, BatchError::OldFormat { magic: 1 }),
        (&negative, BatchError::Malformed { base_offset: -72_057_594_037_927_936, reason: "its offsets are negative" }),
    ] {
        let partitions = [[&good[..], bad, &good[..]].concat(), good.to_vec()];
        let body = v4_body_of(&partitions);
        for piece in [1, 7, usize::MAX] {
            let events = events(&mut FetchParser::new(), 4, &body, || piece).unwrap();
            let kinds: Vec<_> = events
                .iter()
                .filter_map(|event| match event {
                    FetchEvent::Partition(_) => Some("partition".to_owned()),
                    FetchEvent::Batch(_) => Some("batch".to_owned()),
                    FetchEvent::BadBatch(error) => Some(error.to_string()),
                    _ => None,
                })
                .collect();
            assert_eq!(kinds, ["partition", "batch", &expected.to_string(), "partition", "batch"]);
        }
    }
}

#[test]
fn what_was_left_of_a_broken_response_is_forgotten() {
    let mut parser = FetchParser::new();
    parser.begin(4, 1_000).unwrap();
    parser.buffer().extend_from_slice(&[0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]);
    assert!(parser.next_event().is_err());
    assert!(parser.next_event().is_err(), "broken stays broken");
    let (body, expected) = response(12, 1);
    assert_eq!(events(&mut parser, 12, &body, || 5).unwrap(), expected);
}

#[test]
fn more_bytes_than_the_response_has_are_refused() {
    let (body, _) = response(4, 1);
    let mut parser = FetchParser::new();
    parser.begin(4, body.len()).unwrap();
    parser.buffer().extend_from_slice(&body);
    parser.buffer().extend_from_slice(&[1]);
    assert!(parser.next_event().is_err());
}

fn batches_of(events: Vec<FetchEvent>) -> Vec<RawBatch> {
    let batch = |event| if let FetchEvent::Batch(raw) = event { Some(raw) } else { None };
    events.into_iter().filter_map(batch).collect()
}

#[test]
fn a_chunk_is_pinned_when_it_is_full_and_one_of_its_batches_is_kept_after_the_others() {
    const CHUNK: usize = 64 * 1024;
    let mut records = records_of(1, 1);
    records[0].value = Some(vec![7; 5000]);
    let batch = built(&records);
    let body = v4_body(&batch.repeat(40));
    let memory = PinnedMemory::new(1 << 30);
    let mut parser = FetchParser::with_chunk(CHUNK).counting(memory.clone());
    let batches = batches_of(events(&mut parser, 4, &body, || 10_000).unwrap());
    assert_eq!(batches.len(), 40);
    // Nothing is used yet: what is not a batch's in three chunks.
    let unused = memory.bytes() as usize;
    assert!(unused < 3 * batch.len(), "{unused}");
    let views: Vec<Batch> = batches.iter().map(|raw| raw.open(&mut Scratch::new(), 1 << 20).unwrap()).collect();
    assert_eq!(memory.bytes() as usize, unused);
    drop(batches);
    let pinned = memory.bytes() as usize;
    assert!(pinned >= unused + 30 * batch.len() && pinned.is_multiple_of(CHUNK), "{pinned}");
    drop(parser);
    assert_eq!(memory.bytes() as usize, pinned + CHUNK, "the last chunk, too");
    let slices: Vec<Bytes> = [0, 39].map(|at: usize| views[at].owner().slice(100..200)).into();
    drop(views);
    assert_eq!(memory.bytes() as usize, 2 * CHUNK, "that of the first and that of the last");
    assert!(slices.iter().all(|slice| slice.iter().all(|byte| *byte == 7)));
    drop(slices);
    assert_eq!(memory.bytes(), 0);
}

#[test]
fn while_too_much_is_pinned_a_batch_keeps_itself_alone() {
    let mut records = records_of(1, 1);
    records[0].value = Some(vec![7; 5000]);
    let batch = built(&records);
    let body = v4_body(&batch.repeat(40));
    let memory = PinnedMemory::new(200_000);
    let mut parser = FetchParser::with_chunk(64 * 1024).counting(memory.clone());
    let mut kept = Vec::new();
    for _ in 0..20 {
        let batches = batches_of(events(&mut parser, 4, &body, || 10_000).unwrap());
        assert!(batches.iter().all(|raw| raw.bytes() == &batch && raw.verify_crc().is_ok()));
        kept.push(batches[17].open(&mut Scratch::new(), 1 << 20).unwrap());
    }
    assert!(memory.is_over());
    // A few chunks, and then batches.
    assert!(memory.bytes() < 200_000 + 2 * 64 * 1024 + 20 * batch.len() as u64, "{}", memory.bytes());
    let part = kept[19].part(kept[19].cursor(), 1).unwrap();
    assert_eq!(part.next(&mut part.cursor()).unwrap().unwrap().value, Some(&[7; 5000][..]));
    assert!(kept[19].part(kept[19].cursor(), 2).is_err());
    let before = memory.bytes();
    drop(kept);
    assert!(memory.bytes() < before && memory.bytes() >= part.records_len() as u64);
    drop((part, parser));
    assert_eq!(memory.bytes(), 0);
}

/// A v4 response with these records in its only partition.
fn v4_body(records: &[u8]) -> Bytes {
    v4_body_of(&[records.to_vec()])
}

fn v4_body_of(partitions: &[Vec<u8>]) -> Bytes {
    use kafka_protocol::messages::fetch_response::{FetchResponse, FetchableTopicResponse, PartitionData};
    use kafka_protocol::protocol::Encodable;
    let partitions = partitions
        .iter()
        .map(|records| PartitionData::default().with_records(Some(Bytes::copy_from_slice(records))))
        .collect();
    let response =
        FetchResponse::default().with_responses(vec![FetchableTopicResponse::default().with_partitions(partitions)]);
    let mut body = BytesMut::new();
    response.encode(&mut body, 4).unwrap();
    body.freeze()
}
