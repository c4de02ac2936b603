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
    let Some(mut rest) = input.strip_prefix(MAGIC) else {
        return block(input, out, 0);
    };
    // Java takes every version.
    rest = rest.get(VERSIONS_BYTES..).ok_or(CUT)?;
    let mut at = 0;
    // Fewer bytes than a size are padding to Java, too.
    while let Some((size, after)) = rest.split_first_chunk::<SIZE_BYTES>() {
        if *size == MAGIC[..SIZE_BYTES] {
            // A second stream behind the first: Java's reader goes on with it.
            rest = rest.get(HEADER.len()..).ok_or(CUT)?;
            continue;
        }
        let (compressed, after) = after.split_at_checked(u32::from_be_bytes(*size) as usize).ok_or(CUT)?;
        rest = after;
        at = block(compressed, out, at)?;
    }
    Ok(at)
}

/// Decompresses one raw block to `out[at..]` and returns where it ended.
fn block(compressed: &[u8], out: &mut Output<'_>, at: usize) -> Result<usize, Fault> {
    const BROKEN: Fault = Fault::Broken("a snappy block is broken");
    if compressed.is_empty() {
        return Err(BROKEN);
    }
    let len = raw::decompress_len(compressed).map_err(|_| BROKEN)?;
    // Three bytes stand for 64 at most, so what announces more is broken; that way no memory is taken by its word.
    if len > compressed.len().saturating_mul(22) {
        return Err(BROKEN);
    }
    let end = at.checked_add(len).filter(|end| *end <= out.limit()).ok_or(Fault::TooLarge)?;
    out.ensure(end);
    let written = raw::Decoder::new().decompress(compressed, &mut out.rest(at)[..len]).map_err(|_| BROKEN)?;
    Ok(at + written)
}

const CUT: Fault = Fault::Broken("the snappy framing is cut off");

const MAGIC: &[u8] = b"\x82SNAPPY\0";
const HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
const VERSIONS_BYTES: usize = 8;
const SIZE_BYTES: usize = 4;
const BLOCK_BYTES: usize = 32 * 1024;
