//! Record batches from outside: what is appended is what is read, and another implementation agrees.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use bytes::{Bytes, BytesMut};
use kafka_protocol::records::{
    Compression as TheirCompression, Record as TheirRecord, RecordBatchDecoder, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType,
};
use milena_protocol::records::*;
use support::{Rec, build, built, read_all, records_of};

const LIMIT: usize = 1 << 27;

#[test]
fn what_is_appended_is_what_is_read() {
    let records = [
        Rec::new(1_000).key(b"k").value(b"v"),
        Rec::new(1_000).value(b""),
        Rec::new(999).key(b""),
        Rec::new(-1).key(b"k").value(b"v").header(b"a", Some(b"x")).header(b"a", None).header(b"", Some(b"")),
        Rec::new(i64::MAX).header(b"\xff\xfe not UTF-8", Some(b"\x00")),
        Rec::new(i64::MIN),
    ];
    let mut bytes = built(&records);
    let raw = split_batch(&mut bytes).unwrap().unwrap();
    assert_eq!((raw.base_offset(), raw.last_offset(), raw.next_offset(), raw.count()), (0, 5, 6, 6));
    assert_eq!((raw.base_timestamp(), raw.max_timestamp()), (1_000, i64::MAX));
    assert_eq!((raw.producer_id(), raw.producer_epoch(), raw.base_sequence()), (-1, -1, -1));
    assert_eq!(raw.leader_epoch(), -1);
    assert!(!raw.is_control() && !raw.is_transactional() && !raw.is_log_append_time() && !raw.has_delete_horizon());
    raw.verify_crc().unwrap();
    let batch = raw.open(&mut Scratch::new(), LIMIT).unwrap();
    assert_eq!(read_all(&batch).unwrap(), records);
    assert!(split_batch(&mut bytes).unwrap().is_none());
}

#[test]
fn the_announced_size_of_a_record_is_what_it_takes() {
    let mut builder = BatchBuilder::new(vec![0; 1 << 20], 8);
    for record in records_of(7, 300) {
        let headers = record.headers();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let size = builder.record_size(record.timestamp, key, value, &headers);
        let before = builder.len();
        assert!(builder.has_room(size));
        builder.append(record.timestamp, key, value, &headers).unwrap();
        assert_eq!(builder.len() - before, size);
    }
}

#[test]
fn a_record_that_does_not_fit_changes_nothing_until_the_batch_has_grown() {
    let mut builder = BatchBuilder::new(vec![0; 100], 8);
    assert_eq!(builder.append(5, None, Some(b"first"), &[]), Ok(0));
    let len = builder.len();
    let refused = builder.append(5, None, Some(&[7; 50]), &[]).unwrap_err();
    assert_eq!(refused.needed, builder.record_size(5, None, Some(&[7; 50]), &[]));
    assert_eq!((builder.len(), builder.count()), (len, 1));
    builder.grow(8 + len + refused.needed);
    assert_eq!(builder.append(5, None, Some(&[7; 50]), &[]), Ok(1));
    assert_eq!(builder.room(), 0);
    let mut sealed = builder.seal();
    sealed.stamp(ProducerStamp::NONE);
    let batch = open(Bytes::copy_from_slice(sealed.bytes()));
    assert_eq!(read_all(&batch).unwrap()[1].value.as_deref(), Some(&[7; 50][..]));
}

#[test]
fn a_batch_can_be_stamped_again_and_its_head_room_is_left_alone() {
    let mut sealed = build(&records_of(1, 10), 16);
    sealed.head_room().fill(0xaa);
    for (epoch, transactional) in [(0, false), (1, true), (2, false)] {
        let stamp = ProducerStamp { producer_id: 4711, epoch, base_sequence: i32::MAX - 2, transactional };
        sealed.stamp(stamp);
        let frozen = sealed.freeze();
        let raw = split_batch(&mut frozen.bytes()).unwrap().unwrap();
        raw.verify_crc().unwrap();
        assert_eq!((raw.producer_id(), raw.producer_epoch(), raw.base_sequence()), (4711, epoch, i32::MAX - 2));
        assert_eq!(raw.is_transactional(), transactional);
        assert_eq!(raw.count(), frozen.count());
        drop(raw);
        sealed = frozen.thaw();
    }
    assert_eq!(&sealed.into_buf()[..16], &[0xaa; 16]);
}

#[test]
fn a_request_that_is_still_being_written_does_not_change_when_its_batch_is_stamped_again() {
    let mut sealed = build(&records_of(2, 10), 0);
    sealed.stamp(ProducerStamp { producer_id: 1, epoch: 0, base_sequence: 0, transactional: false });
    let frozen = sealed.freeze();
    let in_flight = frozen.bytes();
    let before = in_flight.to_vec();
    let mut sealed = frozen.thaw();
    sealed.stamp(ProducerStamp { producer_id: 1, epoch: 1, base_sequence: 0, transactional: false });
    assert_eq!(in_flight, before);
    assert_ne!(sealed.bytes(), before);
}

#[test]
fn several_batches_lie_in_one_buffer_and_the_last_may_be_cut_anywhere() {
    let (first, second) = (built(&records_of(3, 3)), built(&records_of(4, 2)));
    for cut in 0..second.len() {
        let mut buf = Bytes::from([&first[..], &first[..], &second[..cut]].concat());
        assert!(split_batch(&mut buf).unwrap().is_some());
        assert!(split_batch(&mut buf).unwrap().is_some());
        assert!(split_batch(&mut buf).unwrap().is_none());
        assert_eq!(buf.len(), cut);
    }
}

#[test]
fn with_log_append_time_every_record_has_the_brokers_timestamp() {
    let records = records_of(5, 20);
    let mut bytes = BytesMut::from(&built(&records)[..]);
    bytes[22] |= 1 << 3;
    bytes[35..43].copy_from_slice(&123_456i64.to_be_bytes());
    let batch = open(bytes.freeze());
    assert!(batch.is_log_append_time());
    assert!(read_all(&batch).unwrap().iter().all(|record| record.timestamp == 123_456));
}

#[test]
fn a_batch_emptied_by_compaction_moves_the_position_on() {
    let mut bytes = BytesMut::from(&built(&records_of(6, 9))[..61]);
    bytes[0..8].copy_from_slice(&1_000i64.to_be_bytes());
    bytes[8..12].copy_from_slice(&49i32.to_be_bytes());
    bytes[57..61].copy_from_slice(&0i32.to_be_bytes());
    for codec in [0, 3] {
        bytes[22] = codec;
        let batch = open(bytes.clone().freeze());
        assert_eq!((batch.count(), batch.last_offset(), batch.next_offset()), (0, 1_008, 1_009));
        assert!(batch.next(&mut batch.cursor()).unwrap().is_none());
    }
}

#[test]
fn a_batch_with_holes_keeps_its_offsets() {
    // Offsets 100, 103, 109 of what was 100 ..= 109: the other implementation writes what compaction leaves.
    let mut records: Vec<_> = [100i64, 103, 109].map(|offset| their_record(offset, &Rec::new(5).value(b"v"))).into();
    records.iter_mut().for_each(|record| record.sequence = record.offset as i32);
    let batch = open(their_batch(&records));
    let mut cursor = batch.cursor();
    let mut offsets = Vec::new();
    while let Some(record) = batch.next(&mut cursor).unwrap() {
        offsets.push(record.offset);
    }
    assert_eq!(offsets, [100, 103, 109]);
    assert_eq!(batch.next_offset(), 110);
}

#[test]
fn control_batches_say_what_they_mark() {
    for (kind, expected) in [(0i16, Control::Abort), (1, Control::Commit), (2, Control::Other(2))] {
        let key = [0i16.to_be_bytes(), kind.to_be_bytes()].concat();
        let mut bytes = BytesMut::from(&built(&[Rec::new(1).key(&key).value(&[0; 6])])[..]);
        bytes[22] |= 1 << 4 | 1 << 5;
        let batch = open(bytes.freeze());
        assert!(batch.is_control() && batch.is_transactional());
        assert_eq!(batch.control(), Ok(Some(expected)));
    }
    let batch = open(built(&records_of(8, 1)));
    assert_eq!(batch.control(), Ok(None));
}

#[test]
fn old_formats_are_refused_with_a_sentence() {
    for magic in [0, 1] {
        let mut bytes = BytesMut::zeroed(40);
        bytes[16] = magic;
        let error = split_batch(&mut bytes.freeze()).unwrap_err();
        assert_eq!(error, BatchError::OldFormat { magic: magic as i8 });
        assert!(error.to_string().contains(&format!("message format {magic}")), "{error}");
    }
    let mut bytes = BytesMut::zeroed(40);
    bytes[16] = 3;
    assert_eq!(split_batch(&mut bytes.freeze()), Err(BatchError::UnknownFormat { magic: 3 }));
}

#[test]
fn codecs_have_kafkas_names_and_a_number_that_nobody_knows_is_refused() {
    let mut bytes = BytesMut::from(&built(&records_of(9, 3))[..]);
    bytes[22] |= 7;
    let raw = split_batch(&mut bytes.freeze()).unwrap().unwrap();
    let error = raw.open(&mut Scratch::new(), LIMIT).unwrap_err();
    assert!(error.to_string().contains("number 7"), "{error}");
    for codec in Compression::ALL {
        assert_eq!(codec.name().parse(), Ok(codec));
    }
    assert!("brotli".parse::<Compression>().unwrap_err().contains("brotli"));
}

#[test]
fn damage_is_found_by_the_checksum() {
    let good = built(&records_of(10, 5));
    for at in 21..good.len() {
        let mut bytes = BytesMut::from(&good[..]);
        bytes[at] ^= 0x10;
        if let Ok(Some(raw)) = split_batch(&mut bytes.freeze()) {
            assert!(matches!(raw.verify_crc(), Err(BatchError::Crc { .. })), "byte {at}");
        }
    }
}

#[test]
fn the_checksum_is_crc32c_by_another_implementation_too() {
    for seed in 0..50 {
        let bytes = built(&records_of(seed, 1 + seed as usize * 7));
        assert_eq!(u32::from_be_bytes(bytes[17..21].try_into().unwrap()), crc32c::crc32c(&bytes[21..]));
    }
}

#[test]
fn bytes_left_over_in_a_record_or_behind_the_last_are_errors() {
    // length 7 instead of 6: one byte behind the header count
    for (records, reason) in [
        (&[14, 0, 0, 0, 1, 1, 0, 99][..], "behind the last field"),
        (&[12, 0, 0, 0, 1, 1, 0, 99][..], "behind its last record"),
        (&[12, 0, 0, 0, 1, 1, 2, 0, 0][..], "headers"),
        (&[12, 0, 0, 2, 1, 1, 0][..], "outside its batch"),
        (&[12, 0, 0, 1, 1, 1, 0][..], "outside its batch"),
        (&[12, 0, 0, 0, 3, 1, 0][..], "negative length"),
        (&[12, 0, 0, 0, 1, 1, 1][..], "header count is negative"),
        (&[14, 0, 0, 0, 1, 1, 4, 0][..], "more headers"),
        (&[16, 0, 0, 0, 1, 1, 2, 1, 1][..], "key is null"),
        (&[40, 0, 0, 0, 1, 1, 0][..], "cut off"),
        (&[1, 0, 0, 0, 1, 1, 0][..], "length is negative"),
        (&[6, 0, 0, 0, 1, 1, 0][..], "shorter than its fields"),
    ] {
        let mut bytes = BytesMut::from(&built(&[Rec::new(0)])[..61]);
        bytes.extend_from_slice(records);
        let length = bytes.len() as i32 - 12;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        let batch = open(bytes.freeze());
        let error = read_all(&batch).unwrap_err().to_string();
        assert!(error.contains(reason), "{records:?}: {error}");
    }
}

#[test]
fn counts_that_the_bytes_cannot_hold_are_refused_before_anything_is_read() {
    let mut bytes = BytesMut::from(&built(&records_of(11, 4))[..]);
    bytes[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
    let raw = split_batch(&mut bytes.clone().freeze()).unwrap().unwrap();
    assert!(raw.open(&mut Scratch::new(), LIMIT).unwrap_err().to_string().contains("more records"));
    bytes[57] = 0xff;
    assert!(split_batch(&mut bytes.freeze()).unwrap_err().to_string().contains("count is negative"));
}

#[test]
fn a_place_gives_the_same_record_as_the_walk() {
    let batch = open(built(&records_of(12, 50)));
    let (mut a, mut b) = (batch.cursor(), batch.cursor());
    while let Some(view) = batch.next(&mut a).unwrap() {
        let place = batch.next_place(&mut b).unwrap().unwrap();
        assert_eq!(Rec::from(view), Rec::from(batch.view(&place)));
    }
    assert_eq!(a, b);
}

#[test]
fn the_last_header_of_a_key_is_the_one_that_counts() {
    let batch = open(built(&[Rec::new(1).header(b"a", Some(b"x")).header(b"b", None).header(b"a", Some(b"y"))]));
    let record = batch.next(&mut batch.cursor()).unwrap().unwrap();
    assert_eq!(record.headers.last("a").unwrap().value, Some(&b"y"[..]));
    assert_eq!(record.headers.last(b"b").unwrap().value, None);
    assert!(record.headers.last("c").is_none());
    assert_eq!(record.headers.iter().len(), 3);
}

#[test]
fn another_implementation_reads_what_we_write() {
    for seed in 0..200 {
        let records = oracle_safe(records_of(seed, 1 + seed as usize % 40));
        let mut sealed = build(&records, 0);
        let stamp =
            ProducerStamp { producer_id: 77, epoch: 3, base_sequence: seed as i32, transactional: seed % 2 == 0 };
        sealed.stamp(stamp);
        let mut bytes = Bytes::copy_from_slice(sealed.bytes());
        let theirs = RecordBatchDecoder::decode(&mut bytes).unwrap();
        assert_eq!(theirs.records.len(), records.len());
        for (index, (theirs, ours)) in theirs.records.iter().zip(&records).enumerate() {
            let mut expected = their_record(index as i64, ours);
            expected.producer_id = 77;
            expected.producer_epoch = 3;
            expected.sequence = seed as i32 + index as i32;
            expected.transactional = stamp.transactional;
            assert_eq!(*theirs, expected, "seed {seed}, record {index}");
        }
    }
}

#[test]
fn we_read_what_another_implementation_writes_and_write_the_same_bytes() {
    for seed in 0..200 {
        let mut records = oracle_safe(records_of(seed, 1 + seed as usize % 40));
        // Its base timestamp is the smallest one, ours (and Java's) the first: the same if time goes forward.
        records.sort_by_key(|record| record.timestamp);
        let theirs: Vec<_> =
            records.iter().enumerate().map(|(index, record)| their_record(index as i64, record)).collect();
        let bytes = their_batch(&theirs);
        let batch = open(bytes.clone());
        assert_eq!(read_all(&batch).unwrap(), records, "seed {seed}");

        let mut ours = BytesMut::from(&built(&records)[..]);
        // It numbers sequences whether the producer is idempotent or not.
        ours[53..57].copy_from_slice(&bytes[53..57]);
        let crc = crc32c::crc32c(&ours[21..]);
        ours[17..21].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(ours, bytes, "seed {seed}");
    }
}

fn open(mut bytes: Bytes) -> Batch {
    split_batch(&mut bytes).unwrap().unwrap().open(&mut Scratch::new(), LIMIT).unwrap()
}

/// What the other implementation cannot hold: duplicate header keys, header keys that are not UTF-8, timestamps far apart.
fn oracle_safe(mut records: Vec<Rec>) -> Vec<Rec> {
    for record in &mut records {
        record.timestamp &= 0xff_ffff_ffff;
        let mut seen = std::collections::BTreeSet::new();
        record.headers.retain(|(key, _)| std::str::from_utf8(key).is_ok() && seen.insert(key.clone()));
    }
    records
}

fn their_record(offset: i64, record: &Rec) -> TheirRecord {
    TheirRecord {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset,
        sequence: offset as i32,
        timestamp: record.timestamp,
        key: record.key.clone().map(Bytes::from),
        value: record.value.clone().map(Bytes::from),
        headers: record
            .headers
            .iter()
            .map(|(key, value)| (String::from_utf8(key.clone()).unwrap().into(), value.clone().map(Bytes::from)))
            .collect(),
    }
}

fn their_batch(records: &[TheirRecord]) -> Bytes {
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: TheirCompression::None };
    RecordBatchEncoder::encode(&mut bytes, records, &options).unwrap();
    bytes.freeze()
}
