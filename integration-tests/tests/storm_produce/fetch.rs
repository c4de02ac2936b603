//! What is read while the same storm goes over the brokers: numbered records over twelve partitions, written all through it by a producer
//! of their own, and read by two readers at once. Nothing is lost, nothing comes twice, and each partition comes in order.
//!
//! One reader follows the writer by `poll`. The other one reads from the nearest replica (KIP-392) as a `stream()`, from the beginning to
//! what was acknowledged, and seeks to the beginning again and again: what was fetched before a seek may not come after it.
//!
//! Offset times twelve plus the partition is a record's number, since one idempotent producer has written all of them, so that a reader
//! that has left something out, or has it twice, sees it in the next record.
//!
//! `MILENA_STORM_RECORDS` is how many records there are at least (default 250,000). `MILENA_STORM_SEED` says how large they are.

use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use milena::{Client, NewTopic, PartitionConsumerBuilder, Record, StartAt, TopicPartition};
use milena_integration_tests::unique;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{DEADLINE, PARTITIONS, SECOND};

/// How many are written at once, and how often: twelve thousand in a second, less than a busy machine can write and read twice.
const RUN: usize = 240;
const PAUSE: Duration = Duration::from_millis(20);
/// The pause between two readings from the beginning: the log grows, and the machine has more to do.
const REST: Duration = Duration::from_secs(3);

pub(super) struct Scene {
    servers: String,
    topic: Arc<str>,
    seed: u64,
    at_least: usize,
    /// All numbers below are acknowledged.
    acknowledged: Cell<usize>,
    complete: Cell<bool>,
}

impl Scene {
    pub(super) async fn prepare(servers: &str) -> Self {
        let from = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
        let clock = || SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64);
        let seed = from("MILENA_STORM_SEED").unwrap_or_else(clock);
        let at_least = from("MILENA_STORM_RECORDS").unwrap_or(250_000);
        let rounds = milena_integration_tests::rounds();
        println!(
            "seed {seed}; again with MILENA_STORM_SEED={seed} MILENA_STORM_ROUNDS={rounds} MILENA_STORM_RECORDS={at_least} \
             cargo xtask test -p milena-integration-tests --features storms --test storm_produce"
        );
        let topic: Arc<str> = unique("fetched").into();
        let client = Client::builder(servers).connect().await.unwrap();
        let new = NewTopic::new(&*topic, PARTITIONS).replication_factor(3).config("min.insync.replicas", "2");
        client.admin().ensure_topics(&[new]).await.unwrap();
        client.close().await;
        Self {
            servers: servers.to_owned(),
            topic,
            seed,
            at_least: at_least as usize,
            acknowledged: Cell::new(0),
            complete: Cell::new(false),
        }
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// Writes and reads until the storm is over, and then to the end.
    pub(super) async fn write_and_read(&self, over: &AtomicBool) {
        let (delivered, fetched, rounds) = tokio::join!(self.write(over), self.follow(), self.read_again_and_again());
        let (undisturbed, client) = (self.read_to_the_end(self.client().await).await, self.client().await);
        println!(
            "{delivered} records read once by the one that follows, and {rounds} times from the beginning; batch bytes fetched: \
             {fetched}, in calm {undisturbed}: {:.4}",
            fetched as f64 / undisturbed as f64
        );
        // What arrived before a connection broke is kept.
        assert!(fetched as f64 <= 1.02 * undisturbed as f64, "{fetched} bytes were fetched for {undisturbed}");
        client.admin().delete_topics(&[&self.topic]).await.unwrap();
        client.close().await;
    }

    /// Every client counts its own bytes.
    async fn client(&self) -> Client {
        Client::builder(self.servers.as_str()).connect().await.unwrap()
    }

    fn reader(&self, client: &Client) -> PartitionConsumerBuilder {
        client.partition_consumer().assign(self.topic.clone(), 0..PARTITIONS, StartAt::Beginning)
    }

    /// How many there are.
    async fn write(&self, over: &AtomicBool) -> usize {
        let client = self.client().await;
        let builder = client.producer().max_block(DEADLINE).delivery_timeout(DEADLINE);
        let producer = builder.request_timeout(10 * SECOND).build().await.unwrap();
        let mut random = fastrand::Rng::with_seed(self.seed);
        let (mut number, mut under_way) = (0, VecDeque::new());
        let mut next_run = Instant::now();
        let text = "a text that repeats itself ".repeat(10);
        while number < self.at_least || !over.load(Ordering::Acquire) {
            for _ in 0..RUN {
                let value = format!("{number} {}", &text[..random.usize(..200)]);
                let record = Record::to(&self.topic).partition(number as i32 % PARTITIONS).value(&value);
                under_way.push_back(producer.send(&record).await.unwrap());
                number += 1;
            }
            if !over.load(Ordering::Acquire) {
                next_run = Instant::now().max(next_run + PAUSE);
                sleep_until(next_run).await;
            }
            // While one leader is being elected, the other partitions are written and read.
            while under_way.front().is_some_and(milena::Delivery::is_done) {
                self.acknowledge(under_way.pop_front().unwrap()).await;
            }
        }
        for delivery in under_way {
            self.acknowledge(delivery).await;
        }
        self.complete.set(true);
        producer.close(DEADLINE).await.unwrap();
        close(client).await;
        number
    }

    async fn acknowledge(&self, delivery: milena::Delivery) {
        delivery.await.expect("with all replicas and a long deadline, a killed broker is no reason to lose a record");
        self.acknowledged.set(self.acknowledged.get() + 1);
    }

    /// Reads what is written as it comes. The bytes of the batches that were fetched for it.
    async fn follow(&self) -> u64 {
        let client = self.client().await;
        let mut reader = self.reader(&client).build().await.unwrap();
        let (mut seen, mut last) = (Seen::default(), Instant::now());
        while !(self.complete.get() && seen.count >= self.acknowledged.get()) {
            let records = timeout(DEADLINE, reader.poll(SECOND / 2)).await.unwrap().unwrap();
            last = if records.is_empty() { last } else { Instant::now() };
            assert!(last.elapsed() < DEADLINE, "{} of {} records have come", seen.count, self.acknowledged.get());
            for record in &records {
                seen.saw(record.partition(), record.offset(), record.value());
            }
        }
        assert_eq!(seen.count, self.acknowledged.get(), "and nothing that nobody has written");
        assert_eq!(reader.handle().try_next_event(), None, "nothing but records has come");
        reader.close(DEADLINE).await.unwrap();
        let fetched = fetched_bytes(&client);
        close(client).await;
        fetched
    }

    /// Reads from the nearest replica, from the beginning to what is acknowledged, until that is all there is. How often.
    async fn read_again_and_again(&self) -> usize {
        let client = self.client().await;
        let mut reader = self.reader(&client).rack("rack-2").build().await.unwrap();
        let handle = reader.handle();
        let mut rounds = 0;
        loop {
            let (is_last, acknowledged) = (self.complete.get(), self.acknowledged.get());
            let mut seen = Seen::default();
            let mut records = pin!(reader.stream());
            while !seen.has_all(acknowledged) {
                let record = timeout(DEADLINE, records.next()).await.expect("a record comes").unwrap().unwrap();
                seen.saw(record.partition(), record.offset(), record.value());
            }
            rounds += 1;
            if is_last {
                break;
            }
            let rest_until = Instant::now() + REST;
            while Instant::now() < rest_until && !self.complete.get() {
                sleep(SECOND / 10).await;
            }
            // The stream has more of every partition in hand.
            for partition in 0..PARTITIONS {
                handle.seek(&TopicPartition::new(self.topic.clone(), partition), StartAt::Beginning).unwrap();
            }
        }
        assert_eq!(handle.try_next_event(), None, "nothing but records has come");
        reader.close(DEADLINE).await.unwrap();
        close(client).await;
        rounds
    }

    /// How many bytes it takes to read everything where nothing happens.
    async fn read_to_the_end(&self, client: Client) -> u64 {
        let mut reader = self.reader(&client).build().await.unwrap();
        let mut seen = Seen::default();
        while !seen.has_all(self.acknowledged.get()) {
            let records = timeout(2 * DEADLINE, reader.poll(DEADLINE)).await.unwrap().unwrap();
            assert!(!records.is_empty(), "{} of {} records have come", seen.count, self.acknowledged.get());
            for record in &records {
                seen.saw(record.partition(), record.offset(), record.value());
            }
        }
        reader.close(DEADLINE).await.unwrap();
        let fetched = fetched_bytes(&client);
        close(client).await;
        fetched
    }
}

/// What a reader has had.
#[derive(Default)]
struct Seen {
    next: [i64; PARTITIONS as usize],
    count: usize,
}

impl Seen {
    fn saw(&mut self, partition: i32, offset: i64, value: Option<&[u8]>) {
        let next = &mut self.next[partition as usize];
        assert_eq!(offset, *next, "partition {partition}: what comes is the next one");
        let text = std::str::from_utf8(value.unwrap()).unwrap();
        let number: i64 = text.split_once(' ').unwrap().0.parse().unwrap();
        assert_eq!(number, offset * i64::from(PARTITIONS) + i64::from(partition), "partition {partition}");
        *next += 1;
        self.count += 1;
    }

    /// Whether all numbers below `acknowledged` have come.
    fn has_all(&self, acknowledged: usize) -> bool {
        let first_missing = |(partition, next): (usize, &i64)| *next as usize * PARTITIONS as usize + partition;
        self.next.iter().enumerate().all(|each| first_missing(each) >= acknowledged)
    }
}

fn fetched_bytes(client: &Client) -> u64 {
    let values = client.metrics().snapshot().into_iter().filter(|(name, _)| name.name == "batch-bytes-fetched-total");
    values.map(|(_, value)| value as u64).sum()
}

async fn close(client: Client) {
    client.close().await;
    assert_eq!((client.tasks(), client.sockets()), (0, 0));
}
