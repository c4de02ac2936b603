//! What the coordinator knows of one transactional id, and how a transaction moves: Kafka's `TransactionMetadata` and the decisions of
//! its `TransactionCoordinator`. A pure machine.
//!
//! ```text
//! Empty ──add──▶ Ongoing ──commit──▶ PrepareCommit ──all markers are written──▶ CompleteCommit ──add──▶ Ongoing …
//!                   └─────abort────▶ PrepareAbort ───all markers are written──▶ CompleteAbort
//! ```
//!
//! With transaction.version 2 (KIP-890) the end of every transaction bumps the epoch. A repeat of EndTxn is known by its epoch, one
//! below the current one, and an abort of nothing is fine and bumps the epoch, too. The old protocol keeps the epoch; there a repeat
//! is known by the state alone.

use std::collections::BTreeSet;
use std::time::Duration;

use milena_protocol::ErrorCode;
use tokio::time::Instant;

/// The topic that stands for committed offsets among the partitions of a transaction.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Kafka's `TransactionState`, but for those that nobody ever sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Empty,
    Ongoing,
    PrepareCommit,
    PrepareAbort,
    CompleteCommit,
    CompleteAbort,
}

impl Phase {
    /// As Kafka writes it in DescribeTransactions.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::PrepareCommit => "PrepareCommit",
            Self::PrepareAbort => "PrepareAbort",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
        }
    }
}

/// A producer id and its epoch.
pub(crate) type IdAndEpoch = (i64, i16);

/// How a transaction is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) commit: bool,
    /// The epoch goes up with it: EndTxn v5, or the coordinator itself where transaction.version is 2.
    pub(crate) bumps_epoch: bool,
}

/// What came of an attempt to end a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It is decided; markers have to be written. The producer goes on with this id and epoch.
    Decided(IdAndEpoch),
    /// That was a repeat of what is done already.
    Repeated(IdAndEpoch),
}

/// What came of InitProducerId.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Initialised {
    Ready(IdAndEpoch),
    /// The open transaction is aborted first; the client has to ask again.
    Aborting,
}

/// When a transaction began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub(crate) at: Instant,
    /// Milliseconds since the epoch.
    pub(crate) wall_clock_ms: i64,
}

/// One transactional id.
#[derive(Debug, Clone)]
pub(crate) struct Transaction {
    pub(crate) producer_id: i64,
    /// The id before the last step; differs from the current one only right after a rotation.
    previous_producer_id: i64,
    /// The id that follows when the epochs of this one are used up.
    next_producer_id: Option<i64>,
    /// −1 before the first InitProducerId has been served.
    pub(crate) epoch: i16,
    last_epoch: i16,
    pub(crate) timeout: Duration,
    pub(crate) phase: Phase,
    /// Those whose markers are still to be written, once it is decided.
    pub(crate) partitions: BTreeSet<(String, i32)>,
    pub(crate) start: Option<Start>,
}

/// The last epoch that is given to a producer; the one above is for the marker that ends its last transaction.
fn is_exhausted(epoch: i16) -> bool {
    epoch >= i16::MAX - 1
}

impl Transaction {
    pub(crate) fn new(producer_id: i64) -> Self {
        Self {
            producer_id,
            previous_producer_id: -1,
            next_producer_id: None,
            epoch: -1,
            last_epoch: -1,
            timeout: Duration::ZERO,
            phase: Phase::Empty,
            partitions: BTreeSet::new(),
            start: None,
        }
    }

    /// When an open transaction is aborted for its time.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.start.filter(|_| self.phase == Phase::Ongoing).map(|start| start.at + self.timeout)
    }

    /// Whether the transaction is decided and its markers are not all written.
    pub(crate) fn is_decided(&self) -> bool {
        matches!(self.phase, Phase::PrepareCommit | Phase::PrepareAbort)
    }

    /// A producer begins, or begins again. `expected` is what it thinks that it is (KIP-360).
    pub(crate) fn on_init(
        &mut self,
        timeout: Duration,
        expected: Option<IdAndEpoch>,
        bumps_epoch: bool,
        new_id: &mut dyn FnMut() -> i64,
    ) -> Result<Initialised, ErrorCode> {
        let is_valid = |(id, epoch): IdAndEpoch| {
            self.epoch == -1 || id == self.producer_id || (id == self.previous_producer_id && is_exhausted(epoch))
        };
        if !expected.is_none_or(is_valid) {
            return Err(ErrorCode::PRODUCER_FENCED);
        }
        match self.phase {
            Phase::PrepareCommit | Phase::PrepareAbort => return Err(ErrorCode::CONCURRENT_TRANSACTIONS),
            Phase::Ongoing => {
                self.fence(bumps_epoch, new_id);
                return Ok(Initialised::Aborting);
            }
            Phase::Empty | Phase::CompleteCommit | Phase::CompleteAbort => {}
        }
        let expected = expected.map(|(_, epoch)| epoch);
        let (id, epoch, last_epoch) = if is_exhausted(self.epoch) {
            if expected.is_some_and(|epoch| epoch != self.epoch) {
                return Err(ErrorCode::UNKNOWN_SERVER_ERROR); // Kafka does not expect that either
            }
            (new_id(), 0, if expected.is_some() { self.epoch } else { -1 })
        } else {
            match expected {
                None => (self.producer_id, self.epoch + 1, -1),
                Some(expected) if self.epoch == -1 || expected == self.epoch => {
                    (self.producer_id, self.epoch + 1, self.epoch)
                }
                // Its answer was lost, and it asks again.
                Some(expected) if expected == self.last_epoch => (self.producer_id, self.epoch, self.last_epoch),
                Some(_) => return Err(ErrorCode::PRODUCER_FENCED),
            }
        };
        self.go(Phase::Empty);
        (self.producer_id, self.epoch, self.last_epoch) = (id, epoch, last_epoch);
        self.timeout = timeout;
        self.partitions.clear();
        self.start = None;
        Ok(Initialised::Ready((id, epoch)))
    }

    /// The coordinator itself aborts the open transaction, and its producer with it.
    pub(crate) fn fence(&mut self, bumps_epoch: bool, new_id: &mut dyn FnMut() -> i64) {
        if bumps_epoch {
            self.decide(End { commit: false, bumps_epoch }, new_id);
        } else {
            self.go(Phase::PrepareAbort);
            self.epoch = self.epoch.saturating_add(1);
            self.last_epoch = -1;
        }
    }

    /// Partitions belong to the transaction from now on; the first begins it.
    pub(crate) fn on_add(
        &mut self,
        (id, epoch): IdAndEpoch,
        partitions: &[(String, i32)],
        start: Start,
    ) -> Result<(), ErrorCode> {
        self.check(id, epoch)?;
        if self.phase != Phase::Ongoing {
            self.start = Some(start);
        }
        self.go(Phase::Ongoing);
        self.partitions.extend(partitions.iter().cloned());
        Ok(())
    }

    /// Whether a partition belongs to the transaction.
    pub(crate) fn verify(&self, (id, epoch): IdAndEpoch, partition: &(String, i32)) -> Result<(), ErrorCode> {
        self.check(id, epoch)?;
        if self.partitions.contains(partition) { Ok(()) } else { Err(ErrorCode::TRANSACTION_ABORTABLE) }
    }

    fn check(&self, id: i64, epoch: i16) -> Result<(), ErrorCode> {
        if id != self.producer_id {
            Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING)
        } else if epoch != self.epoch {
            Err(ErrorCode::PRODUCER_FENCED)
        } else if self.is_decided() {
            Err(ErrorCode::CONCURRENT_TRANSACTIONS)
        } else {
            Ok(())
        }
    }

    /// The producer commits or aborts.
    pub(crate) fn on_end(
        &mut self,
        (id, epoch): IdAndEpoch,
        end: End,
        now: Start,
        new_id: &mut dyn FnMut() -> i64,
    ) -> Result<Ended, ErrorCode> {
        let is_current = epoch == self.epoch;
        let by_rotation = end.bumps_epoch
            && id == self.previous_producer_id
            && id != self.producer_id
            && epoch == i16::MAX - 1
            && self.epoch == 0;
        let repeats = end.bumps_epoch && (epoch.checked_add(1) == Some(self.epoch) || by_rotation);
        if id != self.producer_id && !by_rotation {
            return Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING);
        }
        let epoch_is_valid = match self.phase {
            Phase::Empty | Phase::Ongoing => is_current,
            Phase::PrepareCommit | Phase::PrepareAbort if end.bumps_epoch => repeats && !by_rotation,
            _ => is_current || repeats,
        };
        if !epoch_is_valid {
            return Err(ErrorCode::PRODUCER_FENCED);
        }
        let was_commit = matches!(self.phase, Phase::PrepareCommit | Phase::CompleteCommit);
        match self.phase {
            Phase::Ongoing => Ok(self.decide(end, new_id)),
            // KIP-890: an abort of nothing bumps the epoch, so that nothing that is still under way can be written.
            Phase::Empty if end.bumps_epoch && !end.commit => {
                self.start = Some(now);
                Ok(self.decide(end, new_id))
            }
            Phase::Empty => Err(ErrorCode::INVALID_TXN_STATE),
            Phase::CompleteCommit | Phase::CompleteAbort if end.bumps_epoch && !repeats => {
                if end.commit {
                    return Err(ErrorCode::INVALID_TXN_STATE);
                }
                self.start = Some(now);
                Ok(self.decide(end, new_id))
            }
            _ if was_commit != end.commit => Err(ErrorCode::INVALID_TXN_STATE),
            Phase::PrepareCommit | Phase::PrepareAbort => Err(ErrorCode::CONCURRENT_TRANSACTIONS),
            Phase::CompleteCommit | Phase::CompleteAbort => Ok(Ended::Repeated((self.producer_id, self.epoch))),
        }
    }

    fn decide(&mut self, end: End, new_id: &mut dyn FnMut() -> i64) -> Ended {
        self.go(if end.commit { Phase::PrepareCommit } else { Phase::PrepareAbort });
        self.next_producer_id = None;
        if !end.bumps_epoch {
            return Ended::Decided((-1, -1)); // not told before EndTxn v5
        }
        if is_exhausted(self.epoch) {
            self.next_producer_id = Some(new_id());
        }
        self.last_epoch = self.epoch;
        self.epoch = self.epoch.saturating_add(1);
        Ended::Decided(self.next_producer_id.map_or((self.producer_id, self.epoch), |id| (id, 0)))
    }

    /// All markers are written.
    pub(crate) fn complete(&mut self) {
        self.go(if self.phase == Phase::PrepareCommit { Phase::CompleteCommit } else { Phase::CompleteAbort });
        self.partitions.clear();
        if let Some(id) = self.next_producer_id.take() {
            (self.producer_id, self.epoch) = (id, 0);
        }
    }

    fn go(&mut self, phase: Phase) {
        self.previous_producer_id = self.producer_id;
        self.phase = phase;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: End = End { commit: true, bumps_epoch: true };
    const ABORT: End = End { commit: false, bumps_epoch: true };
    const OLD_COMMIT: End = End { commit: true, bumps_epoch: false };

    fn start() -> Start {
        // A pure machine: any instant does.
        #[expect(clippy::disallowed_methods, reason = "the beginning of a test's time")]
        let at = Instant::now();
        Start { at, wall_clock_ms: 0 }
    }

    /// Ids from 100 on.
    struct Ids(i64);

    impl Ids {
        fn init(
            &mut self,
            transaction: &mut Transaction,
            expected: Option<IdAndEpoch>,
        ) -> Result<Initialised, ErrorCode> {
            transaction.on_init(Duration::from_secs(60), expected, true, &mut || self.next())
        }

        fn end(&mut self, transaction: &mut Transaction, who: IdAndEpoch, end: End) -> Result<Ended, ErrorCode> {
            transaction.on_end(who, end, start(), &mut || self.next())
        }

        fn next(&mut self) -> i64 {
            self.0 += 1;
            self.0
        }
    }

    fn write(transaction: &mut Transaction, who: IdAndEpoch) {
        assert_eq!(transaction.on_add(who, &[("t".to_owned(), 0)], start()), Ok(()));
    }

    #[test]
    fn a_lost_answer_is_given_again_even_when_the_producer_id_was_rotated_with_it() {
        let mut ids = Ids(100);
        let mut transaction = Transaction { epoch: i16::MAX - 3, ..Transaction::new(7) };
        assert_eq!(ids.init(&mut transaction, None), Ok(Initialised::Ready((7, i16::MAX - 2))));
        write(&mut transaction, (7, i16::MAX - 2));
        let first = ids.end(&mut transaction, (7, i16::MAX - 2), COMMIT);
        assert_eq!(first, Ok(Ended::Decided((7, i16::MAX - 1))));
        transaction.complete();
        write(&mut transaction, (7, i16::MAX - 1));
        let last = ids.end(&mut transaction, (7, i16::MAX - 1), COMMIT);
        assert_eq!(last, Ok(Ended::Decided((101, 0))), "the epochs of the first id are used up");
        assert_eq!((transaction.producer_id, transaction.epoch), (7, i16::MAX), "what the markers carry");
        let early = ids.end(&mut transaction, (7, i16::MAX - 1), COMMIT);
        assert_eq!(early, Err(ErrorCode::CONCURRENT_TRANSACTIONS));
        transaction.complete();
        let again = ids.end(&mut transaction, (7, i16::MAX - 1), COMMIT);
        assert_eq!(again, Ok(Ended::Repeated((101, 0))));
        write(&mut transaction, (101, 0));
        let late = ids.end(&mut transaction, (7, i16::MAX - 1), COMMIT);
        assert_eq!(late, Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING));
    }

    #[test]
    fn the_old_protocol_keeps_the_epoch_and_takes_a_repeat_at_its_word() {
        let mut ids = Ids(100);
        let mut transaction = Transaction::new(7);
        ids.init(&mut transaction, None).ok();
        write(&mut transaction, (7, 0));
        assert_eq!(ids.end(&mut transaction, (7, 0), OLD_COMMIT), Ok(Ended::Decided((-1, -1))));
        transaction.complete();
        assert_eq!(ids.end(&mut transaction, (7, 0), OLD_COMMIT), Ok(Ended::Repeated((7, 0))));
        assert_eq!(transaction.phase, Phase::CompleteCommit);
    }

    #[test]
    fn while_markers_are_written_nothing_else_begins() {
        let mut ids = Ids(100);
        let mut transaction = Transaction::new(7);
        ids.init(&mut transaction, None).ok();
        write(&mut transaction, (7, 0));
        ids.end(&mut transaction, (7, 0), ABORT).ok();
        let partitions = [("t".to_owned(), 1)];
        assert_eq!(transaction.on_add((7, 1), &partitions, start()), Err(ErrorCode::CONCURRENT_TRANSACTIONS));
        assert_eq!(ids.init(&mut transaction, None), Err(ErrorCode::CONCURRENT_TRANSACTIONS));
        assert_eq!(transaction.partitions.len(), 1);
        transaction.complete();
        assert_eq!(ids.init(&mut transaction, None), Ok(Initialised::Ready((7, 2))));
    }

    #[test]
    fn a_producer_that_was_aborted_learns_its_new_epoch_and_one_that_was_replaced_does_not() {
        let mut ids = Ids(100);
        let mut transaction = Transaction::new(7);
        ids.init(&mut transaction, None).ok();
        write(&mut transaction, (7, 0));
        transaction.fence(true, &mut || 0);
        transaction.complete();
        assert_eq!(ids.init(&mut transaction, Some((7, 0))), Ok(Initialised::Ready((7, 1))));
        assert_eq!(ids.init(&mut transaction, None), Ok(Initialised::Ready((7, 2))));
        assert_eq!(ids.init(&mut transaction, Some((7, 0))), Err(ErrorCode::PRODUCER_FENCED));
        assert_eq!(ids.init(&mut transaction, Some((7, 1))), Err(ErrorCode::PRODUCER_FENCED));
    }

    #[test]
    fn the_time_of_a_transaction_runs_from_its_first_partition() {
        let mut ids = Ids(100);
        let mut transaction = Transaction::new(7);
        ids.init(&mut transaction, None).ok();
        assert_eq!(transaction.deadline(), None);
        let began = start();
        transaction.on_add((7, 0), &[("t".to_owned(), 0)], began).ok();
        let later = Start { at: began.at + Duration::from_secs(10), ..began };
        transaction.on_add((7, 0), &[("t".to_owned(), 1)], later).ok();
        assert_eq!(transaction.deadline(), Some(began.at + Duration::from_secs(60)));
        ids.end(&mut transaction, (7, 0), COMMIT).ok();
        assert_eq!(transaction.deadline(), None, "a decision is never taken back");
    }
}
