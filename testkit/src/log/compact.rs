//! Compaction: of each key the last value is kept, at the offset it has. Kafka's `LogCleaner` and `MemoryRecords.filterTo`.
//!
//! - A batch that loses records keeps its base offset, its last offset, its producer and its sequences; it is stored without compression
//!   (Kafka compresses it again). A batch that loses all of them is gone, unless it is the last of what is cleaned, or has the last
//!   sequence of a producer that is remembered: then its header stays, with no records.
//! - A record without a value (a tombstone) stays until `delete.retention.ms` after the compaction that first met it as the last of its
//!   key. That time stands in the batch: the delete horizon is its base timestamp, and a bit of its attributes says so.
//! - Records of aborted transactions go at once. A marker stays as long as a batch of its transaction does, and then as a tombstone.
//! - Records without keys go.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};

use super::batch::{self, BatchHeader, COMPRESSION_MASK, HEADER_BYTES, LOG_APPEND_TIME, StoredRecord};
use super::transactions::Aborted;
use super::{Log, StoredBatch};

/// The bit of the attributes that says that the base timestamp is the delete horizon.
const HAS_DELETE_HORIZON: i16 = 0x40;

/// What a compaction goes by; times in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cleaning {
    pub(crate) now: i64,
    /// `delete.retention.ms`.
    pub(crate) delete_retention: i64,
    /// `min.compaction.lag.ms`.
    pub(crate) min_lag: i64,
}

impl Log {
    /// Compacts everything below the last stable offset that is old enough, and returns the base offsets of the batches that are not what
    /// they were.
    pub(crate) fn compact(&mut self, cleaning: Cleaning) -> Vec<i64> {
        let below = self.last_stable_offset();
        let too_young = |batch: &StoredBatch| {
            cleaning.min_lag > 0 && batch.max_timestamp > cleaning.now.saturating_sub(cleaning.min_lag)
        };
        let end = self.batches.iter().position(|batch| batch.last_offset >= below || too_young(batch));
        let rest = self.batches.split_off(end.unwrap_or(self.batches.len()));
        let dirty = std::mem::replace(&mut self.batches, rest);
        let latest = self.latest_of_keys(&dirty);
        let mut seen = SeenTransactions::new(self.transactions.all_aborted());
        let (mut kept, mut changed) = (Vec::with_capacity(dirty.len()), Vec::new());
        let last = dirty.len().saturating_sub(1);
        for (at, stored) in dirty.into_iter().enumerate() {
            let bytes = self.cleaned(&stored, &latest, &mut seen, cleaning, at == last);
            if bytes.as_ref() != Some(&stored.bytes) {
                changed.push(stored.base_offset);
            }
            let Some(bytes) = bytes else { continue };
            let max_timestamp = BatchHeader::read(&bytes).map_or(stored.max_timestamp, |header| header.max_timestamp);
            kept.push(StoredBatch { bytes, max_timestamp, ..stored });
        }
        self.transactions.forget_aborted(&seen.without_batches);
        kept.append(&mut self.batches);
        self.batches = kept;
        self.bytes = self.batches.iter().map(|batch| batch.bytes.len() as u64).sum();
        changed
    }

    /// The last offset of each key, but for aborted ones.
    fn latest_of_keys(&self, dirty: &[StoredBatch]) -> BTreeMap<Bytes, i64> {
        let mut seen = SeenTransactions::new(self.transactions.all_aborted());
        let mut latest = BTreeMap::new();
        for stored in dirty {
            let Some(header) = BatchHeader::read(&stored.bytes) else { continue };
            let records = batch::decode(&stored.bytes);
            if header.is_control() {
                seen.on_marker(&header, &records);
            } else if !seen.on_batch(&header) {
                latest.extend(records.into_iter().filter_map(|record| Some((record.key?, record.offset))));
            }
        }
        latest
    }

    /// What is left of a batch; `None` if that is nothing.
    fn cleaned(
        &self,
        stored: &StoredBatch,
        latest: &BTreeMap<Bytes, i64>,
        seen: &mut SeenTransactions,
        cleaning: Cleaning,
        is_last: bool,
    ) -> Option<Bytes> {
        let header = BatchHeader::read(&stored.bytes)?;
        let horizon = (header.attributes & HAS_DELETE_HORIZON != 0).then_some(header.base_timestamp);
        let is_over = horizon.is_some_and(|horizon| cleaning.now >= horizon);
        let records = batch::decode(&stored.bytes);
        let has_no_batches = header.is_control() && seen.on_marker(&header, &records);
        let is_discarded = if header.is_control() { has_no_batches && is_over } else { seen.on_batch(&header) };
        let count = records.len();
        let stays = |record: &StoredRecord| {
            if is_discarded || header.is_control() {
                return !is_discarded;
            }
            let is_latest = record.key.as_ref().and_then(|key| latest.get(key)).is_some_and(|at| record.offset >= *at);
            is_latest && (record.value.is_some() || !is_over)
        };
        let kept: Vec<StoredRecord> = records.into_iter().filter(stays).collect();
        if kept.is_empty() {
            let is_needed = is_last || self.producers.needs(&header, stored.last_offset);
            return is_needed.then(|| if count == 0 { stored.bytes.clone() } else { emptied(&stored.bytes, &header) });
        }
        let waits = has_no_batches || (!header.is_control() && kept.iter().any(|record| record.value.is_none()));
        let new_horizon = (waits && horizon.is_none()).then(|| cleaning.now.saturating_add(cleaning.delete_retention));
        if kept.len() == count && new_horizon.is_none() {
            return Some(stored.bytes.clone());
        }
        Some(rewritten(&stored.bytes, &header, &kept, new_horizon.or(horizon)))
    }
}

/// The header of a batch whose records are all gone.
fn emptied(bytes: &Bytes, header: &BatchHeader) -> Bytes {
    let mut batch = BytesMut::from(&bytes[..HEADER_BYTES]);
    finish(&mut batch, header.attributes & !COMPRESSION_MASK & !HAS_DELETE_HORIZON, -1, header.max_timestamp, 0);
    batch.freeze()
}

/// A batch with some of its records.
fn rewritten(bytes: &Bytes, header: &BatchHeader, kept: &[StoredRecord], horizon: Option<i64>) -> Bytes {
    let base = horizon.or(kept.first().map(|record| record.timestamp)).unwrap_or(header.base_timestamp);
    let mut batch = BytesMut::from(&bytes[..HEADER_BYTES]);
    for record in kept {
        put_record(&mut batch, record, record.timestamp.wrapping_sub(base), record.offset - header.base_offset);
    }
    let max_timestamp = match header.attributes & LOG_APPEND_TIME {
        0 => kept.iter().map(|record| record.timestamp).max().unwrap_or(header.max_timestamp),
        _ => header.max_timestamp,
    };
    let has_horizon = if horizon.is_some() { HAS_DELETE_HORIZON } else { 0 };
    let attributes = header.attributes & !COMPRESSION_MASK & !HAS_DELETE_HORIZON | has_horizon;
    finish(&mut batch, attributes, base, max_timestamp, kept.len());
    batch.freeze()
}

/// Writes what has changed into the header of a batch that is otherwise as it was.
fn finish(batch: &mut BytesMut, attributes: i16, base_timestamp: i64, max_timestamp: i64, count: usize) {
    let length = (batch.len() - 12) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    batch[27..35].copy_from_slice(&base_timestamp.to_be_bytes());
    batch[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
    batch[57..61].copy_from_slice(&(count as i32).to_be_bytes());
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

fn put_record(batch: &mut BytesMut, record: &StoredRecord, timestamp_delta: i64, offset_delta: i64) {
    let mut body = BytesMut::new();
    body.put_u8(0); // attributes
    put_varlong(&mut body, timestamp_delta);
    put_varlong(&mut body, offset_delta);
    put_nullable(&mut body, record.key.as_ref());
    put_nullable(&mut body, record.value.as_ref());
    put_varlong(&mut body, record.headers.len() as i64);
    for (key, value) in &record.headers {
        put_nullable(&mut body, Some(key));
        put_nullable(&mut body, value.as_ref());
    }
    put_varlong(batch, body.len() as i64);
    batch.extend_from_slice(&body);
}

fn put_nullable(out: &mut BytesMut, bytes: Option<&Bytes>) {
    put_varlong(out, bytes.map_or(-1, |bytes| bytes.len() as i64));
    out.extend_from_slice(bytes.map_or(&[], |bytes| &bytes[..]));
}

/// A zig-zag varint.
fn put_varlong(out: &mut BytesMut, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)) as u64;
    while raw >= 0x80 {
        out.put_u8(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.put_u8(raw as u8);
}

/// The transactions that a walk through the batches meets. Kafka's `CleanedTransactionMetadata`.
struct SeenTransactions {
    /// Not met yet, in the order of their beginnings.
    to_come: Vec<Aborted>,
    /// Met, by producer, and whether there was a batch of it.
    aborted: BTreeMap<i64, (Aborted, bool)>,
    committed: BTreeSet<i64>,
    /// Aborted ones of which no batch is left, by the offsets of their markers.
    without_batches: BTreeSet<i64>,
}

impl SeenTransactions {
    fn new(aborted: &[Aborted]) -> Self {
        let mut to_come = aborted.to_vec();
        to_come.sort_by_key(|aborted| std::cmp::Reverse(aborted.first_offset));
        Self { to_come, aborted: BTreeMap::new(), committed: BTreeSet::new(), without_batches: BTreeSet::new() }
    }

    fn meet(&mut self, up_to: i64) {
        while let Some(aborted) = self.to_come.pop_if(|aborted| aborted.first_offset <= up_to) {
            self.aborted.entry(aborted.producer_id).or_insert((aborted, false));
        }
    }

    /// Whether a batch belongs to an aborted transaction.
    fn on_batch(&mut self, header: &BatchHeader) -> bool {
        self.meet(header.base_offset + i64::from(header.last_offset_delta));
        if !header.is_transactional() {
            return false;
        }
        match self.aborted.get_mut(&header.producer_id) {
            Some((_, has_batches)) => *has_batches = true,
            None => {
                self.committed.insert(header.producer_id);
                return false;
            }
        }
        true
    }

    /// Whether a marker belongs to a transaction without batches.
    fn on_marker(&mut self, header: &BatchHeader, records: &[StoredRecord]) -> bool {
        self.meet(header.base_offset);
        let Some(marker) = records.first() else { return true };
        let is_commit = marker.key.as_ref().is_some_and(|key| key.ends_with(&[0, 1]));
        if is_commit {
            return !self.committed.remove(&header.producer_id);
        }
        match self.aborted.remove(&header.producer_id) {
            Some((_, true)) => false,
            Some((aborted, false)) => {
                self.without_batches.insert(aborted.last_offset);
                true
            }
            None => true,
        }
    }
}
