//! LZ4 frames around the block codec of `lz4_flex`.
//!
//! ```text
//! frame   04 22 4d 18 magic | flags | block size | [u64 content size] | [u32 dictionary] | header checksum | block … | 00000000 | [u32 content checksum]
//! block   u32 little-endian size, highest bit set: stored as it is | bytes | [u32 block checksum]
//! ```
//! Written as Java does: independent blocks of 64 KiB, no checksums, no content size (`04 22 4d 18 60 40 82`). Java refuses frames
//! whose blocks depend on one another; reading takes them too.
//!
//! The frame is our own code because that of `lz4_flex` allocates per batch and copies once more on the way in and out. Its xxHash
//! checksums are skipped, not checked: the CRC32C of the batch covers the same bytes.

use lz4_flex::block;

use super::scratch::{Fault, Output};

/// Hash tables that are used for every block: 8 KiB for blocks shorter than 64 KiB, 16 KiB for whole ones.
#[derive(Default)]
pub(super) struct Encoder {
    small: Option<block::CompressTable>,
    large: Option<block::CompressTable>,
}

/// Room that [`Encoder::compress`] wants for `len` bytes.
pub(super) fn worst_case(len: usize) -> usize {
    let blocks = len.div_ceil(BLOCK_BYTES);
    // Every block but the one being compressed is at most as long as its input, since it is stored when it would be longer.
    let longest = len.min(BLOCK_BYTES);
    let while_compressed = block::get_maximum_output_size(longest) - longest;
    FRAME_HEADER.len() + len + blocks * BLOCK_HEADER_BYTES + while_compressed + END_BYTES
}

impl Encoder {
    /// Writes one frame to the front of `out`, which has [`worst_case`] bytes, and returns its length.
    pub(super) fn compress(&mut self, input: &[u8], out: &mut [u8]) -> Option<usize> {
        let mut at = FRAME_HEADER.len();
        out.get_mut(..at)?.copy_from_slice(&FRAME_HEADER);
        for chunk in input.chunks(BLOCK_BYTES) {
            // The small table cannot take a whole block, and clearing the large one costs short blocks twice as much.
            let table = if chunk.len() < usize::from(u16::MAX) {
                self.small.get_or_insert_with(block::CompressTable::small)
            } else {
                self.large.get_or_insert_with(block::CompressTable::large)
            };
            let body = at + BLOCK_HEADER_BYTES;
            let written = block::compress_into_with_table(chunk, out.get_mut(body..)?, table).ok()?;
            let (written, header) = if written < chunk.len() {
                (written, written as u32)
            } else {
                out.get_mut(body..body + chunk.len())?.copy_from_slice(chunk);
                (chunk.len(), chunk.len() as u32 | STORED)
            };
            out[at..body].copy_from_slice(&header.to_le_bytes());
            at = body + written;
        }
        out.get_mut(at..at + END_BYTES)?.fill(0);
        Some(at + END_BYTES)
    }
}

/// Decompresses the frame that `input` begins with and returns the bytes written. What stands behind it is ignored, as Java does.
pub(super) fn decompress(input: &[u8], out: &mut Output<'_>) -> Result<usize, Fault> {
    let (blocks, is_linked) = Blocks::of(input)?;
    let mut most = 0usize;
    for block in blocks.clone() {
        most = most.saturating_add(block?.most);
    }
    out.provide(most);

    let mut at = 0;
    for block in blocks {
        let Block { bytes, is_stored, most } = block?;
        let end = (at + most).min(out.limit());
        if is_stored {
            out.rest(at).get_mut(..most).ok_or(Fault::TooLarge)?.copy_from_slice(bytes);
            at += most;
            continue;
        }
        let (done, free) = out.split(at, end);
        let result = if is_linked {
            block::decompress_into_with_dict(bytes, free, &done[at.saturating_sub(WINDOW_BYTES)..])
        } else {
            block::decompress_into(bytes, free)
        };
        at += match result {
            Ok(written) => written,
            Err(block::DecompressError::OutputTooSmall { .. }) if end == out.limit() => return Err(Fault::TooLarge),
            Err(_) => return Err(Fault::Broken("an LZ4 block is broken")),
        };
    }
    Ok(at)
}

/// A block of a frame.
struct Block<'a> {
    bytes: &'a [u8],
    is_stored: bool,
    /// The most bytes that it can stand for.
    most: usize,
}

/// The blocks of a frame, up to its end mark.
#[derive(Clone)]
struct Blocks<'a> {
    rest: &'a [u8],
    max_block: usize,
    flags: u8,
    is_done: bool,
}

impl<'a> Blocks<'a> {
    /// Reads the header of a frame; returns its blocks, and whether they depend on one another.
    fn of(input: &'a [u8]) -> Result<(Self, bool), Fault> {
        let rest = &mut &*input;
        let [magic @ .., flags, block_size] = take::<6>(rest)?;
        if magic != FRAME_HEADER[..4] {
            return Err(Fault::Broken("it does not begin like an LZ4 frame"));
        }
        if flags >> 6 != 1 {
            return Err(Fault::Broken("the LZ4 frame has an unknown version"));
        }
        let max_block = match block_size >> 4 & 7 {
            code @ 4..=7 => 1usize << (8 + 2 * code),
            _ => return Err(Fault::Broken("the LZ4 frame has an unknown block size")),
        };
        if flags & CONTENT_SIZE != 0 {
            take::<8>(rest)?;
        }
        if flags & DICTIONARY != 0 {
            return Err(Fault::Broken("the LZ4 frame needs a dictionary"));
        }
        take::<1>(rest)?;
        Ok((Self { rest, max_block, flags, is_done: false }, flags & INDEPENDENT == 0))
    }

    fn block(&mut self) -> Result<Option<Block<'a>>, Fault> {
        let header = u32::from_le_bytes(take::<4>(&mut self.rest)?);
        if header == 0 {
            if self.flags & CONTENT_CHECKSUM != 0 {
                take::<4>(&mut self.rest)?;
            }
            return Ok(None);
        }
        let is_stored = header & STORED != 0;
        let len = (header & !STORED) as usize;
        let (bytes, after) = self.rest.split_at_checked(len).ok_or(CUT)?;
        self.rest = after;
        if self.flags & BLOCK_CHECKSUM != 0 {
            take::<4>(&mut self.rest)?;
        }
        if is_stored && len > self.max_block {
            return Err(Fault::Broken("an LZ4 block is longer than its frame allows"));
        }
        // A byte of LZ4 stands for 255 bytes at most: a short block cannot ask for the whole block size.
        let most = if is_stored { len } else { self.max_block.min(len.saturating_mul(255).saturating_add(64)) };
        Ok(Some(Block { bytes, is_stored, most }))
    }
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Result<Block<'a>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let block = self.block();
        self.is_done = !matches!(block, Ok(Some(_)));
        block.transpose()
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Fault> {
    let (bytes, after) = rest.split_first_chunk::<N>().ok_or(CUT)?;
    *rest = after;
    Ok(*bytes)
}

const CUT: Fault = Fault::Broken("the LZ4 frame is cut off");

const FRAME_HEADER: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
const BLOCK_BYTES: usize = 64 * 1024;
const BLOCK_HEADER_BYTES: usize = 4;
const END_BYTES: usize = 4;
/// How far back a block that depends on earlier ones may reach.
const WINDOW_BYTES: usize = 64 * 1024;
const STORED: u32 = 1 << 31;

// Bits of the frame's flags.
const DICTIONARY: u8 = 1;
const CONTENT_CHECKSUM: u8 = 1 << 2;
const CONTENT_SIZE: u8 = 1 << 3;
const BLOCK_CHECKSUM: u8 = 1 << 4;
const INDEPENDENT: u8 = 1 << 5;
