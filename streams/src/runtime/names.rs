//! A topology with an application's id: what its topics are called on the cluster, and how many partitions the internal
//! ones need.

use std::{collections::BTreeMap, sync::Arc};

use crate::topology::{TopicId, TopicRole, Topology};

/// Topic names of a topology under an application id.
#[derive(Debug, Clone)]
pub(crate) struct TopicNames {
    names: Vec<Arc<str>>,
    ids: BTreeMap<Arc<str>, TopicId>,
}

/// An internal topic as the cluster must have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InternalTopic {
    pub(crate) name: Arc<str>,
    pub(crate) partitions: i32,
    pub(crate) role: TopicRole,
}

impl InternalTopic {
    /// Its topic settings, which are Java's.
    pub(crate) fn configs(&self) -> &'static [(&'static str, &'static str)] {
        match self.role {
            TopicRole::Changelog => &[("cleanup.policy", "compact"), ("message.timestamp.type", "CreateTime")],
            // Records live until somebody deletes them: nothing may expire before it was counted.
            TopicRole::Repartition | TopicRole::User => &[
                ("cleanup.policy", "delete"),
                ("message.timestamp.type", "CreateTime"),
                ("retention.ms", "-1"),
                ("segment.bytes", "52428800"),
            ],
        }
    }
}

impl TopicNames {
    pub(crate) fn new(topology: &Topology, application_id: &str) -> Self {
        let names: Vec<Arc<str>> = topology
            .topics()
            .iter()
            .map(|topic| match topic.role {
                TopicRole::User => topic.name.clone(),
                TopicRole::Repartition | TopicRole::Changelog => format!("{application_id}-{}", topic.name).into(),
            })
            .collect();
        let ids = names.iter().enumerate().map(|(id, name)| (name.clone(), TopicId(id))).collect();
        Self { names, ids }
    }

    pub(crate) fn name(&self, topic: TopicId) -> &Arc<str> {
        &self.names[topic.0]
    }

    pub(crate) fn id(&self, name: &str) -> Option<TopicId> {
        self.ids.get(name).copied()
    }

    /// The topics that sub-topologies read, each with its sub-topology.
    pub(crate) fn sources(&self, topology: &Topology) -> BTreeMap<Arc<str>, usize> {
        let subs = topology.subs().iter().enumerate();
        subs.flat_map(|(sub, parts)| parts.sources.iter().map(move |(topic, _)| (self.name(*topic).clone(), sub)))
            .collect()
    }

    /// The user's topics that are read or written.
    pub(crate) fn user_topics(&self, topology: &Topology) -> Vec<Arc<str>> {
        let topics = topology.topics().iter();
        topics.filter(|topic| topic.role == TopicRole::User).map(|topic| topic.name.clone()).collect()
    }

    /// The internal topics, given the partitions of the user's source topics. A repartition topic has as many as the
    /// largest source of the sub-topologies that write it, a changelog as many as its store has tasks.
    pub(crate) fn internal_topics(
        &self,
        topology: &Topology,
        user_sizes: &BTreeMap<Arc<str>, i32>,
    ) -> Vec<InternalTopic> {
        let mut sizes: BTreeMap<TopicId, i32> = BTreeMap::new();
        for (id, topic) in topology.topics().iter().enumerate() {
            if let Some(size) = user_sizes.get(&topic.name).filter(|_| topic.role == TopicRole::User) {
                sizes.insert(TopicId(id), *size);
            }
        }
        let tasks = |sizes: &BTreeMap<TopicId, i32>, sub: usize| {
            topology.subs()[sub].sources.iter().filter_map(|(topic, _)| sizes.get(topic)).copied().max().unwrap_or(0)
        };
        // Sub-topologies feed one another without cycles, so that so many rounds reach the last.
        for _ in topology.subs() {
            for (sub, parts) in topology.subs().iter().enumerate() {
                let partitions = tasks(&sizes, sub);
                for topic in &parts.repartition_sinks {
                    let size = sizes.entry(*topic).or_default();
                    *size = partitions.max(*size);
                }
            }
        }
        let mut internal = Vec::new();
        for (sub, parts) in topology.subs().iter().enumerate() {
            for topic in &parts.repartition_sinks {
                let partitions = sizes.get(topic).copied().unwrap_or(0);
                internal.push(self.internal(*topic, partitions, TopicRole::Repartition));
            }
            let changelogs = parts.stores.iter().filter_map(|store| topology.store_spec(*store).changelog);
            internal.extend(changelogs.map(|topic| self.internal(topic, tasks(&sizes, sub), TopicRole::Changelog)));
        }
        internal.sort_by(|a, b| a.name.cmp(&b.name));
        internal.dedup();
        internal
    }

    fn internal(&self, topic: TopicId, partitions: i32, role: TopicRole) -> InternalTopic {
        InternalTopic { name: self.name(topic).clone(), partitions, role }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsl::{Materialized, StreamsBuilder};

    #[test]
    fn internal_topics_take_their_size_from_what_feeds_them() {
        let b = StreamsBuilder::new();
        let many = b.stream::<String, String>(["six", "two"]);
        many.group_by(|_, v| v.clone())
            .count("words")
            .to_stream()
            .group_by(|_, n| *n)
            .count(Materialized::named("counts").without_logging())
            .to_stream()
            .to("out");
        b.stream::<String, String>("one").group_by_key().count("alone");
        let topology = b.build().unwrap();
        let names = TopicNames::new(&topology, "app");
        let sizes = [("six", 6), ("two", 2), ("one", 1), ("out", 9)].map(|(name, size)| (Arc::from(name), size)).into();
        let topics: Vec<(String, i32)> = names
            .internal_topics(&topology, &sizes)
            .into_iter()
            .map(|topic| (topic.name.to_string(), topic.partitions))
            .collect();
        let expected = [
            ("app-alone-changelog", 1),
            ("app-counts-repartition", 6),
            ("app-words-changelog", 6),
            ("app-words-repartition", 6),
        ];
        assert_eq!(topics, expected.map(|(name, size)| (name.to_owned(), size)));
        // app-counts-repartition, app-words-repartition, one, six, two: the sub-topology that reads each.
        assert_eq!(names.sources(&topology).into_values().collect::<Vec<_>>(), [2, 1, 3, 0, 0]);
    }
}
