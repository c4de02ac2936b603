//! Every codec by everybody who writes it: what Java, librdkafka and milena compress is read equal by milena, from the in-process cluster
//! and from real Kafka.

use std::collections::BTreeMap;
use std::time::Duration;

use milena::{Client, Compression, NewTopic, Record, StartAt};
use milena_integration_tests::{java_tool, real_kafka, unique};
use milena_testkit::Cluster;

use super::kcat::{how_many, kcat};

const PARTITIONS: i32 = 2;
const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
enum Writer {
    Java,
    Librdkafka,
    Milena,
}

#[tokio::test]
async fn what_anybody_compresses_is_read_equal_in_process() {
    let cluster = Cluster::builder().start().await.unwrap();
    read_equal(&cluster.bootstrap_servers()).await;
    cluster.shutdown().await;
}

#[tokio::test]
async fn what_anybody_compresses_is_read_equal_on_real_kafka() {
    let Some(servers) = real_kafka("what_anybody_compresses_is_read_equal_on_real_kafka") else { return };
    read_equal(&servers).await;
}

async fn read_equal(servers: &str) {
    let client = Client::builder(servers).connect().await.unwrap();
    let sent: Vec<(String, String)> = (0..how_many())
        .map(|n| (format!("key-{}", n % 50), format!("{n} is its number, with some words in it to be compressed")))
        .collect();
    for codec in Compression::ALL {
        for writer in [Writer::Java, Writer::Librdkafka, Writer::Milena] {
            let topic = unique(codec.name());
            client.admin().ensure_topics(&[NewTopic::new(&topic, PARTITIONS)]).await.unwrap();
            write(writer, servers, &topic, codec, &sent).await;
            let (mut read, bytes) = read(servers, &topic, sent.len()).await;
            let name = codec.name();
            assert!(read.values().all(|records| records.is_sorted_by_key(number)), "{writer:?} {name}: out of order");
            let mut read: Vec<_> = read.values_mut().flat_map(std::mem::take).collect();
            read.sort_by_key(number);
            assert!(read == sent, "{writer:?} {name}: other records");
            let plain: usize = sent.iter().map(|(key, value)| key.len() + value.len()).sum();
            assert_eq!(bytes < plain as u64 / 2, codec != Compression::None, "{writer:?} {name}: {bytes} bytes");
            client.admin().delete_topics(&[&topic]).await.unwrap();
        }
    }
    client.close().await;
}

fn number((_, value): &(String, String)) -> usize {
    value.split_once(' ').unwrap().0.parse().unwrap()
}

#[expect(clippy::disallowed_methods, reason = "foreign programs block")]
async fn write(writer: Writer, servers: &str, topic: &str, codec: Compression, sent: &[(String, String)]) {
    if let Writer::Milena = writer {
        let client = Client::builder(servers).connect().await.unwrap();
        let producer = client.producer().compression(codec).build().await.unwrap();
        for (key, value) in sent {
            drop(producer.send(&Record::to(topic).key(key).value(value)).await.unwrap());
        }
        producer.close(60 * SECOND).await.unwrap();
        client.close().await;
        return;
    }
    let input: String = sent.iter().map(|(key, value)| format!("{key}:{value}\n")).collect();
    let (servers, topic) = (servers.to_owned(), topic.to_owned());
    let written = tokio::task::spawn_blocking(move || match writer {
        Writer::Java => {
            let to = ["--bootstrap-server", &servers, "--topic", &topic, "--compression-codec", codec.name()];
            let keys = ["--reader-property", "parse.key=true", "--reader-property", "key.separator=:"];
            drop(java_tool("org.apache.kafka.tools.ConsoleProducer", &[&to[..], &keys[..]].concat(), &input));
        }
        _ => drop(kcat(&servers, &["-P", "-K", ":", "-X", "acks=all", "-z", codec.name(), "-t", &topic], &input)),
    });
    written.await.unwrap();
}

/// The records of each partition as they come, and how many bytes of batches were fetched for them.
async fn read(servers: &str, topic: &str, count: usize) -> (BTreeMap<i32, Vec<(String, String)>>, u64) {
    let client = Client::builder(servers).connect().await.unwrap();
    let mut reader =
        client.partition_consumer().assign(topic, 0..PARTITIONS, StartAt::Beginning).build().await.unwrap();
    let (mut read, mut left) = (BTreeMap::<_, Vec<_>>::new(), count);
    while left > 0 {
        let records = reader.poll(30 * SECOND).await.unwrap();
        assert!(!records.is_empty(), "{topic}: {left} records are missing");
        for record in &records {
            let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
            let of = read.entry(record.partition()).or_default();
            assert_eq!(record.offset(), of.len() as i64);
            of.push((text(record.key()), text(record.value())));
        }
        left = left.checked_sub(records.len()).expect("nothing comes that nobody has sent");
    }
    reader.close(5 * SECOND).await.unwrap();
    let values = client.metrics().snapshot().into_iter().filter(|(name, _)| name.name == "batch-bytes-fetched-total");
    let bytes = values.map(|(_, value)| value as u64).sum();
    client.close().await;
    (read, bytes)
}
