//! What AlterConfigs and IncrementalAlterConfigs change: a topic, one broker, or all brokers.

use std::collections::BTreeMap;

use milena_protocol::ErrorCode;
use tokio::time::Instant;

use super::create_topics::{self, Refused};
use crate::configs::{self, ConfigType, brokers};
use crate::state::State;

/// Resource types.
pub(super) const TOPIC: i8 = 2;
pub(super) const BROKER: i8 = 4;

/// The value that a request gives a configuration.
pub(super) fn given<'a>(name: &str, value: Option<&'a str>) -> Result<&'a str, Refused> {
    value.ok_or_else(|| (ErrorCode::INVALID_REQUEST, format!("Null value not supported for : {name}")))
}

/// What has configurations.
pub(super) enum Resource {
    Topic(String),
    /// One broker, or all.
    Brokers(Option<i32>),
}

impl Resource {
    /// The resource that a request names, if it is there.
    pub(super) fn find(state: &State, kind: i8, name: &str) -> Result<Self, Refused> {
        let invalid = |message: String| (ErrorCode::INVALID_REQUEST, message);
        match kind {
            TOPIC if name.is_empty() => Err(invalid("Default topic resources are not allowed.".to_owned())),
            TOPIC => {
                create_topics::check_name(name).map_err(|e| (ErrorCode::INVALID_TOPIC_EXCEPTION, e))?;
                let there = state.topics.contains_key(name).then(|| Self::Topic(name.to_owned()));
                there.ok_or_else(|| (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("There is no topic {name}.")))
            }
            BROKER if name.is_empty() => Ok(Self::Brokers(None)),
            BROKER => {
                let broker = name.parse().ok().filter(|id| state.brokers.contains_key(id));
                broker.map(|id| Self::Brokers(Some(id))).ok_or_else(|| invalid(format!("There is no broker {name}.")))
            }
            _ => Err(invalid(format!("Resources of type {kind} have no configurations in the test kit."))),
        }
    }

    /// What is set now.
    pub(super) fn current(&self, state: &State) -> BTreeMap<String, String> {
        match self {
            Self::Topic(name) => state.topics.get(name).map(|topic| topic.configs.clone()).unwrap_or_default(),
            Self::Brokers(broker) => state.broker_configs.set_for(*broker),
        }
    }

    /// The value that a configuration has when it is set to this, if it may be.
    pub(super) fn check(&self, name: &str, value: &str) -> Result<String, Refused> {
        match self {
            Self::Topic(_) => configs::check(name, value).map_err(|message| (ErrorCode::INVALID_CONFIG, message)),
            Self::Brokers(_) => {
                let invalid = |message: String| (ErrorCode::INVALID_REQUEST, message);
                let Some(config) = brokers::find(name) else { return Ok(value.to_owned()) }; // a plugin may know it
                if config.read_only {
                    return Err(invalid(format!("Cannot update these configs dynamically: Set({name})")));
                }
                configs::check_value(name, config.kind, value).map_err(invalid)
            }
        }
    }

    pub(super) fn is_list(&self, name: &str) -> bool {
        match self {
            Self::Topic(_) => configs::type_of(name) == Some(ConfigType::List),
            Self::Brokers(_) => brokers::find(name).is_some_and(|config| config.kind == ConfigType::List),
        }
    }

    /// What a list has where nothing is set.
    pub(super) fn default_of(&self, name: &str) -> Option<&'static str> {
        match self {
            Self::Topic(_) => configs::default_of(name),
            Self::Brokers(_) => brokers::find(name)?.default,
        }
    }

    /// Sets everything anew. What waits for it goes on.
    pub(super) fn store(self, state: &mut State, configs: BTreeMap<String, String>, now: Instant) {
        match self {
            Self::Topic(name) => {
                if let Some(topic) = state.topics.get_mut(&name) {
                    topic.configs = configs;
                }
            }
            Self::Brokers(broker) => {
                state.broker_configs.store(broker, configs);
                let inherited = state.broker_configs.inherited();
                state.topics.values_mut().for_each(|topic| topic.inherited = inherited.clone());
            }
        }
        // min.insync.replicas and unclean.leader.election.enable may be others.
        state.on_brokers_changed(now);
    }
}
