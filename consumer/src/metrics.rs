//! The consumer's metrics, under Java's names.

use std::time::Duration;

use milena_client::{Gauge, Link, TopicPartition};
use tokio::time::Instant;

use crate::shared::Counters;

const FETCH: &str = "consumer-fetch-manager-metrics";
pub(crate) const COORDINATOR: &str = "consumer-coordinator-metrics";

pub(crate) fn counters(link: &Link) -> Counters {
    let id = link.client_id().clone();
    let counter = |name| link.metrics().counter(FETCH, name, &[("client-id", &id)]);
    Counters {
        records: counter("records-consumed-total"),
        bytes: counter("bytes-consumed-total"),
        fetches: counter("fetch-total"),
        // These two have no counterpart in Java: bytes of whole batches that arrived, and those of them that nobody wanted any more.
        fetched_bytes: counter("batch-bytes-fetched-total"),
        stale_bytes: counter("batch-bytes-dropped-total"),
    }
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

/// Records between the position and the high watermark.
pub(crate) fn lag(link: &Link, tp: &TopicPartition) -> Gauge {
    let tags = [("client-id", &**link.client_id()), ("topic", &*tp.topic), ("partition", &tp.partition.to_string())];
    link.metrics().gauge(FETCH, "records-lag", &tags)
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
