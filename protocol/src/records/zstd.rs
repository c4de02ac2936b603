//! Zstandard frames, by `structured-zstd`.
//!
//! ```text
//! frame   28 b5 2f fd | descriptor | [window] | [dictionary] | [content size] | block … | [u32 checksum]
//! block   u24 little-endian: bit 0 last, bits 1-2 kind, the rest size | bytes
//! skipped 5x 2a 4d 18 | u32 size | bytes
//! ```
//! Java writes frames without their content size, librdkafka and we with it. The decoder writes straight into the batch's buffer, whose
//! bytes are its window, so the window that a frame asks for costs nothing. How large that buffer must be is added up from the
//! headers of the blocks: 128 KiB each at most, and a block that stores its bytes as they are has as many as it says.

use std::cell::RefCell;

use structured_zstd::decoding::errors::FrameDecoderError;
use structured_zstd::decoding::{ContentChecksum, FrameDecoder};
use structured_zstd::encoding::{CompressionLevel, FrameCompressor};

use super::scratch::{Fault, Output};

/// A level, and the buffer for a frame, which is used for every batch.
///
/// The match tables (some hundred KiB) belong to the thread that compresses: the crate's context may hold a caller's own parser, and so
/// cannot be sent to another one.
pub(super) struct Encoder {
    level: i32,
    frame: Vec<u8>,
}

/// A context and the level that it was made for.
type Context = (i32, Box<FrameCompressor>);

thread_local! {
    static CONTEXTS: RefCell<Vec<Context>> = const { RefCell::new(Vec::new()) };
}

impl Encoder {
    pub(super) fn new(level: i32) -> Self {
        Self { level, frame: Vec::new() }
    }

    /// Writes one frame to the front of `out` and returns its length; `None` if it does not fit.
    pub(super) fn compress(&mut self, input: &[u8], out: &mut [u8]) -> Option<usize> {
        CONTEXTS.with_borrow_mut(|contexts| {
            let at = contexts.iter().position(|(level, _)| *level == self.level).unwrap_or_else(|| {
                let context = FrameCompressor::new(CompressionLevel::from_level(self.level));
                contexts.push((self.level, Box::new(context)));
                contexts.len() - 1
            });
            contexts[at].1.compress_independent_frame_into(input, &mut self.frame);
        });
        out.get_mut(..self.frame.len())?.copy_from_slice(&self.frame);
        Some(self.frame.len())
    }
}

/// Entropy tables, used for every batch.
pub(super) struct Decoder {
    context: Box<FrameDecoder>,
}

impl Default for Decoder {
    fn default() -> Self {
        let mut context = Box::new(FrameDecoder::new());
        // Where a frame has a checksum it is compared, as Java does.
        context.set_content_checksum(ContentChecksum::Verify);
        Self { context }
    }
}

impl Decoder {
    /// Decompresses all frames of `input` and returns the bytes written.
    pub(super) fn decompress(&mut self, input: &[u8], out: &mut Output<'_>) -> Result<usize, Fault> {
        let (Size { least, most }, input) = size_of_frames(input)?;
        if least > out.limit() {
            return Err(Fault::TooLarge);
        }
        let end = most.min(out.limit());
        out.provide(end);
        match self.context.decode_all(input, &mut out.rest(0)[..end]) {
            Ok(written) => Ok(written),
            Err(FrameDecoderError::TargetTooSmall) if most > end => Err(Fault::TooLarge),
            Err(FrameDecoderError::ChecksumMismatch { .. }) => {
                Err(Fault::Broken("the checksum of a zstd frame does not fit what was decompressed"))
            }
            Err(_) => Err(Fault::Broken("a zstd block is broken")),
        }
    }
}

/// Between which bounds the content of some frames lies.
struct Size {
    least: usize,
    most: usize,
}

/// Walks over frames and blocks by their headers alone; returns what they can hold, and the bytes that they are.
///
/// A frame behind the first that is cut off is left away, as Java's reader does: it stops before it has anything of it.
fn size_of_frames(input: &[u8]) -> Result<(Size, &[u8]), Fault> {
    let mut rest = input;
    let mut size = Size { least: 0, most: 0 };
    while !rest.is_empty() {
        let whole = &input[..input.len() - rest.len()];
        match size_of_frame(&mut rest) {
            Ok(frame) => {
                size.least = size.least.saturating_add(frame.least);
                size.most = size.most.saturating_add(frame.most);
            }
            Err(CUT) if !whole.is_empty() => return Ok((size, whole)),
            Err(fault) => return Err(fault),
        }
    }
    Ok((size, input))
}

fn size_of_frame(rest: &mut &[u8]) -> Result<Size, Fault> {
    // A wrong magic is one also where it is cut off.
    let known = rest.len().min(4);
    let is_skipped = known > 0 && rest[0] & 0xf0 == SKIPPED[0] && rest[1..known] == SKIPPED[1..known];
    if !is_skipped && rest[..known] != MAGIC[..known] {
        return Err(Fault::Broken("it does not begin like a zstd frame"));
    }
    take::<4>(rest)?;
    if is_skipped {
        let len = u32::from_le_bytes(take::<4>(rest)?) as usize;
        *rest = rest.get(len..).ok_or(CUT)?;
        return Ok(Size { least: 0, most: 0 });
    }
    let [descriptor] = take::<1>(rest)?;
    let is_single_segment = descriptor & SINGLE_SEGMENT != 0;
    let window = if is_single_segment {
        None
    } else {
        let [window] = take::<1>(rest)?;
        let base = 1u64 << (10 + (window >> 3));
        Some(base + base / 8 * u64::from(window & 7))
    };
    if descriptor & DICTIONARY != 0 {
        return Err(Fault::Broken("a zstd frame needs a dictionary"));
    }
    let content = match descriptor >> 6 {
        0 if is_single_segment => Some(u64::from(take::<1>(rest)?[0])),
        0 => None,
        1 => Some(u64::from(u16::from_le_bytes(take(rest)?)) + 256),
        2 => Some(u64::from(u32::from_le_bytes(take(rest)?))),
        _ => Some(u64::from_le_bytes(take(rest)?)),
    };
    let most_of_block = window.or(content).unwrap_or(MAX_BLOCK).min(MAX_BLOCK) as usize;

    let mut most = 0usize;
    loop {
        let [a, b, c] = take::<3>(rest)?;
        let header = u32::from_le_bytes([a, b, c, 0]);
        let size = (header >> 3) as usize;
        let (stored, content) = match header >> 1 & 3 {
            0 => (size, size),
            1 => (1, size),
            2 => (size, most_of_block),
            _ => return Err(Fault::Broken("a zstd block is of an unknown kind")),
        };
        if size > MAX_BLOCK as usize {
            return Err(Fault::Broken("a zstd block is longer than any may be"));
        }
        *rest = rest.get(stored..).ok_or(CUT)?;
        most = most.saturating_add(content);
        if header & 1 != 0 {
            break;
        }
    }
    if descriptor & CHECKSUM != 0 {
        take::<4>(rest)?;
    }
    match content {
        None => Ok(Size { least: 0, most }),
        Some(content) if content <= most as u64 => Ok(Size { least: content as usize, most: content as usize }),
        Some(_) => Err(Fault::Broken("a zstd frame announces more than its blocks can hold")),
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Fault> {
    let (bytes, after) = rest.split_first_chunk::<N>().ok_or(CUT)?;
    *rest = after;
    Ok(*bytes)
}

const CUT: Fault = Fault::Broken("the zstd frame is cut off");

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The first of the 16 that begin a frame to be skipped.
const SKIPPED: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
/// RFC 8878, 3.1.1.2.
const MAX_BLOCK: u64 = 128 * 1024;

// Bits of the frame's descriptor.
const DICTIONARY: u8 = 0b11;
const CHECKSUM: u8 = 1 << 2;
const SINGLE_SEGMENT: u8 = 1 << 5;
