//! `cargo xtask ci`: what must be green before a change is in, within a budget of time.

use std::time::{Duration, Instant};

use crate::steps::{Cargo, Steps, Tally};
use crate::test::{self, TestKafka};
use crate::{Result, check, limit, say, stolen};

pub(crate) const HELP: &str = "\
cargo xtask ci: everything once, within 25 minutes on two cores from a cold target folder

  build (9 minutes)   cargo xtask check, the tests compiled, and the fuzz targets as far as a stable compiler goes
  tests (11 minutes)  three real brokers, cargo test --workspace, every example, kcat and Java's tools against the in-process
                      cluster, the codecs with one of them left out
  storms (4 minutes)  real processes, kills and freezes
  The brokers are stopped again. Prints what each part used, and marks what took longer than it may: that is no failure, because
  a host may be slow. What a virtual machine's host gave to others meanwhile is printed and does not count. What still runs
  after an hour is ended, and is a failure.
";

const WHOLE: Duration = Duration::from_secs(25 * 60);
/// After so long something hangs.
const END: Duration = Duration::from_secs(60 * 60);

/// One part of the budget.
struct Part {
    name: &'static str,
    allowed: Duration,
    used: Duration,
    /// Of what was used, what the machine's host gave to others.
    stolen: Duration,
}

/// A moment from which a part is measured.
struct Begun {
    at: Instant,
    stolen: Duration,
}

impl Begun {
    fn now() -> Self {
        Self { at: Instant::now(), stolen: stolen::so_far() }
    }

    fn end(self, name: &'static str, allowed: Duration) -> Part {
        let stolen = stolen::so_far().saturating_sub(self.stolen);
        Part { name, allowed, used: self.at.elapsed(), stolen }
    }
}

impl Part {
    fn measure(name: &'static str, minutes: u64, work: impl FnOnce()) -> Self {
        let begun = Begun::now();
        work();
        begun.end(name, Duration::from_secs(minutes * 60))
    }

    fn is_over(&self) -> bool {
        self.used.saturating_sub(self.stolen) > self.allowed
    }
}

pub(crate) fn run() -> Result<()> {
    let cargo = Cargo { locked: true };
    let mut steps = Steps::default();
    let mut tally = Tally::default();
    let begun = Begun::now();
    limit::set(begun.at + END);

    let mut refused = None;
    let build = Part::measure("build", 9, || {
        refused = check::run(&mut steps, &cargo).err();
        steps.run("compile the tests", || cargo.run(["test", "--workspace", "--no-run"], &[]));
        steps.run("the fuzz targets", || {
            // Nothing is linked, so libFuzzer need not be there, nor a C++ compiler to build it.
            let no_libfuzzer = [("CUSTOM_LIBFUZZER_PATH", "not-linked/libfuzzer.a")];
            cargo.run(["check", "--manifest-path", "fuzz/Cargo.toml", "--target-dir", "target"], &no_libfuzzer)
        });
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
            steps.run("judges", || test::judges(&cargo, kafka, &mut tally));
            steps.run("a codec that is missing", || test::missing_codec(&cargo, &mut tally));
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

    let whole = begun.end("whole", WHOLE);
    if whole.is_over() {
        say("this took longer than 25 minutes: on a machine at its usual speed something has to be made faster");
    }
    println!("\n{}", table(&[build, tests, storms, whole]));
    println!("{}", tally.summary());
    steps.finish()
}

/// What was used and what was allowed, in minutes. What is over its budget is marked and not a failure: a shared core may run at half
/// its speed for an hour, which is no reason to turn a change away.
fn table(parts: &[Part]) -> String {
    let minutes = |d: Duration| d.as_secs_f64() / 60.0;
    let mut text = String::from("budget in minutes    used  stolen  allowed\n");
    for part in parts {
        let mark = if part.is_over() { "  OVER" } else { "" };
        text.push_str(&format!(
            "{:<18} {:>6.1}  {:>6.1}  {:>7.1}{mark}\n",
            part.name,
            minutes(part.used),
            minutes(part.stolen),
            minutes(part.allowed)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_over_its_budget_is_marked() {
        let part = |used, stolen| Part {
            name: "tests",
            allowed: Duration::from_secs(60),
            used: Duration::from_secs(used),
            stolen: Duration::from_secs(stolen),
        };
        assert!(!table(&[part(60, 0)]).contains("OVER"));
        assert!(table(&[part(61, 0)]).contains("OVER"));
        assert!(!table(&[part(90, 30)]).contains("OVER"));
        assert!(table(&[part(91, 30)]).contains("OVER"));
    }
}
