//! Whether the topics keep what the producer's `acks = all` promises: a look at their replicas and their settings.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use milena_client::{Error, Lane, Link, Target, Topic};
use milena_protocol::messages::DescribeConfigsRequest;
use milena_protocol::messages::describe_configs_request::DescribeConfigsResource;
use milena_protocol::messages::describe_configs_response::DescribeConfigsResult;
use milena_protocol::{ApiKey, ErrorCode, StrBytes};
use tokio::time::Instant;

use crate::config::Acks;
use crate::shared::Shared;

/// Something about a topic by which acknowledged records can be lost; printed, a sentence that says how, and what to do.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Finding {
    /// The topic.
    pub topic: String,
    /// What it is.
    pub concern: Concern,
}

/// What a [`Finding`] is about.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Concern {
    /// The producer's `acks` are less than all: what the topic's replicas are is beside the point.
    AcksNotAll,
    /// A partition has one replica.
    ReplicationFactorOne,
    /// `min.insync.replicas` is 1 where there are more replicas.
    MinInsyncReplicasOne,
    /// `unclean.leader.election.enable` is true.
    UncleanLeaderElection,
    /// The topic's settings could not be looked at, for this reason: mostly the right to describe them is missing.
    NotLookedAt(Error),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topic = &self.topic;
        match &self.concern {
            Concern::AcksNotAll => write!(
                f,
                "{topic}: acks is less than all: an acknowledged record is lost with the leader that has not passed it on. Leave \
                 acks at its default."
            ),
            Concern::ReplicationFactorOne => write!(
                f,
                "{topic}: there is one replica: an acknowledged record is lost with its broker's disk, and while the broker is \
                 down nothing can be written. Add replicas (three are usual)."
            ),
            Concern::MinInsyncReplicasOne => write!(
                f,
                "{topic}: min.insync.replicas is 1: when the other replicas lag behind, acks = all is content with the leader \
                 alone, and an acknowledged record is lost with it. Set it to 2."
            ),
            Concern::UncleanLeaderElection => write!(
                f,
                "{topic}: unclean.leader.election.enable is true: a replica that lags behind may become leader, and acknowledged \
                 records that it does not have are lost. Set it to false."
            ),
            Concern::NotLookedAt(error) => write!(
                f,
                "{topic}: its settings could not be looked at ({error}), so nobody can say whether acknowledged records are safe. \
                 Give the producer's user the right DescribeConfigs on the topic."
            ),
        }
    }
}

impl Concern {
    fn name(&self) -> &'static str {
        match self {
            Self::AcksNotAll => "acks",
            Self::ReplicationFactorOne => "replication factor",
            Self::MinInsyncReplicasOne => "min.insync.replicas",
            Self::UncleanLeaderElection => "unclean.leader.election.enable",
            Self::NotLookedAt(_) => "not looked at",
        }
    }
}

/// What was warned of already: once is enough for each topic and concern.
#[derive(Debug, Default)]
pub(crate) struct Warned(Mutex<BTreeSet<(String, &'static str)>>);

impl Warned {
    /// Writes a warning, if it is the first of its kind. Returns whether it was.
    pub(crate) fn warn(&self, finding: &Finding) -> bool {
        // One insertion at a time: a panic elsewhere leaves the set whole.
        let mut warned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = warned.insert((finding.topic.clone(), finding.concern.name()));
        drop(warned);
        if is_first {
            tracing::warn!(topic = %finding.topic, "{finding}");
        }
        is_first
    }
}

/// Topics have a resource type in DescribeConfigs.
const TOPIC: i8 = 2;
const MIN_INSYNC: &str = "min.insync.replicas";
const UNCLEAN: &str = "unclean.leader.election.enable";

impl Shared {
    /// What of a topic can be seen without asking for more: warned of when the topic is first sent to.
    pub(crate) fn look_at(&self, topic: &Topic) -> Option<Finding> {
        let concern = replication(topic).filter(|_| self.config.acks == Acks::All)?;
        Some(Finding { topic: topic.name.to_string(), concern })
    }

    /// Looks at topics; warns of what it finds and returns it, in the order of the topics.
    pub(crate) async fn preflight(&self, topics: &[String], deadline: Instant) -> Result<Vec<Finding>, Error> {
        let mut findings = Vec::new();
        let mut found = |topic: &str, concern| {
            let finding = Finding { topic: topic.to_owned(), concern };
            self.warned.warn(&finding);
            findings.push(finding);
        };
        let mut known = Vec::new();
        for topic in topics {
            match self.link.topic(topic, deadline).await {
                Ok(topic) => known.push(topic),
                Err(error) if error.code() == Some(ErrorCode::TOPIC_AUTHORIZATION_FAILED) => {
                    found(topic, Concern::NotLookedAt(error));
                }
                Err(error) => return Err(error),
            }
        }
        if self.config.acks != Acks::All {
            known.iter().for_each(|topic| found(&topic.name, Concern::AcksNotAll));
            return Ok(findings);
        }
        if known.is_empty() {
            return Ok(findings);
        }
        let answers = describe(&self.link, known.iter().map(|topic| &*topic.name), deadline).await?;
        for topic in &known {
            let name = &*topic.name;
            let has_one = replication(topic);
            let is_replicated = has_one.is_none();
            has_one.into_iter().for_each(|concern| found(name, concern));
            let Some(answer) = answers.iter().find(|answer| answer.resource_name.as_str() == name) else {
                let text = "the broker's answer leaves the topic out: look at the broker's log.";
                let error = Error::new(milena_client::ErrorKind::Malformed, text).with_api(ApiKey::DESCRIBE_CONFIGS);
                found(name, Concern::NotLookedAt(error));
                continue;
            };
            if let Err(code) = ErrorCode(answer.error_code).ok() {
                let said = answer.error_message.as_ref().map(StrBytes::as_str);
                let error = Error::from_code_and_message(ApiKey::DESCRIBE_CONFIGS, code, said);
                found(name, Concern::NotLookedAt(error));
                continue;
            }
            if is_replicated && setting(answer, MIN_INSYNC) == Some("1") {
                found(name, Concern::MinInsyncReplicasOne);
            }
            if is_replicated && setting(answer, UNCLEAN) == Some("true") {
                found(name, Concern::UncleanLeaderElection);
            }
        }
        Ok(findings)
    }
}

fn replication(topic: &Topic) -> Option<Concern> {
    topic.partitions.iter().any(|partition| partition.replicas.len() == 1).then_some(Concern::ReplicationFactorOne)
}

fn setting<'a>(answer: &'a DescribeConfigsResult, name: &str) -> Option<&'a str> {
    let row = answer.configs.iter().find(|row| row.name.as_str() == name)?;
    row.value.as_ref().map(StrBytes::as_str)
}

async fn describe<'a>(
    link: &Link,
    topics: impl Iterator<Item = &'a str>,
    deadline: Instant,
) -> Result<Vec<DescribeConfigsResult>, Error> {
    let keys = [MIN_INSYNC, UNCLEAN].map(StrBytes::from_static_str);
    let resources = topics
        .map(|topic| {
            DescribeConfigsResource::default()
                .with_resource_type(TOPIC)
                .with_resource_name(StrBytes::from_string(topic.to_owned()))
                .with_configuration_keys(Some(keys.to_vec()))
        })
        .collect();
    let request = DescribeConfigsRequest::default().with_resources(resources);
    let make = move |_| request.clone();
    Ok(link.call(Target::Any, Lane::Rest, deadline, make, |_| ErrorCode::NONE).await?.results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_topic_and_concern_is_warned_of_once() {
        let warned = Warned::default();
        let finding = |topic: &str, concern| Finding { topic: topic.to_owned(), concern };
        assert!(warned.warn(&finding("a", Concern::ReplicationFactorOne)));
        assert!(!warned.warn(&finding("a", Concern::ReplicationFactorOne)));
        assert!(warned.warn(&finding("a", Concern::MinInsyncReplicasOne)));
        assert!(warned.warn(&finding("b", Concern::ReplicationFactorOne)));
    }
}
