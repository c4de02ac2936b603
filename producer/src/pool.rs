//! Buffers, and the one budget of bytes that they are charged to.
//!
//! A buffer is charged when a batch opens and paid back when the batch ends: one operation per batch, and it counts what is really
//! held. Buffers are handed out last in, first out, so that the working set stays small, and keep their full length, so that nobody
//! zeroes them again.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use milena_client::{Error, ErrorKind};
use tokio::sync::Semaphore;

/// A sum charged to the budget, to be paid back with [`Pool::pay_back`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a charge that is dropped is room that is lost"]
pub(crate) struct Charge(u32);

impl Charge {
    /// A charge of nothing.
    pub(crate) fn none() -> Self {
        Self(0)
    }

    /// Whether it is enough for so many bytes.
    pub(crate) fn covers(&self, bytes: usize) -> bool {
        self.0 as usize * UNIT >= bytes
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.0 += other.0;
    }

    /// Takes off what is more than enough for so many bytes.
    pub(crate) fn excess(&mut self, bytes: usize) -> Self {
        let needed = units(bytes).unwrap_or(u32::MAX).min(self.0);
        Self(std::mem::replace(&mut self.0, needed) - needed)
    }
}

/// The buffers and the budget of one producer.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Free kibibytes. Fair: who waits longest is served first.
    free: Semaphore,
    /// Buffers as long as batches usually get, or may grow: one shelf for each length, of which there are few.
    shelves: Vec<Shelf>,
    /// Buffers that batches are compressed into. Apart, because they come in all lengths.
    scratch: Shelf,
    budget: usize,
    /// Bytes on the shelves, which are not charged to anybody: at most the budget once more, whatever lengths batches had.
    idle: AtomicUsize,
}

#[derive(Debug)]
struct Shelf {
    length: usize,
    most: usize,
    buffers: Mutex<Vec<Vec<u8>>>,
}

/// The unit of the budget: a semaphore counts in `u32`.
const UNIT: usize = 1024;
/// Compressed batches are few at a time.
const MOST_SCRATCH: usize = 64;

impl Pool {
    /// A budget of so many bytes, and buffers of these lengths.
    pub(crate) fn new(budget: usize, lengths: impl IntoIterator<Item = usize>) -> Self {
        let shelf = |length: usize| Shelf { length, most: usize::MAX, buffers: Mutex::default() };
        let lengths: BTreeSet<usize> = lengths.into_iter().collect();
        Self {
            // Rounded as charges are, or one of the whole budget could never be had.
            free: Semaphore::new(budget.div_ceil(UNIT)),
            shelves: lengths.into_iter().map(shelf).collect(),
            scratch: Shelf { length: 0, most: MOST_SCRATCH, buffers: Mutex::default() },
            budget,
            idle: AtomicUsize::new(0),
        }
    }

    /// Charges `bytes` if there is room and nobody waits for it.
    pub(crate) fn try_charge(&self, bytes: usize) -> Option<Charge> {
        let units = units(bytes)?;
        self.free.try_acquire_many(units).ok()?.forget();
        Some(Charge(units))
    }

    /// Waits until `bytes` can be charged.
    ///
    /// Cancel safety: dropped, nothing is charged.
    pub(crate) async fn charge(&self, bytes: usize) -> Result<Charge, Error> {
        let closed = || Error::new(ErrorKind::Closed, "the producer has been closed.");
        let units = units(bytes).ok_or_else(closed)?;
        self.free.acquire_many(units).await.map_err(|_| closed())?.forget();
        Ok(Charge(units))
    }

    pub(crate) fn pay_back(&self, charge: Charge) {
        self.free.add_permits(charge.0 as usize);
    }

    /// Lets nobody wait any more.
    pub(crate) fn close(&self) {
        self.free.close();
    }

    /// Free bytes.
    pub(crate) fn room(&self) -> usize {
        (self.free.available_permits() * UNIT).min(self.budget)
    }

    /// An initialised buffer of exactly `length` bytes.
    pub(crate) fn buffer(&self, length: usize) -> Vec<u8> {
        match self.shelf(length).and_then(Shelf::take) {
            Some(buffer) => {
                self.idle.fetch_sub(buffer.len(), Ordering::Relaxed);
                buffer
            }
            None => vec![0; length],
        }
    }

    /// Whether a buffer of this length lies ready, so that taking one costs nothing.
    pub(crate) fn has(&self, length: usize) -> bool {
        self.shelf(length).is_some_and(|shelf| !lock(&shelf.buffers).is_empty())
    }

    pub(crate) fn recycle(&self, buffer: Vec<u8>) {
        let longest = self.shelves.last().map_or(0, |shelf| shelf.length);
        match self.shelf(buffer.len()) {
            Some(shelf) => {
                let length = buffer.len();
                if self.idle.fetch_add(length, Ordering::Relaxed) + length <= self.budget {
                    shelf.put(buffer);
                } else {
                    self.idle.fetch_sub(length, Ordering::Relaxed);
                }
            }
            None if buffer.len() <= 2 * longest => self.scratch.put(buffer),
            // One record larger than any batch: not worth keeping.
            None => {}
        }
    }

    fn shelf(&self, length: usize) -> Option<&Shelf> {
        self.shelves.iter().find(|shelf| shelf.length == length)
    }

    /// A buffer to compress into; it may have any length.
    pub(crate) fn scratch(&self) -> Vec<u8> {
        self.scratch.take().unwrap_or_default()
    }
}

impl Shelf {
    fn take(&self) -> Option<Vec<u8>> {
        lock(&self.buffers).pop()
    }

    fn put(&self, buffer: Vec<u8>) {
        let mut buffers = lock(&self.buffers);
        if buffers.len() < self.most {
            buffers.push(buffer);
        }
    }
}

fn units(bytes: usize) -> Option<u32> {
    u32::try_from(bytes.div_ceil(UNIT)).ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // One push or pop at a time: a panic elsewhere leaves the list whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn the_budget_is_never_exceeded_and_comes_back_whole() {
        let pool = Pool::new(64 << 10, [16 << 10, 32 << 10]);
        let charges: Vec<_> = std::iter::from_fn(|| pool.try_charge(16 << 10)).collect();
        assert_eq!((charges.len(), pool.room()), (4, 0));
        assert!(pool.try_charge(1).is_none());
        charges.into_iter().for_each(|charge| pool.pay_back(charge));
        assert_eq!(pool.room(), 64 << 10);
    }

    #[test]
    fn what_lies_on_the_shelves_is_within_the_budget_whatever_lengths_it_has() {
        let pool = Pool::new(64 << 10, [16 << 10, 32 << 10]);
        for _ in 0..10 {
            pool.recycle(vec![0; 16 << 10]);
            pool.recycle(vec![0; 32 << 10]);
        }
        let idle = |pool: &Pool| pool.idle.load(Ordering::Relaxed);
        assert_eq!(idle(&pool), 64 << 10);
        let lying: usize = pool.shelves.iter().map(|shelf| lock(&shelf.buffers).len() * shelf.length).sum();
        assert_eq!(lying, idle(&pool));
        drop((pool.buffer(16 << 10), pool.buffer(32 << 10), pool.buffer(32 << 10)));
        assert_eq!(idle(&pool), 16 << 10);
    }

    #[test]
    fn a_budget_that_is_no_multiple_of_the_unit_can_be_charged_whole_and_an_excess_goes_back() {
        let pool = Pool::new(16_500, [16_500]);
        let mut charge = pool.try_charge(16_500).unwrap();
        pool.pay_back(charge.excess(100));
        assert!(charge.covers(100) && !charge.covers(UNIT + 1));
        pool.pay_back(charge);
        assert_eq!(pool.room(), 16_500);
    }

    #[test]
    fn who_waits_is_served_before_who_comes_and_who_gives_up_harms_nobody() {
        let pool = Pool::new(32 << 10, [16 << 10]);
        let held = pool.try_charge(32 << 10).unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        let mut gives_up = Box::pin(pool.charge(16 << 10));
        let mut waits = pin!(pool.charge(16 << 10));
        assert!(gives_up.as_mut().poll(&mut cx).is_pending() && waits.as_mut().poll(&mut cx).is_pending());
        pool.pay_back(held);
        assert!(pool.try_charge(16 << 10).is_none(), "both halves are promised");
        drop(gives_up);
        assert!(waits.as_mut().poll(&mut cx).is_ready());
        assert_eq!(pool.room(), 16 << 10);
    }

    #[test]
    fn the_last_buffer_given_back_is_the_first_handed_out_and_lengths_do_not_mix() {
        let pool = Pool::new(1 << 20, [1024, 4096]);
        pool.recycle(vec![1; 1024]);
        pool.recycle(vec![2; 1024]);
        pool.recycle(vec![3; 4096]);
        pool.recycle(vec![4; 700]);
        assert_eq!(pool.buffer(1024)[0], 2);
        assert_eq!(pool.buffer(1024)[0], 1);
        assert_eq!((pool.buffer(1024)[0], pool.buffer(1024).len()), (0, 1024));
        assert_eq!(pool.buffer(4096)[0], 3);
    }
}
