//! The tables: `bench/RESULTS.md`, all of it.

use std::fmt::Write as _;

use crate::case::{self, Case, HALF, Part};
use crate::goals::{Goal, best, megabytes_per_second};
use crate::job::Client;
use crate::kept::Measured;
use crate::row::{Row, Runs};

/// What the profiler showed, written by hand beside the figures.
const PROFILE: &str = include_str!("../profile.md");

const HOW: &str = "\
# milena's producer beside its peers

Written by `cargo xtask bench produce`; not by hand.

Two shared cores carry the client, the broker and whatever else the machine does; that is said for each part. So a figure is worth
what the figures beside it are worth: all clients of a case take turns in one run, as many rounds as are said, and medians stand here
(with the least and the most). Compare within a table, never with another day's.

Each run is a process of its own. CPU is user and system time of that process, memory is its peak (`VmHWM`), and the records are those
sent in a fixed time after a warm-up, every delivery awaited or counted by its callback. acks=all, idempotent (but for rskafka, which
cannot), linger 5 ms, batches of 16 KB, keys of 16 bytes hashed as Java does (rskafka has no partitioner: its keys are hashed by the
program), values like JSON. At most 10,000 deliveries are outstanding, with 100 partitions 100,000: enough to fill the batches. milena
is used through `send` with its defaults, so its open batches may grow to 64 KB while five are in flight; librdkafka and krafka, when
idempotent, have one batch of a partition under way at a time. milena's sockets have a thread of their own, as by default, and
librdkafka has its threads; the others share a runtime of two workers. confluent-kafka 1.0 is in the tables only if it was built
(`--with-confluent`: a quarter of an hour and 4 GB of memory, because its libraries for C come along).

The null broker takes one request of a connection at a time, as Kafka does, keeps nothing, and answers at once.
";

pub(crate) fn render(measured: &Measured, goals: &[Goal], quick: bool) -> String {
    let mut text = HOW.to_owned();
    text.push_str("\n## Goals\n\n| goal | measured | |\n|---|---|---|\n");
    for goal in goals {
        let verdict = if goal.reached { "reached" } else { "**missed**" };
        let _ = writeln!(text, "| {} | {} | {verdict} |", goal.wanted, goal.measured);
    }
    if goals.iter().any(|goal| !goal.reached) {
        let _ = write!(text, "\n{}", PROFILE.trim_start());
    }
    for part in Part::ALL {
        let Some(runs) = measured.part(part) else { continue };
        let _ = write!(text, "\n## {}\n\n{}\n", title(part), remark(part));
        let rounds =
            runs.rows.first().and_then(|row| Runs::of(&runs.rows, &row.case, row.client)).map_or(0, |all| all.count());
        let _ =
            writeln!(text, "\nRounds: {rounds}. Other processes used {:.2} of the two cores meanwhile.", runs.others);
        for case in case::cases(part, quick) {
            let rows: Vec<Runs<'_>> = Client::RUST
                .into_iter()
                .chain([Client::Java])
                .filter_map(|client| Runs::of(&runs.rows, &case.id, client))
                .collect();
            if !rows.is_empty() {
                let _ = write!(text, "\n### {}\n\n", case.title);
                table(&mut text, part, &case, &rows, &runs.rows);
            }
        }
    }
    text
}

fn title(part: Part) -> &'static str {
    match part {
        Part::Matrix => "Null broker: as fast as each client can",
        Part::Latency => "Null broker: latency at a given rate",
        Part::Delay => "One partition, 10 ms away",
        Part::Kafka => "Real Kafka 4.3.0",
    }
}

fn remark(part: Part) -> &'static str {
    match part {
        Part::Matrix => {
            "The ratio is milena's records per second of CPU over the client's: what a record costs there, in milena's."
        }
        Part::Latency => {
            "100-byte records, keyed, 6 partitions. From the moment at which a record was due, not at which it was sent, to its\n\
             acknowledgement; records come in bursts of one millisecond. The linger of 5 ms is in it where batches do not fill before.\n\
             Futures are awaited in the order of the records, so that a record counts until those before it are acknowledged, too:\n\
             in other partitions, whose linger began later. ThreadedProducer tells each record by itself."
        }
        Part::Delay => {
            "100-byte records. In the network, a round trip is 10 ms longer, and requests may overlap; in the broker, each request of a\n\
             connection takes 10 ms, one after the other. Where batches may reach 64 KB, the peers' have 64 KB from the start, and milena's\n\
             16 KB that grow while five are in flight. rskafka sends without an order, as many at a time as it likes. CPU per second\n\
             says who spins while it waits."
        }
        Part::Kafka => {
            "One broker on the same two cores, its CPU beside the client's; warm-up 1 s, measured 2 s. Java's ProducerPerformance sends\n\
             2,000,000 records (500,000 of 1 KiB) without keys; the start of its virtual machine is in its figures."
        }
    }
}

fn table(text: &mut String, part: Part, case: &Case, clients: &[Runs<'_>], rows: &[Row]) {
    let columns: &[&str] = match part {
        Part::Matrix => &[
            "records/s",
            "CPU µs per record",
            "records per CPU s: ratio",
            "peak MB",
            "records/batch",
            "batches/request",
        ],
        Part::Latency => &["records/s", "p50 ms", "p99 ms", "CPU µs per record", "peak MB"],
        Part::Delay => &["MB/s", "CPU s per s", "CPU µs per record", "peak MB", "records/batch", "round trip ms"],
        Part::Kafka => &["records/s", "client CPU µs per record", "ratio", "broker CPU µs per record", "peak MB"],
    };
    let _ = writeln!(text, "| client | {} |\n|---|{}", columns.join(" | "), "---|".repeat(columns.len()));
    let milena = Runs::of(rows, &case.id, Client::Milena).map(|runs| runs.median(Row::cpu_per_record));
    for runs in clients {
        let rate = thousands(runs.median(Row::rate));
        let (least, most) = runs.range(Row::cpu_per_record);
        let cpu = format!("{:.3} [{least:.3}–{most:.3}]", runs.median(Row::cpu_per_record));
        let ratio =
            milena.map_or_else(String::new, |milena| format!("{:.1}", runs.median(Row::cpu_per_record) / milena));
        let peak = format!("{:.0}", runs.median(|row| row.peak_kilobytes as f64 / 1024.0));
        let filled = format!("{:.0}", runs.median(|row| row.produced as f64 / row.batches.max(1) as f64));
        let cells = match part {
            Part::Matrix => {
                let together = runs.median(|row| row.batches as f64 / row.requests.max(1) as f64);
                vec![rate, cpu, ratio, peak, filled, format!("{together:.1}")]
            }
            Part::Latency => {
                let ms = |value: f64| format!("{:.2}", value / 1000.0);
                let (p50, p99) = (runs.median(|row| row.p50_us as f64), runs.median(|row| row.p99_us as f64));
                vec![rate, ms(p50), ms(p99), cpu, peak]
            }
            Part::Delay => {
                let round_trip = runs.median(|row| row.round_trip_us as f64 / 1000.0);
                let cores = runs.median(Row::cores);
                let speed = runs.median(megabytes_per_second);
                vec![format!("{speed:.1}"), format!("{cores:.3}"), cpu, peak, filled, format!("{round_trip:.1}")]
            }
            Part::Kafka => {
                let broker = runs.median(|row| row.broker_ns as f64 / 1000.0);
                vec![rate, cpu, ratio, format!("{broker:.2}"), peak]
            }
        };
        let _ = writeln!(text, "| {} | {} |", runs.client.title(), cells.join(" | "));
    }
    if part != Part::Delay && case.id != HALF {
        if let (Some((peer, cpu)), Some(milena)) = (best(rows, &case.id, Row::cpu_per_record), milena) {
            let _ = writeln!(text, "\nBest peer by CPU: {}, {:.1} × milena's.", peer.title(), cpu / milena);
        }
        if let (Some((peer, rate)), Some(milena)) =
            (best(rows, &case.id, |row| -row.rate()), Runs::of(rows, &case.id, Client::Milena))
            && part == Part::Matrix
        {
            let _ = writeln!(
                text,
                "Best peer by rate: {}; milena's is {:.1} × its.",
                peer.title(),
                milena.median(Row::rate) / -rate
            );
        }
    }
    let counts: Vec<usize> = clients.iter().map(Runs::count).collect();
    if let (Some(least), Some(most)) = (counts.iter().min(), counts.iter().max())
        && least != most
    {
        let _ = writeln!(text, "\nSome runs failed: between {least} and {most} of each client are in this table.");
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_come_in_threes() {
        assert_eq!(thousands(7.0), "7");
        assert_eq!(thousands(1234.4), "1,234");
        assert_eq!(thousands(9_876_543.0), "9,876,543");
    }
}
