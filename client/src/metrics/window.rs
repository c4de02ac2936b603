//! What happened lately: sum, number, minimum and maximum of the values of the last two windows of 30 s, as Java's sampled statistics have
//! them (`metrics.sample.window.ms`, `metrics.num.samples`). Pure.

use std::time::Duration;

use tokio::time::Instant;

/// The values recorded in this window and in the one before.
#[derive(Debug, Default)]
pub(crate) struct Window {
    current: Option<Sample>,
    before: Option<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    began: Instant,
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
}

/// Java's `metrics.sample.window.ms`.
const WINDOW: Duration = Duration::from_secs(30);

impl Window {
    pub(crate) fn record(&mut self, value: f64, now: Instant) {
        if self.current.is_none_or(|current| now >= current.began + WINDOW) {
            self.before = self.current.take();
        }
        let empty = Sample { began: now, count: 0, sum: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY };
        let current = self.current.get_or_insert(empty);
        current.count += 1;
        current.sum += value;
        current.min = current.min.min(value);
        current.max = current.max.max(value);
    }

    /// The mean of the values; not a number if there were none.
    pub(crate) fn average(&self, now: Instant) -> f64 {
        let (sum, count) = self.living(now).fold((0.0, 0), |(sum, count), one| (sum + one.sum, count + one.count));
        sum / count as f64
    }

    /// The smallest value; not a number if there was none.
    pub(crate) fn minimum(&self, now: Instant) -> f64 {
        self.living(now).map(|sample| sample.min).fold(f64::NAN, f64::min)
    }

    /// The largest value; not a number if there was none.
    pub(crate) fn maximum(&self, now: Instant) -> f64 {
        self.living(now).map(|sample| sample.max).fold(f64::NAN, f64::max)
    }

    /// The sum of the values by the second. A time shorter than a window counts as one window more, as in Java, so that a client's
    /// first record is no peak.
    pub(crate) fn rate(&self, now: Instant) -> f64 {
        let Some(oldest) = self.living(now).map(|sample| sample.began).min() else { return 0.0 };
        let elapsed = now.saturating_duration_since(oldest);
        let elapsed = if elapsed < WINDOW { elapsed + WINDOW } else { elapsed };
        self.living(now).map(|sample| sample.sum).sum::<f64>() / elapsed.as_secs_f64()
    }

    /// The samples that are not too old to count.
    fn living(&self, now: Instant) -> impl Iterator<Item = &Sample> {
        self.before.iter().chain(&self.current).filter(move |sample| now < sample.began + 2 * WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test's first reading; from there on time is moved by hand")]
    fn start() -> Instant {
        Instant::now()
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn averages_and_maxima_are_of_this_window_and_the_one_before() {
        let (mut window, start) = (Window::default(), start());
        window.record(10.0, start);
        window.record(20.0, start + seconds(29));
        window.record(3.0, start + seconds(31));
        assert_eq!((window.average(start + seconds(31)), window.maximum(start + seconds(31))), (11.0, 20.0));
        // The first window has ended a whole window ago.
        assert_eq!((window.average(start + seconds(60)), window.maximum(start + seconds(60))), (3.0, 3.0));
        window.record(5.0, start + seconds(62));
        assert_eq!((window.average(start + seconds(62)), window.maximum(start + seconds(62))), (4.0, 5.0));
        assert_eq!((window.minimum(start + seconds(62)), window.minimum(start + seconds(91))), (3.0, 5.0));
    }

    #[test]
    fn without_values_there_is_no_average_and_no_maximum_and_the_rate_is_zero() {
        let (mut window, start) = (Window::default(), start());
        assert!(window.average(start).is_nan() && window.maximum(start).is_nan() && window.minimum(start).is_nan());
        assert_eq!(window.rate(start), 0.0);
        window.record(1.0, start);
        let later = start + seconds(60);
        assert!(window.average(later).is_nan() && window.maximum(later).is_nan());
        assert_eq!(window.rate(later), 0.0);
    }

    #[test]
    fn a_maximum_below_zero_is_one() {
        let (mut window, start) = (Window::default(), start());
        window.record(-2.0, start);
        assert_eq!(window.maximum(start), -2.0);
    }

    #[test]
    fn a_rate_is_by_the_second_and_the_first_second_is_no_peak() {
        let (mut window, start) = (Window::default(), start());
        window.record(300.0, start);
        assert_eq!(window.rate(start), 10.0);
        assert_eq!(window.rate(start + seconds(20)), 6.0);
        window.record(300.0, start + seconds(40));
        assert_eq!(window.rate(start + seconds(50)), 12.0);
    }
}
