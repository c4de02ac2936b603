//! What a member's requests and answers look like on the wire, as far as it is not one expression.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use milena_client::{CoordinatorKind, Error, ErrorKind, Lane, Link, OffsetAndMetadata, Target, TopicPartition};
use milena_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use milena_protocol::messages::{GroupId, JoinGroupResponse, OffsetCommitRequest, OffsetCommitResponse, TopicName};
use milena_protocol::{ErrorCode, Request, StrBytes};

use crate::commits::Offsets;
use crate::driver::offsets::{by_topic, str_bytes};
use crate::group::classic::{Failure, Joined, JoinedMember};

/// The broker that a join or a sync waits for. Another one that turns out to be the coordinator knows nothing of it.
#[derive(Debug, Clone)]
pub(super) struct Asked(Arc<AtomicI32>);

impl Asked {
    pub(super) fn nobody() -> Self {
        Self(Arc::new(AtomicI32::new(NOBODY)))
    }

    /// Whether somebody has been asked, and not `coordinator`.
    pub(super) fn is_other_than(&self, coordinator: i32) -> bool {
        ![NOBODY, coordinator].contains(&self.0.load(Ordering::Relaxed))
    }
}

const NOBODY: i32 = -1;

/// Asks the coordinator for something that it may hold back for long, and notes down which broker that is.
pub(super) async fn ask_at_length<R: Request>(
    link: Link,
    group: Arc<str>,
    timeout: Duration,
    asked: Asked,
    request: impl FnOnce(i16) -> R + Send + 'static,
) -> Result<R::Response, Error> {
    let deadline = link.now() + timeout;
    let broker = link.coordinator(CoordinatorKind::Group, &group, deadline).await?;
    asked.0.store(broker, Ordering::Relaxed);
    let left = deadline.saturating_duration_since(link.now());
    let answer = link.send_versioned(Target::Broker(broker), Lane::Join, left, request).await;
    answer.inspect_err(|error| link.on_coordinator_error(CoordinatorKind::Group, &group, broker, error))
}

/// Why the coordinator does not answer, if it does not. What is asked of it is asked again, so nobody else would say it.
#[derive(Debug, Clone, Default)]
pub(super) struct Trouble(Arc<Mutex<Option<Error>>>);

impl Trouble {
    /// A request failed without an answer: told aloud once, and then quietly until an answer has come.
    pub(super) fn begin(&self, group: &str, error: &Error) {
        if self.lock().replace(error.clone()).is_none() {
            tracing::warn!(%error, group, "the group's coordinator gives no answer that can be used; it is asked again");
        } else {
            tracing::debug!(%error, group, "the group's coordinator still gives no answer that can be used");
        }
    }

    /// There is an answer.
    pub(super) fn end(&self) {
        *self.lock() = None;
    }

    pub(super) fn last(&self) -> Option<Error> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Error>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a request's failure is to the membership: what cannot be helped by asking again keeps its code.
    fn failure(&self, group: &str, error: &Error) -> Failure {
        match error.kind() {
            ErrorKind::Broker(code) => code.into(),
            ErrorKind::UnsupportedVersion => ErrorCode::UNSUPPORTED_VERSION.into(),
            _ => {
                self.begin(group, error);
                Failure::NoAnswer
            }
        }
    }

    /// An answer, or what its absence is to the membership.
    pub(super) fn look_at<T>(&self, group: &str, answer: Result<T, Error>) -> Result<T, Failure> {
        match answer {
            Ok(response) => {
                self.end();
                Ok(response)
            }
            Err(error) => Err(self.failure(group, &error)),
        }
    }
}

pub(super) fn read_join(response: JoinGroupResponse) -> Result<Joined, Failure> {
    let member_id: Arc<str> = Arc::from(response.member_id.as_str());
    match ErrorCode(response.error_code) {
        ErrorCode::NONE => {}
        code => return Err(Failure::Code(code, Some(member_id))),
    }
    Ok(Joined {
        is_leader: response.leader == response.member_id,
        member_id,
        generation: response.generation_id,
        skip_assignment: response.skip_assignment,
        assignor: Arc::from(response.protocol_name.as_deref().unwrap_or_default()),
        members: response
            .members
            .into_iter()
            .map(|member| JoinedMember {
                id: Arc::from(member.member_id.as_str()),
                instance_id: member.group_instance_id.as_deref().map(Arc::from),
                metadata: member.metadata,
            })
            .collect(),
    })
}

pub(super) fn commit_request(
    group_id: GroupId,
    member_id: &str,
    generation: i32,
    instance_id: Option<StrBytes>,
    offsets: Offsets,
) -> impl FnOnce(i16) -> OffsetCommitRequest + Send + 'static {
    let member_id = str_bytes(member_id);
    move |version| {
        let partition = |(index, offset): (i32, OffsetAndMetadata)| {
            let partition = OffsetCommitRequestPartition::default()
                .with_partition_index(index)
                .with_committed_offset(offset.offset)
                .with_committed_metadata(Some(StrBytes::from_string(offset.metadata)));
            if version >= 6 { partition.with_committed_leader_epoch(offset.leader_epoch) } else { partition }
        };
        let topics = by_topic(offsets).into_iter().map(|(topic, partitions)| {
            OffsetCommitRequestTopic::default()
                .with_name(TopicName(str_bytes(&topic)))
                .with_partitions(partitions.into_iter().map(partition).collect())
        });
        let request = OffsetCommitRequest::default()
            .with_group_id(group_id)
            .with_generation_id_or_member_epoch(generation)
            .with_member_id(member_id)
            .with_topics(topics.collect());
        if version >= 7 { request.with_group_instance_id(instance_id) } else { request }
    }
}

pub(super) fn read_commit(response: OffsetCommitResponse) -> Vec<(TopicPartition, ErrorCode)> {
    let mut codes: BTreeMap<TopicPartition, ErrorCode> = BTreeMap::new();
    for topic in response.topics {
        let name: Arc<str> = Arc::from(topic.name.as_str());
        for partition in topic.partitions {
            let tp = TopicPartition { topic: name.clone(), partition: partition.partition_index };
            codes.insert(tp, ErrorCode(partition.error_code));
        }
    }
    codes.into_iter().collect()
}
