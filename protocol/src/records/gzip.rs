//! gzip: deflate by `zlib-rs`, header and trailer by hand, so that one deflate state serves every batch.
//!
//! ```text
//! member  1f 8b 08 | flags | [u32 time] extra flags, system | [extra] [name] [comment] [u16 header checksum] | deflate | u32 CRC-32 | u32 length
//! ```
//! Written as Java's `GZIPOutputStream` does: no flags, no time, system unknown. Several members are read as one, and bytes behind the
//! last that begin no member are ignored, both as `GZIPInputStream` does. Checksum and length are compared, as there.

use flate2::{Compress, Compression as Level, Crc, Decompress, FlushCompress, FlushDecompress, Status};

use super::scratch::{Fault, Output};

/// The deflate state: 300 KB that are used for every batch.
pub(super) struct Encoder {
    deflate: Compress,
}

/// Room that [`Encoder::compress`] wants for `len` bytes: deflate's worst case, in which every byte becomes nine bits.
///
/// It is not there to save an error: at level 1 zlib-rs 0.6 panics when its output ends before its input.
pub(super) fn worst_case(len: usize) -> usize {
    HEADER.len() + len + len.div_ceil(8) + 64 + TRAILER_BYTES
}

impl Encoder {
    pub(super) fn new(level: u32) -> Self {
        Self { deflate: Compress::new(Level::new(level), false) }
    }

    /// Writes one member to the front of `out`, which has [`worst_case`] bytes, and returns its length.
    pub(super) fn compress(&mut self, input: &[u8], out: &mut [u8]) -> Option<usize> {
        let (header, rest) = out.split_at_mut_checked(HEADER.len())?;
        header.copy_from_slice(&HEADER);
        self.deflate.reset();
        // All input is at hand and there is room for it: one call ends the stream.
        let status = self.deflate.compress(input, rest, FlushCompress::Finish).ok()?;
        if status != Status::StreamEnd {
            return None;
        }
        let written = self.deflate.total_out() as usize;
        let trailer = rest.get_mut(written..written + TRAILER_BYTES)?;
        let mut crc = Crc::new();
        crc.update(input);
        trailer[..4].copy_from_slice(&crc.sum().to_le_bytes());
        trailer[4..].copy_from_slice(&(input.len() as u32).to_le_bytes());
        Some(HEADER.len() + written + TRAILER_BYTES)
    }
}

/// The inflate state: 40 KB that are used for every batch.
pub(super) struct Decoder {
    inflate: Decompress,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { inflate: Decompress::new(false) }
    }
}

impl Decoder {
    /// Decompresses all members of `input` and returns the bytes written.
    pub(super) fn decompress(&mut self, input: &[u8], out: &mut Output<'_>) -> Result<usize, Fault> {
        out.provide(likely_len(input));
        loop {
            match self.members(input, out) {
                // Begun anew in more room: not both the old and the new are held at once.
                Err(Fault::TooLarge) if out.len() < out.limit() => out.provide(out.len().saturating_mul(2)),
                result => return result,
            }
        }
    }

    fn members(&mut self, input: &[u8], out: &mut Output<'_>) -> Result<usize, Fault> {
        let mut rest = input;
        let mut at = 0;
        loop {
            skip_header(&mut rest)?;
            let start = at;
            at = self.inflate(&mut rest, out, start)?;
            let [crc @ .., a, b, c, d] = take::<TRAILER_BYTES>(&mut rest)?;
            let mut sum = Crc::new();
            sum.update(&out.written(at)[start..]);
            if u32::from_le_bytes(crc) != sum.sum() || u32::from_le_bytes([a, b, c, d]) != (at - start) as u32 {
                return Err(Fault::Broken("its gzip checksum or length does not fit what was decompressed"));
            }
            // What begins no further member is padding to Java, too.
            if rest.len() < HEADER.len() + TRAILER_BYTES || skip_header(&mut &*rest).is_err() {
                return Ok(at);
            }
        }
    }

    /// Inflates one deflate stream to `out[at..]` and returns where it ended.
    fn inflate(&mut self, rest: &mut &[u8], out: &mut Output<'_>, mut at: usize) -> Result<usize, Fault> {
        self.inflate.reset(false);
        loop {
            let room = out.rest(at);
            let is_full = room.is_empty();
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(rest, room, FlushDecompress::None);
            let read = (self.inflate.total_in() - before_in) as usize;
            let written = (self.inflate.total_out() - before_out) as usize;
            *rest = rest.get(read..).ok_or(CUT)?;
            at += written;
            match status {
                Ok(Status::StreamEnd) => return Ok(at),
                // A full buffer may still take the end of the stream, which needs no room.
                Ok(_) if read + written > 0 => {}
                Ok(_) if is_full => return Err(Fault::TooLarge),
                Ok(_) => return Err(CUT),
                Err(_) => return Err(Fault::Broken("the deflate stream inside gzip is broken")),
            }
        }
    }
}

/// The length that the last member says it has, as far as that is credible.
fn likely_len(input: &[u8]) -> usize {
    let said = input.last_chunk::<4>().map_or(0, |len| u32::from_le_bytes(*len) as usize);
    let most = input.len().saturating_mul(CREDIBLE_RATIO);
    if (input.len()..=most).contains(&said) { said } else { input.len().saturating_mul(4).max(SMALLEST) }
}

/// Moves behind the header of a member.
fn skip_header(rest: &mut &[u8]) -> Result<(), Fault> {
    let [a, b, method, flags, ..] = take::<{ HEADER.len() }>(rest)?;
    if [a, b] != HEADER[..2] {
        return Err(Fault::Broken("it does not begin like gzip"));
    }
    if method != HEADER[2] || flags & RESERVED != 0 {
        return Err(Fault::Broken("its gzip header has a method or flags that nobody knows"));
    }
    if flags & EXTRA != 0 {
        let len = u16::from_le_bytes(take::<2>(rest)?);
        *rest = rest.get(usize::from(len)..).ok_or(CUT)?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            let end = rest.iter().position(|byte| *byte == 0).ok_or(CUT)?;
            *rest = &rest[end + 1..];
        }
    }
    if flags & HEADER_CHECKSUM != 0 {
        take::<2>(rest)?;
    }
    Ok(())
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Fault> {
    let (bytes, after) = rest.split_first_chunk::<N>().ok_or(CUT)?;
    *rest = after;
    Ok(*bytes)
}

const CUT: Fault = Fault::Broken("the gzip data is cut off");

const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
const TRAILER_BYTES: usize = 8;
const SMALLEST: usize = 16 * 1024;
/// Text becomes four to ten times shorter. What says more is believed when it has come.
const CREDIBLE_RATIO: usize = 16;

// Bits of the header's flags.
const HEADER_CHECKSUM: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0b1110_0000;
