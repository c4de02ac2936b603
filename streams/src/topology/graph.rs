//! The graph that `StreamsBuilder` records: nodes with erased builders, in the order in which Java would add them.

use std::{any::Any, sync::Arc};

use super::{Erased, MakeCx, NodeId, StoreId, TopicId, names};
use crate::{
    error::TopologyError,
    processor::{CloneFn, Joint, Out, Push, RawPush},
};

/// A node. Everything typed hides in functions that run once per task.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) name: Arc<str>,
    pub(crate) kind: Kind,
    /// One entry for each edge: the same parent twice is two edges.
    pub(crate) parents: Vec<NodeId>,
    pub(crate) stores: Vec<StoreId>,
    pub(crate) make: Make,
    /// Makes this node's `Out` of its children.
    pub(crate) gather: Option<Gather>,
    /// Makes the edge to this node if it has several parents.
    pub(crate) joint: Option<fn(usize) -> Erased>,
    /// A `CloneFn` of this node's output, there once a handle was cloned.
    pub(crate) clone_fn: Option<Arc<dyn Any + Send + Sync>>,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Source(Vec<TopicId>),
    Processor,
    Sink(TopicId),
}

pub(crate) type Gather = fn(Vec<Erased>, Option<&(dyn Any + Send + Sync)>) -> Result<Erased, TopologyError>;
pub(crate) type MakeSource = Arc<dyn Fn(Erased, &MakeCx<'_>) -> Result<Box<dyn RawPush>, TopologyError> + Send + Sync>;
pub(crate) type MakePush = Arc<dyn Fn(Erased, &MakeCx<'_>) -> Result<Erased, TopologyError> + Send + Sync>;

/// Builds the running node from its `Out`.
#[derive(Clone)]
pub(crate) enum Make {
    Source(MakeSource),
    Push {
        push: MakePush,
        /// The same node for bytes, if it can do without its repartition source.
        raw: Option<MakeSource>,
    },
}

/// A topic that a topology names. Internal ones get the application id in front when it runs.
#[derive(Debug, Clone)]
pub(crate) struct TopicSpec {
    pub(crate) name: Arc<str>,
    pub(crate) role: TopicRole,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TopicRole {
    /// The user's.
    User,
    Repartition,
    Changelog,
}

/// A store and the nodes that share it.
#[derive(Debug, Clone)]
pub(crate) struct StoreSpec {
    pub(crate) name: Arc<str>,
    pub(crate) changelog: Option<TopicId>,
    pub(crate) caching: bool,
    pub(crate) nodes: Vec<NodeId>,
}

/// What the handles write to.
#[derive(Clone, Default)]
pub(crate) struct Graph {
    counter: u32,
    pub(crate) nodes: Vec<Node>,
    pub(crate) stores: Vec<StoreSpec>,
    pub(crate) topics: Vec<TopicSpec>,
    /// The first mistake: operators return handles, so `build` reports it.
    pub(crate) error: Option<TopologyError>,
}

impl Graph {
    /// The next generated name. Explicit names burn one too, as in Java, so that naming one node renames no other.
    pub(crate) fn next_name(&mut self, prefix: &str) -> Arc<str> {
        let index = self.counter;
        self.counter += 1;
        format!("{prefix}{index:010}").into()
    }

    /// `explicit` if given, checked; an index is burnt either way.
    pub(crate) fn name(&mut self, explicit: Option<&str>, prefix: &str) -> Arc<str> {
        let generated = self.next_name(prefix);
        match explicit {
            None => generated,
            Some(name) => {
                self.check(name, "name");
                name.into()
            }
        }
    }

    /// Notes a mistake unless an earlier one is known.
    pub(crate) fn fail(&mut self, message: String) {
        self.error.get_or_insert(TopologyError::new(message));
    }

    pub(crate) fn check(&mut self, name: &str, what: &str) {
        if let Err(why) = names::check(name) {
            self.fail(format!("the {what} {name:?} {why}"));
        }
    }

    /// The id of a topic, made if new.
    pub(crate) fn topic(&mut self, name: &str, role: TopicRole) -> TopicId {
        if let Some(at) = self.topics.iter().position(|topic| *topic.name == *name && topic.role == role) {
            return TopicId(at);
        }
        self.check(name, "topic name");
        self.topics.push(TopicSpec { name: name.into(), role });
        TopicId(self.topics.len() - 1)
    }

    pub(crate) fn topic_name(&self, topic: TopicId) -> Arc<str> {
        self.topics[topic.0].name.clone()
    }

    pub(crate) fn add(&mut self, node: Node) -> NodeId {
        if self.nodes.iter().any(|other| other.name == node.name) {
            self.fail(format!("two nodes are named {:?}: give one of them another name", node.name));
        }
        self.nodes.push(node);
        NodeId(self.nodes.len() - 1)
    }

    pub(crate) fn add_store(&mut self, name: &str, caching: bool, logging: bool) -> StoreId {
        self.check(name, "store name");
        if self.stores.iter().any(|store| *store.name == *name) {
            self.fail(format!("two stores are named {name:?}: give one of them another name"));
        }
        let changelog = logging.then(|| self.topic(&format!("{name}-changelog"), TopicRole::Changelog));
        self.stores.push(StoreSpec { name: name.into(), changelog, caching, nodes: Vec::new() });
        StoreId(self.stores.len() - 1)
    }
}

/// The typed `Out` of a node with output `K, V`.
pub(crate) fn gather<K: 'static, V: 'static>(
    children: Vec<Erased>,
    clone_fn: Option<&(dyn Any + Send + Sync)>,
) -> Result<Erased, TopologyError> {
    let mut typed = Vec::with_capacity(children.len());
    for child in children {
        typed.push(*child.downcast::<Box<dyn Push<K, V>>>().map_err(|_| wrong_edge::<K, V>())?);
    }
    let out: Out<K, V> = match (typed.len(), clone_fn) {
        (0 | 1, _) => typed.pop().map_or(Out::None, Out::One),
        (_, Some(clone)) => Out::Many(typed, *clone.downcast_ref::<CloneFn<K, V>>().ok_or_else(wrong_edge::<K, V>)?),
        // Operators take `self`, so a second child needs a cloned handle.
        (_, None) => return Err(TopologyError::new("a node has several children, but no handle of it was cloned")),
    };
    Ok(Box::new(out))
}

/// The edge to a node with several parents and input `K, V`.
pub(crate) fn joint<K: 'static, V: 'static>(slot: usize) -> Erased {
    push::<K, V>(Joint::<K, V>::new(slot))
}

/// A processor as the tree builder carries it.
pub(crate) fn push<K: 'static, V: 'static>(node: impl Push<K, V> + 'static) -> Erased {
    Box::new(Box::new(node) as Box<dyn Push<K, V>>)
}

/// A node's `Out`, typed again.
pub(crate) fn out<K: 'static, V: 'static>(erased: Erased) -> Result<Out<K, V>, TopologyError> {
    erased.downcast::<Out<K, V>>().map(|out| *out).map_err(|_| wrong_edge::<K, V>())
}

#[cold]
fn wrong_edge<K, V>() -> TopologyError {
    let (key, value) = (std::any::type_name::<K>(), std::any::type_name::<V>());
    TopologyError::new(format!("an edge of {key}, {value} leads to a node of other types: a bug of this crate"))
}
