//! Suites that run on the in-process cluster and on real Kafka.
//!
//! The suites are the files in `tests/`; this library holds what they share: where real Kafka is ([`real_kafka()`]),
//! Java's own tools to compare with ([`java_tool`]), the way to kill and start a broker ([`xtask()`]), and names that no other test uses ([`unique`]).

mod java;
mod portable;
mod real_kafka;
mod storms;

pub use java::{java_tool, xtask};
pub use portable::{Env, on_every_cluster, on_every_cluster_with_faults, simulated, simulated_from};
pub use real_kafka::{real_kafka, unique};
pub use storms::{kill_and_start, on_broker, produce_until, rounds};
