//! The log of one partition: stored batches, leader epochs, producers, transactions.
//!
//! It is the leader's; how far the other replicas are, and hence the high watermark, is in `replication.rs`.

pub(crate) mod batch;
pub(crate) mod compact;
pub(crate) mod marker;
mod producers;
mod retention;
mod transactions;
mod truncate;
mod unpack;

use bytes::{Bytes, BytesMut};

use batch::{BatchHeader, StoredRecord, Valid};
use marker::Marker;
pub(crate) use producers::{Producers, next_sequence};
pub(crate) use transactions::Aborted;
use transactions::Transactions;

/// Kafka's `log.index.interval.bytes`: how exactly a broker knows which offsets a range of bytes holds.
const INDEX_INTERVAL_BYTES: usize = 4096;

/// One batch as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct StoredBatch {
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) bytes: Bytes,
}

/// The log of one partition.
#[derive(Debug, Default)]
pub(crate) struct Log {
    batches: Vec<StoredBatch>,
    start: i64,
    end: i64,
    high_watermark: i64,
    bytes: u64,
    /// Which epoch began at which offset, in order.
    epochs: Vec<(i32, i64)>,
    pub(crate) producers: Producers,
    transactions: Transactions,
}

/// What a read gives.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) bytes: Bytes,
    /// The first batch did not fit as a whole.
    pub(crate) first_is_cut: bool,
}

impl Log {
    /// The first offset that can be read.
    pub(crate) fn start(&self) -> i64 {
        self.start
    }

    /// The offset that the next record gets.
    pub(crate) fn end(&self) -> i64 {
        self.end
    }

    /// The offset below which consumers may read.
    pub(crate) fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    /// The in-sync replicas have everything below `to`. False if that is nothing new.
    pub(crate) fn advance_high_watermark(&mut self, to: i64) -> bool {
        let advances = to > self.high_watermark;
        self.high_watermark = self.high_watermark.max(to);
        advances
    }

    /// Where the current leader epoch begins.
    pub(crate) fn epoch_start(&self) -> i64 {
        self.epochs.last().map_or(self.start, |(_, start)| *start)
    }

    /// The offset below which every transaction is decided, and its marker written. If the first open one began below the log's
    /// start, it is where the first stored batch begins, as in Kafka, be that below the start, too.
    pub(crate) fn last_stable_offset(&self) -> i64 {
        let first_open = match self.transactions.first_open() {
            None => return self.high_watermark,
            Some(first) if first >= self.start => first,
            Some(_) => self.from(self.start).first().map_or(self.end, |batch| batch.base_offset),
        };
        first_open.min(self.high_watermark)
    }

    /// The aborted transactions that a reader has to know who gets at most `max_bytes` from `offset` on. A broker finds out what its
    /// answer holds by its sparse offset index, so it may tell of a few that lie behind.
    pub(crate) fn aborted_transactions(&self, offset: i64, max_bytes: usize) -> Vec<Aborted> {
        let mut room = max_bytes.saturating_add(INDEX_INTERVAL_BYTES);
        let behind = self.from(offset).iter().find(|batch| {
            let fits = batch.bytes.len() <= room;
            room = room.saturating_sub(batch.bytes.len());
            !fits
        });
        self.transactions.aborted(offset, behind.map_or(self.end, |batch| batch.base_offset))
    }

    /// A leader was elected: records from here on belong to `epoch`.
    pub(crate) fn begin_epoch(&mut self, epoch: i32) {
        while self.epochs.last().is_some_and(|(_, start)| *start >= self.end) {
            self.epochs.pop();
        }
        self.epochs.push((epoch, self.end));
    }

    /// The epoch in which the record at `offset` was written.
    pub(crate) fn epoch_at(&self, offset: i64) -> Option<i32> {
        self.epochs.iter().rev().find(|(_, start)| *start <= offset).map(|(epoch, _)| *epoch)
    }

    /// The largest epoch not above `epoch` and the offset at which it ended; `(-1, -1)` if that is unknown.
    pub(crate) fn end_of_epoch(&self, epoch: i32) -> (i32, i64) {
        let Some(&(latest, _)) = self.epochs.last() else { return (-1, -1) };
        if epoch == latest {
            return (latest, self.end);
        }
        if epoch < 0 {
            return (-1, -1);
        }
        let above = self.epochs.partition_point(|(e, _)| *e <= epoch);
        let Some(&(_, next_start)) = self.epochs.get(above) else { return (-1, -1) };
        match above.checked_sub(1).and_then(|floor| self.epochs.get(floor)) {
            Some(&(floor, _)) => (floor, next_start),
            None => (epoch, next_start),
        }
    }

    /// Appends a validated batch and returns its base offset.
    pub(crate) fn append(&mut self, valid: &Valid<'_>, leader_epoch: i32, log_append_time: Option<i64>) -> i64 {
        let base_offset = self.end;
        let stored = batch::stamp(valid, base_offset, leader_epoch, log_append_time);
        let max_timestamp = log_append_time.unwrap_or(valid.max_timestamp);
        if valid.header.producer_id >= 0 && self.producers.on_appended(&valid.header, base_offset, max_timestamp) {
            self.transactions.begin(valid.header.producer_id, base_offset);
        }
        let last_offset = base_offset + i64::from(valid.header.last_offset_delta);
        self.store(StoredBatch { base_offset, last_offset, max_timestamp, leader_epoch, bytes: stored });
        base_offset
    }

    /// Appends a transaction marker, which ends the producer's open transaction, and returns its offset.
    pub(crate) fn append_marker(&mut self, marker: &Marker, leader_epoch: i32) -> i64 {
        let offset = self.end;
        let began = self.producers.on_marker(
            marker.producer_id,
            marker.producer_epoch,
            marker.coordinator_epoch,
            marker.timestamp,
        );
        if let Some(first_offset) = began {
            self.transactions.end(first_offset, offset, !marker.commit);
        }
        self.store(StoredBatch {
            base_offset: offset,
            last_offset: offset,
            max_timestamp: marker.timestamp,
            leader_epoch,
            bytes: marker.batch(offset, leader_epoch),
        });
        offset
    }

    fn store(&mut self, batch: StoredBatch) {
        self.end = batch.last_offset + 1;
        self.bytes += batch.bytes.len() as u64;
        self.batches.push(batch);
    }

    /// Bytes that can be read from `offset` up to `below`, at most `limit` of them matter.
    pub(crate) fn available(&self, offset: i64, below: i64, limit: usize) -> usize {
        let mut bytes = 0;
        for batch in self.between(offset, below) {
            bytes += batch.bytes.len();
            if bytes >= limit {
                return limit;
            }
        }
        bytes
    }

    /// Reads whole batches from the one that contains `offset` up to the one that begins at `below`; the last one is cut at
    /// `max_bytes`, as a broker does that sends a slice of a file. `at_least_one` gives the first batch whole even if it is larger
    /// than `max_bytes`.
    pub(crate) fn read(&self, offset: i64, below: i64, max_bytes: usize, at_least_one: bool) -> Read {
        let mut batches = self.between(offset, below).iter();
        let Some(first) = batches.next() else { return Read::default() };
        let limit = if at_least_one { max_bytes.max(first.bytes.len()) } else { max_bytes };
        if first.bytes.len() >= limit {
            return Read { bytes: first.bytes.slice(..limit), first_is_cut: first.bytes.len() > limit };
        }
        let mut out = BytesMut::with_capacity(limit.min(self.available(offset, below, limit)));
        out.extend_from_slice(&first.bytes);
        for batch in batches {
            let room = limit - out.len();
            if room == 0 {
                break;
            }
            out.extend_from_slice(&batch.bytes[..batch.bytes.len().min(room)]);
        }
        Read { bytes: out.freeze(), first_is_cut: false }
    }

    fn between(&self, offset: i64, below: i64) -> &[StoredBatch] {
        let from = self.from(offset);
        if below >= self.end { from } else { &from[..from.partition_point(|batch| batch.base_offset < below)] }
    }

    fn from(&self, offset: i64) -> &[StoredBatch] {
        &self.batches[self.batches.partition_point(|batch| batch.last_offset < offset)..]
    }

    /// The first record whose timestamp is `timestamp` or later: its offset, timestamp and leader epoch.
    pub(crate) fn find_by_time(&self, timestamp: i64) -> Option<(i64, i64, i32)> {
        for stored in self.from(self.start) {
            if stored.max_timestamp < timestamp {
                continue;
            }
            let records = batch::decode(&stored.bytes);
            let found = records.iter().find(|record| record.timestamp >= timestamp && record.offset >= self.start);
            if let Some(record) = found {
                return Some((record.offset, record.timestamp, stored.leader_epoch));
            }
        }
        None
    }

    /// The record with the largest timestamp, the first of them if there are several: offset, timestamp and leader epoch.
    pub(crate) fn find_latest_time(&self) -> Option<(i64, i64, i32)> {
        let latest = self.from(self.start).iter().map(|batch| batch.max_timestamp).max()?;
        self.find_by_time(latest)
    }

    /// Moves the start forward (DeleteRecords). Batches that end below it are dropped; producers are still remembered.
    pub(crate) fn delete_before(&mut self, offset: i64) {
        self.start = self.start.max(offset);
        let gone = self.batches.partition_point(|batch| batch.last_offset < self.start);
        for batch in self.batches.drain(..gone) {
            self.bytes -= batch.bytes.len() as u64;
        }
        self.transactions.forget_before(self.start);
        while self.epochs.len() > 1 && self.epochs[1].1 <= self.start {
            self.epochs.remove(0);
        }
    }

    /// The stored batch that begins at this offset.
    pub(crate) fn batch_at(&self, base_offset: i64) -> Option<&Bytes> {
        let at = self.batches.binary_search_by_key(&base_offset, |batch| batch.base_offset).ok()?;
        self.batches.get(at).map(|batch| &batch.bytes)
    }

    /// The stored batch that holds this offset.
    pub(crate) fn batch_with(&mut self, offset: i64) -> Option<&mut Bytes> {
        let at = self.batches.partition_point(|batch| batch.last_offset < offset);
        self.batches.get_mut(at).filter(|batch| batch.base_offset <= offset).map(|batch| &mut batch.bytes)
    }

    /// Size of the stored batches in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.bytes
    }

    /// All records from the start on.
    pub(crate) fn records(&self) -> Vec<StoredRecord> {
        let all = self.batches.iter().flat_map(|stored| batch::decode(&stored.bytes));
        all.filter(|record| record.offset >= self.start).collect()
    }

    /// The records that a reader of committed data gets: below the last stable offset, without those of aborted transactions and
    /// without markers.
    pub(crate) fn committed_records(&self) -> Vec<StoredRecord> {
        let end = self.last_stable_offset();
        let aborted = self.transactions.aborted(self.start, self.end);
        let was_aborted = |record: &StoredRecord| {
            let mut of_producer = aborted.iter().filter(|aborted| aborted.producer_id == record.producer_id);
            of_producer.any(|aborted| (aborted.first_offset..=aborted.last_offset).contains(&record.offset))
        };
        let mut records = self.records();
        records
            .retain(|record| record.offset < end && !record.control && !(record.transactional && was_aborted(record)));
        records
    }

    /// The last batch of a producer below an offset, but for markers, if it is still stored.
    ///
    /// Looks at the last thousand batches only, so that a producer that pauses costs no walk of the log.
    pub(crate) fn previous_of(&self, producer_id: i64, below: i64) -> Option<BatchHeader> {
        let end = self.batches.partition_point(|batch| batch.base_offset < below);
        let recent = self.batches[..end].iter().rev().take(1000).filter_map(|stored| BatchHeader::read(&stored.bytes));
        recent.filter(|header| header.producer_id == producer_id && !header.is_control()).take(1).next()
    }
}
