//! What partitioners ask about a partition: its leader and its queue, without the partition's lock.

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};

/// Written under the partition's lock when a batch is opened, closed or taken, never for a record. It is an allocation of its own: a
/// partitioner that looks at all partitions must not fetch the lines of their locks away from those who send.
#[derive(Debug)]
pub(crate) struct Load {
    leader: AtomicI32,
    batches: AtomicU32,
    bytes: AtomicUsize,
}

const NO_LEADER: i32 = -1;

impl Default for Load {
    fn default() -> Self {
        Self { leader: AtomicI32::new(NO_LEADER), batches: AtomicU32::new(0), bytes: AtomicUsize::new(0) }
    }
}

impl Load {
    pub(crate) fn leader(&self) -> Option<i32> {
        Some(self.leader.load(Ordering::Relaxed)).filter(|leader| *leader != NO_LEADER)
    }

    pub(crate) fn set_leader(&self, leader: Option<i32>) {
        self.leader.store(leader.unwrap_or(NO_LEADER), Ordering::Relaxed);
    }

    /// Batches that wait, and their bytes.
    pub(crate) fn queue(&self) -> (u32, usize) {
        (self.batches.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    pub(crate) fn set_queue(&self, batches: usize, bytes: usize) {
        self.batches.store(u32::try_from(batches).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}
