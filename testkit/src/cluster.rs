//! The cluster as a test sees it: built, started, poked, asked, stopped.

#![expect(clippy::disallowed_methods, reason = "the TCP cluster has a thread and a clock of its own")]

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use milena_protocol::ApiKey;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use crate::apis::create_topics;
use crate::configs;
use crate::event_loop::Shared;
use crate::faults::Faults;
use crate::groups::GroupInfo;
use crate::log::batch::StoredRecord;
use crate::net::memory::{self, MemoryConnector, MemoryResolver};
use crate::net::tcp;
use crate::request_log::{RequestEntry, RequestLog};
use crate::state::{Settings, State};
use crate::topics::{Broker, Topic};

/// The wall clock of a cluster in memory when it starts: 2026-01-01T00:00:00Z in milliseconds. From there it follows tokio's clock.
pub const WALL_CLOCK_BASE_MS: i64 = 1_767_225_600_000;

/// What kind of cluster to start. Every setting has a default: three brokers, no topics, seed 0.
#[derive(Debug, Clone)]
pub struct ClusterBuilder {
    brokers: i32,
    racks: Vec<String>,
    topics: Vec<(String, i32, Option<i16>, BTreeMap<String, String>)>,
    seed: u64,
    auto_create_topics: bool,
    default_partitions: i32,
    wall_clock_base_ms: Option<i64>,
    latency: Duration,
    initial_rebalance_delay: Duration,
    request_log: bool,
    backward_commits: bool,
    features: BTreeMap<String, i16>,
    ports: Option<u16>,
}

impl ClusterBuilder {
    /// How many brokers; their ids are 1, 2, … (default 3).
    pub fn brokers(mut self, brokers: u8) -> Self {
        self.brokers = i32::from(brokers.max(1));
        self
    }

    /// The brokers' racks, in the order of their ids; brokers beyond the list have none.
    pub fn racks(mut self, racks: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.racks = racks.into_iter().map(Into::into).collect();
        self
    }

    /// A topic that exists from the start, with a replica on each of at most three brokers. Partition `p` is led by the `p mod n`-th
    /// of `n` brokers.
    pub fn topic(self, name: impl Into<String>, partitions: i32) -> Self {
        self.topic_with(name, partitions, [] as [(&str, &str); 0])
    }

    /// A topic with configurations, e.g. `[("cleanup.policy", "compact")]`.
    pub fn topic_with<K: Into<String>, V: Into<String>>(
        mut self,
        name: impl Into<String>,
        partitions: i32,
        configs: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let configs = configs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        self.topics.push((name.into(), partitions, None, configs));
        self
    }

    /// The source of all chance in the cluster: topic ids, member ids, probabilities of faults (default 0).
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Whether a Metadata request makes a topic that does not exist: `auto.create.topics.enable` (default false).
    pub fn auto_create_topics(mut self, auto_create: bool) -> Self {
        self.auto_create_topics = auto_create;
        self
    }

    /// Partitions of a topic that is made without saying how many: `num.partitions` (default 1).
    pub fn default_partitions(mut self, partitions: i32) -> Self {
        self.default_partitions = partitions.max(1);
        self
    }

    /// The cluster's wall clock at its start, in milliseconds since the epoch. Default: [`WALL_CLOCK_BASE_MS`] in memory, the system
    /// clock on TCP.
    pub fn wall_clock_base_ms(mut self, base: i64) -> Self {
        self.wall_clock_base_ms = Some(base);
        self
    }

    /// How long bytes travel in memory, one way (default zero). Without meaning on TCP.
    pub fn latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// How long an empty classic group waits for more members before its first generation: `group.initial.rebalance.delay.ms`
    /// (default zero, as test clusters have it; Kafka's own default is 3 s).
    pub fn initial_rebalance_delay(mut self, delay: Duration) -> Self {
        self.initial_rebalance_delay = delay;
        self
    }

    /// Whether requests are logged (default true). Off for throughput.
    pub fn request_log(mut self, on: bool) -> Self {
        self.request_log = on;
        self
    }

    /// Allows members to commit smaller offsets than before, as a service does that seeks back. Otherwise that is a violation.
    pub fn allow_backward_commits(mut self) -> Self {
        self.backward_commits = true;
        self
    }

    /// The finalised level of a cluster feature, e.g. `transaction.version`; 0 removes it.
    pub fn feature(mut self, name: impl Into<String>, level: i16) -> Self {
        self.features.insert(name.into(), level);
        self
    }

    /// On TCP: the first broker's port; the others follow it. Default: free ports.
    pub fn port(mut self, first: u16) -> Self {
        self.ports = Some(first);
        self
    }

    /// Starts the cluster on TCP at 127.0.0.1, on a thread of its own, so that a blocked runtime of the test does not stop the
    /// brokers. Any Kafka client can connect to [`Cluster::bootstrap_servers`].
    ///
    /// # Errors
    /// When a port cannot be bound or the thread cannot be made.
    ///
    /// # Cancel safety
    /// Nothing waits in here; a dropped future has started nothing.
    pub async fn start(self) -> io::Result<Cluster> {
        let mut listeners = BTreeMap::new();
        let mut brokers = BTreeMap::new();
        for id in 1..=self.brokers {
            let listener = tcp::bind(self.ports.map_or(0, |first| first.saturating_add((id - 1) as u16)))?;
            let port = listener.local_addr()?.port();
            listeners.insert(id, listener);
            brokers.insert(id, self.broker(id, "127.0.0.1".to_owned(), port));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::Builder::new().name("milena-testkit".to_owned()).spawn(move || {
            // Ends when the cluster is shut down or dropped; then the runtime goes, and with it whatever still runs on it.
            let _ = runtime.block_on(stopped);
        })?;
        let base = self.wall_clock_base_ms.unwrap_or_else(|| {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(WALL_CLOCK_BASE_MS, |since| since.as_millis() as i64)
        });
        let cluster = self.run(brokers, handle, base, true, Some(stop));
        for (id, listener) in listeners {
            let up = cluster.up.get(&id).map(watch::Sender::subscribe);
            if let Some(up) = up {
                cluster.shared.spawn(tcp::listen(Arc::clone(&cluster.shared), id, listener, up));
            }
        }
        Ok(cluster)
    }

    /// Starts the cluster on pipes inside the process, on the runtime of the caller. With tokio's paused clock it runs in virtual
    /// time, and with the same seed and the same client it does the same, byte for byte.
    ///
    /// # Errors
    /// When it is called outside of a tokio runtime.
    pub fn start_in_memory(self) -> io::Result<Cluster> {
        let handle = Handle::try_current().map_err(io::Error::other)?;
        let brokers = (1..=self.brokers).map(|id| (id, self.broker(id, memory::host_of(id), memory::PORT))).collect();
        let base = self.wall_clock_base_ms.unwrap_or(WALL_CLOCK_BASE_MS);
        Ok(self.run(brokers, handle, base, false, None))
    }

    fn broker(&self, id: i32, host: String, port: u16) -> Broker {
        let rack = usize::try_from(id - 1).ok().and_then(|index| self.racks.get(index)).cloned();
        Broker { host, port, rack, up: true, sessions: Default::default() }
    }

    fn run(
        self,
        brokers: BTreeMap<i32, Broker>,
        runtime: Handle,
        wall_clock_base_ms: i64,
        real_time: bool,
        stop: Option<oneshot::Sender<()>>,
    ) -> Cluster {
        let up = brokers.keys().map(|id| (*id, watch::channel(Some(true)).0)).collect();
        let settings = Settings {
            seed: self.seed,
            auto_create_topics: self.auto_create_topics,
            default_partitions: self.default_partitions,
            wall_clock_base_ms,
            // A client whose clock is the system's may talk to a cluster in virtual time: no limit there, unless a topic sets one.
            default_timestamp_limit: real_time,
            initial_rebalance_delay: self.initial_rebalance_delay,
            features: self.features,
            backward_commits: self.backward_commits,
        };
        let log = RequestLog::new(!self.request_log);
        let (shared, ended) = Shared::start(|now| State::new(settings, brokers, log, now), runtime);
        let cluster = Cluster { shared, ended, latency: self.latency, up, stop, checked: false };
        for (name, partitions, factor, configs) in self.topics {
            cluster.make_topic(&name, partitions, factor, configs);
        }
        cluster
    }
}

/// A Kafka cluster inside this process. Dropping it stops it.
///
/// Its controls act at once, between two requests. Broker ids count from 1. Controls that name a topic, partition or broker which
/// does not exist panic: that is a mistake in the test.
pub struct Cluster {
    pub(crate) shared: Arc<Shared>,
    ended: mpsc::Receiver<()>,
    latency: Duration,
    /// Tells the TCP listeners whether their broker is up; `None` ends them.
    up: BTreeMap<i32, watch::Sender<Option<bool>>>,
    stop: Option<oneshot::Sender<()>>,
    checked: bool,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("bootstrap_servers", &self.bootstrap_servers()).finish_non_exhaustive()
    }
}

/// What the cluster knows about a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionInfo {
    /// The leader, if there is one.
    pub leader: Option<i32>,
    /// The leader's epoch.
    pub leader_epoch: i32,
    /// All replicas, the preferred leader first.
    pub replicas: Vec<i32>,
    /// Replicas in sync.
    pub isr: Vec<i32>,
    /// The first offset that can be read.
    pub log_start_offset: i64,
    /// The offset that the next record gets.
    pub log_end_offset: i64,
    /// The offset below which consumers read.
    pub high_watermark: i64,
    /// The offset below which every transaction is decided.
    pub last_stable_offset: i64,
    /// Size of the stored batches in bytes.
    pub bytes: u64,
}

impl Cluster {
    /// A cluster with default settings: three brokers, no topics.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder {
            brokers: 3,
            racks: Vec::new(),
            topics: Vec::new(),
            seed: 0,
            auto_create_topics: false,
            default_partitions: 1,
            wall_clock_base_ms: None,
            latency: Duration::ZERO,
            initial_rebalance_delay: Duration::ZERO,
            request_log: true,
            backward_commits: false,
            features: BTreeMap::new(),
            ports: None,
        }
    }

    /// `host:port` of all brokers, separated by commas.
    pub fn bootstrap_servers(&self) -> String {
        self.shared.control(|state| {
            let all = state.brokers.values().map(|broker| format!("{}:{}", broker.host, broker.port));
            all.collect::<Vec<_>>().join(",")
        })
    }

    /// Connects a client to a cluster in memory. On a TCP cluster it refuses every address.
    pub fn connector(&self) -> MemoryConnector {
        MemoryConnector { shared: Arc::clone(&self.shared), latency: self.latency }
    }

    /// Resolves the names of brokers in memory.
    pub fn resolver(&self) -> MemoryResolver {
        MemoryResolver { shared: Arc::clone(&self.shared) }
    }

    /// Makes faults: *when* a request looks like this, *then* react like that.
    pub fn faults(&self) -> Faults {
        Faults { shared: Arc::clone(&self.shared) }
    }

    // ---- controls ------------------------------------------------------------------------------------------------------------

    /// Makes a topic, as CreateTopics does, with a replica on each of at most three brokers.
    ///
    /// # Panics
    /// When the name is not allowed, the topic exists already, or `partitions` is not positive.
    pub fn create_topic(&self, name: &str, partitions: i32) {
        self.make_topic(name, partitions, None, BTreeMap::new());
    }

    fn make_topic(&self, name: &str, partitions: i32, factor: Option<i16>, configs: BTreeMap<String, String>) {
        if let Err(message) = create_topics::check_name(name) {
            panic!("{message}");
        }
        for (key, value) in &configs {
            if let Err(message) = configs::check(key, value) {
                panic!("topic {name}: {message}");
            }
        }
        assert!(partitions > 0, "topic {name} needs at least one partition");
        let existed = self.shared.control(|state| {
            if state.topics.contains_key(name) {
                return true;
            }
            let factor = factor.map_or(3, |factor| factor.max(1) as usize).min(state.brokers.len());
            let replicas = state.place(0, partitions, factor);
            state.create_topic(name, replicas, configs);
            false
        });
        assert!(!existed, "topic {name} exists already");
    }

    /// Makes a broker the leader of a partition, in a new leader epoch. It becomes a replica if it is none yet. The old leader answers
    /// `NOT_LEADER_OR_FOLLOWER` from now on, with a hint where the version allows that.
    ///
    /// # Panics
    /// When there is no such partition or broker, or the broker is down.
    pub fn move_leader(&self, topic: &str, partition: i32, broker: i32) {
        let moved = self.shared.control_at(|state, now| {
            if !state.brokers.get(&broker).is_some_and(|b| b.up) {
                return Err(format!("broker {broker} does not exist or is down"));
            }
            let found = state.topics.get_mut(topic).and_then(|t| t.partition_mut(partition));
            let Some(found) = found else { return Err(format!("there is no partition {topic}-{partition}")) };
            if !found.replicas.contains(&broker) {
                found.replicas.push(broker);
            }
            if !found.isr.contains(&broker) {
                found.isr.push(broker);
            }
            found.lead(Some(broker));
            let epoch = found.leader_epoch;
            state.note(now, format!("{topic}-{partition} is led by b{broker} in epoch {epoch}"));
            state.on_partition_changed(topic, partition, now);
            Ok(())
        });
        if let Err(message) = moved {
            panic!("{message}");
        }
    }

    /// Makes a broker the coordinator of a group or of a transactional id.
    pub fn move_coordinator(&self, key: &str, broker: i32) {
        self.shared.control_at(|state, now| {
            state.moved_coordinators.insert(key.to_owned(), broker);
            state.note(now, format!("{key} is coordinated by b{broker}"));
            crate::groups::on_coordinators_changed(state, now);
        });
    }

    /// A broker dies: its connections break, connecting to it is refused, its leaderships move to replicas in sync, its coordinators
    /// to the next broker. Nothing that it has acknowledged is lost.
    pub fn crash(&self, broker: i32) {
        if let Some(up) = self.up.get(&broker) {
            up.send_replace(Some(false));
        }
        self.shared.control_at(|state, now| state.crash(broker, now));
    }

    /// A broker that died comes back, in sync at once. It leads only what nobody leads; [`move_leader`](Self::move_leader) gives it
    /// more. On TCP it listens again a moment later.
    pub fn restart(&self, broker: i32) {
        self.shared.control_at(|state, now| state.restart(broker, now));
        if let Some(up) = self.up.get(&broker) {
            up.send_replace(Some(true));
        }
    }

    /// Closes all connections of a broker, which stays up.
    pub fn disconnect(&self, broker: i32) {
        self.shared.control_at(|state, now| state.cut_broker(broker, now, "the test disconnects the broker"));
    }

    /// Moves the start of a partition's log forward, as DeleteRecords and retention do.
    pub fn delete_records(&self, topic: &str, partition: i32, before: i64) {
        self.with_partition(topic, partition, |p| {
            let before = before.min(p.log.high_watermark());
            p.log.delete_before(before);
        });
        self.shared.control_at(|state, now| state.on_partition_changed(topic, partition, now));
    }

    /// A partition forgets all idempotent producers, as brokers do after `producer.id.expiration.ms`.
    pub fn forget_producers(&self, topic: &str, partition: i32) {
        self.with_partition(topic, partition, |p| p.log.producers.forget_all());
    }

    // ---- questions -----------------------------------------------------------------------------------------------------------

    /// The cluster's wall clock, in milliseconds since the epoch.
    pub fn wall_clock_ms(&self) -> i64 {
        self.shared.control_at(|state, now| state.wall_clock_ms(now))
    }

    /// What happened so far, line by line; the same text for the same seed in memory under a paused clock. See
    /// [`RequestEntry`] for a line.
    pub fn request_log(&self) -> String {
        self.shared.control(|state| state.log.to_string())
    }

    /// How many requests of an API have arrived.
    pub fn requests(&self, api: impl Into<ApiKey>) -> usize {
        let api = api.into();
        self.shared.control(|state| state.log.requests().filter(|entry| entry.api == api).count())
    }

    /// All requests that have arrived, in order.
    pub fn request_entries(&self) -> Vec<RequestEntry> {
        self.shared.control(|state| state.log.requests().cloned().collect())
    }

    /// Open connections of a broker.
    pub fn connections(&self, broker: i32) -> usize {
        self.shared.control(|state| state.connections_of(broker))
    }

    /// Leader, epoch, replicas and offsets of a partition.
    ///
    /// # Panics
    /// When there is no such partition.
    pub fn partition_info(&self, topic: &str, partition: i32) -> PartitionInfo {
        self.with_partition(topic, partition, |p| PartitionInfo {
            leader: p.leader,
            leader_epoch: p.leader_epoch,
            replicas: p.replicas.clone(),
            isr: p.isr.clone(),
            log_start_offset: p.log.start(),
            log_end_offset: p.log.end(),
            high_watermark: p.log.high_watermark(),
            last_stable_offset: p.log.last_stable_offset(),
            bytes: p.log.size(),
        })
    }

    /// Number of partitions of a topic; `None` if there is no such topic.
    pub fn partitions(&self, topic: &str) -> Option<i32> {
        self.shared.control(|state| state.topics.get(topic).map(|topic| topic.partitions.len() as i32))
    }

    /// The names of all topics, in order.
    pub fn topics(&self) -> Vec<String> {
        self.shared.control(|state| state.topics.keys().cloned().collect())
    }

    /// A topic's configuration, with Kafka's default where nothing was set; `None` for an unknown topic or configuration.
    pub fn topic_config(&self, topic: &str, name: &str) -> Option<String> {
        self.shared.control(|state| state.topics.get(topic).and_then(|t: &Topic| t.config(name)).map(str::to_owned))
    }

    /// All records of a partition, decoded by the kit's own code.
    ///
    /// # Panics
    /// When there is no such partition.
    pub fn records(&self, topic: &str, partition: i32) -> Vec<StoredRecord> {
        self.with_partition(topic, partition, |p| p.log.records())
    }

    /// State, members and offsets of a group; `None` if there is no such group.
    pub fn group_info(&self, group: &str) -> Option<GroupInfo> {
        self.shared.control(|state| state.group_info(group))
    }

    fn with_partition<T>(&self, topic: &str, partition: i32, f: impl FnOnce(&mut crate::topics::Partition) -> T) -> T {
        let found =
            self.shared.control(|state| state.topics.get_mut(topic).and_then(|t| t.partition_mut(partition)).map(f));
        found.unwrap_or_else(|| panic!("there is no partition {topic}-{partition}"))
    }

    /// What the cluster saw that no correct client and no correct cluster do, one sentence each. The cluster panics with these when
    /// it is shut down or dropped, unless they have been taken by [`take_violations`](Self::take_violations).
    pub fn violations(&self) -> Vec<String> {
        self.shared.control(|state| state.violations.clone())
    }

    /// Takes the violations, so that the end of the cluster does not panic: for tests that cause them on purpose.
    pub fn take_violations(&self) -> Vec<String> {
        self.shared.control(|state| std::mem::take(&mut state.violations))
    }

    /// Stops the cluster and waits until every task and socket of it has ended.
    ///
    /// # Panics
    /// When the cluster saw [violations](Self::violations).
    ///
    /// # Cancel safety
    /// A dropped future has stopped the cluster already; only nobody waits for its tasks.
    pub async fn shutdown(mut self) {
        self.end();
        while self.ended.recv().await.is_some() {}
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(()); // the thread has ended already if nobody listens
        }
        self.check();
    }

    fn end(&self) {
        for up in self.up.values() {
            up.send_replace(None);
        }
        self.shared.stop();
    }

    fn check(&mut self) {
        if std::mem::replace(&mut self.checked, true) || std::thread::panicking() {
            return;
        }
        let violations = self.violations();
        assert!(
            violations.is_empty(),
            "the cluster saw what must not happen:\n{}\nrequest log:\n{}",
            violations.join("\n"),
            self.request_log()
        );
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end();
        self.check();
    }
}
