//! An allocator that counts, for each thread: what is allocated, and the most that ever was.
#![allow(unsafe_code, reason = "an allocator is an unsafe trait; this one only counts and passes every call on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write as _;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
    /// The seed that this thread is busy with, for the message before the process dies.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Runs `work` and says how many bytes more than before were allocated at the worst moment.
pub(crate) fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let done = work();
    (done, PEAK.get() - before)
}

/// Says which seed to blame if memory ends.
pub(crate) fn blame(seed: u64) {
    SEED.set(seed);
}

fn add(bytes: usize) {
    let live = LIVE.get() + bytes;
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
}

fn remove(bytes: usize) {
    // A block may come from another thread.
    LIVE.set(LIVE.get().saturating_sub(bytes));
}

/// The process will end: nobody can catch that. Standard error is written to without an allocation.
fn refused(bytes: usize) {
    let _ = writeln!(
        std::io::stderr(),
        "\nseed {:#x}: there is no memory for {bytes} bytes; {}",
        SEED.get(),
        crate::REPLAY
    );
}

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller keeps the promises of this very function.
        let block = unsafe { System.alloc(layout) };
        if block.is_null() {
            refused(layout.size());
        }
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as above.
        let block = unsafe { System.alloc_zeroed(layout) };
        if block.is_null() {
            refused(layout.size());
        }
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // The old and the new block may exist together for a moment.
        add(new_size);
        // SAFETY: as above.
        let new = unsafe { System.realloc(block, layout, new_size) };
        if new.is_null() {
            refused(new_size);
        }
        remove(layout.size());
        new
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        remove(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) };
    }
}
