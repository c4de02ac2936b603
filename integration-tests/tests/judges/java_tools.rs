//! Java's own command line tools: what each prints, and which APIs it calls in which versions.
//!
//! The calls are written in `java_topics.txt` and `java_groups.txt`, so that a tool that falls back to an older version or to another API is seen. To write it
//! anew: `JUDGES_WRITE=1`.

use std::fmt::Write as _;

use milena_integration_tests::java_tool;
use milena_testkit::{Cluster, ClusterBuilder};

use super::{called, nobody_was_turned_away};

/// Runs tools one after the other and writes down what they call.
struct Session {
    cluster: Cluster,
    servers: String,
    calls: String,
}

impl Session {
    async fn start(builder: ClusterBuilder) -> Self {
        let cluster = builder.start().await.unwrap();
        let servers = cluster.bootstrap_servers();
        Self { cluster, servers, calls: String::new() }
    }

    /// Runs `org.apache.kafka.tools.CLASS` (or a class with its whole name) against the cluster, with these words as arguments.
    fn run(&mut self, class: &str, arguments: &str, input: &str) -> String {
        self.run_as(class, arguments, arguments, input)
    }

    /// The same, with arguments that differ from run to run and are written down as `shown`.
    fn run_as(&mut self, class: &str, shown: &str, arguments: &str, input: &str) -> String {
        let before = self.cluster.request_log().count();
        let whole =
            if class.starts_with("kafka.") { class.to_owned() } else { format!("org.apache.kafka.tools.{class}") };
        let bootstrap = ["--bootstrap-server", &self.servers];
        let words: Vec<&str> = arguments.split_whitespace().chain(bootstrap).collect();
        let told = java_tool(&whole, &words, input);
        let called = called(&self.cluster, before);
        let list: Vec<String> = called.iter().map(|(api, version)| format!("{api} v{version}")).collect();
        writeln!(self.calls, "{class} {shown}: {}", list.join(", ")).unwrap();
        told
    }
}

/// Lines with so many words in them, split at white space.
fn table(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

/// Compares the calls with those that are written down.
async fn finish(java: Session, file: &str, expected: &str) {
    nobody_was_turned_away(&java.cluster.request_log());
    if std::env::var_os("JUDGES_WRITE").is_some() {
        std::fs::write(format!("{}/tests/judges/{file}", env!("CARGO_MANIFEST_DIR")), &java.calls).unwrap();
    } else {
        assert_eq!(java.calls.lines().collect::<Vec<_>>(), expected.lines().collect::<Vec<_>>(), "other calls");
    }
    java.cluster.shutdown().await;
}

fn lines() -> String {
    (0..100).map(|n| format!("line {n}\n")).collect()
}

#[tokio::test]
async fn java_tools_make_topics_write_and_read() {
    let mut java = Session::start(Cluster::builder()).await;
    let topic = "--topic orders";
    let created = java.run(
        "TopicCommand",
        &format!("--create {topic} --partitions 3 --replication-factor 2 --config retention.ms=100000"),
        "",
    );
    assert_eq!(created.trim(), "Created topic orders.");
    assert_eq!(java.run("TopicCommand", "--list", "").trim(), "orders");
    java.run("TopicCommand", &format!("--alter {topic} --partitions 4"), "");
    let described = java.run("TopicCommand", &format!("--describe {topic}"), "");
    for part in ["PartitionCount: 4", "ReplicationFactor: 2", "retention.ms=100000", "Partition: 3"] {
        assert!(described.contains(part), "{part} in\n{described}");
    }

    java.run("ConsoleProducer", topic, &lines());
    let ends: Vec<usize> = (0..4).map(|p| java.cluster.records("orders", p).len()).collect();
    assert_eq!(ends.iter().sum::<usize>(), 100);
    let offsets = java.run("GetOffsetShell", topic, "");
    let expected: Vec<String> = ends.iter().enumerate().map(|(p, end)| format!("orders:{p}:{end}")).collect();
    assert_eq!(offsets.lines().collect::<Vec<_>>(), expected);
    let earliest = java.run("GetOffsetShell", &format!("{topic} --time earliest"), "");
    assert_eq!(earliest.lines().next(), Some("orders:0:0"));

    let full = (0..4).max_by_key(|p| ends[*p as usize]).unwrap();
    let many = ends[full as usize];
    let assigned = format!("{topic} --partition {full} --offset earliest --max-messages {many} --timeout-ms 30000");
    let shown = "--topic orders --partition N --offset earliest --max-messages M --timeout-ms 30000";
    let read = java.run_as("consumer.ConsoleConsumer", shown, &assigned, "");
    let stored: Vec<String> = java
        .cluster
        .records("orders", full)
        .iter()
        .map(|r| String::from_utf8(r.value.clone().unwrap().into()).unwrap())
        .collect();
    assert_eq!(read.lines().collect::<Vec<_>>(), stored);
    let produced =
        java.run("ProducerPerformance", &format!("{topic} --num-records 2000 --record-size 100 --throughput -1"), "");
    assert!(produced.contains("2000 records sent"), "{produced}");
    let consumed = java.run("ConsumerPerformance", &format!("{topic} --num-records 2100 --timeout 30000"), "");
    assert!(consumed.lines().last().is_some_and(|line| line.contains(", 2100, ")), "{consumed}");

    java.run("TopicCommand", &format!("--delete {topic}"), "");
    assert!(java.cluster.topics().iter().all(|topic| topic != "orders"));

    finish(java, "java_topics.txt", include_str!("java_topics.txt")).await;
}

#[tokio::test]
async fn java_tools_look_into_groups_and_configurations() {
    let mut java = Session::start(Cluster::builder().topic("orders", 4)).await;
    let topic = "--topic orders";
    java.run("ConsoleProducer", topic, &lines());
    let ends: Vec<usize> = (0..4).map(|p| java.cluster.records("orders", p).len()).collect();
    let full = (0..4).max_by_key(|p| ends[*p as usize]).unwrap();
    let in_group = format!("{topic} --group billing --from-beginning --max-messages 100 --timeout-ms 30000");
    let read = java.run("consumer.ConsoleConsumer", &in_group, "");
    let mut read: Vec<&str> = read.lines().collect();
    let sent = lines();
    let mut sent: Vec<&str> = sent.lines().collect();
    read.sort_unstable();
    sent.sort_unstable();
    assert_eq!(read, sent);

    let groups = "consumer.group.ConsumerGroupCommand";
    assert_eq!(java.run(groups, "--list", "").trim(), "billing");
    let described = java.run(groups, "--describe --group billing", "");
    let rows = table(&described);
    for (partition, end) in ends.iter().enumerate() {
        let (partition, end) = (partition.to_string(), end.to_string());
        let row = ["billing", "orders", &partition, &end, &end, "0", "-", "-", "-"];
        assert!(rows.iter().any(|found| found == &row) || end == "0", "{row:?} in\n{described}");
    }
    let state = java.run(groups, "--describe --group billing --state", "");
    assert!(table(&state).iter().any(|row| row.first() == Some(&"billing") && row.contains(&"Empty")), "{state}");
    let reset = java.run(groups, &format!("--group billing --reset-offsets --to-earliest {topic} --execute"), "");
    assert!(table(&reset).contains(&vec!["billing", "orders", &full.to_string(), "0"]), "{reset}");
    let forgotten = java.run(groups, &format!("--group billing --delete-offsets {topic}"), "");
    assert!(forgotten.contains("Successful"), "{forgotten}");
    java.run(groups, "--group billing --delete", "");
    assert!(java.cluster.group_info("billing").is_none());

    let configs = "kafka.admin.ConfigCommand";
    java.run(configs, &format!("--alter {topic} --add-config max.message.bytes=2000,retention.ms=5000"), "");
    let described = java.run(configs, &format!("--describe {topic}"), "");
    for config in ["max.message.bytes=2000", "retention.ms=5000"] {
        assert!(described.contains(config), "{config} in\n{described}");
    }
    let every = java.run(configs, &format!("--describe --all {topic}"), "");
    assert!(every.contains("cleanup.policy=delete"), "{every}");
    finish(java, "java_groups.txt", include_str!("java_groups.txt")).await;
}
