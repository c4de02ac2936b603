//! What the consumer counts, under Java's names, and only once per batch, poll or request: nothing per record.
//!
//! Times are in milliseconds, sizes in bytes, averages and maxima of the last 30 to 60 seconds, for all consumers of a client together,
//! as in Java. Where it differs from Java: rates of what was consumed are brought up to date whenever a broker answers a fetch;
//! `fetch-size-*` and `records-per-request-avg` are of whole batches as they arrive, those of aborted transactions included;
//! `records-lag-max` and `records-lead-min` are those of the answers' moments. Not Java's are `batch-bytes-fetched-total`, `batch-bytes-dropped-total`
//! and `pinned-bytes`: memory that is kept though its records have been handed out, at this moment.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use milena_client::{Counter, Gauge, Link, Observer, Sensor, Stat, TopicPartition};
use milena_protocol::records::PinnedMemory;
use tokio::time::Instant;

const FETCH: &str = "consumer-fetch-manager-metrics";
pub(crate) const COORDINATOR: &str = "consumer-coordinator-metrics";

/// The handles; asked from the registry once.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) records: Consumed,
    pub(crate) bytes: Consumed,
    /// Bytes of whole batches that arrived, and those of them that nobody wanted any more.
    pub(crate) fetched_bytes: Counter,
    pub(crate) stale_bytes: Counter,
    fetches: Sensor,
    latency: Sensor,
    throttle: Sensor,
    size: Sensor,
    records_per_request: Sensor,
    lag: Sensor,
    lead: Sensor,
    /// Asked for what is pinned, for as long as the consumer lives.
    _pinned: Pinned,
}

struct Pinned(#[expect(dead_code, reason = "whoever holds it is asked")] Arc<Observer>);

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pinned")
    }
}

/// One fetch and what came of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fetched {
    pub(crate) latency: Duration,
    pub(crate) throttle: Duration,
    pub(crate) bytes: u64,
    pub(crate) records: u64,
    /// The largest lag of any partition, and the smallest lead.
    pub(crate) lag: Option<i64>,
    pub(crate) lead: Option<i64>,
}

impl Metrics {
    pub(crate) fn new(link: &Link, pinned: &Arc<PinnedMemory>) -> Self {
        let id = link.client_id().clone();
        let tags = [("client-id", &*id)];
        let memory = pinned.clone();
        let pinned: Arc<Observer> = Arc::new(move |_| memory.bytes() as f64);
        link.metrics().observe(FETCH, "pinned-bytes", &tags, Stat::Total, &pinned);
        let counter = |name| link.metrics().counter(FETCH, name, &tags);
        let sensor = |readings: &[(&'static str, Stat)]| link.metrics().sensor(FETCH, &tags, readings);
        let consumed = |total, rate| Consumed {
            total: counter(total),
            rate: sensor(&[(rate, Stat::Rate)]),
            since: AtomicU64::new(0),
        };
        Self {
            records: consumed("records-consumed-total", "records-consumed-rate"),
            bytes: consumed("bytes-consumed-total", "bytes-consumed-rate"),
            fetched_bytes: counter("batch-bytes-fetched-total"),
            stale_bytes: counter("batch-bytes-dropped-total"),
            fetches: sensor(&[("fetch-rate", Stat::Rate), ("fetch-total", Stat::Total)]),
            latency: sensor(&[("fetch-latency-avg", Stat::Average), ("fetch-latency-max", Stat::Maximum)]),
            throttle: sensor(&[("fetch-throttle-time-avg", Stat::Average), ("fetch-throttle-time-max", Stat::Maximum)]),
            size: sensor(&[("fetch-size-avg", Stat::Average), ("fetch-size-max", Stat::Maximum)]),
            records_per_request: sensor(&[("records-per-request-avg", Stat::Average)]),
            lag: sensor(&[("records-lag-max", Stat::Maximum)]),
            lead: sensor(&[("records-lead-min", Stat::Minimum)]),
            _pinned: Pinned(pinned),
        }
    }

    pub(crate) fn on_fetch_sent(&self, now: Instant) {
        self.fetches.record(1.0, now);
    }

    pub(crate) fn on_fetch_answered(&self, fetched: Fetched, now: Instant) {
        self.latency.record(millis(fetched.latency), now);
        self.throttle.record(millis(fetched.throttle), now);
        self.size.record(fetched.bytes as f64, now);
        self.records_per_request.record(fetched.records as f64, now);
        if let Some(lag) = fetched.lag {
            self.lag.record(lag as f64, now);
        }
        if let Some(lead) = fetched.lead {
            self.lead.record(lead as f64, now);
        }
        self.records.sample(now);
        self.bytes.sample(now);
    }
}

/// A total with a rate. The reader counts without looking at a clock; the rate is recorded by whoever has the time.
#[derive(Debug)]
pub(crate) struct Consumed {
    total: Counter,
    rate: Sensor,
    /// Not recorded yet.
    since: AtomicU64,
}

impl Consumed {
    pub(crate) fn add(&self, n: u64) {
        self.total.add(n);
        self.since.fetch_add(n, Ordering::Relaxed);
    }

    fn sample(&self, now: Instant) {
        let since = self.since.swap(0, Ordering::Relaxed);
        if since > 0 {
            self.rate.record(since as f64, now);
        }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The largest of the values seen lately: of the present half a minute and the one before it, as Java's metrics that end in `-max`
/// (`metrics.sample.window.ms`, `metrics.num.samples`).
pub(crate) struct RecentMax {
    gauge: Gauge,
    /// When the present window ends.
    until: Option<Instant>,
    present: i64,
    before: i64,
}

const WINDOW: Duration = Duration::from_secs(30);

impl RecentMax {
    pub(crate) fn new(gauge: Gauge) -> Self {
        Self { gauge, until: None, present: 0, before: 0 }
    }

    pub(crate) fn saw(&mut self, now: Instant, value: i64) {
        let until = self.until.unwrap_or(now + WINDOW);
        if now >= until {
            // Of a window in which nothing was seen there is nothing to remember.
            self.before = if now < until + WINDOW { self.present } else { 0 };
            self.present = 0;
            self.until = Some(now + WINDOW);
        } else {
            self.until = Some(until);
        }
        self.present = self.present.max(value);
        self.gauge.set(self.present.max(self.before));
    }
}

/// Where one partition stands.
#[derive(Debug, Default)]
pub(crate) struct PartitionGauges {
    /// Records between the position and the end that the reader can see.
    pub(crate) lag: Gauge,
    /// Records between the log's start and the position: at zero, retention is about to take what has not been read.
    pub(crate) lead: Gauge,
    /// The follower that is read; −1 for the leader.
    pub(crate) replica: Gauge,
}

impl PartitionGauges {
    pub(crate) fn new(link: &Link, tp: &TopicPartition) -> Self {
        let id = link.client_id();
        let tags = [("client-id", &**id), ("topic", &*tp.topic), ("partition", &tp.partition.to_string())];
        let gauge = |name| link.metrics().gauge(FETCH, name, &tags);
        let gauges =
            Self { lag: gauge("records-lag"), lead: gauge("records-lead"), replica: gauge("preferred-read-replica") };
        gauges.replica.set(-1);
        gauges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    #[expect(clippy::disallowed_methods, reason = "a test plays the clock")]
    async fn the_largest_value_is_forgotten_after_two_windows() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let gauge = Gauge::default();
        let mut max = RecentMax::new(gauge.clone());
        let mut seen = Vec::new();
        for (after, value) in [(0, 9), (10, 3), (29, 4), (31, 2), (60, 5), (62, 1), (200, 1)] {
            max.saw(start + second * after, value);
            seen.push(gauge.value());
        }
        assert_eq!(seen, [9, 9, 9, 9, 9, 5, 1]);
    }
}
