//! The life of a transactional id: what may be asked of its coordinator next, and what an answer means.
//!
//! A pure machine: time, jitter and answers come in as arguments, requests and effects go out. One request at a time.
//!
//! ```text
//! Uninitialised ──InitProducerId──▶ Idle ──begin──▶ Open ──commit or abort──▶ Idle
//!       ▲                                            │ ├─ refused, nothing lost ──▶ Open: abort it, or ask again
//!       └──────────── outcome unknown ───────────────┘ └─ fenced ──▶ Dead
//! ```
//!
//! Rules that were bugs elsewhere:
//!
//! - A transaction with a failed record, or with refused offsets, cannot be committed.
//! - A lost EndTxn answer is asked again under the same epoch: InitProducerId would destroy the answer.
//! - Protocol V1: a delayed copy of any request of a transaction can land in a later one of the same epoch. If one has lost its answer,
//!   InitProducerId comes before the next transaction (KAFKA-17754). After an abort it does, too, because sequences may have gaps.
//! - Protocol V2 (KIP-890): each transaction has its own epoch, which comes with the answer to EndTxn. Partitions and groups become part
//!   of a transaction by what is sent to them. An abort is sent whenever something was tried, because it may have arrived.
//! - The protocol changes between transactions only, and with an InitProducerId.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use milena_client::{
    Action, Backoff, CoordinatorKind, Error, ErrorKind, GroupMetadata, OffsetAndMetadata, Outcome, TopicPartition,
};
use milena_protocol::{ApiKey, ErrorCode};
use tokio::time::Instant;

use crate::sequence::Identity;

/// How a transaction becomes known to its coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Partitions and groups are announced; one epoch serves many transactions.
    V1,
    /// KIP-890: nothing is announced, and each transaction has an epoch of its own.
    V2,
}

/// Offsets of a group that become part of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupOffsets {
    pub(crate) group: GroupMetadata,
    pub(crate) offsets: BTreeMap<TopicPartition, OffsetAndMetadata>,
}

/// What is asked of a coordinator. All but the first bear the producer's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// InitProducerId; with the identity that goes on, or `None` to take the id over from whoever has it.
    Init(Option<Identity>),
    /// AddPartitionsToTxn.
    AddPartitions(Vec<TopicPartition>),
    /// AddOffsetsToTxn.
    AddOffsets(Arc<str>),
    /// TxnOffsetCommit.
    CommitOffsets(Arc<GroupOffsets>),
    /// EndTxn.
    End { commit: bool },
}

/// What the driver does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Asks, and brings the answer, at the latest then.
    Ask { ask: Ask, identity: Identity, protocol: Protocol, deadline: Instant },
    /// Nothing until something happens or until then.
    Rest(Option<Instant>),
}

/// An answer without errors that concern the whole request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Initialised(ErrorCode, Identity),
    Partitions(Vec<(TopicPartition, ErrorCode)>),
    Group(ErrorCode),
    Offsets(Vec<(TopicPartition, ErrorCode)>),
    /// With the identity of the next transaction, which only V2 tells.
    Ended(ErrorCode, Option<Identity>),
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub(crate) struct NoReply {
    pub(crate) error: Error,
    /// Whether the request may have reached the coordinator.
    pub(crate) lost: bool,
}

/// What must happen outside of the machine because of what it was told.
#[derive(Debug, Clone)]
pub(crate) enum Effect {
    /// All sequences start again under this identity; [`Machine::on_restarted`] says that they do.
    Restart(Identity),
    /// Partitions that wait may be looked at again.
    WakeParts,
    /// The transaction can only be aborted, or nothing at all can be done any more: what is not sent need not be.
    Drain,
    /// The coordinator is another one.
    Forget(CoordinatorKind, Arc<str>),
}

/// How the end of a transaction went.
#[derive(Debug, Clone)]
pub(crate) enum Ended {
    /// As was asked.
    Done,
    /// It can only be aborted.
    Abortable(Error),
    /// Nothing has happened yet.
    Retry(Error),
    /// Nobody can say; the producer must be initialised again.
    Unknown(Error),
    /// Another producer has the id.
    Fenced(Error),
}

#[derive(Debug)]
enum Phase {
    Uninitialised,
    Idle,
    Open,
    Dead(Error),
}

#[derive(Debug)]
struct Ending {
    commit: bool,
    deadline: Instant,
    /// Every record has its result.
    settled: bool,
    /// An EndTxn may have reached the coordinator, and its answer did not come.
    lost: bool,
}

#[derive(Debug)]
struct Offsets {
    ticket: u64,
    deadline: Instant,
    what: Arc<GroupOffsets>,
}

/// The machine of one transactional producer.
#[derive(Debug)]
pub(crate) struct Machine {
    protocol: Protocol,
    phase: Phase,
    /// Unknown while an InitProducerId is due.
    identity: Option<Identity>,
    /// The identity that the next InitProducerId goes on from (KIP-360).
    before: Option<Identity>,
    /// The partitions' sequences follow the identity, so batches may be stamped.
    restarted: bool,
    /// No batch of an older transaction is under way.
    quiet: bool,
    /// The coordinator may know of the transaction.
    started: bool,
    /// Some request of the transaction has lost its answer.
    lost: bool,
    /// The transaction's partitions, and whether the coordinator has them.
    partitions: BTreeMap<TopicPartition, bool>,
    groups: BTreeSet<Arc<str>>,
    offsets: VecDeque<Offsets>,
    next_ticket: u64,
    failed: Option<Error>,
    initialising: Option<Instant>,
    ending: Option<Ending>,
    effects: Vec<Effect>,
    /// Results that nobody has taken yet.
    initialised: Option<Result<(), Error>>,
    ended: Option<Ended>,
    answered: BTreeMap<u64, Result<(), Error>>,
    /// Why the last attempt of whatever is asked now did not succeed.
    last_error: Option<Error>,
    backoff: Backoff,
    markers: Backoff,
    retry_at: Option<Instant>,
    request_timeout: Duration,
}

/// While the markers of the transaction before are being written, the coordinator asks for patience: milliseconds, as in Java.
const MARKERS: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));

impl Machine {
    pub(crate) fn new(request_timeout: Duration) -> Self {
        Self {
            protocol: Protocol::V1,
            phase: Phase::Uninitialised,
            identity: None,
            before: None,
            restarted: false,
            quiet: true,
            started: false,
            lost: false,
            partitions: BTreeMap::new(),
            groups: BTreeSet::new(),
            offsets: VecDeque::new(),
            next_ticket: 0,
            failed: None,
            initialising: None,
            ending: None,
            effects: Vec::new(),
            initialised: None,
            ended: None,
            answered: BTreeMap::new(),
            last_error: None,
            backoff: Backoff::RETRY,
            markers: MARKERS,
            retry_at: None,
            request_timeout,
        }
    }

    // ---- what the user wants

    /// Wants the id, at the latest then.
    pub(crate) fn on_initialise(&mut self, protocol: Protocol, deadline: Instant) {
        self.protocol = protocol;
        self.initialised = match &self.phase {
            Phase::Dead(error) => Some(Err(error.clone())),
            _ => None,
        };
        self.initialising = Some(deadline);
        self.retry_at = None;
        self.last_error = None;
    }

    /// Begins a transaction. `protocol` is what the cluster speaks now.
    pub(crate) fn on_begin(&mut self, protocol: Protocol) {
        if !matches!(self.phase, Phase::Idle) {
            return;
        }
        self.phase = Phase::Open;
        if self.protocol != protocol {
            self.protocol = protocol;
            self.begin_anew();
        }
    }

    /// The next transaction needs a new epoch from InitProducerId.
    fn begin_anew(&mut self) {
        if let Some(identity) = self.identity.take() {
            self.before = Some(identity);
        }
        self.restarted = false;
    }

    /// Wants offsets to become part of the transaction; the ticket is for [`take_answered`](Self::take_answered).
    pub(crate) fn on_offsets(&mut self, what: GroupOffsets, deadline: Instant) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        match self.why_not_open() {
            Some(error) => {
                self.answered.insert(ticket, Err(error));
            }
            None => self.offsets.push_back(Offsets { ticket, deadline, what: Arc::new(what) }),
        }
        ticket
    }

    /// Wants the transaction to end. The driver sees to it that all records get their results and says so with
    /// [`on_settled`](Self::on_settled).
    pub(crate) fn on_end(&mut self, commit: bool, deadline: Instant) {
        self.ended = None;
        if let Phase::Dead(error) = &self.phase {
            self.ended = Some(Ended::Fenced(error.clone()));
            return;
        }
        self.ending = Some(Ending { commit, deadline, settled: false, lost: false });
        self.retry_at = None;
        self.last_error = None;
        if !commit {
            self.give_up_offsets(&ended());
        }
    }

    /// Every record of the transaction has its result.
    pub(crate) fn on_settled(&mut self) {
        self.quiet = true;
        if let Some(ending) = &mut self.ending {
            ending.settled = true;
        }
    }

    /// A partition has a batch to send: whether it may, because the coordinator knows the partition to be part of the transaction.
    pub(crate) fn on_partition(&mut self, partition: impl FnOnce() -> TopicPartition) -> bool {
        if !matches!(self.phase, Phase::Open) || !self.restarted || self.failed.is_some() {
            return false;
        }
        match self.protocol {
            Protocol::V2 => {
                self.quiet = false;
                self.started = true;
                true
            }
            Protocol::V1 => {
                let added = *self.partitions.entry(partition()).or_insert(false);
                self.quiet &= !added;
                added
            }
        }
    }

    /// Records have failed.
    pub(crate) fn on_records_failed(&mut self, error: &Error) {
        if !matches!(self.phase, Phase::Open) || self.is_aborting() {
            return;
        }
        match error.action() {
            Action::Fence => self.die(error.clone()),
            _ => self.fail(error.clone()),
        }
    }

    /// The sequences follow the new identity.
    pub(crate) fn on_restarted(&mut self) {
        self.restarted = self.identity.is_some();
        self.effects.push(Effect::WakeParts);
    }

    /// The producer has ended.
    pub(crate) fn on_closed(&mut self, error: Error) {
        self.die(error);
    }

    // ---- what the user learns

    pub(crate) fn take_initialised(&mut self) -> Option<Result<(), Error>> {
        self.initialised.take()
    }

    pub(crate) fn take_ended(&mut self) -> Option<Ended> {
        self.ended.take()
    }

    pub(crate) fn take_answered(&mut self, ticket: u64) -> Option<Result<(), Error>> {
        self.answered.remove(&ticket)
    }

    /// Why the transaction takes nothing more, if that is so.
    pub(crate) fn why_not_open(&self) -> Option<Error> {
        match &self.phase {
            Phase::Dead(error) => Some(error.clone()),
            Phase::Open if self.ending.is_none() => self.failed.as_ref().map(must_abort),
            _ => Some(ended()),
        }
    }

    /// Whether somebody waits for an end.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    fn is_aborting(&self) -> bool {
        self.ending.as_ref().is_some_and(|ending| !ending.commit)
    }

    // ---- what the driver does

    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// What to do now. The driver calls this only while no request is under way.
    pub(crate) fn next(&mut self, now: Instant) -> Step {
        self.look_at_deadlines(now);
        let wake = self.next_deadline();
        if let Some(retry_at) = self.retry_at.filter(|retry_at| now < *retry_at) {
            return Step::Rest(Some(wake.map_or(retry_at, |wake| wake.min(retry_at))));
        }
        let Some(ask) = self.next_ask() else { return Step::Rest(wake) };
        let timeout = now + self.request_timeout;
        let deadline = wake.map_or(timeout, |wake| wake.min(timeout));
        let identity = self.identity.unwrap_or(Identity { producer_id: -1, epoch: -1 });
        if self.protocol == Protocol::V2 && !matches!(ask, Ask::Init(_)) {
            // From here on the coordinator may know of the transaction.
            self.started = true;
        }
        Step::Ask { ask, identity, protocol: self.protocol, deadline }
    }

    fn next_ask(&self) -> Option<Ask> {
        match &self.phase {
            Phase::Dead(_) => return None,
            Phase::Uninitialised => {
                return (self.initialising.is_some() && self.quiet).then_some(Ask::Init(None));
            }
            Phase::Idle | Phase::Open => {}
        }
        if self.identity.is_none() {
            return Some(Ask::Init(self.before));
        }
        if !matches!(self.phase, Phase::Open) {
            return None;
        }
        if self.failed.is_none() && !self.is_aborting() {
            let wanted: Vec<_> =
                self.partitions.iter().filter(|(_, added)| !**added).map(|(tp, _)| tp.clone()).collect();
            if !wanted.is_empty() {
                return Some(Ask::AddPartitions(wanted));
            }
            if let Some(Offsets { what, .. }) = self.offsets.front() {
                let group = &what.group.group;
                let known = self.protocol == Protocol::V2 || self.groups.contains(group);
                return Some(if known { Ask::CommitOffsets(what.clone()) } else { Ask::AddOffsets(group.clone()) });
            }
        }
        let ending = self.ending.as_ref().filter(|ending| ending.settled && self.started)?;
        Some(Ask::End { commit: ending.commit })
    }

    fn next_deadline(&self) -> Option<Instant> {
        let ending = self.ending.as_ref().map(|ending| ending.deadline);
        let offsets = self.offsets.front().map(|offsets| offsets.deadline);
        [self.initialising, ending, offsets].into_iter().flatten().min()
    }

    /// Ends what has taken too long, and what needs nobody else.
    fn look_at_deadlines(&mut self, now: Instant) {
        if self.initialising.is_some_and(|deadline| deadline <= now) {
            self.initialising = None;
            self.initialised = Some(Err(self.too_late("the producer could not be initialised")));
        }
        while self.offsets.front().is_some_and(|offsets| offsets.deadline <= now) {
            let error = self.too_late("the offsets could not be added to the transaction");
            // Whether they are part of it is not known, so it must not be committed.
            self.fail(error);
        }
        let Some(ending) = &self.ending else { return };
        let (commit, lost, late) = (ending.commit, ending.lost, ending.deadline <= now);
        if commit
            && !lost
            && let Some(error) = &self.failed
        {
            return self.finish(Ended::Abortable(error.clone()));
        }
        if ending.settled && !self.started && self.offsets.is_empty() {
            // The coordinator has never heard of it.
            return self.finish(Ended::Done);
        }
        if late {
            let error = self.too_late("the transaction could not be ended");
            self.finish(match (commit, lost) {
                (true, false) => Ended::Retry(error.with_outcome(Outcome::NotWritten)),
                _ => Ended::Unknown(error.with_outcome(Outcome::Unknown)),
            });
        }
    }

    fn too_late(&mut self, what: &str) -> Error {
        match self.last_error.take() {
            Some(error) => error,
            None => Error::new(ErrorKind::Timeout, format!("{what} in time: look at the brokers, or give it longer.")),
        }
    }

    /// What came of the request.
    pub(crate) fn on_reply(&mut self, ask: Ask, reply: Result<Reply, NoReply>, now: Instant, rng: &mut fastrand::Rng) {
        if matches!(self.phase, Phase::Dead(_)) {
            return;
        }
        let result = match reply {
            Ok(reply) => self.on_answer(&ask, reply),
            Err(NoReply { error, lost }) => {
                self.lost |= lost;
                self.started |= lost && !matches!(ask, Ask::Init(_));
                if let (Ask::End { .. }, Some(ending)) = (&ask, &mut self.ending) {
                    ending.lost |= lost;
                }
                Err(error)
            }
        };
        let Err(error) = result else {
            self.backoff.on_success();
            self.markers.on_success();
            self.retry_at = None;
            self.last_error = None;
            return;
        };
        if may_follow_an_append(&error) {
            match &ask {
                Ask::End { .. } => {
                    if let Some(ending) = &mut self.ending {
                        ending.lost = true;
                    }
                }
                // The transaction may have begun. Were it not aborted, its time-out would end it, and this producer with it.
                Ask::AddPartitions(_) | Ask::AddOffsets(_) => {
                    self.started = true;
                    self.lost = true;
                }
                Ask::Init(_) | Ask::CommitOffsets(_) => {}
            }
        }
        match error.action() {
            Action::Proceed | Action::Retry | Action::RefreshMetadata | Action::FindCoordinator => {
                self.ask_again(&ask, error, now, rng);
            }
            Action::Fence => self.on_fenced(&ask, error),
            Action::Abort | Action::Fail => self.on_refused(&ask, error),
        }
    }

    fn ask_again(&mut self, ask: &Ask, error: Error, now: Instant, rng: &mut fastrand::Rng) {
        tracing::debug!(%error, "asking again");
        if error.action() == Action::FindCoordinator
            && let Ask::CommitOffsets(what) = ask
        {
            self.effects.push(Effect::Forget(CoordinatorKind::Group, what.group.group.clone()));
        } else if error.action() == Action::FindCoordinator {
            self.effects.push(Effect::Forget(CoordinatorKind::Transaction, Arc::default()));
        }
        let wait = if error.code() == Some(ErrorCode::CONCURRENT_TRANSACTIONS) {
            self.markers.on_failure(rng)
        } else {
            self.backoff.on_failure(rng)
        };
        self.retry_at = Some(now + wait);
        self.last_error = Some(error);
    }

    /// Takes in an answer, or gives the error that it carries.
    fn on_answer(&mut self, ask: &Ask, reply: Reply) -> Result<(), Error> {
        match (ask, reply) {
            (Ask::Init(_), Reply::Initialised(code, identity)) => {
                check(ApiKey::INIT_PRODUCER_ID, code)?;
                self.identity = Some(identity);
                self.before = None;
                self.lost = false;
                if matches!(self.phase, Phase::Uninitialised) {
                    self.phase = Phase::Idle;
                    self.initialising = None;
                    self.initialised = Some(Ok(()));
                }
                self.restart(identity);
            }
            (Ask::AddPartitions(_), Reply::Partitions(answers)) => {
                let mut worst = Ok(());
                for (partition, code) in answers {
                    match check(ApiKey::ADD_PARTITIONS_TO_TXN, code) {
                        Ok(()) => {
                            if let Some(added) = self.partitions.get_mut(&partition) {
                                *added = true;
                            }
                            self.started = true;
                        }
                        Err(error) => worst = worse(worst, error.with_topic_partition(partition)),
                    }
                }
                self.effects.push(Effect::WakeParts);
                worst?;
            }
            (Ask::AddOffsets(group), Reply::Group(code)) => {
                check(ApiKey::ADD_OFFSETS_TO_TXN, code)?;
                self.started = true;
                self.groups.insert(group.clone());
            }
            (Ask::CommitOffsets(what), Reply::Offsets(answers)) => {
                let mut worst = Ok(());
                for (partition, code) in answers {
                    if let Err(error) = check(ApiKey::TXN_OFFSET_COMMIT, code) {
                        worst = worse(worst, error.with_topic_partition(partition));
                    }
                }
                worst?;
                if self.offsets.front().is_some_and(|front| Arc::ptr_eq(&front.what, what))
                    && let Some(front) = self.offsets.pop_front()
                {
                    self.answered.insert(front.ticket, Ok(()));
                }
            }
            (Ask::End { commit }, Reply::Ended(code, identity)) => {
                check(ApiKey::END_TXN, code)?;
                match (self.protocol, identity) {
                    (Protocol::V2, Some(identity)) => {
                        self.identity = Some(identity);
                        self.restart(identity);
                    }
                    (Protocol::V1, _) if *commit && !self.lost => {}
                    _ => self.begin_anew(),
                }
                self.finish(Ended::Done);
            }
            _ => debug_assert!(false, "an answer to another question"),
        }
        Ok(())
    }

    fn restart(&mut self, identity: Identity) {
        self.restarted = false;
        self.effects.push(Effect::Restart(identity));
    }

    /// The request was refused in a way that asking again does not change.
    fn on_refused(&mut self, ask: &Ask, error: Error) {
        match ask {
            Ask::Init(_) if self.initialising.take().is_some() => self.initialised = Some(Err(error)),
            // Between transactions: nobody waits for it, and the next one would wait for ever.
            Ask::Init(_) => self.die(error),
            Ask::AddPartitions(_) | Ask::AddOffsets(_) | Ask::CommitOffsets(_) => self.fail(error),
            Ask::End { commit } => {
                let lost = self.ending.as_ref().is_some_and(|ending| ending.lost);
                if error.action() == Action::Abort && *commit && !lost {
                    self.fail(error.clone());
                    self.finish(Ended::Abortable(error));
                } else {
                    self.finish(Ended::Unknown(error.with_outcome(Outcome::Unknown)));
                }
            }
        }
    }

    /// Another producer has the id, or the coordinator does not take this one any more.
    fn on_fenced(&mut self, ask: &Ask, error: Error) {
        let nothing_to_abort = error.code() == Some(ErrorCode::INVALID_TXN_STATE) && self.protocol == Protocol::V1;
        if nothing_to_abort && self.lost && *ask == (Ask::End { commit: false }) {
            // What was lost had never arrived, so there is no transaction. A new epoch sees to it that it does not arrive later.
            self.begin_anew();
            return self.finish(Ended::Done);
        }
        let lost = matches!(ask, Ask::End { .. }) && self.ending.as_ref().is_some_and(|ending| ending.lost);
        let outcome = if lost { Outcome::Unknown } else { Outcome::NotWritten };
        self.die(error.with_outcome(outcome));
    }

    /// The transaction can only be aborted.
    fn fail(&mut self, error: Error) {
        self.give_up_offsets(&error);
        if self.failed.is_none() {
            self.failed = Some(error);
            self.effects.push(Effect::Drain);
        }
    }

    fn give_up_offsets(&mut self, error: &Error) {
        for offsets in self.offsets.drain(..) {
            self.answered.insert(offsets.ticket, Err(error.clone()));
        }
    }

    fn die(&mut self, error: Error) {
        if matches!(self.phase, Phase::Dead(_)) {
            return;
        }
        self.give_up_offsets(&error);
        if self.initialising.take().is_some() {
            self.initialised = Some(Err(error.clone()));
        }
        if self.ending.take().is_some() {
            self.ended = Some(Ended::Fenced(error.clone()));
        }
        self.identity = None;
        self.restarted = false;
        self.phase = Phase::Dead(error);
        self.effects.push(Effect::Drain);
    }

    fn finish(&mut self, ended: Ended) {
        self.ending = None;
        self.retry_at = None;
        self.last_error = None;
        match &ended {
            Ended::Done => {
                self.phase = Phase::Idle;
                self.forget_transaction();
            }
            Ended::Unknown(_) => {
                self.phase = Phase::Uninitialised;
                self.identity = None;
                self.before = None;
                self.restarted = false;
                self.forget_transaction();
            }
            Ended::Abortable(_) | Ended::Retry(_) | Ended::Fenced(_) => {}
        }
        self.ended = Some(ended);
    }

    fn forget_transaction(&mut self) {
        self.started = false;
        self.lost = false;
        self.failed = None;
        self.partitions.clear();
        self.groups.clear();
        self.answered.clear();
    }
}

/// Whether a coordinator says this also after it has written down what it was asked for, and lost its place or its followers then
/// (`TransactionStateManager.appendTransactionToLog`): as good as no answer.
fn may_follow_an_append(error: &Error) -> bool {
    let codes = [ErrorCode::NOT_COORDINATOR, ErrorCode::COORDINATOR_NOT_AVAILABLE, ErrorCode::UNKNOWN_SERVER_ERROR];
    error.code().is_some_and(|code| codes.contains(&code))
}

fn check(api: ApiKey, code: ErrorCode) -> Result<(), Error> {
    code.ok().map_err(|code| Error::from_code(api, code))
}

/// Of two errors in one answer, the one that leaves less to be done.
fn worse(so_far: Result<(), Error>, error: Error) -> Result<(), Error> {
    let rank = |error: &Error| match error.action() {
        Action::Fence => 3,
        Action::Abort | Action::Fail => 2,
        Action::FindCoordinator => 1,
        Action::Proceed | Action::Retry | Action::RefreshMetadata => 0,
    };
    match so_far {
        Err(before) if rank(&before) >= rank(&error) => Err(before),
        _ => Err(error),
    }
}

/// What is told to whoever still uses a transaction that has ended.
fn ended() -> Error {
    Error::new(ErrorKind::TransactionEnded, "the transaction has ended, or is being ended: begin another one.")
}

fn must_abort(error: &Error) -> Error {
    Error::new(
        ErrorKind::TransactionEnded,
        format!("the transaction can only be aborted, because this failed: {error}"),
    )
    .with_source(error.clone())
}

#[cfg(test)]
mod tests;
