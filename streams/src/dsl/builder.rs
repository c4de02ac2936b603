//! `StreamsBuilder`: where a topology begins.

use std::sync::Arc;

use super::{Consumed, KStream, SharedGraph, Topics};
use crate::{
    error::TopologyError,
    processor::Source,
    serde::{DefaultSerde, SharedSerde},
    topology::{
        Graph, Kind, Make, Node, NodeId, TopicId, TopicRole, Topology,
        graph::{self, gather},
    },
};

/// Records a topology (Java: `StreamsBuilder`). Every name it gives to nodes, stores and internal topics is the one Java
/// would give for the same calls.
///
/// ```
/// use milena_streams::StreamsBuilder;
///
/// let builder = StreamsBuilder::new();
/// builder
///     .stream::<(), String>("text-lines-topic")
///     .flat_map_values(|line: String| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
///     .group_by(|_, word| word.clone())
///     .count("word-counts")
///     .to_stream()
///     .to("word-counts-output-topic");
/// let topology = builder.build()?;
/// assert!(topology.describe().contains("Sub-topology: 1"));
/// # Ok::<(), milena_streams::TopologyError>(())
/// ```
#[derive(Default)]
pub struct StreamsBuilder {
    graph: SharedGraph,
}

impl StreamsBuilder {
    /// An empty topology.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a topic with the default serdes of `K` and `V`. A key that is null or does not matter is `()`.
    pub fn stream<K: DefaultSerde, V: DefaultSerde>(&self, topics: impl Into<Topics>) -> KStream<K, V> {
        self.stream_with(topics, Consumed::default())
    }

    /// Reads a topic, or several that carry the same types.
    pub fn stream_with<K: Send + 'static, V: Send + 'static>(
        &self,
        topics: impl Into<Topics>,
        consumed: Consumed<K, V>,
    ) -> KStream<K, V> {
        let (Topics(topics), Consumed { key, value, name }) = (topics.into(), consumed);
        let mut graph = self.graph.borrow_mut();
        let name = graph.name(name.as_deref(), "KSTREAM-SOURCE-");
        if topics.is_empty() {
            graph.fail(format!("source {name} reads no topic: give it one"));
        }
        let ids: Vec<TopicId> = topics.iter().map(|topic| graph.topic(topic, TopicRole::User)).collect();
        for (at, topic) in ids.iter().enumerate() {
            let taken = |node: &Node| matches!(&node.kind, Kind::Source(others) if others.contains(topic));
            if ids[..at].contains(topic) || graph.nodes.iter().any(taken) {
                let topic = graph.topic_name(*topic);
                graph.fail(format!("topic {topic} is read by two sources: call stream() once and clone its handle"));
            }
        }
        let node = source(&mut graph, name, ids, key.clone(), value.clone());
        drop(graph);
        KStream::new(self.graph.clone(), node, Some(key), Some(value), false)
    }

    /// The topology so far. The first mistake made on the way (a name twice, a topic read twice) comes out here.
    pub fn build(&self) -> Result<Topology, TopologyError> {
        Topology::new(self.graph.borrow().clone())
    }
}

impl std::fmt::Debug for StreamsBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamsBuilder").field("nodes", &self.graph.borrow().nodes.len()).finish_non_exhaustive()
    }
}

/// Adds a source node.
pub(super) fn source<K: Send + 'static, V: Send + 'static>(
    graph: &mut Graph,
    name: Arc<str>,
    topics: Vec<TopicId>,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
) -> NodeId {
    let node_name = name.clone();
    graph.add(Node {
        name,
        kind: Kind::Source(topics),
        parents: Vec::new(),
        stores: Vec::new(),
        make: Make::Source(Arc::new(move |out, _| {
            let (name, key, value) = (node_name.clone(), key.clone(), value.clone());
            Ok(Box::new(Source { name, key, value, out: graph::out::<K, V>(out)? }))
        })),
        gather: Some(gather::<K, V>),
        joint: None,
        clone_fn: None,
    })
}
