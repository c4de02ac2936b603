//! A registry of counters, gauges and sensors under Java's names, with a snapshot.
//!
//! A handle is registered once and kept by whoever counts. Counting is one relaxed atomic; a sensor, for what has an average, a
//! maximum or a rate, takes a short lock: once per batch or request, never per record. Nothing on a per-record path asks the
//! registry by name.

mod window;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::time::Instant;

use window::Window;

/// All metrics of a client.
pub struct Metrics {
    clock: Box<dyn Fn() -> Instant + Send + Sync>,
    sources: Mutex<BTreeMap<Name, Source>>,
}

/// Where a metric's value comes from.
enum Source {
    Value(Arc<AtomicI64>),
    Sensor(Arc<Mutex<Sensed>>, Stat),
    /// Asked when the value is wanted, for as long as they live.
    Observers(Vec<Weak<Observer>>, Stat),
}

/// Tells a value that somebody else keeps; see [`Metrics::observe`].
pub type Observer = dyn Fn(Instant) -> f64 + Send + Sync;

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

/// What is read from the values that a [`Sensor`] has recorded, or that several [observers](Metrics::observe) tell at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stat {
    /// The mean of the values of the last 30 to 60 seconds; not a number if there were none.
    Average,
    /// The largest of those values; not a number if there was none.
    Maximum,
    /// The smallest of them; not a number if there was none.
    Minimum,
    /// Their sum by the second.
    Rate,
    /// The sum of all values ever recorded.
    Total,
}

/// Records values of which averages, maxima, rates and totals are read.
#[derive(Debug, Clone, Default)]
pub struct Sensor(Arc<Mutex<Sensed>>);

#[derive(Debug, Default)]
struct Sensed {
    window: Window,
    total: f64,
}

impl Sensor {
    /// Records a value at this time. Times may come a little out of order.
    pub fn record(&self, value: f64, now: Instant) {
        let mut sensed = lock(&self.0);
        sensed.window.record(value, now);
        sensed.total += value;
    }
}

impl Sensed {
    fn read(&self, stat: Stat, now: Instant) -> f64 {
        match stat {
            Stat::Average => self.window.average(now),
            Stat::Minimum => self.window.minimum(now),
            Stat::Maximum => self.window.maximum(now),
            Stat::Rate => self.window.rate(now),
            Stat::Total => self.total,
        }
    }
}

impl Metrics {
    pub(crate) fn new(clock: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        Self { clock: Box::new(clock), sources: Mutex::default() }
    }

    /// The counter of that name; the same handle for the same name.
    pub fn counter(&self, group: &'static str, name: &'static str, tags: &[(&'static str, &str)]) -> Counter {
        Counter(self.value(group, name, tags))
    }

    /// The gauge of that name; the same handle for the same name.
    pub fn gauge(&self, group: &'static str, name: &'static str, tags: &[(&'static str, &str)]) -> Gauge {
        Gauge(self.value(group, name, tags))
    }

    /// The sensor of which these metrics are read; the same one for the same first name.
    pub fn sensor(
        &self,
        group: &'static str,
        tags: &[(&'static str, &str)],
        readings: &[(&'static str, Stat)],
    ) -> Sensor {
        let mut sources = lock(&self.sources);
        let known = readings.first().and_then(|(name, _)| match sources.get(&Name::new(group, name, tags)) {
            Some(Source::Sensor(sensed, _)) => Some(sensed.clone()),
            _ => None,
        });
        let sensed = known.unwrap_or_default();
        for (name, stat) in readings {
            sources.entry(Name::new(group, name, tags)).or_insert_with(|| Source::Sensor(sensed.clone(), *stat));
        }
        Sensor(sensed)
    }

    /// Has `observer` asked whenever the value is read, for as long as somebody holds it. The value is the total, the average, the
    /// minimum or the maximum of what all observers of that name say (a rate is their total); without any the metric is gone.
    pub fn observe(
        &self,
        group: &'static str,
        name: &'static str,
        tags: &[(&'static str, &str)],
        stat: Stat,
        observer: &Arc<Observer>,
    ) {
        let mut sources = lock(&self.sources);
        let source = sources.entry(Name::new(group, name, tags)).or_insert_with(|| Source::Observers(Vec::new(), stat));
        if let Source::Observers(observers, _) = source {
            observers.retain(|observer| observer.strong_count() > 0);
            observers.push(Arc::downgrade(observer));
        }
    }

    fn value(&self, group: &'static str, name: &'static str, tags: &[(&'static str, &str)]) -> Arc<AtomicI64> {
        let mut sources = lock(&self.sources);
        match sources.entry(Name::new(group, name, tags)).or_insert_with(|| Source::Value(Arc::default())) {
            Source::Value(value) => value.clone(),
            // A name is of one kind everywhere in these crates.
            Source::Sensor(..) | Source::Observers(..) => Arc::default(),
        }
    }

    /// All values now, ordered by name. Averages and maxima of nothing are not a number, as Java's are.
    pub fn snapshot(&self) -> Vec<(Name, f64)> {
        let now = (self.clock)();
        let mut observed = Vec::new();
        let mut values = Vec::new();
        let mut sources = lock(&self.sources);
        sources.retain(|name, source| {
            match source {
                Source::Value(value) => values.push((name.clone(), value.load(Ordering::Relaxed) as f64)),
                Source::Sensor(sensed, stat) => values.push((name.clone(), lock(sensed).read(*stat, now))),
                Source::Observers(observers, stat) => {
                    let living: Vec<_> = observers.iter().filter_map(Weak::upgrade).collect();
                    if living.is_empty() {
                        return false;
                    }
                    observed.push((values.len(), living, *stat));
                    values.push((name.clone(), 0.0));
                }
            }
            true
        });
        drop(sources);
        // Asked without the lock: they may take locks of their own.
        for (index, observers, stat) in observed {
            let said = observers.iter().map(|observer| observer(now));
            values[index].1 = match stat {
                Stat::Total | Stat::Rate => said.sum(),
                Stat::Minimum => said.fold(f64::NAN, f64::min),
                Stat::Maximum => said.fold(f64::NAN, f64::max),
                Stat::Average => said.sum::<f64>() / observers.len() as f64,
            };
        }
        values
    }
}

impl Name {
    fn new(group: &'static str, name: &'static str, tags: &[(&'static str, &str)]) -> Self {
        Self { group, name, tags: tags.iter().map(|(tag, value)| (*tag, (*value).to_owned())).collect() }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.snapshot()).finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Insertions into the map and additions to numbers: a panic elsewhere leaves both whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "the tests' one reading of a clock")]
    fn metrics() -> (Metrics, Instant) {
        let now = Instant::now();
        (Metrics::new(move || now), now)
    }

    const CLIENT: &[(&str, &str)] = &[("client-id", "a")];

    #[test]
    fn the_same_name_is_the_same_value() {
        let (metrics, _) = metrics();
        metrics.counter("producer-metrics", "record-send-total", CLIENT).add(2);
        metrics.counter("producer-metrics", "record-send-total", CLIENT).add(3);
        metrics.gauge("producer-metrics", "requests-in-flight", &[]).set(-1);
        let snapshot = metrics.snapshot();
        assert_eq!(snapshot.len(), 2);
        assert_eq!(snapshot[0].0.to_string(), "producer-metrics:record-send-total,client-id=a");
        assert_eq!((snapshot[0].1, snapshot[1].1), (5.0, -1.0));
    }

    #[test]
    fn several_metrics_are_read_of_one_sensor() {
        let (metrics, now) = metrics();
        let readings =
            [("x-avg", Stat::Average), ("x-max", Stat::Maximum), ("x-rate", Stat::Rate), ("x-total", Stat::Total)];
        let sensor = metrics.sensor("g", CLIENT, &readings);
        metrics.sensor("g", CLIENT, &readings).record(10.0, now);
        sensor.record(20.0, now);
        let values: Vec<_> = metrics.snapshot().into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, [15.0, 20.0, 1.0, 30.0]);
    }

    #[test]
    fn what_others_keep_is_asked_for_while_they_live() {
        let (metrics, _) = metrics();
        let one: Arc<Observer> = Arc::new(|_| 1.5);
        let other: Arc<Observer> = Arc::new(|_| 2.0);
        metrics.observe("g", "free", CLIENT, Stat::Total, &one);
        metrics.observe("g", "age", CLIENT, Stat::Maximum, &one);
        metrics.observe("g", "free", CLIENT, Stat::Total, &other);
        metrics.observe("g", "age", CLIENT, Stat::Maximum, &other);
        let values = || metrics.snapshot().into_iter().map(|(_, value)| value).collect::<Vec<_>>();
        assert_eq!(values(), [2.0, 3.5]);
        drop(other);
        assert_eq!(values(), [1.5, 1.5]);
        drop(one);
        assert!(metrics.snapshot().is_empty());
    }
}
