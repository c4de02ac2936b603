//! What the client knows of the cluster: brokers, topics, leaders.
//!
//! [`snapshot`] is the picture, immutable and swapped whole, so that readers never lock. [`machine`] decides when to ask for a new
//! one; [`driver`] asks. There is one owner of the picture in a client, whoever reads it.

pub(crate) mod changes;
pub(crate) mod driver;
pub(crate) mod machine;
pub(crate) mod recovery;
pub(crate) mod snapshot;

pub use recovery::MetadataRecoveryStrategy;

/// Why somebody wants fresh metadata. Reasons are logged, and a client that refreshes too often says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefreshReason {
    /// The client has just been built.
    Start,
    /// A topic is wanted that the picture does not have.
    NewTopic,
    /// A broker said that it does not lead a partition.
    NotLeader,
    /// A partition has no leader.
    NoLeader,
    /// A broker could not be reached, or a connection to it was lost.
    Disconnected,
    /// A broker is silent: it may be frozen, and another one may lead by now.
    Silent,
    /// A broker said something else that means: your metadata is old.
    Outdated,
    /// The picture is older than `metadata.max.age`.
    Age,
    /// The user asked.
    Asked,
}
