//! The parts against the null broker.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use spine::null_broker::NullBroker;
use spine::process;

use crate::Options;
use crate::case::{self, Case, Delay, HALF, Part};
use crate::job::{Client, Job, Outcome};
use crate::kept::{Others, Runs};
use crate::row::{self, Row};

/// A run that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn measure(
    part: Part,
    options: &Options,
    matrix: Option<&Runs>,
    problems: &mut Vec<String>,
) -> Result<Runs, String> {
    let others = Others::start(None);
    let mut rows = Vec::new();
    for case in case::cases(part, options.quick) {
        let partitions = case.load.partitions.to_string();
        let arguments = [&["--partitions", partitions.as_str()], case.delay.arguments()].concat();
        let broker = NullBroker::start(&process::beside("nullbroker")?, &arguments)?;
        for round in 1..=options.rounds {
            for client in Client::RUST.into_iter().filter(|client| options.includes(*client)) {
                eprintln!("{}, round {round} of {}: {}, {client}", part.word(), options.rounds, case.title);
                match one(&case, client, &broker, matrix) {
                    Ok(row) => rows.push(row),
                    // One client's failure is no reason to lose the others' figures.
                    Err(problem) => {
                        eprintln!("bench-produce: {problem}");
                        problems.push(problem);
                    }
                }
            }
        }
    }
    Ok(Runs { rows, others: others.stop(None) })
}

fn one(case: &Case, client: Client, broker: &NullBroker, matrix: Option<&Runs>) -> Result<Row, String> {
    let mut load = case.load;
    if case.id == HALF {
        let rows = matrix.map(|runs| runs.rows.as_slice()).unwrap_or_default();
        let own = row::Runs::of(rows, case::CENTRE, client).ok_or("half of which rate? Measure --part matrix first")?;
        load.rate = (own.median(Row::rate) / 2.0) as u64;
    }
    let round_trip_us = if case.delay == Delay::None { 0 } else { round_trip(broker.bootstrap_servers())? };
    let job = Job { client, bootstrap_servers: broker.bootstrap_servers().to_owned(), topic: "bench".to_owned(), load };
    let before = broker.counts()?;
    let outcome = process(&job)?;
    let counts = broker.counts()?.since(&before);
    if counts.produced_records < outcome.sent {
        return Err(format!("{client} says {} records, and {} arrived", outcome.sent, counts.produced_records));
    }
    let mut row = row(case, client, &outcome);
    row.requests = counts.produce_requests;
    row.batches = counts.batches;
    row.produced = counts.produced_records;
    row.round_trip_us = round_trip_us;
    Ok(row)
}

pub(crate) fn row(case: &Case, client: Client, outcome: &Outcome) -> Row {
    Row {
        case: case.id.clone(),
        client,
        records: outcome.report.records,
        wall_us: outcome.report.wall.as_micros() as u64,
        cpu_us: outcome.report.cpu.as_micros() as u64,
        peak_kilobytes: outcome.report.peak_kilobytes,
        p50_us: outcome.p50_us,
        p99_us: outcome.p99_us,
        requests: 0,
        batches: 0,
        produced: 0,
        broker_ns: 0,
        round_trip_us: 0,
    }
}

/// Runs one client to its end and reads its last lines.
pub(crate) fn process(job: &Job) -> Result<Outcome, String> {
    let name = job.client.word();
    let text = process::client(name, &job.to_words(), PATIENCE)?;
    Outcome::parse(&text).ok_or_else(|| format!("{name} printed no result:\n{text}"))
}

/// The shortest of ten round trips of the smallest request there is, in microseconds.
fn round_trip(server: &str) -> Result<u64, String> {
    // ApiVersions, version 0, correlation id 7, no client id.
    const REQUEST: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff];
    let trips = || -> std::io::Result<u64> {
        let mut stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        let mut least = u64::MAX;
        for _ in 0..10 {
            let began = Instant::now();
            stream.write_all(&REQUEST)?;
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let mut answer = vec![0; u32::from_be_bytes(length).min(1 << 20) as usize];
            stream.read_exact(&mut answer)?;
            least = least.min(began.elapsed().as_micros() as u64);
        }
        Ok(least)
    };
    trips().map_err(|e| format!("the null broker does not answer: {e}"))
}
