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
//!    (`partitions/`), which knows whether they are still wanted. For a reader of committed records, batches of aborted
//!    transactions end here (`fetch/aborted.rs`).
//! 4. The reader (`reader.rs`), in the user's own task, takes batches in turn, checks, decompresses and decodes them, and lends
//!    [`RecordRef`]s, gives [`Records`] (`records.rs`) or, one by one, [`SharedRecord`]s (`owned.rs`); each partition may have a stream
//!    of its own (`partition_streams.rs`). Keys and values are decoded in `typed.rs`; `table.rs` keeps the last value of each key.
//! 5. What is acknowledged moves the partition's frontier (`acks.rs`); frontiers go through the commit queue (`commits.rs`) to the
//!    coordinator: from time to time, before a partition goes to another member, and when the consumer is closed.
//!
//! Not here yet: racks in the assignor (KIP-881), the group protocol of KIP-848, subscription by pattern.

mod acks;
mod assignor;
mod commits;
mod config;
mod consumer;
mod deadline;
mod driver;
mod errors;
mod events;
mod fetch;
mod group;
mod handle;
mod listener;
mod lookups;
mod metrics;
mod owned;
mod partition_consumer;
mod partition_streams;
mod partitions;
mod reader;
mod reading;
mod records;
mod shared;
mod table;
mod typed;

pub use assignor::{Assignments, Assignor, AssignorError, CooperativeSticky, Member, RebalanceProtocol, TopicSizes};
pub use config::{IsolationLevel, OffsetReset, StartAt};
pub use consumer::{Consumer, ConsumerBuilder};
pub use errors::{LogTruncation, OffsetGone, UnreadableBatch};
pub use events::{ConsumerEvent, ResetReason};
pub use group::{Assignment, MalformedBlob, Subscription};
pub use handle::{ConsumerHandle, GenerationHold, ReaderHandle};
pub use listener::{ListenerFuture, RebalanceListener};
pub use lookups::OffsetAndTimestamp;
pub use milena_client::{GroupMetadata, OffsetAndMetadata};
pub use milena_protocol::records::{BatchError, Header, Headers};
pub use owned::{RecordStream, RecordsIntoIter, SharedRecord};
pub use partition_consumer::{PartitionConsumer, PartitionConsumerBuilder};
pub use partition_streams::{PartitionStream, PartitionStreams};
pub use partitions::PartitionState;
pub use records::{ConsumerRecord, PartitionRecords, RecordRef, Records, RecordsIter};
pub use table::{CompactedTable, CompactedTableBuilder, TableWatch};
pub use typed::{Decoded, ReadError, ReadsRecords, RecordPart, TypedConsumer, TypedStream, UndecodableRecord};
