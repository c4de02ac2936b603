//! One test, three clusters: the same code runs in memory under a paused clock, on the in-process cluster over TCP, and on real
//! Kafka. A difference between them is a bug of the in-process cluster.

use std::time::Duration;

use milena::{Client, ClientBuilder, NewTopic, WallClock};
use milena_testkit::{Cluster, ClusterBuilder, Faults, KafkaVersion, Proxy, RequestLog};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::{real_kafka, unique};

/// Starts building a client of the cluster in memory: on this runtime, in virtual time, the same in every run. The wall clock stands
/// still, as elapsed time does while something happens.
pub fn simulated(cluster: &Cluster) -> ClientBuilder<Client> {
    simulated_from(cluster, cluster.bootstrap_servers())
}

/// The same, with bootstrap servers that are not, or not yet, those of the cluster.
pub fn simulated_from(cluster: &Cluster, bootstrap_servers: impl Into<String>) -> ClientBuilder<Client> {
    Client::builder(bootstrap_servers)
        .simulation(Handle::current())
        .seed(1)
        .connector(cluster.connector())
        .resolver(cluster.resolver())
        .wall_clock(WallClock::from_fn(|| milena_testkit::WALL_CLOCK_BASE_MS))
}

/// The cluster that a test runs on.
pub struct Env {
    kind: Kind,
    test: String,
}

enum Kind {
    Memory { cluster: Box<Cluster> },
    Tcp { cluster: Box<Cluster> },
    Kafka { servers: String, proxy: Option<Box<Proxy>> },
}

impl Env {
    /// Starts building a client of this cluster.
    pub fn client(&self) -> ClientBuilder<Client> {
        match &self.kind {
            Kind::Memory { cluster } => simulated(cluster),
            Kind::Tcp { cluster } => Client::builder(cluster.bootstrap_servers()),
            Kind::Kafka { proxy: Some(proxy), .. } => Client::builder(proxy.bootstrap_servers()),
            Kind::Kafka { servers, proxy: None } => Client::builder(servers.clone()),
        }
    }

    /// A connected client of this cluster.
    pub async fn connect(&self) -> Client {
        self.client().client_id(self.test.clone()).connect().await.expect("the cluster of the test is up")
    }

    /// A name for a topic or a group that nobody else uses.
    pub fn name(&self, what: &str) -> String {
        match self.kind {
            Kind::Kafka { .. } => unique(&format!("{}-{what}", self.test)),
            // Alone in its cluster, and the same in every run.
            _ => what.to_owned(),
        }
    }

    /// A new topic with that many partitions.
    pub async fn topic(&self, client: &Client, what: &str, partitions: i32) -> String {
        let name = self.name(what);
        client.admin().ensure_topics(&[NewTopic::new(&name, partitions)]).await.expect("a topic can be created");
        name
    }

    /// Makes faults, of the in-process cluster or of the proxy in front of real Kafka.
    ///
    /// # Panics
    /// Where nothing stands between the test and real Kafka: see [`on_every_cluster_with_faults`].
    pub fn faults(&self) -> Faults {
        match &self.kind {
            Kind::Memory { cluster } | Kind::Tcp { cluster } => cluster.faults(),
            Kind::Kafka { proxy, .. } => proxy.as_ref().expect("the test asks for faults at its start").faults(),
        }
    }

    /// The requests that have arrived.
    ///
    /// # Panics
    /// As [`faults`](Self::faults).
    pub fn request_log(&self) -> RequestLog {
        match &self.kind {
            Kind::Memory { cluster } | Kind::Tcp { cluster } => cluster.request_log(),
            Kind::Kafka { proxy, .. } => proxy.as_ref().expect("the test asks for faults at its start").request_log(),
        }
    }

    /// The in-process cluster, where a test wants to look into it; `None` on real Kafka.
    pub fn cluster(&self) -> Option<&Cluster> {
        match &self.kind {
            Kind::Memory { cluster } | Kind::Tcp { cluster } => Some(cluster),
            Kind::Kafka { .. } => None,
        }
    }
}

/// Runs `test` on each kind of cluster. On real Kafka only where there is one (see [`real_kafka`](crate::real_kafka())).
///
/// # Panics
/// When the test does, or it has not ended after a minute (of the paused clock, in memory).
pub fn on_every_cluster(name: &str, test: impl AsyncFn(&Env)) {
    on_each(name, test, async |_| None);
}

/// The same with [`Env::faults`] everywhere: before real Kafka stands a [`Proxy`].
///
/// # Panics
/// As [`on_every_cluster`], and when a fault never fired.
pub fn on_every_cluster_with_faults(name: &str, test: impl AsyncFn(&Env)) {
    on_each(name, test, async |servers: String| {
        Some(Box::new(Proxy::builder(servers).start().await.expect("a proxy in front of real Kafka")))
    });
}

/// The variable that says which release of Kafka the in-process clusters are like: 2.8, 3.9 or 4.3.
const RELEASE: &str = "MILENA_RELEASE";

fn builder() -> ClusterBuilder {
    let builder = Cluster::builder();
    match std::env::var(RELEASE).unwrap_or_default().as_str() {
        "" => builder,
        "2.8" => builder.kafka_version(KafkaVersion::V2_8),
        "3.9" => builder.kafka_version(KafkaVersion::V3_9),
        "4.3" => builder.kafka_version(KafkaVersion::V4_3),
        other => panic!("{RELEASE}={other}: give 2.8, 3.9 or 4.3"),
    }
}

fn on_each(name: &str, test: impl AsyncFn(&Env), proxy: impl AsyncFn(String) -> Option<Box<Proxy>>) {
    let runtime = current_thread(true);
    runtime.block_on(async {
        let cluster = Box::new(builder().start_in_memory().expect("pipes need nothing"));
        run(Env { kind: Kind::Memory { cluster }, test: name.to_owned() }, &test, "in memory").await;
    });
    let runtime = current_thread(false);
    runtime.block_on(async {
        let cluster = Box::new(builder().start().await.expect("a port of 127.0.0.1 is free"));
        run(Env { kind: Kind::Tcp { cluster }, test: name.to_owned() }, &test, "in process over TCP").await;
        if let Some(servers) = real_kafka(name) {
            let proxy = proxy(servers.clone()).await;
            run(Env { kind: Kind::Kafka { servers, proxy }, test: name.to_owned() }, &test, "on real Kafka").await;
        }
    });
}

#[expect(clippy::disallowed_methods, reason = "a test that hangs must end, and say where")]
async fn run(env: Env, test: &impl AsyncFn(&Env), place: &str) {
    println!("{}: {place}", env.test);
    let patience = Duration::from_secs(if env.cluster().is_some() { 60 } else { 120 });
    let ended = tokio::time::timeout(patience, test(&env)).await;
    assert!(ended.is_ok(), "{}: not ended after {} s {place}", env.test, patience.as_secs());
    match env.kind {
        Kind::Memory { cluster } | Kind::Tcp { cluster } => cluster.shutdown().await,
        Kind::Kafka { proxy, .. } => proxy.into_iter().for_each(|proxy| proxy.shutdown()),
    }
}

fn current_thread(paused: bool) -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(paused).build().expect("a runtime needs a poller only")
}
