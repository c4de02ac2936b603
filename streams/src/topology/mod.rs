//! A built topology: named nodes, cut into sub-topologies at repartition topics. It can be described, and asked for
//! tasks; both drivers (`TopologyTestDriver`, `KafkaStreams`) run it.

mod describe;
pub(crate) mod graph;
pub(crate) mod names;

use std::sync::Arc;

pub(crate) use graph::{Graph, Kind, Make, Node, StoreSpec, TopicRole, TopicSpec};

use crate::{
    error::TopologyError,
    processor::{Core, Erased, JointSlot},
    store::{MemoryStore, Store},
    task::{Input, Task, TaskId},
};

/// Index of a node in its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeId(pub(crate) usize);

/// Index of a store in its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StoreId(pub(crate) usize);

/// Index of a topic in its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TopicId(pub(crate) usize);

/// What `StreamsBuilder::build` gives: cheap to clone, safe to share (Java: `Topology`).
#[derive(Clone)]
pub struct Topology {
    inner: Arc<Inner>,
}

struct Inner {
    graph: Graph,
    subs: Vec<SubTopology>,
}

/// Nodes that no repartition topic separates: one task for each partition runs all of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct SubTopology {
    pub(crate) nodes: Vec<NodeId>,
    pub(crate) stores: Vec<StoreId>,
    /// Topics that it reads, with the node that reads each.
    pub(crate) sources: Vec<(TopicId, NodeId)>,
    /// Repartition topics that it writes.
    pub(crate) repartition_sinks: Vec<TopicId>,
}

/// What a node's builder may ask while a task is built.
pub(crate) struct MakeCx<'a> {
    stores: &'a [StoreId],
}

impl MakeCx<'_> {
    /// Where the task keeps the store.
    pub(crate) fn store(&self, store: StoreId) -> Result<usize, TopologyError> {
        self.stores
            .iter()
            .position(|other| *other == store)
            .ok_or_else(|| TopologyError::new("a store is not in its node's sub-topology: a bug of this crate"))
    }
}

impl Topology {
    pub(crate) fn new(graph: Graph) -> Result<Self, TopologyError> {
        if let Some(error) = &graph.error {
            return Err(error.clone());
        }
        let subs = cut(&graph);
        if subs.is_empty() {
            return Err(TopologyError::new("the topology reads no topic: call StreamsBuilder::stream first"));
        }
        let topology = Self { inner: Arc::new(Inner { graph, subs }) };
        // Every edge's type is checked here, once, not when the first task starts.
        for sub in 0..topology.subs().len() {
            topology.task(TaskId { sub_topology: sub, partition: 0 }, 0)?;
        }
        Ok(topology)
    }

    /// The topology as text, as Java's `Topology.describe().toString()` prints it.
    pub fn describe(&self) -> String {
        describe::describe(&self.inner.graph, &self.inner.subs)
    }

    pub(crate) fn subs(&self) -> &[SubTopology] {
        &self.inner.subs
    }

    pub(crate) fn topics(&self) -> &[TopicSpec] {
        &self.inner.graph.topics
    }

    pub(crate) fn store_spec(&self, store: StoreId) -> &StoreSpec {
        &self.inner.graph.stores[store.0]
    }

    /// Topics that it writes: sinks and changelogs.
    pub(crate) fn written_topics(&self) -> Vec<TopicId> {
        let graph = &self.inner.graph;
        let sinks = graph.nodes.iter().filter_map(|node| match node.kind {
            Kind::Sink(topic) => Some(topic),
            Kind::Source(_) | Kind::Processor => None,
        });
        sinks.chain(graph.stores.iter().filter_map(|store| store.changelog)).collect()
    }

    /// Builds a task with empty stores.
    pub(crate) fn task(&self, id: TaskId, seed: u64) -> Result<Task, TopologyError> {
        let sub = &self.inner.subs[id.sub_topology];
        let graph = &self.inner.graph;
        let stores = sub.stores.iter().map(|store| {
            let StoreSpec { name, changelog, caching, .. } = &graph.stores[store.0];
            Store { name: name.clone(), changelog: *changelog, caching: *caching, kv: MemoryStore::new(seed) }
        });
        let core = Core { partition: id.partition, stores: stores.collect(), stream_time: -1, ..Core::default() };
        let mut tree = Tree { graph, cx: MakeCx { stores: &sub.stores }, core, slots: vec![None; graph.nodes.len()] };
        let mut inputs = Vec::new();
        let mut sources = Vec::new();
        for node in sub.nodes.iter().filter(|node| matches!(graph.nodes[node.0].kind, Kind::Source(_))) {
            sources.push(tree.source(*node)?);
            for (topic, _) in sub.sources.iter().filter(|(_, reader)| reader == node) {
                let name = graph.topic_name(*topic);
                inputs.push(Input::new(*topic, name, sources.len() - 1));
            }
        }
        Ok(Task::new(id, tree.core, sources, inputs))
    }
}

impl std::fmt::Debug for Topology {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe())
    }
}

/// Union-find over the nodes in the order of their creation, numbered by first appearance, as Java does.
fn cut(graph: &Graph) -> Vec<SubTopology> {
    let mut root: Vec<usize> = (0..graph.nodes.len()).collect();
    fn find(root: &mut [usize], mut at: usize) -> usize {
        while root[at] != at {
            root[at] = root[root[at]];
            at = root[at];
        }
        at
    }
    for (id, node) in graph.nodes.iter().enumerate() {
        for parent in &node.parents {
            let (a, b) = (find(&mut root, id), find(&mut root, parent.0));
            root[a] = b;
        }
    }
    for store in &graph.stores {
        for pair in store.nodes.windows(2) {
            let (a, b) = (find(&mut root, pair[0].0), find(&mut root, pair[1].0));
            root[a] = b;
        }
    }
    let (mut subs, mut roots): (Vec<SubTopology>, Vec<usize>) = (Vec::new(), Vec::new());
    for (id, node) in graph.nodes.iter().enumerate() {
        let at = find(&mut root, id);
        let sub = roots.iter().position(|known| *known == at).unwrap_or_else(|| {
            roots.push(at);
            subs.push(SubTopology::default());
            subs.len() - 1
        });
        let sub = &mut subs[sub];
        sub.nodes.push(NodeId(id));
        for store in &node.stores {
            if !sub.stores.contains(store) {
                sub.stores.push(*store);
            }
        }
        match &node.kind {
            Kind::Source(topics) => sub.sources.extend(topics.iter().map(|topic| (*topic, NodeId(id)))),
            Kind::Sink(topic) if graph.topics[topic.0].role == TopicRole::Repartition => {
                sub.repartition_sinks.push(*topic);
            }
            Kind::Sink(_) | Kind::Processor => {}
        }
    }
    subs
}

/// Builds a task's processors, children first.
struct Tree<'a> {
    graph: &'a Graph,
    cx: MakeCx<'a>,
    core: Core,
    /// The joint of each node with several parents, once made.
    slots: Vec<Option<usize>>,
}

impl Tree<'_> {
    fn source(&mut self, id: NodeId) -> Result<Box<dyn crate::processor::RawPush>, TopologyError> {
        let node = &self.graph.nodes[id.0];
        let children = self.children(id);
        // An aggregate that is a repartition source's only child reads the bytes itself.
        if let ([child], Kind::Source(topics)) = (&children[..], &node.kind)
            && topics.iter().all(|topic| self.graph.topics[topic.0].role == TopicRole::Repartition)
            && let Make::Push { raw: Some(raw), .. } = &self.graph.nodes[child.0].make
            && self.graph.nodes[child.0].parents.len() == 1
        {
            let out = self.out(*child)?;
            return raw(out, &self.cx);
        }
        match &node.make {
            Make::Source(make) => {
                let out = self.out(id)?;
                make(out, &self.cx)
            }
            Make::Push { .. } => Err(TopologyError::new("a source is no source: a bug of this crate")),
        }
    }

    fn children(&self, id: NodeId) -> Vec<NodeId> {
        let nodes = self.graph.nodes.iter().enumerate();
        nodes
            .flat_map(|(child, node)| node.parents.iter().filter(|parent| **parent == id).map(move |_| NodeId(child)))
            .collect()
    }

    fn out(&mut self, id: NodeId) -> Result<Erased, TopologyError> {
        let mut edges = Vec::new();
        for child in self.children(id) {
            edges.push(self.edge(child)?);
        }
        let node = &self.graph.nodes[id.0];
        match node.gather {
            Some(gather) => gather(edges, node.clone_fn.as_deref()),
            None => Ok(Box::new(())),
        }
    }

    fn edge(&mut self, id: NodeId) -> Result<Erased, TopologyError> {
        let node = &self.graph.nodes[id.0];
        let Some(joint) = node.joint.filter(|_| node.parents.len() > 1) else { return self.push(id) };
        let slot = match self.slots[id.0] {
            Some(slot) => slot,
            None => {
                let slot = self.core.joints.len();
                self.core.joints.push(JointSlot::new(node.parents.len()));
                self.slots[id.0] = Some(slot);
                self.core.joints[slot].node = Some(self.push(id)?);
                slot
            }
        };
        Ok(joint(slot))
    }

    fn push(&mut self, id: NodeId) -> Result<Erased, TopologyError> {
        let out = self.out(id)?;
        match &self.graph.nodes[id.0].make {
            Make::Push { push, .. } => push(out, &self.cx),
            Make::Source(_) => Err(TopologyError::new("a source has a parent: a bug of this crate")),
        }
    }
}
