//! `cargo xtask bench …`: the workspace in `bench/`, built optimised and run.

use std::path::PathBuf;
use std::process::Command;

use crate::arguments::Arguments;
use crate::kafka::{self, Wanted};
use crate::steps::succeed;
use crate::{Result, missing, say, workspace};

pub(crate) const HELP: &str = "\
cargo xtask bench: milena side by side with its peers

  produce [ARGUMENTS…] the producer beside rdkafka, krafka, confluent-kafka and rskafka, on the null broker and, with Java's
                       producer, on real Kafka; writes bench/RESULTS.md. A quarter of an hour after a build of ten minutes.
                       Needs a C compiler and make, and for real Kafka a JDK from 17 on, and Maven.
                         --quick       one short run of a few cases on the null broker; nothing is written
                         --part WORD   matrix, latency, delay or kafka; may be repeated; the others' figures stay as they are
                         --rounds N    how often every client runs (default 5)
                         --only CLIENT nothing is written; may be repeated
                         --with-confluent
                                       confluent-kafka, too, which takes a quarter of an hour and 4 GB of memory to build
  consume [ARGUMENTS…] reading assigned partitions, beside rdkafka, krafka and rskafka, on the null broker, on two brokers of the
                       test kit (latency) and, with Java's consumer, on real Kafka; writes bench/CONSUME.md. Ten minutes after
                       a build of ten. Needs what produce needs.
                         --quick       one short run of a few cases; nothing is written
                         --part WORD   null, latency or kafka; may be repeated; nothing is written
                         --rounds N    how often every client runs (default 5)
                         --only CLIENT nothing is written; may be repeated
  repartition [ARGUMENTS…]
                       words per second when each word is produced and fetched again on real Kafka, and nothing else is
                       done: the machine's ceiling for a word count. Besides, needs a JDK from 17 on, and Maven.
                         --records N   words in each run (default 2000000)
                         --rounds N    (default 5)
  testkit [ARGUMENTS…] the test kit's brokers: their start, and records per second of their CPU, produced and fetched; half a
                       minute after a build of one. Needs no C compiler.
                         --records N   in each round (default 2000000)
                         --rounds N    (default 5)
  codec [ARGUMENTS…]   the record batch codec beside that of the kafka-protocol crate; arguments go to criterion
";

pub(crate) fn main(mut arguments: Arguments) -> Result<()> {
    let chore = arguments.next_word();
    if arguments.asks_for_help() {
        print!("{HELP}");
        return Ok(());
    }
    match chore.as_deref() {
        Some("produce") => produce(arguments),
        Some("consume") => consume(arguments),
        Some("repartition") => repartition(arguments),
        Some("testkit") => succeed(cargo(&["run", "--release", "--package", "kit"]).arg("--").args(arguments.rest())),
        Some("codec") => codec(arguments),
        None | Some("help" | "--help" | "-h") => {
            print!("{HELP}");
            Ok(())
        }
        Some(other) => Err(arguments.unknown(other, HELP)),
    }
}

fn produce(arguments: Arguments) -> Result<()> {
    let mut words: Vec<String> = arguments.rest().collect();
    let all = words.len();
    words.retain(|word| word != "--with-confluent");
    build("bench-produce", if words.len() < all { &["--features", "confluent"] } else { &[] })?;
    side_by_side("bench-produce", "bench/RESULTS.md", &words)
}

fn consume(arguments: Arguments) -> Result<()> {
    build("bench-consume", &[])?;
    side_by_side("bench-consume", "bench/CONSUME.md", &arguments.rest().collect::<Vec<_>>())
}

/// Runs one of the two that have a part on real Kafka, which is started only when that part is wanted.
fn side_by_side(name: &str, results: &str, words: &[String]) -> Result<()> {
    let mut command = Command::new(program(name));
    command.args(words).arg("--results").arg(workspace::root().join(results));
    let parts: Vec<&str> = words.windows(2).filter(|pair| pair[0] == "--part").map(|pair| pair[1].as_str()).collect();
    let quick = words.iter().any(|word| word == "--quick");
    if !(parts.contains(&"kafka") || parts.is_empty() && !quick) {
        return succeed(&mut command);
    }
    on_kafka(|cluster| {
        command.args(["--kafka", &cluster.bootstrap_servers()]);
        if let Some(pid) = cluster.first_pid() {
            command.args(["--broker-pid", &pid.to_string()]);
        }
        command.arg("--java-libs").arg(kafka::resolve(&cluster.shape.version)?);
        succeed(&mut command)
    })
}

fn repartition(arguments: Arguments) -> Result<()> {
    build("spine", &[])?;
    let mut command = Command::new(program("spine"));
    on_kafka(|cluster| {
        command.args(["--kafka", &cluster.bootstrap_servers()]);
        if let Some(pid) = cluster.first_pid() {
            command.args(["--broker-pid", &pid.to_string()]);
        }
        succeed(command.args(arguments.rest()))
    })
}

/// With one broker that has room and the whole JIT compiler.
fn on_kafka(measure: impl FnOnce(&kafka::Cluster) -> Result<()>) -> Result<()> {
    let cluster = kafka::up(&Wanted { bench: true, ..Wanted::default() })?;
    let measured = measure(&cluster);
    if !cluster.was_running {
        kafka::down()?;
    }
    measured
}

fn codec(arguments: Arguments) -> Result<()> {
    succeed(cargo(&["bench", "--package", "bench-codec"]).arg("--").args(arguments.rest()))
}

fn build(package: &str, features: &[&str]) -> Result<()> {
    missing::need_c_compiler()?;
    say("building the benchmarks, optimised");
    succeed(cargo(&["build", "--release", "--package", "nullbroker", "--package", package]).args(features))
}

/// Cargo, in the benchmarks' workspace.
fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(arguments)
        .arg("--manifest-path")
        .arg(workspace::root().join("bench/Cargo.toml"))
        .env("CARGO_TARGET_DIR", target_dir());
    command
}

fn program(name: &str) -> PathBuf {
    target_dir().join("release").join(name)
}

/// A target folder of its own, since the benchmarks have a lock file of their own.
fn target_dir() -> PathBuf {
    workspace::target_dir().join("bench")
}
