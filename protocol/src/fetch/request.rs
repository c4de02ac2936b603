//! The Fetch request.
//!
//! ```text
//! request    i32 replica id (-1, up to v14) | i32 max wait ms | i32 min bytes | i32 max bytes | i8 isolation
//!            | i32 session id, i32 session epoch (v7) | topics | forgotten topics (v7) | rack (string, v11) | tags (v12)
//!   topic      name (up to v12) or id (v13) | partitions
//!   partition  i32 index | i32 current leader epoch (v9) | i64 offset | i32 last fetched epoch (v12) | i64 log start offset (v5)
//!              | i32 max bytes | tags (v12)
//!   forgotten  name or id | i32 indexes | tags (v12)
//! ```

use bytes::Bytes;
use uuid::Uuid;

use super::{VERSIONS, by_id, is_flexible};
use crate::ApiKey;
use crate::frame::FrameError;
use crate::wire::Writer;

/// A Fetch request.
#[derive(Debug, Clone, Copy)]
pub struct Fetch<'a> {
    /// How long the broker may hold the request while it has fewer than `min_bytes`, in milliseconds (Java's `fetch.max.wait.ms`).
    pub max_wait_ms: i32,
    /// How many bytes are worth an answer (Java's `fetch.min.bytes`).
    pub min_bytes: i32,
    /// How many bytes the answer may have, but for a first batch that is larger (Java's `fetch.max.bytes`).
    pub max_bytes: i32,
    /// Whether to read only what is committed (Java's `isolation.level=read_committed`).
    pub read_committed: bool,
    /// The fetch session (KIP-227), 0 for none. Versions below 7 have none.
    pub session_id: i32,
    /// The request's number in its session: 0 opens one, -1 wants none or ends it.
    pub session_epoch: i32,
    /// What to fetch; in a session, what is new or changed.
    pub topics: &'a [FetchTopic<'a>],
    /// What the session shall forget.
    pub forgotten: &'a [ForgottenTopic<'a>],
    /// The client's rack, so that a broker can name a nearer replica (KIP-392); empty for none. Versions below 11 have none.
    pub rack: &'a str,
}

/// A topic and what to fetch of it.
#[derive(Debug, Clone)]
pub struct FetchTopic<'a> {
    /// Its name; versions up to 12 send it.
    pub topic: &'a str,
    /// Its id; versions from 13 on send it.
    pub topic_id: Uuid,
    /// Its partitions.
    pub partitions: Vec<FetchPartition>,
}

/// Where to read a partition from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchPartition {
    /// The partition.
    pub partition: i32,
    /// The leader's epoch as the client knows it, so that a broker that is behind or ahead says so (KIP-320); -1 for unknown.
    pub leader_epoch: i32,
    /// The offset to read from.
    pub offset: i64,
    /// The epoch of the last record read, so that the broker can tell where logs diverge (KIP-595); -1 for unknown.
    pub last_fetched_epoch: i32,
    /// How many bytes of this partition the answer may have (Java's `max.partition.fetch.bytes`).
    pub max_bytes: i32,
}

/// Partitions that a fetch session shall forget.
#[derive(Debug, Clone)]
pub struct ForgottenTopic<'a> {
    /// The topic's name; versions up to 12 send it.
    pub topic: &'a str,
    /// The topic's id; versions from 13 on send it.
    pub topic_id: Uuid,
    /// The partitions.
    pub partitions: Vec<i32>,
}

impl Fetch<'_> {
    /// Encodes the request's message, not its header. What a version does not have is left out.
    ///
    /// # Errors
    /// [`FrameError::Encode`] for a version outside [`VERSIONS`], and from version 13 on without a topic's id.
    pub fn encode(&self, version: i16) -> Result<Bytes, FrameError> {
        let fail = |reason| Err(FrameError::Encode { api: ApiKey::FETCH, version, reason });
        if !VERSIONS.contains(&version) {
            return fail("this client writes versions 4 to 18".to_owned());
        }
        if by_id(version) {
            let topics = self.topics.iter().map(|topic| (topic.topic, topic.topic_id));
            let forgotten = self.forgotten.iter().map(|topic| (topic.topic, topic.topic_id));
            if let Some((topic, _)) = topics.chain(forgotten).find(|(_, id)| id.is_nil()) {
                return fail(format!("the id of topic {topic:?} is not known; fetch it with version 12, by name"));
            }
        }

        let mut out = Writer::new(self.capacity(), is_flexible(version));
        if version <= 14 {
            out.i32(NOT_A_REPLICA);
        }
        out.i32(self.max_wait_ms);
        out.i32(self.min_bytes);
        out.i32(self.max_bytes);
        out.i8(self.read_committed.into());
        if version >= 7 {
            out.i32(self.session_id);
            out.i32(self.session_epoch);
        }
        out.count(self.topics.len());
        for topic in self.topics {
            put_topic(&mut out, version, topic.topic, topic.topic_id);
            out.count(topic.partitions.len());
            for partition in &topic.partitions {
                partition.put(&mut out, version);
            }
            out.end();
        }
        if version >= 7 {
            out.count(self.forgotten.len());
            for topic in self.forgotten {
                put_topic(&mut out, version, topic.topic, topic.topic_id);
                out.count(topic.partitions.len());
                for partition in &topic.partitions {
                    out.i32(*partition);
                }
                out.end();
            }
        }
        if version >= 11 {
            out.string(self.rack);
        }
        out.end();
        Ok(out.split())
    }

    /// Bytes that are enough in every version.
    fn capacity(&self) -> usize {
        let topics = self.topics.iter().map(|topic| 24 + topic.topic.len() + 40 * topic.partitions.len());
        let forgotten = self.forgotten.iter().map(|topic| 24 + topic.topic.len() + 4 * topic.partitions.len());
        48 + self.rack.len() + topics.chain(forgotten).sum::<usize>()
    }
}

impl FetchPartition {
    fn put(&self, out: &mut Writer, version: i16) {
        out.i32(self.partition);
        if version >= 9 {
            out.i32(self.leader_epoch);
        }
        out.i64(self.offset);
        if version >= 12 {
            out.i32(self.last_fetched_epoch);
        }
        if version >= 5 {
            out.i64(NOT_A_REPLICAS_LOG_START);
        }
        out.i32(self.max_bytes);
        out.end();
    }
}

fn put_topic(out: &mut Writer, version: i16, name: &str, id: Uuid) {
    if by_id(version) {
        out.uuid(id);
    } else {
        out.string(name);
    }
}

/// Replica id and log start offset are for brokers that follow one another.
const NOT_A_REPLICA: i32 = -1;
const NOT_A_REPLICAS_LOG_START: i64 = -1;
