//! Our own decoders: Produce responses, Fetch responses in pieces, record batches whatever their checksum says.
//!
//! The first byte chooses the decoder, the second one the version and the size of the pieces.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use milena_protocol::fetch::{self, FetchEvent, FetchParser};
use milena_protocol::produce::{self, Produced};
use milena_protocol::records::{RawBatch, Scratch, split_batch};

fuzz_target!(|data: &[u8]| {
    let [which, choice, body @ ..] = data else { return };
    match which % 3 {
        0 => {
            let version = among(*choice, produce::VERSIONS);
            let _ = Produced::decode(&Bytes::copy_from_slice(body), version);
        }
        1 => parse_fetch(body, among(*choice, fetch::VERSIONS), usize::from(*choice).pow(2) + 1),
        _ => {
            let mut bytes = Bytes::copy_from_slice(body);
            while let Ok(Some(batch)) = split_batch(&mut bytes) {
                read(batch);
            }
        }
    }
});

fn parse_fetch(mut body: &[u8], version: i16, piece: usize) {
    let mut parser = FetchParser::with_chunk(16 * 1024);
    if parser.begin(version, body.len()).is_err() {
        return;
    }
    loop {
        loop {
            match parser.next_event() {
                Ok(Some(FetchEvent::Batch(batch))) => read(batch),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        if parser.is_done() {
            return;
        }
        let wanted = parser.wanted();
        let buffer = parser.buffer();
        let len = wanted.min(buffer.capacity() - buffer.len()).min(piece).min(body.len());
        assert!(len > 0, "the whole body is there, and the parser still waits");
        buffer.extend_from_slice(&body[..len]);
        body = &body[len..];
    }
}

/// Goes through all records.
fn read(batch: RawBatch) {
    let _ = batch.verify_crc();
    let Ok(batch) = batch.open(&mut Scratch::new(), 1 << 20) else { return };
    let mut cursor = batch.cursor();
    while let Ok(Some(record)) = batch.next(&mut cursor) {
        assert_eq!(record.headers.iter().count(), record.headers.len());
    }
    let _ = batch.control();
}

fn among(choice: u8, versions: std::ops::RangeInclusive<i16>) -> i16 {
    versions.start() + i16::from(choice) % (versions.end() - versions.start() + 1)
}
