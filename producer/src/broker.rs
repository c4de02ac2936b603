//! What the senders and a broker's task share: the queue of partitions, and the bell.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use crate::accumulator::Part;

/// One broker, as far as those who fill batches need to know it.
pub(crate) struct Broker {
    pub(crate) id: i32,
    queue: Mutex<Queue>,
    bell: Bell,
    /// Since when it owes an answer or a connection and has given neither; kept only where somebody asks.
    silent_since: Mutex<Option<Instant>>,
}

/// No other lock is taken inside of its own, which may be taken inside a partition's: where one is handed to another leader.
#[derive(Default)]
pub(crate) struct Queue {
    /// Partitions with something to send, each at most once.
    pub(crate) ready: VecDeque<Arc<Part>>,
    /// Open batches by the end of their linger: one queue for each linger, so that each is in order. Entries of batches that have
    /// been closed since are skipped when their time comes.
    lingering: Vec<VecDeque<(Instant, u64, Arc<Part>)>>,
}

impl Queue {
    /// Moves the batches whose linger is over to `over`. Returns the end of the next linger.
    pub(crate) fn take_over(&mut self, now: Instant, over: &mut Vec<(u64, Arc<Part>)>) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for lane in &mut self.lingering {
            let due = lane.iter().take_while(|(at, ..)| *at <= now).count();
            over.extend(lane.drain(..due).map(|(_, number, part)| (number, part)));
            next = next.into_iter().chain(lane.front().map(|(at, ..)| *at)).min();
        }
        next
    }

    pub(crate) fn clear(&mut self) {
        self.ready.clear();
        self.lingering.clear();
    }
}

impl Broker {
    pub(crate) fn new(id: i32) -> Self {
        Self { id, queue: Mutex::default(), bell: Bell::default(), silent_since: Mutex::default() }
    }

    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue> {
        // Every change is one push or a swap: a panic elsewhere leaves the queue whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is something to send for `part`, which its caller has marked as queued.
    pub(crate) fn push_ready(&self, part: Arc<Part>) {
        self.queue().ready.push_back(part);
        self.ring();
    }

    /// There will be something to send for `part`. Rings only if nothing of the same linger is waited for: the task looks at the queue
    /// before that timer is over.
    pub(crate) fn push_lingering(&self, at: Instant, number: u64, part: Arc<Part>) {
        let lane = part.common.settings.lane;
        let mut queue = self.queue();
        if queue.lingering.len() <= lane {
            queue.lingering.resize_with(lane + 1, VecDeque::new);
        }
        let lane = &mut queue.lingering[lane];
        let was_empty = lane.is_empty();
        lane.push_back((at, number, part));
        drop(queue);
        if was_empty {
            self.ring();
        }
    }

    /// Since when the broker has not moved though something is asked of it.
    pub(crate) fn silent_since(&self) -> Option<Instant> {
        *self.silent_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_silent_since(&self, since: Option<Instant>) {
        *self.silent_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Has the broker's task look around.
    pub(crate) fn ring(&self) {
        self.bell.ring();
    }

    /// Whether somebody rang; whoever asks will be woken for the next time.
    pub(crate) fn answer(&self, waker: &Waker) -> bool {
        self.bell.waker.register(waker);
        self.bell.rung.swap(false, Ordering::AcqRel)
    }
}

/// Wakes one task, and only if it has not been woken already.
#[derive(Default)]
struct Bell {
    rung: AtomicBool,
    waker: AtomicWaker,
}

impl Bell {
    fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }
}
