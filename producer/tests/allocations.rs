//! Allocations of a record in steady state: none. What is left is counted per batch and request.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]
#![expect(unsafe_code, reason = "a counting allocator is an unsafe trait; this one only counts and passes on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use milena_client::Client;
use milena_producer::{Producer, Record};
use milena_testkit::Cluster;

struct Counting;

thread_local! {
    /// A test is one thread, brokers included.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator as it came; counting touches a thread-local without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
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

async fn producer() -> (Cluster, Client, Producer) {
    let cluster = Cluster::builder().brokers(1).topic("orders", 1).request_log(false).check_invariants(false);
    let cluster = cluster.start_in_memory().unwrap();
    let client = Client::builder(cluster.bootstrap_servers())
        .simulation(tokio::runtime::Handle::current())
        .connector(cluster.connector())
        .resolver(cluster.resolver())
        .connect()
        .await
        .unwrap();
    let producer = Producer::builder(&client).build().await.unwrap();
    producer.send(&Record::to("orders").value("first")).await.unwrap().await.unwrap();
    (cluster, client, producer)
}

/// What `send` itself allocates, in a batch that is open: nothing, with and without key, headers and partitioner.
#[tokio::test(start_paused = true)]
async fn a_record_that_fits_into_the_open_batch_allocates_nothing() {
    let (_cluster, _client, producer) = producer().await;
    let value = [7; 100];
    let headers = [milena_producer::Header { key: b"h", value: Some(b"1") }];
    // Opens the batch that the others go into.
    let mut last = producer.send(&Record::to("orders").value(&value)).await.unwrap();
    let before = ALLOCATIONS.get();
    for _ in 0..30 {
        drop(producer.send(&Record::to("orders").value(&value)).await.unwrap());
        drop(producer.send(&Record::to("orders").key("key").value(&value).headers(&headers)).await.unwrap());
        last = producer.send(&Record::to("orders").partition(0).value(&value)).await.unwrap();
    }
    let after = ALLOCATIONS.get();
    assert_eq!(after - before, 0);
    last.await.unwrap();
}

/// From `send` to the awaited result, requests, the broker and answers included: a batch and a request cost something, and each record
/// more nothing.
#[tokio::test(start_paused = true)]
async fn batches_of_many_records_allocate_as_much_as_batches_of_few() {
    let mut counts = Vec::new();
    for records in [10, 500] {
        let (_cluster, _client, producer) = producer().await;
        let mut deliveries = Vec::with_capacity(records);
        let mut before = 0;
        for batch in 0..60 {
            if batch == 20 {
                before = ALLOCATIONS.get();
            }
            for _ in 0..records {
                deliveries.push(producer.send(&Record::to("orders").key("key").value("value")).await.unwrap());
            }
            for delivery in deliveries.drain(..) {
                delivery.await.unwrap();
            }
        }
        counts.push(ALLOCATIONS.get() - before);
    }
    assert_eq!(counts[0], counts[1], "in 40 batches of 10 and of 500 records");
}
