//! DeleteTopics: by name, from v6 on also by topic id. Logs, ids and the groups' committed offsets for the
//! topic are gone at once.

use milena_protocol::messages::delete_topics_request::DeleteTopicState;
use milena_protocol::messages::delete_topics_response::DeletableTopicResult;
use milena_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName};
use milena_protocol::{ErrorCode, StrBytes};
use tokio::time::Instant;

use super::{Api, Call, Names, Served, Touched, listed, whole};
use crate::state::State;

pub(crate) struct DeleteTopics;

fn asked(call: &Call, request: &DeleteTopicsRequest) -> Vec<DeleteTopicState> {
    if call.version >= 6 {
        return request.topics.clone();
    }
    request.topic_names.iter().map(|name| DeleteTopicState::default().with_name(Some(name.clone()))).collect()
}

impl Api for DeleteTopics {
    type Request = DeleteTopicsRequest;

    fn digest(_: &dyn Names, call: &Call, request: &DeleteTopicsRequest) -> String {
        let name = |topic: &DeleteTopicState| match &topic.name {
            Some(name) => name.to_string(),
            None => topic.topic_id.to_string(),
        };
        listed(",", asked(call, request).iter().map(name))
    }

    fn partitions(_: &dyn Names, call: &Call, request: &DeleteTopicsRequest) -> Vec<Touched> {
        whole(asked(call, request).iter().filter_map(|topic| Some(topic.name.as_ref()?.as_str())))
    }

    fn serve(state: &mut State, call: &Call, request: DeleteTopicsRequest) -> Served<DeleteTopicsResponse> {
        let mut results = Vec::new();
        for topic in asked(call, &request) {
            let deleted = delete(state, call, &topic);
            let mut result = DeletableTopicResult::default()
                .with_name(topic.name.clone().or_else(|| deleted.as_ref().ok().map(|name| TopicName(name.clone()))))
                .with_error_code(deleted.as_ref().err().map_or(0, |code| code.0));
            if call.version >= 6 {
                result.topic_id = topic.topic_id;
            }
            results.push(result);
        }
        Served::Now(DeleteTopicsResponse::default().with_responses(results))
    }
}

fn delete(state: &mut State, call: &Call, topic: &DeleteTopicState) -> Result<StrBytes, ErrorCode> {
    let name = match &topic.name {
        Some(name) => name.to_string(),
        None => state.topic_names.get(&topic.topic_id).cloned().ok_or(ErrorCode::UNKNOWN_TOPIC_ID)?,
    };
    call.injected(&name, -1)?;
    if !remove(state, &name, call.now) {
        return Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    }
    Ok(StrBytes::from_string(name))
}

/// Everything of a topic goes. False if there is none of this name.
pub(crate) fn remove(state: &mut State, name: &str, now: Instant) -> bool {
    let Some(removed) = state.topics.remove(name) else { return false };
    state.topic_names.remove(&removed.id);
    for group in state.groups.values_mut() {
        group.offsets.forget_topic(name);
    }
    for partition in 0..removed.partitions.len() as i32 {
        state.on_partition_changed(name, partition, now);
    }
    true
}
