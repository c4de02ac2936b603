//! How often a client has started again from its bootstrap servers. A wire of an earlier start is of no use any more: the broker at
//! its other end may belong to another cluster. Whoever polls such a wire is woken, and told that it is lost.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Counts the starts of one client.
#[derive(Debug, Clone, Default)]
pub(crate) struct Generations(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    present: AtomicU64,
    waiting: Mutex<Waiting>,
}

/// Those who poll a wire, in the order of the wires' making: a simulation wakes them in the same order each time.
#[derive(Debug, Default)]
struct Waiting {
    next_id: u64,
    wakers: BTreeMap<u64, Waker>,
}

/// The start that a wire belongs to.
pub(crate) struct Generation {
    all: Generations,
    its_own: u64,
    id: u64,
    /// Who was told to be waiting last: on most polls nothing has changed.
    waker: Option<Waker>,
}

impl Generations {
    /// The client starts again.
    pub(crate) fn next(&self) {
        let wakers = {
            // Counted up under the lock: one who registers in between belongs to the new start, and must not be forgotten.
            let mut waiting = self.lock();
            self.0.present.fetch_add(1, Ordering::AcqRel);
            std::mem::take(&mut waiting.wakers)
        };
        wakers.into_values().for_each(Waker::wake);
    }

    /// The present start.
    pub(crate) fn present(&self) -> Generation {
        let mut waiting = self.lock();
        waiting.next_id += 1;
        let (id, its_own) = (waiting.next_id, self.0.present.load(Ordering::Acquire));
        drop(waiting);
        Generation { all: self.clone(), its_own, id, waker: None }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Every change is one insertion or removal: a panic elsewhere leaves the map whole.
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generation {
    /// Ready once the client has started again.
    pub(crate) fn poll_over(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
            self.all.lock().wakers.insert(self.id, cx.waker().clone());
        }
        // After it is registered, or a start between the two would wake nobody.
        if self.all.0.present.load(Ordering::Acquire) == self.its_own { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if self.waker.is_some() {
            self.all.lock().wakers.remove(&self.id);
        }
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Generation").field(&self.its_own).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn who_waits_is_woken_when_the_client_starts_again_and_who_comes_later_is_not_concerned() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let cx = Context::from_waker(&waker);
        let all = Generations::default();
        let mut first = all.present();
        assert!(first.poll_over(&cx).is_pending() && first.poll_over(&cx).is_pending());
        all.next();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        let mut second = all.present();
        assert!(first.poll_over(&cx).is_ready() && second.poll_over(&cx).is_pending());
        drop(second);
        all.next();
        assert_eq!(count.0.load(Ordering::SeqCst), 1, "nobody waits any more");
        assert_eq!(Arc::strong_count(&count), 3, "the test's two, and the first one's own");
    }
}
