//! Snappy in the framing of Java's library ("xerial"), around the block codec of `snap`.
//!
//! ```text
//! stream  82 "SNAPPY" 00 | u32 version 1 | u32 compatible with 1 | block …
//! block   u32 big-endian size | raw snappy of at most 32 KiB
//! ```
//! Written as Java's `SnappyOutputStream` does. What does not begin with those eight bytes is one raw block of any size, which is how
//! librdkafka writes it. Snappy has no checksum of its own: the CRC32C of the batch is the only one.

use snap::raw;

use super::scratch::{Fault, Output};

/// A hash table of 32 KiB that is used for every block.
pub(super) struct Encoder {
    raw: Box<raw::Encoder>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { raw: Box::new(raw::Encoder::new()) }
    }
}

/// Room that [`Encoder::compress`] wants for `len` bytes.
pub(super) fn worst_case(len: usize) -> usize {
    HEADER.len() + len.div_ceil(BLOCK_BYTES) * (SIZE_BYTES + raw::max_compress_len(BLOCK_BYTES))
}

impl Encoder {
    /// Writes one stream to the front of `out`, which has [`worst_case`] bytes, and returns its length.
    pub(super) fn compress(&mut self, input: &[u8], out: &mut [u8]) -> Option<usize> {
        let mut at = HEADER.len();
        out.get_mut(..at)?.copy_from_slice(&HEADER);
        for block in input.chunks(BLOCK_BYTES) {
            let body = at + SIZE_BYTES;
            let written = self.raw.compress(block, out.get_mut(body..)?).ok()?;
            out[at..body].copy_from_slice(&(written as u32).to_be_bytes());
            at = body + written;
        }
        Some(at)
    }
}

/// Decompresses `input` and returns the bytes written.
pub(super) fn decompress(input: &[u8], out: &mut Output<'_>) -> Result<usize, Fault> {
    let mut len = 0usize;
    for block in Blocks::of(input) {
        len = len.saturating_add(len_of(block?)?);
    }
    if len > out.limit() {
        return Err(Fault::TooLarge);
    }
    out.provide(len);
    let mut at = 0;
    for block in Blocks::of(input) {
        let block = block?;
        let room = &mut out.rest(at)[..len_of(block)?];
        at += raw::Decoder::new().decompress(block, room).map_err(|_| BROKEN)?;
    }
    Ok(at)
}

/// What a raw block announces.
fn len_of(block: &[u8]) -> Result<usize, Fault> {
    match raw::decompress_len(block) {
        // Three bytes stand for 64 at most, so what announces more is broken; that way no memory is taken by its word.
        Ok(len) if !block.is_empty() && len <= block.len().saturating_mul(22) => Ok(len),
        _ => Err(BROKEN),
    }
}

/// The raw blocks of a stream.
struct Blocks<'a> {
    rest: &'a [u8],
    is_framed: bool,
}

impl<'a> Blocks<'a> {
    fn of(input: &'a [u8]) -> Self {
        Self { rest: input, is_framed: input.starts_with(MAGIC) }
    }

    fn framed(&mut self) -> Result<Option<&'a [u8]>, Fault> {
        // One stream may follow another. Java takes every version.
        while self.rest.starts_with(&MAGIC[..SIZE_BYTES]) {
            self.rest = self.rest.get(HEADER.len()..).ok_or(CUT)?;
        }
        // Fewer bytes than a size are padding to Java, too.
        let Some((size, after)) = self.rest.split_first_chunk::<SIZE_BYTES>() else { return Ok(None) };
        let (block, after) = after.split_at_checked(u32::from_be_bytes(*size) as usize).ok_or(CUT)?;
        self.rest = after;
        Ok(Some(block))
    }
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Result<&'a [u8], Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.is_framed {
            // All of it is one block; behind it a stream ends that is framed and empty.
            self.is_framed = true;
            return Some(Ok(std::mem::take(&mut self.rest)));
        }
        self.framed().transpose()
    }
}

const BROKEN: Fault = Fault::Broken("a snappy block is broken");
const CUT: Fault = Fault::Broken("the snappy framing is cut off");

const MAGIC: &[u8] = b"\x82SNAPPY\0";
const HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
const SIZE_BYTES: usize = 4;
const BLOCK_BYTES: usize = 32 * 1024;
