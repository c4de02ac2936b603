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
