//! Who reads what: the group's leader runs an assignor over all members' subscriptions.
//!
//! [`CooperativeSticky`] is the default. A program can bring its own [`Assignor`]: milena's Streams does, to place tasks and their
//! state rather than partitions.

mod balance;
mod sticky;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

pub use self::sticky::CooperativeSticky;
use crate::group::{Assignment, Subscription};

/// How a group moves a partition from one member to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RebalanceProtocol {
    /// Everybody gives up everything before joining.
    Eager,
    /// Members go on reading what they keep; what moves is given up first and handed over in a second, quick rebalance (KIP-429).
    Cooperative,
}

/// A member of the group, as its leader sees it.
#[derive(Debug, Clone)]
pub struct Member {
    /// The id that the coordinator gave it.
    pub id: Arc<str>,
    /// Its `group.instance.id`, if it is a static member.
    pub instance_id: Option<Arc<str>>,
    /// What it wants, and what it owns.
    pub subscription: Subscription,
}

/// The topics that exist, and how many partitions each has. A topic that somebody wants and nobody created is not in it.
pub type TopicSizes = BTreeMap<Arc<str>, i32>;

/// An assignment for every member, by its id. A member that is missing gets nothing.
pub type Assignments = BTreeMap<Arc<str>, Assignment>;

/// An assignor could not assign. The member stays without partitions and joins again after a back-off.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the assignor failed: {0}")]
pub struct AssignorError(pub String);

/// Distributes partitions over members (`org.apache.kafka.clients.consumer.ConsumerPartitionAssignor`).
///
/// Its methods run on the client's thread, between heartbeats: they may compute, but must not block.
pub trait Assignor: fmt::Debug + Send + Sync + 'static {
    /// The name by which members agree on it, such as `cooperative-sticky`. All members of a group must know one in common.
    fn name(&self) -> &str;

    /// How partitions move. Default: [`RebalanceProtocol::Cooperative`].
    fn protocol(&self) -> RebalanceProtocol {
        RebalanceProtocol::Cooperative
    }

    /// What this member tells the leader beside its topics and what it owns. Asked before every join.
    fn user_data(&self, subscription: &Subscription) -> Option<Bytes> {
        let _ = subscription;
        None
    }

    /// Distributes the partitions. Runs in the leader only.
    ///
    /// An assignor of the cooperative protocol must not give a partition to a member while another still owns it.
    ///
    /// # Errors
    /// When it cannot assign.
    fn assign(&self, topics: &TopicSizes, members: &[Member]) -> Result<Assignments, AssignorError>;

    /// What the leader gave to this member, before it comes into force.
    fn on_assignment(&self, assignment: &Assignment, generation: i32) {
        let _ = (assignment, generation);
    }
}
