//! A registry of counters and gauges under Java's names, with a snapshot.
//!
//! A handle is registered once and kept by whoever counts; counting is one relaxed atomic. Nothing on a per-record path asks the
//! registry by name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// All metrics of a client.
#[derive(Debug, Default)]
pub struct Metrics {
    values: Mutex<BTreeMap<Name, Arc<AtomicI64>>>,
}

/// The name of a metric: group, name and tags, as Java's client has them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The group, such as `producer-metrics`.
    pub group: &'static str,
    /// The name, such as `record-send-total`.
    pub name: &'static str,
    /// Tags such as `client-id` or `topic`, in the order they were given.
    pub tags: Vec<(&'static str, String)>,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.group, self.name)?;
        for (tag, value) in &self.tags {
            write!(f, ",{tag}={value}")?;
        }
        Ok(())
    }
}

/// A count that only grows.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicI64>);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n as i64, Ordering::Relaxed);
    }

    /// The count.
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value that goes up and down.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The value.
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Metrics {
    /// The counter of that name; the same handle for the same name.
    pub fn counter(&self, group: &'static str, name: &'static str, tags: &[(&'static str, &str)]) -> Counter {
        Counter(self.value(group, name, tags))
    }

    /// The gauge of that name; the same handle for the same name.
    pub fn gauge(&self, group: &'static str, name: &'static str, tags: &[(&'static str, &str)]) -> Gauge {
        Gauge(self.value(group, name, tags))
    }

    fn value(&self, group: &'static str, name: &'static str, tags: &[(&'static str, &str)]) -> Arc<AtomicI64> {
        let tags = tags.iter().map(|(tag, value)| (*tag, (*value).to_owned())).collect();
        // A panic elsewhere cannot leave the map half changed: every change is one insertion.
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.entry(Name { group, name, tags }).or_default().clone()
    }

    /// All values now, ordered by name.
    pub fn snapshot(&self) -> Vec<(Name, i64)> {
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.iter().map(|(name, value)| (name.clone(), value.load(Ordering::Relaxed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_is_the_same_value() {
        let metrics = Metrics::default();
        metrics.counter("producer-metrics", "record-send-total", &[("client-id", "a")]).add(2);
        metrics.counter("producer-metrics", "record-send-total", &[("client-id", "a")]).add(3);
        metrics.gauge("producer-metrics", "requests-in-flight", &[]).set(-1);
        let snapshot = metrics.snapshot();
        assert_eq!(snapshot.len(), 2);
        assert_eq!(snapshot[0].0.to_string(), "producer-metrics:record-send-total,client-id=a");
        assert_eq!((snapshot[0].1, snapshot[1].1), (5, -1));
    }
}
