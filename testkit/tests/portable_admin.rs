//! What brokers refuse to those who administer them: the same raw requests to the in-process cluster and to three brokers of real
//! Kafka, as in `portable.rs`. `tests/portable_admin.txt` holds what Kafka 4.3.0 answered; `PORTABLE_WRITE=1` writes it anew.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test reads the clock, waits and panics")]

mod common;

use std::net::SocketAddr;

use common::name;
use common::script::{Conn, Script, batch, code, compare, compare_or_write, first, text, three_real_brokers};
use milena_protocol::StrBytes;
use milena_protocol::messages::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use milena_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use milena_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use milena_protocol::messages::describe_configs_request::DescribeConfigsResource;
use milena_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use milena_protocol::messages::*;
use milena_testkit::Cluster;

fn said(message: Option<&StrBytes>, topic: &str) -> String {
    message.map_or("-".to_owned(), |message| message.as_str().replace(topic, "T"))
}

/// Each value of each topic configuration, at the ends of what Kafka takes.
const VALUES: &[(&str, &[&str])] = &[
    (
        "cleanup.policy",
        &["delete,compact", " compact , delete ", "Delete", "", "delete,delete", "burn", "delete,,compact"],
    ),
    ("compression.gzip.level", &["-2", "-1", "0", "1", "9", "10"]),
    ("compression.lz4.level", &["0", "1", "17", "18"]),
    ("compression.type", &["gzip", " zstd ", "GZIP", "none", "gzip,lz4", "", "uncompressed", "snappy", "producer"]),
    ("compression.zstd.level", &["-131073", "-131072", "0", "22", "23"]),
    ("delete.retention.ms", &["-1", "0"]),
    ("file.delete.delay.ms", &["-1", "0"]),
    ("flush.messages", &["0", "1"]),
    ("flush.ms", &["-1", "0"]),
    ("index.interval.bytes", &["-1", "0"]),
    ("max.compaction.lag.ms", &["0", "1"]),
    ("max.message.bytes", &["-1", "0", " 5 ", "+5", "5.0", "2147483648", "0x5", ""]),
    ("message.timestamp.after.max.ms", &["-1", "0"]),
    ("message.timestamp.before.max.ms", &["-1", "0"]),
    ("message.timestamp.type", &["LogAppendTime", " CreateTime", "logappendtime", "CreateTime,LogAppendTime"]),
    ("min.cleanable.dirty.ratio", &["-0.1", "0", "1", "1.1", " 1e-1 ", "half"]),
    ("min.compaction.lag.ms", &["-1", "0", "9223372036854775807", "9223372036854775808"]),
    ("min.insync.replicas", &["0", "1", "2147483647"]),
    ("preallocate", &["TRUE", " false ", "yes", "", "true,false"]),
    ("retention.bytes", &["-2", "-1", "0"]),
    ("retention.ms", &["-2", "-1", "0"]),
    ("segment.bytes", &["1048575", "1048576"]),
    ("segment.index.bytes", &["3", "4"]),
    ("segment.jitter.ms", &["-1", "0"]),
    ("segment.ms", &["0", "1"]),
    ("unclean.leader.election.enable", &["True", "true,false", "0"]),
];

/// The same of brokers.
const OF_BROKERS: &[(&str, &[&str])] = &[
    ("compression.gzip.level", &["0", "9"]),
    ("compression.lz4.level", &["0", "17"]),
    ("compression.type", &["gzip,lz4", "GZIP", "gzip"]),
    ("compression.zstd.level", &["23", "22"]),
    ("log.cleaner.delete.retention.ms", &["-1", "0"]),
    ("log.cleaner.max.compaction.lag.ms", &["0", "1"]),
    ("log.cleaner.min.cleanable.ratio", &["1.1", "1"]),
    ("log.cleaner.min.compaction.lag.ms", &["-1", "0"]),
    ("log.cleanup.policy", &["burn", "Delete", " compact , delete ", ""]),
    ("log.flush.interval.messages", &["0", "1"]),
    ("log.flush.interval.ms", &["-1", "0"]),
    ("log.index.interval.bytes", &["-1", "0"]),
    ("log.index.size.max.bytes", &["3", "4"]),
    ("log.message.timestamp.after.max.ms", &["-1", "0"]),
    ("log.message.timestamp.before.max.ms", &["-1", "0"]),
    ("log.message.timestamp.type", &["logappendtime", "CreateTime"]),
    ("log.preallocate", &["yes", " TRUE "]),
    ("log.retention.bytes", &["-2", "-1"]),
    ("log.retention.ms", &["-2", "-1", "0"]),
    ("log.roll.jitter.ms", &["-1", "0"]),
    ("log.roll.ms", &["0", "1"]),
    ("log.segment.bytes", &["1048575", "1048576"]),
    ("log.segment.delete.delay.ms", &["-1", "0"]),
    ("message.max.bytes", &["-1", "0", " 5 "]),
    ("min.insync.replicas", &["0", "1"]),
    ("unclean.leader.election.enable", &["TRUE", "true,false"]),
];

async fn values(script: &mut Script, raw: &mut Conn) {
    let t = script.unique("values");
    for (key, value) in VALUES.iter().flat_map(|(key, values)| values.iter().map(move |value| (key, value))) {
        let config = CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value)));
        let topic = CreatableTopic::default().with_name(name(t)).with_num_partitions(1).with_replication_factor(1);
        let request = CreateTopicsRequest::default().with_topics(vec![topic.with_configs(vec![config])]);
        let response = raw.call(7, request.with_validate_only(true).with_timeout_ms(30_000)).await;
        let created = &response.topics[0];
        let told = created.configs.iter().flatten().find(|config| config.name.as_str() == *key);
        let told = told.and_then(|config| config.value.as_ref()).map(|value| value.to_string());
        script.line(format_args!("topic {key}={value:?}: {} {told:?}", code(created.error_code)));
    }
    for (key, value) in OF_BROKERS.iter().flat_map(|(key, values)| values.iter().map(move |value| (key, value))) {
        let config = AlterableConfig::default().with_name(text(key)).with_value(Some(text(value)));
        let resource = AlterConfigsResource::default().with_resource_type(4).with_configs(vec![config]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]).with_validate_only(true);
        let response = raw.call(1, request).await;
        script.line(format_args!("brokers {key}={value:?}: {}", code(response.responses[0].error_code)));
    }
}

/// Values that are not written as Kafka writes them.
const ODD: &[(&str, &str)] = &[
    ("cleanup.policy", " compact , delete "),
    ("max.message.bytes", " +512 "),
    ("min.cleanable.dirty.ratio", "1e-1"),
    ("unclean.leader.election.enable", " TRUE "),
];

async fn odd_values(script: &mut Script, raw: &mut Conn) {
    let t = script.topic("odd", 1, ODD).await;
    script.leader(t, 0).await;
    let keys = ODD.iter().map(|(key, _)| text(key)).collect();
    let resource = DescribeConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text(t))
        .with_configuration_keys(Some(keys));
    let response = raw.call(4, DescribeConfigsRequest::default().with_resources(vec![resource])).await;
    let mut rows: Vec<String> = response.results[0]
        .configs
        .iter()
        .map(|row| format!("{}={:?}", row.name.as_str(), row.value.as_ref().map(|value| value.to_string())))
        .collect();
    rows.sort();
    script.line(format_args!("described: {rows:?}"));
}

async fn assignments(script: &mut Script, raw: &mut Conn) {
    let ids = |ids: &[i32]| ids.iter().map(|id| BrokerId(*id)).collect::<Vec<_>>();
    let one = |index, brokers: &[i32]| {
        CreatableReplicaAssignment::default().with_partition_index(index).with_broker_ids(ids(brokers))
    };
    let t = script.unique("assigned");
    for (what, assignments) in [
        ("a broker twice", vec![one(0, &[1, 1])]),
        ("lists of different lengths", vec![one(0, &[1, 2]), one(1, &[3])]),
        ("an empty list", vec![one(0, &[])]),
        ("an empty list behind another", vec![one(0, &[1]), one(1, &[])]),
        ("a broker that is none", vec![one(0, &[1, 9])]),
        ("a partition twice", vec![one(0, &[1]), one(0, &[2])]),
        ("a gap", vec![one(0, &[1]), one(2, &[2])]),
        ("good ones", vec![one(1, &[1, 2]), one(0, &[2, 3])]),
    ] {
        let topic = CreatableTopic::default().with_name(name(t)).with_num_partitions(-1).with_replication_factor(-1);
        let request = CreateTopicsRequest::default().with_topics(vec![topic.with_assignments(assignments)]);
        let response = raw.call(7, request.with_timeout_ms(30_000)).await;
        let created = &response.topics[0];
        script.line(format_args!(
            "create with {what}: {} {}",
            code(created.error_code),
            said(created.error_message.as_ref(), t)
        ));
    }
    script.leader(t, 0).await;
    for (what, count, assignments) in [
        ("a broker twice", 3, &[&[1, 1][..]][..]),
        ("fewer replicas than it has", 3, &[&[1]]),
        ("more replicas than it has", 3, &[&[1, 2, 3]]),
        ("an empty list", 3, &[&[]]),
        ("a broker that is none", 3, &[&[1, 9]]),
        ("too few lists", 4, &[&[1, 2]]),
        ("too many lists", 3, &[&[1, 2], &[2, 3]]),
        ("good ones", 4, &[&[1, 2], &[3, 1]]),
    ] {
        let assignments =
            assignments.iter().map(|list| CreatePartitionsAssignment::default().with_broker_ids(ids(list)));
        let topic = CreatePartitionsTopic::default().with_name(name(t)).with_count(count);
        let topic = topic.with_assignments(Some(assignments.collect()));
        let request = CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
        let response = raw.call(3, request).await;
        let grown = &response.results[0];
        script.line(format_args!(
            "grow by {what}: {} {}",
            code(grown.error_code),
            said(grown.error_message.as_ref(), t)
        ));
    }
}

async fn twice(script: &mut Script, raw: &mut Conn) {
    let (t, other) = (script.topic("twice", 1, &[]).await, script.topic("once", 1, &[]).await);
    let grow =
        |topic, count| CreatePartitionsTopic::default().with_name(name(topic)).with_count(count).with_assignments(None);
    let topics = vec![grow(t, 2), grow(other, 2), grow(t, 3)];
    let request = CreatePartitionsRequest::default().with_topics(topics).with_timeout_ms(30_000);
    let response = raw.call(3, request).await;
    let mut told: Vec<String> = response
        .results
        .iter()
        .map(|grown| {
            format!("{} {} {}", grown.name.as_str() == t, code(grown.error_code), said(grown.error_message.as_ref(), t))
        })
        .collect();
    told.sort();
    script.line(format_args!("grow twice in one request: {told:?}"));
    for (what, count) in [("twice", 1), ("again", 2)] {
        let topics = vec![grow(t, count)];
        let request = CreatePartitionsRequest::default().with_topics(topics).with_timeout_ms(30_000);
        let response = raw.call(3, request).await;
        script.line(format_args!("{what}: {}", code(response.results[0].error_code)));
    }
    let topic = CreatableTopic::default().with_name(name(t)).with_num_partitions(1).with_replication_factor(1);
    let request = CreateTopicsRequest::default().with_topics(vec![topic.clone(), topic]).with_timeout_ms(30_000);
    let response = raw.call(7, request).await;
    let codes: Vec<&str> = response.topics.iter().map(|topic| code(topic.error_code)).collect();
    script.line(format_args!("create twice in one request: {codes:?}"));
}

async fn deletion(script: &mut Script) {
    for (name_of, policy) in [("delete", "delete"), ("compact", "compact"), ("both", "compact,delete")] {
        let t = script.topic(name_of, 1, &[("cleanup.policy", policy)]).await;
        let mut leader = script.leader(t, 0).await;
        leader.produce(t, 0, batch(&["a"]).bytes()).await;
        for offset in [0, 1, -1, 9] {
            let partition = DeleteRecordsPartition::default().with_partition_index(0).with_offset(offset);
            let topic = DeleteRecordsTopic::default().with_name(name(t)).with_partitions(vec![partition]);
            let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
            let deleted = leader.call(2, request).await.topics.remove(0).partitions.remove(0);
            let (told, start) = (code(deleted.error_code), deleted.low_watermark);
            script.line(format_args!("delete below {offset} with cleanup.policy={policy}: {told} {start}"));
        }
    }
}

async fn run(bootstrap: SocketAddr) -> String {
    let mut script = Script::new(bootstrap);
    let mut raw = script.connect().await;
    values(&mut script, &mut raw).await;
    odd_values(&mut script, &mut raw).await;
    assignments(&mut script, &mut raw).await;
    twice(&mut script, &mut raw).await;
    deletion(&mut script).await;
    script.lines
}

const EXPECTED: &str = include_str!("portable_admin.txt");

#[tokio::test]
async fn the_in_process_cluster_answers_as_kafka_did() {
    let cluster = Cluster::builder().start().await.unwrap();
    let servers = cluster.bootstrap_servers();
    let lines = run(first(&servers)).await;
    compare("this cluster", EXPECTED, &lines);
    cluster.shutdown().await;
}

#[tokio::test]
async fn real_kafka_answers_as_it_did() {
    let Some(servers) = three_real_brokers("portable_admin::real_kafka_answers_as_it_did") else { return };
    let lines = run(first(&servers)).await;
    compare_or_write("this Kafka", "portable_admin.txt", EXPECTED, &lines);
}
