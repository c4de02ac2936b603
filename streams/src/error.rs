//! The errors of this crate. Each is a sentence that says what to do; none carries a record's key or value.

use std::fmt;

/// A topology that cannot be built: the sentence names the operator and what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TopologyError {
    message: String,
}

impl TopologyError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

/// A record that could not be processed: which one, in which node, and why. Processing stops there, and the record is
/// not committed, so that a repaired application reads it again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessingError {
    /// The node that failed, as `Topology::describe` names it.
    pub node: String,
    /// Topic of the input record.
    pub topic: String,
    /// Partition of the input record.
    pub partition: i32,
    /// Offset of the input record; −1 when the failure is not one record's (a flush at commit).
    pub offset: i64,
    /// What went wrong.
    pub message: String,
}

impl fmt::Display for ProcessingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, topic, partition, offset, message } = self;
        if *offset < 0 {
            write!(f, "{node}: {message}")
        } else {
            write!(f, "{node} at {topic}-{partition}@{offset}: {message}")
        }
    }
}

impl std::error::Error for ProcessingError {}

/// A failure on the record path: boxed, so that the good path returns eight bytes.
pub(crate) type Failure = Box<ProcessingError>;

/// Why an application stopped, or did not start.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StreamsError {
    /// The topology cannot be built.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// A record could not be processed.
    #[error("{0}. The record was not committed: repair the application or the topic, and start again.")]
    Processing(ProcessingError),
    /// The cluster refused, or could not be reached in time.
    #[error("{doing}: {source}")]
    Client {
        /// What the application was about to do.
        doing: String,
        /// What the client says.
        source: milena_client::Error,
    },
    /// An internal topic is there, but not as this topology needs it.
    #[error("{0}")]
    InternalTopic(String),
    /// A stream thread panicked, most likely in an operator's closure.
    #[error(
        "a stream thread panicked, most likely in an operator's closure: its message is on standard error. What it had not committed is \
         processed again: repair the closure, and start again."
    )]
    Panicked,
    /// `close` ran out of time.
    #[error("{0}")]
    Close(String),
}

impl StreamsError {
    pub(crate) fn client(doing: impl Into<String>) -> impl FnOnce(milena_client::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Client { doing, source }
    }
}

impl From<Failure> for StreamsError {
    fn from(failure: Failure) -> Self {
        Self::Processing(*failure)
    }
}
