//! What went wrong, and what may be done about it now.
//!
//! One kind and one context for every operation of every client: the questions “may I try again?”, “is this client dead?”, “was it
//! written?” are answered here and nowhere else.

use std::fmt;
use std::sync::Arc;

use milena_protocol::{ApiKey, ErrorCode};

use crate::TopicPartition;
use crate::action::{Action, action_for};

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A broker answered with an error code.
    Broker(ErrorCode),
    /// No connection could be made: refused, unresolvable, or the set-up took too long.
    Connect,
    /// The connection ended while an answer was due.
    Disconnected,
    /// No answer arrived before the deadline.
    Timeout,
    /// The peer sent something that is not Kafka, or broken.
    Malformed,
    /// The broker has no version of an API in common with this client.
    UnsupportedVersion,
    /// The cluster does not know the topic or the partition.
    UnknownTopicOrPartition,
    /// The client, producer or consumer has been closed.
    Closed,
    /// A setting or an argument makes no sense.
    Config,
    /// A bound of this client was reached: a buffer is full, a record is too large.
    Limit,
    /// A value could not be turned into bytes, or bytes into a value.
    Serialization,
    /// A partition's log was cut: records that had been read are not in it any more (KIP-320).
    LogTruncated,
    /// The topic was deleted, and another one made under its name: offsets of the old one mean nothing there.
    TopicRecreated,
    /// The assignment moved on: the partition is not this member's any more.
    NotAssigned,
    /// It was given up on demand: the producer was told to purge what it had, or (as interceptors are told) the future that was sending
    /// the record was dropped.
    Purged,
    /// The transaction has ended or can only be aborted: what belongs to it is not taken any more, or was given up with it.
    TransactionEnded,
}

/// Whether what was asked for has happened at the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It certainly has not.
    NotWritten,
    /// Nobody can say: a request was sent and its answer is missing.
    Unknown,
    /// It has.
    Written,
}

/// The error of every call into milena. Cheap to clone: a batch's failure is shared by its records.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    api: Option<ApiKey>,
    broker: Option<i32>,
    topic_partition: Option<TopicPartition>,
    offset: Option<i64>,
    outcome: Outcome,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`. `message` says what happened and what to do; text is for people and not promised.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let outcome = match kind {
            // A request may have been on its way.
            ErrorKind::Disconnected | ErrorKind::Timeout | ErrorKind::Malformed => Outcome::Unknown,
            _ => Outcome::NotWritten,
        };
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            api: None,
            broker: None,
            topic_partition: None,
            offset: None,
            outcome,
            source: None,
        }))
    }

    /// The error that `code` is in an answer of `api`.
    pub fn from_code(api: ApiKey, code: ErrorCode) -> Self {
        let mut error = Self::new(ErrorKind::Broker(code), crate::action::cause(code)).with_api(api);
        if matches!(code, ErrorCode::REQUEST_TIMED_OUT | ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND) {
            error = error.with_outcome(Outcome::Unknown);
        }
        error
    }

    /// Like [`from_code`](Self::from_code), with what the broker said in its own words.
    pub fn from_code_and_message(api: ApiKey, code: ErrorCode, said: Option<&str>) -> Self {
        let error = Self::from_code(api, code);
        match said {
            Some(said) if !said.is_empty() => {
                let message = format!("{} The broker says: {said}", error.0.message);
                error.edit(|inner| inner.message = message)
            }
            _ => error,
        }
    }

    /// Names the API.
    #[must_use]
    pub fn with_api(self, api: ApiKey) -> Self {
        self.edit(|inner| inner.api = Some(api))
    }

    /// Names the broker.
    #[must_use]
    pub fn with_broker(self, broker: i32) -> Self {
        self.edit(|inner| inner.broker = Some(broker))
    }

    /// Names the partition.
    #[must_use]
    pub fn with_topic_partition(self, topic_partition: TopicPartition) -> Self {
        self.edit(|inner| inner.topic_partition = Some(topic_partition))
    }

    /// Names the offset in the partition.
    #[must_use]
    pub fn with_offset(self, offset: i64) -> Self {
        self.edit(|inner| inner.offset = Some(offset))
    }

    /// Says whether it was written.
    #[must_use]
    pub fn with_outcome(self, outcome: Outcome) -> Self {
        self.edit(|inner| inner.outcome = outcome)
    }

    /// Keeps the cause.
    #[must_use]
    pub fn with_source(self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.edit(|inner| inner.source = Some(Arc::new(source)))
    }

    fn edit(self, edit: impl FnOnce(&mut Inner)) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.0);
        edit(&mut inner);
        Self(Arc::new(inner))
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Kafka's code, if a broker answered with one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self.0.kind {
            ErrorKind::Broker(code) => Some(code),
            _ => None,
        }
    }

    /// The API of the request, if there was one.
    pub fn api(&self) -> Option<ApiKey> {
        self.0.api
    }

    /// The broker, if one was asked.
    pub fn broker(&self) -> Option<i32> {
        self.0.broker
    }

    /// The partition, if the error is about one.
    pub fn topic_partition(&self) -> Option<&TopicPartition> {
        self.0.topic_partition.as_ref()
    }

    /// The offset in that partition, if the error is about one: the first that could not be read, or that is not in the log.
    pub fn offset(&self) -> Option<i64> {
        self.0.offset
    }

    /// Whether what was asked for has happened.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// What a client does about it: the row of the one table from (API, code) to action.
    pub fn action(&self) -> Action {
        match self.0.kind {
            ErrorKind::Broker(code) => action_for(self.0.api, code),
            ErrorKind::Connect | ErrorKind::Disconnected | ErrorKind::Timeout => Action::RefreshMetadata,
            ErrorKind::UnknownTopicOrPartition => Action::RefreshMetadata,
            _ => Action::Fail,
        }
    }

    /// Whether the same call may succeed later. (The clients have tried again already, until the deadline.)
    pub fn is_retriable(&self) -> bool {
        matches!(self.action(), Action::Retry | Action::RefreshMetadata | Action::FindCoordinator)
    }

    /// Whether the open transaction must be aborted.
    pub fn requires_abort(&self) -> bool {
        self.action() == Action::Abort
    }

    /// Whether this producer or consumer cannot go on and a new one must be built.
    pub fn is_fatal(&self) -> bool {
        self.action() == Action::Fence || matches!(self.0.kind, ErrorKind::Closed)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        if let Some(topic_partition) = &inner.topic_partition {
            write!(f, "{topic_partition}: ")?;
        }
        f.write_str(&inner.message)?;
        let mut context = Vec::new();
        if let Some(api) = inner.api {
            context.push(format!("API {api}"));
        }
        if let Some(broker) = inner.broker {
            context.push(if broker < 0 { "bootstrap server".to_owned() } else { format!("broker {broker}") });
        }
        if let ErrorKind::Broker(code) = inner.kind {
            context.push(code.to_string());
        }
        if !context.is_empty() {
            write!(f, " [{}]", context.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_a_sentence_with_its_context() {
        let error = Error::from_code(ApiKey::PRODUCE, ErrorCode::NOT_LEADER_OR_FOLLOWER)
            .with_broker(2)
            .with_topic_partition(TopicPartition::new("orders", 3));
        let text = error.to_string();
        assert!(text.starts_with("orders-3: "), "{text}");
        assert!(text.ends_with("[API Produce, broker 2, NOT_LEADER_OR_FOLLOWER (6)]"), "{text}");
        assert!(error.is_retriable() && !error.is_fatal());
    }

    #[test]
    fn a_lost_answer_is_unknown_and_a_refused_connection_is_not_written() {
        assert_eq!(Error::new(ErrorKind::Disconnected, "x").outcome(), Outcome::Unknown);
        assert_eq!(Error::new(ErrorKind::Connect, "x").outcome(), Outcome::NotWritten);
        assert_eq!(
            Error::from_code(ApiKey::PRODUCE, ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND).outcome(),
            Outcome::Unknown
        );
    }
}
