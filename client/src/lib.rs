//! What every milena client shares: connections, metadata, coordinators, retry, errors, metrics, and the seams to the world.
//!
//! # The journey of a request
//!
//! 1. A producer, a consumer or an admin call holds an [`Owner`], or its [`Link`] in a task (`link.rs`), and calls
//!    [`Link::call`] or [`Link::send`] with a [`Target`] and a [`Lane`].
//! 2. The target becomes a broker: from the picture of the cluster ([`Metadata`], `metadata/snapshot.rs`; when to ask for a new one
//!    is decided in `metadata/machine.rs` and done in `metadata/driver.rs`) or from a coordinator look-up (`coordinator.rs`).
//! 3. The pool (`connection/pool.rs`) has one connection per (broker, owner, lane), because a broker serves one request per
//!    connection at a time. A new one is made in `connection/establish.rs`: resolve, connect, hand-shake (`connection/handshake.rs`).
//! 4. The connection's task (`connection/service.rs`) encodes the request in the highest version both sides speak, and its
//!    [`Wire`] (`connection/wire.rs`) writes it and matches the answer to it (`connection/in_flight.rs`). The hot loops of producer and
//!    consumer own a wire each and have no task and no channel in between.
//! 5. An error code in the answer is looked up in the one table (`action.rs`); [`Link::call`] waits (`backoff.rs`) and asks again,
//!    or the caller gets an [`Error`] (`error.rs`) that says what may be done.
//!
//! Clock, sockets, names, tasks and randomness come through `seam/`; the default is a thread of the client's own.

mod action;
mod admin;
mod backoff;
mod bootstrap;
mod client;
mod connection;
mod coordinator;
mod core;
mod error;
mod group;
mod link;
mod metadata;
mod metrics;
mod outcomes;
mod seam;
pub mod serde;
mod topic_partition;

pub use self::serde::{Deserializer, SerializeError, Serializer};
pub use action::{Action, action_for};
pub use admin::{Admin, NewTopic, OffsetSpec};
pub use backoff::Backoff;
pub use client::{Client, ClientBuilder};
pub use connection::Lane;
pub use connection::in_flight::RequestId;
pub use connection::service::{Answer, Call, Connection, Encode, Encoded};
pub use connection::wire::{ResponseStart, Wire};
pub use coordinator::CoordinatorKind;
pub use error::{Error, ErrorKind, Outcome};
pub use group::{GroupMetadata, OffsetAndMetadata};
pub use link::{Link, Owner, Target, TopicInterest};
pub use metadata::changes::Changes;
pub use metadata::snapshot::{Broker, Metadata, Partition, Topic};
pub use metadata::{MetadataRecoveryStrategy, RefreshReason};
pub use metrics::{Counter, Gauge, Metrics, Name, Observer, Sensor, Stat};
pub use milena_protocol as protocol;
pub use outcomes::OpenOutcome;
pub use seam::clock::WallClock;
pub use seam::connector::{ByteStream, TcpConnector};
pub use seam::resolver::SystemResolver;
pub use seam::spawner::{Sleep, Spawner, TaskHandle, Work};
pub use topic_partition::TopicPartition;

/// A hash map with the same order and the same hashes in every run, for look-ups whose order never matters.
pub type FixedHashMap<K, V> = hashbrown::HashMap<K, V, foldhash::fast::FixedState>;
