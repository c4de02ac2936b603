//! What decompression uses again and again: the buffer it writes to, and the codecs' tables.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::compression::{Compression, UnsupportedCodec};
use super::error::BatchError;
#[cfg(feature = "gzip")]
use super::gzip;
#[cfg(feature = "lz4")]
use super::lz4;
use super::pinned::{Block, PinnedMemory};
#[cfg(feature = "snappy")]
use super::snappy;
#[cfg(feature = "zstd")]
use super::zstd;

/// The buffer that batches are decompressed into.
///
/// It is counted: a batch that is opened shares it, and when that batch and everything sliced out of it are gone, the next batch gets
/// the same memory, still warm and still initialised (no allocation, no zeroing). While somebody keeps a slice, the next batch
/// gets memory of its own and the old one is [pinned](Self::pinned).
#[derive(Default)]
pub struct Scratch {
    /// The whole buffer, initialised to its end.
    ///
    /// It is made through `BytesMut::split_off`, whose counted form is kept when bytes are frozen and taken back; then
    /// `try_into_mut` neither allocates nor copies. A test holds that.
    whole: Bytes,
    pinned: u64,
    /// Who counts what is kept, and the buffer as it is counted.
    memory: Option<Arc<PinnedMemory>>,
    block: Option<Arc<Block>>,
    decoders: Decoders,
}

/// The tables of codecs that have any, made when the first batch of their codec comes.
#[derive(Default)]
struct Decoders {
    #[cfg(feature = "gzip")]
    gzip: Option<gzip::Decoder>,
    #[cfg(feature = "zstd")]
    zstd: Option<zstd::Decoder>,
}

impl Scratch {
    /// An empty one; it grows with the batches it is used for.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty one; buffers that are left to those who keep slices of them are counted there for as long as they are kept.
    pub fn counting(memory: Arc<PinnedMemory>) -> Self {
        Self { memory: Some(memory), ..Self::default() }
    }

    /// Bytes of the buffer at present.
    pub fn capacity(&self) -> usize {
        self.whole.len()
    }

    /// How many bytes of former buffers were left to those who still held slices of them, in all.
    pub fn pinned(&self) -> u64 {
        self.pinned
    }

    /// Decompresses the records of a batch to at most `limit` bytes.
    pub(super) fn decompress(
        &mut self,
        codec: Compression,
        base_offset: i64,
        input: &[u8],
        limit: usize,
    ) -> Result<(Bytes, Option<Arc<Block>>), BatchError> {
        codec.supported()?;
        let mut buf = match std::mem::take(&mut self.whole).try_into_mut() {
            Ok(buf) => buf,
            Err(kept) => {
                self.pinned += kept.len() as u64;
                if let Some(block) = self.block.take() {
                    block.seal(kept.len());
                }
                BytesMut::new()
            }
        };
        let result = self.decoders.run(codec, input, &mut Output { buf: &mut buf, limit });
        self.whole = counted(buf);
        match result {
            Ok(len) => {
                if self.block.is_none() {
                    self.block = self.memory.as_ref().map(Block::open);
                }
                Ok((self.whole.slice(..len), self.block.clone()))
            }
            Err(Fault::TooLarge) => Err(BatchError::TooLarge { base_offset, limit }),
            Err(Fault::Broken(reason)) => Err(BatchError::Decompress { codec: codec.name(), base_offset, reason }),
            Err(Fault::NoCodec) => Err(UnsupportedCodec::Feature { codec }.into()),
        }
    }
}

impl Decoders {
    #[cfg_attr(
        not(any(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")),
        expect(unused_variables, clippy::unused_self, reason = "without a codec there is nothing to do")
    )]
    fn run(&mut self, codec: Compression, input: &[u8], out: &mut Output<'_>) -> Result<usize, Fault> {
        match codec {
            #[cfg(feature = "gzip")]
            Compression::Gzip => self.gzip.get_or_insert_default().decompress(input, out),
            #[cfg(feature = "snappy")]
            Compression::Snappy => snappy::decompress(input, out),
            #[cfg(feature = "lz4")]
            Compression::Lz4 => lz4::decompress(input, out),
            #[cfg(feature = "zstd")]
            Compression::Zstd => self.zstd.get_or_insert_default().decompress(input, out),
            _ => Err(Fault::NoCodec),
        }
    }
}

/// Freezes a buffer so that it can be taken back without an allocation.
fn counted(mut buf: BytesMut) -> Bytes {
    // Splitting off the empty tail makes the buffer counted, if it is not yet; the tail is dropped at once.
    drop(buf.split_off(buf.len()));
    buf.freeze()
}

/// Why records cannot be decompressed.
#[cfg_attr(
    not(any(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")),
    expect(dead_code, reason = "without a codec nothing is decompressed")
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    TooLarge,
    Broken(&'static str),
    NoCodec,
}

/// An initialised buffer with an upper limit. It may be longer than the limit, from an earlier use.
pub(super) struct Output<'a> {
    buf: &'a mut BytesMut,
    limit: usize,
}

#[cfg_attr(
    not(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")),
    expect(dead_code, reason = "every codec uses its part")
)]
impl Output<'_> {
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that may be written as it is.
    pub(super) fn len(&self) -> usize {
        self.buf.len().min(self.limit)
    }

    /// Makes the buffer at least `min(len, limit)` bytes long. What was in it is lost: the old memory goes before the new comes, so that
    /// never more than the limit is held.
    pub(super) fn provide(&mut self, len: usize) {
        let len = len.min(self.limit);
        if self.buf.len() < len {
            *self.buf = BytesMut::new();
            *self.buf = BytesMut::zeroed(len);
        }
    }

    /// The first `len` bytes, which have been written.
    pub(super) fn written(&self, len: usize) -> &[u8] {
        &self.buf[..len]
    }

    /// What may be written from `at` on.
    pub(super) fn rest(&mut self, at: usize) -> &mut [u8] {
        let end = self.len();
        &mut self.buf[at..end]
    }

    /// The first `at` bytes, which have been written, and what may be written behind them, up to `end`.
    pub(super) fn split(&mut self, at: usize, end: usize) -> (&mut [u8], &mut [u8]) {
        self.buf[..end].split_at_mut(at)
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch")
            .field("capacity", &self.capacity())
            .field("pinned", &self.pinned)
            .finish_non_exhaustive()
    }
}
