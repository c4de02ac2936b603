//! What one measured process is told, and what it says at its end.

use std::fmt;
use std::time::Duration;

use spine::Report;

/// A client, and the way in which it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Client {
    MilenaPoll,
    MilenaRecv,
    MilenaStream,
    RdkafkaBase,
    RdkafkaStream,
    Krafka,
    Rskafka,
    /// Java's `ConsumerPerformance`: on real Kafka only, and no process of ours.
    Java,
}

impl Client {
    const ALL: [(Self, &'static str, &'static str); 8] = [
        (Self::MilenaPoll, "milena-poll", "milena `poll` (views)"),
        (Self::MilenaRecv, "milena-recv", "milena `recv` (a view)"),
        (Self::MilenaStream, "milena-stream", "milena `stream` (owned)"),
        (Self::RdkafkaBase, "rdkafka-base", "rdkafka BaseConsumer"),
        (Self::RdkafkaStream, "rdkafka-stream", "rdkafka StreamConsumer"),
        (Self::Krafka, "krafka", "krafka `poll`"),
        (Self::Rskafka, "rskafka", "rskafka StreamConsumer"),
        (Self::Java, "java", "Java ConsumerPerformance"),
    ];

    /// All of them, milena's ways first.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().map(|(client, ..)| client)
    }

    pub(crate) fn is_milena(self) -> bool {
        matches!(self, Self::MilenaPoll | Self::MilenaRecv | Self::MilenaStream)
    }

    /// As it stands on command lines.
    pub(crate) fn word(self) -> &'static str {
        Self::ALL.iter().find(|(client, ..)| *client == self).map_or("", |(_, word, _)| word)
    }

    /// As it stands in tables.
    pub(crate) fn title(self) -> &'static str {
        Self::ALL.iter().find(|(client, ..)| *client == self).map_or("", |(.., title)| title)
    }

    pub(crate) fn of_word(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known, _)| *known == word).map(|(client, ..)| *client)
    }
}

/// How long a process reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// That long after a warm-up: an endless log.
    Time { warm_up: Duration, measured: Duration },
    /// So many records, and everything from the first connection on counts: a topic that ends.
    Records(u64),
    /// It writes a record of its own every two milliseconds into partition 0, and measures until it has read it.
    Latency(Duration),
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) client: Client,
    pub(crate) bootstrap_servers: String,
    pub(crate) topic: String,
    pub(crate) partitions: i32,
    pub(crate) until: Until,
}

impl Job {
    pub(crate) fn to_words(&self) -> Vec<String> {
        let (kind, first, second) = match self.until {
            Until::Time { warm_up, measured } => ("time", warm_up.as_millis() as u64, measured.as_millis() as u64),
            Until::Records(records) => ("records", records, 0),
            Until::Latency(measured) => ("latency", measured.as_millis() as u64, 0),
        };
        let mut words = vec![self.client.word().to_owned(), self.bootstrap_servers.clone(), self.topic.clone()];
        words.extend([self.partitions.to_string(), kind.to_owned(), first.to_string(), second.to_string()]);
        words
    }

    /// Reads what [`to_words`](Self::to_words) wrote.
    pub(crate) fn of_words(mut words: impl Iterator<Item = String>) -> Option<Self> {
        let mut next = move || words.next();
        let (client, bootstrap_servers, topic) = (Client::of_word(&next()?)?, next()?, next()?);
        let partitions = next()?.parse().ok()?;
        let (kind, first, second) = (next()?, next()?.parse().ok()?, next()?.parse().ok()?);
        let until = match kind.as_str() {
            "time" => Until::Time { warm_up: Duration::from_millis(first), measured: Duration::from_millis(second) },
            "records" => Until::Records(first),
            "latency" => Until::Latency(Duration::from_millis(first)),
            _ => return None,
        };
        Some(Self { client, bootstrap_servers, topic, partitions, until })
    }
}

/// What a process says at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) report: Report,
    /// From just before a record was sent until it was read, in microseconds; 0 where it was not measured.
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

impl Outcome {
    pub(crate) fn parse(output: &str) -> Option<Self> {
        let line = output.lines().rev().find(|line| line.starts_with("latency "))?;
        let value = |name: &str| -> Option<u64> {
            line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?.parse().ok()
        };
        Some(Self { report: Report::parse(output)?, p50_us: value("p50_us")?, p99_us: value("p99_us")? })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nlatency p50_us={} p99_us={}", self.report, self.p50_us, self.p99_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_read_back() {
        for until in [
            Until::Time { warm_up: Duration::from_millis(3), measured: Duration::from_millis(4) },
            Until::Records(5),
            Until::Latency(Duration::from_millis(6)),
        ] {
            let job = Job {
                client: Client::Krafka,
                bootstrap_servers: "a:1,b:2".to_owned(),
                topic: "t".to_owned(),
                partitions: 12,
                until,
            };
            assert_eq!(Job::of_words(job.to_words().into_iter()), Some(job));
        }
    }

    #[test]
    fn an_outcome_is_read_back() {
        let report =
            Report { records: 7, wall: Duration::from_micros(3), cpu: Duration::from_micros(14), peak_kilobytes: 9 };
        let outcome = Outcome { report, p50_us: 5, p99_us: 8 };
        assert_eq!(Outcome::parse(&format!("noise\n{outcome}\n")), Some(outcome));
    }
}
