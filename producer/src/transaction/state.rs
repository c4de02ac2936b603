//! What the handles, the broker tasks and the transaction task of one transactional producer share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use milena_client::{Error, ErrorKind, Link, OpenOutcome, Outcome};
use tokio::sync::{Notify, watch};

use super::machine::{Machine, Protocol};
use crate::accumulator::{Part, PartState, closed};
use crate::delivery::Done;

/// The state of a transactional producer's transactions.
pub(crate) struct Transactional {
    id: Arc<str>,
    timeout: Duration,
    link: Link,
    inner: Mutex<Inner>,
    /// Has the transaction task look around.
    pub(crate) bell: Notify,
    /// Something has come to a result.
    results: watch::Sender<()>,
    /// The transaction whose records are taken; 0 between transactions. Changed under the lock of the producer's topics.
    taken: AtomicU64,
    /// The number of the transaction that was begun last.
    number: AtomicU64,
}

/// Locked inside of a partition's lock, and never the other way round.
pub(crate) struct Inner {
    pub(crate) machine: Machine,
    /// What must be settled before the transaction can be ended, until the task takes it.
    pub(crate) unsettled: Option<Vec<Arc<Done>>>,
    /// While the transaction is being ended.
    pub(crate) outcome: Option<OpenOutcome>,
}

impl Transactional {
    pub(crate) fn new(link: Link, id: Arc<str>, timeout: Duration, request_timeout: Duration) -> Self {
        let inner = Inner { machine: Machine::new(request_timeout), unsettled: None, outcome: None };
        Self {
            id,
            timeout,
            link,
            inner: Mutex::new(inner),
            bell: Notify::new(),
            results: watch::Sender::new(()),
            taken: AtomicU64::new(0),
            number: AtomicU64::new(0),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn shared_id(&self) -> &Arc<str> {
        &self.id
    }

    /// How long a transaction may last.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        // The machine's calls do not panic half-way; if one did, the transaction would not be committed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the machine something; the task looks at what follows from it.
    pub(crate) fn tell<T>(&self, what: impl FnOnce(&mut Inner) -> T) -> T {
        let told = what(&mut self.lock());
        self.bell.notify_one();
        told
    }

    /// The protocol that the cluster speaks now.
    pub(crate) fn protocol(&self) -> Protocol {
        if self.link.feature("transaction.version") >= 2 { Protocol::V2 } else { Protocol::V1 }
    }

    /// The newest version of Produce that the protocol allows: from v12 on a broker adds partitions to the transaction by itself.
    pub(crate) fn newest_produce(&self) -> i16 {
        match self.lock().machine.protocol() {
            Protocol::V1 => 11,
            Protocol::V2 => i16::MAX,
        }
    }

    /// The number of the next transaction, which is begun with it.
    pub(crate) fn begin(&self) -> u64 {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let protocol = self.protocol();
        self.tell(|inner| inner.machine.on_begin(protocol));
        number
    }

    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    pub(crate) fn set_taken(&self, number: u64) {
        self.taken.store(number, Ordering::Relaxed);
    }

    /// Whether a batch of the partition may be sent: asked once per transaction, and until the answer is yes. Its caller holds the
    /// partition's lock, so that nobody wakes the partition before it sleeps.
    pub(crate) fn join(&self, part: &Part, state: &mut PartState) -> bool {
        let number = self.number.load(Ordering::Relaxed);
        if state.joined == number {
            return true;
        }
        let joined = self.lock().machine.on_partition(|| part.topic_partition());
        if joined {
            state.joined = number;
        } else {
            self.bell.notify_one();
        }
        joined
    }

    pub(crate) fn on_records_failed(&self, error: &Error) {
        self.tell(|inner| inner.machine.on_records_failed(error));
    }

    /// Why a record is not taken.
    pub(crate) fn why_ended(&self) -> Error {
        let why = self.lock().machine.why_not_open();
        // Another transaction is open: the sender's own has ended.
        why.unwrap_or_else(|| {
            Error::new(ErrorKind::TransactionEnded, "the transaction of this sender has ended: take the new one's.")
        })
    }

    /// Counts the outcome as open, for others in this client who want the same id.
    pub(crate) fn open_outcome(&self) -> OpenOutcome {
        self.link.open_outcome(&self.id)
    }

    /// The task has brought something to a result.
    pub(crate) fn tell_results(&self) {
        self.results.send_replace(());
    }

    /// Waits until `take` finds its result.
    pub(crate) async fn result<T>(&self, mut take: impl FnMut(&mut Machine) -> Option<T>) -> T {
        let mut results = self.results.subscribe();
        loop {
            results.borrow_and_update();
            if let Some(result) = take(&mut self.lock().machine) {
                return result;
            }
            // The sender is `self`'s.
            let _ = results.changed().await;
        }
    }

    /// The producer has ended.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.machine.on_closed(closed());
        inner.outcome = None;
        drop(inner);
        self.tell_results();
    }
}

/// The failure of records that are given up with their transaction.
pub(crate) fn given_up() -> Error {
    Error::new(
        ErrorKind::TransactionEnded,
        "the record was given up with its transaction, which is aborted or can only be aborted.",
    )
    .with_outcome(Outcome::NotWritten)
}
