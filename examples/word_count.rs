//! Counts the words of a text with Kafka Streams' "hello world": lines in, counts out.
//!
//! ```text
//! cargo run --release --example word_count                                     # a Kafka inside this process, this project's documents
//! cargo run --release --example word_count -- --input FILE|DIR --bootstrap-servers 127.0.0.1:9092
//! ```
//!
//! It creates its topics, loads the text line by line into `text-lines-topic` with the idempotent producer, counts the words
//! in a group of stream tasks, writes the counts to `word-counts-output-topic` (String key, big-endian 64-bit value, as
//! Java's `Serdes.String` and `Serdes.Long`), and prints the most frequent ones.
//!
//! To see the work shared, load once and start several counters; kill one and its share goes to the others:
//!
//! ```text
//! word_count --bootstrap-servers … --role load --input FILE
//! word_count --bootstrap-servers … --role count --exit-when-idle 10    # twice, in two terminals
//! word_count --bootstrap-servers … --role show
//! ```
//!
//! With `--guarantee exactly-once` the counts, the state and the offsets are committed in transactions: kill what you like, and who
//! reads committed records (as `--role show` does) sees every word counted once.

#![expect(clippy::disallowed_methods, reason = "a program waits by the clock; the bans are for the library")]

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, ValueEnum};
use milena::{
    Client, Delivery, IsolationLevel, NewTopic, OffsetSpec, PartitionConsumer, Producer, Record, StartAt,
    TopicPartition,
    streams::{
        KafkaStreams, ProcessingGuarantee, RunningStreams, StreamsBuilder, StreamsConfig, StreamsState, Topology,
    },
};
use milena_testkit::Cluster;
use tokio::time::Instant;

/// Counts words with milena's Streams.
#[derive(Parser)]
struct Arguments {
    /// A text file, or a directory whose files are read [default: this project's documents]
    #[arg(long)]
    input: Option<PathBuf>,
    /// Brokers of a Kafka cluster, host:port,… [default: a cluster inside this process]
    #[arg(long)]
    bootstrap_servers: Option<String>,
    /// The application's id: its group, and the front part of its internal topics' names
    #[arg(long, default_value = "word-count")]
    application_id: String,
    /// Stream threads of this instance
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// What this process does
    #[arg(long, value_enum, default_value_t = Role::All)]
    role: Role,
    /// With --role count: end after so many seconds without a record [default: run until Ctrl-C]
    #[arg(long, value_name = "SECONDS")]
    exit_when_idle: Option<u64>,
    /// The topic of the lines
    #[arg(long, default_value = "text-lines-topic")]
    lines_topic: String,
    /// The topic of the counts
    #[arg(long, default_value = "word-counts-output-topic")]
    counts_topic: String,
    /// What a crash may do to the counts
    #[arg(long, value_enum, default_value_t = Guarantee::AtLeastOnce)]
    guarantee: Guarantee,
    /// Partitions of the topics that are created
    #[arg(long, default_value_t = 4)]
    partitions: i32,
    /// Replicas of the topics that are created, −1 for the brokers' default
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    replication_factor: i16,
    /// Milliseconds between two commits: the shorter, the sooner results show; the longer, the fewer there are
    /// [default: 1000; with exactly-once 100]
    #[arg(long)]
    commit_interval_ms: Option<u64>,
    /// Seconds until the group gives the tasks of a silent instance to others
    #[arg(long, default_value_t = 45, value_name = "SECONDS")]
    session_timeout: u64,
    /// How many words are printed, 0 for all
    #[arg(long, default_value_t = 20)]
    top: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Load, count, print
    All,
    /// Create the topics and load the text
    Load,
    /// Count what was loaded, together with other instances
    Count,
    /// Print the counts
    Show,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Guarantee {
    /// A word may be counted twice after a crash
    AtLeastOnce,
    /// Never
    ExactlyOnce,
}

impl Guarantee {
    /// The guarantee for Streams, and milliseconds between two commits.
    fn settings(self) -> (ProcessingGuarantee, u64) {
        match self {
            Self::AtLeastOnce => (ProcessingGuarantee::AtLeastOnce, 1_000),
            Self::ExactlyOnce => (ProcessingGuarantee::ExactlyOnce, 100),
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

type Outcome<T = ()> = Result<T, String>;

async fn run(arguments: Arguments) -> Outcome {
    let lines = match arguments.role {
        Role::All | Role::Load => read_lines(arguments.input.as_deref())?,
        Role::Count | Role::Show => Vec::new(),
    };
    let Some(servers) = &arguments.bootstrap_servers else {
        if arguments.role != Role::All {
            return Err("--role needs --bootstrap-servers: the cluster inside this process ends with it".to_owned());
        }
        let cluster =
            Cluster::builder().start().await.map_err(|error| format!("no cluster in this process: {error}"))?;
        let outcome = with_cluster(&arguments, &cluster.bootstrap_servers(), &lines).await;
        cluster.shutdown().await;
        return outcome;
    };
    with_cluster(&arguments, servers, &lines).await
}

async fn with_cluster(arguments: &Arguments, servers: &str, lines: &[String]) -> Outcome {
    let client = Client::builder(servers).client_id("word-count").connect().await.map_err(|error| error.to_string())?;
    let topics = [&arguments.lines_topic, &arguments.counts_topic].map(|name| {
        NewTopic::new(name.as_str(), arguments.partitions).replication_factor(arguments.replication_factor)
    });
    if arguments.role != Role::Show {
        client
            .admin()
            .ensure_topics(&topics)
            .await
            .map_err(|error| format!("the topics cannot be created: {error}"))?;
    }
    if matches!(arguments.role, Role::All | Role::Load) {
        load(&client, &arguments.lines_topic, lines)
            .await
            .map_err(|error| format!("loading the text failed: {error}"))?;
    }
    if matches!(arguments.role, Role::All | Role::Count) {
        count(&client, arguments).await?;
    }
    if arguments.role != Role::Load {
        show(&client, &arguments.counts_topic, arguments.top)
            .await
            .map_err(|error| format!("reading the counts failed: {error}"))?;
    }
    client.close().await;
    Ok(())
}

/// The whole application.
fn word_count(arguments: &Arguments) -> Outcome<Topology> {
    let builder = StreamsBuilder::new();
    builder
        .stream::<(), String>(arguments.lines_topic.as_str())
        .flat_map_values_with(|line: &String, emit| {
            for word in line.to_lowercase().split(|c| !matches!(c, 'a'..='z' | '0'..='9' | '_')) {
                if !word.is_empty() {
                    emit.push(word.to_owned());
                }
            }
        })
        .group_by(|_, word| word.clone())
        .count("word-counts")
        .to_stream()
        .to(arguments.counts_topic.as_str());
    builder.build().map_err(|error| error.to_string())
}

async fn count(client: &Client, arguments: &Arguments) -> Outcome {
    let (guarantee, every) = arguments.guarantee.settings();
    let config = StreamsConfig::new(&arguments.application_id)
        .processing_guarantee(guarantee)
        .num_stream_threads(arguments.threads)
        .replication_factor(arguments.replication_factor)
        .session_timeout(Duration::from_secs(arguments.session_timeout))
        .commit_interval(Duration::from_millis(arguments.commit_interval_ms.unwrap_or(every)));
    let started = Instant::now();
    let streams =
        KafkaStreams::new(word_count(arguments)?, config).start(client).await.map_err(|error| error.to_string())?;
    streams.running().await.map_err(|error| error.to_string())?;
    tokio::select! {
        done = finished(&streams, arguments) => done?,
        _ = tokio::signal::ctrl_c() => {}
    }
    let processed = streams.processed_records();
    streams.close(Duration::from_secs(60)).await.map_err(|error| error.to_string())?;
    println!("processed {processed} records in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Ready when all that was loaded is counted and committed, or (with other instances about) nothing has come for a while.
async fn finished(streams: &RunningStreams, arguments: &Arguments) -> Outcome {
    let idle = match (arguments.role, arguments.exit_when_idle) {
        (Role::Count, None) => return std::future::pending().await,
        (_, idle) => idle.map(Duration::from_secs),
    };
    let (mut seen, mut since) = (streams.processed_records(), Instant::now());
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        if let StreamsState::Error(error) = streams.state() {
            return Err(error.to_string());
        }
        let processed = streams.processed_records();
        if processed != seen || !matches!(streams.state(), StreamsState::Running) {
            (seen, since) = (processed, Instant::now());
        }
        match idle {
            Some(idle) if since.elapsed() >= idle => return Ok(()),
            Some(_) => {}
            None => {
                let left = streams.uncommitted_records().await.map_err(|error| error.to_string())?;
                // The lines, and the words of the repartition topic.
                if left.len() == 2 * arguments.partitions as usize && left.values().all(|left| *left == 0) {
                    return Ok(());
                }
            }
        }
    }
}

async fn load(client: &Client, topic: &str, lines: &[String]) -> Result<(), milena::Error> {
    let started = Instant::now();
    let producer = Producer::builder(client).build().await?;
    let mut deliveries: VecDeque<Delivery> = VecDeque::new();
    for line in lines {
        deliveries.push_back(producer.send(&Record::to(topic).value(line)).await?);
        if deliveries.len() > 100_000
            && let Some(oldest) = deliveries.pop_front()
        {
            oldest.await?;
        }
    }
    producer.flush().await?;
    for delivery in deliveries {
        delivery.await?;
    }
    producer.close(Duration::from_secs(30)).await?;
    println!("loaded {} lines in {:.1} s", lines.len(), started.elapsed().as_secs_f64());
    Ok(())
}

/// Reads the output topic to its end, what is committed of it, and prints the last count of each word, the largest first.
async fn show(client: &Client, topic: &str, top: usize) -> Result<(), milena::Error> {
    let partitions = client.admin().describe_topic(topic).await?.partitions.len() as i32;
    let ask: Vec<_> = (0..partitions).map(|p| (TopicPartition::new(topic, p), OffsetSpec::Latest)).collect();
    let ends = client.admin().list_offsets(&ask).await?;
    let mut reader = PartitionConsumer::builder(client)
        .assign(topic, 0..partitions, StartAt::Beginning)
        .isolation_level(IsolationLevel::ReadCommitted)
        .build()
        .await?;
    let handle = reader.handle();
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    while !ends.iter().all(|(partition, end)| handle.position(partition) >= Some(end.unwrap_or(0))) {
        for record in &reader.poll(Duration::from_secs(1)).await? {
            if let (Some(word), Some(Ok(count))) = (record.key(), record.value().map(TryInto::try_into)) {
                counts.insert(String::from_utf8_lossy(word).into_owned(), i64::from_be_bytes(count));
            }
        }
    }
    reader.close(Duration::from_secs(5)).await?;
    println!("{} words, {} of them distinct", counts.values().sum::<i64>(), counts.len());
    let mut sorted: Vec<(String, i64)> = counts.into_iter().collect();
    sorted.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let shown = if top == 0 { sorted.len() } else { top };
    for (word, count) in sorted.iter().take(shown) {
        println!("{count:>10}  {word}");
    }
    Ok(())
}

/// The lines of a file, of a directory's files, or of this project's documents.
fn read_lines(input: Option<&Path>) -> Outcome<Vec<String>> {
    let mut files = match input {
        Some(input) if input.is_dir() => files_of(input, |_| true)?,
        Some(input) => vec![input.to_owned()],
        None => {
            let package = Path::new(env!("CARGO_MANIFEST_DIR"));
            let is_document = |path: &Path| path.extension().is_some_and(|extension| extension == "md");
            let mut files = files_of(package, is_document)?;
            if package.join("docs").is_dir() {
                files.extend(files_of(&package.join("docs"), is_document)?);
            }
            files
        }
    };
    files.sort();
    let mut lines = Vec::new();
    for file in &files {
        let bytes = fs::read(file).map_err(|error| {
            format!("{} cannot be read: {error}. Give a text file or a directory with --input.", file.display())
        })?;
        lines.extend(String::from_utf8_lossy(&bytes).lines().map(str::to_owned));
    }
    if lines.is_empty() {
        return Err("there is no text to count: give a file or a directory with --input".to_owned());
    }
    Ok(lines)
}

fn files_of(directory: &Path, wanted: impl Fn(&Path) -> bool) -> Outcome<Vec<PathBuf>> {
    let entries =
        fs::read_dir(directory).map_err(|error| format!("{} cannot be read: {error}", directory.display()))?;
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    Ok(paths.filter(|path| path.is_file() && wanted(path)).collect())
}
