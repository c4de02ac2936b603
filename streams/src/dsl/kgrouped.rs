//! `KGrouped`: a stream grouped by key, waiting for an aggregate.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use super::{Grouped, KTable, Materialized, SharedGraph, builder, kstream, note_clone};
use crate::{
    processor::{Count, CountRaw, Out, Pending},
    serde::SharedSerde,
    topology::{
        Graph, Kind, Make, MakeCx, Node, NodeId, StoreId, TopicRole,
        graph::{self, gather, joint},
    },
};

/// A stream grouped by key (Java: `KGroupedStream`).
pub struct KGrouped<K, V> {
    graph: SharedGraph,
    node: NodeId,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    /// The name given to the group, and so to its repartition topic.
    name: Option<String>,
    repartition: bool,
    /// The repartition source of a named group, which its aggregates share; clones of the handle see it.
    shared: Rc<RefCell<Option<NodeId>>>,
}

impl<K: Clone + Send + 'static, V: Clone + Send + 'static> Clone for KGrouped<K, V> {
    fn clone(&self) -> Self {
        note_clone::<K, V>(&self.graph, self.node);
        Self {
            graph: self.graph.clone(),
            node: self.node,
            key: self.key.clone(),
            value: self.value.clone(),
            name: self.name.clone(),
            repartition: self.repartition,
            shared: self.shared.clone(),
        }
    }
}

impl<K, V> std::fmt::Debug for KGrouped<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KGrouped").field("name", &self.name).field("repartition", &self.repartition).finish()
    }
}

impl<K: Send + 'static, V: Send + 'static> KGrouped<K, V> {
    pub(super) fn new(graph: SharedGraph, node: NodeId, grouped: Grouped<K, V>, repartition: bool) -> Self {
        let Grouped { key, value, name } = grouped;
        Self { graph, node, key, value, name, repartition, shared: Rc::default() }
    }

    /// Counts the records of each key, in a store: `.count("word-counts")`, or with options
    /// `.count(Materialized::named("word-counts").without_caching())`. Records with a null key or a null value are
    /// dropped, as in Java.
    pub fn count(self, materialized: impl Into<Materialized>) -> KTable<K, i64> {
        let Materialized { name: store_name, caching, logging } = materialized.into();
        let mut guard = self.graph.borrow_mut();
        let graph = &mut *guard;
        let store_is_named = store_name.is_some();
        let store_name = store_name.unwrap_or_else(|| graph.next_name("KSTREAM-AGGREGATE-STATE-STORE-").to_string());
        let name = graph.next_name("KSTREAM-AGGREGATE-");
        let parent = if self.repartition { self.repartition(graph, &store_name, store_is_named) } else { self.node };
        let store = graph.add_store(&store_name, caching, logging);
        let topic: Arc<str> = format!("{store_name}-changelog").into();
        let (key, value, node_name) = (self.key.clone(), self.value.clone(), name.clone());
        let counter = move |out, cx: &MakeCx<'_>| {
            let out: Out<K, _> = graph::out(out)?;
            let (name, topic, key_serde) = (node_name.clone(), topic.clone(), key.clone());
            Ok(CountRaw { name, store: cx.store(store)?, topic, key_serde, out, pending: Pending::default() })
        };
        let raw = counter.clone();
        let node = graph.add(Node {
            name,
            kind: Kind::Processor,
            parents: vec![parent],
            stores: vec![store],
            make: Make::Push {
                push: Arc::new(move |out, cx| {
                    Ok(graph::push::<K, V>(Count { counter: counter(out, cx)?, value: value.clone() }))
                }),
                raw: Some(Arc::new(move |out, cx| Ok(Box::new(raw(out, cx)?)))),
            },
            gather: Some(gather::<K, crate::processor::Change<i64>>),
            joint: Some(joint::<K, V>),
            clone_fn: None,
        });
        attach(graph, store, node);
        drop(guard);
        KTable::new(self.graph, node, self.key)
    }

    /// The source behind a repartition topic: sink, filter and source, in Java's order of indices. They are named after
    /// the topic if the user named it (by the group or by the store).
    fn repartition(&self, graph: &mut Graph, store_name: &str, store_is_named: bool) -> NodeId {
        let base = self.name.as_deref().unwrap_or(store_name);
        let topic = format!("{base}-repartition");
        let explicit = self.name.is_some() || store_is_named;
        let mut name = |suffix: &str, prefix: &str| {
            let explicit = explicit.then(|| format!("{topic}-{suffix}"));
            graph.name(explicit.as_deref(), prefix)
        };
        let sink = name("sink", "KSTREAM-SINK-");
        let filter = name("filter", "KSTREAM-FILTER-");
        let source = name("source", "KSTREAM-SOURCE-");
        if let Some(node) = self.shared.borrow().filter(|_| self.name.is_some()) {
            // The source has the type of the grouped stream, whose handle (this one) was cloned.
            let clone_fn = graph.nodes[self.node.0].clone_fn.clone();
            graph.nodes[node.0].clone_fn = clone_fn;
            return node;
        }
        // The filter drops null keys. It stands in the description; in the task, the sink does its work.
        let filter = graph.add(Node {
            name: filter,
            kind: Kind::Processor,
            parents: vec![self.node],
            stores: Vec::new(),
            make: Make::Push {
                push: Arc::new(|out, _| match graph::out::<K, V>(out)? {
                    Out::One(sink) => Ok(Box::new(sink)),
                    out => Ok(graph::push::<K, V>(crate::processor::Pass { out })),
                }),
                raw: None,
            },
            gather: Some(gather::<K, V>),
            joint: Some(joint::<K, V>),
            clone_fn: None,
        });
        let (key, value) = (self.key.clone(), self.value.clone());
        kstream::sink(graph, sink, filter, (&topic, TopicRole::Repartition), key.clone(), value.clone());
        let topic = graph.topic(&topic, TopicRole::Repartition);
        let node = builder::source(graph, source, vec![topic], key, value);
        *self.shared.borrow_mut() = Some(node);
        node
    }
}

/// Notes that a node uses a store.
fn attach(graph: &mut Graph, store: StoreId, node: NodeId) {
    graph.stores[store.0].nodes.push(node);
}
