//! OffsetFetch: committed offsets of a group, or of several (v8). Partitions without one have offset −1 and no error.
//!
//! v2 can ask for all (no list of topics) and has a code for the whole group, v5 gives leader epochs, v7 can ask for stable offsets
//! only: a partition with an offset in a transaction that has not ended is `UNSTABLE_OFFSET_COMMIT`. Otherwise one gets what was
//! committed before it.

use milena_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use milena_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse, TopicName};
use milena_protocol::{ErrorCode, StrBytes};

use super::{Api, Call, Names, Served, Touched, listed, touches};
use crate::groups::Committed;
use crate::state::State;

pub(crate) struct OffsetFetch;

/// One group and what is asked of it: topics with partitions, or everything.
struct Asked {
    group: StrBytes,
    topics: Option<Vec<(TopicName, Vec<i32>)>>,
}

fn asked(call: &Call, request: &OffsetFetchRequest) -> Vec<Asked> {
    if call.version < 8 {
        let one = request
            .topics
            .as_ref()
            .map(|topics| topics.iter().map(|topic| (topic.name.clone(), topic.partition_indexes.clone())).collect());
        return vec![Asked { group: request.group_id.0.clone(), topics: one }];
    }
    let groups = request.groups.iter().map(|group| Asked {
        group: group.group_id.0.clone(),
        topics: group
            .topics
            .as_ref()
            .map(|topics| topics.iter().map(|topic| (topic.name.clone(), topic.partition_indexes.clone())).collect()),
    });
    groups.collect()
}

impl Api for OffsetFetch {
    type Request = OffsetFetchRequest;

    fn digest(_: &dyn Names, call: &Call, request: &OffsetFetchRequest) -> String {
        listed(",", asked(call, request).iter().map(|asked| asked.group.as_str()))
    }

    fn partitions(_: &dyn Names, call: &Call, request: &OffsetFetchRequest) -> Vec<Touched> {
        let mut touched = Vec::new();
        for (topic, partitions) in asked(call, request).into_iter().flat_map(|asked| asked.topics.unwrap_or_default()) {
            touched.extend(touches(&topic, partitions));
        }
        touched
    }

    fn group(request: &OffsetFetchRequest) -> Option<String> {
        Some(request.groups.first().map_or(&request.group_id, |group| &group.group_id).to_string())
    }

    fn serve(state: &mut State, call: &Call, request: OffsetFetchRequest) -> Served<OffsetFetchResponse> {
        let mut response = OffsetFetchResponse::default();
        for asked in asked(call, &request) {
            let checked = state.check_group(call.broker, &asked.group).and(call.injected_at_the_top(|_| true));
            let code = checked.err().unwrap_or(ErrorCode::NONE);
            let found = if code.is_none() { look(state, call, &asked, request.require_stable) } else { Vec::new() };
            if call.version >= 8 {
                response.groups.push(group(asked.group, code, found));
            } else {
                one_group(call, &mut response, code, found, &asked);
            }
        }
        Served::Now(response)
    }
}

/// One partition's answer.
struct Found {
    partition: i32,
    committed: Result<Committed, ErrorCode>,
}

fn none() -> Committed {
    Committed { offset: -1, leader_epoch: -1, metadata: StrBytes::new() }
}

fn look(state: &State, call: &Call, asked: &Asked, require_stable: bool) -> Vec<(TopicName, Vec<Found>)> {
    let offsets = state.groups.get(asked.group.as_str()).map(|group| &group.offsets);
    let stable = |topic: &str, partition: i32| {
        let unstable = require_stable && offsets.is_some_and(|offsets| offsets.is_pending(topic, partition));
        if unstable { Err(ErrorCode::UNSTABLE_OFFSET_COMMIT) } else { Ok(()) }
    };
    let Some(topics) = &asked.topics else {
        let mut all: Vec<(TopicName, Vec<Found>)> = Vec::new();
        for ((topic, partition), committed) in offsets.into_iter().flat_map(|offsets| offsets.all()) {
            let committed = stable(topic, *partition).map(|()| committed.clone());
            let found = Found { partition: *partition, committed };
            match all.last_mut().filter(|(name, _)| name.as_str() == topic) {
                Some((_, partitions)) => partitions.push(found),
                None => all.push((TopicName(StrBytes::from_string(topic.clone())), vec![found])),
            }
        }
        return all;
    };
    let one = |topic: &TopicName, partition: i32| {
        call.injected(topic, partition)?;
        stable(topic, partition)?;
        Ok(offsets.and_then(|offsets| offsets.get(topic, partition)).cloned().unwrap_or_else(none))
    };
    let of_topic = |(topic, partitions): &(TopicName, Vec<i32>)| {
        let found = partitions.iter().map(|p| Found { partition: *p, committed: one(topic, *p) });
        (topic.clone(), found.collect())
    };
    topics.iter().map(of_topic).collect()
}

fn group(group: StrBytes, code: ErrorCode, found: Vec<(TopicName, Vec<Found>)>) -> OffsetFetchResponseGroup {
    let topics = found.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|found| {
            let code = found.committed.as_ref().err().copied().unwrap_or(ErrorCode::NONE);
            let committed = found.committed.unwrap_or_else(|_| none());
            OffsetFetchResponsePartitions::default()
                .with_partition_index(found.partition)
                .with_committed_offset(committed.offset)
                .with_committed_leader_epoch(committed.leader_epoch)
                .with_metadata(Some(committed.metadata))
                .with_error_code(code.0)
        });
        OffsetFetchResponseTopics::default().with_name(name).with_partitions(partitions.collect())
    });
    OffsetFetchResponseGroup::default()
        .with_group_id(group.into())
        .with_error_code(code.0)
        .with_topics(topics.collect())
}

/// Before v8 there is one group, and before v2 its error is told with each partition.
fn one_group(
    call: &Call,
    response: &mut OffsetFetchResponse,
    code: ErrorCode,
    found: Vec<(TopicName, Vec<Found>)>,
    asked: &Asked,
) {
    if call.version >= 2 {
        response.error_code = code.0;
    } else if code != ErrorCode::NONE {
        for (topic, partitions) in asked.topics.iter().flatten() {
            let failed = partitions.iter().map(|partition| answer(call, *partition, Err(code)));
            let topic = OffsetFetchResponseTopic::default().with_name(topic.clone()).with_partitions(failed.collect());
            response.topics.push(topic);
        }
    }
    for (topic, partitions) in found {
        let partitions = partitions.into_iter().map(|found| answer(call, found.partition, found.committed));
        let topic = OffsetFetchResponseTopic::default().with_name(topic).with_partitions(partitions.collect());
        response.topics.push(topic);
    }
}

fn answer(call: &Call, partition: i32, committed: Result<Committed, ErrorCode>) -> OffsetFetchResponsePartition {
    let code = committed.as_ref().err().copied().unwrap_or(ErrorCode::NONE);
    let committed = committed.unwrap_or_else(|_| none());
    OffsetFetchResponsePartition::default()
        .with_partition_index(partition)
        .with_committed_offset(committed.offset)
        .with_committed_leader_epoch(if call.version >= 5 { committed.leader_epoch } else { -1 })
        .with_metadata(Some(committed.metadata))
        .with_error_code(code.0)
}
