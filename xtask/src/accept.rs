//! `cargo xtask accept`: the long campaigns that a release rests on, in parts that can be resumed.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use milena_kafka_process::jars;

use crate::arguments::Arguments;
use crate::docker::{Docker, ForTestcontainers};
use crate::kafka::{Wanted, image};
use crate::steps::Cargo;
use crate::test::TestKafka;
use crate::{Result, missing, planted, say, workspace};

pub(crate) const HELP: &str = "\
cargo xtask accept [PART]: the long campaigns, one part after the other

  frames   1,000,000 changed frames of every response, 500,000 changed batches of every codec, 500,000 changed blobs of group
           members, 1,000,000 changed requests to the in-process cluster, under a counting allocator
  seeds    2,000 seeds of every seeded suite: the producer's and the consumer's storms, the histories that two processes
           compare, killed Streams
  storms   ten kills of every storm, and 5,000,000 records read through one, on three real brokers (needs a JDK from 17 on, and Maven)
  judges   100,000 records of every codec written and read by kcat, librdkafka and krafka, and Java's tools, against the
           in-process cluster; what Java and kcat compress, read by us, there and on three real brokers (needs kcat, a JDK from 17 on, Maven, a C compiler and make)
  releases every portable suite on in-process clusters that are like Kafka 2.8, 3.9 and 4.3, and what a broker of 3.9.1 answers
  older    transactions on brokers that speak the protocol before KIP-890 (transaction.version=1)
  planted  the seeded suites against clients with a defect of one line each: which seed finds it
  containers
           Kafka in a container, and the portable suites on one. Uses the Docker engine that is there; without one, installs
           Debian's docker.io (as root or by sudo), starts an engine of its own and stops it again. The image is built here

  A part writes docs/acceptance/PART.md when it ends well: what was run, on which commit, and what it printed. Without PART,
  those whose report is of this commit are left out: what was interrupted goes on where it stopped.
";

/// A campaign.
struct Part {
    name: &'static str,
    kafka: Option<Wanted>,
    /// An engine, with an image of Kafka.
    containers: bool,
    runs: &'static [Run],
}

/// One call of cargo: tests, or a program if its first word is `run`.
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

fn parts() -> [Part; 7] {
    let three = || Wanted {
        brokers: Some(3),
        version: Some(jars::DEFAULT_VERSION.to_owned()),
        features: Some(Vec::new()),
        ..Wanted::default()
    };
    [
        Part {
            name: "frames",
            kafka: None,
            containers: false,
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
            containers: false,
            runs: &[
                Run {
                    environment: &[("MILENA_SEEDS", "0..2000")],
                    arguments: &["-p", "milena-producer", "--test", "storm", "--test", "storm_transactions"],
                },
                Run {
                    environment: &[("MILENA_SEEDS", "0..2000")],
                    arguments: &["-p", "milena-consumer", "--test", "fetch_storm"],
                },
                Run {
                    environment: &[("MILENA_SEEDS", "0..2000")],
                    arguments: &["-p", "milena-integration-tests", "--test", "determinism"],
                },
                Run {
                    environment: &[("MILENA_SEEDS", "0..2000")],
                    arguments: &["-p", "milena-streams", "--test", "cluster", "killed"],
                },
            ],
        },
        Part {
            name: "storms",
            kafka: Some(three()),
            containers: false,
            runs: &[Run {
                environment: &[("MILENA_STORM_ROUNDS", "10"), ("MILENA_STORM_RECORDS", "5000000")],
                arguments: &["-p", "milena-integration-tests", "--features", "storms", "--test", "storm_*"],
            }],
        },
        Part {
            name: "judges",
            kafka: Some(three()),
            containers: false,
            runs: &[
                Run {
                    environment: &[("MILENA_JUDGE_RECORDS", "100000")],
                    arguments: &["-p", "milena-integration-tests", "--features", "judges", "--test", "judges"],
                },
                Run {
                    environment: &[],
                    arguments: &[
                        "run",
                        "--manifest-path",
                        "bench/Cargo.toml",
                        "--target-dir",
                        "target/bench",
                        "-p",
                        "judges",
                        "--",
                        "100000",
                    ],
                },
            ],
        },
        Part {
            name: "releases",
            kafka: Some(Wanted {
                brokers: Some(1),
                version: Some("3.9.1".to_owned()),
                features: Some(Vec::new()),
                ..Wanted::default()
            }),
            containers: false,
            runs: &[
                Run { environment: &[], arguments: &["-p", "milena-testkit", "--test", "portable", "older_"] },
                Run { environment: &[("MILENA_RELEASE", "2.8")], arguments: SUITES },
                Run { environment: &[("MILENA_RELEASE", "3.9")], arguments: SUITES },
                Run { environment: &[("MILENA_RELEASE", "4.3")], arguments: SUITES },
            ],
        },
        Part {
            name: "older",
            kafka: Some(Wanted { features: Some(vec!["transaction.version=1".to_owned()]), ..three() }),
            containers: false,
            runs: &[
                Run { environment: &[], arguments: &["-p", "milena-integration-tests", "--test", "transactions"] },
                Run { environment: &[], arguments: &["-p", "milena-testkit", "--test", "portable_transactions"] },
            ],
        },
        Part {
            name: "containers",
            kafka: None,
            containers: true,
            // testcontainers brings some 170 crates, so nothing else builds, or lints, this feature.
            runs: &[
                Run {
                    environment: &[],
                    arguments: &["-p", "milena-integration-tests", "--features", "containers", "--test", "containers"],
                },
                Run {
                    environment: &[("MILENA_KAFKA", "container")],
                    arguments: &[
                        "-p",
                        "milena-integration-tests",
                        "--features",
                        "containers",
                        "--test",
                        "client",
                        "--test",
                        "produce",
                        "--test",
                        "consume",
                        "--test",
                        "transactions",
                        "--test",
                        "faults",
                    ],
                },
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
    if only.as_deref() == Some(PLANTED) {
        return planted(&commit);
    }
    let mut parts: Vec<Part> = parts().into();
    match &only {
        Some(name) => parts.retain(|part| part.name == name),
        None => parts.retain(|part| !is_done(part.name, &commit)),
    }
    if let (true, Some(name)) = (parts.is_empty(), &only) {
        return Err(format!(
            "there is no part {name}: frames, seeds, storms, judges, releases, older, containers or planted"
        ));
    }
    for part in parts {
        part.run(&commit)?;
    }
    if only.is_none() && !is_done(PLANTED, &commit) {
        planted(&commit)?;
    }
    Ok(())
}

/// The part that runs suites which are to fail.
const PLANTED: &str = "planted";

fn planted(commit: &str) -> Result<()> {
    let began = Instant::now();
    let table = planted::run()?;
    let took = began.elapsed().as_secs_f64();
    write_report(PLANTED, commit, &format!("\nSeeds 0..300 of each suite; {took:.0} s.\n\n{table}"))
}

fn report(part: &str) -> PathBuf {
    workspace::root().join("docs/acceptance").join(format!("{part}.md"))
}

/// Whether the part's report is of this code. Checking a report in makes a commit, too, so what counts is what has changed since.
fn is_done(part: &str, commit: &str) -> bool {
    let report = fs::read_to_string(report(part)).unwrap_or_default();
    let of = report.split_once("Commit ").and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_hexdigit()).next());
    let is_done = of.is_some_and(|of| {
        let code = ["diff", "--quiet", of, commit, "--", ".", ":!docs", ":!*.md"];
        let same = Command::new("git").args(code).current_dir(workspace::root()).status();
        !of.is_empty() && same.is_ok_and(|same| same.success())
    });
    if is_done {
        say(&format!("{part}: its report is of this code"));
    }
    is_done
}

fn write_report(part: &str, commit: &str, text: &str) -> Result<()> {
    let path = report(part);
    let with = versions();
    let text =
        format!("# Acceptance: {part}\n\nCommit {commit}. Written by `cargo xtask accept`, with {with}.\n{text}");
    let write = || {
        fs::create_dir_all(path.parent().unwrap_or(&path))?;
        fs::write(&path, &text)
    };
    write().map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    say(&format!("{part}: done; docs/acceptance/{part}.md"));
    Ok(())
}

/// What the campaigns ran with, as far as it is there.
fn versions() -> String {
    let first_line = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().ok().filter(|output| output.status.success())?;
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text)
            .lines()
            .find(|line| !line.starts_with("NOTE") && !line.is_empty())
            .map(str::to_owned)
    };
    let programs = [("rustc", "--version"), ("java", "-version"), ("kcat", "-V"), ("docker", "--version")];
    let found = programs.into_iter().filter_map(|(program, argument)| first_line(program, argument));
    found.chain([format!("Kafka {} unless said", jars::DEFAULT_VERSION)]).collect::<Vec<_>>().join("; ")
}

impl Part {
    fn run(&self, commit: &str) -> Result<()> {
        say(&format!("{} …", self.name));
        if self.kafka.is_some() && std::env::var_os("KAFKA_BOOTSTRAP_SERVERS").is_some() {
            return Err(format!(
                "{} starts brokers of its own, of the version and with the features that its report names: unset KAFKA_BOOTSTRAP_SERVERS.",
                self.name
            ));
        }
        if self.name == "judges" {
            missing::need_kcat()?;
            missing::need_c_compiler()?;
        }
        let kafka = self.kafka.as_ref().map(TestKafka::start_as).transpose()?;
        let engine = if self.containers { Some(Engine::start()?) } else { None };
        let mut report = String::new();
        for run in self.runs {
            let began = Instant::now();
            let services = kafka.iter().flat_map(TestKafka::environment);
            let told = run.run(services.chain(engine.iter().flat_map(Engine::environment)))?;
            let settings: String = run.environment.iter().map(|(name, value)| format!("{name}={value} ")).collect();
            // Writing to a string cannot fail.
            let _ = write!(
                report,
                "\n## `{settings}cargo {}`\n\n{:.0} s.\n\n```text\n{told}```\n",
                run.command().join(" "),
                began.elapsed().as_secs_f64()
            );
        }
        write_report(self.name, commit, &report)
    }
}

/// A Docker engine that has an image of Kafka.
struct Engine {
    // Fields are dropped in this order: first the relay, then what it leads to.
    reached: ForTestcontainers,
    image: String,
    _docker: Docker,
}

impl Engine {
    fn start() -> Result<Self> {
        let cargo = Cargo { locked: false };
        let lint = ["clippy", "-p", "milena-testkit", "-p", "milena-integration-tests", "--all-targets", "--features"];
        cargo.run(lint.into_iter().chain(["milena-integration-tests/containers", "--", "-D", "warnings"]), &[])?;
        let docker = Docker::here_or_installed()?;
        let image = image::build(&docker, jars::DEFAULT_VERSION, false)?;
        Ok(Self { reached: docker.for_testcontainers()?, image, _docker: docker })
    }

    fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        [("MILENA_KAFKA_IMAGE", self.image.as_str())].into_iter().chain(self.reached.environment())
    }
}

impl Run {
    /// The words behind `cargo`.
    fn command(&self) -> Vec<&'static str> {
        match self.arguments {
            ["run", ..] => self.arguments.to_vec(),
            tests => [&["test"], tests, &["--", "--nocapture", "--test-threads=1"]].concat(),
        }
    }

    /// What the tests print.
    fn run<'a>(&'a self, services: impl Iterator<Item = (&'a str, &'a str)>) -> Result<String> {
        let environment: Vec<_> = self.environment.iter().copied().chain(services).collect();
        let arguments = self.command();
        let mut told = String::new();
        Cargo { locked: false }.lines(arguments, &environment, |line| {
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
