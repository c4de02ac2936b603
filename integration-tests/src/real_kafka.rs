//! Real Kafka for a test: the brokers that `cargo xtask test` started, or one visible line.

use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

/// The bootstrap servers of a real Kafka cluster, from `KAFKA_BOOTSTRAP_SERVERS`.
///
/// `None` when there is none; the line that says so is visible also for a test that passes, and the test returns.
/// With `MILENA_REQUIRE_KAFKA=1`, as `cargo xtask test` and `ci` set it, going without is a failure.
///
/// # Panics
/// When Kafka is required and `KAFKA_BOOTSTRAP_SERVERS` is not set.
pub fn real_kafka(test: &str) -> Option<String> {
    if let Some(servers) = std::env::var("KAFKA_BOOTSTRAP_SERVERS").ok().filter(|servers| !servers.is_empty()) {
        return Some(servers);
    }
    assert!(
        std::env::var_os("MILENA_REQUIRE_KAFKA").is_none_or(|value| value != "1"),
        "{test} needs real Kafka, and MILENA_REQUIRE_KAFKA=1 forbids to go without: set KAFKA_BOOTSTRAP_SERVERS, or run cargo xtask test"
    );
    // Not eprintln!, which the test harness keeps to itself when the test passes. One write, so that lines of tests
    // that run at the same time do not mix.
    let line = format!("not run, needs real Kafka: {test} (cargo xtask test runs it)\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    None
}

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
