//! `cargo xtask accept planted`: the seeded suites, unchanged, against clients with a defect of one line each. A suite that cannot fail
//! proves nothing; here it must find the defect within its seeds, and say which invariant was broken, by which seed.
//!
//! All defects are in one build, behind `--cfg planted`, and the variable `MILENA_PLANTED` chooses the one that acts
//! (`protocol/src/planted.rs`): one build of two minutes and not one for each.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::{Result, say, workspace};

/// Seeds of each suite.
const SEEDS: &str = "0..300";

/// A defect may make a suite wait for ever.
const LIMIT: Duration = Duration::from_secs(300);

/// The seeded suites, of the producer, of the consumer and of the whole.
const SUITES: [&str; 4] = ["storm", "storm_transactions", "fetch_storm", "determinism"];

/// Lines that are wrong on purpose, by their names in the sources.
const DEFECTS: [&str; 9] = [
    "sequence_not_advanced_after_failure",
    "unknown_batch_sent_again_after_a_bump",
    "acknowledged_before_min_isr",
    "batches_swapped",
    "pipelining_before_the_first_ack",
    "aborted_list_ignored",
    "stale_fetch_delivered_after_a_seek",
    "cut_batch_delivered",
    "position_not_moved_over_control_records",
];

/// How a suite fails.
struct Failure {
    seed: String,
    invariant: String,
    /// It came to its own verdict. Who waits for ever, or is not even compiled, has found nothing.
    is_a_verdict: bool,
}

/// Runs everything and returns the report's table.
pub(crate) fn run() -> Result<String> {
    say("building the suites with the defects in them");
    for suite in SUITES {
        cargo(suite, None, &["--no-run"], &mut |command| crate::steps::succeed(command))?;
    }
    let mut table = String::from("| defect | found by | seed | what it said |\n|---|---|---|---|\n");
    let mut problems = Vec::new();
    for suite in SUITES {
        // What finds a defect must find nothing without one.
        if let Some(failure) = fails(suite, None)? {
            problems.push(format!("{} fails without a defect: {}", suite, failure.invariant));
        }
    }
    for defect in DEFECTS {
        let mut finders = 0;
        for suite in SUITES {
            let began = Instant::now();
            let Some(Failure { seed, invariant, is_a_verdict }) = fails(suite, Some(defect))? else { continue };
            finders += usize::from(is_a_verdict);
            say(&format!(
                "{}: {} after {:.0} s, seed {seed}: {invariant}",
                defect,
                suite,
                began.elapsed().as_secs_f64()
            ));
            // Writing to a string cannot fail.
            let _ = writeln!(table, "| {} | {} | {seed} | {} |", defect, suite, invariant.replace('|', "\\|"));
        }
        if finders == 0 {
            problems.push(format!("{defect} is found by no suite within seeds {SEEDS}"));
        }
    }
    if problems.is_empty() { Ok(table) } else { Err(format!("{table}\n{}", problems.join("\n"))) }
}

/// How the suite fails with this defect; `None` when it passes.
fn fails(suite: &str, defect: Option<&str>) -> Result<Option<Failure>> {
    let log = workspace::target_dir().join("planted").join(format!("{}.log", defect.unwrap_or("none")));
    let mut ended = None;
    cargo(suite, defect, &["--", "--nocapture", "--test-threads=1"], &mut |command| {
        let file = File::create(&log).map_err(|e| format!("cannot create {}: {e}", log.display()))?;
        let errors = file.try_clone().map_err(|e| format!("cannot share {}: {e}", log.display()))?;
        let mut child = command
            .stdout(file)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|e| format!("cannot run cargo: {e}"))?;
        let until = Instant::now() + LIMIT;
        loop {
            if let Some(status) = child.try_wait().map_err(|e| format!("cannot wait for cargo: {e}"))? {
                ended = Some(status.success());
                return Ok(());
            }
            if Instant::now() > until {
                let group = format!("-{}", child.id());
                let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
                let _ = child.wait();
                return Ok(());
            }
            sleep(Duration::from_millis(50));
        }
    })?;
    match ended {
        Some(true) => Ok(None),
        Some(false) => Ok(Some(read(&log))),
        None => {
            let seed = read(&log).seed;
            let invariant = format!("does not end within {} s", LIMIT.as_secs());
            Ok(Some(Failure { seed, invariant, is_a_verdict: false }))
        }
    }
}

/// Calls cargo for a suite, in a target folder of its own: with other flags everything is built anew.
fn cargo(
    suite: &str,
    defect: Option<&str>,
    more: &[&str],
    run: &mut dyn FnMut(&mut Command) -> Result<()>,
) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        // All packages in every call, or what they share would be built once for each.
        .args(["test", "--quiet", "-p", "milena-producer", "-p", "milena-consumer", "-p", "milena-integration-tests"])
        .args(["--test", suite])
        .args(more)
        .env("RUSTFLAGS", "--cfg planted")
        .env("RUST_BACKTRACE", "0")
        .env("CARGO_TARGET_DIR", workspace::target_dir().join("planted"))
        .env("MILENA_SEEDS", SEEDS)
        .current_dir(workspace::root())
        .stdin(Stdio::null());
    if let Some(defect) = defect {
        command.env("MILENA_PLANTED", defect);
    }
    run(&mut command)
}

/// What a failed suite printed: the first panic, and the seed that it names or that was announced before it.
fn read(log: &Path) -> Failure {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut announced = String::from("?");
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        // The first one stands behind the name of its test.
        if let Some(seed) = seed_of(line).filter(|_| line.starts_with("seed ") || line.contains(" ... seed ")) {
            announced = seed;
        }
        if line.contains("panicked at") {
            let message: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("note: ")).take(3).collect();
            let mut invariant = message.join(" ");
            let seed = seed_of(&invariant).unwrap_or_else(|| announced.clone());
            if let Some((at, _)) = invariant.char_indices().nth(200) {
                invariant.truncate(at);
                invariant.push('…');
            }
            return Failure { seed, invariant, is_a_verdict: true };
        }
    }
    let last = text.lines().last().unwrap_or("it said nothing").to_owned();
    Failure { seed: announced, invariant: last, is_a_verdict: false }
}

/// The number behind the first “seed ”.
fn seed_of(text: &str) -> Option<String> {
    text.match_indices("seed ").find_map(|(at, word)| {
        let rest = &text[at + word.len()..];
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        (!digits.is_empty()).then_some(digits)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_panic_and_its_seed_are_read() {
        let log = std::env::temp_dir().join(format!("milena-planted-{}", std::process::id()));
        let printed = "seed 3: MILENA_SEEDS=3 cargo test\nseed 4: MILENA_SEEDS=4 cargo test\n\nthread 'x' panicked at storm.rs:1:2:\nrecords are out of order\nnote: run with\n";
        fs::write(&log, printed).unwrap();
        let failure = read(&log);
        assert_eq!((failure.seed.as_str(), failure.invariant.as_str()), ("4", "records are out of order"));
        fs::write(&log, "thread 'x' panicked at a.rs:\nseed 17: 5 is there 0 times\n").unwrap();
        assert_eq!(read(&log).seed, "17");
        fs::write(&log, "test x ... seed 5: MILENA_SEEDS=5 cargo test\nthread 'x' panicked at a.rs:\nit is gone\n")
            .unwrap();
        assert_eq!(read(&log).seed, "5");
        fs::remove_file(&log).unwrap();
    }
}
