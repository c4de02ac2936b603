//! Which connections there are: one per (broker, owner, lane), and the reconnect back-off of each broker.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;
use tower::Layer;
use tower::util::{BoxCloneSyncService, BoxCloneSyncServiceLayer};

use super::Lane;
use super::service::{Answer, Call, Connection};
use crate::Error;
use crate::backoff::Backoff;

/// The service that requests go through: the connection and the layers around it.
pub(crate) type Stack = BoxCloneSyncService<Call, Answer, Error>;

/// A layer of the user's around every connection.
pub(crate) type ConnectionLayer = BoxCloneSyncServiceLayer<Connection, Call, Answer, Error>;

/// The connections of one client.
#[derive(Default)]
pub(crate) struct Pool {
    connections: Mutex<BTreeMap<(u64, i32, Lane), Stack>>,
    health: Mutex<BTreeMap<i32, Health>>,
    layer: Option<ConnectionLayer>,
}

/// How connecting to a broker has gone.
#[derive(Debug)]
pub(crate) struct Health {
    backoff: Backoff,
    not_before: Option<Instant>,
    /// Requests in a row that were not answered in time: a broker that is frozen can be connected to.
    unanswered: u32,
    throttled_until: Option<Instant>,
}

impl Default for Health {
    fn default() -> Self {
        Self { backoff: Backoff::RECONNECT, not_before: None, unanswered: 0, throttled_until: None }
    }
}

impl Pool {
    pub(crate) fn new(layer: Option<ConnectionLayer>) -> Self {
        Self { layer, ..Self::default() }
    }

    /// The connection of `owner` to `broker` in `lane`; `start` starts its task if there is none yet.
    pub(crate) fn connection(&self, owner: u64, broker: i32, lane: Lane, start: impl FnOnce() -> Connection) -> Stack {
        let mut connections = lock(&self.connections);
        connections
            .entry((owner, broker, lane))
            .or_insert_with(|| {
                let connection = start();
                match &self.layer {
                    Some(layer) => layer.layer(connection),
                    None => BoxCloneSyncService::new(connection),
                }
            })
            .clone()
    }

    /// Forgets all connections of `owner`. Their tasks end when the last clone is gone.
    pub(crate) fn close_owner(&self, owner: u64) {
        lock(&self.connections).retain(|(of, _, _), _| *of != owner);
    }

    /// Forgets all connections.
    pub(crate) fn close(&self) {
        lock(&self.connections).clear();
    }

    /// Forgets all connections and how connecting has gone: the client starts again from its bootstrap servers. Whoever waits for
    /// an answer on one of them is told that it is given up.
    pub(crate) fn give_up(&self) {
        lock(&self.connections).clear();
        lock(&self.health).clear();
    }

    /// When `broker` may be tried again; `None` if now.
    pub(crate) fn not_before(&self, broker: i32) -> Option<Instant> {
        lock(&self.health).get(&broker).and_then(|health| health.not_before)
    }

    /// Notes how an attempt to connect ended.
    pub(crate) fn on_attempt(&self, broker: i32, now: Instant, connected: bool, rng: &mut fastrand::Rng) {
        let mut all = lock(&self.health);
        let health = all.entry(broker).or_default();
        if connected {
            health.backoff.on_success();
            health.not_before = None;
        } else {
            health.not_before = Some(now + health.backoff.on_failure(rng));
        }
    }

    /// Until when `broker` has asked this client to keep still.
    pub(crate) fn throttled_until(&self, broker: i32) -> Option<Instant> {
        lock(&self.health).get(&broker).and_then(|health| health.throttled_until)
    }

    /// Notes that `broker` asked this client to keep still.
    pub(crate) fn on_throttled(&self, broker: i32, until: Instant) {
        let mut all = lock(&self.health);
        let health = all.entry(broker).or_default();
        health.throttled_until = health.throttled_until.max(Some(until));
    }

    /// Notes whether `broker` has answered a request in time.
    pub(crate) fn on_request(&self, broker: i32, answered: bool) {
        let mut all = lock(&self.health);
        if !answered {
            let health = all.entry(broker).or_default();
            health.unanswered = health.unanswered.saturating_add(1);
        } else if let Some(health) = all.get_mut(&broker) {
            health.unanswered = 0;
        }
    }

    /// How often in a row connecting to `broker` has failed.
    pub(crate) fn connect_failures(&self, broker: i32) -> u32 {
        lock(&self.health).get(&broker).map_or(0, |health| health.backoff.failures())
    }

    /// How often in a row `broker` could not be connected to, or did not answer: who has the choice asks another one.
    pub(crate) fn failures(&self, broker: i32) -> u32 {
        let failures = |health: &Health| health.backoff.failures().saturating_add(health.unanswered);
        lock(&self.health).get(&broker).map_or(0, failures)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every change under these locks is one insertion or removal: a panic elsewhere leaves them whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_does_not_answer_is_asked_last_until_it_does() {
        let pool = Pool::default();
        pool.on_request(1, true);
        assert_eq!(pool.failures(1), 0);
        pool.on_request(1, false);
        pool.on_request(1, false);
        assert_eq!((pool.failures(1), pool.connect_failures(1), pool.failures(2)), (2, 0, 0));
        assert_eq!(pool.not_before(1), None, "it can be connected to");
        pool.on_request(1, true);
        assert_eq!(pool.failures(1), 0);
    }
}
