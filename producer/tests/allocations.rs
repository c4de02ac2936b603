//! Allocations of a record in steady state: none. What is left is counted per batch and request.

#![expect(unsafe_code, reason = "a counting allocator is an unsafe trait; this one only counts and passes on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use milena_client::Client;
use milena_producer::{Producer, Record};
use milena_testkit::Cluster;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What `send` itself allocates, in a batch that is open: nothing, with and without key, headers and partitioner.
#[tokio::test(start_paused = true)]
async fn a_record_that_fits_into_the_open_batch_allocates_nothing() {
    let cluster = Cluster::builder().topic("orders", 1).start_in_memory().unwrap();
    let client = Client::builder(cluster.bootstrap_servers())
        .simulation(tokio::runtime::Handle::current())
        .connector(cluster.connector())
        .resolver(cluster.resolver())
        .connect()
        .await
        .unwrap();
    let producer = Producer::builder(&client).build().await.unwrap();
    producer.send(&Record::to("orders").value("first")).await.unwrap().await.unwrap();
    let value = [7; 100];
    let headers = [milena_producer::Header { key: b"h", value: Some(b"1") }];
    // Opens the batch that the others go into.
    let mut last = producer.send(&Record::to("orders").value(&value)).await.unwrap();
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..30 {
        drop(producer.send(&Record::to("orders").value(&value)).await.unwrap());
        drop(producer.send(&Record::to("orders").key("key").value(&value).headers(&headers)).await.unwrap());
        last = producer.send(&Record::to("orders").partition(0).value(&value)).await.unwrap();
    }
    let after = ALLOCATIONS.load(Ordering::Relaxed);
    assert_eq!(after - before, 0);
    last.await.unwrap();
}
