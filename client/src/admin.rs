//! Administration: the few calls that producers, consumers and Streams need themselves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use milena_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use milena_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use milena_protocol::messages::delete_topics_request::DeleteTopicState;
use milena_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use milena_protocol::messages::{
    BrokerId, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest, ListOffsetsRequest, TopicName,
};
use milena_protocol::{ApiKey, ErrorCode, StrBytes};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::link::{Owner, Target};
use crate::metadata::snapshot::Topic;
use crate::{Error, ErrorKind, Lane, RefreshReason, TopicPartition};

/// A topic to create.
#[derive(Debug, Clone)]
pub struct NewTopic {
    name: String,
    partitions: i32,
    replication_factor: i16,
    configs: BTreeMap<String, String>,
}

impl NewTopic {
    /// A topic with that many partitions. The broker's default replication factor (`default.replication.factor`) is used.
    pub fn new(name: impl Into<String>, partitions: i32) -> Self {
        Self { name: name.into(), partitions, replication_factor: -1, configs: BTreeMap::new() }
    }

    /// How many brokers keep a copy. −1 (the default) takes the broker's setting.
    #[must_use]
    pub fn replication_factor(mut self, factor: i16) -> Self {
        self.replication_factor = factor;
        self
    }

    /// A topic setting, such as `cleanup.policy` = `compact`.
    #[must_use]
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.insert(name.into(), value.into());
        self
    }
}

/// Which offset of a partition is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The first offset that is still there.
    Earliest,
    /// The offset that the next record will get.
    Latest,
    /// The first record with this timestamp (milliseconds since 1970) or a later one.
    Timestamp(i64),
}

impl OffsetSpec {
    /// The number that stands for it on the wire.
    pub fn wire_timestamp(self) -> i64 {
        match self {
            Self::Earliest => -2,
            Self::Latest => -1,
            Self::Timestamp(timestamp) => timestamp.max(0),
        }
    }
}

/// Administration of a cluster (Java's `Admin`).
#[derive(Debug)]
pub struct Admin {
    owner: Owner,
    timeout: Duration,
}

impl Admin {
    pub(crate) fn new(owner: Owner) -> Self {
        Self { owner, timeout: Duration::from_secs(60) }
    }

    /// How long a call tries (`default.api.timeout.ms`). Default: 60 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    fn deadline(&self) -> Instant {
        self.owner.now() + self.timeout
    }

    /// Creates topics. The answer has one result for each, in their order; a topic that exists already is
    /// `TOPIC_ALREADY_EXISTS`.
    ///
    /// # Errors
    /// When no broker took the request in time.
    ///
    /// # Cancel safety
    /// Dropped, the topics may be created all the same.
    pub async fn create_topics(&self, topics: &[NewTopic]) -> Result<Vec<Result<(), Error>>, Error> {
        let deadline = self.deadline();
        let mut backoff = Backoff::RETRY;
        let mut rng = self.owner.rng("create-topics");
        let mut results: Vec<Option<Result<(), Error>>> = topics.iter().map(|_| None).collect();
        // A topic may be refused for a passing reason (no controller, not enough brokers up yet) while others are created.
        loop {
            let open: Vec<usize> = (0..topics.len()).filter(|index| results[*index].is_none()).collect();
            if open.is_empty() {
                break;
            }
            let request = create_request(open.iter().map(|index| &topics[*index]), self.timeout);
            let response = self
                .owner
                .call(Target::Controller, Lane::Slow, deadline, move |_| request.clone(), |_| ErrorCode::NONE)
                .await?;
            let last_try = self.owner.now() + Duration::from_secs(1) >= deadline;
            for index in open {
                let answered = response.topics.iter().find(|answered| answered.name.0.as_str() == topics[index].name);
                let result = match answered {
                    Some(answered) => ErrorCode(answered.error_code).ok().map_err(|code| {
                        let said = answered.error_message.as_ref().map(StrBytes::as_str);
                        Error::from_code_and_message(ApiKey::CREATE_TOPICS, code, said)
                            .with_topic_partition(TopicPartition::new(topics[index].name.as_str(), -1))
                    }),
                    None => Err(left_out(ApiKey::CREATE_TOPICS, "topic")),
                };
                match result {
                    Err(error) if error.is_retriable() && !last_try => {}
                    result => results[index] = Some(result),
                }
            }
            if results.iter().any(Option::is_none) {
                let wait = backoff.on_failure(&mut rng);
                self.owner.sleep_until(self.owner.now() + wait).await;
            }
        }
        self.owner.refresh_metadata(RefreshReason::Asked);
        Ok(results.into_iter().flatten().collect())
    }

    /// Creates the topics that are not there yet, and waits until the cluster's metadata has all of them.
    ///
    /// # Errors
    /// The first topic that could not be created, or did not show up in time.
    ///
    /// # Cancel safety
    /// Dropped, the topics may be created all the same.
    pub async fn ensure_topics(&self, topics: &[NewTopic]) -> Result<(), Error> {
        for result in self.create_topics(topics).await? {
            match result {
                Err(error) if error.code() == Some(ErrorCode::TOPIC_ALREADY_EXISTS) => {}
                result => result?,
            }
        }
        let deadline = self.deadline();
        for topic in topics {
            self.owner.topic(&topic.name, deadline).await?;
        }
        Ok(())
    }

    /// Deletes topics. The answer has one result for each, in their order.
    ///
    /// # Errors
    /// When no broker took the request in time.
    ///
    /// # Cancel safety
    /// Dropped, the topics may be deleted all the same.
    pub async fn delete_topics(&self, names: &[&str]) -> Result<Vec<Result<(), Error>>, Error> {
        let names: Vec<TopicName> = names.iter().map(|name| topic_name(name)).collect();
        let asked = names.clone();
        let timeout_ms = millis(self.timeout);
        let make = move |version: i16| {
            let request = DeleteTopicsRequest::default().with_timeout_ms(timeout_ms);
            if version >= 6 {
                let topics =
                    asked.iter().map(|name| DeleteTopicState::default().with_name(Some(name.clone()))).collect();
                request.with_topics(topics)
            } else {
                request.with_topic_names(asked.clone())
            }
        };
        let response =
            self.owner.call(Target::Controller, Lane::Slow, self.deadline(), make, |_| ErrorCode::NONE).await?;
        self.owner.refresh_metadata(RefreshReason::Asked);
        Ok(names
            .iter()
            .map(|name| match response.responses.iter().find(|answered| answered.name.as_ref() == Some(name)) {
                Some(answered) => {
                    ErrorCode(answered.error_code).ok().map_err(|code| Error::from_code(ApiKey::DELETE_TOPICS, code))
                }
                None => Err(left_out(ApiKey::DELETE_TOPICS, "topic")),
            })
            .collect())
    }

    /// What the cluster says of a topic now: it is asked, whatever the client knows already. Waits for one that has just been created.
    /// Java: `Admin.describeTopics`.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopicOrPartition`] if it is not there at the deadline.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn describe_topic(&self, name: &str) -> Result<Arc<Topic>, Error> {
        self.owner.fresh_topic(name, self.deadline()).await
    }

    /// Offsets of partitions, each asked of its leader. A time after the last record's has no offset: `None`.
    ///
    /// # Errors
    /// When a partition's leader could not be asked in time, or refused.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn list_offsets(
        &self,
        partitions: &[(TopicPartition, OffsetSpec)],
    ) -> Result<BTreeMap<TopicPartition, Option<i64>>, Error> {
        let deadline = self.deadline();
        let mut backoff = Backoff::RETRY;
        let mut rng = self.owner.rng("list-offsets");
        let mut found = BTreeMap::new();
        loop {
            let mut last = None;
            let open = partitions.iter().filter(|(partition, _)| !found.contains_key(partition));
            let by_leader = self.by_leader(open.map(|(partition, spec)| (partition, *spec)), deadline).await?;
            for (leader, asked) in by_leader {
                match self.list_offsets_of(leader, &asked, deadline).await {
                    Ok(answers) => {
                        for (partition, answer) in answers {
                            match answer {
                                Ok(offset) => drop(found.insert(partition, offset)),
                                Err(error) => last = Some(error),
                            }
                        }
                    }
                    Err(error) => last = Some(error),
                }
            }
            if found.len() >= partitions.len() {
                return Ok(found);
            }
            let error = last.unwrap_or_else(|| left_out(ApiKey::LIST_OFFSETS, "partition"));
            self.owner.refresh_metadata(RefreshReason::NoLeader);
            let again = self.owner.now() + backoff.on_failure(&mut rng);
            if !error.is_retriable() || again >= deadline {
                return Err(error);
            }
            self.owner.sleep_until(again).await;
        }
    }

    async fn by_leader<'a, T>(
        &self,
        partitions: impl Iterator<Item = (&'a TopicPartition, T)>,
        deadline: Instant,
    ) -> Result<BTreeMap<i32, Vec<(&'a TopicPartition, T)>>, Error> {
        let mut by_leader: BTreeMap<i32, Vec<_>> = BTreeMap::new();
        for (partition, what) in partitions {
            let topic = self.owner.topic(&partition.topic, deadline).await?;
            let known = topic.partition(partition.partition).ok_or_else(|| {
                let last = topic.partitions.len().saturating_sub(1);
                Error::new(
                    ErrorKind::UnknownTopicOrPartition,
                    format!("the topic has the partitions 0 to {last} only."),
                )
                .with_topic_partition(partition.clone())
            })?;
            if let Some(leader) = known.leader {
                by_leader.entry(leader).or_default().push((partition, what));
            }
        }
        Ok(by_leader)
    }

    async fn list_offsets_of(
        &self,
        leader: i32,
        asked: &[(&TopicPartition, OffsetSpec)],
        deadline: Instant,
    ) -> Result<Vec<(TopicPartition, Result<Option<i64>, Error>)>, Error> {
        let topics = asked
            .iter()
            .map(|(partition, spec)| {
                let wanted = ListOffsetsPartition::default()
                    .with_partition_index(partition.partition)
                    .with_timestamp(spec.wire_timestamp());
                ListOffsetsTopic::default().with_name(topic_name(&partition.topic)).with_partitions(vec![wanted])
            })
            .collect();
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(topics);
        let timeout = self.owner.request_timeout().min(deadline - self.owner.now());
        let response = self.owner.send(Target::Broker(leader), Lane::Rest, request, timeout).await?;
        let mut answers = Vec::new();
        for topic in &response.topics {
            for answered in &topic.partitions {
                let partition = TopicPartition::new(topic.name.0.as_str(), answered.partition_index);
                let result = match ErrorCode(answered.error_code) {
                    ErrorCode::NONE => Ok((answered.offset >= 0).then_some(answered.offset)),
                    code => Err(Error::from_code(ApiKey::LIST_OFFSETS, code)
                        .with_broker(leader)
                        .with_topic_partition(partition.clone())),
                };
                answers.push((partition, result));
            }
        }
        Ok(answers)
    }

    /// Deletes the records before an offset of each partition; −1 stands for the high watermark. The answer has the offset that
    /// each log begins with afterwards.
    ///
    /// # Errors
    /// The first partition whose records could not be deleted.
    ///
    /// # Cancel safety
    /// Dropped, records may be deleted all the same.
    pub async fn delete_records(
        &self,
        before: &[(TopicPartition, i64)],
    ) -> Result<BTreeMap<TopicPartition, i64>, Error> {
        let deadline = self.deadline();
        let mut starts = BTreeMap::new();
        let by_leader = self.by_leader(before.iter().map(|(partition, offset)| (partition, *offset)), deadline).await?;
        for (leader, asked) in by_leader {
            let topics: Vec<_> = asked
                .iter()
                .map(|(partition, offset)| {
                    let wanted = DeleteRecordsPartition::default()
                        .with_partition_index(partition.partition)
                        .with_offset(*offset);
                    DeleteRecordsTopic::default().with_name(topic_name(&partition.topic)).with_partitions(vec![wanted])
                })
                .collect();
            let request = DeleteRecordsRequest::default().with_topics(topics).with_timeout_ms(millis(self.timeout));
            let make = move |_| request.clone();
            let response =
                self.owner.call(Target::Broker(leader), Lane::Slow, deadline, make, |_| ErrorCode::NONE).await?;
            for topic in &response.topics {
                for answered in &topic.partitions {
                    let partition = TopicPartition::new(topic.name.0.as_str(), answered.partition_index);
                    ErrorCode(answered.error_code).ok().map_err(|code| {
                        Error::from_code(ApiKey::DELETE_RECORDS, code).with_topic_partition(partition.clone())
                    })?;
                    starts.insert(partition, answered.low_watermark);
                }
            }
        }
        Ok(starts)
    }
}

/// An answer that says nothing about something it was asked about.
fn left_out(api: ApiKey, what: &str) -> Error {
    let text = format!(
        "the broker's answer leaves the {what} out, so nobody can say what became of it: look at the broker's log, and whether its \
         version is a released one."
    );
    Error::new(ErrorKind::Malformed, text).with_api(api)
}

fn create_request<'a>(topics: impl Iterator<Item = &'a NewTopic>, timeout: Duration) -> CreateTopicsRequest {
    let topics = topics
        .map(|topic| {
            let configs = topic
                .configs
                .iter()
                .map(|(name, value)| {
                    CreatableTopicConfig::default()
                        .with_name(StrBytes::from_string(name.clone()))
                        .with_value(Some(StrBytes::from_string(value.clone())))
                })
                .collect();
            CreatableTopic::default()
                .with_name(topic_name(&topic.name))
                .with_num_partitions(topic.partitions)
                .with_replication_factor(topic.replication_factor)
                .with_configs(configs)
        })
        .collect();
    CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(millis(timeout))
}

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

/// A duration as Kafka's requests carry it.
fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
