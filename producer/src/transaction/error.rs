//! How the end of a transaction can fail. Each variant holds what is left to go on with, and nothing else can be done.

use std::fmt;

use milena_client::Error;

use super::handle::Transaction;
use super::producer::UninitialisedProducer;

/// Why [`Transaction::commit`] has not committed, or does not know whether it has.
#[derive(Debug)]
#[must_use = "a transaction that is dropped is aborted"]
pub enum CommitError {
    /// A record or the offsets have failed, so the transaction cannot become whole: [abort](Transaction::abort) it and do its work
    /// again. Nothing is committed.
    Abortable(Transaction, Error),
    /// The coordinator could not be asked in time. Nothing is committed: [commit](Transaction::commit) again, or abort.
    Retry(Transaction, Error),
    /// The coordinator was asked and its answer was lost until the deadline: the transaction may or may not be committed.
    /// [Initialise](UninitialisedProducer::initialise) the producer, which decides it one way or the other, and then look at what is
    /// committed: read the group's offsets again rather than going back to remembered ones.
    Unknown(UninitialisedProducer, Error),
    /// Another producer with the same transactional id has taken over, or the transaction lasted longer than its
    /// [time-out](crate::TransactionalProducerBuilder::transaction_timeout). The producer has ended; the transaction is not
    /// committed, unless the error's [outcome](Error::outcome) is unknown.
    Fenced(Error),
}

/// Why [`Transaction::abort`] does not give its producer back. The transaction will not be committed in any case.
#[derive(Debug)]
#[must_use = "it holds what is left of the producer"]
pub enum AbortError {
    /// The coordinator could not be asked in time, or its answer was lost: initialise the producer, which aborts what is open.
    Unknown(UninitialisedProducer, Error),
    /// Another producer with the same transactional id has taken over. The producer has ended.
    Fenced(Error),
}

/// Why [`UninitialisedProducer::initialise`] gives no producer.
#[derive(Debug)]
#[must_use = "it holds what is left of the producer"]
pub enum InitialiseError {
    /// The coordinator could not be asked in time: try again.
    Retry(UninitialisedProducer, Error),
    /// The coordinator refuses the producer, which has ended: build a new one.
    Fenced(Error),
}

impl CommitError {
    /// What went wrong.
    pub fn error(&self) -> &Error {
        match self {
            Self::Abortable(_, error) | Self::Retry(_, error) | Self::Unknown(_, error) | Self::Fenced(error) => error,
        }
    }
}

impl AbortError {
    /// What went wrong.
    pub fn error(&self) -> &Error {
        match self {
            Self::Unknown(_, error) | Self::Fenced(error) => error,
        }
    }
}

impl InitialiseError {
    /// What went wrong.
    pub fn error(&self) -> &Error {
        match self {
            Self::Retry(_, error) | Self::Fenced(error) => error,
        }
    }
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Abortable(..) => "the transaction can only be aborted",
            Self::Retry(..) => "the transaction is not committed yet: commit again, or abort",
            Self::Unknown(..) => "nobody can say whether the transaction is committed: initialise the producer",
            Self::Fenced(_) => "the transaction and its producer have ended",
        };
        write!(f, "{what}. {}", self.error())
    }
}

impl fmt::Display for AbortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Unknown(..) => "the abort was not confirmed: initialise the producer",
            Self::Fenced(_) => "the transaction and its producer have ended",
        };
        write!(f, "{what}. {}", self.error())
    }
}

impl fmt::Display for InitialiseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Retry(..) => "the producer is not initialised yet: try again",
            Self::Fenced(_) => "the producer has ended: build a new one",
        };
        write!(f, "{what}. {}", self.error())
    }
}

impl std::error::Error for CommitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.error())
    }
}

impl std::error::Error for AbortError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.error())
    }
}

impl std::error::Error for InitialiseError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.error())
    }
}
