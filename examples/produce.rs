//! Loads a file into a topic, line by line, and shows how it goes.
//!
//! ```text
//! cargo run --release --example produce                                        # this project's README, a Kafka inside this process
//! cargo run --release --example produce -- --topic lines --file big.txt --bootstrap-servers 127.0.0.1:9092
//! cargo run --release --example produce -- --file pairs.csv --key-separator , --profile throughput
//! ```
//!
//! Without `--bootstrap-servers` the cluster is in the same process, and the records are gone with it. With `--key-separator` a line
//! is cut at its first one: the key is what stands before. Deliveries are awaited as they come, so the memory stays within its budget
//! however large the file is. On a terminal there is a progress bar; elsewhere a line now and then. Batches are more than 100 % full
//! where they had to wait for those before them and have grown meanwhile.
//!
//! It ends with a table: records, bytes, batches, retries, how long records took from `send` to their ack, CPU time. Exit code 1 if
//! any record was not written.

#![expect(
    clippy::disallowed_methods,
    reason = "a program reads the clock and starts tasks; the bans are for the library"
)]

use std::{
    fs::File,
    io::{BufRead, BufReader, IsTerminal, Read, Write, stderr, stdin, stdout},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::{Parser, ValueEnum};
use milena::{Client, Compression, Delivery, NewTopic, Producer, Profile, Record};
use milena_testkit::Cluster;
use tokio::{sync::mpsc, time::Instant};

/// Loads a file into a topic with milena's producer.
#[derive(Parser)]
struct Arguments {
    /// A text file; - for standard input [default: this project's README.md]
    #[arg(long)]
    file: Option<PathBuf>,
    /// The topic; it is created if it is not there
    #[arg(long, default_value = "lines")]
    topic: String,
    /// What stands between a line's key and its value [default: lines have no keys]
    #[arg(long, value_name = "TEXT")]
    key_separator: Option<String>,
    /// Brokers of a Kafka cluster, host:port,… [default: a cluster inside this process]
    #[arg(long)]
    bootstrap_servers: Option<String>,
    /// What the producer is set up for
    #[arg(long, value_enum)]
    profile: Option<Wish>,
    /// none, gzip, snappy, lz4 or zstd [default: the profile's, or none]
    #[arg(long, value_name = "CODEC")]
    compression: Option<String>,
    /// Milliseconds that a batch waits for more records [default: the profile's, or 5]
    #[arg(long)]
    linger_ms: Option<u64>,
    /// Bytes of a full batch [default: the profile's, or 16384]
    #[arg(long)]
    batch_size: Option<usize>,
    /// Print the producer's settings, what each means, and what may lose acknowledged records
    #[arg(long)]
    explain: bool,
    /// Partitions of the topic, if it is created
    #[arg(long, default_value_t = 6)]
    partitions: i32,
    /// Replicas of the topic, if it is created, −1 for the brokers' default
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    replication_factor: i16,
}

#[derive(Clone, Copy, ValueEnum)]
enum Wish {
    /// No acknowledged record is lost, and none is given up soon
    Durable,
    /// The most records by the second
    Throughput,
    /// The soonest acks
    LowLatency,
}

type Outcome<T = ()> = Result<T, String>;

#[tokio::main]
async fn main() -> ExitCode {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).init();
    }
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Outcome {
    let input = Input::open(&arguments)?;
    let codec = match &arguments.compression {
        Some(name) => Some(name.parse::<Compression>().map_err(|error| format!("--compression {name:?}: {error}"))?),
        None => None,
    };
    let Some(servers) = &arguments.bootstrap_servers else {
        let cluster =
            Cluster::builder().start().await.map_err(|error| format!("no cluster in this process: {error}"))?;
        let outcome = produce(&arguments, &cluster.bootstrap_servers(), codec, input).await;
        cluster.shutdown().await;
        return outcome;
    };
    produce(&arguments, servers, codec, input).await
}

async fn produce(arguments: &Arguments, servers: &str, codec: Option<Compression>, input: Input) -> Outcome {
    let client = Client::builder(servers).client_id("produce").connect().await.map_err(|error| error.to_string())?;
    let topic = NewTopic::new(&arguments.topic, arguments.partitions).replication_factor(arguments.replication_factor);
    let created = client.admin().ensure_topics(&[topic]).await;
    created.map_err(|error| format!("the topic cannot be created: {error}"))?;
    let producer = build(arguments, &client, codec).await?;
    let began = Instant::now();
    let progress = Arc::new(Progress::new(input.bytes));
    let (deliveries, waiting) = mpsc::channel(WAITING);
    let acks = tokio::spawn(await_acks(waiting, progress.clone()));
    let shown = tokio::spawn(show(progress.clone(), client.clone(), began));
    let listening = tokio::spawn(listen(progress.clone()));
    let sent = send(arguments, &producer, input, &progress, deliveries).await;
    // The lines that were taken are written, also if a later one could not be read or sent.
    let _ = producer.flush().await;
    acks.await.map_err(|error| error.to_string())?;
    shown.abort();
    let _ = shown.await;
    progress.clear();
    let closed = producer.close(Duration::from_secs(30)).await;
    print_table(&progress, &client, began, arguments.bootstrap_servers.is_none());
    drop(producer);
    client.close().await;
    listening.abort();
    sent?;
    closed.map_err(|error| error.to_string())?;
    progress.verdict()
}

async fn build(arguments: &Arguments, client: &Client, codec: Option<Compression>) -> Outcome<Producer> {
    let mut builder = client.producer();
    if let Some(wish) = arguments.profile {
        builder = builder.profile(match wish {
            Wish::Durable => Profile::Durable,
            Wish::Throughput => Profile::Throughput,
            Wish::LowLatency => Profile::LowLatency,
        });
    }
    if let Some(codec) = codec {
        builder = builder.compression(codec);
    }
    if let Some(linger) = arguments.linger_ms {
        builder = builder.linger(Duration::from_millis(linger));
    }
    if let Some(bytes) = arguments.batch_size {
        builder = builder.batch_size(bytes);
    }
    let settings = builder.describe();
    let producer = builder.build().await.map_err(|error| error.to_string())?;
    if arguments.explain {
        print!("{settings}");
        for finding in producer.preflight([&arguments.topic]).await.map_err(|error| error.to_string())? {
            println!("  {finding}");
        }
    }
    Ok(producer)
}

// ---- the lines

/// Where the lines come from.
struct Input {
    name: String,
    reader: Box<dyn BufRead + Send>,
    /// How many bytes there will be, if that is known.
    bytes: Option<u64>,
}

impl Input {
    fn open(arguments: &Arguments) -> Outcome<Self> {
        let readme = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
        let path = arguments.file.clone().unwrap_or(readme);
        let name = path.display().to_string();
        if name == "-" {
            return Ok(Self { name, reader: Box::new(BufReader::new(stdin())), bytes: None });
        }
        let unreadable =
            |error| format!("{name} cannot be read: {error}. Give a text file with --file, or - for standard input.");
        let file = File::open(&path).map_err(unreadable)?;
        let about = file.metadata().map_err(unreadable)?;
        if about.is_dir() {
            return Err(format!("{name} is a directory: give a text file with --file, or - for standard input."));
        }
        // A pipe says nothing of its length.
        let bytes = about.is_file().then_some(about.len());
        Ok(Self { name, reader: Box::new(BufReader::with_capacity(1 << 20, file)), bytes })
    }
}

/// Deliveries that wait for their acks: beyond that, reading waits. The producer's own memory is bounded by `buffer_memory`.
const WAITING: usize = 100_000;
/// A longer line is no text, or no line: the producer refuses it anyway.
const LONGEST_LINE: u64 = 64 << 20;

/// A record that was taken, and when.
type Taken = (Instant, Delivery);

async fn send(
    arguments: &Arguments,
    producer: &Producer,
    mut input: Input,
    progress: &Arc<Progress>,
    deliveries: mpsc::Sender<Taken>,
) -> Outcome {
    let mut line = Vec::new();
    while !progress.stopped.load(Ordering::Relaxed) {
        line.clear();
        let read = input.reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line);
        let read = read.map_err(|error| format!("{} cannot be read on: {error}", input.name))?;
        if read == 0 {
            break;
        }
        let text = line.strip_suffix(b"\n").map_or(&line[..], |line| line.strip_suffix(b"\r").unwrap_or(line));
        let (key, value) = cut(text, arguments.key_separator.as_deref());
        let mut record = Record::to(&arguments.topic).value(value);
        if let Some(key) = key {
            record = record.key(key);
        }
        let now = Instant::now();
        let number = progress.sent.load(Ordering::Relaxed) + 1;
        let delivery = producer.send(&record).await.map_err(|error| format!("line {number} was not sent: {error}"))?;
        progress.sent.store(number, Ordering::Relaxed);
        progress.bytes.fetch_add(read as u64, Ordering::Relaxed);
        if deliveries.send((now, delivery)).await.is_err() {
            break; // nobody waits for acks any more: the verdict says why
        }
    }
    Ok(())
}

/// Ctrl-C once reads no further; what was taken is sent, which may take as long as the brokers do. Twice ends it at once, also while
/// standard input or a broker has nothing to say.
async fn listen(progress: Arc<Progress>) {
    if tokio::signal::ctrl_c().await.is_err() {
        return; // nobody can be listened to
    }
    progress.stopped.store(true, Ordering::Relaxed);
    progress.clear();
    eprintln!("stopping when what was taken is acknowledged; Ctrl-C again ends it at once");
    if tokio::signal::ctrl_c().await.is_ok() {
        let (sent, written) = (progress.sent.load(Ordering::Relaxed), progress.written.load(Ordering::Relaxed));
        eprintln!("{sent} records were sent, and {written} of them are known to be written");
        std::process::exit(130);
    }
}

/// A line's key and value.
fn cut<'a>(line: &'a [u8], separator: Option<&str>) -> (Option<&'a [u8]>, &'a [u8]) {
    let Some(separator) = separator.map(str::as_bytes).filter(|separator| !separator.is_empty()) else {
        return (None, line);
    };
    match line.windows(separator.len()).position(|window| window == separator) {
        Some(at) => (Some(&line[..at]), &line[at + separator.len()..]),
        None => (None, line),
    }
}

/// Awaits the acks in the order of the lines, and times some of them on their own: the others are seen when those before them are.
async fn await_acks(mut waiting: mpsc::Receiver<Taken>, progress: Arc<Progress>) {
    let mut number = 0_u64;
    while let Some((taken, delivery)) = waiting.recv().await {
        number += 1;
        // All of a short file, and one in fifty of what follows, which counts for fifty.
        let weight = if number <= 10_000 { 1 } else { 50 };
        if number.is_multiple_of(weight) {
            let progress = progress.clone();
            progress.timing.fetch_add(1, Ordering::AcqRel);
            tokio::spawn(async move {
                let result = delivery.await;
                progress.on_timed(taken.elapsed(), weight);
                progress.on_ack(result);
                progress.timing.fetch_sub(1, Ordering::AcqRel);
            });
        } else {
            progress.on_ack(delivery.await);
        }
    }
    // Their deliveries have been flushed: each needs only to be polled once more.
    while progress.timing.load(Ordering::Acquire) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

// ---- what is shown

/// What has happened so far.
struct Progress {
    expected_bytes: Option<u64>,
    sent: AtomicU64,
    bytes: AtomicU64,
    written: AtomicU64,
    failed: AtomicU64,
    /// Nothing more is to be read.
    stopped: AtomicBool,
    /// Acks that are being timed.
    timing: AtomicU64,
    first_failure: Mutex<Option<milena::Error>>,
    latencies: Mutex<Latencies>,
    on_terminal: bool,
}

impl Progress {
    fn new(expected_bytes: Option<u64>) -> Self {
        Self {
            expected_bytes,
            sent: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            written: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            timing: AtomicU64::new(0),
            first_failure: Mutex::default(),
            latencies: Mutex::default(),
            on_terminal: stderr().is_terminal(),
        }
    }

    fn on_ack(&self, result: Result<milena::Placed, milena::Error>) {
        match result {
            Ok(_) => self.written.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                self.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }

    fn on_timed(&self, latency: Duration, weight: u64) {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).add(latency, weight);
    }

    fn percentile(&self, percent: f64) -> Option<Duration> {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).percentile(percent)
    }

    /// Takes the progress bar away.
    fn clear(&self) {
        if self.on_terminal {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }

    fn verdict(&self) -> Outcome {
        let failed = self.failed.load(Ordering::Relaxed);
        match &*self.first_failure.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(format!("{failed} of the records failed; the first one: {error}")),
            None => Ok(()),
        }
    }
}

/// Shows the progress until it is aborted: ten times a second on a terminal, else every five seconds.
async fn show(progress: Arc<Progress>, client: Client, began: Instant) {
    let every = if progress.on_terminal { Duration::from_millis(100) } else { Duration::from_secs(5) };
    let (mut before, mut at) = (0, began);
    loop {
        tokio::time::sleep(every).await;
        let (now, written) = (Instant::now(), progress.written.load(Ordering::Relaxed));
        let rate = (written - before) as f64 / (now - at).as_secs_f64();
        (before, at) = (written, now);
        let fill = metric(&client, "batch-fill-ratio-avg") * 100.0;
        let latency = progress.percentile(50.0).map_or("-".to_owned(), |latency| format!("{latency:.1?}"));
        let line = format!("{written:>10} records, {rate:>9.0}/s, batches {fill:>3.0} % full, p50 {latency}");
        if progress.on_terminal {
            let _ = write!(stderr(), "\r\x1b[K{}{line}", bar(&progress));
        } else {
            eprintln!("{}", line.trim_start());
        }
    }
}

/// How much of the file has been sent.
fn bar(progress: &Progress) -> String {
    const WIDTH: usize = 24;
    let Some(expected) = progress.expected_bytes.filter(|expected| *expected > 0) else { return String::new() };
    let share = (progress.bytes.load(Ordering::Relaxed) as f64 / expected as f64).min(1.0);
    let full = (share * WIDTH as f64) as usize;
    format!("[{}{}] {:>3.0} % ", "#".repeat(full), ".".repeat(WIDTH - full), share * 100.0)
}

/// A metric of the client's one producer; zero if there is no value yet.
fn metric(client: &Client, wanted: &str) -> f64 {
    let found = client
        .metrics()
        .snapshot()
        .into_iter()
        .find(|(name, _)| name.group == "producer-metrics" && name.name == wanted);
    found.map(|(_, value)| value).filter(|value| value.is_finite()).unwrap_or(0.0)
}

fn print_table(progress: &Progress, client: &Client, began: Instant, with_cluster: bool) {
    let seconds = began.elapsed().as_secs_f64();
    let (written, failed) = (progress.written.load(Ordering::Relaxed), progress.failed.load(Ordering::Relaxed));
    let bytes = progress.bytes.load(Ordering::Relaxed);
    let batches = ["batch-full-total", "batch-linger-total", "batch-flush-total"].map(|name| metric(client, name));
    let mut table = String::new();
    let mut row = |name: &str, value: String| table.push_str(&format!("{name:<12} {value}\n"));
    row("records", format!("{written} written, {failed} failed, {:.0} by the second", written as f64 / seconds));
    row("bytes", format!("{bytes}, {:.1} MB by the second", bytes as f64 / seconds / 1e6));
    let [full, lingered, flushed] = batches;
    row(
        "batches",
        format!(
            "{:.0}: {full:.0} full, {lingered:.0} after the linger, {flushed:.0} flushed",
            full + lingered + flushed
        ),
    );
    row("retries", format!("{:.0} records", metric(client, "record-retry-total")));
    for (name, percent) in [("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9)] {
        let latency = progress.percentile(percent);
        row(name, latency.map_or("-".to_owned(), |latency| format!("{latency:.2?} from send to ack")));
    }
    if let Some(cpu) = cpu_time() {
        let whose = if with_cluster { ", the cluster's included" } else { "" };
        let each = cpu.as_secs_f64() * 1e6 / (written.max(1) as f64);
        row("CPU", format!("{:.2} s, {each:.2} µs by record{whose}", cpu.as_secs_f64()));
    }
    row("time", format!("{seconds:.2} s"));
    // Whoever reads it may have gone.
    let _ = stdout().write_all(table.as_bytes());
}

/// The CPU time of this process.
fn cpu_time() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Some(Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?))
}

/// How many records took how long, in steps of about 4 %: as large for a thousand records as for a billion.
struct Latencies([u64; Self::STEPS]);

impl Latencies {
    /// From a microsecond to an hour.
    const STEPS: usize = 560;
    const STEP: f64 = 1.04;

    fn add(&mut self, latency: Duration, weight: u64) {
        let micros = (latency.as_secs_f64() * 1e6).max(1.0);
        let step = (micros.ln() / Self::STEP.ln()) as usize;
        self.0[step.min(Self::STEPS - 1)] += weight;
    }

    fn percentile(&self, percent: f64) -> Option<Duration> {
        let all: u64 = self.0.iter().sum();
        let wanted = (all as f64 * percent / 100.0).ceil() as u64;
        let mut seen = 0;
        let step = self.0.iter().position(|count| {
            seen += count;
            seen >= wanted && *count > 0
        })?;
        Some(Duration::from_secs_f64(Self::STEP.powi(step as i32 + 1) / 1e6))
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self([0; Self::STEPS])
    }
}
