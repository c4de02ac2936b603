//! The byte budget: how many fetched bytes may wait for a reader.
//!
//! Bytes are reserved *before* a broker is asked for them (a check afterwards is too late by a whole response), and freed when their
//! batch is used up. What a user keeps is not counted: a user that keeps records must not stop the fetching for ever.
//!
//! Loops that wait for room get it in the order in which they came: a loop whose broker is idle, and that asks anew every half second,
//! would otherwise always be faster than one that has been waiting. And whoever has filled the budget with what is not read (paused
//! partitions, streams that nobody polls) must not stop the others: a loop for whose partitions the reader *waits* is let out beyond
//! the limit, with one small request.

use std::pin::pin;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::{Mutex, Notify};

/// A request for fewer bytes is not worth its answer.
pub(crate) const LEAST_BYTES: i64 = 64 << 10;

/// The budget that all fetch loops share.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: i64,
    /// The least that is worth asking for.
    least: i64,
    /// Reserved or queued. A batch that is larger than what was reserved for it is let in (it could never be read otherwise), so
    /// this may pass the limit for a moment; it may also be below zero for one, while a response is handed out as it arrives.
    used: AtomicI64,
    freed: Notify,
    /// Whose turn it is to wait for room. (tokio's mutex is fair.)
    turn: Mutex<()>,
}

impl Budget {
    /// Reservations are of at least `least` bytes; of all, in a budget that is smaller: it must still let one request out when
    /// nothing is held.
    pub(crate) fn new(limit: usize, least: i64) -> Self {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        Self { limit, least: least.min(limit), used: AtomicI64::new(0), freed: Notify::new(), turn: Mutex::new(()) }
    }

    pub(crate) fn limit(&self) -> i64 {
        self.limit
    }

    /// Reserved or queued, in bytes.
    pub(crate) fn used(&self) -> i64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Reserves up to `want` bytes, if enough are free to be worth it.
    pub(crate) fn try_reserve(&self, want: i64) -> Option<Reservation<'_>> {
        let mut reserved = 0;
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                let free = self.limit - used;
                reserved = free.min(want);
                (free >= self.least && reserved > 0).then_some(used + reserved)
            })
            .ok()
            .map(|_| Reservation { budget: self, left: reserved })
    }

    /// Reserves as [`try_reserve`](Self::try_reserve) does, as soon as there is room; and if there is none, the least, as soon as
    /// `is_hungry`, which is asked now and whenever `hunger` rings.
    pub(crate) async fn reserve(&self, want: i64, is_hungry: impl Fn() -> bool, hunger: &Notify) -> Reservation<'_> {
        let mut in_turn = pin!(self.reserve_in_turn(want));
        loop {
            let mut rings = pin!(hunger.notified());
            // Before the look, so that nobody gets hungry unheard between look and wait.
            rings.as_mut().enable();
            if is_hungry() {
                return self.try_reserve(want).unwrap_or_else(|| self.exceed(want));
            }
            tokio::select! {
                biased;
                reserved = &mut in_turn => return reserved,
                () = rings => {}
            }
        }
    }

    async fn reserve_in_turn(&self, want: i64) -> Reservation<'_> {
        let _turn = self.turn.lock().await;
        loop {
            let mut freed = pin!(self.freed.notified());
            // Registered before the look, so that what is freed between look and wait is not missed.
            freed.as_mut().enable();
            if let Some(reserved) = self.try_reserve(want) {
                return reserved;
            }
            freed.await;
        }
    }

    /// Reserves the least, whether there is room or not.
    fn exceed(&self, want: i64) -> Reservation<'_> {
        let reserved = self.least.min(want);
        self.used.fetch_add(reserved, Ordering::Relaxed);
        Reservation { budget: self, left: reserved }
    }

    /// Frees the bytes of a batch that is used up or dropped.
    pub(crate) fn free(&self, bytes: i64) {
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        // With the least free, nobody was waiting.
        if before > self.limit - self.least {
            self.freed.notify_one();
        }
    }
}

/// Bytes that may arrive. What has not arrived when it is dropped is given back; what arrived beyond it is charged.
#[derive(Debug)]
pub(crate) struct Reservation<'a> {
    budget: &'a Budget,
    left: i64,
}

impl Reservation<'_> {
    /// Bytes that are left of it.
    pub(crate) fn left(&self) -> i64 {
        self.left
    }

    /// A batch has arrived: its bytes are the queue's from now on.
    pub(crate) fn arrived(&mut self, bytes: i64) {
        self.left -= bytes;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.budget.free(self.left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_gets_what_is_left_but_not_less_than_is_useful() {
        let budget = Budget::new(100, 10);
        let mut first = budget.try_reserve(70).unwrap();
        let mut second = budget.try_reserve(70).unwrap();
        assert_eq!((first.left(), second.left()), (70, 30));
        assert!(budget.try_reserve(70).is_none());
        second.arrived(25);
        drop(second);
        assert!(budget.try_reserve(70).is_none());
        budget.free(20);
        assert_eq!(budget.try_reserve(70).unwrap().left(), 25);
        first.arrived(70);
        drop(first);
        assert_eq!(budget.used(), 75);
    }

    #[test]
    fn what_did_not_arrive_is_given_back_and_an_oversized_batch_is_charged() {
        let budget = Budget::new(100, 1);
        let mut reserved = budget.try_reserve(50).unwrap();
        reserved.arrived(10);
        drop(reserved);
        assert_eq!(budget.used(), 10);
        let mut reserved = budget.try_reserve(50).unwrap();
        reserved.arrived(120);
        drop(reserved);
        assert_eq!(budget.used(), 130);
        assert!(budget.try_reserve(1).is_none());
        budget.free(130);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_small_budget_still_lets_one_request_out() {
        let budget = Budget::new(10, 64);
        let one = budget.try_reserve(1000).unwrap();
        assert_eq!(one.left(), 10);
        assert!(budget.try_reserve(1000).is_none());
    }

    async fn reserve(budget: &Budget, want: i64) -> Reservation<'_> {
        budget.reserve(want, || false, &Notify::new()).await
    }

    #[tokio::test]
    async fn a_waiting_loop_goes_on_when_a_batch_is_used_up() {
        let budget = Budget::new(100, 50);
        let first = reserve(&budget, 100).await;
        let (second, ()) = tokio::join!(reserve(&budget, 100), async { drop(first) });
        assert_eq!(second.left(), 100);
    }

    #[tokio::test]
    async fn in_a_small_budget_a_waiting_loop_is_told_of_everything_that_is_freed() {
        let budget = Budget::new(100, 64);
        let mut first = reserve(&budget, 40).await;
        first.arrived(40);
        drop(first);
        let (second, ()) = tokio::join!(reserve(&budget, 100), async { budget.free(40) });
        assert_eq!(second.left(), 100);
    }

    #[tokio::test]
    async fn a_loop_that_asks_again_and_again_does_not_overtake_one_that_waits() {
        let budget = Budget::new(100, 50);
        let idle = reserve(&budget, 60).await;
        let order = std::sync::Mutex::new(Vec::new());
        tokio::join!(
            async {
                let reserved = reserve(&budget, 60).await;
                order.lock().unwrap().push("waiting");
                drop(reserved);
            },
            async {
                tokio::task::yield_now().await;
                drop(idle);
                // At once, as a loop does whose broker had no news.
                drop(reserve(&budget, 60).await);
                order.lock().unwrap().push("idle");
            }
        );
        assert_eq!(*order.lock().unwrap(), ["waiting", "idle"]);
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_served_beyond_the_limit_and_only_while_it_waits() {
        let (budget, hunger, hungry) = (Budget::new(100, 10), Notify::new(), std::cell::Cell::new(false));
        let mut paused = reserve(&budget, 100).await;
        paused.arrived(100);
        drop(paused);
        let (reserved, ()) = tokio::join!(budget.reserve(60, || hungry.get(), &hunger), async {
            hunger.notify_waiters();
            tokio::task::yield_now().await;
            assert_eq!(budget.used(), 100, "nobody is hungry yet");
            hungry.set(true);
            hunger.notify_waiters();
        });
        assert_eq!((reserved.left(), budget.used()), (10, 110));
        drop(reserved);
        assert_eq!(budget.used(), 100);
    }
}
