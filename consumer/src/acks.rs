//! What was handed out of one partition and what of it is done: a machine that knows how far may be committed.
//!
//! Records are handed out in *runs* (a batch, or a part of one). Runs may be acknowledged in any order, wholly or up to an offset;
//! the **frontier** is the offset below which everything is acknowledged, and only the frontier is ever committed.
//! A run ends where its batch ends according to the batch's header, so that offsets without records (compaction, control batches)
//! do not hold the frontier back.

use std::collections::VecDeque;
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
        self.runs.push_back(Run { id, to, handed_to: to, leader_epoch, done_to: i64::MIN, batch });
    }

    /// Offsets up to `to` hold no record for the user.
    pub(crate) fn skip(&mut self, to: i64) {
        match self.runs.back_mut() {
            // The run's last acknowledgement will cover them.
            Some(last) => last.to = last.to.max(to),
            None => self.frontier = self.frontier.max(to),
        }
    }

    /// The run is done. Returns whether it was open.
    pub(crate) fn ack(&mut self, id: RunId) -> bool {
        let Some(run) = self.runs.iter_mut().find(|run| run.id == id) else { return false };
        run.done_to = run.to;
        self.advance();
        true
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
            run.done_to = run.to;
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
            if first.done_to < first.to {
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
}
