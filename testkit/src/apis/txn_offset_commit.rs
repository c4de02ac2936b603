//! TxnOffsetCommit: a transaction stores offsets of a group. They stay pending until its marker: a commit makes them visible, an abort
//! forgets them.
//!
//! - v5 (KIP-890) adds the group's partition of `__consumer_offsets` to the transaction, if it is not in it. Before, it must have been
//!   added by AddOffsetsToTxn: `TRANSACTION_ABORTABLE` in v4, `INVALID_TXN_STATE` before that. The first commit of a transaction to
//!   that partition is checked so, and before the group is looked at.
//! - v3 knows the member (KIP-447): `ILLEGAL_GENERATION`, `UNKNOWN_MEMBER_ID`, `FENCED_INSTANCE_ID`. Generation −1 without a member is
//!   not fenced, whatever state the group is in. Other than OffsetCommit it works between the join and the leader's sync, and is no
//!   heartbeat.
//! - An old epoch is `INVALID_PRODUCER_EPOCH`. Errors are per partition: `UNKNOWN_TOPIC_OR_PARTITION`, and
//!   `OFFSET_METADATA_TOO_LARGE` above 4,096 bytes.

use milena_protocol::ErrorCode;
use milena_protocol::messages::txn_offset_commit_request::TxnOffsetCommitRequestPartition;
use milena_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use milena_protocol::messages::{TxnOffsetCommitRequest, TxnOffsetCommitResponse};

use super::offset_commit::MAX_METADATA;
use super::{Api, Call, Names, Served, Touched, listed, touches};
use crate::groups::Committed;
use crate::state::{State, coordinator_partition};
use crate::transactions::{IdAndEpoch, OFFSETS_TOPIC};

pub(crate) struct TxnOffsetCommit;

impl Api for TxnOffsetCommit {
    type Request = TxnOffsetCommitRequest;

    fn digest(_: &dyn Names, _: &Call, request: &TxnOffsetCommitRequest) -> String {
        let mut text = format!(
            "{} {}/{} {} {:?} generation={}",
            request.transactional_id.as_str(),
            request.producer_id.0,
            request.producer_epoch,
            request.group_id.as_str(),
            request.member_id.as_str(),
            request.generation_id
        );
        let words = request.topics.iter().flat_map(|topic| {
            let partitions = topic.partitions.iter();
            partitions.map(|p| format!(" {}-{}@{}", topic.name.as_str(), p.partition_index, p.committed_offset))
        });
        text.push_str(&listed("", words));
        text
    }

    fn partitions(_: &dyn Names, _: &Call, request: &TxnOffsetCommitRequest) -> Vec<Touched> {
        let mut touched = Vec::new();
        for topic in &request.topics {
            touched.extend(touches(&topic.name, topic.partitions.iter().map(|p| p.partition_index)));
        }
        touched
    }

    fn group(request: &TxnOffsetCommitRequest) -> Option<String> {
        Some(request.group_id.to_string())
    }

    fn transactional_id(request: &TxnOffsetCommitRequest) -> Option<String> {
        Some(request.transactional_id.to_string())
    }

    fn serve(state: &mut State, call: &Call, request: TxnOffsetCommitRequest) -> Served<TxnOffsetCommitResponse> {
        let known: Vec<Vec<Result<(), ErrorCode>>> = request
            .topics
            .iter()
            .map(|topic| topic.partitions.iter().map(|p| exists(state, call, &topic.name, p)).collect())
            .collect();
        // Kafka asks the coordinator only if something is left to commit.
        let allowed = match known.iter().flatten().any(Result::is_ok) {
            true => check(state, call, &request),
            false => Ok(()),
        };
        let mut response = TxnOffsetCommitResponse::default();
        for (topic, known) in request.topics.iter().zip(known) {
            let mut answered = TxnOffsetCommitResponseTopic::default().with_name(topic.name.clone());
            for (partition, known) in topic.partitions.iter().zip(known) {
                let committed = known.and(allowed).and_then(|()| commit(state, call, &request, &topic.name, partition));
                answered.partitions.push(
                    TxnOffsetCommitResponsePartition::default()
                        .with_partition_index(partition.partition_index)
                        .with_error_code(committed.err().unwrap_or(ErrorCode::NONE).0),
                );
            }
            response.topics.push(answered);
        }
        Served::Now(response)
    }
}

fn exists(
    state: &State,
    call: &Call,
    topic: &str,
    partition: &TxnOffsetCommitRequestPartition,
) -> Result<(), ErrorCode> {
    call.injected(topic, partition.partition_index)?;
    let found = state.topics.get(topic).and_then(|topic| topic.partition(partition.partition_index));
    found.map(|_| ()).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
}

fn check(state: &mut State, call: &Call, request: &TxnOffsetCommitRequest) -> Result<(), ErrorCode> {
    let TxnOffsetCommitRequest { group_id, member_id, group_instance_id, generation_id, .. } = request;
    state.check_group(call.broker, group_id)?;
    admit(state, call, request)?;
    if !state.groups.contains_key(group_id.as_str()) {
        if *generation_id >= 0 {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        state.group(group_id);
    }
    let group = state.groups.get(group_id.as_str()).ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
    group.classic.check_transactional_commit(member_id, group_instance_id.as_ref(), *generation_id)
}

/// Whether the producer may write to the group's partition of `__consumer_offsets` in this transaction.
fn admit(state: &mut State, call: &Call, request: &TxnOffsetCommitRequest) -> Result<(), ErrorCode> {
    let partition = coordinator_partition(&request.group_id);
    let (id, epoch) = producer_of(request);
    if state.offset_producers.is_open(partition, id, epoch)? || !state.settings.verifies_transactions {
        return Ok(());
    }
    let place = (OFFSETS_TOPIC.to_owned(), partition);
    let adds = call.version >= 5;
    let admitted =
        state.admit_to_transaction(call.broker, &request.transactional_id, (id, epoch), place, adds, call.now);
    admitted.map_err(|code| match code {
        ErrorCode::TRANSACTION_ABORTABLE if call.version < 4 => ErrorCode::INVALID_TXN_STATE,
        ErrorCode::CONCURRENT_TRANSACTIONS if !adds => ErrorCode::COORDINATOR_NOT_AVAILABLE,
        code => code,
    })
}

fn producer_of(request: &TxnOffsetCommitRequest) -> IdAndEpoch {
    (request.producer_id.0, request.producer_epoch)
}

fn commit(
    state: &mut State,
    call: &Call,
    request: &TxnOffsetCommitRequest,
    topic: &str,
    partition: &TxnOffsetCommitRequestPartition,
) -> Result<(), ErrorCode> {
    let metadata = partition.committed_metadata.clone().unwrap_or_default();
    if metadata.len() > MAX_METADATA {
        return Err(ErrorCode::OFFSET_METADATA_TOO_LARGE);
    }
    let committed = Committed {
        offset: partition.committed_offset,
        leader_epoch: if call.version >= 2 { partition.committed_leader_epoch } else { -1 },
        metadata,
    };
    let (id, epoch) = producer_of(request);
    state.offset_producers.on_written(coordinator_partition(&request.group_id), id, epoch);
    let by_member = request.generation_id >= 0;
    let offsets = &mut state.group(&request.group_id).offsets;
    offsets.commit_in_transaction(id, by_member, topic, partition.partition_index, committed);
    Ok(())
}
