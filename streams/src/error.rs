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
