//! Reading allocates once per batch and once per poll, and nothing per record.
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(unsafe_code, reason = "a counting allocator cannot be written without")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use common::{World, within};
use milena_testkit::Cluster;

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it is; counting touches a thread-local without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
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

/// The result of a future that is ready.
fn within_now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("everything has arrived"),
    }
}
