//! In which leader epochs the records were written that lie before a position (KIP-320).
//!
//! A record is known by its offset *and* the epoch of the leader that wrote it: a leader elected with a shorter log writes other
//! records at the same offsets, in a later epoch. What was read is remembered as a broker does it: where each epoch began.

use std::collections::VecDeque;

/// Where each epoch began, as far as batches have told.
#[derive(Debug, Default)]
pub(crate) struct Epochs {
    /// First offset and epoch, in order. The first one reaches back to the log's beginning.
    began: VecDeque<(i64, i32)>,
}

impl Epochs {
    /// Begins anew: what lies before the position was written in `epoch`; −1 if nobody knows.
    pub(crate) fn start(&mut self, epoch: i32) {
        self.began.clear();
        if epoch >= 0 {
            self.began.push_back((i64::MIN, epoch));
        }
    }

    /// A batch at `offset` was written in `epoch`.
    #[inline]
    pub(crate) fn note(&mut self, offset: i64, epoch: i32) {
        if self.began.back().is_none_or(|(_, last)| *last != epoch) {
            self.began.push_back((offset, epoch));
        }
    }

    /// The epoch of the last record before `offset`; −1 if nobody knows.
    pub(crate) fn before(&self, offset: i64) -> i32 {
        self.began.iter().rev().find(|(began, _)| *began < offset).map_or(-1, |(_, epoch)| *epoch)
    }

    /// Nobody asks any more for what lies before `position`.
    pub(crate) fn forget_before(&mut self, position: i64) {
        while self.began.get(1).is_some_and(|(began, _)| *began < position) {
            self.began.pop_front();
        }
    }

    /// The first offset at which the leader has something else than was read, where its log has nothing of a later epoch than `epoch`
    /// below `end`.
    pub(crate) fn parted(&self, epoch: i32, end: i64) -> i64 {
        let later = self.began.iter().find(|(_, known)| *known > epoch).map_or(i64::MAX, |(began, _)| *began);
        // Where the first one began is not known, and then the leader's word alone counts.
        if later == i64::MIN { end } else { end.min(later) }
    }

    /// What lies from `offset` on is not in the log any more.
    pub(crate) fn cut(&mut self, offset: i64) {
        while self.began.back().is_some_and(|(began, _)| *began >= offset) {
            self.began.pop_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs() -> Epochs {
        let mut epochs = Epochs::default();
        for (offset, epoch) in [(0, 1), (10, 1), (20, 4), (30, 5), (40, 5)] {
            epochs.note(offset, epoch);
        }
        epochs
    }

    #[test]
    fn the_epoch_before_an_offset_is_that_of_the_last_record_below_it() {
        let epochs = epochs();
        let before = |offset| epochs.before(offset);
        assert_eq!([before(0), before(1), before(20), before(21), before(30), before(99)], [-1, 1, 1, 4, 4, 5]);
    }

    #[test]
    fn a_committed_epoch_reaches_back_and_an_unknown_one_does_not() {
        let mut epochs = epochs();
        epochs.start(7);
        assert_eq!((epochs.before(0), epochs.before(500)), (7, 7));
        epochs.start(-1);
        assert_eq!(epochs.before(500), -1);
    }

    #[test]
    fn only_what_is_asked_for_is_kept() {
        let mut epochs = epochs();
        epochs.forget_before(30);
        assert_eq!((epochs.began.len(), epochs.before(30), epochs.before(31)), (2, 4, 5));
        epochs.forget_before(31);
        assert_eq!((epochs.began.len(), epochs.before(31)), (1, 5));
    }

    #[test]
    fn logs_part_at_the_leaders_end_of_the_epoch_or_where_a_later_one_was_read() {
        let epochs = epochs();
        assert_eq!(epochs.parted(5, 35), 35, "the leader has less of the same epoch");
        assert_eq!(epochs.parted(4, 90), 30, "epoch 5 was never the leader's, however much it has");
        assert_eq!(epochs.parted(1, 15), 15);
        let mut committed = Epochs::default();
        committed.start(9);
        assert_eq!(committed.parted(4, 90), 90, "where epoch 9 began nobody knows");
    }

    #[test]
    fn what_was_cut_is_forgotten() {
        let mut epochs = epochs();
        epochs.cut(20);
        assert_eq!(epochs.before(99), 1);
    }
}
