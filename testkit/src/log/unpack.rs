//! Compressed records as a broker unpacks them.
//!
//! Not the client's own decoders, but streams, as Java's are, and what Kafka takes and refuses was tried (`tests/portable.txt`). Such a
//! stream may break behind the last record, which is another error than one that breaks before it: so what came before it is kept.

use std::io::{self, ErrorKind, Read};

/// No batch of a test unpacks to more: a decompression bomb ends here.
pub(super) const MOST: u64 = 256 << 20;

/// What came out of a stream, and why it ended before its time.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    pub(super) records: Vec<u8>,
    pub(super) broken: Option<io::Error>,
}

impl Unpacked {
    /// Adds what a stream gives, and says whether it may go on behind it.
    fn read(&mut self, stream: impl Read) -> bool {
        let room = (MOST + 1).saturating_sub(self.records.len() as u64);
        let read = stream.take(room).read_to_end(&mut self.records);
        self.broken = read.err();
        self.broken.is_none() && self.records.len() as u64 <= MOST
    }

    fn end(mut self, error: impl Into<io::Error>) -> Self {
        self.broken = Some(error.into());
        self
    }
}

/// Members behind one another. What begins none, or is too short for one, is padding.
pub(super) fn gzip(body: &[u8]) -> Unpacked {
    const SMALLEST_MEMBER: usize = 18;
    let mut unpacked = Unpacked::default();
    let mut rest = body;
    while unpacked.read(flate2::bufread::GzDecoder::new(&mut rest)) {
        if rest.len() < SMALLEST_MEMBER || !rest.starts_with(&[0x1f, 0x8b, 8]) {
            break;
        }
    }
    unpacked
}

/// The blocks of Java's framing, or one block without it. Nobody looks at the version.
pub(super) fn snappy(body: &[u8]) -> Unpacked {
    const MAGIC: &[u8] = b"\x82SNAPPY\0";
    const HEADER: usize = 16;
    let mut unpacked = Unpacked::default();
    if !body.starts_with(MAGIC) {
        match snappy_block(body) {
            Ok(block) => unpacked.records = block,
            Err(e) => unpacked.broken = Some(e),
        }
        return unpacked;
    }
    let mut rest = body;
    while unpacked.records.len() as u64 <= MOST {
        if rest.starts_with(MAGIC) {
            let Some(after) = rest.get(HEADER..) else { return unpacked.end(ErrorKind::UnexpectedEof) };
            rest = after;
        }
        let Some((size, after)) = rest.split_first_chunk::<4>() else { break };
        let Some((block, after)) = after.split_at_checked(u32::from_be_bytes(*size) as usize) else {
            return unpacked.end(ErrorKind::UnexpectedEof);
        };
        match snappy_block(block) {
            Ok(block) => unpacked.records.extend_from_slice(&block),
            Err(e) => return unpacked.end(e),
        }
        rest = after;
    }
    unpacked
}

fn snappy_block(block: &[u8]) -> io::Result<Vec<u8>> {
    // A block is as long as its first bytes say; three bytes can stand for 64 at most.
    if block.is_empty() || snap::raw::decompress_len(block)? > block.len().saturating_mul(22) {
        return Err(ErrorKind::InvalidData.into());
    }
    Ok(snap::raw::Decoder::new().decompress_vec(block)?)
}

/// One frame, whose blocks may not depend on one another. Nobody looks at what is behind it.
pub(super) fn lz4(body: &[u8]) -> Unpacked {
    let mut unpacked = Unpacked::default();
    match lz4_frame(body) {
        Some(frame) => {
            unpacked.read(lz4_flex::frame::FrameDecoder::new(frame));
            unpacked
        }
        None => unpacked.end(io::Error::other("it is no whole frame of independent blocks")),
    }
}

/// The first frame of `body`: the decoder itself does not mind if its end is missing.
fn lz4_frame(body: &[u8]) -> Option<&[u8]> {
    let flags = *body.get(4)?;
    let has = |bit: u8| usize::from(flags >> bit & 1);
    if has(5) == 0 {
        return None;
    }
    // Magic, flags, block size, header checksum; content size; dictionary.
    let mut at = 7 + 8 * has(3) + 4 * has(0);
    loop {
        let size = u32::from_le_bytes(body.get(at..at + 4)?.try_into().ok()?) & 0x7fff_ffff;
        at += 4;
        if size == 0 {
            return body.get(..at + 4 * has(2));
        }
        at += size as usize + 4 * has(4);
    }
}

/// Frames behind one another. One that is cut off behind a whole one does no harm if no record is in it.
pub(super) fn zstd(body: &[u8]) -> Unpacked {
    let mut unpacked = Unpacked::default();
    let mut rest = body;
    while !rest.is_empty() {
        let is_first = rest.len() == body.len();
        let len = match structured_zstd::decoding::find_frame_compressed_size(rest) {
            Ok(len) => len,
            Err(structured_zstd::decoding::FrameSizeError::Truncated) if !is_first => break,
            Err(e) => return unpacked.end(io::Error::other(format!("{e:?}"))),
        };
        let (frame, after) = rest.split_at(len);
        rest = after;
        if !is_skipped(frame) && !unpacked.read(structured_zstd::decoding::StreamingDecoder::new(frame)) {
            break;
        }
    }
    unpacked
}

fn is_skipped(frame: &[u8]) -> bool {
    matches!(frame, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}
