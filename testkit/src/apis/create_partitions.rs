//! CreatePartitions: a topic grows; it never shrinks. New partitions start empty, in leader epoch 0. More than 10,000 in one request are
//! `UNKNOWN_SERVER_ERROR`. A topic that is named twice does not grow at all.

use std::collections::BTreeSet;

use milena_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use milena_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use milena_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};
use milena_protocol::{ErrorCode, StrBytes};

use super::create_topics::{MOST_PARTITIONS, Refused, check_assignment};
use super::{Api, Call, Names, Served, Touched, listed, whole};
use crate::state::State;

pub(crate) struct CreatePartitions;

impl Api for CreatePartitions {
    type Request = CreatePartitionsRequest;

    fn digest(_: &dyn Names, _: &Call, request: &CreatePartitionsRequest) -> String {
        let one = |topic: &CreatePartitionsTopic| format!("{}:{}", topic.name.as_str(), topic.count);
        listed(",", request.topics.iter().map(one))
    }

    fn partitions(_: &dyn Names, _: &Call, request: &CreatePartitionsRequest) -> Vec<Touched> {
        whole(request.topics.iter().map(|topic| topic.name.as_str()))
    }

    fn serve(state: &mut State, call: &Call, request: CreatePartitionsRequest) -> Served<CreatePartitionsResponse> {
        let mut results = Vec::new();
        let grows = |topic: &CreatePartitionsTopic| {
            let have = state.topics.get(topic.name.as_str()).map_or(0, |topic| topic.partitions.len() as i64);
            (i64::from(topic.count) - have).max(0)
        };
        let too_many = request.topics.iter().map(grows).sum::<i64>() > MOST_PARTITIONS;
        let (mut seen, mut twice) = (BTreeSet::new(), BTreeSet::new());
        for topic in &request.topics {
            if !seen.insert(&topic.name) && twice.insert(&topic.name) {
                let message = StrBytes::from_static_str("Duplicate topic name.");
                results.push(
                    CreatePartitionsTopicResult::default()
                        .with_name(topic.name.clone())
                        .with_error_code(ErrorCode::INVALID_REQUEST.0)
                        .with_error_message(Some(message)),
                );
            }
        }
        for topic in request.topics.iter().filter(|topic| !twice.contains(&topic.name)) {
            let mut result = CreatePartitionsTopicResult::default().with_name(topic.name.clone());
            let grown = if too_many {
                let message = "The server experienced an unexpected error when processing the request.";
                Err((ErrorCode::UNKNOWN_SERVER_ERROR, message.to_owned()))
            } else {
                grow(state, call, topic, request.validate_only)
            };
            if let Err((code, message)) = grown {
                result.error_code = code.0;
                result.error_message = Some(StrBytes::from_string(message));
            }
            results.push(result);
        }
        Served::Now(CreatePartitionsResponse::default().with_results(results))
    }
}

fn grow(state: &mut State, call: &Call, asked: &CreatePartitionsTopic, validate_only: bool) -> Result<(), Refused> {
    let name = asked.name.as_str();
    call.injected(name, -1).map_err(|code| (code, "injected by a fault".to_owned()))?;
    let Some(topic) = state.topics.get(name) else {
        return Err((
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            "This server does not host this topic-partition.".to_owned(),
        ));
    };
    let have = topic.partitions.len() as i32;
    if asked.count <= have {
        return Err((
            ErrorCode::INVALID_PARTITIONS,
            format!("The topic {name} currently has {have} partition(s); {} would not be an increase.", asked.count),
        ));
    }
    let factor = topic.partitions.first().map_or(1, |partition| partition.replicas.len());
    let replicas = match &asked.assignments {
        None => state.place(have, asked.count, factor),
        Some(manual) => {
            let manual: Vec<Vec<i32>> = manual.iter().map(|a| a.broker_ids.iter().map(|id| id.0).collect()).collect();
            let added = asked.count - have;
            if manual.len() != added as usize {
                let message = format!(
                    "Attempted to add {added} additional partition(s), but only {} assignment(s) were specified.",
                    manual.len()
                );
                return Err((ErrorCode::INVALID_REPLICA_ASSIGNMENT, message));
            }
            for (index, ids) in (have..).zip(&manual) {
                check_assignment(state, index, ids, factor)?;
            }
            manual
        }
    };
    if !validate_only {
        let added = state.new_partitions(replicas);
        if let Some(topic) = state.topics.get_mut(name) {
            topic.partitions.extend(added);
        }
    }
    Ok(())
}
