//! Memory that is kept with what is kept: counted, bounded, told once, and never a reason not to read on. In virtual time.
//! (That the count is true shows in `allocations.rs`, against the allocator's.)
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use milena_client::protocol::records::{BatchBuilder, Compression, Compressor, ProducerStamp};
use milena_client::serde::Raw;
use milena_consumer::{ConsumerEvent, PartitionConsumer, ReaderHandle, SharedRecord, StartAt};
use milena_testkit::Cluster;

use crate::common::{World, tp, within};

const WAIT: Duration = Duration::from_secs(5);
const CHUNK: u64 = 256 << 10;
/// However small the budget.
const LIMIT: u64 = 4 << 20;
/// Batches in a partition: 3 MB of them.
const BATCHES: usize = 50;
/// How often they are read.
const TIMES: usize = 5;
const RECORDS: i64 = 16 * BATCHES as i64;

/// A small record and some that are not.
pub(crate) fn batch(large: usize, codec: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(vec![0; 1 << 20], 0);
    builder.append(1000, None, Some(b"small"), &[]).unwrap();
    for number in 0..large {
        let value: Vec<u8> = (0..4000).map(|byte| (byte * byte + number) as u8).collect();
        builder.append(1000, None, Some(&value), &[]).unwrap();
    }
    let mut sealed = builder.seal();
    if codec != Compression::None {
        sealed = sealed.compress(&mut Compressor::new(codec).unwrap(), Vec::new()).0;
    }
    sealed.stamp(ProducerStamp::NONE);
    Bytes::copy_from_slice(sealed.bytes())
}

/// A partition with batches of sixteen records.
async fn world(codec: Compression) -> World {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 2).request_log(false)).await;
    let batch = batch(15, codec);
    for _ in 0..BATCHES {
        world.cluster.append("t", 0, &batch).unwrap();
    }
    world
}

fn is_small(record: &SharedRecord) -> bool {
    record.value() == Some(b"small")
}

fn pinned_events(handle: &ReaderHandle) -> usize {
    std::iter::from_fn(|| handle.try_next_event())
        .filter(|event| matches!(event, ConsumerEvent::MemoryPinned { bytes, limit } if bytes > limit))
        .count()
}

fn both(world: &World, handle: &ReaderHandle) -> u64 {
    assert_eq!(world.metric("pinned-bytes"), handle.pinned_bytes() as i64);
    handle.pinned_bytes()
}

/// Reads all of it so many times, and keeps what `keep` says of every small record.
async fn keep<T>(consumer: &mut PartitionConsumer, times: usize, keep: impl Fn(SharedRecord) -> T) -> (Vec<T>, u64) {
    let handle = consumer.handle();
    let (mut kept, mut most) = (Vec::new(), 0);
    for _ in 0..times {
        let mut records = consumer.stream().take(RECORDS as usize);
        within("all records", async {
            while let Some(record) = records.next().await {
                let record = record.unwrap();
                if is_small(&record) {
                    kept.push(keep(record));
                    most = most.max(handle.pinned_bytes());
                }
            }
        })
        .await;
        drop(records);
        handle.seek(&tp("t", 0), StartAt::Beginning).unwrap();
    }
    (kept, most)
}

#[tokio::test(start_paused = true)]
async fn one_small_record_keeps_the_chunk_that_it_came_in_and_no_longer_than_it_is_kept() {
    for (codec, least, most) in [
        (Compression::None, CHUNK, 2 * CHUNK),
        // Its batch alone, decompressed.
        (Compression::Lz4, 60_000, 65_536),
    ] {
        let world = world(codec).await;
        let mut consumer = world.reader("t", 0..1).build().await.unwrap();
        let handle = consumer.handle();
        let (mut kept, _) = keep(&mut consumer, 1, |record| record).await;
        kept.truncate(1);
        let pinned = both(&world, &handle);
        assert!((least..=most).contains(&pinned), "{codec}: {pinned}");
        let slice = kept[0].value_bytes();
        assert_eq!(both(&world, &handle), pinned);
        kept.clear();
        assert_eq!(both(&world, &handle), pinned, "a slice of it is still there");
        let copy = slice.as_ref().map(|slice| slice.to_vec());
        drop(slice);
        assert_eq!((copy, both(&world, &handle)), (Some(b"small".to_vec()), 0));
        assert_eq!(pinned_events(&handle), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn who_keeps_one_record_of_every_batch_reads_on_and_keeps_hardly_more_than_that() {
    for codec in [Compression::None, Compression::Lz4] {
        let world = world(codec).await;
        let mut consumer = world.reader("t", 0..1).buffer_memory(1 << 20).build().await.unwrap();
        let handle = consumer.handle();
        let (kept, most) = keep(&mut consumer, TIMES, |record| record).await;
        assert_eq!(kept.len(), TIMES * BATCHES);
        assert!((LIMIT..LIMIT + 4 * CHUNK).contains(&most), "{codec}: {most}");
        assert!(kept.iter().all(|record| is_small(record) && record.offset() % 16 == 0));
        assert_eq!(pinned_events(&handle), 1, "told once");
        drop(kept);
        assert_eq!(both(&world, &handle), 0, "{codec}");
        // As before: records are no copies any more.
        let (kept, _) = keep(&mut consumer, 1, |record| record).await;
        assert!(both(&world, &handle) > 1 << 20);
        drop(kept);
    }
}

#[tokio::test(start_paused = true)]
async fn kept_polls_kept_slices_and_decoded_slices_are_bounded_as_well() {
    let world = world(Compression::None).await;
    let small = |consumer: &mut PartitionConsumer| consumer.handle().seek(&tp("t", 0), StartAt::Beginning).unwrap();

    let mut consumer = world.reader("t", 0..1).buffer_memory(1 << 20).build().await.unwrap();
    let handle = consumer.handle();
    let (slices, most) = keep(&mut consumer, TIMES, |record| record.value_bytes().unwrap()).await;
    assert!(slices.iter().all(|slice| slice == &b"small"[..]) && most < LIMIT + 4 * CHUNK, "{most}");
    drop(slices);
    assert_eq!(both(&world, &handle), 0);

    // Polls of many records, of which some are kept.
    let (mut kept, mut count) = (Vec::new(), 0);
    while count < TIMES as i64 * RECORDS {
        let records = within("a poll", consumer.poll(WAIT)).await.unwrap();
        for record in records {
            assert_eq!(record.offset(), count % RECORDS);
            count += 1;
            kept.extend(is_small(&record).then_some(record));
        }
        if count % RECORDS == 0 {
            small(&mut consumer);
        }
    }
    assert!((LIMIT..LIMIT + 4 * CHUNK).contains(&handle.pinned_bytes()), "{}", handle.pinned_bytes());
    drop(kept);
    assert_eq!(handle.pinned_bytes(), 0);

    // A poll of one record, and then the rest of its batch.
    let mut consumer = world.reader("t", 0..1).buffer_memory(1 << 20).max_poll_records(1).build().await.unwrap();
    let (handle, mut kept) = (consumer.handle(), Vec::new());
    for number in 0..TIMES as i64 * RECORDS {
        let records = within("a poll", consumer.poll(WAIT)).await.unwrap();
        let first = records.iter().next().unwrap().offset();
        assert_eq!((records.len(), first), (1, number % RECORDS));
        if first % 16 == 0 {
            kept.push(records);
        }
        if first == RECORDS - 1 {
            small(&mut consumer);
        }
    }
    assert!(kept.iter().all(|records| records.iter().all(|record| record.value() == Some(b"small"))));
    assert!((LIMIT..LIMIT + 4 * CHUNK).contains(&handle.pinned_bytes()), "{}", handle.pinned_bytes());
    drop(kept);
    assert_eq!(handle.pinned_bytes(), 0);

    let consumer = world.reader("t", 0..1).buffer_memory(1 << 20).build().await.unwrap();
    let mut typed = consumer.typed::<Bytes, Bytes>(Raw, Raw);
    let (handle, mut kept) = (typed.inner().handle(), Vec::new());
    for number in 0..TIMES as i64 * RECORDS {
        let record = within("a record", typed.recv()).await.unwrap().unwrap();
        assert_eq!(record.offset(), number % RECORDS);
        let (is_last, value) = (record.offset() == RECORDS - 1, record.value().unwrap().clone());
        if value.len() == 5 {
            kept.push(value);
        }
        if is_last {
            small(typed.inner_mut());
        }
    }
    assert!(handle.pinned_bytes() < LIMIT + 4 * CHUNK && pinned_events(&handle) == 1);
    kept.clear();
    drop(typed);
    assert_eq!(handle.pinned_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_member_of_a_group_waits_for_records_that_were_copied_as_for_others() {
    let world = world(Compression::None).await;
    let mut consumer =
        world.consumer("g").subscribe(["t"]).auto_commit(None).buffer_memory(1 << 20).build().await.unwrap();
    let handle = consumer.handle();
    let mut kept = Vec::new();
    for round in 1..4 {
        let mut stream = consumer.stream();
        for _ in 0..RECORDS {
            let record = within("a record", stream.next()).await.unwrap().unwrap();
            if is_small(&record) {
                kept.push(record);
            } else {
                record.ack();
            }
        }
        drop(stream);
        if round == 3 {
            break;
        }
        kept.iter().for_each(SharedRecord::ack);
        handle.seek(&tp("t", 0), StartAt::Beginning).unwrap();
    }
    assert!(handle.pinned_bytes() > LIMIT);
    // All of the last round but the last batch's first record.
    kept.iter().rev().skip(1).for_each(SharedRecord::ack);
    handle.commit().await.unwrap();
    consumer.close(WAIT).await.unwrap();
    drop(kept);
    assert_eq!(handle.pinned_bytes(), 0);
    let mut next = world.consumer("g").subscribe(["t"]).build().await.unwrap();
    let record = within("the record that was not done", next.recv()).await.unwrap().unwrap();
    assert_eq!(record.offset(), RECORDS - 16);
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_stands_still_does_not_keep_what_is_read_beside_it() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 2).request_log(false)).await;
    // Of every 50 KB one tiny batch is the partition's that nobody reads.
    let (large, tiny) = (batch(12, Compression::None), batch(0, Compression::None));
    let consumer = world.reader("t", 0..2).buffer_memory(1 << 20).build().await.unwrap();
    let handle = consumer.handle();
    let mut streams = consumer.split();
    let [mut read, mut unread] = <[_; 2]>::try_from(streams.take_streams()).unwrap();
    let mut most = 0;
    for _ in 0..400 {
        world.cluster.append("t", 1, &tiny).unwrap();
        world.cluster.append("t", 0, &large).unwrap();
        for _ in 0..13 {
            assert_eq!(within("a record", read.next()).await.unwrap().unwrap().partition(), 0);
        }
        most = most.max(handle.pinned_bytes());
    }
    assert!((LIMIT..LIMIT + 4 * CHUNK).contains(&most), "{most}");
    for offset in 0..400 {
        assert_eq!(within("what has waited", unread.next()).await.unwrap().unwrap().offset(), offset);
    }
    assert!(handle.pinned_bytes() <= 2 * CHUNK);
}
