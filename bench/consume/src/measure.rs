//! The parts against the null broker, and against two brokers of the test kit.

use std::time::Duration;

use milena_testkit::Cluster;
use spine::null_broker::NullBroker;
use spine::process;

use crate::Options;
use crate::case::{self, Case, Part};
use crate::job::{Client, Job, Outcome, Until};
use crate::row::Row;

/// A run that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs every client of a case in turn, as many rounds as are wanted. One client's failure is no reason to lose the others' figures.
pub(crate) fn rounds(
    case: &Case,
    options: &Options,
    problems: &mut Vec<String>,
    mut one: impl FnMut(Client) -> Result<Row, String>,
) -> Vec<Row> {
    let mut rows = Vec::new();
    for round in 1..=options.rounds {
        // Java's consumer is measured on real Kafka only.
        let java = matches!(case.until, Until::Records(_));
        let wanted = |client: &Client| options.includes(*client) && (java || *client != Client::Java);
        for client in Client::all().filter(wanted) {
            eprintln!("{}, round {round} of {}: {}", case.title, options.rounds, client.title());
            match one(client) {
                Ok(row) => rows.push(row),
                Err(problem) => {
                    eprintln!("bench-consume: {problem}");
                    problems.push(problem);
                }
            }
        }
    }
    rows
}

pub(crate) fn on_the_null_broker(options: &Options, problems: &mut Vec<String>) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for case in case::cases(Part::Null, options.quick) {
        let partitions = case.partitions.to_string();
        let codec = if case.lz4 { "lz4" } else { "none" };
        let broker =
            NullBroker::start(&process::beside("nullbroker")?, &["--partitions", &partitions, "--codec", codec])?;
        rows.extend(rounds(&case, options, problems, |client| {
            let before = broker.counts()?;
            let outcome = process(&case.job(client, broker.bootstrap_servers(), "bench"))?;
            let fetched = broker.counts()?.since(&before);
            // Of the null broker's own records: some are fetched and not read when the time is over.
            let bytes_per_record = fetched.fetched_bytes as f64 / fetched.fetched_records.max(1) as f64;
            Ok(Row { case: case.title.clone(), client, outcome, bytes_per_record, broker_us: 0.0 })
        }));
    }
    Ok(rows)
}

pub(crate) fn latency(options: &Options, problems: &mut Vec<String>) -> Result<Vec<Row>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let mut rows = Vec::new();
    for case in case::cases(Part::Latency, options.quick) {
        rows.extend(rounds(&case, options, problems, |client| {
            // A new one for each: nobody reads what another has written.
            let builder = Cluster::builder().brokers(2).topic("bench", 2).request_log(false);
            let cluster = runtime.block_on(builder.start()).map_err(|e| format!("the brokers do not start: {e}"))?;
            cluster.move_leader("bench", 0, 1);
            cluster.move_leader("bench", 1, 2);
            let outcome = process(&case.job(client, &cluster.bootstrap_servers(), "bench"));
            runtime.block_on(cluster.shutdown());
            Ok(Row { case: case.title.clone(), client, outcome: outcome?, bytes_per_record: 0.0, broker_us: 0.0 })
        }));
    }
    Ok(rows)
}

impl Case {
    pub(crate) fn job(&self, client: Client, servers: &str, topic: &str) -> Job {
        let (bootstrap_servers, topic) = (servers.to_owned(), topic.to_owned());
        Job { client, bootstrap_servers, topic, partitions: self.partitions, until: self.until }
    }
}

/// Runs one client to its end and reads its last lines.
pub(crate) fn process(job: &Job) -> Result<Outcome, String> {
    let name = job.client.title();
    let text = process::client(name, &job.to_words(), PATIENCE)?;
    Outcome::parse(&text).ok_or_else(|| format!("{name} printed no result:\n{text}"))
}
