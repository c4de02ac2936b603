//! The one back-off: exponential, with jitter that is passed in.

use std::time::Duration;

/// How long to wait before the next attempt: `base · 2^failures`, at most `max`, ± 20 % jitter (KIP-580).
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// Java's `retry.backoff.ms` = 100 ms and `retry.backoff.max.ms` = 1 s.
    pub const RETRY: Self = Self::new(Duration::from_millis(100), Duration::from_secs(1));
    /// Java's `reconnect.backoff.ms` = 50 ms and `reconnect.backoff.max.ms` = 1 s.
    pub const RECONNECT: Self = Self::new(Duration::from_millis(50), Duration::from_secs(1));

    /// A back-off from `base` to `max`.
    pub const fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, failures: 0 }
    }

    /// Notes a failure; returns how long to wait before the next attempt.
    pub fn on_failure(&mut self, rng: &mut fastrand::Rng) -> Duration {
        let exponent = self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        let wait = self.base.saturating_mul(1 << exponent).min(self.max);
        wait.mul_f64(0.8 + 0.4 * rng.f64()).min(self.max)
    }

    /// Notes a success: the next failure starts from `base` again.
    pub fn on_success(&mut self) {
        self.failures = 0;
    }

    /// How many failures there were since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_its_maximum_and_starts_again_after_a_success() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut backoff = Backoff::RECONNECT;
        let mut expected = 50.0;
        for _ in 0..10 {
            let wait = backoff.on_failure(&mut rng).as_secs_f64() * 1000.0;
            assert!(wait >= expected * 0.79 && wait <= (expected * 1.21f64).min(1000.0), "{wait} of {expected}");
            expected = (expected * 2.0f64).min(1000.0);
        }
        backoff.on_success();
        assert!(backoff.on_failure(&mut rng) < Duration::from_millis(61));
    }

    #[test]
    fn a_long_outage_does_not_overflow() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut backoff = Backoff::RETRY;
        assert!((0..100_000).all(|_| backoff.on_failure(&mut rng) <= Duration::from_secs(1)));
    }
}
