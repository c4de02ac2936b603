//! Identity, sequence numbers and the window of unanswered batches of one partition: what may be sent next, and what an answer means.
//!
//! A pure machine: time, jitter and answers come in as arguments, batches and decisions go out. It holds the rules that other
//! clients learnt as bugs:
//!
//! - Sequences belong to (partition, producer id). They outlive metadata gaps and leader moves.
//! - A batch keeps a sticky mark once some attempt of it has no certain answer. After an epoch bump only batches without that mark
//!   may be sent again; the others end as [`Outcome::Unknown`], because a bump does not decide a lost attempt's fate.
//! - Nothing is pipelined before the first ack, nor after the flow was broken: a broker that does not know the producer accepts
//!   *any* first sequence, and the earlier batch could then never be written.
//! - When a batch must be sent again, what was sent behind it is waited for first; then everything goes again in sequence order,
//!   before anything new. Only a leader move does not wait: the old leader may be frozen.
//! - An answer of a superseded attempt may complete its batch; its errors mean nothing.
//! - In a transaction a batch that fails stops its partition until the transaction has been aborted, and new epochs come from the
//!   coordinator alone: see [`Window::restart`].

use std::collections::VecDeque;
use std::time::Duration;

use milena_client::{Backoff, Outcome};
use milena_protocol::{ErrorCode, planted};
use tokio::time::Instant;

/// A producer id and its epoch, on one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
}

/// The batches of one partition that have a place in the sequence and no answer yet, in sequence order.
#[derive(Debug)]
pub(crate) struct Window<B> {
    /// Without idempotence there are no sequences, and one batch at a time keeps the order.
    idempotent: bool,
    /// Epochs are the coordinator's: a gap is not closed by a bump but by the end of the transaction.
    transactional: bool,
    /// The transaction is given up: nothing is sent (again), and what has no answer yet fails as soon as it is known to have none.
    draining: bool,
    /// How many batches may be at the broker at the same time.
    depth: usize,
    /// Set when the first batch is admitted; the epoch is this partition's own after a bump (the broker checks it per partition).
    identity: Option<Identity>,
    next_sequence: i32,
    /// The broker has acked a batch since the flow began or was broken: it knows the producer, so batches may be pipelined.
    proven: bool,
    /// A batch has left its place in the sequence without a success: nothing is sent until the epoch has been bumped.
    gap: bool,
    slots: VecDeque<Slot<B>>,
    next_number: u64,
    backoff: Backoff,
    retry_at: Option<Instant>,
    last_ack: Option<Instant>,
}

/// A batch in the window.
#[derive(Debug)]
pub(crate) struct Slot<B> {
    /// Names the batch in tickets; never used twice on a partition.
    number: u64,
    sequence: i32,
    pub(crate) count: u32,
    deadline: Instant,
    attempt: u32,
    /// Its records were on their way before, in it or in a batch that was split.
    was_sent: bool,
    state: State,
    /// Some attempt of it has no certain answer. Never taken back.
    unknown: bool,
    pub(crate) batch: B,
}

impl<B> Slot<B> {
    /// Whether it may not be sent under another epoch: some attempt may have been written, and the broker would not know the repeat.
    fn dies_with_the_epoch(&self) -> bool {
        self.unknown && !planted::is("unknown_batch_sent_again_after_a_bump")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has no stamp, or that of an older epoch.
    Unstamped,
    /// Somebody compresses or stamps it, outside the partition's lock.
    Preparing,
    /// It can be sent.
    Waiting,
    /// It is with a broker, or on the way there.
    Sent,
}

/// Names one attempt of one batch: kept with the request, shown when its answer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) number: u64,
    attempt: u32,
    is_again: bool,
}

impl Ticket {
    /// Whether the batch was sent before.
    pub(crate) fn is_again(self) -> bool {
        self.is_again
    }
}

/// What is written into a batch before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
    pub(crate) base_sequence: i32,
    pub(crate) transactional: bool,
}

/// What may be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// A new batch may be admitted.
    Admit,
    /// This batch must be stamped (again): see [`Window::begin_preparing`].
    Prepare(u64),
    /// This batch can be sent: see [`Window::send`].
    Send(u64),
    /// Everything has been answered and the sequence has a gap: see [`Window::bump`].
    Bump,
    /// Nothing before this time.
    NotBefore(Instant),
    /// Nothing until an answer comes.
    Blocked,
}

/// What an answer meant.
#[derive(Debug)]
pub(crate) enum Answer<B> {
    /// The batch is written.
    Written(Slot<B>),
    /// The batch is not going to be written (again).
    Failed(Slot<B>, Outcome),
    /// It will be sent again.
    Again,
    /// It is too large and has more than one record: see [`Window::split`].
    Split(u64),
    /// Nothing: the batch has ended before, or the attempt is an old one.
    Ignored,
}

impl<B> Answer<B> {
    /// The batch that has left the window with this answer.
    pub(crate) fn ended(&self) -> Option<&B> {
        match self {
            Self::Written(slot) | Self::Failed(slot, _) => Some(&slot.batch),
            Self::Again | Self::Split(_) | Self::Ignored => None,
        }
    }
}

/// A client cannot see the broker's `producer.id.expiration.ms` (one day by default): after this long without an ack it does not
/// count on being remembered.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);
/// How soon a batch is sent again that came too early after the transaction before. Java waits as long for the same thing.
const MARKERS: Duration = Duration::from_millis(20);

impl<B> Window<B> {
    pub(crate) fn new(idempotent: bool, depth: usize) -> Self {
        Self {
            idempotent,
            transactional: false,
            draining: false,
            depth: if idempotent { depth } else { 1 },
            identity: None,
            next_sequence: 0,
            proven: false,
            gap: false,
            slots: VecDeque::new(),
            next_number: 0,
            backoff: Backoff::RETRY,
            retry_at: None,
            last_ack: None,
        }
    }

    /// The window of a partition of a transactional producer.
    pub(crate) fn transactional(depth: usize) -> Self {
        Self { transactional: true, ..Self::new(true, depth) }
    }

    /// The same, with another first sequence than 0.
    pub(crate) fn starting_at(self, sequence: i32) -> Self {
        Self { next_sequence: sequence, ..self }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether a new batch would have to wait behind a full window.
    pub(crate) fn is_full(&self) -> bool {
        self.slots.len() >= self.depth
    }

    pub(crate) fn needs_identity(&self) -> bool {
        self.idempotent && self.identity.is_none()
    }

    pub(crate) fn identity(&self) -> Option<Identity> {
        self.identity
    }

    pub(crate) fn batches(&self) -> impl Iterator<Item = &B> {
        self.slots.iter().map(|slot| &slot.batch)
    }

    /// What may be done now.
    pub(crate) fn next(&self, now: Instant) -> Next {
        if self.transactional && (self.gap || self.draining) {
            return Next::Blocked;
        }
        let busy = |slot: &Slot<B>| matches!(slot.state, State::Sent | State::Preparing);
        if self.gap && self.slots.iter().any(busy) {
            return Next::Blocked;
        }
        if let Some(retry_at) = self.retry_at.filter(|retry_at| now < *retry_at) {
            return Next::NotBefore(retry_at);
        }
        if self.gap {
            // A batch whose fate is unknown cannot outlive the bump: while the old epoch lasts the broker may still tell what became
            // of it.
            return match self.slots.front() {
                Some(slot) if slot.dies_with_the_epoch() && slot.state == State::Waiting => Next::Send(slot.number),
                _ => Next::Bump,
            };
        }
        let Some(first) = self.slots.iter().position(|slot| slot.state != State::Sent) else {
            let known = self.is_proven() && !(self.slots.is_empty() && self.is_forgotten(now));
            return if self.slots.is_empty() || (known && !self.is_full()) { Next::Admit } else { Next::Blocked };
        };
        // Something behind it is still with the broker, who will refuse it: wait for that, or the order is lost.
        if self.slots.iter().skip(first).any(|slot| slot.state == State::Sent) {
            return Next::Blocked;
        }
        let slot = &self.slots[first];
        match slot.state {
            State::Unstamped => Next::Prepare(slot.number),
            State::Waiting if first == 0 || (self.is_proven() && first < self.depth) => Next::Send(slot.number),
            _ => Next::Blocked,
        }
    }

    /// Whether the broker is known to know the producer.
    fn is_proven(&self) -> bool {
        self.proven || planted::is("pipelining_before_the_first_ack")
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        self.last_ack.is_some_and(|last| now.saturating_duration_since(last) >= FORGOTTEN_AFTER)
    }

    /// Gives a new batch its place in the sequence, after [`Next::Admit`]. It counts as being prepared. `identity` is the producer's
    /// and is used once, when the partition has none.
    pub(crate) fn admit(
        &mut self,
        count: u32,
        deadline: Instant,
        identity: Option<Identity>,
        now: Instant,
        batch: B,
    ) -> (u64, Stamp) {
        if self.identity.is_none() {
            self.identity = identity;
        }
        if self.slots.is_empty() && self.is_forgotten(now) {
            self.proven = false;
        }
        let number = self.next_number;
        self.next_number += 1;
        let sequence = self.take_sequence(count);
        let slot = Slot {
            number,
            sequence,
            count,
            deadline,
            attempt: 0,
            was_sent: false,
            state: State::Preparing,
            unknown: false,
            batch,
        };
        let stamp = self.stamp(slot.sequence);
        self.slots.push_back(slot);
        (number, stamp)
    }

    fn take_sequence(&mut self, count: u32) -> i32 {
        if !self.idempotent {
            return -1;
        }
        let sequence = self.next_sequence;
        self.next_sequence = sequence_after(sequence, count);
        sequence
    }

    fn stamp(&self, base_sequence: i32) -> Stamp {
        let identity = self.identity.unwrap_or(Identity { producer_id: -1, epoch: -1 });
        let Identity { producer_id, epoch } = identity;
        Stamp { producer_id, epoch, base_sequence, transactional: self.transactional }
    }

    /// Marks the batch as being prepared and says what must be stamped, after [`Next::Prepare`].
    pub(crate) fn begin_preparing(&mut self, number: u64) -> Option<(&mut B, Stamp)> {
        let sequence = self.slot(number)?.sequence;
        let stamp = self.stamp(sequence);
        let slot = self.slot(number)?;
        slot.state = State::Preparing;
        Some((&mut slot.batch, stamp))
    }

    /// The batch is stamped and can be sent; gives access to it so that the bytes can be put in their place.
    pub(crate) fn prepared(&mut self, number: u64) -> Option<&mut B> {
        let slot = self.slot(number)?;
        slot.state = State::Waiting;
        Some(&mut slot.batch)
    }

    /// The batch that [`send`](Self::send) would send.
    pub(crate) fn peek(&self, number: u64) -> Option<&B> {
        self.slots.iter().find(|slot| slot.number == number).map(|slot| &slot.batch)
    }

    /// The batch goes to the broker now, after [`Next::Send`]. Returns its ticket, its number of records and itself.
    pub(crate) fn send(&mut self, number: u64) -> Option<(Ticket, u32, &B)> {
        let slot = self.slot(number)?;
        slot.state = State::Sent;
        slot.attempt += 1;
        let is_again = std::mem::replace(&mut slot.was_sent, true);
        Some((Ticket { number, attempt: slot.attempt, is_again }, slot.count, &slot.batch))
    }

    fn slot(&mut self, number: u64) -> Option<&mut Slot<B>> {
        self.slots.iter_mut().find(|slot| slot.number == number)
    }

    /// Whether the ticket is of the attempt that counts.
    fn current(&self, ticket: Ticket) -> Option<(usize, bool)> {
        let index = self.slots.iter().position(|slot| slot.number == ticket.number)?;
        let slot = &self.slots[index];
        Some((index, slot.attempt == ticket.attempt && slot.state == State::Sent))
    }

    /// A broker has answered an attempt.
    pub(crate) fn on_answer(
        &mut self,
        ticket: Ticket,
        code: ErrorCode,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Answer<B> {
        let Some((index, current)) = self.current(ticket) else { return Answer::Ignored };
        let meaning = meaning(code, self.idempotent);
        if meaning == Meaning::Written {
            // Also from an attempt that was superseded: the old leader's late success is a success.
            if current {
                self.proven = true;
                self.last_ack = Some(now);
                self.backoff.on_success();
                self.retry_at = None;
            }
            return self.remove(index).map_or(Answer::Ignored, Answer::Written);
        }
        if !current {
            return Answer::Ignored;
        }
        self.proven = false;
        let slot = &mut self.slots[index];
        slot.state = State::Waiting;
        match meaning {
            Meaning::Written => Answer::Ignored,
            Meaning::Again { refused } if self.draining => self.fail(index, refused),
            Meaning::Again { refused } => {
                slot.unknown |= !refused;
                if code == ErrorCode::CONCURRENT_TRANSACTIONS {
                    // The markers of the transaction before are still being written: that takes milliseconds.
                    self.retry_at = Some(now + MARKERS.mul_f64(0.8 + 0.4 * rng.f64()));
                } else {
                    self.back_off(now, rng);
                }
                Answer::Again
            }
            Meaning::SequenceBroken if self.draining => self.fail(index, true),
            Meaning::SequenceBroken => {
                // Behind a batch that must be sent again, or that has left a gap, this is its consequence and says nothing of its own.
                if index > 0 {
                    return Answer::Again;
                }
                if slot.dies_with_the_epoch() || self.transactional {
                    // Nobody can say any more what became of the attempt that was lost, and the epoch that follows forbids another. In
                    // a transaction all is sent anew or nothing: after the abort.
                    return self.fail(index, true);
                }
                if !self.gap {
                    self.gap = true;
                    self.back_off(now, rng);
                }
                Answer::Again
            }
            Meaning::TooLarge if slot.count > 1 && !slot.unknown && !self.draining => {
                slot.state = State::Preparing;
                Answer::Split(slot.number)
            }
            Meaning::TooLarge => self.fail(index, true),
            Meaning::Failed { refused } => self.fail(index, refused),
        }
    }

    fn fail(&mut self, index: usize, refused: bool) -> Answer<B> {
        self.gap = self.idempotent;
        match self.remove(index) {
            Some(slot) => {
                if planted::is("sequence_not_advanced_after_failure") {
                    (self.gap, self.next_sequence) = (false, slot.sequence);
                }
                let outcome = if refused && !slot.unknown { Outcome::NotWritten } else { Outcome::Unknown };
                self.settle();
                Answer::Failed(slot, outcome)
            }
            None => Answer::Ignored,
        }
    }

    fn remove(&mut self, index: usize) -> Option<Slot<B>> {
        self.slots.remove(index)
    }

    /// Waiting for nobody would only delay what comes next.
    fn settle(&mut self) {
        if self.slots.is_empty() {
            self.retry_at = None;
        }
    }

    /// One failure of the flow is one failure, however many batches were in flight.
    fn back_off(&mut self, now: Instant, rng: &mut fastrand::Rng) {
        if self.retry_at.is_none_or(|retry_at| retry_at <= now) {
            self.retry_at = Some(now + self.backoff.on_failure(rng));
        }
    }

    /// The connection ended before the attempt was answered. Gives the batch back if that is its end.
    pub(crate) fn on_lost(
        &mut self,
        ticket: Ticket,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<(Slot<B>, Outcome)> {
        let (index, true) = self.current(ticket)? else { return None };
        let slot = &mut self.slots[index];
        slot.unknown = true;
        slot.state = State::Waiting;
        self.proven = false;
        self.back_off(now, rng);
        self.drained(index)
    }

    /// The attempt was not made after all: nothing of it was written to a connection. Gives the batch back if that is its end.
    pub(crate) fn on_unsent(&mut self, ticket: Ticket) -> Option<(Slot<B>, Outcome)> {
        let (index, true) = self.current(ticket)? else { return None };
        let slot = &mut self.slots[index];
        slot.state = State::Waiting;
        slot.was_sent = ticket.is_again;
        self.drained(index)
    }

    /// The attempt could not be made: nothing was written, and at once it would go no better.
    pub(crate) fn on_unsendable(
        &mut self,
        ticket: Ticket,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<(Slot<B>, Outcome)> {
        self.back_off(now, rng);
        self.on_unsent(ticket)
    }

    /// The batch that nobody will send again, if the transaction is given up.
    fn drained(&mut self, index: usize) -> Option<(Slot<B>, Outcome)> {
        if !self.draining {
            return None;
        }
        match self.fail(index, true) {
            Answer::Failed(slot, outcome) => Some((slot, outcome)),
            _ => None,
        }
    }

    /// The partition has another leader: everything goes to it, in order, without waiting for the old one's answers. Without idempotence
    /// what is with the old one is waited for: the new one would take a repeat for another record.
    pub(crate) fn on_move(&mut self) {
        if !self.idempotent {
            self.retry_at = None;
            return;
        }
        for slot in &mut self.slots {
            if slot.state == State::Sent {
                slot.unknown = true;
                if !self.draining {
                    slot.state = State::Waiting;
                }
            }
        }
        self.proven = false;
        self.retry_at = None;
    }

    /// The topic was made anew: nobody knows the producer there, and whatever sequence comes first is taken.
    pub(crate) fn on_made_anew(&mut self) {
        self.proven = false;
    }

    /// The transaction is given up: takes out what is not with a broker, with what is known about it. What is with one comes back
    /// with its answer, or with [`on_lost`](Self::on_lost).
    pub(crate) fn drain(&mut self) -> Vec<(Slot<B>, Outcome)> {
        self.draining = true;
        self.take_even_prepared(|slot| slot.state != State::Sent)
    }

    /// A transaction begins.
    pub(crate) fn resume(&mut self) {
        self.draining = false;
    }

    /// A new epoch begins at sequence 0, between two transactions: nothing of the old one is under way. The broker knows the producer
    /// as well as before: of an epoch that is new to it, it takes no other sequence first, so pipelining may go on.
    pub(crate) fn restart(&mut self, new: Identity) {
        debug_assert!(self.slots.is_empty(), "a new epoch with batches of the old one under way");
        if self.identity.is_none_or(|old| old.producer_id != new.producer_id) {
            self.proven = false;
        }
        self.identity = Some(new);
        self.next_sequence = 0;
        self.gap = false;
        self.draining = false;
        self.retry_at = None;
        self.backoff.on_success();
    }

    /// Takes out the batches whose time is over, with what is known about them. Also one that is being prepared: the thread that
    /// compresses may be busy for longer than anybody wants to wait.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<(Slot<B>, Outcome)> {
        self.take_even_prepared(|slot| slot.deadline <= now)
    }

    /// Takes out what no broker has (any more): what was never sent, or refused for certain. With `in_flight` also what is with a
    /// broker, or was and has no answer. The gap is closed by a new epoch once every answer is there, and what was taken out is in no
    /// window any more: it cannot be sent in that epoch.
    pub(crate) fn purge(&mut self, in_flight: bool) -> Vec<(Slot<B>, Outcome)> {
        self.take_even_prepared(|slot| in_flight || (slot.state != State::Sent && !slot.unknown))
    }

    /// Takes out everything: the producer has ended.
    pub(crate) fn abandon(&mut self) -> Vec<(Slot<B>, Outcome)> {
        self.take_even_prepared(|_| true)
    }

    /// Takes out what `which` says, also what is being prepared: who does that will not find it any more.
    fn take_even_prepared(&mut self, which: impl Fn(&Slot<B>) -> bool) -> Vec<(Slot<B>, Outcome)> {
        let mut taken = Vec::new();
        let mut index = 0;
        while index < self.slots.len() {
            if !which(&self.slots[index]) {
                index += 1;
                continue;
            }
            if let Some(slot) = self.remove(index) {
                self.gap = self.idempotent;
                self.proven = false;
                if planted::is("sequence_not_advanced_after_failure") {
                    (self.gap, self.next_sequence) = (false, slot.sequence);
                }
                let unknown = slot.unknown || slot.state == State::Sent;
                taken.push((slot, if unknown { Outcome::Unknown } else { Outcome::NotWritten }));
            }
        }
        self.settle();
        taken
    }

    /// A batch was taken out of its place in the sequence without a success.
    pub(crate) fn on_gap(&mut self) {
        self.gap = self.idempotent;
    }

    /// The earliest time at which a batch's time is over. (They are not in order: a split batch keeps its own.)
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.slots.iter().map(|slot| slot.deadline).min()
    }

    /// Whether the next bump needs a producer id from the broker because the epoch cannot grow any more.
    pub(crate) fn needs_new_producer_id(&self) -> bool {
        self.identity.is_some_and(|identity| identity.epoch == i16::MAX)
    }

    /// Starts a new epoch at sequence 0 (KIP-360), after [`Next::Bump`]. Batches that were certainly refused or never sent keep
    /// their order and are stamped anew; those whose fate is unknown are given back: they must not be sent again.
    pub(crate) fn bump(&mut self, new: Option<Identity>) -> Vec<Slot<B>> {
        self.identity = match (new, self.identity) {
            (Some(new), _) => Some(new),
            (None, Some(old)) => Some(Identity { epoch: old.epoch.saturating_add(1), ..old }),
            (None, None) => None,
        };
        self.next_sequence = 0;
        self.gap = false;
        self.proven = false;
        let mut unknown = Vec::new();
        if planted::is("batches_swapped") {
            self.slots.make_contiguous().reverse();
        }
        for mut slot in std::mem::take(&mut self.slots) {
            if slot.dies_with_the_epoch() {
                unknown.push(slot);
            } else {
                slot.sequence = self.take_sequence(slot.count);
                slot.state = State::Unstamped;
                self.slots.push_back(slot);
            }
        }
        self.settle();
        unknown
    }

    /// Puts parts in the place of a batch that was too large, after [`Answer::Split`]. Together they have its records, in order, so
    /// no sequence changes behind them. Returns the batch and the number of its records.
    pub(crate) fn split(&mut self, number: u64, parts: impl IntoIterator<Item = (u32, B)>) -> Option<(u32, B)> {
        let index = self.slots.iter().position(|slot| slot.number == number)?;
        let whole = self.remove(index)?;
        let mut sequence = whole.sequence;
        for (place, (count, batch)) in parts.into_iter().enumerate() {
            let number = self.next_number;
            self.next_number += 1;
            let slot = Slot {
                number,
                sequence,
                count,
                deadline: whole.deadline,
                attempt: 0,
                was_sent: true,
                state: State::Unstamped,
                unknown: false,
                batch,
            };
            if self.idempotent {
                sequence = sequence_after(sequence, count);
            }
            self.slots.insert(index + place, slot);
        }
        Some((whole.count, whole.batch))
    }
}

/// The sequence that follows `count` records from `sequence` on: after 2³¹ − 1 comes 0.
fn sequence_after(sequence: i32, count: u32) -> i32 {
    ((sequence as u32).wrapping_add(count) & 0x7fff_ffff) as i32
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Written,
    /// It may be sent again. `refused`: this attempt has certainly not been appended.
    Again {
        refused: bool,
    },
    /// The broker's idea of the sequence is another one. Always checked before the append.
    SequenceBroken,
    TooLarge,
    Failed {
        refused: bool,
    },
}

fn meaning(code: ErrorCode, idempotent: bool) -> Meaning {
    match code {
        // A repeat that the broker recognised: it is in the log, once.
        ErrorCode::NONE | ErrorCode::DUPLICATE_SEQUENCE_NUMBER => Meaning::Written,
        // What has fewer copies than it was promised to have can still be lost.
        ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND if planted::is("acknowledged_before_min_isr") => Meaning::Written,
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
        | ErrorCode::UNKNOWN_PRODUCER_ID
        | ErrorCode::INVALID_PRODUCER_EPOCH
        | ErrorCode::INVALID_PRODUCER_ID_MAPPING
            if idempotent =>
        {
            Meaning::SequenceBroken
        }
        ErrorCode::MESSAGE_TOO_LARGE | ErrorCode::RECORD_LIST_TOO_LARGE => Meaning::TooLarge,
        code if code.is_retriable() || code.is_invalid_metadata() => Meaning::Again { refused: is_refusal(code) },
        code => Meaning::Failed { refused: is_refusal(code) },
    }
}

/// Whether a broker gives this code only before it appends.
///
/// What is not in this list may follow an append: with `acks = all` a leader appends, waits for its replicas, and answers
/// NOT_LEADER_OR_FOLLOWER if it lost the leadership meanwhile, while the new leader keeps the batch.
fn is_refusal(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
            | ErrorCode::UNKNOWN_PRODUCER_ID
            | ErrorCode::INVALID_PRODUCER_EPOCH
            | ErrorCode::INVALID_PRODUCER_ID_MAPPING
            | ErrorCode::MESSAGE_TOO_LARGE
            | ErrorCode::RECORD_LIST_TOO_LARGE
            | ErrorCode::CORRUPT_MESSAGE
            | ErrorCode::INVALID_RECORD
            | ErrorCode::INVALID_TIMESTAMP
            | ErrorCode::INVALID_TOPIC_EXCEPTION
            | ErrorCode::INVALID_REQUIRED_ACKS
            | ErrorCode::NOT_ENOUGH_REPLICAS
            | ErrorCode::UNSUPPORTED_COMPRESSION_TYPE
            | ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT
            | ErrorCode::UNSUPPORTED_VERSION
            | ErrorCode::INVALID_TXN_STATE
            | ErrorCode::CONCURRENT_TRANSACTIONS
            | ErrorCode::TRANSACTION_ABORTABLE
            | ErrorCode::PRODUCER_FENCED
            | ErrorCode::POLICY_VIOLATION
            | ErrorCode::TOPIC_AUTHORIZATION_FAILED
            | ErrorCode::CLUSTER_AUTHORIZATION_FAILED
            | ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    )
}

#[cfg(test)]
mod tests;
