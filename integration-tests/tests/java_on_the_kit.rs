//! Java's own transactional producer, consumer and tools against the in-process cluster: what it tells them is what Kafka tells them.

use milena_integration_tests::{java_tool, real_kafka};
use milena_testkit::{Api, Cluster};

/// Writes so many records in transactions of 100 ms, with Java's producer.
fn perform(servers: &str, transactional_id: &str) {
    let arguments = [
        "--topic",
        "t",
        "--num-records",
        "2000",
        "--record-size",
        "100",
        "--throughput",
        "2000",
        "--transactional-id",
        transactional_id,
        "--transaction-duration-ms",
        "100",
        "--command-property",
        &format!("bootstrap.servers={servers}"),
    ];
    java_tool("org.apache.kafka.tools.ProducerPerformance", &arguments, "");
}

fn committed(cluster: &Cluster) -> usize {
    (0..3).map(|partition| cluster.committed_records("t", partition).len()).sum()
}

#[tokio::test]
async fn java_writes_and_reads_transactions_in_both_protocols() {
    // Not for its brokers: with them come the jars of Java's clients.
    if real_kafka("java_writes_and_reads_transactions_in_both_protocols").is_none() {
        return;
    }
    for level in [2, 0] {
        let cluster = Cluster::builder().topic("t", 3).transaction_version(level).start().await.unwrap();
        let servers = cluster.bootstrap_servers();
        perform(&servers, "one");
        assert_eq!(committed(&cluster), 2000, "transaction.version {level}");
        assert!(cluster.requests(Api::EndTxn) > 2);
        assert_eq!(cluster.requests(Api::AddPartitionsToTxn) > 0, level == 0, "transaction.version {level}");
        let consume = [
            "--bootstrap-server",
            &servers,
            "--topic",
            "t",
            "--from-beginning",
            "--isolation-level",
            "read_committed",
            "--max-messages",
            "2000",
            "--timeout-ms",
            "30000",
        ];
        let read = java_tool("org.apache.kafka.tools.consumer.ConsoleConsumer", &consume, "");
        assert_eq!(read.lines().count(), 2000);
        let listed =
            java_tool("org.apache.kafka.tools.TransactionsCommand", &["--bootstrap-server", &servers, "list"], "");
        let complete = listed.lines().filter(|line| line.contains("CompleteCommit")).count();
        assert_eq!(complete, 1, "{listed}");
        cluster.shutdown().await;
    }
}
