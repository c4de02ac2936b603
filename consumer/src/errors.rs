//! What errors of a consumer carry beside their words: found as the error's source.
//!
//! Each of them leaves the position where it was, and comes again with the next read until somebody seeks: nothing is left out
//! without the user's word. Partition and offset are also the error's own
//! ([`topic_partition`](Error::topic_partition), [`offset`](Error::offset)).

use std::fmt;

use milena_client::{Error, ErrorKind, TopicPartition};
use milena_protocol::records::{BatchError, RawBatch};

/// What an error about a batch that cannot be read knows: it is damaged, too large once decompressed, of a codec or a format that this
/// client does not have.
///
/// Nothing of the batch from [`offset`](Self::offset) on has been handed out. To go on without it, seek to
/// [`next_offset`](Self::next_offset):
///
/// ```no_run
/// # use milena_consumer::{PartitionConsumer, StartAt, UnreadableBatch};
/// # async fn f(mut reader: PartitionConsumer) -> Result<(), milena_client::Error> {
/// let handle = reader.handle();
/// loop {
///     let error = match reader.recv().await {
///         Ok(Some(record)) => { println!("{record:?}"); continue }
///         Ok(None) => return Ok(()),
///         Err(error) => error,
///     };
///     let (Some(batch), Some(partition)) = (UnreadableBatch::of(&error), error.topic_partition()) else { return Err(error) };
///     // Where the batch ends is not known: step by step, so that nothing sound is left out.
///     let next = batch.next_offset.unwrap_or(batch.offset + 1);
///     eprintln!("{partition}: offsets {} to {} are left out: {error}", batch.offset, next - 1);
///     handle.seek(partition, StartAt::Offset(next))?;
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnreadableBatch {
    /// The first offset that cannot be read.
    pub offset: i64,
    /// The offset behind the batch; `None` if nobody can say where it ends: its bytes are no batch, or its header is among the damaged
    /// bytes and does not agree with itself.
    pub next_offset: Option<i64>,
    /// What is wrong with it.
    pub cause: BatchError,
}

impl UnreadableBatch {
    /// What `error` knows of a batch that cannot be read, if it is about one.
    pub fn of(error: &Error) -> Option<&Self> {
        std::error::Error::source(error)?.downcast_ref()
    }

    /// The error that tells it.
    #[cold]
    pub(crate) fn error(partition: TopicPartition, offset: i64, next_offset: Option<i64>, cause: BatchError) -> Error {
        let kind = if matches!(cause, BatchError::TooLarge { .. }) { ErrorKind::Limit } else { ErrorKind::Malformed };
        let text = match next_offset {
            Some(next) => format!(
                "offsets {offset} to {} cannot be read: {cause}. To go on without them, seek to offset {next}.",
                next - 1
            ),
            None => format!(
                "what lies at offset {offset} cannot be read: {cause}. Where it ends is not known: to go on without it, seek to offset \
                 {}, and on from there, or to a time.",
                offset + 1
            ),
        };
        let source = Self { offset, next_offset, cause };
        Error::new(kind, text).with_topic_partition(partition).with_offset(offset).with_source(source)
    }

    /// The offset behind a batch with that trouble, if its header can be believed.
    ///
    /// The checksum covers all of the header but the first offset. A batch of which compaction has taken nothing has as many records as
    /// offsets; if its header says so and the trouble is its checksum, then the damage is elsewhere.
    pub(crate) fn end_of(batch: &RawBatch, cause: &BatchError) -> Option<i64> {
        let offsets = batch.next_offset() - batch.base_offset();
        let is_believed = !matches!(cause, BatchError::Crc { .. }) || offsets == i64::from(batch.count());
        is_believed.then(|| batch.next_offset())
    }
}

impl fmt::Display for UnreadableBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl std::error::Error for UnreadableBatch {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

/// What an error of kind [`LogTruncated`](milena_client::ErrorKind::LogTruncated) knows (KIP-320; Java's `LogTruncationException`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogTruncation {
    /// The offset that would have been read next.
    pub position: i64,
    /// The first offset from which on what was read is not in the log any more, and the epoch of the record before it.
    pub parted: (i64, i32),
}

impl LogTruncation {
    /// What `error` knows of a truncation, if it is about one.
    pub fn of(error: &Error) -> Option<&Self> {
        std::error::Error::source(error)?.downcast_ref()
    }
}

impl fmt::Display for LogTruncation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (offset, epoch) = self.parted;
        write!(f, "position {}, log parts at {offset} in epoch {epoch}", self.position)
    }
}

impl std::error::Error for LogTruncation {}

/// What an error with the code `OFFSET_OUT_OF_RANGE` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct OffsetGone {
    /// The offset that the log does not have.
    pub offset: i64,
    /// The first one that it has.
    pub log_start: i64,
    /// How many offsets lie between, unread; zero if the offset lies beyond the log's end.
    pub lost: u64,
}

impl OffsetGone {
    /// What `error` knows of an offset that is gone, if it is about one.
    pub fn of(error: &Error) -> Option<&Self> {
        std::error::Error::source(error)?.downcast_ref()
    }
}

impl fmt::Display for OffsetGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offset {}, the log begins at {}, {} offsets lost", self.offset, self.log_start, self.lost)
    }
}

impl std::error::Error for OffsetGone {}
