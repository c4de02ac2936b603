//! Record batches (magic 2): the only form in which Kafka stores and ships records since 0.11.
//!
//! # The bytes
//! All integers are big-endian; `varint` is a zig-zag LEB128 of 32 bits, `varlong` of 64.
//!
//! ```text
//! batch    at  0  i64     base offset          the broker's word; a producer writes 0
//!          at  8  i32     batch length         bytes after this field
//!          at 12  i32     partition leader epoch  the broker's word; a producer writes -1
//!          at 16  i8      magic                2
//!          at 17  u32     CRC32C               of everything from `attributes` to the end
//!          at 21  i16     attributes           bits 0-2 codec, 3 LogAppendTime, 4 transactional, 5 control, 6 delete horizon
//!          at 23  i32     last offset delta    last offset = base offset + this, also where compaction took the last record
//!          at 27  i64     base timestamp
//!          at 35  i64     max timestamp
//!          at 43  i64     producer id          -1: not idempotent
//!          at 51  i16     producer epoch
//!          at 53  i32     base sequence
//!          at 57  i32     record count
//!          at 61  records                      compressed as one piece, if at all
//!
//! record   varint  length                      bytes after this field
//!          i8      attributes                  unused
//!          varlong timestamp - base timestamp
//!          varint  offset - base offset
//!          varint  key length                  -1: null
//!          bytes   key
//!          varint  value length                -1: null
//!          bytes   value
//!          varint  header count
//!          header: varint key length, key, varint value length (-1: null), value
//! ```
//! Base offset and leader epoch lie outside the checksum so that a broker can assign them without touching the rest; the producer's
//! stamp lies inside it, so a batch is checksummed when it is stamped.
//!
//! # The journey of a batch
//! [`BatchBuilder::append`] writes each record once, into the buffer that goes to the socket (`builder.rs`); [`BatchBuilder::seal`]
//! completes the header (`sealed.rs`); [`SealedBatch::compress`] is a step of its own, because it may run elsewhere (`compression.rs`,
//! and a file per codec: `gzip.rs`, `snappy.rs`, `lz4.rs`, `zstd.rs`); [`SealedBatch::stamp`] writes producer id, epoch, sequence and checksum, again for a retry under a new epoch;
//! [`SealedBatch::freeze`] shares the bytes with the connection and gets the buffer back afterwards.
//!
//! On the way in, [`split_batch`] cuts a buffer into [`RawBatch`]es by their headers alone (`raw.rs`); the reader's thread checks the
//! CRC, [opens](RawBatch::open) one batch at a time (decompressing it into what `scratch.rs` keeps), and walks its records as views (`reader.rs`). Nothing is allocated for a record.
//! What views keep in memory is counted (`pinned.rs`).
//!
//! Older formats (magic 0 and 1) are refused with a sentence: brokers since 4.0 neither store nor send them.

mod builder;
mod compression;
mod error;
#[cfg(feature = "gzip")]
mod gzip;
#[cfg(feature = "lz4")]
mod lz4;
mod pinned;
mod prefetch;
mod raw;
mod reader;
mod scratch;
mod sealed;
#[cfg(feature = "snappy")]
mod snappy;
mod varint;
#[cfg(feature = "zstd")]
mod zstd;

pub use builder::{BatchBuilder, NoRoom};
pub use compression::{Compression, Compressor, LevelError, UnsupportedCodec};
pub use error::BatchError;
pub use pinned::PinnedMemory;
pub use raw::{RawBatch, split_batch};
pub use reader::{Batch, Control, Cursor, Header, Headers, HeadersIter, Place, RecordView};
pub use scratch::Scratch;
pub use sealed::{FrozenBatch, ProducerStamp, SealedBatch};

pub(crate) use pinned::{Block, Charge};
pub(crate) use raw::{Announced, announced};

/// Bytes of a batch header; the records begin behind it.
pub const BATCH_HEADER_BYTES: usize = 61;

/// Stands for the bytes of keys, values and whole batches in `Debug` output: what users send never shows up in logs.
struct Hidden(usize);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<{} bytes>", self.0)
    }
}

/// Where the fields of a batch header stand. The table above is their meaning.
mod at {
    pub(super) const BASE_OFFSET: usize = 0;
    pub(super) const LENGTH: usize = 8;
    pub(super) const LEADER_EPOCH: usize = 12;
    pub(super) const MAGIC: usize = 16;
    pub(super) const CRC: usize = 17;
    pub(super) const ATTRIBUTES: usize = 21;
    pub(super) const LAST_OFFSET_DELTA: usize = 23;
    pub(super) const BASE_TIMESTAMP: usize = 27;
    pub(super) const MAX_TIMESTAMP: usize = 35;
    pub(super) const PRODUCER_ID: usize = 43;
    pub(super) const PRODUCER_EPOCH: usize = 51;
    pub(super) const BASE_SEQUENCE: usize = 53;
    pub(super) const COUNT: usize = 57;
    pub(super) const RECORDS: usize = super::BATCH_HEADER_BYTES;
    /// The batch length does not count the base offset and itself.
    pub(super) const AFTER_LENGTH: usize = LEADER_EPOCH;
}

/// Bits of the attributes.
mod attributes {
    pub(super) const CODEC: i16 = 0b111;
    pub(super) const LOG_APPEND_TIME: i16 = 1 << 3;
    pub(super) const TRANSACTIONAL: i16 = 1 << 4;
    pub(super) const CONTROL: i16 = 1 << 5;
    pub(super) const DELETE_HORIZON: i16 = 1 << 6;
}

/// The one place that names the implementation of CRC32C (Castagnoli; "ISCSI" in the catalogue of CRCs).
fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}
