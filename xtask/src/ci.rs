//! `cargo xtask ci`: what must be green before a change is in, within a budget of time.

use std::time::{Duration, Instant};

use crate::steps::{Cargo, Steps, Tally};
use crate::test::{self, TestKafka};
use crate::{Result, check};

pub(crate) const HELP: &str = "\
cargo xtask ci: everything once, within 25 minutes on two cores from a cold target folder

  build (9 minutes)   cargo xtask check, and the tests compiled
  tests (11 minutes)  three real brokers, cargo test --workspace, every example
  storms (4 minutes)  real processes, kills and freezes
  The brokers are stopped again. Prints what each part used, and fails when one took longer than it may.
";

const WHOLE: Duration = Duration::from_secs(25 * 60);

/// One part of the budget.
struct Part {
    name: &'static str,
    allowed: Duration,
    used: Duration,
}

impl Part {
    fn measure(name: &'static str, minutes: u64, work: impl FnOnce()) -> Self {
        let began = Instant::now();
        work();
        Self { name, allowed: Duration::from_secs(minutes * 60), used: began.elapsed() }
    }
}

pub(crate) fn run() -> Result<()> {
    let cargo = Cargo { locked: true };
    let mut steps = Steps::default();
    let mut tally = Tally::default();
    let began = Instant::now();

    let mut refused = None;
    let build = Part::measure("build", 9, || {
        refused = check::run(&mut steps, &cargo).err();
        steps.run("compile the tests", || cargo.run(["test", "--workspace", "--no-run"], &[]));
    });
    if let Some(problem) = refused {
        return Err(problem);
    }

    // Without Kafka there is no test run at all: it is required here, never skipped.
    let mut kafka = None;
    let tests = Part::measure("tests", 11, || {
        let started = steps.run("start Kafka", || {
            kafka = Some(TestKafka::start()?);
            Ok(())
        });
        if let (true, Some(kafka)) = (started, &kafka) {
            test::run(&mut steps, &cargo, kafka, &mut tally);
        } else {
            tally.spoil();
        }
    });
    let storms = Part::measure("storms", 4, || {
        if let Some(kafka) = &kafka {
            test::storms(&mut steps, &cargo, kafka, &mut tally);
        }
    });
    drop(kafka);

    let whole = Part { name: "whole", allowed: WHOLE, used: began.elapsed() };
    println!("\n{}", table(&[build, tests, storms, whole], &mut steps));
    println!("{}", tally.summary());
    steps.finish()
}

/// What was used and what was allowed, in minutes; a part over its budget becomes a failed step.
fn table(parts: &[Part], steps: &mut Steps) -> String {
    let minutes = |d: Duration| d.as_secs_f64() / 60.0;
    let mut text = String::from("budget in minutes    used  allowed\n");
    for Part { name, allowed, used } in parts {
        let over = used > allowed;
        let mark = if over { "  OVER" } else { "" };
        text.push_str(&format!("{name:<18} {:>6.1}  {:>7.1}{mark}\n", minutes(*used), minutes(*allowed)));
        if over {
            steps.fail(&format!("the time budget of {name}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_over_its_budget_fails_the_run() {
        let part = |used| Part { name: "tests", allowed: Duration::from_secs(60), used: Duration::from_secs(used) };
        let mut steps = Steps::default();
        assert!(!table(&[part(60)], &mut steps).contains("OVER"));
        assert!(table(&[part(61)], &mut steps).contains("OVER"));
        assert_eq!(steps.finish().unwrap_err(), "failed: the time budget of tests");
    }
}
