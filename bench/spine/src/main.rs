//! `cargo xtask bench spine`: client CPU per 100-byte record fetched, milena and librdkafka side by side. Producers are in
//! `bench/produce`.
//!
//! One null broker serves all; each client is a process of its own, so that its CPU time is the client's alone. The
//! contenders take turns, five rounds of them, because a shared machine drifts from minute to minute: only figures of
//! one run may be compared, and the medians stand beside their spread.

mod repartition;
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use spine::Report;
use spine::null_broker::{Counts, NullBroker};

const HELP: &str = "\
spine: client CPU per 100-byte record against the null broker

  --records N   measured in each run (default 2000000); a quarter as many go before them to warm up
  --rounds N    how often every contender runs (default 5)
  --only WORD   only contenders whose name contains it
  --kafka BOOTSTRAP_SERVERS [--broker-pid PID]
                instead, the bare repartition loop on this real Kafka: the machine's ceiling in words per second
";

/// Something that is measured.
struct Contender {
    name: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
}

/// Contenders of one table; the first one is what the others are compared with.
struct Group {
    title: &'static str,
    contenders: &'static [Contender],
}

const GROUPS: [Group; 1] = [Group {
    title: "consume, assigned partitions",
    contenders: &[
        Contender { name: "milena poll", program: "milena-consume", arguments: &[] },
        Contender { name: "rdkafka BaseConsumer", program: "rdkafka-consume", arguments: &[] },
    ],
}];

struct Options {
    records: u64,
    rounds: usize,
    only: String,
    kafka: Option<String>,
    broker_pid: Option<u32>,
}

/// One run of a contender: what its process says, and what the broker saw.
pub(crate) struct Run {
    pub(crate) report: Report,
    pub(crate) counts: Counts,
}

fn main() -> ExitCode {
    let done = options().and_then(|options| match &options.kafka {
        None => run(&options),
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
    let mut options = Options { records: 2_000_000, rounds: 5, only: String::new(), kafka: None, broker_pid: None };
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{flag} needs a value\n\n{HELP}"));
        let number = |word: String| word.parse::<u64>().map_err(|_| format!("{word} is not a number\n\n{HELP}"));
        match flag.as_str() {
            "--records" => options.records = number(value()?)?.max(1),
            "--rounds" => options.rounds = number(value()?)?.max(1) as usize,
            "--only" => options.only = value()?,
            "--kafka" => options.kafka = Some(value()?),
            "--broker-pid" => options.broker_pid = Some(number(value()?)? as u32),
            _ => return Err(format!("{flag} is not known here\n\n{HELP}")),
        }
    }
    Ok(options)
}

fn run(options: &Options) -> Result<(), String> {
    let folder = programs()?;
    let mut measured: Vec<(&Group, &Contender, Vec<Run>)> = GROUPS
        .iter()
        .flat_map(|group| group.contenders.iter().map(move |contender| (group, contender, Vec::new())))
        .filter(|(group, contender, _)| format!("{}, {}", group.title, contender.name).contains(&options.only))
        .collect();
    let broker = NullBroker::start(&folder.join("nullbroker"), &["--partitions", &spine::PARTITIONS.to_string()])?;
    let records = options.records.to_string();
    let mut failed = false;
    for round in 1..=options.rounds {
        for (group, contender, runs) in &mut measured {
            eprintln!("round {round} of {}: {}, {}", options.rounds, group.title, contender.name);
            let before = broker.counts()?;
            let arguments = [&[broker.bootstrap_servers(), &records], contender.arguments].concat();
            // One contender's failure is no reason to lose the others' figures.
            match client(folder.join(contender.program), &arguments) {
                Ok(report) => runs.push(Run { report, counts: broker.counts()?.since(&before) }),
                Err(problem) => {
                    eprintln!("spine: {problem}");
                    failed = true;
                }
            }
        }
    }
    drop(broker);

    println!(
        "client CPU per 100-byte record, null broker, 6 partitions, {} records a run, {} rounds",
        options.records, options.rounds
    );
    for group in &GROUPS {
        let rows: Vec<(&str, &[Run])> = measured
            .iter()
            .filter(|(of, ..)| std::ptr::eq(*of, group))
            .map(|(_, contender, runs)| (contender.name, runs.as_slice()))
            .collect();
        if !rows.is_empty() {
            print!("\n{}", table::render(group.title, &rows));
        }
    }
    if failed { Err("some runs failed; what they said is above".to_owned()) } else { Ok(()) }
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
