//! How often the hot paths allocate: counted, not timed, so that a number that is not zero is a bug and not a bad day.

mod support;

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use milena_protocol::fetch::{FetchEvent, FetchParser};
use milena_protocol::records::*;
use support::alloc::{Counting, measure};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const RECORDS: usize = 1_000;
const KEY: &[u8] = &[b'k'; 16];
const VALUE: &[u8] = &[b'v'; 84];
const HEADERS: &[Header<'static>] =
    &[Header { key: b"trace", value: Some(b"0123456789abcdef") }, Header { key: b"source", value: None }];

#[test]
fn writing_a_batch_into_a_pooled_buffer_allocates_nothing() {
    let pooled = vec![0; 256 * 1024];
    let (buf, usage) = measure(|| batch(pooled).into_buf());
    assert_eq!(usage.allocations, 0);
    assert_eq!(buf.len(), 256 * 1024, "the pool gets its buffer back at full length");
}

#[test]
fn sharing_a_batch_with_a_connection_allocates_once_and_gives_the_buffer_back() {
    let sealed = batch(vec![0; 256 * 1024]);
    let memory = sealed.bytes().as_ptr();
    let (again, usage) = measure(|| {
        let frozen = sealed.freeze();
        let (first, retry) = (frozen.bytes(), frozen.bytes());
        drop((first, retry));
        frozen.thaw()
    });
    assert_eq!(usage.allocations, 1, "the reference count");
    assert_eq!(again.bytes().as_ptr(), memory);
    assert_eq!(again.into_buf().len(), 256 * 1024);
}

#[test]
fn reading_views_allocates_nothing() {
    let mut fetched = BytesMut::new();
    for _ in 0..3 {
        fetched.extend_from_slice(batch(vec![0; 256 * 1024]).bytes());
    }
    let chunk = fetched.split();
    let mut scratch = Scratch::new();
    let (read, usage) = measure(|| read(chunk.freeze(), &mut scratch));
    assert_eq!(read, 3 * RECORDS);
    assert_eq!(usage.allocations, 0);
}

#[test]
fn compressing_and_decompressing_with_kept_tables_and_buffers_allocates_nothing() {
    let codecs = Compression::ALL.into_iter().filter(|codec| codec.supported().is_ok());
    for codec in codecs.filter(|codec| *codec != Compression::None) {
        for level in codec.levels().map_or_else(|| vec![None], |levels| levels.map(Some).collect()) {
            let compressor = level.map(|level| Compressor::with_level(codec, level).expect("it is one of its levels"));
            let mut compressor = compressor.unwrap_or_else(|| Compressor::new(codec).expect("the feature is on"));
            let mut scratch = Scratch::new();
            let (mut plain, mut compressed) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
            let mut wire = BytesMut::with_capacity(1 << 20);
            for round in 0..6 {
                let ((a, b, read), usage) = measure(|| {
                    let (mut sealed, old) = batch(plain).compress(&mut compressor, compressed);
                    sealed.stamp(ProducerStamp::NONE);
                    wire.extend_from_slice(sealed.bytes());
                    let read = read(wire.split().freeze(), &mut scratch);
                    (old, sealed.into_buf(), read)
                });
                assert_eq!(read, RECORDS);
                // zstd keeps what it learns from its first batch in tables that it makes for the second.
                if round > 1 {
                    assert_eq!(usage.allocations, 0, "{codec} at level {level:?}, round {round}");
                }
                assert_eq!((a.len(), b.len()), (256 * 1024, 256 * 1024));
                (plain, compressed) = (a, b);
            }
            assert_eq!(scratch.pinned(), 0);
        }
    }
}

#[test]
fn parsing_responses_uses_the_same_chunks_for_ever_however_far_the_reader_lags() {
    let body = response(4);
    for lag in [0, 1, 7, 20] {
        let mut parser = FetchParser::new();
        let mut scratch = Scratch::new();
        let mut unread = VecDeque::with_capacity(lag + 1);
        for round in 0..20 {
            let (records, usage) = measure(|| respond(&mut parser, &body, &mut unread, &mut scratch));
            assert!(records == 4 * RECORDS || round * 4 <= lag);
            if round > 10 {
                assert_eq!(usage.allocations, 0, "round {round}, {lag} batches behind");
            }
        }
    }
}

#[test]
fn a_connection_to_which_nothing_comes_gives_its_chunks_back() {
    let (body, idle) = (response(4), response(0));
    let mut parser = FetchParser::new();
    let mut scratch = Scratch::new();
    let mut unread = VecDeque::with_capacity(21);
    unread.resize(20, None);
    for _ in 0..20 {
        respond(&mut parser, &body, &mut unread, &mut scratch);
    }
    unread.iter_mut().for_each(|batch| *batch = None);
    respond(&mut parser, &idle, &mut unread, &mut scratch);
    let (_, usage) = measure(|| respond(&mut parser, &body, &mut unread, &mut scratch));
    assert!(usage.allocations > 0, "the chunks were kept");
}

/// A Fetch response, version 18, with this many batches of [`RECORDS`] records.
fn response(batches: u32) -> BytesMut {
    let mut body = BytesMut::from(&[0; 1 + 4 + 2 + 4][..]);
    // One topic by id, one partition: index, error, three offsets, no aborted transactions, no replica, records.
    body.extend_from_slice(&[2]);
    body.extend_from_slice(&[7; 16]);
    body.extend_from_slice(&[2]);
    body.extend_from_slice(&[0; 4 + 2 + 3 * 8]);
    body.extend_from_slice(&[0]);
    body.extend_from_slice(&[0xff; 4]);
    let records = batch(vec![0; 256 * 1024]);
    let mut len = records.bytes().len() as u32 * batches + 1;
    while len >= 0x80 {
        body.extend_from_slice(&[len as u8 | 0x80]);
        len >>= 7;
    }
    body.extend_from_slice(&[len as u8]);
    for _ in 0..batches {
        body.extend_from_slice(records.bytes());
    }
    body.extend_from_slice(&[0, 0, 0]);
    body
}

/// Parses a response, and reads as many of the batches that wait as have come; the others go on waiting. Counts the records.
fn respond(
    parser: &mut FetchParser,
    body: &[u8],
    unread: &mut VecDeque<Option<RawBatch>>,
    scratch: &mut Scratch,
) -> usize {
    let lag = unread.capacity() - 1;
    let mut rest = body;
    let mut records = 0;
    parser.begin(18, body.len()).expect("version 18 is known");
    while !parser.is_done() {
        while let Some(event) = parser.next_event().expect("the response is sound") {
            if let FetchEvent::Batch(raw) = event {
                unread.push_back(Some(raw));
                if unread.len() > lag
                    && let Some(Some(raw)) = unread.pop_front()
                {
                    records += read(raw.bytes().clone(), scratch);
                }
            }
        }
        let wanted = parser.wanted();
        let buffer = parser.buffer();
        let (now, later) = rest.split_at((buffer.capacity() - buffer.len()).min(wanted));
        buffer.extend_from_slice(now);
        rest = later;
    }
    records
}

fn batch(buf: Vec<u8>) -> SealedBatch {
    let mut builder = BatchBuilder::new(buf, 8);
    for index in 0..RECORDS {
        let headers = if index % 2 == 0 { HEADERS } else { &[] };
        let appended = builder.append(1_790_000_000_000 + index as i64, Some(KEY), Some(VALUE), headers);
        assert_eq!(appended, Ok(index as u32));
    }
    let mut sealed = builder.seal();
    sealed.stamp(ProducerStamp { producer_id: 1, epoch: 2, base_sequence: 3, transactional: true });
    sealed
}

/// Reads all there is, headers included, and counts the records.
fn read(mut fetched: Bytes, scratch: &mut Scratch) -> usize {
    let mut records = 0;
    while let Some(raw) = split_batch(&mut fetched).expect("the batch is sound") {
        raw.verify_crc().expect("its checksum too");
        let batch = raw.open(scratch, 1 << 27).expect("and what is in it");
        let mut cursor = batch.cursor();
        while let Some(record) = batch.next(&mut cursor).expect("its records") {
            assert_eq!((record.key, record.value), (Some(KEY), Some(VALUE)));
            assert_eq!(record.headers.iter().len(), record.headers.iter().count());
            records += 1;
        }
    }
    records
}
