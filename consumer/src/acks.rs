//! What was handed out of one partition and what of it is done: a machine that knows how far may be committed.
//!
//! Records are handed out in *runs* (a batch, or a part of one). Runs may be acknowledged in any order, wholly or up to an offset;
//! the **frontier** is the offset below which everything is acknowledged, and only the frontier is ever committed.
//! A run ends where its batch ends according to the batch's header, so that offsets without records (compaction, control batches)
//! do not hold the frontier back.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Weak;

use crate::records::OpenBatch;

/// The number of a run, unique in a consumer: an acknowledgement of a run that is gone (sought away, revoked) hits nothing.
pub(crate) type RunId = u64;

#[derive(Debug)]
pub(crate) struct Acks {
    runs: VecDeque<Run>,
    frontier: i64,
    frontier_epoch: i32,
}

#[derive(Debug)]
struct Run {
    id: RunId,
    /// The offset after the run, and after what follows it that holds no record for the user.
    to: i64,
    /// The offset after the run as it was handed out: what the user's claim on it is known by.
    handed_to: i64,
    leader_epoch: i32,
    /// Everything below is done.
    done_to: i64,
    /// The batch, for runs that the user may not have begun to read; `None` for one whose records are lent one by one.
    batch: Option<Weak<OpenBatch>>,
    /// What is known of its records, once one of them was acknowledged by itself.
    records: Option<Box<RecordAcks>>,
}

impl Run {
    fn is_done(&self) -> bool {
        self.done_to >= self.to
    }

    /// All that was handed out of it is done, and with it what follows that holds no record for the user.
    fn finish(&mut self) {
        self.done_to = self.to;
    }
}

/// Which of a run's records are done, when they are acknowledged one by one. Records are known by their place in their batch: offsets
/// have holes.
#[derive(Debug)]
struct RecordAcks {
    /// Those before it are done.
    next: u32,
    end: u32,
    /// Others that are done, with their offsets.
    ahead: BTreeMap<u32, i64>,
}

impl RecordAcks {
    fn new(records: Range<u32>) -> Self {
        Self { next: records.start, end: records.end, ahead: BTreeMap::new() }
    }

    /// The record at `index` is done. Returns the offset below which all are, if that has moved.
    fn ack(&mut self, index: u32, offset: i64) -> Option<i64> {
        if index > self.next {
            self.ahead.insert(index, offset);
        }
        if index != self.next {
            return None;
        }
        let mut done_to = offset + 1;
        self.next += 1;
        while let Some(offset) = self.ahead.remove(&self.next) {
            done_to = offset + 1;
            self.next += 1;
        }
        Some(done_to)
    }
}

impl Acks {
    /// Starts at `position`, with nothing handed out.
    pub(crate) fn new(position: i64) -> Self {
        Self { runs: VecDeque::new(), frontier: position, frontier_epoch: -1 }
    }

    /// Offset to commit, and the leader epoch of the last record below it (−1 if unknown).
    pub(crate) fn frontier(&self) -> (i64, i32) {
        (self.frontier, self.frontier_epoch)
    }

    /// Whether something handed out is not acknowledged.
    pub(crate) fn has_open_runs(&self) -> bool {
        !self.runs.is_empty()
    }

    /// How many runs are open.
    #[cfg(test)]
    pub(crate) fn open_runs(&self) -> usize {
        self.runs.len()
    }

    /// Records up to (not including) `to` are handed out.
    pub(crate) fn hand_out(&mut self, id: RunId, to: i64, leader_epoch: i32, batch: Option<Weak<OpenBatch>>) {
        let (handed_to, done_to) = (to, i64::MIN);
        self.runs.push_back(Run { id, to, handed_to, leader_epoch, done_to, batch, records: None });
    }

    /// Offsets up to `to` hold no record for the user.
    pub(crate) fn skip(&mut self, to: i64) {
        match self.runs.back_mut() {
            // The run's last acknowledgement will cover them, or has been before.
            Some(last) => {
                let was_done = last.is_done();
                last.to = last.to.max(to);
                if was_done {
                    last.finish();
                }
            }
            None => self.frontier = self.frontier.max(to),
        }
    }

    /// The run is done. Returns whether it was open.
    pub(crate) fn ack(&mut self, id: RunId) -> bool {
        let Some(run) = self.runs.iter_mut().find(|run| run.id == id) else { return false };
        run.finish();
        self.advance();
        true
    }

    /// One record of the run is done: the one at `index` of its batch. `records` are all that the run has.
    pub(crate) fn ack_record(&mut self, id: RunId, records: Range<u32>, index: u32, offset: i64) {
        // Their ids go up.
        let Ok(at) = self.runs.binary_search_by_key(&id, |run| run.id) else { return };
        let run = &mut self.runs[at];
        let of_run = run.records.get_or_insert_with(|| Box::new(RecordAcks::new(records)));
        if let Some(done_to) = of_run.ack(index, offset) {
            run.done_to = run.done_to.max(done_to);
            if of_run.next >= of_run.end {
                run.finish();
            }
            self.advance();
        }
    }

    /// The run, whose records are acknowledged one by one, ends at `to`: of its `records` those from `end` on were not handed out.
    pub(crate) fn cut_run(&mut self, id: RunId, to: i64, records: Range<u32>, end: u32) {
        let Ok(at) = self.runs.binary_search_by_key(&id, |run| run.id) else { return };
        let run = &mut self.runs[at];
        run.to = to.min(run.to);
        let of_run = run.records.get_or_insert_with(|| Box::new(RecordAcks::new(records)));
        of_run.end = end;
        if of_run.next >= end {
            run.finish();
        }
        self.advance();
    }

    /// In the run, everything below `offset` is done.
    pub(crate) fn ack_in_run(&mut self, id: RunId, offset: i64) {
        if let Some(run) = self.runs.iter_mut().find(|run| run.id == id) {
            run.done_to = run.done_to.max(offset.min(run.to));
            self.advance();
        }
    }

    /// Everything below `offset` that was handed out is done.
    pub(crate) fn ack_up_to(&mut self, offset: i64) {
        for run in &mut self.runs {
            run.done_to = run.done_to.max(offset.min(run.to));
        }
        self.advance();
    }

    /// The run ends at `offset`: what lies behind was not handed out. Everything below is done.
    pub(crate) fn end_run(&mut self, id: RunId, offset: i64) {
        if let Some(run) = self.runs.iter_mut().find(|run| run.id == id) {
            run.to = offset.min(run.to);
            run.finish();
            self.advance();
        }
    }

    /// Nothing that was handed out counts any more.
    pub(crate) fn forget_runs(&mut self) {
        self.runs.clear();
    }

    /// Takes back all runs that the user has not begun to read. It will never see them; nobody need wait for them.
    pub(crate) fn withdraw_what_nobody_began(&mut self) {
        let withdrawn = |run: &Run| {
            // A batch that the user has dropped will not be begun any more.
            run.batch.as_ref().is_some_and(|batch| batch.upgrade().is_none_or(|batch| batch.withdraw(run.handed_to)))
        };
        let withdrawn: Vec<bool> = self.runs.iter().map(withdrawn).collect();
        // Behind the first of them nothing can be committed any more: the frontier cannot pass the hole.
        if let Some(first) = withdrawn.iter().position(|withdrawn| *withdrawn) {
            self.runs.truncate(first);
        }
    }

    fn advance(&mut self) {
        while let Some(first) = self.runs.front() {
            if first.done_to > self.frontier {
                self.frontier = first.done_to;
                self.frontier_epoch = first.leader_epoch;
            }
            if !first.is_done() {
                return;
            }
            self.runs.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use milena_protocol::records::{BatchBuilder, ProducerStamp, Scratch, split_batch};

    use super::*;
    use crate::records::Origin;

    fn acks(runs: &[i64]) -> Acks {
        let mut acks = Acks::new(0);
        runs.iter().enumerate().for_each(|(id, &to)| acks.hand_out(id as RunId, to, 5, None));
        acks
    }

    #[test]
    fn the_frontier_waits_for_the_first_run_that_is_not_done() {
        let mut acks = acks(&[10, 20, 30]);
        acks.ack(1);
        assert_eq!(acks.frontier(), (0, -1));
        acks.ack(0);
        assert_eq!(acks.frontier(), (20, 5));
        assert!(acks.has_open_runs());
        acks.ack(2);
        assert_eq!((acks.frontier().0, acks.open_runs()), (30, 0));
    }

    #[test]
    fn part_of_a_run_moves_the_frontier_within_it() {
        let mut acks = acks(&[10, 20]);
        acks.ack_in_run(0, 4);
        assert_eq!(acks.frontier().0, 4);
        acks.ack_up_to(13);
        assert_eq!((acks.frontier().0, acks.open_runs()), (13, 1));
        acks.ack_in_run(1, 3);
        assert_eq!(acks.frontier().0, 13, "it never goes back");
    }

    #[test]
    fn nothing_beyond_what_was_handed_out_can_be_acknowledged() {
        let mut acks = acks(&[10]);
        acks.ack_up_to(1000);
        assert_eq!(acks.frontier().0, 10);
        acks.ack(99);
        assert_eq!(acks.frontier().0, 10);
    }

    #[test]
    fn offsets_without_records_do_not_hold_the_frontier_back() {
        let mut acks = acks(&[10]);
        acks.skip(12);
        assert_eq!(acks.frontier().0, 0, "not before the run in front is done");
        acks.ack(0);
        assert_eq!(acks.frontier().0, 12);
        acks.skip(15);
        assert_eq!(acks.frontier().0, 15);
    }

    /// A batch of one record at offset 0.
    fn batch() -> Arc<OpenBatch> {
        let mut builder = BatchBuilder::new(vec![0; 256], 0);
        builder.append(0, None, Some(b"x"), &[]).unwrap();
        let mut sealed = builder.seal();
        sealed.stamp(ProducerStamp::NONE);
        let raw = split_batch(&mut Bytes::copy_from_slice(sealed.bytes())).unwrap().unwrap();
        let batch = raw.open(&mut Scratch::new(), 1 << 20).unwrap();
        Arc::new(OpenBatch::new(batch, Arc::new(Origin { topic: "t".into(), partition: 0, slot: 0 }), 0))
    }

    #[test]
    fn what_was_begun_is_waited_for_also_with_a_marker_behind_it() {
        let batch = batch();
        let mut acks = Acks::new(0);
        acks.hand_out(0, 1, 5, Some(Arc::downgrade(&batch)));
        // A transaction's marker.
        acks.skip(2);
        assert!(batch.begin(1));
        acks.withdraw_what_nobody_began();
        assert!(acks.has_open_runs(), "the user has begun it");
        acks.ack(0);
        assert_eq!((acks.frontier().0, acks.has_open_runs()), (2, false));
    }

    #[test]
    fn what_the_user_has_dropped_is_neither_waited_for_nor_committed() {
        let mut acks = acks(&[10]);
        acks.hand_out(1, 20, 5, Some(Weak::new()));
        acks.hand_out(2, 30, 5, None);
        acks.withdraw_what_nobody_began();
        assert_eq!(acks.open_runs(), 1, "only the first is still in the user's hands");
        acks.ack(0);
        acks.ack(2);
        assert_eq!((acks.frontier().0, acks.open_runs()), (10, 0));
    }

    #[test]
    fn a_run_that_ends_early_is_done_as_far_as_it_goes() {
        let mut acks = acks(&[10]);
        acks.end_run(0, 6);
        assert_eq!((acks.frontier().0, acks.open_runs()), (6, 0));
    }
    #[test]
    fn records_are_acknowledged_in_any_order_and_the_frontier_knows_no_hole() {
        let mut acks = acks(&[20, 40]);
        // Four records of the first batch are left, from its third on; compaction took others.
        let of = [(2, 3), (3, 4), (4, 9), (5, 17)];
        let mut ack = |index: usize| {
            acks.ack_record(0, 2..6, of[index].0, of[index].1);
            acks.frontier().0
        };
        assert_eq!([ack(1), ack(3), ack(0), ack(0), ack(2)], [0, 0, 5, 5, 20]);
        assert_eq!(acks.open_runs(), 1);
        acks.ack_record(0, 2..6, 2, 3);
        acks.ack(1);
        assert_eq!((acks.frontier().0, acks.open_runs()), (40, 0));
    }

    #[test]
    fn a_run_that_is_cut_is_done_when_what_was_given_of_it_is() {
        let mut acks = acks(&[10, 20, 30]);
        acks.cut_run(0, 3, 0..10, 3);
        for index in [2, 1, 0] {
            assert_eq!(acks.frontier().0, 0);
            acks.ack_record(0, 0..10, index, i64::from(index));
        }
        assert_eq!((acks.frontier().0, acks.open_runs()), (3, 2));
        acks.ack_record(1, 0..2, 0, 12);
        acks.ack_record(1, 0..2, 1, 15);
        acks.cut_run(2, 20, 0..5, 0);
        assert_eq!((acks.frontier().0, acks.open_runs()), (20, 0), "of the last nothing was given");
    }

    #[test]
    fn a_marker_behind_a_run_that_is_done_before_its_turn_is_covered_with_it() {
        let mut acks = acks(&[10, 20]);
        acks.ack(1);
        acks.skip(21);
        acks.ack(0);
        assert_eq!((acks.frontier().0, acks.open_runs()), (21, 0));
    }
}
