//! A Kafka cluster inside the test process.
//!
//! ```no_run
//! # async fn f() -> std::io::Result<()> {
//! use milena_testkit::{Api, Cluster, Reaction};
//!
//! let cluster = Cluster::builder().brokers(3).topic("orders", 6).start().await?;
//! println!("any Kafka client can connect to {}", cluster.bootstrap_servers());
//! cluster.faults().when(Api::Produce).topic("orders").nth(3).then(Reaction::ApplyThenDisconnect);
//! cluster.move_leader("orders", 0, 2);
//! cluster.crash(1);
//! cluster.restart(1);
//! println!("{}", cluster.request_log());
//! cluster.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! # The journey of a request
//!
//! 1. Bytes arrive over TCP (`net/tcp.rs`) or through a pipe inside the process (`net/memory.rs`). The task of the connection
//!    (`net/connection.rs`) takes one frame and does not look at the next before this one is answered: a broker serves one request
//!    per connection at a time.
//! 2. The one task that owns the cluster (`event_loop.rs`) gets the frame, and `state.rs` reads its header, finds the API in the
//!    table of `apis/mod.rs`, decodes the request, writes a line into the log (`request_log.rs`) and compares it with the faults
//!    (`faults.rs`).
//! 3. The API's own file under `apis/` serves it: a batch is validated (`log/batch.rs`), checked against what its producer wrote
//!    before (`log/producers.rs`) and appended (`log/mod.rs`); a member joins its group (`groups/`); a transaction is decided
//!    (`transactions/transaction.rs`), and its markers move the last stable offset (`transactions/markers.rs`,
//!    `log/transactions.rs`).
//! 4. The answer goes back to the connection, at once or when there is data, when all members have joined, when the time is over, or
//!    when a fault lets it go.
//!
//! Nothing in there reads a clock, draws lots or starts a task: with the same seed, on pipes and under `tokio::time::pause`, the same
//! client sees the same cluster, byte for byte.

mod apis;
mod builder;
mod cluster;
mod configs;
mod event_loop;
mod failure;
mod faults;
mod groups;
mod invariants;
mod log;
mod net;
mod network;
pub mod planted;
mod proxy;
mod request_log;
mod seeds;
mod serving;
mod state;
mod topics;
mod transactions;

pub use apis::ApiName as Api;
pub use builder::{ClusterBuilder, WALL_CLOCK_BASE_MS};
pub use cluster::{Cluster, PartitionInfo};
pub use faults::{Barrier, Fault, FaultBuilder, Faults, Reaction};
pub use groups::{GroupInfo, GroupMember};
pub use log::batch::StoredRecord;
pub use milena_protocol::{ApiKey, ErrorCode};
pub use net::memory::{MemoryConnector, MemoryResolver, MemoryStream};
pub use network::Link;
pub use proxy::{Proxy, ProxyBuilder};
pub use request_log::{RequestEntry, RequestLog};
pub use seeds::seeds;
pub use transactions::TransactionInfo;

/// The bootstrap servers of a real Kafka cluster for `test`, from `KAFKA_BOOTSTRAP_SERVERS`.
///
/// `None` when there is none; the line that says so is visible also for a test that passes, and the test returns.
/// With `MILENA_REQUIRE_KAFKA=1`, as `cargo xtask test` and `ci` set it, going without is a failure.
///
/// # Panics
/// When Kafka is required and `KAFKA_BOOTSTRAP_SERVERS` is not set.
pub fn real_bootstrap_servers(test: &str) -> Option<String> {
    if let Some(servers) = std::env::var("KAFKA_BOOTSTRAP_SERVERS").ok().filter(|servers| !servers.trim().is_empty()) {
        return Some(servers);
    }
    assert!(
        std::env::var_os("MILENA_REQUIRE_KAFKA").is_none_or(|value| value != "1"),
        "{test} needs real Kafka, and MILENA_REQUIRE_KAFKA=1 forbids to go without: set KAFKA_BOOTSTRAP_SERVERS, or run cargo xtask test"
    );
    // Not eprintln!, which the test harness keeps to itself when the test passes. One write, so that lines of tests
    // that run at the same time do not mix.
    let line = format!("not run, needs real Kafka: {test} (cargo xtask test runs it)\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    None
}
