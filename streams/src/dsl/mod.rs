//! The DSL: handles that record what is to be done. A handle has a type, no chain of types: it can be named, kept in a
//! vector, returned from an `if`. Operators take `self`; cloning a handle *is* the fan-out, and only then must records
//! be `Clone`.

mod builder;
mod kgrouped;
mod kstream;
mod ktable;
mod options;

pub use builder::StreamsBuilder;
pub use kgrouped::KGrouped;
pub use kstream::KStream;
pub use ktable::KTable;
pub use options::{Consumed, Grouped, Materialized, Produced, Topics};

use std::{cell::RefCell, rc::Rc, sync::Arc};

use crate::{
    processor::CloneFn,
    record::Record,
    topology::{Graph, NodeId},
};

/// The graph that all handles of one builder write to.
pub(crate) type SharedGraph = Rc<RefCell<Graph>>;

/// Notes how a node's output is cloned: its handle was.
fn note_clone<K: Clone + 'static, V: Clone + 'static>(graph: &SharedGraph, node: NodeId) {
    let clone: CloneFn<K, V> = Record::<K, V>::clone;
    graph.borrow_mut().nodes[node.0].clone_fn = Some(Arc::new(clone));
}
