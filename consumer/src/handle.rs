//! The handles: what can be done to a consumer while a read waits, from any task or thread.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use milena_client::{Error, ErrorKind, GroupMetadata, OffsetAndMetadata, TopicPartition};
use tokio::sync::{mpsc, oneshot};

use crate::commits::Offsets;
use crate::driver::group::Command;
use crate::events::ConsumerEvent;
use crate::lookups::{OffsetAndTimestamp, look_up};
use crate::partitions::PartitionState;
use crate::reader::closed;
use crate::shared::Shared;
use crate::{IsolationLevel, Records, StartAt};

/// Pauses and seeks for a consumer while it reads, and knows where it stands. Cheap to clone.
///
/// What both kinds of consumers have; a [`Consumer`](crate::Consumer) of a group has a [`ConsumerHandle`] that can do more.
#[derive(Debug, Clone)]
pub struct ReaderHandle {
    pub(crate) shared: Arc<Shared>,
}

impl ReaderHandle {
    /// The partitions that are this consumer's now, those that it is about to give up included.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.shared.partitions().assignment()
    }

    /// What is known of a partition without asking a broker; `None` if it is not this consumer's.
    pub fn state(&self, partition: &TopicPartition) -> Option<PartitionState> {
        self.shared.partitions().state(partition)
    }

    /// The offset of the next record that will be handed out; `None` while it is being looked up, or if the partition is not this
    /// consumer's, or not for long. While a stream gives the records of a batch one by one, it is that behind the batch; `recv` and
    /// `poll` move it record by record, and poll by poll.
    pub fn position(&self, partition: &TopicPartition) -> Option<i64> {
        self.state(partition)?.position
    }

    /// Records between the position and the end of the log as the last answer told it; `None` before the first answer. For a reader
    /// of committed records the log ends at the last stable offset.
    pub fn lag(&self, partition: &TopicPartition) -> Option<u64> {
        let state = self.state(partition)?;
        let end = match self.shared.config.isolation {
            IsolationLevel::ReadUncommitted => state.high_watermark?,
            IsolationLevel::ReadCommitted => state.last_stable_offset?,
        };
        Some(u64::try_from(end - state.position?).unwrap_or(0))
    }

    /// Bytes that were fetched and wait to be read, as they came, and those that brokers have been asked for: what
    /// [`buffer_memory`](crate::PartitionConsumerBuilder::buffer_memory) bounds. It may pass that bound by a batch that is larger than a
    /// request was to bring, and, while a read waits for a broker and others have filled all room, by 64 KiB for that broker. What
    /// the user holds is not in it.
    pub fn buffered_bytes(&self) -> usize {
        usize::try_from(self.shared.budget.used()).unwrap_or(0)
    }

    /// Bytes of memory that are kept alive though the records in them have been handed out: by records, batches and slices that the user
    /// keeps, each of which keeps the 256 KiB in which it arrived (or all that its batch was decompressed to), and by batches that wait
    /// while others of their 256 KiB have been read. Not in it: what [`buffer_memory`](crate::PartitionConsumerBuilder::buffer_memory)
    /// counts, and the last 256 KiB of each broker. Zero when nothing is kept.
    pub fn pinned_bytes(&self) -> u64 {
        self.shared.pinned.bytes()
    }

    /// Hands out nothing of these partitions until [`resume`](Self::resume). What is fetched is kept.
    pub fn pause(&self, partitions: &[TopicPartition]) {
        self.shared.change(|table| table.pause(partitions));
    }

    /// Goes on with paused partitions.
    pub fn resume(&self, partitions: &[TopicPartition]) {
        self.shared.change(|table| table.resume(partitions));
    }

    /// Goes on reading there, also while a read waits. What was fetched is dropped; what was handed out before counts no more, acknowledged or not: the next
    /// commit says where the partition was sought to.
    ///
    /// # Errors
    /// [`ErrorKind::NotAssigned`] if the partition is not this consumer's; [`ErrorKind::Config`] for a negative offset or time.
    pub fn seek(&self, partition: &TopicPartition, to: StartAt) -> Result<(), Error> {
        to.check().map_err(|error| error.with_topic_partition(partition.clone()))?;
        let mut result = Ok(());
        self.shared.change(|table| match table.seek(partition, to) {
            Ok(waker) => waker,
            Err(_) => {
                let text = "only a partition that is assigned to this consumer can be sought.";
                result = Err(Error::new(ErrorKind::NotAssigned, text).with_topic_partition(partition.clone()));
                None
            }
        });
        result
    }

    /// How far behind the reader is in time: zero where everything is read up to the end of the log as the last answer told it, and else
    /// the client's wall clock now less the timestamp of the batch that holds the next record (of its first record; where the broker
    /// stamps records, or compaction has left a tombstone, of its last). While that batch has not been fetched, the last one that was read stands for it. `None` if
    /// neither is known, or if the partition is not this consumer's. No broker is asked.
    ///
    /// It is as true as the two clocks and the writers' timestamps are; never below zero.
    pub fn lag_time(&self, partition: &TopicPartition) -> Option<Duration> {
        if self.lag(partition)? == 0 {
            return Some(Duration::ZERO);
        }
        let timestamp = self.shared.partitions().next_timestamp(partition)?;
        let behind = self.shared.link.wall_clock().now_ms().saturating_sub(timestamp);
        Some(Duration::from_millis(u64::try_from(behind).unwrap_or(0)))
    }

    /// The first record of each partition whose timestamp (milliseconds since 1970) is this or later; `None` where there is none. Any
    /// partitions may be asked for. Java: `offsetsForTimes`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for a negative time. After [`api_timeout`](crate::PartitionConsumerBuilder::api_timeout) (60 s) what kept
    /// the answer away: [`ErrorKind::UnknownTopicOrPartition`] for a partition that nobody leads or knows; a refusal at once.
    ///
    /// # Cancel safety
    /// Dropped, nothing has changed.
    pub async fn offsets_for_times(
        &self,
        times: impl IntoIterator<Item = (TopicPartition, i64)>,
    ) -> Result<BTreeMap<TopicPartition, Option<OffsetAndTimestamp>>, Error> {
        let mut asked = BTreeMap::new();
        for (tp, time) in times {
            if time < 0 {
                let text = "a time is milliseconds since 1970 and not negative: ask for beginning_offsets or end_offsets instead.";
                return Err(Error::new(ErrorKind::Config, text).with_topic_partition(tp));
            }
            asked.insert(tp, StartAt::Timestamp(time));
        }
        let found = look_up(&self.shared, asked).await?;
        Ok(found.into_iter().map(|(tp, place)| (tp, place.map(OffsetAndTimestamp::new))).collect())
    }

    /// The first offset of each partition's log. Java: `beginningOffsets`.
    ///
    /// # Errors
    /// As [`offsets_for_times`](Self::offsets_for_times).
    ///
    /// # Cancel safety
    /// Dropped, nothing has changed.
    pub async fn beginning_offsets(
        &self,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, i64>, Error> {
        self.ends(partitions, StartAt::Beginning).await
    }

    /// The offset behind the last record of each partition that a reader can see: the high watermark, or for one of committed records
    /// the last stable offset. Java: `endOffsets`.
    ///
    /// # Errors
    /// As [`offsets_for_times`](Self::offsets_for_times).
    ///
    /// # Cancel safety
    /// Dropped, nothing has changed.
    pub async fn end_offsets(
        &self,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, i64>, Error> {
        self.ends(partitions, StartAt::End).await
    }

    async fn ends(
        &self,
        partitions: impl IntoIterator<Item = TopicPartition>,
        which: StartAt,
    ) -> Result<BTreeMap<TopicPartition, i64>, Error> {
        let found = look_up(&self.shared, partitions.into_iter().map(|tp| (tp, which)).collect()).await?;
        // Every log begins and ends somewhere.
        Ok(found.into_iter().filter_map(|(tp, place)| Some((tp, place?.offset))).collect())
    }

    /// What happened next that is neither a record nor an error: a position that was reset, a log that was truncated, a topic that was
    /// made anew. `None` when the consumer is closed. Each event is given once, whichever handle asks; 1,024 are kept, and those that
    /// were forgotten are counted ([`ConsumerEvent::Missed`]). Nothing waits for whoever listens.
    ///
    /// # Cancel safety
    /// Dropped, nothing is lost: the event is given to the next call.
    pub async fn next_event(&self) -> Option<ConsumerEvent> {
        self.shared.signals.events.next().await
    }

    /// Like [`next_event`](Self::next_event), without waiting.
    pub fn try_next_event(&self) -> Option<ConsumerEvent> {
        self.shared.signals.events.try_next()
    }
}

/// Pauses, seeks, acknowledges and commits for a [`Consumer`](crate::Consumer) while it reads: a [`ReaderHandle`] and what belongs to a
/// group. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ConsumerHandle {
    reader: ReaderHandle,
}

impl Deref for ConsumerHandle {
    type Target = ReaderHandle;

    fn deref(&self) -> &ReaderHandle {
        &self.reader
    }
}

impl ConsumerHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { reader: ReaderHandle { shared } }
    }

    /// Goes on reading where the group has committed, asking the coordinator for it. What was handed out since counts as never read:
    /// the way back after a transaction that was to commit it has been aborted, or whose end nobody knows. Of a partition that is
    /// being given up nothing is waited for any more, and one that is not this consumer's is left out.
    pub fn seek_to_committed(&self, partitions: &[TopicPartition]) {
        self.shared.change(|table| table.seek_to_committed(partitions));
    }

    /// These records are done: their offsets may be committed. The same as [`Records::ack`].
    pub fn ack(&self, records: &Records) {
        records.ack();
    }

    /// Everything of the partition that was handed out and lies below `next_offset` is done.
    pub fn ack_up_to(&self, partition: &TopicPartition, next_offset: i64) {
        self.shared.ack_up_to(partition, next_offset);
    }

    /// Commits what has been acknowledged. Ready when the coordinator has it.
    ///
    /// # Errors
    /// What the coordinator refuses for good; [`ErrorKind::Closed`]. Refusals that may pass are asked again, in order, for as long
    /// as the partition is this member's; a partition that is lost meanwhile is left out. When that has taken 60 s (Java's
    /// `default.api.timeout.ms`), [`ErrorKind::Timeout`]: the commit goes on, and nobody waits for it. For a consumer without a
    /// group, [`ErrorKind::Config`].
    ///
    /// # Cancel safety
    /// Dropped, the commit goes on.
    pub async fn commit(&self) -> Result<(), Error> {
        self.ask_to_commit(None).await
    }

    /// Commits these offsets: where reading shall go on. What lies below counts as acknowledged.
    ///
    /// # Errors
    /// As [`commit`](Self::commit); [`ErrorKind::NotAssigned`] for a partition that is not this member's.
    ///
    /// # Cancel safety
    /// Dropped, the commit goes on.
    pub async fn commit_offsets(
        &self,
        offsets: impl IntoIterator<Item = (TopicPartition, OffsetAndMetadata)>,
    ) -> Result<(), Error> {
        self.ask_to_commit(Some(offsets.into_iter().collect())).await
    }

    async fn ask_to_commit(&self, offsets: Option<Offsets>) -> Result<(), Error> {
        let Some(group) = &self.shared.group else {
            return Err(Error::new(ErrorKind::Config, "a consumer without a group has nowhere to commit to."));
        };
        let (reply, answer) = oneshot::channel();
        group.send(Command::Commit { offsets, reply }).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Member id and generation. Empty for a consumer without a group.
    ///
    /// For a transaction, ask for it when the records are read and not when their offsets are sent: who has lost its partitions since
    /// is then refused by the coordinator, and joins again under another generation.
    ///
    /// # Errors
    /// [`ErrorKind::NotAssigned`] while this member is not in the group; [`ErrorKind::Closed`].
    ///
    /// # Cancel safety
    /// Nothing happens but a question.
    pub async fn group_metadata(&self) -> Result<GroupMetadata, Error> {
        let Some(group) = &self.shared.group else { return Ok(GroupMetadata::default()) };
        let (reply, answer) = oneshot::channel();
        group.send(Command::Identity { reply }).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Whether this member is joining its group, or not in it: its generation is about to end. Never for a consumer without a group.
    pub fn is_rebalancing(&self) -> bool {
        self.shared.rebalancing.load(Ordering::Relaxed)
    }

    /// Member id and generation, which stay what they are for as long as the [hold](GenerationHold) lives: this member puts off
    /// joining again, and the group waits for it. For a transaction's offsets, which are refused if a join of the member's own comes
    /// in between. Waits for the end of a join that is under way.
    ///
    /// # Errors
    /// As [`group_metadata`](Self::group_metadata).
    ///
    /// # Cancel safety
    /// Dropped, nothing is held.
    pub async fn hold_generation(&self) -> Result<GenerationHold, Error> {
        let Some(group) = &self.shared.group else {
            return Ok(GenerationHold { group: GroupMetadata::default(), driver: None });
        };
        let (reply, answer) = oneshot::channel();
        group.send(Command::Hold { reply }).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

/// Keeps a member in its generation: [`ConsumerHandle::hold_generation`]. Keep it shortly: the whole group waits, and after
/// [`max_poll_interval`](crate::ConsumerBuilder::max_poll_interval) goes on without this member.
#[derive(Debug)]
#[must_use = "dropped, the member may join again"]
pub struct GenerationHold {
    pub(crate) group: GroupMetadata,
    /// Who is told of the end; nobody, for a consumer without a group.
    pub(crate) driver: Option<mpsc::UnboundedSender<Command>>,
}

impl GenerationHold {
    /// Member id and generation.
    pub fn group_metadata(&self) -> &GroupMetadata {
        &self.group
    }
}

impl Drop for GenerationHold {
    fn drop(&mut self) {
        if let Some(driver) = &self.driver {
            // Nobody listens if the consumer has been closed.
            let _ = driver.send(Command::Release);
        }
    }
}
