//! Nothing from the network may panic, or allocate by its word alone: record batches of every codec, and responses in pieces.
//!
//! Cases are drawn from seeds, as in `main.rs`: sizes are log-uniform, some are large.

use bytes::Bytes;
use milena_protocol::fetch::{self, FetchEvent, FetchParser};
use milena_protocol::produce::{self, Produced};
use milena_protocol::records::*;

use crate::generate::Generated;
use crate::mutate::mutate;
use crate::support::alloc::measure;
use crate::support::cases::{Cases, any_size, bounded, log_uniform};
use crate::support::{build, fetch_response, produce_response, records_of, text};

/// What decompression may give in these tests.
const LIMIT: usize = 2 << 20;
/// What a codec may take beside its output: its tables, and what it has read and not yet given.
const TABLES: usize = 1 << 20;
/// Changed batches of each valid one.
const VARIANTS: usize = 4;

/// How many batches of a codec were read, too large, refused.
type Outcomes = [[u32; 3]; 5];

const BATCHES: Cases = cases("-p milena-protocol --test hostile changed_batches");

#[test]
fn changed_batches_of_every_codec_take_no_more_than_the_limit_whatever_they_say() {
    let talk = BATCHES.is_replay();
    let outcomes: Outcomes = BATCHES.run(
        |rng, outcomes: &mut Outcomes| {
            let codec = Compression::ALL[rng.usize(..Compression::ALL.len())];
            let Ok(mut compressor) = Compressor::new(codec) else { return };
            let valid = batch(rng, &mut compressor);
            if talk {
                println!("{codec}, {} bytes", valid.bytes.len());
            }
            let read = outcome(codec, valid.bytes.clone());
            assert!(read.as_ref().is_none_or(Result::is_ok), "a valid batch of {codec}: {read:?}");
            for _ in 0..VARIANTS {
                let bytes = if rng.u8(..4) == 0 { mutate(rng, &valid) } else { with_another_stream(rng, &valid) };
                let read = outcome(codec, bytes);
                if talk {
                    println!("{read:?}");
                }
                let outcome = match read {
                    Some(Ok(_)) => 0,
                    None => 1,
                    Some(Err(_)) => 2,
                };
                outcomes[codec as usize][outcome] += 1;
            }
        },
        |sum, part| sum.iter_mut().flatten().zip(part.into_iter().flatten()).for_each(|(sum, part)| *sum += part),
    );
    println!("read, too large, refused: {outcomes:?}");
    if BATCHES.is_wide() {
        for codec in Compression::ALL.into_iter().filter(|codec| codec.supported().is_ok()) {
            let [read, too_large, refused] = outcomes[codec as usize];
            assert!(read > 20 && refused > 100, "{codec}: some changes are noticed, some are not");
            assert!(codec == Compression::None || too_large > 5, "{codec}: bombs");
        }
    }
}

/// Records of about some size, or a bomb: megabytes of one byte, which are some hundred bytes on the wire.
fn batch(rng: &mut fastrand::Rng, compressor: &mut Compressor) -> Generated {
    let is_bomb = rng.u8(..16) == 0;
    let sealed = if rng.bool() && !is_bomb {
        build(&records_of(rng.u64(..), rng.usize(1..30)), 0)
    } else {
        let size = if is_bomb { rng.usize(LIMIT / 2..3 * LIMIT) } else { any_size(rng) };
        let values = if is_bomb || rng.u8(..3) == 0 { vec![rng.u8(..); size] } else { text(size) };
        let mut builder = BatchBuilder::new(vec![0; 2 * size + 1000], 0);
        let mut left = size;
        while left > 0 {
            // One long record or many short ones.
            let len = if is_bomb { left } else { log_uniform(rng, 1.max(left / 1000), left + 1) };
            if builder.append(0, None, Some(&values[left - len..left]), &[]).is_err() {
                break;
            }
            left -= len;
        }
        builder.seal()
    };
    let (mut sealed, _) = sealed.compress(compressor, Vec::new());
    sealed.stamp(ProducerStamp::NONE);
    // Length; magic; attributes and last offset delta; count and the first bytes of the records.
    Generated { bytes: sealed.bytes().to_vec(), spots: vec![8..12, 16..17, 21..27, 57..63] }
}

/// The records' bytes are changed, and the batch says their new length: the change gets as far as the codec.
fn with_another_stream(rng: &mut fastrand::Rng, valid: &Generated) -> Vec<u8> {
    let (header, stream) = valid.bytes.split_at(61);
    // Where codecs have their headers and trailers.
    let len = stream.len();
    let spots = vec![0..len.min(4), len.min(4)..len.min(12), len - len.min(8)..len];
    let stream = mutate(rng, &Generated { bytes: stream.to_vec(), spots });
    let mut bytes = [header, &stream].concat();
    let length = bytes.len() as i32 - 12;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// Reads the batches and holds them to their cap; `None` is more than the limit.
fn outcome(codec: Compression, bytes: Vec<u8>) -> Option<Result<usize, BatchError>> {
    let len = bytes.len();
    let (read, usage) = measure(|| read_batches(bytes.into()));
    let peak = len + usage.peak;
    // What a batch says may have turned an uncompressed one into a compressed one.
    assert!(peak <= (40 * len).max(LIMIT) + TABLES + len, "{codec}: {len} bytes took {peak} bytes of memory");
    match read {
        Err(BatchError::TooLarge { limit, .. }) if limit == LIMIT => None,
        read => Some(read),
    }
}

const fn cases(command: &'static str) -> Cases {
    Cases { command, count: 3_000, regressions: &[] }
}

#[test]
fn changed_fetch_responses() {
    each_case(&cases("-p milena-protocol --test hostile changed_fetch_responses"), |rng| {
        let version = rng.i16(fetch::VERSIONS);
        let (body, _) = fetch_response::response(version, rng.u64(..));
        let body = changed(body, rng);
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
    each_case(&cases("-p milena-protocol --test hostile changed_produce_responses"), |rng| {
        let version = rng.i16(produce::VERSIONS);
        let (body, _) = produce_response::response(version, rng.u64(..));
        let body = Bytes::from(changed(body, rng));
        bounded(body.len(), || drop(Produced::decode(&body, version)));
    });
}

#[test]
fn noise() {
    each_case(&cases("-p milena-protocol --test hostile own::noise"), |rng| {
        let size = any_size(rng);
        let body: Bytes = (0..size).map(|_| if rng.u8(..3) == 0 { rng.u8(..) } else { 0 }).collect();
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

/// Some bytes changed; half of the changes hit the head, where lengths and counts are.
fn changed(bytes: impl Into<Vec<u8>>, rng: &mut fastrand::Rng) -> Vec<u8> {
    let bytes = bytes.into();
    let at = rng.usize(..bytes.len().clamp(1, 100)).min(bytes.len());
    let end = bytes.len().min(at + 4);
    mutate(rng, &Generated { bytes, spots: std::iter::once(at..end).collect() })
}

fn each_case(cases: &Cases, case: impl Fn(&mut fastrand::Rng) + Sync) {
    cases.run(|rng, ()| case(rng), |(), ()| {});
}
