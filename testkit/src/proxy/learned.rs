//! What a proxy knows of the cluster behind it: brokers, topic names and fetch sessions, from the answers that have passed.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::apis::{Names, Touched};

type Places = BTreeSet<Touched>;

#[derive(Default)]
pub(super) struct Learned {
    /// By id: where the broker is, and the proxy's port that stands for it.
    brokers: BTreeMap<i32, (String, u16)>,
    topics: BTreeMap<Uuid, String>,
    sessions: BTreeMap<(i32, i32), Places>,
}

impl Learned {
    /// Where a broker is.
    pub(super) fn upstream(&self, broker: i32) -> Option<String> {
        self.brokers.get(&broker).map(|(upstream, _)| upstream.clone())
    }

    /// The proxy's ports, in the order of the brokers' ids.
    pub(super) fn ports(&self) -> Vec<u16> {
        self.brokers.values().map(|(_, port)| *port).collect()
    }

    /// A broker is there; returns its port if it is known.
    pub(super) fn moved_to(&mut self, broker: i32, upstream: &str) -> Option<u16> {
        let (known, port) = self.brokers.get_mut(&broker)?;
        if known != upstream {
            upstream.clone_into(known);
        }
        Some(*port)
    }

    /// A broker that was not known has this port now; returns the port that it has if it is known after all.
    pub(super) fn add(&mut self, broker: i32, upstream: String, port: u16) -> Option<u16> {
        let known = self.moved_to(broker, &upstream);
        if known.is_none() {
            self.brokers.insert(broker, (upstream, port));
        }
        known
    }

    /// A topic has this id.
    pub(super) fn topic(&mut self, id: Uuid, name: &str) {
        if !id.is_nil() {
            self.topics.insert(id, name.to_owned());
        }
    }

    /// A fetch session has these partitions now.
    pub(super) fn session_is(&mut self, broker: i32, session: i32, places: impl IntoIterator<Item = Touched>) {
        self.sessions.insert((broker, session), places.into_iter().collect());
    }
}

impl Names for Learned {
    fn name_of(&self, id: &Uuid) -> Option<&str> {
        self.topics.get(id).map(String::as_str)
    }

    fn session(&self, broker: i32, session: i32) -> Vec<Touched> {
        self.sessions.get(&(broker, session)).into_iter().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_keeps_its_port_when_it_moves() {
        let mut learned = Learned::default();
        assert_eq!(learned.add(1, "a:9092".to_owned(), 7001), None);
        assert_eq!(learned.add(1, "b:9092".to_owned(), 7002), Some(7001));
        assert_eq!(learned.upstream(1).as_deref(), Some("b:9092"));
        assert_eq!((learned.moved_to(2, "c:1"), learned.ports()), (None, vec![7001]));
    }

    #[test]
    fn topics_and_sessions_are_remembered() {
        let mut learned = Learned::default();
        let id = Uuid::from_u128(7);
        learned.topic(id, "orders");
        learned.topic(Uuid::nil(), "none");
        assert_eq!((learned.name_of(&id), learned.name_of(&Uuid::nil())), (Some("orders"), None));
        learned.session_is(1, 9, [("orders".into(), 0)]);
        assert_eq!((learned.session(1, 9).len(), learned.session(2, 9).len()), (1, 0));
    }
}
