//! A Kafka cluster inside the test process, and a proxy that makes the same faults in front of a real one.
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
//! # What a test can do
//!
//! **Faults**: *when* a request looks like this, *then* react like that. [`FaultBuilder`] has the conditions, [`Reaction`] what can
//! happen. A fault that never fires fails the test, with the line that made it: its premise did not come true.
//!
//! ```no_run
//! # async fn f(cluster: milena_testkit::Cluster) {
//! # use milena_testkit::{Api, ErrorCode, Reaction};
//! # use std::time::Duration;
//! cluster.faults().when(Api::OffsetCommit).group("billing").times(2).then(Reaction::Error(ErrorCode::NOT_COORDINATOR));
//! cluster.faults().when(Api::Fetch).broker(2).always().then(Reaction::Delay(Duration::from_millis(200)));
//! cluster.faults().any().client_id("far-away").then(Reaction::Bandwidth(50_000));
//! cluster.faults().when(Api::Produce).probability(0.05).then(Reaction::ApplyThenDisconnect); // drawn from the seed
//! # }
//! ```
//!
//! **Barriers**: *stop when* a request comes, and *go on* when the test says so. [`Barrier`].
//!
//! ```no_run
//! # async fn f(cluster: milena_testkit::Cluster) {
//! # use milena_testkit::Api;
//! let commit = cluster.stop_when(Api::EndTxn).transactional_id("copy").before_serving();
//! commit.reached().await;
//! cluster.move_coordinator("copy", 2);
//! commit.go_on();
//! # }
//! ```
//!
//! **Brokers and the network**: crash with or without what was not flushed, restart, move leaders and coordinators, hold transaction
//! markers, cut links one way or both. [`Cluster`], [`Link`].
//!
//! ```no_run
//! # fn f(cluster: milena_testkit::Cluster) {
//! # use milena_testkit::Link;
//! cluster.move_coordinator("billing", 3);
//! cluster.crash_losing_unflushed(1);
//! cluster.restart(1);
//! cluster.cut(Link::ToClients(2)); // requests arrive, answers do not
//! cluster.heal_all();
//! # }
//! ```
//!
//! **Replication**: followers that are held back stop the high watermark, and with it readers and `acks=all`, until they leave the in-sync
//! replicas; elections, clean and unclean, cut the log to what the new leader has. [`Cluster::hold_follower`].
//!
//! ```no_run
//! # fn f(cluster: milena_testkit::Cluster) {
//! cluster.hold_follower("orders", 0, 2);
//! cluster.drop_from_isr("orders", 0, 2); // or by itself, after replica.lag.time.max.ms
//! cluster.elect_unclean("orders", 0, 2); // and what it did not have is lost
//! cluster.release_follower("orders", 0, 3);
//! # }
//! ```
//!
//! **Logs by hand**: batches and markers without a client, turned bits, topics that grow and go. [`Cluster::append`].
//!
//! ```no_run
//! # fn f(cluster: milena_testkit::Cluster, batch: &[u8]) {
//! let offset = cluster.append("orders", 0, batch).unwrap();
//! cluster.turn_bit_over("orders", 0, offset); // as on a bad disk
//! cluster.delete_topic("orders");
//! cluster.create_topic("orders", 3); // another topic of the same name
//! # }
//! ```
//!
//! **Retention and compaction**, when a test wants them, by the topic's configuration and the cluster's clock.
//!
//! ```no_run
//! # fn f(cluster: milena_testkit::Cluster) {
//! cluster.apply_retention("clicks"); // retention.ms, retention.bytes
//! cluster.compact("users"); // the last value of each key; tombstones go in a later one
//! # }
//! ```
//!
//! **Quotas**: answers that say `throttle_time_ms`, and connections that are not read for that time. [`Cluster::throttle`].
//!
//! ```no_run
//! # fn f(cluster: milena_testkit::Cluster) {
//! # use milena_testkit::Api;
//! # use std::time::Duration;
//! cluster.throttle(Api::Produce, Duration::from_secs(2));
//! # }
//! ```
//!
//! **The request log**: who asked whom for what, to print and to ask. A failing test prints its end, and the command that runs the test
//! again with its seed. [`RequestLog`].
//!
//! ```no_run
//! # fn f(cluster: milena_testkit::Cluster) {
//! # use milena_testkit::Api;
//! assert_eq!(cluster.request_log().api(Api::Produce).topic("orders").partition(0).count(), 3);
//! println!("{}", cluster.request_log().group("billing"));
//! # }
//! ```
//!
//! **Invariants** are looked for in every test: sequences follow each other, no offset has two values, no partition has two owners in a
//! generation, no member commits backwards, no reader gets what it may not see. A violation fails the test with a sentence and the
//! log ([`Cluster::violations`]; off with [`ClusterBuilder::check_invariants`]).
//!
//! **Older brokers**: a cluster that behaves like another release, for what a client makes of it. [`KafkaVersion`].
//!
//! ```no_run
//! # async fn f() -> std::io::Result<()> {
//! # use milena_testkit::{Cluster, KafkaVersion};
//! let cluster = Cluster::builder().kafka_version(KafkaVersion::V2_8).topic("orders", 6).start().await?;
//! # Ok(()) }
//! ```
//!
//! **Real Kafka** takes the same faults, barriers and questions from a [`Proxy`].
//!
//! ```no_run
//! # async fn f() -> std::io::Result<()> {
//! # use milena_testkit::{Api, Proxy, Reaction};
//! let proxy = Proxy::builder("127.0.0.1:9092").start().await?;
//! let late = proxy.faults().when(Api::EndTxn).transactional_id("copy").then(Reaction::HoldCopy);
//! println!("connect to {}", proxy.bootstrap_servers());
//! late.has_fired(1).await; // the transaction was ended, …
//! late.release(); // … and now the same EndTxn comes again, from another connection
//! # Ok(()) }
//! ```
//!
//! The kit starts it, too: as processes that belong to a test (feature `process`: `RealCluster`, with `kill`, `freeze` and `restart`
//! by broker id), or in a container (feature `containers`: `containers::Kafka`, for the official `apache/kafka` image and others that
//! take its environment).
//!
//! # The journey of a request
//!
//! 1. Bytes arrive over TCP (`net/tcp.rs`) or through a pipe inside the process (`net/memory.rs`). The task of the connection
//!    (`net/connection.rs`) takes one frame and does not look at the next before this one is answered: a broker serves one request
//!    per connection at a time.
//! 2. The one task that owns the cluster (`event_loop.rs`, `state.rs`) gets the frame, unless its link is cut (`network.rs`). In
//!    `serving.rs` its header is read, the API is found in the table of `apis/mod.rs`, the request is decoded, logged
//!    (`request_log.rs`) and compared with the faults (`faults/`).
//! 3. The API's own file under `apis/` serves it: a batch is validated (`log/batch.rs`), checked against what its producer wrote
//!    before (`log/producers.rs`) and appended (`log/mod.rs`); a member joins its group (`groups/`); a transaction is decided
//!    (`transactions/transaction.rs`), and its markers move the last stable offset (`transactions/markers.rs`,
//!    `log/transactions.rs`). When the in-sync replicas have it (`replication.rs`), the high watermark moves, which readers and `acks=all`
//!    wait for. What was stored, and what is read, passes the checker (`invariants.rs`).
//! 4. The answer goes back to the connection, at once or when there is data, when all members have joined, when the time is over, or
//!    when a fault lets it go.
//!
//! Nothing in there reads a clock, draws lots or starts a task: with the same seed, on pipes and under `tokio::time::pause`, the same
//! client sees the same cluster, byte for byte. The proxy (`proxy/`) shares the table of APIs, the faults and the log, and nothing else.

mod apis;
mod builder;
mod by_hand;
mod cluster;
mod configs;
mod event_loop;
mod failure;
mod faults;
mod groups;
mod invariants;
mod kafka_version;
mod log;
mod net;
mod network;
pub mod planted;
mod proxy;
#[cfg(any(feature = "process", feature = "containers"))]
mod real;
mod replication;
mod request_log;
mod seeds;
mod serving;
mod state;
mod throttling;
mod topics;
mod transactions;

pub use apis::ApiName as Api;
pub use builder::{ClusterBuilder, WALL_CLOCK_BASE_MS};
pub use cluster::{Cluster, PartitionInfo};
pub use faults::{Barrier, Fault, FaultBuilder, Faults, Reaction};
pub use groups::{GroupInfo, GroupMember};
pub use kafka_version::KafkaVersion;
pub use log::batch::StoredRecord;
pub use milena_protocol::{ApiKey, ErrorCode};
pub use net::memory::{MemoryConnector, MemoryResolver, MemoryStream};
pub use network::Link;
pub use proxy::{Proxy, ProxyBuilder};
#[cfg(feature = "containers")]
pub use real::containers;
#[cfg(feature = "process")]
pub use real::process::{RealCluster, RealClusterBuilder};
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
