//! What the handles do and ask.

use std::task::Waker;

use milena_client::TopicPartition;

use super::{NotAssigned, PartitionState, Partitions, Stand, Tenure, has_position};
use crate::StartAt;
use crate::acks::Acks;

impl Partitions {
    pub(crate) fn pause(&mut self, partitions: &[TopicPartition]) -> Option<Waker> {
        for id in self.ids(partitions) {
            self.slots[id as usize].paused = true;
        }
        self.control_changed()
    }

    pub(crate) fn resume(&mut self, partitions: &[TopicPartition]) -> Option<Waker> {
        for id in self.ids(partitions) {
            self.slots[id as usize].paused = false;
        }
        self.control_changed()
    }

    /// Goes on reading there. What was fetched or handed out before is dropped and not acknowledged any more.
    pub(crate) fn seek(&mut self, tp: &TopicPartition, to: StartAt) -> Result<Option<Waker>, NotAssigned> {
        let id = self.held_slot(tp).ok_or(NotAssigned)?;
        self.invalidate(id);
        match to {
            StartAt::Offset(offset) => {
                self.slots[id as usize].stand = Stand::Fetching;
                self.stand_at(id, offset, -1);
            }
            to => {
                self.slots[id as usize].stand = Stand::AwaitReset(to);
                self.slots[id as usize].reset = None;
                self.forget_runs(id);
            }
        }
        Ok(self.control_changed())
    }

    /// Goes back to where the group has committed: what was handed out since counts no more, and is not waited for.
    pub(crate) fn seek_to_committed(&mut self, partitions: &[TopicPartition]) -> Option<Waker> {
        for id in self.ids(partitions) {
            match self.slots[id as usize].tenure {
                Tenure::Assigned => {
                    self.invalidate(id);
                    self.forget_runs(id);
                    let slot = &mut self.slots[id as usize];
                    slot.acks = Acks::new(-1);
                    slot.reset = None;
                    // A listener that is still being told comes first, and leads to the same.
                    if slot.stand != Stand::AwaitListener {
                        slot.stand = Stand::AwaitCommitted;
                    }
                }
                // Its next owner begins there by itself.
                Tenure::Revoking => self.forget_runs(id),
                Tenure::Released => {}
            }
        }
        self.signals.drained.notify_waiters();
        self.control_changed()
    }

    pub(crate) fn state(&self, tp: &TopicPartition) -> Option<PartitionState> {
        let slot = &self.slots[*self.by_name.get(tp)? as usize];
        (slot.tenure != Tenure::Released).then(|| PartitionState {
            // Of one that is being given up no record comes next; and what was handed out of it may have been taken back unseen.
            position: (has_position(&slot.stand) && slot.tenure == Tenure::Assigned)
                .then(|| slot.position())
                .filter(|position| *position >= 0),
            high_watermark: slot.high_watermark,
            last_stable_offset: slot.last_stable,
            log_start_offset: slot.log_start,
            paused: slot.paused,
        })
    }
}
