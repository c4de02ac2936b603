//! What cannot be read, and the way past it: the error names partition and offset, comes again until the user moves on, keeps no other
//! partition waiting, and says where to go on; what is left out then is exactly what it named. In virtual time.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use milena_client::protocol::records::Compression;
use milena_client::serde::Text;
use milena_client::{Error, ErrorKind};
use milena_consumer::{
    BatchError, OffsetGone, OffsetReset, PartitionConsumer, PartitionConsumerBuilder, ReadError, StartAt,
    UnreadableBatch,
};
use milena_testkit::{Cluster, ClusterBuilder, ErrorCode};

use crate::common::{Seen, World, batch, batch_of, tp, within};

const WAIT: Duration = Duration::from_secs(5);
/// Where the header has them.
const MAGIC: usize = 16;
const ATTRIBUTES: usize = 22;
const LAST_OFFSET_DELTA: Range<usize> = 23..27;
const RECORDS: usize = 61;

/// Partition 0 has the batches 0 to 4, `middle`, and five more records; partition 1 has thirty records and is sound.
async fn with_middle(middle: Bytes) -> World {
    middle_in(Cluster::builder(), middle).await
}

async fn middle_in(cluster: ClusterBuilder, middle: Bytes) -> World {
    let world = World::new(cluster.brokers(1).topic("t", 2)).await;
    world.write("t", 0, 0..5).await;
    world.write_batch("t", 0, middle).await;
    world.write("t", 0, 1000..1005).await;
    for start in [0, 10, 20] {
        world.write("t", 1, start..start + 10).await;
    }
    world
}

/// The batch 5 to 9, of records of eight bytes, is changed on the broker's disk.
async fn spoiled(change: impl FnOnce(&mut [u8])) -> World {
    let world = with_middle(batch(5..10, Compression::None)).await;
    assert!(world.cluster.spoil("t", 0, 5, change));
    world
}

/// Reads in every way until the error has come from each of them, and all that is sound has been read.
async fn read_up_to(consumer: &mut PartitionConsumer, sound: i64) -> (Seen, Error) {
    let mut seen = Seen::default();
    let mut errors = Vec::new();
    while errors.len() < 9 || seen.count() < 30 + sound as usize {
        assert!(errors.len() < 100, "only {} records are read", seen.count());
        match within("recv", consumer.recv()).await {
            Ok(record) => seen.note(record.unwrap()),
            Err(error) => errors.push(error),
        }
        match within("poll", consumer.poll(WAIT)).await {
            Ok(records) => records.iter().for_each(|record| seen.note(record)),
            Err(error) => errors.push(error),
        }
        match within("stream", consumer.stream().next()).await.unwrap() {
            Ok(record) => seen.note(record.as_view()),
            Err(error) => errors.push(error),
        }
    }
    assert_eq!(seen.offsets("t", 0), (0..sound).collect::<Vec<_>>());
    assert_eq!(seen.offsets("t", 1), (0..30).collect::<Vec<_>>(), "the other partition goes on");
    let error = errors.pop().unwrap();
    assert!(errors.iter().all(|other| other.to_string() == error.to_string()), "it is the same every time: {errors:?}");
    assert_eq!((error.topic_partition(), error.offset()), (Some(&tp("t", 0)), Some(sound)), "{error}");
    assert_eq!(consumer.handle().position(&tp("t", 0)), Some(sound), "the position stays");
    (seen, error)
}

/// All of the batch from `sound` on is unreadable; behind `end` reading goes on.
async fn check_batch(builder: PartitionConsumerBuilder, sound: i64, end: i64) -> (ErrorKind, BatchError) {
    let mut consumer = builder.build().await.unwrap();
    let (_, error) = read_up_to(&mut consumer, sound).await;
    let batch = UnreadableBatch::of(&error).unwrap();
    assert_eq!((batch.offset, batch.next_offset), (sound, Some(end)));
    let text = error.to_string();
    assert!(text.contains(&format!("offsets {sound} to {} ", end - 1)), "{text}");
    assert!(text.contains(&format!("seek to offset {end}.")), "{text}");
    go_on(&mut consumer, end).await;
    (error.kind(), batch.cause.clone())
}

async fn go_on(consumer: &mut PartitionConsumer, end: i64) {
    consumer.handle().seek(&tp("t", 0), StartAt::Offset(end)).unwrap();
    let mut rest = Seen::default();
    while rest.count() < 5 {
        rest.note(within("the rest", consumer.recv()).await.unwrap().unwrap());
    }
    assert_eq!(rest.offsets("t", 0), (end..end + 5).collect::<Vec<_>>());
    assert_eq!(rest.values("t", 0), (1000..1005).collect::<Vec<_>>());
    assert!(consumer.poll(WAIT).await.unwrap().is_empty(), "no error is left");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_batch() {
    let world = spoiled(|bytes| *bytes.last_mut().unwrap() ^= 1).await;
    let (kind, cause) = check_batch(world.reader("t", 0..2), 5, 10).await;
    assert_eq!(kind, ErrorKind::Malformed);
    assert!(matches!(cause, BatchError::Crc { base_offset: 5, .. }));
}

/// One bit makes a marker of it, and markers are passed over unread.
#[tokio::test(start_paused = true)]
async fn a_damaged_header_that_hides_records() {
    let world = spoiled(|bytes| bytes[ATTRIBUTES] |= 0x20).await;
    let (kind, cause) = check_batch(world.reader("t", 0..2), 5, 10).await;
    assert_eq!(kind, ErrorKind::Malformed);
    assert!(matches!(cause, BatchError::Crc { base_offset: 5, .. }));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_decompresses_beyond_the_limit() {
    let world = with_middle(batch(5..205, Compression::Lz4)).await;
    let (kind, cause) = check_batch(world.reader("t", 0..2).max_batch_bytes(1000), 5, 205).await;
    assert_eq!((kind, cause), (ErrorKind::Limit, BatchError::TooLarge { base_offset: 5, limit: 1000 }));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_does_not_decompress() {
    let world = with_middle(batch(5..205, Compression::Lz4)).await;
    world.cluster.spoil("t", 0, 5, |bytes| bytes[RECORDS] ^= 1);
    let (kind, cause) = check_batch(world.reader("t", 0..2).check_crcs(false), 5, 205).await;
    assert_eq!(kind, ErrorKind::Malformed);
    assert!(matches!(cause, BatchError::Decompress { codec: "lz4", base_offset: 5, .. }), "{cause}");
}

#[tokio::test(start_paused = true)]
async fn a_codec_that_this_client_does_not_have() {
    let world = spoiled(|bytes| bytes[ATTRIBUTES] |= 5).await;
    let (_, cause) = check_batch(world.reader("t", 0..2).check_crcs(false), 5, 10).await;
    assert!(matches!(cause, BatchError::Codec(_)), "{cause}");
    assert!(cause.to_string().contains("codec number 5"), "{cause}");
}

#[tokio::test(start_paused = true)]
async fn a_batch_with_a_broken_record_is_read_up_to_it() {
    // The length of the third record.
    let world = spoiled(|bytes| bytes[RECORDS + 2 * 8] = 0x7f).await;
    let (_, cause) = check_batch(world.reader("t", 0..2).check_crcs(false), 7, 10).await;
    assert!(matches!(cause, BatchError::Malformed { base_offset: 5, .. }), "{cause}");
}

#[tokio::test(start_paused = true)]
async fn a_broken_record_that_shows_while_polled_records_are_iterated_over() {
    let world = spoiled(|bytes| bytes[RECORDS + 2 * 8] = 0x7f).await;
    for owned in [false, true] {
        let mut consumer = world.reader("t", 0..1).check_crcs(false).build().await.unwrap();
        let mut offsets: Vec<i64> = Vec::new();
        let error = loop {
            match within("a poll", consumer.poll(WAIT)).await {
                Ok(records) if owned => offsets.extend(records.into_iter().map(|record| record.offset())),
                Ok(records) => offsets.extend(records.iter().map(|record| record.offset())),
                Err(error) => break error,
            }
        };
        assert_eq!((offsets, error.offset()), ((0..7).collect(), Some(7)), "nothing behind the hole");
        assert_eq!(consumer.handle().position(&tp("t", 0)), Some(7));
        go_on(&mut consumer, UnreadableBatch::of(&error).unwrap().next_offset.unwrap()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_does_not_say_where_it_ends_is_passed_step_by_step() {
    // A format of another time, and a header that is among the damaged bytes: whoever believed it would leave out all that follows.
    type Spoil = fn(&mut [u8]);
    // With the last one, the batch seems to end before the offset that is asked for next.
    let troubles: [Spoil; 3] = [
        |bytes| bytes[MAGIC] = 9,
        |bytes| bytes[LAST_OFFSET_DELTA].copy_from_slice(&5000_i32.to_be_bytes()),
        |bytes| bytes[LAST_OFFSET_DELTA].copy_from_slice(&0_i32.to_be_bytes()),
    ];
    for trouble in troubles {
        let world = spoiled(trouble).await;
        let mut consumer = world.reader("t", 0..2).build().await.unwrap();
        let (mut seen, mut error) = read_up_to(&mut consumer, 5).await;
        let mut left_out = Vec::new();
        while seen.offsets("t", 0).len() < 10 {
            let batch = UnreadableBatch::of(&error).unwrap();
            assert_eq!((error.offset(), batch.next_offset), (Some(batch.offset), None), "{error}");
            assert!(error.to_string().contains(&format!("seek to offset {}, and on", batch.offset + 1)), "{error}");
            left_out.push(batch.offset);
            consumer.handle().seek(&tp("t", 0), StartAt::Offset(batch.offset + 1)).unwrap();
            while seen.offsets("t", 0).len() < 10 {
                match within("recv", consumer.recv()).await {
                    Ok(record) => seen.note(record.unwrap()),
                    Err(again) => {
                        error = again;
                        break;
                    }
                }
            }
        }
        assert_eq!(left_out, [5, 6, 7, 8, 9], "nothing sound");
        assert_eq!(seen.values("t", 0), (0..5).chain(1000..1005).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_first_offset_is_damaged_is_not_left_out_in_silence() {
    // No checksum covers it. The batch behind it shows that something is missing.
    let cluster = Cluster::builder().check_invariants(false);
    let world = middle_in(cluster, batch(5..10, Compression::None)).await;
    assert!(world.cluster.spoil("t", 0, 5, |bytes| bytes[..8].copy_from_slice(&0_i64.to_be_bytes())));
    let (kind, cause) = check_batch(world.reader("t", 0..2), 5, 10).await;
    assert_eq!(kind, ErrorKind::Malformed);
    assert!(matches!(cause, BatchError::Malformed { base_offset: 10, .. }), "{cause}");
}

#[tokio::test(start_paused = true)]
async fn an_error_that_was_put_off_by_records_is_not_told_after_a_seek() {
    let world = spoiled(|bytes| *bytes.last_mut().unwrap() ^= 1).await;
    let mut consumer = world.reader("t", 0..1).build().await.unwrap();
    let records = within("what comes before", consumer.poll(WAIT)).await.unwrap();
    assert_eq!(records.len(), 5);
    go_on(&mut consumer, 10).await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_partition_keeps_its_error_to_itself() {
    let world = spoiled(|bytes| *bytes.last_mut().unwrap() ^= 1).await;
    let mut consumer = world.reader("t", 0..2).build().await.unwrap();
    read_up_to(&mut consumer, 5).await;
    let handle = consumer.handle();
    handle.pause(&[tp("t", 0)]);
    assert!(consumer.poll(WAIT).await.unwrap().is_empty());
    handle.resume(&[tp("t", 0)]);
    assert_eq!(within("the error", consumer.recv()).await.unwrap_err().offset(), Some(5));
}

#[tokio::test(start_paused = true)]
async fn an_offset_that_is_gone_without_a_reset_policy() {
    let world = with_middle(batch(5..10, Compression::None)).await;
    world.cluster.delete_records("t", 0, 10);
    for (offset, way) in [(3, "seek to 10 "), (5000, "seek to an offset that it has")] {
        let start = PartitionConsumer::builder(&world.client).assign("t", [0], StartAt::Offset(offset));
        let mut consumer =
            start.assign("t", [1], StartAt::Beginning).offset_reset(OffsetReset::None).build().await.unwrap();
        let (mut errors, mut others) = (0, 0);
        while errors < 4 || others < 30 {
            match within("recv", consumer.recv()).await {
                Ok(record) => others += i64::from(record.unwrap().partition()),
                Err(error) => {
                    assert_eq!((error.topic_partition(), error.offset()), (Some(&tp("t", 0)), Some(offset)));
                    assert_eq!(error.code(), Some(ErrorCode::OFFSET_OUT_OF_RANGE));
                    assert_eq!(OffsetGone::of(&error).unwrap().log_start, 10);
                    assert!(error.to_string().contains(way), "{error}");
                    errors += 1;
                }
            }
        }
        go_on(&mut consumer, 10).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_nobody_knows_is_told_again_and_again_and_others_go_on() {
    let world = with_middle(batch(5..10, Compression::None)).await;
    let builder = world.reader("t", 1..2).assign("missing", [3], StartAt::Offset(7));
    let mut consumer = builder.api_timeout(Duration::from_secs(20)).build().await.unwrap();
    let mut others = 0;
    let mut errors = Vec::new();
    while errors.len() < 3 {
        match within("recv", consumer.recv()).await {
            Ok(record) => others += i64::from(record.unwrap().partition()),
            Err(error) => errors.push(error),
        }
    }
    assert_eq!(others, 30);
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::UnknownTopicOrPartition);
        assert_eq!((error.topic_partition(), error.offset()), (Some(&tp("missing", 3)), Some(7)), "{error}");
    }
    world.cluster.create_topic("missing", 4);
    world.write("missing", 3, 0..9).await;
    assert_eq!(within("the record", consumer.recv()).await.unwrap().unwrap().offset(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_no_text_is_passed_by_reading_on() {
    let foreign = batch_of(&[(None, Some(b"5")), (None, Some(&[0xff, 0xfe])), (None, Some(b"7"))]);
    let world = with_middle(foreign).await;
    let mut typed = world.reader("t", 0..1).build().await.unwrap().typed::<String, String>(Text, Text);
    let (mut offsets, mut left_out) = (Vec::new(), Vec::new());
    while offsets.len() < 12 {
        match within("recv", typed.recv()).await {
            Ok(record) => offsets.push(record.unwrap().offset()),
            Err(error) => {
                assert_eq!((error.topic_partition(), error.offset()), (Some(tp("t", 0)), Some(6)));
                let ReadError::Undecodable(record) = &error else { panic!("{error}") };
                left_out.push((record.offset(), record.raw().value().unwrap().to_vec()));
                let error = Error::from(error);
                assert_eq!((error.topic_partition(), error.offset()), (Some(&tp("t", 0)), Some(6)));
                assert!(error.to_string().contains("or read on"), "{error}");
            }
        }
    }
    assert_eq!(left_out, [(6, vec![0xff, 0xfe])], "and whoever wants it has its bytes");
    assert_eq!(offsets, (0..13).filter(|offset| *offset != 6).collect::<Vec<_>>());
}
