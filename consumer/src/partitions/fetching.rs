//! What the fetch loops ask for, and what they bring.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use milena_client::{Error, ErrorKind, TopicPartition};
use milena_protocol::records::RawBatch;
use milena_protocol::{ApiKey, ErrorCode, planted};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Partitions, Policy, Queued, Slot, SlotId, Stand, Tenure, Trouble, Wanted, Watermarks, has_position};
use crate::deadline::after;
use crate::events::ConsumerEvent;
use crate::fetch::session::Asked;

/// What metadata says of a partition.
#[derive(Debug, Default)]
pub(crate) struct Whereabouts {
    /// Nil where it has none.
    pub(crate) topic_id: Uuid,
    /// The leader and its epoch.
    pub(crate) leader: Option<(i32, i32)>,
    /// Why it cannot be read: a code, or `Some(None)` if no broker has said anything about the topic yet.
    pub(crate) trouble: Option<Option<ErrorCode>>,
}

/// After so long without another word, a topic of which others said that it is gone is there: the first word of all may have been that of
/// a broker with old news. Longer than a broker that is cut off stays one of the cluster (`broker.session.timeout.ms`, 9 s).
const BELIEVED_AFTER: Duration = Duration::from_secs(30);

/// What follows from it.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    /// Brokers to fetch from.
    pub(crate) brokers: BTreeSet<i32>,
    /// A partition has no leader.
    pub(crate) is_leader_missing: bool,
    /// When a partition that is unknown has been so for too long.
    pub(crate) look_again_at: Option<Instant>,
    /// To be woken without the lock.
    pub(crate) wakers: Vec<Waker>,
}

/// The error for a partition that metadata does not let be read.
fn unavailable(code: Option<ErrorCode>, patience: Duration) -> Error {
    let seconds = patience.as_secs();
    match code {
        None => Error::new(
            ErrorKind::Timeout,
            format!(
                "no broker has said anything about the topic for {seconds} s: look whether the cluster can be reached."
            ),
        ),
        Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => Error::new(
            ErrorKind::UnknownTopicOrPartition,
            format!(
                "the cluster has not known the topic, or not this partition of it, for {seconds} s: check the name and the number, or \
                 create it. It is read as soon as it is there."
            ),
        ),
        Some(code) => Error::from_code(ApiKey::METADATA, code),
    }
}

impl Partitions {
    /// Takes in what metadata says of every partition.
    pub(crate) fn on_metadata(
        &mut self,
        whereabouts: impl Fn(&TopicPartition) -> Whereabouts,
        (now, patience): (Instant, Duration),
        policy: Policy,
    ) -> Picture {
        let mut picture = Picture::default();
        let mut recreated = Vec::new();
        let mut told = Vec::new();
        for (id, slot) in self.slots.iter_mut().enumerate().filter(|(_, slot)| slot.tenure == Tenure::Assigned) {
            let mut found = whereabouts(&slot.tp);
            if found.topic_id == slot.topic_id {
                slot.back_since = None;
            } else if let Some(at) = slot.gone_ids.iter().position(|id| *id == found.topic_id) {
                let believe_at = *slot.back_since.get_or_insert(now) + BELIEVED_AFTER;
                if now >= believe_at {
                    slot.gone_ids.remove(at);
                } else {
                    // A broker that has not heard of the new topic yet.
                    (found.topic_id, found.leader) = (slot.topic_id, None);
                    picture.look_again_at = picture.look_again_at.into_iter().chain([believe_at]).min();
                }
            }
            if !found.topic_id.is_nil() && found.topic_id != slot.topic_id {
                let old = std::mem::replace(&mut slot.topic_id, found.topic_id);
                if !old.is_nil() {
                    (slot.high_watermark, slot.last_stable, slot.log_start) = (None, None, None);
                    slot.gone_ids.push(old);
                    slot.back_since = None;
                    recreated.push((id as SlotId, old));
                }
            }
            if slot.leader != found.leader {
                slot.leader = found.leader;
                slot.rest_until = None;
                slot.set_preferred(None);
            }
            match slot.source() {
                Some(broker) => {
                    picture.brokers.insert(broker);
                    picture.brokers.extend(slot.leader.map(|(leader, _)| leader));
                }
                None => picture.is_leader_missing = true,
            }
            match (found.trouble, &mut slot.trouble) {
                (None, trouble) => *trouble = None,
                (Some(code), Some(known)) if known.code == code => {}
                (Some(code), trouble) => {
                    // What nobody can mend by waiting is told at once.
                    let may_pass = code.is_none_or(ErrorCode::is_retriable);
                    let tell_at = if may_pass { after(now, patience) } else { now };
                    *trouble = Some(Trouble { code, tell_at, is_told: false });
                }
            }
            if let Some(trouble) = &mut slot.trouble {
                if trouble.tell_at <= now {
                    // For as long as it lasts: whoever waits for records must not take it for a topic without any.
                    trouble.tell_at = after(now, patience);
                    let is_news = !std::mem::replace(&mut trouble.is_told, true);
                    told.push((id as SlotId, is_news, unavailable(trouble.code, patience)));
                }
                picture.look_again_at = picture.look_again_at.into_iter().chain([trouble.tell_at]).min();
            }
        }
        for (id, old) in recreated {
            picture.wakers.extend(self.on_recreated(id, old, policy));
        }
        for (id, is_news, mut error) in told {
            let slot = &self.slots[id as usize];
            let tp = slot.tp.clone();
            let position = slot.position();
            if has_position(&slot.stand) && position >= 0 {
                error = error.with_offset(position);
            }
            if is_news {
                self.signals.events.tell(ConsumerEvent::Unavailable { partition: tp.clone() });
            }
            picture.wakers.extend(self.fail_of(id, error.with_topic_partition(tp)));
        }
        self.wake_loops();
        picture
    }

    /// The bell of a broker's loop.
    pub(crate) fn bell(&mut self, broker: i32) -> Arc<Notify> {
        self.loops.entry(broker).or_default().clone()
    }

    /// How many fetch loops there are, at least 1.
    pub(crate) fn loops(&self) -> i64 {
        self.loops.len().max(1) as i64
    }

    pub(crate) fn remove_bell(&mut self, broker: i32) {
        self.loops.remove(&broker);
    }

    /// What to ask a broker for.
    pub(crate) fn wanted_from(&mut self, broker: i32, now: Instant) -> Wanted {
        self.end_leases(now);
        let mut wanted = Wanted::default();
        for (id, slot) in self.slots.iter().enumerate().filter(|(_, slot)| slot.is_wanted()) {
            if slot.source() != Some(broker) {
                continue;
            }
            let Some((leader, leader_epoch)) = slot.leader else { continue };
            if slot.queued_bytes > self.most_queued {
                wanted.some_are_full = true;
            } else if let Some(until) = slot.rest_until.filter(|until| *until > now) {
                wanted.rest_until = Some(wanted.rest_until.map_or(until, |earliest: Instant| earliest.min(until)));
            } else {
                let epoch = slot.epochs.before(slot.fetch_offset);
                if epoch >= 0 && slot.validated != leader_epoch {
                    wanted.unvalidated.push((id as SlotId, slot.generation));
                }
                // A leader that names a nearer follower looks at nothing else, and a follower is not asked about epochs: what a new
                // leader has cut off is found by a fetch that stays with it.
                let is_unvalidated = leader == broker && epoch >= 0 && slot.validated != leader_epoch;
                wanted.leader_only |= is_unvalidated || slot.leader_only_until.is_some_and(|until| until > now);
                let asked = Asked {
                    topic_id: slot.topic_id,
                    offset: slot.fetch_offset,
                    leader_epoch,
                    // A follower may have less than its leader without anything being wrong.
                    last_epoch: if leader == broker { epoch } else { -1 },
                    max_bytes: self.most_queued as i32,
                };
                wanted.partitions.insert(id as SlotId, (asked, slot.generation));
            }
        }
        wanted
    }

    /// Whether the reader waits, and a partition of this broker has nothing for it.
    pub(crate) fn is_hungry(&self, broker: i32) -> bool {
        let is_empty = |slot: &Slot| slot.is_wanted() && slot.queue.is_empty() && slot.source() == Some(broker);
        self.reader.is_some() && self.slots.iter().any(is_empty)
    }

    /// Whether the broker is read as a follower of the partition.
    pub(crate) fn is_follower(&self, id: SlotId, broker: i32) -> bool {
        self.slots[id as usize].preferred.is_some_and(|(replica, _)| replica == broker)
    }

    /// The leader names a follower that is nearer (KIP-392). It is read until then.
    pub(crate) fn prefer(&mut self, id: SlotId, generation: u32, replica: i32, until: Instant) {
        let slot = &mut self.slots[id as usize];
        if slot.generation == generation && slot.leader.is_some_and(|(leader, _)| leader != replica) {
            tracing::debug!(tp = %slot.tp, replica, "a follower is read from now on");
            slot.set_preferred(Some((replica, until)));
            slot.rest_until = None;
            self.signals.upkeep.notify_one();
            self.wake_loops();
        }
    }

    /// The follower is of no use for the partition: the leader is read again, and names nobody before then.
    pub(crate) fn read_leader(&mut self, id: SlotId, leader_only_until: Instant) {
        let slot = &mut self.slots[id as usize];
        slot.set_preferred(None);
        slot.rest_until = None;
        slot.leader_only_until = Some(leader_only_until);
        self.signals.upkeep.notify_one();
        self.wake_loops();
    }

    /// The broker cannot be reached: what it was read for as a follower is read from leaders again.
    pub(crate) fn lose_replica(&mut self, broker: i32, leader_only_until: Instant) {
        let is_lost = |slot: &Slot| slot.preferred.is_some_and(|(replica, _)| replica == broker);
        for id in 0..self.slots.len() {
            if is_lost(&self.slots[id]) {
                self.read_leader(id as SlotId, leader_only_until);
            }
        }
    }

    /// Followers are read for a while, then the leader is asked again whom it prefers.
    fn end_leases(&mut self, now: Instant) {
        let mut has_ended = false;
        for slot in &mut self.slots {
            if slot.preferred.is_some_and(|(_, until)| until <= now) {
                slot.set_preferred(None);
                has_ended = true;
            }
        }
        if has_ended {
            self.wake_loops();
        }
    }

    /// The partition's answer was an error that may pass.
    pub(crate) fn rest(&mut self, id: SlotId, generation: u32, until: Instant) {
        let slot = &mut self.slots[id as usize];
        if slot.generation == generation {
            slot.rest_until = Some(until);
        }
    }

    /// What a response says about a partition beside its batches: of its log, and so whatever the user has sought meanwhile. (In a session
    /// it is said only once.)
    pub(crate) fn on_watermarks(&mut self, id: SlotId, broker: i32, topic_id: Uuid, marks: &Watermarks) {
        let slot = &mut self.slots[id as usize];
        if slot.tenure == Tenure::Assigned && slot.source() == Some(broker) && slot.topic_id == topic_id {
            let known = |offset: i64| (offset >= 0).then_some(offset);
            slot.high_watermark = known(marks.high);
            slot.last_stable = known(marks.last_stable);
            slot.log_start = known(marks.log_start);
            slot.show_place(self.isolation);
        }
    }

    /// The largest lag of any partition, and the smallest lead, in records.
    pub(crate) fn worst_places(&self) -> (Option<i64>, Option<i64>) {
        let known = || self.slots.iter().filter(|slot| slot.tenure == Tenure::Assigned && has_position(&slot.stand));
        let lags = known().filter_map(|slot| Some((slot.end(self.isolation)? - slot.position()).max(0)));
        let leads = known().filter_map(|slot| Some((slot.position() - slot.log_start?).max(0)));
        (lags.max(), leads.min())
    }

    /// Queues a fetched batch. False if nobody wants it any more; its bytes are then the caller's to free.
    pub(crate) fn queue(&mut self, id: SlotId, generation: u32, raw: RawBatch) -> bool {
        let (range, epoch) = ((raw.base_offset(), raw.next_offset()), raw.leader_epoch());
        self.queue_to(id, generation, range, epoch, Queued::Raw(raw))
    }

    /// Queues that there is nothing for the user in a range of offsets that were written in this epoch. False if nobody wants to know.
    pub(crate) fn queue_hole(&mut self, id: SlotId, generation: u32, (from, to): (i64, i64), epoch: i32) -> bool {
        self.queue_to(id, generation, (from, to), epoch, Queued::Hole(to))
    }

    fn queue_to(
        &mut self,
        id: SlotId,
        generation: u32,
        (base_offset, next_offset): (i64, i64),
        epoch: i32,
        queued: Queued,
    ) -> bool {
        let slot = &mut self.slots[id as usize];
        // A batch that holds nothing from the asked offset on comes when another broker's answer was faster.
        let is_stale = slot.generation != generation && !planted::is("stale_fetch_delivered_after_a_seek");
        if is_stale || slot.stand != Stand::Fetching || next_offset <= slot.fetch_offset {
            return false;
        }
        slot.fetch_offset = next_offset;
        slot.epochs.note(base_offset, epoch);
        slot.epochs.forget_before(slot.position);
        slot.queued_bytes += queued.bytes();
        match (slot.queue.back_mut(), queued) {
            // However much was aborted, it is one entry.
            (Some(Queued::Hole(to)), Queued::Hole(further)) => *to = further,
            (_, queued) => slot.queue.push_back(queued),
        }
        self.line_up(id);
        true
    }

    /// The reader, if it waits: to be woken without the lock.
    pub(crate) fn take_reader(&mut self) -> Option<Waker> {
        self.reader.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::PartitionGauges;
    use crate::{IsolationLevel, OffsetReset};

    const SECOND: Duration = Duration::from_secs(1);

    /// The first broker that is asked may be behind the others: then the topic that is there comes to be taken for the one that is gone.
    #[test]
    fn a_topic_that_was_taken_for_gone_is_believed_in_when_nobody_says_otherwise_for_long() {
        let mut partitions = Partitions::new(1 << 20, false, IsolationLevel::ReadUncommitted, Arc::default());
        let tp = TopicPartition::new("t", 0);
        partitions.assign([(tp.clone(), Stand::Fetching, PartitionGauges::default())]);
        let policy = Policy { reset: OffsetReset::Earliest, now_ms: 0 };
        #[expect(clippy::disallowed_methods, reason = "a moment to count from")]
        let began = Instant::now();
        let (now_there, gone) = (Uuid::from_u128(2), Uuid::from_u128(1));
        let mut tell = |topic_id: Uuid, after: Duration| {
            let found = |_: &TopicPartition| Whereabouts { topic_id, leader: Some((1, 0)), trouble: None };
            let picture = partitions.on_metadata(found, (began + after, SECOND * 60), policy);
            (picture.is_leader_missing, partitions.slots[0].topic_id)
        };
        assert_eq!(tell(now_there, Duration::ZERO), (false, now_there));
        assert_eq!(tell(gone, SECOND), (false, gone), "a broker with old news is the last word");
        assert_eq!(tell(now_there, SECOND * 2), (true, gone));
        assert_eq!(tell(gone, SECOND * 20), (false, gone), "and once more");
        for second in 21..51 {
            assert_eq!(tell(now_there, SECOND * second), (true, gone), "not for long enough");
        }
        assert_eq!(tell(now_there, SECOND * 51), (false, now_there));
    }
}
