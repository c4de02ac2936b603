//! The transaction coordinator: the machine of a transactional id is in `transaction.rs`, the writing of markers in `markers.rs`; this
//! file ties them to the cluster.
//!
//! - What a coordinator has decided survives its crash: another broker coordinates the id at once, with a higher coordinator epoch,
//!   and writes the markers that are missing.
//! - A transaction that is open for longer than its time-out is aborted at that moment; Kafka looks every 10 s only.
//! - Transactional ids never expire.
//! - Which protocol a producer speaks is seen in the versions of its requests alone; only with transaction.version 0 the new one is
//!   `UNSUPPORTED_VERSION`, as soon as something would have to be stored. (In Kafka the id hangs after that.)

pub(crate) mod markers;
mod transaction;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use milena_protocol::ErrorCode;
use tokio::time::Instant;

use crate::state::{State, Timer};
pub(crate) use transaction::{End, Ended, IdAndEpoch, Initialised, OFFSETS_TOPIC, Phase, Start, Transaction};

/// `transaction.max.timeout.ms`.
const MAX_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// All transactional ids.
#[derive(Default)]
pub(crate) struct Transactions {
    ids: BTreeMap<String, Coordinated>,
    /// Markers are not written until a test lets them.
    markers_are_held: bool,
}

/// One transactional id at its coordinator.
struct Coordinated {
    transaction: Transaction,
    coordinator: Option<i32>,
    coordinator_epoch: i32,
    /// When the loop will look at this id.
    alarm: Option<Instant>,
}

/// What the cluster knows about a transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionInfo {
    /// `Empty`, `Ongoing`, `PrepareCommit`, `PrepareAbort`, `CompleteCommit` or `CompleteAbort`.
    pub state: String,
    /// The producer id that it has now.
    pub producer_id: i64,
    /// The epoch that is valid now.
    pub producer_epoch: i16,
    /// The broker that coordinates it, if one is up.
    pub coordinator: Option<i32>,
    /// The partitions of the open transaction; of a decided one, those that still lack their marker. Offsets of groups are partitions
    /// of `__consumer_offsets`.
    pub partitions: BTreeSet<(String, i32)>,
}

impl State {
    /// The finalised level of transaction.version.
    pub(crate) fn transaction_version(&self) -> i16 {
        self.settings.features.get("transaction.version").copied().unwrap_or(0)
    }

    /// Whether the cluster's transaction.version bumps the epoch with every transaction.
    fn transactions_bump_epochs(&self) -> bool {
        self.transaction_version() >= 2
    }

    /// Whether a request about this transactional id may be served here.
    pub(crate) fn check_transactional_id(&self, broker: i32, id: &str) -> Result<(), ErrorCode> {
        if id.is_empty() {
            return Err(ErrorCode::INVALID_REQUEST);
        }
        self.check_coordinator(broker, id)
    }

    /// A transactional id at its coordinator.
    pub(crate) fn transaction(&self, id: &str) -> Option<&Transaction> {
        self.transactions.ids.get(id).map(|coordinated| &coordinated.transaction)
    }

    /// All transactional ids with their coordinators.
    pub(crate) fn all_transactions(&self) -> impl Iterator<Item = (&str, Option<i32>, &Transaction)> {
        let all = self.transactions.ids.iter();
        all.map(|(id, coordinated)| (id.as_str(), coordinated.coordinator, &coordinated.transaction))
    }

    /// InitProducerId with a transactional id. An open transaction is aborted first, which the client has to wait for
    /// (`CONCURRENT_TRANSACTIONS`).
    pub(crate) fn init_transactions(
        &mut self,
        id: &str,
        timeout_ms: i32,
        expected: Option<IdAndEpoch>,
        now: Instant,
    ) -> Result<IdAndEpoch, ErrorCode> {
        let timeout = u64::try_from(timeout_ms).map(Duration::from_millis).unwrap_or_default();
        if timeout.is_zero() || timeout > MAX_TIMEOUT {
            return Err(ErrorCode::INVALID_TRANSACTION_TIMEOUT);
        }
        let bumps = self.transactions_bump_epochs();
        let coordinator = self.coordinator(id);
        let ids = &mut self.producer_ids;
        let coordinated = self.transactions.ids.entry(id.to_owned()).or_insert_with(|| Coordinated {
            transaction: Transaction::new(ids.new_id()),
            coordinator,
            coordinator_epoch: 0,
            alarm: None,
        });
        match coordinated.transaction.on_init(timeout, expected, bumps, &mut || ids.new_id())? {
            Initialised::Ready(id_and_epoch) => Ok(id_and_epoch),
            Initialised::Aborting => {
                self.note(now, format!("transaction {id} is aborted: its producer begins anew"));
                self.after_decision(id, now);
                Err(ErrorCode::CONCURRENT_TRANSACTIONS)
            }
        }
    }

    /// Partitions are added to a transaction.
    pub(crate) fn add_to_transaction(
        &mut self,
        id: &str,
        producer: IdAndEpoch,
        partitions: &[(String, i32)],
        now: Instant,
    ) -> Result<(), ErrorCode> {
        let start = Start { at: now, wall_clock_ms: self.wall_clock_ms(now) };
        let coordinated = self.transactions.ids.get_mut(id).ok_or(ErrorCode::INVALID_PRODUCER_ID_MAPPING)?;
        coordinated.transaction.on_add(producer, partitions, start)?;
        let deadline = coordinated.transaction.deadline();
        if let Some(deadline) = deadline.filter(|deadline| coordinated.alarm.is_none_or(|alarm| *deadline < alarm)) {
            coordinated.alarm = Some(deadline);
            self.at(deadline, Timer::Transaction(id.to_owned()));
        }
        Ok(())
    }

    /// The leader of a partition asks the coordinator whether a producer may write there in a transaction; with `add` that is where
    /// the partition is added.
    pub(crate) fn admit_to_transaction(
        &mut self,
        broker: i32,
        id: &str,
        producer: IdAndEpoch,
        partition: (String, i32),
        add: bool,
        now: Instant,
    ) -> Result<(), ErrorCode> {
        if id.is_empty() {
            return Err(ErrorCode::INVALID_REQUEST);
        }
        if self.coordinator(id).is_none_or(|coordinator| !self.network.reaches(coordinator, broker)) {
            return Err(ErrorCode::COORDINATOR_NOT_AVAILABLE);
        }
        let transaction = self.transaction(id).ok_or(ErrorCode::INVALID_PRODUCER_ID_MAPPING)?;
        let admitted = match transaction.verify(producer, &partition) {
            Err(ErrorCode::TRANSACTION_ABORTABLE) if add && self.transaction_version() == 0 => {
                Err(ErrorCode::UNSUPPORTED_VERSION)
            }
            Err(ErrorCode::TRANSACTION_ABORTABLE) if add => self.add_to_transaction(id, producer, &[partition], now),
            verified => verified,
        };
        // Produce and TxnOffsetCommit have another name for it.
        admitted.map_err(
            |code| {
                if code == ErrorCode::PRODUCER_FENCED { ErrorCode::INVALID_PRODUCER_EPOCH } else { code }
            },
        )
    }

    /// EndTxn.
    pub(crate) fn end_transaction(
        &mut self,
        id: &str,
        producer: IdAndEpoch,
        end: End,
        now: Instant,
    ) -> Result<IdAndEpoch, ErrorCode> {
        let start = Start { at: now, wall_clock_ms: self.wall_clock_ms(now) };
        if end.bumps_epoch && self.transaction_version() == 0 {
            let mut what_if = self.transaction(id).ok_or(ErrorCode::INVALID_PRODUCER_ID_MAPPING)?.clone();
            return match what_if.on_end(producer, end, start, &mut || -1)? {
                Ended::Repeated(id_and_epoch) => Ok(id_and_epoch),
                Ended::Decided(_) => Err(ErrorCode::UNSUPPORTED_VERSION),
            };
        }
        let ids = &mut self.producer_ids;
        let coordinated = self.transactions.ids.get_mut(id).ok_or(ErrorCode::INVALID_PRODUCER_ID_MAPPING)?;
        match coordinated.transaction.on_end(producer, end, start, &mut || ids.new_id())? {
            Ended::Repeated(id_and_epoch) => Ok(id_and_epoch),
            Ended::Decided(id_and_epoch) => {
                self.after_decision(id, now);
                Ok(id_and_epoch)
            }
        }
    }

    fn after_decision(&mut self, id: &str, now: Instant) {
        if let Some(coordinated) = self.transactions.ids.get(id) {
            let Transaction { phase, producer_id, epoch, partitions, .. } = &coordinated.transaction;
            let text =
                format!("transaction {id}: {} {producer_id}/{epoch}, {} partitions", phase.name(), partitions.len());
            self.note(now, text);
        }
        markers::write(self, id, now);
    }

    pub(crate) fn transaction_info(&self, id: &str) -> Option<TransactionInfo> {
        let Coordinated { transaction, coordinator, .. } = self.transactions.ids.get(id)?;
        Some(TransactionInfo {
            state: transaction.phase.name().to_owned(),
            producer_id: transaction.producer_id,
            producer_epoch: transaction.epoch,
            coordinator: *coordinator,
            partitions: transaction.partitions.clone(),
        })
    }
}

/// The alarm of a transactional id rings: an open transaction whose time is over is aborted.
pub(crate) fn on_time(state: &mut State, id: &str, now: Instant) {
    let bumps = state.transactions_bump_epochs();
    let ids = &mut state.producer_ids;
    let Some(coordinated) = state.transactions.ids.get_mut(id) else { return };
    if coordinated.alarm.is_some_and(|alarm| alarm > now) {
        return; // an earlier alarm than the one that counts
    }
    coordinated.alarm = None;
    match coordinated.transaction.deadline() {
        Some(deadline) if deadline <= now => {
            coordinated.transaction.fence(bumps, &mut || ids.new_id());
            state.note(now, format!("transaction {id} is aborted: its time is over"));
            state.after_decision(id, now);
        }
        Some(deadline) => {
            coordinated.alarm = Some(deadline);
            state.at(deadline, Timer::Transaction(id.to_owned()));
        }
        None => {}
    }
}

/// A broker died, or a coordinator was moved: the new one goes on with what is decided.
pub(crate) fn on_coordinators_changed(state: &mut State, now: Instant) {
    for id in state.transactions.ids.keys().cloned().collect::<Vec<_>>() {
        let coordinator = state.coordinator(&id);
        let Some(coordinated) = state.transactions.ids.get_mut(&id) else { continue };
        if std::mem::replace(&mut coordinated.coordinator, coordinator) != coordinator {
            coordinated.coordinator_epoch += 1;
            markers::write(state, &id, now);
        }
    }
}
