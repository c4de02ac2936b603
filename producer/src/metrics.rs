//! What the producer counts, under Java's names, and only once per batch, request or wait: nothing per record.
//!
//! | group | what |
//! |---|---|
//! | `producer-metrics` | all of the client's producers together, as in Java |
//! | `producer-topic-metrics` | by topic |
//!
//! Times are in milliseconds, sizes in bytes, averages and maxima of the last 30 to 60 seconds. Where it differs from Java: a batch
//! that is sent again counts in `record-retry-*` and in nothing else once more; `record-size-avg` is the mean of the batches' means
//! and `record-size-max` the largest of them (a batch is counted, not its records). Not Java's are `batch-full-total`,
//! `batch-linger-total` and `batch-flush-total` (why batches were closed) and `batch-fill-ratio-avg` (bytes before compression by
//! `batch_size`; above 1 where batches grew while they had to wait). `txn-begin-time-ns-total` is missing: beginning takes no time here.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use milena_client::{Counter, Link, Observer, Sensor, Stat, TopicPartition};
use tokio::time::Instant;

use crate::accumulator::{Batch, Closed};
use crate::pool::Pool;

const GROUP: &str = "producer-metrics";
const TOPIC_GROUP: &str = "producer-topic-metrics";

/// The handles; asked from the registry once.
pub(crate) struct Metrics {
    records: Sensor,
    errors: Sensor,
    retries: Sensor,
    splits: Sensor,
    batch_size: Sensor,
    record_size: Sensor,
    compression: Sensor,
    queue_time: Sensor,
    fill: Sensor,
    latency: Sensor,
    throttle: Sensor,
    records_per_request: Sensor,
    exhausted: Sensor,
    wait_ratio: Sensor,
    wait_time: Counter,
    pub(crate) flush_time: Counter,
    pub(crate) metadata_wait_time: Counter,
    pub(crate) txn_init_time: Counter,
    pub(crate) txn_send_offsets_time: Counter,
    pub(crate) txn_commit_time: Counter,
    pub(crate) txn_abort_time: Counter,
    full: Counter,
    lingered: Counter,
    flushed: Counter,
    /// This producer's share of the gauges: gone with it.
    in_flight: Arc<AtomicI64>,
    waiting: Arc<AtomicI64>,
    /// Kept for as long as the producer lives; the registry asks them.
    _observers: [Arc<Observer>; 5],
}

/// What is counted of one topic.
#[derive(Debug, Default)]
pub(crate) struct TopicMetrics {
    records: Sensor,
    bytes: Sensor,
    compression: Sensor,
    retries: Sensor,
    errors: Sensor,
}

/// What is counted of a batch that is sent.
pub(crate) struct SentBatch {
    records: u32,
    bytes: usize,
    raw_bytes: usize,
    opened: Instant,
    is_again: bool,
}

impl SentBatch {
    /// A batch of so many records; `is_again`: not for the first time.
    pub(crate) fn of(batch: &Batch, records: u32, is_again: bool) -> Self {
        Self { records, bytes: batch.bytes, raw_bytes: batch.raw_bytes, opened: batch.opened, is_again }
    }
}

/// What one partition holds at a moment: see [`Producer::queues`](crate::Producer::queues).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionQueue {
    /// The partition.
    pub topic_partition: TopicPartition,
    /// The broker that it is sent to, if it has had a leader.
    pub leader: Option<i32>,
    /// Bytes of batches that have not been sent, the open one included, before compression.
    pub queued_bytes: usize,
    /// How many batches that is.
    pub queued_batches: usize,
    /// Batches that are sent, or about to be, and not acknowledged.
    pub unacknowledged_batches: usize,
    /// How long ago the first record was taken that is not acknowledged.
    pub oldest: Option<Duration>,
}

impl Metrics {
    pub(crate) fn new(link: &Link, pool: &Arc<Pool>, memory: usize) -> Self {
        let registry = link.metrics();
        let tags = [("client-id", &**link.client_id())];
        let counter = |name| registry.counter(GROUP, name, &tags);
        let sensor = |readings: &[(&'static str, Stat)]| registry.sensor(GROUP, &tags, readings);
        let (in_flight, waiting) = (Arc::<AtomicI64>::default(), Arc::<AtomicI64>::default());
        let gauge = |value: &Arc<AtomicI64>| {
            let value = value.clone();
            Arc::new(move |_: Instant| value.load(Ordering::Relaxed) as f64) as Arc<Observer>
        };
        let (free, age) = (pool.clone(), link.clone());
        let observers: [(&'static str, Stat, Arc<Observer>); 5] = [
            ("requests-in-flight", Stat::Total, gauge(&in_flight)),
            ("waiting-threads", Stat::Total, gauge(&waiting)),
            ("buffer-total-bytes", Stat::Total, Arc::new(move |_| memory as f64)),
            ("buffer-available-bytes", Stat::Total, Arc::new(move |_| free.room() as f64)),
            // In seconds, as Java's.
            ("metadata-age", Stat::Maximum, Arc::new(move |_| age.metadata_age().as_secs_f64())),
        ];
        for (name, stat, observer) in &observers {
            registry.observe(GROUP, name, &tags, *stat, observer);
        }
        Self {
            records: sensor(&[("record-send-rate", Stat::Rate), ("record-send-total", Stat::Total)]),
            errors: sensor(&[("record-error-rate", Stat::Rate), ("record-error-total", Stat::Total)]),
            retries: sensor(&[("record-retry-rate", Stat::Rate), ("record-retry-total", Stat::Total)]),
            splits: sensor(&[("batch-split-rate", Stat::Rate), ("batch-split-total", Stat::Total)]),
            batch_size: sensor(&[("batch-size-avg", Stat::Average), ("batch-size-max", Stat::Maximum)]),
            record_size: sensor(&[("record-size-avg", Stat::Average), ("record-size-max", Stat::Maximum)]),
            compression: sensor(&[("compression-rate-avg", Stat::Average)]),
            queue_time: sensor(&[("record-queue-time-avg", Stat::Average), ("record-queue-time-max", Stat::Maximum)]),
            fill: sensor(&[("batch-fill-ratio-avg", Stat::Average)]),
            latency: sensor(&[("request-latency-avg", Stat::Average), ("request-latency-max", Stat::Maximum)]),
            throttle: sensor(&[
                ("produce-throttle-time-avg", Stat::Average),
                ("produce-throttle-time-max", Stat::Maximum),
            ]),
            records_per_request: sensor(&[("records-per-request-avg", Stat::Average)]),
            exhausted: sensor(&[("buffer-exhausted-rate", Stat::Rate), ("buffer-exhausted-total", Stat::Total)]),
            wait_ratio: sensor(&[("bufferpool-wait-ratio", Stat::Rate)]),
            wait_time: counter("bufferpool-wait-time-ns-total"),
            flush_time: counter("flush-time-ns-total"),
            metadata_wait_time: counter("metadata-wait-time-ns-total"),
            txn_init_time: counter("txn-init-time-ns-total"),
            txn_send_offsets_time: counter("txn-send-offsets-time-ns-total"),
            txn_commit_time: counter("txn-commit-time-ns-total"),
            txn_abort_time: counter("txn-abort-time-ns-total"),
            full: counter("batch-full-total"),
            lingered: counter("batch-linger-total"),
            flushed: counter("batch-flush-total"),
            in_flight,
            waiting,
            _observers: observers.map(|(.., observer)| observer),
        }
    }

    /// What will be counted of a topic.
    pub(crate) fn of_topic(link: &Link, topic: &str) -> TopicMetrics {
        let tags = [("client-id", &**link.client_id()), ("topic", topic)];
        let sensor = |readings: &[(&'static str, Stat)]| link.metrics().sensor(TOPIC_GROUP, &tags, readings);
        TopicMetrics {
            records: sensor(&[("record-send-rate", Stat::Rate), ("record-send-total", Stat::Total)]),
            bytes: sensor(&[("byte-rate", Stat::Rate), ("byte-total", Stat::Total)]),
            compression: sensor(&[("compression-rate", Stat::Average)]),
            retries: sensor(&[("record-retry-rate", Stat::Rate), ("record-retry-total", Stat::Total)]),
            errors: sensor(&[("record-error-rate", Stat::Rate), ("record-error-total", Stat::Total)]),
        }
    }

    /// A batch takes no more records: `bytes` of them, where `batch_size` make one full.
    pub(crate) fn on_batch_closed(&self, closed: Closed, bytes: usize, batch_size: usize, now: Instant) {
        match closed {
            Closed::Full => self.full.add(1),
            Closed::Lingered => self.lingered.add(1),
            Closed::Flushed => self.flushed.add(1),
        }
        self.fill.record(bytes as f64 / batch_size.max(1) as f64, now);
    }

    /// A batch is on its way.
    pub(crate) fn on_batch_sent(&self, topic: &TopicMetrics, batch: &SentBatch, now: Instant) {
        let (records, bytes) = (f64::from(batch.records), batch.bytes as f64);
        if batch.is_again {
            self.retries.record(records, now);
            topic.retries.record(records, now);
            return;
        }
        let ratio = bytes / batch.raw_bytes.max(1) as f64;
        self.records.record(records, now);
        self.batch_size.record(bytes, now);
        self.record_size.record(batch.raw_bytes as f64 / records.max(1.0), now);
        self.compression.record(ratio, now);
        self.queue_time.record(millis(now.saturating_duration_since(batch.opened)), now);
        topic.records.record(records, now);
        topic.bytes.record(bytes, now);
        topic.compression.record(ratio, now);
    }

    /// A request with so many records is written.
    pub(crate) fn on_request_sent(&self, records: u32, now: Instant) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.records_per_request.record(f64::from(records), now);
    }

    /// So many requests have been answered, or lost.
    pub(crate) fn on_requests_ended(&self, requests: usize) {
        self.in_flight.fetch_sub(requests as i64, Ordering::Relaxed);
    }

    pub(crate) fn on_request_answered(&self, latency: Duration, throttle: Duration, now: Instant) {
        self.latency.record(millis(latency), now);
        self.throttle.record(millis(throttle), now);
    }

    pub(crate) fn on_records_failed(&self, topic: &TopicMetrics, records: u32, now: Instant) {
        self.errors.record(f64::from(records), now);
        topic.errors.record(f64::from(records), now);
    }

    pub(crate) fn on_batch_split(&self, now: Instant) {
        self.splits.record(1.0, now);
    }

    /// Somebody waits for room.
    pub(crate) fn on_wait_begun(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// And does not any more, after this long.
    pub(crate) fn on_wait_ended(&self, waited: Duration, now: Instant) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.wait_time.add(waited.as_nanos() as u64);
        self.wait_ratio.record(waited.as_secs_f64(), now);
    }

    /// There was no room for a record, or not in time.
    pub(crate) fn on_exhausted(&self, now: Instant) {
        self.exhausted.record(1.0, now);
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
