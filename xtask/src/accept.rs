//! `cargo xtask accept`: the long campaigns that a release rests on, in parts that can be resumed.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use crate::arguments::Arguments;
use crate::kafka::Wanted;
use crate::steps::Cargo;
use crate::test::TestKafka;
use crate::{Result, say, workspace};

pub(crate) const HELP: &str = "\
cargo xtask accept [PART]: the long campaigns, one part after the other

  frames   1,000,000 changed frames of every response, 500,000 changed batches of every codec, 500,000 changed blobs of group
           members, 1,000,000 changed requests to the in-process cluster, under a counting allocator
  seeds    2,000 seeds of every seeded suite of the producer, 1,000 of the histories that two processes compare
  storms   ten kills of every storm, on three real brokers (needs a JDK from 17 on, and Maven)
  judges   100,000 records of every codec written and read by kcat, and Java's tools, against the in-process cluster
           (needs kcat, a JDK from 17 on, and Maven)
  releases every portable suite on in-process clusters that are like Kafka 2.8, 3.9 and 4.3, and what a broker of 3.9.1 answers
  older    transactions on brokers that speak the protocol before KIP-890 (transaction.version=1)

  A part writes docs/acceptance/PART.md when it ends well: what was run, on which commit, and what it printed. Without PART,
  those whose report is of this commit are left out: what was interrupted goes on where it stopped.
";

/// A campaign.
struct Part {
    name: &'static str,
    kafka: Option<Wanted>,
    runs: &'static [Run],
}

/// One call of cargo.
struct Run {
    environment: &'static [(&'static str, &'static str)],
    arguments: &'static [&'static str],
}

/// Those that run on every cluster.
const SUITES: &[&str] = &[
    "-p",
    "milena-integration-tests",
    "--test",
    "client",
    "--test",
    "produce",
    "--test",
    "consume",
    "--test",
    "transactions",
];

fn parts() -> [Part; 6] {
    let three = || Wanted { brokers: Some(3), ..Wanted::default() };
    [
        Part {
            name: "frames",
            kafka: None,
            // Of each seed eight changed frames, four changed batches and four changed blobs.
            runs: &[
                Run {
                    environment: &[("MILENA_SEEDS", "0..125000")],
                    arguments: &["-p", "milena-protocol", "--test", "hostile"],
                },
                Run {
                    environment: &[("MILENA_SEEDS", "0..125000")],
                    arguments: &["-p", "milena-consumer", "--test", "hostile_blobs"],
                },
                // Of each seed fifty changed requests.
                Run {
                    environment: &[("MILENA_SEEDS", "0..20000")],
                    arguments: &["-p", "milena-testkit", "--test", "hostile", "changed_requests"],
                },
            ],
        },
        Part {
            name: "seeds",
            kafka: None,
            runs: &[
                Run {
                    environment: &[("MILENA_SEEDS", "0..2000")],
                    arguments: &["-p", "milena-producer", "--test", "storm", "--test", "storm_transactions"],
                },
                Run {
                    environment: &[("MILENA_SEEDS", "0..1000")],
                    arguments: &["-p", "milena-integration-tests", "--test", "determinism"],
                },
            ],
        },
        Part {
            name: "storms",
            kafka: Some(three()),
            runs: &[Run {
                environment: &[("MILENA_STORM_ROUNDS", "10")],
                arguments: &["-p", "milena-integration-tests", "--features", "storms", "--test", "storm_*"],
            }],
        },
        Part {
            name: "judges",
            kafka: None,
            runs: &[Run {
                environment: &[("MILENA_JUDGE_RECORDS", "100000")],
                arguments: &["-p", "milena-integration-tests", "--features", "judges", "--test", "judges"],
            }],
        },
        Part {
            name: "releases",
            kafka: Some(Wanted { brokers: Some(1), version: Some("3.9.1".to_owned()), ..Wanted::default() }),
            runs: &[
                Run { environment: &[], arguments: &["-p", "milena-testkit", "--test", "portable", "older_"] },
                Run { environment: &[("MILENA_RELEASE", "2.8")], arguments: SUITES },
                Run { environment: &[("MILENA_RELEASE", "3.9")], arguments: SUITES },
                Run { environment: &[("MILENA_RELEASE", "4.3")], arguments: SUITES },
            ],
        },
        Part {
            name: "older",
            kafka: Some(Wanted { features: vec!["transaction.version=1".to_owned()], ..three() }),
            runs: &[
                Run { environment: &[], arguments: &["-p", "milena-integration-tests", "--test", "transactions"] },
                Run { environment: &[], arguments: &["-p", "milena-testkit", "--test", "portable_transactions"] },
            ],
        },
    ]
}

pub(crate) fn main(mut arguments: Arguments) -> Result<()> {
    if arguments.asks_for_help() {
        print!("{HELP}");
        return Ok(());
    }
    let only = arguments.next_word();
    arguments.no_more(HELP)?;
    let commit = commit()?;
    let mut parts: Vec<Part> = parts().into();
    match &only {
        Some(name) => parts.retain(|part| part.name == name),
        None => parts.retain(|part| {
            let is_done = fs::read_to_string(part.report()).is_ok_and(|report| report.contains(&commit));
            if is_done {
                say(&format!("{}: its report is of this commit", part.name));
            }
            !is_done
        }),
    }
    if let (true, Some(name)) = (parts.is_empty(), &only) {
        return Err(format!("there is no part {name}: frames, seeds, storms, judges, releases or older"));
    }
    for part in parts {
        part.run(&commit)?;
    }
    Ok(())
}

impl Part {
    fn report(&self) -> PathBuf {
        workspace::root().join("docs/acceptance").join(format!("{}.md", self.name))
    }

    fn run(&self, commit: &str) -> Result<()> {
        say(&format!("{} …", self.name));
        let kafka = self.kafka.as_ref().map(TestKafka::start_as).transpose()?;
        let mut report = format!("# Acceptance: {}\n\nCommit {commit}. Written by `cargo xtask accept`.\n", self.name);
        for run in self.runs {
            let began = Instant::now();
            let told = run.run(kafka.as_ref())?;
            let settings: String = run.environment.iter().map(|(name, value)| format!("{name}={value} ")).collect();
            // Writing to a string cannot fail.
            let _ = write!(
                report,
                "\n## `{settings}cargo test {}`\n\n{:.0} s.\n\n```text\n{told}```\n",
                run.arguments.join(" "),
                began.elapsed().as_secs_f64()
            );
        }
        let path = self.report();
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(&path))?;
            fs::write(&path, &report)
        };
        write().map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
        say(&format!("{}: done; docs/acceptance/{}.md", self.name, self.name));
        Ok(())
    }
}

impl Run {
    /// What the tests print.
    fn run(&self, kafka: Option<&TestKafka>) -> Result<String> {
        let environment: Vec<_> =
            self.environment.iter().copied().chain(kafka.into_iter().flat_map(TestKafka::environment)).collect();
        let arguments = ["test"].iter().chain(self.arguments).chain(&["--", "--nocapture", "--test-threads=1"]);
        let mut told = String::new();
        Cargo { locked: false }.lines(arguments.copied(), &environment, |line| {
            // A seed that went well has nothing to tell but how to run it again.
            if !line.is_empty() && !line.starts_with("seed ") {
                told.push_str(line);
                told.push('\n');
            }
        })?;
        Ok(told)
    }
}

/// The commit that is tried. Changes that are in none make a report worthless.
fn commit() -> Result<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(workspace::root()).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let ask = || -> std::io::Result<(String, String)> {
        let changed = ["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/acceptance"];
        Ok((git(&["rev-parse", "HEAD"])?, git(&changed)?))
    };
    let (commit, changed) = ask().map_err(|error| format!("cannot run git: {error}"))?;
    if changed.is_empty() && !commit.is_empty() {
        return Ok(commit);
    }
    Err(format!("a report names a commit, and there are changes that are in none; commit them first:\n{changed}"))
}
