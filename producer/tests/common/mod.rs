//! What the tests on the in-process cluster share: a client in virtual time, and the seeds of a storm.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(unreachable_pub, reason = "each test file is a crate of its own")]

use std::ops::Range;

use milena_client::{Client, ClientBuilder, WallClock};
use milena_testkit::{Cluster, WALL_CLOCK_BASE_MS};
use tokio::runtime::Handle;
use tokio::time::Instant;

/// A client of the cluster that has not been connected.
pub fn client(cluster: &Cluster, seed: u64) -> ClientBuilder<Client> {
    Client::builder(cluster.bootstrap_servers())
        .simulation(Handle::current())
        .seed(seed)
        .connector(cluster.connector())
        .resolver(cluster.resolver())
}

/// A wall clock that goes as virtual time does.
#[expect(clippy::disallowed_methods, reason = "the paused clock")]
pub fn virtual_wall_clock() -> WallClock {
    let started = Instant::now();
    WallClock::from_fn(move || WALL_CLOCK_BASE_MS + started.elapsed().as_millis() as i64)
}

/// Seeds that any change should survive, or those of `MILENA_SEEDS`.
pub fn seeds() -> Range<u64> {
    milena_testkit::seeds(0..300)
}
