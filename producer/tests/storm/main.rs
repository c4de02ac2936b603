//! Storms: whatever can happen to connections, brokers and replicas, drawn from a seed, while producers send.
//!
//! The weather is in `weather.rs`; what must be true of the logs whatever it was, the invariants I-1 to I-6, is in `history.rs`.

#![expect(clippy::disallowed_methods, reason = "tests sleep on the paused clock")]
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

#[path = "../common/mod.rs"]
mod common;
mod history;
mod weather;

use std::time::Duration;

use history::{History, Summary};
use milena_client::Client;
use milena_producer::{Compression, Producer, Purge};
use milena_testkit::Cluster;
use tokio::time::sleep;
use weather::Weather;

const TOPIC: &str = "orders";
const PARTITIONS: i32 = 4;
const RECORDS: u32 = 600;
const MEMORY: usize = 4 << 20;

async fn storm(seed: u64) -> (Summary, String) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let cluster = Cluster::builder()
        .brokers(3)
        .topic_with(TOPIC, PARTITIONS, [("min.insync.replicas", "2")])
        .seed(seed)
        .latency(Duration::from_millis(rng.u64(0..20)))
        .start_in_memory()
        .unwrap();
    let client = common::client(&cluster, seed).wall_clock(common::virtual_wall_clock()).connect().await.unwrap();
    let mut producers = Vec::new();
    for _ in 0..rng.usize(1..=3) {
        producers.push(producer(&client, &mut rng).await);
    }

    let mut purges = Purges::new(seed);
    let mut weather = Weather::new(&cluster, &mut rng);
    let mut history = History::default();
    for _ in 0..RECORDS {
        let who = rng.usize(0..producers.len());
        let record = history.next_record(who, &mut rng);
        let delivery = producers[who].send(&record).await.unwrap();
        history.sent(who, record, delivery);
        purges.maybe(&producers[who]);
        weather.change(&mut rng);
        if rng.u32(0..100) < 20 {
            sleep(Duration::from_millis(rng.u64(0..30))).await;
        }
        if rng.u32(0..20_000) == 0 && !weather.has_late_copies() {
            // Long enough for the brokers to forget who they do not hear from, and for a producer not to count on being known.
            for producer in &producers {
                producer.flush().await.ok();
            }
            sleep(Duration::from_secs(2 * 3600)).await;
            (0..PARTITIONS).for_each(|partition| cluster.forget_producers(TOPIC, partition));
        }
    }
    sleep(Duration::from_millis(200)).await;
    weather.clear();
    for producer in &producers {
        producer.flush().await.ok();
    }
    // Copies that the network still has arrive after everything else.
    sleep(Duration::from_secs(60)).await;
    for (who, producer) in producers.iter().enumerate() {
        history.probe(who, producer, &mut rng).await;
    }

    let summary = history.check(&cluster, &weather).await;
    assert!(cluster.violations().is_empty(), "{:?}", cluster.violations());
    for producer in producers {
        assert_eq!(producer.room(), MEMORY, "memory was not given back");
        producer.close(Duration::from_secs(60)).await.unwrap();
    }
    client.close().await;
    assert_eq!((client.tasks(), client.sockets()), (0, 0));
    let log = cluster.request_log().to_string();
    cluster.shutdown().await;
    (summary, log)
}

/// In every fourth storm the user gives up now and then what has not been acknowledged, by chance of its own.
struct Purges {
    rng: fastrand::Rng,
    happen: bool,
}

impl Purges {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(!seed);
        let happen = rng.u32(0..4) == 0;
        Self { rng, happen }
    }

    fn maybe(&mut self, producer: &Producer) {
        if self.happen && self.rng.u32(0..60) == 0 {
            producer.purge(if self.rng.bool() { Purge::Queued } else { Purge::QueuedAndInFlight });
        }
    }
}

/// A producer with settings of the seed's choice, small ones: many batches, of few records.
async fn producer(client: &Client, rng: &mut fastrand::Rng) -> Producer {
    let codec = if rng.bool() { Compression::Lz4 } else { Compression::None };
    Producer::builder(client)
        .linger(Duration::from_millis(rng.u64(0..4)))
        .batch_size(512)
        .max_batch_size(2048)
        .max_in_flight(rng.usize(1..=5).max(rng.usize(1..=5)))
        .buffer_memory(MEMORY)
        .request_timeout(Duration::from_secs(2))
        .delivery_timeout(Duration::from_secs(if rng.u32(0..4) == 0 { rng.u64(3..8) } else { 60 }))
        .compression(codec)
        .build()
        .await
        .unwrap()
}

fn run(seed: u64) -> (Summary, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let limit = Duration::from_secs(24 * 3600);
    runtime.block_on(async {
        tokio::time::timeout(limit, storm(seed)).await.unwrap_or_else(|_| panic!("the storm does not end"))
    })
}

#[test]
fn no_storm_loses_doubles_or_reorders_a_record() {
    let mut sum = Summary::default();
    for seed in common::seeds() {
        println!("seed {seed}: MILENA_SEEDS={seed} cargo test -p milena-producer --test storm");
        sum += run(seed).0;
    }
    println!("{sum}");
    // One seed alone may be a bad one.
    let count = common::seeds().count();
    assert!(count == 1 || sum.acknowledged > 400 * count, "a storm in which nothing is written proves nothing: {sum}");
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_the_wire() {
    for seed in 0..3 {
        let (one, other) = (run(seed).1, run(seed).1);
        // The logs are too long to print.
        let differs = one.lines().zip(other.lines()).find(|(one, other)| one != other);
        assert!(one == other, "seed {seed}: two request logs: {differs:#?}");
    }
}
