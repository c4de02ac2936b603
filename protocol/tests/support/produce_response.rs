//! Produce responses drawn from a seed, encoded by another implementation, and what must be read from them.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint as TheirEndpoint, PartitionProduceResponse,
    ProduceResponse, TopicProduceResponse,
};
use kafka_protocol::protocol::{Encodable, StrBytes};
use milena_protocol::produce::*;
use milena_protocol::{ErrorCode, LeaderHint, NodeEndpoint, TopicKey, Uuid};

/// A response body, from behind the correlation id, and what it says.
pub(crate) fn response(version: i16, seed: u64) -> (Bytes, Produced) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut produced = Produced { throttle_ms: rng.i32(0..1_000), ..Produced::default() };
    let mut topics = Vec::new();
    for number in 0..rng.usize(1..4) {
        let (name, id) = (format!("topic-{number}"), Uuid::from_u128(rng.u128(1..)));
        let mut partitions = Vec::new();
        for index in 0..rng.i32(0..5) {
            let key = if version >= 13 { TopicKey::Id(id) } else { TopicKey::Name(name.as_str().into()) };
            let (theirs, ours) = partition(version, &mut rng, key, index);
            partitions.push(theirs);
            produced.partitions.push(ours);
        }
        topics.push(if version >= 13 {
            TopicProduceResponse::default().with_topic_id(id).with_partition_responses(partitions)
        } else {
            let name = StrBytes::from_string(name).into();
            TopicProduceResponse::default().with_name(name).with_partition_responses(partitions)
        });
    }
    let mut response = ProduceResponse::default().with_throttle_time_ms(produced.throttle_ms).with_responses(topics);
    if version >= 10 && rng.bool() {
        produced.node_endpoints =
            vec![NodeEndpoint { node_id: 3, host: "broker-3.example".to_owned(), port: 9093, rack: None }];
        response = response.with_node_endpoints(vec![
            TheirEndpoint::default()
                .with_node_id(3.into())
                .with_host(StrBytes::from_static_str("broker-3.example"))
                .with_port(9093),
        ]);
    }
    if is_flexible(version) && rng.bool() {
        response.unknown_tagged_fields.insert(5, Bytes::from_static(b"from the future"));
    }
    let mut body = BytesMut::new();
    if is_flexible(version) {
        body.put_slice(if rng.bool() { &[0] } else { &[1, 9, 3, b'a', b'b', b'c'] });
    }
    response.encode(&mut body, version).unwrap();
    (body.freeze(), produced)
}

fn partition(
    version: i16,
    rng: &mut fastrand::Rng,
    topic: TopicKey,
    index: i32,
) -> (PartitionProduceResponse, ProducedPartition) {
    let ours = ProducedPartition {
        topic,
        partition: index,
        error: ErrorCode([0, 0, 6, 87][rng.usize(..4)]),
        base_offset: rng.i64(-1..),
        log_append_time: rng.i64(-1..),
        log_start_offset: if version >= 5 { rng.i64(0..) } else { -1 },
        record_errors: (0..if version >= 8 { rng.i32(0..3) } else { 0 })
            .map(|index| RecordError { index, message: rng.bool().then(|| "too late".to_owned()) })
            .collect(),
        error_message: (version >= 8 && rng.bool()).then(|| "no such luck".to_owned()),
        current_leader: (version >= 10 && rng.bool())
            .then(|| LeaderHint { leader_id: rng.i32(0..), leader_epoch: rng.i32(0..) }),
    };
    let mut theirs = PartitionProduceResponse::default()
        .with_index(index)
        .with_error_code(ours.error.0)
        .with_base_offset(ours.base_offset)
        .with_log_append_time_ms(ours.log_append_time)
        .with_log_start_offset(if version >= 5 { ours.log_start_offset } else { -1 })
        .with_error_message(ours.error_message.clone().map(StrBytes::from_string));
    theirs.record_errors = ours
        .record_errors
        .iter()
        .map(|error| {
            BatchIndexAndErrorMessage::default()
                .with_batch_index(error.index)
                .with_batch_index_error_message(error.message.clone().map(StrBytes::from_string))
        })
        .collect();
    if let Some(leader) = ours.current_leader {
        theirs.current_leader =
            LeaderIdAndEpoch::default().with_leader_id(leader.leader_id.into()).with_leader_epoch(leader.leader_epoch);
    }
    if is_flexible(version) && rng.bool() {
        theirs.unknown_tagged_fields.insert(99, Bytes::from(vec![7; rng.usize(..300)]));
    }
    (theirs, ours)
}
