//! A classic consumer group: Kafka's `ClassicGroup` and the part of its coordinator that moves it.
//!
//! A pure machine: requests and the time go in, and what is to be answered comes out in `Answers`.
//!
//! ```text
//! Empty ──join──▶ PreparingRebalance ──all have joined, or the time is over──▶ CompletingRebalance ──the leader syncs──▶ Stable
//!   ▲                 ▲      │ nobody is left                                        │                                  │
//!   └─────────────────┼──────┘                       join, leave, session over      │        join, leave, session over │
//!                     └──────────────────────────────────────────────────────────────┴──────────────────────────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use milena_protocol::messages::join_group_response::JoinGroupResponseMember;
use milena_protocol::messages::{JoinGroupResponse, SyncGroupResponse};
use milena_protocol::{ErrorCode, StrBytes};
use tokio::time::Instant;

use crate::apis::{Pending, Touched};

/// How long a new member may wait in a join that does not complete before it counts as gone.
const NEW_MEMBER_JOIN_TIMEOUT: Duration = Duration::from_secs(300);

/// So many partitions with two owners are told of one generation: who assigns one wrongly may assign a million so.
const MOST_TOLD: usize = 10;

/// What a group tells those who waited.
pub(crate) enum Answer {
    Join(Pending<JoinGroupResponse>, JoinGroupResponse),
    Sync(Pending<SyncGroupResponse>, SyncGroupResponse),
}

/// Answers, and what was seen that must not happen.
#[derive(Default)]
pub(crate) struct Answers {
    pub(crate) answers: Vec<Answer>,
    pub(crate) violations: Vec<String>,
    /// What happened, for the log.
    pub(crate) notes: Vec<String>,
}

/// Kafka's `ClassicGroupState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Empty,
    /// Members have to join until the deadline. The first rebalance of an empty group waits the initial delay out even if all have
    /// joined; it is extended while members come.
    PreparingRebalance {
        deadline: Instant,
        initial: Option<Initial>,
    },
    /// Members have to sync until the deadline.
    CompletingRebalance {
        deadline: Instant,
    },
    Stable,
}

/// The first rebalance of an empty group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Initial {
    delay: Duration,
    remaining: Duration,
    new_member_came: bool,
}

impl Phase {
    /// As Kafka writes it in DescribeGroups.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance { .. } => "PreparingRebalance",
            Self::CompletingRebalance { .. } => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// One member.
pub(crate) struct Member {
    pub(crate) instance_id: Option<StrBytes>,
    pub(crate) client_id: StrBytes,
    session_timeout: Duration,
    rebalance_timeout: Duration,
    protocols: Vec<(StrBytes, Bytes)>,
    pub(crate) assignment: Bytes,
    joining: Option<Pending<JoinGroupResponse>>,
    syncing: Option<Pending<SyncGroupResponse>>,
    has_synced: bool,
    /// Has not been in a generation yet.
    is_new: bool,
    session_ends: Instant,
    /// Order of joining: the first becomes the leader.
    order: u64,
}

impl Member {
    /// What the member said about itself under a protocol.
    pub(crate) fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols
            .iter()
            .find(|(name, _)| name.as_str() == protocol)
            .map(|(_, data)| data.clone())
            .unwrap_or_default()
    }

    fn session_deadline(&self) -> Option<Instant> {
        // Who waits for the coordinator cannot be late; only a new member that waits for ever in a join is given up.
        match (&self.joining, &self.syncing) {
            (None, None) => Some(self.session_ends),
            (Some(_), _) if self.is_new => Some(self.session_ends),
            _ => None,
        }
    }
}

/// A JoinGroup request.
pub(crate) struct Join {
    pub(crate) member_id: StrBytes,
    /// The id to give to a member that has none.
    pub(crate) new_id: StrBytes,
    pub(crate) instance_id: Option<StrBytes>,
    pub(crate) client_id: StrBytes,
    pub(crate) session_timeout: Duration,
    pub(crate) rebalance_timeout: Duration,
    pub(crate) protocol_type: StrBytes,
    pub(crate) protocols: Vec<(StrBytes, Bytes)>,
    pub(crate) pending: Pending<JoinGroupResponse>,
}

/// One classic group.
pub(crate) struct ClassicGroup {
    pub(crate) name: String,
    pub(crate) phase: Phase,
    pub(crate) generation: i32,
    pub(crate) protocol_type: Option<StrBytes>,
    pub(crate) protocol: Option<StrBytes>,
    pub(crate) leader: Option<StrBytes>,
    pub(crate) members: BTreeMap<StrBytes, Member>,
    /// Ids that were given out with `MEMBER_ID_REQUIRED` and have not come back yet, until when.
    promised: BTreeMap<StrBytes, Instant>,
    initial_delay: Duration,
    joined: u64,
}

impl ClassicGroup {
    pub(crate) fn new(name: &str, initial_delay: Duration) -> Self {
        Self {
            name: name.to_owned(),
            phase: Phase::Empty,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            promised: BTreeMap::new(),
            initial_delay,
            joined: 0,
        }
    }

    // ---- joining -------------------------------------------------------------------------------------------------------------

    /// A member wants to join or to join again.
    pub(crate) fn on_join(&mut self, join: Join, now: Instant, out: &mut Answers) {
        if join.protocols.is_empty() || join.protocol_type.is_empty() || !self.fits(&join) {
            return refuse(join, ErrorCode::INCONSISTENT_GROUP_PROTOCOL, out);
        }
        if !join.member_id.is_empty() {
            return self.on_known_join(join, now, out);
        }
        if let Some(instance) = join.instance_id.clone() {
            return match self.static_member(&instance) {
                Some(old) => self.replace_static(&old, join, now, out),
                None => self.add(join.new_id.clone(), join, now, out),
            };
        }
        if join.pending.version >= 4 {
            // KIP-394: a member that never comes back with its id does not hold a rebalance up.
            self.promised.insert(join.new_id.clone(), now + join.session_timeout);
            return refuse(Join { member_id: join.new_id.clone(), ..join }, ErrorCode::MEMBER_ID_REQUIRED, out);
        }
        self.add(join.new_id.clone(), join, now, out);
    }

    fn on_known_join(&mut self, join: Join, now: Instant, out: &mut Answers) {
        let id = join.member_id.clone();
        if self.promised.remove(&id).is_some() {
            return self.add(id, join, now, out);
        }
        if let Err(code) = self.check_member(&id, join.instance_id.as_ref()) {
            return refuse(join, code, out);
        }
        let is_leader = self.leader.as_ref() == Some(&id);
        let unchanged = self.members.get(&id).is_some_and(|member| member.protocols == join.protocols);
        let repeats = match self.phase {
            // The answer to its join was lost.
            Phase::CompletingRebalance { .. } => unchanged,
            // A leader that joins again wants a rebalance: something it watches has changed.
            Phase::Stable => unchanged && !is_leader,
            _ => false,
        };
        if repeats {
            let response = self.join_response(&id, join.pending.version);
            self.touch(&id, now);
            return out.answers.push(Answer::Join(join.pending, response));
        }
        if let Some(member) = self.members.get_mut(&id) {
            if let Some(earlier) = member.joining.take() {
                // A retry on another connection: the earlier request is not answered twice with success.
                out.answers.push(failed(earlier, ErrorCode::UNKNOWN_MEMBER_ID, &id));
            }
            member.protocols = join.protocols;
            member.session_timeout = join.session_timeout;
            member.rebalance_timeout = join.rebalance_timeout;
            member.joining = Some(join.pending);
        }
        self.rebalance(now, "a member joined again", out);
    }

    fn add(&mut self, id: StrBytes, join: Join, now: Instant, out: &mut Answers) {
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type);
        }
        self.joined += 1;
        let member = Member {
            instance_id: join.instance_id,
            client_id: join.client_id,
            session_timeout: join.session_timeout,
            rebalance_timeout: join.rebalance_timeout,
            protocols: join.protocols,
            assignment: Bytes::new(),
            joining: Some(join.pending),
            syncing: None,
            has_synced: false,
            is_new: true,
            session_ends: now + NEW_MEMBER_JOIN_TIMEOUT,
            order: self.joined,
        };
        self.members.insert(id, member);
        if let Phase::PreparingRebalance { initial: Some(initial), .. } = &mut self.phase {
            initial.new_member_came = true;
        }
        self.rebalance(now, "a member joined", out);
    }

    /// A static member came back under a new member id (KIP-345): the old one is fenced; in a stable group nothing else happens.
    fn replace_static(&mut self, old: &StrBytes, join: Join, now: Instant, out: &mut Answers) {
        let Some(mut member) = self.members.remove(old) else { return };
        if let Some(pending) = member.joining.take() {
            out.answers.push(failed(pending, ErrorCode::FENCED_INSTANCE_ID, old));
        }
        if let Some(pending) = member.syncing.take() {
            out.answers.push(Answer::Sync(pending, failed_sync(ErrorCode::FENCED_INSTANCE_ID)));
        }
        let id = join.new_id.clone();
        let unchanged = member.protocols == join.protocols;
        member.protocols = join.protocols;
        member.session_timeout = join.session_timeout;
        member.rebalance_timeout = join.rebalance_timeout;
        member.session_ends = now + member.session_timeout;
        if self.leader.as_ref() == Some(old) {
            self.leader = Some(id.clone());
        }
        if self.phase == Phase::Stable && unchanged {
            self.members.insert(id.clone(), member);
            let version = join.pending.version;
            let mut response = self.join_response(&id, version);
            if self.leader.as_ref() == Some(&id) {
                // KIP-814: from v9 on the leader is told to keep the assignment; before, it must not think that it has to make one.
                if version >= 9 {
                    response.skip_assignment = true;
                } else {
                    response.leader = old.clone();
                    response.members.clear();
                }
            }
            return out.answers.push(Answer::Join(join.pending, response));
        }
        member.joining = Some(join.pending);
        self.members.insert(id, member);
        self.rebalance(now, "a static member joined again", out);
    }

    /// Whether the joiner's protocols go with those of the members.
    fn fits(&self, join: &Join) -> bool {
        let others: Vec<&Member> =
            self.members.iter().filter(|(id, _)| **id != join.member_id).map(|(_, member)| member).collect();
        if others.is_empty() {
            return true;
        }
        let common = |name: &StrBytes| others.iter().all(|member| member.protocols.iter().any(|(n, _)| n == name));
        self.protocol_type.as_ref() == Some(&join.protocol_type) && join.protocols.iter().any(|(name, _)| common(name))
    }

    /// Begins a rebalance, or lets a running one end if that was the last who was missing.
    fn rebalance(&mut self, now: Instant, reason: &str, out: &mut Answers) {
        match self.phase {
            Phase::PreparingRebalance { initial: None, .. } => return self.complete_join_if_all_are_there(now, out),
            Phase::PreparingRebalance { initial: Some(_), .. } => return,
            Phase::CompletingRebalance { .. } => {
                for member in self.members.values_mut() {
                    member.assignment = Bytes::new();
                    if let Some(pending) = member.syncing.take() {
                        out.answers.push(Answer::Sync(pending, failed_sync(ErrorCode::REBALANCE_IN_PROGRESS)));
                    }
                }
            }
            Phase::Empty | Phase::Stable => {}
        }
        out.notes.push(format!("group {} rebalances after generation {}: {reason}", self.name, self.generation));
        if self.phase == Phase::Empty {
            let delay = self.initial_delay;
            let remaining = self.rebalance_timeout().saturating_sub(delay);
            let initial = Initial { delay, remaining, new_member_came: false };
            self.phase = Phase::PreparingRebalance { deadline: now + delay, initial: Some(initial) };
            if delay.is_zero() {
                self.on_join_deadline(now, out);
            }
            return;
        }
        self.phase = Phase::PreparingRebalance { deadline: now + self.rebalance_timeout(), initial: None };
        self.complete_join_if_all_are_there(now, out);
    }

    fn rebalance_timeout(&self) -> Duration {
        self.members.values().map(|member| member.rebalance_timeout).max().unwrap_or_default()
    }

    fn complete_join_if_all_are_there(&mut self, now: Instant, out: &mut Answers) {
        if self.promised.is_empty() && self.members.values().all(|member| member.joining.is_some()) {
            self.complete_join(now, out);
        }
    }

    fn on_join_deadline(&mut self, now: Instant, out: &mut Answers) {
        let Phase::PreparingRebalance { initial, .. } = &mut self.phase else { return };
        if let Some(initial) = initial
            && initial.new_member_came
            && !initial.remaining.is_zero()
        {
            let delay = initial.delay.min(initial.remaining);
            let next = Initial { remaining: initial.remaining - delay, new_member_came: false, ..*initial };
            self.phase = Phase::PreparingRebalance { deadline: now + delay, initial: Some(next) };
            return;
        }
        self.complete_join(now, out);
    }

    /// The next generation begins with those who have joined.
    fn complete_join(&mut self, now: Instant, out: &mut Answers) {
        let late: Vec<StrBytes> = self
            .members
            .iter()
            .filter(|(_, member)| member.joining.is_none() && member.instance_id.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in late {
            out.notes.push(format!("group {} gives up {}: it has not joined again in time", self.name, id.as_str()));
            self.members.remove(&id);
        }
        if !self.members.is_empty() && !self.elect_leader() {
            // Only static members that are away: wait on.
            self.phase = Phase::PreparingRebalance { deadline: now + self.rebalance_timeout(), initial: None };
            return;
        }
        self.generation += 1;
        if self.members.is_empty() {
            self.phase = Phase::Empty;
            (self.protocol, self.leader) = (None, None);
            out.notes.push(format!("group {} is empty in generation {}", self.name, self.generation));
            return;
        }
        self.protocol = self.choose_protocol();
        self.phase = Phase::CompletingRebalance { deadline: now + self.rebalance_timeout() };
        out.notes.push(format!(
            "group {} generation {}: {} members, protocol {}",
            self.name,
            self.generation,
            self.members.len(),
            self.protocol.as_deref().unwrap_or_default()
        ));
        let ids: Vec<StrBytes> = self.members.keys().cloned().collect();
        for id in ids {
            if let Some(member) = self.members.get_mut(&id) {
                member.has_synced = false;
                member.is_new = false;
                member.session_ends = now + member.session_timeout;
                if let Some(pending) = member.joining.take() {
                    let response = self.join_response(&id, pending.version);
                    out.answers.push(Answer::Join(pending, response));
                }
            }
        }
    }

    /// Keeps the leader if it has joined again, else takes the one that has been there longest. False if nobody has joined.
    fn elect_leader(&mut self) -> bool {
        if self.leader.as_ref().is_some_and(|id| self.members.get(id).is_some_and(|m| m.joining.is_some())) {
            return true;
        }
        let joined = self.members.iter().filter(|(_, member)| member.joining.is_some());
        let Some((id, _)) = joined.min_by_key(|(_, member)| member.order) else { return false };
        self.leader = Some(id.clone());
        true
    }

    /// Of the protocols that all members know, the one that most members like best; of several, the first by name.
    fn choose_protocol(&self) -> Option<StrBytes> {
        let first = self.members.values().next()?;
        let knows = |member: &Member, name: &StrBytes| member.protocols.iter().any(|(n, _)| n == name);
        let common: BTreeSet<&StrBytes> =
            first.protocols.iter().map(|(n, _)| n).filter(|n| self.members.values().all(|m| knows(m, n))).collect();
        let mut votes: BTreeMap<&StrBytes, i32> = common.iter().map(|name| (*name, 0)).collect();
        for member in self.members.values() {
            if let Some((favourite, _)) = member.protocols.iter().find(|(name, _)| common.contains(name)) {
                *votes.entry(favourite).or_default() += 1;
            }
        }
        let most = votes.values().copied().max()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| name.clone())
    }

    /// What a member of the current generation is told; the leader learns who the members are.
    fn join_response(&self, id: &StrBytes, version: i16) -> JoinGroupResponse {
        let mut response = JoinGroupResponse::default()
            .with_generation_id(self.generation)
            .with_protocol_name(Some(self.protocol.clone().unwrap_or_default()))
            .with_leader(self.leader.clone().unwrap_or_default())
            .with_member_id(id.clone());
        if version >= 7 {
            response.protocol_type = self.protocol_type.clone();
        }
        if self.leader.as_ref() == Some(id) {
            let protocol = self.protocol.as_deref().unwrap_or_default();
            for (id, member) in &self.members {
                let mut listed = JoinGroupResponseMember::default()
                    .with_member_id(id.clone())
                    .with_metadata(member.metadata(protocol));
                if version >= 5 {
                    listed.group_instance_id = member.instance_id.clone();
                }
                response.members.push(listed);
            }
        }
        response
    }

    // ---- syncing -------------------------------------------------------------------------------------------------------------

    /// A member asks for its assignment, and the leader brings all of them.
    pub(crate) fn on_sync(
        &mut self,
        id: &StrBytes,
        assignments: Vec<(StrBytes, Bytes)>,
        pending: Pending<SyncGroupResponse>,
        now: Instant,
        out: &mut Answers,
    ) {
        match self.phase {
            Phase::Empty => out.answers.push(Answer::Sync(pending, failed_sync(ErrorCode::UNKNOWN_MEMBER_ID))),
            Phase::PreparingRebalance { .. } => {
                out.answers.push(Answer::Sync(pending, failed_sync(ErrorCode::REBALANCE_IN_PROGRESS)));
            }
            Phase::Stable => {
                let response = self.sync_response(id, pending.version);
                self.touch(id, now);
                out.answers.push(Answer::Sync(pending, response));
            }
            Phase::CompletingRebalance { .. } => {
                if let Some(member) = self.members.get_mut(id) {
                    member.has_synced = true;
                    member.syncing = Some(pending);
                }
                if self.leader.as_ref() == Some(id) {
                    self.on_assignments(assignments, now, out);
                }
            }
        }
    }

    fn on_assignments(&mut self, assignments: Vec<(StrBytes, Bytes)>, now: Instant, out: &mut Answers) {
        self.check_assignments(&assignments, out);
        // Who is not named gets nothing, whatever he had.
        self.members.values_mut().for_each(|member| member.assignment = Bytes::new());
        for (id, assignment) in assignments {
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = assignment;
            }
        }
        self.phase = Phase::Stable;
        out.notes.push(format!("group {} generation {} is stable", self.name, self.generation));
        let ids: Vec<StrBytes> = self.members.keys().cloned().collect();
        for id in ids {
            if let Some(pending) = self.members.get_mut(&id).and_then(|member| member.syncing.take()) {
                let response = self.sync_response(&id, pending.version);
                self.touch(&id, now);
                out.answers.push(Answer::Sync(pending, response));
            }
        }
    }

    /// No partition may have two owners in one generation.
    fn check_assignments(&self, assignments: &[(StrBytes, Bytes)], out: &mut Answers) {
        if self.protocol_type.as_deref() != Some("consumer") {
            return;
        }
        let (mut owners, mut twice): (BTreeMap<Touched, &StrBytes>, usize) = Default::default();
        for (member, bytes) in assignments {
            for partition in super::assigned_partitions(bytes) {
                let (topic, index) = &partition;
                if let Some(other) = owners.get(&partition).copied() {
                    twice += 1;
                    if twice > MOST_TOLD {
                        return;
                    }
                    out.violations.push(format!(
                        "group {}: {topic}-{index} is assigned to {} and to {} in generation {}",
                        self.name,
                        other.as_str(),
                        member.as_str(),
                        self.generation
                    ));
                }
                owners.insert(partition, member);
            }
        }
    }

    fn sync_response(&self, id: &StrBytes, version: i16) -> SyncGroupResponse {
        let assignment = self.members.get(id).map(|member| member.assignment.clone()).unwrap_or_default();
        let mut response = SyncGroupResponse::default().with_assignment(assignment);
        if version >= 5 {
            response.protocol_type = self.protocol_type.clone();
            response.protocol_name = self.protocol.clone();
        }
        response
    }

    // ---- living and leaving --------------------------------------------------------------------------------------------------

    /// A member is alive, and learns that it has to join again.
    pub(crate) fn on_heartbeat(&mut self, id: &StrBytes, now: Instant) -> Result<(), ErrorCode> {
        match self.phase {
            Phase::Empty => Err(ErrorCode::UNKNOWN_MEMBER_ID),
            Phase::CompletingRebalance { .. } | Phase::Stable => {
                self.touch(id, now);
                Ok(())
            }
            Phase::PreparingRebalance { .. } => {
                self.touch(id, now);
                Err(ErrorCode::REBALANCE_IN_PROGRESS)
            }
        }
    }

    /// A member leaves; a static one by its instance id, too.
    pub(crate) fn on_leave(
        &mut self,
        id: &StrBytes,
        instance: Option<&StrBytes>,
        now: Instant,
        out: &mut Answers,
    ) -> Result<(), ErrorCode> {
        if let Some(instance) = instance {
            let known = self.static_member(instance).ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
            if !id.is_empty() && known != *id {
                return Err(ErrorCode::FENCED_INSTANCE_ID);
            }
            self.remove(&known, now, "a static member left", out);
            return Ok(());
        }
        if self.promised.remove(id).is_some() {
            if let Phase::PreparingRebalance { initial: None, .. } = self.phase {
                self.complete_join_if_all_are_there(now, out);
            }
            return Ok(());
        }
        if !self.members.contains_key(id) {
            return Err(ErrorCode::UNKNOWN_MEMBER_ID);
        }
        self.remove(id, now, "a member left", out);
        Ok(())
    }

    fn remove(&mut self, id: &StrBytes, now: Instant, reason: &str, out: &mut Answers) {
        if let Some(member) = self.members.remove(id) {
            if let Some(pending) = member.joining {
                out.answers.push(failed(pending, ErrorCode::UNKNOWN_MEMBER_ID, id));
            }
            if let Some(pending) = member.syncing {
                out.answers.push(Answer::Sync(pending, failed_sync(ErrorCode::UNKNOWN_MEMBER_ID)));
            }
        }
        self.rebalance(now, reason, out);
    }

    /// What a commit has to satisfy.
    pub(crate) fn check_commit(
        &mut self,
        id: &StrBytes,
        instance: Option<&StrBytes>,
        generation: i32,
        now: Instant,
    ) -> Result<(), ErrorCode> {
        if generation < 0 && self.phase == Phase::Empty {
            return Ok(()); // somebody who uses Kafka only to store offsets, or an admin
        }
        if generation >= 0 || !id.is_empty() || instance.is_some() {
            self.check(id, instance, generation)?;
        } else if self.phase != Phase::Empty {
            return Err(ErrorCode::UNKNOWN_MEMBER_ID);
        }
        match self.phase {
            Phase::CompletingRebalance { .. } => Err(ErrorCode::REBALANCE_IN_PROGRESS),
            _ => {
                self.touch(id, now); // a commit is as good as a heartbeat
                Ok(())
            }
        }
    }

    /// What a commit in a transaction has to satisfy (KIP-447). Other than a plain one it works while a rebalance is completed, and
    /// nobody who names no member is fenced.
    pub(crate) fn check_transactional_commit(
        &self,
        id: &StrBytes,
        instance: Option<&StrBytes>,
        generation: i32,
    ) -> Result<(), ErrorCode> {
        if generation < 0 && (self.phase == Phase::Empty || (id.is_empty() && instance.is_none())) {
            return Ok(());
        }
        self.check(id, instance, generation)
    }

    /// Whether this member belongs to this generation.
    pub(crate) fn check(&self, id: &StrBytes, instance: Option<&StrBytes>, generation: i32) -> Result<(), ErrorCode> {
        self.check_member(id, instance)?;
        if generation == self.generation { Ok(()) } else { Err(ErrorCode::ILLEGAL_GENERATION) }
    }

    fn check_member(&self, id: &StrBytes, instance: Option<&StrBytes>) -> Result<(), ErrorCode> {
        if let Some(instance) = instance {
            return match self.static_member(instance) {
                None => Err(ErrorCode::UNKNOWN_MEMBER_ID),
                Some(known) if known != *id => Err(ErrorCode::FENCED_INSTANCE_ID),
                Some(_) => Ok(()),
            };
        }
        if self.members.contains_key(id) { Ok(()) } else { Err(ErrorCode::UNKNOWN_MEMBER_ID) }
    }

    fn static_member(&self, instance: &StrBytes) -> Option<StrBytes> {
        self.members.iter().find(|(_, member)| member.instance_id.as_ref() == Some(instance)).map(|(id, _)| id.clone())
    }

    fn touch(&mut self, id: &StrBytes, now: Instant) {
        if let Some(member) = self.members.get_mut(id) {
            member.session_ends = now + member.session_timeout;
        }
    }

    // ---- time ----------------------------------------------------------------------------------------------------------------

    /// When [`on_time`](Self::on_time) wants to be called.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::PreparingRebalance { deadline, .. } | Phase::CompletingRebalance { deadline } => Some(deadline),
            Phase::Empty | Phase::Stable => None,
        };
        let sessions = self.members.values().filter_map(Member::session_deadline);
        sessions.chain(self.promised.values().copied()).chain(phase).min()
    }

    /// Ends sessions, joins and syncs whose time is over.
    pub(crate) fn on_time(&mut self, now: Instant, out: &mut Answers) {
        let promises = self.promised.len();
        self.promised.retain(|_, until| *until > now);
        if self.promised.len() < promises
            && let Phase::PreparingRebalance { initial: None, .. } = self.phase
        {
            self.complete_join_if_all_are_there(now, out);
        }
        let over = |member: &Member| member.session_deadline().is_some_and(|deadline| deadline <= now);
        let gone: Vec<StrBytes> =
            self.members.iter().filter(|(_, member)| over(member)).map(|(id, _)| id.clone()).collect();
        for id in gone {
            out.notes.push(format!("group {}: the session of {} is over", self.name, id.as_str()));
            self.remove(&id, now, "a session is over", out);
        }
        match self.phase {
            Phase::PreparingRebalance { deadline, .. } if deadline <= now => self.on_join_deadline(now, out),
            Phase::CompletingRebalance { deadline } if deadline <= now => {
                let silent: Vec<StrBytes> =
                    self.members.iter().filter(|(_, member)| !member.has_synced).map(|(id, _)| id.clone()).collect();
                for id in &silent {
                    out.notes.push(format!("group {} gives up {}: it has not synced in time", self.name, id.as_str()));
                    self.members.remove(id);
                }
                self.rebalance(now, "a member has not synced", out);
            }
            _ => {}
        }
    }

    /// Another broker coordinates the group from now on: those who wait are told, the sessions begin anew, and a rebalance that was
    /// under way begins again.
    pub(crate) fn on_coordinator_changed(&mut self, now: Instant, out: &mut Answers) {
        self.promised.clear();
        for (id, member) in &mut self.members {
            member.session_ends = now + member.session_timeout;
            if let Some(pending) = member.joining.take() {
                out.answers.push(failed(pending, ErrorCode::NOT_COORDINATOR, id));
            }
            if let Some(pending) = member.syncing.take() {
                out.answers.push(Answer::Sync(pending, failed_sync(ErrorCode::NOT_COORDINATOR)));
            }
        }
        // Members that were never in a generation are not in the log that the new coordinator reads.
        self.members.retain(|_, member| !member.is_new);
        if matches!(self.phase, Phase::Stable | Phase::Empty) {
            return;
        }
        self.phase = if self.members.is_empty() {
            Phase::Empty
        } else {
            Phase::PreparingRebalance { deadline: now + self.rebalance_timeout(), initial: None }
        };
    }
}

fn refuse(join: Join, code: ErrorCode, out: &mut Answers) {
    out.answers.push(failed(join.pending, code, &join.member_id));
}

fn failed(pending: Pending<JoinGroupResponse>, code: ErrorCode, member_id: &StrBytes) -> Answer {
    let response = failed_join(pending.version, code, member_id);
    Answer::Join(pending, response)
}

/// A join that failed.
pub(crate) fn failed_join(version: i16, code: ErrorCode, member_id: &StrBytes) -> JoinGroupResponse {
    JoinGroupResponse::default()
        .with_error_code(code.0)
        .with_generation_id(-1)
        // Before v7 there is no null.
        .with_protocol_name(if version >= 7 { None } else { Some(StrBytes::new()) })
        .with_member_id(member_id.clone())
}

/// A sync that failed.
pub(crate) fn failed_sync(code: ErrorCode) -> SyncGroupResponse {
    SyncGroupResponse::default().with_error_code(code.0)
}
