//! A batch as it came: its header can be asked, its records lie still, compressed or not.

use std::fmt;

use bytes::{Buf, Bytes};

use super::compression::{Compression, UnsupportedCodec};
use super::error::BatchError;
use super::pinned::Charge;
use super::reader::Batch;
use super::scratch::Scratch;
use super::{Hidden, at, attributes, crc32c};

/// An undecoded batch: one counted slice of the bytes that came from the broker.
///
/// Its length, its format and its offsets have been checked; nothing else has.
#[derive(Clone)]
pub struct RawBatch {
    bytes: Bytes,
    /// Its part of the memory that it shares with others. Behind the bytes, which go first.
    charge: Option<Charge>,
}

impl PartialEq for RawBatch {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for RawBatch {}

/// Takes the first batch off the front of `buf`.
///
/// `Ok(None)` means that no whole batch is left. `buf` then holds the rest: nothing, or the beginning of a batch that was cut off. The
/// latter is normal in a Fetch response, which ends a partition's records at the limit that was asked for, wherever that falls.
///
/// # Errors
/// [`BatchError`] when the bytes are not a batch of format 2; `buf` is unchanged then.
pub fn split_batch(buf: &mut Bytes) -> Result<Option<RawBatch>, BatchError> {
    match announced(buf)? {
        Announced::Batch { bytes } if bytes <= buf.len() => {
            let batch = RawBatch::new(buf.slice(..bytes), None)?;
            buf.advance(bytes);
            Ok(Some(batch))
        }
        Announced::Batch { .. } | Announced::Unknown => Ok(None),
    }
}

/// What the front of a batch says about its length.
pub(crate) enum Announced {
    /// There are too few bytes to tell.
    Unknown,
    /// This many bytes in all.
    Batch { bytes: usize },
}

/// Reads format and length of the batch that `front` begins with.
pub(crate) fn announced(front: &[u8]) -> Result<Announced, BatchError> {
    // The magic byte stands at the same place in every format, and must be asked first: what follows has another shape in older ones.
    let Some(head) = front.first_chunk::<{ at::MAGIC + 1 }>() else { return Ok(Announced::Unknown) };
    match head[at::MAGIC] as i8 {
        2 => {}
        magic @ 0..=1 => return Err(BatchError::OldFormat { magic }),
        magic => return Err(BatchError::UnknownFormat { magic }),
    }
    let base_offset = i64::from_be_bytes(field(head, at::BASE_OFFSET));
    let length = i32::from_be_bytes(field(head, at::LENGTH));
    match usize::try_from(length) {
        Ok(length) if at::AFTER_LENGTH + length >= at::RECORDS => {
            Ok(Announced::Batch { bytes: at::AFTER_LENGTH + length })
        }
        _ => Err(BatchError::Malformed { base_offset, reason: "its length is shorter than its header" }),
    }
}

impl RawBatch {
    /// Wraps exactly the bytes of one batch.
    pub(crate) fn new(bytes: Bytes, charge: Option<Charge>) -> Result<Self, BatchError> {
        let batch = Self { bytes, charge };
        let base_offset = batch.base_offset();
        let fail = |reason| Err(BatchError::Malformed { base_offset, reason });
        let delta = batch.i32(at::LAST_OFFSET_DELTA);
        if base_offset < 0 || delta < 0 {
            return fail("its offsets are negative");
        }
        // The next offset must exist too: it is the position that a reader goes on from.
        if base_offset.checked_add(i64::from(delta) + 1).is_none() {
            return fail("its offsets exceed 63 bits");
        }
        if batch.i32(at::COUNT) < 0 {
            return fail("its record count is negative");
        }
        Ok(batch)
    }

    /// The offset of the first record, as it was when the batch was written: compaction may have taken that record.
    #[inline]
    pub fn base_offset(&self) -> i64 {
        self.i64(at::BASE_OFFSET)
    }

    /// The offset of the last record, whether it is still there or not.
    #[inline]
    pub fn last_offset(&self) -> i64 {
        self.base_offset() + i64::from(self.i32(at::LAST_OFFSET_DELTA))
    }

    /// Where reading goes on behind this batch. From the header, so that holes, emptied batches and markers count as progress.
    #[inline]
    pub fn next_offset(&self) -> i64 {
        self.last_offset() + 1
    }

    /// The epoch of the leader that wrote the batch, -1 if unknown.
    pub fn leader_epoch(&self) -> i32 {
        self.i32(at::LEADER_EPOCH)
    }

    /// The first timestamp, in milliseconds. (With the delete horizon bit set: that horizon.)
    pub fn base_timestamp(&self) -> i64 {
        self.i64(at::BASE_TIMESTAMP)
    }

    /// The largest timestamp of the records, in milliseconds; with LogAppendTime the timestamp of all of them.
    pub fn max_timestamp(&self) -> i64 {
        self.i64(at::MAX_TIMESTAMP)
    }

    /// The producer's id, -1 for none.
    pub fn producer_id(&self) -> i64 {
        self.i64(at::PRODUCER_ID)
    }

    /// The producer's epoch, -1 for none.
    pub fn producer_epoch(&self) -> i16 {
        self.i16(at::PRODUCER_EPOCH)
    }

    /// The sequence number of the first record, -1 for none.
    pub fn base_sequence(&self) -> i32 {
        self.i32(at::BASE_SEQUENCE)
    }

    /// How many records the header announces. Zero for a batch that compaction has emptied and that stays to keep its sequence.
    pub fn count(&self) -> u32 {
        // Checked when the batch was made.
        self.i32(at::COUNT) as u32
    }

    /// Whether the batch holds a marker of the broker instead of a user's records.
    pub fn is_control(&self) -> bool {
        self.has(attributes::CONTROL)
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.has(attributes::TRANSACTIONAL)
    }

    /// Whether the broker has replaced the records' timestamps by its own (`message.timestamp.type=LogAppendTime`).
    pub fn is_log_append_time(&self) -> bool {
        self.has(attributes::LOG_APPEND_TIME)
    }

    /// Whether the base timestamp is the time at which tombstones in this batch may go (KIP-534).
    pub fn has_delete_horizon(&self) -> bool {
        self.has(attributes::DELETE_HORIZON)
    }

    /// How the records are compressed.
    ///
    /// # Errors
    /// [`UnsupportedCodec::Unknown`] for a number that Kafka 4.3 does not have.
    pub fn compression(&self) -> Result<Compression, UnsupportedCodec> {
        Compression::from_bits(self.i16(at::ATTRIBUTES) & attributes::CODEC)
    }

    /// Bytes of the whole batch, header included, as they came over the wire.
    #[expect(clippy::len_without_is_empty, reason = "a batch has at least its header")]
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes as they came. (What is cloned or sliced out of them is not counted as [pinned](super::PinnedMemory).)
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Compares the checksum with the bytes (Java's `check.crcs`). 1.4 ns per 100-byte record.
    ///
    /// # Errors
    /// [`BatchError::Crc`] when they differ.
    pub fn verify_crc(&self) -> Result<(), BatchError> {
        let stored = u32::from_be_bytes(field(&self.bytes, at::CRC));
        let computed = crc32c(&self.bytes[at::ATTRIBUTES..]);
        if stored == computed {
            return Ok(());
        }
        Err(BatchError::Crc { base_offset: self.base_offset(), stored, computed })
    }

    /// Decompresses the records if they are compressed, into `scratch` and to at most `limit` bytes, and makes them readable.
    ///
    /// Uncompressed records stay where they are: the batch is a reference to the same bytes.
    ///
    /// # Errors
    /// [`BatchError`] for a codec this build has not got, broken compressed data, too much of it, or a count that cannot be.
    pub fn open(&self, scratch: &mut Scratch, limit: usize) -> Result<Batch, BatchError> {
        let codec = self.compression()?;
        if codec == Compression::None || (self.len() == at::RECORDS && self.count() == 0) {
            let block = self.charge.as_ref().map(|charge| charge.block.clone());
            return Batch::new(self, self.bytes.slice(at::RECORDS..), block);
        }
        // Places in a batch are 32-bit numbers.
        let limit = limit.min(u32::MAX as usize);
        let (records, block) = scratch.decompress(codec, self.base_offset(), &self.bytes[at::RECORDS..], limit)?;
        Batch::new(self, records, block)
    }

    fn has(&self, attribute: i16) -> bool {
        self.i16(at::ATTRIBUTES) & attribute != 0
    }

    fn i16(&self, at: usize) -> i16 {
        i16::from_be_bytes(field(&self.bytes, at))
    }

    fn i32(&self, at: usize) -> i32 {
        i32::from_be_bytes(field(&self.bytes, at))
    }

    fn i64(&self, at: usize) -> i64 {
        i64::from_be_bytes(field(&self.bytes, at))
    }
}

impl fmt::Debug for RawBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawBatch")
            .field("base_offset", &self.base_offset())
            .field("last_offset", &self.last_offset())
            .field("count", &self.count())
            .field("attributes", &self.i16(at::ATTRIBUTES))
            .field("bytes", &Hidden(self.len()))
            .finish_non_exhaustive()
    }
}

/// A field of the header. Whoever holds a batch holds all 61 bytes of it.
#[inline]
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}
