//! From tasks to the producer. Tasks append to buffers of this thread, one a partition; after each slice of work a
//! buffer goes to the producer as a whole, under one lock. Every run that the producer took is remembered until it is
//! delivered: a commit may only cover what is.

use std::{collections::VecDeque, sync::Arc};

use milena_client::{Error, GroupMetadata, OffsetAndMetadata, TopicPartition};
use milena_producer::{Appended, AsRecord, Backlog, Header, RecordView, murmur2_partition};

use super::{names::TopicNames, writer::Writer};
use crate::{
    processor::{Driver, Outgoing, Part},
    record::Headers,
    topology::TopicId,
};

/// Bytes that wait in this thread's buffers before a task is told to wait.
const LIMIT: usize = 512 << 10;

/// Bytes of records without a key that go to one partition before the next is drawn.
const STICKY: usize = 16 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct Sends {
    writer: Writer,
    topics: Vec<OutTopic>,
    /// Partitions with something in their buffer, in the order of their first record.
    touched: VecDeque<(TopicId, usize)>,
    buffered: usize,
    /// What the producer has taken and not delivered, oldest first.
    outstanding: VecDeque<Appended>,
    rng: fastrand::Rng,
}

#[derive(Debug)]
struct OutTopic {
    name: Arc<str>,
    partitions: Vec<Buffer>,
    /// Where records without a key go, and how many bytes more of them.
    sticky: (usize, usize),
}

/// Records of one partition on their way to the producer.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    headers: Vec<(usize, Headers)>,
    /// How many entries the producer has taken.
    taken: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    start: usize,
    /// −1 for null.
    key_len: i32,
    /// −1 for null.
    value_len: i32,
    timestamp: i64,
}

impl Sends {
    /// Looks up the topics that the topology writes.
    pub(crate) async fn new(
        writer: Writer,
        names: &TopicNames,
        written: &[TopicId],
        topics: usize,
        rng: fastrand::Rng,
    ) -> Result<Self, Error> {
        let mut out = Vec::with_capacity(topics);
        for id in (0..topics).map(TopicId) {
            let name = names.name(id).clone();
            let partitions = if written.contains(&id) { writer.prepare_topic(&name).await? } else { 0 };
            let partitions = (0..partitions).map(|_| Buffer::default()).collect();
            out.push(OutTopic { name, partitions, sticky: (0, 0) });
        }
        Ok(Self { writer, topics: out, touched: VecDeque::new(), buffered: 0, outstanding: VecDeque::new(), rng })
    }

    /// Ends the producer. To be called when everything is settled, or given up.
    pub(crate) async fn close(self, deadline: std::time::Duration) -> Result<(), Error> {
        self.writer.close(deadline).await
    }

    /// Hands the buffers to the producer as far as it has room. Fails if something that it took before was not
    /// delivered.
    pub(crate) fn hand_over(&mut self) -> Result<(), Error> {
        self.forget_delivered()?;
        while let Some((topic, partition)) = self.touched.front().copied() {
            let OutTopic { name, partitions, .. } = &mut self.topics[topic.0];
            let buffer = &mut partitions[partition];
            // The producer numbers partitions as Kafka does.
            let number = i32::try_from(partition).unwrap_or(i32::MAX);
            let appended = self.writer.append(name, number, &mut Backlog::new(buffer.records()))?;
            buffer.taken += appended.count();
            let is_full = appended.is_full();
            self.outstanding.push_back(appended);
            if buffer.taken == buffer.entries.len() {
                self.buffered -= buffer.bytes.len();
                buffer.clear();
                self.touched.pop_front();
            }
            if is_full {
                break;
            }
        }
        Ok(())
    }

    /// Whether the producer had no room for all of it.
    pub(crate) fn is_behind(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Waits until the producer has taken something more.
    pub(crate) async fn make_room(&mut self) -> Result<(), Error> {
        self.hand_over()?;
        while !self.has_room() {
            match self.outstanding.front() {
                Some(oldest) => oldest.delivered().await?,
                None => self.writer.flush().await?,
            }
            self.hand_over()?;
        }
        Ok(())
    }

    /// Waits until everything that was sent is delivered.
    pub(crate) async fn settle(&mut self) -> Result<(), Error> {
        self.hand_over()?;
        while self.is_behind() {
            match self.outstanding.front() {
                Some(oldest) => oldest.delivered().await?,
                None => self.writer.flush().await?,
            }
            self.hand_over()?;
        }
        self.writer.flush().await?;
        // A flush speaks of what was pending when it began; of what failed before, only its own result does.
        for appended in &self.outstanding {
            appended.delivered().await?;
        }
        self.outstanding.clear();
        Ok(())
    }

    /// Commits the transaction of everything that is settled, these offsets with it.
    pub(crate) async fn commit(
        &mut self,
        offsets: Vec<(TopicPartition, OffsetAndMetadata)>,
        group: &GroupMetadata,
    ) -> Result<(), Error> {
        self.writer.commit(offsets, group).await
    }

    /// Forgets what is not committed, here and on the brokers, and begins a new transaction.
    pub(crate) async fn start_over(&mut self) -> Result<(), Error> {
        self.touched.clear();
        self.topics.iter_mut().flat_map(|topic| &mut topic.partitions).for_each(Buffer::clear);
        self.buffered = 0;
        self.outstanding.clear();
        self.writer.recover().await
    }

    fn forget_delivered(&mut self) -> Result<(), Error> {
        while let Some(result) = self.outstanding.front().and_then(Appended::try_delivered) {
            result?;
            self.outstanding.pop_front();
        }
        Ok(())
    }
}

impl Driver for Sends {
    fn send(&mut self, topic: TopicId, part: Part, record: Outgoing<'_>) {
        let out = &mut self.topics[topic.0];
        let count = out.partitions.len();
        let partition = match (part, record.key) {
            (Part::Fixed(partition), _) => usize::try_from(partition).unwrap_or(0),
            (Part::ByKey, Some(key)) => {
                // A topic has at least one partition, and no more than `i32::MAX`.
                usize::try_from(murmur2_partition(key, i32::try_from(count).unwrap_or(i32::MAX))).unwrap_or(0)
            }
            (Part::ByKey, None) => {
                let size = record.value.map_or(0, <[u8]>::len);
                let (partition, left) = &mut out.sticky;
                if *left <= size {
                    *partition = self.rng.usize(0..count);
                    *left = STICKY;
                }
                *left = left.saturating_sub(size);
                *partition
            }
        };
        let buffer = &mut out.partitions[partition];
        if buffer.entries.is_empty() {
            self.touched.push_back((topic, partition));
        }
        self.buffered += buffer.push(&record);
    }

    fn has_room(&self) -> bool {
        self.buffered < LIMIT
    }
}

impl Buffer {
    /// Returns the bytes that it added.
    fn push(&mut self, record: &Outgoing<'_>) -> usize {
        // Kafka's lengths are 32-bit, so this is never cut.
        let len = |bytes: Option<&[u8]>| bytes.map_or(-1, |bytes| i32::try_from(bytes.len()).unwrap_or(i32::MAX));
        if !record.headers.is_empty() {
            self.headers.push((self.entries.len(), record.headers.clone()));
        }
        let start = self.bytes.len();
        self.entries.push(Entry {
            start,
            key_len: len(record.key),
            value_len: len(record.value),
            timestamp: record.timestamp,
        });
        self.bytes.extend_from_slice(record.key.unwrap_or_default());
        self.bytes.extend_from_slice(record.value.unwrap_or_default());
        self.bytes.len() - start
    }

    fn records(&self) -> impl Iterator<Item = Lent<'_>> {
        (self.taken..self.entries.len()).map(|index| Lent { buffer: self, index })
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.headers.clear();
        self.taken = 0;
    }
}

/// A record in a buffer.
struct Lent<'a> {
    buffer: &'a Buffer,
    index: usize,
}

impl AsRecord for Lent<'_> {
    #[inline]
    fn with_view<T>(&self, look: impl FnOnce(&RecordView<'_>) -> T) -> T {
        let Entry { start, key_len, value_len, timestamp } = self.buffer.entries[self.index];
        let bytes = &self.buffer.bytes;
        let key = usize::try_from(key_len).ok();
        let middle = start + key.unwrap_or(0);
        let mut view = RecordView {
            topic: "",
            partition: None,
            key: key.map(|_| &bytes[start..middle]),
            value: usize::try_from(value_len).ok().map(|len| &bytes[middle..middle + len]),
            headers: &[],
            timestamp: Some(timestamp),
        };
        let Ok(found) = self.buffer.headers.binary_search_by_key(&self.index, |(index, _)| *index) else {
            return look(&view);
        };
        let headers: Vec<Header<'_>> =
            self.buffer.headers[found].1.iter().map(|(key, value)| Header { key, value }).collect();
        view.headers = &headers;
        look(&view)
    }
}
