//! The picture of the cluster, and how an answer changes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use milena_protocol::ErrorCode;
use milena_protocol::messages::MetadataResponse;
use milena_protocol::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};
use uuid::Uuid;

/// A picture of the cluster. Immutable; a newer one has a higher [`version`](Self::version).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Grows by one with every change.
    pub version: u64,
    /// The cluster's id, once a broker has told it.
    pub cluster_id: Option<String>,
    /// The broker that answers for the controller.
    pub controller_id: Option<i32>,
    /// The brokers that are up.
    pub brokers: BTreeMap<i32, Broker>,
    topics: BTreeMap<Arc<str>, Arc<Topic>>,
    names: BTreeMap<Uuid, Arc<str>>,
}

/// Where a broker listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Its id.
    pub id: i32,
    /// The advertised host.
    pub host: String,
    /// The advertised port.
    pub port: u16,
    /// Its rack, if it has one.
    pub rack: Option<String>,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Its id; nil with brokers older than 2.8.
    pub id: Uuid,
    /// Its partitions, in order of their numbers. May be those of an earlier answer when [`error`](Self::error) is set.
    pub partitions: Vec<Partition>,
    /// What the broker said about the topic in its last answer.
    pub error: ErrorCode,
    /// Whether it is one of Kafka's own.
    pub is_internal: bool,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number.
    pub id: i32,
    /// The broker that leads it; `None` if none does at the moment.
    pub leader: Option<i32>,
    /// The leader's epoch; −1 with brokers older than 2.1.
    pub leader_epoch: i32,
    /// The brokers that have a copy.
    pub replicas: Vec<i32>,
    /// Those of them that are in sync.
    pub isr: Vec<i32>,
    /// Those of them that are down.
    pub offline: Vec<i32>,
}

impl Metadata {
    /// A topic by name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    /// A topic by id.
    pub fn topic_by_id(&self, id: Uuid) -> Option<&Arc<Topic>> {
        self.names.get(&id).and_then(|name| self.topics.get(name))
    }

    /// All topics known, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    /// The partition's leader and its epoch, if it has one.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<(i32, i32)> {
        let partition = self.topic(topic)?.partition(partition)?;
        Some((partition.leader?, partition.leader_epoch))
    }

    /// The picture after an answer; `None` if the answer changes nothing.
    ///
    /// A topic that the answer does not name stays: an answer to a question about some topics says nothing about the others, and a
    /// partition that one broker has not heard of yet still has its records buffered.
    pub(crate) fn after_answer(&self, response: &MetadataResponse, doubts: &mut Doubts) -> Option<Self> {
        let mut next = self.clone();
        if let Some(id) = &response.cluster_id {
            next.cluster_id = Some(id.to_string());
        }
        next.controller_id = (response.controller_id.0 >= 0).then_some(response.controller_id.0);
        next.brokers = response
            .brokers
            .iter()
            .filter_map(|broker| {
                let port = u16::try_from(broker.port).ok()?;
                let rack = broker.rack.as_ref().map(ToString::to_string);
                Some((broker.node_id.0, Broker { id: broker.node_id.0, host: broker.host.to_string(), port, rack }))
            })
            .collect();
        for answered in &response.topics {
            next.on_topic(answered, doubts);
        }
        next.bumped(self)
    }

    fn on_topic(&mut self, answered: &MetadataResponseTopic, doubts: &mut Doubts) {
        let name: Arc<str> = match &answered.name {
            Some(name) => Arc::from(name.0.as_str()),
            None => match self.names.get(&answered.topic_id) {
                Some(name) => name.clone(),
                None => return,
            },
        };
        let known = self.topics.get(&name);
        let error = ErrorCode(answered.error_code);
        let topic = if error.is_none() {
            // A new id is another topic under the same name: its epochs start again.
            let before = known.filter(|known| known.id == answered.topic_id);
            let mut partitions: Vec<_> = answered
                .partitions
                .iter()
                .map(|partition| {
                    let known = before.and_then(|topic| topic.partition(partition.partition_index));
                    merged(&name, partition, known, doubts)
                })
                .collect();
            partitions.sort_by_key(|partition| partition.id);
            Topic { name: name.clone(), id: answered.topic_id, partitions, error, is_internal: answered.is_internal }
        } else {
            match known {
                Some(known) => Topic { error, ..Topic::clone(known) },
                None => {
                    Topic { name: name.clone(), id: Uuid::nil(), partitions: Vec::new(), error, is_internal: false }
                }
            }
        };
        if let Some(known) = self.topics.get(&name)
            && known.id != topic.id
        {
            self.names.remove(&known.id);
        }
        if !topic.id.is_nil() {
            self.names.insert(topic.id, name.clone());
        }
        self.topics.insert(name, Arc::new(topic));
    }

    /// The picture after a broker named a partition's new leader in the answer to another request (KIP-951); `None` if it is not
    /// news: an epoch never goes back.
    pub(crate) fn after_hint(
        &self,
        topic: &str,
        partition: i32,
        leader: i32,
        epoch: i32,
        endpoint: Option<Broker>,
    ) -> Option<Self> {
        let known = self.topic(topic)?;
        let index = known.partitions.iter().position(|known| known.id == partition)?;
        if epoch <= known.partitions[index].leader_epoch || leader < 0 {
            return None;
        }
        let mut next = self.clone();
        if let Some(endpoint) = endpoint {
            next.brokers.insert(endpoint.id, endpoint);
        }
        if !next.brokers.contains_key(&leader) {
            return None;
        }
        let mut changed = Topic::clone(known);
        changed.partitions[index].leader = Some(leader);
        changed.partitions[index].leader_epoch = epoch;
        next.topics.insert(changed.name.clone(), Arc::new(changed));
        next.bumped(self)
    }

    fn bumped(mut self, before: &Self) -> Option<Self> {
        if self == *before {
            return None;
        }
        self.version = before.version + 1;
        Some(self)
    }
}

impl Topic {
    /// A partition by its number.
    pub fn partition(&self, id: i32) -> Option<&Partition> {
        // Numbers are dense in all but the strangest answers, so the index is the first guess.
        let guess = usize::try_from(id).ok().and_then(|index| self.partitions.get(index));
        guess
            .filter(|partition| partition.id == id)
            .or_else(|| self.partitions.iter().find(|partition| partition.id == id))
    }
}

/// How often in a row each partition was told of in a lower epoch than it is known in.
#[derive(Debug, Default)]
pub(crate) struct Doubts(BTreeMap<(Arc<str>, i32), u8>);

/// So often all brokers cannot be late: the epochs have really gone back, as after a restored backup. (As many as franz-go takes.)
const BELIEVED_AFTER: u8 = 5;

impl Doubts {
    /// Whether a lower epoch is to be believed by now.
    fn are_over(&mut self, topic: &Arc<str>, partition: i32) -> bool {
        let times = self.0.entry((topic.clone(), partition)).or_default();
        *times += 1;
        let are_over = *times >= BELIEVED_AFTER;
        if are_over {
            self.forget(topic, partition);
        }
        are_over
    }

    fn forget(&mut self, topic: &Arc<str>, partition: i32) {
        if !self.0.is_empty() {
            self.0.remove(&(topic.clone(), partition));
        }
    }
}

/// A partition as answered, unless it is known in a higher epoch already: brokers learn of a new leader at different times.
fn merged(
    topic: &Arc<str>,
    answered: &MetadataResponsePartition,
    known: Option<&Partition>,
    doubts: &mut Doubts,
) -> Partition {
    let fresh = Partition {
        id: answered.partition_index,
        leader: (answered.leader_id.0 >= 0).then_some(answered.leader_id.0),
        leader_epoch: answered.leader_epoch,
        replicas: answered.replica_nodes.iter().map(|id| id.0).collect(),
        isr: answered.isr_nodes.iter().map(|id| id.0).collect(),
        offline: answered.offline_replicas.iter().map(|id| id.0).collect(),
    };
    let Some(known) = known else { return fresh };
    if fresh.leader_epoch < 0 {
        // No epoch known to this broker, and so nothing to compare. What is known of a leader that has not changed stays; with the old
        // epoch another one would be asked in vain.
        let is_another = fresh.leader.is_some() && fresh.leader != known.leader;
        return if is_another { fresh } else { Partition { leader_epoch: known.leader_epoch, ..fresh } };
    }
    if fresh.leader_epoch < known.leader_epoch && !doubts.are_over(topic, fresh.id) {
        return Partition { leader: known.leader, leader_epoch: known.leader_epoch, ..fresh };
    }
    doubts.forget(topic, fresh.id);
    fresh
}

#[cfg(test)]
mod tests {
    use milena_protocol::StrBytes;
    use milena_protocol::messages::metadata_response::MetadataResponseBroker;
    use milena_protocol::messages::{BrokerId, TopicName};

    use super::*;

    fn answer(id: u128, leader: i32, epoch: i32) -> MetadataResponse {
        let partition = MetadataResponsePartition::default()
            .with_partition_index(0)
            .with_leader_id(BrokerId(leader))
            .with_leader_epoch(epoch);
        let topic = MetadataResponseTopic::default()
            .with_name(Some(TopicName(StrBytes::from_static_str("orders"))))
            .with_topic_id(Uuid::from_u128(id))
            .with_partitions(vec![partition]);
        let brokers = (1..=3)
            .map(|id| {
                MetadataResponseBroker::default()
                    .with_node_id(BrokerId(id))
                    .with_host(StrBytes::from_static_str("h"))
                    .with_port(9092)
            })
            .collect();
        MetadataResponse::default().with_brokers(brokers).with_topics(vec![topic])
    }

    #[test]
    fn the_same_answer_twice_is_no_change() {
        let first = Metadata::default().after_answer(&answer(1, 1, 5), &mut Doubts::default()).unwrap();
        assert_eq!(first.version, 1);
        assert_eq!(first.leader("orders", 0), Some((1, 5)));
        assert!(first.after_answer(&answer(1, 1, 5), &mut Doubts::default()).is_none());
    }

    #[test]
    fn an_epoch_never_goes_back_unless_the_topic_is_another() {
        let first = Metadata::default().after_answer(&answer(1, 1, 5), &mut Doubts::default()).unwrap();
        assert!(
            first.after_answer(&answer(1, 2, 4), &mut Doubts::default()).is_none(),
            "a broker that has not heard of epoch 5 yet"
        );
        assert_eq!(
            first.after_answer(&answer(1, 2, 6), &mut Doubts::default()).unwrap().leader("orders", 0),
            Some((2, 6))
        );
        let anew = first.after_answer(&answer(2, 3, 0), &mut Doubts::default()).unwrap();
        assert_eq!(anew.leader("orders", 0), Some((3, 0)));
        assert!(anew.topic_by_id(Uuid::from_u128(1)).is_none());
        assert_eq!(&*anew.topic_by_id(Uuid::from_u128(2)).unwrap().name, "orders");
    }

    #[test]
    fn a_lower_epoch_is_believed_when_it_was_told_five_times_in_a_row() {
        let first = Metadata::default().after_answer(&answer(1, 1, 5), &mut Doubts::default()).unwrap();
        let (mut doubts, lower) = (Doubts::default(), answer(1, 2, 3));
        for _ in 0..4 {
            assert!(first.after_answer(&lower, &mut doubts).is_none());
        }
        // Somebody knows better: it was late news.
        assert!(first.after_answer(&answer(1, 1, 5), &mut doubts).is_none());
        for _ in 0..4 {
            assert!(first.after_answer(&lower, &mut doubts).is_none());
        }
        let then = first.after_answer(&lower, &mut doubts).unwrap();
        assert_eq!(then.leader("orders", 0), Some((2, 3)));
        assert!(doubts.0.is_empty());
    }

    #[test]
    fn an_epoch_that_is_not_told_is_kept_with_its_leader_and_goes_with_another() {
        let mut doubts = Doubts::default();
        let first = Metadata::default().after_answer(&answer(1, 1, 5), &mut doubts).unwrap();
        assert!(first.after_answer(&answer(1, 1, -1), &mut doubts).is_none());
        let leaderless = first.after_answer(&answer(1, -1, -1), &mut doubts).unwrap();
        assert_eq!(leaderless.topic("orders").unwrap().partition(0).unwrap().leader_epoch, 5);
        assert!(leaderless.after_hint("orders", 0, 2, 5, None).is_none(), "old news");
        assert_eq!(first.after_answer(&answer(1, 2, -1), &mut doubts).unwrap().leader("orders", 0), Some((2, -1)));
    }

    #[test]
    fn a_hint_moves_one_leader_and_only_forward() {
        let first = Metadata::default().after_answer(&answer(1, 1, 5), &mut Doubts::default()).unwrap();
        assert!(first.after_hint("orders", 0, 2, 5, None).is_none());
        assert_eq!(first.after_hint("orders", 0, 2, 6, None).unwrap().leader("orders", 0), Some((2, 6)));
        assert!(first.after_hint("orders", 0, 9, 6, None).is_none(), "a leader without an address");
        let endpoint = Broker { id: 9, host: "new".to_owned(), port: 1, rack: None };
        assert_eq!(first.after_hint("orders", 0, 9, 6, Some(endpoint)).unwrap().brokers[&9].host, "new");
    }

    #[test]
    fn a_topic_that_is_refused_for_a_while_keeps_its_partitions() {
        let first = Metadata::default().after_answer(&answer(1, 1, 5), &mut Doubts::default()).unwrap();
        let mut refused = answer(1, 1, 5);
        refused.topics[0].error_code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0;
        refused.topics[0].partitions.clear();
        let then = first.after_answer(&refused, &mut Doubts::default()).unwrap();
        assert_eq!(then.topic("orders").unwrap().partitions.len(), 1);
        assert_eq!(then.topic("orders").unwrap().error, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        assert_eq!(
            then.after_answer(&answer(1, 1, 5), &mut Doubts::default()).unwrap().topic("orders").unwrap().error,
            ErrorCode::NONE
        );
    }
}
