//! The Fetch response, parsed while it arrives.
//!
//! ```text
//! response   i32 throttle ms | i16 error, i32 session id (v7) | topics | tags (v12): 0 node endpoints (v16)
//!   topic      name (up to v12) or id (v13) | partitions | tags
//!   partition  i32 index | i16 error | i64 high watermark | i64 last stable offset | i64 log start offset (v5)
//!              | aborted transactions (nullable): i64 producer id, i64 first offset, tags
//!              | i32 preferred read replica (v11) | records (nullable bytes)
//!              | tags (v12): 0 diverging epoch, 1 current leader, 2 snapshot id
//! ```
//! The parser does no I/O. Whoever reads the socket appends to [`FetchParser::buffer`] and asks for events until there is none:
//!
//! ```
//! # use milena_protocol::fetch::*;
//! # fn read(body: &[u8], pieces: impl Iterator<Item = usize>) -> Result<(), milena_protocol::frame::FrameError> {
//! # let mut at = 0;
//! # let mut pieces = pieces;
//! let mut parser = FetchParser::new();
//! parser.begin(18, body.len())?;
//! while !parser.is_done() {
//!     while let Some(event) = parser.next_event()? {
//!         match event {
//!             FetchEvent::Batch(batch) => println!("{} records", batch.count()),
//!             other => println!("{other:?}"),
//!         }
//!     }
//!     let wanted = parser.wanted();
//!     let buffer = parser.buffer();
//!     // read at most `wanted` bytes into the buffer's spare capacity
//! #     let n = pieces.next().unwrap().min(wanted);
//! #     buffer.extend_from_slice(&body[at..at + n]);
//! #     at += n;
//! }
//! # Ok(()) }
//! # read(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], std::iter::repeat(1)).unwrap();
//! ```
//!
//! Batches are slices of the chunk they arrived in. A chunk is 256 KiB (it fits a core's L2 cache together with the socket's pages;
//! 64 KiB and 1 MiB were slower); when the rest of a batch does not fit, a new chunk is taken and only the part that has arrived is
//! copied. A batch that announces more than three chunks gets them step by step, twice what has arrived: a length alone buys no memory.
//!
//! Chunks are used again when their batches are gone, the last one first. Given back to the allocator and taken anew they would be
//! mapped anew, and the page faults cost a tenth of all the time it takes to read.
//!
//! Whoever keeps one record keeps its chunk, and so does a batch that waits while the others of its chunk are read. A parser that
//! [counts](FetchParser::counting) this copies batches out of their chunks as long as it is too much.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};

use super::{VERSIONS, by_id, is_flexible};
use crate::frame::FrameError;
use crate::planted;
use crate::records::{Announced, BatchError, Block, Charge, PinnedMemory, RawBatch, announced};
use crate::routing::{LeaderHint, NodeEndpoint, TopicKey};
use crate::wire::{Reader, Stop};
use crate::{ApiKey, ErrorCode};

/// Parses one Fetch response after the other; the last chunk goes over from one to the next.
#[derive(Debug)]
pub struct FetchParser {
    version: i16,
    chunk: usize,
    buf: BytesMut,
    /// Whether the buffer's chunk has been made larger for one batch.
    is_large: bool,
    /// Who counts chunks that are kept, and the buffer's chunk as it is counted: with its size, and the bytes of it that are batches.
    memory: Option<Arc<PinnedMemory>>,
    block: Option<Arc<Block>>,
    chunk_bytes: usize,
    batch_bytes: usize,
    /// Chunks that were filled, whose batches may still be read. Held empty, to be used again.
    filled: Vec<BytesMut>,
    /// Whether this response has brought no batch yet.
    is_idle: bool,
    /// Bytes of the body that are not parsed yet, arrived or not.
    left: usize,
    /// Bytes at the front that nobody wants.
    skip: usize,
    /// How many bytes the next value needs in one piece, if that is known.
    need: usize,
    state: State,
    topics_left: usize,
    partitions_left: usize,
    /// Bytes of the current partition's records.
    records_left: usize,
    topic: TopicKey,
    /// A partition whose event waits for its aborted transactions or its tags.
    pending: Option<FetchedPartition>,
    hints: FetchHints,
    end: FetchEnd,
}

/// A piece of a Fetch response.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FetchEvent {
    /// The first: about the response as a whole.
    Head(FetchHead),
    /// A partition. Its batches follow, up to the next partition or the end.
    Partition(FetchedPartition),
    /// A batch of the partition.
    Batch(RawBatch),
    /// The partition holds something that is no batch. The rest of its records is skipped; other partitions are not affected.
    BadBatch(BatchError),
    /// What the partition has to say behind its records. (Kafka sends hints only with partitions that have no records, and
    /// those are part of [`FetchEvent::Partition`].)
    Hints(FetchHints),
    /// The last.
    End(FetchEnd),
}

/// The head of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchHead {
    /// How long the broker asks to be left alone, in milliseconds.
    pub throttle_ms: i32,
    /// An error of the whole request, such as a lost session (v7).
    pub error: ErrorCode,
    /// The fetch session, 0 for none (v7).
    pub session_id: i32,
}

/// The head of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedPartition {
    /// The topic, as the version names it.
    pub topic: TopicKey,
    /// The partition.
    pub partition: i32,
    /// Why there are no records, or none.
    pub error: ErrorCode,
    /// The offset behind the last record that all in-sync replicas have.
    pub high_watermark: i64,
    /// The offset before which every transaction is decided; -1 if the broker does not say.
    pub last_stable_offset: i64,
    /// The first offset that is still there; -1 before v5.
    pub log_start_offset: i64,
    /// The aborted transactions that the records may hold pieces of; only for readers of committed records.
    pub aborted: Vec<AbortedTransaction>,
    /// A replica that is nearer to the client (KIP-392, v11).
    pub preferred_read_replica: Option<i32>,
    /// Bytes of records that follow.
    pub records_len: usize,
    /// Hints; none when records follow.
    pub hints: FetchHints,
}

/// An aborted transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Its producer.
    pub producer_id: i64,
    /// The offset of its first record in this partition.
    pub first_offset: i64,
}

/// What a partition may say beside its records (v12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FetchHints {
    /// Where the leader's log and the client's position part.
    pub diverging_epoch: Option<DivergingEpoch>,
    /// The leader, when the broker is not it.
    pub current_leader: Option<LeaderHint>,
}

/// Where the leader's log and the client's position part (KIP-595): the client's epoch ends here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DivergingEpoch {
    /// The largest epoch of the leader that is not larger than the client's.
    pub epoch: i32,
    /// Where that epoch ends.
    pub end_offset: i64,
}

/// The end of a response.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FetchEnd {
    /// Addresses of the leaders that partitions name (v16).
    pub node_endpoints: Vec<NodeEndpoint>,
    /// Bytes of batches that were cut off at the limits of the request, and skipped.
    pub cut_bytes: usize,
}

/// What is read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Topic,
    Partition,
    Aborted {
        left: usize,
    },
    PartitionTail,
    Records,
    /// The count of tagged fields, then the fields.
    TagCount(Scope),
    Tags {
        scope: Scope,
        left: u32,
    },
    End,
    Done,
    /// A frame that is broken stays broken.
    Failed(&'static str),
}

/// Whose tagged fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Header,
    Aborted { left: usize },
    Partition,
    Topic,
    Response,
}

impl Default for FetchParser {
    fn default() -> Self {
        Self::new()
    }
}

impl FetchParser {
    /// A parser with chunks of 256 KiB.
    pub fn new() -> Self {
        Self::with_chunk(256 * 1024)
    }

    /// A parser with chunks of another size.
    pub fn with_chunk(chunk: usize) -> Self {
        Self {
            version: 0,
            chunk: chunk.max(MIN_READ),
            buf: BytesMut::new(),
            is_large: false,
            memory: None,
            block: None,
            chunk_bytes: 0,
            batch_bytes: 0,
            filled: Vec::new(),
            is_idle: false,
            left: 0,
            skip: 0,
            need: 0,
            state: State::Done,
            topics_left: 0,
            partitions_left: 0,
            records_left: 0,
            topic: TopicKey::Id(uuid::Uuid::nil()),
            pending: None,
            hints: FetchHints::default(),
            end: FetchEnd::default(),
        }
    }

    /// Counts chunks that are kept, from the moment at which they are full.
    #[must_use]
    pub fn counting(mut self, memory: Arc<PinnedMemory>) -> Self {
        self.memory = Some(memory);
        self
    }

    /// Begins a response: its body has `body_len` bytes, from behind the correlation id to the end of the frame.
    ///
    /// Whatever was left of the one before is forgotten.
    ///
    /// # Errors
    /// [`FrameError::Decode`] for a version outside [`VERSIONS`].
    pub fn begin(&mut self, version: i16, body_len: usize) -> Result<(), FrameError> {
        self.version = version;
        if !VERSIONS.contains(&version) {
            return Err(self.fail("this client reads versions 4 to 18"));
        }
        self.buf.clear();
        if self.is_idle {
            // Nothing has come for a whole wait: an idle connection holds no memory.
            self.filled.clear();
        }
        self.is_idle = true;
        self.left = body_len;
        self.skip = 0;
        self.need = 0;
        self.state = if is_flexible(version) { State::TagCount(Scope::Header) } else { State::Head };
        self.pending = None;
        self.hints = FetchHints::default();
        self.end = FetchEnd::default();
        Ok(())
    }

    /// How many bytes of the response have not been put into the buffer yet.
    pub fn wanted(&self) -> usize {
        self.left.saturating_sub(self.buf.len())
    }

    /// Whether the response has been parsed to its end: the next bytes of the socket belong to another one.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Where to put bytes: there is spare capacity as long as bytes are [wanted](Self::wanted).
    pub fn buffer(&mut self) -> &mut BytesMut {
        let have = self.buf.len();
        let need = self.need.max(have + 1).min(self.left);
        let spare = self.buf.capacity() - have;
        // At the end of a chunk a few bytes would cost a system call of their own, unless they complete a batch.
        let crumbs = have <= MIN_READ && spare < MIN_READ.min(self.wanted());
        if self.buf.capacity() < need || crumbs {
            // Where nobody knows how long the value is, twice the room: one byte more would copy it for every piece that arrives.
            let wish = if self.need > 0 { need } else { (2 * have).clamp(need, self.left) };
            let step = wish.min((DIRECT_CHUNKS * self.chunk).max(2 * have));
            let capacity = self.chunk.max(step);
            // When all batches of the old chunk are gone it is used again.
            if self.buf.try_reclaim(capacity - have) {
                self.block = None;
                self.batch_bytes = 0;
            } else {
                self.seal();
                let mut fresh = self.free_chunk(capacity);
                self.chunk_bytes = fresh.capacity();
                fresh.extend_from_slice(&self.buf);
                let mut old = std::mem::replace(&mut self.buf, fresh);
                old.clear();
                if !self.is_large {
                    if self.filled.len() == MAX_FILLED {
                        // Somebody may keep it for ever.
                        self.filled.remove(0);
                    }
                    self.filled.push(old);
                }
                self.is_large = capacity > self.chunk;
            }
        }
        &mut self.buf
    }

    /// Nothing more is written to the buffer's chunk.
    fn seal(&mut self) {
        if let Some(block) = self.block.take() {
            block.seal(self.chunk_bytes.saturating_sub(self.batch_bytes));
        }
        self.batch_bytes = 0;
    }

    /// Takes a batch off the front of the buffer.
    fn take_batch(&mut self, len: usize) -> (Bytes, Option<Charge>) {
        let Some(memory) = &self.memory else { return (self.buf.split_to(len).freeze(), None) };
        if memory.is_over() {
            let copy = Bytes::copy_from_slice(&self.buf[..len]);
            self.buf.advance(len);
            return (copy, Some(Charge::new(Block::of_one(memory), len)));
        }
        let block = self.block.get_or_insert_with(|| Block::open(memory)).clone();
        self.batch_bytes += len;
        (self.buf.split_to(len).freeze(), Some(Charge::new(block, len)))
    }

    /// A chunk that nobody reads any more, or a new one.
    fn free_chunk(&mut self, capacity: usize) -> BytesMut {
        // The one that was filled last is still in a cache.
        match self.filled.iter_mut().rposition(|chunk| chunk.try_reclaim(capacity)) {
            Some(at) => self.filled.remove(at),
            None => BytesMut::with_capacity(capacity),
        }
    }

    /// The next event, or `None` when more bytes must be put into the buffer first, or the response [is done](Self::is_done).
    ///
    /// # Errors
    /// [`FrameError::Decode`] when the bytes are not a Fetch response: the connection is of no use any more.
    pub fn next_event(&mut self) -> Result<Option<FetchEvent>, FrameError> {
        self.need = 0;
        if self.buf.len() > self.left {
            return Err(self.fail("more bytes were put into the buffer than the response has"));
        }
        loop {
            if self.skip > 0 {
                let arrived = self.skip.min(self.buf.len());
                self.advance(arrived);
                self.skip -= arrived;
                if self.skip > 0 {
                    return Ok(None);
                }
            }
            if self.state == State::Done {
                return Ok(None);
            }
            match self.step() {
                Ok(None) => {}
                Ok(Some(event)) => return Ok(Some(event)),
                Err(Stop::More) => return Ok(None),
                Err(Stop::Broken(reason)) => return Err(self.fail(reason)),
            }
        }
    }

    /// Reads one value or a few, and goes over to what comes next. Nothing has happened if it says [`Stop::More`].
    fn step(&mut self) -> Result<Option<FetchEvent>, Stop> {
        match self.state {
            State::Head => self.head().map(Some),
            State::Topic => self.topic().map(|()| None),
            State::Partition => self.partition().map(|()| None),
            State::Aborted { left } => self.aborted(left).map(|()| None),
            State::PartitionTail => self.partition_tail(),
            State::Records => self.records(),
            State::TagCount(scope) => self.tag_count(scope).map(|()| None),
            State::Tags { scope, left: 0 } => Ok(self.tags_end(scope)),
            State::Tags { scope, left } => self.tag(scope, left).map(|()| None),
            State::End if self.left > 0 => Err(Stop::Broken("bytes are left after the last field")),
            State::End => {
                self.state = State::Done;
                Ok(Some(FetchEvent::End(std::mem::take(&mut self.end))))
            }
            State::Failed(reason) => Err(Stop::Broken(reason)),
            State::Done => Ok(None),
        }
    }

    fn head(&mut self) -> Result<FetchEvent, Stop> {
        let version = self.version;
        let (head, topics) = self.read(|reader| {
            let throttle_ms = reader.i32()?;
            let (error, session_id) = if version >= 7 { (reader.i16()?, reader.i32()?) } else { (0, 0) };
            let head = FetchHead { throttle_ms, error: ErrorCode(error), session_id };
            Ok((head, reader.nullable_count(MIN_TOPIC_BYTES)?.unwrap_or(0)))
        })?;
        self.topics_left = topics;
        self.next_topic();
        Ok(FetchEvent::Head(head))
    }

    fn topic(&mut self) -> Result<(), Stop> {
        let by_id = by_id(self.version);
        (self.topic, self.partitions_left) = self.read(|reader| {
            Ok((TopicKey::read(reader, by_id)?, reader.nullable_count(MIN_PARTITION_BYTES)?.unwrap_or(0)))
        })?;
        self.topics_left -= 1;
        self.next_partition();
        Ok(())
    }

    fn partition(&mut self) -> Result<(), Stop> {
        let version = self.version;
        let topic = self.topic.clone();
        let (partition, aborted) = self.read(|reader| {
            let partition = FetchedPartition {
                topic,
                partition: reader.i32()?,
                error: ErrorCode(reader.i16()?),
                high_watermark: reader.i64()?,
                last_stable_offset: reader.i64()?,
                log_start_offset: if version >= 5 { reader.i64()? } else { -1 },
                aborted: Vec::new(),
                preferred_read_replica: None,
                records_len: 0,
                hints: FetchHints::default(),
            };
            Ok((partition, reader.nullable_count(MIN_ABORTED_BYTES)?.unwrap_or(0)))
        })?;
        self.partitions_left -= 1;
        self.pending = Some(partition);
        self.state = State::Aborted { left: aborted };
        Ok(())
    }

    fn aborted(&mut self, left: usize) -> Result<(), Stop> {
        let Some(left) = left.checked_sub(1) else {
            self.state = State::PartitionTail;
            return Ok(());
        };
        let aborted =
            self.read(|reader| Ok(AbortedTransaction { producer_id: reader.i64()?, first_offset: reader.i64()? }))?;
        if let Some(partition) = &mut self.pending {
            partition.aborted.push(aborted);
        }
        let tags = State::TagCount(Scope::Aborted { left });
        self.state = if is_flexible(self.version) { tags } else { State::Aborted { left } };
        Ok(())
    }

    fn partition_tail(&mut self) -> Result<Option<FetchEvent>, Stop> {
        let version = self.version;
        let (replica, records) = self.read(|reader| {
            let replica = if version >= 11 { reader.i32()? } else { -1 };
            let records = reader.bytes_len()?.unwrap_or(0);
            if records > reader.left() {
                return Err(Stop::Broken("records are longer than the rest of their message"));
            }
            Ok((replica, records))
        })?;
        self.records_left = records;
        if let Some(partition) = &mut self.pending {
            partition.preferred_read_replica = (replica >= 0).then_some(replica);
            partition.records_len = records;
        }
        if records == 0 && is_flexible(version) {
            // Its hints stand behind the records that it has not got: they come with the partition.
            self.state = State::TagCount(Scope::Partition);
            return Ok(None);
        }
        self.state = State::Records;
        Ok(self.pending.take().map(FetchEvent::Partition))
    }

    fn records(&mut self) -> Result<Option<FetchEvent>, Stop> {
        if self.records_left == 0 {
            if is_flexible(self.version) {
                self.state = State::TagCount(Scope::Partition);
            } else {
                self.next_partition();
            }
            return Ok(None);
        }
        let front = &self.buf[..self.buf.len().min(self.records_left)];
        let len = match announced(front) {
            Ok(Announced::Unknown) if front.len() < self.records_left => return Err(Stop::More),
            Ok(Announced::Batch { bytes }) if bytes <= self.records_left => bytes,
            // As much of it as makes a header.
            Ok(Announced::Batch { .. }) if planted::is("cut_batch_delivered") && self.records_left > 61 => {
                self.records_left
            }
            Ok(_) => {
                self.end.cut_bytes += self.records_left;
                self.skip_records();
                return Ok(None);
            }
            Err(error) => {
                self.skip_records();
                return Ok(Some(FetchEvent::BadBatch(error)));
            }
        };
        if len > self.buf.len() {
            self.need = len;
            return Err(Stop::More);
        }
        let (bytes, charge) = self.take_batch(len);
        self.left -= len;
        self.records_left -= len;
        self.is_idle = false;
        Ok(Some(match RawBatch::new(bytes, charge) {
            Ok(batch) => FetchEvent::Batch(batch),
            Err(error) => {
                self.skip_records();
                FetchEvent::BadBatch(error)
            }
        }))
    }

    fn skip_records(&mut self) {
        self.skip = self.records_left;
        self.records_left = 0;
    }

    fn tag_count(&mut self, scope: Scope) -> Result<(), Stop> {
        let left = self.read(|reader| reader.uvarint())?;
        self.state = State::Tags { scope, left };
        Ok(())
    }

    fn tag(&mut self, scope: Scope, left: u32) -> Result<(), Stop> {
        let coming = self.wanted();
        let mut reader = Reader::new(&self.buf, coming, true);
        let (tag, len) = reader.tag()?;
        let head = reader.at();
        if self.knows(scope, tag) {
            let Some(bytes) = self.buf.get(head..head + len) else {
                self.need = head + len;
                return Err(Stop::More);
            };
            let field = &mut Reader::new(bytes, 0, true);
            match (scope, tag) {
                (Scope::Response, _) => self.end.node_endpoints = NodeEndpoint::read_all(field)?,
                (_, DIVERGING_EPOCH) => {
                    let diverging = DivergingEpoch { epoch: field.i32()?, end_offset: field.i64()? };
                    self.hints.diverging_epoch = Some(diverging);
                }
                _ => self.hints.current_leader = Some(LeaderHint::read(field)?),
            }
        }
        self.advance(head);
        self.skip = len;
        self.state = State::Tags { scope, left: left - 1 };
        Ok(())
    }

    /// Whether a tagged field has a meaning for a client. Others are skipped without being held.
    fn knows(&self, scope: Scope, tag: u32) -> bool {
        match scope {
            Scope::Partition => matches!(tag, DIVERGING_EPOCH | CURRENT_LEADER),
            Scope::Response => tag == NODE_ENDPOINTS && self.version >= 16,
            Scope::Header | Scope::Aborted { .. } | Scope::Topic => false,
        }
    }

    fn tags_end(&mut self, scope: Scope) -> Option<FetchEvent> {
        match scope {
            Scope::Header => self.state = State::Head,
            Scope::Aborted { left } => self.state = State::Aborted { left },
            Scope::Topic => self.next_topic(),
            Scope::Response => self.state = State::End,
            Scope::Partition => {
                self.next_partition();
                let hints = std::mem::take(&mut self.hints);
                if let Some(mut partition) = self.pending.take() {
                    partition.hints = hints;
                    return Some(FetchEvent::Partition(partition));
                }
                if hints != FetchHints::default() {
                    return Some(FetchEvent::Hints(hints));
                }
            }
        }
        None
    }

    fn next_partition(&mut self) {
        if self.partitions_left > 0 {
            self.state = State::Partition;
        } else if is_flexible(self.version) {
            self.state = State::TagCount(Scope::Topic);
        } else {
            self.next_topic();
        }
    }

    fn next_topic(&mut self) {
        if self.topics_left > 0 {
            self.state = State::Topic;
        } else if is_flexible(self.version) {
            self.state = State::TagCount(Scope::Response);
        } else {
            self.state = State::End;
        }
    }

    /// Reads values off the front of the buffer, all or none.
    fn read<T>(&mut self, read: impl FnOnce(&mut Reader<'_>) -> Result<T, Stop>) -> Result<T, Stop> {
        let mut reader = Reader::new(&self.buf, self.wanted(), is_flexible(self.version));
        let value = read(&mut reader)?;
        let used = reader.at();
        self.advance(used);
        Ok(value)
    }

    fn advance(&mut self, bytes: usize) {
        self.buf.advance(bytes);
        self.left -= bytes;
    }

    fn fail(&mut self, reason: &'static str) -> FrameError {
        self.state = State::Failed(reason);
        FrameError::Decode { api: ApiKey::FETCH, version: self.version, reason: reason.to_owned() }
    }
}

impl Drop for FetchParser {
    fn drop(&mut self) {
        // Its batches may live longer.
        self.seal();
    }
}

// Tagged fields of a partition, and of the response.
const DIVERGING_EPOCH: u32 = 0;
const CURRENT_LEADER: u32 = 1;
const NODE_ENDPOINTS: u32 = 0;

/// How many chunks a batch gets at once by its announced length: with the old chunk, of which the beginning is copied, that is 1 MiB,
/// which is what a peer may cost before it has sent anything.
const DIRECT_CHUNKS: usize = 3;
/// Filled chunks that are kept at most: with 256 KiB each, 4 MiB for a connection at full speed.
const MAX_FILLED: usize = 16;
/// Reading fewer bytes than this is not worth a system call.
const MIN_READ: usize = 4 * 1024;

/// An empty name, an empty array and no tags.
const MIN_TOPIC_BYTES: usize = 3;
/// Index, error, two offsets, no aborted transactions, no records.
const MIN_PARTITION_BYTES: usize = 24;
/// Two numbers.
const MIN_ABORTED_BYTES: usize = 16;
