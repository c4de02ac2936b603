//! What a consumer reads: for each partition where it stands, what is queued, what was handed out and what of it is done.
//!
//! One struct, behind one mutex, shared by the fetch loops (which ask for and queue batches), the reader (which takes them), the
//! group's driver (which assigns and revokes) and the handles (which pause, seek and acknowledge). Everything in it is plain and
//! decided here; nothing waits. The lock is taken once per chunk by a loop and twice per batch by the reader, never per record.
//!
//! Invariants that were bugs elsewhere:
//! - A partition's **generation** goes up whenever fetched bytes become invalid (seek, reset, revoke). A batch is queued only if it
//!   was asked for in the current generation, so a late answer can neither be delivered after a seek nor lost without one.
//! - A batch is queued only if it holds the next offset: two brokers asked around a leader move cannot deliver twice.
//! - Positions come from batch headers (`last offset + 1`), never from records: holes and control batches move them too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;

use milena_client::{Error, Gauge, TopicPartition};
use milena_protocol::planted;
use milena_protocol::records::RawBatch;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use crate::acks::{Acks, RunId};
use crate::fetch::session::Asked;
use crate::records::{Held, OpenBatch, Origin};
use crate::{IsolationLevel, StartAt};

/// A partition's place in the table. A partition keeps it for the consumer's life.
pub(crate) type SlotId = u32;

/// Something queued for the reader.
#[derive(Debug)]
pub(crate) enum Queued {
    /// As it was fetched.
    Raw(RawBatch),
    /// Nothing for the user up to this offset: what was there belongs to an aborted transaction.
    Hole(i64),
    /// Begun, and put back by a pause; with the offset that comes next.
    Begun(Held, i64),
}

impl Queued {
    fn bytes(&self) -> i64 {
        match self {
            Self::Raw(raw) => raw.len() as i64,
            Self::Hole(_) => 0,
            Self::Begun(held, _) => held.bytes,
        }
    }
}

/// What the reader takes.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) slot: SlotId,
    pub(crate) generation: u32,
    pub(crate) origin: Arc<Origin>,
    pub(crate) queued: Queued,
    /// Records below this were not asked for: a batch may begin before the offset that was.
    pub(crate) position: i64,
}

/// Whether a partition is this consumer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tenure {
    /// It is not.
    Released,
    /// It is.
    Assigned,
    /// It is about to be given up: nothing more is handed out, what was handed out may still be acknowledged.
    Revoking,
}

/// Where a partition stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Stand {
    /// The user's listener is being told about it, and may seek.
    AwaitListener,
    /// The group's committed offset decides.
    AwaitCommitted,
    /// The log decides (ListOffsets).
    AwaitReset(StartAt),
    /// Known: batches are fetched.
    Fetching,
    /// Nothing more until a seek; the error has been told.
    Stuck,
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) tp: TopicPartition,
    origin: Arc<Origin>,
    tenure: Tenure,
    pub(crate) stand: Stand,
    pub(crate) generation: u32,
    paused: bool,
    /// The next offset to ask for.
    fetch_offset: i64,
    /// The next offset to hand out.
    position: i64,
    queue: VecDeque<Queued>,
    queued_bytes: i64,
    is_ready: bool,
    acks: Acks,
    leader: Option<(i32, i32)>,
    /// Not asked for before: its last answer was an error.
    rest_until: Option<Instant>,
    topic_id: Uuid,
    high_watermark: Option<i64>,
    last_stable: Option<i64>,
    log_start: Option<i64>,
    lag: Gauge,
}

impl Slot {
    /// The offset behind the last record that a reader of this isolation level can see.
    fn end(&self, isolation: IsolationLevel) -> Option<i64> {
        match isolation {
            IsolationLevel::ReadUncommitted => self.high_watermark,
            IsolationLevel::ReadCommitted => self.last_stable,
        }
    }

    /// Whether the user wants what the broker has.
    fn is_wanted(&self) -> bool {
        self.tenure == Tenure::Assigned && !self.paused && self.stand == Stand::Fetching
    }

    fn show_lag(&self, isolation: IsolationLevel) {
        if let Some(end) = self.end(isolation) {
            self.lag.set((end - self.position).max(0));
        }
    }

    fn may_hand_out(&self) -> bool {
        self.tenure == Tenure::Assigned && !self.paused
    }
}

/// What the user can know of a partition without asking a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionState {
    /// The offset of the next record that will be handed out; `None` while it is being looked up, and for a partition that is
    /// being given up.
    pub position: Option<i64>,
    /// The offset behind the last replicated record, as the last answer told it.
    pub high_watermark: Option<i64>,
    /// The offset behind the last record of a finished transaction, as the last answer told it.
    pub last_stable_offset: Option<i64>,
    /// The first offset of the log, as the last answer told it.
    pub log_start_offset: Option<i64>,
    /// Whether it is paused.
    pub paused: bool,
}

/// What to ask a broker for.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// The partitions, each with its generation.
    pub(crate) partitions: BTreeMap<SlotId, (Asked, u32)>,
    /// Others would be asked for if less of them was queued.
    pub(crate) some_are_full: bool,
    /// Others rest after an error, the first of them until then.
    pub(crate) rest_until: Option<Instant>,
}

/// A partition whose starting point must be looked up.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LookUp {
    pub(crate) slot: SlotId,
    pub(crate) generation: u32,
    pub(crate) tp: TopicPartition,
    pub(crate) stand: Stand,
    pub(crate) leader: Option<(i32, i32)>,
}

/// A batch's arrival, or what else a response says about a partition.
#[derive(Debug)]
pub(crate) struct Watermarks {
    pub(crate) high: i64,
    pub(crate) last_stable: i64,
    pub(crate) log_start: i64,
}

/// Things that happened to the whole table and that others watch.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// Goes up when the reader must look at what it holds again (seek, pause, revoke).
    pub(crate) control: AtomicU64,
    /// Somebody must look at starting points and leaders.
    pub(crate) upkeep: Notify,
    /// A handed-out record was acknowledged while somebody waits for it.
    pub(crate) drained: Notify,
}

#[derive(Debug)]
pub(crate) struct Partitions {
    slots: Vec<Slot>,
    by_name: BTreeMap<TopicPartition, SlotId>,
    /// Partitions that have something queued, in the order of their turns.
    ready: VecDeque<SlotId>,
    next_run: RunId,
    /// The run of which `recv` lends records, and its partition.
    lent: Option<(SlotId, RunId)>,
    reader: Option<Waker>,
    loops: BTreeMap<i32, Arc<Notify>>,
    errors: VecDeque<Error>,
    /// Over: with the reason, unless the user has closed it.
    closed: Option<Option<Error>>,
    /// Above this many queued bytes a partition is not asked for more.
    most_queued: i64,
    isolation: IsolationLevel,
    /// Whether somebody commits: only then it matters what is done.
    tracks_acks: bool,
    /// Bytes of queued batches that were dropped and that their budget must get back.
    dropped: i64,
    signals: Arc<Signals>,
}

impl Partitions {
    pub(crate) fn new(most_queued: usize, tracks_acks: bool, isolation: IsolationLevel, signals: Arc<Signals>) -> Self {
        Self {
            slots: Vec::new(),
            by_name: BTreeMap::new(),
            ready: VecDeque::new(),
            next_run: 0,
            lent: None,
            reader: None,
            loops: BTreeMap::new(),
            errors: VecDeque::new(),
            closed: None,
            most_queued: most_queued as i64,
            isolation,
            tracks_acks,
            dropped: 0,
            signals,
        }
    }

    // ---- assignment ----

    /// Starts to read partitions. Those that are read already go on as they are.
    pub(crate) fn assign(&mut self, partitions: impl IntoIterator<Item = (TopicPartition, Stand, Gauge)>) {
        for (tp, stand, lag) in partitions {
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
            // Nothing to commit before it is known where reading starts.
            slot.acks = Acks::new(-1);
            slot.lag = lag;
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

    fn slot_for(&mut self, tp: &TopicPartition) -> SlotId {
        if let Some(id) = self.by_name.get(tp) {
            return *id;
        }
        let id = self.slots.len() as SlotId;
        self.slots.push(Slot {
            tp: tp.clone(),
            origin: Arc::new(Origin { topic: tp.topic.clone(), partition: tp.partition, slot: id }),
            tenure: Tenure::Released,
            stand: Stand::Stuck,
            generation: 0,
            paused: false,
            fetch_offset: 0,
            position: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            is_ready: false,
            acks: Acks::new(0),
            leader: None,
            rest_until: None,
            topic_id: Uuid::nil(),
            high_watermark: None,
            last_stable: None,
            log_start: None,
            lag: Gauge::default(),
        });
        self.by_name.insert(tp.clone(), id);
        id
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
            self.slots[id as usize].tenure = Tenure::Released;
            self.slots[id as usize].acks.withdraw_what_nobody_began();
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

    /// The partitions that are this consumer's, those that are being given up included.
    pub(crate) fn assignment(&self) -> Vec<TopicPartition> {
        self.held().map(|slot| slot.tp.clone()).collect()
    }

    fn held(&self) -> impl Iterator<Item = &Slot> {
        self.by_name.values().map(|id| &self.slots[*id as usize]).filter(|slot| slot.tenure != Tenure::Released)
    }

    fn ids(&self, partitions: &[TopicPartition]) -> Vec<SlotId> {
        partitions.iter().filter_map(|tp| self.by_name.get(tp).copied()).collect()
    }

    fn held_slot(&mut self, tp: &TopicPartition) -> Option<SlotId> {
        let id = *self.by_name.get(tp)?;
        (self.slots[id as usize].tenure == Tenure::Assigned).then_some(id)
    }

    /// Fetched bytes of the partition are worth nothing any more.
    fn invalidate(&mut self, id: SlotId) {
        let slot = &mut self.slots[id as usize];
        slot.generation += 1;
        self.dropped += slot.queued_bytes;
        slot.queued_bytes = 0;
        slot.queue.clear();
    }

    /// No acknowledgement of what has been handed out counts any more.
    pub(crate) fn forget_runs(&mut self, id: SlotId) {
        let slot = &mut self.slots[id as usize];
        slot.acks.forget_runs();
        if self.lent.is_some_and(|(lent, _)| lent == id) {
            self.lent = None;
        }
    }

    fn control_changed(&mut self) -> Option<Waker> {
        // Release pairs with the reader's Acquire: who sees the number sees what was changed under the lock, once it locks.
        self.signals.control.fetch_add(1, Ordering::Release);
        self.signals.upkeep.notify_one();
        self.wake_loops();
        self.reader.take()
    }

    /// Bytes that were queued and have been dropped since the last call.
    pub(crate) fn take_dropped(&mut self) -> i64 {
        std::mem::take(&mut self.dropped)
    }

    // ---- starting points and leaders ----

    /// Partitions whose starting point is not known.
    pub(crate) fn look_ups(&self) -> Vec<LookUp> {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| {
                slot.tenure == Tenure::Assigned && matches!(slot.stand, Stand::AwaitCommitted | Stand::AwaitReset(_))
            })
            .map(|(id, slot)| LookUp {
                slot: id as SlotId,
                generation: slot.generation,
                tp: slot.tp.clone(),
                stand: slot.stand.clone(),
                leader: slot.leader,
            })
            .collect()
    }

    /// The starting point is known. Ignored if the user sought meanwhile.
    pub(crate) fn start_at(&mut self, id: SlotId, generation: u32, offset: i64) -> bool {
        let slot = &mut self.slots[id as usize];
        if slot.generation != generation || slot.tenure != Tenure::Assigned {
            return false;
        }
        slot.stand = Stand::Fetching;
        self.stand_at(id, offset);
        self.wake_loops();
        true
    }

    /// The committed offset does not exist: the policy decides.
    pub(crate) fn reset(&mut self, id: SlotId, generation: u32, to: StartAt) {
        let slot = &mut self.slots[id as usize];
        if slot.generation == generation && slot.tenure == Tenure::Assigned {
            slot.stand = Stand::AwaitReset(to);
            // Nothing that is still under way may be mistaken for what comes after the reset.
            slot.generation += 1;
            self.signals.upkeep.notify_one();
        }
    }

    /// Where the next fetch begins.
    pub(crate) fn fetch_offset(&self, id: SlotId) -> i64 {
        self.slots[id as usize].fetch_offset
    }

    /// Like [`stick`](Self::stick), but what is queued may still be read: the trouble lies behind it.
    pub(crate) fn stick_behind(&mut self, id: SlotId, generation: u32, error: Error) -> Option<Waker> {
        let slot = &mut self.slots[id as usize];
        if slot.generation != generation || slot.tenure != Tenure::Assigned {
            return None;
        }
        slot.stand = Stand::Stuck;
        self.fail(error)
    }

    /// Nothing more of this partition until a seek. The caller tells the user why.
    pub(crate) fn stand_stuck(&mut self, id: SlotId, generation: u32) {
        if self.slots[id as usize].generation == generation {
            self.slots[id as usize].stand = Stand::Stuck;
            self.invalidate(id);
        }
    }

    /// Nothing more of this partition until a seek.
    pub(crate) fn stick(&mut self, id: SlotId, generation: u32, error: Error) -> Option<Waker> {
        let slot = &mut self.slots[id as usize];
        if slot.generation != generation || slot.tenure != Tenure::Assigned {
            return None;
        }
        slot.stand = Stand::Stuck;
        self.invalidate(id);
        self.fail(error)
    }

    fn stand_at(&mut self, id: SlotId, offset: i64) {
        self.forget_runs(id);
        let slot = &mut self.slots[id as usize];
        slot.fetch_offset = offset;
        slot.position = offset;
        slot.acks = Acks::new(offset);
    }

    /// Takes in who leads what. Returns the brokers that lead something, and whether a leader is missing.
    pub(crate) fn on_leaders(
        &mut self,
        leader: impl Fn(&TopicPartition) -> (Uuid, Option<(i32, i32)>),
    ) -> (BTreeSet<i32>, bool) {
        let mut brokers = BTreeSet::new();
        let mut missing = false;
        for slot in self.slots.iter_mut().filter(|slot| slot.tenure == Tenure::Assigned) {
            let (topic_id, leader) = leader(&slot.tp);
            slot.topic_id = topic_id;
            if slot.leader != leader {
                slot.leader = leader;
                slot.rest_until = None;
            }
            match leader {
                Some((broker, _)) => drop(brokers.insert(broker)),
                None => missing = true,
            }
        }
        self.wake_loops();
        (brokers, missing)
    }

    // ---- fetch loops ----

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

    fn wake_loops(&self) {
        self.loops.values().for_each(|bell| bell.notify_one());
    }

    /// What to ask a broker for.
    pub(crate) fn wanted_from(&self, broker: i32, now: Instant) -> Wanted {
        let mut wanted = Wanted::default();
        for (id, slot) in self.slots.iter().enumerate().filter(|(_, slot)| slot.is_wanted()) {
            let Some((_, leader_epoch)) = slot.leader.filter(|(leader, _)| *leader == broker) else { continue };
            if slot.queued_bytes > self.most_queued {
                wanted.some_are_full = true;
            } else if let Some(until) = slot.rest_until.filter(|until| *until > now) {
                wanted.rest_until = Some(wanted.rest_until.map_or(until, |earliest: Instant| earliest.min(until)));
            } else {
                let max_bytes = self.most_queued as i32;
                let asked = Asked { topic_id: slot.topic_id, offset: slot.fetch_offset, leader_epoch, max_bytes };
                wanted.partitions.insert(id as SlotId, (asked, slot.generation));
            }
        }
        wanted
    }

    /// The partition's answer was an error that may pass.
    pub(crate) fn rest(&mut self, id: SlotId, generation: u32, until: Instant) {
        let slot = &mut self.slots[id as usize];
        if slot.generation == generation {
            slot.rest_until = Some(until);
        }
    }

    pub(crate) fn tp(&self, id: SlotId) -> &TopicPartition {
        &self.slots[id as usize].tp
    }

    /// What a response says about a partition beside its batches.
    pub(crate) fn on_watermarks(&mut self, id: SlotId, generation: u32, marks: &Watermarks) {
        let slot = &mut self.slots[id as usize];
        if slot.generation == generation {
            let known = |offset: i64| (offset >= 0).then_some(offset);
            slot.high_watermark = known(marks.high);
            slot.last_stable = known(marks.last_stable);
            slot.log_start = known(marks.log_start);
            slot.show_lag(self.isolation);
        }
    }

    /// Queues a fetched batch. False if nobody wants it any more; its bytes are then the caller's to free.
    pub(crate) fn queue(&mut self, id: SlotId, generation: u32, raw: RawBatch) -> bool {
        self.queue_to(id, generation, raw.next_offset(), Queued::Raw(raw))
    }

    /// Queues that there is nothing for the user up to `to`.
    pub(crate) fn queue_hole(&mut self, id: SlotId, generation: u32, to: i64) {
        self.queue_to(id, generation, to, Queued::Hole(to));
    }

    fn queue_to(&mut self, id: SlotId, generation: u32, next_offset: i64, queued: Queued) -> bool {
        let slot = &mut self.slots[id as usize];
        // A batch that holds nothing from the asked offset on comes when another broker's answer was faster.
        let is_stale = slot.generation != generation && !planted::is("stale_fetch_delivered_after_a_seek");
        if is_stale || slot.stand != Stand::Fetching || next_offset <= slot.fetch_offset {
            return false;
        }
        slot.fetch_offset = next_offset;
        slot.queued_bytes += queued.bytes();
        match (slot.queue.back_mut(), queued) {
            // However much was aborted, it is one entry.
            (Some(Queued::Hole(to)), Queued::Hole(further)) => *to = further,
            (_, queued) => slot.queue.push_back(queued),
        }
        if !slot.is_ready {
            slot.is_ready = true;
            self.ready.push_back(id);
        }
        true
    }

    /// The reader, if it waits: to be woken without the lock.
    pub(crate) fn take_reader(&mut self) -> Option<Waker> {
        self.reader.take()
    }

    // ---- the reader ----

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
            let Some(queued) = slot.queue.pop_front() else { continue };
            let was_full = slot.queued_bytes > self.most_queued;
            slot.queued_bytes -= queued.bytes();
            if slot.queue.is_empty() {
                slot.is_ready = false;
            } else {
                self.ready.push_back(id);
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
                && let Some(bell) = slot.leader.and_then(|(broker, _)| self.loops.get(&broker))
            {
                bell.notify_one();
            }
            return Some(taken);
        }
        None
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
        if !slot.is_ready {
            slot.is_ready = true;
            self.ready.push_back(id);
        }
        true
    }

    /// Records up to `to` are handed out, one by one (`lend`) or all at once. `None` if the partition has been sought or revoked
    /// since they were taken.
    pub(crate) fn hand_out(&mut self, batch: &Arc<OpenBatch>, to: i64, lend: bool) -> Option<RunId> {
        let (id, generation) = (batch.origin.slot, batch.generation);
        let slot = &mut self.slots[id as usize];
        if slot.generation != generation {
            return None;
        }
        let run = self.next_run;
        self.next_run += 1;
        slot.position = to;
        slot.show_lag(self.isolation);
        if !self.tracks_acks {
            return Some(run);
        }
        // Weak: what the user has dropped needs no memory here.
        let claim: Option<Weak<OpenBatch>> = (!lend).then(|| Arc::downgrade(batch));
        slot.acks.hand_out(run, to, batch.batch.leader_epoch(), claim);
        if lend {
            self.lent = Some((id, run));
        }
        Some(run)
    }

    /// Offsets up to `to` hold nothing for the user.
    pub(crate) fn skip(&mut self, id: SlotId, generation: u32, to: i64) {
        let slot = &mut self.slots[id as usize];
        if slot.generation == generation {
            slot.position = slot.position.max(to);
            slot.acks.skip(to);
            slot.show_lag(self.isolation);
        }
    }

    pub(crate) fn park_reader(&mut self, waker: &Waker) {
        match &mut self.reader {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Whether the user waits in a read.
    pub(crate) fn is_reader_waiting(&self) -> bool {
        self.reader.is_some()
    }

    pub(crate) fn next_error(&mut self) -> Option<Error> {
        self.errors.pop_front()
    }

    pub(crate) fn closed(&self) -> Option<&Option<Error>> {
        self.closed.as_ref()
    }

    /// Tells the user, at its next read.
    pub(crate) fn fail(&mut self, error: Error) -> Option<Waker> {
        self.errors.push_back(error);
        self.reader.take()
    }

    /// The consumer is over; reads end with this.
    pub(crate) fn close(&mut self, error: Option<Error>) -> Option<Waker> {
        self.closed.get_or_insert(error);
        self.reader.take()
    }

    // ---- acknowledgement ----

    /// The run is done.
    pub(crate) fn ack_run(&mut self, id: SlotId, run: RunId) {
        self.slots[id as usize].acks.ack(run);
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
            .filter(|slot| slot.tenure != Tenure::Released && matches!(slot.stand, Stand::Fetching | Stand::Stuck))
            .filter(|slot| slot.acks.frontier().0 >= 0 && of.is_none_or(|of| of.contains(&slot.tp)))
            .map(|slot| {
                let (offset, epoch) = slot.acks.frontier();
                (slot.tp.clone(), offset, epoch)
            })
            .collect()
    }

    // ---- the handle ----

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
                self.stand_at(id, offset);
            }
            to => {
                self.slots[id as usize].stand = Stand::AwaitReset(to);
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

    /// Whether the partition still asks for that offset, and everything before it has been handed out.
    pub(crate) fn has_handed_out_all_below(&self, id: SlotId, generation: u32, asked: i64) -> bool {
        let slot = &self.slots[id as usize];
        slot.generation == generation
            && slot.stand == Stand::Fetching
            && (slot.fetch_offset, slot.position) == (asked, asked)
    }

    pub(crate) fn state(&self, tp: &TopicPartition) -> Option<PartitionState> {
        let slot = &self.slots[*self.by_name.get(tp)? as usize];
        (slot.tenure != Tenure::Released).then(|| PartitionState {
            // Of one that is being given up no record comes next; and what was handed out of it may have been taken back unseen.
            position: (slot.stand == Stand::Fetching && slot.tenure == Tenure::Assigned).then_some(slot.position),
            high_watermark: slot.high_watermark,
            last_stable_offset: slot.last_stable,
            log_start_offset: slot.log_start,
            paused: slot.paused,
        })
    }
}

/// See [`Partitions::hold_state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HoldState {
    Good,
    Paused,
    Invalid,
}

/// The partition is not this consumer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAssigned;
