//! Batches as a real Kafka keeps them on disk (`golden/README.md` says how they were made).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use bytes::Bytes;
use milena_protocol::records::*;
use support::{Rec, read_all};

const TIME: i64 = 1_790_000_000_000;

#[test]
fn every_shape_of_a_record_is_read_as_java_wrote_it() {
    for (log, producer_id, sequences) in [(&plain(), -1, [-1, -1]), (&idempotent(), 0, [0, 5])] {
        let raws = split(log);
        let first = &raws[0];
        assert_eq!((first.base_offset(), first.last_offset(), first.count()), (0, 4, 5));
        assert_eq!((first.base_timestamp(), first.max_timestamp()), (TIME, TIME + 100_000));
        assert_eq!(first.leader_epoch(), 0, "the broker has set its epoch");
        assert!(!first.is_control() && !first.is_transactional() && !first.is_log_append_time());
        assert_eq!(first.compression(), Ok(Compression::None));
        let second = &raws[1];
        assert_eq!((second.base_offset(), second.last_offset(), second.count()), (5, 6, 2));
        for (raw, sequence) in raws.iter().zip(sequences) {
            let epoch = if producer_id < 0 { -1 } else { 0 };
            assert_eq!((raw.producer_id(), raw.producer_epoch(), raw.base_sequence()), (producer_id, epoch, sequence));
        }
        assert_eq!(records(&raws), every_shape());
    }
}

#[test]
fn the_same_records_give_the_same_bytes() {
    for log in [plain(), idempotent()] {
        let mut again = Vec::new();
        for raw in split(&log) {
            let batch = open(&raw);
            let mut builder = BatchBuilder::new(vec![0; 16 * 1024], 0);
            for record in read_all(&batch).unwrap() {
                let (key, value) = (record.key.as_deref(), record.value.as_deref());
                builder.append(record.timestamp, key, value, &record.headers()).unwrap();
            }
            let mut sealed = builder.seal();
            sealed.stamp(ProducerStamp {
                producer_id: raw.producer_id(),
                epoch: raw.producer_epoch(),
                base_sequence: raw.base_sequence(),
                transactional: raw.is_transactional(),
            });
            let mut bytes = sealed.bytes().to_vec();
            // What the broker sets, outside the checksum.
            bytes[0..8].copy_from_slice(&raw.base_offset().to_be_bytes());
            bytes[12..16].copy_from_slice(&raw.leader_epoch().to_be_bytes());
            again.extend(bytes);
        }
        assert_eq!(again, log);
    }
}

#[test]
fn log_append_time_is_the_brokers() {
    let raws = split(&append_time());
    for (raw, first) in raws.iter().zip([0, 5]) {
        assert!(raw.is_log_append_time());
        // The broker leaves the base timestamp of the producer.
        assert_eq!(raw.base_timestamp(), every_shape()[first].timestamp);
    }
    let mut expected = every_shape();
    for (index, record) in expected.iter_mut().enumerate() {
        record.timestamp = raws[usize::from(index >= 5)].max_timestamp();
        assert!(record.timestamp > TIME + 1_000_000);
    }
    assert_eq!(records(&raws), expected);
}

#[test]
#[cfg(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd"))]
fn every_codec_of_java_is_read_and_ours_begins_as_java_writes_it() {
    for (codec, log, alike) in [
        (Compression::Gzip, gzip(), 10),
        (Compression::Snappy, snappy(), 16),
        (Compression::Lz4, lz4(), 7),
        // Java's frame has a window and no content size, ours the other way round.
        (Compression::Zstd, zstd(), 4),
    ] {
        let raws = split(&log);
        let [raw] = &raws[..] else { panic!("{} batches of {codec}", raws.len()) };
        assert_eq!((raw.compression(), raw.count()), (Ok(codec), 2_000));
        assert_eq!((raw.base_offset(), raw.last_offset(), raw.leader_epoch()), (0, 1_999, 0));
        assert_eq!((raw.base_timestamp(), raw.max_timestamp()), (TIME, TIME + 1_999));
        assert_eq!((raw.producer_id() >= 0, raw.producer_epoch(), raw.base_sequence()), (true, 0, 0), "{codec}");
        assert!(!raw.is_control() && !raw.is_transactional() && !raw.is_log_append_time());
        let batch = open(raw);
        assert_eq!(read_all(&batch).unwrap(), lines(), "{codec}");
        let mut cursor = batch.cursor();
        for offset in 0..2_000 {
            assert_eq!(batch.next(&mut cursor).unwrap().unwrap().offset, offset);
        }

        let mut compressor = Compressor::new(codec).unwrap();
        let (sealed, _) = support::build(&lines(), 0).compress(&mut compressor, Vec::new());
        // The streams begin alike; what is in the blocks is each compressor's own way.
        assert_eq!(sealed.bytes()[61..61 + alike], raw.bytes()[61..61 + alike], "{codec}");
    }
}

#[test]
#[cfg(feature = "lz4")]
fn log_append_time_of_a_compressed_batch() {
    let stamped = &split(&append_time_lz4())[0];
    let batch = open(stamped);
    assert!(batch.is_log_append_time());
    let read = read_all(&batch).unwrap();
    assert!(read.iter().all(|record| record.timestamp == stamped.max_timestamp()));
    assert_eq!(read.last().unwrap().value, lines().last().unwrap().value);
}

#[test]
fn transactions_and_their_markers() {
    let raws = split(&transactions());
    let read: Vec<_> = raws
        .iter()
        .map(|raw| {
            let batch = open(raw);
            assert!(batch.is_transactional());
            let key = (!batch.is_control()).then(|| read_all(&batch).unwrap().remove(0).key.unwrap());
            (batch.base_offset(), batch.control().unwrap(), key)
        })
        .collect();
    let key = |key: &str| Some(key.as_bytes().to_vec());
    assert_eq!(
        read,
        [
            (0, None, key("kept")),
            (1, Some(Control::Commit), None),
            (2, None, key("dropped")),
            (3, Some(Control::Abort), None),
            (4, None, key("kept")),
            (5, Some(Control::Commit), None),
        ]
    );
    let epochs: Vec<_> = raws.iter().map(|raw| raw.producer_epoch()).collect();
    assert_eq!(epochs, [0, 1, 1, 2, 2, 3], "transaction version 2: every marker carries a new epoch");
    assert!(raws.iter().all(|raw| raw.producer_id() == raws[0].producer_id()));
}

#[test]
fn what_compaction_leaves() {
    let raws = split(&compacted());
    let shape: Vec<_> = raws.iter().map(|raw| (raw.base_offset(), raw.next_offset(), raw.count())).collect();
    assert_eq!(shape, [(0, 6, 2), (6, 10, 0), (10, 15, 5), (15, 16, 1)], "positions go on over what is gone");
    let mut kept = Vec::new();
    for raw in &raws {
        let batch = open(raw);
        let mut cursor = batch.cursor();
        while let Some(record) = batch.next(&mut cursor).unwrap() {
            kept.push((record.offset, record.key.unwrap().to_vec()));
        }
    }
    let keys: Vec<_> = kept.iter().map(|(offset, key)| (*offset, key[0])).collect();
    assert_eq!(keys, [(2, b'c'), (5, b'b'), (10, b'e'), (11, b'x'), (12, b'd'), (13, b'a'), (14, b'f'), (15, b'z')]);
}

/// What the compressed logs hold.
#[cfg(feature = "lz4")]
fn lines() -> Vec<Rec> {
    let line = |i| format!("line {i} {}", "of a text that repeats itself ".repeat(3));
    (0..2_000).map(|i| Rec::new(TIME + i).key(format!("key-{}", i % 10).as_bytes()).value(line(i).as_bytes())).collect()
}

fn every_shape() -> Vec<Rec> {
    vec![
        Rec::new(TIME).key(b"key").value(b"value"),
        Rec::new(TIME + 5).value(b"no key"),
        Rec::new(TIME - 5).key(b"").value(b""),
        Rec::new(TIME + 70).key(b"tombstone"),
        Rec::new(TIME + 100_000)
            .key(b"headers")
            .value(&[b'x'; 200])
            .header(b"trace", Some(b"abc"))
            .header(b"trace", Some(b"def"))
            .header(b"none", None)
            .header(b"", Some(b""))
            .header("ümläut".as_bytes(), Some("ß".as_bytes())),
        Rec::new(TIME + 200_000).key(&[b'k'; 64]).value(&[b'v'; 8192]),
        Rec::new(TIME + 200_001),
    ]
}

fn split(log: &Bytes) -> Vec<RawBatch> {
    let mut rest = log.clone();
    let mut raws = Vec::new();
    while let Some(raw) = split_batch(&mut rest).unwrap() {
        raw.verify_crc().unwrap();
        assert_eq!(u32::from_be_bytes(raw.bytes()[17..21].try_into().unwrap()), crc32c::crc32c(&raw.bytes()[21..]));
        raws.push(raw);
    }
    assert!(rest.is_empty());
    raws
}

fn open(raw: &RawBatch) -> Batch {
    raw.clone().open(&mut Scratch::new(), 1 << 27).unwrap()
}

fn records(raws: &[RawBatch]) -> Vec<Rec> {
    raws.iter().flat_map(|raw| read_all(&open(raw)).unwrap()).collect()
}

macro_rules! golden {
    ($($name:ident $file:literal)*) => {
        $(fn $name() -> Bytes {
            Bytes::from_static(include_bytes!(concat!("golden/", $file)))
        })*
    };
}

golden! {
    plain "plain.log"
    idempotent "idempotent.log"
    append_time "append-time.log"
    transactions "transactions.log"
    compacted "compacted.log"
}

#[cfg(feature = "lz4")]
golden! {
    append_time_lz4 "append-time-lz4.log"
}

#[cfg(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd"))]
golden! {
    gzip "gzip.log"
    snappy "snappy.log"
    lz4 "lz4.log"
    zstd "zstd.log"
}
