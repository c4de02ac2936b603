//! One run of one client, and the medians of several.

use crate::job::{Client, Outcome};

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) client: Client,
    pub(crate) outcome: Outcome,
    /// Bytes of the broker's answers to Fetch, warm-up included, by record read; 0 where nobody counted.
    pub(crate) bytes_per_record: f64,
    /// Microseconds of the broker's CPU by record; 0 where it was not looked at.
    pub(crate) broker_us: f64,
}

impl Row {
    pub(crate) fn cpu_per_record(&self) -> f64 {
        self.outcome.report.cpu_per_record()
    }

    /// Millions of records per second of elapsed time.
    pub(crate) fn rate(&self) -> f64 {
        self.outcome.report.rate() / 1e6
    }

    /// Millions of records per second of the client's CPU.
    pub(crate) fn per_cpu_second(&self) -> f64 {
        1.0 / self.cpu_per_record().max(1e-9)
    }
}

/// The runs of one client in one case; never none.
#[derive(Debug, Clone)]
pub(crate) struct Runs<'a>(Vec<&'a Row>);

impl<'a> Runs<'a> {
    /// `None` when there was none.
    pub(crate) fn of(rows: &'a [Row], case: &str, client: Client) -> Option<Self> {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.case == case && row.client == client).collect();
        (!rows.is_empty()).then_some(Self(rows))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn median(&self, value: impl Fn(&Row) -> f64) -> f64 {
        self.sorted(value)[self.0.len() / 2]
    }

    /// The least and the most.
    pub(crate) fn range(&self, value: impl Fn(&Row) -> f64) -> (f64, f64) {
        let sorted = self.sorted(value);
        (sorted[0], sorted[sorted.len() - 1])
    }

    fn sorted(&self, value: impl Fn(&Row) -> f64) -> Vec<f64> {
        let mut values: Vec<f64> = self.0.iter().map(|row| value(row)).collect();
        values.sort_by(f64::total_cmp);
        values
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use spine::Report;

    use super::*;

    pub(crate) fn row(case: &str, client: Client, cpu_us: u64, p50_us: u64) -> Row {
        let (wall, cpu) = (Duration::from_secs(1), Duration::from_micros(cpu_us));
        let report = Report { records: 1_000_000, wall, cpu, peak_kilobytes: 1 };
        let outcome = Outcome { report, p50_us, p99_us: 0 };
        Row { case: case.to_owned(), client, outcome, bytes_per_record: 0.0, broker_us: 0.0 }
    }

    #[test]
    fn the_median_is_that_of_the_values() {
        let rows = [row("a", Client::Krafka, 50, 0), row("a", Client::Krafka, 10, 0), row("a", Client::Krafka, 20, 0)];
        let runs = Runs::of(&rows, "a", Client::Krafka).unwrap();
        assert!((runs.median(Row::cpu_per_record) - 0.00002).abs() < 1e-12);
        assert!(Runs::of(&rows, "a", Client::MilenaPoll).is_none());
    }
}
