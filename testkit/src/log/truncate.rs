//! The end of a log is lost: what a machine had not brought to its disk when its power went, or what a new leader does not have.
//!
//! As a broker does when it loads a log, what is remembered about producers and transactions is found again by reading the batches
//! that are left. A producer whose batches were all deleted at the log's start before is forgotten with that.

use bytes::Buf;

use super::batch::{self, BatchHeader};
use super::{Log, Producers, StoredBatch, Transactions};

impl Log {
    /// Drops everything from `to` on, and the whole batch that `to` lies in. False if there was nothing to drop.
    pub(crate) fn truncate(&mut self, to: i64) -> bool {
        if to >= self.end {
            return false;
        }
        let kept = self.batches.partition_point(|batch| batch.last_offset < to);
        self.end = self.batches.get(kept).map_or(to, |batch| batch.base_offset.min(to));
        for batch in self.batches.drain(kept..) {
            self.bytes -= batch.bytes.len() as u64;
        }
        // A copy that ends before this log begins is a log of its own that is empty, as its records were deleted here.
        self.start = self.start.min(self.end);
        self.high_watermark = self.high_watermark.min(self.end);
        while self.epochs.last().is_some_and(|(_, start)| *start >= self.end) {
            self.epochs.pop();
        }
        self.producers = Producers::default();
        self.transactions = Transactions::default();
        for at in 0..self.batches.len() {
            let stored = self.batches[at].clone();
            self.learn(&stored);
        }
        true
    }

    fn learn(&mut self, stored: &StoredBatch) {
        let Some(header) = BatchHeader::read(&stored.bytes).filter(|header| header.producer_id >= 0) else { return };
        if !header.is_control() {
            if self.producers.on_appended(&header, stored.base_offset, stored.max_timestamp) {
                self.transactions.begin(header.producer_id, stored.base_offset);
            }
            return;
        }
        let Some(marker) = batch::decode(&stored.bytes).into_iter().next() else { return };
        let commit = marker.key.is_some_and(|key| key.ends_with(&[0, 1]));
        let coordinator_epoch = marker.value.and_then(|value| value.get(2..)?.try_get_i32().ok()).unwrap_or(-1);
        let (id, epoch) = (header.producer_id, header.producer_epoch);
        if let Some(began) = self.producers.on_marker(id, epoch, coordinator_epoch, stored.max_timestamp) {
            self.transactions.end(began, stored.base_offset, !commit);
        }
    }
}
