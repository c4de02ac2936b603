//! Drives a group's member: sends what the membership and the commit queue decide, and takes a partition out of the user's hands
//! before another member gets it.
//!
//! Joins and syncs have a lane (a connection) of their own, because the coordinator may hold a join for minutes; heartbeats and
//! commits have another. Nothing here waits for the user: its listener runs elsewhere, and its un-acknowledged records are waited
//! for beside everything else.

mod committing;
mod leading;
mod requests;
mod revoking;

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use milena_client::{
    CoordinatorKind, Counter, Error, ErrorKind, Gauge, GroupMetadata, Lane, Link, Target, TopicPartition,
};
use milena_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use milena_protocol::messages::leave_group_request::MemberIdentity;
use milena_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use milena_protocol::messages::{GroupId, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest};
use milena_protocol::{ApiKey, ErrorCode, Request, StrBytes};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::listener::Calls;
use super::offsets::str_bytes;
use crate::Assignor;
use crate::commits::{Answer, CommitQueue, Offsets, Ticket};
use crate::group::classic::{Action, Failure, Joined, Membership, Settings};
use crate::group::{Assignment, Subscription};
use crate::handle::GenerationHold;
use crate::metrics::{self, RecentMax};
use crate::shared::Shared;
use leading::{Led, assign, sizes};
use requests::{Asked, Trouble, ask_at_length, read_join};

const PROTOCOL_TYPE: &str = "consumer";
/// What is kept of the rebalance time-out for the commit, the listener and the join after un-acknowledged records were waited for.
const REVOKE_RESERVE: Duration = Duration::from_secs(10);
/// How long somebody waits for a commit (Java's `default.api.timeout.ms`).
const COMMIT_TIMEOUT: Duration = Duration::from_secs(60);

/// What a group's member was told: plain data.
#[derive(Debug, Clone)]
pub(crate) struct GroupConfig {
    pub(crate) group: Arc<str>,
    pub(crate) topics: BTreeSet<Arc<str>>,
    pub(crate) instance_id: Option<Arc<str>>,
    pub(crate) assignor: Arc<dyn Assignor>,
    pub(crate) session_timeout: Duration,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) max_poll_interval: Duration,
    pub(crate) auto_commit: Option<Duration>,
    /// Whether what is acknowledged is committed; if not, somebody else commits it.
    pub(crate) commits: bool,
}

/// What the user asks of the group's driver.
#[derive(Debug)]
pub(crate) enum Command {
    /// Commit these offsets, or all frontiers.
    Commit { offsets: Option<Offsets>, reply: oneshot::Sender<Result<(), Error>> },
    /// Tell the identity.
    Identity { reply: oneshot::Sender<Result<GroupMetadata, Error>> },
    /// Tell the identity, and keep it until it is [released](Self::Release).
    Hold { reply: oneshot::Sender<Result<GenerationHold, Error>> },
    /// One hold less.
    Release,
    /// Commit, give everything up, leave. The reply says what could not be committed.
    Close { deadline: Instant, reply: oneshot::Sender<Result<(), Error>> },
}

/// Something that was under way has ended.
enum Event {
    Joined(u64, Result<Joined, Failure>),
    Assigned(u64, Option<Vec<(Arc<str>, Bytes)>>, Led),
    Synced(u64, Result<Assignment, Failure>),
    Heartbeat(u64, Instant, Result<(), Failure>),
    Committed(i32, Instant, Answer),
    /// Nothing of the partitions being revoked is in the user's hands any more, or it took too long.
    Drained(u64),
    /// The listener has returned from its call about a revocation.
    Revoked(u64),
    /// The listener has returned from its call about new partitions, made in that life of the membership.
    Prepared(u64, Vec<TopicPartition>),
    /// The listener has returned from its call about lost partitions.
    ToldLost,
    Left,
}

type UnderWay = FuturesUnordered<Pin<Box<dyn Future<Output = Event> + Send>>>;

/// A revocation that is under way.
struct Revocation {
    attempt: u64,
    partitions: Vec<TopicPartition>,
    deadline: Instant,
    /// The frontiers that were committed before the listener was called.
    told: Vec<(TopicPartition, i64, i32)>,
    step: Step,
}

enum Step {
    /// The user's records are waited for.
    Draining,
    /// The frontier is being committed.
    Committing(Ticket),
    /// The listener has been called.
    Listening,
    /// What the listener committed or acknowledged is being committed.
    CommittingAgain(Ticket),
}

/// Java's metrics of a coordinator.
struct Counters {
    heartbeats: Counter,
    joins: Counter,
    syncs: Counter,
    commits: Counter,
    rebalances: Counter,
    failed_rebalances: Counter,
    assigned: Gauge,
    heartbeat_time: RecentMax,
    commit_time: RecentMax,
}

struct Driver {
    shared: Arc<Shared>,
    link: Link,
    config: GroupConfig,
    listener: Calls,
    membership: Membership,
    commits: CommitQueue,
    rng: fastrand::Rng,
    /// By the last join or sync.
    asked: Asked,
    under_way: UnderWay,
    revocation: Option<Revocation>,
    /// How often the membership was lost.
    life: u64,
    /// Lost partitions of which the listener has not been told yet, call by call.
    lost_untold: VecDeque<Vec<TopicPartition>>,
    /// Commits that somebody waits for.
    waiting: Vec<Waiter>,
    /// How often the generation is held, and who waits for the end of a join to hold it.
    holds: usize,
    to_hold: Vec<oneshot::Sender<Result<GenerationHold, Error>>>,
    trouble: Trouble,
    /// Heartbeats may be answered while commits are not.
    commit_trouble: Trouble,
    closing: Option<Closing>,
    led: Option<Led>,
    auto_commit_at: Option<Instant>,
    clock: PollClock,
    counters: Counters,
}

/// Somebody who waits for a commit.
struct Waiter {
    ticket: Ticket,
    deadline: Instant,
    reply: oneshot::Sender<Result<(), Error>>,
}

struct Closing {
    deadline: Instant,
    reply: Option<oneshot::Sender<Result<(), Error>>>,
    is_leaving: bool,
    has_left: bool,
}

/// When the user last showed that it lives.
struct PollClock {
    seen: (u64, u64),
    restarted: Instant,
    look_at: Instant,
}

/// Runs until the consumer is closed, or its task ended.
pub(crate) async fn run(
    shared: Arc<Shared>,
    config: GroupConfig,
    listener: Calls,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let link = shared.link.clone();
    let now = link.now();
    let settings = Settings {
        session_timeout: config.session_timeout,
        heartbeat_interval: config.heartbeat_interval,
        protocol: config.assignor.protocol(),
        is_static: config.instance_id.is_some(),
    };
    let _interest = link.want_topics(config.topics.iter().map(|topic| &**topic));
    let mut changes = link.metadata_changes();
    let mut driver = Driver {
        membership: Membership::new(settings, now),
        commits: CommitQueue::default(),
        rng: link.rng("group"),
        asked: Asked::nobody(),
        under_way: UnderWay::new(),
        revocation: None,
        life: 0,
        lost_untold: VecDeque::new(),
        waiting: Vec::new(),
        holds: 0,
        to_hold: Vec::new(),
        trouble: Trouble::default(),
        commit_trouble: Trouble::default(),
        closing: None,
        led: None,
        auto_commit_at: config.auto_commit.map(|interval| now + interval),
        clock: PollClock { seen: (0, 0), restarted: now, look_at: now },
        counters: Counters::new(&link),
        listener,
        config,
        link,
        shared,
    };
    loop {
        driver.advance();
        if driver.is_over() {
            return;
        }
        let timer = driver.link.sleep_until(driver.wake_at());
        let idle = driver.under_way.is_empty();
        tokio::select! {
            biased;
            // Answers first: a heartbeat's is worth more than a command.
            Some(event) = driver.under_way.next(), if !idle => driver.on_event(event),
            command = commands.recv() => match command {
                Some(command) => driver.on_command(command),
                // The consumer and its handles are gone without a close: the coordinator will notice.
                None => return,
            },
            () = changes.changed() => driver.on_metadata(),
            () = timer => {}
        }
    }
}

impl Driver {
    /// Does everything that can be done now.
    fn advance(&mut self) {
        let now = self.link.now();
        self.look_at_poll_clock(now);
        self.look_at_coordinator(now);
        self.hold_generation();
        self.auto_commit(now);
        while let Some(action) = self.membership.poll(now) {
            self.act(action);
        }
        self.advance_revocation(now);
        self.advance_closing(now);
        self.hold_generation();
        while let Some(action) = self.membership.poll(now) {
            self.act(action);
        }
        self.send_commit(now);
        self.answer_waiters(now);
    }

    fn is_over(&self) -> bool {
        self.closing.as_ref().is_some_and(|closing| closing.reply.is_none())
    }

    fn wake_at(&self) -> Instant {
        let revocation = self.revocation.as_ref().map(|revocation| revocation.deadline);
        let closing = self.closing.as_ref().map(|closing| closing.deadline);
        let commits = self.membership.may_commit().then(|| self.commits.wake_at()).flatten();
        let waiter = self.waiting.iter().map(|waiter| waiter.deadline).min();
        [self.membership.wake_at(), commits, self.auto_commit_at, revocation, closing, waiter, Some(self.clock.look_at)]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.clock.look_at)
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Commit { offsets, reply } => {
                let ticket = match offsets {
                    None => self.want_frontiers(),
                    Some(offsets) => {
                        let held = self.shared.partitions().assignment();
                        // A partition can be lost and given back before the listener knows: what the user commits until then was
                        // read in the earlier life, and another member may have gone farther meanwhile.
                        let is_stale = |tp: &TopicPartition| self.lost_untold.iter().flatten().any(|lost| lost == tp);
                        if let Some(tp) = offsets.keys().find(|tp| !held.contains(tp) || is_stale(tp)) {
                            let text =
                                "the partition is not this member's (any more): another one may have committed for it.";
                            let error = Error::new(ErrorKind::NotAssigned, text).with_topic_partition(tp.clone());
                            let _ = reply.send(Err(error));
                            return;
                        }
                        for (tp, offset) in &offsets {
                            self.shared.ack_up_to(tp, offset.offset);
                        }
                        self.commits.want(offsets)
                    }
                };
                self.waiting.push(Waiter { ticket, deadline: self.link.now() + COMMIT_TIMEOUT, reply });
            }
            Command::Identity { reply } => {
                let _ = reply.send(self.identity());
            }
            Command::Hold { reply } => self.to_hold.push(reply),
            Command::Release => self.holds -= 1,
            Command::Close { deadline, reply } => self.begin_closing(deadline, reply),
        }
    }

    /// Who this member is to a coordinator that takes offsets in a transaction. Nobody, while it is not in the group or its listener
    /// has not heard of a loss: the coordinator does not check a commit without a generation, and the next generation's would cover
    /// what was read in an earlier life.
    fn identity(&self) -> Result<GroupMetadata, Error> {
        let (member_id, generation) = self.membership.identity();
        if generation < 0 || !self.lost_untold.is_empty() {
            let text = "this member is not in the group now: what it has read may be another member's. Read it again from the committed offsets.";
            return Err(Error::new(ErrorKind::NotAssigned, text));
        }
        let (group, instance_id) = (self.config.group.clone(), self.config.instance_id.clone());
        Ok(GroupMetadata { group, member_id, generation, instance_id })
    }

    /// Answers those who want to hold the generation: at once, or when the join that is under way is over.
    fn hold_generation(&mut self) {
        let is_settled = self.membership.is_settled();
        self.shared.rebalancing.store(!is_settled, Ordering::Relaxed);
        for reply in std::mem::take(&mut self.to_hold) {
            let _ = match self.identity() {
                Err(error) => reply.send(Err(error)),
                Ok(group) if is_settled => {
                    self.holds += 1;
                    // A hold that nobody takes is dropped, and so released.
                    reply.send(Ok(GenerationHold { group, driver: self.shared.group.clone() }))
                }
                Ok(_) => {
                    self.to_hold.push(reply);
                    continue;
                }
            };
        }
        self.membership.set_held(self.holds > 0);
    }

    // ---- membership ----

    fn act(&mut self, action: Action) {
        match action {
            Action::Join { attempt, member_id, generation, owned, reason } => {
                self.join(attempt, member_id, generation, owned, reason);
            }
            Action::Assign { attempt, assignor: _, members } => {
                let (link, assignor) = (self.link.clone(), self.config.assignor.clone());
                self.under_way.push(Box::pin(async move {
                    let (assignments, led) = assign(link, assignor, members).await;
                    Event::Assigned(attempt, assignments, led)
                }));
            }
            Action::Sync { attempt, member_id, generation, assignor, assignments } => {
                self.sync(attempt, member_id, generation, &assignor, assignments);
            }
            Action::Heartbeat { attempt, member_id, generation } => self.heartbeat(attempt, &member_id, generation),
            Action::Leave { member_id } => self.send_leave(&member_id),
            Action::ForgetCoordinator => {
                self.link.forget_coordinator(CoordinatorKind::Group, &self.config.group);
            }
            Action::Revoke { attempt, partitions } => self.begin_revocation(attempt, partitions),
            Action::Lose { partitions } => self.lose(partitions),
            Action::Adopt { added, assignment, generation } => self.adopt(added, &assignment, generation),
            Action::Fail(code) => {
                let error = Error::from_code(ApiKey::JOIN_GROUP, code);
                self.shared.change(|partitions| partitions.close(Some(error)));
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        let now = self.link.now();
        match event {
            Event::Joined(attempt, answer) => {
                if answer.is_err() {
                    self.counters.failed_rebalances.add(1);
                }
                self.membership.on_joined(attempt, now, &mut self.rng, answer);
            }
            Event::Assigned(attempt, assignments, led) => {
                self.led = assignments.is_some().then_some(led);
                self.membership.on_assigned(attempt, now, &mut self.rng, assignments);
            }
            Event::Synced(attempt, answer) => self.membership.on_synced(attempt, now, &mut self.rng, answer),
            Event::Heartbeat(attempt, sent, answer) => {
                self.counters.heartbeat_time.saw(now, (now - sent).as_millis() as i64);
                self.membership.on_heartbeat(attempt, now, &mut self.rng, answer);
            }
            Event::Committed(generation, sent, answer) => {
                self.counters.commit_time.saw(now, (now - sent).as_millis() as i64);
                match &answer {
                    Answer::Codes(_) => self.commit_trouble.end(),
                    Answer::Failed(error) if error.is_retriable() => {
                        self.commit_trouble.begin(&self.config.group, error)
                    }
                    // Whoever waits for the commit hears it.
                    Answer::Failed(_) => {}
                }
                let meaning = self.commits.on_answer(now, &mut self.rng, answer);
                if meaning.forget_coordinator {
                    // A join under way is not left for it: replicas of the offsets that are slow say nothing about the group. If the
                    // next commit finds another coordinator, `look_at_coordinator` leaves it; if this one is silent, a heartbeat does.
                    self.link.forget_coordinator(CoordinatorKind::Group, &self.config.group);
                }
                if let Some(code) = meaning.membership {
                    self.membership.on_commit_refused(generation, now, &mut self.rng, code);
                }
            }
            Event::Drained(attempt) => {
                if self.revocation.as_ref().is_some_and(|r| r.attempt == attempt && matches!(r.step, Step::Draining)) {
                    self.commit_before_revoke();
                }
            }
            Event::Revoked(attempt) => {
                if let Some(revocation) = self.revocation.as_ref().filter(|revocation| revocation.attempt == attempt) {
                    // Only what has moved: the listener may have committed something else on purpose.
                    let mut moved = self.shared.frontiers(Some(&revocation.partitions));
                    moved.retain(|frontier| !revocation.told.contains(frontier));
                    let ticket = self.want(moved);
                    self.set_step(Step::CommittingAgain(ticket));
                }
            }
            // Of an earlier life: the partitions may be back, and their own call is still to come.
            Event::Prepared(life, _) if life != self.life => {}
            Event::Prepared(_, partitions) => self.shared.change(|table| {
                table.begin(&partitions);
                None
            }),
            Event::Left => {
                if let Some(closing) = &mut self.closing {
                    closing.has_left = true;
                }
            }
            Event::ToldLost => drop(self.lost_untold.pop_front()),
        }
    }

    fn target(&self) -> Target {
        Target::Coordinator(CoordinatorKind::Group, self.config.group.clone())
    }

    fn group_id(&self) -> GroupId {
        GroupId(str_bytes(&self.config.group))
    }

    fn instance_id(&self) -> Option<StrBytes> {
        self.config.instance_id.as_deref().map(str_bytes)
    }

    fn join(
        &mut self,
        attempt: u64,
        member_id: Arc<str>,
        generation: i32,
        owned: Vec<TopicPartition>,
        reason: &'static str,
    ) {
        tracing::info!(group = %self.config.group, generation, reason, "joining");
        self.counters.joins.add(1);
        let mut subscription = Subscription {
            topics: self.config.topics.iter().cloned().collect(),
            owned,
            generation,
            ..Subscription::default()
        };
        subscription.user_data = self.config.assignor.user_data(&subscription);
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(str_bytes(self.config.assignor.name()))
            .with_metadata(subscription.encode());
        let millis = |time: Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        let base = JoinGroupRequest::default()
            .with_group_id(self.group_id())
            .with_session_timeout_ms(millis(self.config.session_timeout))
            .with_member_id(str_bytes(&member_id))
            .with_protocol_type(StrBytes::from_static_str(PROTOCOL_TYPE))
            .with_protocols(vec![protocol]);
        let (instance_id, rebalance) = (self.instance_id(), millis(self.config.max_poll_interval));
        let request = move |version: i16| {
            let mut request = base;
            if version >= 1 {
                request = request.with_rebalance_timeout_ms(rebalance);
            }
            if version >= 5 {
                request = request.with_group_instance_id(instance_id);
            }
            if version >= 8 {
                request = request.with_reason(Some(StrBytes::from_static_str(reason)));
            }
            request
        };
        let timeout = self.config.max_poll_interval + Duration::from_secs(5);
        let answer = self.ask_at_length(timeout, request);
        let (trouble, group) = (self.trouble.clone(), self.config.group.clone());
        self.under_way.push(Box::pin(async move {
            let answer = trouble.look_at(&group, answer.await);
            Event::Joined(attempt, answer.and_then(read_join))
        }));
    }

    fn sync(
        &mut self,
        attempt: u64,
        member_id: Arc<str>,
        generation: i32,
        assignor: &str,
        assignments: Vec<(Arc<str>, Bytes)>,
    ) {
        self.counters.syncs.add(1);
        let assignment = |(member, bytes): (Arc<str>, Bytes)| {
            SyncGroupRequestAssignment::default().with_member_id(str_bytes(&member)).with_assignment(bytes)
        };
        let base = SyncGroupRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id(generation)
            .with_member_id(str_bytes(&member_id))
            .with_assignments(assignments.into_iter().map(assignment).collect());
        let (instance_id, name) = (self.instance_id(), str_bytes(assignor));
        let request = move |version: i16| {
            let mut request = base;
            if version >= 3 {
                request = request.with_group_instance_id(instance_id);
            }
            if version >= 5 {
                request = request
                    .with_protocol_type(Some(StrBytes::from_static_str(PROTOCOL_TYPE)))
                    .with_protocol_name(Some(name));
            }
            request
        };
        // The answer waits for the leader, who may wait for the slowest member.
        let timeout = self.config.max_poll_interval + Duration::from_secs(5);
        let answer = self.ask_at_length(timeout, request);
        let (trouble, group) = (self.trouble.clone(), self.config.group.clone());
        self.under_way.push(Box::pin(async move {
            let answer = match trouble.look_at(&group, answer.await) {
                Err(failure) => Err(failure),
                Ok(response) => match ErrorCode(response.error_code) {
                    ErrorCode::NONE => Assignment::decode(&response.assignment).map_err(|error| {
                        tracing::error!(%error, "the leader's assignment cannot be read");
                        Failure::NoAnswer
                    }),
                    code => Err(code.into()),
                },
            };
            Event::Synced(attempt, answer)
        }));
    }

    fn ask_at_length<R: Request>(
        &mut self,
        timeout: Duration,
        request: impl FnOnce(i16) -> R + Send + 'static,
    ) -> impl Future<Output = Result<R::Response, Error>> + Send + 'static {
        self.asked = Asked::nobody();
        ask_at_length(self.link.clone(), self.config.group.clone(), timeout, self.asked.clone(), request)
    }

    /// A join or a sync waits for a broker that is no coordinator any more, as somebody has found out.
    fn look_at_coordinator(&mut self, now: Instant) {
        let coordinator = self.link.known_coordinator(CoordinatorKind::Group, &self.config.group);
        if coordinator.is_some_and(|coordinator| self.asked.is_other_than(coordinator)) {
            self.asked = Asked::nobody();
            self.membership.on_coordinator_lost(now, &mut self.rng);
        }
    }

    fn heartbeat(&mut self, attempt: u64, member_id: &str, generation: i32) {
        self.counters.heartbeats.add(1);
        let base = HeartbeatRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id(generation)
            .with_member_id(str_bytes(member_id));
        let instance_id = self.instance_id().filter(|_| generation >= 0);
        let request = move |version: i16| if version >= 3 { base.with_group_instance_id(instance_id) } else { base };
        let (link, target, sent) = (self.link.clone(), self.target(), self.link.now());
        let timeout = self.link.request_timeout().min(self.config.session_timeout);
        let (trouble, group) = (self.trouble.clone(), self.config.group.clone());
        self.under_way.push(Box::pin(async move {
            let answer = link.send_versioned(target, Lane::Heartbeat, timeout, request).await;
            let answer = match trouble.look_at(&group, answer) {
                Err(failure) => Err(failure),
                Ok(response) => match ErrorCode(response.error_code) {
                    ErrorCode::NONE => Ok(()),
                    code => Err(code.into()),
                },
            };
            Event::Heartbeat(attempt, sent, answer)
        }));
    }

    fn send_leave(&mut self, member_id: &str) {
        let (group_id, member, instance_id) = (self.group_id(), str_bytes(member_id), self.instance_id());
        let reason = StrBytes::from_static_str("the consumer is being closed, or its user does not poll");
        let request = move |version: i16| {
            let request = LeaveGroupRequest::default().with_group_id(group_id);
            if version < 3 {
                return request.with_member_id(member);
            }
            let identity = MemberIdentity::default().with_member_id(member).with_group_instance_id(instance_id);
            let identity = if version >= 5 { identity.with_reason(Some(reason)) } else { identity };
            request.with_members(vec![identity])
        };
        let (link, target, timeout) = (self.link.clone(), self.target(), self.link.request_timeout());
        self.under_way.push(Box::pin(async move {
            if let Err(error) = link.send_versioned(target, Lane::Heartbeat, timeout, request).await {
                tracing::debug!(%error, "the coordinator was not told; it will notice");
            }
            Event::Left
        }));
    }

    /// The leader joins again when a topic that somebody wants has grown, appeared or gone.
    fn on_metadata(&mut self) {
        let Some(led) = &self.led else { return };
        if sizes(&self.link, &led.topics) != led.sizes {
            let now = self.link.now();
            self.membership.rejoin(now, "the topics' partitions have changed");
        }
    }

    // ---- the poll clock ----

    /// Restarts whenever the user polls, receives or acknowledges; runs only while it has records that it has not acknowledged.
    fn look_at_poll_clock(&mut self, now: Instant) {
        let seen = (self.shared.polls.load(Ordering::Relaxed), self.shared.acks.load(Ordering::Relaxed));
        if seen != self.clock.seen {
            self.clock.seen = seen;
            self.clock.restarted = now;
            self.membership.on_activity(now);
        }
        if now < self.clock.look_at {
            return;
        }
        let interval = self.config.max_poll_interval;
        self.clock.look_at = now + (interval / 8).min(Duration::from_secs(1)).max(Duration::from_millis(10));
        let idle = {
            let partitions = self.shared.partitions();
            partitions.is_reader_waiting() || !partitions.has_open_runs()
        };
        if idle {
            self.clock.restarted = now;
        } else if now - self.clock.restarted >= interval {
            tracing::warn!(
                group = %self.config.group,
                "nothing was polled or acknowledged for max_poll_interval: the member leaves, so that others can do its work"
            );
            self.membership.on_poll_timeout();
            self.clock.restarted = now;
        }
    }

    // ---- the end ----

    fn begin_closing(&mut self, deadline: Instant, reply: oneshot::Sender<Result<(), Error>>) {
        let partitions = self.shared.partitions().assignment();
        // What is acknowledged is committed; what is not, is not waited for. The last commit must be asked for before the release.
        let now = self.link.now();
        self.shared.change(|table| table.begin_revoke(&partitions));
        let step = Step::Draining;
        self.revocation = Some(Revocation { attempt: u64::MAX, partitions, deadline, told: Vec::new(), step });
        self.commit_before_revoke();
        self.closing =
            Some(Closing { deadline: deadline.max(now), reply: Some(reply), is_leaving: false, has_left: false });
    }

    fn advance_closing(&mut self, now: Instant) {
        let Some(closing) = &mut self.closing else { return };
        let too_late = now >= closing.deadline;
        if self.revocation.is_some() && !too_late {
            return;
        }
        if !closing.is_leaving {
            closing.is_leaving = true;
            self.revocation = None;
            let tells_coordinator = !self.membership.identity().0.is_empty() && self.config.instance_id.is_none();
            closing.has_left = !tells_coordinator;
            self.membership.leave();
        }
        if !closing.has_left && !too_late {
            return;
        }
        let lost = !self.commits.is_idle();
        if let Some(reply) = closing.reply.take() {
            let result = if lost {
                Err(Error::new(
                    ErrorKind::Timeout,
                    "the last acknowledged offsets could not be committed before the deadline: their records will be read again.",
                ))
            } else {
                Ok(())
            };
            let _ = reply.send(result);
        }
    }
}

impl Counters {
    fn new(link: &Link) -> Self {
        let id = link.client_id().clone();
        let tags = [("client-id", &*id)];
        let counter = |name| link.metrics().counter(metrics::COORDINATOR, name, &tags);
        let gauge = |name| link.metrics().gauge(metrics::COORDINATOR, name, &tags);
        Self {
            heartbeats: counter("heartbeat-total"),
            joins: counter("join-total"),
            syncs: counter("sync-total"),
            commits: counter("commit-total"),
            rebalances: counter("rebalance-total"),
            failed_rebalances: counter("failed-rebalance-total"),
            assigned: gauge("assigned-partitions"),
            heartbeat_time: RecentMax::new(gauge("heartbeat-response-time-max")),
            commit_time: RecentMax::new(gauge("commit-latency-max")),
        }
    }
}
