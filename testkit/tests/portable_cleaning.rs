//! What compaction leaves of batches: the same script on the in-process cluster, which compacts when it is told to, and on real Kafka,
//! which does within half a minute. `tests/portable_cleaning.txt` holds what Kafka 4.3.0 left; `PORTABLE_WRITE=1` writes it anew.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test reads the clock, waits and panics")]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use common::script::{self, Conn, Script, compare, compare_or_write, first};
use common::transactional::Txn;
use common::*;
use milena_protocol::records::{Scratch, split_batch};
use milena_testkit::{Cluster, real_bootstrap_servers};

const CONFIGS: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("segment.ms", "100"),
    ("min.cleanable.dirty.ratio", "0.001"),
    ("delete.retention.ms", "500"),
];

/// A batch of these keys and values; none is a tombstone.
fn pairs(pairs: &[(&str, Option<&str>)]) -> TestBatch {
    let own = |text: &str| text.as_bytes().to_vec();
    TestBatch { records: pairs.iter().map(|(key, value)| (Some(own(key)), value.map(own))).collect(), ..now(&[]) }
}

fn now(values: &[&str]) -> TestBatch {
    script::batch(values)
}

/// Everything that stands in the log: a fetch gives no more than one segment.
async fn log(raw: &mut Conn, topic: &'static str) -> Bytes {
    let (mut all, mut offset) = (Vec::new(), 0);
    loop {
        let data = raw.fetch(topic, 0, offset).await;
        let bytes = data.records.unwrap();
        let Some(last) = batches(bytes.clone()).pop() else { return all.into() };
        all.extend_from_slice(&bytes);
        let delta = i32::from_be_bytes(last[23..27].try_into().unwrap());
        offset = i64::from_be_bytes(last[..8].try_into().unwrap()) + i64::from(delta) + 1;
    }
}

fn batches(mut bytes: Bytes) -> Vec<Bytes> {
    let mut batches = Vec::new();
    while bytes.len() >= 61 {
        let length = 12 + i32::from_be_bytes(bytes[8..12].try_into().unwrap()) as usize;
        batches.push(bytes.split_to(length));
    }
    batches
}

/// The batches, but for the last, which real Kafka never touches.
fn show(script: &mut Script, what: &str, mut bytes: Bytes) {
    let mut scratch = Scratch::new();
    let mut lines = Vec::new();
    while let Some(raw) = split_batch(&mut bytes).unwrap() {
        raw.verify_crc().unwrap();
        lines.push(String::new());
        let batch = raw.open(&mut scratch, 1 << 20).unwrap();
        let (mut records, mut cursor) = (Vec::new(), batch.cursor());
        while let Some(record) = batch.next(&mut cursor).unwrap() {
            let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            let (key, value) = (text(record.key), text(record.value));
            let value = if batch.is_control() { None } else { value };
            records.push(format!("{}:{key:?}={value:?}", record.offset));
        }
        *lines.last_mut().unwrap() = format!(
            "{what}: {}..{} {} records{}{}{} {records:?}",
            batch.base_offset(),
            batch.last_offset(),
            batch.count(),
            if batch.producer_id() >= 0 { " with a producer" } else { "" },
            if batch.is_transactional() { " in a transaction" } else { "" },
            if batch.is_control() { " a marker" } else { "" },
        );
    }
    lines.pop();
    lines.iter().for_each(|line| script.line(format_args!("{line}")));
}

/// Whether the bit is set that says that there is a delete horizon, batch by batch, but for the last.
fn horizons(bytes: Bytes) -> Vec<(i64, bool)> {
    let of = |batch: &Bytes| (i64::from_be_bytes(batch[..8].try_into().unwrap()), batch[22] & 0x40 != 0);
    let mut found: Vec<_> = batches(bytes).iter().map(of).collect();
    found.pop();
    found
}

/// Ends the segment with a record of its own, and has everything before it compacted.
async fn clean(script: &mut Script, raw: &mut Conn, topic: &'static str, cluster: Option<&Cluster>, key: &str) {
    let before = log(raw, topic).await;
    if let Some(cluster) = cluster {
        cluster.compact(topic);
    } else {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(raw.produce(topic, 0, pairs(&[(key, Some("ends the segment"))]).bytes()).await.error_code, 0);
    let with_last = before.len() + pairs(&[(key, Some("ends the segment"))]).bytes().len();
    for _ in 0..600 {
        if cluster.is_some() || log(raw, topic).await.len() != with_last {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    tokio::time::sleep(Duration::from_millis(600)).await; // the delete horizon passes
    let after = log(raw, topic).await;
    show(script, key, after.clone());
    script.line(format_args!("{key}: delete horizons {:?}", horizons(after)));
}

async fn run(bootstrap: SocketAddr, cluster: Option<&Cluster>) -> String {
    let mut script = Script::new(bootstrap);
    let t = script.topic("clean", 1, CONFIGS).await;
    let mut raw = script.leader(t, 0).await;
    let txn = &mut Txn::new(script.unique("cleaner"), true);
    let mut coordinator = script.transaction_coordinator(&txn.id).await;
    coordinator.init(txn).await;
    let plain = [
        pairs(&[("a", Some("1")), ("b", Some("2")), ("a", Some("3"))]),
        pairs(&[("b", Some("4"))]),
        pairs(&[("c", Some("5")), ("c", None), ("d", Some("6"))]),
        pairs(&[("e", Some("7"))]).by_producer(4_000_000, 0, 0),
        pairs(&[("e", Some("8"))]).by_producer(4_000_000, 0, 1),
        pairs(&[("f", Some("9")), ("g", Some("10")), ("f", Some("11"))]),
        pairs(&[("h", Some("12"))]).by_producer(4_000_001, 0, 0),
        pairs(&[("h", Some("13")), ("a", Some("14")), ("i", None)]),
    ];
    for batch in &plain {
        assert_eq!(raw.produce(t, 0, batch.bytes()).await.error_code, 0);
    }
    for (commit, batch) in [
        (false, pairs(&[("d", Some("aborted")), ("j", Some("aborted"))])),
        (true, pairs(&[("j", Some("15")), ("k", Some("16"))])),
        (true, pairs(&[("k", Some("17"))])),
    ] {
        let batch = TestBatch { attributes: 0x10, ..batch }.by_producer(txn.producer_id, txn.epoch, txn.sequence);
        loop {
            let answer = raw.write(txn, t, 0, &batch).await;
            if answer.error_code == 0 {
                break;
            }
            pause().await; // the markers of the last one
        }
        coordinator.end(txn, commit).await;
    }
    while raw.latest(t, 0, true).await != raw.latest(t, 0, false).await {
        pause().await;
    }
    for key in ["once", "twice", "three times"] {
        clean(&mut script, &mut raw, t, cluster, key).await;
    }
    script.lines
}

const EXPECTED: &str = include_str!("portable_cleaning.txt");

#[tokio::test]
async fn the_in_process_cluster_cleans_as_kafka_did() {
    let cluster = Cluster::builder().brokers(1).start().await.unwrap();
    let lines = run(cluster.bootstrap_servers().parse().unwrap(), Some(&cluster)).await;
    compare("this cluster", EXPECTED, &lines);
    cluster.shutdown().await;
}

#[tokio::test]
async fn real_kafka_cleans_as_it_did() {
    let Some(servers) = real_bootstrap_servers("portable_cleaning::real_kafka_cleans_as_it_did") else { return };
    let lines = run(first(&servers), None).await;
    compare_or_write("this Kafka", "portable_cleaning.txt", EXPECTED, &lines);
}
