//! Metadata: brokers, topics, partitions, leaders and their epochs.
//!
//! - An empty list of topics asks for all in v0, for none later; null asks for all since v1.
//! - Unknown topics are `UNKNOWN_TOPIC_OR_PARTITION`, bad names `INVALID_TOPIC_EXCEPTION`, unknown ids `UNKNOWN_TOPIC_ID`.
//! - Auto-creation is off unless the cluster was built with it; then the first answer is still `UNKNOWN_TOPIC_OR_PARTITION`, as in
//!   KRaft, and the topic is there at the next request. v4 lets the client forbid it.
//! - Brokers that are down are not listed; a partition without a leader is `LEADER_NOT_AVAILABLE` with leader −1.
//! - v10 brings topic ids, v12 look-up by id, v13 an error for the whole answer: `REBOOTSTRAP_REQUIRED`, which Kafka's own brokers
//!   never give (a proxy in front of them may), and a fault that names no topic does.
//! - KRaft names some broker as the controller, any of which forwards: here the first that is up.

use milena_protocol::messages::metadata_request::MetadataRequestTopic;
use milena_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use milena_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse, TopicName};
use milena_protocol::{ErrorCode, StrBytes};

use super::{Api, Call, Names, Served, Touched, create_topics, listed, whole};
use crate::state::State;
use crate::topics::{Partition, Topic};

pub(crate) struct Metadata;

/// What Kafka writes where it does not compute authorised operations.
const NO_OPERATIONS: i32 = i32::MIN;

impl Api for Metadata {
    type Request = MetadataRequest;

    fn digest(_: &dyn Names, call: &Call, request: &MetadataRequest) -> String {
        match &request.topics {
            Some(topics) if call.version > 0 || !topics.is_empty() => {
                let name = |topic: &MetadataRequestTopic| match &topic.name {
                    Some(name) => name.to_string(),
                    None => topic.topic_id.to_string(),
                };
                listed(",", topics.iter().map(name))
            }
            _ => "all".to_owned(),
        }
    }

    fn partitions(_: &dyn Names, _: &Call, request: &MetadataRequest) -> Vec<Touched> {
        whole(request.topics.iter().flatten().filter_map(|topic| Some(topic.name.as_ref()?.as_str())))
    }

    fn tells_only(names: &dyn Names, call: &Call, request: &MetadataRequest) -> Option<&'static [ErrorCode]> {
        let has_topics = match &request.topics {
            Some(topics) if call.version > 0 || !topics.is_empty() => !topics.is_empty(),
            _ => names.has_topics(),
        };
        match call.version {
            _ if has_topics => None,
            ..13 => Some(&[]),
            _ => Some(&[ErrorCode::REBOOTSTRAP_REQUIRED]),
        }
    }

    fn serve(state: &mut State, call: &Call, request: MetadataRequest) -> Served<MetadataResponse> {
        let all = match &request.topics {
            None => true,
            Some(topics) => call.version == 0 && topics.is_empty(),
        };
        let mut topics = Vec::new();
        if all {
            topics.extend(state.topics.iter().map(|(name, topic)| match call.injected(name, -1) {
                Ok(()) => describe(state, call, name, topic),
                Err(code) => fail(call, name, topic, code),
            }));
        } else {
            for asked in request.topics.unwrap_or_default() {
                topics.push(one(state, call, &asked, request.allow_auto_topic_creation || call.version < 4));
            }
        }
        if call.version >= 13
            && let Err(code) = call.injected_at_the_top(|code| code == ErrorCode::REBOOTSTRAP_REQUIRED)
        {
            return Served::Now(MetadataResponse::default().with_error_code(code.0));
        }
        let mut response = MetadataResponse::default()
            .with_topics(topics)
            .with_brokers(brokers(state))
            .with_controller_id(BrokerId(state.controller().unwrap_or(-1)));
        if call.version >= 2 {
            response.cluster_id = Some(state.cluster_id.clone());
        }
        if (8..=10).contains(&call.version) {
            response.cluster_authorized_operations = NO_OPERATIONS;
        }
        Served::Now(response)
    }
}

fn brokers(state: &State) -> Vec<MetadataResponseBroker> {
    let up = state.brokers.iter().filter(|(id, broker)| broker.up && state.network.is_inside(**id));
    up.map(|(id, broker)| {
        MetadataResponseBroker::default()
            .with_node_id(BrokerId(*id))
            .with_host(StrBytes::from_string(broker.host.clone()))
            .with_port(i32::from(broker.port))
            .with_rack(broker.rack.clone().map(StrBytes::from_string))
    })
    .collect()
}

fn one(state: &mut State, call: &Call, asked: &MetadataRequestTopic, may_create: bool) -> MetadataResponseTopic {
    let fail = |code: ErrorCode| {
        MetadataResponseTopic::default()
            .with_error_code(code.0)
            .with_name(asked.name.clone())
            .with_topic_id(asked.topic_id)
            .with_topic_authorized_operations(NO_OPERATIONS)
    };
    let name = match &asked.name {
        Some(name) => name.to_string(),
        None => match state.topic_names.get(&asked.topic_id) {
            Some(name) => name.clone(),
            None => return fail(ErrorCode::UNKNOWN_TOPIC_ID),
        },
    };
    if let Err(code) = call.injected(&name, -1) {
        return fail(code);
    }
    if let Some(topic) = state.topics.get(&name) {
        return describe(state, call, &name, topic);
    }
    if create_topics::check_name(&name).is_err() {
        return fail(ErrorCode::INVALID_TOPIC_EXCEPTION);
    }
    if may_create && state.settings.auto_create_topics {
        let factor = state.brokers.len().min(3);
        let replicas = state.place(0, state.settings.default_partitions, factor);
        state.create_topic(&name, replicas, Default::default());
    }
    fail(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
}

/// A topic that is there, and that a fault wants to be refused.
fn fail(call: &Call, name: &str, topic: &Topic, code: ErrorCode) -> MetadataResponseTopic {
    let mut failed = MetadataResponseTopic::default()
        .with_error_code(code.0)
        .with_name(Some(TopicName(StrBytes::from_string(name.to_owned()))))
        .with_topic_authorized_operations(NO_OPERATIONS);
    if call.version >= 10 {
        failed.topic_id = topic.id;
    }
    failed
}

fn describe(state: &State, call: &Call, name: &str, topic: &Topic) -> MetadataResponseTopic {
    let partitions = topic.partitions.iter().enumerate();
    let mut described = MetadataResponseTopic::default()
        .with_name(Some(TopicName(StrBytes::from_string(name.to_owned()))))
        .with_is_internal(name.starts_with("__"))
        .with_partitions(partitions.map(|(index, p)| describe_partition(state, call, index as i32, p)).collect())
        .with_topic_authorized_operations(NO_OPERATIONS);
    if call.version >= 10 {
        described.topic_id = topic.id;
    }
    described
}

fn describe_partition(state: &State, call: &Call, index: i32, partition: &Partition) -> MetadataResponsePartition {
    let ids = |ids: &[i32]| ids.iter().map(|id| BrokerId(*id)).collect::<Vec<_>>();
    let is_up = |id: &i32| state.brokers.get(id).is_some_and(|broker| broker.up);
    let mut described = MetadataResponsePartition::default()
        .with_partition_index(index)
        .with_leader_id(BrokerId(partition.leader.unwrap_or(-1)))
        .with_replica_nodes(ids(&partition.replicas))
        .with_isr_nodes(ids(&partition.isr));
    if partition.leader.is_none() {
        described.error_code = ErrorCode::LEADER_NOT_AVAILABLE.0;
    }
    if call.version >= 5 {
        let offline: Vec<i32> = partition.replicas.iter().copied().filter(|id| !is_up(id)).collect();
        described.offline_replicas = ids(&offline);
    }
    if call.version >= 7 {
        described.leader_epoch = partition.leader_epoch;
    }
    described
}
