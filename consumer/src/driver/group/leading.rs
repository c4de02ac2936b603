//! The leader's share: which topics all members want, how many partitions they have, and who gets which.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use milena_client::{Link, TopicInterest};

use crate::group::Subscription;
use crate::group::classic::JoinedMember;
use crate::{Assignor, Member, TopicSizes};

/// How long the leader waits for topics that nobody has seen yet before it assigns without them.
const TOPICS_PATIENCE: Duration = Duration::from_secs(3);

/// What the leader has assigned, so that it sees when topics change.
#[derive(Default)]
pub(super) struct Led {
    pub(super) sizes: TopicSizes,
    pub(super) topics: BTreeSet<Arc<str>>,
    /// Keeps them in the client's picture.
    _interest: Option<TopicInterest>,
}

/// How many partitions the topics have.
pub(super) fn sizes(link: &Link, topics: &BTreeSet<Arc<str>>) -> TopicSizes {
    let metadata = link.metadata();
    let size = |topic: &Arc<str>| {
        let known = metadata.topic(topic)?;
        (!known.partitions.is_empty()).then(|| (topic.clone(), known.partitions.len() as i32))
    };
    topics.iter().filter_map(size).collect()
}

/// The leader's work: learn about all topics that somebody wants, then run the assignor.
pub(super) async fn assign(
    link: Link,
    assignor: Arc<dyn Assignor>,
    members: Vec<JoinedMember>,
) -> (Option<Vec<(Arc<str>, Bytes)>>, Led) {
    let mut topics = BTreeSet::new();
    let members: Vec<Member> = members
        .into_iter()
        .map(|member| {
            let subscription = Subscription::decode(&member.metadata).unwrap_or_else(|error| {
                tracing::error!(%error, member = %member.id, "the member gets nothing");
                Subscription::default()
            });
            topics.extend(subscription.topics.iter().cloned());
            Member { id: member.id, instance_id: member.instance_id, subscription }
        })
        .collect();
    let interest = link.want_topics(topics.iter().map(|topic| &**topic));
    let deadline = link.now() + TOPICS_PATIENCE;
    for topic in &topics {
        // One that does not exist is left out; when it appears, the leader joins again.
        if let Err(error) = link.topic(topic, deadline).await {
            tracing::warn!(%error, %topic, "nobody is assigned this topic for now");
        }
    }
    let sizes = sizes(&link, &topics);
    let assignments = match assignor.assign(&sizes, &members) {
        Ok(assignments) => Some(assignments.into_iter().map(|(id, given)| (id, given.encode())).collect()),
        Err(error) => {
            tracing::error!(%error, assignor = assignor.name(), "no assignment");
            None
        }
    };
    (assignments, Led { sizes, topics, _interest: Some(interest) })
}
