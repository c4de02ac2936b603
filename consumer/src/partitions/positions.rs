//! Where reading of a partition begins and goes on: looked up, validated, reset, or stuck.
//!
//! ```text
//! AwaitListener → AwaitCommitted ─┬────────────────→ Fetching ⇄ AwaitValidation   (KIP-320; brokers before 2.7)
//!                                 └→ AwaitReset ───────↗  │ out of range           │ truncated: goes back, or Stuck
//!                                      ↑                  ↓
//!                                      └────────── AwaitLogStart → Stuck           (no reset policy)
//! ```

use std::task::Waker;

use milena_client::{Error, ErrorKind};
use milena_protocol::{ApiKey, ErrorCode};

use super::{LookUp, Partitions, PendingReset, SlotId, Stand, Tenure};
use crate::errors::{LogTruncation, OffsetGone};
use crate::events::{ConsumerEvent, ResetReason};
use crate::{OffsetReset, StartAt};

/// A reset policy, and the time by the wall clock (ms since 1970), from which a duration counts back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    pub(crate) reset: OffsetReset,
    pub(crate) now_ms: i64,
}

impl Policy {
    fn start(self) -> Option<StartAt> {
        self.reset.start(self.now_ms)
    }
}

impl Partitions {
    /// Partitions of which something must be asked before they can be fetched.
    pub(crate) fn look_ups(&self) -> Vec<LookUp> {
        let is_open = |stand: &Stand| !matches!(stand, Stand::AwaitListener | Stand::Fetching | Stand::Stuck);
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.tenure == Tenure::Assigned && is_open(&slot.stand))
            .map(|(id, slot)| LookUp {
                slot: id as SlotId,
                generation: slot.generation,
                tp: slot.tp.clone(),
                stand: slot.stand.clone(),
                leader: slot.leader,
                epoch: slot.epochs.before(slot.fetch_offset),
            })
            .collect()
    }

    /// Whether an answer about the partition is still wanted.
    fn is_current(&self, id: SlotId, generation: u32) -> bool {
        let slot = &self.slots[id as usize];
        slot.generation == generation && slot.tenure == Tenure::Assigned
    }

    /// The starting point is known, with the epoch of the last record before it (−1 if unknown). Ignored if the user sought meanwhile.
    pub(crate) fn start_at(&mut self, id: SlotId, generation: u32, mut offset: i64, epoch: i32) -> bool {
        if !self.is_current(id, generation) {
            return false;
        }
        let slot = &mut self.slots[id as usize];
        slot.stand = Stand::Fetching;
        if let Some(PendingReset { from, policy, reason, lost }) = slot.reset.take() {
            let partition = slot.tp.clone();
            if lost > 0 {
                // The last stable offset may lie below the log's start, where a transaction is open whose beginning was deleted.
                offset = offset.max(from.unwrap_or(0) + lost as i64);
            }
            self.signals.events.tell(ConsumerEvent::Reset { partition, from, to: offset, policy, reason, lost });
        }
        self.stand_at(id, offset, epoch);
        self.wake_loops();
        true
    }

    /// The log has nothing of what the reset asked for: the end it is.
    pub(crate) fn reset_to_end(&mut self, id: SlotId, generation: u32) {
        if self.is_current(id, generation) {
            self.await_reset(id, StartAt::End);
        }
    }

    /// The group has committed nothing: the policy decides.
    pub(crate) fn nothing_committed(&mut self, id: SlotId, generation: u32, policy: Policy) -> Option<Waker> {
        if !self.is_current(id, generation) {
            return None;
        }
        let reset = PendingReset { from: None, policy: policy.reset, reason: ResetReason::NothingCommitted, lost: 0 };
        self.reset_or(id, policy, reset, |_| {
            let text = "the group has no committed offset for the partition, and offset_reset is None: seek, or choose a policy.";
            Error::new(ErrorKind::Config, text)
        })
    }

    /// The log does not have the offset that was asked for. What was fetched before it is handed out first: false until then.
    pub(crate) fn out_of_range(&mut self, id: SlotId, generation: u32, asked: i64) -> bool {
        let slot = &mut self.slots[id as usize];
        slot.note_given();
        let is_next = slot.stand == Stand::Fetching && (slot.fetch_offset, slot.position) == (asked, asked);
        if slot.generation != generation || !is_next {
            return false;
        }
        if slot.epochs.before(asked) >= 0 {
            // A leader also says so where it cannot tell about the epoch. Asked without one, it answers for the offset alone.
            slot.epochs.start(-1);
            slot.rest_until = None;
            return true;
        }
        slot.stand = Stand::AwaitLogStart(asked);
        // Nothing that is still under way may be mistaken for what comes after the reset.
        slot.generation += 1;
        self.signals.upkeep.notify_one();
        true
    }

    /// The log begins here, and the offset that was asked for is not in it.
    pub(crate) fn on_log_start(
        &mut self,
        id: SlotId,
        generation: u32,
        log_start: i64,
        policy: Policy,
    ) -> Option<Waker> {
        let Stand::AwaitLogStart(from) = self.slots[id as usize].stand else { return None };
        if !self.is_current(id, generation) {
            return None;
        }
        let lost = u64::try_from(log_start - from).unwrap_or(0);
        let tp = self.slots[id as usize].tp.clone();
        tracing::warn!(%tp, offset = from, log_start, lost, policy = ?policy.reset, "the log does not have the offset");
        let reason = ResetReason::OutOfRange;
        if policy.start() == Some(StartAt::Beginning) {
            self.slots[id as usize].reset = Some(PendingReset { from: Some(from), policy: policy.reset, reason, lost });
            self.start_at(id, generation, log_start, -1);
            return None;
        }
        if policy.start().is_none() {
            self.signals.events.tell(ConsumerEvent::OutOfRange { partition: tp, offset: from, log_start, lost });
        }
        let reset = PendingReset { from: Some(from), policy: policy.reset, reason, lost };
        self.reset_or(id, policy, reset, |_| {
            let gone = OffsetGone { offset: from, log_start, lost };
            let text = if lost > 0 {
                format!(
                    "the log begins at offset {log_start} by now: the {lost} offsets from {from} on were deleted unread (retention, or \
                     DeleteRecords). offset_reset is None: seek to {log_start} to go on without them, or choose a policy."
                )
            } else {
                format!(
                    "the log does not have offset {from}: it begins at {log_start} and ends before (the topic may have been made anew, or \
                     the offset be another partition's). offset_reset is None: seek to an offset that it has, or choose a policy."
                )
            };
            Error::new(ErrorKind::Broker(ErrorCode::OFFSET_OUT_OF_RANGE), text)
                .with_api(ApiKey::FETCH)
                .with_offset(from)
                .with_source(gone)
        })
    }

    /// Whether what was fetched cannot be in a log that has nothing of a later epoch than `epoch` below `end`.
    pub(crate) fn has_parted(&self, id: SlotId, generation: u32, epoch: i32, end: i64) -> bool {
        let slot = &self.slots[id as usize];
        slot.generation == generation && (end < slot.fetch_offset || slot.epochs.before(slot.fetch_offset) > epoch)
    }

    /// The leader's log has nothing of a later epoch than `epoch` below `end`, and what was fetched says otherwise (KIP-320).
    ///
    /// What was fetched and not handed out is dropped. If records that were handed out are gone, the position goes back to where the
    /// logs part, or without a reset policy stays, stuck: as in Java.
    pub(crate) fn on_parted(
        &mut self,
        id: SlotId,
        generation: u32,
        (epoch, end): (i32, i64),
        policy: Policy,
    ) -> Option<Waker> {
        if !self.is_current(id, generation) {
            return None;
        }
        let slot = &mut self.slots[id as usize];
        slot.note_given();
        let parted = slot.epochs.parted(epoch, end).min(slot.fetch_offset);
        tracing::warn!(tp = %slot.tp, position = slot.position, fetched_to = slot.fetch_offset, parted, "the log was truncated");
        let position = slot.position;
        if parted < position {
            let partition = slot.tp.clone();
            self.signals.events.tell(ConsumerEvent::Truncated { partition, from: position, to: Some(parted) });
            if policy.start().is_none() {
                return self.stick_truncated(id, generation, (parted, epoch));
            }
            self.invalidate(id);
            self.slots[id as usize].stand = Stand::Fetching;
            self.stand_at(id, parted, epoch);
            return self.control_changed();
        }
        self.invalidate(id);
        let slot = &mut self.slots[id as usize];
        slot.stand = Stand::Fetching;
        slot.fetch_offset = position;
        slot.validated = -1;
        slot.epochs.cut(parted);
        if slot.epochs.before(position) > epoch {
            // Only the epoch of the last record is known, not where it began: Java goes on there, and so does this.
            slot.epochs.start(epoch);
            let partition = slot.tp.clone();
            self.signals.events.tell(ConsumerEvent::Truncated { partition, from: position, to: None });
        }
        self.control_changed()
    }

    /// The leader knows nothing of the epoch of what was read. That alone is no sign that anything is lost: some brokers (Event Hubs)
    /// say so of every epoch. It is asked for the offset alone, and if that is out of range, the policy decides.
    pub(crate) fn on_epoch_unknown(&mut self, id: SlotId, generation: u32) {
        if self.is_current(id, generation) && self.slots[id as usize].stand == Stand::AwaitValidation {
            let slot = &mut self.slots[id as usize];
            slot.epochs.start(-1);
            slot.stand = Stand::Fetching;
            self.wake_loops();
        }
    }

    fn stick_truncated(&mut self, id: SlotId, generation: u32, parted: (i64, i32)) -> Option<Waker> {
        let slot = &self.slots[id as usize];
        let error = truncated(slot.position(), parted).with_topic_partition(slot.tp.clone());
        self.stick(id, generation, error)
    }

    /// The leader of this epoch has answered a fetch, and found nothing wrong with the position.
    pub(crate) fn on_fetched(&mut self, id: SlotId, generation: u32, leader_epoch: i32) {
        let slot = &mut self.slots[id as usize];
        if slot.generation == generation && slot.stand == Stand::Fetching {
            slot.validated = slot.validated.max(leader_epoch);
        }
    }

    /// The leader of this epoch has said that its log is the one that was read. If there is another by now, that one is asked.
    pub(crate) fn on_validated(&mut self, id: SlotId, generation: u32, leader_epoch: i32) {
        let slot = &mut self.slots[id as usize];
        let is_leader = slot.leader.is_some_and(|(_, epoch)| epoch == leader_epoch);
        if slot.generation == generation && slot.stand == Stand::AwaitValidation && is_leader {
            slot.validated = leader_epoch;
            slot.stand = Stand::Fetching;
            self.wake_loops();
        }
    }

    /// The leader is another one than the position was read from, and its version of Fetch cannot compare epochs: it is asked first.
    pub(crate) fn await_validation(&mut self, id: SlotId, generation: u32) {
        let slot = &mut self.slots[id as usize];
        if slot.generation == generation && slot.stand == Stand::Fetching {
            slot.stand = Stand::AwaitValidation;
            self.signals.upkeep.notify_one();
        }
    }

    /// The topic was made anew: offsets of the old one mean nothing.
    pub(super) fn on_recreated(&mut self, id: SlotId, old: uuid::Uuid, policy: Policy) -> Option<Waker> {
        let slot = &self.slots[id as usize];
        let (partition, new, stand) = (slot.tp.clone(), slot.topic_id, slot.stand.clone());
        let has_position = matches!(stand, Stand::Fetching | Stand::AwaitValidation | Stand::AwaitLogStart(_));
        let position = has_position.then_some(slot.position());
        tracing::warn!(tp = %partition, %old, %new, "the topic was deleted and made anew");
        self.signals.events.tell(ConsumerEvent::TopicRecreated { partition, old, new, position });
        if !has_position {
            // What is being asked is asked again, of the new topic. An error that has not been told yet still will be.
            if stand != Stand::Stuck {
                self.invalidate(id);
            }
            return None;
        }
        let reason = ResetReason::TopicRecreated;
        let reset = PendingReset { from: position, policy: policy.reset, reason, lost: 0 };
        self.reset_or(id, policy, reset, |position| {
            let text = "the topic was deleted and another one made under its name, and offset_reset is None: seek to where the new one \
                        shall be read from, or choose a policy.";
            Error::new(ErrorKind::TopicRecreated, text).with_offset(position)
        })
    }

    /// Resets by the policy; without one the partition is stuck with the error, which is told the position.
    fn reset_or(
        &mut self,
        id: SlotId,
        policy: Policy,
        reset: PendingReset,
        error: impl FnOnce(i64) -> Error,
    ) -> Option<Waker> {
        match policy.start() {
            Some(start) => {
                self.slots[id as usize].reset = Some(reset);
                self.invalidate(id);
                self.forget_runs(id);
                self.await_reset(id, start);
                self.control_changed()
            }
            None => {
                let slot = &self.slots[id as usize];
                let error = error(slot.position()).with_topic_partition(slot.tp.clone());
                self.stick(id, slot.generation, error)
            }
        }
    }

    fn await_reset(&mut self, id: SlotId, to: StartAt) {
        let slot = &mut self.slots[id as usize];
        slot.stand = Stand::AwaitReset(to);
        slot.generation += 1;
        self.signals.upkeep.notify_one();
    }

    /// Where the next fetch begins.
    pub(crate) fn fetch_offset(&self, id: SlotId) -> i64 {
        self.slots[id as usize].fetch_offset
    }

    /// Like [`stick`](Self::stick), but what is queued may still be read: the trouble lies behind it.
    pub(crate) fn stick_behind(&mut self, id: SlotId, generation: u32, error: Error) -> Option<Waker> {
        if !self.is_current(id, generation) {
            return None;
        }
        self.slots[id as usize].stand = Stand::Stuck;
        self.queue_trouble(id, error);
        self.reader.take()
    }

    /// Like [`stick`](Self::stick), and records that were thought to be handed out, from `offset` on, were not.
    pub(crate) fn stick_at(&mut self, id: SlotId, generation: u32, offset: i64, error: Error) -> Option<Waker> {
        if self.is_current(id, generation) {
            self.slots[id as usize].position = offset;
        }
        self.stick(id, generation, error)
    }

    /// Nothing more of this partition until a seek; every read that comes to it tells why.
    pub(crate) fn stick(&mut self, id: SlotId, generation: u32, error: Error) -> Option<Waker> {
        if !self.is_current(id, generation) {
            return None;
        }
        self.slots[id as usize].stand = Stand::Stuck;
        self.invalidate(id);
        self.queue_trouble(id, error);
        // The reader's batch is invalid, too.
        self.control_changed()
    }
}

fn truncated(position: i64, parted: (i64, i32)) -> Error {
    let (offset, _) = parted;
    let text = format!(
        "the log was truncated: what was read from offset {offset} on, up to {position}, is not in it any more, because a broker without \
         it was elected leader. offset_reset is None: seek to {offset} to read what is there now."
    );
    Error::new(ErrorKind::LogTruncated, text).with_offset(position).with_source(LogTruncation { position, parted })
}
