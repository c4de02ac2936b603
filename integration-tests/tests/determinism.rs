//! The same seed is the same history: every request of a run, byte for byte, in two processes.
//!
//! A run has a producer, two members of a group of which one joins late, disconnects, a leader move and the rebalance that the late
//! member brings, and beside them a transactional producer and a reader of committed records, on in-memory pipes under a
//! paused clock. `MILENA_SEEDS=17` or `0..300` runs other seeds than the first hundred; `MILENA_HISTORY=FILE` writes the histories
//! there instead of comparing them.

#![expect(clippy::disallowed_methods, reason = "the test plays the user's part: it waits, and it starts processes")]
#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use milena::{
    Client, GroupMetadata, IsolationLevel, OffsetAndMetadata, OffsetReset, Record, StartAt, TopicPartition, WallClock,
};
use milena_integration_tests::simulated;
use milena_testkit::Cluster;
use tokio::runtime::Builder;

const TEST: &str = "the_same_seed_is_the_same_history_in_two_processes";
const TOPIC: &str = "orders";
const RECORDS: usize = 300;
/// Where the transactions go.
const PAYMENTS: &str = "payments";
const TRANSACTIONS: i64 = 6;
const MINUTE: Duration = Duration::from_secs(60);

/// What a run sent and received, and every request the cluster saw.
fn history(seed: u64) -> String {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(run(seed))
}

async fn run(seed: u64) -> String {
    let mut rng = fastrand::Rng::with_seed(seed);
    let cluster =
        Cluster::builder().brokers(3).seed(seed).topic(TOPIC, 4).topic(PAYMENTS, 2).start_in_memory().unwrap();
    let told = Told::default();
    let transactions = rng.fork();
    let late = Duration::from_millis(rng.u64(200..1_500));
    let produced = produce(&cluster, seed, rng, &told);
    let first = read(&cluster, seed, "first", Duration::ZERO, &told);
    let second = read(&cluster, seed, "second", late, &told);
    let transacted = transact(&cluster, seed, transactions, &told);
    let committed = read_committed(&cluster, seed, &told);
    tokio::join!(produced, first, second, transacted, committed);
    assert!(told.cut.get() > 0, "seed {seed}: no connection was cut");
    assert!(told.shared.get(), "seed {seed}: the two members never shared the topic");
    let mut story = told.story.into_inner();
    story.push_str(&cluster.request_log().to_string());
    cluster.shutdown().await;
    story
}

/// What the three tell one another and the test.
#[derive(Default)]
struct Told {
    story: RefCell<String>,
    read: RefCell<BTreeSet<(i32, i64)>>,
    /// Connections that were cut.
    cut: Cell<usize>,
    /// Both members have been in the group at once, and at rest.
    shared: Cell<bool>,
    /// Committed records that have not been read.
    committed: RefCell<BTreeSet<String>>,
    all_committed: Cell<bool>,
}

async fn connect(cluster: &Cluster, seed: u64, name: &str) -> Client {
    let start = tokio::time::Instant::now();
    let clock = WallClock::from_fn(move || milena_testkit::WALL_CLOCK_BASE_MS + start.elapsed().as_millis() as i64);
    let builder = simulated(cluster).client_id(name).seed(seed).wall_clock(clock);
    builder.connect().await.unwrap()
}

/// Sends, while connections are cut and a leader moves.
async fn produce(cluster: &Cluster, seed: u64, mut rng: fastrand::Rng, told: &Told) {
    let client = connect(cluster, seed, "producer").await;
    let producer = client.producer().build().await.unwrap();
    let mut deliveries = Vec::new();
    let trouble = rng.usize(50..250);
    for n in 0..RECORDS {
        let (key, value) = (format!("k{}", rng.u8(..)), format!("v{n}"));
        deliveries.push(producer.send(&Record::to(TOPIC).key(&key).value(&value)).await.unwrap());
        if rng.u8(..) < 16 {
            tokio::time::sleep(Duration::from_millis(rng.u64(1..200))).await;
        }
        if rng.u8(..) < 6 || n == trouble {
            let broker = rng.i32(1..=3);
            told.cut.set(told.cut.get() + cluster.connections(broker));
            cluster.disconnect(broker);
        }
        if n == trouble {
            let partition = rng.i32(0..4);
            let leader = cluster.partition_info(TOPIC, partition).leader.unwrap();
            cluster.move_leader(TOPIC, partition, leader % 3 + 1);
            assert_ne!(cluster.partition_info(TOPIC, partition).leader, Some(leader), "seed {seed}");
        }
    }
    let mut placed = BTreeSet::new();
    for (n, delivery) in deliveries.into_iter().enumerate() {
        let at = delivery.await.unwrap();
        writeln!(told.story.borrow_mut(), "sent {n} {}@{:?}", at.partition, at.offset).unwrap();
        assert!(placed.insert((at.partition, at.offset)), "seed {seed}: {at:?} was given twice");
    }
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

/// Reads as a member of the group until, together, the members have shared the topic and read everything.
async fn read(cluster: &Cluster, seed: u64, name: &str, late: Duration, told: &Told) {
    tokio::time::sleep(late).await;
    let client = connect(cluster, seed, name).await;
    let builder = client.consumer("group").subscribe([TOPIC]).offset_reset(OffsetReset::Earliest);
    let mut consumer = builder.heartbeat_interval(Duration::from_millis(300)).build().await.unwrap();
    while told.read.borrow().len() < RECORDS || !told.shared.get() {
        let group = cluster.group_info("group");
        told.shared
            .set(told.shared.get() || group.is_some_and(|group| group.state == "Stable" && group.members.len() == 2));
        let records = consumer.poll(Duration::from_millis(100)).await.unwrap();
        for record in &records {
            writeln!(told.story.borrow_mut(), "{name} read {}@{}", record.partition(), record.offset()).unwrap();
            told.read.borrow_mut().insert((record.partition(), record.offset()));
        }
        records.ack();
    }
    consumer.close(MINUTE).await.unwrap();
    client.close().await;
}

/// Commits and aborts in turn.
async fn transact(cluster: &Cluster, seed: u64, mut rng: fastrand::Rng, told: &Told) {
    let client = connect(cluster, seed, "transactional").await;
    let mut producer = client.producer().transactional_id("payments-1").build().await.unwrap();
    let group = GroupMetadata { group: "copy".into(), generation: -1, ..GroupMetadata::default() };
    for number in 0..TRANSACTIONS {
        let transaction = producer.begin();
        let mut values = BTreeSet::new();
        for n in 0..rng.u32(1..20) {
            let (partition, value) = (rng.i32(0..2), format!("t{number}-{n}"));
            drop(transaction.send(&Record::to(PAYMENTS).partition(partition).value(&value)).await.unwrap());
            values.insert(value);
            if rng.u8(..) < 16 {
                tokio::time::sleep(Duration::from_millis(rng.u64(1..100))).await;
            }
        }
        if rng.bool() {
            let offset = (TopicPartition::new(TOPIC, 0), OffsetAndMetadata::from(number));
            transaction.send_offsets([offset], &group).await.unwrap();
        }
        producer = if number % 2 == 0 {
            told.committed.borrow_mut().append(&mut values);
            transaction.commit().await.unwrap()
        } else {
            transaction.abort().await.unwrap()
        };
        writeln!(told.story.borrow_mut(), "ended {number}").unwrap();
    }
    told.all_committed.set(true);
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

/// Reads what is committed, and nothing else, to its end.
async fn read_committed(cluster: &Cluster, seed: u64, told: &Told) {
    let client = connect(cluster, seed, "committed").await;
    let builder = client.partition_consumer().assign(PAYMENTS, 0..2, StartAt::Beginning);
    let mut reader = builder.isolation_level(IsolationLevel::ReadCommitted).build().await.unwrap();
    while !(told.all_committed.get() && told.committed.borrow().is_empty()) {
        for record in &reader.poll(Duration::from_millis(100)).await.unwrap() {
            let value = std::str::from_utf8(record.value().unwrap()).unwrap();
            writeln!(told.story.borrow_mut(), "committed {value} {}@{}", record.partition(), record.offset()).unwrap();
            assert!(told.committed.borrow_mut().remove(value), "seed {seed}: {value} is read and not committed");
        }
    }
    reader.close(MINUTE).await.unwrap();
    client.close().await;
}

fn seeds() -> Range<u64> {
    milena_testkit::seeds(0..300)
}

#[test]
fn the_same_seed_is_the_same_history_in_two_processes() {
    if let Some(file) = std::env::var_os("MILENA_HISTORY") {
        let mut all = String::new();
        for seed in seeds() {
            writeln!(all, "seed {seed}\n{}", history(seed)).unwrap();
        }
        std::fs::write(file, all).unwrap();
        return;
    }
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let files = ["first", "second"].map(|name| dir.join(format!("history-{name}.txt")));
    for file in &files {
        let program = std::env::current_exe().unwrap();
        let run = Command::new(program)
            .args(["--exact", TEST])
            .env("MILENA_HISTORY", file)
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        let why = said.lines().skip_while(|line| !line.contains("panicked at")).nth(1).unwrap_or("and did not say why");
        assert!(run.status.success(), "{why}\na run failed; MILENA_HISTORY=FILE shows where");
    }
    let [first, second] = files.map(|file| std::fs::read_to_string(file).unwrap());
    if let Some((at, (a, b))) = first.lines().zip(second.lines()).enumerate().find(|(_, (a, b))| a != b) {
        let seed = first.lines().take(at + 1).filter(|line| line.starts_with("seed ")).last().unwrap_or("seed ?");
        panic!(
            "{seed}: line {at} differs\n  {a}\n  {b}\nreplay: MILENA_SEEDS={n} cargo test -p milena-integration-tests --test determinism",
            n = &seed[5..],
        );
    }
    assert_eq!(first.len(), second.len());
    let histories: BTreeSet<&str> = first.split("seed ").filter_map(|one| Some(one.split_once('\n')?.1)).collect();
    assert_eq!(histories.len(), seeds().count(), "two seeds had the same history");
}
