//! The cluster as a test sees it: poked, asked, stopped.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use milena_protocol::ApiKey;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::apis::create_topics;
use crate::builder::ClusterBuilder;
use crate::configs;
use crate::event_loop::Shared;
use crate::failure;
use crate::faults::{FaultBuilder, Faults, Site};
use crate::groups::GroupInfo;
use crate::log::batch::StoredRecord;
use crate::net::memory::{MemoryConnector, MemoryResolver};
use crate::network::Link;
use crate::request_log::RequestLog;
use crate::state::{Power, State};
use crate::topics::Partition;
use crate::transactions::{self, TransactionInfo};

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
    /// The faults that had not fired when the cluster was stopped.
    ending: Option<Vec<String>>,
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
    /// Where the copy of each replica ends, in the order of `replicas`.
    pub replica_ends: Vec<i64>,
    /// Followers that the test holds back.
    pub held: Vec<i32>,
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

impl PartitionInfo {
    fn of(p: &Partition) -> Self {
        Self {
            leader: p.leader,
            leader_epoch: p.leader_epoch,
            replicas: p.replicas.clone(),
            isr: p.isr.clone(),
            replica_ends: p.replicas.iter().map(|replica| p.end_of(*replica)).collect(),
            held: p.held(),
            log_start_offset: p.log.start(),
            log_end_offset: p.log.end(),
            high_watermark: p.log.high_watermark(),
            last_stable_offset: p.log.last_stable_offset(),
            bytes: p.log.size(),
        }
    }

    fn is_held(&self, broker: i32) -> bool {
        self.held.contains(&broker)
    }

    fn is_held_out_of_sync(&self, broker: i32) -> bool {
        self.is_held(broker) && !self.isr.contains(&broker)
    }
}

impl Cluster {
    pub(crate) fn new(
        shared: Arc<Shared>,
        ended: mpsc::Receiver<()>,
        latency: Duration,
        up: BTreeMap<i32, watch::Sender<Option<bool>>>,
        stop: Option<oneshot::Sender<()>>,
    ) -> Self {
        Self { shared, ended, latency, up, stop, ending: None, checked: false }
    }

    /// Tells a TCP listener whether its broker is up.
    pub(crate) fn is_up(&self, broker: i32) -> Option<watch::Receiver<Option<bool>>> {
        self.up.get(&broker).map(watch::Sender::subscribe)
    }

    /// A cluster with default settings: three brokers, no topics.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::default()
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
        Faults { site: Arc::clone(&self.shared) as Arc<dyn Site> }
    }

    /// Makes a barrier: *stop when* a request looks like this, and go on when the test says so. See [`Barrier`](crate::Barrier).
    pub fn stop_when(&self, api: impl Into<ApiKey>) -> FaultBuilder {
        self.faults().when(api)
    }

    // ---- controls ------------------------------------------------------------------------------------------------------------

    /// Makes a topic, as CreateTopics does, with a replica on each of at most three brokers.
    ///
    /// # Panics
    /// When the name is not allowed, the topic exists already, or `partitions` is not positive.
    pub fn create_topic(&self, name: &str, partitions: i32) {
        self.make_topic(name, partitions, BTreeMap::new());
    }

    pub(crate) fn make_topic(&self, name: &str, partitions: i32, mut configs: BTreeMap<String, String>) {
        if let Err(message) = create_topics::check_name(name) {
            panic!("{message}");
        }
        for (key, value) in &mut configs {
            *value = configs::check(key, value).unwrap_or_else(|message| panic!("topic {name}: {message}"));
        }
        assert!(partitions > 0, "topic {name} needs at least one partition");
        let existed = self.shared.control(|state| {
            if state.topics.contains_key(name) {
                return true;
            }
            let replicas = state.place(0, partitions, state.brokers.len().min(3));
            state.create_topic(name, replicas, configs);
            false
        });
        assert!(!existed, "topic {name} exists already");
    }

    /// Makes a broker the leader of a partition, in a new leader epoch. It becomes a replica if it is none yet. The old leader answers
    /// `NOT_LEADER_OR_FOLLOWER` from now on, with a hint where the version allows that. From a follower that is [held
    /// back](Self::hold_follower) the old leader's log is cut to what that has.
    ///
    /// # Panics
    /// When there is no such partition or broker, the broker is down, or held back and out of sync.
    pub fn move_leader(&self, topic: &str, partition: i32, broker: i32) {
        self.control_partition(topic, partition, |state, found, now| {
            state.check_up(broker)?;
            if found.is_held_out_of_sync(broker) {
                return Err(format!("broker {broker} is held back and out of sync: release it, or use elect_unclean"));
            }
            state.move_leader(topic, partition, broker, now);
            Ok(())
        });
    }

    /// Holds a follower back: it copies nothing any more, until it is [released](Self::release_follower). The high watermark stays where
    /// it is, and with it what consumers read and what waits for `acks=all`, until the follower leaves the in-sync replicas: when it lacks
    /// something and `replica.lag.time.max.ms` is over, [30 s](ClusterBuilder::replica_lag) of the cluster's clock, or by
    /// [`drop_from_isr`](Self::drop_from_isr).
    ///
    /// ```no_run
    /// # async fn f() -> std::io::Result<()> {
    /// # use milena_testkit::Cluster;
    /// let cluster = Cluster::builder().topic("orders", 1).start_in_memory()?; // led by 1; 2 and 3 follow
    /// cluster.hold_follower("orders", 0, 2);
    /// // What is written with acks=1 is acknowledged now, and nobody can read it.
    /// cluster.crash(1);
    /// // Broker 2 was in sync and leads; the records that it did not have are gone, in a new leader epoch.
    /// assert_eq!(cluster.partition_info("orders", 0).leader, Some(2));
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    /// When there is no such partition, or the broker does not follow in it.
    pub fn hold_follower(&self, topic: &str, partition: i32, broker: i32) {
        self.control_partition(topic, partition, |state, found, now| {
            if found.leader == Some(broker) || !found.replicas.contains(&broker) {
                return Err(format!("broker {broker} is no follower of {topic}-{partition}"));
            }
            state.hold_follower(topic, partition, broker, now);
            Ok(())
        });
    }

    /// Lets a follower go that was [held back](Self::hold_follower): it has everything at once, and is in sync.
    ///
    /// # Panics
    /// When there is no such partition.
    pub fn release_follower(&self, topic: &str, partition: i32, broker: i32) {
        self.control_partition(topic, partition, |state, _, now| {
            state.release_follower(topic, partition, broker, now);
            Ok(())
        });
    }

    /// A follower that is [held back](Self::hold_follower) leaves the in-sync replicas now, and not when it has lagged for long enough.
    ///
    /// # Panics
    /// When there is no such partition, or the broker is not held back in it.
    pub fn drop_from_isr(&self, topic: &str, partition: i32, broker: i32) {
        self.control_partition(topic, partition, |state, found, now| {
            if !found.is_held(broker) {
                return Err(format!("broker {broker} is not held back in {topic}-{partition}: hold_follower first"));
            }
            state.drop_from_isr(topic, partition, broker, now);
            Ok(())
        });
    }

    /// Makes a broker the leader that may lack records: an unclean election. What it does not have is lost, whoever was told that it is
    /// written, and who has read it finds another value there, or is out of range. Kafka does that only when no in-sync replica is alive;
    /// here a test may.
    ///
    /// # Panics
    /// When there is no such partition, the broker is no replica of it, or is down.
    pub fn elect_unclean(&self, topic: &str, partition: i32, broker: i32) {
        self.control_partition(topic, partition, |state, found, now| {
            state.check_up(broker)?;
            if !found.replicas.contains(&broker) {
                return Err(format!("broker {broker} is no replica of {topic}-{partition}"));
            }
            state.elect_unclean(topic, partition, broker, now);
            Ok(())
        });
    }

    /// Does something with a partition that exists.
    fn control_partition(
        &self,
        topic: &str,
        partition: i32,
        f: impl FnOnce(&mut State, &PartitionInfo, Instant) -> Result<(), String>,
    ) {
        let done = self.shared.control_at(|state, now| {
            let found = state.topics.get(topic).and_then(|topic| topic.partition(partition)).map(PartitionInfo::of);
            f(state, &found.ok_or_else(|| format!("there is no partition {topic}-{partition}"))?, now)
        });
        if let Err(message) = done {
            panic!("{message}");
        }
    }

    /// Makes a broker the coordinator of a group or of a transactional id. The old one answers `NOT_COORDINATOR` from now on, and the
    /// new one goes on with what is decided.
    pub fn move_coordinator(&self, key: &str, broker: i32) {
        self.shared.control_at(|state, now| {
            state.moved_coordinators.insert(key.to_owned(), broker);
            state.note(now, format!("{key} is coordinated by b{broker}"));
            crate::groups::on_coordinators_changed(state, now);
            transactions::on_coordinators_changed(state, now);
        });
    }

    /// Keeps the markers of all transactions back from now on: EndTxn is answered and the transaction is decided, but last stable
    /// offsets stay where they are, offsets stay pending, and who begins the next transaction is told `CONCURRENT_TRANSACTIONS`.
    pub fn hold_markers(&self) {
        self.shared.control_at(|state, now| transactions::markers::hold(state, true, now));
    }

    /// Writes the markers that [`hold_markers`](Self::hold_markers) has kept back, and holds no more.
    pub fn release_markers(&self) {
        self.shared.control_at(|state, now| transactions::markers::hold(state, false, now));
    }

    /// A broker dies: its connections break, connecting to it is refused, its leaderships move to replicas in sync, its coordinators
    /// to the next broker. Nothing that it has acknowledged is lost.
    pub fn crash(&self, broker: i32) {
        self.die(broker, Power::Kept);
    }

    /// A machine loses its power: as [`crash`](Self::crash), and of partitions of which this broker has the only in-sync replica
    /// everything is lost that was written since the last [`flush`](Self::flush), whoever was told that it was written. Kafka flushes
    /// nothing on its own; without a `flush` these logs are empty when the broker comes back.
    pub fn crash_losing_unflushed(&self, broker: i32) {
        self.die(broker, Power::Lost);
    }

    fn die(&self, broker: i32, power: Power) {
        if let Some(up) = self.up.get(&broker) {
            up.send_replace(Some(false));
        }
        self.shared.control_at(|state, now| state.crash(broker, power, now));
    }

    /// All logs are on the brokers' disks now, up to their ends.
    pub fn flush(&self) {
        self.shared.control(|state| {
            let partitions = state.topics.values_mut().flat_map(|topic| &mut topic.partitions);
            partitions.for_each(|partition| partition.flushed = partition.log.end()); // or where their copy ends
        });
    }

    /// Cuts a link of the network until it is [healed](Self::heal). Nothing is lost for good: what is on its way waits. See [`Link`].
    ///
    /// ```no_run
    /// # async fn f() -> std::io::Result<()> {
    /// use milena_testkit::{Cluster, Link};
    ///
    /// let cluster = Cluster::builder().brokers(3).topic("orders", 6).start_in_memory()?;
    /// cluster.cut(Link::ToClients(2)); // broker 2 serves requests, and nobody hears of it
    /// cluster.cut(Link::Brokers(1, 3)); // what 1 leads has 3 no longer in sync
    /// cluster.heal(Link::ToClients(2));
    /// cluster.isolate(2); // from clients and from all other brokers
    /// cluster.heal_all();
    /// # Ok(()) }
    /// ```
    pub fn cut(&self, link: Link) {
        self.shared.control_at(|state, now| state.cut_links(&[link], now));
    }

    /// Heals a link that was [cut](Self::cut).
    pub fn heal(&self, link: Link) {
        self.shared.control_at(|state, now| state.heal_link(Some(link), now));
    }

    /// Heals every link.
    pub fn heal_all(&self) {
        self.shared.control_at(|state, now| state.heal_link(None, now));
    }

    /// Cuts a broker off from all clients and from all other brokers.
    pub fn isolate(&self, broker: i32) {
        self.shared.control_at(|state, now| {
            let others = state.brokers.keys().filter(|other| **other != broker);
            let between = others.map(|other| Link::Brokers(broker, *other));
            let links: Vec<Link> = between.chain([Link::Clients(broker)]).collect();
            state.cut_links(&links, now);
        });
    }

    /// A broker that died comes back, in sync at once. It leads only what nobody leads; [`move_leader`](Self::move_leader) gives it
    /// more. On TCP it listens again a moment later.
    pub fn restart(&self, broker: i32) {
        self.shared.control_at(|state, now| state.restart(broker, now));
        if let Some(up) = self.up.get(&broker) {
            up.send_replace(Some(true));
        }
    }

    /// In memory: a broker that died comes back, and listens on another port from now on, as one does that was given another machine.
    pub fn restart_at(&self, broker: i32, port: u16) {
        self.shared.control(|state| {
            if let Some(entry) = state.brokers.get_mut(&broker) {
                entry.port = port;
            }
        });
        self.restart(broker);
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

    /// Throttles a kind of request of all clients from now on, as a quota does: answers say `throttle_time_ms`, and for that time the
    /// broker does not read their connection. A throttled Fetch gives nothing, and the one after it is served. Zero ends it.
    ///
    /// ```no_run
    /// # fn f(cluster: milena_testkit::Cluster) {
    /// # use milena_testkit::Api;
    /// # use std::time::Duration;
    /// cluster.throttle(Api::Produce, Duration::from_millis(300));
    /// cluster.throttle_client("greedy", Api::Fetch, Duration::from_secs(5));
    /// # }
    /// ```
    pub fn throttle(&self, api: impl Into<ApiKey>, time: Duration) {
        let api = api.into();
        self.shared.control(|state| state.throttles.set(api, None, time));
    }

    /// As [`throttle`](Self::throttle), for the clients with this client id alone, for which it counts more than what is for all.
    pub fn throttle_client(&self, client_id: &str, api: impl Into<ApiKey>, time: Duration) {
        let api = api.into();
        self.shared.control(|state| state.throttles.set(api, Some(client_id), time));
    }

    /// Deletes what a topic's `retention.ms` and `retention.bytes` let go now, by the cluster's clock; nothing if its `cleanup.policy` is
    /// only `compact`. Kafka does that every five minutes, to whole segments; here it happens when a test says so, and every batch counts
    /// as a segment.
    ///
    /// ```no_run
    /// # async fn f() -> std::io::Result<()> {
    /// # use milena_testkit::Cluster;
    /// let cluster = Cluster::builder().topic_with("clicks", 1, [("retention.ms", "60000")]).start_in_memory()?;
    /// // … records, and two minutes later:
    /// cluster.apply_retention("clicks");
    /// assert_eq!(cluster.partition_info("clicks", 0).log_start_offset, cluster.partition_info("clicks", 0).log_end_offset);
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    /// When there is no such topic.
    pub fn apply_retention(&self, topic: &str) {
        let applied = self.shared.control_at(|state, now| state.apply_retention(topic, now));
        assert!(applied, "there is no topic {topic}");
    }

    /// Compacts a topic as Kafka's log cleaner does: of each key the last value stays, at its offset; aborted records go; records without
    /// a value go `delete.retention.ms` after the compaction that first met them, so in a second one. What lies behind the first open
    /// transaction, behind the high watermark, or is younger than `min.compaction.lag.ms`, is not touched. Kafka does that when
    /// enough has changed, and never to the segment that is written; here it happens when a test says so, to everything.
    ///
    /// ```no_run
    /// # async fn f() -> std::io::Result<()> {
    /// # use milena_testkit::Cluster;
    /// let cluster = Cluster::builder().topic_with("users", 1, [("cleanup.policy", "compact")]).start_in_memory()?;
    /// // … k=1, k=2, k=3, and then:
    /// cluster.compact("users");
    /// assert_eq!(cluster.records("users", 0).len(), 1); // at offset 2
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    /// When there is no such topic, or its `cleanup.policy` has no `compact`.
    pub fn compact(&self, topic: &str) {
        let compacted = self.shared.control_at(|state, now| state.compact(topic, now));
        assert!(compacted, "there is no topic {topic} with cleanup.policy=compact");
    }

    /// A partition forgets all idempotent producers that have no transaction open in it, as brokers do after
    /// `producer.id.expiration.ms`.
    pub fn forget_producers(&self, topic: &str, partition: i32) {
        self.with_partition(topic, partition, |p| p.log.producers.forget_all());
    }

    // ---- questions -----------------------------------------------------------------------------------------------------------

    /// The cluster's wall clock, in milliseconds since the epoch.
    pub fn wall_clock_ms(&self) -> i64 {
        self.shared.control_at(|state, now| state.wall_clock_ms(now))
    }

    /// What happened so far, to print and to ask; printed, it is the same text for the same seed in memory under a paused clock.
    pub fn request_log(&self) -> RequestLog {
        self.shared.control(|state| state.log.clone())
    }

    /// How many requests of an API have arrived.
    pub fn requests(&self, api: impl Into<ApiKey>) -> usize {
        let api = api.into();
        self.shared.control(|state| state.log.entries().filter(|entry| entry.api == api).count())
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
        self.with_partition(topic, partition, |p| PartitionInfo::of(p))
    }

    /// Number of partitions of a topic; `None` if there is no such topic.
    pub fn partitions(&self, topic: &str) -> Option<i32> {
        self.shared.control(|state| state.topics.get(topic).map(|topic| topic.partitions.len() as i32))
    }

    /// The names of all topics, in order.
    pub fn topics(&self) -> Vec<String> {
        self.shared.control(|state| state.topics.keys().cloned().collect())
    }

    /// A topic's configuration, or that of the brokers, with Kafka's default where nothing was set; `None` for an unknown topic or configuration.
    pub fn topic_config(&self, topic: &str, name: &str) -> Option<String> {
        self.shared.control(|state| state.topics.get(topic).and_then(|t| t.config(name)).map(str::to_owned))
    }

    /// All records of a partition, decoded by the kit's own code, with those of open and aborted transactions and with markers.
    ///
    /// # Panics
    /// When there is no such partition.
    pub fn records(&self, topic: &str, partition: i32) -> Vec<StoredRecord> {
        self.with_partition(topic, partition, |p| p.log.records())
    }

    /// The records of a partition that a consumer of committed data gets: those below the last stable offset that do not belong to an
    /// aborted transaction. No markers.
    ///
    /// # Panics
    /// When there is no such partition.
    pub fn committed_records(&self, topic: &str, partition: i32) -> Vec<StoredRecord> {
        self.with_partition(topic, partition, |p| p.log.committed_records())
    }

    /// State, producer and partitions of a transactional id; `None` if nobody has used it.
    pub fn transaction_info(&self, transactional_id: &str) -> Option<TransactionInfo> {
        self.shared.control(|state| state.transaction_info(transactional_id))
    }

    /// State, members and offsets of a group; `None` if there is no such group.
    pub fn group_info(&self, group: &str) -> Option<GroupInfo> {
        self.shared.control(|state| state.group_info(group))
    }

    pub(crate) fn with_partition<T>(&self, topic: &str, partition: i32, f: impl FnOnce(&mut Partition) -> T) -> T {
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
    /// When the cluster saw [violations](Self::violations), a [fault](Self::faults) never fired, or the brokers panicked themselves.
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

    fn end(&mut self) {
        if self.ending.is_none() {
            self.ending = Some(self.shared.control(|state| state.faults.silent()));
        }
        for up in self.up.values() {
            up.send_replace(None);
        }
        self.shared.stop();
    }

    fn check(&mut self) {
        let Some(silent) = self.ending.as_mut().filter(|_| !std::mem::replace(&mut self.checked, true)) else { return };
        let mut what = self.shared.control(|state| state.violations.clone());
        if !what.is_empty() {
            what.insert(0, "the cluster saw what must not happen:".to_owned());
        }
        what.extend(self.shared.control(|state| state.panicked.clone()));
        what.append(silent);
        let (log, seed) = self.shared.control(|state| (state.log.clone(), state.settings.seed));
        failure::judge(&what, &log, seed);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end();
        self.check();
    }
}
