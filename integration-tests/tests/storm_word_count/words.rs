//! The word count as a program: its text, its instances, and what its output topic says.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use milena::{Client, IsolationLevel, OffsetSpec, PartitionConsumer, StartAt, TopicPartition};
use milena_integration_tests::{java_tool, unique};
use tokio::time::Instant;

/// Lines of real text, at least.
const LEAST_LINES: usize = 100_000;
/// Fifteen times the session time-out, for which a killed member stays in its group: a busy machine may be slow.
const PATIENCE: Duration = Duration::from_secs(150);

/// The example and a text to count.
pub(crate) struct Words {
    pub(crate) servers: String,
    pub(crate) client: Client,
    pub(crate) text: String,
    pub(crate) expected: BTreeMap<String, i64>,
    program: PathBuf,
}

/// One application: its own id, topics and log.
pub(crate) struct Application<'a> {
    words: &'a Words,
    id: String,
    pub(crate) lines: String,
    counts: String,
    isolation: IsolationLevel,
    settings: &'static [&'static str],
    /// What the instances say; named when something went wrong, and deleted otherwise.
    log: PathBuf,
}

impl Words {
    pub(crate) async fn prepare(servers: &str) -> Self {
        let text = project_text();
        let mut expected = BTreeMap::new();
        for line in text.lines() {
            for word in line.to_lowercase().split(|c| !matches!(c, 'a'..='z' | '0'..='9' | '_')) {
                if !word.is_empty() {
                    *expected.entry(word.to_owned()).or_insert(0) += 1;
                }
            }
        }
        let client = Client::builder(servers).connect().await.unwrap();
        Self { servers: servers.to_owned(), client, text, expected, program: example() }
    }

    /// An application of which nothing is there yet. `settings` are arguments of all its instances.
    pub(crate) fn application(&self, isolation: IsolationLevel, settings: &'static [&'static str]) -> Application<'_> {
        let id = unique("words");
        let (lines, counts) = (format!("{id}-lines"), format!("{id}-counts"));
        let log = std::env::temp_dir().join(format!("milena-storm-{id}.log"));
        Application { words: self, id, lines, counts, isolation, settings, log }
    }
}

/// A process of the example. Killed when it is dropped: a test that fails must leave nobody behind who joins the next one's cluster.
pub(crate) struct Instance(Child);

impl Instance {
    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Application<'_> {
    /// Runs the example and waits for its end.
    pub(crate) fn run(&self, arguments: &[&str]) {
        let ended = self.start(arguments).0.wait().unwrap();
        assert!(ended.success(), "{arguments:?}: {ended}; see {}", self.log.display());
    }

    /// An instance that counts.
    pub(crate) fn counter(&self) -> Instance {
        self.start(&["--role", "count"])
    }

    fn start(&self, arguments: &[&str]) -> Instance {
        let words = self.words;
        let mut command = Command::new(&words.program);
        command
            .args(["--bootstrap-servers", &words.servers, "--application-id", &self.id, "--top", "0"])
            .args(["--lines-topic", &self.lines, "--counts-topic", &self.counts])
            .args(self.settings)
            .args(arguments)
            .env("RUST_LOG", "milena_streams=debug,milena_consumer=debug,milena_producer=debug")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::options().append(true).create(true).open(&self.log).unwrap());
        Instance(command.spawn().unwrap())
    }

    /// Asks instances to stop, which they do in order.
    pub(crate) fn stop(&self, instances: Vec<Instance>) {
        for mut instance in instances {
            let id = instance.id().to_string();
            let sent = Command::new("sh").args(["-c", "kill -INT \"$0\"", &id]).status().unwrap();
            assert!(sent.success());
            let ended = instance.0.wait().unwrap();
            assert!(ended.success(), "an instance that is asked to stop: {ended}; see {}", self.log.display());
        }
    }

    /// Waits until so many per cent of the words are in the repartition topic, each a record: split from their lines, and most of them
    /// counted.
    pub(crate) async fn until_split(&self, percent: u64) {
        let enough = self.words.expected.values().sum::<i64>() * percent as i64 / 100;
        let admin = self.words.client.admin();
        let topic = format!("{}-word-counts-repartition", self.id);
        let until = Instant::now() + PATIENCE;
        loop {
            // The instances create the topic when they start.
            let count = admin.describe_topic(&topic).await.map_or(0, |topic| topic.partitions.len() as i32);
            let ends = (0..count).map(|partition| (TopicPartition::new(topic.as_str(), partition), OffsetSpec::Latest));
            let split: i64 = match admin.list_offsets(&ends.collect::<Vec<_>>()).await {
                Ok(ends) => ends.into_values().flatten().sum(),
                Err(_) => 0,
            };
            if split >= enough {
                return;
            }
            assert!(Instant::now() < until, "{split} words are split after {PATIENCE:?}; see {}", self.log.display());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Follows the output topic until every word is counted often enough.
    pub(crate) async fn until_counted(&self) {
        let mut missing = self.words.expected.clone();
        let mut counts = BTreeMap::new();
        let mut reader = self.reader(&self.counts, self.isolation).await;
        let until = Instant::now() + PATIENCE;
        while !missing.is_empty() {
            for record in &reader.poll(Duration::from_millis(500)).await.unwrap() {
                let (word, count) = (text(record.key().unwrap().to_vec()), number(record.value().unwrap()));
                if missing.get(&word).is_some_and(|expected| count >= *expected) {
                    missing.remove(&word);
                }
                counts.insert(word, count);
            }
            if Instant::now() > until {
                let few: Vec<_> =
                    missing.iter().take(20).map(|(word, expected)| (word, counts.get(word), expected)).collect();
                panic!(
                    "after {PATIENCE:?} {} words are counted too low (word, counted, expected): {few:?}; what the instances said: {}",
                    missing.len(),
                    self.log.display()
                );
            }
        }
        reader.close(Duration::from_secs(5)).await.unwrap();
    }

    /// Words and counts that were written and never committed, as far as they are still there.
    pub(crate) async fn aborted_records(&self) -> usize {
        let mut aborted = 0;
        for topic in [self.counts.clone(), format!("{}-word-counts-repartition", self.id)] {
            let all = self.read_all(&topic, IsolationLevel::ReadUncommitted).await.len();
            aborted += all - self.read_all(&topic, IsolationLevel::ReadCommitted).await.len();
        }
        aborted
    }

    /// All there is to read in a topic in which there is nothing new any more: key and value.
    async fn read_all(&self, topic: &str, isolation: IsolationLevel) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut reader = self.reader(topic, isolation).await;
        let mut all = Vec::new();
        loop {
            let more = reader.poll(Duration::from_secs(3)).await.unwrap();
            if more.is_empty() {
                break;
            }
            all.extend(more.iter().map(|record| (record.key().unwrap().to_vec(), record.value().unwrap().to_vec())));
        }
        reader.close(Duration::from_secs(5)).await.unwrap();
        all
    }

    async fn reader(&self, topic: &str, isolation: IsolationLevel) -> PartitionConsumer {
        let partitions = self.words.client.admin().describe_topic(topic).await.unwrap().partitions.len() as i32;
        PartitionConsumer::builder(&self.words.client)
            .assign(topic, 0..partitions, StartAt::Beginning)
            .isolation_level(isolation)
            .build()
            .await
            .unwrap()
    }

    /// The last count of each word as Java reads the topic, in which there is nothing new any more; the same as this client reads.
    pub(crate) async fn read_with_java(&self) -> BTreeMap<String, i64> {
        let all = self.read_all(&self.counts, self.isolation).await;
        let records = all.len();
        let counts: BTreeMap<String, i64> = all.into_iter().map(|(word, count)| (text(word), number(&count))).collect();
        let isolation = match self.isolation {
            IsolationLevel::ReadCommitted => "read_committed",
            _ => "read_uncommitted",
        };
        let text = java_tool(
            "org.apache.kafka.tools.consumer.ConsoleConsumer",
            &[
                "--bootstrap-server",
                &self.words.servers,
                "--topic",
                &self.counts,
                "--isolation-level",
                isolation,
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
        let by_java = pairs.map(|(word, count)| (word.to_owned(), count.parse().unwrap())).collect();
        assert_eq!(counts, by_java, "Java reads what milena reads");
        by_java
    }

    /// Everything was right: nobody needs the log or the topics any more.
    pub(crate) async fn forget(self) {
        fs::remove_file(&self.log).unwrap();
        let internal = ["KSTREAM-AGGREGATE-STATE-STORE", "word-counts"];
        let mut topics = vec![self.lines.clone(), self.counts.clone()];
        topics.extend(
            internal
                .iter()
                .flat_map(|name| ["repartition", "changelog"].map(|kind| format!("{}-{name}-{kind}", self.id))),
        );
        // Those that have another name stay; the brokers of a test do not live long.
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let _ = self.words.client.admin().delete_topics(&names).await;
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn number(bytes: &[u8]) -> i64 {
    i64::from_be_bytes(bytes.try_into().unwrap())
}

/// The example, built as the tests are: of the whole workspace, because for one package alone the features of its dependencies
/// differ, and all of them would be built once more.
fn example() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--workspace", "--profile", "test", "--example", "word_count"])
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
