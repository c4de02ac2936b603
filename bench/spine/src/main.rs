//! `cargo xtask bench repartition`: the bare repartition loop on real Kafka, as a program of its own, so that its CPU time is the
//! client's alone.

mod repartition;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use spine::Report;

const HELP: &str = "\
spine: words produced and fetched again on real Kafka, and nothing else: the machine's ceiling in words per second

  --kafka BOOTSTRAP_SERVERS [--broker-pid PID]
  --records N   words in each run (default 2000000)
  --rounds N    (default 5)
";

struct Options {
    records: u64,
    rounds: usize,
    kafka: Option<String>,
    broker_pid: Option<u32>,
}

fn main() -> ExitCode {
    let done = options().and_then(|options| match &options.kafka {
        None => Err(format!("which Kafka? cargo xtask bench repartition starts one\n\n{HELP}")),
        Some(bootstrap_servers) => repartition::run(&options, bootstrap_servers),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("spine: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options, String> {
    let mut options = Options { records: 2_000_000, rounds: 5, kafka: None, broker_pid: None };
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{flag} needs a value\n\n{HELP}"));
        let number = |word: String| word.parse::<u64>().map_err(|_| format!("{word} is not a number\n\n{HELP}"));
        match flag.as_str() {
            "--records" => options.records = number(value()?)?.max(1),
            "--rounds" => options.rounds = number(value()?)?.max(1) as usize,
            "--kafka" => options.kafka = Some(value()?),
            "--broker-pid" => options.broker_pid = Some(number(value()?)? as u32),
            _ => return Err(format!("{flag} is not known here\n\n{HELP}")),
        }
    }
    Ok(options)
}

/// The folder in which this program and the others were built.
fn programs() -> Result<PathBuf, String> {
    let here = std::env::current_exe().map_err(|e| format!("where is this program? {e}"))?;
    Ok(here.parent().unwrap_or(Path::new(".")).to_owned())
}

/// Runs one client to its end and reads its last line.
fn client(program: PathBuf, arguments: &[&str]) -> Result<Report, String> {
    let name = program.display().to_string();
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("cannot run {name}: {e}; build the workspace `bench` with --release first"))?;
    if !output.status.success() {
        return Err(format!("{name} ended with {}", output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Report::parse(&text).ok_or_else(|| format!("{name} printed no result:\n{text}"))
}
