//! `KTable`: the latest value of each key.

use std::sync::Arc;

use super::{KStream, SharedGraph, note_clone};
use crate::{
    processor::{Change, Out, ToStream},
    serde::SharedSerde,
    topology::{
        Kind, Make, Node, NodeId,
        graph::{self, gather, joint},
    },
};

/// A table: one value a key, kept in a store (Java: `KTable`).
pub struct KTable<K, V> {
    graph: SharedGraph,
    node: NodeId,
    key: SharedSerde<K>,
    kind: std::marker::PhantomData<fn() -> V>,
}

impl<K: Clone + 'static, V: Clone + 'static> Clone for KTable<K, V> {
    fn clone(&self) -> Self {
        note_clone::<K, Change<V>>(&self.graph, self.node);
        Self { graph: self.graph.clone(), node: self.node, key: self.key.clone(), kind: self.kind }
    }
}

impl<K, V> std::fmt::Debug for KTable<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("KTable").field(&self.graph.borrow().nodes[self.node.0].name).finish()
    }
}

impl<K: Send + 'static, V: Send + 'static> KTable<K, V> {
    pub(super) fn new(graph: SharedGraph, node: NodeId, key: SharedSerde<K>) -> Self {
        Self { graph, node, key, kind: std::marker::PhantomData }
    }

    /// The table's updates as a stream. With caching these are the last ones before each commit, otherwise all.
    pub fn to_stream(self) -> KStream<K, V> {
        let mut graph = self.graph.borrow_mut();
        let name = graph.next_name("KTABLE-TOSTREAM-");
        let node = graph.add(Node {
            name,
            kind: Kind::Processor,
            parents: vec![self.node],
            stores: Vec::new(),
            make: Make::Push {
                push: Arc::new(|out, _| {
                    let out: Out<K, V> = graph::out(out)?;
                    Ok(graph::push::<K, Change<V>>(ToStream { out }))
                }),
                raw: None,
            },
            gather: Some(gather::<K, V>),
            joint: Some(joint::<K, Change<V>>),
            clone_fn: None,
        });
        drop(graph);
        KStream::new(self.graph, node, Some(self.key), None, false)
    }
}
