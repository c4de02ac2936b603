//! The goals, and which of them are reached.

use std::fmt;

use crate::case::{ALONE, CENTRE, WITH_IDLE};
use crate::job::Client;
use crate::row::{Row, Runs};

/// One goal, and what was measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Goal {
    pub(crate) wanted: String,
    pub(crate) measured: String,
    pub(crate) reached: bool,
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.reached { "reached" } else { "missed" };
        write!(f, "{verdict}: {}: {}", self.wanted, self.measured)
    }
}

/// All goals for which there are figures.
pub(crate) fn check(rows: &[Row]) -> Vec<Goal> {
    let mut goals = Vec::new();
    for (client, least) in [(Client::MilenaPoll, 30.0), (Client::MilenaStream, 20.0)] {
        let Some(runs) = Runs::of(rows, CENTRE, client) else { continue };
        let measured = runs.median(Row::per_cpu_second);
        let beside = best_peer(rows, CENTRE).map_or_else(String::new, |(peer, cpu)| {
            format!(", {:.1} × {}", cpu / runs.median(Row::cpu_per_record), peer.title())
        });
        goals.push(Goal {
            wanted: format!("{}: at least {least} M records per CPU second ({CENTRE})", client.title()),
            measured: format!("{measured:.1} M{beside}"),
            reached: measured >= least,
        });
    }
    let both = Runs::of(rows, ALONE, Client::MilenaPoll).zip(Runs::of(rows, WITH_IDLE, Client::MilenaPoll));
    if let Some((alone, with_idle)) = both {
        let p50 = |runs: &Runs<'_>| runs.median(|row| row.outcome.p50_us as f64);
        let (alone, with_idle) = (p50(&alone), p50(&with_idle));
        goals.push(Goal {
            wanted: "p50 with an idle second broker: at most 2 × without".to_owned(),
            measured: format!("{:.2} ms and {:.2} ms", with_idle / 1e3, alone / 1e3),
            reached: with_idle <= 2.0 * alone,
        });
    }
    let mut cases: Vec<&str> = rows.iter().map(|row| row.case.as_str()).collect();
    cases.dedup();
    for case in cases {
        let both = Runs::of(rows, case, Client::MilenaPoll).zip(Runs::of(rows, case, Client::Java));
        let Some((milena, java)) = both else { continue };
        let ratio = milena.median(Row::cpu_per_record) / java.median(Row::cpu_per_record);
        goals.push(Goal {
            wanted: format!("{case}: at most 0.2 × Java's CPU per record"),
            measured: format!("{ratio:.3} ×"),
            reached: ratio <= 0.2,
        });
    }
    goals
}

/// The peer with the least CPU per record.
pub(crate) fn best_peer(rows: &[Row], case: &str) -> Option<(Client, f64)> {
    let peers = Client::all().filter(|client| !client.is_milena());
    let medians = peers.filter_map(|peer| Some((peer, Runs::of(rows, case, peer)?.median(Row::cpu_per_record))));
    medians.min_by(|(_, a), (_, b)| a.total_cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::tests::row;

    #[test]
    fn a_goal_is_reached_or_missed_by_its_median() {
        let reached = |cpu_us| check(&[row(CENTRE, Client::MilenaPoll, cpu_us, 0)])[0].reached;
        assert!(reached(33_000));
        assert!(!reached(34_000));
    }

    #[test]
    fn the_idle_broker_is_compared_with_its_absence() {
        let rows = |p50| [row(ALONE, Client::MilenaPoll, 1, 100), row(WITH_IDLE, Client::MilenaPoll, 1, p50)];
        assert!(check(&rows(200))[0].reached);
        assert!(!check(&rows(201))[0].reached);
    }

    #[test]
    fn java_is_the_measure_on_real_kafka() {
        let rows = [row("k", Client::MilenaPoll, 10, 0), row("k", Client::Java, 49, 0)];
        assert!(!check(&rows)[0].reached);
    }
}
