//! One entry for every chore: `cargo xtask …`.
//!
//! Only the standard library, so that it builds in seconds on a cold target folder.

#![expect(clippy::disallowed_methods, reason = "a chore waits for real processes by the real clock")]

mod arguments;
mod kafka;
mod missing;
mod workspace;

use std::process::ExitCode;

use arguments::Arguments;

/// What went wrong, as the sentence that the user reads.
type Result<T> = std::result::Result<T, String>;

const HELP: &str = "\
cargo xtask: one entry for every chore

  kafka up|down|status|run   a real Apache Kafka cluster on this machine (cargo xtask kafka help)
";

fn main() -> ExitCode {
    let mut arguments = Arguments::of_this_program();
    let done = match arguments.next_word().as_deref() {
        Some("kafka") => kafka::main(arguments),
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

/// Progress goes to standard error; standard output is for results.
fn say(text: &str) {
    eprintln!("xtask: {text}");
}
