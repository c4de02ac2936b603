//! A script of raw requests to the in-process cluster or to real Kafka, and the lines it writes about what comes back.

#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses its own part of it")]

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use milena_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use milena_protocol::messages::metadata_request::MetadataRequestTopic;
use milena_protocol::messages::*;
use milena_protocol::{ErrorCode, StrBytes};
use tokio::net::TcpStream;

use super::{Raw, TestBatch, connect_tcp, name};

pub(crate) type Conn = Raw<TcpStream>;

/// Where the requests go, and what came back so far.
pub(crate) struct Script {
    pub(crate) bootstrap: SocketAddr,
    /// Makes names unique on a cluster that others use, too.
    pub(crate) run: String,
    pub(crate) lines: String,
}

pub(crate) fn code(code: i16) -> &'static str {
    ErrorCode(code).name().unwrap_or("?")
}

pub(crate) fn leak(s: String) -> &'static str {
    Box::leak(s.into_boxed_str())
}

pub(crate) fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

/// Real Kafka, if it is there and has three brokers.
pub(crate) fn three_real_brokers(test: &str) -> Option<String> {
    milena_testkit::real_bootstrap_servers(test).filter(|servers| servers.split(',').count() >= 3)
}

impl Script {
    pub(crate) fn new(bootstrap: SocketAddr) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Self { bootstrap, run: format!("{:x}-{:x}", std::process::id(), now.as_micros()), lines: String::new() }
    }

    pub(crate) fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.lines, "{line}").unwrap();
    }

    pub(crate) fn unique(&self, name: &str) -> &'static str {
        leak(format!("{name}-{}", self.run))
    }

    pub(crate) async fn connect(&self) -> Conn {
        connect_tcp(self.bootstrap).await
    }

    /// Makes a topic and returns its name.
    pub(crate) async fn topic(
        &self,
        name: &str,
        partitions: i32,
        configs: &[(&'static str, &'static str)],
    ) -> &'static str {
        let name = self.unique(name);
        let configs = configs
            .iter()
            .map(|(key, value)| CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value))));
        let topic = CreatableTopic::default()
            .with_name(super::name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(1)
            .with_configs(configs.collect());
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
        let response = self.connect().await.call(7, request).await;
        assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0].error_message);
        name
    }

    /// A connection to the leader of a partition.
    pub(crate) async fn leader(&self, topic: &'static str, partition: i32) -> Conn {
        let mut raw = self.connect().await;
        loop {
            let asked = MetadataRequestTopic::default().with_name(Some(name(topic)));
            let metadata = raw.call(9, MetadataRequest::default().with_topics(Some(vec![asked]))).await;
            let found = metadata.topics[0].partitions.iter().find(|p| p.partition_index == partition);
            if let Some(p) = found.filter(|p| p.error_code == 0 && p.leader_id.0 >= 0) {
                let broker = metadata.brokers.iter().find(|b| b.node_id == p.leader_id).unwrap();
                let mut leader = connect_tcp(address(&broker.host, broker.port)).await;
                // The leader may not know yet that it is one.
                while leader.fetch(topic, partition, 0).await.error_code != 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                return leader;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until every partition of the transactions' log has a coordinator that has read it. On brokers that were just started some
    /// come later than others, and a script also speaks of ids whose coordinator it has not looked for.
    pub(crate) async fn transactions_are_ready(&self) {
        // Java's hash of one character is its code, so these ids fall into fifty partitions, the default of
        // `transaction.state.log.num.partitions`.
        for id in (0..50u8).map(|n| char::from(b'2' + n).to_string()) {
            self.transaction_coordinator(&id).await;
        }
    }

    /// A connection to the coordinator of a transactional id that is ready to serve it.
    pub(crate) async fn transaction_coordinator(&self, id: &str) -> Conn {
        let mut raw = self.connect().await;
        loop {
            let request = FindCoordinatorRequest::default().with_key_type(1).with_coordinator_keys(vec![text(id)]);
            let found = raw.call(4, request).await.coordinators.remove(0);
            if found.error_code == 0 {
                let mut coordinator = connect_tcp(address(&found.host, found.port)).await;
                let ids = vec![TransactionalId(text(id))];
                let describe = DescribeTransactionsRequest::default().with_transactional_ids(ids);
                let described = coordinator.call(0, describe).await.transaction_states[0].error_code;
                if matches!(ErrorCode(described), ErrorCode::NONE | ErrorCode::TRANSACTIONAL_ID_NOT_FOUND) {
                    return coordinator;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn coordinator(&self, group: &str) -> Conn {
        let mut raw = self.connect().await;
        loop {
            let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text(group)]);
            let found = raw.call(4, request).await.coordinators.remove(0);
            if found.error_code == 0 {
                let mut coordinator = connect_tcp(address(&found.host, found.port)).await;
                let describe = DescribeGroupsRequest::default().with_groups(vec![GroupId(text(group))]);
                let described = coordinator.call(5, describe).await;
                if matches!(described.groups[0].error_code, 0 | 69) {
                    return coordinator;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

pub(crate) fn address(host: &str, port: i32) -> SocketAddr {
    format!("{}:{port}", if host == "localhost" { "127.0.0.1" } else { host }).parse().unwrap()
}

/// Batches carry the wall clock: real Kafka refuses what lies an hour ahead.
pub(crate) fn batch(values: &[&str]) -> TestBatch {
    let mut batch = TestBatch::of(values);
    batch.base_timestamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    batch
}

/// The first of the bootstrap servers.
pub(crate) fn first(servers: &str) -> SocketAddr {
    servers.split(',').next().unwrap().trim().parse().unwrap()
}

/// Holds a real Kafka to what is in `file` of this folder, whose text is `expected`; with `PORTABLE_WRITE=1` the file is written anew.
pub(crate) fn compare_or_write(what: &str, file: &str, expected: &str, lines: &str) {
    if std::env::var_os("PORTABLE_WRITE").is_some() {
        std::fs::write(format!("{}/tests/{file}", env!("CARGO_MANIFEST_DIR")), lines).unwrap();
        return;
    }
    compare(what, expected, lines);
}

/// Fails with the lines that differ.
pub(crate) fn compare(what: &str, expected: &str, lines: &str) {
    let differences: Vec<String> = expected
        .lines()
        .zip(lines.lines())
        .filter(|(expected, got)| expected != got)
        .map(|(expected, got)| format!("  Kafka: {expected}\n  {what}: {got}"))
        .collect();
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    assert_eq!(expected.lines().count(), lines.lines().count(), "{what} gave another number of lines");
}
