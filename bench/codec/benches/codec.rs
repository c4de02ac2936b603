//! Writing and reading record batches: ours beside kafka-protocol's, in one run, on the same records.
//!
//! Batches of 1,000 records with a key of 16 bytes and a value of 84, without headers and with two. An iteration is one batch, so a
//! time in µs per iteration is a time in ns per record. Both sides write into a buffer that is used again; ours stamps and
//! checksums, theirs checksums too. Theirs is measured twice: with its `Record`s built in the loop, as a producer must, and with
//! `Record`s that are there already.
//!
//! What is measured is the CPU time of the thread (`cpu_time.rs`), which a machine that does other things falsifies least. Criterion
//! measures one side after the other; because the machine may change in between, the last table (`interleaved.rs`) alternates between
//! the two sides every few milliseconds. Its ratios are the ones to quote.

mod cpu_time;
mod interleaved;

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression as TheirCompression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use milena_protocol::records::*;

use cpu_time::CpuTime;

const RECORDS: usize = 1_000;
const TIME: i64 = 1_790_000_000_000;
const HEADERS: [(&str, &[u8]); 2] = [("trace-id", b"0123456789abcdef0123456789abcdef"), ("source", b"checkout")];

fn write(c: &mut Criterion<CpuTime>) {
    let inputs = Input::all();
    for (headers, name) in [(0, "write, no headers"), (2, "write, 2 headers")] {
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(RECORDS as u64));
        let mut pooled = Some(vec![0; 256 * 1024]);
        group.bench_function("milena: append, seal, stamp", |b| {
            b.iter(|| {
                let sealed = ours(&inputs, headers, pooled.take().expect("it comes back"));
                black_box(sealed.bytes().len());
                pooled = Some(sealed.into_buf());
            });
        });
        let mut out = BytesMut::with_capacity(256 * 1024);
        for (copy, name) in [
            (true, "kafka-protocol: build Records from slices, encode"),
            (false, "kafka-protocol: build Records from Bytes, encode"),
        ] {
            group.bench_function(name, |b| {
                b.iter(|| {
                    let records = their_records(&inputs, headers, copy);
                    out.clear();
                    encode(&records, &mut out);
                    black_box(out.len());
                });
            });
        }
        let records = their_records(&inputs, headers, false);
        group.bench_function("kafka-protocol: encode built Records", |b| {
            b.iter(|| {
                out.clear();
                encode(&records, &mut out);
                black_box(out.len());
            });
        });
        group.finish();
    }
}

fn read(c: &mut Criterion<CpuTime>) {
    let inputs = Input::all();
    for (headers, name) in [(0, "read, no headers"), (2, "read, 2 headers")] {
        let bytes = Bytes::copy_from_slice(ours(&inputs, headers, vec![0; 256 * 1024]).bytes());
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(RECORDS as u64));
        group.bench_function("milena: split, CRC, views", |b| {
            let mut scratch = Scratch::new();
            b.iter(|| read_ours(bytes.clone(), true, &mut scratch));
        });
        group.bench_function("milena: split, views", |b| {
            let mut scratch = Scratch::new();
            b.iter(|| read_ours(bytes.clone(), false, &mut scratch));
        });
        group.bench_function("kafka-protocol: decode, drop", |b| {
            b.iter(|| {
                let set = RecordBatchDecoder::decode(&mut bytes.clone()).expect("the batch is sound");
                let mut seen = 0;
                for record in &set.records {
                    seen += record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len);
                    for (key, value) in &record.headers {
                        seen += key.len() + value.as_ref().map_or(0, Bytes::len);
                    }
                }
                black_box(seen)
            });
        });
        group.finish();
    }
}

/// What compression adds to a batch of text: 16 KiB is Java's default batch, 64 KiB ours under load.
fn codecs(c: &mut Criterion<CpuTime>) {
    for codec in Compression::ALL.into_iter().filter(|codec| *codec != Compression::None) {
        // The default level, and the highest.
        compression(c, codec, None);
        if let Some(levels) = codec.levels() {
            compression(c, codec, Some(*levels.end()));
        }
    }
}

fn compression(c: &mut Criterion<CpuTime>, codec: Compression, level: Option<i32>) {
    let at = level.map_or_else(String::new, |level| format!(" at level {level}"));
    for kib in [16, 64] {
        let name = format!("{codec}{at}, {kib} KiB");
        let mut group = c.benchmark_group(&name);
        let sealed = || text(kib * 1024);
        let plain = sealed().len();
        group.throughput(Throughput::Bytes(plain as u64));
        let compressor = level.map(|level| Compressor::with_level(codec, level).expect("it is one of its levels"));
        let mut compressor = compressor.unwrap_or_else(|| Compressor::new(codec).expect("the feature is on"));
        group.bench_function("compress", |b| {
            let mut kept = Some(vec![0; 256 * 1024]);
            b.iter_batched(
                sealed,
                |batch| {
                    let (batch, old) = batch.compress(&mut compressor, kept.take().expect("it comes back"));
                    kept = Some(batch.into_buf());
                    old
                },
                BatchSize::SmallInput,
            );
        });
        let (mut batch, _) = sealed().compress(&mut compressor, Vec::new());
        batch.stamp(ProducerStamp::NONE);
        println!("{name}: {plain} bytes become {}, ratio {:.2}", batch.len(), plain as f64 / batch.len() as f64);
        let bytes = Bytes::copy_from_slice(batch.bytes());
        group.bench_function("decompress", |b| {
            let mut scratch = Scratch::new();
            b.iter(|| {
                let raw = split_batch(&mut bytes.clone()).expect("sound").expect("whole");
                black_box(raw.open(&mut scratch, 1 << 27).expect("sound").count())
            });
        });
        group.finish();
    }
}

struct Input {
    key: [u8; 16],
    value: [u8; 84],
    /// Key and value, for those who need them counted.
    shared: Bytes,
}

impl Input {
    fn all() -> Vec<Self> {
        (0..RECORDS)
            .map(|i| {
                let key = std::array::from_fn(|j| (i + j) as u8);
                let value = std::array::from_fn(|j| (i * j) as u8);
                let mut shared = BytesMut::new();
                shared.extend_from_slice(&key);
                shared.extend_from_slice(&value);
                Self { key, value, shared: shared.freeze() }
            })
            .collect()
    }
}

fn ours(inputs: &[Input], headers: usize, buf: Vec<u8>) -> SealedBatch {
    let mut builder = BatchBuilder::new(buf, 8);
    for (i, input) in inputs.iter().enumerate() {
        let with = HEADERS.map(|(key, value)| Header { key: key.as_bytes(), value: Some(value) });
        let appended = builder.append(TIME + i as i64, Some(&input.key), Some(&input.value), &with[..headers]);
        black_box(appended.expect("there is room"));
    }
    let mut sealed = builder.seal();
    sealed.stamp(ProducerStamp { producer_id: 1, epoch: 0, base_sequence: 0, transactional: false });
    sealed
}

#[inline(never)]
fn read_ours(mut bytes: Bytes, crc: bool, scratch: &mut Scratch) -> usize {
    let mut seen = 0;
    while let Some(raw) = split_batch(&mut bytes).expect("the batch is sound") {
        if crc {
            raw.verify_crc().expect("its checksum too");
        }
        let batch = raw.open(scratch, 1 << 27).expect("and what is in it");
        let mut cursor = batch.cursor();
        while let Some(record) = batch.next(&mut cursor).expect("its records") {
            seen += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
            for header in record.headers {
                seen += header.key.len() + header.value.map_or(0, <[u8]>::len);
            }
        }
    }
    black_box(seen)
}

/// `copy`: as a producer must that is given borrowed slices; otherwise counted slices of one buffer, the cheapest form there is.
fn their_records(inputs: &[Input], headers: usize, copy: bool) -> Vec<Record> {
    let record = |(index, input): (usize, &Input)| Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: 1,
        producer_epoch: 0,
        timestamp_type: TimestampType::Creation,
        offset: index as i64,
        sequence: index as i32,
        timestamp: TIME + index as i64,
        key: Some(if copy { Bytes::copy_from_slice(&input.key) } else { input.shared.slice(..16) }),
        value: Some(if copy { Bytes::copy_from_slice(&input.value) } else { input.shared.slice(16..) }),
        headers: HEADERS[..headers]
            .iter()
            .map(|(key, value)| (StrBytes::from_static_str(key), Some(Bytes::from_static(value))))
            .collect::<IndexMap<_, _>>(),
    };
    inputs.iter().enumerate().map(record).collect()
}

fn encode(records: &[Record], out: &mut BytesMut) {
    let options = RecordEncodeOptions { version: 2, compression: TheirCompression::None };
    RecordBatchEncoder::encode(out, records, &options).expect("the records are sound");
}

fn text(len: usize) -> SealedBatch {
    let words = ["letter", "castle", "trial", "village", "clerk", "door", "burrow", "hunger"];
    let mut builder = BatchBuilder::new(vec![0; 256 * 1024], 8);
    let mut state = 1u32;
    let mut line = String::new();
    while builder.len() < len {
        line.clear();
        while line.len() < 100 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            line.push_str(words[(state >> 24) as usize % words.len()]);
            line.push_str(&format!(" {} ", state >> 20));
        }
        builder.append(TIME, None, Some(line.as_bytes()), &[]).expect("there is room");
    }
    builder.seal()
}

criterion_group! {
    name = codec;
    config = Criterion::default().with_measurement(CpuTime);
    targets = write, read, codecs
}

fn main() {
    codec();
    Criterion::default().configure_from_args().final_summary();
    interleaved::print();
}
