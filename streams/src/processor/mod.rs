//! What runs: a tree of typed boxed processors for each task. The edge types are checked once, when the tree is built; a
//! record then meets no `Any` and no look-up. (A hop through a typed box costs 4–7 ns, a message in `Box<dyn Any>` 14.)
//!
//! Nodes with several parents (`merge`) cannot sit in a tree: they wait in a slot of the task, and each parent holds a
//! [`Joint`] that takes the node out, pushes, and puts it back.

mod count;
mod operators;
mod sink;
mod source;

use std::{any::Any, marker::PhantomData, sync::Arc};

pub(crate) use count::{Change, Count, CountRaw, Pending, ToStream};
pub(crate) use operators::{Expand, Filter, FlatMapValues, ForEach, Map, MapValues, Pass, Peek, SelectKey};
pub(crate) use sink::Sink;
pub(crate) use source::Source;

pub use operators::Emit;

use bytes::Bytes;

use crate::{
    error::{Failure, ProcessingError},
    record::{Headers, Record},
    store::Store,
    topology::TopicId,
};

/// The outcome of a step on the record path.
pub(crate) type Step<T = ()> = Result<T, Failure>;

/// A processor that takes records of one type. `control` reaches every node once for each walk.
pub(crate) trait Push<K, V>: Send {
    fn push(&mut self, cx: &mut Cx<'_>, record: Record<K, V>) -> Step;
    fn flush(&mut self, cx: &mut Cx<'_>) -> Step<Flow>;
}

/// A processor at the edge of a task, which takes bytes: a source, or an aggregate fused with its repartition source.
pub(crate) trait RawPush: Send {
    fn push_raw(&mut self, cx: &mut Cx<'_>, record: RawRecord<'_>) -> Step;
    fn flush(&mut self, cx: &mut Cx<'_>) -> Step<Flow>;
}

/// An input record as bytes.
#[derive(Debug)]
pub(crate) struct RawRecord<'a> {
    /// What `key` and `value` are slices of.
    pub(crate) owner: &'a Bytes,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) timestamp: i64,
    pub(crate) headers: Headers,
}

/// Whether a walk came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Flow {
    Done,
    /// The driver has no room; call again once it has: the walk resumes where it stopped.
    NeedRoom,
}

/// Where a task's records go.
pub(crate) trait Driver {
    /// Takes a record. It never fails for want of room: `has_room` is asked between input records, and the outputs of
    /// one input record may overshoot.
    fn send(&mut self, topic: TopicId, part: Part, record: Outgoing<'_>);
    /// Whether more should be sent now.
    fn has_room(&self) -> bool;
}

/// The partition of an outgoing record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// By the key (murmur2, as Java's default partitioner), anywhere without one.
    ByKey,
    /// This one: a changelog's partition is the task's.
    Fixed(i32),
}

/// A record on its way out, as bytes.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) timestamp: i64,
    pub(crate) headers: &'a Headers,
}

/// A task's state as its processors see it, and where their records go.
pub(crate) struct Cx<'a> {
    pub(crate) core: &'a mut Core,
    pub(crate) driver: &'a mut dyn Driver,
}

/// What the processors of one task share.
#[derive(Debug, Default)]
pub(crate) struct Core {
    pub(crate) partition: i32,
    pub(crate) stores: Vec<Store>,
    pub(crate) joints: Vec<JointSlot>,
    /// The input record being processed.
    pub(crate) position: Position,
    /// Largest record timestamp seen, in milliseconds; −1 before the first.
    pub(crate) stream_time: i64,
    /// Records that an operator dropped as Java does (null keys and values of an aggregate).
    pub(crate) dropped: u64,
    /// Number of the flush walk, so that a joint knows whether a visit is the walk's first.
    pub(crate) walk: u64,
    /// Scratch: the key and the value that are encoded last.
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// Topic and offset of an input record.
#[derive(Debug, Clone, Default)]
pub(crate) struct Position {
    pub(crate) topic: Option<Arc<str>>,
    pub(crate) offset: i64,
}

impl Core {
    /// Bytes that wait in record caches.
    pub(crate) fn cached_bytes(&self) -> usize {
        self.stores.iter().map(|store| store.kv.dirty_bytes()).sum()
    }

    /// A failure of `node` at the current input record.
    #[cold]
    pub(crate) fn failure(&self, node: &str, message: impl ToString) -> Failure {
        Box::new(ProcessingError {
            node: node.to_owned(),
            topic: self.position.topic.as_deref().unwrap_or_default().to_owned(),
            partition: self.partition,
            offset: self.position.offset,
            message: message.to_string(),
        })
    }
}

/// Clones a record for one more child.
pub(crate) type CloneFn<K, V> = fn(&Record<K, V>) -> Record<K, V>;

/// The children of a node: a record moves to the last one and is cloned for the others.
pub(crate) enum Out<K, V> {
    None,
    One(Box<dyn Push<K, V>>),
    Many(Vec<Box<dyn Push<K, V>>>, CloneFn<K, V>),
}

impl<K, V> Out<K, V> {
    #[inline]
    pub(crate) fn push(&mut self, cx: &mut Cx<'_>, record: Record<K, V>) -> Step {
        match self {
            Self::None => Ok(()),
            Self::One(child) => child.push(cx, record),
            Self::Many(children, clone) => {
                let Some((last, rest)) = children.split_last_mut() else { return Ok(()) };
                for child in rest {
                    child.push(cx, clone(&record))?;
                }
                last.push(cx, record)
            }
        }
    }

    pub(crate) fn flush(&mut self, cx: &mut Cx<'_>) -> Step<Flow> {
        match self {
            Self::None => Ok(Flow::Done),
            Self::One(child) => child.flush(cx),
            Self::Many(children, _) => {
                for child in children {
                    if child.flush(cx)? == Flow::NeedRoom {
                        return Ok(Flow::NeedRoom);
                    }
                }
                Ok(Flow::Done)
            }
        }
    }

    pub(crate) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

/// A typed processor or its children, while a tree is built.
pub(crate) type Erased = Box<dyn Any + Send>;

/// Where a node with several parents waits.
pub(crate) struct JointSlot {
    /// A `Box<dyn Push<K, V>>`; `None` while a record is in it.
    pub(crate) node: Option<Erased>,
    /// How many edges lead here.
    pub(crate) parents: usize,
    /// The last flush walk that came by, and how often.
    visits: (u64, usize),
}

impl JointSlot {
    pub(crate) fn new(parents: usize) -> Self {
        Self { node: None, parents, visits: (0, 0) }
    }
}

impl std::fmt::Debug for JointSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JointSlot").field("parents", &self.parents).finish_non_exhaustive()
    }
}

/// One parent's edge to a node with several parents.
pub(crate) struct Joint<K, V> {
    slot: usize,
    kind: PhantomData<fn(K, V)>,
}

impl<K: 'static, V: 'static> Joint<K, V> {
    pub(crate) fn new(slot: usize) -> Self {
        Self { slot, kind: PhantomData }
    }

    fn with<T>(&self, cx: &mut Cx<'_>, act: impl FnOnce(&mut dyn Push<K, V>, &mut Cx<'_>) -> Step<T>) -> Step<T> {
        let mut taken = cx.core.joints[self.slot].node.take();
        let Some(node) = taken.as_mut().and_then(|node| node.downcast_mut::<Box<dyn Push<K, V>>>()) else {
            // A graph has no cycles, so a node never meets itself; its type was checked when the tree was built.
            return Err(cx.core.failure("joint", "a node with several parents is missing: a bug of this crate"));
        };
        let done = act(node.as_mut(), cx);
        cx.core.joints[self.slot].node = taken;
        done
    }
}

impl<K: 'static, V: 'static> Push<K, V> for Joint<K, V> {
    fn push(&mut self, cx: &mut Cx<'_>, record: Record<K, V>) -> Step {
        self.with(cx, |node, cx| node.push(cx, record))
    }

    /// Only the walk's last visit goes on: flushed at the first, the node would get records from its other parents'
    /// flushes and stay dirty.
    fn flush(&mut self, cx: &mut Cx<'_>) -> Step<Flow> {
        let walk = cx.core.walk;
        let slot = &mut cx.core.joints[self.slot];
        if slot.visits.0 != walk {
            slot.visits = (walk, 0);
        }
        slot.visits.1 += 1;
        if slot.visits.1 < slot.parents {
            return Ok(Flow::Done);
        }
        self.with(cx, |node, cx| node.flush(cx))
    }
}
