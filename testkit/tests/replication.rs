//! Followers that are held back: what is acknowledged, what can be read, and what an election takes away.

#![expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]
#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]

mod common;

use std::time::Duration;

use common::{Raw, TestBatch, connect, fetch_request, name, only, produce_request};
use milena_protocol::ErrorCode;
use milena_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use milena_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use milena_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use milena_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use milena_protocol::messages::produce_response::PartitionProduceResponse;
use milena_protocol::messages::{
    BrokerId, CreateTopicsRequest, FetchRequest, IncrementalAlterConfigsRequest, ListOffsetsRequest, MetadataRequest,
    OffsetForLeaderEpochRequest, ProduceRequest,
};
use milena_testkit::{Cluster, ClusterBuilder, KafkaVersion, Link, MemoryStream, PartitionInfo};
use tokio::time::Instant;

/// Three brokers; partition 0 is led by 1, and 2 and 3 follow.
fn builder() -> ClusterBuilder {
    Cluster::builder().topic("t", 1)
}

fn cluster() -> Cluster {
    builder().start_in_memory().unwrap()
}

fn info(cluster: &Cluster) -> PartitionInfo {
    cluster.partition_info("t", 0)
}

fn values(cluster: &Cluster) -> Vec<String> {
    let records = cluster.records("t", 0);
    records.iter().map(|record| String::from_utf8_lossy(record.value.as_deref().unwrap()).into_owned()).collect()
}

fn code(code: i16) -> ErrorCode {
    ErrorCode(code)
}

/// Sends one value with these acks, and waits for no answer.
async fn send(raw: &mut Raw<MemoryStream>, value: &str, acks: i16) {
    raw.send(9, &produce_request("t", 0, TestBatch::of(&[value]).bytes(), acks)).await;
}

async fn answer(raw: &mut Raw<MemoryStream>) -> PartitionProduceResponse {
    raw.receive::<ProduceRequest>(9).await.unwrap().responses.remove(0).partition_responses.remove(0)
}

/// Writes one value with acks=1.
async fn write(raw: &mut Raw<MemoryStream>, value: &str) -> i64 {
    send(raw, value, 1).await;
    let answer = answer(raw).await;
    assert_eq!(answer.error_code, 0);
    answer.base_offset
}

#[tokio::test(start_paused = true)]
async fn acks_all_waits_for_a_follower_that_is_held_and_acks_1_does_not() {
    let cluster = cluster();
    let (mut all, mut one) = (connect(&cluster, 1).await, connect(&cluster, 1).await);
    cluster.hold_follower("t", 0, 3);
    send(&mut all, "a", -1).await;
    assert!(all.is_silent_for(Duration::from_secs(10)).await);
    assert_eq!(write(&mut one, "b").await, 1);
    let held = info(&cluster);
    assert_eq!((held.log_end_offset, held.high_watermark, held.isr), (2, 0, vec![1, 2, 3]));
    assert_eq!(held.replica_ends, [2, 2, 0]);
    cluster.release_follower("t", 0, 3);
    let answer = answer(&mut all).await;
    assert_eq!((answer.error_code, answer.base_offset), (0, 0));
    assert_eq!(info(&cluster).high_watermark, 2);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_lags_for_thirty_seconds_leaves_the_in_sync_replicas_and_comes_back() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    cluster.hold_follower("t", 0, 3);
    let start = Instant::now();
    let answered = raw.produce("t", 0, TestBatch::of(&["a"]).bytes()).await;
    assert_eq!((answered.error_code, start.elapsed()), (0, Duration::from_secs(30)));
    assert_eq!(info(&cluster).isr, [1, 2]);
    let told = raw.call(9, MetadataRequest::default().with_topics(None)).await;
    let partition = &told.topics[0].partitions[0];
    assert_eq!(partition.isr_nodes.iter().map(|id| id.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(partition.replica_nodes.len(), 3);
    cluster.release_follower("t", 0, 3);
    assert_eq!((info(&cluster).isr, info(&cluster).replica_ends), (vec![1, 2, 3], vec![1, 1, 1]));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_lacks_nothing_stays_in_sync_however_long_it_is_held() {
    let cluster = builder().replica_lag(Duration::from_secs(10)).start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    raw.produce("t", 0, TestBatch::of(&["a"]).bytes()).await;
    cluster.hold_follower("t", 0, 2);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(info(&cluster).isr, [1, 2, 3]);
    let start = Instant::now();
    assert_eq!(raw.produce("t", 0, TestBatch::of(&["b"]).bytes()).await.error_code, 0);
    assert_eq!((info(&cluster).isr, start.elapsed()), (vec![1, 3], Duration::ZERO));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_replicated_in_time_times_out_and_its_records_stay() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    cluster.hold_follower("t", 0, 2);
    let by_producer = TestBatch::of(&["a"]).by_producer(7, 0, 0).bytes();
    let request = produce_request("t", 0, by_producer, -1).with_timeout_ms(5_000);
    let start = Instant::now();
    let late = raw.call(9, request.clone()).await.responses[0].partition_responses[0].clone();
    assert_eq!((code(late.error_code), late.base_offset), (ErrorCode::REQUEST_TIMED_OUT, 0));
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    // The same batch again is no second record, and waits as the first did.
    raw.send(9, &request).await;
    assert!(raw.is_silent_for(Duration::from_secs(1)).await);
    cluster.release_follower("t", 0, 2);
    assert_eq!((answer(&mut raw).await.error_code, values(&cluster)), (0, vec!["a".to_owned()]));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn consumers_read_up_to_the_high_watermark_and_wait_there() {
    let cluster = cluster();
    let (mut raw, mut reader) = (connect(&cluster, 1).await, connect(&cluster, 1).await);
    raw.produce("t", 0, TestBatch::of(&["a"]).bytes()).await;
    cluster.hold_follower("t", 0, 2);
    write(&mut raw, "b").await;
    write(&mut raw, "c").await;
    let data = raw.fetch("t", 0, 0).await;
    assert_eq!((data.high_watermark, data.last_stable_offset), (1, 1));
    assert_eq!(data.records.unwrap().len(), TestBatch::of(&["a"]).bytes().len());
    for (offset, expected) in [(1, 0), (2, 0), (3, 0), (4, 1)] {
        let data = raw.fetch("t", 0, offset).await;
        assert_eq!((data.error_code, data.records.unwrap().len()), (expected, 0), "offset {offset}");
    }
    let mut waits = fetch_request(&[("t", 0, 1)]);
    (waits.max_wait_ms, waits.min_bytes) = (60_000, 1);
    reader.send(12, &waits).await;
    assert!(reader.is_silent_for(Duration::from_secs(10)).await);
    cluster.drop_from_isr("t", 0, 2);
    let data = reader.receive::<FetchRequest>(12).await.unwrap();
    assert_eq!(only(&data).high_watermark, 3);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn too_few_in_sync_replicas_refuse_acks_all_and_stop_the_high_watermark() {
    let cluster = Cluster::builder().topic_with("t", 1, [("min.insync.replicas", "2")]).start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    cluster.hold_follower("t", 0, 2);
    cluster.hold_follower("t", 0, 3);
    let (mut waiting, request) =
        (connect(&cluster, 1).await, produce_request("t", 0, TestBatch::of(&["a"]).bytes(), -1));
    waiting.send(9, &request.clone().with_timeout_ms(1_000)).await;
    assert!(waiting.is_silent_for(Duration::from_millis(500)).await);
    cluster.drop_from_isr("t", 0, 2);
    cluster.drop_from_isr("t", 0, 3);
    // In Kafka before 3.7 the high watermark would have passed the batch now: NOT_ENOUGH_REPLICAS_AFTER_APPEND.
    assert_eq!(code(answer(&mut waiting).await.error_code), ErrorCode::REQUEST_TIMED_OUT);
    let refused = raw.produce("t", 0, TestBatch::of(&["b"]).bytes()).await;
    assert_eq!((code(refused.error_code), refused.base_offset), (ErrorCode::NOT_ENOUGH_REPLICAS, -1));
    assert_eq!(write(&mut raw, "c").await, 1);
    assert_eq!((info(&cluster).high_watermark, info(&cluster).isr), (0, vec![1]));
    cluster.release_follower("t", 0, 2);
    assert_eq!((info(&cluster).high_watermark, values(&cluster)), (2, vec!["a".to_owned(), "c".to_owned()]));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_cluster_like_kafka_2_8_tells_after_the_append_that_too_few_replicas_are_in_sync() {
    let cluster = Cluster::builder().topic_with("t", 1, [("min.insync.replicas", "2")]);
    let cluster = cluster.kafka_version(KafkaVersion::V2_8).start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    for follower in [2, 3] {
        cluster.hold_follower("t", 0, follower);
    }
    send(&mut raw, "a", -1).await;
    assert!(raw.is_silent_for(Duration::from_secs(1)).await);
    for follower in [2, 3] {
        cluster.drop_from_isr("t", 0, follower);
    }
    let answer = answer(&mut raw).await;
    assert_eq!(
        (code(answer.error_code), answer.base_offset, info(&cluster).high_watermark),
        (ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND, 0, 1)
    );
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn what_brokers_are_configured_with_counts_for_topics_that_say_nothing() {
    let cluster = Cluster::builder().broker_config("min.insync.replicas", "2").topic("t", 1);
    let cluster = cluster.topic_with("own", 1, [("min.insync.replicas", "1")]).start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    for topic in ["t", "own"] {
        for follower in [2, 3] {
            cluster.hold_follower(topic, 0, follower);
            cluster.drop_from_isr(topic, 0, follower);
        }
    }
    let batch = TestBatch::of(&["a"]).bytes();
    assert_eq!(code(raw.produce("t", 0, batch.clone()).await.error_code), ErrorCode::NOT_ENOUGH_REPLICAS);
    assert_eq!(raw.produce("own", 0, batch.clone()).await.error_code, 0);
    assert_eq!(write(&mut raw, "b").await, 0);
    assert_eq!(info(&cluster).high_watermark, 0);
    // At run time, for all: the high watermark goes on at once, and an unclean election is made when it is allowed.
    let set = async |raw: &mut Raw<MemoryStream>, name: &'static str, value: &'static str| {
        let config = AlterableConfig::default().with_name(name.into()).with_value(Some(value.into()));
        let resource = AlterConfigsResource::default().with_resource_type(4).with_configs(vec![config]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        assert_eq!(raw.call(1, request).await.responses[0].error_code, 0);
    };
    set(&mut raw, "min.insync.replicas", "1").await;
    assert_eq!(info(&cluster).high_watermark, 1);
    cluster.crash(1);
    assert_eq!(info(&cluster).leader, None);
    let mut two = connect(&cluster, 2).await;
    set(&mut two, "unclean.leader.election.enable", "true").await;
    assert_eq!((info(&cluster).leader, info(&cluster).log_end_offset), (Some(2), 0));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_clean_election_takes_away_only_what_nobody_could_read() {
    let cluster = cluster();
    let (mut raw, mut waiting) = (connect(&cluster, 1).await, connect(&cluster, 1).await);
    raw.produce("t", 0, TestBatch::of(&["a"]).by_producer(7, 0, 0).bytes()).await;
    cluster.hold_follower("t", 0, 2);
    let tail = TestBatch::of(&["lost"]).by_producer(7, 0, 1);
    waiting.send(9, &produce_request("t", 0, tail.bytes(), -1)).await;
    assert_eq!(write(&mut raw, "lost too").await, 2);
    cluster.crash(1);
    let led = info(&cluster);
    assert_eq!((led.leader, led.leader_epoch, led.log_end_offset, led.isr), (Some(2), 1, 1, vec![2, 3]));
    let mut two = connect(&cluster, 2).await;
    let other = two.produce("t", 0, TestBatch::of(&["b"]).by_producer(7, 0, 1).bytes()).await;
    assert_eq!((other.error_code, other.base_offset), (0, 1), "its producer is known as far as the log goes");
    cluster.restart(1);
    assert_eq!((values(&cluster), info(&cluster).replica_ends), (vec!["a".to_owned(), "b".to_owned()], vec![2, 2, 2]));
    two.fetch("t", 0, 0).await;
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_moved_away_fails_what_waits_and_names_the_new_one() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    cluster.hold_follower("t", 0, 3);
    let request = produce_request("t", 0, TestBatch::of(&["a"]).bytes(), -1);
    raw.send(10, &request).await;
    assert!(raw.is_silent_for(Duration::from_secs(1)).await);
    cluster.move_leader("t", 0, 2);
    let told = raw.receive::<ProduceRequest>(10).await.unwrap();
    let partition = &told.responses[0].partition_responses[0];
    assert_eq!(code(partition.error_code), ErrorCode::NOT_LEADER_OR_FOLLOWER);
    assert_eq!((partition.current_leader.leader_id.0, partition.current_leader.leader_epoch), (2, 1));
    assert_eq!(told.node_endpoints[0].node_id.0, 2);
    // Broker 2 has the record, and the third does not: whoever asks for the end learns nothing before it is known.
    let mut two = connect(&cluster, 2).await;
    let asked = ListOffsetsPartition::default().with_timestamp(-1).with_current_leader_epoch(-1);
    let topic = ListOffsetsTopic::default().with_name(name("t")).with_partitions(vec![asked]);
    let request = ListOffsetsRequest::default().with_topics(vec![topic]);
    let mut end = async |version| {
        let found = two.call(version, request.clone()).await.topics[0].partitions[0].clone();
        (code(found.error_code), found.offset)
    };
    assert_eq!(end(7).await, (ErrorCode::OFFSET_NOT_AVAILABLE, -1));
    assert_eq!(end(4).await, (ErrorCode::LEADER_NOT_AVAILABLE, -1));
    cluster.release_follower("t", 0, 3);
    assert_eq!(end(7).await, (ErrorCode::NONE, 1));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_replica_in_sync_there_is_no_leader_until_one_is_elected_that_lacks_records() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    raw.produce("t", 0, TestBatch::of(&["a", "b"]).bytes()).await;
    for follower in [2, 3] {
        cluster.hold_follower("t", 0, follower);
        cluster.drop_from_isr("t", 0, follower);
    }
    assert_eq!(raw.produce("t", 0, TestBatch::of(&["c"]).bytes()).await.error_code, 0);
    cluster.crash(1);
    let mut two = connect(&cluster, 2).await;
    let told = two.call(9, MetadataRequest::default().with_topics(None)).await.topics[0].partitions[0].clone();
    assert_eq!((code(told.error_code), told.leader_id.0), (ErrorCode::LEADER_NOT_AVAILABLE, -1));
    let old = two.call(10, fetch_request(&[("t", 0, 0)])).await;
    assert_eq!(code(only(&old).error_code), ErrorCode::NOT_LEADER_OR_FOLLOWER);
    assert_eq!(two.fetch("t", 0, 0).await.high_watermark, 2, "a follower gives what it has");
    cluster.elect_unclean("t", 0, 2);
    let led = info(&cluster);
    assert_eq!((led.leader, led.leader_epoch, led.isr, led.log_end_offset), (Some(2), 2, vec![2], 2));
    cluster.release_follower("t", 0, 3);
    cluster.restart(1);
    assert_eq!((info(&cluster).isr, info(&cluster).replica_ends), (vec![2, 3, 1], vec![2, 2, 2]));

    // A consumer that had read all three: its position is gone, and its epoch tells where.
    assert_eq!(code(two.fetch("t", 0, 3).await.error_code), ErrorCode::OFFSET_OUT_OF_RANGE);
    two.produce("t", 0, TestBatch::of(&["x", "y"]).bytes()).await;
    let asked = OffsetForLeaderPartition::default().with_leader_epoch(0).with_current_leader_epoch(2);
    let topic = OffsetForLeaderTopic::default().with_topic(name("t")).with_partitions(vec![asked]);
    let request = OffsetForLeaderEpochRequest::default().with_topics(vec![topic]);
    let found = two.call(3, request).await.topics[0].partitions[0].clone();
    assert_eq!((found.leader_epoch, found.end_offset), (0, 2));
    let mut fetch = fetch_request(&[("t", 0, 3)]);
    fetch.topics[0].partitions[0].last_fetched_epoch = 0;
    let response = two.call(12, fetch.clone()).await;
    let data = only(&response);
    assert_eq!((data.diverging_epoch.epoch, data.diverging_epoch.end_offset), (0, 2));
    assert!(data.records.as_ref().unwrap().is_empty());
    fetch.topics[0].partitions[0].fetch_offset = 2;
    let response = two.call(12, fetch).await;
    assert_eq!((only(&response).diverging_epoch.epoch, only(&response).error_code), (-1, 0));
    assert!(!only(&response).records.as_ref().unwrap().is_empty());
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_topic_can_allow_unclean_elections() {
    let cluster = Cluster::builder().topic_with("t", 1, [("unclean.leader.election.enable", "true")]);
    let cluster = cluster.start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    for follower in [2, 3] {
        cluster.hold_follower("t", 0, follower);
        cluster.drop_from_isr("t", 0, follower);
    }
    assert_eq!(raw.produce("t", 0, TestBatch::of(&["a"]).bytes()).await.error_code, 0);
    cluster.crash(1);
    let led = info(&cluster);
    assert_eq!((led.leader, led.leader_epoch, led.isr, led.log_end_offset), (Some(2), 1, vec![2], 0));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_leaves_what_followers_out_of_sync_have() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    raw.produce("t", 0, TestBatch::of(&["a"]).bytes()).await;
    for follower in [2, 3] {
        cluster.hold_follower("t", 0, follower);
        cluster.drop_from_isr("t", 0, follower);
    }
    raw.produce("t", 0, TestBatch::of(&["b"]).bytes()).await;
    cluster.crash_losing_unflushed(1);
    assert_eq!((info(&cluster).leader, info(&cluster).replica_ends), (None, vec![0, 1, 1]));
    cluster.elect_unclean("t", 0, 3);
    assert_eq!(values(&cluster), ["a"]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_the_controller_does_not_see_keeps_the_followers_it_lost() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    for follower in [2, 3] {
        cluster.hold_follower("t", 0, follower);
        cluster.drop_from_isr("t", 0, follower);
    }
    cluster.isolate(1);
    cluster.release_follower("t", 0, 2);
    assert_eq!((info(&cluster).leader, info(&cluster).isr), (Some(1), vec![1]));
    cluster.heal_all();
    assert_eq!(info(&cluster).isr, [1, 2]);
    assert_eq!(raw.produce("t", 0, TestBatch::of(&["a"]).bytes()).await.error_code, 0);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_is_sent_to_the_follower_in_its_rack_that_has_its_offset_and_reads_there() {
    let cluster = builder().racks(["a", "b", "b"]).start_in_memory().unwrap();
    let (mut one, mut two) = (connect(&cluster, 1).await, connect(&cluster, 2).await);
    one.produce("t", 0, TestBatch::of(&["x"]).bytes()).await;
    let from = |rack: &'static str, offset| fetch_request(&[("t", 0, offset)]).with_rack_id(rack.into());
    let mut preferred = async |rack, offset| {
        let response = one.call(12, from(rack, offset)).await;
        (only(&response).preferred_read_replica.0, only(&response).records.as_ref().unwrap().len())
    };
    let all = TestBatch::of(&["x"]).bytes().len();
    assert_eq!(
        (preferred("a", 0).await, preferred("b", 0).await, preferred("c", 0).await),
        ((-1, all), (2, 0), (-1, all))
    );
    assert_eq!(two.fetch("t", 0, 0).await.records.unwrap().len(), all);

    // A follower that lacks the offset or is not in sync is not named, and one that is held gives what it has.
    cluster.hold_follower("t", 0, 2);
    cluster.drop_from_isr("t", 0, 2);
    let mut writer = connect(&cluster, 1).await;
    writer.produce("t", 0, TestBatch::of(&["y"]).bytes()).await;
    assert_eq!((preferred("b", 0).await.0, preferred("b", 2).await.0), (3, 3));
    cluster.crash(3);
    assert_eq!((preferred("b", 0).await.0, preferred("b", 2).await.0), (-1, -1));
    let stale = two.fetch("t", 0, 0).await;
    assert_eq!((stale.high_watermark, stale.records.unwrap().len()), (1, all));
    assert_eq!(code(two.fetch("t", 0, 2).await.error_code), ErrorCode::OFFSET_OUT_OF_RANGE);

    // Who waits at a follower goes on when it has caught up.
    let mut waits = from("b", 1);
    (waits.max_wait_ms, waits.min_bytes) = (60_000, 1);
    two.send(12, &waits).await;
    assert!(two.is_silent_for(Duration::from_secs(1)).await);
    cluster.release_follower("t", 0, 2);
    assert_eq!(only(&two.receive::<FetchRequest>(12).await.unwrap()).high_watermark, 2);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_made_while_a_broker_is_down_is_led_by_others() {
    let cluster = Cluster::builder().start_in_memory().unwrap();
    cluster.crash(2);
    cluster.create_topic("t", 3);
    let mut raw = connect(&cluster, 1).await;
    let placed = CreatableTopic::default().with_name(name("one")).with_num_partitions(3).with_replication_factor(1);
    let by_hand = |topic, brokers: &[i32]| {
        let assigned = brokers.iter().map(|id| BrokerId(*id)).collect();
        CreatableTopic::default()
            .with_name(name(topic))
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_assignments(vec![CreatableReplicaAssignment::default().with_broker_ids(assigned)])
    };
    let topics = vec![placed, by_hand("dead", &[2]), by_hand("half", &[2, 3])];
    let created = raw.call(7, CreateTopicsRequest::default().with_topics(topics)).await;
    let codes: Vec<ErrorCode> = created.topics.iter().map(|topic| code(topic.error_code)).collect();
    assert_eq!(codes, [ErrorCode::NONE, ErrorCode::INVALID_REPLICA_ASSIGNMENT, ErrorCode::NONE]);
    let led = |topic, index| {
        let info = cluster.partition_info(topic, index);
        (info.leader, info.replicas, info.isr)
    };
    for (index, leader) in [(0, 1), (1, 3), (2, 1)] {
        assert_eq!(led("one", index), (Some(leader), vec![leader], vec![leader]));
    }
    assert_eq!(led("half", 0), (Some(3), vec![2, 3], vec![3]));
    assert_eq!(led("t", 0), (Some(1), vec![1, 3, 2], vec![1, 3]));

    // What was written before it ran, it has not.
    for _ in 0..10 {
        write(&mut raw, "a").await;
    }
    assert_eq!(info(&cluster).replica_ends, [10, 10, 0]);
    cluster.crash(1);
    cluster.crash(3);
    cluster.restart(2);
    assert_eq!(info(&cluster).leader, None);
    cluster.elect_unclean("t", 0, 2);
    assert_eq!(values(&cluster), [""; 0]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_the_leader_of_a_new_topic_does_not_reach_is_not_in_sync() {
    let cluster = Cluster::builder().start_in_memory().unwrap();
    cluster.cut(Link::Brokers(1, 2));
    cluster.create_topic("t", 1);
    assert_eq!((info(&cluster).leader, info(&cluster).isr), (Some(1), vec![1, 3]));
    let mut raw = connect(&cluster, 1).await;
    assert_eq!(raw.produce("t", 0, TestBatch::of(&["a"]).bytes()).await.error_code, 0);
    assert_eq!(info(&cluster).replica_ends, [1, 0, 1]);
    cluster.heal_all();
    assert_eq!((info(&cluster).isr, info(&cluster).replica_ends), (vec![1, 3, 2], vec![1, 1, 1]));
    cluster.shutdown().await;
}
