//! Connections: from a broker's name to answered requests.
//!
//! [`establish`] resolves, connects and hand-shakes; the result is a [`Wire`](wire::Wire), which its owner polls. The hot loops
//! (produce, fetch) own a wire each; everything else shares one per (broker, owner, lane) behind a
//! [`Connection`](service::Connection), a `tower::Service`, kept by the [`Pool`](pool::Pool). A broker serves one request per connection at a time, so what may wait long
//! (a fetch, a join) never shares a connection with what may not (a heartbeat).

pub(crate) mod establish;
pub(crate) mod features;
pub(crate) mod generation;
pub(crate) mod handshake;
pub(crate) mod in_flight;
pub(crate) mod pool;
pub(crate) mod service;
pub(crate) mod wire;

use std::fmt;

/// What a connection is used for. Requests of one lane may wait for one another; those of two never do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Lane {
    /// Produce.
    Produce,
    /// Fetch, which waits at the broker for new records.
    Fetch,
    /// JoinGroup and SyncGroup, which wait for the other members.
    Join,
    /// Heartbeat and OffsetCommit, which must never wait for a join.
    Heartbeat,
    /// Administration that takes long.
    Slow,
    /// Everything else.
    Rest,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Produce => "produce",
            Self::Fetch => "fetch",
            Self::Join => "join",
            Self::Heartbeat => "heartbeat",
            Self::Slow => "slow",
            Self::Rest => "rest",
        })
    }
}
