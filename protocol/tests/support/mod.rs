//! Records for tests: owned, comparable, and drawn from a seed.
#![allow(dead_code, clippy::unwrap_used, reason = "every test file uses its part, and fails by panicking")]

pub(crate) mod alloc;
pub(crate) mod cases;
pub(crate) mod fetch_response;
pub(crate) mod produce_response;
#[path = "../../../testkit/src/seeds.rs"]
#[allow(
    unreachable_pub,
    reason = "the test kit shows it to its users; it cannot be asked for it here, because it needs this crate"
)]
pub(crate) mod seeds;

use bytes::Bytes;
use milena_protocol::records::*;

/// A header of a [`Rec`]: key and value.
pub(crate) type RecHeader = (Vec<u8>, Option<Vec<u8>>);

/// An owned record without its offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rec {
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<RecHeader>,
}

impl Rec {
    pub(crate) fn new(timestamp: i64) -> Self {
        Self { timestamp, key: None, value: None, headers: Vec::new() }
    }

    pub(crate) fn key(mut self, key: &[u8]) -> Self {
        self.key = Some(key.to_vec());
        self
    }

    pub(crate) fn value(mut self, value: &[u8]) -> Self {
        self.value = Some(value.to_vec());
        self
    }

    pub(crate) fn header(mut self, key: &[u8], value: Option<&[u8]>) -> Self {
        self.headers.push((key.to_vec(), value.map(<[u8]>::to_vec)));
        self
    }

    pub(crate) fn headers(&self) -> Vec<Header<'_>> {
        self.headers.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect()
    }
}

impl From<RecordView<'_>> for Rec {
    fn from(view: RecordView<'_>) -> Self {
        Self {
            timestamp: view.timestamp,
            key: view.key.map(<[u8]>::to_vec),
            value: view.value.map(<[u8]>::to_vec),
            headers: view.headers.iter().map(|h| (h.key.to_vec(), h.value.map(<[u8]>::to_vec))).collect(),
        }
    }
}

/// Records of every shape: null and empty, long and short, with headers twice and not in UTF-8, timestamps near and far.
pub(crate) fn records_of(seed: u64, count: usize) -> Vec<Rec> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..count)
        .map(|_| Rec {
            timestamp: match rng.u8(..10) {
                0 => rng.i64(..),
                1 => -1,
                _ => 1_790_000_000_000 + rng.i64(-5_000..5_000),
            },
            key: bytes_of(&mut rng, 40),
            value: bytes_of(&mut rng, 300),
            headers: match rng.u8(..4) {
                0 => (0..rng.usize(1..6))
                    .map(|_| {
                        let key = match rng.u8(..4) {
                            0 => b"trace".to_vec(),
                            1 => vec![0xff, 0xfe, rng.u8(..)],
                            _ => (0..rng.usize(..12)).map(|_| rng.alphanumeric() as u8).collect(),
                        };
                        (key, bytes_of(&mut rng, 20))
                    })
                    .collect(),
                _ => Vec::new(),
            },
        })
        .collect()
}

fn bytes_of(rng: &mut fastrand::Rng, most: usize) -> Option<Vec<u8>> {
    match rng.u8(..8) {
        0 => None,
        1 => Some(Vec::new()),
        // Around the lengths at which a varint gets longer.
        2 => Some(vec![rng.u8(..); [63, 64, 127, 128, 8_191, 8_192][rng.usize(..6)].min(most * 30)]),
        _ => Some((0..rng.usize(..most)).map(|_| b"abcdefgh "[rng.usize(..9)]).collect()),
    }
}

/// A sealed batch of these records.
pub(crate) fn build(records: &[Rec], head_room: usize) -> SealedBatch {
    let mut builder = BatchBuilder::new(vec![0; 1 << 20], head_room);
    for (index, record) in records.iter().enumerate() {
        let appended =
            builder.append(record.timestamp, record.key.as_deref(), record.value.as_deref(), &record.headers());
        assert_eq!(appended, Ok(index as u32));
    }
    builder.seal()
}

/// The bytes of a batch of these records, stamped for a producer that is not idempotent.
pub(crate) fn built(records: &[Rec]) -> Bytes {
    let mut sealed = build(records, 0);
    sealed.stamp(ProducerStamp::NONE);
    Bytes::copy_from_slice(sealed.bytes())
}

/// All records of a batch.
pub(crate) fn read_all(batch: &Batch) -> Result<Vec<Rec>, BatchError> {
    let mut cursor = batch.cursor();
    let mut records = Vec::new();
    while let Some(record) = batch.next(&mut cursor)? {
        records.push(record.into());
    }
    Ok(records)
}

/// Words that compress about as well as text does.
pub(crate) fn text(len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(9);
    let words = ["letter", "castle", "trial ", "village", " clerk ", " door"];
    let mut text = String::new();
    while text.len() < len {
        text.push_str(words[rng.usize(..words.len())]);
    }
    text.truncate(len);
    text.into_bytes()
}
