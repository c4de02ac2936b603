//! milena's producer: records in, batches out, never lost, doubled or reordered.
//!
//! # The journey of a record
//!
//! 1. `send` (`producer.rs`) lends a [`Record`] (`record.rs`) and finds its topic (`topics.rs`) and its
//!    partition (`partitioner/`); `append.rs` is what runs for every record.
//! 2. Under the partition's short lock the record is encoded, once, into the open batch (`accumulator.rs`), in a buffer of the one
//!    pool with the one budget (`pool.rs`). The user gets a [`Delivery`] (`delivery.rs`).
//! 3. The batch closes because it is full, its linger is over, or somebody flushes. The partition goes into its broker's queue, and
//!    the broker's bell rings (`broker.rs`).
//! 4. The broker's task (`driver/broker.rs`) puts its next request together (`driver/broker/requests.rs`): at most one batch of each
//!    partition whose turn it is. The partition's window (`sequence.rs`) decides what may be sent and gives it its sequence; it is
//!    compressed, stamped and checksummed outside the lock (`driver/prepare.rs`) and goes out with the others in one vectored write.
//! 5. The answer (`driver/broker/answers.rs`) goes through the window, which says what it means: written, again, failed, or nothing. The
//!    batch completes once, its buffer goes back, and whoever awaits one of its records is woken.
//!
//! One more task (`driver/upkeep.rs`) brings new leaders, the producer id, and the end of batches whose time is over.
//!
//! Around it: values instead of bytes (`typed.rs`), the user's own code (`interceptor.rs`), room that is waited for in advance
//! (`permit.rs`), many records at once from a plain thread (`backlog.rs`), settings that belong together (`profile.rs`), a look at whether the topics keep what is promised (`preflight.rs`).
//!
//! Transactions have a journey of their own: `transaction/mod.rs`.
//!
//! What is counted on the way is in `metrics.rs`; what holds for one topic alone in `settings.rs`.

mod accumulator;
mod append;
mod backlog;
mod broker;
mod config;
mod delivery;
mod driver;
mod interceptor;
mod load;
mod lookups;
mod metrics;
mod partitioner;
mod permit;
mod pool;
mod preflight;
mod producer;
mod profile;
mod record;
mod sending;
mod sequence;
mod settings;
mod shared;
mod topics;
mod transaction;
mod typed;

pub use backlog::Backlog;
pub use config::{Acks, ProducerBuilder, TopicSettings};
pub use delivery::{Delivery, Placed};
pub use interceptor::{Acknowledged, AddedHeaders, Interceptor};
pub use metrics::PartitionQueue;
pub use milena_protocol::records::Compression;
pub use partitioner::{
    ByGeohash, Choice, ClusterView, Crc32, Fnv1a, Geohash, Murmur2, Partitioner, RoundRobin, Salted, Sharded, Tiered,
    TimeBucket, Unplaced, geohash, murmur2_partition, sharded_key, time_bucket_key,
};
pub use permit::Permit;
pub use preflight::{Concern, Finding};
pub use producer::{Appended, Producer, Purge, Purged};
pub use profile::Profile;
pub use record::{AsRecord, Header, OwnedRecord, Record, RecordView};
pub use transaction::{
    AbortError, CommitError, InitialiseError, Transaction, TransactionSender, TransactionalProducer,
    TransactionalProducerBuilder, UninitialisedProducer,
};
pub use typed::{SendsRecords, Typed, TypedRecord};
