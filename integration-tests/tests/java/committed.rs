//! Committed records are what Java says they are: a topic of which half of the transactions were aborted, in each codec, with several
//! producers in between one another, plain records among them, and transactions that are open at the end, is read by Java's console
//! consumer and by milena, both with `read_committed`, and compared record for record with what was told to whoever wrote it.

#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]
#![expect(clippy::disallowed_methods, reason = "Java's tools block")]

use std::collections::BTreeMap;
use std::time::Duration;

use milena::{
    Client, Compression, Delivery, IsolationLevel, NewTopic, Producer, Record, StartAt, TopicPartition, Transaction,
    TransactionalProducer,
};
use milena_integration_tests::{java_tool, real_kafka, unique};
use milena_testkit::{Cluster, seeds};

use super::CONSOLE_CONSUMER;

const PARTITIONS: i32 = 3;
const SECOND: Duration = Duration::from_secs(1);
/// Each of them sends, commits or aborts so often.
const STEPS: usize = 900;
/// When the transactions begin that stay open: what comes after them in their partitions is not to be seen.
const OPENED_AT: usize = 700;

/// Partition, offset and value of each record, by partition in the order of reading.
type Read = BTreeMap<i32, Vec<(i64, String)>>;

#[tokio::test]
async fn committed_records_are_the_same_for_java_in_process() {
    // Not for its brokers: with them come the jars of Java's clients.
    if real_kafka("committed_records_are_the_same_for_java_in_process").is_none() {
        return;
    }
    let cluster = Cluster::builder().start().await.unwrap();
    compare(&cluster.bootstrap_servers()).await;
    cluster.shutdown().await;
}

#[tokio::test]
async fn committed_records_are_the_same_for_java_on_real_kafka() {
    let Some(servers) = real_kafka("committed_records_are_the_same_for_java_on_real_kafka") else { return };
    compare(&servers).await;
}

async fn compare(servers: &str) {
    let seed = seeds(0..1).start;
    println!("seed {seed}: MILENA_SEEDS={seed} cargo xtask test -p milena-integration-tests --test java committed");
    let client = Client::builder(servers).connect().await.unwrap();
    let topic = unique("half-aborted");
    client.admin().ensure_topics(&[NewTopic::new(&topic, PARTITIONS)]).await.unwrap();
    let mut scene = Scene::prepare(&client, &topic, seed).await;
    scene.play().await;
    let expected = scene.expected();

    let (at, of) = (servers.to_owned(), topic.clone());
    let java = tokio::task::spawn_blocking(move || read_with_java(&at, &of));
    let ours = read(&client, &topic).await;
    let java = java.await.unwrap();
    for partition in 0..PARTITIONS {
        let (expected, ours, java) = (&expected[&partition], &ours[&partition], &java[&partition]);
        assert!(expected.len() > 100, "{} records in partition {partition}", expected.len());
        assert_eq!(java.len(), expected.len(), "what Java reads of partition {partition}");
        assert!(java == expected, "Java reads other records of partition {partition}");
        assert!(ours == java, "Java and milena differ in partition {partition}");
    }
    drop(scene);
    client.close().await;
}

/// One who writes transactions, one after the other.
enum Writer {
    Idle(TransactionalProducer),
    Writing(Transaction, Vec<(Delivery, String)>),
}

/// A record as its acknowledgement told it.
struct Written {
    partition: i32,
    offset: i64,
    value: String,
    committed: bool,
}

struct Scene {
    topic: String,
    random: fastrand::Rng,
    writers: Vec<Option<Writer>>,
    open: Vec<Transaction>,
    plain: Producer,
    written: Vec<Written>,
    /// The first offset of an open transaction, by partition.
    held_at: BTreeMap<i32, i64>,
    committed: usize,
    aborted: usize,
    number: usize,
}

impl Scene {
    async fn prepare(client: &Client, topic: &str, seed: u64) -> Self {
        let mut writers = Vec::new();
        for codec in Compression::ALL {
            for _ in 0..2 {
                writers.push(Some(Writer::Idle(transactional(client, codec).await)));
            }
        }
        let mut open = Vec::new();
        for codec in [Compression::None, Compression::Lz4] {
            open.push(transactional(client, codec).await.begin());
        }
        Self {
            topic: topic.to_owned(),
            random: fastrand::Rng::with_seed(seed),
            writers,
            open,
            plain: client.producer().build().await.unwrap(),
            written: Vec::new(),
            held_at: BTreeMap::new(),
            committed: 0,
            aborted: 0,
            number: 0,
        }
    }

    fn value(&mut self) -> String {
        self.number += 1;
        format!("record {} {}", self.number, "with words that come again ".repeat(self.random.usize(0..4)))
    }

    async fn play(&mut self) {
        for step in 0..STEPS {
            if step == OPENED_AT {
                self.open_for_good().await;
            }
            if step % 20 == 0 {
                let value = self.value();
                let record = Record::to(&self.topic).value(&value);
                let delivery = self.plain.send(&record).await.unwrap();
                self.remember(vec![(delivery, value)], true).await;
            }
            let who = self.random.usize(0..self.writers.len());
            let next = match self.writers[who].take().unwrap() {
                Writer::Idle(producer) => Writer::Writing(producer.begin(), Vec::new()),
                Writer::Writing(transaction, sent) if self.random.u8(0..4) == 0 => self.end(transaction, sent).await,
                Writer::Writing(transaction, mut sent) => {
                    let partition = self.random.i32(0..PARTITIONS);
                    for _ in 0..self.random.usize(1..20) {
                        let value = self.value();
                        let record = Record::to(&self.topic).partition(partition).value(&value);
                        sent.push((transaction.send(&record).await.unwrap(), value));
                    }
                    // A batch of its own, between those of others.
                    transaction.flush().await.unwrap();
                    Writer::Writing(transaction, sent)
                }
            };
            self.writers[who] = Some(next);
        }
        for who in 0..self.writers.len() {
            if let Some(Writer::Writing(transaction, sent)) = self.writers[who].take() {
                self.end(transaction, sent).await;
            }
        }
        let (committed, aborted) = (self.committed, self.aborted);
        println!("{committed} transactions committed, {aborted} aborted, {} records", self.written.len());
        assert!(aborted * 5 > (committed + aborted) * 2, "{aborted} aborted, {committed} committed");
    }

    async fn end(&mut self, transaction: Transaction, sent: Vec<(Delivery, String)>) -> Writer {
        let commit = self.random.bool();
        self.remember(sent, commit).await;
        let producer = if commit { transaction.commit().await.unwrap() } else { transaction.abort().await.unwrap() };
        *(if commit { &mut self.committed } else { &mut self.aborted }) += 1;
        Writer::Idle(producer)
    }

    /// One transaction holds the first partition, another one the first two; the last partition is held by nobody.
    async fn open_for_good(&mut self) {
        let mut sent = Vec::new();
        for (transaction, partitions) in self.open.iter().zip([0..1, 0..2]) {
            for partition in partitions {
                let record = Record::to(&self.topic).partition(partition).value("of a transaction that is open");
                sent.push(transaction.send(&record).await.unwrap());
            }
        }
        for delivery in sent {
            let placed = delivery.await.unwrap();
            let offset = placed.offset.unwrap();
            let held_at = self.held_at.entry(placed.partition).or_insert(offset);
            *held_at = offset.min(*held_at);
        }
    }

    async fn remember(&mut self, sent: Vec<(Delivery, String)>, committed: bool) {
        for (delivery, value) in sent {
            let placed = delivery.await.unwrap();
            let (partition, offset) = (placed.partition, placed.offset.unwrap());
            self.written.push(Written { partition, offset, value, committed });
        }
    }

    /// What a reader of committed records gets.
    fn expected(&self) -> Read {
        let mut expected = Read::new();
        for Written { partition, offset, value, committed } in &self.written {
            if *committed && self.held_at.get(partition).is_none_or(|held_at| offset < held_at) {
                expected.entry(*partition).or_default().push((*offset, value.clone()));
            }
        }
        expected.values_mut().for_each(|records| records.sort());
        expected
    }
}

async fn transactional(client: &Client, codec: Compression) -> TransactionalProducer {
    let builder = client.producer().compression(codec).linger(SECOND).transactional_id(unique(codec.name()));
    builder.transaction_timeout(60 * SECOND).build().await.unwrap()
}

/// Reads up to where nothing is decided.
async fn read(client: &Client, topic: &str) -> Read {
    let builder = client.partition_consumer().assign(topic, 0..PARTITIONS, StartAt::Beginning);
    let mut reader = builder.isolation_level(IsolationLevel::ReadCommitted).build().await.unwrap();
    let handle = reader.handle();
    let all: Vec<_> = (0..PARTITIONS).map(|partition| TopicPartition::new(topic, partition)).collect();
    let mut read = Read::new();
    loop {
        let records = reader.poll(SECOND).await.unwrap();
        for record in &records {
            let value = String::from_utf8(record.value().unwrap().to_vec()).unwrap();
            read.entry(record.partition()).or_default().push((record.offset(), value));
        }
        if records.is_empty() && all.iter().all(|partition| handle.lag(partition) == Some(0)) {
            break;
        }
    }
    reader.close(5 * SECOND).await.unwrap();
    read
}

/// What Java reads until nothing comes for a while.
fn read_with_java(servers: &str, topic: &str) -> Read {
    let consume = ["--bootstrap-server", servers, "--topic", topic, "--from-beginning", "--timeout-ms", "4000"];
    let print = ["--formatter-property", "print.partition=true", "--formatter-property", "print.offset=true"];
    let text =
        java_tool(CONSOLE_CONSUMER, &[&consume[..], &["--isolation-level", "read_committed"], &print[..]].concat(), "");
    let mut read = Read::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, '\t');
        let mut number = |name: &str| fields.next().unwrap().strip_prefix(name).unwrap().parse::<i64>().unwrap();
        let (partition, offset) = (number("Partition:"), number("Offset:"));
        read.entry(partition as i32).or_default().push((offset, fields.next().unwrap().to_owned()));
    }
    read
}
