//! The settings of an application: plain data.

use std::time::Duration;

/// What a crash may do to results (Java: `processing.guarantee`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ProcessingGuarantee {
    /// A record may be processed twice after a crash, and is never left out.
    #[default]
    AtLeastOnce,
    /// What is read, the state and what is written are committed together, in transactions: whoever reads committed records
    /// sees each record's effect once (Java: `exactly_once_v2`). Side effects of operators outside of Kafka happen again.
    ExactlyOnce,
}

/// Settings of a Streams application (Java: `StreamsConfig`).
#[derive(Debug, Clone)]
pub struct StreamsConfig {
    pub(crate) application_id: String,
    pub(crate) threads: usize,
    pub(crate) guarantee: ProcessingGuarantee,
    commit_interval: Option<Duration>,
    pub(crate) transaction_timeout: Duration,
    pub(crate) replication_factor: i16,
    pub(crate) cache_max_bytes: usize,
    pub(crate) linger: Duration,
    pub(crate) session_timeout: Duration,
    pub(crate) start_timeout: Duration,
    pub(crate) max_poll_records: usize,
}

impl StreamsConfig {
    /// Settings for the application with this id: the name of its consumer group, and the front part of its internal
    /// topics' names. Instances with the same id share the work (Java: `application.id`).
    pub fn new(application_id: impl Into<String>) -> Self {
        Self {
            application_id: application_id.into(),
            threads: 1,
            guarantee: ProcessingGuarantee::AtLeastOnce,
            commit_interval: None,
            transaction_timeout: Duration::from_secs(10),
            replication_factor: -1,
            cache_max_bytes: 10 << 20,
            linger: Duration::from_millis(100),
            session_timeout: Duration::from_secs(45),
            start_timeout: Duration::from_secs(30),
            max_poll_records: 4_000,
        }
    }

    /// How many stream threads this instance runs, each a member of the group with tasks of its own. Default: 1
    /// (Java: `num.stream.threads`).
    #[must_use]
    pub fn num_stream_threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// What a crash may do to results. Default: at least once (Java: `processing.guarantee`).
    #[must_use]
    pub fn processing_guarantee(mut self, guarantee: ProcessingGuarantee) -> Self {
        self.guarantee = guarantee;
        self
    }

    /// How often results and offsets are committed. Longer collapses more updates of a key into one; after a crash, what
    /// came since the last commit is processed again. Default: 30 s; with exactly-once 100 ms, because readers of committed
    /// records see nothing before (Java: `commit.interval.ms`).
    #[must_use]
    pub fn commit_interval(mut self, interval: Duration) -> Self {
        self.commit_interval = Some(interval);
        self
    }

    pub(crate) fn is_exactly_once(&self) -> bool {
        self.guarantee == ProcessingGuarantee::ExactlyOnce
    }

    pub(crate) fn commit_every(&self) -> Duration {
        self.commit_interval.unwrap_or(match self.guarantee {
            ProcessingGuarantee::AtLeastOnce => Duration::from_secs(30),
            ProcessingGuarantee::ExactlyOnce => Duration::from_millis(100),
        })
    }

    /// With exactly-once: how long a transaction may last before the coordinator aborts it. Readers of committed records wait
    /// that long for what a killed instance had begun; a record that takes longer to process is never committed. Default: 10 s,
    /// as Java's Streams sets it (Java: `producer.transaction.timeout.ms`).
    #[must_use]
    pub fn transaction_timeout(mut self, timeout: Duration) -> Self {
        self.transaction_timeout = timeout;
        self
    }

    /// Replicas of the internal topics. Default: −1, the broker's default (Java: `replication.factor`).
    #[must_use]
    pub fn replication_factor(mut self, factor: i16) -> Self {
        self.replication_factor = factor;
        self
    }

    /// Bytes of updates that record caches may hold back, over all threads; when they are reached, a thread commits early.
    /// Default: 10 MiB (Java: `statestore.cache.max.bytes`, at which Java evicts).
    #[must_use]
    pub fn cache_max_bytes(mut self, bytes: usize) -> Self {
        self.cache_max_bytes = bytes;
        self
    }

    /// How long the producer gathers records of a partition. Default: 100 ms, as Java's Streams sets it
    /// (Java: `producer.linger.ms`).
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// How long the group waits for a silent member before it gives its tasks to others. Default: 45 s
    /// (Java: `session.timeout.ms`).
    #[must_use]
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.session_timeout = timeout;
        self
    }

    /// How long `start` waits for the source topics and for the internal topics it creates. Default: 30 s.
    #[must_use]
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// How many records are taken from the consumer at a time. Default: 4,000 (Java: `max.poll.records`, 1,000).
    #[must_use]
    pub fn max_poll_records(mut self, records: usize) -> Self {
        self.max_poll_records = records.max(1);
        self
    }
}
