//! A partition's waiting records. They arrive in blocks: the bytes of many records in one buffer, so that a block costs
//! one allocation and crosses from the client's thread to the stream thread as a whole.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::record::Headers;

/// Bytes at which a block is worth closing.
const FULL: usize = 1 << 20;

/// Records of one partition.
#[derive(Debug, Clone, Default)]
pub(crate) struct Block {
    bytes: Bytes,
    entries: Vec<Entry>,
    /// The offset behind the block: behind its last record, or farther where the log has a hole.
    end: i64,
    /// Headers of the few records that have some, by position, in order.
    headers: VecDeque<(usize, Headers)>,
}

/// Where a record lies in its block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    start: usize,
    /// −1 for null.
    key_len: i32,
    /// −1 for null.
    value_len: i32,
}

impl Entry {
    pub(crate) fn key<'a>(&self, owner: &'a [u8]) -> Option<&'a [u8]> {
        let len = usize::try_from(self.key_len).ok()?;
        Some(&owner[self.start..self.start + len])
    }

    pub(crate) fn value<'a>(&self, owner: &'a [u8]) -> Option<&'a [u8]> {
        let start = self.start + usize::try_from(self.key_len).unwrap_or(0);
        let len = usize::try_from(self.value_len).ok()?;
        Some(&owner[start..start + len])
    }
}

impl Block {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// Fills a block.
#[derive(Debug, Default)]
pub(crate) struct BlockBuilder {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    headers: VecDeque<(usize, Headers)>,
}

impl BlockBuilder {
    /// Copies a record in.
    pub(crate) fn push(
        &mut self,
        offset: i64,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: Headers,
    ) {
        // Kafka's lengths are 32-bit, so this is never cut.
        let len = |bytes: Option<&[u8]>| bytes.map_or(-1, |bytes| i32::try_from(bytes.len()).unwrap_or(i32::MAX));
        if !headers.is_empty() {
            self.headers.push_back((self.entries.len(), headers));
        }
        // `i64::MAX` stands for "no record waits".
        let timestamp = timestamp.min(i64::MAX - 1);
        let start = self.bytes.len();
        self.entries.push(Entry { offset, timestamp, start, key_len: len(key), value_len: len(value) });
        self.bytes.extend_from_slice(key.unwrap_or_default());
        self.bytes.extend_from_slice(value.unwrap_or_default());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether it is time for `finish`.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= FULL
    }

    /// The block; the builder is empty again.
    pub(crate) fn finish(&mut self) -> Block {
        self.finish_to(0)
    }

    /// As `finish`, for records behind which the log goes on at `end`, if that is not before their own end.
    pub(crate) fn finish_to(&mut self, end: i64) -> Block {
        // Where a batch breaks in its midst, what was read of it is processed, although the partition goes no farther.
        let end = self.entries.last().map_or(end, |entry| end.max(entry.offset + 1));
        let Self { bytes, entries, headers } = std::mem::take(self);
        Block { bytes: bytes.into(), entries, end, headers }
    }
}

/// Blocks in order, and how far the first is used up.
#[derive(Debug, Default)]
pub(crate) struct PartitionQueue {
    blocks: VecDeque<Block>,
    next: usize,
}

impl PartitionQueue {
    pub(crate) fn push(&mut self, block: Block) {
        if block.len() > 0 {
            self.blocks.push_back(block);
        }
    }

    /// Timestamp of the first record; `i64::MAX` without one.
    pub(crate) fn head(&self) -> i64 {
        self.blocks.front().map_or(i64::MAX, |block| block.entries[self.next].timestamp)
    }

    /// The first record, its buffer, and its headers (a copy: a failed or deferred record is asked for again).
    #[inline]
    pub(crate) fn first(&self) -> Option<(&Bytes, Entry, Headers)> {
        let block = self.blocks.front()?;
        let headers = match block.headers.front() {
            Some((at, headers)) if *at == self.next => headers.clone(),
            _ => Headers::default(),
        };
        Some((&block.bytes, block.entries[self.next], headers))
    }

    /// Drops the first record. Returns the offset at which the log goes on.
    pub(crate) fn pop(&mut self) -> Option<i64> {
        let block = self.blocks.front_mut()?;
        if block.headers.front().is_some_and(|(at, _)| *at == self.next) {
            block.headers.pop_front();
        }
        let (offset, end) = (block.entries[self.next].offset + 1, block.end);
        self.next += 1;
        if self.next < block.entries.len() {
            return Some(offset);
        }
        self.blocks.pop_front();
        self.next = 0;
        Some(end)
    }
}
