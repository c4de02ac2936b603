//! Nothing from the network may panic, or allocate by its word alone: batches and responses with bytes changed at random.
//!
//! `MILENA_SEED=n` draws other changes; a failure prints the seed that replays it.
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use milena_protocol::fetch::{self, FetchEvent, FetchParser};
use milena_protocol::produce::{self, Produced};
use milena_protocol::records::*;

use crate::support::alloc::measure;
use crate::support::{build, fetch_response, produce_response, records_of};

/// Rounds of a test; every one is another seed.
const ROUNDS: u64 = 3_000;
/// What decompression may give in these tests.
const LIMIT: usize = 512 * 1024;

#[test]
fn changed_batches() {
    let mut outcomes = [0; 2];
    each_round("changed_batches", |rng| {
        let records = records_of(rng.u64(..), rng.usize(1..30));
        let mut sealed = build(&records, 0);
        if let Ok(mut compressor) = Compressor::new(Compression::ALL[rng.usize(..Compression::ALL.len())]) {
            (sealed, _) = sealed.compress(&mut compressor, Vec::new());
        }
        sealed.stamp(ProducerStamp::NONE);
        let bytes = changed(sealed.bytes(), rng);
        let read = bounded(bytes.len(), || read_batches(bytes.clone().into()));
        outcomes[usize::from(read.is_ok())] += 1;
    });
    assert!(outcomes.iter().all(|count| *count > 100), "{outcomes:?}: some changes are noticed, some are not");
}

/// What a codec may take beside its output: its tables, and the output's former buffer while it grows.
#[test]
fn compressed_records_take_no_more_than_the_limit_whatever_they_say() {
    const LARGE_LIMIT: usize = 2 << 20;
    let mut outcomes = [[0; 3]; 5];
    each_round("compressed_records", |rng| {
        let codec = Compression::ALL[rng.usize(1..Compression::ALL.len())];
        let Ok(mut compressor) = Compressor::new(codec) else { return };
        // Text, or a bomb: megabytes of one byte, which are some hundred bytes on the wire.
        let value = match rng.u8(..16) {
            0 => vec![rng.u8(..); rng.usize(1 << 19..3 * LARGE_LIMIT)],
            1..6 => vec![rng.u8(..); rng.usize(..100_000)],
            _ => (0..rng.usize(..20_000)).map(|_| b"abcdefgh "[rng.usize(..9)]).collect(),
        };
        let mut builder = BatchBuilder::new(vec![0; value.len() + 200], 0);
        builder.append(0, None, Some(&value), &[]).unwrap();
        let (sealed, _) = builder.seal().compress(&mut compressor, Vec::new());
        let mut bytes = sealed.bytes().to_vec();
        if rng.u8(..4) > 0 {
            let stream = changed(&bytes[61..], rng);
            bytes.truncate(61);
            bytes.extend_from_slice(&stream);
            let length = bytes.len() as i32 - 12;
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
        }
        let raw = split_batch(&mut Bytes::from(bytes)).unwrap().unwrap();
        let (opened, usage) = measure(|| raw.open(&mut Scratch::new(), LARGE_LIMIT).map(|batch| batch.owner().len()));
        let outcome = match opened {
            Ok(len) => {
                assert!(len <= LARGE_LIMIT);
                0
            }
            Err(BatchError::TooLarge { .. }) => 1,
            Err(_) => 2,
        };
        outcomes[codec as usize][outcome] += 1;
        assert!(usage.peak <= LARGE_LIMIT + (1 << 20), "{codec} took {} bytes", usage.peak);
    });
    for codec in Compression::ALL.into_iter().skip(1).filter(|codec| codec.supported().is_ok()) {
        let outcomes = outcomes[codec as usize];
        assert!(outcomes.iter().all(|count| *count > 5), "{codec} was read, too large, refused: {outcomes:?}");
    }
}

#[test]
fn changed_fetch_responses() {
    each_round("changed_fetch_responses", |rng| {
        let version = rng.i16(fetch::VERSIONS);
        let (body, _) = fetch_response::response(version, rng.u64(..));
        let body = changed(&body, rng);
        let piece = rng.usize(1..=body.len().max(1));
        bounded(body.len(), || {
            let mut parser = FetchParser::with_chunk(16 * 1024);
            let mut rest = &body[..];
            parser.begin(version, body.len()).unwrap();
            while !parser.is_done() {
                loop {
                    match parser.next_event() {
                        Ok(Some(FetchEvent::Batch(raw))) => drop(read_batches(raw.bytes().clone())),
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => return,
                    }
                }
                let wanted = parser.wanted();
                assert!(wanted > 0 || parser.is_done(), "a parser that wants nothing is done");
                let buffer = parser.buffer();
                let (now, later) = rest.split_at(piece.min(wanted).min(buffer.capacity() - buffer.len()));
                buffer.extend_from_slice(now);
                rest = later;
            }
        });
    });
}

#[test]
fn changed_produce_responses() {
    each_round("changed_produce_responses", |rng| {
        let version = rng.i16(produce::VERSIONS);
        let (body, _) = produce_response::response(version, rng.u64(..));
        let body = Bytes::from(changed(&body, rng));
        bounded(body.len(), || drop(Produced::decode(&body, version)));
    });
}

#[test]
fn noise() {
    each_round("noise", |rng| {
        let body: Vec<u8> = (0..rng.usize(..500)).map(|_| if rng.u8(..3) == 0 { rng.u8(..) } else { 0 }).collect();
        let body = Bytes::from(body);
        bounded(body.len(), || {
            drop(Produced::decode(&body, rng.i16(produce::VERSIONS)));
            let version = rng.i16(fetch::VERSIONS);
            drop(fetch_response::events(&mut FetchParser::with_chunk(16 * 1024), version, &body, || 100));
            let mut batch = body.to_vec();
            if batch.len() > 61 {
                batch[0] = 0;
                batch[8..12].copy_from_slice(&(body.len() as u32 - 12).to_be_bytes());
                batch[16] = 2;
                batch[23] = 0;
                batch[57..60].fill(0);
                drop(read_batches(batch.into()));
            }
        });
    });
}

/// Reads every record of every batch.
fn read_batches(mut bytes: Bytes) -> Result<usize, BatchError> {
    let mut scratch = Scratch::new();
    let mut seen = 0;
    while let Some(raw) = split_batch(&mut bytes)? {
        assert!(raw.next_offset() > raw.base_offset());
        drop(raw.verify_crc());
        let batch = raw.open(&mut scratch, LIMIT)?;
        drop(batch.control());
        let mut cursor = batch.cursor();
        while let Some(record) = batch.next(&mut cursor)? {
            seen += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
            let headers = record.headers.iter();
            let announced = headers.len();
            assert_eq!(headers.count(), announced, "headers were checked before they were handed out");
            assert!((batch.base_offset()..batch.next_offset()).contains(&record.offset));
        }
    }
    Ok(seen)
}

/// A few bytes changed, taken away, doubled; lengths and counts preferred, because that is where it hurts.
fn changed(bytes: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.usize(1..4) {
        if bytes.is_empty() {
            break;
        }
        let at = if rng.bool() { rng.usize(..bytes.len()) } else { rng.usize(..bytes.len().min(100)) };
        match rng.u8(..8) {
            0 => bytes[at] = 0xff,
            1 => bytes[at] = 0x7f,
            2 => bytes[at] = 0,
            3 => bytes[at] ^= 1 << rng.u8(..8),
            4 => bytes.truncate(at),
            5 => {
                let end = (at + 4).min(bytes.len());
                bytes[at..end].copy_from_slice(&rng.i32(..).to_be_bytes()[..end - at]);
            }
            6 => {
                bytes.insert(at, rng.u8(..));
            }
            _ => bytes[at] = rng.u8(..),
        }
    }
    bytes
}

/// Runs `work` and holds it to 40 times its input and 1 MiB.
fn bounded<T>(input: usize, work: impl FnOnce() -> T) -> T {
    let (result, usage) = measure(work);
    let bound = 40 * input + (1 << 20);
    assert!(usage.peak <= bound, "{} bytes were asked for by an input of {input}", usage.peak);
    result
}

fn each_round(test: &str, mut round: impl FnMut(&mut fastrand::Rng)) {
    let base: u64 = std::env::var("MILENA_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for seed in base..base + ROUNDS {
        let mut rng = fastrand::Rng::with_seed(seed);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| round(&mut rng))) {
            eprintln!("replay: MILENA_SEED={seed} cargo test -p milena-protocol --test hostile {test}");
            std::panic::resume_unwind(panic);
        }
    }
}
