//! The text of a topology, letter for letter what Java's `TopologyDescription` prints.
//!
//! That includes the orders Java leaves to its collections: nodes of a sub-topology by the size of what lies below them
//! and then by name; the names behind an arrow in a tree set whose comparator looks at sizes *while they still grow*,
//! filled in the order of a hash map; topics of a source in the order of a hash set.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{Graph, Kind, SubTopology, names::java_hash_order};

pub(crate) fn describe(graph: &Graph, subs: &[SubTopology]) -> String {
    // The space behind the line end is Java's.
    let mut text = "Topologies:\n ".to_owned();
    for (id, sub) in subs.iter().enumerate() {
        // `write!` to a String cannot fail.
        let _ = writeln!(text, "  Sub-topology: {id}");
        let nodes = shapes(graph, sub);
        let mut order: Vec<&str> = nodes.keys().copied().collect();
        order.sort_by(|a, b| nodes[b].size.cmp(&nodes[a].size).then_with(|| a.cmp(b)));
        for name in order {
            describe_node(graph, &nodes, name, &mut text);
        }
        text.push('\n');
    }
    text
}

fn describe_node(graph: &Graph, nodes: &BTreeMap<&str, Shape<'_>>, name: &str, text: &mut String) {
    let shape = &nodes[name];
    let node = &graph.nodes[shape.node];
    let topic = |id: &super::TopicId| &*graph.topics[id.0].name;
    let list = |names: &Tree<'_>| if names.0.is_empty() { "none".to_owned() } else { names.in_order().join(", ") };
    let _ = match &node.kind {
        Kind::Source(topics) => {
            let topics = java_hash_order(topics.iter().map(topic)).join(", ");
            writeln!(text, "    Source: {name} (topics: [{topics}])\n      --> {}", list(&shape.successors))
        }
        Kind::Processor => {
            let stores = java_hash_order(node.stores.iter().map(|store| &*graph.stores[store.0].name)).join(", ");
            let (to, from) = (list(&shape.successors), list(&shape.predecessors));
            writeln!(text, "    Processor: {name} (stores: [{stores}])\n      --> {to}\n      <-- {from}")
        }
        Kind::Sink(id) => {
            writeln!(text, "    Sink: {name} (topic: {})\n      <-- {}", topic(id), list(&shape.predecessors))
        }
    };
}

struct Shape<'a> {
    node: usize,
    size: usize,
    predecessors: Tree<'a>,
    successors: Tree<'a>,
}

/// Edges are added node by node in hash order; each adds the child's size of that moment to all above.
fn shapes<'a>(graph: &'a Graph, sub: &SubTopology) -> BTreeMap<&'a str, Shape<'a>> {
    let name = |id: usize| &*graph.nodes[id].name;
    let mut nodes: BTreeMap<&str, Shape<'_>> = sub
        .nodes
        .iter()
        .map(|id| {
            let shape = Shape { node: id.0, size: 1, predecessors: Tree::default(), successors: Tree::default() };
            (name(id.0), shape)
        })
        .collect();
    for child in java_hash_order(sub.nodes.iter().map(|id| name(id.0))) {
        for parent in &graph.nodes[nodes[child].node].parents {
            let parent = name(parent.0);
            insert(&mut nodes, child, parent, true);
            insert(&mut nodes, parent, child, false);
            let size = nodes[child].size;
            grow(&mut nodes, parent, size);
        }
    }
    nodes
}

fn grow<'a>(nodes: &mut BTreeMap<&'a str, Shape<'a>>, name: &'a str, by: usize) {
    let Some(shape) = nodes.get_mut(name) else { return };
    shape.size += by;
    for predecessor in shape.predecessors.in_order() {
        grow(nodes, predecessor, by);
    }
}

fn insert<'a>(nodes: &mut BTreeMap<&'a str, Shape<'a>>, of: &'a str, name: &'a str, predecessor: bool) {
    let sizes: BTreeMap<&str, usize> = nodes.iter().map(|(name, shape)| (*name, shape.size)).collect();
    let Some(shape) = nodes.get_mut(of) else { return };
    let tree = if predecessor { &mut shape.predecessors } else { &mut shape.successors };
    tree.insert(name, |a, b| sizes[b].cmp(&sizes[a]).then_with(|| a.cmp(b)));
}

/// A binary search tree of names. Java's is balanced, which shows only above three children whose sizes changed between
/// the insertions.
#[derive(Default)]
struct Tree<'a>(Vec<Branch<'a>>);

struct Branch<'a> {
    name: &'a str,
    left: Option<usize>,
    right: Option<usize>,
}

impl<'a> Tree<'a> {
    fn insert(&mut self, name: &'a str, compare: impl Fn(&str, &str) -> std::cmp::Ordering) {
        let new = self.0.len();
        let mut at = (!self.0.is_empty()).then_some(0);
        while let Some(here) = at {
            let branch = &mut self.0[here];
            let next = match compare(name, branch.name) {
                std::cmp::Ordering::Less => &mut branch.left,
                std::cmp::Ordering::Equal => return,
                std::cmp::Ordering::Greater => &mut branch.right,
            };
            at = *next;
            if at.is_none() {
                *next = Some(new);
            }
        }
        self.0.push(Branch { name, left: None, right: None });
    }

    fn in_order(&self) -> Vec<&'a str> {
        fn walk<'a>(tree: &[Branch<'a>], at: Option<usize>, out: &mut Vec<&'a str>) {
            let Some(branch) = at.map(|at| &tree[at]) else { return };
            walk(tree, branch.left, out);
            out.push(branch.name);
            walk(tree, branch.right, out);
        }
        let mut out = Vec::new();
        walk(&self.0, (!self.0.is_empty()).then_some(0), &mut out);
        out
    }
}
