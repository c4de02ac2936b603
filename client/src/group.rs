//! What a group and its members are to the others who speak to its coordinator: an offset to commit, and who commits it.

use std::sync::Arc;

/// An offset to commit: where reading goes on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OffsetAndMetadata {
    /// The offset of the next record to read.
    pub offset: i64,
    /// The epoch of the leader that wrote the record before it; −1 if unknown.
    pub leader_epoch: i32,
    /// Whatever the user wants to store with it. Java Streams keeps the partition's time there.
    pub metadata: String,
}

impl From<i64> for OffsetAndMetadata {
    fn from(offset: i64) -> Self {
        Self { offset, leader_epoch: -1, metadata: String::new() }
    }
}

/// Member and generation of a group's member, for what else speaks to the coordinator in its name (`ConsumerGroupMetadata`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupMetadata {
    /// The group.
    pub group: Arc<str>,
    /// The id that the coordinator gave to this member; empty before it has joined.
    pub member_id: Arc<str>,
    /// The generation, −1 while not in the group.
    pub generation: i32,
    /// The `group.instance.id` of a static member.
    pub instance_id: Option<Arc<str>>,
}
