//! Produce, Fetch and ListOffsets against the in-process cluster, in raw frames under a paused clock.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test reads the clock, waits and panics")]

mod common;

use std::time::Duration;

use common::*;
use milena_protocol::ErrorCode;
use milena_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use milena_protocol::messages::{InitProducerIdRequest, ListOffsetsRequest, MetadataRequest};
use milena_testkit::{Api, Cluster, Reaction, WALL_CLOCK_BASE_MS};

fn cluster() -> Cluster {
    Cluster::builder().topic("t", 3).start_in_memory().unwrap()
}

fn code(code: i16) -> ErrorCode {
    ErrorCode(code)
}

#[tokio::test(start_paused = true)]
async fn what_is_produced_is_fetched_with_offsets_and_leader_epoch_stamped() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    for expected in [0, 2] {
        let answer = raw.produce("t", 0, TestBatch::of(&["a", "b"]).bytes()).await;
        assert_eq!((answer.error_code, answer.base_offset, answer.log_append_time_ms), (0, expected, -1));
    }
    let data = raw.fetch("t", 0, 2).await;
    assert_eq!((data.error_code, data.high_watermark), (0, 4));
    let bytes = data.records.unwrap();
    assert_eq!(&bytes[..8], &2i64.to_be_bytes());
    assert_eq!(&bytes[12..16], &0i32.to_be_bytes());
    let values: Vec<_> = cluster.records("t", 0).into_iter().map(|r| (r.offset, r.value.unwrap())).collect();
    assert_eq!(values.len(), 4);
    assert_eq!(values[3], (3, "b".into()));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_does_not_lead_names_the_leader() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 2).await;
    let mut request = produce_request("t", 0, TestBatch::of(&["a"]).bytes(), -1);
    let response = raw.call(12, request.clone()).await;
    let answer = &response.responses[0].partition_responses[0];
    assert_eq!(code(answer.error_code), ErrorCode::NOT_LEADER_OR_FOLLOWER);
    assert_eq!((answer.current_leader.leader_id.0, answer.current_leader.leader_epoch), (1, 0));
    assert_eq!(response.node_endpoints[0].host.as_str(), "broker-1");

    cluster.move_leader("t", 0, 2);
    request.acks = 1;
    assert_eq!(raw.call(12, request).await.responses[0].partition_responses[0].error_code, 0);
    let mut old = connect(&cluster, 1).await;
    let response = old.call(16, {
        let mut fetch = fetch_request(&[("t", 0, 0)]);
        fetch.topics[0].topic = Default::default();
        fetch.topics[0].topic_id = topic_id(&cluster).await;
        fetch.topics[0].partitions[0].current_leader_epoch = 0;
        fetch
    });
    let response = response.await;
    assert_eq!(code(only(&response).error_code), ErrorCode::FENCED_LEADER_EPOCH);
    assert_eq!(only(&response).current_leader.leader_epoch, 1);
    assert_eq!(response.node_endpoints[0].node_id.0, 2);
    cluster.shutdown().await;
}

async fn topic_id(cluster: &Cluster) -> uuid::Uuid {
    let mut raw = connect(cluster, 1).await;
    let response = raw.call(12, MetadataRequest::default().with_topics(None)).await;
    response.topics[0].topic_id
}

#[tokio::test(start_paused = true)]
async fn a_repeated_batch_gets_its_first_offset_and_a_gap_an_error() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    let id = raw.call(4, InitProducerIdRequest::default().with_transactional_id(None)).await;
    assert_eq!((id.error_code, id.producer_epoch), (0, 0));
    let id = id.producer_id.0;
    let first = TestBatch::of(&["a", "b"]).by_producer(id, 0, 0).bytes();
    assert_eq!(raw.produce("t", 0, first.clone()).await.base_offset, 0);
    let third = TestBatch::of(&["d"]).by_producer(id, 0, 3).bytes();
    let refused = raw.produce("t", 0, third).await;
    assert_eq!(code(refused.error_code), ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_eq!(refused.base_offset, -1);
    let second = TestBatch::of(&["c"]).by_producer(id, 0, 2).bytes();
    assert_eq!(raw.produce("t", 0, second).await.base_offset, 2);
    let again = raw.produce("t", 0, first).await;
    assert_eq!((again.error_code, again.base_offset), (0, 0));
    assert_eq!(cluster.partition_info("t", 0).log_end_offset, 3);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn broken_batches_are_refused_each_with_kafkas_code() {
    let cluster = Cluster::builder().topic("t", 1).topic_with("c", 1, [("cleanup.policy", "compact")]);
    let cluster = cluster.start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    let good = TestBatch::of(&["a", "b"]);
    let mutate = |at: usize, byte: u8, signed: bool| {
        let mut bytes = good.bytes().to_vec();
        bytes[at] = byte;
        if signed {
            sign(&mut bytes);
        }
        bytes::Bytes::from(bytes)
    };
    let twice = [good.bytes(), good.bytes()].concat().into();
    let mut keyless = good.clone();
    keyless.records[1].0 = None;
    for (what, topic, batch, expected) in [
        ("wrong crc", "t", mutate(70, 9, false), ErrorCode::CORRUPT_MESSAGE),
        ("cut off", "t", good.bytes().slice(..70), ErrorCode::INVALID_RECORD),
        ("magic 1", "t", mutate(16, 1, true), ErrorCode::INVALID_RECORD),
        ("base offset 1", "t", mutate(7, 1, true), ErrorCode::INVALID_RECORD),
        ("wrong count", "t", mutate(60, 3, true), ErrorCode::INVALID_RECORD),
        ("wrong last offset delta", "t", mutate(26, 4, true), ErrorCode::INVALID_RECORD),
        ("control batch", "t", mutate(22, 0x20, true), ErrorCode::INVALID_RECORD),
        ("no gzip at all", "t", mutate(22, 1, true), ErrorCode::UNKNOWN_SERVER_ERROR),
        ("a record that ends too late", "t", mutate(74, 6, true), ErrorCode::INVALID_RECORD),
        ("magic 3", "t", mutate(16, 3, true), ErrorCode::CORRUPT_MESSAGE),
        ("two batches", "t", twice, ErrorCode::INVALID_RECORD),
        ("nothing", "t", bytes::Bytes::new(), ErrorCode::INVALID_RECORD),
        ("no key on a compacted topic", "c", keyless.bytes(), ErrorCode::INVALID_RECORD),
        ("unknown topic", "u", good.bytes(), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
    ] {
        let answer = raw.produce(topic, 0, batch).await;
        assert_eq!(code(answer.error_code), expected, "{what}: {:?}", answer.error_message);
    }
    assert_eq!(cluster.partition_info("t", 0).log_end_offset, 0);
    let keyless = raw.produce("c", 0, keyless.bytes()).await;
    assert_eq!(keyless.record_errors[0].batch_index, 1);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn lz4_batches_are_unpacked_and_checked() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    let mut batch = TestBatch::of(&["a", "b", "c"]);
    batch.attributes = 3;
    assert_eq!(raw.produce("t", 0, batch.bytes()).await.error_code, 0);
    assert_eq!(cluster.records("t", 0)[2].value.as_deref(), Some(&b"c"[..]));
    let mut broken = batch.bytes().to_vec();
    broken[62] ^= 0xff;
    sign(&mut broken);
    let answer = raw.produce("t", 0, broken.into()).await;
    assert_eq!(code(answer.error_code), ErrorCode::UNKNOWN_SERVER_ERROR);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn log_append_time_is_the_brokers_and_the_batch_says_so() {
    let cluster = Cluster::builder().topic_with("t", 1, [("message.timestamp.type", "LogAppendTime")]);
    let cluster = cluster.start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    tokio::time::advance(Duration::from_millis(1500)).await;
    let answer = raw.produce("t", 0, TestBatch::of(&["a", "b"]).bytes()).await;
    assert_eq!(answer.log_append_time_ms, WALL_CLOCK_BASE_MS + 1500);
    let records = cluster.records("t", 0);
    assert!(records.iter().all(|record| record.timestamp == WALL_CLOCK_BASE_MS + 1500));
    let bytes = raw.fetch("t", 0, 0).await.records.unwrap();
    assert_eq!(bytes[22] & 8, 8);
    assert_eq!(crc32c::crc32c(&bytes[21..]).to_be_bytes(), bytes[17..21]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_last_batch_is_cut_at_the_limit_but_the_first_is_whole() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    let batch = TestBatch::of(&["x".repeat(10_000).as_str()]).bytes();
    for _ in 0..4 {
        raw.produce("t", 0, batch.clone()).await;
    }
    let mut request = fetch_request(&[("t", 0, 0)]);
    request.topics[0].partitions[0].partition_max_bytes = 25_000;
    let response = raw.call(12, request.clone()).await;
    assert_eq!(only(&response).records.as_ref().unwrap().len(), 25_000);
    request.topics[0].partitions[0].partition_max_bytes = 100;
    let response = raw.call(12, request).await;
    assert_eq!(only(&response).records.as_ref().unwrap().len(), batch.len());
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_later_partition_whose_first_batch_does_not_fit_gives_nothing() {
    let cluster = Cluster::builder().brokers(1).topic("t", 2).start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    let batch = TestBatch::of(&["x".repeat(1000).as_str()]).bytes();
    for partition in 0..2 {
        raw.produce("t", partition, batch.clone()).await;
    }
    let mut request = fetch_request(&[("t", 0, 0), ("t", 1, 0)]);
    request.max_bytes = 1500;
    let response = raw.call(12, request).await;
    let lens: Vec<usize> = response.responses[0].partitions.iter().map(|p| p.records.as_ref().unwrap().len()).collect();
    assert_eq!(lens, [batch.len(), 0]);
    assert_eq!(response.responses[0].partitions[1].high_watermark, 1);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_fetch_waits_for_data_and_its_connection_with_it() {
    let cluster = cluster();
    let mut reader = connect(&cluster, 1).await;
    let mut writer = connect(&cluster, 1).await;
    let start = tokio::time::Instant::now();
    let mut request = fetch_request(&[("t", 0, 0)]);
    request.max_wait_ms = 3000;
    request.min_bytes = 1;
    reader.send(12, &request).await;
    assert!(reader.is_silent_for(Duration::from_secs(1)).await);
    writer.produce("t", 0, TestBatch::of(&["a"]).bytes()).await;
    let response = reader.receive::<milena_protocol::messages::FetchRequest>(12).await.unwrap();
    assert!(!only(&response).records.as_ref().unwrap().is_empty());
    assert_eq!(start.elapsed(), Duration::from_secs(1));

    request.topics[0].partitions[0].fetch_offset = 1;
    let start = tokio::time::Instant::now();
    let response = reader.call(12, request).await;
    assert!(only(&response).records.as_ref().unwrap().is_empty());
    assert_eq!(start.elapsed(), Duration::from_secs(3));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn offsets_outside_the_log_are_out_of_range() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    raw.produce("t", 0, TestBatch::of(&["a", "b", "c"]).bytes()).await;
    cluster.delete_records("t", 0, 2);
    for (offset, expected) in [(0, 1), (1, 1), (2, 0), (3, 0), (4, 1)] {
        assert_eq!(raw.fetch("t", 0, offset).await.error_code, expected, "offset {offset}");
    }
    assert_eq!(raw.fetch("t", 0, 2).await.log_start_offset, 2);
    assert_eq!(cluster.records("t", 0).len(), 1);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_answers_only_what_changed() {
    let cluster = Cluster::builder().brokers(1).topic("t", 2).start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    let mut first = fetch_request(&[("t", 0, 0), ("t", 1, 0)]);
    first.session_epoch = 0;
    let response = raw.call(12, first).await;
    let session = response.session_id;
    assert_ne!(session, 0);
    assert_eq!(response.responses[0].partitions.len(), 2);

    let mut next = fetch_request(&[]);
    (next.session_id, next.session_epoch) = (session, 1);
    assert!(raw.call(12, next.clone()).await.responses.is_empty());

    raw.produce("t", 1, TestBatch::of(&["a"]).bytes()).await;
    next.session_epoch = 2;
    let response = raw.call(12, next.clone()).await;
    assert_eq!(only(&response).partition_index, 1);

    assert_eq!(code(raw.call(12, next.clone()).await.error_code), ErrorCode::INVALID_FETCH_SESSION_EPOCH);
    next.session_id = 77;
    assert_eq!(code(raw.call(12, next).await.error_code), ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn offsets_are_listed_by_end_and_by_time() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    raw.produce("t", 0, TestBatch::of(&["a", "b", "c"]).bytes()).await;
    let mut later = TestBatch::of(&["d", "e"]);
    later.base_timestamp += 1000;
    raw.produce("t", 0, later.bytes()).await;
    for (timestamp, expected) in [
        (-1, (5, -1)),
        (-2, (0, -1)),
        (-3, (4, WALL_CLOCK_BASE_MS + 1001)),
        (WALL_CLOCK_BASE_MS + 2, (2, WALL_CLOCK_BASE_MS + 2)),
        (WALL_CLOCK_BASE_MS + 3, (3, WALL_CLOCK_BASE_MS + 1000)),
        (WALL_CLOCK_BASE_MS + 2000, (-1, -1)),
    ] {
        let asked = ListOffsetsPartition::default().with_timestamp(timestamp).with_current_leader_epoch(-1);
        let topic = ListOffsetsTopic::default().with_name(name("t")).with_partitions(vec![asked]);
        let response = raw.call(7, ListOffsetsRequest::default().with_topics(vec![topic])).await;
        let found = &response.topics[0].partitions[0];
        assert_eq!((found.error_code, (found.offset, found.timestamp)), (0, expected), "{timestamp}");
    }
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn acks_zero_gets_no_answer_and_closes_on_failure() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    raw.send(9, &produce_request("t", 0, TestBatch::of(&["a"]).bytes(), 0)).await;
    assert_eq!(raw.fetch("t", 0, 0).await.high_watermark, 1);
    raw.send(9, &produce_request("t", 1, TestBatch::of(&["a"]).bytes(), 0)).await;
    assert!(raw.is_closed().await);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_applied_produce_whose_answer_is_lost_is_in_the_log_once() {
    let cluster = cluster();
    let fault = cluster.faults().when(Api::Produce).topic("t").partition(0).then(Reaction::ApplyThenDisconnect);
    let mut raw = connect(&cluster, 1).await;
    let batch = TestBatch::of(&["a"]).by_producer(3, 0, 0).bytes();
    raw.send(9, &produce_request("t", 0, batch.clone(), -1)).await;
    assert!(raw.is_closed().await);
    assert_eq!(fault.fired(), 1);
    let mut raw = connect(&cluster, 1).await;
    assert_eq!(raw.produce("t", 0, batch).await.base_offset, 0);
    assert_eq!(cluster.records("t", 0).len(), 1);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_larger_than_the_pipe_goes_through_and_comes_back() {
    let cluster = Cluster::builder().topic_with("t", 1, [("max.message.bytes", "10000000")]).start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    let batch = TestBatch::of(&["x".repeat(3_000_000).as_str()]).bytes();
    assert_eq!(raw.produce("t", 0, batch.clone()).await.error_code, 0);
    assert_eq!(raw.fetch("t", 0, 0).await.records.unwrap().len(), batch.len());
    cluster.shutdown().await;
}
