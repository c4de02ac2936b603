//! `cargo xtask bench testkit`: what the test kit's brokers cost, so that a test which loads them measures itself and not the kit.
//!
//! The brokers have a thread of their own over TCP, and the kernel says how long that thread was on a CPU: the client's work is not in
//! the figures. The client writes frames that were encoded before, 16 KB batches of 100-byte values, five in flight on each of six
//! partitions' connections; it fetches them again a megabyte at a time. Rounds are repeated because a shared machine drifts.

mod client;

use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use client::{BATCH_RECORDS, Connection, PARTITIONS, TOPIC};
use milena_testkit::Cluster;

const HELP: &str = "\
kit: what the test kit's brokers cost

  --records N   written, and then read, in each round (default 2000000)
  --rounds N    (default 5)
";

fn main() -> ExitCode {
    let (mut records, mut rounds) = (2_000_000, 5);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().and_then(|value| value.parse().ok());
        match (word.as_str(), value) {
            ("--records", Some(n)) => records = n,
            ("--rounds", Some(n)) => rounds = n,
            _ => {
                print!("{HELP}");
                return ExitCode::FAILURE;
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let starts: Vec<f64> = (0..rounds * 10).map(|_| runtime.block_on(start())).collect();
    row("start of three brokers over TCP", &starts, "ms", "goal: at most 5");
    for (name, plain) in [("as tests have it", false), ("without log and checks", true)] {
        let (mut produced, mut fetched) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let (produce, fetch) = round(&runtime, records / BATCH_RECORDS, plain);
            produced.push(produce);
            fetched.push(fetch);
        }
        row(&format!("produced, {name}"), &produced, "M records per CPU second of the kit", "goal: at least 2");
        row(&format!("fetched, {name}"), &fetched, "M records per CPU second of the kit", "goal: at least 2");
    }
    ExitCode::SUCCESS
}

/// Milliseconds until a client could connect.
async fn start() -> f64 {
    let began = Instant::now();
    let cluster = Cluster::builder().brokers(3).start().await.expect("ports are free");
    let took = began.elapsed();
    cluster.shutdown().await;
    took.as_secs_f64() * 1e3
}

/// Millions of records per second of the brokers' CPU, produced and fetched.
fn round(runtime: &tokio::runtime::Runtime, batches: u64, plain: bool) -> (f64, f64) {
    let builder = Cluster::builder().brokers(3).topic(TOPIC, PARTITIONS).request_log(!plain).check_invariants(!plain);
    let others = Thread::ids();
    let cluster = runtime.block_on(builder.start()).expect("ports are free");
    let thread = Thread::named("milena-testkit", &others);
    let each = batches / PARTITIONS as u64;
    let mut connections: Vec<Connection> =
        (0..PARTITIONS).map(|partition| Connection::to_leader(&cluster, partition)).collect();
    let per_second = |cpu: Duration| (each * PARTITIONS as u64 * BATCH_RECORDS) as f64 / 1e6 / cpu.as_secs_f64();
    let before = thread.cpu();
    client::produce(&mut connections, each);
    let between = thread.cpu();
    client::fetch(&mut connections, each);
    let after = thread.cpu();
    drop(connections);
    runtime.block_on(cluster.shutdown());
    (per_second(between - before), per_second(after - between))
}

/// A thread of this process.
struct Thread {
    schedstat: String,
}

impl Thread {
    /// One of that name that is not among the others: the threads of the clusters before it may not have ended yet.
    fn named(name: &str, others: &[u32]) -> Self {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let comm = |id: &u32| fs::read_to_string(format!("/proc/self/task/{id}/comm")).unwrap_or_default();
            let new = Self::ids().into_iter().find(|id| !others.contains(id) && comm(id).trim() == name);
            if let Some(id) = new {
                return Self { schedstat: format!("/proc/self/task/{id}/schedstat") };
            }
            // A thread gives itself its name once it runs.
            assert!(Instant::now() < until, "the kit names its thread {name}");
            std::thread::yield_now();
        }
    }

    /// All threads of this process.
    fn ids() -> Vec<u32> {
        let tasks = fs::read_dir("/proc/self/task").expect("Linux tells a process about its threads");
        tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse().ok()).collect()
    }

    /// How long it has been on a CPU, in the user's and in the kernel's code.
    fn cpu(&self) -> Duration {
        let text = fs::read_to_string(&self.schedstat).expect("the thread lives");
        Duration::from_nanos(text.split_whitespace().next().and_then(|nanos| nanos.parse().ok()).expect("nanoseconds"))
    }
}

fn row(what: &str, values: &[f64], unit: &str, goal: &str) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (least, median, most) = (sorted[0], sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
    println!("{what:<40} {median:>7.2} [{least:.2}..{most:.2}] {unit} ({goal})");
}
