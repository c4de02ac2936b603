//! The tables: `bench/CONSUME.md`, all of it.

use std::fmt::Write as _;

use crate::case::{self, Part};
use crate::goals::{Goal, best_peer};
use crate::job::Client;
use crate::row::{Row, Runs};

const HOW: &str = "\
# milena's reader beside its peers

Written by `cargo xtask bench consume`; not by hand.

Two shared cores carry the client, the broker and whatever else the machine does. So a figure is worth what the figures beside it are
worth: all clients of a case take turns in one run, as many rounds as are said, and medians stand here (with the least and the most).
Compare within a table, never with another day's.

Each run is a process of its own. CPU is user and system time of that process, memory is its peak (`VmHWM`). Values of 100 bytes like
JSON in batches of 16 KB; every value is looked at, and no offset is committed. All clients have their default settings, but for rskafka, which asks for
1 MiB of a partition, as the others do. milena's sockets have a thread of their own, as by default, and librdkafka has its threads; krafka
and rskafka share a runtime of two workers.
";

pub(crate) fn render(rows: &[Row], goals: &[Goal], quick: bool) -> String {
    let mut text = HOW.to_owned();
    text.push_str("\n## Goals\n\n| goal | measured | |\n|---|---|---|\n");
    for goal in goals {
        let verdict = if goal.reached { "reached" } else { "**missed**" };
        let _ = writeln!(text, "| {} | {} | {verdict} |", goal.wanted, goal.measured);
    }
    for part in Part::ALL {
        let cases = case::cases(part, quick);
        if !cases.iter().any(|case| rows.iter().any(|row| row.case == case.title)) {
            continue;
        }
        let _ = write!(text, "\n## {}\n", remark(part));
        for case in cases {
            table(&mut text, part, &case.title, rows);
        }
    }
    text
}

fn remark(part: Part) -> &'static str {
    match part {
        Part::Null => {
            "Null broker\n\nIt takes one request of a connection at a time, as Kafka does, and answers at once, from memory, with an endless\n\
             log. 0.2 s of warm-up, 0.5 s measured. Bytes are those of the answers by record in them."
        }
        Part::Latency => {
            "Latency\n\nTwo brokers of the test kit over TCP. milena's producer, without linger, writes one record every two milliseconds to a\n\
             partition of the first broker, for every client; from just before the record is sent until it is read, in the same process.\n\
             With an idle second broker the client reads a partition of that broker, too, to which nobody writes."
        }
        Part::Kafka => {
            "Real Kafka 4.3.0\n\nOne broker on the same two cores, its CPU beside the client's. Everything from the client's start to the last\n\
             record counts: for Java the start of its virtual machine, too."
        }
    }
}

fn table(text: &mut String, part: Part, title: &str, rows: &[Row]) {
    let clients: Vec<(Client, Runs<'_>)> =
        Client::all().filter_map(|client| Some((client, Runs::of(rows, title, client)?))).collect();
    if clients.is_empty() {
        return;
    }
    let columns: &[&str] = match part {
        Part::Null => &["M records/s", "M records per CPU s", "CPU µs per record", "ratio", "peak MB", "bytes/record"],
        Part::Latency => &["p50 ms", "p99 ms", "peak MB"],
        Part::Kafka => {
            &["M records/s", "M records per CPU s", "CPU µs per record", "ratio", "broker CPU µs per record", "peak MB"]
        }
    };
    let _ =
        writeln!(text, "\n### {title}\n\n| client | {} |\n|---|{}", columns.join(" | "), "---|".repeat(columns.len()));
    let own = Runs::of(rows, title, Client::MilenaPoll).map(|runs| runs.median(Row::cpu_per_record));
    for (client, runs) in &clients {
        let (least, most) = runs.range(Row::cpu_per_record);
        let cpu = format!("{:.3} [{least:.3}–{most:.3}]", runs.median(Row::cpu_per_record));
        let ratio = own.map_or_else(String::new, |own| format!("{:.1}", runs.median(Row::cpu_per_record) / own));
        let rate = format!("{:.2}", runs.median(Row::rate));
        let per_cpu_second = format!("{:.1}", runs.median(Row::per_cpu_second));
        let peak = format!("{:.0}", runs.median(|row| row.outcome.report.peak_kilobytes as f64 / 1024.0));
        let ms = |value: fn(&Row) -> u64| format!("{:.2}", runs.median(|row| value(row) as f64) / 1000.0);
        let cells = match part {
            Part::Null => {
                let bytes = format!("{:.0}", runs.median(|row| row.bytes_per_record));
                vec![rate, per_cpu_second, cpu, ratio, peak, bytes]
            }
            Part::Latency => vec![ms(|row| row.outcome.p50_us), ms(|row| row.outcome.p99_us), peak],
            Part::Kafka => {
                vec![rate, per_cpu_second, cpu, ratio, format!("{:.3}", runs.median(|row| row.broker_us)), peak]
            }
        };
        let _ = writeln!(text, "| {} | {} |", client.title(), cells.join(" | "));
    }
    if let (Some((peer, cpu)), Some(own), true) = (best_peer(rows, title), own, part != Part::Latency) {
        let _ = writeln!(text, "\nBest peer by CPU: {}, {:.1} × milena's `poll`.", peer.title(), cpu / own);
    }
    let rounds = clients.iter().map(|(_, runs)| runs.count());
    let (least, most) = (rounds.clone().min().unwrap_or_default(), rounds.max().unwrap_or_default());
    let runs = if least == most { most.to_string() } else { format!("{least} to {most}: some runs failed") };
    let _ = writeln!(text, "\nRuns of each client: {runs}.");
}
