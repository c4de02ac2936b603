//! Runs the steps of a chore one after the other: says what starts, measures it, goes on after a failure, and
//! remembers what failed.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Result, limit, say, workspace};

/// What has been done so far.
#[derive(Default)]
pub(crate) struct Steps {
    failed: Vec<String>,
}

impl Steps {
    /// Runs one step; its failure is printed now and told again by [`Steps::finish`].
    pub(crate) fn run(&mut self, name: &str, step: impl FnOnce() -> Result<()>) -> bool {
        say(&format!("{name} …"));
        let began = Instant::now();
        let done = step();
        let took = began.elapsed().as_secs_f32();
        match &done {
            Ok(()) => say(&format!("{name}: done in {took:.1} s")),
            Err(problem) => {
                say(&format!("{name}: FAILED after {took:.1} s: {problem}"));
                self.failed.push(name.to_owned());
            }
        }
        done.is_ok()
    }

    /// Success, or the names of all steps that failed.
    pub(crate) fn finish(self) -> Result<()> {
        if self.failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", self.failed.join(", "))) }
    }
}

/// Cargo, as this chore calls it.
pub(crate) struct Cargo {
    /// Refuse to change `Cargo.lock`.
    pub(crate) locked: bool,
}

impl Cargo {
    fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>, environment: &[(&str, &str)]) -> Command {
        // Cargo tells its own path to what it runs.
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        let mut arguments = arguments.into_iter();
        let subcommand = arguments.next();
        command.args(subcommand);
        if self.locked && subcommand != Some("fmt") {
            command.arg("--locked");
        }
        command.args(arguments).envs(environment.iter().copied()).current_dir(workspace::root()).stdin(Stdio::null());
        command
    }

    pub(crate) fn run<'a>(
        &self,
        arguments: impl IntoIterator<Item = &'a str>,
        environment: &[(&str, &str)],
    ) -> Result<()> {
        succeed(&mut self.command(arguments, environment))
    }

    /// Runs cargo, passes on what it says on its standard output as it comes, and shows each line to `look`.
    pub(crate) fn lines<'a>(
        &self,
        arguments: impl IntoIterator<Item = &'a str>,
        environment: &[(&str, &str)],
        mut look: impl FnMut(&str),
    ) -> Result<()> {
        let mut command = self.command(arguments, environment);
        let mut child = command.stdout(Stdio::piped()).spawn().map_err(|e| format!("cannot run cargo: {e}"))?;
        let _watch = limit::watch(&child);
        if let Some(out) = child.stdout.take() {
            for line in BufReader::new(out).split(b'\n').map_while(std::io::Result::ok) {
                let line = String::from_utf8_lossy(&line);
                println!("{line}");
                look(&line);
            }
        }
        let status = child.wait().map_err(|e| format!("cannot wait for cargo: {e}"))?;
        if status.success() { Ok(()) } else { Err(format!("cargo test ended with {status}")) }
    }

    /// Runs tests and adds their result lines up.
    pub(crate) fn test<'a>(
        &self,
        arguments: impl IntoIterator<Item = &'a str>,
        environment: &[(&str, &str)],
        tally: &mut Tally,
    ) -> Result<()> {
        let began = Instant::now();
        let done = self.lines(arguments, environment, |line| tally.read(line));
        tally.time += began.elapsed();
        tally.all_ok &= done.is_ok();
        done
    }
}

pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let first = command.get_args().next().unwrap_or_default().to_string_lossy().into_owned();
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let ended = command.spawn().and_then(|mut child| {
        let _watch = limit::watch(&child);
        child.wait()
    });
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program} {first} ended with {status}")),
        Err(problem) => Err(format!("cannot run {program} {first}: {problem}")),
    }
}

/// The sum of all `test result:` lines.
pub(crate) struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    measured: u64,
    filtered: u64,
    time: Duration,
    all_ok: bool,
}

impl Default for Tally {
    fn default() -> Self {
        Self { passed: 0, failed: 0, ignored: 0, measured: 0, filtered: 0, time: Duration::ZERO, all_ok: true }
    }
}

impl Tally {
    fn read(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        for part in counts.split(['.', ';']) {
            let Some((number, what)) = part.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                "measured" => self.measured += number,
                "filtered out" => self.filtered += number,
                _ => {}
            }
        }
    }

    /// Tests could not even run.
    pub(crate) fn spoil(&mut self) {
        self.all_ok = false;
    }

    /// One line in the format of cargo's own.
    pub(crate) fn summary(&self) -> String {
        let verdict = if self.all_ok && self.failed == 0 { "ok" } else { "FAILED" };
        format!(
            "test result: {verdict}. {} passed; {} failed; {} ignored; {} measured; {} filtered out; finished in {:.2}s",
            self.passed,
            self.failed,
            self.ignored,
            self.measured,
            self.filtered,
            self.time.as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_added_up() {
        let mut tally = Tally::default();
        tally.read("test result: ok. 11 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.30s");
        tally.read("test a::b ... ok");
        tally.read("test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s");
        assert_eq!(
            tally.summary(),
            "test result: ok. 15 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s"
        );
        tally.read("test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        assert!(tally.summary().starts_with("test result: FAILED. 16 passed; 1 failed;"));
    }
}
