//! `cargo xtask test`: every test but the storms, real Kafka included.

use std::fs;
use std::process::Command;
use std::time::SystemTime;

use crate::kafka::{self, Wanted};
use crate::steps::{Cargo, Steps, Tally, succeed};
use crate::{Result, missing, say, workspace};

pub(crate) const HELP: &str = "\
cargo xtask test [ARGUMENTS…]: every test, real Kafka included; the storms are in `cargo xtask ci` and `cargo xtask accept storms`

  Starts three brokers (or uses those that `kafka up` started, or those that KAFKA_BOOTSTRAP_SERVERS names), runs
  `cargo test --workspace` and every example, and stops the brokers that it started, whatever happened.

  Tests find Kafka in KAFKA_BOOTSTRAP_SERVERS. MILENA_REQUIRE_KAFKA=1, which is set here, makes a test that needs Kafka
  fail without it; a plain `cargo test --workspace` says so in one line and goes on.

  ARGUMENTS are handed to cargo test in place of --workspace, and then no example is run:
    cargo xtask test -p milena-integration-tests --test word_count
";

/// The variable in which tests and examples find the brokers.
const BOOTSTRAP: &str = "KAFKA_BOOTSTRAP_SERVERS";
/// The variable that forbids a test to go without Kafka.
const REQUIRE: &str = "MILENA_REQUIRE_KAFKA";

/// The variable that moves the seeds of the seeded suites (`milena_testkit::seeds`).
const SEED_BASE: &str = "MILENA_SEED_BASE";
/// As many as a suite runs by default.
const SEEDS_A_DAY: u64 = 300;

/// The variable in which tests find this program, whose `kafka run` runs Java's tools for them.
const XTASK: &str = "MILENA_XTASK";

/// Kafka for the tests, stopped again when this is dropped, unless somebody else started it.
pub(crate) struct TestKafka {
    bootstrap_servers: String,
    this_program: String,
    seed_base: String,
    ours: bool,
}

impl TestKafka {
    /// Three brokers.
    pub(crate) fn start() -> Result<Self> {
        Self::start_as(&Wanted { brokers: Some(3), ..Wanted::default() })
    }

    /// Brokers of this shape.
    pub(crate) fn start_as(wanted: &Wanted) -> Result<Self> {
        let this_program = std::env::current_exe().map_err(|e| format!("where is this program? {e}"))?;
        let this_program = this_program.display().to_string();
        let seed_base = seed_base();
        match std::env::var(BOOTSTRAP) {
            Ok(given) if !given.is_empty() => {
                say(&format!("using the Kafka that {BOOTSTRAP} names: {given}"));
                Ok(Self { bootstrap_servers: given, this_program, seed_base, ours: false })
            }
            _ => match kafka::up(wanted) {
                Ok(cluster) => Ok(Self {
                    bootstrap_servers: cluster.bootstrap_servers(),
                    this_program,
                    seed_base,
                    ours: !cluster.was_running,
                }),
                Err(problem) => {
                    // Half a cluster may be there.
                    let _ = kafka::down();
                    Err(problem)
                }
            },
        }
    }

    pub(crate) fn environment(&self) -> [(&str, &str); 4] {
        [
            (BOOTSTRAP, &self.bootstrap_servers),
            (REQUIRE, "1"),
            (XTASK, &self.this_program),
            (SEED_BASE, &self.seed_base),
        ]
    }
}

/// Where the seeds of this run begin: every day has seeds of its own.
fn seed_base() -> String {
    let given = std::env::var(SEED_BASE).unwrap_or_default();
    let days = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs() / (24 * 60 * 60));
    let base = if given.is_empty() { (days * SEEDS_A_DAY).to_string() } else { given };
    say(&format!("seeds begin at {base}; the same ones again: {SEED_BASE}={base}"));
    base
}

impl Drop for TestKafka {
    fn drop(&mut self) {
        if self.ours
            && let Err(problem) = kafka::down()
        {
            say(&format!("Kafka could not be stopped: {problem}"));
        }
    }
}

/// Every test of the workspace and every example.
pub(crate) fn run(steps: &mut Steps, cargo: &Cargo, kafka: &TestKafka, tally: &mut Tally) {
    steps.run("cargo test --workspace", || {
        cargo.test(["test", "--workspace", "--no-fail-fast"], &kafka.environment(), tally)
    });
    for name in examples() {
        let example = |arguments: &[&str]| example_of(&name, arguments);
        // One that runs until somebody ends it is given an end.
        let end: &[&str] = if name == "test_cluster" { &["--seconds", "1"] } else { &[] };
        steps.run(&format!("example {name}"), || example(end));
        if name == "word_count" || name == "produce" {
            steps.run(&format!("example {name} on real Kafka"), || {
                example(&["--bootstrap-servers", &kafka.bootstrap_servers])
            });
        }
        if name == "produce" {
            // What this one has written is there to be read.
            steps.run("example consume on real Kafka", || {
                let read = ["--topics", "lines", "--from-beginning", "--exit-at-end", "--max", "20"];
                example_of("consume", &[&read[..], &["--bootstrap-servers", &kafka.bootstrap_servers]].concat())
            });
        }
    }
}

/// Runs an example. `cargo test` has built it: `cargo run` would build all that it needs once more, because for one package alone the
/// features differ.
fn example_of(name: &str, arguments: &[&str]) -> Result<()> {
    let program = workspace::target_dir().join("debug/examples").join(name);
    succeed(Command::new(program).args(arguments).current_dir(workspace::root()))
}

/// The codecs' tests of a build that has all of them but zstd: its batches are an error that names the feature.
pub(crate) fn missing_codec(cargo: &Cargo, tally: &mut Tally) -> Result<()> {
    // With the broker's half, which the rest of the workspace has compiled already.
    let build = ["test", "-p", "milena-protocol", "--no-default-features", "--features", "broker,gzip,snappy,lz4"];
    cargo.test(build.into_iter().chain(["--test", "codecs", "--test", "golden", "--test", "hostile"]), &[], tally)
}

/// Foreign clients against the in-process cluster: kcat and Java's tools.
pub(crate) fn judges(cargo: &Cargo, kafka: &TestKafka, tally: &mut Tally) -> Result<()> {
    missing::need_kcat()?;
    let arguments = ["test", "--workspace", "--features", OPTIONAL, "--test", "judges"];
    cargo.test(arguments, &kafka.environment(), tally)
}

/// What of the suites is not compiled with the rest. Both at once, so that what they share is compiled once, and the whole workspace,
/// so that its features, and with them all that is compiled already, stay the same.
pub(crate) const OPTIONAL: &str = "milena-integration-tests/storms,milena-integration-tests/judges";

/// Only what the command line asks for.
pub(crate) fn run_some(cargo: &Cargo, kafka: &TestKafka, arguments: &[String]) -> Result<()> {
    let all = ["test"].into_iter().chain(arguments.iter().map(String::as_str));
    cargo.run(all, &kafka.environment())
}

/// Real processes, kills and freezes: the test targets whose names start with `storm`, and the handler that blocks for a minute.
pub(crate) fn storms(steps: &mut Steps, cargo: &Cargo, kafka: &TestKafka, tally: &mut Tally) {
    let folder = workspace::root().join("integration-tests/tests");
    if !names(&folder).iter().any(|name| name.starts_with("storm")) {
        say("no storms yet");
        return;
    }
    let features = ["--features", OPTIONAL];
    let arguments =
        ["test", "--workspace"].into_iter().chain(features).chain(["--test", "storm_*", "--test", "blocked_handler"]);
    steps.run("storms", || cargo.test(arguments, &kafka.environment(), tally));
}

fn examples() -> Vec<String> {
    names(&workspace::root().join("examples"))
}

/// The names, without their endings, of the Rust files in a folder, sorted; a folder that is not there has none.
fn names(folder: &std::path::Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok()?.strip_suffix(".rs").map(str::to_owned))
        .collect();
    names.sort();
    names
}
