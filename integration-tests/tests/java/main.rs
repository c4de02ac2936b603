//! milena and Java on one topic: what one writes, the other reads, and both choose the same partition for a key.

mod committed;

use std::time::Duration;

use milena::{Client, NewTopic, Producer, Record};
use milena_integration_tests::{java_tool, real_kafka, unique};

const CONSOLE_CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";
const CONSOLE_PRODUCER: &str = "org.apache.kafka.tools.ConsoleProducer";

#[tokio::test]
async fn java_reads_what_milena_sends_and_chooses_the_same_partitions() {
    let Some(servers) = real_kafka("java_reads_what_milena_sends_and_chooses_the_same_partitions") else { return };
    let client = Client::builder(servers.as_str()).connect().await.unwrap();
    let (ours, theirs) = (unique("ours"), unique("theirs"));
    client.admin().ensure_topics(&[NewTopic::new(&ours, 6), NewTopic::new(&theirs, 6)]).await.unwrap();

    let pairs: Vec<(String, String)> = (0..1000).map(|n| (format!("key-{n}-ü"), format!("value {n}"))).collect();
    let producer = Producer::builder(&client).build().await.unwrap();
    for (key, value) in &pairs {
        let record = Record::to(&ours).key(key).value(value).header("from", "milena").header("from", "again");
        drop(producer.send(&record).await.unwrap());
    }
    producer.flush().await.unwrap();
    let lines: String = pairs.iter().map(|(key, value)| format!("{key}\t{value}\n")).collect();
    java_tool(
        CONSOLE_PRODUCER,
        &["--bootstrap-server", &servers, "--topic", &theirs, "--reader-property", "parse.key=true"],
        &lines,
    );

    let read = |topic: &str, headers: &str| -> Vec<String> {
        let text = java_tool(
            CONSOLE_CONSUMER,
            &[
                "--bootstrap-server",
                &servers,
                "--topic",
                topic,
                "--from-beginning",
                "--max-messages",
                "1000",
                "--timeout-ms",
                "30000",
                "--formatter-property",
                "print.key=true",
                "--formatter-property",
                "print.partition=true",
                "--formatter-property",
                headers,
            ],
            "",
        );
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let with_headers = read(&ours, "print.headers=true");
    assert_eq!(with_headers.len(), 1000);
    assert!(with_headers.iter().all(|line| line.contains("from:milena,from:again")), "{:?}", with_headers.first());
    let ours = read(&ours, "print.headers=false");
    assert_eq!(ours, read(&theirs, "print.headers=false"), "the same keys and values in the same partitions");
    producer.close(Duration::from_secs(10)).await.unwrap();
    client.close().await;
}
