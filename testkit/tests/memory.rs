//! What idle partitions cost: bytes that are allocated, counted and not estimated, so that a test may have as many as it likes.

#![expect(unsafe_code, reason = "an allocator that counts, in this test only")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering};

use milena_testkit::Cluster;

struct Counting;

static HELD: AtomicIsize = AtomicIsize::new(0);

// SAFETY: every call goes to the system's allocator as it is; what is added is a count.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[tokio::test(start_paused = true)]
async fn ten_thousand_idle_partitions_take_less_than_fifty_megabytes() {
    let before = HELD.load(Ordering::Relaxed);
    let cluster = Cluster::builder().brokers(3).topic("idle", 10_000).start_in_memory().unwrap();
    let held = HELD.load(Ordering::Relaxed) - before;
    println!("10,000 idle partitions: {:.1} MB", held as f64 / 1e6);
    assert!((1..=50_000_000).contains(&held), "{held} bytes");
    cluster.shutdown().await;
}
