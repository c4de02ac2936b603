//! The handle: what can be done to a consumer while a read waits, from any task or thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use milena_client::{Error, ErrorKind, GroupMetadata, OffsetAndMetadata, TopicPartition};
use tokio::sync::{mpsc, oneshot};

use crate::commits::Offsets;
use crate::driver::group::Command;
use crate::partitions::PartitionState;
use crate::reader::closed;
use crate::shared::Shared;
use crate::{IsolationLevel, Records, StartAt};

/// Pauses, seeks, acknowledges and commits for a [`Consumer`](crate::Consumer) while it reads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ConsumerHandle {
    pub(crate) shared: Arc<Shared>,
}

impl ConsumerHandle {
    /// The partitions that are this consumer's now, those that it is about to give up included.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.shared.partitions().assignment()
    }

    /// What is known of a partition without asking a broker; `None` if it is not this consumer's.
    pub fn state(&self, partition: &TopicPartition) -> Option<PartitionState> {
        self.shared.partitions().state(partition)
    }

    /// The offset of the next record that will be handed out; `None` while it is being looked up, or if the partition is not this
    /// consumer's, or not for long.
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

    /// Hands out nothing of these partitions until [`resume`](Self::resume). What is fetched is kept.
    pub fn pause(&self, partitions: &[TopicPartition]) {
        self.shared.change(|table| table.pause(partitions));
    }

    /// Goes on with paused partitions.
    pub fn resume(&self, partitions: &[TopicPartition]) {
        self.shared.change(|table| table.resume(partitions));
    }

    /// Goes on reading there. What was fetched is dropped; what was handed out before counts no more, acknowledged or not: the next
    /// commit says where the partition was sought to.
    ///
    /// # Errors
    /// [`ErrorKind::NotAssigned`] if the partition is not this consumer's.
    pub fn seek(&self, partition: &TopicPartition, to: StartAt) -> Result<(), Error> {
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
