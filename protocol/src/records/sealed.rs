//! A complete batch, and what happens to it until it is acknowledged: compress, stamp, share with the connection, stamp again.

use std::fmt;

use bytes::Bytes;

use super::compression::Compressor;
use super::{Compression, Hidden, at, attributes, crc32c};

/// A batch whose header is complete but for the producer's stamp and the checksum, which [`stamp`](Self::stamp) writes.
///
/// It must be stamped before it is sent, also by a producer that is not idempotent ([`ProducerStamp::NONE`]).
pub struct SealedBatch {
    buf: Vec<u8>,
    start: usize,
    end: usize,
    count: u32,
    max_timestamp: i64,
}

/// Who produced a batch, and its place in that producer's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerStamp {
    /// The producer id, -1 for none.
    pub producer_id: i64,
    /// The producer's epoch, -1 for none.
    pub epoch: i16,
    /// The sequence number of the batch's first record in its partition, -1 for none. It wraps from 2^31 - 1 to 0.
    pub base_sequence: i32,
    /// Whether the batch belongs to a transaction.
    pub transactional: bool,
}

impl ProducerStamp {
    /// The stamp of a producer that is not idempotent.
    pub const NONE: Self = Self { producer_id: -1, epoch: -1, base_sequence: -1, transactional: false };
}

impl SealedBatch {
    /// Writes the header of the batch that lies in `buf[start..end]`.
    pub(super) fn new(
        buf: Vec<u8>,
        start: usize,
        end: usize,
        count: u32,
        base_timestamp: i64,
        max_timestamp: i64,
    ) -> Self {
        let mut batch = Self { buf, start, end, count, max_timestamp };
        batch.put(at::BASE_OFFSET, 0i64.to_be_bytes());
        batch.put(at::LEADER_EPOCH, (-1i32).to_be_bytes());
        batch.put(at::MAGIC, [2]);
        batch.put(at::CRC, [0; 4]);
        batch.put(at::LAST_OFFSET_DELTA, (count.saturating_sub(1) as i32).to_be_bytes());
        batch.put(at::BASE_TIMESTAMP, base_timestamp.to_be_bytes());
        batch.put(at::MAX_TIMESTAMP, max_timestamp.to_be_bytes());
        batch.put(at::COUNT, (count as i32).to_be_bytes());
        batch.put_length_and_attributes(0);
        batch.put_stamp(ProducerStamp::NONE);
        batch
    }

    /// Compresses the records into `scratch` and gives the buffer that is no longer needed back: the old one, or `scratch` itself
    /// when the batch stays as it is, because the codec is [`Compression::None`] or nothing would be gained.
    ///
    /// The head room is kept. `scratch` is made long enough when it is not; buffers that come from here are shorter or longer than
    /// those that records are appended to, so a pool keeps the two kinds apart. A stamp is lost: compress first.
    ///
    /// (Java sends what it has compressed even where it grew; leaving such a batch as it is costs no reader anything.)
    pub fn compress(mut self, compressor: &mut Compressor, mut scratch: Vec<u8>) -> (Self, Vec<u8>) {
        let codec = compressor.codec();
        if codec == Compression::None || self.compression_bits() != 0 {
            return (self, scratch);
        }
        let records = self.start + at::RECORDS;
        let Some(written) = compressor.compress(&self.buf[records..self.end], records, &mut scratch) else {
            return (self, scratch);
        };
        scratch[self.start..records].copy_from_slice(&self.buf[self.start..records]);
        std::mem::swap(&mut self.buf, &mut scratch);
        self.end = records + written;
        self.put_length_and_attributes(codec.bits());
        (self, scratch)
    }

    /// Writes producer id, epoch, base sequence, the transactional bit and the checksum.
    ///
    /// May be repeated: after an epoch bump a batch is sent again under a new stamp without being encoded again.
    pub fn stamp(&mut self, stamp: ProducerStamp) {
        self.put_stamp(stamp);
        let crc = crc32c(&self.bytes()[at::ATTRIBUTES..]);
        self.put(at::CRC, crc.to_be_bytes());
    }

    /// The batch as it goes over the wire.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    /// Bytes on the wire.
    #[inline]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether the batch has no record.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Records in the batch.
    #[inline]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The largest timestamp of its records, in milliseconds.
    pub fn max_timestamp(&self) -> i64 {
        self.max_timestamp
    }

    /// The free bytes in front of the batch.
    pub fn head_room(&mut self) -> &mut [u8] {
        &mut self.buf[..self.start]
    }

    /// Gives the buffer back, for a pool. Its length is what it was.
    pub fn into_buf(self) -> Vec<u8> {
        self.buf
    }

    /// Makes the bytes shareable with a connection. Costs one small allocation (a reference count), never a copy.
    pub fn freeze(self) -> FrozenBatch {
        FrozenBatch {
            buf: Bytes::from(self.buf),
            start: self.start,
            end: self.end,
            count: self.count,
            max_timestamp: self.max_timestamp,
        }
    }

    fn compression_bits(&self) -> i16 {
        self.attributes() & attributes::CODEC
    }

    fn attributes(&self) -> i16 {
        let at = self.start + at::ATTRIBUTES;
        i16::from_be_bytes([self.buf[at], self.buf[at + 1]])
    }

    fn put_length_and_attributes(&mut self, attributes: i16) {
        // Cannot be cut: the builder keeps a batch below 2^31 bytes, and compression only ever shortens it.
        let length = (self.len() - at::AFTER_LENGTH) as i32;
        self.put(at::LENGTH, length.to_be_bytes());
        self.put(at::ATTRIBUTES, attributes.to_be_bytes());
    }

    fn put_stamp(&mut self, stamp: ProducerStamp) {
        let mut attributes = self.attributes() & !attributes::TRANSACTIONAL;
        if stamp.transactional {
            attributes |= attributes::TRANSACTIONAL;
        }
        self.put(at::ATTRIBUTES, attributes.to_be_bytes());
        self.put(at::PRODUCER_ID, stamp.producer_id.to_be_bytes());
        self.put(at::PRODUCER_EPOCH, stamp.epoch.to_be_bytes());
        self.put(at::BASE_SEQUENCE, stamp.base_sequence.to_be_bytes());
    }

    /// Writes a field of the header. The builder has made the buffer long enough for all of them.
    fn put<const N: usize>(&mut self, field: usize, bytes: [u8; N]) {
        let at = self.start + field;
        self.buf[at..at + N].copy_from_slice(&bytes);
    }
}

/// A stamped batch whose bytes a connection may hold.
pub struct FrozenBatch {
    /// The whole buffer, head room included.
    buf: Bytes,
    start: usize,
    end: usize,
    count: u32,
    max_timestamp: i64,
}

impl FrozenBatch {
    /// The bytes for the wire: a reference, not a copy.
    pub fn bytes(&self) -> Bytes {
        self.buf.slice(self.start..self.end)
    }

    /// Bytes on the wire.
    #[inline]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether the batch has no record.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Records in the batch.
    #[inline]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The largest timestamp of its records, in milliseconds.
    pub fn max_timestamp(&self) -> i64 {
        self.max_timestamp
    }

    /// Takes the batch back, to stamp it again or to reuse its buffer.
    ///
    /// When nobody holds the bytes any more this is free; otherwise (a connection that has not let go yet) they are copied, so that
    /// a request that is still being written never changes under the writer's hands.
    pub fn thaw(self) -> SealedBatch {
        SealedBatch {
            buf: Vec::from(self.buf),
            start: self.start,
            end: self.end,
            count: self.count,
            max_timestamp: self.max_timestamp,
        }
    }
}

impl fmt::Debug for SealedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedBatch")
            .field("count", &self.count)
            .field("bytes", &Hidden(self.len()))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for FrozenBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrozenBatch")
            .field("count", &self.count)
            .field("bytes", &Hidden(self.len()))
            .finish_non_exhaustive()
    }
}
