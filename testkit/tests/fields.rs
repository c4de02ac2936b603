//! Batches of which one field is not as it should be: what the in-process cluster makes of each is what Kafka 4.3.0 made of it, packed
//! and not.
//!
//! `tests/fields.txt` holds Kafka's answers; `PORTABLE_WRITE=1` with `KAFKA_BOOTSTRAP_SERVERS` writes it anew.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test reads the clock, waits and panics")]

mod common;

use std::net::SocketAddr;

use bytes::Bytes;
use common::script::{Script, batch, code, compare, compare_or_write, first};
use common::*;
use milena_testkit::{Cluster, real_bootstrap_servers};

/// A record, field by field.
#[derive(Clone)]
struct Fields {
    attributes: u8,
    timestamp_delta: i64,
    offset_delta: i64,
    key_len: i64,
    key: &'static [u8],
    value_len: i64,
    value: &'static [u8],
    header_count: i64,
    headers: Vec<u8>,
    /// What the record says about its length, less what it should say.
    surplus: i64,
}

impl Fields {
    fn new(index: i64) -> Self {
        Self {
            attributes: 0,
            timestamp_delta: index,
            offset_delta: index,
            key_len: 1,
            key: b"k",
            value_len: 5,
            value: b"value",
            header_count: 0,
            headers: Vec::new(),
            surplus: 0,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut body = vec![self.attributes];
        varint(&mut body, self.timestamp_delta);
        varint(&mut body, self.offset_delta);
        varint(&mut body, self.key_len);
        body.extend_from_slice(self.key);
        varint(&mut body, self.value_len);
        body.extend_from_slice(self.value);
        varint(&mut body, self.header_count);
        body.extend_from_slice(&self.headers);
        varint(out, body.len() as i64 + self.surplus);
        out.extend_from_slice(&body);
    }
}

/// Three records, the second of which is changed.
fn second(change: impl FnOnce(&mut Fields)) -> Vec<u8> {
    let mut fields = [Fields::new(0), Fields::new(1), Fields::new(2)];
    change(&mut fields[1]);
    let mut records = Vec::new();
    fields.iter().for_each(|record| record.write(&mut records));
    records
}

/// A header of these lengths and bytes.
fn header(key_len: i64, key: &[u8], value_len: i64, value: &[u8]) -> Vec<u8> {
    let mut header = Vec::new();
    varint(&mut header, key_len);
    header.extend_from_slice(key);
    varint(&mut header, value_len);
    header.extend_from_slice(value);
    header
}

fn records() -> Vec<(&'static str, Vec<u8>)> {
    let headers = |count, bytes: Vec<u8>| second(|r| (r.header_count, r.headers) = (count, bytes));
    let mut cases = vec![
        ("nothing changed", second(|_| {})),
        ("an attribute", second(|r| r.attributes = 0xff)),
        ("the offset delta of the first", second(|r| r.offset_delta = 0)),
        ("the offset delta of the third", second(|r| r.offset_delta = 2)),
        ("a negative offset delta", second(|r| r.offset_delta = -1)),
        ("an offset delta of two billion", second(|r| r.offset_delta = i64::from(i32::MAX))),
        ("an offset delta of more bits than there are", second(|r| r.offset_delta = i64::MAX)),
        ("a timestamp before the first", second(|r| r.timestamp_delta = -5)),
        ("a timestamp delta that overflows", second(|r| r.timestamp_delta = i64::MAX)),
        ("a timestamp of −1", second(|r| r.timestamp_delta = -1 - base())),
        ("no key", second(|r| (r.key_len, r.key) = (-1, b""))),
        ("an empty key", second(|r| (r.key_len, r.key) = (0, b""))),
        ("a key of −2 bytes", second(|r| (r.key_len, r.key) = (-2, b""))),
        ("a key that is longer than the record", second(|r| r.key_len = 100)),
        ("a key of two billion bytes", second(|r| r.key_len = i64::from(i32::MAX))),
        ("no value", second(|r| (r.value_len, r.value) = (-1, b""))),
        ("a value of −2 bytes", second(|r| (r.value_len, r.value) = (-2, b""))),
        ("a value that is longer than the record", second(|r| r.value_len = 9)),
        ("a value of two billion bytes", second(|r| r.value_len = i64::from(i32::MAX))),
        ("a value that is shorter than its bytes", second(|r| r.value_len = 3)),
        ("a header", headers(1, header(1, b"h", 2, b"vv"))),
        ("a header without a value", headers(1, header(1, b"h", -1, b""))),
        ("a header without a key", headers(1, header(-1, b"", 1, b"v"))),
        ("a header with an empty key", headers(1, header(0, b"", 1, b"v"))),
        ("a header whose value is cut off", headers(1, header(1, b"h", 50, b"v"))),
        ("a header whose key is no text", headers(1, header(2, b"\xff\xfe", 1, b"v"))),
        ("−1 headers", headers(-1, Vec::new())),
        ("two billion headers", headers(i64::from(i32::MAX), Vec::new())),
        ("a header that is not counted", headers(0, header(1, b"h", 1, b"v"))),
        ("a record that is a byte longer than it says", second(|r| r.surplus = -1)),
        ("a record that is a byte shorter than it says", second(|r| r.surplus = 1)),
        ("a record of minus ten bytes", second(|r| r.surplus = -30)),
        ("a record of two billion bytes", second(|r| r.surplus = 2_000_000_000)),
    ];
    let whole = second(|_| {});
    cases.push(("the last byte missing", whole[..whole.len() - 1].to_vec()));
    cases.push(("a byte too many", [&whole[..], &[0]].concat()));
    cases.push(("a fourth record", [&whole[..], &whole[..whole.len() / 3]].concat()));
    cases.push(("one record only", whole[..whole.len() / 3].to_vec()));
    cases.push(("no record", Vec::new()));
    cases
}

/// The wall clock of the batches, which every case of a run shares: a second ago, because a delta that overflows is refused only if it
/// overflows once more on the way to the broker's clock, and that one may be a millisecond behind.
fn base() -> i64 {
    static BASE: std::sync::OnceLock<i64> = std::sync::OnceLock::new();
    *BASE.get_or_init(|| batch(&["x"]).base_timestamp - 1000)
}

async fn run(bootstrap: SocketAddr) -> String {
    let mut script = Script::new(bootstrap);
    let three = || TestBatch { base_timestamp: base(), ..batch(&["a", "b", "c"]) };
    for codec in [0, 1, 2, 3, 4] {
        let name = ["plain", "gzip", "snappy", "lz4", "zstd"][codec as usize];
        let t = script.topic(name, 1, &[]).await;
        let mut raw = script.leader(t, 0).await;
        for (what, records) in records() {
            let batch = TestBatch { attributes: codec, ..three() }.with_records(&compress(codec, &records));
            let answer = raw.produce(t, 0, batch).await;
            let blamed: Vec<i32> = answer.record_errors.iter().map(|e| e.batch_index).collect();
            script.line(format_args!("{name}, {what}: {} blamed {blamed:?}", code(answer.error_code)));
        }
        // What is stored of those that were taken.
        script.line(format_args!("{name}, in the end: {}", raw.latest(t, 0, false).await));
    }
    let changed = |at: usize, bytes: &[u8]| -> Bytes {
        let mut changed = three().bytes().to_vec();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        sign(&mut changed);
        changed.into()
    };
    let two = |first: (usize, &[u8]), second: (usize, &[u8])| -> Bytes {
        let mut both = changed(first.0, first.1).to_vec();
        both[second.0..second.0 + second.1.len()].copy_from_slice(second.1);
        sign(&mut both);
        both.into()
    };
    let id = 7_000_000_i64.to_be_bytes();
    let headers: Vec<(&str, Bytes)> = vec![
        ("base offset −1", changed(0, &(-1_i64).to_be_bytes())),
        ("a length of 13", changed(8, &13_i32.to_be_bytes())),
        ("a negative length", changed(8, &(-1_i32).to_be_bytes())),
        ("a length that is one too small", changed(8, &(three().bytes().len() as i32 - 13).to_be_bytes())),
        ("a length that is one too large", changed(8, &(three().bytes().len() as i32 - 11).to_be_bytes())),
        ("leader epoch −7", changed(12, &(-7_i32).to_be_bytes())),
        ("magic 0", changed(16, &[0])),
        ("magic −1", changed(16, &[0xff])),
        ("the broker's time", changed(21, &0x08_i16.to_be_bytes())),
        ("a delete horizon", changed(21, &0x40_i16.to_be_bytes())),
        ("an attribute that nobody knows", changed(21, &0x400_i16.to_be_bytes())),
        ("codec 7", changed(21, &7_i16.to_be_bytes())),
        ("control and transactional", changed(21, &0x30_i16.to_be_bytes())),
        ("last offset delta −1", changed(23, &(-1_i32).to_be_bytes())),
        ("last offset delta of two billion", changed(23, &i32::MAX.to_be_bytes())),
        ("base timestamp −1", changed(27, &(-1_i64).to_be_bytes())),
        ("base timestamp of the far past", changed(27, &i64::MIN.to_be_bytes())),
        ("max timestamp −1", changed(35, &(-1_i64).to_be_bytes())),
        ("max timestamp of the far future", changed(35, &i64::MAX.to_be_bytes())),
        ("producer id −2", changed(43, &(-2_i64).to_be_bytes())),
        ("a producer id alone", changed(43, &id)),
        ("an epoch alone", changed(51, &[0, 3])),
        ("a sequence alone", changed(53, &3_i32.to_be_bytes())),
        ("a producer without a sequence", two((43, &id), (51, &[0, 0]))),
        ("a producer without an epoch", two((43, &id), (53, &[0; 4]))),
        ("a negative count", changed(57, &(-3_i32).to_be_bytes())),
        ("a count of two billion", changed(57, &i32::MAX.to_be_bytes())),
        ("a count and a delta of two billion", two((57, &i32::MAX.to_be_bytes()), (23, &(i32::MAX - 1).to_be_bytes()))),
    ];
    let t = script.topic("headers", 1, &[]).await;
    let mut raw = script.leader(t, 0).await;
    for (what, bytes) in headers {
        let answer = raw.produce(t, 0, bytes).await;
        let blamed: Vec<i32> = answer.record_errors.iter().map(|e| e.batch_index).collect();
        script.line(format_args!("header, {what}: {} blamed {blamed:?}", code(answer.error_code)));
    }
    script.line(format_args!("header, in the end: {}", raw.latest(t, 0, false).await));
    let configs: [(&str, &[(&'static str, &'static str)]); 4] = [
        ("LogAppendTime", &[("message.timestamp.type", "LogAppendTime")]),
        ("compacted", &[("cleanup.policy", "compact")]),
        ("not before an hour ago", &[("message.timestamp.before.max.ms", "3600000")]),
        ("small", &[("max.message.bytes", "100")]),
    ];
    let old = TestBatch { base_timestamp: base() - 2 * 3_600_000, ..three() };
    let mut second_keyless = three();
    second_keyless.records[1].0 = None;
    for (name, config) in configs {
        let t = script.topic(&name.replace(' ', "-"), 1, config).await;
        let mut raw = script.leader(t, 0).await;
        let packed = TestBatch { attributes: 1, ..three() };
        for (what, batch) in [
            ("good", three()),
            ("gzip", packed),
            ("two hours old", old.clone()),
            ("no timestamp", TestBatch { base_timestamp: -1, ..three() }),
            ("two hours ahead", TestBatch { base_timestamp: base() + 2 * 3_600_000, ..three() }),
            ("one without a key", second_keyless.clone()),
        ] {
            let answer = raw.produce(t, 0, batch.bytes()).await;
            let blamed: Vec<i32> = answer.record_errors.iter().map(|e| e.batch_index).collect();
            script.line(format_args!("{name}, {what}: {} blamed {blamed:?}", code(answer.error_code)));
        }
    }
    script.lines
}

const EXPECTED: &str = include_str!("fields.txt");

#[tokio::test]
async fn the_in_process_cluster_takes_and_refuses_what_kafka_did() {
    // Some of what Kafka takes no correct encoder writes, and the cluster says so.
    let cluster = Cluster::builder().check_invariants(false).start().await.unwrap();
    let servers = cluster.bootstrap_servers();
    let lines = run(first(&servers)).await;
    compare("this cluster", EXPECTED, &lines);
    cluster.shutdown().await;
}

#[tokio::test]
async fn kafka_takes_and_refuses_what_it_did() {
    let Some(servers) = real_bootstrap_servers("fields::kafka_takes_and_refuses_what_it_did") else { return };
    let lines = run(first(&servers)).await;
    compare_or_write("this Kafka", "fields.txt", EXPECTED, &lines);
}
