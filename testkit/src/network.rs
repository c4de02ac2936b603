//! The network between clients and brokers, and between brokers: what a test has cut, and what waits for it to be healed.
//!
//! A cut link loses nothing for good, as TCP sends again what did not arrive: requests and answers wait and arrive, in their order, when
//! the link is healed, unless somebody has hung up meanwhile. New connections hang, too; over TCP the kernel accepts them, and then
//! nothing comes.
//!
//! Brokers need an answer for everything they say to one another, so a link between them that is cut one way is as good as cut both
//! ways. What the model has of it:
//! - A follower that cannot reach its leader leaves the in-sync replicas at once (Kafka waits for `replica.lag.time.max.ms`), unless
//!   the leader itself is out of the controller's sight: see `replication.rs`.
//! - The controller is with the largest part of the cluster, of several with the one that has the lowest id. A broker outside of that
//!   part leads nothing that has an in-sync replica inside, coordinates nothing, and is not in Metadata (Kafka waits for
//!   `broker.session.timeout.ms`). Partitions without such a replica keep their leader.
//! - A coordinator cannot write markers to a leader that it does not reach, and such a leader cannot ask it about a transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::serving::Answer;
use crate::state::{State, Timer};
use crate::topics::Broker;

/// A link that a test can cut with [`Cluster::cut`](crate::Cluster::cut).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Link {
    /// Between this broker and all clients.
    Clients(i32),
    /// From all clients to this broker: requests do not arrive; answers to earlier ones do.
    ClientsTo(i32),
    /// From this broker to all clients: requests are served, and no answer arrives.
    ToClients(i32),
    /// Between two brokers.
    Brokers(i32, i32),
}

/// What waits for a link to be healed.
pub(crate) enum Waiting {
    Request { connection: u64, frame: Bytes },
    Answer { connection: u64, answer: Answer },
    Closed { connection: u64 },
}

/// What is cut.
#[derive(Default)]
pub(crate) struct Network {
    to_broker: BTreeSet<i32>,
    to_clients: BTreeSet<i32>,
    between: BTreeSet<(i32, i32)>,
    /// Brokers that the controller does not reach.
    outside: BTreeSet<i32>,
    waiting: Vec<Waiting>,
    /// Changes whenever a link is cut or healed.
    pub(crate) changed: Arc<Notify>,
}

impl Network {
    /// Whether a client can connect to a broker: that takes both directions.
    pub(crate) fn lets_connect(&self, broker: i32) -> bool {
        !self.to_broker.contains(&broker) && !self.to_clients.contains(&broker)
    }

    pub(crate) fn lets_requests(&self, broker: i32) -> bool {
        !self.to_broker.contains(&broker)
    }

    pub(crate) fn lets_answers(&self, broker: i32) -> bool {
        !self.to_clients.contains(&broker)
    }

    /// Whether two brokers reach one another.
    pub(crate) fn reaches(&self, a: i32, b: i32) -> bool {
        !self.between.contains(&(a.min(b), a.max(b)))
    }

    /// Whether the controller knows the broker to be alive.
    pub(crate) fn is_inside(&self, broker: i32) -> bool {
        !self.outside.contains(&broker)
    }

    pub(crate) fn wait(&mut self, waiting: Waiting) {
        self.waiting.push(waiting);
    }

    fn set(&mut self, link: Link, cut: bool) {
        let mut to_broker = |broker| if cut { self.to_broker.insert(broker) } else { self.to_broker.remove(&broker) };
        let mut to_clients =
            |broker| if cut { self.to_clients.insert(broker) } else { self.to_clients.remove(&broker) };
        match link {
            Link::Clients(broker) => drop((to_broker(broker), to_clients(broker))),
            Link::ClientsTo(broker) => drop(to_broker(broker)),
            Link::ToClients(broker) => drop(to_clients(broker)),
            Link::Brokers(a, b) => {
                let pair = (a.min(b), a.max(b));
                if cut {
                    self.between.insert(pair)
                } else {
                    self.between.remove(&pair)
                };
            }
        }
    }

    fn heal_all(&mut self) {
        self.to_broker.clear();
        self.to_clients.clear();
        self.between.clear();
    }

    /// Finds out which brokers the controller does not reach.
    pub(crate) fn find_those_outside(&mut self, brokers: &BTreeMap<i32, Broker>) {
        let up = brokers.iter().filter(|(_, broker)| broker.up).map(|(id, _)| *id).collect();
        self.outside = self.cut_off(&up);
    }

    /// Those of `up` that are not in the part of the cluster in which the controller is.
    fn cut_off(&self, up: &BTreeSet<i32>) -> BTreeSet<i32> {
        let mut rest = up.clone();
        let mut largest = BTreeSet::new();
        while let Some(first) = rest.pop_first() {
            let (mut part, mut open) = (BTreeSet::from([first]), vec![first]);
            while let Some(broker) = open.pop() {
                let near: Vec<i32> = rest.iter().copied().filter(|other| self.reaches(broker, *other)).collect();
                for other in near {
                    rest.remove(&other);
                    part.insert(other);
                    open.push(other);
                }
            }
            if part.len() > largest.len() {
                largest = part;
            }
        }
        up.difference(&largest).copied().collect()
    }
}

impl State {
    /// A test cuts links, all in the same moment.
    pub(crate) fn cut_links(&mut self, links: &[Link], now: Instant) {
        links.iter().for_each(|link| self.network.set(*link, true));
        self.note(now, format!("{links:?} cut"));
        self.on_links_changed(now);
    }

    /// A test heals a link; all of them with `None`.
    pub(crate) fn heal_link(&mut self, link: Option<Link>, now: Instant) {
        match link {
            Some(link) => self.network.set(link, false),
            None => self.network.heal_all(),
        }
        self.note(now, link.map_or("all links healed".to_owned(), |link| format!("{link:?} healed")));
        self.on_links_changed(now);
    }

    fn on_links_changed(&mut self, now: Instant) {
        for waiting in std::mem::take(&mut self.network.waiting) {
            // Through the loop; what meets another cut link waits again.
            self.at(self.started, Timer::Network(waiting));
        }
        self.on_brokers_changed(now);
        self.network.changed.notify_waiters();
    }

    /// What waited goes on.
    pub(crate) fn on_network(&mut self, waiting: Waiting, now: Instant) {
        match waiting {
            Waiting::Request { connection, frame } => self.on_frame(connection, frame, now),
            Waiting::Answer { connection, answer } => self.send(connection, answer),
            Waiting::Closed { connection } => self.on_closed(connection, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controller_is_with_the_largest_part_and_of_two_with_the_lowest_id() {
        let mut network = Network::default();
        let up = BTreeSet::from([1, 2, 3]);
        assert!(network.cut_off(&up).is_empty());
        network.set(Link::Brokers(2, 1), true);
        assert!(network.cut_off(&up).is_empty(), "both reach the third");
        network.set(Link::Brokers(1, 3), true);
        assert_eq!(network.cut_off(&up), BTreeSet::from([1]));
        assert_eq!(network.cut_off(&BTreeSet::from([1, 2])), BTreeSet::from([2]));
        network.set(Link::Brokers(1, 2), false);
        assert!(network.cut_off(&up).is_empty() && !network.reaches(3, 1) && network.reaches(2, 1));
    }
}
