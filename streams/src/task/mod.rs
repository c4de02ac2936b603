//! A task: one sub-topology over one partition of each of its topics. It is synchronous and never waits: `process` and
//! `flush` stop with `NeedRoom` when the driver is full and go on where they stopped when called again.

mod queue;

use std::{collections::BTreeMap, fmt, sync::Arc};

pub(crate) use queue::{Block, BlockBuilder, PartitionQueue};

use crate::{
    processor::{Core, Cx, Driver, Flow, Position, RawPush, RawRecord, Step},
    store::Store,
    topology::TopicId,
};

/// Which task: `<sub-topology>_<partition>`, as Java prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TaskId {
    pub(crate) sub_topology: usize,
    pub(crate) partition: i32,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.sub_topology, self.partition)
    }
}

/// What `process` came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Progress {
    /// No input is left.
    Idle,
    /// The budget is used up; there is more input.
    More,
    /// The driver has no room.
    NeedRoom,
    /// The record caches reached their bound: flush and commit now.
    CommitSoon,
}

/// A task's input: a topic's partition, what waits of it, and the source that reads it.
pub(crate) struct Input {
    pub(crate) topic: TopicId,
    name: Arc<str>,
    source: usize,
    queue: PartitionQueue,
    /// The offset to commit; `None` before the first record.
    next_offset: Option<i64>,
}

impl Input {
    pub(crate) fn new(topic: TopicId, name: Arc<str>, source: usize) -> Self {
        Self { topic, name, source, queue: PartitionQueue::default(), next_offset: None }
    }
}

/// See the module.
pub(crate) struct Task {
    id: TaskId,
    core: Core,
    sources: Vec<Box<dyn RawPush>>,
    inputs: Vec<Input>,
    /// Timestamp of each input's first waiting record; `i64::MAX` without one. Flat, because choosing scans it.
    heads: Vec<i64>,
    /// Bytes in record caches at which `process` asks for a commit.
    cache_bound: usize,
    processed: u64,
}

impl Task {
    pub(crate) fn new(id: TaskId, core: Core, sources: Vec<Box<dyn RawPush>>, inputs: Vec<Input>) -> Self {
        let heads = vec![i64::MAX; inputs.len()];
        Self { id, core, sources, inputs, heads, cache_bound: usize::MAX, processed: 0 }
    }

    pub(crate) fn id(&self) -> TaskId {
        self.id
    }

    /// Sets the bytes in record caches at which `process` asks for a commit. Default: no bound.
    pub(crate) fn set_cache_bound(&mut self, bytes: usize) {
        self.cache_bound = bytes;
    }

    /// Position of a topic among the inputs.
    pub(crate) fn input(&self, topic: TopicId) -> Option<usize> {
        self.inputs.iter().position(|input| input.topic == topic)
    }

    /// Topics in the order of the inputs.
    pub(crate) fn topics(&self) -> impl Iterator<Item = TopicId> {
        self.inputs.iter().map(|input| input.topic)
    }

    pub(crate) fn stores(&self) -> &[Store] {
        &self.core.stores
    }

    pub(crate) fn stores_mut(&mut self) -> &mut [Store] {
        &mut self.core.stores
    }

    /// Largest record timestamp seen in milliseconds; −1 before the first.
    #[cfg(test)]
    fn stream_time(&self) -> i64 {
        self.core.stream_time
    }

    /// Records dropped for a null key or value.
    pub(crate) fn dropped(&self) -> u64 {
        self.core.dropped
    }

    /// Takes records of an input; offsets rise.
    pub(crate) fn add(&mut self, input: usize, block: Block) {
        let queue = &mut self.inputs[input].queue;
        queue.push(block);
        self.heads[input] = queue.head();
    }

    /// Input records processed so far.
    pub(crate) fn processed(&self) -> u64 {
        self.processed
    }

    /// Whether input waits.
    pub(crate) fn has_input(&self) -> bool {
        self.heads.iter().any(|head| *head != i64::MAX)
    }

    /// Offsets to commit: for each topic with processed records, the one after the last of them.
    pub(crate) fn offsets(&self) -> BTreeMap<TopicId, i64> {
        self.inputs.iter().filter_map(|input| Some((input.topic, input.next_offset?))).collect()
    }

    /// Processes up to `budget` records: always one of the input with the lowest timestamp, and then on in that input
    /// up to the second-lowest.
    pub(crate) fn process(&mut self, driver: &mut dyn Driver, mut budget: usize) -> Step<Progress> {
        loop {
            let Some((input, limit)) = choose(&self.heads) else { return Ok(Progress::Idle) };
            let Self { core, sources, inputs, heads, processed, .. } = self;
            let Input { name, source, queue, next_offset, .. } = &mut inputs[input];
            let source = &mut sources[*source];
            core.position = Position { topic: Some(name.clone()), offset: 0 };
            while let Some((owner, entry, headers)) = queue.first().filter(|(_, entry, _)| entry.timestamp <= limit) {
                if budget == 0 {
                    return Ok(Progress::More);
                }
                if !driver.has_room() {
                    return Ok(Progress::NeedRoom);
                }
                budget -= 1;
                core.position.offset = entry.offset;
                if entry.timestamp < 0 {
                    return Err(core.failure(
                        name,
                        "the record has no timestamp: it was written by a client older than Kafka 0.10; copy the topic with timestamps",
                    ));
                }
                core.stream_time = core.stream_time.max(entry.timestamp);
                let record = RawRecord {
                    owner,
                    key: entry.key(owner),
                    value: entry.value(owner),
                    timestamp: entry.timestamp,
                    headers,
                };
                source.push_raw(&mut Cx { core, driver }, record)?;
                *next_offset = queue.pop();
                *processed += 1;
                heads[input] = queue.head();
                // Stores hold few bytes each record, so it is enough to look now and then.
                if budget.is_multiple_of(64) && core.cached_bytes() >= self.cache_bound {
                    return Ok(Progress::CommitSoon);
                }
            }
        }
    }

    /// Writes what the record caches hold: changelog and downstream records, one a dirty key. To be called again after
    /// `NeedRoom`.
    pub(crate) fn flush(&mut self, driver: &mut dyn Driver) -> Step<Flow> {
        let Self { core, sources, .. } = self;
        core.walk += 1;
        core.position = Position { topic: None, offset: -1 };
        for source in sources {
            if source.flush(&mut Cx { core, driver })? == Flow::NeedRoom {
                return Ok(Flow::NeedRoom);
            }
        }
        Ok(Flow::Done)
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("id", &self.id).field("heads", &self.heads).finish_non_exhaustive()
    }
}

/// The input with the lowest head, and the timestamp up to which it may run on: the second-lowest head. The first of
/// equals wins, and runs on through equals.
fn choose(heads: &[i64]) -> Option<(usize, i64)> {
    let (mut best, mut lowest, mut second) = (0, i64::MAX, i64::MAX);
    for (at, head) in heads.iter().enumerate() {
        if *head < lowest {
            (best, second, lowest) = (at, lowest, *head);
        } else if *head < second {
            second = *head;
        }
    }
    (lowest != i64::MAX).then_some((best, second))
}

#[cfg(test)]
mod tests;
