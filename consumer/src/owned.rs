//! Records that are owned and share their batch: what a [`RecordStream`] gives and what a [`Records`] is taken apart into.
//!
//! A [`SharedRecord`] is a counted reference to its batch and the places of its parts: moving it costs nothing, it can be sent to
//! another task, and no byte is copied. Its count costs about 18 ns, as much as all the rest of reading; a loop that looks at each
//! record once is faster with borrowed ones (`recv`, or iterating over `&records`).

use std::fmt;
use std::iter::FusedIterator;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use milena_client::{Error, TopicPartition};
use milena_protocol::records::{Cursor, Headers, Place};

use crate::acks::RunId;
use crate::reader::Reader;
use crate::records::{ConsumerRecord, OpenBatch, RecordRef, Records, Run};
use crate::shared::Shared;

/// What the owned records of one run share.
#[derive(Debug)]
pub(crate) struct SharedRun {
    pub(crate) batch: Arc<OpenBatch>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: RunId,
    /// Which of the batch's records belong to the run.
    pub(crate) records: Range<u32>,
}

impl SharedRun {
    pub(crate) fn of(run: &Run, shared: &Arc<Shared>) -> Arc<Self> {
        let first = run.cursor.read();
        Arc::new(Self {
            batch: run.batch.clone(),
            shared: shared.clone(),
            id: run.id,
            records: first..first + run.count,
        })
    }
}

/// A record that is owned: it can be kept, moved and sent to another task. It shares the bytes of its batch with the batch's other
/// records, and keeps all of them in memory (with the 256 KiB in which they arrived): to keep a small record for long,
/// [`detach`](Self::detach) it.
///
/// In a group it counts as done when it is [acknowledged](Self::ack), whatever happens to the others: what may be committed is the
/// offset below which all are. One that is dropped without that is read again by whoever is given the partition next.
#[derive(Clone)]
pub struct SharedRecord {
    pub(crate) run: Arc<SharedRun>,
    pub(crate) place: Place,
    /// Which of the batch's records it is.
    pub(crate) index: u32,
}

impl SharedRecord {
    /// A view of it.
    #[inline]
    pub fn as_view(&self) -> RecordRef<'_> {
        RecordRef { view: self.run.batch.batch.view(&self.place), origin: &self.run.batch.origin }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.run.batch.origin.topic
    }

    /// The partition.
    pub fn partition(&self) -> i32 {
        self.run.batch.origin.partition
    }

    /// Topic and partition.
    pub fn topic_partition(&self) -> TopicPartition {
        TopicPartition { topic: self.run.batch.origin.topic.clone(), partition: self.partition() }
    }

    /// The offset in the partition.
    pub fn offset(&self) -> i64 {
        self.place.offset
    }

    /// Milliseconds since 1970: the producer's word, or the broker's for topics with `LogAppendTime`. −1 for none.
    pub fn timestamp(&self) -> i64 {
        self.place.timestamp
    }

    /// The key. `None` is not the same as empty.
    #[inline]
    pub fn key(&self) -> Option<&[u8]> {
        self.as_view().key()
    }

    /// The value. `None`, a tombstone in a compacted topic, is not the same as empty.
    #[inline]
    pub fn value(&self) -> Option<&[u8]> {
        self.as_view().value()
    }

    /// The key as a counted slice of the batch. Nothing is copied, and the batch stays in memory for as long as the slice.
    pub fn key_bytes(&self) -> Option<Bytes> {
        self.key().map(|key| self.run.batch.owner().slice_ref(key))
    }

    /// The value, in the same way.
    pub fn value_bytes(&self) -> Option<Bytes> {
        self.value().map(|value| self.run.batch.owner().slice_ref(value))
    }

    /// The headers, in order, duplicates included.
    pub fn headers(&self) -> Headers<'_> {
        self.as_view().headers()
    }

    /// Copies the record out of its batch: to keep it for longer than it takes to process it.
    pub fn detach(&self) -> ConsumerRecord {
        self.as_view().detach()
    }

    /// The record is done: its offset may be committed as soon as all before it in its partition are done as well, in whatever order.
    ///
    /// Does nothing for a [`PartitionConsumer`](crate::PartitionConsumer), which commits nothing, and for a record whose partition
    /// has been sought or lost since it was read.
    pub fn ack(&self) {
        self.run.shared.ack_record(&self.run, self.index, self.offset());
    }
}

impl fmt::Debug for SharedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys and values never appear in logs.
        write!(f, "{}-{}@{}", self.topic(), self.partition(), self.offset())
    }
}

impl IntoIterator for Records {
    type Item = SharedRecord;
    type IntoIter = RecordsIntoIter;

    /// Takes the records apart. Each is then acknowledged [by itself](SharedRecord::ack).
    fn into_iter(self) -> RecordsIntoIter {
        RecordsIntoIter {
            shared: self.shared,
            runs: self.runs.into_iter(),
            run: None,
            cursor: Cursor::default(),
            left: 0,
        }
    }
}

/// Iterates over the owned records of a [`Records`].
pub struct RecordsIntoIter {
    shared: Arc<Shared>,
    runs: std::vec::IntoIter<Run>,
    run: Option<Arc<SharedRun>>,
    cursor: Cursor,
    left: u32,
}

impl RecordsIntoIter {
    /// Nothing more of the partition of this batch.
    #[cold]
    fn skip_partition(&mut self, of: &OpenBatch) {
        while self.runs.as_slice().first().is_some_and(|next| next.batch.origin.slot == of.origin.slot) {
            self.runs.next();
        }
    }

    #[cold]
    #[inline(never)]
    fn next_run(&mut self) -> Option<()> {
        if let Some(run) = self.run.take() {
            *run.batch.reached.lock().unwrap_or_else(PoisonError::into_inner) = self.cursor;
        }
        loop {
            let run = self.runs.next()?;
            if run.batch.begin(run.to) {
                self.run = Some(SharedRun::of(&run, &self.shared));
                (self.cursor, self.left) = (run.cursor, run.count);
                return Some(());
            }
            // As when they are borrowed: a partition that was taken back must not be processed with a hole.
            self.skip_partition(&run.batch);
        }
    }
}

impl Iterator for RecordsIntoIter {
    type Item = SharedRecord;

    #[inline]
    fn next(&mut self) -> Option<SharedRecord> {
        loop {
            if self.left > 0
                && let Some(run) = &self.run
            {
                self.left -= 1;
                let index = self.cursor.read();
                match run.batch.batch.next_place(&mut self.cursor) {
                    Ok(Some(place)) => return Some(SharedRecord { run: run.clone(), place, index }),
                    failed => {
                        self.left = 0;
                        let run = run.clone();
                        run.batch.break_off();
                        self.shared.on_broken_batch(&run.batch, failed.err());
                        self.skip_partition(&run.batch);
                    }
                }
            }
            self.next_run()?;
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left as usize + self.runs.as_slice().iter().map(|run| run.count as usize).sum::<usize>()))
    }
}

impl FusedIterator for RecordsIntoIter {}

impl fmt::Debug for RecordsIntoIter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordsIntoIter").field("left", &self.left).finish_non_exhaustive()
    }
}

/// The records of a consumer, owned, one after the other, as a [`Stream`]. Partitions take turns batch by batch.
///
/// Unlike with `recv`, asking for the next record acknowledges nothing: in a group, each is [acknowledged](SharedRecord::ack) when it
/// is done, in any order (`buffer_unordered` loses nothing). An error does not end the stream unless it
/// [is fatal](Error::is_fatal); it ends when the consumer is closed. Dropping it, or its futures, loses no record: reading goes on
/// behind the last one that it gave.
#[must_use = "a stream does nothing unless it is polled"]
pub struct RecordStream<'a> {
    reader: &'a mut Reader,
}

impl<'a> RecordStream<'a> {
    pub(crate) fn new(reader: &'a mut Reader) -> Self {
        Self { reader }
    }
}

impl Stream for RecordStream<'_> {
    type Item = Result<SharedRecord, Error>;

    #[inline]
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().reader.poll_owned(cx)
    }
}

impl Drop for RecordStream<'_> {
    fn drop(&mut self) {
        self.reader.end_turn();
    }
}

impl fmt::Debug for RecordStream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordStream").finish_non_exhaustive()
    }
}
