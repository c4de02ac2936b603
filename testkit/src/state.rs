//! Everything the cluster is, owned by the event loop: brokers, topics, groups, connections, timers.
//!
//! A pure machine: frames and the time go in, answers go out through the connections' channels. Who calls it is in
//! [`event_loop`](crate::event_loop); what becomes of a frame is in [`serving`](crate::serving).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use milena_protocol::ApiKey;
use milena_protocol::{ErrorCode, StrBytes};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use crate::apis::fetch::ParkedFetches;
use crate::apis::produce::ParkedProduces;
use crate::apis::{self, Names, Parked, Touched};
use crate::configs::brokers::BrokerConfigs;
use crate::faults::Rules;
use crate::groups::{Group, OffsetProducers};
use crate::invariants::Invariants;
use crate::kafka_version::KafkaVersion;
use crate::log::compact::Cleaning;
use crate::network::{Network, Waiting};
use crate::planted::Defect;
use crate::request_log::RequestLog;
use crate::serving::{Answer, Connection};
use crate::throttling::Throttles;
use crate::topics::{Broker, Partition, Topic};
use crate::transactions::{self, Transactions};

/// Settings that do not change while the cluster runs.
pub(crate) struct Settings {
    pub(crate) seed: u64,
    pub(crate) auto_create_topics: bool,
    pub(crate) default_partitions: i32,
    /// Milliseconds since the epoch at the cluster's start.
    pub(crate) wall_clock_base_ms: i64,
    /// Whether Kafka's default limit of one hour into the future is applied to record timestamps.
    pub(crate) default_timestamp_limit: bool,
    pub(crate) initial_rebalance_delay: Duration,
    /// `replica.lag.time.max.ms`.
    pub(crate) replica_lag: Duration,
    /// The release whose APIs and versions are served; all that there are without one.
    pub(crate) kafka_version: Option<KafkaVersion>,
    /// APIs of which newer versions than these are not served.
    pub(crate) newest: BTreeMap<ApiKey, i16>,
    /// The leader of a partition asks the coordinator about a transaction that begins there.
    pub(crate) verifies_transactions: bool,
    pub(crate) features: BTreeMap<String, i16>,
    pub(crate) backward_commits: bool,
    pub(crate) check_invariants: bool,
    pub(crate) planted: Option<Defect>,
}

/// How a broker dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Power {
    /// Its process dies; the machine writes to disk what it was given.
    Kept,
    /// The machine dies with it.
    Lost,
}

/// What the loop has to do later.
pub(crate) enum Timer {
    Serve(Parked),
    Answer {
        connection: u64,
        frame: Bytes,
    },
    /// A copy of a request that a fault has made.
    Copy {
        broker: i32,
        frame: Bytes,
    },
    /// What waited for a link.
    Network(Waiting),
    Fetch(u64),
    Produce(u64),
    /// A follower of this partition has been held for so long that it may lag.
    Lag(String, i32),
    Group(String),
    Transaction(String),
}

/// The whole cluster.
pub(crate) struct State {
    pub(crate) settings: Settings,
    pub(crate) cluster_id: StrBytes,
    pub(crate) brokers: BTreeMap<i32, Broker>,
    pub(crate) topics: BTreeMap<String, Topic>,
    pub(crate) topic_names: BTreeMap<Uuid, String>,
    pub(crate) broker_configs: BrokerConfigs,
    pub(crate) groups: BTreeMap<String, Group>,
    pub(crate) offset_producers: OffsetProducers,
    /// Coordinators that a test has moved, by group.
    pub(crate) moved_coordinators: BTreeMap<String, i32>,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) transactions: Transactions,
    pub(crate) fetches: ParkedFetches,
    pub(crate) produces: ParkedProduces,
    pub(crate) faults: Rules,
    pub(crate) throttles: Throttles,
    pub(crate) log: RequestLog,
    pub(crate) network: Network,
    pub(crate) invariants: Invariants,
    pub(crate) violations: Vec<String>,
    pub(crate) rng: fastrand::Rng,
    pub(crate) connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    timers: BTreeMap<(Instant, u64), Timer>,
    next_timer: u64,
    pub(crate) started: Instant,
    pub(crate) stopped: bool,
    /// Why there are no brokers any more, if it is their own fault.
    pub(crate) panicked: Option<String>,
}

/// Hands out producer ids. The first is 0, as on a new Kafka cluster: a client may not take 0 for "none".
#[derive(Default)]
pub(crate) struct ProducerIds {
    next: i64,
}

impl ProducerIds {
    pub(crate) fn new_id(&mut self) -> i64 {
        let id = self.next;
        self.next += 1;
        id
    }
}

impl State {
    pub(crate) fn new(
        settings: Settings,
        brokers: BTreeMap<i32, Broker>,
        broker_configs: BrokerConfigs,
        log: RequestLog,
        now: Instant,
    ) -> Self {
        let mut rng = fastrand::Rng::with_seed(settings.seed);
        let cluster_id = StrBytes::from_string(format!("milena-testkit-{:08x}", rng.u32(..)));
        Self {
            faults: Rules::new(settings.seed),
            throttles: Throttles::default(),
            settings,
            cluster_id,
            brokers,
            topics: BTreeMap::new(),
            topic_names: BTreeMap::new(),
            broker_configs,
            groups: BTreeMap::new(),
            offset_producers: OffsetProducers::default(),
            moved_coordinators: BTreeMap::new(),
            producer_ids: ProducerIds::default(),
            transactions: Transactions::default(),
            fetches: ParkedFetches::default(),
            produces: ParkedProduces::default(),
            log,
            network: Network::default(),
            invariants: Invariants::default(),
            violations: Vec::new(),
            rng,
            connections: BTreeMap::new(),
            next_connection: 1,
            timers: BTreeMap::new(),
            next_timer: 0,
            started: now,
            stopped: false,
            panicked: None,
        }
    }

    // ---- time ----------------------------------------------------------------------------------------------------------------

    /// Milliseconds since the epoch, by the cluster's clock.
    pub(crate) fn wall_clock_ms(&self, now: Instant) -> i64 {
        self.settings.wall_clock_base_ms + self.since_start(now).as_millis() as i64
    }

    pub(crate) fn since_start(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    /// Does something later.
    pub(crate) fn at(&mut self, when: Instant, timer: Timer) {
        self.timers.insert((when, self.next_timer), timer);
        self.next_timer += 1;
    }

    /// When [`on_time`](Self::on_time) wants to be called.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Does what is due.
    pub(crate) fn on_time(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Timer::Serve(parked) => self.run(parked, now),
                Timer::Answer { connection, frame } => self.send(connection, Answer::Frame(frame)),
                Timer::Copy { broker, frame } => self.on_copy(broker, frame, now),
                Timer::Network(waiting) => self.on_network(waiting, now),
                Timer::Fetch(id) => apis::fetch::on_deadline(self, id, now),
                Timer::Produce(id) => apis::produce::on_deadline(self, id, now),
                Timer::Lag(topic, index) => self.drop_laggards(&topic, index, now),
                Timer::Group(group) => crate::groups::on_time(self, &group, now),
                Timer::Transaction(id) => transactions::on_time(self, &id, now),
            }
        }
    }

    /// Writes a line into the request log.
    pub(crate) fn note(&mut self, now: Instant, text: String) {
        tracing::debug!(target: "milena_testkit", "{text}");
        let at = self.since_start(now);
        self.log.note(at, text);
    }

    /// The cluster saw something that no correct client and no correct cluster do.
    pub(crate) fn violation(&mut self, sentence: String) {
        if !self.settings.check_invariants {
            return;
        }
        tracing::error!(target: "milena_testkit", "invariant violated: {sentence}");
        self.violations.push(sentence);
    }

    // ---- connections ---------------------------------------------------------------------------------------------------------

    /// A connection to a broker was made; `None` if that broker is down.
    pub(crate) fn on_connected(
        &mut self,
        broker: i32,
        answers: mpsc::UnboundedSender<Answer>,
        cut: oneshot::Sender<()>,
        now: Instant,
    ) -> Option<u64> {
        if self.stopped || !self.brokers.get(&broker)?.up {
            return None;
        }
        let id = self.next_connection;
        self.next_connection += 1;
        self.connections.insert(
            id,
            Connection {
                broker,
                answers,
                _cut: cut,
                serving: None,
                is_copy: false,
                throttle: None,
                fetch_was_throttled: false,
            },
        );
        self.note(now, format!("b{broker} c{id} connected"));
        Some(id)
    }

    /// A connection's task ended.
    pub(crate) fn on_closed(&mut self, connection: u64, now: Instant) {
        let Some(broker) = self.connections.get(&connection).map(|c| c.broker) else { return };
        if !self.network.lets_requests(broker) {
            return self.network.wait(Waiting::Closed { connection });
        }
        self.connections.remove(&connection);
        self.note(now, format!("b{broker} c{connection} closed by the client"));
    }

    /// Closes a connection from the broker's side.
    pub(crate) fn cut(&mut self, connection: u64, now: Instant, why: &str) {
        if let Some(c) = self.connections.remove(&connection) {
            self.note(now, format!("b{} c{connection} closed: {why}", c.broker));
        }
    }

    /// Closes all connections of a broker.
    pub(crate) fn cut_broker(&mut self, broker: i32, now: Instant, why: &str) {
        let of_broker = self.connections.iter().filter(|(_, c)| c.broker == broker).map(|(id, _)| *id);
        for id in of_broker.collect::<Vec<_>>() {
            self.cut(id, now, why);
        }
    }

    /// Open connections of a broker.
    pub(crate) fn connections_of(&self, broker: i32) -> usize {
        self.connections.values().filter(|c| c.broker == broker).count()
    }

    /// Ends everything: tasks see their connections cut, and the loop ends.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
        self.connections.clear();
        self.timers.clear();
        self.faults.clear();
        self.network.changed.notify_waiters();
    }

    // ---- brokers, topics, partitions -----------------------------------------------------------------------------------------

    /// The broker that answers for the controller: the first that is up.
    pub(crate) fn controller(&self) -> Option<i32> {
        self.brokers.iter().find(|(_, broker)| broker.up).map(|(id, _)| *id)
    }

    /// Where a broker can be reached.
    pub(crate) fn endpoint(&self, broker: i32) -> Option<(StrBytes, i32, Option<StrBytes>)> {
        let broker = self.brokers.get(&broker)?;
        let rack = broker.rack.clone().map(StrBytes::from_string);
        Some((StrBytes::from_string(broker.host.clone()), i32::from(broker.port), rack))
    }

    /// Makes a topic whose name, counts and configurations have been checked.
    pub(crate) fn create_topic(
        &mut self,
        name: &str,
        replicas: Vec<Vec<i32>>,
        configs: BTreeMap<String, String>,
    ) -> Uuid {
        let id = self.new_topic_id();
        let partitions = self.new_partitions(replicas);
        self.topics
            .insert(name.to_owned(), Topic { id, configs, inherited: self.broker_configs.inherited(), partitions });
        self.topic_names.insert(id, name.to_owned());
        id
    }

    /// An id that no topic has; 0 and 1 are reserved.
    pub(crate) fn new_topic_id(&mut self) -> Uuid {
        loop {
            let id = Uuid::from_u128(self.rng.u128(..));
            if id.as_u128() > 1 && !self.topic_names.contains_key(&id) {
                return id;
            }
        }
    }

    /// Replicas of partitions `from..to`: round robin over the brokers that are alive, and over the others when those are too few, as
    /// Kafka's `StripedReplicaPlacer` does. The first of each is the preferred leader. While all are alive, partition `p` is led by the
    /// `p mod n`-th broker, so that tests know who leads what.
    pub(crate) fn place(&self, from: i32, to: i32, factor: usize) -> Vec<Vec<i32>> {
        let (alive, dead): (Vec<i32>, Vec<i32>) = self.brokers.keys().partition(|id| self.is_alive(**id));
        let of = |partition: usize| {
            let round =
                |ids: &[i32]| -> Vec<i32> { (0..ids.len()).map(|at| ids[(partition + at) % ids.len()]).collect() };
            round(&alive).into_iter().chain(round(&dead)).take(factor).collect()
        };
        (from.max(0) as usize..to.max(0) as usize).map(of).collect()
    }

    /// The partition, if this broker leads it.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`, or `NOT_LEADER_OR_FOLLOWER` if another broker leads it or nobody does.
    pub(crate) fn led_by(&mut self, broker: i32, topic: &str, partition: i32) -> Result<&mut Partition, ErrorCode> {
        let found = self.topics.get_mut(topic).and_then(|topic| topic.partition_mut(partition));
        let partition = found.ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        if partition.leader == Some(broker) { Ok(partition) } else { Err(ErrorCode::NOT_LEADER_OR_FOLLOWER) }
    }

    /// The partition, if this broker leads it and the client knows no other epoch, which is looked at first.
    ///
    /// # Errors
    /// As [`led_by`](Self::led_by), and `FENCED_LEADER_EPOCH` or `UNKNOWN_LEADER_EPOCH`.
    pub(crate) fn led_in_epoch(
        &mut self,
        broker: i32,
        topic: &str,
        index: i32,
        client_epoch: i32,
    ) -> Result<&mut Partition, ErrorCode> {
        let partition = self.topics.get(topic).and_then(|topic| topic.partition(index));
        if let Some(partition) = partition.filter(|partition| partition.replicas.contains(&broker)) {
            apis::check_epoch(client_epoch, partition.leader_epoch)?;
        }
        self.led_by(broker, topic, index)
    }

    /// Leader and epoch, for the hint that goes with `NOT_LEADER_OR_FOLLOWER` (KIP-951).
    pub(crate) fn leader_hint(&self, topic: &str, partition: i32) -> Option<(i32, i32)> {
        let partition = self.topics.get(topic)?.partition(partition)?;
        Some((partition.leader?, partition.leader_epoch))
    }

    /// Leadership or high watermark of a partition changed: those who wait for it look again.
    pub(crate) fn on_partition_changed(&mut self, topic: &str, partition: i32, now: Instant) {
        apis::fetch::on_partition_changed(self, topic, partition, now);
        apis::produce::on_partition_changed(self, topic, partition, now);
    }

    /// Compacts all partitions of a topic. False if that is none that is compacted.
    pub(crate) fn compact(&mut self, name: &str, now: Instant) -> bool {
        let now_ms = self.wall_clock_ms(now);
        let Some(topic) = self.topics.get_mut(name).filter(|topic| topic.is_compacted()) else { return false };
        let number = |config: &str| topic.config_i64(config).unwrap_or(0);
        let (delete_retention, min_lag) = (number("delete.retention.ms"), number("min.compaction.lag.ms"));
        for (index, partition) in topic.partitions.iter_mut().enumerate() {
            let changed = partition.log.compact(Cleaning { now: now_ms, delete_retention, min_lag });
            self.invariants.on_compacted(topic.id, index as i32, &changed);
        }
        self.note(now, format!("{name} is compacted"));
        true
    }

    /// Deletes what a topic's retention lets go. False if there is no such topic.
    pub(crate) fn apply_retention(&mut self, name: &str, now: Instant) -> bool {
        let now_ms = self.wall_clock_ms(now);
        let Some(topic) = self.topics.get_mut(name) else { return false };
        let number = |config: &str| topic.config_i64(config).unwrap_or(-1);
        let (ms, bytes) = (number("retention.ms"), number("retention.bytes"));
        if topic.deletes() {
            for partition in &mut topic.partitions {
                partition.log.delete_older(now_ms, ms);
                partition.log.delete_larger(bytes);
            }
        }
        let starts: Vec<i64> = topic.partitions.iter().map(|partition| partition.log.start()).collect();
        self.note(now, format!("{name}: its retention is applied; logs start at {starts:?}"));
        for index in 0..starts.len() {
            self.on_partition_changed(name, index as i32, now);
        }
        true
    }

    /// A broker dies: its connections break, its leaderships move. If its power is lost, so is what it alone had, and had not brought
    /// to its disk.
    pub(crate) fn crash(&mut self, broker: i32, power: Power, now: Instant) {
        let Some(entry) = self.brokers.get_mut(&broker) else { return };
        entry.up = false;
        entry.sessions = Default::default();
        self.note(now, format!("b{broker} {}", if power == Power::Lost { "loses its power" } else { "crashes" }));
        self.cut_broker(broker, now, "the broker crashed");
        if power == Power::Lost {
            self.lose_power(broker);
        }
        self.on_brokers_changed(now);
    }

    /// A broker comes back, as a follower, or as the leader of what nobody leads and it was in sync with.
    pub(crate) fn restart(&mut self, broker: i32, now: Instant) {
        let Some(entry) = self.brokers.get_mut(&broker) else { return };
        entry.up = true;
        self.note(now, format!("b{broker} is back"));
        self.on_brokers_changed(now);
    }

    // ---- coordinators --------------------------------------------------------------------------------------------------------

    /// The broker that coordinates a group or a transactional id: chosen by a hash, as through the partitions of
    /// `__consumer_offsets`; if that broker is down, the next one. `None` if no broker is up.
    pub(crate) fn coordinator(&self, key: &str) -> Option<i32> {
        let is_there = |id: &i32| self.brokers.get(id).is_some_and(|b| b.up) && self.network.is_inside(*id);
        if let Some(broker) = self.moved_coordinators.get(key).filter(|id| is_there(id)) {
            return Some(*broker);
        }
        let first = coordinator_partition(key) as usize % self.brokers.len();
        let ids = self.brokers.iter().cycle().skip(first).take(self.brokers.len());
        ids.map(|(id, _)| *id).find(is_there)
    }

    /// Whether `broker` coordinates `key`.
    ///
    /// # Errors
    /// `NOT_COORDINATOR` if it does not.
    pub(crate) fn check_coordinator(&self, broker: i32, key: &str) -> Result<(), ErrorCode> {
        if self.coordinator(key) == Some(broker) { Ok(()) } else { Err(ErrorCode::NOT_COORDINATOR) }
    }
}

impl Names for State {
    fn name_of(&self, id: &Uuid) -> Option<&str> {
        self.topic_names.get(id).map(String::as_str)
    }

    fn has_topics(&self) -> bool {
        !self.topics.is_empty()
    }

    fn session(&self, broker: i32, session: i32) -> Vec<Touched> {
        let session = self.brokers.get(&broker).and_then(|broker| broker.sessions.get(session));
        let wanted = session.into_iter().flat_map(|session| session.partitions());
        wanted.map(|wanted| (wanted.place.name.clone(), wanted.place.partition)).collect()
    }
}

/// The partition of `__consumer_offsets` or `__transaction_state` that a key belongs to: Java's hash code, over 50 partitions.
pub(crate) fn coordinator_partition(key: &str) -> i32 {
    let hash = key.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    (hash & i32::MAX) % 50
}
