//! What the tests of applications share: the word count, a cluster and clients in virtual time, text, and ways to wait and read.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(unreachable_pub, reason = "each test file is a crate of its own")]

use std::{collections::BTreeMap, time::Duration};

use milena_client::{Client, OffsetSpec, TopicPartition, WallClock};
use milena_consumer::{IsolationLevel, PartitionConsumer, StartAt};
use milena_producer::{Producer, Record};
use milena_streams::{KafkaStreams, RunningStreams, StreamsBuilder, StreamsConfig, Topology};
use milena_testkit::{Cluster, ClusterBuilder};
use tokio::runtime::Handle;

pub const LINES: &str = "text-lines-topic";
pub const COUNTS: &str = "word-counts-output-topic";

pub fn word_count() -> Topology {
    let b = StreamsBuilder::new();
    b.stream::<(), String>(LINES)
        .flat_map_values_with(|line: &String, emit| {
            line.split(' ').filter(|word| !word.is_empty()).for_each(|word| emit.push(word.to_owned()));
        })
        .group_by(|_, word| word.clone())
        .count("word-counts")
        .to_stream()
        .to(COUNTS);
    b.build().unwrap()
}

pub fn cluster(partitions: i32) -> ClusterBuilder {
    Cluster::builder().topic(LINES, partitions).topic(COUNTS, partitions)
}

pub async fn client(cluster: &Cluster, seed: u64) -> Client {
    let clock = WallClock::from_fn(|| milena_testkit::WALL_CLOCK_BASE_MS);
    Client::builder(cluster.bootstrap_servers())
        .simulation(Handle::current())
        .seed(seed)
        .connector(cluster.connector())
        .resolver(cluster.resolver())
        .wall_clock(clock)
        .connect()
        .await
        .unwrap()
}

/// Random lines, and a plain count of their words.
pub fn text(seed: u64, lines: usize) -> (Vec<String>, BTreeMap<String, i64>) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut plain = BTreeMap::new();
    let lines = (0..lines).map(|_| {
        let words: Vec<String> =
            (0..rng.usize(0..12)).map(|_| format!("w{}", 300_f64.powf(rng.f64()) as u32)).collect();
        for word in &words {
            *plain.entry(word.clone()).or_default() += 1;
        }
        words.join(" ")
    });
    (lines.collect(), plain)
}

pub async fn load(client: &Client, lines: &[String]) {
    let producer = Producer::builder(client).build().await.unwrap();
    for line in lines {
        drop(producer.send(&Record::to(LINES).value(line)).await.unwrap());
    }
    producer.close(Duration::from_secs(30)).await.unwrap();
}

/// Waits until everything that is in the topics is counted and committed.
pub async fn caught_up(streams: &RunningStreams, partitions: usize) {
    for _ in 0..600 {
        let left = streams.uncommitted_records().await.unwrap();
        if left.len() == partitions && left.values().all(|left| *left == 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("not caught up: {:?} {:?}", streams.state(), streams.uncommitted_records().await);
}

/// The last count of each word, and how many records say so.
pub async fn counts(client: &Client, topic: &str, partitions: i32) -> (BTreeMap<String, i64>, usize) {
    counts_at(client, topic, partitions, IsolationLevel::ReadUncommitted).await
}

/// The same, as readers see it who read committed records only. Waits for transactions that are open.
pub async fn committed_counts(client: &Client, topic: &str, partitions: i32) -> BTreeMap<String, i64> {
    counts_at(client, topic, partitions, IsolationLevel::ReadCommitted).await.0
}

async fn counts_at(
    client: &Client,
    topic: &str,
    partitions: i32,
    isolation: IsolationLevel,
) -> (BTreeMap<String, i64>, usize) {
    let ask: Vec<_> = (0..partitions).map(|p| (TopicPartition::new(topic, p), OffsetSpec::Latest)).collect();
    let ends = client.admin().list_offsets(&ask).await.unwrap();
    let mut reader = PartitionConsumer::builder(client)
        .assign(topic, 0..partitions, StartAt::Beginning)
        .isolation_level(isolation)
        .build()
        .await
        .unwrap();
    let handle = reader.handle();
    let (mut last, mut read) = (BTreeMap::new(), 0);
    while !ends.iter().all(|(tp, end)| handle.position(tp) >= Some(end.unwrap_or(0))) {
        for record in &reader.poll(Duration::from_secs(1)).await.unwrap() {
            let word = String::from_utf8(record.key().unwrap().to_vec()).unwrap();
            last.insert(word, i64::from_be_bytes(record.value().unwrap().try_into().unwrap()));
            read += 1;
        }
    }
    reader.close(Duration::from_secs(5)).await.unwrap();
    (last, read)
}

/// An instance that goes away without a word: its tasks end where they are, its connections break.
pub async fn kill(client: &Client, streams: RunningStreams) {
    client.close().await;
    drop(streams);
}

/// What is left after one of two instances was killed while a text came in: the other one has counted all of it.
pub struct Survivor {
    pub cluster: Cluster,
    /// The survivor's client, and another one.
    pub client: Client,
    pub reader: Client,
    pub streams: RunningStreams,
    /// A plain count of the text.
    pub plain: BTreeMap<String, i64>,
}

pub async fn after_a_kill(seed: u64, config: impl Fn() -> StreamsConfig) -> Survivor {
    let cluster = cluster(4).start_in_memory().unwrap();
    let (one, two, reader) = (client(&cluster, 1).await, client(&cluster, 2).await, client(&cluster, 3).await);
    let (lines, plain) = text(seed, 3_000);
    let first = KafkaStreams::new(word_count(), config()).start(&one).await.unwrap();
    let second = KafkaStreams::new(word_count(), config()).start(&two).await.unwrap();
    second.running().await.unwrap();
    let mut rng = fastrand::Rng::with_seed(seed);
    for chunk in lines[..2_000].chunks(500) {
        load(&reader, chunk).await;
        tokio::time::sleep(Duration::from_millis(rng.u64(0..600))).await;
    }
    kill(&two, second).await;
    load(&reader, &lines[2_000..]).await;
    caught_up(&first, 8).await;
    Survivor { cluster, client: one, reader, streams: first, plain }
}

/// Counts a text in two runs of an application. Returns the client, and a plain count of the text.
pub async fn count_in_two_runs(
    cluster: &Cluster,
    config: impl Fn() -> StreamsConfig,
) -> (Client, BTreeMap<String, i64>) {
    let client = client(cluster, 1).await;
    let (lines, plain) = text(5, 1_000);
    for half in lines.chunks(500) {
        load(&client, half).await;
        run_until_caught_up(&client, config()).await;
    }
    (client, plain)
}

/// Runs an application over two partitions until nothing is left to do, and closes it.
pub async fn run_until_caught_up(client: &Client, config: StreamsConfig) {
    let streams = KafkaStreams::new(word_count(), config).start(client).await.unwrap();
    streams.running().await.unwrap();
    caught_up(&streams, 4).await;
    streams.close(Duration::from_secs(30)).await.unwrap();
}
