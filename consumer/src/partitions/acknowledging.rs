//! What of the records that were handed out is done.

use milena_client::TopicPartition;

use super::{Partitions, SlotId, Tenure, has_position};
use crate::acks::RunId;
use crate::owned::SharedRun;

impl Partitions {
    /// The run is done.
    pub(crate) fn ack_run(&mut self, id: SlotId, run: RunId) {
        self.slots[id as usize].acks.ack(run);
        self.acknowledged(id);
    }

    /// One record of a run is done.
    pub(crate) fn ack_record(&mut self, run: &SharedRun, index: u32, offset: i64) {
        let id = run.batch.origin.slot;
        self.slots[id as usize].acks.ack_record(run.id, run.records.clone(), index, offset);
        self.acknowledged(id);
    }

    /// The run, whose records are given one by one, ends at `offset`: those of its batch from `end` on were not handed out.
    pub(crate) fn cut_run(&mut self, run: &SharedRun, offset: i64, end: u32) {
        let id = run.batch.origin.slot;
        let slot = &mut self.slots[id as usize];
        slot.acks.cut_run(run.id, offset, run.records.clone(), end);
        // Also when what is queued is not good any more: these are the records that the user has. (Not after a seek.)
        if slot.given.take_if(|(given, _)| *given == run.id).is_some() {
            slot.position = offset;
        }
        self.acknowledged(id);
    }

    /// In the lent run, everything below `offset` is done.
    pub(crate) fn ack_lent(&mut self, offset: i64) {
        if let Some((id, run)) = self.lent {
            self.slots[id as usize].acks.ack_in_run(run, offset);
            self.acknowledged(id);
        }
    }

    /// The lent run ends at `offset`: what lies behind it was not handed out. Everything below is done.
    pub(crate) fn end_lent(&mut self, offset: i64) {
        let Some((id, run)) = self.lent.take() else { return };
        let slot = &mut self.slots[id as usize];
        slot.acks.end_run(run, offset);
        slot.position = offset;
        slot.show_place(self.isolation);
        self.acknowledged(id);
    }

    /// Everything below `offset` that was handed out is done.
    pub(crate) fn ack_up_to(&mut self, tp: &TopicPartition, offset: i64) {
        if let Some(id) = self.by_name.get(tp).copied() {
            self.slots[id as usize].acks.ack_up_to(offset);
            self.acknowledged(id);
        }
    }

    fn acknowledged(&self, id: SlotId) {
        if self.slots[id as usize].tenure == Tenure::Revoking {
            self.signals.drained.notify_waiters();
        }
    }

    /// Whether records are in the user's hands that it has not acknowledged.
    pub(crate) fn has_open_runs(&self) -> bool {
        self.slots.iter().any(|slot| slot.acks.has_open_runs())
    }

    /// How far each partition is done, with the leader epoch of the last record below: all partitions, or these.
    pub(crate) fn frontiers(&self, of: Option<&[TopicPartition]>) -> Vec<(TopicPartition, i64, i32)> {
        self.slots
            .iter()
            .filter(|slot| slot.tenure != Tenure::Released && has_position(&slot.stand))
            .filter(|slot| slot.acks.frontier().0 >= 0 && of.is_none_or(|of| of.contains(&slot.tp)))
            .map(|slot| {
                let (offset, epoch) = slot.acks.frontier();
                (slot.tp.clone(), offset, epoch)
            })
            .collect()
    }
}
