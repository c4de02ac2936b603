//! `TopologyTestDriver`: runs a topology without a broker, in virtual time, record by record, on the caller's thread.

use std::time::Duration;

use bytes::Bytes;
use milena_client::SerializeError;

use crate::{
    error::ProcessingError,
    processor::{Driver, Flow, Outgoing, Part},
    record::{Headers, Record},
    serde::{DefaultSerde, Serde as _},
    store::Store,
    task::{BlockBuilder, PartitionQueue, Progress, Task, TaskId},
    topology::{TopicId, TopicRole, Topology},
};

/// Runs a topology in a test (Java: `TopologyTestDriver`). Every topic has one partition; what is written to a
/// repartition topic, or to any topic that the topology reads, is read at once.
///
/// As in Java it commits after every record, so caching never holds a result back; [`TestDriverBuilder::cached`] lets a
/// test see what caching does. Internal topics go by their names in `Topology::describe`, without an application id.
///
/// ```
/// # use milena_streams::{StreamsBuilder, TopologyTestDriver};
/// let builder = StreamsBuilder::new();
/// builder.stream::<String, i64>("in").filter(|_, n| *n > 1).to("out");
/// let mut driver = TopologyTestDriver::new(&builder.build()?);
/// driver.pipe_input::<String, i64>("in", "a", 1)?;
/// driver.pipe_input::<String, i64>("in", "b", 2)?;
/// assert_eq!(driver.read_all::<String, i64>("out")?, [("b".to_owned(), 2)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TopologyTestDriver {
    topology: Topology,
    tasks: Vec<Task>,
    capture: Capture,
    /// What each topic was sent and has not been read; repartition topics keep nothing.
    outputs: Vec<PartitionQueue>,
    now_ms: i64,
    commit_each: bool,
}

/// Options of a [`TopologyTestDriver`].
#[derive(Debug)]
pub struct TestDriverBuilder {
    topology: Topology,
    now_ms: i64,
    commit_each: bool,
}

impl TestDriverBuilder {
    /// The time at which the test starts, in milliseconds since 1970. Default: 0.
    pub fn start_time(mut self, ms: i64) -> Self {
        self.now_ms = ms;
        self
    }

    /// Commits only when [`TopologyTestDriver::commit`] is called, so that record caches collapse updates. Default: after
    /// every record, as Java does.
    pub fn cached(mut self) -> Self {
        self.commit_each = false;
        self
    }

    /// The driver.
    pub fn build(self) -> TopologyTestDriver {
        let Self { topology, now_ms, commit_each } = self;
        let task = |sub_topology| {
            // `StreamsBuilder::build` made every task once, so that this cannot fail.
            #[expect(clippy::expect_used, reason = "proved by the line above")]
            let task = topology.task(TaskId { sub_topology, partition: 0 }, 0).expect("a built topology makes tasks");
            task
        };
        let tasks = (0..topology.subs().len()).map(task).collect();
        let topics = topology.topics().len();
        let capture = Capture { sent: (0..topics).map(|_| Sent::default()).collect(), touched: Vec::new(), room: None };
        let outputs = (0..topics).map(|_| PartitionQueue::default()).collect();
        TopologyTestDriver { topology, tasks, capture, outputs, now_ms, commit_each }
    }
}

impl TopologyTestDriver {
    /// A driver that commits after every record, at time 0.
    pub fn new(topology: &Topology) -> Self {
        Self::builder(topology).build()
    }

    /// A driver with options.
    pub fn builder(topology: &Topology) -> TestDriverBuilder {
        TestDriverBuilder { topology: topology.clone(), now_ms: 0, commit_each: true }
    }

    /// Sends a record at the driver's time and runs the topology until nothing is left to do:
    /// `driver.pipe_input::<(), String>("lines", (), "a b c")?`.
    pub fn pipe_input<K: DefaultSerde, V: DefaultSerde>(
        &mut self,
        topic: &str,
        key: impl Into<K>,
        value: impl Into<V>,
    ) -> Result<(), ProcessingError> {
        let now = self.now_ms;
        self.pipe_input_at::<K, V>(topic, key, value, now)
    }

    /// As [`pipe_input`](Self::pipe_input), with the record's timestamp in milliseconds since 1970.
    pub fn pipe_input_at<K: DefaultSerde, V: DefaultSerde>(
        &mut self,
        topic: &str,
        key: impl Into<K>,
        value: impl Into<V>,
        timestamp: i64,
    ) -> Result<(), ProcessingError> {
        let key = self.encode::<K>(topic, &key.into())?;
        let value = self.encode::<V>(topic, &value.into())?;
        self.pipe_bytes(topic, key.as_deref(), value.as_deref(), timestamp)
    }

    /// As [`pipe_input_at`](Self::pipe_input_at), with bytes: null keys and values, and whatever a serde might refuse.
    pub fn pipe_bytes(
        &mut self,
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
    ) -> Result<(), ProcessingError> {
        let id = self.topic(topic)?;
        if self.reader(id).is_none() {
            return Err(self.refuse(topic, "the topology does not read this topic"));
        }
        self.capture.push(id, key, value, timestamp, &Headers::default());
        self.capture.sent[id.0].piped = true;
        self.run()
    }

    /// Sends many records without key at the driver's time, and runs the topology once.
    pub fn pipe_values<'a>(
        &mut self,
        topic: &str,
        values: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(), ProcessingError> {
        let id = self.topic(topic)?;
        if self.reader(id).is_none() {
            return Err(self.refuse(topic, "the topology does not read this topic"));
        }
        for value in values {
            self.capture.push(id, None, Some(value), self.now_ms, &Headers::default());
            self.capture.sent[id.0].piped = true;
        }
        self.run()
    }

    /// The next record that was written to a topic, oldest first; `None` if there is none.
    pub fn read_output<K: DefaultSerde, V: DefaultSerde>(
        &mut self,
        topic: &str,
    ) -> Result<Option<Record<K, V>>, SerializeError> {
        let Ok(id) = self.topic(topic) else {
            return Err(SerializeError::new(format!("the topology has no topic {topic}: see Topology::describe")));
        };
        let queue = &mut self.outputs[id.0];
        let Some((owner, entry, headers)) = queue.first() else { return Ok(None) };
        let record = Record {
            key: decode(topic, entry.key(owner), owner)?,
            value: decode(topic, entry.value(owner), owner)?,
            timestamp: entry.timestamp,
            headers,
        };
        queue.pop();
        Ok(Some(record))
    }

    /// Keys and values of all records that were written to a topic and not read yet.
    pub fn read_all<K: DefaultSerde, V: DefaultSerde>(&mut self, topic: &str) -> Result<Vec<(K, V)>, SerializeError> {
        let mut all = Vec::new();
        while let Some(Record { key, value, .. }) = self.read_output(topic)? {
            all.push((key, value));
        }
        Ok(all)
    }

    /// Moves the driver's time on.
    pub fn advance_time(&mut self, by: Duration) {
        self.now_ms = self.now_ms.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX));
    }

    /// The driver's time in milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// Flushes all record caches, as a commit does. Only a [cached](TestDriverBuilder::cached) driver needs it.
    pub fn commit(&mut self) -> Result<(), ProcessingError> {
        for task in 0..self.tasks.len() {
            self.flush(task)?;
            self.route();
            // The flush of one sub-topology is input of the next.
            self.run()?;
        }
        Ok(())
    }

    /// A store by name; `None` if the topology has none of that name.
    pub fn store(&self, name: &str) -> Option<StoreView<'_>> {
        let mut stores = self.tasks.iter().flat_map(|task| task.stores());
        stores.find(|store| *store.name == *name).map(|store| StoreView { store })
    }

    /// Records that aggregates dropped because their key or value was null.
    pub fn dropped_records(&self) -> u64 {
        self.tasks.iter().map(Task::dropped).sum()
    }

    fn run(&mut self) -> Result<(), ProcessingError> {
        self.route();
        while let Some(task) = self.tasks.iter().position(Task::has_input) {
            let budget = if self.commit_each { 1 } else { usize::MAX };
            match self.tasks[task].process(&mut self.capture, budget) {
                Ok(Progress::NeedRoom) => self.capture.room = self.capture.room.map(|_| 1),
                Ok(Progress::Idle | Progress::More | Progress::CommitSoon) => {}
                Err(failure) => return Err(*failure),
            }
            if self.commit_each {
                self.flush(task)?;
            }
            self.route();
        }
        Ok(())
    }

    fn flush(&mut self, task: usize) -> Result<(), ProcessingError> {
        while self.tasks[task].flush(&mut self.capture).map_err(|failure| *failure)? == Flow::NeedRoom {
            self.capture.room = self.capture.room.map(|_| 1);
        }
        Ok(())
    }

    /// Hands what was sent to its readers: tasks, and the test.
    fn route(&mut self) {
        for topic in std::mem::take(&mut self.capture.touched) {
            let block = self.capture.sent[topic.0].builder.finish();
            if self.topology.topics()[topic.0].role != TopicRole::Repartition && !self.capture.sent[topic.0].piped {
                self.outputs[topic.0].push(block.clone());
            }
            self.capture.sent[topic.0].piped = false;
            if let Some((task, input)) = self.reader(topic) {
                self.tasks[task].add(input, block);
            }
        }
    }

    fn reader(&self, topic: TopicId) -> Option<(usize, usize)> {
        self.tasks.iter().enumerate().find_map(|(at, task)| Some((at, task.input(topic)?)))
    }

    fn topic(&self, name: &str) -> Result<TopicId, ProcessingError> {
        let at = self.topology.topics().iter().position(|topic| *topic.name == *name);
        at.map(TopicId).ok_or_else(|| self.refuse(name, "the topology has no such topic: see Topology::describe"))
    }

    fn encode<T: DefaultSerde>(&self, topic: &str, value: &T) -> Result<Option<Vec<u8>>, ProcessingError> {
        let serde = T::Serde::default();
        if serde.is_null(value) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        serde.encode(topic, value, &mut bytes).map_err(|error| self.refuse(topic, &error.to_string()))?;
        Ok(Some(bytes))
    }

    fn refuse(&self, topic: &str, message: &str) -> ProcessingError {
        ProcessingError {
            node: format!("input to {topic}"),
            topic: topic.to_owned(),
            partition: 0,
            offset: -1,
            message: message.to_owned(),
        }
    }
}

/// A store of a [`TopologyTestDriver`], to look into.
#[derive(Debug)]
pub struct StoreView<'a> {
    store: &'a Store,
}

impl StoreView<'_> {
    /// The value of a key: `store.get::<String, i64>("word")?`.
    pub fn get<K: DefaultSerde, V: DefaultSerde>(&self, key: impl Into<K>) -> Result<Option<V>, SerializeError> {
        let mut bytes = Vec::new();
        K::Serde::default().encode(&self.store.name, &key.into(), &mut bytes)?;
        let Some((value, _)) = self.store.kv.get(&bytes) else { return Ok(None) };
        decode(&self.store.name, Some(value), &Bytes::copy_from_slice(value)).map(Some)
    }

    /// All entries, in the order in which their keys were first written.
    pub fn entries<K: DefaultSerde, V: DefaultSerde>(&self) -> Result<Vec<(K, V)>, SerializeError> {
        let entry = |update: crate::store::Update<'_>| {
            let key = Bytes::copy_from_slice(update.key);
            let value = update.value.map(Bytes::copy_from_slice).unwrap_or_default();
            Ok((decode(&self.store.name, Some(&key), &key)?, decode(&self.store.name, Some(&value), &value)?))
        };
        self.store.kv.iter().map(entry).collect()
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.store.kv.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn decode<T: DefaultSerde>(topic: &str, raw: Option<&[u8]>, owner: &Bytes) -> Result<T, SerializeError> {
    let serde = T::Serde::default();
    match raw {
        Some(raw) => serde.decode(topic, raw, owner),
        None => serde
            .decode_null()
            .ok_or_else(|| SerializeError::new(format!("{topic} holds a null here: read it as Option or ()"))),
    }
}

/// Takes what tasks send.
#[derive(Debug)]
struct Capture {
    sent: Vec<Sent>,
    /// Topics with something in `sent`, in the order of their first record.
    touched: Vec<TopicId>,
    /// How many records there is room for; `None`: any number.
    room: Option<usize>,
}

#[derive(Debug, Default)]
struct Sent {
    builder: BlockBuilder,
    next_offset: i64,
    /// What the test itself sent, which it does not want to read back.
    piped: bool,
}

impl Capture {
    fn push(&mut self, topic: TopicId, key: Option<&[u8]>, value: Option<&[u8]>, timestamp: i64, headers: &Headers) {
        let sent = &mut self.sent[topic.0];
        if sent.builder.is_empty() {
            self.touched.push(topic);
        }
        sent.builder.push(sent.next_offset, timestamp, key, value, headers.clone());
        sent.next_offset += 1;
    }
}

impl Driver for Capture {
    fn send(&mut self, topic: TopicId, _part: Part, record: Outgoing<'_>) {
        let Outgoing { key, value, timestamp, headers } = record;
        self.push(topic, key, value, timestamp, headers);
        if let Some(room) = &mut self.room {
            *room = room.saturating_sub(1);
        }
    }

    fn has_room(&self) -> bool {
        self.room != Some(0)
    }
}
