//! The lazy reader: records as views into a batch, decoded when they are asked for, nothing allocated.

use std::fmt;
use std::iter::FusedIterator;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::error::BatchError;
use super::pinned::{Block, Kept};
use super::raw::RawBatch;
use super::varint::Length;
use super::{Hidden, varint};

/// A batch whose records can be read.
///
/// ```
/// # use milena_protocol::records::*;
/// # let mut builder = BatchBuilder::new(vec![0; 4096], 0);
/// # builder.append(1, None, Some(b"one"), &[]).unwrap();
/// # let mut sealed = builder.seal();
/// # sealed.stamp(ProducerStamp::NONE);
/// # let mut fetched = bytes::Bytes::copy_from_slice(sealed.bytes());
/// let mut scratch = Scratch::new();
/// while let Some(raw) = split_batch(&mut fetched)? {
///     raw.verify_crc()?;
///     let batch = raw.open(&mut scratch, 1 << 27)?;
///     let mut cursor = batch.cursor();
///     while let Some(record) = batch.next(&mut cursor)? {
///         println!("{}: {:?}", record.offset, record.value);
///     }
/// }
/// # Ok::<(), BatchError>(())
/// ```
#[derive(Clone)]
pub struct Batch {
    records: Bytes,
    /// The memory that the records lie in, if somebody counts it. Behind the records, which go first.
    block: Option<Arc<Block>>,
    /// The records again, together with the block.
    kept: OnceLock<Bytes>,
    base_offset: i64,
    last_offset_delta: u32,
    count: u32,
    base_timestamp: i64,
    /// The timestamp of every record, when the broker has set it.
    log_append_time: Option<i64>,
    producer_id: i64,
    leader_epoch: i32,
    is_control: bool,
    is_transactional: bool,
}

/// A place between two records of a batch. Begins before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    /// Where the next record begins.
    at: u32,
    /// How many records lie before it.
    read: u32,
}

/// Where the parts of one record lie in its batch: 56 bytes that borrow nothing, and give a [`RecordView`] at any time.
///
/// For readers that find the next record in a loop and lend it afterwards, and for owned records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The record's offset.
    pub offset: i64,
    /// The record's timestamp in milliseconds.
    pub timestamp: i64,
    key: Option<Span>,
    value: Option<Span>,
    headers: Span,
    header_count: u32,
}

/// A part of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    at: u32,
    len: u32,
}

/// A record, borrowed from its batch.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct RecordView<'a> {
    /// The record's offset.
    pub offset: i64,
    /// Milliseconds since 1970: the producer's word, or the broker's with LogAppendTime. -1 for none.
    pub timestamp: i64,
    /// The key; null is not empty.
    pub key: Option<&'a [u8]>,
    /// The value; null (a tombstone in compacted topics) is not empty.
    pub value: Option<&'a [u8]>,
    /// The headers.
    pub headers: Headers<'a>,
}

/// A record header. Kafka does not check that its key is UTF-8, and allows a key twice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value; null is not empty.
    pub value: Option<&'a [u8]>,
}

/// What a control batch says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// The producer's transaction was aborted.
    Abort,
    /// The producer's transaction was committed.
    Commit,
    /// Something that clients need not know (KRaft's own markers, or a later invention).
    Other(i16),
}

impl Cursor {
    /// How many of the batch's records lie before it.
    pub fn read(&self) -> u32 {
        self.read
    }
}

impl Batch {
    pub(super) fn new(raw: &RawBatch, records: Bytes, block: Option<Arc<Block>>) -> Result<Self, BatchError> {
        let base_offset = raw.base_offset();
        let fail = |reason| Err(BatchError::Malformed { base_offset, reason });
        if records.len() > u32::MAX as usize {
            return fail("it is longer than 4 GiB");
        }
        if raw.count() as usize > records.len() / MIN_RECORD_BYTES {
            return fail("it announces more records than its bytes can hold");
        }
        Ok(Self {
            records,
            block,
            kept: OnceLock::new(),
            base_offset,
            // Cannot be negative: checked when the raw batch was made.
            last_offset_delta: (raw.last_offset() - base_offset) as u32,
            count: raw.count(),
            base_timestamp: raw.base_timestamp(),
            log_append_time: raw.is_log_append_time().then(|| raw.max_timestamp()),
            producer_id: raw.producer_id(),
            leader_epoch: raw.leader_epoch(),
            is_control: raw.is_control(),
            is_transactional: raw.is_transactional(),
        })
    }

    /// A cursor before the first record.
    pub fn cursor(&self) -> Cursor {
        Cursor::default()
    }

    /// The next record, or `None` behind the last. The cursor moves behind it, and stays where it was on an error.
    ///
    /// # Errors
    /// [`BatchError::Malformed`] when the bytes are not the records that the header announces.
    #[inline]
    pub fn next<'a>(&'a self, cursor: &mut Cursor) -> Result<Option<RecordView<'a>>, BatchError> {
        self.step(cursor)
    }

    /// Part of both that call it, so that [`next_place`](Self::next_place) makes its place from registers: read back from memory in other
    /// widths than it was written in, a view stalls the processor twice.
    #[inline(always)]
    fn step<'a>(&'a self, cursor: &mut Cursor) -> Result<Option<RecordView<'a>>, BatchError> {
        if cursor.read == self.count {
            return if cursor.at as usize == self.records.len() {
                Ok(None)
            } else {
                Err(self.malformed("bytes are left behind its last record"))
            };
        }
        match self.decode(cursor.at as usize) {
            Ok((view, end)) => {
                *cursor = Cursor { at: end as u32, read: cursor.read + 1 };
                Ok(Some(view))
            }
            Err(reason) => Err(self.malformed(reason)),
        }
    }

    /// Like [`next`](Self::next), but gives the record's place.
    ///
    /// # Errors
    /// [`BatchError::Malformed`] when the bytes are not the records that the header announces.
    #[inline]
    pub fn next_place(&self, cursor: &mut Cursor) -> Result<Option<Place>, BatchError> {
        let Some(view) = self.step(cursor)? else { return Ok(None) };
        Ok(Some(Place {
            offset: view.offset,
            timestamp: view.timestamp,
            key: view.key.map(|key| self.span(key)),
            value: view.value.map(|value| self.span(value)),
            headers: self.span(view.headers.bytes),
            header_count: view.headers.count,
        }))
    }

    /// The record at a place that this batch gave.
    ///
    /// # Panics
    /// May panic, or give other bytes of the batch, for a place of another batch.
    // Always part of its caller, and by reference: a place that was just written is read field by field, as it was written.
    #[inline(always)]
    pub fn view(&self, place: &Place) -> RecordView<'_> {
        RecordView {
            offset: place.offset,
            timestamp: place.timestamp,
            key: place.key.map(|key| self.at(key)),
            value: place.value.map(|value| self.at(value)),
            headers: Headers { count: place.header_count, bytes: self.at(place.headers) },
        }
    }

    /// What a control batch says: `None` if the batch is none, or has no record left.
    ///
    /// # Errors
    /// [`BatchError::Malformed`] when its record cannot be read.
    pub fn control(&self) -> Result<Option<Control>, BatchError> {
        if !self.is_control {
            return Ok(None);
        }
        let Some(record) = self.next(&mut self.cursor())? else { return Ok(None) };
        // key: i16 version, i16 type. Fields that later versions add come behind these.
        match record.key {
            Some(&[_, _, high, low, ..]) => Ok(Some(match i16::from_be_bytes([high, low]) {
                0 => Control::Abort,
                1 => Control::Commit,
                other => Control::Other(other),
            })),
            _ => Err(self.malformed("the key of its control record is too short")),
        }
    }

    /// The offset of the first record, as it was when the batch was written.
    pub fn base_offset(&self) -> i64 {
        self.base_offset
    }

    /// The offset of the last record, whether it is still there or not.
    pub fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// Where reading goes on behind this batch.
    pub fn next_offset(&self) -> i64 {
        self.last_offset() + 1
    }

    /// Records in the batch.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The producer's id, -1 for none.
    pub fn producer_id(&self) -> i64 {
        self.producer_id
    }

    /// The epoch of the leader that wrote the batch, -1 if unknown.
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    /// Whether the batch holds a marker of the broker instead of a user's records.
    pub fn is_control(&self) -> bool {
        self.is_control
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.is_transactional
    }

    /// Whether the records' timestamps are the broker's.
    pub fn is_log_append_time(&self) -> bool {
        self.log_append_time.is_some()
    }

    /// The bytes that all views borrow from: for those who want a counted slice of a key or value (`Bytes::slice_ref`). The first call
    /// may allocate: while such a slice lives, all the memory that the batch lies in counts as [pinned](super::PinnedMemory).
    #[inline]
    pub fn owner(&self) -> &Bytes {
        match &self.block {
            Some(block) => self.kept.get_or_init(|| Kept::bytes(&self.records, block)),
            None => &self.records,
        }
    }

    /// Bytes of the records, decompressed.
    pub fn records_len(&self) -> usize {
        self.records.len()
    }

    /// `count` records from `from` on, in memory of their own: for whoever keeps them, and not all that lies around them. Otherwise it
    /// is the same batch.
    ///
    /// # Errors
    /// [`BatchError::Malformed`] when they cannot be read.
    pub fn part(&self, from: Cursor, count: u32) -> Result<Self, BatchError> {
        let mut end = from;
        while end.read < from.read.saturating_add(count) {
            if self.next(&mut end)?.is_none() {
                return Err(self.malformed("it has fewer records than were asked for"));
            }
        }
        let records = Bytes::copy_from_slice(&self.records[from.at as usize..end.at as usize]);
        Ok(Self {
            block: self.block.as_ref().map(|block| block.copy(records.len())),
            kept: OnceLock::new(),
            records,
            count,
            base_offset: self.base_offset,
            last_offset_delta: self.last_offset_delta,
            base_timestamp: self.base_timestamp,
            log_append_time: self.log_append_time,
            producer_id: self.producer_id,
            leader_epoch: self.leader_epoch,
            is_control: self.is_control,
            is_transactional: self.is_transactional,
        })
    }

    /// Decodes the record that begins at `start`, and says where it ends.
    #[inline(always)]
    fn decode(&self, start: usize) -> Result<(RecordView<'_>, usize), &'static str> {
        match self.decode_ordinary(start) {
            Some(decoded) => Ok(decoded),
            None => self.decode_any(start),
        }
    }

    /// Decodes an ordinary record: without headers, its first fields in eight bytes, its value below 16 KiB. `None` for any other, and
    /// for what is malformed: [`decode_any`](Self::decode_any) says what is wrong with it.
    ///
    /// Half the instructions of the other, because the first five fields are taken off one word.
    #[inline(always)]
    fn decode_ordinary(&self, start: usize) -> Option<(RecordView<'_>, usize)> {
        let head = self.records.get(start..)?.first_chunk::<HEAD_BYTES>()?;
        let mut head = Head::new(*head);
        let len = head.varint()?;
        // From behind the length to the end.
        let end = start + head.used() + (len >> 1) as usize;
        head.skip_attributes();
        let timestamp_delta = head.varint()?;
        let offset_delta = head.varint()?;
        let key_len = head.varint()?;
        // The odd ones are negative, and 1 is null.
        if head.used() > HEAD_BYTES || (len | offset_delta) & 1 != 0 || offset_delta >> 1 > self.last_offset_delta {
            return None;
        }
        let bytes = self.records.get(..end)?;
        let mut at = start + head.used();
        let key = ordinary(bytes, &mut at, key_len)?;
        let value_len = varint::short(bytes, &mut at)?;
        let value = ordinary(bytes, &mut at, value_len)?;
        // What is left is the number of headers.
        if bytes.get(at..)? != [0] {
            return None;
        }
        let timestamp_delta = (timestamp_delta >> 1) as i32 ^ -((timestamp_delta & 1) as i32);
        let view = RecordView {
            offset: self.base_offset + i64::from(offset_delta >> 1),
            timestamp: self.log_append_time.unwrap_or(self.base_timestamp.wrapping_add(i64::from(timestamp_delta))),
            key,
            value,
            // Of this batch, though empty: a place is measured from where it begins.
            headers: Headers { count: 0, bytes: bytes.get(end..)? },
        };
        Some((view, end))
    }

    /// Decodes any record.
    #[inline(never)]
    fn decode_any(&self, start: usize) -> Result<(RecordView<'_>, usize), &'static str> {
        let mut at = start;
        let len = match varint::length(&self.records, &mut at).ok_or(CUT)? {
            Length::Bytes(len) => len,
            Length::Null | Length::Negative => return Err("a record's length is negative"),
        };
        let end = at + len;
        // From here on nothing can be read behind the record.
        let bytes = self.records.get(..end).ok_or(CUT)?;

        at += ATTRIBUTES_BYTES;
        let timestamp_delta = varint::get64(bytes, &mut at).ok_or(SHORT)?;
        let offset_delta = varint::get32(bytes, &mut at).ok_or(SHORT)?;
        if offset_delta as u32 > self.last_offset_delta {
            return Err("a record's offset lies outside its batch");
        }
        let key = nullable(bytes, &mut at)?;
        let value = nullable(bytes, &mut at)?;
        let count = match varint::length(bytes, &mut at).ok_or(SHORT)? {
            Length::Bytes(count) => count,
            Length::Null | Length::Negative => return Err("a record's header count is negative"),
        };
        let headers = bytes.get(at..).ok_or(SHORT)?;
        check_headers(headers, count)?;
        let view = RecordView {
            offset: self.base_offset + i64::from(offset_delta),
            timestamp: self.log_append_time.unwrap_or(self.base_timestamp.wrapping_add(timestamp_delta)),
            key,
            value,
            headers: Headers { count: count as u32, bytes: headers },
        };
        Ok((view, end))
    }

    /// Where a part of this batch lies. It lies below 4 GiB: checked when the batch was made.
    #[inline]
    fn span(&self, part: &[u8]) -> Span {
        let at = part.as_ptr() as usize - self.records.as_ptr() as usize;
        Span { at: at as u32, len: part.len() as u32 }
    }

    #[inline]
    fn at(&self, span: Span) -> &[u8] {
        &self.records[span.at as usize..][..span.len as usize]
    }

    #[cold]
    fn malformed(&self, reason: &'static str) -> BatchError {
        BatchError::Malformed { base_offset: self.base_offset, reason }
    }
}

/// The first bytes of a record, from which its first fields are taken.
struct Head {
    word: u64,
    used: u32,
}

impl Head {
    #[inline(always)]
    fn new(bytes: [u8; HEAD_BYTES]) -> Self {
        Self { word: u64::from_le_bytes(bytes), used: 0 }
    }

    /// A varint of one or two bytes as it is written, zig-zag. Nonsense once more bytes are [used](Self::used) than there were.
    #[inline(always)]
    fn varint(&mut self) -> Option<u32> {
        let first = self.word as u32 & 0xff;
        if first < 0x80 {
            self.word >>= 8;
            self.used += 1;
            return Some(first);
        }
        let second = (self.word >> 8) as u32 & 0xff;
        self.word >>= 16;
        self.used += 2;
        (second < 0x80).then_some(first & 0x7f | second << 7)
    }

    #[inline(always)]
    fn skip_attributes(&mut self) {
        self.word >>= 8 * ATTRIBUTES_BYTES;
        self.used += ATTRIBUTES_BYTES as u32;
    }

    #[inline(always)]
    fn used(&self) -> usize {
        self.used as usize
    }
}

/// The bytes of a nullable field whose length, as it is written, has been read. `None` if they are not there.
#[inline(always)]
fn ordinary<'a>(bytes: &'a [u8], at: &mut usize, len: u32) -> Option<Option<&'a [u8]>> {
    if len & 1 != 0 {
        return (len == 1).then_some(None);
    }
    let start = *at;
    *at += (len >> 1) as usize;
    bytes.get(start..*at).map(Some)
}

/// Reads a nullable field: its length, then its bytes.
#[inline(always)]
fn nullable<'a>(bytes: &'a [u8], at: &mut usize) -> Result<Option<&'a [u8]>, &'static str> {
    match varint::length(bytes, at).ok_or(SHORT)? {
        Length::Bytes(len) => {
            let field = bytes.get(*at..*at + len).ok_or(SHORT)?;
            *at += len;
            Ok(Some(field))
        }
        Length::Null => Ok(None),
        Length::Negative => Err("a key or value has a negative length"),
    }
}

/// Walks over the headers of a record, so that iterating over them later cannot fail. They end where the record ends.
#[inline]
fn check_headers(bytes: &[u8], count: usize) -> Result<(), &'static str> {
    let end = if count == 0 { 0 } else { walk_headers(bytes, count)? };
    if end == bytes.len() { Ok(()) } else { Err("bytes are left behind the last field of a record") }
}

fn walk_headers(bytes: &[u8], count: usize) -> Result<usize, &'static str> {
    if count > bytes.len() / MIN_HEADER_BYTES {
        return Err("a record announces more headers than its bytes can hold");
    }
    let mut at = 0;
    for _ in 0..count {
        nullable(bytes, &mut at)?.ok_or("a header's key is null")?;
        nullable(bytes, &mut at)?;
    }
    Ok(at)
}

/// The headers of a record, in the order in which they were written, duplicates included.
#[derive(Clone, Copy)]
pub struct Headers<'a> {
    count: u32,
    bytes: &'a [u8],
}

impl<'a> Headers<'a> {
    /// How many there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All of them, in order.
    #[inline]
    pub fn iter(&self) -> HeadersIter<'a> {
        HeadersIter { left: self.count, bytes: self.bytes, at: 0 }
    }

    /// The last header with this key, which is the one that counts where a key may stand once (Java's `lastHeader`).
    pub fn last(&self, key: impl AsRef<[u8]>) -> Option<Header<'a>> {
        let key = key.as_ref();
        self.iter().filter(|header| header.key == key).last()
    }
}

impl<'a> IntoIterator for Headers<'a> {
    type Item = Header<'a>;
    type IntoIter = HeadersIter<'a>;

    #[inline]
    fn into_iter(self) -> HeadersIter<'a> {
        self.iter()
    }
}

/// Iterates over [`Headers`].
#[derive(Clone)]
pub struct HeadersIter<'a> {
    left: u32,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for HeadersIter<'a> {
    type Item = Header<'a>;

    #[inline]
    fn next(&mut self) -> Option<Header<'a>> {
        self.left = self.left.checked_sub(1)?;
        // `check_headers` has walked here before: neither can fail.
        let key = nullable(self.bytes, &mut self.at).ok()??;
        let value = nullable(self.bytes, &mut self.at).ok()?;
        Some(Header { key, value })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for HeadersIter<'_> {}
impl FusedIterator for HeadersIter<'_> {}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("base_offset", &self.base_offset)
            .field("last_offset", &self.last_offset())
            .field("count", &self.count)
            .field("records", &Hidden(self.records.len()))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RecordView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordView")
            .field("offset", &self.offset)
            .field("timestamp", &self.timestamp)
            .field("key", &self.key.map(|key| Hidden(key.len())))
            .field("value", &self.value.map(|value| Hidden(value.len())))
            .field("headers", &self.headers)
            .finish()
    }
}

impl fmt::Debug for Header<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?}", self.key.escape_ascii(), self.value.map(|value| Hidden(value.len())))
    }
}

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl fmt::Debug for HeadersIter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

/// What [`Head`] holds.
const HEAD_BYTES: usize = 8;
const ATTRIBUTES_BYTES: usize = 1;

/// Length, attributes, timestamp, offset, null key, null value, no headers: a byte each.
const MIN_RECORD_BYTES: usize = 7;
/// An empty key and a null value: a byte each.
const MIN_HEADER_BYTES: usize = 2;

const CUT: &str = "a record is cut off";
const SHORT: &str = "a record is shorter than its fields";

#[cfg(test)]
mod tests {
    use super::*;

    /// Both decoders on the same bytes.
    #[test]
    fn an_ordinary_record_is_decoded_as_any_record_is() {
        let (mut ordinary, mut refused) = (0, 0);
        for seed in 0..200_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            // A record without headers, and in every second one a byte that is anything.
            let earliest = -[64, 128, 20_000][rng.usize(..3)];
            let mut fields = vec![0; 64];
            let mut at = 1;
            varint::put32(&mut fields, &mut at, rng.i32(earliest..200));
            varint::put32(&mut fields, &mut at, rng.i32(0..60));
            for _ in 0..2 {
                let len = rng.i32(-1..12);
                varint::put32(&mut fields, &mut at, len);
                at += len.max(0) as usize;
            }
            fields.truncate(at + 1);
            let mut bytes = vec![0; 1];
            varint::put32(&mut bytes, &mut 0, fields.len() as i32);
            bytes.append(&mut fields);
            if rng.bool() {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
            // Without bytes behind it, or with some.
            bytes.resize(bytes.len() + rng.usize(..3), 0);
            let batch = Batch {
                records: Bytes::from(bytes.clone()),
                block: None,
                kept: OnceLock::new(),
                base_offset: 100,
                last_offset_delta: 50,
                count: 1,
                base_timestamp: 1_000,
                log_append_time: rng.bool().then_some(7),
                producer_id: -1,
                leader_epoch: -1,
                is_control: false,
                is_transactional: false,
            };
            let all = |(view, end): (RecordView<'_>, usize)| {
                let whole =
                    (view.offset, view.timestamp, view.key.map(<[u8]>::to_vec), view.value.map(<[u8]>::to_vec), end);
                (whole, view.headers.len())
            };
            let any = batch.decode_any(0).map(all);
            match batch.decode_ordinary(0).map(all) {
                Some(decoded) => {
                    ordinary += 1;
                    assert_eq!(any.as_ref(), Ok(&decoded), "seed {seed}: {bytes:?}");
                }
                // What it leaves to the other has headers, a long field, too few bytes behind it, or is no record.
                None => refused += usize::from(any.is_ok_and(|(_, headers)| headers == 0)),
            }
        }
        assert!(ordinary > 50_000, "{ordinary} of them were records");
        assert!(refused < ordinary / 4, "{refused} ordinary records took the long way, {ordinary} the short one");
    }
}
