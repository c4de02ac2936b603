//! The rebalance listener: the user's code around a change of the assignment.

use std::future::Future;
use std::pin::Pin;

use milena_client::TopicPartition;

use crate::ConsumerHandle;

/// What a listener's method returns: `Box::pin(async move { … })`.
pub type ListenerFuture<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Told what this member gets and what it gives up (`ConsumerRebalanceListener`).
///
/// Calls come one after the other, on the runtime that built the consumer, also while nobody reads. Heartbeats go on meanwhile. The
/// handle can commit and seek.
pub trait RebalanceListener: Send + Sync + 'static {
    /// These partitions are new. Reading them starts when this returns: where the group has committed, or where this has sought.
    fn on_assigned<'a>(&'a self, partitions: &'a [TopicPartition], consumer: &'a ConsumerHandle) -> ListenerFuture<'a> {
        let _ = (partitions, consumer);
        Box::pin(async {})
    }

    /// These partitions are about to be given up, as soon as what was handed out of them is acknowledged (or it took too long):
    /// for whoever acknowledges by committing now and then, and should do so at once. Must not block; calls of the other methods may
    /// be under way.
    fn on_revoking(&self, partitions: &[TopicPartition]) {
        let _ = partitions;
    }

    /// These partitions go to another member when this returns. No more records of them are handed out; what was handed out has been
    /// acknowledged and committed, as far as it was done in time. What this commits for them still counts.
    fn on_revoked<'a>(&'a self, partitions: &'a [TopicPartition], consumer: &'a ConsumerHandle) -> ListenerFuture<'a> {
        let _ = (partitions, consumer);
        Box::pin(async {})
    }

    /// These partitions were taken away: the coordinator had given this member up. Another may read them already, and nothing can be
    /// committed for them.
    fn on_lost<'a>(&'a self, partitions: &'a [TopicPartition], consumer: &'a ConsumerHandle) -> ListenerFuture<'a> {
        let _ = (partitions, consumer);
        Box::pin(async {})
    }
}
