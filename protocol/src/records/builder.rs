//! The open batch: records are encoded once, straight into the buffer that goes to the socket.
//!
//! The buffer is an initialised `Vec<u8>` of a pool. Every record gets one slice of exactly its length: one bounds check that can
//! fail, no growth by pieces (`Vec::extend_from_slice` per field costs 8 ns more per 100-byte record), no zeroing between uses.

use std::fmt;

use super::reader::Header;
use super::sealed::SealedBatch;
use super::varint::Word;
use super::{BATCH_HEADER_BYTES, Hidden, prefetch, varint};

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

    /// Goes on in a longer buffer, and returns the one that it was in: for a batch that goes on growing while it cannot be sent. Copies
    /// what is encoded, and nothing else. A buffer that is not longer is returned as it is.
    pub fn move_to(&mut self, mut longer: Vec<u8>) -> Vec<u8> {
        if longer.len() <= self.buf.len() {
            return longer;
        }
        longer[..self.end].copy_from_slice(&self.buf[..self.end]);
        std::mem::replace(&mut self.buf, longer)
    }

    /// Makes the buffer at least `capacity` bytes long, head room included: for one record that is larger than a usual buffer.
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
        let (delta, room) = (self.timestamp_delta(timestamp), self.room());
        let rest = &mut self.buf[self.end..self.end + room];
        let size = match headers {
            [] => put_ordinary(rest, delta, self.count, key, value),
            _ => None,
        };
        let size = match size {
            Some(size) => size,
            None => put_any(rest, delta, self.count, key, value, headers)?,
        };

        let index = self.count;
        if index == 0 {
            self.base_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.end += size;
        self.count = index + 1;
        // Where the record after the next one goes, if they are as long as this one.
        if let Some(ahead) = self.buf.get(self.end + size..) {
            prefetch::for_writing(ahead);
        }
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

/// Encodes a record as nearly all are, without headers and with small numbers, and returns its length. Its lengths and deltas are put
/// together in registers and written as words; written byte by byte they take twice the instructions. `None` when a number is
/// larger, or there is no room for the record and a word behind it.
#[inline]
fn put_ordinary(rest: &mut [u8], delta: i64, index: u32, key: Option<&[u8]>, value: Option<&[u8]>) -> Option<usize> {
    let key_length = varint::zigzag_length(key);
    let value_length = varint::zigzag_length(value);
    let (delta, index) = (varint::zigzag64(delta), u64::from(index) * 2);
    if (key_length | value_length | delta | index) >= Word::LIMIT {
        return None;
    }
    let before_key = Word::EMPTY.with(key_length);
    let before_value = Word::EMPTY.with(value_length);
    let deltas = Word::EMPTY.with(delta).with(index);
    let parts = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
    let body = ATTRIBUTES_BYTES + deltas.len() + before_key.len() + before_value.len() + parts + 1;
    let body_length = body as u64 * 2;
    if body_length >= Word::LIMIT {
        return None;
    }
    // Attributes are 0, which is also how the varint 0 is written.
    let prefix = Word::EMPTY.with(body_length);
    let head = prefix.with(0).and(deltas);
    let size = prefix.len() + body;
    let out = rest.get_mut(..size + Word::BYTES)?;
    let mut at = 0;
    head.put(out, &mut at);
    before_key.put(out, &mut at);
    copy(out, &mut at, key);
    before_value.put(out, &mut at);
    copy(out, &mut at, value);
    // No headers.
    out[at] = 0;
    debug_assert_eq!(at + 1, size, "a record has exactly the length that was computed for it");
    Some(size)
}

#[inline]
fn copy(out: &mut [u8], at: &mut usize, bytes: Option<&[u8]>) {
    if let Some(bytes) = bytes {
        out[*at..*at + bytes.len()].copy_from_slice(bytes);
        *at += bytes.len();
    }
}

/// Encodes any record, and returns its length.
fn put_any(
    rest: &mut [u8],
    delta: i64,
    index: u32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[Header<'_>],
) -> Result<usize, NoRoom> {
    let body = body_size(delta, index, key, value, headers);
    let size = prefix_size(body) + body;
    let room = rest.len();
    // The casts below cannot cut anything: `size` fits into a batch, and a batch is shorter than 2^31 bytes.
    let out = rest.get_mut(..size).ok_or(NoRoom { needed: size, room })?;
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
    Ok(size)
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
        Some(bytes) => varint::put32(out, at, bytes.len() as i32),
        None => varint::put32(out, at, -1),
    }
    copy(out, at, bytes);
}

const ATTRIBUTES_BYTES: usize = 1;

/// The length field is an `i32`; the room above keeps every sum of a batch's positions far from its end.
const MAX_BATCH_BYTES: usize = i32::MAX as usize;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_record_has_the_same_bytes_either_way() {
        let long = vec![7; 8200];
        let lengths = [None, Some(0), Some(1), Some(63), Some(64), Some(100), Some(8100), Some(8191), Some(8192)];
        let mut ordinary = 0;
        for key in lengths.map(|length| length.map(|length| &long[..length])) {
            for value in lengths.map(|length| length.map(|length| &long[..length])) {
                for delta in [0, 1, -1, 63, 64, -64, -65, 8191, 8192, -8192, -8193, i64::MAX, i64::MIN] {
                    for index in [0, 63, 64, 8191, 8192, 1 << 20, i32::MAX as u32] {
                        let (mut any, mut quick) = (vec![0; 20_000], vec![0; 20_000]);
                        let size = put_any(&mut any, delta, index, key, value, &[]).unwrap();
                        if let Some(same) = put_ordinary(&mut quick, delta, index, key, value) {
                            assert_eq!((same, &quick[..same]), (size, &any[..size]));
                            ordinary += 1;
                        }
                    }
                }
            }
        }
        assert!(ordinary > 1000, "{ordinary} records went the quick way");
    }

    #[test]
    fn a_batch_that_goes_on_in_another_buffer_has_the_same_bytes() {
        let mut moved = BatchBuilder::new(vec![0; 200], 8);
        let mut stayed = BatchBuilder::new(vec![0; 500], 8);
        for index in 0..6 {
            let value = [index; 40];
            if moved.append(5, None, Some(&value), &[]).is_err() {
                assert_eq!(moved.move_to(vec![9; 200]), vec![9; 200], "no longer than its own");
                assert_eq!(moved.move_to(vec![9; 500]).len(), 200);
                moved.append(5, None, Some(&value), &[]).unwrap();
            }
            stayed.append(5, None, Some(&value), &[]).unwrap();
        }
        assert_eq!((moved.count(), moved.room()), (6, stayed.room()));
        assert_eq!(moved.seal().bytes(), stayed.seal().bytes());
    }

    #[test]
    fn a_record_that_fills_the_buffer_to_its_end_is_appended_and_one_byte_more_is_not() {
        for value in 0..200 {
            let value = vec![1; value];
            let size = BatchBuilder::new(Vec::new(), 0).record_size(5, Some(b"k"), Some(&value), &[]);
            for spare in 0..2 * Word::BYTES {
                let mut builder = BatchBuilder::new(vec![0; BATCH_HEADER_BYTES + size + spare], 0);
                builder.append(5, Some(b"k"), Some(&value), &[]).unwrap();
                assert_eq!(builder.room(), spare);
                let more = builder.append(5, None, Some(&vec![1; spare]), &[]);
                assert!(matches!(more, Err(NoRoom { room, .. }) if room == spare), "{more:?}");
            }
        }
    }
}
