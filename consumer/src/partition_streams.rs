//! A stream per partition: the partitions of one consumer, each read by whoever holds its stream, at its own pace.
//!
//! All of them share the consumer's fetch loops, its table of partitions and its budget. The table knows one reader to wake; here
//! that is the [`Switchboard`], which wakes those streams for which something has come.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::Stream;
use milena_client::{Error, Owner, TopicPartition};

use crate::partition_consumer::end;
use crate::partitions::{Partitions, SlotId};
use crate::reader::Reader;
use crate::shared::Shared;
use crate::{ReaderHandle, SharedRecord};

/// The partitions of a [`PartitionConsumer`](crate::PartitionConsumer) that was [split](crate::PartitionConsumer::split): a stream
/// for each, to be taken and moved to whoever reads it.
///
/// Each stream reads at its own pace. One that is not read keeps what was fetched for it: at most
/// [`max_partition_bytes`](crate::PartitionConsumerBuilder::max_partition_bytes), and as much again, or one larger batch, which a last
/// fetch adds to them. The others go on in what is left of [`buffer_memory`](crate::PartitionConsumerBuilder::buffer_memory): where `n`
/// partitions may stand still at once, give it `2 * n` times `max_partition_bytes`, and 64 KiB for each broker.
pub struct PartitionStreams {
    streams: Vec<PartitionStream>,
    shared: Arc<Shared>,
    owner: Arc<Owner>,
}

impl PartitionStreams {
    pub(crate) fn new(shared: &Arc<Shared>, owner: Owner) -> Self {
        let owner = Arc::new(owner);
        let board = Arc::new(Switchboard {
            shared: Arc::downgrade(shared),
            waiting: Mutex::default(),
            control: AtomicU64::new(shared.signals.control.load(Ordering::Acquire)),
        });
        let mut streams = Vec::new();
        let assigned = shared.partitions().assigned_slots();
        for (slot, partition) in assigned {
            let lane = Lane { slot, bell: Waker::from(board.clone()), board: board.clone() };
            let reader = Reader::of_one(shared.clone(), lane);
            streams.push(PartitionStream { reader, partition, _owner: owner.clone() });
        }
        Self { streams, shared: shared.clone(), owner }
    }

    /// The streams, in the order of their partitions. Empty when they have been taken before.
    pub fn take_streams(&mut self) -> Vec<PartitionStream> {
        std::mem::take(&mut self.streams)
    }

    /// A handle that pauses and seeks while the streams are read.
    pub fn handle(&self) -> ReaderHandle {
        ReaderHandle { shared: self.shared.clone() }
    }

    /// Ends the streams, all tasks and connections, and waits until they are gone, at most until `deadline` from now. (Without this
    /// they end when the last of the streams is dropped.)
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`](milena_client::ErrorKind::Timeout) if they are not; they end nevertheless.
    ///
    /// # Cancel safety
    /// Dropped, the streams and tasks end by themselves.
    pub async fn close(self, deadline: Duration) -> Result<(), Error> {
        end(&self.shared, &self.owner, deadline).await
    }
}

impl fmt::Debug for PartitionStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionStreams").field("streams", &self.streams).finish_non_exhaustive()
    }
}

/// The records of one partition, owned, as a [`Stream`], in the order of their offsets.
///
/// An error about this partition does not end it; it ends when the consumer is closed. What concerns no partition is told to one of
/// the streams. Dropping it gives the partition up: what was fetched is dropped and nothing more of it is fetched; the others go on.
#[must_use = "a stream does nothing unless it is polled, and gives its partition up when it is dropped"]
pub struct PartitionStream {
    reader: Reader,
    partition: TopicPartition,
    /// The tasks live as long as somebody reads.
    _owner: Arc<Owner>,
}

impl PartitionStream {
    /// The partition.
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.partition
    }
}

impl Stream for PartitionStream {
    type Item = Result<SharedRecord, Error>;

    #[inline]
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().reader.poll_owned(cx)
    }
}

impl Drop for PartitionStream {
    fn drop(&mut self) {
        let shared = &self.reader.shared;
        shared.change(|partitions| {
            // Nobody else would take them.
            while partitions.next_error_of(&self.partition).is_some() {}
            partitions.release(std::slice::from_ref(&self.partition))
        });
    }
}

impl fmt::Debug for PartitionStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PartitionStream({})", self.partition)
    }
}

/// The part of the table that one stream's reader reads.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) slot: SlotId,
    /// The table's waker: the board.
    bell: Waker,
    board: Arc<Switchboard>,
}

impl Lane {
    /// Waits for something of the partition. The table's lock is held, so that nothing comes between the look and the wait.
    pub(crate) fn park(&self, partitions: &mut Partitions, waker: &Waker) {
        self.board.waiting().insert(self.slot, waker.clone());
        partitions.park_reader(&self.bell);
    }
}

/// Who waits for which partition. Its lock is taken inside the table's, never around it.
#[derive(Debug)]
struct Switchboard {
    shared: Weak<Shared>,
    waiting: Mutex<BTreeMap<SlotId, Waker>>,
    /// The last control signal that everybody was woken for.
    control: AtomicU64,
}

impl Switchboard {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<SlotId, Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Switchboard {
    fn wake(self: Arc<Self>) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut woken = Vec::new();
        {
            let mut partitions = shared.partitions();
            let mut waiting = self.waiting();
            let control = shared.signals.control.load(Ordering::Acquire);
            let for_all = self.control.swap(control, Ordering::Relaxed) != control || partitions.has_news_for_all();
            waiting.retain(|slot, waker| {
                let stays = !for_all && !partitions.has_queued(*slot);
                if !stays {
                    woken.push(waker.clone());
                }
                stays
            });
            if !waiting.is_empty() {
                partitions.park_reader(&Waker::from(self.clone()));
            }
        }
        woken.into_iter().for_each(Waker::wake);
    }
}
