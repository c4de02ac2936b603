//! kcat 1.7, which is librdkafka 2: every codec, idempotent and not, transactions, lists, look-ups by time, a group.

use std::io::Write as _;
use std::process::{Command, Stdio};

use milena_testkit::{Api, Cluster};

use super::{called, nobody_was_turned_away};

/// Runs kcat with `input` and returns the text that it prints.
pub(super) fn kcat(servers: &str, arguments: &[&str], input: &str) -> String {
    String::from_utf8(kcat_bytes(servers, arguments, input)).unwrap()
}

/// Runs kcat with `input` and returns what it prints.
pub(super) fn kcat_bytes(servers: &str, arguments: &[&str], input: &str) -> Vec<u8> {
    let mut kcat = Command::new("kcat")
        .args(["-q", "-b", servers])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("kcat cannot be run ({e}). Install it:  apt-get install -y kcat"));
    let mut stdin = kcat.stdin.take().unwrap();
    let input = input.to_owned();
    // Aside, so that neither waits for the other when both have much to say.
    #[expect(clippy::disallowed_methods, reason = "a pipe to another process has to be written aside")]
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = kcat.wait_with_output().unwrap();
    let written = writer.join().unwrap();
    assert!(output.status.success(), "kcat {arguments:?} ended with {}", output.status);
    written.unwrap();
    output.stdout
}

pub(super) fn how_many() -> usize {
    let given = std::env::var("MILENA_JUDGE_RECORDS").unwrap_or_default();
    if given.is_empty() { 2000 } else { given.parse().expect("MILENA_JUDGE_RECORDS is a number") }
}

/// What the cluster has stored of a topic, as kcat prints it with `-f '%p %o %k %s\n'`, sorted.
fn stored(cluster: &Cluster, topic: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for partition in 0..cluster.partitions(topic).unwrap() {
        for record in cluster.committed_records(topic, partition) {
            let text = |bytes: &Option<bytes::Bytes>| String::from_utf8(bytes.clone().unwrap().into()).unwrap();
            lines.push(format!("{partition} {} {} {}", record.offset, text(&record.key), text(&record.value)));
        }
    }
    lines.sort();
    lines
}

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn input(records: usize) -> String {
    (0..records).map(|n| format!("key-{}:value number {n}, with some words in it to be compressed\n", n % 50)).collect()
}

const READ: [&str; 7] = ["-C", "-e", "-o", "beginning", "-f", "%p %o %k %s\n", "-t"];

#[tokio::test]
async fn kcat_writes_and_reads_every_codec_idempotent_and_not() {
    let cluster = Cluster::builder().start().await.unwrap();
    let servers = cluster.bootstrap_servers();
    let records = how_many();
    let input = input(records);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        for idempotent in [false, true] {
            let topic = format!("{codec}-{idempotent}");
            cluster.create_topic(&topic, 3);
            let idempotence = format!("enable.idempotence={idempotent}");
            let options = ["-X", "acks=all", "-z", codec, "-X", &idempotence];
            kcat(&servers, &[&["-P", "-K", ":", "-t", &topic], &options[..]].concat(), &input);

            let stored = stored(&cluster, &topic);
            assert_eq!(stored.len(), records, "{topic}");
            let mut values: Vec<_> = stored.iter().map(|line| line.splitn(3, ' ').last().unwrap().to_owned()).collect();
            values.sort();
            assert_eq!(values, sorted(&input.replace(':', " ")), "{topic}: other keys or values");
            let bytes: u64 = (0..3).map(|partition| cluster.partition_info(&topic, partition).bytes).sum();
            assert_eq!(bytes < input.len() as u64 / 2, codec != "none", "{topic}: {bytes} bytes");
            let ids = (0..3).flat_map(|partition| cluster.records(&topic, partition)).map(|record| record.producer_id);
            assert!(ids.into_iter().all(|id| (id >= 0) == idempotent), "{topic}");

            let read = kcat(&servers, &[&READ[..], &[&topic]].concat(), "");
            assert_eq!(sorted(&read), stored, "{topic} is read as it is stored");
        }
    }
    nobody_was_turned_away(&cluster.request_log());
    let called = called(&cluster, 0);
    for api in ["Produce", "Fetch", "ListOffsets", "InitProducerId"] {
        assert!(called.contains_key(api), "{called:?}");
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn kcat_writes_a_transaction_and_reads_only_what_is_committed() {
    let cluster = Cluster::builder().topic("t", 3).start().await.unwrap();
    let servers = cluster.bootstrap_servers();
    kcat(&servers, &["-P", "-K", ":", "-t", "t", "-X", "transactional.id=judge"], &input(500));
    let stored = stored(&cluster, "t");
    assert_eq!(stored.len(), 500);
    assert_eq!(cluster.requests(Api::EndTxn), 1);
    let committed = ["-X", "isolation.level=read_committed"];
    let read = kcat(&servers, &[&READ[..], &["t"], &committed[..]].concat(), "");
    assert_eq!(sorted(&read), stored);
    nobody_was_turned_away(&cluster.request_log());
    cluster.shutdown().await;
}

#[tokio::test]
async fn kcat_lists_the_cluster_and_looks_up_offsets_by_time() {
    let cluster = Cluster::builder().topic("one", 1).topic("six", 6).start().await.unwrap();
    let servers = cluster.bootstrap_servers();
    let listed = kcat(&servers, &["-L"], "");
    assert!(listed.contains("3 brokers:"), "{listed}");
    assert!(listed.contains("topic \"six\" with 6 partitions:"), "{listed}");
    for (partition, leader) in (0..6).map(|p| (p, cluster.partition_info("six", p).leader.unwrap())) {
        assert!(listed.contains(&format!("partition {partition}, leader {leader}, replicas: ")), "{listed}");
    }
    for address in servers.split(',') {
        assert!(listed.contains(&format!("at {address}")), "{listed}");
    }

    kcat(&servers, &["-P", "-t", "one", "-X", "batch.num.messages=10"], &input(100));
    let records = cluster.records("one", 0);
    let middle = records[50].timestamp;
    let first_at = records.iter().find(|record| record.timestamp >= middle).unwrap().offset;
    let after_all = records.last().unwrap().timestamp + 1;
    for (time, offset) in [(-2, 0), (-1, 100), (1, 0), (middle, first_at)] {
        let found = kcat(&servers, &["-Q", "-t", &format!("one:0:{time}")], "");
        assert_eq!(found.trim(), format!("one [0] offset {offset}"), "at {time}");
    }
    // librdkafka's word for "behind the last record".
    let found = kcat(&servers, &["-Q", "-t", &format!("one:0:{after_all}")], "");
    assert_eq!(found.trim(), "one [0] offset -1");
    nobody_was_turned_away(&cluster.request_log());
    cluster.shutdown().await;
}

#[tokio::test]
async fn kcat_in_a_group_goes_on_where_it_stopped() {
    let cluster = Cluster::builder().topic("t", 3).start().await.unwrap();
    let servers = cluster.bootstrap_servers();
    kcat(&servers, &["-P", "-K", ":", "-t", "t"], &input(300));
    let member = ["-X", "auto.offset.reset=earliest", "-f", "%p %o %k %s\n"];
    let first = kcat(&servers, &[&member[..], &["-c", "120", "-G", "g", "t"]].concat(), "");
    assert_eq!(first.lines().count(), 120);
    let rest = kcat(&servers, &[&member[..], &["-e", "-G", "g", "t"]].concat(), "");
    assert_eq!(sorted(&(first + &rest)), stored(&cluster, "t"), "every record once");
    nobody_was_turned_away(&cluster.request_log());
    let called = called(&cluster, 0);
    for api in ["JoinGroup", "SyncGroup", "OffsetCommit", "OffsetFetch", "LeaveGroup"] {
        assert!(called.contains_key(api), "{called:?}");
    }
    cluster.shutdown().await;
}
