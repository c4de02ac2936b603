//! One run, as it is kept in a file between the parts of the benchmark, and the medians of several.

use crate::job::Client;

/// One run of one client in one case.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) client: Client,
    pub(crate) records: u64,
    pub(crate) wall_us: u64,
    pub(crate) cpu_us: u64,
    pub(crate) peak_kilobytes: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    /// What the null broker counted, warm-up included: Produce requests, batches and records in them.
    pub(crate) requests: u64,
    pub(crate) batches: u64,
    pub(crate) produced: u64,
    /// Nanoseconds of the broker's CPU per record; 0 where it was not looked at.
    pub(crate) broker_ns: u64,
    /// A round trip to the broker, just before; 0 where it was not measured.
    pub(crate) round_trip_us: u64,
}

impl Row {
    pub(crate) fn to_line(&self) -> String {
        let numbers = [
            self.records,
            self.wall_us,
            self.cpu_us,
            self.peak_kilobytes,
            self.p50_us,
            self.p99_us,
            self.requests,
            self.batches,
            self.produced,
            self.broker_ns,
            self.round_trip_us,
        ];
        let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
        format!("{}\t{}\t{}", self.case, self.client, numbers.join("\t"))
    }

    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        let case = fields.next()?.to_owned();
        let client = Client::of_word(fields.next()?)?;
        let mut number = || fields.next()?.parse().ok();
        Some(Self {
            case,
            client,
            records: number()?,
            wall_us: number()?,
            cpu_us: number()?,
            peak_kilobytes: number()?,
            p50_us: number()?,
            p99_us: number()?,
            requests: number()?,
            batches: number()?,
            produced: number()?,
            broker_ns: number()?,
            round_trip_us: number()?,
        })
    }

    /// Records per second of elapsed time.
    pub(crate) fn rate(&self) -> f64 {
        self.records as f64 * 1e6 / self.wall_us.max(1) as f64
    }

    /// Microseconds of the client's CPU per record.
    pub(crate) fn cpu_per_record(&self) -> f64 {
        self.cpu_us as f64 / self.records.max(1) as f64
    }

    /// How much of one core the client uses.
    pub(crate) fn cores(&self) -> f64 {
        self.cpu_us as f64 / self.wall_us.max(1) as f64
    }
}

/// The runs of one client in one case.
#[derive(Debug, Clone)]
pub(crate) struct Runs<'a> {
    pub(crate) client: Client,
    rows: Vec<&'a Row>,
}

impl<'a> Runs<'a> {
    /// `None` when there was none.
    pub(crate) fn of(rows: &'a [Row], case: &str, client: Client) -> Option<Self> {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.case == case && row.client == client).collect();
        (!rows.is_empty()).then_some(Self { client, rows })
    }

    pub(crate) fn count(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn median(&self, value: impl Fn(&Row) -> f64) -> f64 {
        self.sorted(value)[self.rows.len() / 2]
    }

    /// The least and the most.
    pub(crate) fn range(&self, value: impl Fn(&Row) -> f64) -> (f64, f64) {
        let sorted = self.sorted(value);
        (sorted[0], sorted[sorted.len() - 1])
    }

    fn sorted(&self, value: impl Fn(&Row) -> f64) -> Vec<f64> {
        let mut values: Vec<f64> = self.rows.iter().map(|row| value(row)).collect();
        values.sort_by(f64::total_cmp);
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cpu_us: u64) -> Row {
        Row {
            case: "100B, 6 partitions".to_owned(),
            client: Client::Krafka,
            records: 10,
            wall_us: 20,
            cpu_us,
            peak_kilobytes: 1,
            p50_us: 2,
            p99_us: 3,
            requests: 4,
            batches: 5,
            produced: 6,
            broker_ns: 7,
            round_trip_us: 8,
        }
    }

    #[test]
    fn a_row_is_read_back() {
        assert_eq!(Row::of_line(&row(9).to_line()), Some(row(9)));
    }

    #[test]
    fn the_median_is_that_of_the_values() {
        let rows = [row(50), row(10), row(20)];
        let runs = Runs::of(&rows, "100B, 6 partitions", Client::Krafka).unwrap();
        assert!((runs.median(Row::cpu_per_record) - 2.0).abs() < 1e-9);
        assert_eq!(runs.range(Row::cpu_per_record), (1.0, 5.0));
        assert!(Runs::of(&rows, "100B, 6 partitions", Client::Milena).is_none());
    }
}
