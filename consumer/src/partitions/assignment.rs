//! Which partitions are this consumer's.

use std::task::Waker;

use milena_client::TopicPartition;
use uuid::Uuid;

use super::{Partitions, SlotId, Stand, Tenure};
use crate::acks::Acks;
use crate::metrics::PartitionGauges;

impl Partitions {
    /// Starts to read partitions. Those that are read already go on as they are.
    pub(crate) fn assign(&mut self, partitions: impl IntoIterator<Item = (TopicPartition, Stand, PartitionGauges)>) {
        for (tp, stand, gauges) in partitions {
            let id = self.slot_for(&tp);
            let slot = &mut self.slots[id as usize];
            if slot.tenure != Tenure::Released {
                continue;
            }
            slot.tenure = Tenure::Assigned;
            slot.generation += 1;
            slot.stand = stand;
            slot.paused = false;
            slot.rest_until = None;
            (slot.preferred, slot.leader_only_until, slot.trouble, slot.reset) = (None, None, None, None);
            // What the group has committed belongs to the topic that is there now.
            slot.topic_id = Uuid::nil();
            (slot.position, slot.given) = (-1, None);
            // Nothing to commit before it is known where reading starts.
            slot.acks = Acks::new(-1);
            slot.gauges = gauges;
            (slot.high_watermark, slot.last_stable, slot.log_start) = (None, None, None);
        }
        self.signals.upkeep.notify_one();
    }

    /// The listener has been told; what it has not sought starts where the group has committed.
    pub(crate) fn begin(&mut self, partitions: &[TopicPartition]) {
        for id in self.ids(partitions) {
            let slot = &mut self.slots[id as usize];
            if slot.tenure == Tenure::Assigned && slot.stand == Stand::AwaitListener {
                slot.stand = Stand::AwaitCommitted;
            }
        }
        self.signals.upkeep.notify_one();
    }

    /// Hands out nothing more of these partitions. Their acknowledged frontier may still be committed.
    /// Returns a waker of the reader, to be called without the lock.
    pub(crate) fn begin_revoke(&mut self, partitions: &[TopicPartition]) -> Option<Waker> {
        for id in self.ids(partitions) {
            let slot = &mut self.slots[id as usize];
            if slot.tenure == Tenure::Assigned {
                slot.tenure = Tenure::Revoking;
                slot.acks.withdraw_what_nobody_began();
                self.invalidate(id);
            }
        }
        self.control_changed()
    }

    /// These partitions are not this consumer's any more.
    pub(crate) fn release(&mut self, partitions: &[TopicPartition]) -> Option<Waker> {
        for id in self.ids(partitions) {
            let slot = &mut self.slots[id as usize];
            slot.tenure = Tenure::Released;
            // Whoever is given it next shows where it stands.
            (slot.preferred, slot.gauges) = (None, PartitionGauges::default());
            slot.acks.withdraw_what_nobody_began();
            self.invalidate(id);
            self.forget_runs(id);
        }
        self.signals.drained.notify_waiters();
        self.control_changed()
    }

    /// Whether nothing of these partitions is in the user's hands.
    pub(crate) fn is_drained(&self, partitions: &[TopicPartition]) -> bool {
        self.ids(partitions).into_iter().all(|id| !self.slots[id as usize].acks.has_open_runs())
    }

    /// The partitions that are read, by their places in the table.
    pub(crate) fn assigned_slots(&self) -> Vec<(SlotId, TopicPartition)> {
        let assigned = |id: &&SlotId| self.slots[**id as usize].tenure == Tenure::Assigned;
        self.by_name.values().filter(assigned).map(|id| (*id, self.tp(*id).clone())).collect()
    }

    /// The partitions that are this consumer's, those that are being given up included.
    pub(crate) fn assignment(&self) -> Vec<TopicPartition> {
        self.held().map(|slot| slot.tp.clone()).collect()
    }
}
