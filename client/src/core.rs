//! The state that all parts of one client share. Each piece has one owner; the others read or send.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use milena_protocol::messages::MetadataResponse;
use tokio::sync::Notify;

use crate::connection::establish::Establish;
use crate::connection::pool::Pool;
use crate::coordinator::Coordinators;
use crate::metadata::changes::Version;
use crate::metadata::machine::MetadataMachine;
use crate::metadata::snapshot::{Broker, Doubts, Metadata};
use crate::metrics::Metrics;
use crate::outcomes::Outcomes;
use crate::seam::Seed;
use crate::seam::clock::WallClock;
use crate::seam::spawner::Spawner;
use crate::{Error, MetadataRecoveryStrategy, RefreshReason};

/// Plain data: what the builder was told.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) client_id: Arc<str>,
    pub(crate) request_timeout: Duration,
    pub(crate) metadata_max_age: Duration,
    pub(crate) allow_auto_create_topics: bool,
    pub(crate) recovery: MetadataRecoveryStrategy,
}

pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) spawner: Spawner,
    pub(crate) clock: WallClock,
    pub(crate) metrics: Metrics,
    pub(crate) establish: Establish,
    pub(crate) pool: Pool,
    pub(crate) coordinators: Coordinators,
    /// Transactions that are being ended.
    pub(crate) outcomes: Outcomes,
    /// Written by the metadata task and by KIP-951 hints, read by everybody.
    pub(crate) metadata: ArcSwap<Metadata>,
    pub(crate) metadata_wanted: Notify,
    /// The picture's version.
    pub(crate) changes: Version,
    /// How many questions have been settled, with or without news: what a waiter for a topic counts.
    pub(crate) refreshed: Version,
    /// The number of the question that is put together, and of the last one that a broker has answered.
    pub(crate) question: AtomicU64,
    pub(crate) answered: AtomicU64,
    machine: Mutex<MetadataMachine>,
    /// Held while the picture is replaced, so that a hint and an answer do not overwrite one another; with what answers have said that
    /// was not believed.
    replacing: Mutex<Doubts>,
    last_failure: Mutex<Option<Error>>,
    bootstrap: Vec<(String, u16)>,
    /// Brokers that a coordinator look-up named and metadata has not, yet.
    learned: Mutex<BTreeMap<i32, Broker>>,
    seed: Seed,
    next_owner: AtomicU64,
}

impl Core {
    #[expect(clippy::too_many_arguments, reason = "called once, by the builder, with every seam")]
    pub(crate) fn new(
        config: Config,
        spawner: Spawner,
        clock: WallClock,
        metrics: Metrics,
        establish: Establish,
        pool: Pool,
        machine: MetadataMachine,
        bootstrap: Vec<(String, u16)>,
        seed: Seed,
    ) -> Self {
        Self {
            config,
            spawner,
            clock,
            metrics,
            establish,
            pool,
            coordinators: Coordinators::default(),
            outcomes: Outcomes::default(),
            metadata: ArcSwap::default(),
            metadata_wanted: Notify::new(),
            changes: Version::default(),
            refreshed: Version::default(),
            question: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            machine: Mutex::new(machine),
            replacing: Mutex::default(),
            last_failure: Mutex::default(),
            bootstrap,
            learned: Mutex::default(),
            seed,
            next_owner: AtomicU64::new(0),
        }
    }

    /// A generator of its own for each label.
    pub(crate) fn rng(&self, label: &str) -> fastrand::Rng {
        self.seed.rng(label)
    }

    pub(crate) fn next_owner(&self) -> u64 {
        self.next_owner.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn machine(&self) -> MutexGuard<'_, MetadataMachine> {
        lock(&self.machine)
    }

    /// Wants fresh metadata; returns at once.
    pub(crate) fn refresh(&self, reason: RefreshReason) {
        self.machine().on_request(reason);
        self.metadata_wanted.notify_one();
    }

    /// Takes in an answer; true if it changed the picture.
    pub(crate) fn on_metadata(&self, response: &MetadataResponse) -> bool {
        *lock(&self.last_failure) = None;
        self.replace(|metadata, doubts| metadata.after_answer(response, doubts))
    }

    pub(crate) fn on_metadata_failed(&self, error: Error) {
        *lock(&self.last_failure) = Some(error);
    }

    pub(crate) fn last_failure(&self) -> Option<Error> {
        lock(&self.last_failure).clone()
    }

    /// Replaces the picture, if `next` makes another one of it.
    pub(crate) fn replace(&self, next: impl FnOnce(&Metadata, &mut Doubts) -> Option<Metadata>) -> bool {
        let mut doubts = lock(&self.replacing);
        let Some(next) = next(&self.metadata.load(), &mut doubts) else { return false };
        let version = next.version;
        self.metadata.store(Arc::new(next));
        self.changes.set(version);
        true
    }

    /// The ids under which the bootstrap servers are asked, before their own ids are known. None, once a cluster is known, if the
    /// client is not to go back to them.
    pub(crate) fn bootstrap_ids(&self) -> impl Iterator<Item = i32> + use<> {
        let is_lost = !self.metadata.load().brokers.is_empty() && self.recovery_is_off();
        let count = if is_lost { 0 } else { self.bootstrap.len() };
        (1..=count as i32).map(|index| -index)
    }

    fn recovery_is_off(&self) -> bool {
        self.config.recovery == MetadataRecoveryStrategy::None
    }

    /// Starts again from the bootstrap servers: no connection, no coordinator and no learned address is kept. The picture stays until
    /// the answer comes, because records are buffered for its partitions.
    pub(crate) fn rebootstrap(&self) {
        tracing::warn!("the brokers known so far do not answer: starting again from the bootstrap servers");
        self.let_go();
    }

    /// The bootstrap servers have answered, and the picture is theirs. What was connected meanwhile may still lead to an address of the
    /// picture before.
    pub(crate) fn rebootstrapped(&self) {
        self.let_go();
    }

    fn let_go(&self) {
        self.establish.generations.next();
        self.pool.give_up();
        self.coordinators.forget_all();
        lock(&self.learned).clear();
    }

    /// Host and port of a broker.
    pub(crate) fn endpoint(&self, broker: i32) -> Option<(String, u16)> {
        if broker < 0 {
            return self.bootstrap.get(broker.unsigned_abs() as usize - 1).cloned();
        }
        let metadata = self.metadata.load();
        let known = metadata.brokers.get(&broker).map(|broker| (broker.host.clone(), broker.port));
        known.or_else(|| lock(&self.learned).get(&broker).map(|broker| (broker.host.clone(), broker.port)))
    }

    /// Remembers where a broker is that metadata does not name yet.
    pub(crate) fn learn(&self, broker: Broker) {
        lock(&self.learned).insert(broker.id, broker);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What stands behind these locks is replaced whole, so a panic elsewhere cannot have left it half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
