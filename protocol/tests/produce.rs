//! Produce from outside: our requests are read by another implementation, its responses are read by us.

mod support;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::protocol::Decodable;
use milena_protocol::Uuid;
use milena_protocol::produce::*;
use support::produce_response::response;
use support::{built, records_of};

#[test]
fn another_implementation_reads_our_request_in_every_version() {
    let topic = |number: u128| (["orders", "payments"][number as usize % 2], Uuid::from_u128(number + 1));
    let batches: Vec<_> = [(0, 0), (0, 5), (0, 2), (1, 0), (0, 7)]
        .into_iter()
        .map(|(number, partition)| PartitionBatch {
            topic: topic(number).0,
            topic_id: topic(number).1,
            partition,
            batch: built(&records_of(partition as u64, 1 + 40 * partition as usize)),
        })
        .collect();
    for version in VERSIONS {
        for transactional_id in [None, Some("tx-1")] {
            let request = Produce { transactional_id, acks: -1, timeout_ms: 30_000, batches: &batches };
            let chunks = request.encode(version).unwrap();
            for batch in &batches {
                assert!(
                    chunks.iter().any(|chunk| chunk.as_ptr() == batch.batch.as_ptr()),
                    "a batch is a chunk, not a copy"
                );
            }
            let mut body = Bytes::from(chunks.concat());
            let theirs = ProduceRequest::decode(&mut body, version).unwrap();
            assert!(body.is_empty(), "v{version}");
            assert_eq!(theirs.transactional_id.as_deref().map(|id| id.as_str()), transactional_id);
            assert_eq!((theirs.acks, theirs.timeout_ms), (-1, 30_000));
            assert_eq!(theirs.topic_data.len(), 3, "runs of one topic stand together");
            let read: Vec<_> = theirs
                .topic_data
                .iter()
                .flat_map(|topic| topic.partition_data.iter().map(move |partition| (topic, partition)))
                .collect();
            assert_eq!(read.len(), batches.len());
            for ((topic, partition), ours) in read.into_iter().zip(&batches) {
                if version >= 13 {
                    assert_eq!(topic.topic_id, ours.topic_id);
                } else {
                    assert_eq!(topic.name.0.as_str(), ours.topic);
                }
                assert_eq!(partition.index, ours.partition);
                assert_eq!(partition.records.as_ref(), Some(&ours.batch));
            }
        }
    }
}

#[test]
fn a_request_by_id_needs_the_id() {
    let batches = [PartitionBatch { topic: "new", topic_id: Uuid::nil(), partition: 0, batch: Bytes::new() }];
    let request = Produce { transactional_id: None, acks: 1, timeout_ms: 1, batches: &batches };
    assert!(request.encode(12).is_ok());
    assert!(request.encode(13).unwrap_err().to_string().contains("\"new\""));
    assert!(request.encode(2).is_err() && request.encode(14).is_err());
}

#[test]
fn a_response_of_every_version_is_read() {
    let mut partitions = 0;
    for version in VERSIONS {
        for seed in 0..40 {
            let (body, expected) = response(version, seed);
            partitions += expected.partitions.len();
            assert_eq!(Produced::decode(&body, version).unwrap(), expected, "v{version}, seed {seed}");
        }
    }
    assert!(partitions > 1_000, "only {partitions} partitions were drawn: the test would prove little");
}

#[test]
fn a_response_that_is_cut_off_or_too_long_is_an_error() {
    for version in VERSIONS {
        let (body, _) = response(version, 1);
        for len in 0..body.len() {
            assert!(Produced::decode(&body.slice(..len), version).is_err(), "v{version}, {len} bytes");
        }
        let mut longer = BytesMut::from(&body[..]);
        longer.put_u8(0);
        assert!(Produced::decode(&longer.freeze(), version).is_err());
    }
}
