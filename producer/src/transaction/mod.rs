//! Transactions: records and offsets that are read together or not at all.
//!
//! # The journey of a transaction
//!
//! 1. [`ProducerBuilder::transactional_id`](crate::ProducerBuilder::transactional_id) and `build` (`builder.rs`) give a
//!    [`TransactionalProducer`] (`producer.rs`) that has an identity: InitProducerId has fenced whoever had the id before.
//! 2. `begin` makes a [`Transaction`] of it (`handle.rs`), which sends as a [`Producer`](crate::Producer) does. A record is taken only
//!    while its transaction is open; that is asked under the lock that encodes it.
//! 3. Before a partition's first batch goes out, the machine (`machine.rs`) is asked whether the partition is part of the transaction;
//!    `state.rs` is what the broker tasks and the handles share of it.
//! 4. `commit` takes no more records, waits for those that are under way, and asks the coordinator to end the transaction
//!    (`driver/transaction.rs`). What is left to do if that fails is in the error's type (`error.rs`).
//!
//! A future that is dropped stops nothing: a commit goes on in the background until its deadline, and a transaction that is dropped
//! is aborted. Whoever builds a producer of the same id in the same client waits for that first.

mod builder;
mod error;
mod handle;
mod machine;
mod producer;
mod state;

pub use builder::TransactionalProducerBuilder;
pub use error::{AbortError, CommitError, InitialiseError};
pub use handle::{Transaction, TransactionSender};
pub(crate) use machine::{Ask, Effect, GroupOffsets, NoReply, Protocol, Reply, Step};
pub use producer::{TransactionalProducer, UninitialisedProducer};
pub(crate) use state::{Transactional, given_up};
