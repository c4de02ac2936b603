//! Real Kafka for a test: brokers that somebody names, brokers that the test kit starts, or one visible line.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::SystemTime;

use milena_testkit::{RealCluster, real_bootstrap_servers};
use tokio::runtime::Builder;

/// The variable that says which Kafka the tests run on.
const KAFKA: &str = "MILENA_KAFKA";

/// The bootstrap servers of real Kafka for `test`.
///
/// `MILENA_KAFKA` says which: `process` and `container` are started by the test kit, once for all tests of a program, and end with it;
/// anything else is the bootstrap servers themselves. Without it, they are in `KAFKA_BOOTSTRAP_SERVERS`, as `cargo xtask test` sets it,
/// or there is no Kafka: see [`real_bootstrap_servers`].
///
/// # Panics
/// When Kafka cannot be started, and for `container` without this crate's feature `containers`.
pub fn real_kafka(test: &str) -> Option<String> {
    static STARTED: OnceLock<String> = OnceLock::new();
    match std::env::var(KAFKA).as_deref().map(str::trim) {
        Err(_) | Ok("") => real_bootstrap_servers(test),
        Ok("process") => Some(STARTED.get_or_init(|| start(process)).clone()),
        Ok("container") => Some(STARTED.get_or_init(|| start(container)).clone()),
        Ok(servers) => Some(servers.to_owned()),
    }
}

/// Starts Kafka on a thread of its own, which keeps it until the program ends.
#[expect(
    clippy::disallowed_methods,
    reason = "tests of several runtimes share one Kafka, so it belongs to none of them"
)]
fn start<T>(kafka: impl AsyncFnOnce() -> (T, String) + Send + 'static) -> String {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime needs a poller only");
        runtime.block_on(async {
            let (kafka, servers) = kafka().await;
            println!("real Kafka on {servers}");
            let _ = tell.send(servers);
            std::future::pending::<()>().await;
            drop(kafka);
        });
    });
    told.recv().expect("real Kafka starts; why it did not is above")
}

async fn process() -> (RealCluster, String) {
    let cluster = RealCluster::builder().start().await.unwrap_or_else(|problem| panic!("{problem}"));
    let servers = cluster.bootstrap_servers();
    (cluster, servers)
}

#[cfg(feature = "containers")]
async fn container() -> (milena_testkit::containers::RunningKafka, String) {
    let kafka =
        milena_testkit::containers::Kafka::default().start().await.unwrap_or_else(|problem| panic!("{problem}"));
    let servers = kafka.bootstrap_servers().to_owned();
    (kafka, servers)
}

#[cfg(not(feature = "containers"))]
async fn container() -> ((), String) {
    panic!(
        "{KAFKA}=container needs the feature containers: cargo test -p milena-integration-tests --features containers"
    )
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
