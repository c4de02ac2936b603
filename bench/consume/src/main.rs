//! `cargo xtask bench consume`: milena's reader side by side with its peers.
//!
//! This program calls itself: `bench-consume client …` is one client in one case, a process of its own, so that CPU time and peak
//! memory are of that client alone. Called otherwise, it runs the cases ([`case`]) of each part in turn ([`measure`], [`on_kafka`]),
//! all clients of a case one after the other and then again, so that what else the machine does hits all of them; it writes the tables
//! ([`results`]) and says which goals are reached ([`goals`]).

mod case;
mod client;
mod goals;
mod job;
mod measure;
mod on_kafka;
mod results;
mod row;

use std::path::PathBuf;
use std::process::ExitCode;

use case::Part;
use job::{Client, Job};

const HELP: &str = "\
bench-consume: milena's reader side by side with its peers

  --quick            one short run of a few cases; nothing is written
  --part WORD        null, latency or kafka, and may be repeated; else all, kafka only with --kafka. Nothing is written
  --rounds N         how often every client runs (default 5, quick: 1)
  --only CLIENT      milena-poll, milena-recv, milena-stream, rdkafka-base, rdkafka-stream, krafka, rskafka or java; may be
                     repeated. Nothing is written
  --results FILE     where the tables go
  --kafka BOOTSTRAP_SERVERS --broker-pid PID --java-libs FOLDER
                     a real Kafka of one broker, and the jars of its tools
";

/// The command line.
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) parts: Vec<Part>,
    pub(crate) rounds: usize,
    pub(crate) only: Vec<Client>,
    pub(crate) results: Option<PathBuf>,
    pub(crate) kafka: Option<String>,
    pub(crate) broker_pid: Option<u32>,
    pub(crate) java_libs: Option<PathBuf>,
}

impl Options {
    pub(crate) fn includes(&self, client: Client) -> bool {
        self.only.is_empty() || self.only.contains(&client)
    }
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    if words.next_if(|word| word == "client").is_some() {
        let Some(job) = Job::of_words(words) else {
            eprintln!("bench-consume: only bench-consume calls itself this way\n\n{HELP}");
            return ExitCode::FAILURE;
        };
        println!("{}", client::run(&job));
        return ExitCode::SUCCESS;
    }
    match options(words).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("bench-consume: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn options(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        quick: false,
        parts: Vec::new(),
        rounds: 0,
        only: Vec::new(),
        results: None,
        kafka: None,
        broker_pid: None,
        java_libs: None,
    };
    while let Some(flag) = words.next() {
        if flag == "--quick" {
            options.quick = true;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{flag} needs a value, or is not known here\n\n{HELP}"))?;
        let wrong = || format!("{flag} {value}: that is not one\n\n{HELP}");
        match flag.as_str() {
            "--part" => options.parts.push(Part::ALL.into_iter().find(|part| part.word() == value).ok_or_else(wrong)?),
            "--rounds" => options.rounds = value.parse().map_err(|_| wrong())?,
            "--only" => options.only.push(Client::of_word(&value).ok_or_else(wrong)?),
            "--results" => options.results = Some(value.into()),
            "--kafka" => options.kafka = Some(value),
            "--broker-pid" => options.broker_pid = Some(value.parse().map_err(|_| wrong())?),
            "--java-libs" => options.java_libs = Some(value.into()),
            _ => return Err(format!("{flag} is not known here\n\n{HELP}")),
        }
    }
    if options.rounds == 0 {
        options.rounds = if options.quick { 1 } else { 5 };
    }
    Ok(options)
}

fn run(options: &Options) -> Result<(), String> {
    let all = Part::ALL.into_iter().filter(|part| *part != Part::Kafka || options.kafka.is_some()).collect();
    let parts: Vec<Part> = if options.parts.is_empty() { all } else { options.parts.clone() };
    let (mut rows, mut problems) = (Vec::new(), Vec::new());
    for part in parts {
        rows.extend(match part {
            Part::Null => measure::on_the_null_broker(options, &mut problems)?,
            Part::Latency => measure::latency(options, &mut problems)?,
            Part::Kafka => on_kafka::measure(options, &mut problems)?,
        });
    }
    let goals = goals::check(&rows);
    let text = results::render(&rows, &goals, options.quick);
    println!("{text}");
    let whole = !options.quick && options.only.is_empty() && options.parts.is_empty();
    if let Some(file) = options.results.as_ref().filter(|_| whole) {
        std::fs::write(file, &text).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    }
    for goal in &goals {
        println!("{goal}");
    }
    match problems.first() {
        None => Ok(()),
        Some(first) => Err(format!("{} runs failed; the first one: {first}", problems.len())),
    }
}
