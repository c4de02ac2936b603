//! Where partitions live, as Produce and Fetch responses tell it: the leader that moved, and how to reach it (KIP-951).

use std::sync::Arc;

use uuid::Uuid;

use crate::wire::{Reader, Stop};

/// How a response names a topic: by name up to Produce v12 and Fetch v12, by id from v13 on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TopicKey {
    /// Its name.
    Name(Arc<str>),
    /// Its id.
    Id(Uuid),
}

/// The leader of a partition according to a broker that is not it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderHint {
    /// The leader's node id, -1 if unknown.
    pub leader_id: i32,
    /// The leader's epoch, -1 if unknown.
    pub leader_epoch: i32,
}

/// The address of a broker that a [`LeaderHint`] of the same response names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEndpoint {
    /// The broker's node id.
    pub node_id: i32,
    /// Its host name or address.
    pub host: String,
    /// Its port.
    pub port: i32,
    /// Its rack, if it has one.
    pub rack: Option<String>,
}

impl TopicKey {
    pub(crate) fn read(reader: &mut Reader<'_>, by_id: bool) -> Result<Self, Stop> {
        if by_id { reader.uuid().map(Self::Id) } else { reader.string().map(|name| Self::Name(name.into())) }
    }
}

impl LeaderHint {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Stop> {
        let hint = Self { leader_id: reader.i32()?, leader_epoch: reader.i32()? };
        reader.skip_tags()?;
        Ok(hint)
    }
}

impl NodeEndpoint {
    pub(crate) fn read_all(reader: &mut Reader<'_>) -> Result<Vec<Self>, Stop> {
        let mut endpoints = Vec::new();
        for _ in 0..reader.count(MIN_ENDPOINT_BYTES)? {
            endpoints.push(Self {
                node_id: reader.i32()?,
                host: reader.string()?.to_owned(),
                port: reader.i32()?,
                rack: reader.nullable_string()?.map(str::to_owned),
            });
            reader.skip_tags()?;
        }
        Ok(endpoints)
    }
}

/// Node id, empty host, port, no rack, no tags.
const MIN_ENDPOINT_BYTES: usize = 11;
