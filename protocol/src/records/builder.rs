//! The open batch: records are encoded once, straight into the buffer that goes to the socket.
//!
//! The buffer is an initialised `Vec<u8>` of a pool. Every record gets one slice of exactly its length: one bounds check that can
//! fail, no growth by pieces (`Vec::extend_from_slice` per field costs 8 ns more per 100-byte record), no zeroing between uses.

use std::fmt;

use super::reader::Header;
use super::sealed::SealedBatch;
use super::{BATCH_HEADER_BYTES, Hidden, varint};

/// A batch that takes records.
pub struct BatchBuilder {
    buf: Vec<u8>,
    /// Where the batch begins: behind the head room.
    start: usize,
    /// Where the next record goes.
    end: usize,
    count: u32,
    base_timestamp: i64,
    max_timestamp: i64,
}

/// A record that does not fit into the rest of the buffer. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record takes {needed} bytes and {room} are left in the batch")]
pub struct NoRoom {
    /// Encoded bytes of the record *in this batch*.
    pub needed: usize,
    /// Bytes that are left.
    pub room: usize,
}

impl BatchBuilder {
    /// Begins a batch in `buf`, whose *length* (not capacity) is the room there is.
    ///
    /// The first `head_room` bytes stay free for whoever frames the batch; behind them lie the 61 bytes of the header. A shorter buffer
    /// is made long enough for these.
    pub fn new(mut buf: Vec<u8>, head_room: usize) -> Self {
        let end = head_room + BATCH_HEADER_BYTES;
        if buf.len() < end {
            buf.resize(end, 0);
        }
        Self { buf, start: head_room, end, count: 0, base_timestamp: 0, max_timestamp: i64::MIN }
    }

    /// Encoded bytes of a record if it were appended next, its length prefix included.
    #[inline]
    pub fn record_size(
        &self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> usize {
        let body = body_size(self.timestamp_delta(timestamp), self.count, key, value, headers);
        prefix_size(body) + body
    }

    /// Whether a record of `size` encoded bytes fits.
    #[inline]
    pub fn has_room(&self, size: usize) -> bool {
        size <= self.room()
    }

    /// Bytes that are left for records.
    #[inline]
    pub fn room(&self) -> usize {
        self.buf.len().min(self.start + MAX_BATCH_BYTES).saturating_sub(self.end)
    }

    /// Makes the buffer at least `capacity` bytes long, head room included: for one record that is larger than a usual buffer, and
    /// for a batch that goes on growing while it cannot be sent.
    pub fn grow(&mut self, capacity: usize) {
        if self.buf.len() < capacity {
            self.buf.resize(capacity, 0);
        }
    }

    /// Appends a record and returns its index in the batch.
    ///
    /// # Errors
    /// [`NoRoom`] when it does not fit; the batch is unchanged.
    #[inline]
    pub fn append(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> Result<u32, NoRoom> {
        let index = self.count;
        let delta = self.timestamp_delta(timestamp);
        let body = body_size(delta, index, key, value, headers);
        let size = prefix_size(body) + body;
        let room = self.room();
        if size > room {
            return Err(NoRoom { needed: size, room });
        }

        // The casts below cannot cut anything: `size` fits into a batch, and a batch is shorter than 2^31 bytes.
        let out = &mut self.buf[self.end..self.end + size];
        let mut at = 0;
        varint::put32(out, &mut at, body as i32);
        out[at] = 0;
        at += 1;
        varint::put64(out, &mut at, delta);
        varint::put32(out, &mut at, index as i32);
        put_bytes(out, &mut at, key);
        put_bytes(out, &mut at, value);
        varint::put32(out, &mut at, headers.len() as i32);
        for header in headers {
            put_bytes(out, &mut at, Some(header.key));
            put_bytes(out, &mut at, header.value);
        }
        debug_assert_eq!(at, size, "a record has exactly the length that was computed for it");

        if index == 0 {
            self.base_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.end += size;
        self.count = index + 1;
        Ok(index)
    }

    /// Records so far.
    #[inline]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Encoded bytes so far, header included, head room not.
    #[inline]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there is no record yet. Such a batch is not sealed: brokers refuse it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The timestamp of the first record, in milliseconds; 0 if there is none.
    pub fn base_timestamp(&self) -> i64 {
        self.base_timestamp
    }

    /// Completes the header, but for the producer's [stamp](SealedBatch::stamp).
    pub fn seal(self) -> SealedBatch {
        debug_assert!(self.count > 0, "a broker refuses a batch without records");
        SealedBatch::new(self.buf, self.start, self.end, self.count, self.base_timestamp, self.max_timestamp)
    }

    /// Gives up an empty or unwanted batch and gives the buffer back.
    pub fn into_buf(self) -> Vec<u8> {
        self.buf
    }

    /// Deltas count from the first record, as in Java; later ones may be older, so a delta may be negative. It wraps for times that
    /// lie 2^63 ms apart, and reading wraps it back.
    #[inline]
    fn timestamp_delta(&self, timestamp: i64) -> i64 {
        if self.count == 0 { 0 } else { timestamp.wrapping_sub(self.base_timestamp) }
    }
}

impl fmt::Debug for BatchBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchBuilder")
            .field("count", &self.count)
            .field("bytes", &Hidden(self.len()))
            .field("room", &self.room())
            .finish_non_exhaustive()
    }
}

/// Bytes of a record behind its length prefix.
#[inline]
fn body_size(delta: i64, index: u32, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header<'_>]) -> usize {
    let mut size = ATTRIBUTES_BYTES
        + varint::size64(delta)
        + varint::size32(index as i32)
        + bytes_size(key)
        + bytes_size(value)
        + length_size(headers.len());
    for header in headers {
        size += bytes_size(Some(header.key)) + bytes_size(header.value);
    }
    size
}

#[inline]
fn prefix_size(body: usize) -> usize {
    length_size(body)
}

#[inline]
fn bytes_size(bytes: Option<&[u8]>) -> usize {
    match bytes {
        Some(bytes) => length_size(bytes.len()) + bytes.len(),
        None => 1,
    }
}

/// Bytes of a length. One beyond 2^31 never fits, and is only asked whether it does.
#[inline]
fn length_size(len: usize) -> usize {
    varint::size32(i32::try_from(len).unwrap_or(i32::MAX))
}

#[inline]
fn put_bytes(out: &mut [u8], at: &mut usize, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            varint::put32(out, at, bytes.len() as i32);
            out[*at..*at + bytes.len()].copy_from_slice(bytes);
            *at += bytes.len();
        }
        None => varint::put32(out, at, -1),
    }
}

const ATTRIBUTES_BYTES: usize = 1;

/// The length field is an `i32`; the room above keeps every sum of a batch's positions far from its end.
const MAX_BATCH_BYTES: usize = i32::MAX as usize;
