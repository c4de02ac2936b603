//! `KStream`: a stream of records.

use std::sync::Arc;

use super::{Grouped, KGrouped, Produced, SharedGraph, note_clone};
use crate::{
    processor::{Emit, Filter, FlatMapValues, ForEach, Map, MapValues, Out, Pass, Peek, Push, SelectKey, Sink},
    serde::{DefaultSerde, SharedSerde, default_serde},
    topology::{
        Graph, Kind, Make, Node, NodeId, TopicRole,
        graph::{self, gather, joint},
    },
};

/// A stream of records with keys `K` and values `V` (Java: `KStream`).
///
/// Operators take the handle. To use a stream twice, clone the handle: each record then moves into one branch and is
/// cloned for the others.
pub struct KStream<K, V> {
    graph: SharedGraph,
    node: NodeId,
    /// As read or as last given; an operator that changes the type forgets it.
    key: Option<SharedSerde<K>>,
    value: Option<SharedSerde<V>>,
    /// Whether the key was changed since the last topic, so that an aggregate must repartition.
    key_changed: bool,
}

impl<K: Clone + 'static, V: Clone + 'static> Clone for KStream<K, V> {
    fn clone(&self) -> Self {
        note_clone::<K, V>(&self.graph, self.node);
        Self {
            graph: self.graph.clone(),
            node: self.node,
            key: self.key.clone(),
            value: self.value.clone(),
            key_changed: self.key_changed,
        }
    }
}

impl<K, V> std::fmt::Debug for KStream<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("KStream").field(&self.graph.borrow().nodes[self.node.0].name).finish()
    }
}

impl<K: Send + 'static, V: Send + 'static> KStream<K, V> {
    pub(super) fn new(
        graph: SharedGraph,
        node: NodeId,
        key: Option<SharedSerde<K>>,
        value: Option<SharedSerde<V>>,
        key_changed: bool,
    ) -> Self {
        Self { graph, node, key, value, key_changed }
    }

    /// Keeps the records for which `keep` is true.
    pub fn filter(self, keep: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        self.filter_dyn(Arc::new(keep))
    }

    fn filter_dyn(self, keep: Arc<dyn Fn(&K, &V) -> bool + Send + Sync>) -> Self {
        let node = self.operator("KSTREAM-FILTER-", move |out| Filter { keep: keep.clone(), out });
        Self { node, ..self }
    }

    /// Changes values; keys stay, so nothing needs to be repartitioned.
    pub fn map_values<W: Send + 'static>(self, map: impl Fn(V) -> W + Send + Sync + 'static) -> KStream<K, W> {
        self.map_values_dyn(Arc::new(map))
    }

    fn map_values_dyn<W: Send + 'static>(self, map: Arc<dyn Fn(V) -> W + Send + Sync>) -> KStream<K, W> {
        let node = self.operator("KSTREAM-MAPVALUES-", move |out| MapValues { map: map.clone(), out });
        KStream::new(self.graph, node, self.key, None, self.key_changed)
    }

    /// Changes keys and values. A following aggregate repartitions: use [`map_values`](Self::map_values) where the key
    /// stays.
    pub fn map<K2: Send + 'static, V2: Send + 'static>(
        self,
        map: impl Fn(K, V) -> (K2, V2) + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        self.map_dyn(Arc::new(map))
    }

    fn map_dyn<K2: Send + 'static, V2: Send + 'static>(
        self,
        map: Arc<dyn Fn(K, V) -> (K2, V2) + Send + Sync>,
    ) -> KStream<K2, V2> {
        let node = self.operator("KSTREAM-MAP-", move |out| Map { map: map.clone(), out });
        KStream::new(self.graph, node, None, None, true)
    }

    /// Makes any number of values of one; the key is cloned for each.
    pub fn flat_map_values<I>(self, map: impl Fn(V) -> I + Send + Sync + 'static) -> KStream<K, I::Item>
    where
        K: Clone,
        I: IntoIterator,
        I::Item: Send + 'static,
    {
        self.flat_map_values_dyn(Arc::new(move |value, emit| map(value).into_iter().for_each(|item| emit.push(item))))
    }

    /// As [`flat_map_values`](Self::flat_map_values), but the values are pushed one by one, so no collection is built
    /// and the input is only borrowed.
    pub fn flat_map_values_with<W: Send + 'static>(
        self,
        map: impl Fn(&V, &mut Emit<'_, W>) + Send + Sync + 'static,
    ) -> KStream<K, W>
    where
        K: Clone,
    {
        self.flat_map_values_dyn(Arc::new(move |value, emit| map(&value, emit)))
    }

    fn flat_map_values_dyn<W: Send + 'static>(self, expand: crate::processor::Expand<V, W>) -> KStream<K, W>
    where
        K: Clone,
    {
        let node = self.operator("KSTREAM-FLATMAPVALUES-", move |out| FlatMapValues { expand: expand.clone(), out });
        KStream::new(self.graph, node, self.key, None, self.key_changed)
    }

    /// Gives each record a new key. A following aggregate repartitions.
    pub fn select_key<K2: Send + 'static>(
        self,
        select: impl Fn(&K, &V) -> K2 + Send + Sync + 'static,
    ) -> KStream<K2, V> {
        self.select_key_dyn(None, Arc::new(select))
    }

    fn select_key_dyn<K2: Send + 'static>(
        self,
        name: Option<&str>,
        select: Arc<dyn Fn(&K, &V) -> K2 + Send + Sync>,
    ) -> KStream<K2, V> {
        let node =
            self.named_operator(name, "KSTREAM-KEY-SELECT-", move |out| SelectKey { select: select.clone(), out });
        KStream::new(self.graph, node, None, self.value, true)
    }

    /// Groups by a new key: what follows (`count`) sees all records of a key in one task, through a repartition topic.
    pub fn group_by<K2: DefaultSerde>(self, select: impl Fn(&K, &V) -> K2 + Send + Sync + 'static) -> KGrouped<K2, V>
    where
        V: DefaultSerde,
    {
        let stream = self.select_key_dyn(None, Arc::new(select));
        let value = stream.value.clone().unwrap_or_else(default_serde);
        stream.grouped(Grouped { key: default_serde(), value, name: None })
    }

    /// As [`group_by`](Self::group_by), with serdes and perhaps a name for the repartition topic.
    pub fn group_by_with<K2: Send + 'static>(
        self,
        select: impl Fn(&K, &V) -> K2 + Send + Sync + 'static,
        grouped: Grouped<K2, V>,
    ) -> KGrouped<K2, V> {
        self.select_key_dyn(grouped.name.as_deref(), Arc::new(select)).grouped(grouped)
    }

    /// Groups by the key that records have. There is a repartition topic only if an operator changed the key.
    pub fn group_by_key(self) -> KGrouped<K, V>
    where
        K: DefaultSerde,
        V: DefaultSerde,
    {
        let key = self.key.clone().unwrap_or_else(default_serde);
        let value = self.value.clone().unwrap_or_else(default_serde);
        self.grouped(Grouped { key, value, name: None })
    }

    /// As [`group_by_key`](Self::group_by_key), with serdes and perhaps a name for the repartition topic.
    pub fn group_by_key_with(self, grouped: Grouped<K, V>) -> KGrouped<K, V> {
        self.grouped(grouped)
    }

    fn grouped(self, grouped: Grouped<K, V>) -> KGrouped<K, V> {
        KGrouped::new(self.graph, self.node, grouped, self.key_changed)
    }

    /// Looks at each record.
    pub fn peek(self, see: impl Fn(&K, &V) + Send + Sync + 'static) -> Self {
        self.peek_dyn(Arc::new(see))
    }

    fn peek_dyn(self, see: Arc<dyn Fn(&K, &V) + Send + Sync>) -> Self {
        let node = self.operator("KSTREAM-PEEK-", move |out| Peek { see: see.clone(), out });
        Self { node, ..self }
    }

    /// Ends the branch: `act` gets each record.
    pub fn for_each(self, act: impl Fn(K, V) + Send + Sync + 'static) {
        self.for_each_dyn(Arc::new(act));
    }

    fn for_each_dyn(self, act: Arc<dyn Fn(K, V) + Send + Sync>) {
        let mut graph = self.graph.borrow_mut();
        let name = graph.next_name("KSTREAM-FOREACH-");
        graph.add(Node {
            name,
            kind: Kind::Processor,
            parents: vec![self.node],
            stores: Vec::new(),
            make: Make::Push {
                push: Arc::new(move |_, _| Ok(graph::push::<K, V>(ForEach { act: act.clone() }))),
                raw: None,
            },
            gather: None,
            joint: None,
            clone_fn: None,
        });
    }

    /// The records of both streams, each in its own order.
    pub fn merge(self, other: Self) -> Self {
        let mut graph = self.graph.borrow_mut();
        let name = graph.next_name("KSTREAM-MERGE-");
        if !std::rc::Rc::ptr_eq(&self.graph, &other.graph) {
            graph.fail(format!("{name} merges streams of two builders: make both with the same one"));
        }
        let node = graph.add(Node {
            parents: vec![self.node, other.node],
            ..processor(name, self.node, |out: Out<K, V>| Pass { out })
        });
        drop(graph);
        // Java forgets the serdes here: the other stream may have others.
        Self::new(self.graph, node, None, None, self.key_changed || other.key_changed)
    }

    /// Writes the records to a topic, partitioned by key (murmur2), with the serdes the stream came with or else the
    /// default ones.
    pub fn to(self, topic: &str)
    where
        K: DefaultSerde,
        V: DefaultSerde,
    {
        let key = self.key.clone().unwrap_or_else(default_serde);
        let value = self.value.clone().unwrap_or_else(default_serde);
        self.to_with(topic, Produced { key, value, name: None });
    }

    /// Writes the records to a topic with these serdes.
    pub fn to_with(self, topic: &str, produced: Produced<K, V>) {
        let Produced { key, value, name } = produced;
        let mut graph = self.graph.borrow_mut();
        let name = graph.name(name.as_deref(), "KSTREAM-SINK-");
        sink(&mut graph, name, self.node, (topic, TopicRole::User), key, value);
    }

    fn operator<K2: Send + 'static, V2: Send + 'static, P: Push<K, V> + 'static>(
        &self,
        prefix: &str,
        make: impl Fn(Out<K2, V2>) -> P + Send + Sync + 'static,
    ) -> NodeId {
        self.named_operator(None, prefix, make)
    }

    fn named_operator<K2: Send + 'static, V2: Send + 'static, P: Push<K, V> + 'static>(
        &self,
        name: Option<&str>,
        prefix: &str,
        make: impl Fn(Out<K2, V2>) -> P + Send + Sync + 'static,
    ) -> NodeId {
        let mut graph = self.graph.borrow_mut();
        let name = graph.name(name, prefix);
        graph.add(processor::<K, V, K2, V2, P>(name, self.node, make))
    }
}

/// A processor node from `K, V` to `K2, V2`.
fn processor<K, V, K2, V2, P>(
    name: Arc<str>,
    parent: NodeId,
    make: impl Fn(Out<K2, V2>) -> P + Send + Sync + 'static,
) -> Node
where
    K: 'static,
    V: 'static,
    K2: Send + 'static,
    V2: Send + 'static,
    P: Push<K, V> + 'static,
{
    Node {
        name,
        kind: Kind::Processor,
        parents: vec![parent],
        stores: Vec::new(),
        make: Make::Push {
            push: Arc::new(move |out, _| Ok(graph::push::<K, V>(make(graph::out::<K2, V2>(out)?)))),
            raw: None,
        },
        gather: Some(gather::<K2, V2>),
        joint: Some(joint::<K, V>),
        clone_fn: None,
    }
}

/// Adds a sink node.
pub(super) fn sink<K: Send + 'static, V: Send + 'static>(
    graph: &mut Graph,
    name: Arc<str>,
    parent: NodeId,
    (topic, role): (&str, TopicRole),
    key: SharedSerde<K>,
    value: SharedSerde<V>,
) {
    let topic = graph.topic(topic, role);
    let (topic_name, node_name) = (graph.topic_name(topic), name.clone());
    let needs_key = role == TopicRole::Repartition;
    graph.add(Node {
        name,
        kind: Kind::Sink(topic),
        parents: vec![parent],
        stores: Vec::new(),
        make: Make::Push {
            push: Arc::new(move |_, _| {
                Ok(graph::push::<K, V>(Sink {
                    name: node_name.clone(),
                    topic,
                    topic_name: topic_name.clone(),
                    key: key.clone(),
                    value: value.clone(),
                    needs_key,
                }))
            }),
            raw: None,
        },
        gather: None,
        joint: None,
        clone_fn: None,
    });
}
