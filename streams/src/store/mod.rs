//! State stores: byte keys, byte values with a timestamp, and a changelog topic each.

mod memory;

use std::sync::Arc;

pub(crate) use memory::{MemoryStore, Update};

use crate::topology::TopicId;

/// A store as one task holds it.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) name: Arc<str>,
    /// Where its updates are written at commit; `None` if the application switched logging off.
    pub(crate) changelog: Option<TopicId>,
    /// Whether updates wait for the commit, the last one of a key standing for all.
    pub(crate) caching: bool,
    pub(crate) kv: MemoryStore,
}
