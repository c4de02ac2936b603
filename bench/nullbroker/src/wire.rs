//! The primitive types of Kafka's protocol, read from a frame and written to an answer, in plain and in compact form.

/// Reads a frame from front to back; `None` where it ends too early.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// Lengths are unsigned varints plus one, and tags follow structures.
    compact: bool,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(frame: &'a [u8]) -> Self {
        Self { rest: frame, compact: false }
    }

    pub(crate) fn compact(mut self, compact: bool) -> Self {
        self.compact = compact;
        self
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(len)?;
        self.rest = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.rest.split_first_chunk::<N>()?;
        self.rest = tail;
        Some(*head)
    }

    pub(crate) fn i8(&mut self) -> Option<i8> {
        self.array().map(i8::from_be_bytes)
    }

    pub(crate) fn i16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    fn uvarint(&mut self) -> Option<usize> {
        let mut value = 0_usize;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array()?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// The number of elements of an array; null counts as none.
    pub(crate) fn count(&mut self) -> Option<usize> {
        if self.compact { Some(self.uvarint()?.saturating_sub(1)) } else { Some(self.i32()?.max(0) as usize) }
    }

    /// A string; null counts as empty.
    pub(crate) fn string(&mut self) -> Option<&'a [u8]> {
        let len = if self.compact { self.uvarint()?.saturating_sub(1) } else { self.i16()?.max(0) as usize };
        self.take(len)
    }

    /// Bytes; null counts as empty.
    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.count()?;
        self.take(len)
    }

    pub(crate) fn skip_tags(&mut self) -> Option<()> {
        if self.compact {
            for _ in 0..self.uvarint()? {
                self.uvarint()?;
                let len = self.uvarint()?;
                self.take(len)?;
            }
        }
        Some(())
    }
}

pub(crate) fn put_uvarint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_count(out: &mut Vec<u8>, count: usize, compact: bool) {
    if compact {
        put_uvarint(out, count + 1);
    } else {
        out.extend_from_slice(&(count as i32).to_be_bytes());
    }
}

pub(crate) fn put_string(out: &mut Vec<u8>, string: &[u8], compact: bool) {
    if compact {
        put_uvarint(out, string.len() + 1);
    } else {
        out.extend_from_slice(&(string.len() as i16).to_be_bytes());
    }
    out.extend_from_slice(string);
}

pub(crate) fn put_no_tags(out: &mut Vec<u8>, compact: bool) {
    if compact {
        out.push(0);
    }
}
