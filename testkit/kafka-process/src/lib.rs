//! Apache Kafka as plain processes of this machine, for tests.
//!
//! The test kit (`milena_testkit::RealCluster`) and this repository's chores (`cargo xtask kafka`) start Kafka with it. It has no
//! dependency but the standard library, so that the chores build in seconds; its calls block.
//!
//! # The journey of a cluster
//!
//! 1. The jars: in a folder that somebody names, or resolved by Maven, once ([`jars`]).
//! 2. What the cluster is to look like ([`Shape`]), the ports that are free ([`Ports`]) and, from both, the settings of each node
//!    (`settings.rs`).
//! 3. Kafka's storage tool formats each node's folder, and the processes start ([`Cluster`], [`Node`]).
//! 4. It is up when every broker names every other one ([`probe`]).
//!
//! A [`Cluster`] here is only a folder and its ports: dropping it stops nothing. Who must not leave brokers behind holds a
//! [`Watchdog`].

#![expect(clippy::disallowed_methods, reason = "it waits for real processes by the real clock")]

mod cluster;
pub mod jars;
mod java;
mod node;
mod ports;
pub mod probe;
mod settings;
mod watchdog;

pub use cluster::{Cluster, START_LIMIT};
pub use java::{need_java, need_maven};
pub use node::Node;
pub use ports::{Ports, lock};
pub use settings::{Shape, TOOL_LOG4J, broker_port, server_properties};
pub use watchdog::Watchdog;

use std::io;
use std::path::Path;

/// An error that is a sentence for whoever started the program.
fn problem(sentence: impl Into<String>) -> io::Error {
    io::Error::other(sentence.into())
}

/// The same error with what could not be done, and where.
fn cannot<'a>(what: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> io::Error + 'a {
    move |e| io::Error::new(e.kind(), format!("cannot {what} {}: {e}", path.display()))
}
