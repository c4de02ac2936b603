//! Membership by the classic protocol (JoinGroup, SyncGroup, Heartbeat, LeaveGroup) as a machine: it takes answers and the time, and
//! says what to do next. It never waits, sends or reads a clock.
//!
//! ```text
//!            ┌────────────── an answer says: rejoin ──────────────┐
//!            ▼                                                    │
//! Away ─► Joining ─► (leader: Assigning) ─► Syncing ─► Stable ────┘
//!   ▲                                                    │  what it no longer gets: Revoke, then rejoin
//!   └── the session is over, the poll interval exceeded ─┘  what is new: Adopt
//! ```
//!
//! Not obvious:
//! - Heartbeats go on in every state in which this is a member, also while a JoinGroup is held by the coordinator. While it is, a
//!   heartbeat's answer proves only that the member lives: what the group wants will be told by the join's own answer.
//! - A coordinator may hold a join for `max_poll_interval`, and it may freeze meanwhile, or lose its place without a word. So who joins
//!   for the first time asks as well, with a heartbeat of nobody: any answer but one shows that the coordinator is there. Without an
//!   answer, or if another broker is the coordinator now, the join is left and sent to whoever that is. (Java waits for its connection
//!   to end, or `max.poll.interval.ms` and 5 s.)
//! - Every request has a number; an answer that bears another is of an earlier life and ignored.
//! - A member that must give something up joins again only when that is done, or it would claim what it is about to lose.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use milena_client::{Backoff, TopicPartition};
use milena_protocol::ErrorCode;
use tokio::time::Instant;

use super::blob::Assignment;
use crate::RebalanceProtocol;

/// What the machine must know of the member's settings.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) session_timeout: Duration,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) protocol: RebalanceProtocol,
    /// A static member (KIP-345) does not leave: its place is kept for it.
    pub(crate) is_static: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Send JoinGroup; its answer goes to [`Membership::on_joined`].
    Join { attempt: u64, member_id: Arc<str>, generation: i32, owned: Vec<TopicPartition>, reason: &'static str },
    /// This member leads: run the assignor, then call [`Membership::on_assigned`].
    Assign { attempt: u64, assignor: Arc<str>, members: Vec<JoinedMember> },
    /// Send SyncGroup; its answer goes to [`Membership::on_synced`].
    Sync { attempt: u64, member_id: Arc<str>, generation: i32, assignor: Arc<str>, assignments: Vec<(Arc<str>, Bytes)> },
    /// Send Heartbeat; its answer goes to [`Membership::on_heartbeat`]. With generation −1 it is one of nobody, which only asks whether
    /// the coordinator is there: without an instance id, or it would be one of two with the same.
    Heartbeat { attempt: u64, member_id: Arc<str>, generation: i32 },
    /// Send LeaveGroup; nobody waits for its answer.
    Leave { member_id: Arc<str> },
    /// The coordinator is somewhere else: look it up again.
    ForgetCoordinator,
    /// Stop handing these out, let their records be finished, commit, release; then call [`Membership::on_revoked`].
    Revoke { attempt: u64, partitions: Vec<TopicPartition> },
    /// These are gone already: release them, commit nothing. Ends a revocation that is under way.
    Lose { partitions: Vec<TopicPartition> },
    /// A new assignment is in force; `added` are the partitions to start with, possibly none.
    Adopt { added: Vec<TopicPartition>, assignment: Assignment, generation: i32 },
    /// The group will not have this member; it is over.
    Fail(ErrorCode),
}

/// A member as JoinGroup tells it to the leader.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JoinedMember {
    pub(crate) id: Arc<str>,
    pub(crate) instance_id: Option<Arc<str>>,
    pub(crate) metadata: Bytes,
}

/// A successful answer to JoinGroup.
#[derive(Debug, Clone)]
pub(crate) struct Joined {
    pub(crate) member_id: Arc<str>,
    pub(crate) generation: i32,
    pub(crate) is_leader: bool,
    /// A static leader that came back: the coordinator keeps the old assignment (KIP-814).
    pub(crate) skip_assignment: bool,
    pub(crate) assignor: Arc<str>,
    pub(crate) members: Vec<JoinedMember>,
}

/// A request that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The coordinator answered with a code; with MEMBER_ID_REQUIRED comes the id.
    Code(ErrorCode, Option<Arc<str>>),
    /// No answer, or no coordinator.
    NoAnswer,
}

impl From<ErrorCode> for Failure {
    fn from(code: ErrorCode) -> Self {
        Self::Code(code, None)
    }
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    /// Not in the group. Joins at that time; with `None` when the user shows that it lives.
    Away { join_at: Option<Instant> },
    /// JoinGroup is under way.
    Joining { attempt: u64 },
    /// The assignor works.
    Assigning { attempt: u64, assignor: Arc<str> },
    /// SyncGroup is under way.
    Syncing { attempt: u64 },
    /// In the group, with an assignment. Joins again at that time.
    Stable { rejoin_at: Option<Instant> },
    /// Left for good.
    Left,
    /// Turned away for good.
    Failed(ErrorCode),
}

/// A member of a group.
#[derive(Debug)]
pub(crate) struct Membership {
    settings: Settings,
    state: State,
    /// Empty until the coordinator has given one.
    member_id: Arc<str>,
    /// −1 while not in the group.
    generation: i32,
    owned: BTreeSet<TopicPartition>,
    /// The number of the revocation under way.
    revoking: Option<u64>,
    /// The generation must not end by this member's doing.
    held: bool,
    /// Why the next join happens (KIP-800).
    reason: &'static str,
    attempts: u64,
    heartbeat_due: Instant,
    heartbeat_under_way: Option<u64>,
    /// When the coordinator was last known to know this member.
    heard_at: Instant,
    backoff: Backoff,
    actions: VecDeque<Action>,
}

impl Membership {
    pub(crate) fn new(settings: Settings, now: Instant) -> Self {
        Self {
            settings,
            state: State::Away { join_at: Some(now) },
            member_id: "".into(),
            generation: -1,
            owned: BTreeSet::new(),
            revoking: None,
            held: false,
            reason: "the consumer has subscribed",
            attempts: 0,
            heartbeat_due: now,
            heartbeat_under_way: None,
            heard_at: now,
            backoff: Backoff::RETRY,
            actions: VecDeque::new(),
        }
    }

    /// Member id and generation, for commits.
    pub(crate) fn identity(&self) -> (Arc<str>, i32) {
        (self.member_id.clone(), self.generation)
    }

    /// Whether the coordinator would take a commit now. Between a join's answer and its sync's it says REBALANCE_IN_PROGRESS.
    pub(crate) fn may_commit(&self) -> bool {
        self.generation >= 0 && matches!(self.state, State::Joining { .. } | State::Stable { .. })
    }

    /// Whether this is a member, and does not join at the moment.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.state, State::Stable { .. })
    }

    /// Whether to put off joining again. The coordinator waits for it, as long as it waits for any member; it is not told.
    pub(crate) fn set_held(&mut self, held: bool) {
        self.held = held;
    }

    #[cfg(test)]
    /// Whether nothing is under way: a member with an assignment.
    pub(crate) fn is_stable(&self) -> bool {
        self.state == State::Stable { rejoin_at: None } && self.revoking.is_none()
    }

    #[cfg(test)]
    pub(crate) fn owned(&self) -> impl Iterator<Item = &TopicPartition> {
        self.owned.iter()
    }

    /// When [`poll`](Self::poll) has something to do, if nothing arrives before.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let join = match self.state {
            _ if self.revoking.is_some() => None,
            State::Away { join_at } => join_at,
            State::Stable { rejoin_at } => rejoin_at.filter(|_| !self.held),
            _ => None,
        };
        let heartbeat = (self.has_coordinator() && self.heartbeat_under_way.is_none()).then_some(self.heartbeat_due);
        let session = self.is_member().then(|| self.session_ends());
        [join, heartbeat, session].into_iter().flatten().min()
    }

    /// The next thing to do; call it until it says nothing.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Action> {
        if self.actions.is_empty() {
            self.decide(now);
        }
        self.actions.pop_front()
    }

    fn decide(&mut self, now: Instant) {
        if self.is_member() && now >= self.session_ends() {
            self.lose_membership("the session timed out: no heartbeat was answered");
            self.actions.push_back(Action::ForgetCoordinator);
            self.state = State::Away { join_at: Some(now) };
            return;
        }
        let due = match self.state {
            State::Away { join_at: Some(at) } => at <= now,
            State::Stable { rejoin_at: Some(at) } => at <= now && !self.held,
            _ => false,
        };
        if due && self.revoking.is_none() {
            if self.settings.protocol == RebalanceProtocol::Eager && !self.owned.is_empty() {
                self.revoke(self.owned.iter().cloned().collect());
            } else {
                self.join(now);
            }
            return;
        }
        if self.has_coordinator() && self.heartbeat_under_way.is_none() && self.heartbeat_due <= now {
            let attempt = self.next_attempt();
            self.heartbeat_under_way = Some(attempt);
            let (member_id, generation) = self.identity();
            self.actions.push_back(Action::Heartbeat { attempt, member_id, generation });
        }
    }

    /// Join again, soon: the subscription or the topics have changed.
    pub(crate) fn rejoin(&mut self, now: Instant, reason: &'static str) {
        if let State::Stable { rejoin_at } = &mut self.state {
            self.reason = reason;
            rejoin_at.get_or_insert(now);
        }
    }

    /// The answer to [`Action::Join`].
    pub(crate) fn on_joined(
        &mut self,
        attempt: u64,
        now: Instant,
        rng: &mut fastrand::Rng,
        answer: Result<Joined, Failure>,
    ) {
        if self.state != (State::Joining { attempt }) {
            return;
        }
        match answer {
            Ok(joined) => {
                self.member_id = joined.member_id;
                self.generation = joined.generation;
                self.heard(now);
                if joined.is_leader && !joined.skip_assignment {
                    let attempt = self.next_attempt();
                    self.state = State::Assigning { attempt, assignor: joined.assignor.clone() };
                    self.actions.push_back(Action::Assign {
                        attempt,
                        assignor: joined.assignor,
                        members: joined.members,
                    });
                } else {
                    self.sync(joined.assignor, Vec::new());
                }
            }
            Err(Failure::Code(ErrorCode::MEMBER_ID_REQUIRED, id)) => {
                self.member_id = id.unwrap_or_default();
                self.reason = "the coordinator asked for a member id";
                self.state = State::Away { join_at: Some(now) };
            }
            Err(failure) => self.on_failure(now, rng, failure),
        }
    }

    /// The assignor has worked for [`Action::Assign`]; `None` if it failed.
    pub(crate) fn on_assigned(
        &mut self,
        attempt: u64,
        now: Instant,
        rng: &mut fastrand::Rng,
        assignments: Option<Vec<(Arc<str>, Bytes)>>,
    ) {
        let State::Assigning { attempt: expected, assignor } = &self.state else { return };
        if *expected != attempt {
            return;
        }
        let assignor = assignor.clone();
        match assignments {
            Some(assignments) => self.sync(assignor, assignments),
            None => self.join_later(now, rng, "the assignor failed"),
        }
    }

    /// The answer to [`Action::Sync`].
    pub(crate) fn on_synced(
        &mut self,
        attempt: u64,
        now: Instant,
        rng: &mut fastrand::Rng,
        answer: Result<Assignment, Failure>,
    ) {
        if self.state != (State::Syncing { attempt }) {
            return;
        }
        let assignment = match answer {
            Ok(assignment) => assignment,
            Err(failure) => return self.on_failure(now, rng, failure),
        };
        self.backoff.on_success();
        self.heard(now);
        self.state = State::Stable { rejoin_at: None };
        let assigned: BTreeSet<TopicPartition> = assignment.partitions.iter().cloned().collect();
        let revoked: Vec<_> = self.owned.difference(&assigned).cloned().collect();
        let added: Vec<_> = assigned.difference(&self.owned).cloned().collect();
        self.owned.extend(added.iter().cloned());
        if !revoked.is_empty() {
            self.reason = "this member has given up what moves to another";
            self.revoke(revoked);
        }
        self.actions.push_back(Action::Adopt { added, assignment, generation: self.generation });
    }

    /// What [`Action::Revoke`] asked for is done.
    pub(crate) fn on_revoked(&mut self, attempt: u64, now: Instant, partitions: &[TopicPartition]) {
        if self.revoking != Some(attempt) {
            return;
        }
        self.revoking = None;
        self.owned.retain(|owned| !partitions.contains(owned));
        if let State::Stable { rejoin_at } = &mut self.state {
            rejoin_at.get_or_insert(now);
        }
    }

    /// The answer to [`Action::Heartbeat`].
    pub(crate) fn on_heartbeat(
        &mut self,
        attempt: u64,
        now: Instant,
        rng: &mut fastrand::Rng,
        answer: Result<(), Failure>,
    ) {
        if self.heartbeat_under_way != Some(attempt) {
            return;
        }
        self.heartbeat_under_way = None;
        self.heartbeat_due = now + self.settings.heartbeat_interval;
        match answer {
            Ok(()) => {
                self.heard_at = now;
                self.backoff.on_success();
            }
            Err(Failure::Code(
                ErrorCode::NOT_COORDINATOR
                | ErrorCode::COORDINATOR_NOT_AVAILABLE
                | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
                _,
            )) => {
                self.actions.push_back(Action::ForgetCoordinator);
                self.heartbeat_due = now + self.backoff.on_failure(rng);
                self.on_coordinator_lost(now, rng);
            }
            Err(Failure::NoAnswer) => {
                self.heartbeat_due = now + self.backoff.on_failure(rng);
                self.on_coordinator_lost(now, rng);
            }
            // A heartbeat of nobody has shown what it was to show.
            Err(_) if !self.is_member() => {}
            Err(Failure::Code(code, _)) => self.on_verdict(now, rng, code),
        }
    }

    /// Whoever was asked to let this member join or sync is silent, or is no coordinator any more: its answer is not waited for.
    pub(crate) fn on_coordinator_lost(&mut self, now: Instant, rng: &mut fastrand::Rng) {
        if matches!(self.state, State::Joining { .. } | State::Syncing { .. }) {
            // Its heartbeat, too: that it comes to nothing says nothing about the next coordinator.
            self.heartbeat_under_way = None;
            self.join_later(now, rng, "the coordinator was lost while it let the member join");
        }
    }

    /// A commit of that generation was refused with a code that is about the membership.
    pub(crate) fn on_commit_refused(
        &mut self,
        generation: i32,
        now: Instant,
        rng: &mut fastrand::Rng,
        code: ErrorCode,
    ) {
        if generation == self.generation {
            self.on_verdict(now, rng, code);
        }
    }

    /// What the coordinator thinks of this member, told by a heartbeat or a commit.
    fn on_verdict(&mut self, now: Instant, rng: &mut fastrand::Rng, code: ErrorCode) {
        match (&self.state, code) {
            (_, ErrorCode::FENCED_INSTANCE_ID | ErrorCode::GROUP_AUTHORIZATION_FAILED) => self.fail(code),
            (State::Stable { .. }, ErrorCode::REBALANCE_IN_PROGRESS) => {
                self.heard_at = now;
                self.rejoin(now, "the group is rebalancing");
            }
            (State::Stable { .. }, ErrorCode::ILLEGAL_GENERATION | ErrorCode::UNKNOWN_MEMBER_ID) => {
                self.on_failure(now, rng, code.into());
            }
            // The answer to the join or sync that is under way decides.
            (State::Joining { .. } | State::Assigning { .. } | State::Syncing { .. }, _) => self.heard_at = now,
            _ => {}
        }
    }

    /// The user has not asked for records for longer than it promised: leave, so that others can do the work.
    pub(crate) fn on_poll_timeout(&mut self) {
        if !self.is_member() {
            return;
        }
        self.leave_group();
        self.lose_membership("the time between two polls was longer than max_poll_interval");
        self.member_id = "".into();
        self.state = State::Away { join_at: None };
        self.reason = "the user reads again after max_poll_interval was exceeded";
    }

    /// The user asks for records: a member that left because it did not may come back.
    pub(crate) fn on_activity(&mut self, now: Instant) {
        if let State::Away { join_at } = &mut self.state {
            join_at.get_or_insert(now);
        }
    }

    /// Leaves for good. What is owned must have been revoked before.
    pub(crate) fn leave(&mut self) {
        if !matches!(self.state, State::Left | State::Failed(_)) {
            self.leave_group();
            self.state = State::Left;
            self.generation = -1;
        }
    }

    fn leave_group(&mut self) {
        if !self.member_id.is_empty() && !self.settings.is_static {
            self.actions.push_back(Action::Leave { member_id: self.member_id.clone() });
        }
    }

    /// Join or Sync did not succeed.
    fn on_failure(&mut self, now: Instant, rng: &mut fastrand::Rng, failure: Failure) {
        let Failure::Code(code, _) = failure else { return self.join_later(now, rng, "no answer came") };
        match code {
            ErrorCode::REBALANCE_IN_PROGRESS => {
                self.state = State::Away { join_at: Some(now) };
                self.reason = "the group rebalanced again";
            }
            ErrorCode::UNKNOWN_MEMBER_ID => {
                self.member_id = "".into();
                self.lose_membership("the coordinator does not know this member");
                self.join_later(now, rng, "the coordinator did not know this member");
            }
            ErrorCode::ILLEGAL_GENERATION => {
                self.lose_membership("this member's generation is over");
                self.join_later(now, rng, "this member's generation was over");
            }
            ErrorCode::NOT_COORDINATOR | ErrorCode::COORDINATOR_NOT_AVAILABLE | ErrorCode::REQUEST_TIMED_OUT => {
                self.actions.push_back(Action::ForgetCoordinator);
                self.join_later(now, rng, "the coordinator moved");
            }
            code if code.is_retriable() => self.join_later(now, rng, "the coordinator was not ready"),
            code => self.fail(code),
        }
    }

    fn fail(&mut self, code: ErrorCode) {
        self.lose_membership("the group will not have this member");
        self.state = State::Failed(code);
        self.actions.push_back(Action::Fail(code));
    }

    fn join_later(&mut self, now: Instant, rng: &mut fastrand::Rng, reason: &'static str) {
        self.reason = reason;
        self.state = State::Away { join_at: Some(now + self.backoff.on_failure(rng)) };
    }

    fn join(&mut self, now: Instant) {
        if !self.is_member() {
            self.heartbeat_due = now + self.settings.heartbeat_interval;
            self.heartbeat_under_way = None;
        }
        let attempt = self.next_attempt();
        self.state = State::Joining { attempt };
        let (member_id, generation) = self.identity();
        let owned = self.owned.iter().cloned().collect();
        self.actions.push_back(Action::Join { attempt, member_id, generation, owned, reason: self.reason });
    }

    fn sync(&mut self, assignor: Arc<str>, assignments: Vec<(Arc<str>, Bytes)>) {
        let attempt = self.next_attempt();
        self.state = State::Syncing { attempt };
        let (member_id, generation) = self.identity();
        self.actions.push_back(Action::Sync { attempt, member_id, generation, assignor, assignments });
    }

    fn revoke(&mut self, partitions: Vec<TopicPartition>) {
        let attempt = self.next_attempt();
        self.revoking = Some(attempt);
        self.actions.push_back(Action::Revoke { attempt, partitions });
    }

    fn lose_membership(&mut self, why: &'static str) {
        self.generation = -1;
        self.revoking = None;
        self.heartbeat_under_way = None;
        let partitions: Vec<_> = std::mem::take(&mut self.owned).into_iter().collect();
        if !partitions.is_empty() {
            tracing::warn!(partitions = partitions.len(), why, "partitions are lost");
            self.actions.push_back(Action::Lose { partitions });
        }
    }

    fn heard(&mut self, now: Instant) {
        self.heard_at = now;
        self.heartbeat_due = now + self.settings.heartbeat_interval;
        self.heartbeat_under_way = None;
    }

    /// Whether there is something for which the coordinator must be there.
    fn has_coordinator(&self) -> bool {
        self.is_member() || matches!(self.state, State::Joining { .. })
    }

    fn is_member(&self) -> bool {
        self.generation >= 0 && !matches!(self.state, State::Left | State::Failed(_))
    }

    fn session_ends(&self) -> Instant {
        self.heard_at + self.settings.session_timeout
    }

    fn next_attempt(&mut self) -> u64 {
        self.attempts += 1;
        self.attempts
    }
}

#[cfg(test)]
mod tests;
