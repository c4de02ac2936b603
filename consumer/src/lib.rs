//! milena's consumer: reads topics as a member of a group, or chosen partitions without one.
//!
//! # The journey of a record that is read
//!
//! 1. A member of a group is given partitions: its driver (`driver/group.rs`) does what the membership machine
//!    (`group/classic.rs`) says; the leader runs an [`Assignor`] (`assignor/`) over the members' subscriptions (`group/blob.rs`).
//!    A [`PartitionConsumer`] is told its partitions.
//! 2. `driver/upkeep.rs` finds each partition's leader, looks up where to start (`driver/offsets.rs`) and runs a fetch loop for each
//!    broker.
//! 3. A fetch loop (`driver/fetch_loop.rs`) reserves bytes of the budget (`fetch/budget.rs`), asks for all its partitions at once in a
//!    fetch session (`fetch/session.rs`), and hands over batches as they arrive, undecoded, to the table of partitions
//!    (`partitions.rs`), which knows whether they are still wanted. For a reader of committed records, batches of aborted
//!    transactions end here (`fetch/aborted.rs`).
//! 4. The reader (`reader.rs`), in the user's own task, takes batches in turn, checks, decompresses and decodes them, and lends
//!    [`RecordRef`]s or gives [`Records`] (`records.rs`).
//! 5. What is acknowledged moves the partition's frontier (`acks.rs`); frontiers go through the commit queue (`commits.rs`) to the
//!    coordinator: from time to time, before a partition goes to another member, and when the consumer is closed.
//!
//! Not here yet: validation of leader epochs (KIP-320), fetching from followers (KIP-392), racks in the assignor
//! (KIP-881), the group protocol of KIP-848, subscription by pattern.

mod acks;
mod assignor;
mod commits;
mod config;
mod consumer;
mod driver;
mod fetch;
mod group;
mod handle;
mod listener;
mod metrics;
mod partition_consumer;
mod partitions;
mod reader;
mod reading;
mod records;
mod shared;

pub use assignor::{Assignments, Assignor, AssignorError, CooperativeSticky, Member, RebalanceProtocol, TopicSizes};
pub use config::{IsolationLevel, OffsetReset, StartAt};
pub use consumer::{Consumer, ConsumerBuilder};
pub use group::{Assignment, MalformedBlob, Subscription};
pub use handle::{ConsumerHandle, GenerationHold};
pub use listener::{ListenerFuture, RebalanceListener};
pub use milena_client::{GroupMetadata, OffsetAndMetadata};
pub use milena_protocol::records::{Header, Headers};
pub use partition_consumer::{PartitionConsumer, PartitionConsumerBuilder};
pub use partitions::PartitionState;
pub use records::{ConsumerRecord, PartitionRecords, RecordRef, Records, RecordsIter};
