//! krafka, a client in Rust.

use std::time::{Duration, Instant};

use krafka::Compression;
use krafka::consumer::{AutoOffsetReset, IsolationLevel};
use krafka::{Kafka, Record};
use milena_testkit::Cluster;

use crate::{PARTITIONS, Seen, check, record, stored};

const PATIENCE: Duration = Duration::from_secs(60);

/// Writes and reads back. Its producer is idempotent by itself.
pub(crate) async fn judge(cluster: &Cluster, records: usize) {
    let kafka = Kafka::builder(cluster.bootstrap_servers()).client_id("judge").connect().await.expect("a connection");
    let codecs = [
        ("none", Compression::None),
        ("gzip", Compression::Gzip),
        ("snappy", Compression::Snappy),
        ("lz4", Compression::Lz4),
    ];
    for (codec, compression) in codecs {
        cluster.create_topic(codec, PARTITIONS);
        let linger = Duration::from_millis(20);
        let producer = kafka.producer().compression(compression).linger(linger).build().await.expect("a producer");
        let mut acks = Vec::new();
        for n in 0..records {
            let (key, value) = record(n);
            acks.push(producer.enqueue(Record::new(codec, value).key(key)).await.expect("room"));
        }
        for ack in acks {
            drop(ack.await.expect("a delivery"));
        }
        producer.close().await.expect("an end");
        check(cluster, codec, records, codec != "none");
        assert_eq!(read(&kafka, codec, records).await, stored(cluster, codec), "{codec} is read as it is stored");
    }
    cluster.create_topic("transactions", PARTITIONS);
    let producer = kafka.producer().build_transactional("judge").await.expect("a transactional id");
    for n in 0..4 {
        producer.begin().expect("nothing is open");
        for n in if n % 2 == 0 { n * 50..(n + 2) * 50 } else { 0..100 } {
            let (key, value) = record(n);
            drop(producer.send(Record::new("transactions", value).key(key)).await.expect("a delivery"));
        }
        if n % 2 == 0 {
            producer.commit().await.expect("a commit");
        } else {
            producer.abort().await.expect("an abort");
        }
    }
    producer.close().await.expect("an end");
    check(cluster, "transactions", 200, false);
    assert_eq!(read(&kafka, "transactions", 200).await, stored(cluster, "transactions"));
}

/// Reads as the only member of a group, and commits.
async fn read(kafka: &Kafka, topic: &str, records: usize) -> Vec<Seen> {
    let consumer = kafka.consumer(format!("group-{topic}")).auto_offset_reset(AutoOffsetReset::Earliest);
    let consumer = consumer.isolation_level(IsolationLevel::ReadCommitted).build().await.expect("a consumer");
    consumer.subscribe([topic]).await.expect("a subscription");
    let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().to_vec()).expect("judges send text");
    let began = Instant::now();
    let mut seen = Vec::new();
    while seen.len() < records {
        assert!(began.elapsed() < PATIENCE, "{topic}: {} records of {records} after a minute", seen.len());
        for record in consumer.poll(Duration::from_millis(100)).await.expect("records") {
            let (key, value) = (text(record.key.as_deref()), text(record.value.as_deref()));
            seen.push((record.partition, record.offset, key, value));
        }
    }
    consumer.commit().await.expect("a commit");
    consumer.close().await.expect("an end");
    seen.sort();
    seen
}
