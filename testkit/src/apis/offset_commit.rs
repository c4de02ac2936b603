//! OffsetCommit: a member, or somebody without a group, stores offsets.
//!
//! - The generation has to be the current one (`ILLEGAL_GENERATION`, `UNKNOWN_MEMBER_ID`); between the join and the leader's sync it is
//!   `REBALANCE_IN_PROGRESS`, while members are joining it still works. Generation −1 without a member id works for an empty group.
//! - A commit counts as a heartbeat. Errors are per partition: `UNKNOWN_TOPIC_OR_PARTITION`, and `OFFSET_METADATA_TOO_LARGE` above
//!   4,096 bytes.
//! - v6 stores the leader epoch, v7 knows static members.

use milena_protocol::ErrorCode;
use milena_protocol::messages::offset_commit_request::OffsetCommitRequestPartition;
use milena_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use milena_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};

use super::{Api, Call, Names, Served, Touched, listed, touches};
use crate::groups::Committed;
use crate::state::State;

pub(crate) struct OffsetCommit;

/// `offset.metadata.max.bytes`.
pub(super) const MAX_METADATA: usize = 4_096;

impl Api for OffsetCommit {
    type Request = OffsetCommitRequest;

    fn digest(_: &dyn Names, _: &Call, request: &OffsetCommitRequest) -> String {
        let mut text = format!(
            "{} {:?} generation={}",
            request.group_id.as_str(),
            request.member_id.as_str(),
            request.generation_id_or_member_epoch
        );
        let words = request.topics.iter().flat_map(|topic| {
            let partitions = topic.partitions.iter();
            partitions.map(|p| format!(" {}-{}@{}", topic.name.as_str(), p.partition_index, p.committed_offset))
        });
        text.push_str(&listed("", words));
        text
    }

    fn partitions(_: &dyn Names, _: &Call, request: &OffsetCommitRequest) -> Vec<Touched> {
        let mut touched = Vec::new();
        for topic in &request.topics {
            touched.extend(touches(&topic.name, topic.partitions.iter().map(|p| p.partition_index)));
        }
        touched
    }

    fn group(request: &OffsetCommitRequest) -> Option<String> {
        Some(request.group_id.to_string())
    }

    fn serve(state: &mut State, call: &Call, request: OffsetCommitRequest) -> Served<OffsetCommitResponse> {
        let allowed = check(state, call, &request);
        let mut response = OffsetCommitResponse::default();
        for topic in &request.topics {
            let mut answered = OffsetCommitResponseTopic::default().with_name(topic.name.clone());
            for partition in &topic.partitions {
                let committed = allowed.and_then(|()| commit(state, call, &request, &topic.name, partition));
                answered.partitions.push(
                    OffsetCommitResponsePartition::default()
                        .with_partition_index(partition.partition_index)
                        .with_error_code(committed.err().unwrap_or(ErrorCode::NONE).0),
                );
            }
            response.topics.push(answered);
        }
        Served::Now(response)
    }
}

fn check(state: &mut State, call: &Call, request: &OffsetCommitRequest) -> Result<(), ErrorCode> {
    state.check_group(call.broker, &request.group_id)?;
    let generation = request.generation_id_or_member_epoch;
    if !state.groups.contains_key(request.group_id.as_str()) {
        if generation >= 0 {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        state.group(&request.group_id);
    }
    let checked = state.with_group(&request.group_id, call.now, |group, _| {
        group.check_commit(&request.member_id, request.group_instance_id.as_ref(), generation, call.now)
    });
    checked.unwrap_or(Err(ErrorCode::UNKNOWN_MEMBER_ID))
}

fn commit(
    state: &mut State,
    call: &Call,
    request: &OffsetCommitRequest,
    topic: &str,
    partition: &OffsetCommitRequestPartition,
) -> Result<(), ErrorCode> {
    let index = partition.partition_index;
    call.injected(topic, index)?;
    if state.topics.get(topic).and_then(|topic| topic.partition(index)).is_none() {
        return Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    }
    let metadata = partition.committed_metadata.clone().unwrap_or_default();
    if metadata.len() > MAX_METADATA {
        return Err(ErrorCode::OFFSET_METADATA_TOO_LARGE);
    }
    let committed = Committed {
        offset: partition.committed_offset,
        leader_epoch: if call.version >= 6 { partition.committed_leader_epoch } else { -1 },
        metadata,
    };
    let offset = committed.offset;
    let before = state.group(&request.group_id).offsets.commit(topic, index, committed);
    let by_member = request.generation_id_or_member_epoch >= 0;
    if let Some(before) = before.filter(|_| by_member) {
        state.check_committed(
            &request.group_id,
            &request.member_id,
            topic,
            index,
            (before.offset, before.leader_epoch),
            offset,
        );
    }
    Ok(())
}
