//! A transactional producer between its transactions.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use milena_client::{Client, Error, ErrorKind};

use super::error::InitialiseError;
use super::handle::Transaction;
use super::state::Transactional;
use crate::config::{Config, LONGEST};
use crate::driver;
use crate::producer::Inner;
use crate::sending::Timed;

/// A producer that has a transactional id: it [begins](Self::begin) one transaction at a time.
///
/// ```no_run
/// # use milena_producer::{CommitError, Producer, Record};
/// # async fn f(client: &milena_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let mut producer = Producer::builder(client).transactional_id("payments-1").build().await?;
/// loop {
///     let transaction = producer.begin();
///     let _ = transaction.send(&Record::to("debits").value("10")).await?; // its failure is the commit's
///     let _ = transaction.send(&Record::to("credits").value("10")).await?;
///     producer = match transaction.commit().await {
///         Ok(producer) => producer,
///         Err(CommitError::Abortable(transaction, _)) => transaction.abort().await?,
///         Err(error) => return Err(error.into()),
///     };
/// }
/// # }
/// ```
#[must_use = "dropped, the producer ends"]
pub struct TransactionalProducer {
    inner: Arc<Inner>,
}

/// A producer whose last transaction has an outcome that nobody told it.
#[must_use = "initialise it, or build a producer anew"]
pub struct UninitialisedProducer {
    inner: Arc<Inner>,
}

impl TransactionalProducer {
    pub(super) async fn start(client: &Client, config: Config, id: Arc<str>, timeout: Duration) -> Result<Self, Error> {
        let inner = Arc::new(Inner::start(client, config, Some((id, timeout))));
        inner.owner.spawn("producer-transaction", driver::transaction::run(inner.shared.clone()));
        initialised(&inner).await?;
        Ok(Self { inner })
    }

    pub(super) fn from_inner(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// The transactional id.
    pub fn transactional_id(&self) -> &str {
        self.inner.transaction().id()
    }

    /// Begins a transaction. Nothing is sent: a transaction without records and offsets costs nothing.
    pub fn begin(self) -> Transaction {
        let transaction = self.inner.transaction();
        let number = transaction.begin();
        self.inner.shared.begin_transaction(transaction, number);
        Transaction::new(self.inner, number)
    }

    /// Ends the producer's tasks and connections and waits until they are gone, at most until `deadline` from now. (There is nothing
    /// to deliver: between transactions all records have their results.) Dropping the producer does the same without waiting.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] if they are not; they end nevertheless.
    ///
    /// # Cancel safety
    /// Dropped, they end by themselves.
    pub async fn close(self, deadline: Duration) -> Result<(), Error> {
        let shared = &self.inner.shared;
        shared.shut();
        let mut timer = shared.link.sleep_until(shared.link.now() + deadline.min(LONGEST));
        tokio::select! {
            biased;
            () = self.inner.owner.close() => Ok(()),
            () = &mut timer => Err(Error::new(ErrorKind::Timeout, "the producer's tasks did not end before the deadline.")),
        }
    }
}

impl UninitialisedProducer {
    pub(super) fn from_inner(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// Takes the transactional id again, as [`build`](crate::TransactionalProducerBuilder::build) does: what is still open is
    /// aborted, and whoever has taken the id meanwhile is fenced. Afterwards the last transaction is either committed or aborted for
    /// good; which of the two, its records and offsets tell.
    ///
    /// Waits at most [`max_block`](crate::ProducerBuilder::max_block).
    ///
    /// # Errors
    /// [`InitialiseError`] says what is left to do.
    ///
    /// # Cancel safety
    /// Dropped, the producer ends. The id may have been taken.
    pub async fn initialise(self) -> Result<TransactionalProducer, InitialiseError> {
        match initialised(&self.inner).await {
            Ok(()) => Ok(TransactionalProducer { inner: self.inner }),
            Err(error) if error.is_fatal() => Err(InitialiseError::Fenced(error)),
            Err(error) => Err(InitialiseError::Retry(self, error)),
        }
    }
}

async fn initialised(inner: &Arc<Inner>) -> Result<(), Error> {
    let (shared, transaction) = (&inner.shared, inner.transaction());
    let _timed = Timed::start(shared, |metrics| &metrics.txn_init_time);
    let deadline = shared.link.now() + shared.config.max_block;
    let mut timer = shared.link.sleep_until(deadline);
    tokio::select! {
        biased;
        () = shared.link.outcomes_settled(transaction.id()) => {}
        () = &mut timer => {
            return Err(Error::new(
                ErrorKind::Timeout,
                "an earlier transaction of the same transactional id is still being ended in this client: wait for it, or give \
                 max_block more time.",
            ));
        }
    }
    let protocol = transaction.protocol();
    transaction.tell(|inner| inner.machine.on_initialise(protocol, deadline));
    transaction.result(|machine| machine.take_initialised()).await
}

impl Inner {
    /// The state of the transactions.
    #[expect(clippy::unwrap_used, reason = "the types of this folder are only made of producers that have it")]
    pub(super) fn transaction(&self) -> &Transactional {
        self.shared.transaction.as_ref().unwrap()
    }
}

impl fmt::Debug for TransactionalProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionalProducer").field("id", &self.transactional_id()).finish_non_exhaustive()
    }
}

impl fmt::Debug for UninitialisedProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UninitialisedProducer").field("id", &self.inner.transaction().id()).finish_non_exhaustive()
    }
}
