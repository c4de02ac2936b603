//! The ack of a record: one shared completion per batch, one 16-byte handle per record.
//!
//! A batch completes once. A [`Delivery`] is its batch's completion, the record's index in it and the slot of its waker: no
//! channel, no allocation, no lock on the way to a finished result.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use milena_client::Error;

/// Where a record lies, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The partition.
    pub partition: i32,
    /// The record's offset; `None` where the broker does not say it: with `acks = 0`, or for a repeat that it recognised but whose
    /// place it has forgotten.
    pub offset: Option<i64>,
    /// The broker's time in milliseconds, only for topics with `message.timestamp.type=LogAppendTime`; otherwise the record has the
    /// timestamp it was sent with.
    pub timestamp: Option<i64>,
}

/// The future of a record that `send` has taken: its place in the log, or why it has none.
///
/// Dropping it does not un-send the record. 16 bytes; it pins a small completion that its batch shares, never the batch's bytes.
///
/// # Cancel safety
/// Safe: a dropped and a repeated await lose nothing.
#[must_use = "await it to learn whether the record was written; `let _ = …` if that does not matter"]
pub struct Delivery {
    done: Arc<Done>,
    index: u32,
    slot: u32,
}

impl Delivery {
    pub(crate) fn new(done: Arc<Done>, index: u32) -> Self {
        Self { done, index, slot: NO_SLOT }
    }

    pub(crate) fn into_done(self) -> Arc<Done> {
        self.done
    }

    /// Whether the answer is there, so that an await will not wait.
    pub fn is_done(&self) -> bool {
        self.done.is_done()
    }

    /// The result, if it is there.
    pub fn try_result(&self) -> Option<Result<Placed, Error>> {
        self.done.result(self.index)
    }
}

impl Future for Delivery {
    type Output = Result<Placed, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        match this.done.result(this.index) {
            Some(result) => Poll::Ready(result),
            None => this.done.register(&mut this.slot, this.index, cx.waker()),
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("index", &self.index).field("result", &self.try_result()).finish()
    }
}

/// The completion of one batch.
pub(crate) struct Done {
    /// The base offset, or one of the marks below. Written once, with `Release`, after everything else.
    base: AtomicI64,
    partition: i32,
    /// The broker's time, or −1.
    append_time: AtomicI64,
    /// Why there is no base offset for all of its records.
    detail: OnceLock<Detail>,
    /// Those who wait. Protects nothing but the list; woken outside of it.
    wakers: Mutex<Vec<Waiter>>,
}

struct Waiter {
    waker: Waker,
    /// How many deliveries think that this entry is theirs: one that is shared must not be replaced.
    owners: u32,
}

enum Detail {
    Failed(Error),
    /// The batch was split: the index of each part's first record, and the part.
    Split(Vec<(u32, Arc<Done>)>),
}

/// How a batch ended.
#[derive(Debug, Clone)]
pub(crate) enum Ending {
    Written { base: Option<i64>, append_time: Option<i64> },
    Failed(Error),
}

/// The base offset is not known, and will not be.
const NO_OFFSET: i64 = -1;
const PENDING: i64 = i64::MIN;
const DETAIL: i64 = i64::MIN + 1;
const NO_SLOT: u32 = u32::MAX;

impl Done {
    pub(crate) fn new(partition: i32) -> Arc<Self> {
        Arc::new(Self {
            base: AtomicI64::new(PENDING),
            partition,
            append_time: AtomicI64::new(-1),
            detail: OnceLock::new(),
            wakers: Mutex::new(Vec::new()),
        })
    }

    /// Completes the batch and wakes whoever awaits it. Only the first call counts.
    pub(crate) fn complete(&self, ending: Ending) {
        if self.base.load(Ordering::Acquire) != PENDING {
            return;
        }
        let base = match ending {
            Ending::Written { base, append_time } => {
                self.append_time.store(append_time.unwrap_or(-1), Ordering::Relaxed);
                base.unwrap_or(NO_OFFSET)
            }
            Ending::Failed(error) => {
                let _ = self.detail.set(Detail::Failed(error));
                DETAIL
            }
        };
        self.base.store(base, Ordering::Release);
        self.wake();
    }

    /// Says that the records from each index on are in a batch of their own.
    pub(crate) fn split(&self, parts: Vec<(u32, Arc<Self>)>) {
        // Whoever waits here polls again, and then finds its part and waits there.
        let _ = self.detail.set(Detail::Split(parts));
        self.base.store(DETAIL, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        // Taken under the lock and woken outside: a waker may run the task that polls this very batch.
        let wakers = std::mem::take(&mut *self.wakers.lock().unwrap_or_else(PoisonError::into_inner));
        for waiter in wakers {
            waiter.waker.wake();
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        match self.base.load(Ordering::Acquire) {
            PENDING => false,
            DETAIL => match self.detail.get() {
                Some(Detail::Split(parts)) => parts.iter().all(|(_, part)| part.is_done()),
                _ => true,
            },
            _ => true,
        }
    }

    fn result(&self, index: u32) -> Option<Result<Placed, Error>> {
        match self.base.load(Ordering::Acquire) {
            PENDING => None,
            DETAIL => match self.detail.get()? {
                Detail::Failed(error) => Some(Err(error.clone())),
                Detail::Split(parts) => {
                    let (first, part) = part_of(parts, index)?;
                    part.result(index - first)
                }
            },
            base => {
                let append_time = self.append_time.load(Ordering::Relaxed);
                Some(Ok(Placed {
                    partition: self.partition,
                    // A broker may say any number; an offset that cannot be is none.
                    offset: base.checked_add(i64::from(index)).filter(|_| base >= 0),
                    timestamp: (append_time >= 0).then_some(append_time),
                }))
            }
        }
    }

    fn register(&self, slot: &mut u32, index: u32, waker: &Waker) -> Poll<Result<Placed, Error>> {
        let mut waiters = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked again under the lock: `complete` writes the base before it takes the list, so either we see the base here or it
        // sees our waker there.
        if let Some(result) = self.result(index) {
            return Poll::Ready(result);
        }
        if let Some(Detail::Split(parts)) = self.detail.get() {
            drop(waiters);
            // A slot of this batch means nothing in the part: a new entry there is right, and at worst a spurious wake.
            return match part_of(parts, index) {
                Some((first, part)) => part.register(&mut NO_SLOT.clone(), index - first, waker),
                None => Poll::Pending,
            };
        }
        if let Some(own) = waiters.get_mut(*slot as usize) {
            if own.waker.will_wake(waker) {
                return Poll::Pending;
            }
            if own.owners == 1 {
                own.waker.clone_from(waker);
                return Poll::Pending;
            }
            own.owners -= 1;
        }
        // One task that awaits a thousand records of a batch registers once.
        match waiters.last_mut() {
            Some(last) if last.waker.will_wake(waker) => last.owners += 1,
            _ => waiters.push(Waiter { waker: waker.clone(), owners: 1 }),
        }
        *slot = waiters.len() as u32 - 1;
        Poll::Pending
    }

    /// Waits until every record of the batch has its result.
    pub(crate) async fn wait(self: Arc<Self>) {
        let mut slots = [NO_SLOT; 1];
        std::future::poll_fn(|cx| {
            if self.is_done() {
                return Poll::Ready(());
            }
            match self.detail.get() {
                Some(Detail::Split(parts)) => {
                    // Any part that is not done yet keeps the waker.
                    match parts.iter().find(|(_, part)| !part.is_done()) {
                        Some((_, part)) => part.register(&mut NO_SLOT.clone(), 0, cx.waker()).map(|_| ()),
                        None => Poll::Ready(()),
                    }
                }
                _ => self.register(&mut slots[0], 0, cx.waker()).map(|_| ()),
            }
        })
        .await;
        // A part that ended may have been followed by another one.
        let rest: Vec<Arc<Self>> = match self.detail.get() {
            Some(Detail::Split(parts)) => parts.iter().map(|(_, part)| part.clone()).collect(),
            _ => return,
        };
        for part in rest {
            Box::pin(part.wait()).await;
        }
    }

    /// The failure of the batch, or of the first of its parts that has one.
    pub(crate) fn failure(&self) -> Option<Error> {
        match self.detail.get()? {
            Detail::Failed(error) => Some(error.clone()),
            Detail::Split(parts) => parts.iter().find_map(|(_, part)| part.failure()),
        }
    }
}

fn part_of(parts: &[(u32, Arc<Done>)], index: u32) -> Option<(u32, &Arc<Done>)> {
    parts.iter().rev().find(|(first, _)| *first <= index).map(|(first, part)| (*first, part))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use milena_client::ErrorKind;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn task() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count::default());
        (count.clone(), Waker::from(count))
    }

    fn poll(delivery: &mut Delivery, waker: &Waker) -> Poll<Result<Placed, Error>> {
        Pin::new(delivery).poll(&mut Context::from_waker(waker))
    }

    fn written(base: Option<i64>) -> Ending {
        Ending::Written { base, append_time: None }
    }

    fn offset(result: Poll<Result<Placed, Error>>) -> Option<i64> {
        match result {
            Poll::Ready(Ok(placed)) => placed.offset,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_delivery_is_sixteen_bytes() {
        assert_eq!(size_of::<Delivery>(), 16);
    }

    #[test]
    fn each_record_of_a_batch_gets_its_own_offset() {
        let done = Done::new(3);
        let (_, waker) = task();
        let mut deliveries: Vec<_> = (0..3).map(|index| Delivery::new(done.clone(), index)).collect();
        assert!(poll(&mut deliveries[1], &waker).is_pending());
        done.complete(Ending::Written { base: Some(100), append_time: Some(7) });
        for (index, delivery) in deliveries.iter_mut().enumerate() {
            let expected = Placed { partition: 3, offset: Some(100 + index as i64), timestamp: Some(7) };
            assert!(matches!(poll(delivery, &waker), Poll::Ready(Ok(placed)) if placed == expected));
        }
    }

    #[test]
    fn an_unknown_base_offset_is_unknown_for_every_record() {
        // franz-go 1.18.1: −1 must not become −1 + i.
        let done = Done::new(0);
        let (_, waker) = task();
        done.complete(written(None));
        assert_eq!(offset(poll(&mut Delivery::new(done, 2), &waker)), None);
    }

    #[test]
    fn a_base_offset_that_no_record_can_have_gives_none() {
        let done = Done::new(0);
        let (_, waker) = task();
        done.complete(written(Some(i64::MAX - 1)));
        assert_eq!(offset(poll(&mut Delivery::new(done.clone(), 1), &waker)), Some(i64::MAX));
        assert_eq!(offset(poll(&mut Delivery::new(done, 2), &waker)), None);
    }

    #[test]
    fn a_task_that_awaits_many_records_is_woken_once() {
        let done = Done::new(0);
        let (count, waker) = task();
        let mut deliveries: Vec<_> = (0..1000).map(|index| Delivery::new(done.clone(), index)).collect();
        for delivery in &mut deliveries {
            assert!(poll(delivery, &waker).is_pending());
            assert!(poll(delivery, &waker).is_pending());
        }
        done.complete(written(Some(0)));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_delivery_that_moves_to_another_task_takes_no_waker_from_its_old_neighbours() {
        let done = Done::new(0);
        let (first, first_waker) = task();
        let (second, second_waker) = task();
        let mut stays = Delivery::new(done.clone(), 0);
        let mut moves = Delivery::new(done.clone(), 1);
        assert!(poll(&mut stays, &first_waker).is_pending());
        assert!(poll(&mut moves, &first_waker).is_pending());
        for _ in 0..10 {
            assert!(poll(&mut moves, &second_waker).is_pending());
        }
        done.complete(written(Some(0)));
        assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (1, 1));
    }

    #[test]
    fn a_delivery_polled_by_ever_new_tasks_does_not_grow_the_list() {
        let done = Done::new(0);
        let mut delivery = Delivery::new(done.clone(), 0);
        for _ in 0..100 {
            assert!(poll(&mut delivery, &task().1).is_pending());
        }
        assert_eq!(done.wakers.lock().unwrap().len(), 1);
    }

    #[test]
    fn only_the_first_completion_counts() {
        let done = Done::new(0);
        done.complete(written(Some(5)));
        done.complete(Ending::Failed(Error::new(ErrorKind::Timeout, "late")));
        assert_eq!(offset(poll(&mut Delivery::new(done, 0), &task().1)), Some(5));
    }

    #[test]
    fn the_records_of_a_split_batch_follow_their_parts() {
        let (done, left, right) = (Done::new(0), Done::new(0), Done::new(0));
        let (count, waker) = task();
        let mut deliveries: Vec<_> = (0..4).map(|index| Delivery::new(done.clone(), index)).collect();
        assert!(deliveries.iter_mut().all(|delivery| poll(delivery, &waker).is_pending()));
        done.split(vec![(0, left.clone()), (2, right.clone())]);
        assert!(deliveries.iter_mut().all(|delivery| poll(delivery, &waker).is_pending()));
        left.complete(written(Some(10)));
        assert!(!done.is_done());
        assert_eq!(offset(poll(&mut deliveries[1], &waker)), Some(11));
        right.complete(written(Some(20)));
        assert!(done.is_done());
        assert_eq!(offset(poll(&mut deliveries[2], &waker)), Some(20));
        assert_eq!(count.0.load(Ordering::Relaxed), 3);
    }
}
