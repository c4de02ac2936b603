//! librdkafka, through the crate `rdkafka`.

use std::time::{Duration, Instant};

use milena_testkit::Cluster;
use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::{PARTITIONS, Seen, check, record, stored};

const PATIENCE: Duration = Duration::from_secs(60);

/// Writes and reads back; blocks.
pub(crate) fn judge(cluster: &Cluster, records: usize) {
    for codec in ["none", "snappy", "lz4"] {
        for idempotent in [false, true] {
            let topic = format!("{codec}-{idempotent}");
            cluster.create_topic(&topic, PARTITIONS);
            let mut settings = settings(cluster);
            settings
                .set("compression.codec", codec)
                .set("enable.idempotence", idempotent.to_string())
                .set("linger.ms", "20");
            let producer: BaseProducer = settings.create().expect("a producer");
            send(&producer, &topic, 0..records);
            producer.flush(PATIENCE).expect("everything is delivered");
            check(cluster, &topic, records, codec != "none");
            assert_eq!(read(cluster, &topic, records), stored(cluster, &topic), "{topic} is read as it is stored");
        }
    }
    cluster.create_topic("transactions", PARTITIONS);
    let producer: BaseProducer = settings(cluster).set("transactional.id", "judge").create().expect("a producer");
    producer.init_transactions(PATIENCE).expect("a transactional id");
    for n in 0..4 {
        producer.begin_transaction().expect("nothing is open");
        send(&producer, "transactions", if n % 2 == 0 { n * 50..(n + 2) * 50 } else { 0..100 });
        if n % 2 == 0 {
            producer.commit_transaction(PATIENCE).expect("a commit");
        } else {
            producer.flush(PATIENCE).expect("everything is delivered");
            producer.abort_transaction(PATIENCE).expect("an abort");
        }
    }
    check(cluster, "transactions", 200, false);
    assert_eq!(read(cluster, "transactions", 200), stored(cluster, "transactions"));
}

fn settings(cluster: &Cluster) -> ClientConfig {
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", cluster.bootstrap_servers()).set("acks", "all");
    settings
}

fn send(producer: &BaseProducer, topic: &str, numbers: std::ops::Range<usize>) {
    for n in numbers {
        let (key, value) = record(n);
        loop {
            match producer.send(BaseRecord::to(topic).key(&key).payload(&value)) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    producer.poll(Duration::from_millis(50));
                }
                Err((e, _)) => panic!("{topic}: {e}"),
            }
        }
        producer.poll(Duration::ZERO);
    }
}

/// Reads as the only member of a group, and commits.
fn read(cluster: &Cluster, topic: &str, records: usize) -> Vec<Seen> {
    let mut settings = settings(cluster);
    settings.set("group.id", format!("group-{topic}")).set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = settings.set("isolation.level", "read_committed").create().expect("a consumer");
    consumer.subscribe(&[topic]).expect("a subscription");
    let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().to_vec()).expect("judges send text");
    let began = Instant::now();
    let mut seen = Vec::new();
    while seen.len() < records {
        assert!(began.elapsed() < PATIENCE, "{topic}: {} records of {records} after a minute", seen.len());
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            let message = message.expect("a record");
            seen.push((message.partition(), message.offset(), text(message.key()), text(message.payload())));
        }
    }
    consumer.commit_consumer_state(CommitMode::Sync).expect("a commit");
    seen.sort();
    seen
}
