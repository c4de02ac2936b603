//! Reading and writing with three replicas: the same raw requests to the in-process cluster and to three brokers of real Kafka, as in
//! `portable.rs`. `tests/portable_replication.txt` holds what Kafka 4.3.0 answered; `PORTABLE_WRITE=1` writes it anew.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test reads the clock, waits and panics")]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::script::{Conn, Script, address, batch, code, compare, compare_or_write, first, text, three_real_brokers};
use common::*;
use milena_protocol::StrBytes;
use milena_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use milena_protocol::messages::fetch_response::PartitionData;
use milena_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use milena_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use milena_protocol::messages::*;
use milena_testkit::Cluster;

/// A topic with one partition, led by the first of these brokers.
async fn topic(
    script: &Script,
    name: &str,
    replicas: &[i32],
    configs: &[(&'static str, &'static str)],
) -> (&'static str, uuid::Uuid) {
    let name = script.unique(name);
    let configs = configs
        .iter()
        .map(|(key, value)| CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value))));
    let replicas = replicas.iter().map(|id| BrokerId(*id)).collect();
    let topic = CreatableTopic::default()
        .with_name(common::name(name))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_assignments(vec![CreatableReplicaAssignment::default().with_broker_ids(replicas)])
        .with_configs(configs.collect());
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
    let response = script.connect().await.call(7, request).await;
    assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0].error_message);
    (name, response.topics[0].topic_id)
}

/// A connection to a broker.
async fn broker(script: &Script, id: i32) -> Conn {
    let metadata = script.connect().await.call(9, MetadataRequest::default().with_topics(Some(vec![]))).await;
    let broker =
        metadata.brokers.iter().find(|broker| broker.node_id.0 == id).expect("this needs three brokers, 1 to 3");
    connect_tcp(address(&broker.host, broker.port)).await
}

struct Ask {
    version: i16,
    offset: i64,
    epoch: i32,
    last_epoch: i32,
    rack: &'static str,
}

const ASK: Ask = Ask { version: 12, offset: 0, epoch: -1, last_epoch: -1, rack: "" };

async fn fetch(raw: &mut Conn, (topic, id): (&'static str, uuid::Uuid), ask: &Ask) -> (PartitionData, Vec<i32>) {
    let mut request = fetch_request(&[(topic, 0, ask.offset)]);
    let version = ask.version;
    if version >= 13 {
        request.topics[0].topic = TopicName::default();
        request.topics[0].topic_id = id;
    }
    if version >= 11 {
        request.rack_id = text(ask.rack);
    }
    if version < 7 {
        request.session_epoch = FetchRequest::default().session_epoch;
    }
    let partition = &mut request.topics[0].partitions[0];
    if version >= 9 {
        partition.current_leader_epoch = ask.epoch;
    }
    if version >= 12 {
        partition.last_fetched_epoch = ask.last_epoch;
    }
    let response = raw.call(version, request).await;
    let mut endpoints: Vec<i32> = response.node_endpoints.iter().map(|node| node.node_id.0).collect();
    endpoints.sort_unstable();
    (response.responses[0].partitions[0].clone(), endpoints)
}

fn told((data, endpoints): &(PartitionData, Vec<i32>)) -> String {
    format!(
        "{} bytes {} hw {} lso {} start {} preferred {} leader {}/{} endpoints {endpoints:?} diverging {}/{}",
        code(data.error_code),
        data.records.as_ref().map_or(0, |records| records.len()),
        data.high_watermark,
        data.last_stable_offset,
        data.log_start_offset,
        data.preferred_read_replica.0,
        data.current_leader.leader_id.0,
        data.current_leader.leader_epoch,
        data.diverging_epoch.epoch,
        data.diverging_epoch.end_offset,
    )
}

/// Waits until a follower knows the high watermark.
async fn caught_up(raw: &mut Conn, topic: (&'static str, uuid::Uuid), high_watermark: i64) {
    while fetch(raw, topic, &ASK).await.0.high_watermark != high_watermark {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn reading(script: &mut Script) {
    let t = topic(script, "read", &[1, 2, 3], &[]).await;
    let mut leader = script.leader(t.0, 0).await;
    for value in ["a", "b"] {
        leader.produce(t.0, 0, batch(&[value]).bytes()).await;
    }
    let (mut two, mut three) = (broker(script, 2).await, broker(script, 3).await);
    caught_up(&mut two, t, 2).await;
    caught_up(&mut three, t, 2).await;
    for version in [4, 8, 9, 10, 11, 12, 13, 15, 16, 17] {
        for epoch in [-1, 0, 1] {
            if version < 9 && epoch != -1 {
                continue;
            }
            let got = fetch(&mut two, t, &Ask { version, epoch, ..ASK }).await;
            script.line(format_args!("v{version} from a follower in epoch {epoch}: {}", told(&got)));
        }
    }
    for offset in [-1, 1, 2, 3] {
        let got = fetch(&mut two, t, &Ask { offset, ..ASK }).await;
        script.line(format_args!("from a follower at {offset}: {}", told(&got)));
    }
    for rack in ["", "rack-1", "rack-2", "rack-3", "rack-9"] {
        for (version, offset) in [(10, 0), (11, 0), (12, 2), (17, 1), (17, 3)] {
            let got = fetch(&mut leader, t, &Ask { version, offset, rack, ..ASK }).await;
            script.line(format_args!("v{version} from the leader at {offset} for rack {rack:?}: {}", told(&got)));
        }
    }
    let got = fetch(&mut three, t, &Ask { rack: "rack-2", ..ASK }).await;
    script.line(format_args!("from a follower in another rack: {}", told(&got)));
    for (offset, last_epoch) in [(0, 0), (2, 0), (1, 5), (2, 5), (3, 0)] {
        for raw in [&mut leader, &mut two] {
            let got = fetch(raw, t, &Ask { offset, last_epoch, ..ASK }).await;
            script.line(format_args!("at {offset} behind epoch {last_epoch}: {}", told(&got)));
        }
    }
    let only_two = topic(script, "elsewhere", &[1, 2], &[]).await;
    script.leader(only_two.0, 0).await;
    // Who has no part in a topic may be the last to hear of it.
    while told(&fetch(&mut three, only_two, &Ask { version: 12, ..ASK }).await).starts_with("UNKNOWN_TOPIC") {
        pause().await;
    }
    for version in [10, 12, 17] {
        let got = fetch(&mut three, only_two, &Ask { version, ..ASK }).await;
        script.line(format_args!("v{version} from no replica: {}", told(&got)));
    }
    let mut led_by_two = script.leader(only_two.0, 0).await;
    let got = fetch(&mut led_by_two, only_two, &Ask { rack: "rack-3", ..ASK }).await;
    script.line(format_args!("for a rack that has no replica: {}", told(&got)));
}

async fn asking(script: &mut Script) {
    let (t, _) = topic(script, "ask", &[1, 2, 3], &[]).await;
    let mut leader = script.leader(t, 0).await;
    leader.produce(t, 0, batch(&["a"]).bytes()).await;
    let mut two = broker(script, 2).await;
    for epoch in [-1, 0, 1] {
        let asked = ListOffsetsPartition::default().with_timestamp(-1).with_current_leader_epoch(epoch);
        let topic = ListOffsetsTopic::default().with_name(name(t)).with_partitions(vec![asked]);
        let found = two.call(7, ListOffsetsRequest::default().with_topics(vec![topic])).await;
        let found = &found.topics[0].partitions[0];
        script.line(format_args!("end from a follower in epoch {epoch}: {} {}", code(found.error_code), found.offset));
        let asked = OffsetForLeaderPartition::default().with_leader_epoch(0).with_current_leader_epoch(epoch);
        let topic = OffsetForLeaderTopic::default().with_topic(name(t)).with_partitions(vec![asked]);
        let request = OffsetForLeaderEpochRequest::default().with_topics(vec![topic]).with_replica_id(BrokerId(-1));
        let found = &two.call(4, request).await.topics[0].partitions[0];
        script.line(format_args!(
            "end of epoch 0 from a follower in epoch {epoch}: {} {}/{}",
            code(found.error_code),
            found.leader_epoch,
            found.end_offset
        ));
    }
}

async fn writing(script: &mut Script) {
    let (t, id) = topic(script, "write", &[1, 2, 3], &[]).await;
    script.leader(t, 0).await;
    let mut two = broker(script, 2).await;
    for version in [9, 10, 12, 13] {
        let mut request = produce_request(t, 0, batch(&["a"]).bytes(), -1);
        if version >= 13 {
            request.topic_data[0].name = TopicName::default();
            request.topic_data[0].topic_id = id;
        }
        let response = two.call(version, request).await;
        let answer = &response.responses[0].partition_responses[0];
        script.line(format_args!(
            "v{version} to a follower: {} {} leader {}/{} endpoints {:?}",
            code(answer.error_code),
            answer.base_offset,
            answer.current_leader.leader_id.0,
            answer.current_leader.leader_epoch,
            response.node_endpoints.iter().map(|node| node.node_id.0).collect::<Vec<_>>()
        ));
    }
    for (replicas, min) in [(&[1][..], "1"), (&[1], "2"), (&[1, 2], "2"), (&[1, 2], "3"), (&[1, 2, 3], "4")] {
        let (t, _) = topic(script, "min", replicas, &[("min.insync.replicas", min)]).await;
        let mut leader = script.leader(t, 0).await;
        let answer = leader.produce(t, 0, batch(&["a"]).bytes()).await;
        script.line(format_args!(
            "{} replicas, min.insync.replicas={min}: {} {} {:?}",
            replicas.len(),
            code(answer.error_code),
            answer.base_offset,
            answer.error_message.as_ref().map(StrBytes::as_str).map(|text| text.replace(t, "T"))
        ));
        let mut delete =
            leader.call(4, DeleteTopicsRequest::default().with_topic_names(vec![name(t)]).with_timeout_ms(9_000)).await;
        assert_eq!(delete.responses.remove(0).error_code, 0);
        script.run.push('x');
    }
}

async fn run(bootstrap: SocketAddr) -> String {
    let mut script = Script::new(bootstrap);
    reading(&mut script).await;
    asking(&mut script).await;
    writing(&mut script).await;
    script.lines
}

const EXPECTED: &str = include_str!("portable_replication.txt");

#[tokio::test]
async fn the_in_process_cluster_answers_as_kafka_did() {
    let cluster = Cluster::builder().racks(["rack-1", "rack-2", "rack-3"]).start().await.unwrap();
    let servers = cluster.bootstrap_servers();
    let lines = run(first(&servers)).await;
    compare("this cluster", EXPECTED, &lines);
    cluster.shutdown().await;
}

#[tokio::test]
async fn real_kafka_answers_as_it_did() {
    let Some(servers) = three_real_brokers("portable_replication::real_kafka_answers_as_it_did") else { return };
    let lines = run(first(&servers)).await;
    compare_or_write("this Kafka", "portable_replication.txt", EXPECTED, &lines);
}
