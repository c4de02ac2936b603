//! One entry for every chore: `cargo xtask …`.
//!
//! Only the standard library, and what the test kit makes of it to start Kafka, so that it builds in seconds on a cold target folder.

#![expect(clippy::disallowed_methods, reason = "a chore waits for real processes by the real clock")]

mod accept;
mod arguments;
mod bench;
mod check;
mod ci;
mod docker;
mod dropped;
mod kafka;
mod limit;
mod missing;
mod planted;
mod schema;
mod steps;
mod stolen;
mod test;
mod workspace;

use std::process::ExitCode;

use arguments::Arguments;
use steps::{Cargo, Steps, Tally};
use test::TestKafka;

/// What went wrong, as the sentence that the user reads.
type Result<T> = std::result::Result<T, String>;

const HELP: &str = "\
cargo xtask: one entry for every chore

  check                      formatting, lints and documentation, with warnings denied
  test [ARGUMENTS…]          every test, real Kafka included (needs a JDK from 17 on, and Maven)
  ci                         both, within a budget of time: what must be green before a change is in
  accept [PART]              the long campaigns: a million frames, thousands of seeds, ten kills of every storm
  bench produce|consume|repartition|testkit|codec
                             client CPU per record, the peers beside milena (needs a C compiler and make); the test kit's own
  kafka up|down|status|run   a real Apache Kafka cluster on this machine
  schema                     the shapes of responses, from the message definitions inside Kafka's jar

Each of them explains itself:  cargo xtask test help
";

fn main() -> ExitCode {
    let mut arguments = Arguments::of_this_program();
    let done = match arguments.next_word().as_deref() {
        Some("check") => alone(arguments, check::HELP, || {
            let mut steps = Steps::default();
            check::run(&mut steps, &Cargo { locked: false })?;
            steps.finish()
        }),
        Some("test") => all_tests(arguments),
        Some("ci") => alone(arguments, ci::HELP, ci::run),
        Some("accept") => accept::main(arguments),
        Some("bench") => bench::main(arguments),
        Some("kafka") => kafka::main(arguments),
        Some("schema") => schema::main(arguments),
        None | Some("help" | "--help" | "-h") => {
            print!("{HELP}");
            Ok(())
        }
        Some(other) => Err(arguments.unknown(other, HELP)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("xtask: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// A chore that takes no arguments but `help`.
fn alone(mut arguments: Arguments, help: &str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    if arguments.asks_for_help() {
        print!("{help}");
        return Ok(());
    }
    arguments.no_more(help)?;
    run()
}

fn all_tests(arguments: Arguments) -> Result<()> {
    if arguments.asks_for_help() {
        print!("{}", test::HELP);
        return Ok(());
    }
    let cargo = Cargo { locked: false };
    let only: Vec<String> = arguments.rest().collect();
    let kafka = TestKafka::start()?;
    if !only.is_empty() {
        return test::run_some(&cargo, &kafka, &only);
    }
    let mut steps = Steps::default();
    let mut tally = Tally::default();
    test::run(&mut steps, &cargo, &kafka, &mut tally);
    drop(kafka);
    println!("\n{}", tally.summary());
    steps.finish()
}

/// The sentence of an error.
fn told(problem: std::io::Error) -> String {
    problem.to_string()
}

/// Progress goes to standard error; standard output is for results.
fn say(text: &str) {
    eprintln!("xtask: {text}");
}
