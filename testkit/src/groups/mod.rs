//! Groups and their coordinators: the machine of a classic group is in `classic.rs`, committed offsets are in `offsets.rs`; this file
//! ties them to the cluster.

mod classic;
mod offsets;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use milena_protocol::{ErrorCode, StrBytes};
use tokio::time::Instant;

use crate::apis::Touched;
use crate::log::marker::Marker;
use crate::state::{State, Timer, coordinator_partition};
use classic::{Answer, Answers};
pub(crate) use classic::{ClassicGroup, Join, Member, Phase, failed_join, failed_sync};
pub(crate) use offsets::{Committed, OffsetProducers, Offsets};

/// One group: its members and its offsets.
pub(crate) struct Group {
    pub(crate) classic: ClassicGroup,
    pub(crate) offsets: Offsets,
    coordinator: Option<i32>,
    /// When the loop will look at this group.
    alarm: Option<Instant>,
}

/// What the cluster knows about a group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupInfo {
    /// `Empty`, `PreparingRebalance`, `CompletingRebalance` or `Stable`.
    pub state: String,
    /// The current generation.
    pub generation: i32,
    /// The broker that coordinates it, if one is up.
    pub coordinator: Option<i32>,
    /// The protocol (assignor) that the members have in common.
    pub protocol: Option<String>,
    /// The member that assigns.
    pub leader: Option<String>,
    /// The members by their ids.
    pub members: BTreeMap<String, GroupMember>,
    /// Committed offsets by topic and partition.
    pub offsets: BTreeMap<(String, i32), i64>,
    /// Offsets that were committed in a transaction which has not ended.
    pub pending_offsets: BTreeMap<(String, i32), i64>,
}

/// What the cluster knows about a member.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupMember {
    /// Its client id.
    pub client_id: String,
    /// Its `group.instance.id`, if it is a static member.
    pub instance_id: Option<String>,
    /// The partitions that it was assigned, in order; empty if the assignment is not of the protocol type `consumer`.
    pub partitions: Vec<(Arc<str>, i32)>,
    /// The assignment as it came from the leader.
    pub assignment: Bytes,
}

impl State {
    /// Whether a request about this group may be served here.
    pub(crate) fn check_group(&self, broker: i32, group: &str) -> Result<(), ErrorCode> {
        if group.is_empty() {
            return Err(ErrorCode::INVALID_GROUP_ID);
        }
        self.check_coordinator(broker, group)
    }

    /// The group, made if it is new.
    pub(crate) fn group(&mut self, name: &str) -> &mut Group {
        let coordinator = self.coordinator(name);
        let delay = self.settings.initial_rebalance_delay;
        self.groups.entry(name.to_owned()).or_insert_with(|| Group {
            classic: ClassicGroup::new(name, delay),
            offsets: Offsets::default(),
            coordinator,
            alarm: None,
        })
    }

    /// Does something with a group that exists, and then what follows from it: answers, log lines, the next alarm.
    pub(crate) fn with_group<T>(
        &mut self,
        name: &str,
        now: Instant,
        f: impl FnOnce(&mut ClassicGroup, &mut Answers) -> T,
    ) -> Option<T> {
        let group = self.groups.get_mut(name)?;
        let mut out = Answers::default();
        let result = f(&mut group.classic, &mut out);
        let next = group.classic.next_deadline().filter(|next| group.alarm.is_none_or(|alarm| *next < alarm));
        if let Some(next) = next {
            group.alarm = Some(next);
            self.at(next, Timer::Group(name.to_owned()));
        }
        for note in out.notes {
            self.note(now, note);
        }
        for violation in out.violations {
            self.violation(violation);
        }
        for answer in out.answers {
            match answer {
                Answer::Join(pending, response) => self.answer(&pending, &response, now),
                Answer::Sync(pending, response) => self.answer(&pending, &response, now),
            }
        }
        Some(result)
    }

    pub(crate) fn group_info(&self, name: &str) -> Option<GroupInfo> {
        let group = self.groups.get(name)?;
        let classic = &group.classic;
        let text = |s: &StrBytes| s.to_string();
        let members = classic.members.iter().map(|(id, member)| {
            let info = GroupMember {
                client_id: member.client_id.to_string(),
                instance_id: member.instance_id.as_ref().map(text),
                partitions: assigned_partitions(&member.assignment),
                assignment: member.assignment.clone(),
            };
            (id.to_string(), info)
        });
        Some(GroupInfo {
            state: classic.phase.name().to_owned(),
            generation: classic.generation,
            coordinator: self.coordinator(name),
            protocol: classic.protocol.as_ref().map(text),
            leader: classic.leader.as_ref().map(text),
            members: members.collect(),
            offsets: group.offsets.all().map(|(place, committed)| (place.clone(), committed.offset)).collect(),
            pending_offsets: group.offsets.all_pending(),
        })
    }
}

/// The alarm of a group rings.
pub(crate) fn on_time(state: &mut State, name: &str, now: Instant) {
    if let Some(group) = state.groups.get_mut(name) {
        group.alarm = group.alarm.filter(|alarm| *alarm > now);
    }
    state.with_group(name, now, |group, out| group.on_time(now, out));
}

/// A broker died, or a coordinator was moved: groups learn that they have another one.
pub(crate) fn on_coordinators_changed(state: &mut State, now: Instant) {
    for name in state.groups.keys().cloned().collect::<Vec<_>>() {
        let coordinator = state.coordinator(&name);
        let changed = state
            .groups
            .get_mut(&name)
            .is_some_and(|group| std::mem::replace(&mut group.coordinator, coordinator) != coordinator);
        if changed {
            state.with_group(&name, now, |group, out| group.on_coordinator_changed(now, out));
        }
    }
}

/// A transaction marker for a partition of `__consumer_offsets`: offsets of all groups that belong there become visible or go.
pub(crate) fn on_marker(state: &mut State, partition: i32, marker: &Marker, now: Instant) {
    state.offset_producers.on_marker(partition, marker.producer_id, marker.producer_epoch);
    let mut moved = Vec::new();
    for (name, group) in &mut state.groups {
        if coordinator_partition(name) == partition {
            let of_group = group.offsets.on_marker(marker.producer_id, marker.commit);
            moved.extend(of_group.into_iter().map(|moved| (name.clone(), moved)));
        }
    }
    for (group, ((topic, index), before, offset)) in moved {
        let who = format!("the transaction of producer {}/{}", marker.producer_id, marker.producer_epoch);
        state.check_committed(&group, &who, &topic, index, before, offset);
    }
    let what = if marker.commit { "commit" } else { "abort" };
    let Marker { producer_id, producer_epoch, .. } = marker;
    state.note(now, format!("__consumer_offsets-{partition}: {what} marker of {producer_id}/{producer_epoch}"));
}

/// The partitions of a `ConsumerProtocolAssignment`, in order; what is readable of it.
pub(crate) fn assigned_partitions(assignment: &Bytes) -> Vec<Touched> {
    let mut partitions = Vec::new();
    // A walk that ends early has read what there is: the bytes come from another member.
    let _ = walk_assignment(assignment.clone(), &mut partitions);
    partitions.sort();
    partitions
}

fn walk_assignment(mut bytes: Bytes, partitions: &mut Vec<Touched>) -> Option<()> {
    let _version = bytes.try_get_i16().ok()?;
    for _ in 0..bytes.try_get_i32().ok()? {
        let len = usize::try_from(bytes.try_get_i16().ok()?).ok().filter(|len| *len <= bytes.len())?;
        // One copy for all its partitions, of which a message can name many with few bytes.
        let topic: Arc<str> = String::from_utf8_lossy(&bytes.split_to(len)).into();
        for _ in 0..bytes.try_get_i32().ok()? {
            partitions.push((Arc::clone(&topic), bytes.try_get_i32().ok()?));
        }
    }
    Some(())
}
