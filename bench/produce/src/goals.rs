//! The goals, and which of them are reached.

use std::fmt;

use crate::case::{CENTRE, NETWORK_16, NETWORK_64, Part};
use crate::job::Client;
use crate::kept::Measured;
use crate::row::{Row, Runs};

/// Microseconds of CPU per record in the case [`CENTRE`] above which the bench fails.
const CEILING: f64 = 0.25;

/// One goal, and what was measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Goal {
    pub(crate) wanted: String,
    pub(crate) measured: String,
    pub(crate) reached: bool,
    pub(crate) fails_the_bench: bool,
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.reached { "reached" } else { "missed" };
        write!(f, "{verdict}: {}: {}", self.wanted, self.measured)
    }
}

fn goal(wanted: impl Into<String>, measured: String, reached: bool) -> Goal {
    Goal { wanted: wanted.into(), measured, reached, fails_the_bench: false }
}

/// All goals for which there are figures.
pub(crate) fn check(measured: &Measured) -> Vec<Goal> {
    let mut goals = Vec::new();
    centre(measured.rows(Part::Matrix), &mut goals);
    delayed(measured.rows(Part::Delay), &mut goals);
    on_kafka(measured.rows(Part::Kafka), &mut goals);
    goals
}

/// The peer with the least of something.
pub(crate) fn best<'a>(rows: &'a [Row], case: &str, value: impl Fn(&Row) -> f64 + Copy) -> Option<(Client, f64)> {
    let peers = Client::RUST.into_iter().skip(1).chain([Client::Java]);
    let medians = peers.filter_map(|peer| Some((peer, Runs::of(rows, case, peer)?.median(value))));
    medians.min_by(|(_, a), (_, b)| a.total_cmp(b))
}

fn centre(rows: &[Row], goals: &mut Vec<Goal>) {
    let Some(milena) = Runs::of(rows, CENTRE, Client::Milena) else { return };
    let cpu = milena.median(Row::cpu_per_record);
    goals.push(goal(format!("at most 0.12 µs of CPU per record ({CENTRE})"), format!("{cpu:.3} µs"), cpu <= 0.12));
    let mut ceiling = goal(format!("never above {CEILING} µs there"), format!("{cpu:.3} µs"), cpu <= CEILING);
    ceiling.fails_the_bench = !ceiling.reached;
    goals.push(ceiling);
    if let Some((peer, least)) = best(rows, CENTRE, Row::cpu_per_record) {
        let ratio = least / cpu;
        goals.push(goal(
            "at least 5 × the best peer's records per second of CPU there",
            format!("{ratio:.1} × {}", peer.title()),
            ratio >= 5.0,
        ));
    }
    if let Some((peer, slowness)) = best(rows, CENTRE, |row| -row.rate()) {
        let ratio = milena.median(Row::rate) / -slowness;
        goals.push(goal(
            "at least 2.5 × the best peer's records per second there",
            format!("{ratio:.1} × {}", peer.title()),
            ratio >= 2.5,
        ));
    }
}

/// Bytes of values per second.
pub(crate) fn megabytes_per_second(row: &Row) -> f64 {
    row.rate() * 100.0 / 1e6
}

fn delayed(rows: &[Row], goals: &mut Vec<Goal>) {
    if let Some(milena) = Runs::of(rows, NETWORK_16, Client::Milena) {
        // Five batches of as many records as they held, each measured round trip.
        let share = milena.median(|row| {
            let batch = row.produced as f64 / row.batches.max(1) as f64;
            row.rate() / (5.0 * batch * 1e6 / row.round_trip_us.max(1) as f64)
        });
        goals.push(goal(
            format!("one partition, {NETWORK_16}: at least 85 % of five batches per measured round trip"),
            format!("{:.0} %, {:.1} MB/s", share * 100.0, milena.median(megabytes_per_second)),
            share >= 0.85,
        ));
        let cores = milena.median(Row::cores);
        goals.push(goal("no spinning there: at most 0.05 s of CPU per second", format!("{cores:.3} s"), cores <= 0.05));
    }
    if let Some(milena) = Runs::of(rows, NETWORK_64, Client::Milena) {
        let rate = milena.median(megabytes_per_second);
        goals.push(goal(
            format!("one partition, {NETWORK_64}: at least 25 MB/s"),
            format!("{rate:.1} MB/s"),
            rate >= 25.0,
        ));
    }
}

fn on_kafka(rows: &[Row], goals: &mut Vec<Goal>) {
    let mut cases: Vec<&str> = rows.iter().map(|row| row.case.as_str()).collect();
    cases.dedup();
    for case in cases {
        let Some(milena) = Runs::of(rows, case, Client::Milena) else { continue };
        let Some((peer, least)) = best(rows, case, Row::cpu_per_record) else { continue };
        let ratio = milena.median(Row::cpu_per_record) / least;
        goals.push(goal(
            format!("real Kafka, {case}: at most 0.4 × the best peer's CPU per record"),
            format!("{ratio:.2} × {}", peer.title()),
            ratio <= 0.4,
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kept;

    fn row(client: Client, cpu_us: u64, wall_us: u64) -> Row {
        Row {
            case: CENTRE.to_owned(),
            client,
            records: 1_000_000,
            wall_us,
            cpu_us,
            peak_kilobytes: 1,
            p50_us: 0,
            p99_us: 0,
            requests: 1,
            batches: 1,
            produced: 1,
            broker_ns: 0,
            round_trip_us: 0,
        }
    }

    fn checked(rows: Vec<Row>) -> Vec<Goal> {
        let mut measured = Measured::default();
        measured.put(Part::Matrix, kept::Runs { rows, others: 0.0 });
        check(&measured)
    }

    #[test]
    fn over_the_ceiling_the_bench_fails() {
        assert!(checked(vec![row(Client::Milena, 251_000, 1)]).iter().any(|goal| goal.fails_the_bench));
        assert!(!checked(vec![row(Client::Milena, 249_000, 1)]).iter().any(|goal| goal.fails_the_bench));
    }

    #[test]
    fn the_best_peer_is_what_counts() {
        let rows = vec![
            row(Client::Milena, 100_000, 100_000),
            row(Client::Krafka, 400_000, 900_000),
            row(Client::Confluent, 900_000, 200_000),
        ];
        let goals = checked(rows);
        assert_eq!(goals[2].measured, "4.0 × krafka `enqueue`");
        assert!(!goals[2].reached);
        assert_eq!(goals[3].measured, "2.0 × confluent-kafka `send`");
        assert!(!goals[3].reached);
    }
}
