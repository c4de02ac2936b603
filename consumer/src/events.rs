//! What happens to a consumer that is neither a record nor an error: positions that were moved by something else than reading.
//!
//! Nothing here waits for whoever listens: events queue up to a bound, and behind it the oldest are counted and forgotten.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use milena_client::TopicPartition;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::OffsetReset;

/// How many events are kept for a user who does not fetch them.
const MOST_EVENTS: usize = 1024;

/// What has happened: see [`ReaderHandle::next_event`](crate::ReaderHandle::next_event).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsumerEvent {
    /// The reset policy has chosen where a partition is read from now on. (A [`StartAt`](crate::StartAt) that the user has chosen is
    /// no reset.)
    Reset {
        /// The partition.
        partition: TopicPartition,
        /// The offset that would have been read next; `None` where there was none.
        from: Option<i64>,
        /// The offset that is read next.
        to: i64,
        /// The policy.
        policy: OffsetReset,
        /// Why it had to act.
        reason: ResetReason,
        /// How many offsets from `from` on had fallen out of the log, unread. (Records, but for those that compaction had removed and
        /// markers of transactions.) Zero where none had, also where `from` lies beyond the log's end.
        lost: u64,
    },
    /// The log does not have the offset that is to be read next, and there is no reset policy: an error says so, and nothing more comes
    /// of the partition before it is sought.
    OutOfRange {
        /// The partition.
        partition: TopicPartition,
        /// The offset.
        offset: i64,
        /// The first offset that the log has.
        log_start: i64,
        /// How many offsets from there on had fallen out of the log, unread; zero if it lies beyond the log's end.
        lost: u64,
    },
    /// A leader was elected whose log lacks records that had been read (KIP-320): they are gone, and others may stand at their
    /// offsets. With a reset policy reading goes on at `to`; without one an error says so. Where `to` is unknown, reading goes on at
    /// `from` with and without one.
    Truncated {
        /// The partition.
        partition: TopicPartition,
        /// The offset that would have been read next.
        from: i64,
        /// The first offset from which on what was read is not in the log. `None` if it lies below `from` and nobody knows where: this
        /// reader began behind it, and knows of the lost epoch only that the last record before `from` was of it.
        to: Option<i64>,
    },
    /// The topic was deleted and another one made under its name. The offsets of the old one mean nothing there: the reset policy acts
    /// (and a [`Reset`](Self::Reset) follows), or without one an error says so.
    TopicRecreated {
        /// The partition.
        partition: TopicPartition,
        /// The id of the topic that is gone.
        old: Uuid,
        /// The id of the one that is there now.
        new: Uuid,
        /// The offset that would have been read next of the old one.
        position: Option<i64>,
    },
    /// The cluster does not know the partition, or does not let this client read it: an error has said so. It is read as soon as that
    /// changes.
    Unavailable {
        /// The partition.
        partition: TopicPartition,
    },
    /// Records that are kept, or that wait in partitions that stand still beside others, keep more memory alive than
    /// [`buffer_memory`](crate::PartitionConsumerBuilder::buffer_memory) (at least 4 MiB): a view of a record keeps the 256 KiB in which
    /// it arrived. [`detach`](crate::SharedRecord::detach) small records that are kept for long. Reading goes on, and for as long as it is
    /// too much, what may be kept is copied out of its batch, which is slower. Told once;
    /// [`pinned_bytes`](crate::ReaderHandle::pinned_bytes) says how much it is at any time.
    MemoryPinned {
        /// How many bytes it was when it was noticed.
        bytes: u64,
        /// How many it may be.
        limit: u64,
    },
    /// So many events before the next one were forgotten, because nobody had fetched them.
    Missed {
        /// How many.
        count: u64,
    },
}

/// Why a position was reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResetReason {
    /// The group has committed nothing for the partition.
    NothingCommitted,
    /// The log does not have the offset: it fell out of retention, or lies beyond the end.
    OutOfRange,
    /// The topic is another one under the same name.
    TopicRecreated,
}

/// The events of one consumer.
#[derive(Debug, Default)]
pub(crate) struct Events {
    queue: Mutex<Queue>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<ConsumerEvent>,
    missed: u64,
    closed: bool,
}

impl Events {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A queue of plain values is whole after any panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tell(&self, event: ConsumerEvent) {
        tracing::info!(?event, "consumer event");
        self.queue_up(event);
    }

    /// Tells the user, and not the log.
    pub(crate) fn queue_up(&self, event: ConsumerEvent) {
        let mut queue = self.queue();
        if queue.events.len() == MOST_EVENTS {
            queue.events.pop_front();
            queue.missed += 1;
        }
        queue.events.push_back(event);
        drop(queue);
        self.bell.notify_waiters();
    }

    /// Nothing more will happen.
    pub(crate) fn close(&self) {
        self.queue().closed = true;
        self.bell.notify_waiters();
    }

    pub(crate) fn try_next(&self) -> Option<ConsumerEvent> {
        let mut queue = self.queue();
        match std::mem::take(&mut queue.missed) {
            0 => queue.events.pop_front(),
            count => Some(ConsumerEvent::Missed { count }),
        }
    }

    /// The next one; `None` when nothing more will happen.
    pub(crate) async fn next(&self) -> Option<ConsumerEvent> {
        loop {
            let mut bell = std::pin::pin!(self.bell.notified());
            // Before the look, or what is told between the two would be missed.
            bell.as_mut().enable();
            if let Some(event) = self.try_next() {
                return Some(event);
            }
            if self.queue().closed {
                return None;
            }
            bell.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(partition: i32) -> ConsumerEvent {
        ConsumerEvent::Unavailable { partition: TopicPartition::new("t", partition) }
    }

    #[tokio::test]
    async fn events_come_in_order_and_the_end_after_the_last() {
        let events = Events::default();
        events.tell(event(1));
        let (first, ()) =
            tokio::join!(async { [events.next().await, events.next().await, events.next().await] }, async {
                events.tell(event(2));
                events.close();
            });
        assert_eq!(first, [Some(event(1)), Some(event(2)), None]);
    }

    #[test]
    fn what_nobody_fetches_is_counted_and_the_newest_are_kept() {
        let events = Events::default();
        (0..MOST_EVENTS as i32 + 5).for_each(|partition| events.tell(event(partition)));
        assert_eq!(events.try_next(), Some(ConsumerEvent::Missed { count: 5 }));
        assert_eq!(events.try_next(), Some(event(5)));
        assert_eq!(std::iter::from_fn(|| events.try_next()).count(), MOST_EVENTS - 1);
    }
}
