//! Zig-zag varints, as the records inside a batch use them.
//!
//! Written through one slice of exact length: whoever writes has computed the length before (`size_*`), so there is one place to be
//! wrong, and a debug assertion of the builder watches it.

/// Maps small negative numbers to small positive ones: 0, -1, 1, -2 … become 0, 1, 2, 3 …
#[inline]
pub(crate) const fn zigzag32(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

/// [`zigzag32`] for 64 bits.
#[inline]
pub(crate) const fn zigzag64(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Bytes of a signed 32-bit varint: 1 to 5.
#[inline]
pub(crate) const fn size32(value: i32) -> usize {
    // ceil(bits / 7) without a division: (9 × floor(log2) + 73) / 64 is exact for 0 <= log2 < 64.
    let log2 = 31 - (zigzag32(value) | 1).leading_zeros() as usize;
    (9 * log2 + 73) / 64
}

/// Bytes of a signed 64-bit varint: 1 to 10.
#[inline]
pub(crate) const fn size64(value: i64) -> usize {
    let log2 = 63 - (zigzag64(value) | 1).leading_zeros() as usize;
    (9 * log2 + 73) / 64
}

/// Writes a signed varint at `*at`, which moves behind it.
///
/// A plain loop: special cases for one and two bytes, which pay when reading, made the writing of a record a quarter slower.
///
/// # Panics
/// If `out` ends before the varint does.
#[inline]
pub(crate) fn put32(out: &mut [u8], at: &mut usize, value: i32) {
    let mut rest = zigzag32(value);
    while rest >= 0x80 {
        out[*at] = rest as u8 | 0x80;
        *at += 1;
        rest >>= 7;
    }
    out[*at] = rest as u8;
    *at += 1;
}

/// [`put32`] for 64 bits.
///
/// # Panics
/// If `out` ends before the varint does.
#[inline]
pub(crate) fn put64(out: &mut [u8], at: &mut usize, value: i64) {
    let mut rest = zigzag64(value);
    while rest >= 0x80 {
        out[*at] = rest as u8 | 0x80;
        *at += 1;
        rest >>= 7;
    }
    out[*at] = rest as u8;
    *at += 1;
}

/// The zig-zag form of a length; null is -1.
#[inline]
pub(crate) fn zigzag_length(bytes: Option<&[u8]>) -> u64 {
    bytes.map_or(1, |bytes| bytes.len() as u64 * 2)
}

/// Short varints that are put together in a register and written at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Word {
    bits: u64,
    len: usize,
}

impl Word {
    pub(crate) const EMPTY: Self = Self { bits: 0, len: 0 };
    /// A number whose zig-zag form is below this takes one byte or two.
    pub(crate) const LIMIT: u64 = 1 << 14;
    /// As many bytes are written, however few of them count.
    pub(crate) const BYTES: usize = 8;

    /// Adds a number in its zig-zag form, below [`LIMIT`](Self::LIMIT).
    #[inline(always)]
    pub(crate) const fn with(self, zigzag: u64) -> Self {
        if zigzag < 0x80 {
            self.and(Self { bits: zigzag, len: 1 })
        } else {
            self.and(Self { bits: (zigzag & 0x7f) | 0x80 | (zigzag >> 7) << 8, len: 2 })
        }
    }

    /// Adds what was put together before; both have eight bytes at most.
    #[inline(always)]
    pub(crate) const fn and(self, next: Self) -> Self {
        Self { bits: self.bits | next.bits << (8 * self.len), len: self.len + next.len }
    }

    #[inline(always)]
    pub(crate) const fn len(self) -> usize {
        self.len
    }

    /// Writes it at `*at`, which moves behind it; up to eight bytes are written over.
    ///
    /// # Panics
    /// If `out` has no eight bytes left.
    #[inline(always)]
    pub(crate) fn put(self, out: &mut [u8], at: &mut usize) {
        out[*at..*at + Self::BYTES].copy_from_slice(&self.bits.to_le_bytes());
        *at += self.len;
    }
}

/// Reads a signed 32-bit varint at `*at`, which moves behind it; `None` if the bytes end first or the number has more than 32 bits.
#[inline(always)]
pub(crate) fn get32(bytes: &[u8], at: &mut usize) -> Option<i32> {
    let raw = raw32(bytes, at)?;
    Some((raw >> 1) as i32 ^ -((raw & 1) as i32))
}

/// Reads a signed 64-bit varint at `*at`, which moves behind it; `None` if the bytes end first or the number has more than 64 bits.
#[inline(always)]
pub(crate) fn get64(bytes: &[u8], at: &mut usize) -> Option<i64> {
    let raw = match short(bytes, at) {
        Some(raw) => u64::from(raw),
        None => long(bytes, at)?,
    };
    Some((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

/// A length as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// -1.
    Null,
    Bytes(usize),
    /// Below -1.
    Negative,
}

/// Reads a 32-bit varint that is a length, and so is hardly ever negative; `None` if the bytes end first.
#[inline(always)]
pub(crate) fn length(bytes: &[u8], at: &mut usize) -> Option<Length> {
    let raw = raw32(bytes, at)?;
    // Negative numbers are the odd ones; 1 is -1.
    Some(match raw {
        _ if raw & 1 == 0 => Length::Bytes((raw >> 1) as usize),
        1 => Length::Null,
        _ => Length::Negative,
    })
}

#[inline(always)]
fn raw32(bytes: &[u8], at: &mut usize) -> Option<u32> {
    match short(bytes, at) {
        Some(raw) => Some(raw),
        None => u32::try_from(long(bytes, at)?).ok(),
    }
}

/// A varint of one or two bytes as it is written, zig-zag: nearly all there are in a batch.
#[inline(always)]
pub(super) fn short(bytes: &[u8], at: &mut usize) -> Option<u32> {
    let first = u32::from(*bytes.get(*at)?);
    if first < 0x80 {
        *at += 1;
        return Some(first);
    }
    let second = u32::from(*bytes.get(*at + 1)?);
    if second < 0x80 {
        *at += 2;
        return Some(first & 0x7f | second << 7);
    }
    None
}

/// A varint of any length.
#[inline(never)]
fn long(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    let mut shift = 0;
    loop {
        let byte = *bytes.get(*at)?;
        *at += 1;
        // The tenth byte holds the 64th bit and nothing else.
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
        shift += 7;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every power of two and its neighbours, of both signs.
    fn edges() -> impl Iterator<Item = i64> {
        (0..64).flat_map(|bit| [-1i64, 0, 1].map(|d| (1i64 << bit).wrapping_add(d))).flat_map(|v| [v, v.wrapping_neg()])
    }

    #[test]
    fn what_is_written_has_the_computed_length_and_is_read_back() {
        for value in edges() {
            let mut out = [0; 10];
            let mut at = 0;
            put64(&mut out, &mut at, value);
            assert_eq!(at, size64(value), "{value}");
            let mut read = 0;
            assert_eq!(get64(&out[..at], &mut read), Some(value));
            assert_eq!(read, at);
            for cut in 0..at {
                assert_eq!(get64(&out[..cut], &mut 0), None);
            }
            let Ok(value) = i32::try_from(value) else { continue };
            let mut at = 0;
            put32(&mut out, &mut at, value);
            assert_eq!(at, size32(value), "{value}");
            assert_eq!(get32(&out[..at], &mut 0), Some(value));
        }
    }

    #[test]
    fn numbers_that_are_too_long_are_refused() {
        assert_eq!(get32(&[0xff, 0xff, 0xff, 0xff, 0x0f], &mut 0), Some(i32::MIN));
        assert_eq!(get32(&[0xff, 0xff, 0xff, 0xff, 0x1f], &mut 0), None);
        assert_eq!(get32(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0], &mut 0), None);
        assert_eq!(get64(&[0xff; 10], &mut 0), None);
    }
}
