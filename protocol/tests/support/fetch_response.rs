//! Fetch responses drawn from a seed, encoded by another implementation, and the events that must come out of them.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::fetch_response::{
    AbortedTransaction as TheirAborted, EpochEndOffset, FetchResponse, FetchableTopicResponse, LeaderIdAndEpoch,
    NodeEndpoint as TheirEndpoint, PartitionData,
};
use kafka_protocol::protocol::{Encodable, StrBytes};
use milena_protocol::fetch::*;
use milena_protocol::records::split_batch;
use milena_protocol::{ErrorCode, FrameError, LeaderHint, NodeEndpoint, TopicKey, Uuid};

use super::{built, records_of};

/// A response body, from behind the correlation id, and its events.
pub(crate) fn response(version: i16, seed: u64) -> (Bytes, Vec<FetchEvent>) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let head = FetchHead {
        throttle_ms: rng.i32(0..1_000),
        error: ErrorCode(if version >= 7 { [0, 0, 70][rng.usize(..3)] } else { 0 }),
        session_id: if version >= 7 { rng.i32(..) } else { 0 },
    };
    let mut events = vec![FetchEvent::Head(head)];
    let mut end = FetchEnd::default();
    let mut topics = Vec::new();
    for number in 0..rng.usize(..4) {
        let (name, id) = (format!("topic-{number}"), Uuid::from_u128(rng.u128(1..)));
        let key = if by_id(version) { TopicKey::Id(id) } else { TopicKey::Name(name.as_str().into()) };
        let partitions =
            (0..rng.i32(0..5)).map(|index| partition(version, &mut rng, &key, index, &mut events, &mut end));
        let partitions = partitions.collect();
        let name = StrBytes::from_string(name).into();
        topics.push(if by_id(version) {
            FetchableTopicResponse::default().with_topic_id(id).with_partitions(partitions)
        } else {
            FetchableTopicResponse::default().with_topic(name).with_partitions(partitions)
        });
    }
    let mut response = FetchResponse::default().with_throttle_time_ms(head.throttle_ms).with_responses(topics);
    if version >= 7 {
        response = response.with_error_code(head.error.0).with_session_id(head.session_id);
    }
    if version >= 16 && rng.bool() {
        end.node_endpoints = (0..rng.i32(1..4))
            .map(|id| NodeEndpoint {
                node_id: id,
                host: format!("broker-{id}.example"),
                port: 9092,
                rack: rng.bool().then(|| "rack-1".to_owned()),
            })
            .collect();
        let theirs = end.node_endpoints.iter().map(|ours| {
            TheirEndpoint::default()
                .with_node_id(ours.node_id.into())
                .with_host(StrBytes::from_string(ours.host.clone()))
                .with_port(ours.port)
                .with_rack(ours.rack.clone().map(StrBytes::from_string))
        });
        response = response.with_node_endpoints(theirs.collect());
    }
    if is_flexible(version) && rng.bool() {
        response.unknown_tagged_fields.insert(77, Bytes::from_static(b"from the future"));
    }
    events.push(FetchEvent::End(end));

    let mut body = BytesMut::new();
    if is_flexible(version) {
        // One unknown tag in the header now and then.
        body.put_slice(if rng.bool() { &[0] } else { &[1, 9, 3, b'a', b'b', b'c'] });
    }
    response.encode(&mut body, version).unwrap();
    (body.freeze(), events)
}

fn partition(
    version: i16,
    rng: &mut fastrand::Rng,
    topic: &TopicKey,
    index: i32,
    events: &mut Vec<FetchEvent>,
    end: &mut FetchEnd,
) -> PartitionData {
    let error = [0, 0, 0, 6, 1][rng.usize(..5)];
    let mut records = BytesMut::new();
    if error == 0 {
        for _ in 0..rng.usize(..5) {
            records.put_slice(&built(&records_of(rng.u64(..), rng.usize(1..30))));
        }
    }
    let whole = records.len();
    if whole > 0 && rng.bool() {
        let next = built(&records_of(rng.u64(..), 20));
        records.put_slice(&next[..rng.usize(1..next.len())]);
        end.cut_bytes += records.len() - whole;
    }
    let mut ours = FetchedPartition {
        topic: topic.clone(),
        partition: index,
        error: ErrorCode(error),
        high_watermark: rng.i64(0..),
        last_stable_offset: rng.i64(-1..),
        log_start_offset: if version >= 5 { rng.i64(0..) } else { -1 },
        aborted: (0..rng.usize(..4))
            .map(|_| AbortedTransaction { producer_id: rng.i64(..), first_offset: rng.i64(..) })
            .collect(),
        preferred_read_replica: (version >= 11 && rng.bool()).then(|| rng.i32(0..100)),
        records_len: records.len(),
        hints: FetchHints::default(),
    };
    if version >= 12 && records.is_empty() {
        ours.hints = FetchHints {
            diverging_epoch: rng.bool().then(|| DivergingEpoch { epoch: rng.i32(0..), end_offset: rng.i64(0..) }),
            current_leader: rng.bool().then(|| LeaderHint { leader_id: rng.i32(0..), leader_epoch: rng.i32(0..) }),
        };
    }

    let mut theirs = PartitionData::default()
        .with_partition_index(index)
        .with_error_code(error)
        .with_high_watermark(ours.high_watermark)
        .with_last_stable_offset(ours.last_stable_offset)
        .with_aborted_transactions(Some(
            ours.aborted
                .iter()
                .map(|ours| {
                    TheirAborted::default()
                        .with_producer_id(ours.producer_id.into())
                        .with_first_offset(ours.first_offset)
                })
                .collect(),
        ))
        .with_records(Some(records.clone().freeze()));
    if ours.aborted.is_empty() && rng.bool() {
        theirs.aborted_transactions = None;
    }
    if records.is_empty() && rng.bool() {
        theirs.records = None;
    }
    if version >= 5 {
        theirs.log_start_offset = ours.log_start_offset;
    }
    if let Some(replica) = ours.preferred_read_replica {
        theirs.preferred_read_replica = replica.into();
    }
    if let Some(diverging) = ours.hints.diverging_epoch {
        theirs.diverging_epoch =
            EpochEndOffset::default().with_epoch(diverging.epoch).with_end_offset(diverging.end_offset);
    }
    if let Some(leader) = ours.hints.current_leader {
        theirs.current_leader =
            LeaderIdAndEpoch::default().with_leader_id(leader.leader_id.into()).with_leader_epoch(leader.leader_epoch);
    }
    if version >= 12 && rng.bool() {
        theirs.unknown_tagged_fields.insert(99, Bytes::from(vec![7; rng.usize(..300)]));
    }

    events.push(FetchEvent::Partition(ours));
    let mut records = records.freeze();
    while let Ok(Some(batch)) = split_batch(&mut records) {
        events.push(FetchEvent::Batch(batch));
    }
    theirs
}

/// Feeds `body` to a parser in pieces and collects the events.
pub(crate) fn events(
    parser: &mut FetchParser,
    version: i16,
    body: &[u8],
    mut piece: impl FnMut() -> usize,
) -> Result<Vec<FetchEvent>, FrameError> {
    let mut events = Vec::new();
    let mut rest = body;
    parser.begin(version, body.len())?;
    loop {
        while let Some(event) = parser.next_event()? {
            events.push(event);
        }
        if parser.is_done() {
            assert!(rest.is_empty());
            return Ok(events);
        }
        let wanted = parser.wanted();
        assert_eq!(wanted, rest.len(), "it wants what has not arrived");
        assert!(wanted > 0, "a parser that is not done wants more");
        let buffer = parser.buffer();
        let spare = buffer.capacity() - buffer.len();
        assert!(spare > 0, "there is room for what is wanted");
        let (now, later) = rest.split_at(piece().min(wanted).min(spare));
        buffer.extend_from_slice(now);
        rest = later;
    }
}
