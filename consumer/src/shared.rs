//! What the parts of one consumer share: the table of partitions behind its lock, the signals around it, the budget, the counters.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use milena_client::{Link, TopicPartition};
use milena_protocol::records::{BatchError, PinnedMemory};
use tokio::sync::mpsc;

use crate::ConsumerEvent;
use crate::config::Config;
use crate::driver::group::Command;
use crate::fetch::budget::{Budget, LEAST_BYTES};
use crate::metrics::Metrics;
use crate::owned::SharedRun;
use crate::partitions::{Partitions, Policy, Signals};
use crate::records::{OpenBatch, Run};

/// Less than this is what the views of a few polls pin, whatever the budget: chunks of 256 KiB are not worth a word.
const LEAST_PINNED: usize = 4 << 20;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) link: Link,
    partitions: Mutex<Partitions>,
    pub(crate) signals: Arc<Signals>,
    pub(crate) budget: Budget,
    /// Memory that views of records keep, and whether the user knows that it is too much.
    pub(crate) pinned: Arc<PinnedMemory>,
    knows_of_pinned: AtomicBool,
    /// `recv`: the offset of the record that is lent; everything below it in its run is done. Written once per record, read by
    /// whoever commits.
    pub(crate) lent_at: AtomicI64,
    /// Moves whenever the user shows that it lives: polls, receives, acknowledges.
    pub(crate) polls: AtomicU64,
    pub(crate) acks: AtomicU64,
    /// The member joins, or is none.
    pub(crate) rebalancing: AtomicBool,
    pub(crate) metrics: Metrics,
    /// The group's driver, for a member of a group.
    pub(crate) group: Option<mpsc::UnboundedSender<Command>>,
}

impl Shared {
    pub(crate) fn new(config: Config, link: Link, group: Option<mpsc::UnboundedSender<Command>>) -> Self {
        let signals = Arc::new(Signals::default());
        let pinned = PinnedMemory::new(config.budget.max(LEAST_PINNED));
        let partitions =
            Partitions::new(config.max_partition_bytes, group.is_some(), config.isolation, signals.clone());
        Self {
            partitions: Mutex::new(partitions),
            signals,
            budget: Budget::new(config.budget, LEAST_BYTES),
            lent_at: AtomicI64::new(i64::MIN),
            polls: AtomicU64::new(0),
            acks: AtomicU64::new(0),
            rebalancing: AtomicBool::new(group.is_some()),
            metrics: Metrics::new(&link, &pinned),
            pinned,
            knows_of_pinned: AtomicBool::new(false),
            config,
            link,
            group,
        }
    }

    /// The table of partitions. Held for a look or a change, never across an await; wakers are called after it is released.
    pub(crate) fn partitions(&self) -> MutexGuard<'_, Partitions> {
        // A panic while it was held is a bug of ours; the other partitions are still right, and a reader must not panic as well.
        let mut partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        partitions.note_lent(self.lent_at.load(Ordering::Acquire));
        partitions
    }

    /// The reset policy, now.
    pub(crate) fn policy(&self) -> Policy {
        Policy { reset: self.config.reset, now_ms: self.link.wall_clock().now_ms() }
    }

    /// Changes the table, then frees the bytes that were dropped by it, then wakes the reader.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Partitions) -> Option<Waker>) {
        let mut partitions = self.partitions();
        let waker = change(&mut partitions);
        let dropped = partitions.take_dropped();
        drop(partitions);
        if dropped > 0 {
            self.budget.free(dropped);
            self.metrics.stale_bytes.add(dropped as u64);
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// More is pinned than the budget allows. Said once: whoever keeps records goes on keeping them.
    #[cold]
    pub(crate) fn warn_of_pinned(&self) {
        if !self.knows_of_pinned.swap(true, Ordering::Relaxed) {
            let (bytes, limit) = (self.pinned.bytes(), self.pinned.limit());
            tracing::warn!(
                bytes,
                limit,
                "records that are kept, or wait in partitions that stand still, pin more memory than buffer_memory allows: detach() \
                 small records that are kept for long. From now on records are copied out of their batches, which is slower, for as \
                 long as it is too much"
            );
            self.signals.events.queue_up(ConsumerEvent::MemoryPinned { bytes, limit });
        }
    }

    /// Runs of a [`Records`](crate::Records) are done.
    pub(crate) fn ack_runs(&self, runs: &[Run]) {
        self.acks.fetch_add(1, Ordering::Relaxed);
        let mut partitions = self.partitions();
        for run in runs {
            partitions.ack_run(run.batch.origin.slot, run.id);
        }
    }

    /// One record of a run is done.
    pub(crate) fn ack_record(&self, run: &SharedRun, index: u32, offset: i64) {
        // Without a group nobody commits.
        if self.group.is_some() {
            self.acks.fetch_add(1, Ordering::Relaxed);
            self.partitions().ack_record(run, index, offset);
        }
    }

    /// Everything below the offset that was handed out is done.
    pub(crate) fn ack_up_to(&self, tp: &TopicPartition, offset: i64) {
        self.acks.fetch_add(1, Ordering::Relaxed);
        self.partitions().ack_up_to(tp, offset);
    }

    /// Brings the table up to date with what `recv` has lent, then looks at it.
    pub(crate) fn frontiers(&self, of: Option<&[TopicPartition]>) -> Vec<(TopicPartition, i64, i32)> {
        let mut partitions = self.partitions();
        partitions.ack_lent(self.lent_at.load(Ordering::Acquire));
        partitions.frontiers(of)
    }

    /// A batch that was handed out turns out to be unreadable.
    pub(crate) fn on_broken_batch(&self, batch: &OpenBatch, error: Option<BatchError>) {
        let offset = batch.first_unreadable();
        let error = batch.unreadable(offset, error);
        self.change(|partitions| {
            // Its run holds records that nobody will see: no acknowledgement of it may count.
            partitions.forget_runs(batch.origin.slot);
            partitions.stick_at(batch.origin.slot, batch.generation, offset, error)
        });
    }
}
