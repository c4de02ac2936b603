//! Real Kafka for a test: the brokers that `cargo xtask test` started, or one visible line.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

pub use milena_testkit::real_bootstrap_servers as real_kafka;

/// A name for a topic or a group that no other test and no earlier run uses.
#[expect(
    clippy::disallowed_methods,
    reason = "real brokers keep topics from run to run: only the clock tells runs apart"
)]
pub fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let run = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis());
    format!("{name}-{run}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_never_given_twice() {
        assert_ne!(unique("orders"), unique("orders"));
    }
}
