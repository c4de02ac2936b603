//! The blobs that group members send one another through the coordinator: `ConsumerProtocolSubscription` and
//! `ConsumerProtocolAssignment`, versions 0 to 3.
//!
//! They come from *other members*, so nothing in them is believed: every count and length is checked against the bytes that are
//! left before anything is allocated. We write version 3, as Java 4 does; a higher version is read as version 3.
//!
//! ```text
//! subscription  i16 version | [string topic] | bytes? user data | v1: [string topic, [i32 partition]] owned
//!                           | v2: i32 generation | v3: string? rack
//! assignment    i16 version | [string topic, [i32 partition]] | bytes? user data
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use milena_client::TopicPartition;

const VERSION: i16 = 3;

/// What a member tells the group's leader when it joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The topics it wants to read.
    pub topics: Vec<Arc<str>>,
    /// Whatever its assignor wants the leader to know.
    pub user_data: Option<Bytes>,
    /// What it owns at the moment, so that the leader can leave it there.
    pub owned: Vec<TopicPartition>,
    /// The generation in which it came to own that, or −1.
    pub generation: i32,
    /// The rack it runs in (KIP-881).
    pub rack: Option<Arc<str>>,
}

impl Default for Subscription {
    fn default() -> Self {
        Self { topics: Vec::new(), user_data: None, owned: Vec::new(), generation: -1, rack: None }
    }
}

/// What the group's leader gives to a member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assignment {
    /// The partitions.
    pub partitions: Vec<TopicPartition>,
    /// Whatever the assignor wants the member to know.
    pub user_data: Option<Bytes>,
}

/// A blob that does not have the shape that it announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "another member's {blob} is malformed: {what}; use clients of one kind in a group, and look at that member's version"
)]
pub struct MalformedBlob {
    blob: &'static str,
    what: &'static str,
}

impl Subscription {
    /// Writes version 3. Topics are written in order, as Java does, so that equal subscriptions are equal bytes.
    pub fn encode(&self) -> Bytes {
        let mut topics: Vec<&Arc<str>> = self.topics.iter().collect();
        topics.sort();
        let mut buf = BytesMut::new();
        buf.put_i16(VERSION);
        buf.put_i32(topics.len() as i32);
        topics.into_iter().for_each(|topic| put_string(&mut buf, topic));
        put_bytes(&mut buf, self.user_data.as_ref());
        put_partitions(&mut buf, &self.owned);
        buf.put_i32(self.generation);
        match &self.rack {
            Some(rack) => put_string(&mut buf, rack),
            None => buf.put_i16(-1),
        }
        buf.freeze()
    }

    /// Reads any version.
    ///
    /// # Errors
    /// When a field is cut off or a count cannot be true.
    pub fn decode(bytes: &Bytes) -> Result<Self, MalformedBlob> {
        let mut reader = Reader { buf: bytes.clone(), blob: "subscription" };
        let version = reader.i16()?;
        if version < 0 {
            return Err(reader.fail("its version is negative"));
        }
        let mut topics = Vec::new();
        // A topic takes two bytes at least.
        for _ in 0..reader.count(2)? {
            topics.push(reader.string()?);
        }
        let user_data = reader.bytes()?;
        let owned = if version >= 1 { reader.partitions()? } else { Vec::new() };
        let generation = if version >= 2 { reader.i32()? } else { -1 };
        let rack = if version >= 3 { reader.nullable_string()? } else { None };
        Ok(Self { topics, user_data, owned, generation, rack })
    }
}

impl Assignment {
    /// Writes version 3.
    pub fn encode(&self) -> Bytes {
        let mut buf = BytesMut::new();
        buf.put_i16(VERSION);
        put_partitions(&mut buf, &self.partitions);
        put_bytes(&mut buf, self.user_data.as_ref());
        buf.freeze()
    }

    /// Reads any version. No bytes at all is an empty assignment: that is what a member gets whom the leader did not mention.
    ///
    /// # Errors
    /// When a field is cut off or a count cannot be true.
    pub fn decode(bytes: &Bytes) -> Result<Self, MalformedBlob> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let mut reader = Reader { buf: bytes.clone(), blob: "assignment" };
        if reader.i16()? < 0 {
            return Err(reader.fail("its version is negative"));
        }
        Ok(Self { partitions: reader.partitions()?, user_data: reader.bytes()? })
    }
}

fn put_string(buf: &mut BytesMut, text: &str) {
    // Topic names have 249 characters at most, racks are settings of a broker; a longer one is cut rather than written wrong.
    let bytes = &text.as_bytes()[..text.len().min(i16::MAX as usize)];
    buf.put_i16(bytes.len() as i16);
    buf.put_slice(bytes);
}

fn put_bytes(buf: &mut BytesMut, bytes: Option<&Bytes>) {
    match bytes {
        Some(bytes) => {
            buf.put_i32(bytes.len() as i32);
            buf.put_slice(bytes);
        }
        None => buf.put_i32(-1),
    }
}

fn put_partitions(buf: &mut BytesMut, partitions: &[TopicPartition]) {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for partition in partitions {
        topics.entry(&partition.topic).or_default().push(partition.partition);
    }
    buf.put_i32(topics.len() as i32);
    for (topic, mut partitions) in topics {
        partitions.sort_unstable();
        put_string(buf, topic);
        buf.put_i32(partitions.len() as i32);
        partitions.into_iter().for_each(|partition| buf.put_i32(partition));
    }
}

struct Reader {
    buf: Bytes,
    blob: &'static str,
}

impl Reader {
    fn fail(&self, what: &'static str) -> MalformedBlob {
        MalformedBlob { blob: self.blob, what }
    }

    fn i16(&mut self) -> Result<i16, MalformedBlob> {
        self.buf.try_get_i16().map_err(|_| self.fail("it is cut off"))
    }

    fn i32(&mut self) -> Result<i32, MalformedBlob> {
        self.buf.try_get_i32().map_err(|_| self.fail("it is cut off"))
    }

    /// A count of items that take `item` bytes each at least.
    fn count(&mut self, item: usize) -> Result<usize, MalformedBlob> {
        let count = usize::try_from(self.i32()?).map_err(|_| self.fail("a count is negative"))?;
        if count > self.buf.remaining() / item {
            return Err(self.fail("a count is larger than the bytes that are left"));
        }
        Ok(count)
    }

    fn nullable_string(&mut self) -> Result<Option<Arc<str>>, MalformedBlob> {
        let len = self.i16()?;
        let Ok(len) = usize::try_from(len) else { return Ok(None) };
        if len > self.buf.remaining() {
            return Err(self.fail("a string is cut off"));
        }
        let text = self.buf.split_to(len);
        let text = std::str::from_utf8(&text).map_err(|_| self.fail("a string is not UTF-8"))?;
        Ok(Some(text.into()))
    }

    fn string(&mut self) -> Result<Arc<str>, MalformedBlob> {
        self.nullable_string()?.ok_or_else(|| self.fail("a name is null"))
    }

    fn bytes(&mut self) -> Result<Option<Bytes>, MalformedBlob> {
        let len = self.i32()?;
        let Ok(len) = usize::try_from(len) else { return Ok(None) };
        if len > self.buf.remaining() {
            return Err(self.fail("user data is cut off"));
        }
        Ok(Some(self.buf.split_to(len)))
    }

    fn partitions(&mut self) -> Result<Vec<TopicPartition>, MalformedBlob> {
        let mut partitions = Vec::new();
        // A name's length and a count.
        for _ in 0..self.count(6)? {
            let topic = self.string()?;
            for _ in 0..self.count(4)? {
                partitions.push(TopicPartition { topic: topic.clone(), partition: self.i32()? });
            }
        }
        Ok(partitions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tp(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition::new(topic, partition)
    }

    #[test]
    fn a_subscription_is_read_as_it_was_written() {
        let subscription = Subscription {
            topics: vec!["a".into(), "b".into()],
            user_data: Some(Bytes::from_static(b"me")),
            owned: vec![tp("a", 0), tp("a", 3), tp("b", 1)],
            generation: 7,
            rack: Some("eu-1a".into()),
        };
        assert_eq!(Subscription::decode(&subscription.encode()).unwrap(), subscription);
        assert_eq!(Subscription::decode(&Subscription::default().encode()).unwrap(), Subscription::default());
    }

    #[test]
    fn a_subscription_has_javas_bytes() {
        let subscription =
            Subscription { topics: vec!["b".into(), "a".into()], owned: vec![tp("a", 1)], ..Default::default() };
        let expected = b"\x00\x03\x00\x00\x00\x02\x00\x01a\x00\x01b\xff\xff\xff\xff\
            \x00\x00\x00\x01\x00\x01a\x00\x00\x00\x01\x00\x00\x00\x01\xff\xff\xff\xff\xff\xff";
        assert_eq!(&subscription.encode()[..], expected);
    }

    #[test]
    fn old_versions_are_read_and_a_newer_one_as_the_highest_known() {
        let v0 = Bytes::from_static(b"\x00\x00\x00\x00\x00\x01\x00\x01a\xff\xff\xff\xff");
        let read = Subscription::decode(&v0).unwrap();
        assert_eq!((read.topics.len(), read.generation, read.owned.len()), (1, -1, 0));
        let mut v9 = BytesMut::from(&Subscription { generation: 4, ..Default::default() }.encode()[..]);
        v9[1] = 9;
        v9.put_slice(b"fields of the future");
        assert_eq!(Subscription::decode(&v9.freeze()).unwrap().generation, 4);
    }

    #[test]
    fn an_assignment_is_read_as_it_was_written_and_nothing_is_nothing() {
        let assignment = Assignment { partitions: vec![tp("t", 0), tp("t", 5)], user_data: Some(Bytes::new()) };
        assert_eq!(Assignment::decode(&assignment.encode()).unwrap(), assignment);
        assert_eq!(Assignment::decode(&Bytes::new()).unwrap(), Assignment::default());
    }

    #[test]
    fn a_count_that_cannot_be_true_is_refused_before_anything_is_allocated() {
        for blob in [
            &b"\x00\x01\x7f\xff\xff\xff"[..],
            b"\x00\x01\x00\x00\x00\x00\xff\xff\xff\xff\x7f\xff\xff\xff",
            b"\x00\x01\xff\xff\xff\xff",
            b"\x00\x00\x00\x00\x00\x01\x7f\xffa",
            b"\x00\x00\x00\x00\x00\x00\x7f\xff\xff\xff",
            b"\x00\x00\x00\x00\x00\x01\xff\xff\xff\xff",
            b"\xff\xff",
            b"\x00",
        ] {
            assert!(Subscription::decode(&Bytes::from_static(blob)).is_err(), "{blob:?}");
        }
        assert!(Assignment::decode(&Bytes::from_static(b"\x00\x00\x00\x00\x00\x01\x00\x01a\x40\x00\x00\x00")).is_err());
    }

    #[test]
    fn every_cut_of_a_blob_is_an_error_and_no_panic() {
        let whole = Subscription { topics: vec!["a".into()], owned: vec![tp("a", 0)], ..Default::default() }.encode();
        for end in 0..whole.len() {
            assert!(Subscription::decode(&whole.slice(..end)).is_err());
        }
    }
}
