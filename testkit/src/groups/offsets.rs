//! Committed offsets of a group.

use std::collections::BTreeMap;

use milena_protocol::StrBytes;

/// One committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: StrBytes,
}

/// A group's offsets by topic and partition.
#[derive(Debug, Default)]
pub(crate) struct Offsets(BTreeMap<(String, i32), Committed>);

impl Offsets {
    /// Stores an offset and returns the one before.
    pub(crate) fn commit(&mut self, topic: &str, partition: i32, committed: Committed) -> Option<Committed> {
        self.0.insert((topic.to_owned(), partition), committed)
    }

    pub(crate) fn get(&self, topic: &str, partition: i32) -> Option<&Committed> {
        self.0.get(&(topic.to_owned(), partition))
    }

    /// A topic was deleted.
    pub(crate) fn forget_topic(&mut self, topic: &str) {
        self.0.retain(|(name, _), _| name != topic);
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&(String, i32), &Committed)> {
        self.0.iter()
    }
}
