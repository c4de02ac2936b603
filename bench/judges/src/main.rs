//! librdkafka (through the crate `rdkafka`) and krafka write to an in-process cluster over TCP and read back: plain, idempotent and in
//! transactions, in each codec that they are built with here. What the cluster has stored is compared with what they sent and read.
//!
//! `judges [RECORDS]`: how many in each codec (default 2,000). Ends with a line for each judge, or panics.

mod krafka_judge;
mod librdkafka;

use std::collections::BTreeMap;

use milena_testkit::{Cluster, RequestLog};

/// Partitions of each topic.
pub(crate) const PARTITIONS: i32 = 3;

/// A record as judges send and read it: partition, offset, key and value.
pub(crate) type Seen = (i32, i64, String, String);

#[tokio::main]
async fn main() {
    let records = std::env::args().nth(1).map_or(2000, |given| given.parse().expect("how many records: a number"));
    let cluster = Cluster::builder().start().await.expect("ports of 127.0.0.1 are free");
    librdkafka::judge(&cluster, records);
    report("librdkafka", &cluster.request_log());
    cluster.shutdown().await;
    let cluster = Cluster::builder().start().await.expect("ports of 127.0.0.1 are free");
    krafka_judge::judge(&cluster, records).await;
    report("krafka", &cluster.request_log());
    cluster.shutdown().await;
}

/// What the cluster has stored of a topic, but for what is not committed; sorted.
pub(crate) fn stored(cluster: &Cluster, topic: &str) -> Vec<Seen> {
    let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().to_vec()).expect("judges send text");
    let mut seen = Vec::new();
    for partition in 0..PARTITIONS {
        for record in cluster.committed_records(topic, partition) {
            let (key, value) = (text(record.key.as_deref()), text(record.value.as_deref()));
            seen.push((partition, record.offset, key, value));
        }
    }
    seen.sort();
    seen
}

/// Key and value of the n-th record.
pub(crate) fn record(n: usize) -> (String, String) {
    (format!("key-{}", n % 50), format!("value number {n}, with some words in it to be compressed"))
}

/// Every record is there once, and packed if it was to be.
pub(crate) fn check(cluster: &Cluster, topic: &str, records: usize, is_packed: bool) {
    let mut values: Vec<String> = stored(cluster, topic).into_iter().map(|(.., value)| value).collect();
    let mut sent: Vec<String> = (0..records).map(|n| record(n).1).collect();
    values.sort();
    sent.sort();
    assert_eq!(values.len(), sent.len(), "{topic}");
    assert!(values == sent, "{topic}: other values than were sent");
    let bytes: u64 = (0..PARTITIONS).map(|partition| cluster.partition_info(topic, partition).bytes).sum();
    let plain: usize = sent.iter().map(String::len).sum();
    assert_eq!(bytes < plain as u64, is_packed, "{topic}: {bytes} bytes for {plain}");
}

/// The APIs that a judge has called, with the highest version of each; none was refused for its version.
fn report(judge: &str, log: &RequestLog) {
    let refused =
        log.only(|entry| entry.digest.contains("version not supported") || entry.digest.contains("cannot be read"));
    assert!(refused.is_empty(), "{refused}");
    let mut called = BTreeMap::new();
    for entry in log.entries() {
        let highest = called.entry(entry.api.to_string()).or_insert(entry.version);
        *highest = entry.version.max(*highest);
    }
    let called: Vec<String> = called.iter().map(|(api, version)| format!("{api} v{version}")).collect();
    println!("{judge}: {}", called.join(", "));
}
