//! Reading allocates once per batch and once per poll or stretch of owned records, and nothing per record; what is
//! kept is what `pinned_bytes` says.
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(unsafe_code, reason = "a counting allocator cannot be written without")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use bytes::Bytes;
use common::{World, tp, within};
use futures_util::StreamExt;
use milena_client::protocol::records::{BatchBuilder, ProducerStamp};
use milena_consumer::{PartitionConsumer, SharedRecord, StartAt};
use milena_testkit::Cluster;

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
    /// Bytes that were allocated and not freed: a test is one thread.
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it is; counting touches a thread-local without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        LIVE.set(LIVE.get() + layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - layout.size() as isize);
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        LIVE.set(LIVE.get() + size as isize - layout.size() as isize);
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BATCHES: i64 = 40;
const PER_BATCH: i64 = 500;

#[expect(clippy::disallowed_methods, reason = "virtual time")]
async fn everything_has_arrived() {
    tokio::time::sleep(Duration::from_secs(2)).await;
}

#[tokio::test(start_paused = true)]
async fn one_allocation_per_batch_and_one_per_poll() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 1).request_log(false)).await;
    for batch in 0..BATCHES {
        world.write("t", 0, batch * PER_BATCH..(batch + 1) * PER_BATCH).await;
    }
    let mut consumer = world.reader("t", 0..1).max_poll_records(700).build().await.unwrap();
    let mut count = within("the first", consumer.poll(Duration::from_secs(5))).await.unwrap().len();
    everything_has_arrived().await;

    // What is measured never waits, so nothing but the reader runs.
    let (before, mut polls, mut bytes, first) = (COUNT.get(), 0, 0, count);
    while count < (PER_BATCH * BATCHES / 2) as usize {
        let records = consumer.try_poll().unwrap();
        polls += 1;
        count += records.len();
        bytes += records.iter().map(|record| record.value().unwrap().len()).sum::<usize>();
    }
    let (allocations, read) = (COUNT.get() - before, count - first);
    let most = read / PER_BATCH as usize + 1 + polls;
    assert!(bytes > 0 && allocations <= most, "{allocations} allocations for {read} records in {polls} polls");

    let before = COUNT.get();
    let mut received = 0;
    while received < 5 * PER_BATCH as usize {
        assert!(within_now(consumer.recv()).unwrap().unwrap().value().is_some());
        received += 1;
    }
    let allocations = COUNT.get() - before;
    assert!(allocations <= 6, "{allocations} allocations for {received} records received");
}

/// A stream gives each batch as one stretch of owned records: one allocation for the batch, and one for what its records share.
#[tokio::test(start_paused = true)]
async fn owned_records_cost_two_allocations_per_batch_and_none_per_record() {
    let (_world, mut consumer) = everything_is_there().await;
    let mut stream = consumer.stream();
    let mut kept: Vec<SharedRecord> = Vec::with_capacity((PER_BATCH * BATCHES) as usize);
    // To the end of a batch.
    while kept.last().is_none_or(|record| record.offset() + 1 != PER_BATCH) {
        kept.push(within_now(stream.next()).unwrap().unwrap());
    }
    for batches in [1, 5, 20] {
        let before = COUNT.get();
        for _ in 0..batches * PER_BATCH {
            kept.push(within_now(stream.next()).unwrap().unwrap());
        }
        assert_eq!(COUNT.get() - before, 2 * batches as usize, "{batches} batches");
    }
    let before = COUNT.get();
    let copies = kept.clone();
    assert_eq!(COUNT.get() - before, 1, "the vector: a clone of a record allocates nothing");
    assert!(copies.iter().zip(0..).all(|(record, offset)| record.offset() == offset));
}

/// A poll that is taken apart: one for the poll, one for each batch, and one for what the records of each batch share.
#[tokio::test(start_paused = true)]
async fn a_poll_that_is_taken_apart_costs_one_allocation_more_per_batch() {
    let (_world, mut consumer) = everything_is_there().await;
    let mut kept: Vec<SharedRecord> = Vec::with_capacity((PER_BATCH * BATCHES) as usize);
    kept.extend(consumer.try_poll().unwrap());
    for _ in 0..5 {
        let before = COUNT.get();
        let records = consumer.try_poll().unwrap();
        assert_eq!((records.len(), COUNT.get() - before), (3 * PER_BATCH as usize, 3 + 1));
        kept.extend(records);
        assert_eq!(COUNT.get() - before, 3 + 1 + 3);
    }
    assert!(kept.iter().zip(0..).all(|(record, offset)| record.offset() == offset));
}

/// A reader whose polls are three batches, and all of it has been fetched: what is measured then never waits.
async fn everything_is_there() -> (World, PartitionConsumer) {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 1).request_log(false)).await;
    for batch in 0..BATCHES {
        world.write("t", 0, batch * PER_BATCH..(batch + 1) * PER_BATCH).await;
    }
    let builder = world.reader("t", 0..1).max_poll_records(3 * PER_BATCH as usize);
    let consumer = builder.build().await.unwrap();
    everything_has_arrived().await;
    (world, consumer)
}

/// A small record, and fifteen of 4 KB.
fn batch() -> Bytes {
    let mut builder = BatchBuilder::new(vec![0; 1 << 16], 0);
    for number in 0..16 {
        builder.append(1000, None, Some(&[number; 4000][..if number == 0 { 5 } else { 4000 }]), &[]).unwrap();
    }
    let mut sealed = builder.seal();
    sealed.stamp(ProducerStamp::NONE);
    Bytes::copy_from_slice(sealed.bytes())
}

#[tokio::test(start_paused = true)]
async fn one_record_kept_of_every_batch_of_200_mb_costs_a_bounded_amount_of_memory() {
    const LIMIT: isize = 8 << 20;
    const SLACK: isize = 2 << 20;
    let world = World::new(Cluster::builder().brokers(1).topic("t", 1).request_log(false)).await;
    let (batch, batches) = (batch(), 320);
    for _ in 0..batches {
        world.cluster.append("t", 0, &batch).unwrap();
    }
    let mut consumer = world.reader("t", 0..1).buffer_memory(LIMIT as usize).build().await.unwrap();
    let handle = consumer.handle();
    let (before, mut kept, mut most, mut most_pinned, mut read) = (LIVE.get(), Vec::new(), 0, 0, 0);
    while read < 200 << 20 {
        let mut records = consumer.stream().take(batches * 16);
        within("all records", async {
            while let Some(record) = records.next().await {
                let record = record.unwrap();
                if record.offset() % 16 == 0 {
                    kept.push(record);
                    (most, most_pinned) = (most.max(LIVE.get() - before), most_pinned.max(handle.pinned_bytes()));
                }
            }
        })
        .await;
        drop(records);
        read += batches * batch.len();
        handle.seek(&tp("t", 0), StartAt::Beginning).unwrap();
    }
    assert!(kept.len() > 3_000);
    // What waits to be read, what is pinned, and for each record that is kept less than a KiB.
    let bound = 2 * LIMIT + SLACK + kept.len() as isize * 1024;
    assert!((LIMIT..bound).contains(&most), "{most} bytes for {} records", kept.len());
    assert!((LIMIT as u64..(LIMIT + SLACK) as u64).contains(&most_pinned), "{most_pinned}");
    drop(kept);
    assert_eq!(handle.pinned_bytes(), 0);
    assert!(LIVE.get() - before < LIMIT + 4 * SLACK, "{} bytes are left", LIVE.get() - before);
}

/// The result of a future that is ready.
fn within_now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("everything has arrived"),
    }
}
