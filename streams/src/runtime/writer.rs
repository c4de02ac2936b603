//! What a stream thread writes with: an idempotent producer, or with exactly-once the transaction that is open.
//!
//! A transaction is always open: one without records and offsets costs nothing, and the coordinator does not know it.

use std::time::Duration;

use milena_client::{Client, Error, ErrorKind, GroupMetadata, OffsetAndMetadata, TopicPartition, protocol::ErrorCode};
use milena_producer::{
    AbortError, Appended, AsRecord, Backlog, CommitError, InitialiseError, Producer, Transaction,
    TransactionalProducer, UninitialisedProducer,
};

/// How often a producer is initialised or built again after a transaction that went wrong, each time with `max_block` to wait.
const ATTEMPTS: usize = 5;

/// See the module.
#[derive(Debug)]
pub(crate) enum Writer {
    Idempotent(Producer),
    Transactional(Box<Transactional>),
}

/// The side of exactly-once.
#[derive(Debug)]
pub(crate) struct Transactional {
    client: Client,
    settings: TransactionSettings,
    state: State,
}

/// How the transactional producer is built.
#[derive(Debug, Clone)]
pub(crate) struct TransactionSettings {
    /// Unique to this thread and this life of its process (KIP-447): nobody waits for it, and nobody fences it.
    pub(crate) id: String,
    pub(crate) timeout: Duration,
    pub(crate) linger: Duration,
}

#[derive(Debug)]
enum State {
    Open(Transaction),
    /// The end of the last transaction is not known.
    Uninitialised(UninitialisedProducer),
    /// There is no producer.
    Gone,
}

impl Writer {
    pub(crate) async fn transactional(client: &Client, settings: TransactionSettings) -> Result<Self, Error> {
        let producer = build(client, &settings).await?;
        let state = State::Open(producer.begin());
        Ok(Self::Transactional(Box::new(Transactional { client: client.clone(), settings, state })))
    }

    pub(crate) fn append<R: AsRecord>(
        &self,
        topic: &str,
        partition: i32,
        records: &mut Backlog<impl Iterator<Item = R>>,
    ) -> Result<Appended, Error> {
        match self {
            Self::Idempotent(producer) => producer.append(topic, partition, records),
            Self::Transactional(side) => side.open()?.append(topic, partition, records),
        }
    }

    pub(crate) async fn prepare_topic(&self, topic: &str) -> Result<i32, Error> {
        match self {
            Self::Idempotent(producer) => producer.prepare_topic(topic).await,
            Self::Transactional(side) => side.open()?.prepare_topic(topic).await,
        }
    }

    pub(crate) async fn flush(&self) -> Result<(), Error> {
        match self {
            Self::Idempotent(producer) => producer.flush().await,
            Self::Transactional(side) => side.open()?.flush().await,
        }
    }

    /// Commits the transaction, these offsets with it. After an error nothing more can be written before
    /// [`recover`](Self::recover).
    pub(crate) async fn commit(
        &mut self,
        offsets: Vec<(TopicPartition, OffsetAndMetadata)>,
        group: &GroupMetadata,
    ) -> Result<(), Error> {
        let Self::Transactional(side) = self else { return Ok(()) };
        side.open()?.send_offsets(offsets, group).await?;
        let State::Open(transaction) = std::mem::replace(&mut side.state, State::Gone) else { return Ok(()) };
        let (state, result) = match transaction.commit().await {
            Ok(producer) => (State::Open(producer.begin()), Ok(())),
            // Asked again it may succeed; done again it will.
            Err(CommitError::Retry(transaction, error) | CommitError::Abortable(transaction, error)) => {
                (State::Open(transaction), Err(error))
            }
            Err(CommitError::Unknown(producer, error)) => (State::Uninitialised(producer), Err(error)),
            Err(CommitError::Fenced(error)) => (State::Gone, Err(error)),
        };
        side.state = state;
        result
    }

    /// Gives up what is open, and opens a new transaction. Afterwards the last one is either committed or aborted for good.
    pub(crate) async fn recover(&mut self) -> Result<(), Error> {
        let Self::Transactional(side) = self else { return Ok(()) };
        let mut attempts = 0;
        loop {
            let error = match side.step().await {
                Ok(true) => return Ok(()),
                Ok(false) => continue,
                Err(error) => error,
            };
            attempts += 1;
            if attempts == ATTEMPTS || !is_recoverable(&error) {
                return Err(error);
            }
            tracing::warn!(%error, "the transactional producer is not initialised yet; tried again");
        }
    }

    /// Ends the producer, whose records are all delivered. What is open is aborted.
    pub(crate) async fn close(self, deadline: Duration) -> Result<(), Error> {
        let side = match self {
            Self::Idempotent(producer) => return producer.close(deadline).await,
            Self::Transactional(side) => side,
        };
        match side.state {
            State::Open(transaction) => match transaction.abort().await {
                Ok(producer) => producer.close(deadline).await,
                // Its time-out aborts it.
                Err(error) => {
                    tracing::warn!(%error, "the last transaction was not aborted in order");
                    Ok(())
                }
            },
            State::Uninitialised(_) | State::Gone => Ok(()),
        }
    }
}

impl Transactional {
    fn open(&self) -> Result<&Transaction, Error> {
        match &self.state {
            State::Open(transaction) => Ok(transaction),
            State::Uninitialised(_) | State::Gone => {
                Err(Error::new(ErrorKind::TransactionEnded, "the transaction has ended: its work is done again."))
            }
        }
    }

    /// One step towards a new transaction. True when it is open.
    async fn step(&mut self) -> Result<bool, Error> {
        let (state, result) = match std::mem::replace(&mut self.state, State::Gone) {
            State::Open(transaction) => match transaction.abort().await {
                Ok(producer) => (State::Open(producer.begin()), Ok(true)),
                Err(AbortError::Unknown(producer, _)) => (State::Uninitialised(producer), Ok(false)),
                // The id is this thread's own, so it was the coordinator: the transaction lasted longer than its time-out.
                Err(AbortError::Fenced(_)) => (State::Gone, Ok(false)),
            },
            State::Uninitialised(producer) => match producer.initialise().await {
                Ok(producer) => (State::Open(producer.begin()), Ok(true)),
                Err(InitialiseError::Retry(producer, error)) => (State::Uninitialised(producer), Err(error)),
                Err(InitialiseError::Fenced(_)) => (State::Gone, Ok(false)),
            },
            State::Gone => match build(&self.client, &self.settings).await {
                Ok(producer) => (State::Open(producer.begin()), Ok(true)),
                Err(error) => (State::Gone, Err(error)),
            },
        };
        self.state = state;
        result
    }
}

async fn build(client: &Client, settings: &TransactionSettings) -> Result<TransactionalProducer, Error> {
    Producer::builder(client)
        .linger(settings.linger)
        .transactional_id(settings.id.as_str())
        .transaction_timeout(settings.timeout)
        .build()
        .await
}

/// Whether work that failed with this succeeds when it is done again in another transaction: the member or the producer was
/// replaced or too slow, or the cluster was away for a while. Java's `TaskMigratedException` and `TaskCorruptedException`.
pub(crate) fn is_recoverable(error: &Error) -> bool {
    let codes = [
        ErrorCode::INVALID_PRODUCER_EPOCH,
        ErrorCode::PRODUCER_FENCED,
        ErrorCode::INVALID_PRODUCER_ID_MAPPING,
        ErrorCode::UNKNOWN_PRODUCER_ID,
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
        ErrorCode::INVALID_TXN_STATE,
        ErrorCode::TRANSACTION_ABORTABLE,
        ErrorCode::CONCURRENT_TRANSACTIONS,
        ErrorCode::ILLEGAL_GENERATION,
        ErrorCode::UNKNOWN_MEMBER_ID,
        ErrorCode::REBALANCE_IN_PROGRESS,
    ];
    let kinds = [ErrorKind::NotAssigned, ErrorKind::TransactionEnded, ErrorKind::Timeout];
    error.is_retriable() || kinds.contains(&error.kind()) || error.code().is_some_and(|code| codes.contains(&code))
}
