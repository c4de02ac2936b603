//! The primitive types of requests and responses, written to a growing buffer and read without believing a length.
//!
//! Flexible versions (KIP-482) write lengths and counts as unsigned varints, one too high so that 0 is null, and end every structure
//! with tagged fields; older ones write them as `i16` (strings) or `i32` (arrays, bytes), -1 for null.

use bytes::{BufMut, BytesMut};
use uuid::Uuid;

/// Why a value could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Its bytes have not arrived yet.
    More,
    /// They can never arrive, or are not what they should be.
    Broken(&'static str),
}

/// Reads values off the front of `bytes`, behind which `coming` more bytes belong to the same message.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    coming: usize,
    flexible: bool,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], coming: usize, flexible: bool) -> Self {
        Self { bytes, at: 0, coming, flexible }
    }

    /// Bytes read so far.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Bytes of the message that lie ahead, arrived or not.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.at + self.coming
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Stop> {
        if len > self.left() {
            return Err(CUT);
        }
        let bytes = self.bytes.get(self.at..self.at + len).ok_or(Stop::More)?;
        self.at += len;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn i16(&mut self) -> Result<i16, Stop> {
        self.array().map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Stop> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Stop> {
        self.array().map(i64::from_be_bytes)
    }

    pub(crate) fn uuid(&mut self) -> Result<Uuid, Stop> {
        self.array().map(Uuid::from_bytes)
    }

    pub(crate) fn uvarint(&mut self) -> Result<u32, Stop> {
        let mut value = 0;
        for shift in (0..32).step_by(7) {
            let [byte] = self.array()?;
            // The fifth byte holds the upper four bits and nothing else.
            if shift == 28 && byte > 0x0f {
                break;
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Stop::Broken("a number has more than 32 bits"))
    }

    /// The length of nullable bytes; they follow.
    pub(crate) fn bytes_len(&mut self) -> Result<Option<usize>, Stop> {
        self.length(Self::i32)
    }

    /// The length of a nullable string; its bytes follow.
    pub(crate) fn string_len(&mut self) -> Result<Option<usize>, Stop> {
        self.length(|reader| reader.i16().map(i32::from))
    }

    /// The count of a nullable array, of which every element takes at least `min_bytes`.
    pub(crate) fn nullable_count(&mut self, min_bytes: usize) -> Result<Option<usize>, Stop> {
        let count = self.length(Self::i32)?;
        if count.unwrap_or(0) > self.left() / min_bytes {
            return Err(Stop::Broken("an array announces more elements than its message can hold"));
        }
        Ok(count)
    }

    /// The count of an array, of which every element takes at least `min_bytes`.
    pub(crate) fn count(&mut self, min_bytes: usize) -> Result<usize, Stop> {
        self.nullable_count(min_bytes)?.ok_or(Stop::Broken("an array is null"))
    }

    pub(crate) fn nullable_string(&mut self) -> Result<Option<&'a str>, Stop> {
        let Some(len) = self.string_len()? else { return Ok(None) };
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map(Some).map_err(|_| Stop::Broken("a string is not UTF-8"))
    }

    pub(crate) fn string(&mut self) -> Result<&'a str, Stop> {
        self.nullable_string()?.ok_or(Stop::Broken("a string is null"))
    }

    /// The tagged fields at the end of a structure, in flexible versions: each is given to `read` with a reader of its own bytes.
    pub(crate) fn tags(&mut self, mut read: impl FnMut(u32, &mut Self) -> Result<(), Stop>) -> Result<(), Stop> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.uvarint()? {
            let (tag, len) = self.tag()?;
            read(tag, &mut Self::new(self.take(len)?, 0, self.flexible))?;
        }
        Ok(())
    }

    /// Tagged fields of which none is known.
    pub(crate) fn skip_tags(&mut self) -> Result<(), Stop> {
        self.tags(|_, _| Ok(()))
    }

    /// The number of a tagged field, and the length of its bytes, which follow.
    pub(crate) fn tag(&mut self) -> Result<(u32, usize), Stop> {
        let tag = self.uvarint()?;
        let len = self.uvarint()? as usize;
        if len > self.left() { Err(CUT) } else { Ok((tag, len)) }
    }

    fn length(&mut self, plain: impl FnOnce(&mut Self) -> Result<i32, Stop>) -> Result<Option<usize>, Stop> {
        let len = if self.flexible { i64::from(self.uvarint()?) - 1 } else { i64::from(plain(self)?) };
        if len == -1 {
            return Ok(None);
        }
        usize::try_from(len).map(Some).map_err(|_| Stop::Broken("a length is negative"))
    }
}

const CUT: Stop = Stop::Broken("a field is longer than the rest of its message");

/// Writes values behind one another.
pub(crate) struct Writer {
    buf: BytesMut,
    flexible: bool,
}

impl Writer {
    pub(crate) fn new(capacity: usize, flexible: bool) -> Self {
        Self { buf: BytesMut::with_capacity(capacity), flexible }
    }

    /// What has been written since the beginning or the last `split`.
    pub(crate) fn split(&mut self) -> bytes::Bytes {
        self.buf.split().freeze()
    }

    pub(crate) fn i8(&mut self, value: i8) {
        self.buf.put_i8(value);
    }

    pub(crate) fn i16(&mut self, value: i16) {
        self.buf.put_i16(value);
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.buf.put_i32(value);
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.buf.put_i64(value);
    }

    pub(crate) fn uuid(&mut self, value: Uuid) {
        self.buf.put_slice(value.as_bytes());
    }

    pub(crate) fn uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.buf.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.buf.put_u8(value as u8);
    }

    /// The length of bytes, or the count of an array, that follow. Requests are limited to 2^31 bytes: nothing is cut off here.
    pub(crate) fn count(&mut self, len: usize) {
        if self.flexible {
            self.uvarint(len as u32 + 1);
        } else {
            self.i32(len as i32);
        }
    }

    pub(crate) fn nullable_string(&mut self, value: Option<&str>) {
        match (value, self.flexible) {
            (Some(value), true) => self.uvarint(value.len() as u32 + 1),
            (Some(value), false) => self.i16(value.len() as i16),
            (None, true) => self.uvarint(0),
            (None, false) => self.i16(-1),
        }
        self.buf.put_slice(value.unwrap_or_default().as_bytes());
    }

    pub(crate) fn string(&mut self, value: &str) {
        self.nullable_string(Some(value));
    }

    /// The end of a structure without tagged fields.
    pub(crate) fn end(&mut self) {
        if self.flexible {
            self.buf.put_u8(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_has_not_arrived_is_waited_for_and_one_that_never_can_is_an_error() {
        assert_eq!(Reader::new(&[0, 0], 2, false).i32(), Err(Stop::More));
        assert_eq!(Reader::new(&[0, 0], 1, false).i32(), Err(CUT));
        assert_eq!(Reader::new(&[0, 5, b'a'], 4, false).string(), Err(Stop::More));
        assert_eq!(Reader::new(&[0, 5, b'a'], 3, false).string(), Err(CUT));
    }

    #[test]
    fn lengths_and_counts_are_checked_against_the_rest_of_the_message() {
        assert!(matches!(Reader::new(&[0x7f, 0xff, 0xff, 0xff], 100, false).count(1), Err(Stop::Broken(_))));
        assert!(matches!(Reader::new(&[0xff, 0xff, 0xff, 0xfe], 100, false).bytes_len(), Err(Stop::Broken(_))));
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff], 100, false).bytes_len(), Ok(None));
        assert_eq!(Reader::new(&[0], 0, true).bytes_len(), Ok(None));
        assert_eq!(Reader::new(&[3], 20, true).count(10), Ok(2));
        assert!(Reader::new(&[3], 19, true).count(10).is_err());
    }

    #[test]
    fn unsigned_varints_have_at_most_32_bits() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u32::MAX] {
            let mut writer = Writer::new(8, true);
            writer.uvarint(value);
            assert_eq!(Reader::new(&writer.split(), 0, true).uvarint(), Ok(value));
        }
        assert!(matches!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x1f], 0, true).uvarint(), Err(Stop::Broken(_))));
        assert!(matches!(Reader::new(&[0xff; 9], 0, true).uvarint(), Err(Stop::Broken(_))));
    }
}
