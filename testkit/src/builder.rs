//! What kind of cluster to start, and the two ways to start it.

#![expect(clippy::disallowed_methods, reason = "the TCP cluster has a thread and a clock of its own")]

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use milena_protocol::ApiKey;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use crate::cluster::Cluster;
use crate::configs::brokers::BrokerConfigs;
use crate::configs::{self, brokers};
use crate::event_loop::Shared;
use crate::kafka_version::KafkaVersion;
use crate::net::{memory, tcp};
use crate::planted::Defect;
use crate::request_log::RequestLog;
use crate::state::{Settings, State};
use crate::topics::Broker;

/// The wall clock of a cluster in memory when it starts: 2026-01-01T00:00:00Z in milliseconds. From there it follows tokio's clock.
pub const WALL_CLOCK_BASE_MS: i64 = 1_767_225_600_000;

/// What kind of cluster to start. Every setting has a default: three brokers, no topics, seed 0.
#[derive(Debug, Clone)]
pub struct ClusterBuilder {
    brokers: i32,
    racks: Vec<String>,
    topics: Vec<NewTopic>,
    seed: u64,
    auto_create_topics: bool,
    default_partitions: i32,
    wall_clock_base_ms: Option<i64>,
    latency: Duration,
    initial_rebalance_delay: Duration,
    replica_lag: Duration,
    broker_configs: BTreeMap<String, String>,
    request_log: bool,
    backward_commits: bool,
    check_invariants: bool,
    planted: Option<Defect>,
    kafka_version: Option<KafkaVersion>,
    newest: BTreeMap<ApiKey, i16>,
    features: BTreeMap<String, i16>,
    first_port: Option<u16>,
}

#[derive(Debug, Clone)]
struct NewTopic {
    name: String,
    partitions: i32,
    configs: BTreeMap<String, String>,
}

impl Default for ClusterBuilder {
    fn default() -> Self {
        Self {
            brokers: 3,
            racks: Vec::new(),
            topics: Vec::new(),
            seed: 0,
            auto_create_topics: false,
            default_partitions: 1,
            wall_clock_base_ms: None,
            latency: Duration::ZERO,
            initial_rebalance_delay: Duration::ZERO,
            replica_lag: Duration::from_secs(30),
            broker_configs: BTreeMap::new(),
            request_log: true,
            backward_commits: false,
            check_invariants: true,
            planted: None,
            kafka_version: None,
            newest: BTreeMap::new(),
            features: BTreeMap::new(),
            first_port: None,
        }
    }
}

impl ClusterBuilder {
    /// How many brokers; their ids are 1, 2, … (default 3).
    pub fn brokers(mut self, brokers: u8) -> Self {
        self.brokers = i32::from(brokers.max(1));
        self
    }

    /// The brokers' racks, in the order of their ids; brokers beyond the list have none. A reader in the rack of a follower is sent there
    /// (KIP-392), as if `replica.selector.class` were `RackAwareReplicaSelector`.
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
        self.topics.push(NewTopic { name: name.into(), partitions, configs });
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

    /// What all brokers have in their properties, for topics that set nothing themselves, e.g. `("message.max.bytes", "100000")`.
    /// DescribeConfigs tells it as `STATIC_BROKER_CONFIG`; IncrementalAlterConfigs can change it later.
    ///
    /// # Panics
    /// When brokers have no such configuration, when it has a method of its own in this builder, or when it cannot have this value.
    pub fn broker_config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let (name, value): (String, String) = (name.into(), value.into());
        let known = brokers::find(&name).filter(|config| !config.read_only);
        let config = known.unwrap_or_else(|| panic!("{name} is not a configuration that topics inherit from brokers"));
        let value = configs::check_value(&name, config.kind, &value).unwrap_or_else(|message| panic!("{message}"));
        self.broker_configs.insert(name, value);
        self
    }

    /// How long a follower that is [held back](Cluster::hold_follower) stays in sync: `replica.lag.time.max.ms` (default 30 s, as in
    /// Kafka).
    pub fn replica_lag(mut self, most: Duration) -> Self {
        self.replica_lag = most;
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

    /// Whether the cluster looks at itself and its clients for what must not happen, and fails the test for it (default true). Off for
    /// tests that do such things on purpose; [`Cluster::take_violations`] is for those that want to see what was noticed.
    pub fn check_invariants(mut self, on: bool) -> Self {
        self.check_invariants = on;
        self
    }

    /// Plants a defect in the brokers, to see whether a test finds it.
    #[doc(hidden)]
    pub fn planted(mut self, defect: Defect) -> Self {
        self.planted = Some(defect);
        self
    }

    /// The release whose brokers the cluster is like: the APIs and versions that they have, the features, and what they did differently.
    ///
    /// Default: none. Then a cluster behaves like Kafka 4.3 and besides answers every version of an API that the message crate can
    /// speak, so that old clients work, too.
    pub fn kafka_version(mut self, version: KafkaVersion) -> Self {
        self.kafka_version = Some(version);
        self
    }

    /// The newest version of an API that the brokers have, where their release has a newer one: for what a client does without it.
    pub fn newest_version(mut self, api: impl Into<ApiKey>, version: i16) -> Self {
        self.newest.insert(api.into(), version);
        self
    }

    /// The finalised level of a cluster feature, e.g. `transaction.version`; 0 removes it.
    pub fn feature(mut self, name: impl Into<String>, level: i16) -> Self {
        self.features.insert(name.into(), level);
        self
    }

    /// The finalised level of `transaction.version`: 2 (default, but for an older [`KafkaVersion`]; every transaction has an epoch of its own, KIP-890), 1 or 0 (for
    /// clients the same: the protocol before it).
    pub fn transaction_version(self, level: i16) -> Self {
        self.feature("transaction.version", level)
    }

    /// On TCP: the first broker's port; the others follow it. Default: free ports.
    pub fn port(mut self, first: u16) -> Self {
        self.first_port = Some(first);
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
            let listener = tcp::bind(self.first_port.map_or(0, |first| first.saturating_add((id - 1) as u16)))?;
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
            if let Some(up) = cluster.is_up(id) {
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

    /// What the brokers have in their properties, of all and of each.
    fn broker_configs(&self, brokers: &BTreeMap<i32, Broker>) -> BrokerConfigs {
        let mut all = self.broker_configs.clone();
        for (name, value) in [
            ("auto.create.topics.enable", self.auto_create_topics.to_string()),
            ("default.replication.factor", brokers.len().min(3).to_string()),
            ("group.initial.rebalance.delay.ms", self.initial_rebalance_delay.as_millis().to_string()),
            ("num.partitions", self.default_partitions.to_string()),
            ("replica.lag.time.max.ms", self.replica_lag.as_millis().to_string()),
        ] {
            if brokers::find(name).and_then(|config| config.default) != Some(value.as_str()) {
                all.insert(name.to_owned(), value);
            }
        }
        let of_one = |(id, broker): (&i32, &Broker)| {
            let id_itself = ["broker.id", "node.id"].map(|name| (name.to_owned(), id.to_string()));
            let rack = broker.rack.iter().flat_map(|rack| {
                let selector = "org.apache.kafka.common.replica.RackAwareReplicaSelector".to_owned();
                [("broker.rack".to_owned(), rack.clone()), ("replica.selector.class".to_owned(), selector)]
            });
            (*id, id_itself.into_iter().chain(rack).collect())
        };
        BrokerConfigs::new(all, brokers.iter().map(of_one).collect())
    }

    fn run(
        self,
        brokers: BTreeMap<i32, Broker>,
        runtime: Handle,
        wall_clock_base_ms: i64,
        real_time: bool,
        stop: Option<oneshot::Sender<()>>,
    ) -> Cluster {
        let broker_configs = self.broker_configs(&brokers);
        let up = brokers.keys().map(|id| (*id, watch::channel(Some(true)).0)).collect();
        let version = self.kafka_version.unwrap_or(KafkaVersion::V4_3);
        let mut features = self.features;
        features.entry("transaction.version".to_owned()).or_insert(version.transaction_version());
        let settings = Settings {
            seed: self.seed,
            auto_create_topics: self.auto_create_topics,
            default_partitions: self.default_partitions,
            wall_clock_base_ms,
            // A client whose clock is the system's may talk to a cluster in virtual time: no limit there, unless a topic sets one.
            default_timestamp_limit: real_time && version.limits_timestamps(),
            initial_rebalance_delay: self.initial_rebalance_delay,
            replica_lag: self.replica_lag,
            kafka_version: self.kafka_version,
            newest: self.newest,
            verifies_transactions: version.verifies_transactions(),
            features,
            backward_commits: self.backward_commits,
            check_invariants: self.check_invariants,
            planted: self.planted,
        };
        let log = RequestLog::new(!self.request_log);
        let (shared, ended) = Shared::start(|now| State::new(settings, brokers, broker_configs, log, now), runtime);
        let cluster = Cluster::new(shared, ended, self.latency, up, stop);
        for topic in self.topics {
            cluster.make_topic(&topic.name, topic.partitions, topic.configs);
        }
        cluster
    }
}
