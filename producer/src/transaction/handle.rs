//! An open transaction: what is sent in it, and how it ends.

use std::fmt;
use std::sync::Arc;

use milena_client::{Error, ErrorKind, GroupMetadata, OffsetAndMetadata, TopicPartition};

use super::error::{AbortError, CommitError};
use super::machine::{Ended, GroupOffsets};
use super::producer::{TransactionalProducer, UninitialisedProducer};
use crate::accumulator::InTransaction;
use crate::backlog::Backlog;
use crate::delivery::Delivery;
use crate::producer::{Appended, Inner};
use crate::record::AsRecord;
use crate::sending::{Sending, Timed};
use crate::shared::Shared;
use crate::typed::Typed;

/// An open transaction. Dropped, it is aborted in the background.
///
/// What is sent becomes visible to readers of committed records with the commit, all of it or nothing. A record that
/// [`send`](Self::send) has taken and that fails later spoils the transaction: it can only be aborted then. One that `send` refuses
/// is not part of it.
#[must_use = "dropped, the transaction is aborted"]
pub struct Transaction {
    /// Taken when the transaction is ended.
    inner: Option<Arc<Inner>>,
    number: u64,
}

/// Sends in a transaction, from other tasks and threads. Cheap to clone; it fails once the transaction has ended, or is being ended.
#[derive(Clone)]
pub struct TransactionSender {
    shared: Arc<Shared>,
    number: u64,
}

/// Both kinds of handles send in the same way.
macro_rules! sending_methods {
    ($handle:ident) => {
        impl $handle {
            /// Takes a record and returns the future of its ack, as [`Producer::send`](crate::Producer::send) does. An ack says that the
            /// record is written, not that it is committed.
            ///
            /// # Errors
            /// As [`Producer::send`](crate::Producer::send); [`ErrorKind::TransactionEnded`] once the transaction has ended, is being
            /// ended, or can only be aborted. The record was not taken then.
            ///
            /// # Cancel safety
            /// Safe: dropped before it is ready, nothing was taken. Nothing is awaited after a record has been taken.
            #[inline]
            pub async fn send(&self, record: &impl AsRecord) -> Result<Delivery, Error> {
                self.sending().send(record).await
            }

            /// Takes records one after the other and adds their [`Delivery`]s to `deliveries`, as
            /// [`Producer::send_all`](crate::Producer::send_all) does.
            ///
            /// # Errors
            /// As [`Producer::send_all`](crate::Producer::send_all), and as [`send`](Self::send).
            ///
            /// # Cancel safety
            /// Safe: dropped before it is ready, `deliveries` has those of exactly the records that were taken.
            pub async fn send_all<R: AsRecord>(
                &self,
                records: impl IntoIterator<Item = R>,
                deliveries: &mut Vec<Delivery>,
            ) -> Result<(), Error> {
                self.sending().send_all(records, deliveries).await
            }

            /// Takes a record if that needs no waiting, as [`Producer::try_send`](crate::Producer::try_send) does.
            ///
            /// # Errors
            /// As [`Producer::try_send`](crate::Producer::try_send), and as [`send`](Self::send).
            pub fn try_send(&self, record: &impl AsRecord) -> Result<Delivery, Error> {
                self.sending().try_send(record)
            }

            /// Takes records of one partition for as long as there is room, as [`Producer::append`](crate::Producer::append) does.
            ///
            /// # Errors
            /// As [`Producer::append`](crate::Producer::append), and as [`send`](Self::send).
            pub fn append<R: AsRecord>(
                &self,
                topic: &str,
                partition: i32,
                records: &mut Backlog<impl Iterator<Item = R>>,
            ) -> Result<Appended, Error> {
                self.sending().append(topic, partition, records)
            }

            /// As [`append`](Self::append), but takes all records and parks the calling thread for it, as
            /// [`Producer::append_blocking`](crate::Producer::append_blocking) does.
            ///
            /// # Errors
            /// As [`Producer::append_blocking`](crate::Producer::append_blocking), and as [`send`](Self::send).
            pub fn append_blocking<R: AsRecord>(
                &self,
                topic: &str,
                partition: i32,
                records: &mut Backlog<impl Iterator<Item = R>>,
            ) -> Result<Appended, Error> {
                self.sending().append_blocking(topic, partition, records)
            }

            /// Looks a topic up, so that neither [`try_send`](Self::try_send) nor [`append`](Self::append) finds it unknown. Returns the
            /// number of its partitions.
            ///
            /// # Errors
            /// [`ErrorKind::UnknownTopicOrPartition`] after [`max_block`](crate::ProducerBuilder::max_block).
            ///
            /// # Cancel safety
            /// Safe: at worst the look-up is repeated.
            pub async fn prepare_topic(&self, topic: &str) -> Result<i32, Error> {
                self.sending().prepare_topic(topic).await
            }

            /// Free bytes of [`buffer_memory`](crate::ProducerBuilder::buffer_memory).
            pub fn room(&self) -> usize {
                self.shared().pool.room()
            }

            /// Sends at once whatever lingers, and waits until every record taken before has its result.
            ///
            /// # Errors
            /// The first failure among those records.
            ///
            /// # Cancel safety
            /// Safe: dropped, the records are still sent.
            pub async fn flush(&self) -> Result<(), Error> {
                self.sending().flush().await
            }

            fn sending(&self) -> Sending<'_, InTransaction> {
                Sending { shared: self.shared(), claim: InTransaction(self.number) }
            }
        }
    };
}

sending_methods!(Transaction);
sending_methods!(TransactionSender);

impl TransactionSender {
    /// The same sender for keys and values that these serializers turn into bytes.
    pub fn typed<KS, VS>(&self, key_serializer: KS, value_serializer: VS) -> Typed<Self, KS, VS> {
        Typed::new(self.clone(), key_serializer, value_serializer)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Transaction {
    pub(super) fn new(inner: Arc<Inner>, number: u64) -> Self {
        Self { inner: Some(inner), number }
    }

    #[expect(
        clippy::unwrap_used,
        reason = "taken only by the methods that consume the transaction, and when it is dropped"
    )]
    fn inner(&self) -> &Arc<Inner> {
        self.inner.as_ref().unwrap()
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.inner().shared
    }

    /// A sender for other tasks.
    pub fn sender(&self) -> TransactionSender {
        TransactionSender { shared: self.shared().clone(), number: self.number }
    }

    /// A sender for keys and values that these serializers turn into bytes.
    pub fn typed<KS, VS>(&self, key_serializer: KS, value_serializer: VS) -> Typed<TransactionSender, KS, VS> {
        self.sender().typed(key_serializer, value_serializer)
    }

    /// Makes the offsets part of the transaction: they are committed for the group if and only if it is (Java:
    /// `sendOffsetsToTransaction`). Waits for the group's coordinator, at most [`max_block`](crate::ProducerBuilder::max_block).
    ///
    /// With the member and generation in `group` the coordinator refuses a member that has been replaced (KIP-447).
    ///
    /// # Errors
    /// What the coordinator says: the transaction can then only be aborted. [`ErrorKind::Config`] for a generation without a member,
    /// which changes nothing.
    ///
    /// # Cancel safety
    /// Dropped after its first poll, the offsets are sent nevertheless, and a commit waits for them.
    pub async fn send_offsets(
        &self,
        offsets: impl IntoIterator<Item = (TopicPartition, OffsetAndMetadata)>,
        group: &GroupMetadata,
    ) -> Result<(), Error> {
        if group.group.is_empty() || (group.generation > 0 && group.member_id.is_empty()) {
            return Err(Error::new(
                ErrorKind::Config,
                "the group's metadata is not that of a member: take it from the consumer, while it is in the group.",
            ));
        }
        let offsets = GroupOffsets { group: group.clone(), offsets: offsets.into_iter().collect() };
        if offsets.offsets.is_empty() {
            return Ok(());
        }
        let (transaction, shared) = (self.inner().transaction(), self.shared());
        let _timed = Timed::start(shared, |metrics| &metrics.txn_send_offsets_time);
        let deadline = shared.link.now() + shared.config.max_block;
        let ticket = transaction.tell(|inner| inner.machine.on_offsets(offsets, deadline));
        transaction.result(|machine| machine.take_answered(ticket)).await
    }

    /// Commits: takes no more records, waits for the results of those that it has taken, and asks the coordinator, at most
    /// [`max_block`](crate::ProducerBuilder::max_block) in all. Gives the producer back for the next transaction.
    ///
    /// # Errors
    /// [`CommitError`] says what is left to do.
    ///
    /// # Cancel safety
    /// Dropped before its first poll, the transaction is aborted. Dropped later, the commit goes on in the background until its
    /// deadline; whoever builds a producer of the same transactional id in this client waits for that.
    pub async fn commit(mut self) -> Result<TransactionalProducer, CommitError> {
        let Some(inner) = self.inner.take() else { unreachable!("a transaction is ended once") };
        let number = self.number;
        let shared = inner.shared.clone();
        let _timed = Timed::start(&shared, |metrics| &metrics.txn_commit_time);
        let (inner, ended) = Ending::start(inner, true).wait().await;
        match ended {
            Ended::Done => Ok(TransactionalProducer::from_inner(inner)),
            Ended::Abortable(error) => Err(CommitError::Abortable(Self::new(inner, number), error)),
            Ended::Retry(error) => Err(CommitError::Retry(Self::new(inner, number), error)),
            Ended::Unknown(error) => Err(CommitError::Unknown(UninitialisedProducer::from_inner(inner), error)),
            Ended::Fenced(error) => Err(CommitError::Fenced(error)),
        }
    }

    /// Aborts: gives up the records that are not sent, waits for the answers to those that are, and asks the coordinator, at most
    /// [`max_block`](crate::ProducerBuilder::max_block) in all. Gives the producer back for the next transaction.
    ///
    /// # Errors
    /// [`AbortError`] says what is left to do. The transaction is not committed in any case.
    ///
    /// # Cancel safety
    /// Dropped, the abort goes on in the background.
    pub async fn abort(mut self) -> Result<TransactionalProducer, AbortError> {
        let Some(inner) = self.inner.take() else { unreachable!("a transaction is ended once") };
        let shared = inner.shared.clone();
        let _timed = Timed::start(&shared, |metrics| &metrics.txn_abort_time);
        let (inner, ended) = Ending::start(inner, false).wait().await;
        match ended {
            Ended::Done => Ok(TransactionalProducer::from_inner(inner)),
            Ended::Fenced(error) => Err(AbortError::Fenced(error)),
            Ended::Abortable(error) | Ended::Retry(error) | Ended::Unknown(error) => {
                Err(AbortError::Unknown(UninitialisedProducer::from_inner(inner), error))
            }
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            // Dropped at once, which has it go on in the background.
            drop(Ending::start(inner, false));
        }
    }
}

/// Asks for the end of the transaction; [`ended`] waits for it.
fn end(inner: &Inner, commit: bool) {
    let (shared, transaction) = (&inner.shared, inner.transaction());
    let outcome = transaction.open_outcome();
    let unsettled = if commit { shared.end_transaction(transaction) } else { shared.drain_transaction(transaction) };
    let deadline = shared.link.now() + shared.config.max_block;
    transaction.tell(|state| {
        state.machine.on_end(commit, deadline);
        state.unsettled = Some(unsettled);
        state.outcome = Some(outcome);
    });
}

async fn ended(inner: &Inner) -> Ended {
    inner.transaction().result(|machine| machine.take_ended()).await
}

/// A transaction that is being ended. Dropped, it goes on in the background.
struct Ending {
    /// Taken when it has ended.
    inner: Option<Arc<Inner>>,
}

impl Ending {
    fn start(inner: Arc<Inner>, commit: bool) -> Self {
        end(&inner, commit);
        Self { inner: Some(inner) }
    }

    async fn wait(mut self) -> (Arc<Inner>, Ended) {
        let Some(inner) = self.inner.clone() else { unreachable!("taken below, and when this is dropped") };
        let ended = ended(&inner).await;
        self.inner = None;
        (inner, ended)
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        let link = inner.shared.link.clone();
        link.spawn("producer-ending", async move {
            if let Ended::Abortable(_) = ended(&inner).await {
                // Nobody is left who could abort it.
                end(&inner, false);
                ended(&inner).await;
            }
        });
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("number", &self.number).finish_non_exhaustive()
    }
}

impl fmt::Debug for TransactionSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionSender").field("number", &self.number).finish_non_exhaustive()
    }
}
