//! Retention: what is too old, or too much, goes from the start of the log. Kafka's `UnifiedLog.deleteOldSegments`.
//!
//! Kafka deletes whole segments. Here every batch counts as a segment of its own, so that a test need not write a gigabyte; nothing at or
//! above the high watermark goes. Producers are still remembered.

use super::Log;

impl Log {
    /// Deletes batches whose last timestamp is more than `retention` milliseconds ago, up to the first that is not. Negative: none.
    pub(crate) fn delete_older(&mut self, now: i64, retention: i64) {
        if retention < 0 {
            return;
        }
        let kept = self
            .batches
            .iter()
            .find(|batch| batch.max_timestamp < 0 || now.saturating_sub(batch.max_timestamp) <= retention);
        self.delete_up_to(kept.map_or(self.end, |batch| batch.base_offset));
    }

    /// Deletes batches from the start, as long as at least `retention` bytes are left. Negative: none.
    pub(crate) fn delete_larger(&mut self, retention: i64) {
        let Ok(retention) = u64::try_from(retention) else { return };
        let mut surplus = self.bytes.saturating_sub(retention);
        let kept = self.batches.iter().find(|batch| {
            let stays = batch.bytes.len() as u64 > surplus;
            surplus = surplus.saturating_sub(batch.bytes.len() as u64);
            stays
        });
        self.delete_up_to(kept.map_or(self.end, |batch| batch.base_offset));
    }

    /// Only whole batches below the high watermark go.
    fn delete_up_to(&mut self, offset: i64) {
        let below = self.batches.partition_point(|batch| batch.last_offset < self.high_watermark);
        let most = self.batches.get(below).map_or(self.high_watermark, |batch| batch.base_offset);
        self.delete_before(offset.min(most));
    }
}
