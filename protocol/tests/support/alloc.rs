//! An allocator that counts, thread by thread, so that tests can run side by side.
#![expect(
    unsafe_code,
    reason = "a global allocator cannot be written without it; every call goes to the system's unchanged"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write as _;

/// Put into a test file as its `#[global_allocator]`.
pub(crate) struct Counting;

/// What a piece of work asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Calls that gave new or larger memory.
    pub(crate) allocations: u64,
    /// The most bytes that were held at once beyond those held before.
    pub(crate) peak: usize,
}

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static CASE: Cell<(u64, &'static str)> = const { Cell::new((0, "")) };
}

/// Says which case this thread is busy with, and how cargo runs its test: if memory ends, so does the process, and nobody can catch that.
pub(crate) fn busy_with(seed: u64, command: &'static str) {
    CASE.set((seed, command));
}

#[cold]
fn refused(bytes: usize) {
    // Standard error is written to without an allocation.
    let (seed, command) = CASE.get();
    let _ = writeln!(
        std::io::stderr(),
        "\nthere is no memory for {bytes} bytes; replay it with: MILENA_SEEDS={seed} cargo test {command}"
    );
}

fn given(block: *mut u8, bytes: usize) -> *mut u8 {
    if block.is_null() {
        refused(bytes);
    }
    block
}

/// Runs `work` on this thread and says what it asked for.
pub(crate) fn measure<T>(work: impl FnOnce() -> T) -> (T, Usage) {
    begin();
    let result = work();
    (result, used())
}

/// Counts anew on this thread.
pub(crate) fn begin() {
    ALLOCATIONS.set(0);
    LIVE.set(0);
    PEAK.set(0);
}

/// What this thread has asked for since [`begin`].
pub(crate) fn used() -> Usage {
    Usage { allocations: ALLOCATIONS.get(), peak: PEAK.get() as usize }
}

fn grown(bytes: isize) {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
    moved(bytes);
}

fn moved(bytes: isize) {
    LIVE.set(LIVE.get() + bytes);
    PEAK.set(PEAK.get().max(LIVE.get()));
}

// SAFETY: every call is passed on to the system's allocator with the arguments it came with; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        given(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        moved(-(layout.size() as isize));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // The system may hold both while it copies.
        grown(size as isize);
        moved(-(layout.size() as isize));
        // SAFETY: the caller's promises are passed on.
        given(unsafe { System.realloc(at, layout, size) }, size)
    }
}
