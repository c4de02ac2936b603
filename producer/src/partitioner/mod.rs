//! Which partition a record goes to: its own wish, its key's hash, or wherever the topic's sticky partition is.
//!
//! | Partitioner | For |
//! | --- | --- |
//! | [`Murmur2`] | the default: keys as Java places them, the rest in full batches (KIP-794, `sticky.rs`) |
//! | [`Crc32`], [`Fnv1a`] | topics that librdkafka's or Sarama's clients write as well |
//! | [`RoundRobin`] | the same number of records for each partition, whatever that costs |
//! | [`Tiered`] | keys that must not wait behind the others |
//! | [`Sharded`], [`Salted`] | keys that are too much for one partition, by an entity of theirs or by turns |
//! | [`ByGeohash`] | places on the map: near ones together |
//! | [`TimeBucket`] | keys whose records belong together only while they are close in time |

mod crc32;
mod derived;
mod fnv1a;
mod geohash;
mod hot_keys;
mod murmur2;
#[cfg(test)]
mod properties;
mod round_robin;
mod salted;
mod sharded;
mod sticky;
mod tiered;
mod time_bucket;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use milena_protocol::records::Header;

pub use crc32::Crc32;
pub use fnv1a::Fnv1a;
pub use geohash::{ByGeohash, Geohash, geohash};
pub use murmur2::{Murmur2, murmur2_partition};
pub use round_robin::RoundRobin;
pub use salted::Salted;
pub use sharded::{Sharded, sharded_key};
pub use tiered::Tiered;
pub use time_bucket::{TimeBucket, time_bucket_key};

pub(crate) use sticky::{Candidate, Draw, sticky_is_over};

/// Chooses the partition of a record that does not name one. Java: `Partitioner`.
///
/// It runs in `send`, for each record, before the partition's lock is taken: it must not block. A record that then waits for room keeps
/// its partition; only one that gets a header is asked about again.
///
/// ```
/// use milena_producer::{Choice, ClusterView, Partitioner, Unplaced};
///
/// /// Whichever partition has the least to do.
/// #[derive(Debug)]
/// struct LeastQueued;
///
/// impl Partitioner for LeastQueued {
///     fn choose(&self, _: &Unplaced<'_>, cluster: &dyn ClusterView) -> Choice<'_> {
///         let with_leader = (0..cluster.partitions()).filter(|partition| cluster.is_available(*partition));
///         match with_leader.min_by_key(|partition| cluster.queued_bytes(*partition)) {
///             Some(partition) => Choice::Partition(partition),
///             None => Choice::Sticky,
///         }
///     }
/// }
/// ```
pub trait Partitioner: Send + Sync + fmt::Debug {
    /// The choice for one record.
    fn choose(&self, record: &Unplaced<'_>, cluster: &dyn ClusterView) -> Choice<'_>;
}

/// So that a handle on it can be kept.
impl<P: Partitioner + ?Sized> Partitioner for Arc<P> {
    fn choose(&self, record: &Unplaced<'_>, cluster: &dyn ClusterView) -> Choice<'_> {
        (**self).choose(record, cluster)
    }
}

/// What a partitioner sees of a record.
#[derive(Debug, Clone, Copy)]
pub struct Unplaced<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The key's bytes.
    pub key: Option<&'a [u8]>,
    /// The value's bytes.
    pub value: Option<&'a [u8]>,
    /// The headers.
    pub headers: &'a [Header<'a>],
    /// Milliseconds since 1970: the record's own time, or that of sending.
    pub timestamp: i64,
}

/// What a partitioner sees of the record's topic. None of it takes a lock.
pub trait ClusterView {
    /// How many partitions the topic has; they are numbered from 0.
    fn partitions(&self) -> i32;
    /// The id of the broker that leads the partition, if this client knows one.
    fn leader(&self, partition: i32) -> Option<i32>;
    /// Whether the partition has a leader that this client knows.
    fn is_available(&self, partition: i32) -> bool {
        self.leader(partition).is_some()
    }
    /// How many batches of the partition wait here, those under way to its leader not included. As of the last time that one was
    /// opened, closed or taken.
    fn queue_depth(&self, partition: i32) -> u32;
    /// How many bytes those batches had then.
    fn queued_bytes(&self, partition: i32) -> usize;
    /// A number for taking turns: one more with each call, for each topic on its own, from wherever the client's seed has it begin.
    /// It wraps.
    fn next_turn(&self) -> u32;
}

/// A partitioner's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice<'a> {
    /// This partition; one that the topic does not have fails the `send`.
    Partition(i32),
    /// The sticky one: all such records of a topic go to one partition until about a batch's worth of bytes is there, then to
    /// another one by chance, and rather to one where little waits (KIP-794). Full batches for records whose place does not matter.
    Sticky,
    /// This partition, and the record gets one more header, behind its own. The bytes are the partitioner's.
    PartitionWithHeader(i32, Header<'a>),
}

/// Who chooses for records that name no partition, as the producer was told.
#[derive(Debug, Clone)]
pub(crate) struct Partitioning {
    /// `None` is the default one.
    pub(crate) partitioner: Option<Arc<dyn Partitioner>>,
    pub(crate) ignore_keys: bool,
    pub(crate) adaptive: bool,
    /// Zero is off.
    pub(crate) availability_timeout: Duration,
}

impl Default for Partitioning {
    fn default() -> Self {
        Self { partitioner: None, ignore_keys: false, adaptive: true, availability_timeout: Duration::ZERO }
    }
}

impl Partitioning {
    pub(crate) fn placing(&self) -> Placing {
        match &self.partitioner {
            Some(partitioner) => Placing::By(partitioner.clone()),
            None if self.ignore_keys => Placing::Sticky,
            None => Placing::Default,
        }
    }
}

/// Who places a topic's records. The default is known to `send`, which asks nobody then.
#[derive(Debug, Clone)]
pub(crate) enum Placing {
    /// As [`Murmur2`].
    Default,
    /// All of them as if they had no key.
    Sticky,
    By(Arc<dyn Partitioner>),
}

/// A topic for the tests of partitioners: all partitions are led by broker 1, but those that are said to have no leader.
#[cfg(test)]
pub(crate) struct View {
    partitions: i32,
    leaderless: Vec<i32>,
    turn: std::cell::Cell<u32>,
}

#[cfg(test)]
impl View {
    pub(crate) fn of(partitions: i32) -> Self {
        Self { partitions, leaderless: Vec::new(), turn: std::cell::Cell::new(0) }
    }

    fn without_leaders(mut self, partitions: &[i32]) -> Self {
        self.leaderless = partitions.to_vec();
        self
    }
}

#[cfg(test)]
impl ClusterView for View {
    fn partitions(&self) -> i32 {
        self.partitions
    }
    fn leader(&self, partition: i32) -> Option<i32> {
        ((0..self.partitions).contains(&partition) && !self.leaderless.contains(&partition)).then_some(1)
    }
    fn queue_depth(&self, _: i32) -> u32 {
        0
    }
    fn queued_bytes(&self, _: i32) -> usize {
        0
    }
    fn next_turn(&self) -> u32 {
        self.turn.replace(self.turn.get().wrapping_add(1))
    }
}

/// A record with this key and nothing else, for the tests of partitioners.
#[cfg(test)]
pub(crate) fn keyed(key: Option<&[u8]>) -> Unplaced<'_> {
    Unplaced { topic: "t", key, value: None, headers: &[], timestamp: 0 }
}
