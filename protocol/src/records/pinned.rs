//! How much memory views keep alive that nobody has to keep.
//!
//! Batches are slices: of the chunk that they arrived in, with others, or of the buffer that they were decompressed into. One view of one
//! record keeps all of that, and whoever counts fetched bytes has given them back when the batch was used up. So each such [`Block`]
//! of memory counts itself: from the moment at which nobody writes to it any more until the last view is gone, all of it is *pinned*,
//! less the bytes of batches that wait to be used.
//!
//! It costs a batch a few atomic operations, and its records none: a batch's part of the block is given back when its [`Charge`] is
//! dropped, and the block is held by whatever was made of it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;

/// Counts the bytes of memory that views of records keep alive though their batches have been used up; for all that one reader reads.
#[derive(Debug)]
pub struct PinnedMemory {
    bytes: AtomicI64,
    limit: i64,
}

impl PinnedMemory {
    /// A counter. Above `limit` bytes, batches [are copied](Self::is_over) out of the memory that they share.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicI64::new(0), limit: i64::try_from(limit).unwrap_or(i64::MAX) })
    }

    /// Bytes that are pinned now.
    pub fn bytes(&self) -> u64 {
        // The parts of one move are not seen at once.
        u64::try_from(self.bytes.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Above this many bytes what is kept is kept in copies.
    pub fn limit(&self) -> u64 {
        self.limit as u64
    }

    /// Whether it is so much that what may be kept is better copied.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > self.limit
    }

    fn add(&self, bytes: i64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A piece of memory that batches share.
pub(crate) struct Block {
    memory: Arc<PinnedMemory>,
    /// Bytes that were given back; from the seal on together with those that never were a batch's, which is what is counted as pinned.
    /// Below zero until then.
    given_back: AtomicI64,
}

/// Added to what was given back before the block is sealed.
const OPEN: i64 = i64::MIN / 2;

impl Block {
    /// A block that somebody writes to.
    pub(crate) fn open(memory: &Arc<PinnedMemory>) -> Arc<Self> {
        Arc::new(Self { memory: memory.clone(), given_back: AtomicI64::new(OPEN) })
    }

    /// A block of one batch, which waits to be used.
    pub(crate) fn of_one(memory: &Arc<PinnedMemory>) -> Arc<Self> {
        Arc::new(Self { memory: memory.clone(), given_back: AtomicI64::new(0) })
    }

    /// A copy of `bytes` bytes, for somebody to keep.
    pub(super) fn copy(&self, bytes: usize) -> Arc<Self> {
        self.memory.add(bytes as i64);
        Arc::new(Self { memory: self.memory.clone(), given_back: AtomicI64::new(bytes as i64) })
    }

    /// Nobody writes to it any more; `idle` bytes of it are no batch's.
    pub(crate) fn seal(&self, idle: usize) {
        let before = self.given_back.fetch_add(idle as i64 - OPEN, Ordering::Relaxed);
        self.memory.add(before - OPEN + idle as i64);
    }

    /// A batch of so many bytes is used up.
    #[inline]
    fn give_back(&self, bytes: usize) {
        // Who comes before the seal is counted by it.
        if self.given_back.fetch_add(bytes as i64, Ordering::Relaxed) >= 0 {
            self.memory.add(bytes as i64);
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let counted = *self.given_back.get_mut();
        if counted > 0 {
            self.memory.add(-counted);
        }
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("given_back", &self.given_back).finish_non_exhaustive()
    }
}

/// A batch's part of its block, for as long as the batch waits to be used or is being read. A clone has no part of its own.
#[derive(Debug)]
pub(crate) struct Charge {
    pub(crate) block: Arc<Block>,
    bytes: usize,
}

impl Charge {
    pub(crate) fn new(block: Arc<Block>, bytes: usize) -> Self {
        Self { block, bytes }
    }
}

impl Clone for Charge {
    fn clone(&self) -> Self {
        Self { block: self.block.clone(), bytes: 0 }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.block.give_back(self.bytes);
        }
    }
}

/// Bytes together with the block that they lie in: what counted slices for users are made of.
pub(super) struct Kept {
    bytes: Bytes,
    /// Behind the bytes: memory is gone when it is not counted any more.
    _block: Arc<Block>,
}

impl Kept {
    pub(super) fn bytes(bytes: &Bytes, block: &Arc<Block>) -> Bytes {
        Bytes::from_owner(Self { bytes: bytes.clone(), _block: block.clone() })
    }
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_pinned_from_its_seal_to_its_end_less_what_waits_to_be_used() {
        for sealed_after in 0..3 {
            let memory = PinnedMemory::new(90);
            let block = Block::open(&memory);
            let mut charges: Vec<_> = [20, 30].map(|bytes| Charge::new(block.clone(), bytes)).into();
            let mut pinned = Vec::new();
            for step in 0..3 {
                if step == sealed_after {
                    block.seal(50);
                }
                pinned.push(memory.bytes());
                drop(charges.pop());
            }
            let all = [50, 80, 100];
            assert_eq!(pinned, [vec![0; sealed_after], all[sealed_after..].to_vec()].concat());
            assert!(memory.is_over());
            drop(block);
            assert_eq!((memory.bytes(), memory.is_over()), (0, false));
        }
    }

    #[test]
    fn a_block_that_is_never_sealed_and_a_clone_of_a_charge_count_nothing() {
        let memory = PinnedMemory::new(0);
        let charge = Charge::new(Block::open(&memory), 20);
        drop(charge.clone());
        drop(charge);
        let charge = Charge::new(Block::of_one(&memory), 20);
        drop(charge.clone());
        assert_eq!(memory.bytes(), 0);
        let block = charge.block.clone();
        drop(charge);
        assert_eq!(memory.bytes(), 20);
        let copy = block.copy(7);
        drop(block);
        assert_eq!(memory.bytes(), 7);
        drop(copy);
        assert_eq!(memory.bytes(), 0);
    }
}
