//! CreateTopics: any broker takes it, as brokers forward it to the controller.
//!
//! - Checks: the name, that the topic does not exist (also in another spelling of `.` and `_`), partitions, replication factor,
//!   manual assignments, configurations. The topic is usable when the answer comes.
//! - More than 10,000 partitions in one request are `POLICY_VIOLATION` for each of its topics.
//! - −1 partitions or replication factor mean the broker's default (v4).
//! - v5 answers with the configurations and counts, v7 with the topic id.

use std::collections::{BTreeMap, BTreeSet};

use milena_protocol::messages::create_topics_request::CreatableTopic;
use milena_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use milena_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse};
use milena_protocol::{ErrorCode, StrBytes};

use super::{Api, Call, Names, Served, Touched, listed, whole};
use crate::configs;
use crate::state::State;

pub(crate) struct CreateTopics;

/// A code with the sentence that goes with it.
pub(crate) type Refused = (ErrorCode, String);

impl Api for CreateTopics {
    type Request = CreateTopicsRequest;

    fn digest(_: &dyn Names, _: &Call, request: &CreateTopicsRequest) -> String {
        let one = |topic: &CreatableTopic| format!("{}:{}", topic.name.as_str(), topic.num_partitions);
        listed(",", request.topics.iter().map(one))
    }

    fn partitions(_: &dyn Names, _: &Call, request: &CreateTopicsRequest) -> Vec<Touched> {
        whole(request.topics.iter().map(|topic| topic.name.as_str()))
    }

    fn serve(state: &mut State, call: &Call, request: CreateTopicsRequest) -> Served<CreateTopicsResponse> {
        let mut seen = BTreeSet::new();
        let mut twice = BTreeSet::new();
        for topic in &request.topics {
            if !seen.insert(topic.name.clone()) {
                twice.insert(topic.name.clone());
            }
        }
        let mut results = Vec::new();
        let too_many = wanted_partitions(state, &request) > MOST_PARTITIONS;
        let mut told = BTreeSet::new();
        for topic in request.topics.iter().filter(|topic| told.insert(topic.name.clone())) {
            let created = if too_many {
                Err((ErrorCode::POLICY_VIOLATION, "Excessively large number of partitions per request.".to_owned()))
            } else if twice.contains(&topic.name) {
                Err((ErrorCode::INVALID_REQUEST, "Duplicate topic name.".to_owned()))
            } else {
                create(state, call, topic, request.validate_only)
            };
            results.push(match created {
                Ok(result) => result.with_name(topic.name.clone()),
                Err((code, message)) => CreatableTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_error_code(code.0)
                    .with_error_message(Some(StrBytes::from_string(message))),
            });
        }
        Served::Now(CreateTopicsResponse::default().with_topics(results))
    }
}

/// Partitions that one request may make.
pub(crate) const MOST_PARTITIONS: i64 = 10_000;

fn wanted_partitions(state: &State, request: &CreateTopicsRequest) -> i64 {
    let of = |topic: &CreatableTopic| match (topic.assignments.len(), topic.num_partitions) {
        (0, -1) => i64::from(state.settings.default_partitions),
        (0, partitions) => i64::from(partitions.max(0)),
        (assigned, _) => assigned as i64,
    };
    request.topics.iter().map(of).sum()
}

fn create(
    state: &mut State,
    call: &Call,
    topic: &CreatableTopic,
    validate_only: bool,
) -> Result<CreatableTopicResult, Refused> {
    let name = topic.name.as_str();
    call.injected(name, -1).map_err(|code| (code, "injected by a fault".to_owned()))?;
    check_name(name).map_err(|message| (ErrorCode::INVALID_TOPIC_EXCEPTION, message))?;
    if state.topics.contains_key(name) {
        return Err((ErrorCode::TOPIC_ALREADY_EXISTS, format!("Topic '{name}' already exists.")));
    }
    // Their metric names would be the same.
    if let Some(other) = state.topics.keys().find(|other| other.replace('.', "_") == name.replace('.', "_")) {
        return Err((
            ErrorCode::INVALID_TOPIC_EXCEPTION,
            format!("Topic '{name}' collides with existing topic: {other}"),
        ));
    }
    let replicas = replicas(state, topic)?;
    let (mut configs, mut as_asked) = (BTreeMap::new(), BTreeMap::new());
    for config in &topic.configs {
        let invalid = |message: String| (ErrorCode::INVALID_CONFIG, message);
        let value = config
            .value
            .as_ref()
            .ok_or_else(|| invalid(format!("Null value not supported for {}", config.name.as_str())))?;
        as_asked.insert(config.name.to_string(), value.to_string());
        configs.insert(config.name.to_string(), configs::check(&config.name, value).map_err(invalid)?);
    }
    let mut result = CreatableTopicResult::default().with_error_message(None);
    if call.version >= 5 {
        result.num_partitions = replicas.len() as i32;
        result.replication_factor = replicas.first().map_or(-1, |r| r.len() as i16);
        result.configs = Some(describe_configs(&as_asked));
    }
    // Kafka tells an id even if it only validates.
    let id = if validate_only { state.new_topic_id() } else { state.create_topic(name, replicas, configs) };
    if call.version >= 7 {
        result.topic_id = id;
    }
    Ok(result)
}

/// Which brokers keep which partition.
fn replicas(state: &State, topic: &CreatableTopic) -> Result<Vec<Vec<i32>>, Refused> {
    if !topic.assignments.is_empty() {
        let manual: BTreeMap<i32, Vec<i32>> = topic
            .assignments
            .iter()
            .map(|a| (a.partition_index, a.broker_ids.iter().map(|id| id.0).collect()))
            .collect();
        let invalid = |message: &str| (ErrorCode::INVALID_REPLICA_ASSIGNMENT, message.to_owned());
        if topic.num_partitions != -1 || topic.replication_factor != -1 {
            let message =
                "A manual partition assignment was specified, but numPartitions or replicationFactor was not -1.";
            return Err((ErrorCode::INVALID_REQUEST, message.to_owned()));
        }
        if manual.len() != topic.assignments.len() {
            let mut seen = BTreeSet::new();
            let twice = topic.assignments.iter().map(|a| a.partition_index).find(|index| !seen.insert(*index));
            let twice = twice.unwrap_or_default(); // there is one
            return Err(invalid(&format!("Found multiple manual partition assignments for partition {twice}")));
        }
        if !manual.keys().copied().eq(0..manual.len() as i32) {
            return Err(invalid("partitions should be a consecutive 0-based integer sequence"));
        }
        let manual: Vec<Vec<i32>> = manual.into_values().collect();
        let factor = manual.first().map_or(0, Vec::len);
        for (index, ids) in manual.iter().enumerate() {
            check_assignment(state, index as i32, ids, factor)?;
        }
        return Ok(manual);
    }
    let partitions = if topic.num_partitions == -1 { state.settings.default_partitions } else { topic.num_partitions };
    if partitions <= 0 {
        return Err((
            ErrorCode::INVALID_PARTITIONS,
            "Number of partitions was set to an invalid non-positive value.".to_owned(),
        ));
    }
    let brokers = state.brokers.len();
    let factor = match topic.replication_factor {
        -1 => brokers.min(3),
        factor => usize::try_from(factor).unwrap_or(0),
    };
    if factor == 0 {
        return Err((
            ErrorCode::INVALID_REPLICATION_FACTOR,
            "Replication factor must be larger than 0, or -1 to use the default value.".to_owned(),
        ));
    }
    if factor > brokers {
        return Err((
            ErrorCode::INVALID_REPLICATION_FACTOR,
            format!(
                "Unable to replicate the partition {factor} time(s): The target replication factor of {factor} cannot be reached because only {brokers} broker(s) are registered."
            ),
        ));
    }
    Ok(state.place(0, partitions, factor))
}

/// What one partition may be given by hand: some brokers that exist, one of which is alive, each once, and as many as the partitions
/// before it have.
pub(crate) fn check_assignment(state: &State, index: i32, ids: &[i32], factor: usize) -> Result<(), Refused> {
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    let message = if ids.is_empty() {
        "The manual partition assignment includes an empty replica list.".to_owned()
    } else if let Some(id) = sorted.iter().find(|id| !state.brokers.contains_key(id)) {
        format!("The manual partition assignment includes broker {id}, but no such broker is registered.")
    } else if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        format!("The manual partition assignment includes the broker {} more than once.", twice[0])
    } else if ids.len() != factor {
        format!(
            "The manual partition assignment includes a partition with {} replica(s), but this is not consistent with previous partitions, which have {factor} replica(s).",
            ids.len()
        )
    } else if !ids.iter().any(|id| state.is_alive(*id)) {
        format!(
            "All brokers specified in the manual partition assignment for partition {index} are fenced or in controlled shutdown."
        )
    } else {
        return Ok(());
    };
    Err((ErrorCode::INVALID_REPLICA_ASSIGNMENT, message))
}

fn describe_configs(configured: &BTreeMap<String, String>) -> Vec<CreatableTopicConfigs> {
    let one = |(name, default, _): &(&'static str, &'static str, configs::ConfigType)| {
        let value = configured.get(*name);
        CreatableTopicConfigs::default()
            .with_name(StrBytes::from_static_str(name))
            .with_value(Some(StrBytes::from_string(value.cloned().unwrap_or_else(|| (*default).to_owned()))))
            .with_config_source(if value.is_some() { 1 } else { 5 })
    };
    configs::TOPIC_CONFIGS.iter().map(one).collect()
}

/// Kafka's rule for topic names.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("Topic name is invalid: the empty string is not allowed".to_owned());
    }
    if name == "." || name == ".." {
        return Err(format!("Topic name is invalid: '{name}' is not allowed"));
    }
    if name.len() > 249 {
        return Err(format!("Topic name is invalid: the length of '{name}' is longer than the max allowed length 249"));
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')) {
        return Err(format!(
            "Topic name is invalid: '{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
        ));
    }
    Ok(())
}
