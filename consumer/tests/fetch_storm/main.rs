//! Storms over readers: whatever can happen to connections, brokers and logs, drawn from a seed, while partitions are read in every way.
//!
//! The weather is in `weather.rs`, what was written in `history.rs`; what must be true of what is handed out whatever the weather was,
//! the invariants I-6 to I-9, I-14 and I-16, is in `reader.rs`.

#![expect(clippy::disallowed_methods, reason = "tests sleep on the paused clock")]
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod history;
mod reader;
mod weather;

use std::fmt;
use std::ops::{AddAssign, RangeInclusive};
use std::time::Duration;

use history::{Counts, History, Place};
use milena_client::Client;
use milena_testkit::Cluster;
use reader::Reader;
use tokio::time::sleep;
use weather::{Happened, Weather};

const COMPACTED: &str = "table";
const MADE_ANEW: &str = "again";
const TOPICS: [(&str, i32); 3] = [("log", 3), (COMPACTED, 1), (MADE_ANEW, 1)];
const BROKERS: RangeInclusive<i32> = 1..=3;
/// Keys of the compacted topic.
const KEYS: u32 = 12;
const STEPS: u32 = 300;

/// What has to happen now and then in a hundred storms.
const KINDS: [&str; 45] = [
    "answers cut short",
    "answers lost",
    "bad disks",
    "bits turned over",
    "compactions",
    "connections closed",
    "crashes",
    "damaged batches met",
    "disconnects after",
    "disconnects before",
    "fenced epochs",
    "followers held",
    "half-open connections",
    "late answers",
    "late look-ups",
    "late metadata",
    "late requests",
    "leader moves",
    "look-ups cut off",
    "look-ups refused",
    "no leaders",
    "offsets not available",
    "out of range",
    "pauses",
    "quotas",
    "records deleted",
    "retention",
    "seeks to a time",
    "seeks to an offset",
    "seeks to the beginning",
    "seeks to the end",
    "session epochs refused",
    "sessions lost behind",
    "sessions not found",
    "slow networks",
    "stalls",
    "told: out of range",
    "told: reset",
    "told: topic made anew",
    "told: truncated",
    "topics grown",
    "topics made anew",
    "unclean elections",
    "unknown epochs",
    "unknown errors",
];

async fn storm(seed: u64) -> (Summary, String) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let cluster = Cluster::builder()
        .brokers(3)
        .topic_with(TOPICS[0].0, TOPICS[0].1, [("retention.ms", "3000")])
        .topic_with(COMPACTED, TOPICS[1].1, [("cleanup.policy", "compact"), ("delete.retention.ms", "1000")])
        .topic(MADE_ANEW, 1)
        .seed(seed)
        .latency(Duration::from_millis(rng.u64(0..20)))
        .start_in_memory()
        .unwrap();
    let client = Client::builder(cluster.bootstrap_servers())
        .simulation(tokio::runtime::Handle::current())
        .seed(seed)
        .connector(cluster.connector())
        .resolver(cluster.resolver())
        .connect()
        .await
        .unwrap();

    let mut history = History::new(&TOPICS);
    let mut weather = Weather::new(&cluster, &mut rng);
    let mut readers = Vec::new();
    for number in 0..rng.usize(1..=2) {
        let mut places = history.places();
        rng.shuffle(&mut places);
        places.truncate(rng.usize(1..=places.len()).max(2));
        readers.push(Reader::new(&client, &format!("reader {number}"), &places, &history, &mut rng).await);
    }
    let mut places = history.places().len();
    for _ in 0..STEPS {
        if rng.u32(0..100) < 60 {
            history.write(&cluster, &mut rng);
        }
        weather.change(&mut history, &mut rng);
        if history.places().len() > places {
            // Somebody reads what has been added, perhaps before the brokers say that it is there.
            places = history.places().len();
            let added = Place { topic: TOPICS[0].0, partition: TOPICS[0].1 };
            readers.push(Reader::new(&client, "a reader of what was added", &[added], &history, &mut rng).await);
        }
        for reader in &mut readers {
            reader.act(&history, &mut rng).await;
        }
        if rng.u32(0..100) < 40 {
            sleep(Duration::from_millis(rng.u64(0..40))).await;
        }
    }
    let mut summary = Summary { storms: 1, happened: weather.clear(&mut history), ..Summary::default() };
    history.end_transactions(&cluster);
    for mut reader in readers {
        reader.finish(&history).await;
        summary.read += reader.records;
        summary.happened += reader.close().await;
    }
    summary.counts = history.counts;
    assert!(cluster.violations().is_empty(), "{:?}", cluster.violations());
    client.close().await;
    assert_eq!((client.tasks(), client.sockets()), (0, 0));
    let log = cluster.request_log().to_string();
    cluster.shutdown().await;
    (summary, log)
}

/// What happened in all storms.
#[derive(Debug, Default)]
struct Summary {
    storms: usize,
    read: usize,
    counts: Counts,
    happened: Happened,
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        let (mine, its) = (&mut self.counts, other.counts);
        mine.written += its.written;
        mine.transactions += its.transactions;
        mine.aborted += its.aborted;
        mine.deleted += its.deleted;
        mine.compacted += its.compacted;
        mine.truncated += its.truncated;
        self.storms += other.storms;
        self.read += other.read;
        self.happened += other.happened;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { written, transactions, aborted, deleted, compacted, truncated } = self.counts;
        let Self { storms, read, happened, .. } = self;
        write!(
            f,
            "{storms} storms: {read} records read of {written} written ({deleted} deleted, {compacted} compacted, {truncated} lost), \
             {transactions} transactions ({aborted} aborted); {happened}"
        )
    }
}

fn run(seed: u64) -> (Summary, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let limit = Duration::from_secs(24 * 3600);
    runtime.block_on(async {
        tokio::time::timeout(limit, storm(seed)).await.unwrap_or_else(|_| panic!("the storm does not end"))
    })
}

#[test]
fn no_storm_makes_a_reader_skip_repeat_or_lie() {
    let mut sum = Summary::default();
    for seed in milena_testkit::seeds(0..300) {
        println!("seed {seed}: MILENA_SEEDS={seed} cargo test -p milena-consumer --test fetch_storm");
        sum += run(seed).0;
    }
    println!("{sum}");
    if sum.storms >= 100 {
        let silent: Vec<_> = KINDS.into_iter().filter(|kind| !sum.happened.0.contains_key(kind)).collect();
        assert!(silent.is_empty(), "weather that never happens proves nothing: {silent:?}");
        let Counts { transactions, aborted, deleted, compacted, truncated, .. } = sum.counts;
        let counts = [sum.read / 100, transactions, aborted, deleted, compacted, truncated];
        assert!(counts.iter().all(|count| *count > sum.storms), "{sum}");
    }
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
