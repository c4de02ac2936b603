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
mod faults;
mod groups;
mod log;
mod net;
mod request_log;
mod state;
mod topics;
mod transactions;

pub use apis::ApiName as Api;
pub use builder::{ClusterBuilder, WALL_CLOCK_BASE_MS};
pub use cluster::{Cluster, PartitionInfo};
pub use faults::{Fault, FaultBuilder, Faults, Reaction};
pub use groups::{GroupInfo, GroupMember};
pub use log::batch::StoredRecord;
pub use milena_protocol::{ApiKey, ErrorCode};
pub use net::memory::{MemoryConnector, MemoryResolver, MemoryStream};
pub use request_log::RequestEntry;
pub use transactions::TransactionInfo;

/// The bootstrap servers of a real Kafka cluster that tests may use: the environment variable `KAFKA_BOOTSTRAP_SERVERS`, if it is
/// set and not empty.
pub fn real_bootstrap_servers() -> Option<String> {
    std::env::var("KAFKA_BOOTSTRAP_SERVERS").ok().filter(|servers| !servers.trim().is_empty())
}
