//! What the parts of one consumer share: the table of partitions behind its lock, the signals around it, the budget, the counters.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use milena_client::{Counter, Error, ErrorKind, Link, TopicPartition};
use milena_protocol::records::BatchError;
use tokio::sync::mpsc;

use crate::config::Config;
use crate::driver::group::Command;
use crate::fetch::budget::{Budget, LEAST_BYTES};
use crate::metrics;
use crate::partitions::{Partitions, Signals};
use crate::records::{OpenBatch, Origin, Run};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) link: Link,
    partitions: Mutex<Partitions>,
    pub(crate) signals: Arc<Signals>,
    pub(crate) budget: Budget,
    /// `recv`: the offset of the record that is lent; everything below it in its run is done. Written once per record, read by
    /// whoever commits.
    pub(crate) lent_at: AtomicI64,
    /// Moves whenever the user shows that it lives: polls, receives, acknowledges.
    pub(crate) polls: AtomicU64,
    pub(crate) acks: AtomicU64,
    /// The member joins, or is none.
    pub(crate) rebalancing: AtomicBool,
    pub(crate) metrics: Counters,
    /// The group's driver, for a member of a group.
    pub(crate) group: Option<mpsc::UnboundedSender<Command>>,
}

#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) records: Counter,
    pub(crate) bytes: Counter,
    pub(crate) fetches: Counter,
    pub(crate) fetched_bytes: Counter,
    pub(crate) stale_bytes: Counter,
}

impl Shared {
    pub(crate) fn new(config: Config, link: Link, group: Option<mpsc::UnboundedSender<Command>>) -> Self {
        let signals = Arc::new(Signals::default());
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
            metrics: metrics::counters(&link),
            config,
            link,
            group,
        }
    }

    /// The table of partitions. Held for a look or a change, never across an await; wakers are called after it is released.
    pub(crate) fn partitions(&self) -> MutexGuard<'_, Partitions> {
        // A panic while it was held is a bug of ours; the other partitions are still right, and a reader must not panic as well.
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Runs of a [`Records`](crate::Records) are done.
    pub(crate) fn ack_runs(&self, runs: &[Run]) {
        self.acks.fetch_add(1, Ordering::Relaxed);
        let mut partitions = self.partitions();
        for run in runs {
            partitions.ack_run(run.batch.origin.slot, run.id);
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
        let error = batch_error(&batch.origin, batch.batch.base_offset(), error);
        self.change(|partitions| {
            // Its run holds records that nobody will see: no acknowledgement of it may count.
            partitions.forget_runs(batch.origin.slot);
            partitions.stick(batch.origin.slot, batch.generation, error)
        });
    }
}

/// The error for something behind `offset` that is no batch.
pub(crate) fn batch_error_at(tp: TopicPartition, offset: i64, error: BatchError) -> Error {
    let message = format!("what lies at offset {offset} cannot be read: {error}. Seek behind it to go on without it.");
    Error::new(ErrorKind::Malformed, message).with_topic_partition(tp).with_source(error)
}

/// The error for a batch that cannot be read.
pub(crate) fn batch_error(origin: &Origin, offset: i64, error: Option<BatchError>) -> Error {
    let text =
        error.as_ref().map_or_else(|| "its records end before its header says so".to_owned(), ToString::to_string);
    let message = format!("the batch at offset {offset} cannot be read: {text}. Seek behind it to go on without it.");
    let tp = TopicPartition { topic: origin.topic.clone(), partition: origin.partition };
    let result = Error::new(ErrorKind::Malformed, message).with_topic_partition(tp);
    match error {
        Some(error) => result.with_source(error),
        None => result,
    }
}
