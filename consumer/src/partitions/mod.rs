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
//!
//! By subject: `assignment.rs` (what is this consumer's), `positions.rs` (where reading begins and goes on), `epochs.rs`
//! (which leaders wrote what was read), `fetching.rs` (what the
//! loops ask for and bring), `reading.rs` (what the reader takes), `acknowledging.rs` (what of it is done), `control.rs` (the handles).

mod acknowledging;
mod assignment;
mod control;
mod epochs;
mod fetching;
mod positions;
mod reading;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;

use milena_client::{Error, TopicPartition};
use milena_protocol::ErrorCode;
use milena_protocol::records::RawBatch;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use crate::acks::{Acks, RunId};
use crate::events::{Events, ResetReason};
use crate::fetch::session::Asked;
use crate::metrics::PartitionGauges;
use crate::records::{Held, OpenBatch, Origin};
use crate::{IsolationLevel, OffsetReset, StartAt};
use epochs::Epochs;
pub(crate) use fetching::{Picture, Whereabouts};
pub(crate) use positions::Policy;

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
    /// Why nothing comes behind. It stays, and is told with every read, until the partition is sought.
    Trouble(Error),
}

impl Queued {
    fn bytes(&self) -> i64 {
        match self {
            Self::Raw(raw) => raw.len() as i64,
            Self::Hole(_) | Self::Trouble(_) => 0,
            Self::Begun(held, _) => held.bytes(),
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
    /// The log does not have this offset. Where it begins says how much is lost; then the policy decides.
    AwaitLogStart(i64),
    /// The leader is asked whether it has what was read (OffsetForLeaderEpoch).
    AwaitValidation,
    /// Known: batches are fetched.
    Fetching,
    /// Nothing more until a seek; until then the error that is queued is told.
    Stuck,
}

/// Whether the offset that is handed out next is known.
fn has_position(stand: &Stand) -> bool {
    matches!(stand, Stand::Fetching | Stand::AwaitValidation | Stand::AwaitLogStart(_) | Stand::Stuck)
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
    /// The run whose records are given one by one, and its batch, which knows how far that is.
    given: Option<(RunId, Weak<OpenBatch>)>,
    queue: VecDeque<Queued>,
    queued_bytes: i64,
    is_ready: bool,
    /// The batch that the reader has taken last.
    taken: Option<TakenBatch>,
    acks: Acks,
    /// The epochs of what was fetched.
    epochs: Epochs,
    /// In this leader epoch the position was in the leader's log; −1 for none yet.
    validated: i32,
    /// What the policy has begun, to be told when it is done.
    reset: Option<PendingReset>,
    leader: Option<(i32, i32)>,
    /// A follower that is read instead of the leader, and until when (KIP-392).
    preferred: Option<(i32, Instant)>,
    /// The leader alone is read until then, because a follower was of no use.
    leader_only_until: Option<Instant>,
    /// Not asked for before: its last answer was an error.
    rest_until: Option<Instant>,
    topic_id: Uuid,
    /// Ids of topics of that name that are gone: a broker that still tells of them has old news.
    gone_ids: Vec<Uuid>,
    /// Since when brokers have told of one of them, and of nothing else.
    back_since: Option<Instant>,
    /// Why the cluster does not let it be read, since when, and whether the user knows.
    trouble: Option<Trouble>,
    high_watermark: Option<i64>,
    last_stable: Option<i64>,
    log_start: Option<i64>,
    gauges: PartitionGauges,
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

    /// The broker that it is fetched from: a follower that is preferred, or the leader.
    fn source(&self) -> Option<i32> {
        let (leader, _) = self.leader?;
        Some(self.preferred.map_or(leader, |(replica, _)| replica))
    }

    /// The next offset for the user. Behind it by a record where a stream gives one at the same moment; exact once its batch is let go.
    fn position(&self) -> i64 {
        let given = self.given.as_ref().and_then(|(_, batch)| batch.upgrade());
        given.map_or(self.position, |batch| self.position.max(batch.next_given()))
    }

    /// Brings the position up to the records that have been given one by one.
    fn note_given(&mut self) {
        self.position = self.position();
    }

    /// Brings the metrics up to date.
    fn show_place(&self, isolation: IsolationLevel) {
        if let Some(end) = self.end(isolation) {
            self.gauges.lag.set((end - self.position()).max(0));
        }
        if let Some(start) = self.log_start {
            self.gauges.lead.set((self.position() - start).max(0));
        }
    }

    /// Reads a follower until then, or the leader.
    fn set_preferred(&mut self, preferred: Option<(i32, Instant)>) {
        self.gauges.replica.set(preferred.map_or(-1, |(replica, _)| i64::from(replica)));
        self.preferred = preferred;
    }

    fn may_hand_out(&self) -> bool {
        self.tenure == Tenure::Assigned && !self.paused
    }
}

/// What is remembered of a batch that is being read.
#[derive(Debug, Clone, Copy)]
struct TakenBatch {
    next_offset: i64,
    /// Of its first record.
    first: i64,
    /// Of its latest one.
    latest: i64,
}

/// A reset that is under way.
#[derive(Debug)]
struct PendingReset {
    from: Option<i64>,
    policy: OffsetReset,
    reason: ResetReason,
    lost: u64,
}

/// A partition that metadata does not have, or an error in its place.
#[derive(Debug)]
struct Trouble {
    code: Option<ErrorCode>,
    /// When the user is to be told, again if it has been.
    tell_at: Instant,
    is_told: bool,
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
    /// Those of which it is not known whether this leader has what was read.
    pub(crate) unvalidated: Vec<(SlotId, u32)>,
    /// Whether this broker may name followers to be read instead.
    pub(crate) leader_only: bool,
}

/// A partition whose starting point must be looked up.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LookUp {
    pub(crate) slot: SlotId,
    pub(crate) generation: u32,
    pub(crate) tp: TopicPartition,
    pub(crate) stand: Stand,
    pub(crate) leader: Option<(i32, i32)>,
    /// The epoch of the last record before the offset that is fetched next; −1 if unknown.
    pub(crate) epoch: i32,
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
    /// The reader has begun to wait: a loop without room in the budget may ask all the same.
    pub(crate) hungry: Notify,
    /// What the user may want to know.
    pub(crate) events: Events,
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
    /// What the next reads say; with the partition and its generation for one that a seek makes pointless.
    errors: VecDeque<(Option<(SlotId, u32)>, Error)>,
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
            given: None,
            queue: VecDeque::new(),
            queued_bytes: 0,
            is_ready: false,
            taken: None,
            acks: Acks::new(0),
            epochs: Epochs::default(),
            validated: -1,
            reset: None,
            leader: None,
            preferred: None,
            leader_only_until: None,
            rest_until: None,
            topic_id: Uuid::nil(),
            gone_ids: Vec::new(),
            back_since: None,
            trouble: None,
            high_watermark: None,
            last_stable: None,
            log_start: None,
            gauges: PartitionGauges::default(),
        });
        self.by_name.insert(tp.clone(), id);
        id
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
        slot.note_given();
        slot.generation += 1;
        self.dropped += slot.queued_bytes;
        slot.queued_bytes = 0;
        slot.queue.clear();
        slot.taken = None;
    }

    /// No acknowledgement of what has been handed out counts any more.
    pub(crate) fn forget_runs(&mut self, id: SlotId) {
        let slot = &mut self.slots[id as usize];
        slot.acks.forget_runs();
        slot.given = None;
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

    /// `recv` has lent the record at `offset`, and everything before it in its batch.
    #[inline]
    pub(crate) fn note_lent(&mut self, offset: i64) {
        if let Some((id, _)) = self.lent {
            let slot = &mut self.slots[id as usize];
            slot.position = slot.position.max(offset + 1);
        }
    }

    /// Bytes that were queued and have been dropped since the last call.
    pub(crate) fn take_dropped(&mut self) -> i64 {
        std::mem::take(&mut self.dropped)
    }

    /// Reading goes on at `offset`; the last record before it was written in `epoch`, −1 if unknown.
    fn stand_at(&mut self, id: SlotId, offset: i64, epoch: i32) {
        self.forget_runs(id);
        let slot = &mut self.slots[id as usize];
        slot.epochs.start(epoch);
        slot.validated = -1;
        slot.reset = None;
        slot.fetch_offset = offset;
        slot.position = offset;
        slot.acks = Acks::new(offset);
    }

    fn wake_loops(&self) {
        self.loops.values().for_each(|bell| bell.notify_one());
    }

    pub(crate) fn tp(&self, id: SlotId) -> &TopicPartition {
        &self.slots[id as usize].tp
    }
}

/// In which way records are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandOut {
    /// All at once.
    Whole,
    /// One by one, borrowed: `recv`.
    Lend,
    /// One by one, owned: streams.
    Give,
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
