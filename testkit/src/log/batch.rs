//! A record batch as a broker sees it: checked from outside to inside before it is stored.
//!
//! This is deliberately a second code path. The clients write and read batches with `milena-protocol`'s codec; a broker model that
//! checked them with that same codec would prove nothing, so this file walks the bytes by itself and takes its CRC from another
//! crate. The rules and the codes are those of Kafka's `ProduceRequest.validateRecords`, `UnifiedLog.analyzeAndValidateRecords` and
//! `LogValidator`.
//!
//! ```text
//! 0 base offset i64 | 8 length i32 | 12 leader epoch i32 | 16 magic i8 | 17 crc u32 | 21 attributes i16 | 23 last offset delta i32
//! 27 base timestamp i64 | 35 max timestamp i64 | 43 producer id i64 | 51 epoch i16 | 53 base sequence i32 | 57 count i32 | 61 records
//! ```

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use milena_protocol::ErrorCode;

use super::unpack;

/// Bytes of a batch before its first record.
pub(crate) const HEADER_BYTES: usize = 61;

/// Bytes that are outside the announced length: base offset and the length itself.
const LENGTH_OVERHEAD: usize = 12;

pub(super) const COMPRESSION_MASK: i16 = 0x07;
pub(super) const LOG_APPEND_TIME: i16 = 0x08;
pub(super) const TRANSACTIONAL: i16 = 0x10;
pub(super) const CONTROL: i16 = 0x20;

/// The fields of a batch header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) base_offset: i64,
    pub(crate) length: i32,
    pub(crate) magic: i8,
    pub(crate) crc: u32,
    pub(crate) attributes: i16,
    pub(crate) last_offset_delta: i32,
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
    pub(crate) count: i32,
}

impl BatchHeader {
    /// Reads a header; `None` if there are fewer than 61 bytes.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut walk = Walk(bytes.get(..HEADER_BYTES)?);
        let base_offset = i64::from_be_bytes(walk.array()?);
        let length = i32::from_be_bytes(walk.array()?);
        let _leader_epoch: [u8; 4] = walk.array()?;
        Some(Self {
            base_offset,
            length,
            magic: i8::from_be_bytes(walk.array()?),
            crc: u32::from_be_bytes(walk.array()?),
            attributes: i16::from_be_bytes(walk.array()?),
            last_offset_delta: i32::from_be_bytes(walk.array()?),
            base_timestamp: i64::from_be_bytes(walk.array()?),
            max_timestamp: i64::from_be_bytes(walk.array()?),
            producer_id: i64::from_be_bytes(walk.array()?),
            producer_epoch: i16::from_be_bytes(walk.array()?),
            base_sequence: i32::from_be_bytes(walk.array()?),
            count: i32::from_be_bytes(walk.array()?),
        })
    }

    pub(crate) fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    pub(crate) fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// The sequence of the last record; sequences wrap from `i32::MAX` to 0.
    pub(crate) fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return self.base_sequence;
        }
        (self.base_sequence.wrapping_add(self.last_offset_delta)) & i32::MAX
    }
}

/// A record as a test wants to see it: decoded, with the facts of its batch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredRecord {
    /// Its offset.
    pub offset: i64,
    /// Milliseconds since the epoch: the producer's, or the broker's for a topic with LogAppendTime.
    pub timestamp: i64,
    /// The key, if there is one. Empty is not none.
    pub key: Option<Bytes>,
    /// The value, if there is one. None is a tombstone on a compacted topic.
    pub value: Option<Bytes>,
    /// Headers in their order, duplicates kept.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
    /// The producer's id; −1 without idempotence.
    pub producer_id: i64,
    /// The producer's epoch; −1 without idempotence.
    pub producer_epoch: i16,
    /// The record's sequence; −1 without idempotence.
    pub sequence: i32,
    /// Whether the record belongs to a transaction.
    pub transactional: bool,
    /// Whether this is a transaction marker and no record of a user.
    pub control: bool,
}

/// Why a batch was not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
    /// The records that are to blame, by their index in the batch (Produce v8 and later, KIP-467).
    pub(crate) records: Vec<i32>,
    /// The partition's log refused it: then the answer carries the log's start.
    pub(crate) by_log: bool,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), records: Vec::new(), by_log: false }
    }

    fn by_log(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { by_log: true, ..Self::new(code, message) }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::by_log(ErrorCode::INVALID_RECORD, message)
    }
}

/// What a topic's configuration asks of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// `max.message.bytes`.
    pub(crate) max_message_bytes: usize,
    /// `cleanup.policy` contains `compact`: every record needs a key.
    pub(crate) compacted: bool,
    /// The broker's time.
    pub(crate) now: i64,
    /// How far a record's timestamp may be ahead of that, if that is limited (`message.timestamp.after.max.ms`).
    pub(crate) ahead: Option<i64>,
    /// How far it may be behind, if that is limited (`message.timestamp.before.max.ms`).
    pub(crate) behind: Option<i64>,
}

impl Rules {
    /// Whether a record may carry this timestamp. What overflows goes around in Kafka, too.
    fn allows(&self, timestamp: i64) -> bool {
        timestamp == NO_TIMESTAMP
            || !(self.ahead.is_some_and(|most| timestamp.wrapping_sub(self.now) > most)
                || self.behind.is_some_and(|most| self.now.wrapping_sub(timestamp) > most))
    }
}

/// What a record carries that has no timestamp.
const NO_TIMESTAMP: i64 = -1;

/// A batch that may be stored.
#[derive(Debug, Clone)]
pub(crate) struct Valid<'a> {
    /// The batch alone.
    pub(crate) bytes: &'a [u8],
    pub(crate) header: BatchHeader,
    /// What the records say, which is not always what the header says.
    pub(crate) max_timestamp: i64,
    /// What a broker accepts and no correct encoder writes.
    pub(crate) oddities: Vec<String>,
}

/// Checks what a client sent for one partition, outside and in.
///
/// As Kafka does, it accepts an unfinished second batch, a wrong max timestamp, wrong offset deltas in an uncompressed batch and wrong
/// lengths of records in a compressed one, and a few more (`tests/fields.txt`); they come back as oddities.
pub(crate) fn validate(bytes: &[u8], produce_version: i16, rules: Rules) -> Result<Valid<'_>, Refusal> {
    let one = |what: &str| {
        let message = format!("a Produce request must have exactly one record batch per partition: {what}");
        Refusal::new(ErrorCode::INVALID_RECORD, message)
    };
    let len = next_batch(bytes)?.ok_or_else(|| one("there is none, or it is cut off"))?;
    let (batch, rest) = bytes.split_at(len);
    if batch.get(16).is_some_and(|magic| *magic < 2) {
        return Err(Refusal::new(ErrorCode::INVALID_RECORD, "a Produce request may only have batches of magic 2"));
    }
    if next_batch(rest)?.is_some() {
        return Err(one("there are two"));
    }
    let Some(header) = BatchHeader::read(batch) else {
        return Err(Refusal::new(ErrorCode::CORRUPT_MESSAGE, "the record batch is shorter than its header"));
    };
    if header.attributes & COMPRESSION_MASK == 4 && produce_version < 7 {
        return Err(Refusal::new(ErrorCode::UNSUPPORTED_COMPRESSION_TYPE, "zstd needs Produce v7 or later"));
    }
    if header.base_offset != 0 {
        return Err(Refusal::invalid(format!(
            "the base offset of a batch must be 0, and it is {}",
            header.base_offset
        )));
    }
    if batch.len() > rules.max_message_bytes {
        return Err(Refusal::new(
            ErrorCode::MESSAGE_TOO_LARGE,
            format!("the batch has {} bytes, and max.message.bytes is {}", batch.len(), rules.max_message_bytes),
        ));
    }
    if crc32c::crc32c(&batch[21..]) != header.crc {
        return Err(Refusal::new(ErrorCode::CORRUPT_MESSAGE, "the record batch's CRC does not match its bytes"));
    }
    if header.count <= 0 || header.last_offset_delta != header.count - 1 {
        return Err(Refusal::invalid(format!(
            "{} records and last offset delta {} do not go together",
            header.count, header.last_offset_delta
        )));
    }
    if header.is_control() {
        return Err(Refusal::invalid("clients are not allowed to write control records"));
    }
    if header.producer_id >= 0 && header.base_sequence < 0 {
        return Err(Refusal::invalid("a batch with a producer id needs a sequence"));
    }
    let mut oddities = Vec::new();
    if header.producer_id >= 0 && header.producer_epoch < 0 {
        oddities.push("a producer id without an epoch".to_owned());
    }
    if !rest.is_empty() {
        oddities.push(format!("{} bytes stand behind the batch", rest.len()));
    }
    let max_timestamp = validate_records(batch, &header, rules, &mut oddities)?;
    if max_timestamp != header.max_timestamp {
        oddities.push(format!("max timestamp {} should be {max_timestamp}", header.max_timestamp));
    }
    Ok(Valid { bytes: batch, header, max_timestamp, oddities })
}

/// The size of the batch at the front of `bytes`; `None` if there is none or only a part of one. Java's `ByteBufferLogInputStream`.
fn next_batch(bytes: &[u8]) -> Result<Option<usize>, Refusal> {
    let corrupt = |message: &str| Refusal::new(ErrorCode::CORRUPT_MESSAGE, message);
    let Some(length) = bytes.get(8..LENGTH_OVERHEAD).and_then(|length| length.try_into().ok()).map(i32::from_be_bytes)
    else {
        return Ok(None);
    };
    // The smallest record of all formats has 14 bytes behind its length.
    let length = usize::try_from(length).ok().filter(|length| *length >= 14);
    let length = length.ok_or_else(|| corrupt("the length of the record batch is less than that of any record"))?;
    match bytes.get(16) {
        None => Ok(None),
        Some(3..) => Err(corrupt("the record batch has an unknown magic")),
        Some(_) if LENGTH_OVERHEAD + length > bytes.len() => Ok(None),
        Some(_) => Ok(Some(LENGTH_OVERHEAD + length)),
    }
}

/// Returns the latest timestamp of the records.
fn validate_records(
    bytes: &[u8],
    header: &BatchHeader,
    rules: Rules,
    oddities: &mut Vec<String>,
) -> Result<i64, Refusal> {
    let compressed = header.attributes & COMPRESSION_MASK != 0;
    let (records, broken) = records_of(bytes, header)?;
    let mut walk = Walk(&records);
    let mut max_timestamp = i64::MIN;
    let (mut keyless, mut untimely) = (Vec::new(), Vec::new());
    for index in 0..header.count {
        let Some(record) = walk.record(compressed) else {
            if let Some(broken) = broken {
                return Err(broken);
            }
            return Err(Refusal::invalid(format!("record {index} of {} is cut off or malformed", header.count)));
        };
        if record.offset_delta != index {
            let message = format!("record {index} has offset delta {}: deltas count up from 0", record.offset_delta);
            if compressed {
                // An exception that Kafka does not expect.
                return Err(Refusal::by_log(ErrorCode::UNKNOWN_SERVER_ERROR, message));
            }
            oddities.push(message);
        }
        if let Some(odd) = record.oddity {
            oddities.push(format!("record {index}: {odd}"));
        }
        let timestamp = header.base_timestamp.wrapping_add(record.timestamp_delta);
        max_timestamp = max_timestamp.max(timestamp);
        if rules.compacted && record.key.is_none() {
            keyless.push(index);
        } else if !rules.allows(timestamp) {
            untimely.push(index);
        }
    }
    if !walk.0.is_empty() {
        return Err(Refusal::invalid(format!("{} bytes stand behind the batch's last record", walk.0.len())));
    }
    if let Some(broken) = broken {
        return Err(broken);
    }
    if !keyless.is_empty() {
        keyless.append(&mut untimely);
        keyless.sort_unstable();
        return Err(Refusal {
            records: keyless,
            ..Refusal::invalid("One or more records have been rejected: a compacted topic needs keys")
        });
    }
    if !untimely.is_empty() {
        let message = "One or more records have been rejected due to invalid timestamp";
        return Err(Refusal { records: untimely, ..Refusal::by_log(ErrorCode::INVALID_TIMESTAMP, message) });
    }
    Ok(max_timestamp)
}

/// The uncompressed records of a batch, and the refusal that is due if something is missing or left over behind them.
type Records<'a> = (Cow<'a, [u8]>, Option<Refusal>);

fn records_of<'a>(bytes: &'a [u8], header: &BatchHeader) -> Result<Records<'a>, Refusal> {
    let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
    let unpacked = match header.attributes & COMPRESSION_MASK {
        0 => return Ok((body.into(), None)),
        1 => unpack::gzip(body),
        2 => unpack::snappy(body),
        3 => unpack::lz4(body),
        4 => unpack::zstd(body),
        codec => {
            let message = format!("codec {codec} is none of Kafka's");
            return Err(Refusal::by_log(ErrorCode::UNKNOWN_SERVER_ERROR, message));
        }
    };
    if unpacked.records.len() as u64 > unpack::MOST {
        let message = format!("the batch unpacks to more than {} bytes", unpack::MOST);
        return Err(Refusal::by_log(ErrorCode::MESSAGE_TOO_LARGE, message));
    }
    // Kafka does not expect that of a batch with a good CRC.
    let broken = unpacked.broken.map(|e| {
        let message = format!("the records cannot be unpacked: {e}");
        Refusal::by_log(ErrorCode::UNKNOWN_SERVER_ERROR, message)
    });
    Ok((unpacked.records.into(), broken))
}

/// A validated batch as it is stored: offsets and leader epoch stamped in, and the broker's time if the topic wants that.
///
/// A wrong max timestamp is corrected, silently, as Kafka does.
pub(crate) fn stamp(valid: &Valid<'_>, base_offset: i64, leader_epoch: i32, log_append_time: Option<i64>) -> Bytes {
    let mut stored = BytesMut::from(valid.bytes);
    stored[0..8].copy_from_slice(&base_offset.to_be_bytes());
    stored[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
    let (time_type, max_timestamp) = match log_append_time {
        // The records keep their deltas; readers take the batch's max timestamp for all of them.
        Some(time) => (LOG_APPEND_TIME, time),
        None => (0, valid.max_timestamp),
    };
    let attributes = (valid.header.attributes & !LOG_APPEND_TIME) | time_type;
    if attributes != valid.header.attributes || max_timestamp != valid.header.max_timestamp {
        stored[21..23].copy_from_slice(&attributes.to_be_bytes());
        stored[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
        let crc = crc32c::crc32c(&stored[21..]);
        stored[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    stored.freeze()
}

/// The records of a stored batch. Empty for bytes that are none, which cannot come out of [`validate`].
pub(crate) fn decode(bytes: &Bytes) -> Vec<StoredRecord> {
    let Some(header) = BatchHeader::read(bytes) else { return Vec::new() };
    let records = match records_of(bytes, &header) {
        Ok((Cow::Borrowed(_), _)) => bytes.slice(HEADER_BYTES..),
        Ok((Cow::Owned(unpacked), _)) => Bytes::from(unpacked),
        Err(_) => return Vec::new(),
    };
    let mut walk = Walk(&records);
    let mut decoded = Vec::new();
    while let Some(record) = walk.record(header.attributes & COMPRESSION_MASK != 0) {
        let own = |slice: &[u8]| records.slice_ref(slice);
        let log_append_time = header.attributes & LOG_APPEND_TIME != 0;
        decoded.push(StoredRecord {
            offset: header.base_offset + i64::from(record.offset_delta),
            timestamp: if log_append_time {
                header.max_timestamp
            } else {
                header.base_timestamp.wrapping_add(record.timestamp_delta)
            },
            key: record.key.map(own),
            value: record.value.map(own),
            headers: record.headers.into_iter().map(|(key, value)| (own(key), value.map(own))).collect(),
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            sequence: if header.base_sequence < 0 {
                -1
            } else {
                header.base_sequence.wrapping_add(record.offset_delta) & i32::MAX
            },
            transactional: header.is_transactional(),
            control: header.is_control(),
        });
    }
    decoded
}

struct RawRecord<'a> {
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: Vec<(&'a [u8], Option<&'a [u8]>)>,
    /// What Kafka accepts and no correct encoder writes.
    oddity: Option<&'static str>,
}

/// Takes pieces off the front of a slice; `None` when it is too short.
struct Walk<'a>(&'a [u8]);

impl<'a> Walk<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// A zig-zag varint of at most ten bytes.
    fn varlong(&mut self) -> Option<i64> {
        let mut raw = 0u64;
        for shift in (0..70).step_by(7) {
            let [byte] = self.array()?;
            raw |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some((raw >> 1) as i64 ^ -((raw & 1) as i64));
            }
        }
        None
    }

    fn varint(&mut self) -> Option<i32> {
        i32::try_from(self.varlong()?).ok()
    }

    /// A varint length, less than 0 for none, and so many bytes.
    fn nullable(&mut self, odd: &mut Option<&'static str>) -> Option<Option<&'a [u8]>> {
        match self.varint()? {
            -1 => Some(None),
            ..-1 => {
                *odd = Some("a length below −1 stands for none");
                Some(None)
            }
            len => Some(Some(self.take(usize::try_from(len).ok()?)?)),
        }
    }

    /// One record; `None` at the end, and for a record that is cut off or does not fill the length it announces. In a compressed batch
    /// Kafka does not look at that length.
    fn record(&mut self, compressed: bool) -> Option<RawRecord<'a>> {
        let announced = self.varint()?;
        if compressed {
            let before = self.0.len();
            let mut record = self.fields()?;
            if i64::from(announced) != (before - self.0.len()) as i64 {
                record.oddity = Some("its length is not that of its fields");
            }
            return Some(record);
        }
        let mut body = Walk(self.take(usize::try_from(announced).ok()?)?);
        let record = body.fields()?;
        body.0.is_empty().then_some(record)
    }

    fn fields(&mut self) -> Option<RawRecord<'a>> {
        let mut oddity = None;
        let [_attributes] = self.array()?;
        let timestamp_delta = self.varlong()?;
        let offset_delta = self.varint()?;
        let key = self.nullable(&mut oddity)?;
        let value = self.nullable(&mut oddity)?;
        let count = usize::try_from(self.varint()?).ok()?;
        let mut headers = Vec::new();
        for _ in 0..count {
            let key = self.nullable(&mut oddity)??;
            headers.push((key, self.nullable(&mut oddity)?));
        }
        Some(RawRecord { timestamp_delta, offset_delta, key, value, headers, oddity })
    }
}
