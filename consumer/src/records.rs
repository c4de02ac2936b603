//! Records in the user's hands: borrowed one by one ([`RecordRef`]), a batch of them to keep and send elsewhere ([`Records`]), or
//! copied out ([`ConsumerRecord`]). (Those that are owned without a copy are in `owned.rs`.)
//!
//! What is borrowed costs nothing but its decoding. What is kept pins the 256 KiB chunk in which it arrived: to keep a small record
//! for long, [`detach`](RecordRef::detach) it. Where nobody does, and more is pinned than `buffer_memory` allows, what is handed out to
//! be kept is copied out of the batches read from then on: slower, but no more is kept than was asked for.

use std::fmt;
use std::iter::FusedIterator;
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use milena_client::{Error, TopicPartition};
use milena_protocol::records::{Batch, BatchError, Cursor, Headers, RawBatch, RecordView};

use crate::acks::RunId;
use crate::errors::UnreadableBatch;
use crate::partitions::SlotId;
use crate::shared::Shared;

/// Where a batch comes from.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) slot: SlotId,
}

/// A batch that has been checked and decompressed. The one allocation per batch.
#[derive(Debug)]
pub(crate) struct OpenBatch {
    pub(crate) batch: Batch,
    pub(crate) origin: Arc<Origin>,
    pub(crate) generation: u32,
    /// So much memory is pinned that whoever keeps a part of the batch gets a copy of that part.
    pub(crate) copies: bool,
    claim: Claim,
    /// How far an iteration has come that ended inside the batch.
    pub(crate) reached: Mutex<Cursor>,
    /// It could not be read to its end.
    broken: AtomicBool,
    /// The offset behind the last record that a stream has given of it.
    given_to: AtomicI64,
}

impl OpenBatch {
    pub(crate) fn new(batch: Batch, origin: Arc<Origin>, generation: u32) -> Self {
        Self {
            batch,
            origin,
            generation,
            copies: false,
            claim: Claim::default(),
            reached: Mutex::default(),
            broken: AtomicBool::new(false),
            given_to: AtomicI64::new(i64::MIN),
        }
    }

    /// A stream has given the records below `next`.
    #[inline]
    pub(crate) fn note_given(&self, next: i64) {
        self.given_to.store(next, Ordering::Relaxed);
    }

    /// The offset behind the last record that was given; below all of them if none was.
    pub(crate) fn next_given(&self) -> i64 {
        self.given_to.load(Ordering::Relaxed)
    }

    /// The same, of which parts are copied for whoever keeps them.
    pub(crate) fn copying(mut self, copies: bool) -> Self {
        self.copies = copies;
        self
    }

    /// `count` records from `from` on, in memory of their own.
    #[cold]
    pub(crate) fn part(&self, from: Cursor, count: u32) -> Result<Self, BatchError> {
        Ok(Self::new(self.batch.part(from, count)?, self.origin.clone(), self.generation))
    }

    /// The user begins with the run that ends at `to`. False if it was taken back.
    pub(crate) fn begin(&self, to: i64) -> bool {
        self.claim.begin(self.claim_of(to))
    }

    /// Takes back what nobody has begun to read of the run that ends at `to`. False if somebody has.
    pub(crate) fn withdraw(&self, to: i64) -> bool {
        self.claim.withdraw(self.claim_of(to))
    }

    /// Whether the run that ends at `to` was taken back before anybody began to read it.
    fn is_withdrawn(&self, to: i64) -> bool {
        self.claim.is_withdrawn(self.claim_of(to))
    }

    /// It cannot be read to its end.
    pub(crate) fn break_off(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// The bytes that a slice of a key or value is counted by.
    pub(crate) fn owner(&self) -> &Bytes {
        self.batch.owner()
    }

    /// The place behind `count` records: where the user's iteration came there, without walking again.
    pub(crate) fn cursor_behind(&self, from: Cursor, count: u32) -> Result<Cursor, Option<BatchError>> {
        let wanted = from.read() + count;
        let reached = *self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cursor = if (from.read()..=wanted).contains(&reached.read()) { reached } else { from };
        while cursor.read() < wanted {
            match self.batch.next(&mut cursor) {
                Ok(Some(_)) => {}
                failed => return Err(failed.err()),
            }
        }
        Ok(cursor)
    }

    /// The offset behind the first `read` records, if that can be told without walking: no record of the batch was compacted away.
    pub(crate) fn offset_behind(&self, read: u32) -> Option<i64> {
        let batch = &self.batch;
        let is_whole = batch.last_offset() - batch.base_offset() + 1 == i64::from(batch.count());
        is_whole.then(|| batch.base_offset() + i64::from(read))
    }

    /// The offset of the first record that cannot be read, or behind the last that can.
    #[cold]
    pub(crate) fn first_unreadable(&self) -> i64 {
        let (mut cursor, mut offset) = (self.batch.cursor(), self.batch.base_offset());
        while let Ok(Some(place)) = self.batch.next_place(&mut cursor) {
            offset = place.offset + 1;
        }
        offset
    }

    /// The error for a batch that cannot be read from `offset` on. Without a reason of its own it ends too early.
    #[cold]
    pub(crate) fn unreadable(&self, offset: i64, error: Option<BatchError>) -> Error {
        let base_offset = self.batch.base_offset();
        let reason = "its records end before its header says so";
        let error = error.unwrap_or(BatchError::Malformed { base_offset, reason });
        let tp = TopicPartition { topic: self.origin.topic.clone(), partition: self.origin.partition };
        // Its checksum was right, or nobody wants to know.
        UnreadableBatch::error(tp, offset, Some(self.batch.next_offset().max(offset + 1)), error)
    }

    /// A run's end as a distance from the batch's first offset, never 0.
    fn claim_of(&self, to: i64) -> u32 {
        u32::try_from(to - self.batch.base_offset()).unwrap_or(u32::MAX)
    }
}

/// Who was first: the user, who begins to iterate over a run, or a revocation, which takes it back.
///
/// One atomic decides, so that a run is either processed and waited for, or neither.
#[derive(Debug, Default)]
struct Claim(AtomicU64);

impl Claim {
    const WITHDRAWN: u64 = 1 << 63;

    /// The user begins with the run that ends at `to`. False if it was taken back.
    fn begin(&self, to: u32) -> bool {
        let claimed = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            (state & Self::WITHDRAWN == 0).then_some(state.max(u64::from(to)))
        });
        claimed.is_ok() || self.is_begun(to)
    }

    /// Takes back all runs that nobody has begun. False if the run that ends at `to` has been.
    fn withdraw(&self, to: u32) -> bool {
        self.0.fetch_or(Self::WITHDRAWN, Ordering::AcqRel);
        !self.is_begun(to)
    }

    /// Whether the run that ends at `to` was taken back before anybody began it.
    fn is_withdrawn(&self, to: u32) -> bool {
        self.0.load(Ordering::Acquire) & Self::WITHDRAWN != 0 && !self.is_begun(to)
    }

    fn is_begun(&self, to: u32) -> bool {
        (self.0.load(Ordering::Acquire) & !Self::WITHDRAWN) >= u64::from(to)
    }
}

/// A batch that is being read.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) batch: Arc<OpenBatch>,
    pub(crate) cursor: Cursor,
    /// Records behind the cursor that the last poll has handed out: the cursor is moved behind them when it is needed, because by then
    /// the user's iteration has mostly come there.
    pub(crate) handed_out: u32,
    /// Records that are left behind those.
    pub(crate) left: u32,
    /// As it came. It is what the budget counts, and that it has been used up shows when this is dropped.
    pub(crate) raw: RawBatch,
}

impl Held {
    /// The budget's bytes.
    pub(crate) fn bytes(&self) -> i64 {
        self.raw.len() as i64
    }
}

/// Part of a batch in a [`Records`].
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) batch: Arc<OpenBatch>,
    pub(crate) cursor: Cursor,
    pub(crate) count: u32,
    /// The offset behind the run.
    pub(crate) to: i64,
    pub(crate) id: RunId,
}

/// A record, borrowed from the consumer or from a [`Records`].
#[derive(Clone, Copy)]
pub struct RecordRef<'a> {
    pub(crate) view: RecordView<'a>,
    pub(crate) origin: &'a Arc<Origin>,
}

impl<'a> RecordRef<'a> {
    /// The topic.
    pub fn topic(&self) -> &'a str {
        &self.origin.topic
    }

    /// The partition.
    pub fn partition(&self) -> i32 {
        self.origin.partition
    }

    /// The offset in the partition.
    #[inline]
    pub fn offset(&self) -> i64 {
        self.view.offset
    }

    /// Milliseconds since 1970: the producer's word, or the broker's for topics with `LogAppendTime`. −1 for none.
    #[inline]
    pub fn timestamp(&self) -> i64 {
        self.view.timestamp
    }

    /// The key. `None` is not the same as empty.
    #[inline]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.view.key
    }

    /// The value. `None`, a tombstone in a compacted topic, is not the same as empty.
    #[inline]
    pub fn value(&self) -> Option<&'a [u8]> {
        self.view.value
    }

    /// The headers, in order, duplicates included.
    #[inline]
    pub fn headers(&self) -> Headers<'a> {
        self.view.headers
    }

    /// Copies the record out of its batch, in one allocation: to keep it for longer than it takes to process it.
    pub fn detach(&self) -> ConsumerRecord {
        let size = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        let headers = self.headers();
        let in_headers: usize = headers.iter().map(|header| header.key.len() + size(header.value)).sum();
        let mut data = Vec::with_capacity(size(self.key()) + size(self.value()) + in_headers);
        let mut put = |bytes: Option<&[u8]>| {
            let start = data.len() as u32;
            bytes.map(|bytes| {
                data.extend_from_slice(bytes);
                (start, data.len() as u32)
            })
        };
        let (key, value) = (put(self.key()), put(self.value()));
        let spans = |header: milena_protocol::records::Header<'_>| {
            (put(Some(header.key)).unwrap_or_default(), put(header.value))
        };
        let headers: Vec<_> = headers.iter().map(spans).collect();
        ConsumerRecord {
            origin: self.origin.clone(),
            offset: self.offset(),
            timestamp: self.timestamp(),
            data: data.into_boxed_slice(),
            key,
            value,
            headers,
        }
    }
}

impl fmt::Debug for RecordRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys and values never appear in logs.
        write!(f, "{}-{}@{}", self.topic(), self.partition(), self.offset())
    }
}

type Span = (u32, u32);

/// A record of its own: it keeps nothing alive but its bytes.
#[derive(Clone)]
pub struct ConsumerRecord {
    origin: Arc<Origin>,
    offset: i64,
    timestamp: i64,
    data: Box<[u8]>,
    key: Option<Span>,
    value: Option<Span>,
    headers: Vec<(Span, Option<Span>)>,
}

impl ConsumerRecord {
    /// The topic.
    pub fn topic(&self) -> &str {
        &self.origin.topic
    }

    /// The partition.
    pub fn partition(&self) -> i32 {
        self.origin.partition
    }

    /// Topic and partition.
    pub fn topic_partition(&self) -> TopicPartition {
        TopicPartition { topic: self.origin.topic.clone(), partition: self.origin.partition }
    }

    /// The offset in the partition.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// Milliseconds since 1970, −1 for none.
    pub fn timestamp(&self) -> i64 {
        self.timestamp
    }

    /// The key.
    pub fn key(&self) -> Option<&[u8]> {
        self.key.map(|span| self.bytes(span))
    }

    /// The value.
    pub fn value(&self) -> Option<&[u8]> {
        self.value.map(|span| self.bytes(span))
    }

    /// The headers, in order, duplicates included.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&[u8], Option<&[u8]>)> {
        self.headers.iter().map(|(key, value)| (self.bytes(*key), value.map(|span| self.bytes(span))))
    }

    fn bytes(&self, (start, end): Span) -> &[u8] {
        &self.data[start as usize..end as usize]
    }
}

impl fmt::Debug for ConsumerRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}@{}", self.topic(), self.partition(), self.offset)
    }
}

/// What a poll gave: records of several partitions, together by partition, in offset order within each. Owned: it can be kept and
/// sent to another thread.
///
/// Iterating over `&records` borrows; it is the fast way. A partition that is revoked meanwhile is skipped from its next batch on.
/// In a group, `records` must be [acknowledged](Records::ack) when it is processed: that is what may be committed.
pub struct Records {
    pub(crate) runs: Vec<Run>,
    pub(crate) count: usize,
    pub(crate) shared: Arc<Shared>,
}

impl Records {
    pub(crate) fn none(shared: &Arc<Shared>) -> Self {
        Self { runs: Vec::new(), count: 0, shared: shared.clone() }
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Iterates over borrowed records.
    pub fn iter(&self) -> RecordsIter<'_> {
        RecordsIter { records: self, runs: self.runs.iter(), run: None, cursor: Cursor::default(), left: 0 }
    }

    /// The same, partition by partition.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionRecords<'_>> {
        self.runs
            .chunk_by(|a, b| Arc::ptr_eq(&a.batch.origin, &b.batch.origin))
            .map(|runs| PartitionRecords { records: self, runs })
    }

    /// All of them are done: their offsets may be committed. Records that were taken back by a revocation before anybody looked at
    /// them are not.
    ///
    /// Does nothing for a [`PartitionConsumer`](crate::PartitionConsumer), which commits nothing.
    pub fn ack(&self) {
        self.shared.ack_runs(&self.runs);
    }

    /// The batch cannot be read on: tells the reader, which will tell the user with its next read.
    #[cold]
    #[inline(never)]
    fn broken(&self, run: &Run, error: Option<BatchError>) {
        run.batch.break_off();
        self.shared.on_broken_batch(&run.batch, error);
    }
}

impl<'a> IntoIterator for &'a Records {
    type Item = RecordRef<'a>;
    type IntoIter = RecordsIter<'a>;

    fn into_iter(self) -> RecordsIter<'a> {
        self.iter()
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").field("count", &self.count).field("runs", &self.runs.len()).finish_non_exhaustive()
    }
}

/// The records of one partition in a [`Records`].
#[derive(Clone, Copy)]
pub struct PartitionRecords<'a> {
    records: &'a Records,
    runs: &'a [Run],
}

impl<'a> PartitionRecords<'a> {
    /// The topic.
    pub fn topic(&self) -> &'a str {
        &self.runs[0].batch.origin.topic
    }

    /// The partition.
    pub fn partition(&self) -> i32 {
        self.runs[0].batch.origin.partition
    }

    /// Topic and partition.
    pub fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(self.runs[0].batch.origin.topic.clone(), self.partition())
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.runs.iter().map(|run| run.count as usize).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.runs.iter().all(|run| run.count == 0)
    }

    /// The offset behind these records: what to commit when all of them are done. Not always the last record's plus one (holes).
    ///
    /// Ask for it after the iteration: what a revocation took back before the iteration came there is left out, and the offset is
    /// the one at which its next owner must begin. It never lies behind a batch that could not be read. `None` if that is all of them.
    pub fn next_offset(&self) -> Option<i64> {
        let counts = |run: &&Run| !run.batch.is_withdrawn(run.to) && !run.batch.broken.load(Ordering::Relaxed);
        self.runs.iter().take_while(counts).last().map(|run| run.to)
    }

    /// All records of this partition are done; see [`Records::ack`].
    pub fn ack(&self) {
        self.records.shared.ack_runs(self.runs);
    }

    /// Iterates over borrowed records.
    pub fn iter(&self) -> RecordsIter<'a> {
        RecordsIter { records: self.records, runs: self.runs.iter(), run: None, cursor: Cursor::default(), left: 0 }
    }
}

impl<'a> IntoIterator for PartitionRecords<'a> {
    type Item = RecordRef<'a>;
    type IntoIter = RecordsIter<'a>;

    fn into_iter(self) -> RecordsIter<'a> {
        self.iter()
    }
}

impl fmt::Debug for PartitionRecords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records of {}-{}", self.len(), self.topic(), self.partition())
    }
}

/// Iterates over borrowed records. Written by hand: `flat_map` costs 10 to 15 ns a record.
#[derive(Clone)]
pub struct RecordsIter<'a> {
    records: &'a Records,
    runs: slice::Iter<'a, Run>,
    run: Option<&'a Run>,
    cursor: Cursor,
    left: u32,
}

impl<'a> RecordsIter<'a> {
    /// Nothing more of the partition of this run.
    #[cold]
    fn skip_partition(&mut self, of: &Run) {
        let slot = of.batch.origin.slot;
        while self.runs.as_slice().first().is_some_and(|next| next.batch.origin.slot == slot) {
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
                self.run = Some(run);
                self.cursor = run.cursor;
                self.left = run.count;
                return Some(());
            }
            // A revocation takes its runs back in the midst of the iteration: one that it has not come to yet must not be begun
            // behind one that it has, or the partition would be processed with a hole.
            self.skip_partition(run);
        }
    }
}

impl<'a> Iterator for RecordsIter<'a> {
    type Item = RecordRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<RecordRef<'a>> {
        loop {
            if self.left > 0
                && let Some(run) = self.run
            {
                self.left -= 1;
                match run.batch.batch.next(&mut self.cursor) {
                    Ok(Some(view)) => return Some(RecordRef { view, origin: &run.batch.origin }),
                    failed => {
                        self.left = 0;
                        self.records.broken(run, failed.err());
                        // What follows would be processed, and committed, behind a hole.
                        self.skip_partition(run);
                    }
                }
            }
            self.next_run()?;
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // A revocation may take back all that has not been begun.
        (0, Some(self.left as usize + self.runs.clone().map(|run| run.count as usize).sum::<usize>()))
    }
}

impl FusedIterator for RecordsIter<'_> {}

impl fmt::Debug for RecordsIter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordsIter").field("left", &self.left).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_was_begun_is_not_taken_back_and_one_taken_back_is_not_begun() {
        let claim = Claim::default();
        assert!(claim.begin(50));
        assert!(!claim.withdraw(50), "somebody reads it");
        assert!(claim.withdraw(100), "nobody reads the second half");
        assert!(!claim.begin(100));
        assert!(claim.begin(50), "what was begun may be read again");
    }

    #[test]
    fn a_whole_batch_that_nobody_looked_at_is_taken_back() {
        let claim = Claim::default();
        assert!(claim.withdraw(10));
        assert!(!claim.begin(10));
    }
}
