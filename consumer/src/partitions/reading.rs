//! What the reader takes, and what it hands out.

use std::sync::{Arc, Weak};
use std::task::Waker;

use milena_client::{Error, TopicPartition};
use milena_protocol::records::RawBatch;

use super::{HandOut, HoldState, Partitions, Queued, SlotId, Taken, TakenBatch};
use crate::acks::RunId;
use crate::owned::SharedRun;
use crate::records::OpenBatch;

/// When the batch's first record was written. A broker that stamps records leaves the writer's time there, and its own as the latest;
/// compaction puts the time there at which tombstones may go (KIP-534).
fn first_timestamp(raw: &RawBatch) -> i64 {
    if raw.is_log_append_time() || raw.has_delete_horizon() { raw.max_timestamp() } else { raw.base_timestamp() }
}

impl Partitions {
    /// The next batch, in turn.
    pub(crate) fn take(&mut self) -> Option<Taken> {
        for _ in 0..self.ready.len() {
            let id = self.ready.pop_front()?;
            let slot = &mut self.slots[id as usize];
            if slot.queue.is_empty() {
                slot.is_ready = false;
                continue;
            }
            if !slot.may_hand_out() {
                // Kept for `resume`, at the end of the line.
                self.ready.push_back(id);
                continue;
            }
            if slot.queue.len() == 1 {
                slot.is_ready = false;
            } else {
                self.ready.push_back(id);
            }
            return self.take_queued(id);
        }
        None
    }

    /// The timestamp of the batch that holds the next record, or of the last one before it.
    pub(crate) fn next_timestamp(&self, tp: &TopicPartition) -> Option<i64> {
        let slot = &self.slots[*self.by_name.get(tp)? as usize];
        let known = slot.taken.filter(|taken| slot.position() < taken.next_offset).map(|taken| taken.first);
        let queued = || match slot.queue.front()? {
            Queued::Raw(raw) => Some(first_timestamp(raw)),
            Queued::Hole(_) | Queued::Begun(..) | Queued::Trouble(_) => None,
        };
        known.or_else(queued).or(slot.taken.map(|taken| taken.latest)).filter(|timestamp| *timestamp >= 0)
    }

    /// The next batch of one partition.
    pub(crate) fn take_of(&mut self, id: SlotId) -> Option<Taken> {
        self.slots[id as usize].may_hand_out().then(|| self.take_queued(id)).flatten()
    }

    fn take_queued(&mut self, id: SlotId) -> Option<Taken> {
        let slot = &mut self.slots[id as usize];
        let queued = slot.queue.pop_front()?;
        let was_full = slot.queued_bytes > self.most_queued;
        slot.queued_bytes -= queued.bytes();
        if let Queued::Raw(raw) = &queued {
            let (next_offset, first, latest) = (raw.next_offset(), first_timestamp(raw), raw.max_timestamp());
            slot.taken = Some(TakenBatch { next_offset, first, latest });
        }
        let taken = Taken {
            slot: id,
            generation: slot.generation,
            origin: slot.origin.clone(),
            queued,
            position: slot.position,
        };
        if was_full
            && slot.queued_bytes <= self.most_queued
            && let Some(bell) = slot.source().and_then(|broker| self.loops.get(&broker))
        {
            bell.notify_one();
        }
        Some(taken)
    }

    /// Whether something of the partition may be taken.
    pub(crate) fn has_queued(&self, id: SlotId) -> bool {
        let slot = &self.slots[id as usize];
        slot.may_hand_out() && !slot.queue.is_empty()
    }

    /// Whether what the reader holds of a partition is still to be handed out.
    pub(crate) fn hold_state(&self, id: SlotId, generation: u32) -> HoldState {
        let slot = &self.slots[id as usize];
        if slot.generation != generation {
            HoldState::Invalid
        } else if slot.paused {
            HoldState::Paused
        } else {
            HoldState::Good
        }
    }

    /// Takes back a batch that the reader cannot use now: it comes first when the partition is read again.
    pub(crate) fn put_back(&mut self, id: SlotId, generation: u32, queued: Queued) -> bool {
        let slot = &mut self.slots[id as usize];
        if slot.generation != generation {
            return false;
        }
        slot.queued_bytes += queued.bytes();
        slot.queue.push_front(queued);
        self.line_up(id);
        true
    }

    /// Nothing comes behind what is queued, and this is why.
    pub(super) fn queue_trouble(&mut self, id: SlotId, error: Error) {
        self.slots[id as usize].queue.push_back(Queued::Trouble(error));
        self.line_up(id);
    }

    /// The partition has something for the reader.
    pub(super) fn line_up(&mut self, id: SlotId) {
        let slot = &mut self.slots[id as usize];
        if !slot.is_ready {
            slot.is_ready = true;
            self.ready.push_back(id);
        }
    }

    /// Records up to `to` are handed out, one by one (`lend`) or all at once. `None` if the partition has been sought or revoked
    /// since they were taken.
    pub(crate) fn hand_out(&mut self, batch: &Arc<OpenBatch>, to: i64, how: HandOut) -> Option<RunId> {
        let (id, generation) = (batch.origin.slot, batch.generation);
        let slot = &mut self.slots[id as usize];
        if slot.generation != generation {
            return None;
        }
        let run = self.next_run;
        self.next_run += 1;
        if self.tracks_acks {
            // Weak: what the user has dropped needs no memory here.
            let claim: Option<Weak<OpenBatch>> = (how != HandOut::Lend).then(|| Arc::downgrade(batch));
            slot.acks.hand_out(run, to, batch.batch.leader_epoch(), claim);
        }
        match how {
            // The position follows the records, one by one.
            HandOut::Lend => self.lent = Some((id, run)),
            HandOut::Give => slot.given = Some((run, Arc::downgrade(batch))),
            HandOut::Whole => {
                slot.position = to;
                slot.show_place(self.isolation);
            }
        }
        Some(run)
    }

    /// All records of the run have been given, and its batch ends at `to`.
    pub(crate) fn end_given(&mut self, run: &SharedRun, to: i64) {
        let slot = &mut self.slots[run.batch.origin.slot as usize];
        if slot.given.take_if(|(given, _)| *given == run.id).is_some() {
            slot.position = to;
            slot.show_place(self.isolation);
        }
    }

    /// Offsets up to `to` hold nothing for the user.
    pub(crate) fn skip(&mut self, id: SlotId, generation: u32, to: i64) {
        let slot = &mut self.slots[id as usize];
        if slot.generation == generation {
            slot.position = slot.position.max(to);
            slot.acks.skip(to);
            slot.show_place(self.isolation);
        }
    }

    pub(crate) fn park_reader(&mut self, waker: &Waker) {
        match &mut self.reader {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        self.signals.hungry.notify_waiters();
    }

    /// Whether the user waits in a read.
    pub(crate) fn is_reader_waiting(&self) -> bool {
        self.reader.is_some()
    }

    pub(crate) fn next_error(&mut self) -> Option<Error> {
        while let Some((of, error)) = self.errors.pop_front() {
            // A partition that was sought or given up meanwhile has no trouble any more.
            if of.is_none_or(|(id, generation)| self.slots[id as usize].generation == generation) {
                return Some(error);
            }
        }
        None
    }

    /// The next error that concerns this partition, or none in particular.
    pub(crate) fn next_error_of(&mut self, partition: &TopicPartition) -> Option<Error> {
        let slots = &self.slots;
        self.errors.retain(|(of, _)| of.is_none_or(|(id, generation)| slots[id as usize].generation == generation));
        let concerns = |(_, error): &(_, Error)| error.topic_partition().is_none_or(|of| of == partition);
        let at = self.errors.iter().position(concerns)?;
        self.errors.remove(at).map(|(_, error)| error)
    }

    /// Whether there is something that a reader of one partition might have to be told.
    pub(crate) fn has_news_for_all(&self) -> bool {
        !self.errors.is_empty() || self.closed.is_some()
    }

    pub(crate) fn closed(&self) -> Option<&Option<Error>> {
        self.closed.as_ref()
    }

    /// Tells the user at its next read; not if it is about a partition that is sought before.
    pub(crate) fn fail(&mut self, error: Error) -> Option<Waker> {
        match error.topic_partition().and_then(|tp| self.by_name.get(tp).copied()) {
            Some(id) => self.fail_of(id, error),
            None => {
                self.errors.push_back((None, error));
                self.reader.take()
            }
        }
    }

    /// Tells the user at its next read, unless the partition is sought before. What has not been told yet is not told twice.
    pub(super) fn fail_of(&mut self, id: SlotId, error: Error) -> Option<Waker> {
        let of = Some((id, self.slots[id as usize].generation));
        if self.errors.iter().all(|(known, _)| *known != of) {
            self.errors.push_back((of, error));
        }
        self.reader.take()
    }

    /// The consumer is over; reads end with this.
    pub(crate) fn close(&mut self, error: Option<Error>) -> Option<Waker> {
        self.closed.get_or_insert(error);
        self.reader.take()
    }
}
