//! Configurations of topics and brokers: the same raw requests to the in-process cluster and to real Kafka, as in `portable.rs`.
//! `tests/portable_configs.txt` holds what Kafka 4.3.0 answered; `PORTABLE_WRITE=1` writes it anew.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test reads the clock, waits and panics")]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::script::{Conn, Script, code, compare, compare_or_write, first, text};
use milena_protocol::StrBytes;
use milena_protocol::messages::alter_configs_request::{AlterConfigsResource as Whole, AlterableConfig as Given};
use milena_protocol::messages::describe_configs_request::DescribeConfigsResource;
use milena_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use milena_protocol::messages::*;
use milena_testkit::{Cluster, real_bootstrap_servers};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

struct Told {
    lines: Vec<String>,
}

async fn describe(raw: &mut Conn, version: i16, kind: i8, name: &str, keys: &[&str]) -> Told {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configuration_keys(Some(keys.iter().map(|key| text(key)).collect()));
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]).with_include_synonyms(version >= 1);
    let response = raw.call(version, request).await;
    let result = &response.results[0];
    let mut lines = vec![code(result.error_code).to_owned()];
    let mut rows: Vec<_> = result.configs.iter().collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    for row in rows {
        let value = |value: &Option<StrBytes>| value.as_ref().map_or("null".to_owned(), |value| value.to_string());
        let synonyms: Vec<String> =
            row.synonyms.iter().map(|s| format!("{}:{}={}", s.source, s.name.as_str(), value(&s.value))).collect();
        lines.push(format!(
            "{}={} source {} type {} read-only {} sensitive {} {synonyms:?}",
            row.name.as_str(),
            value(&row.value),
            row.config_source,
            row.config_type,
            row.read_only,
            row.is_sensitive
        ));
    }
    Told { lines }
}

impl Told {
    fn show(self, script: &mut Script, what: &str) {
        self.lines.into_iter().for_each(|line| script.line(format_args!("{what}: {line}")));
    }
}

/// Changes by operation: 0 set, 1 delete, 2 append, 3 subtract.
async fn change(raw: &mut Conn, kind: i8, name: &str, changes: &[(&str, i8, Option<&str>)]) -> String {
    let changes = changes.iter().map(|(key, operation, value)| {
        AlterableConfig::default().with_name(text(key)).with_config_operation(*operation).with_value(value.map(text))
    });
    let resource = AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(changes.collect());
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let response = raw.call(1, request).await;
    code(response.responses[0].error_code).to_owned()
}

async fn replace(raw: &mut Conn, kind: i8, name: &str, configs: &[(&str, Option<&str>)]) -> String {
    let given = configs.iter().map(|(key, value)| Given::default().with_name(text(key)).with_value(value.map(text)));
    let resource =
        Whole::default().with_resource_type(kind).with_resource_name(text(name)).with_configs(given.collect());
    let response = raw.call(2, AlterConfigsRequest::default().with_resources(vec![resource])).await;
    code(response.responses[0].error_code).to_owned()
}

const OF_TOPICS: &[&str] = &[
    "cleanup.policy",
    "delete.retention.ms",
    "flush.ms",
    "max.message.bytes",
    "message.timestamp.type",
    "retention.bytes",
    "retention.ms",
    "unclean.leader.election.enable",
    "nonsense",
];

const OF_BROKERS: &[&str] = &[
    "broker.id",
    "log.cleaner.delete.retention.ms",
    "log.cleanup.policy",
    "log.message.timestamp.type",
    "log.retention.bytes",
    "log.retention.hours",
    "log.retention.minutes",
    "log.retention.ms",
    "message.max.bytes",
    "replica.lag.time.max.ms",
    "unclean.leader.election.enable",
];

/// Changes are seen by a broker a moment after they were made.
async fn settled(script: &mut Script, raw: &mut Conn, kind: i8, name: &str, keys: &[&str], what: &str) {
    tokio::time::sleep(Duration::from_millis(500)).await;
    describe(raw, 4, kind, name, keys).await.show(script, what);
}

async fn topics(script: &mut Script, raw: &mut Conn) {
    let t = script.topic("configured", 1, &[("retention.ms", "60000")]).await;
    let mut leader = script.leader(t, 0).await;
    for version in [1, 4] {
        describe(raw, version, TOPIC, t, OF_TOPICS).await.show(script, &format!("topic v{version}"));
    }
    for (what, changes) in [
        ("set", &[("max.message.bytes", 0, Some("100")), ("retention.bytes", 0, Some("7"))][..]),
        ("append", &[("cleanup.policy", 2, Some("compact"))]),
        ("append again", &[("cleanup.policy", 2, Some("compact"))]),
        ("append to a number", &[("retention.bytes", 2, Some("1"))]),
        ("subtract", &[("cleanup.policy", 3, Some("delete"))]),
        ("delete", &[("retention.ms", 1, None)]),
        ("delete what is not set", &[("flush.ms", 1, None)]),
        ("an unknown name", &[("nonsense", 0, Some("1"))]),
        ("a bad value", &[("retention.ms", 0, Some("soon"))]),
        ("no value", &[("retention.ms", 0, None)]),
        ("the same twice", &[("flush.ms", 0, Some("1")), ("flush.ms", 0, Some("2"))]),
        ("an operation that is none", &[("flush.ms", 9, Some("1"))]),
        ("a good one and a bad one", &[("flush.ms", 0, Some("1")), ("retention.ms", 0, Some("soon"))]),
    ] {
        let answer = change(raw, TOPIC, t, changes).await;
        script.line(format_args!("{what}: {answer}"));
    }
    settled(script, raw, TOPIC, t, OF_TOPICS, "changed").await;
    let large = leader.produce(t, 0, batch_of(200)).await;
    script.line(format_args!("a batch of 200 bytes for max.message.bytes=100: {}", code(large.error_code)));
    for (what, configs) in [
        ("replace", &[("retention.ms", Some("1000"))][..]),
        ("replace with a bad value", &[("retention.ms", Some("soon"))]),
        ("replace with no value", &[("retention.ms", None)]),
        ("replace with an unknown name", &[("nonsense", Some("1"))]),
    ] {
        let answer = replace(raw, TOPIC, t, configs).await;
        script.line(format_args!("{what}: {answer}"));
    }
    settled(script, raw, TOPIC, t, OF_TOPICS, "replaced").await;
    let nothing = script.unique("nothing");
    for name in [nothing, "a bad name", ""] {
        let (one, other) =
            (change(raw, TOPIC, name, &[("flush.ms", 0, Some("1"))]).await, replace(raw, TOPIC, name, &[]).await);
        let what = if name == nothing { "nothing" } else { name };
        script.line(format_args!("change {what:?}: {one}, replace: {other}"));
    }
}

fn batch_of(bytes: usize) -> bytes::Bytes {
    common::script::batch(&["x".repeat(bytes).as_str()]).bytes()
}

async fn brokers(script: &mut Script, raw: &mut Conn) {
    for version in [1, 4] {
        describe(raw, version, BROKER, "1", OF_BROKERS).await.show(script, &format!("broker v{version}"));
    }
    for name in ["", "9", "one"] {
        describe(raw, 4, BROKER, name, OF_BROKERS).await.show(script, &format!("broker {name:?}"));
    }
    let t = script.topic("inherits", 1, &[]).await;
    script.leader(t, 0).await;
    for (what, name, changes) in [
        (
            "the default of all",
            "",
            &[("log.retention.ms", 0, Some("604800001")), ("message.max.bytes", 0, Some("1048600"))][..],
        ),
        ("of one", "1", &[("message.max.bytes", 0, Some("1048601"))]),
        ("read-only", "1", &[("replica.lag.time.max.ms", 0, Some("1"))]),
        ("read-only, of all", "", &[("broker.id", 0, Some("1"))]),
        ("a bad value", "", &[("message.max.bytes", 0, Some("many"))]),
        ("an unknown name", "", &[("nonsense.of.brokers", 1, None)]),
        ("a broker that is not there", "9", &[("message.max.bytes", 0, Some("1048601"))]),
        ("a broker that is none", "one", &[("message.max.bytes", 0, Some("1048601"))]),
    ] {
        let answer = change(raw, BROKER, name, changes).await;
        script.line(format_args!("{what}: {answer}"));
    }
    settled(script, raw, BROKER, "1", OF_BROKERS, "broker changed").await;
    settled(script, raw, BROKER, "", OF_BROKERS, "all changed").await;
    settled(script, raw, TOPIC, t, OF_TOPICS, "inherited").await;
    for (what, name, changes) in [
        ("back, of one", "1", &[("message.max.bytes", 1, None)][..]),
        ("back, of all", "", &[("log.retention.ms", 1, None), ("message.max.bytes", 1, None)]),
    ] {
        let answer = change(raw, BROKER, name, changes).await;
        script.line(format_args!("{what}: {answer}"));
    }
    settled(script, raw, BROKER, "1", OF_BROKERS, "broker as before").await;
    let other = describe(raw, 4, 3, "x", &[]).await;
    other.show(script, "a resource that is none");
}

async fn run(bootstrap: SocketAddr) -> String {
    let mut script = Script::new(bootstrap);
    let mut raw = script.connect().await;
    topics(&mut script, &mut raw).await;
    brokers(&mut script, &mut raw).await;
    script.lines
}

const EXPECTED: &str = include_str!("portable_configs.txt");

#[tokio::test]
async fn the_in_process_cluster_answers_as_kafka_did() {
    let cluster = Cluster::builder().brokers(1).start().await.unwrap();
    let lines = run(cluster.bootstrap_servers().parse().unwrap()).await;
    compare("this cluster", EXPECTED, &lines);
    cluster.shutdown().await;
}

#[tokio::test]
async fn real_kafka_answers_as_it_did() {
    let Some(servers) = real_bootstrap_servers("portable_configs::real_kafka_answers_as_it_did") else { return };
    let lines = run(first(&servers)).await;
    compare_or_write("this Kafka", "portable_configs.txt", EXPECTED, &lines);
}
