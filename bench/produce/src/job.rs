//! What one measured process is told, and what it says at its end.

use std::fmt;
use std::time::Duration;

use spine::Report;

/// A client, and the way in which it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Client {
    Milena,
    RdkafkaThreaded,
    RdkafkaFuture,
    Krafka,
    Confluent,
    Rskafka,
    /// Java's `ProducerPerformance`: on real Kafka only, and no process of ours.
    Java,
}

impl Client {
    /// All that are programs of ours; milena first.
    pub(crate) const RUST: [Self; 6] =
        [Self::Milena, Self::RdkafkaThreaded, Self::RdkafkaFuture, Self::Krafka, Self::Confluent, Self::Rskafka];

    const ALL: [(Self, &'static str, &'static str); 7] = [
        (Self::Milena, "milena", "milena `send`"),
        (Self::RdkafkaThreaded, "rdkafka-threaded", "rdkafka ThreadedProducer"),
        (Self::RdkafkaFuture, "rdkafka-future", "rdkafka FutureProducer"),
        (Self::Krafka, "krafka", "krafka `enqueue`"),
        (Self::Confluent, "confluent-kafka", "confluent-kafka `send`"),
        (Self::Rskafka, "rskafka", "rskafka BatchProducer"),
        (Self::Java, "java", "Java ProducerPerformance"),
    ];

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

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What is sent, and how: the same for every client.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Load {
    pub(crate) value_size: usize,
    pub(crate) partitions: i32,
    /// Each record has a key of 16 bytes, which the client hashes as Java does; else the program names the partitions in turn.
    pub(crate) keyed: bool,
    pub(crate) lz4: bool,
    /// Bytes at which a batch is full.
    pub(crate) batch: usize,
    /// Bytes up to which milena's open batch may grow while five are in flight. The others have no such setting.
    pub(crate) max_batch: usize,
    /// Time before the measurement.
    pub(crate) warm_up: Duration,
    /// Time during which records are sent and measured; the wait for the last of them comes on top, and counts.
    pub(crate) measured: Duration,
    /// Records per second; 0 is as many as the client can.
    pub(crate) rate: u64,
}

/// One process.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Job {
    pub(crate) client: Client,
    pub(crate) bootstrap_servers: String,
    pub(crate) topic: String,
    pub(crate) load: Load,
}

impl Job {
    /// Deliveries that are outstanding at most before the oldest one is awaited: enough to fill the batches of all partitions, since
    /// otherwise the linger would be measured.
    pub(crate) fn window(&self) -> usize {
        (self.load.partitions as usize * 1_000).max(10_000)
    }

    pub(crate) fn to_words(&self) -> Vec<String> {
        let Load { value_size, partitions, keyed, lz4, batch, max_batch, warm_up, measured, rate } = self.load;
        vec![
            self.client.to_string(),
            self.bootstrap_servers.clone(),
            self.topic.clone(),
            value_size.to_string(),
            partitions.to_string(),
            keyed.to_string(),
            lz4.to_string(),
            batch.to_string(),
            max_batch.to_string(),
            warm_up.as_millis().to_string(),
            measured.as_millis().to_string(),
            rate.to_string(),
        ]
    }

    /// Reads what [`to_words`](Self::to_words) wrote.
    pub(crate) fn of_words(mut words: impl Iterator<Item = String>) -> Option<Self> {
        let mut next = move || words.next();
        Some(Self {
            client: Client::of_word(&next()?)?,
            bootstrap_servers: next()?,
            topic: next()?,
            load: Load {
                value_size: next()?.parse().ok()?,
                partitions: next()?.parse().ok()?,
                keyed: next()?.parse().ok()?,
                lz4: next()?.parse().ok()?,
                batch: next()?.parse().ok()?,
                max_batch: next()?.parse().ok()?,
                warm_up: Duration::from_millis(next()?.parse().ok()?),
                measured: Duration::from_millis(next()?.parse().ok()?),
                rate: next()?.parse().ok()?,
            },
        })
    }
}

/// What a process says at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) report: Report,
    /// Records that were sent, before the measurement as well.
    pub(crate) sent: u64,
    /// From the moment at which a record was due to its acknowledgement, in microseconds; 0 where the rate was not given.
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

impl Outcome {
    pub(crate) fn parse(output: &str) -> Option<Self> {
        let line = output.lines().rev().find(|line| line.starts_with("latency "))?;
        let value = |name: &str| -> Option<u64> {
            line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?.parse().ok()
        };
        Some(Self {
            report: Report::parse(output)?,
            sent: value("sent")?,
            p50_us: value("p50_us")?,
            p99_us: value("p99_us")?,
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nlatency sent={} p50_us={} p99_us={}", self.report, self.sent, self.p50_us, self.p99_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_read_back() {
        let job = Job {
            client: Client::Krafka,
            bootstrap_servers: "a:1,b:2".to_owned(),
            topic: "t".to_owned(),
            load: Load {
                value_size: 100,
                partitions: 6,
                keyed: true,
                lz4: false,
                batch: 16_384,
                max_batch: 65_536,
                warm_up: Duration::from_millis(100),
                measured: Duration::from_millis(500),
                rate: 7,
            },
        };
        assert_eq!(Job::of_words(job.to_words().into_iter()), Some(job));
    }

    #[test]
    fn an_outcome_is_read_back() {
        let report =
            Report { records: 7, wall: Duration::from_micros(3), cpu: Duration::from_micros(14), peak_kilobytes: 9 };
        let outcome = Outcome { report, sent: 11, p50_us: 5, p99_us: 8 };
        assert_eq!(Outcome::parse(&format!("noise\n{outcome}\n")), Some(outcome));
    }
}
