//! Produce, our own encoding: the batches are not copied into the request, they are chunks of it.
//!
//! ```text
//! request    transactional id (nullable string) | i16 acks | i32 timeout ms | topics
//!   topic      name (v3-12) or id (v13) | partitions
//!   partition  i32 index | batch (nullable bytes) | tags
//! response   responses | i32 throttle ms | tags: 0 node endpoints (v10)
//!   topic      name (v3-12) or id (v13) | partitions
//!   partition  i32 index | i16 error | i64 base offset | i64 log append time | i64 log start offset (v5)
//!              | record errors (v8): i32 batch index, message | message (v8) | tags: 0 current leader (v10)
//! ```
//! Tags stand there from v9 on, which is also when lengths become varints.

use bytes::{Buf, Bytes};
use uuid::Uuid;

use crate::frame::FrameError;
use crate::routing::{LeaderHint, NodeEndpoint, TopicKey};
use crate::wire::{Reader, Stop, Writer};
use crate::{ApiKey, ErrorCode};

/// The versions this module writes and reads. Kafka 4.0 removed those below 3; brokers since 0.11 have it.
pub const VERSIONS: std::ops::RangeInclusive<i16> = 3..=13;

/// Whether `version` writes tagged fields, also in its header.
pub const fn is_flexible(version: i16) -> bool {
    version >= 9
}

/// A Produce request.
#[derive(Debug, Clone, Copy)]
pub struct Produce<'a> {
    /// The transactional id, if the batches belong to a transaction.
    pub transactional_id: Option<&'a str>,
    /// 0: no answer at all; 1: the leader has it; -1: all in-sync replicas have it.
    pub acks: i16,
    /// How long the broker may wait for its replicas, in milliseconds.
    pub timeout_ms: i32,
    /// The batches. Those of one topic stand together: every run of them becomes one topic entry.
    pub batches: &'a [PartitionBatch<'a>],
}

/// One batch and where it goes. A broker refuses two batches for one partition in a request.
#[derive(Debug, Clone)]
pub struct PartitionBatch<'a> {
    /// The topic's name; versions up to 12 send it.
    pub topic: &'a str,
    /// The topic's id; version 13 sends it.
    pub topic_id: Uuid,
    /// The partition.
    pub partition: i32,
    /// A [stamped](crate::records::SealedBatch::stamp) batch.
    pub batch: Bytes,
}

impl Produce<'_> {
    /// Encodes the request's message (not its header) as chunks for a vectored write: every second one is a batch, not copied.
    ///
    /// # Errors
    /// [`FrameError::Encode`] for a version outside [`VERSIONS`], and for version 13 without a topic's id.
    pub fn encode(&self, version: i16) -> Result<Vec<Bytes>, FrameError> {
        if !VERSIONS.contains(&version) {
            return Err(encode_error(version, "this client writes versions 3 to 13".to_owned()));
        }
        let by_id = by_id(version);
        if let Some(batch) = self.batches.iter().find(|batch| by_id && batch.topic_id.is_nil()) {
            let reason = format!("the id of topic {:?} is not known; refresh its metadata first", batch.topic);
            return Err(encode_error(version, reason));
        }
        let same_topic = |a: &PartitionBatch<'_>, b: &PartitionBatch<'_>| {
            if by_id { a.topic_id == b.topic_id } else { a.topic == b.topic }
        };

        let names: usize = self.batches.iter().map(|batch| batch.topic.len()).sum();
        let capacity = FIXED_BYTES
            + self.transactional_id.map_or(0, str::len)
            + names
            + self.batches.len() * FIXED_BYTES_PER_BATCH;
        let mut out = Writer::new(capacity, is_flexible(version));
        let mut chunks = Vec::with_capacity(2 * self.batches.len() + 1);
        out.nullable_string(self.transactional_id);
        out.i16(self.acks);
        out.i32(self.timeout_ms);
        out.count(self.batches.chunk_by(same_topic).count());
        for topic in self.batches.chunk_by(same_topic) {
            if by_id {
                out.uuid(topic[0].topic_id);
            } else {
                out.string(topic[0].topic);
            }
            out.count(topic.len());
            for partition in topic {
                out.i32(partition.partition);
                out.count(partition.batch.len());
                chunks.push(out.split());
                chunks.push(partition.batch.clone());
                out.end();
            }
            out.end();
        }
        out.end();
        let tail = out.split();
        if !tail.is_empty() {
            chunks.push(tail);
        }
        Ok(chunks)
    }
}

/// A Produce response.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Produced {
    /// How long the broker asks to be left alone, in milliseconds.
    pub throttle_ms: i32,
    /// What became of each batch.
    pub partitions: Vec<ProducedPartition>,
    /// Addresses of the leaders that partitions name (v10).
    pub node_endpoints: Vec<NodeEndpoint>,
}

/// What became of one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducedPartition {
    /// The topic, as the version names it.
    pub topic: TopicKey,
    /// The partition.
    pub partition: i32,
    /// Why the batch was refused, or none.
    pub error: ErrorCode,
    /// The offset of the batch's first record, -1 if it has none.
    pub base_offset: i64,
    /// The timestamp the broker gave the records (`message.timestamp.type=LogAppendTime`), in milliseconds; -1: they kept theirs.
    pub log_append_time: i64,
    /// The partition's first offset; -1 before v5.
    pub log_start_offset: i64,
    /// The records that caused the batch to be refused (v8).
    pub record_errors: Vec<RecordError>,
    /// What the broker has to say about the error (v8).
    pub error_message: Option<String>,
    /// The leader, when the broker is not it (v10).
    pub current_leader: Option<LeaderHint>,
}

/// A record that caused its batch to be refused (KIP-467).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordError {
    /// The record's index in the batch.
    pub index: i32,
    /// Why, if the broker says so.
    pub message: Option<String>,
}

impl Produced {
    /// Decodes a response whose correlation id has been taken off, and which still carries its header's tags in flexible versions.
    ///
    /// # Errors
    /// [`FrameError::Decode`] when the bytes do not have the announced shape, or some are left over.
    pub fn decode(body: &Bytes, version: i16) -> Result<Self, FrameError> {
        if !VERSIONS.contains(&version) {
            return Err(decode_error(version, "this client reads versions 3 to 13"));
        }
        // A response that is all there cannot make the reader wait: nothing is coming.
        Self::read(body.chunk(), version).map_err(|stop| match stop {
            Stop::Broken(reason) => decode_error(version, reason),
            Stop::More => decode_error(version, "it is cut off"),
        })
    }

    fn read(body: &[u8], version: i16) -> Result<Self, Stop> {
        let reader = &mut Reader::new(body, 0, is_flexible(version));
        reader.skip_tags()?;
        let mut produced = Self::default();
        for _ in 0..reader.count(MIN_TOPIC_BYTES)? {
            let topic = TopicKey::read(reader, by_id(version))?;
            for _ in 0..reader.count(MIN_PARTITION_BYTES)? {
                produced.partitions.push(ProducedPartition::read(reader, version, topic.clone())?);
            }
            reader.skip_tags()?;
        }
        produced.throttle_ms = reader.i32()?;
        reader.tags(|tag, field| {
            if tag == 0 && version >= 10 {
                produced.node_endpoints = NodeEndpoint::read_all(field)?;
            }
            Ok(())
        })?;
        if reader.left() > 0 {
            return Err(Stop::Broken("bytes are left after the last field"));
        }
        Ok(produced)
    }
}

impl ProducedPartition {
    fn read(reader: &mut Reader<'_>, version: i16, topic: TopicKey) -> Result<Self, Stop> {
        let mut partition = Self {
            topic,
            partition: reader.i32()?,
            error: ErrorCode(reader.i16()?),
            base_offset: reader.i64()?,
            log_append_time: reader.i64()?,
            log_start_offset: if version >= 5 { reader.i64()? } else { -1 },
            record_errors: Vec::new(),
            error_message: None,
            current_leader: None,
        };
        if version >= 8 {
            for _ in 0..reader.count(MIN_RECORD_ERROR_BYTES)? {
                let index = reader.i32()?;
                let message = reader.nullable_string()?.map(str::to_owned);
                reader.skip_tags()?;
                partition.record_errors.push(RecordError { index, message });
            }
            partition.error_message = reader.nullable_string()?.map(str::to_owned);
        }
        reader.tags(|tag, field| {
            if tag == 0 && version >= 10 {
                partition.current_leader = Some(LeaderHint::read(field)?);
            }
            Ok(())
        })?;
        Ok(partition)
    }
}

const fn by_id(version: i16) -> bool {
    version >= 13
}

fn encode_error(version: i16, reason: String) -> FrameError {
    FrameError::Encode { api: ApiKey::PRODUCE, version, reason }
}

fn decode_error(version: i16, reason: &str) -> FrameError {
    FrameError::Decode { api: ApiKey::PRODUCE, version, reason: reason.to_owned() }
}

/// Enough for what a request has once, and for what it has for every batch beside names: then the buffer never grows.
const FIXED_BYTES: usize = 24;
const FIXED_BYTES_PER_BATCH: usize = 40;

/// An empty name, an empty array and no tags.
const MIN_TOPIC_BYTES: usize = 3;
/// Index, error, base offset, log append time.
const MIN_PARTITION_BYTES: usize = 22;
/// Index, no message, no tags.
const MIN_RECORD_ERROR_BYTES: usize = 6;
