//! Word count on real Kafka by two processes, one of which joins later and may be killed at a random point.
//!
//! Every count is compared with a plain count of the text: equal when nothing was killed, never lower when something was
//! (at least once). What is compared is what Java's console consumer reads from the output topic.

#![expect(clippy::disallowed_methods, reason = "real processes live by the real clock")]
#![expect(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use milena::{Client, OffsetSpec, PartitionConsumer, StartAt, TopicPartition};
use milena_integration_tests::{java_tool, real_kafka, unique};
use tokio::time::{Instant, sleep};

/// The topics of the example.
const LINES: &str = "text-lines-topic";
const COUNTS: &str = "word-counts-output-topic";
/// Lines of real text, at least.
const LEAST_LINES: usize = 100_000;
/// Java's default session time-out, for which a killed member stays in its group, and as much again for a busy machine.
const PATIENCE: Duration = Duration::from_secs(150);

#[tokio::test]
async fn two_instances_count_every_word_and_a_kill_loses_none() {
    let Some(servers) = real_kafka("two_instances_count_every_word_and_a_kill_loses_none") else { return };
    let storm = Storm::prepare(&servers).await;
    storm.run(None).await;
    // MILENA_STORM_ROUNDS=10 for more than the short storm of every CI run.
    let rounds = std::env::var("MILENA_STORM_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    let seed = std::env::var("MILENA_STORM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(fastrand_seed);
    println!("seed {seed}; again with MILENA_STORM_SEED={seed} MILENA_STORM_ROUNDS={rounds}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..rounds {
        storm.run(Some(Duration::from_millis(random.u64(0..3_000)))).await;
    }
    storm.client.close().await;
    fs::remove_file(&storm.text).unwrap();
}

/// A seed that differs from run to run.
fn fastrand_seed() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64)
}

struct Storm {
    servers: String,
    client: Client,
    program: PathBuf,
    text: PathBuf,
    expected: BTreeMap<String, i64>,
}

impl Storm {
    async fn prepare(servers: &str) -> Self {
        let text = project_text();
        let mut expected = BTreeMap::new();
        for line in text.lines() {
            for word in line.to_lowercase().split(|c| !matches!(c, 'a'..='z' | '0'..='9' | '_')) {
                if !word.is_empty() {
                    *expected.entry(word.to_owned()).or_insert(0) += 1;
                }
            }
        }
        let file = std::env::temp_dir().join(unique("milena-storm-text"));
        fs::write(&file, text).unwrap();
        let client = Client::builder(servers).connect().await.unwrap();
        Self { servers: servers.to_owned(), client, program: example(), text: file, expected }
    }

    #[expect(clippy::zombie_processes, reason = "both are waited for, by way of a list")]
    /// One run: a kill of the second instance that long after its start, or none.
    async fn run(&self, kill_after: Option<Duration>) {
        println!("run with kill after {kill_after:?}");
        self.forget_topics().await;
        let application = unique("words");
        let text = self.text.to_str().unwrap();
        let loaded = self.word_count(&application, &["--role", "load", "--input", text]).wait().unwrap();
        assert!(loaded.success(), "loading the text: {loaded}");

        let mut first = self.word_count(&application, &["--role", "count"]);
        sleep(Duration::from_secs(1)).await;
        let mut second = self.word_count(&application, &["--role", "count"]);
        if let Some(after) = kill_after {
            sleep(after).await;
            second.kill().unwrap();
            second.wait().unwrap();
        }
        let counted = self.until_counted().await;
        let rest = if kill_after.is_some() { vec![&mut first] } else { vec![&mut first, &mut second] };
        for instance in rest {
            interrupt(instance);
            let ended = instance.wait().unwrap();
            assert!(ended.success(), "an instance that is asked to stop closes in order: {ended}");
        }
        if let Err(missing) = counted {
            let log = self.log(&application);
            panic!(
                "after {PATIENCE:?} these words are counted too low (word, counted, expected): {missing:?}; what the instances \
                 said: {}",
                log.display()
            );
        }

        let counts = self.read_with_java().await;
        assert_eq!(counts.len(), self.expected.len(), "as many distinct words");
        for (word, expected) in &self.expected {
            let counted = counts.get(word).copied().unwrap_or(0);
            if kill_after.is_some() {
                assert!(counted >= *expected, "{word}: counted {counted}, but it is there {expected} times");
            } else {
                assert_eq!(counted, *expected, "{word}");
            }
        }
        fs::remove_file(self.log(&application)).unwrap();
    }

    /// Deletes the example's topics, so that every run begins with nothing.
    async fn forget_topics(&self) {
        let admin = self.client.admin();
        let until = Instant::now() + Duration::from_secs(30);
        for topic in [LINES, COUNTS] {
            // Gone, once deleting it again says that there is no such topic.
            while admin.delete_topics(&[topic]).await.unwrap().remove(0).is_ok() {
                assert!(Instant::now() < until, "{topic} is not deleted");
                sleep(Duration::from_millis(200)).await;
            }
        }
    }

    fn word_count(&self, application: &str, arguments: &[&str]) -> Child {
        Command::new(&self.program)
            .args(["--bootstrap-servers", &self.servers, "--application-id", application, "--top", "0"])
            .args(arguments)
            // What the instances say is kept in one file; it is named when something went wrong, and deleted otherwise.
            .env("RUST_LOG", "milena_streams=debug,milena_consumer=debug")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::options().append(true).create(true).open(self.log(application)).unwrap())
            .spawn()
            .unwrap()
    }

    fn log(&self, application: &str) -> PathBuf {
        std::env::temp_dir().join(format!("milena-storm-{application}.log"))
    }

    /// Follows the output topic until every word is counted often enough.
    async fn until_counted(&self) -> Result<(), Vec<(String, i64, i64)>> {
        let partitions = self.client.admin().describe_topic(COUNTS).await.unwrap().partitions.len() as i32;
        let mut reader = PartitionConsumer::builder(&self.client)
            .assign(COUNTS, 0..partitions, StartAt::Beginning)
            .build()
            .await
            .unwrap();
        let mut missing = self.expected.clone();
        let mut counts = BTreeMap::new();
        let until = Instant::now() + PATIENCE;
        while !missing.is_empty() && Instant::now() < until {
            for record in &reader.poll(Duration::from_millis(500)).await.unwrap() {
                let word = String::from_utf8(record.key().unwrap().to_vec()).unwrap();
                let count = i64::from_be_bytes(record.value().unwrap().try_into().unwrap());
                if missing.get(&word).is_some_and(|expected| count >= *expected) {
                    missing.remove(&word);
                }
                counts.insert(word, count);
            }
        }
        reader.close(Duration::from_secs(5)).await.unwrap();
        if missing.is_empty() {
            return Ok(());
        }
        let few = missing.into_iter().take(20);
        Err(few
            .map(|(word, expected)| (counts.get(&word).copied().unwrap_or(0), word, expected))
            .map(|(c, w, e)| (w, c, e))
            .collect())
    }

    /// The last count of each word, as Java reads the topic.
    async fn read_with_java(&self) -> BTreeMap<String, i64> {
        let admin = self.client.admin();
        let partitions = admin.describe_topic(COUNTS).await.unwrap().partitions.len() as i32;
        let all: Vec<_> = (0..partitions).map(|p| (TopicPartition::new(COUNTS, p), OffsetSpec::Latest)).collect();
        let records: i64 = admin.list_offsets(&all).await.unwrap().values().flatten().sum();
        let text = java_tool(
            "org.apache.kafka.tools.consumer.ConsoleConsumer",
            &[
                "--bootstrap-server",
                &self.servers,
                "--topic",
                COUNTS,
                "--from-beginning",
                "--max-messages",
                &records.to_string(),
                "--timeout-ms",
                "60000",
                "--formatter-property",
                "print.key=true",
                "--formatter-property",
                "value.deserializer=org.apache.kafka.common.serialization.LongDeserializer",
            ],
            "",
        );
        // A word's counts are all in one partition, so the last line of a word is its last count.
        let pairs = text.lines().filter_map(|line| line.split_once('\t'));
        pairs.map(|(word, count)| (word.to_owned(), count.parse().unwrap())).collect()
    }
}

/// The example, built as the tests are.
fn example() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--profile", "test", "--example", "word_count"])
        .current_dir(root)
        .status()
        .unwrap();
    assert!(built.success(), "building the example: {built}");
    // This test is target/debug/deps/storm_word_count-….
    let target = std::env::current_exe().unwrap();
    target.parent().unwrap().parent().unwrap().join("examples/word_count")
}

/// The project's own sources and documents, over and over until there are enough lines.
fn project_text() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut once = String::new();
    read_into(root, &mut once);
    let lines = once.lines().count();
    assert!(lines > 1_000, "the project has some text");
    once.repeat(LEAST_LINES.div_ceil(lines))
}

fn read_into(folder: &Path, text: &mut String) {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                read_into(&path, text);
            }
        } else if name.ends_with(".rs") || name.ends_with(".md") {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

/// Ctrl-C.
fn interrupt(process: &Child) {
    let sent = Command::new("sh").args(["-c", "kill -INT \"$0\"", &process.id().to_string()]).status().unwrap();
    assert!(sent.success());
}
