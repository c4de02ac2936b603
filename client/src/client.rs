//! The client: what a producer, a consumer and an admin share, and how it is built.

use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tower::Service;
use tower::util::BoxCloneSyncServiceLayer;

use crate::admin::Admin;
use crate::bootstrap;
use crate::connection::establish::Establish;
use crate::connection::generation::Generations;
use crate::connection::pool::{ConnectionLayer, Pool};
use crate::connection::service::{Answer, Call, Connection};
use crate::connection::wire::WireCounters;
use crate::core::{Config, Core};
use crate::link::{Link, Owner, TopicInterest};
use crate::metadata::changes::Changes;
use crate::metadata::driver;
use crate::metadata::machine::MetadataMachine;
use crate::metadata::recovery::Recovery;
use crate::metadata::snapshot::Metadata;
use crate::metrics::Metrics;
use crate::seam::Seed;
use crate::seam::clock::WallClock;
use crate::seam::connector::{self, BoxConnector, ByteStream, TcpConnector};
use crate::seam::resolver::{self, BoxResolver, SystemResolver};
use crate::seam::spawner::{IoThread, Spawner};
use crate::{Error, ErrorKind, MetadataRecoveryStrategy, RefreshReason};

/// A frame above this is refused before anything is allocated: a broker's own limit (`socket.request.max.bytes`, 100 MiB) with room.
const MAX_FRAME: usize = 256 << 20;

/// A connection to a Kafka cluster. Cheap to clone; the last clone dropped ends its tasks and its thread, without waiting.
#[derive(Clone)]
pub struct Client {
    pub(crate) core: Arc<Core>,
    alive: Arc<Alive>,
}

/// Ends the client when the last handle goes. Tasks hold the core and not this.
struct Alive {
    core: Arc<Core>,
    io: Mutex<Option<IoThread>>,
    /// The metadata task's.
    link: Link,
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.core.spawner.abort_tasks();
        self.link.abort();
        self.core.pool.close();
        self.core.spawner.stop_cpu();
    }
}

impl Client {
    /// Starts building a client. `bootstrap_servers` is a comma-separated list of `host:port` (`bootstrap.servers`): any brokers
    /// of the cluster, from which the others are learned.
    pub fn builder(bootstrap_servers: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(bootstrap_servers)
    }

    /// A part of the client with connections and tasks of its own: one for each producer, consumer and admin.
    pub fn new_owner(&self, name: &str) -> Owner {
        Owner::new(self.clone(), name)
    }

    /// Administration: topics, offsets.
    pub fn admin(&self) -> Admin {
        Admin::new(self.new_owner("admin"))
    }

    /// The picture of the cluster.
    pub fn metadata(&self) -> Arc<Metadata> {
        self.core.metadata.load_full()
    }

    /// Waits for the picture of the cluster to change.
    pub fn metadata_changes(&self) -> Changes {
        self.core.changes.changes()
    }

    /// Wants fresh metadata. Returns at once.
    pub fn refresh_metadata(&self, reason: RefreshReason) {
        self.core.refresh(reason);
    }

    /// Makes the topics part of every refresh for as long as the guard lives.
    pub fn want_topics<'a>(&self, topics: impl IntoIterator<Item = &'a str>) -> TopicInterest {
        self.alive.link.want_topics(topics)
    }

    /// All counters and gauges, under Java's names.
    pub fn metrics(&self) -> &Metrics {
        &self.core.metrics
    }

    /// The wall clock.
    pub fn wall_clock(&self) -> &WallClock {
        &self.core.clock
    }

    /// Randomness derived from the client's seed and `label`.
    pub fn rng(&self, label: &str) -> fastrand::Rng {
        self.core.rng(label)
    }

    /// Tasks, threads and timers.
    pub fn spawner(&self) -> &Spawner {
        &self.core.spawner
    }

    /// The number of tasks alive: constant for a client at rest, zero after [`close`](Self::close).
    pub fn tasks(&self) -> usize {
        self.core.spawner.tasks()
    }

    /// The number of sockets open: zero after [`close`](Self::close).
    pub fn sockets(&self) -> i64 {
        self.core.establish.counters.connections.value()
    }

    /// Ends all tasks, connections and threads of the client and waits until they are gone. Producers and consumers that are still
    /// there fail from now on; close them first, so that they can finish what they hold.
    ///
    /// # Cancel safety
    /// Dropped, everything still ends, but nobody has waited for it.
    pub async fn close(&self) {
        self.core.spawner.abort_tasks();
        self.alive.link.abort();
        self.core.pool.close();
        self.core.spawner.stop_cpu();
        self.core.spawner.drained().await;
        let io = self.alive.io.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(io) = io {
            io.stop().await;
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("client_id", &self.core.config.client_id).finish_non_exhaustive()
    }
}

/// Builds a [`Client`], or a newtype of it: the facade's has more methods and no setters of its own. Every setting has a default
/// that is good enough to forget.
pub struct ClientBuilder<C = Client> {
    bootstrap_servers: String,
    client_id: String,
    connector: BoxConnector,
    resolver: BoxResolver,
    runtime: Option<Handle>,
    inline: bool,
    seed: Option<u64>,
    clock: WallClock,
    layer: Option<ConnectionLayer>,
    request_timeout: Duration,
    setup_timeout: Duration,
    connect_timeout: Duration,
    metadata_max_age: Duration,
    recovery: Recovery,
    allow_auto_create_topics: bool,
    built: PhantomData<fn() -> C>,
}

impl<C: From<Client>> ClientBuilder<C> {
    /// As [`Client::builder`], for a newtype of the client.
    pub fn new(bootstrap_servers: impl Into<String>) -> Self {
        Self {
            built: PhantomData,
            bootstrap_servers: bootstrap_servers.into(),
            client_id: "milena".to_owned(),
            connector: connector::boxed(TcpConnector),
            resolver: resolver::boxed(SystemResolver),
            runtime: None,
            inline: false,
            seed: None,
            clock: WallClock::default(),
            layer: None,
            request_timeout: Duration::from_secs(30),
            setup_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            metadata_max_age: Duration::from_secs(300),
            recovery: Recovery::DEFAULT,
            allow_auto_create_topics: false,
        }
    }

    /// The name under which brokers log this client and count its quotas (`client.id`). Default: `milena`.
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = client_id.into();
        self
    }

    /// How long one request may take before its connection is given up (`request.timeout.ms`). Default: 30 s. Shorter finds a
    /// frozen broker sooner, and mistakes a slow one for it.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How long resolving, connecting and the handshake may take together (`socket.connection.setup.timeout.ms`). Default: 10 s.
    #[must_use]
    pub fn setup_timeout(mut self, timeout: Duration) -> Self {
        self.setup_timeout = timeout;
        self
    }

    /// How long [`connect`](Self::connect) tries before it gives up. Default: 10 s. (Java's constructors do not wait; here a wrong
    /// address is told at once and not with the first record.)
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How old the picture of the cluster may become before it is asked for without a reason (`metadata.max.age.ms`). Default:
    /// 5 min.
    #[must_use]
    pub fn metadata_max_age(mut self, age: Duration) -> Self {
        self.metadata_max_age = age;
        self
    }

    /// What to do when none of the brokers that are known can be reached (`metadata.recovery.strategy`, KIP-899). Default:
    /// [`Rebootstrap`](MetadataRecoveryStrategy::Rebootstrap), so that a client outlives the move of a whole cluster.
    #[must_use]
    pub fn metadata_recovery_strategy(mut self, strategy: MetadataRecoveryStrategy) -> Self {
        self.recovery.strategy = strategy;
        self
    }

    /// After how long without an answer to its questions about the cluster a client gives up every connection and starts again from
    /// the bootstrap servers (`metadata.recovery.rebootstrap.trigger.ms`, KIP-1102), and again after as long. Default: 5 min. Brokers
    /// that refuse connections need not wait for it. Without effect if the strategy is `None`.
    #[must_use]
    pub fn metadata_recovery_rebootstrap_trigger(mut self, trigger: Duration) -> Self {
        self.recovery.trigger = trigger;
        self
    }

    /// Whether brokers may create a topic that is asked for and not there, if they are set up to (`allow.auto.create.topics`).
    /// Default: false. Java's producer always allows it; a misspelt name then becomes a topic.
    #[must_use]
    pub fn allow_auto_create_topics(mut self, allow: bool) -> Self {
        self.allow_auto_create_topics = allow;
        self
    }

    /// Runs the client's tasks on a runtime of the caller's, instead of a thread that the client owns. A handler that blocks that
    /// runtime then also blocks heartbeats.
    #[must_use]
    pub fn runtime(mut self, handle: Handle) -> Self {
        self.runtime = Some(handle);
        self
    }

    /// Runs everything, CPU work and stream workers too, inline on `handle`, which must be a current-thread runtime: for
    /// simulations under a paused clock, where the same seed then gives the same run.
    #[must_use]
    pub fn simulation(mut self, handle: Handle) -> Self {
        self.runtime = Some(handle);
        self.inline = true;
        self
    }

    /// The root of all randomness: jitter, sticky partitions, ids. Default: from the operating system.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The clock that stamps records. Default: the system's.
    #[must_use]
    pub fn wall_clock(mut self, clock: WallClock) -> Self {
        self.clock = clock;
        self
    }

    /// How addresses become byte streams. Default: [`TcpConnector`].
    #[must_use]
    pub fn connector<S>(mut self, connector: S) -> Self
    where
        S: Service<SocketAddr, Error = io::Error> + Clone + Send + Sync + 'static,
        S::Response: ByteStream,
        S::Future: Send + 'static,
    {
        self.connector = connector::boxed(connector);
        self
    }

    /// How host names become addresses. Default: the operating system's resolver.
    #[must_use]
    pub fn resolver<S>(mut self, resolver: S) -> Self
    where
        S: Service<(String, u16), Response = Vec<SocketAddr>, Error = io::Error> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        self.resolver = resolver::boxed(resolver);
        self
    }

    /// A tower layer around every shared connection: tracing, metrics, faults. Not on the produce and fetch lanes, whose loops own
    /// their sockets.
    #[must_use]
    pub fn connection_layer<L>(mut self, layer: L) -> Self
    where
        L: tower::Layer<Connection> + Send + Sync + 'static,
        L::Service: Service<Call, Response = Answer, Error = Error> + Clone + Send + Sync + 'static,
        <L::Service as Service<Call>>::Future: Send + 'static,
    {
        self.layer = Some(BoxCloneSyncServiceLayer::new(layer));
        self
    }

    /// Connects: asks the bootstrap servers for the cluster until one answers or `connect_timeout` has passed.
    ///
    /// # Errors
    /// A setting that makes no sense; the last failure to reach a server.
    ///
    /// # Cancel safety
    /// Dropped, what was started ends again.
    pub async fn connect(self) -> Result<C, Error> {
        let bootstrap = bootstrap::parse(&self.bootstrap_servers)?;
        let (io, handle) = match self.runtime {
            Some(handle) => (None, handle),
            None => {
                let (io, handle) = IoThread::start()?;
                (Some(io), handle)
            }
        };
        let spawner = Spawner::new(handle, self.inline);
        let seed = self.seed.map_or_else(Seed::from_entropy, Seed);
        let clock = spawner.clone();
        let metrics = Metrics::new(move || clock.now());
        let client_id: Arc<str> = Arc::from(self.client_id.as_str());
        let tags = [("client-id", &*client_id)];
        let counters = WireCounters {
            requests: metrics.counter("client-metrics", "request-total", &tags),
            bytes_out: metrics.counter("client-metrics", "outgoing-byte-total", &tags),
            bytes_in: metrics.counter("client-metrics", "incoming-byte-total", &tags),
            connections: metrics.gauge("client-metrics", "connection-count", &tags),
        };
        let establish = Establish {
            connector: self.connector,
            resolver: self.resolver,
            client_id: client_id.clone(),
            setup_timeout: self.setup_timeout,
            max_frame: MAX_FRAME,
            counters,
            features: Arc::default(),
            generations: Generations::default(),
        };
        let machine = MetadataMachine::new(spawner.now(), self.metadata_max_age, self.recovery);
        let config = Config {
            client_id,
            request_timeout: self.request_timeout,
            metadata_max_age: self.metadata_max_age,
            allow_auto_create_topics: self.allow_auto_create_topics,
            recovery: self.recovery.strategy,
        };
        let pool = Pool::new(self.layer);
        let core = Arc::new(Core::new(config, spawner, self.clock, metrics, establish, pool, machine, bootstrap, seed));
        let link = Link::new(core.clone(), "client");
        link.spawn("metadata", driver::run(core.clone(), link.clone()));
        let client = Client { alive: Arc::new(Alive { core: core.clone(), io: Mutex::new(io), link }), core };
        client.first_metadata(self.connect_timeout).await?;
        Ok(C::from(client))
    }
}

impl Client {
    fn first_metadata(&self, timeout: Duration) -> impl Future<Output = Result<(), Error>> + Send {
        let core = self.core.clone();
        let mut changes = core.changes.changes();
        let timer = core.spawner.sleep_until(core.spawner.now() + timeout);
        async move {
            tokio::select! {
                biased;
                () = async { if core.metadata.load().version == 0 { changes.changed().await } } => Ok(()),
                () = timer => Err(core.last_failure().unwrap_or_else(|| {
                    Error::new(
                        ErrorKind::Connect,
                        format!("no broker answered within {} s: check bootstrap.servers and the network.", timeout.as_secs_f64()),
                    )
                })),
            }
        }
    }
}

impl<C> fmt::Debug for ClientBuilder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("bootstrap_servers", &self.bootstrap_servers).finish_non_exhaustive()
    }
}
