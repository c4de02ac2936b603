//! Real Kafka in a container (feature `containers`): the official `apache/kafka` image, or any other one that takes the same
//! environment, such as the one that `cargo xtask kafka image` builds where no registry can be reached.
//!
//! ```no_run
//! # async fn f() -> std::io::Result<()> {
//! let kafka = milena_testkit::containers::Kafka::default().start().await?;
//! println!("any Kafka client can connect to {}", kafka.bootstrap_servers());
//! # Ok(()) }
//! ```
//!
//! It needs a Docker engine: the one that `DOCKER_HOST` names, or `/var/run/docker.sock`. `testcontainers` 0.28 asks with version 1.53
//! of the engine's API, and an engine that is older than that refuses it.

#![expect(clippy::disallowed_methods, reason = "a driver: containers live on a thread of their own, by the real clock")]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use milena_kafka_process::{Ports, Watchdog, probe};
use testcontainers::core::{ContainerPort, WaitFor};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, Image, ImageExt as _};
use tokio::sync::oneshot;

/// The variable that names the image.
const IMAGE: &str = "MILENA_KAFKA_IMAGE";

/// The port on which clients find the broker inside its container.
const CLIENTS: ContainerPort = ContainerPort::Tcp(9092);

/// One broker, which is its own controller, in a container.
#[derive(Debug, Clone)]
pub struct Kafka {
    image: String,
    settings: BTreeMap<String, String>,
    host: Option<String>,
    startup_timeout: Duration,
}

impl Default for Kafka {
    /// The image that `MILENA_KAFKA_IMAGE` names, or else `apache/kafka:4.3.0`.
    fn default() -> Self {
        Self {
            image: std::env::var(IMAGE).unwrap_or_else(|_| "apache/kafka:4.3.0".to_owned()),
            settings: BTreeMap::new(),
            host: None,
            startup_timeout: Duration::from_secs(120),
        }
    }
}

impl Kafka {
    /// The image, with its tag: `apache/kafka:4.3.0`, `milena-kafka:4.3.0`. It is pulled when the engine does not have it.
    pub fn image(mut self, image: impl Into<String>) -> Self {
        self.image = image.into();
        self
    }

    /// A setting of the broker by its name in `server.properties`, which wins over ours: `("auto.create.topics.enable", "true")`.
    pub fn setting(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.insert(variable(name), value.into());
        self
    }

    /// The name of the machine on which the engine runs, as clients reach it. Default: that in `DOCKER_HOST` when it is of the form
    /// `tcp://HOST:PORT`, else 127.0.0.1.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// How long the container may take from its start to its first answer (default 2 minutes; about 5 s are usual). Pulling its image
    /// does not count.
    pub fn startup_timeout(mut self, timeout: Duration) -> Self {
        self.startup_timeout = timeout;
        self
    }

    /// Starts the container and waits until its broker answers. The broker's port is chosen before: a broker must know, when it
    /// starts, the address under which clients find it.
    ///
    /// # Errors
    /// When no engine answers, the image is not there and cannot be pulled, or the broker does not come up in time.
    ///
    /// # Cancel safety
    /// The start goes on, on a thread of its own, and the container is removed.
    pub async fn start(self) -> io::Result<RunningKafka> {
        let (tell, told) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        // A thread and a runtime of its own: neither a paused clock nor the end of the test's runtime concerns a container.
        let builder = std::thread::Builder::new().name("kafka-container".to_owned());
        let thread = builder.spawn(move || run(self, tell, stopped))?;
        match told.await {
            Ok(Ok((bootstrap_servers, id))) => {
                Ok(RunningKafka { bootstrap_servers, id, stop: Some(stop), thread: Some(thread) })
            }
            Ok(Err(problem)) => Err(problem),
            Err(_) => Err(io::Error::other("the thread of the container has panicked; what it said is above")),
        }
    }

    /// What the broker is told, by the names that the image reads.
    fn environment(&self, host: &str, port: u16) -> BTreeMap<String, String> {
        let ours = [
            ("node.id", "1"),
            ("process.roles", "broker,controller"),
            // The broker talks to itself, too (a transaction's markers): by a listener that is inside.
            ("listeners", "PLAINTEXT://:9092,BROKER://localhost:9094,CONTROLLER://localhost:9093"),
            ("advertised.listeners", &format!("PLAINTEXT://{host}:{port},BROKER://localhost:9094")),
            ("inter.broker.listener.name", "BROKER"),
            ("controller.listener.names", "CONTROLLER"),
            ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT"),
            ("controller.quorum.voters", "1@localhost:9093"),
            ("auto.create.topics.enable", "false"),
            ("group.initial.rebalance.delay.ms", "0"),
            ("offsets.topic.num.partitions", "10"),
            ("offsets.topic.replication.factor", "1"),
            ("transaction.state.log.num.partitions", "10"),
            ("transaction.state.log.replication.factor", "1"),
            ("transaction.state.log.min.isr", "1"),
            ("transaction.abort.timed.out.transaction.cleanup.interval.ms", "500"),
            ("share.coordinator.state.topic.replication.factor", "1"),
            ("share.coordinator.state.topic.min.isr", "1"),
        ];
        let mut environment: BTreeMap<String, String> =
            ours.into_iter().map(|(name, value)| (variable(name), value.to_owned())).collect();
        // 16 bytes in URL-safe base 64; containers do not meet, so they may all have the same.
        environment.insert("CLUSTER_ID".to_owned(), "milena0container00000A".to_owned());
        environment.extend(self.settings.clone());
        environment
    }
}

/// `min.insync.replicas` is `KAFKA_MIN_INSYNC_REPLICAS` to the image; an underscore is two, and a dash three.
fn variable(setting: &str) -> String {
    let name = setting.replace('_', "__").replace('-', "___").replace('.', "_");
    format!("KAFKA_{}", name.to_uppercase())
}

/// Kafka in a container. Dropping it removes the container, and so does the end of this program, however it ends, where there is a
/// `docker` command.
pub struct RunningKafka {
    bootstrap_servers: String,
    id: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl RunningKafka {
    /// `host:port` of the broker.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// The container's id, for `docker logs` and its like.
    pub fn container_id(&self) -> &str {
        &self.id
    }
}

impl Drop for RunningKafka {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // what it panicked with has been printed
        }
    }
}

impl fmt::Debug for RunningKafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunningKafka({} on {})", self.id, self.bootstrap_servers)
    }
}

/// The image as testcontainers takes it.
struct KafkaImage {
    name: String,
    tag: String,
    environment: BTreeMap<String, String>,
}

impl Image for KafkaImage {
    fn name(&self) -> &str {
        &self.name
    }

    fn tag(&self) -> &str {
        &self.tag
    }

    fn ready_conditions(&self) -> Vec<WaitFor> {
        // What it logs depends on the image; the broker itself is asked.
        Vec::new()
    }

    fn env_vars(&self) -> impl IntoIterator<Item = (impl Into<Cow<'_, str>>, impl Into<Cow<'_, str>>)> {
        &self.environment
    }
}

type Started = io::Result<(String, String)>;

/// The thread of a container: it starts, tells, waits for the end, and removes.
fn run(kafka: Kafka, tell: oneshot::Sender<Started>, stopped: oneshot::Receiver<()>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(problem) => {
            let _ = tell.send(Err(problem));
            return;
        }
    };
    runtime.block_on(async {
        let (container, servers, _held) = match start(kafka).await {
            Ok(started) => started,
            Err(problem) => {
                let _ = tell.send(Err(problem));
                return;
            }
        };
        if tell.send(Ok((servers, container.id().to_owned()))).is_ok() {
            let _ = stopped.await; // it is dropped, never sent to
        }
        if let Err(problem) = container.rm().await {
            tracing::error!(target: "milena_testkit", error = %problem, "the container could not be removed");
        }
    });
}

async fn start(kafka: Kafka) -> io::Result<(ContainerAsync<KafkaImage>, String, (Ports, Option<Watchdog>))> {
    let host = kafka.host.clone().unwrap_or_else(host_of_the_engine);
    let ports = Ports::choose(None, 1)?;
    let environment = kafka.environment(&host, ports.base());
    // A colon before the last slash belongs to a registry's port.
    let (name, tag) = match kafka.image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name.to_owned(), tag.to_owned()),
        _ => (kafka.image.clone(), "latest".to_owned()),
    };
    let image = KafkaImage { name, tag, environment };
    let request = image.with_mapped_port(ports.base(), CLIENTS).with_startup_timeout(kafka.startup_timeout);
    let container = request.start().await.map_err(|problem| {
        io::Error::other(format!(
            "the container of {} does not start: {problem}. Is a Docker engine running (DOCKER_HOST), and does it have the image?",
            kafka.image
        ))
    })?;
    // Without a `docker` command the container of a program that is killed stays.
    let watchdog = Watchdog::over(r#"docker rm --force --volumes "$1""#, &[container.id()]).ok();
    let until = tokio::time::Instant::now() + kafka.startup_timeout;
    let port = ports.base();
    loop {
        let asked = host.clone();
        let answer =
            tokio::task::spawn_blocking(move || probe::ask_at(&asked, port)).await.map_err(io::Error::other)?;
        if answer.is_some_and(|view| view.brokers == [1] && view.controller > 0) {
            return Ok((container, format!("{host}:{port}"), (ports, watchdog)));
        }
        let runs = container.is_running().await.unwrap_or(false);
        if !runs || tokio::time::Instant::now() > until {
            let problem = if runs { "does not answer" } else { "has stopped by itself" };
            let out = container.stdout_to_vec().await.unwrap_or_default();
            let err = container.stderr_to_vec().await.unwrap_or_default();
            let log = [out, err].concat();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            let last_words = lines[lines.len().saturating_sub(20)..].join("\n");
            let _ = container.rm().await;
            return Err(io::Error::other(format!("Kafka in the container {problem}. Its last words:\n{last_words}")));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn host_of_the_engine() -> String {
    let engine = std::env::var("DOCKER_HOST").unwrap_or_default();
    let remote =
        engine.strip_prefix("tcp://").map(|address| address.rsplit_once(':').map_or(address, |(host, _)| host));
    remote.unwrap_or("127.0.0.1").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_the_variables_that_the_image_reads() {
        assert_eq!(variable("min.insync.replicas"), "KAFKA_MIN_INSYNC_REPLICAS");
        assert_eq!(variable("a_b-c.d"), "KAFKA_A__B___C_D");
        let kafka = Kafka::default().setting("auto.create.topics.enable", "true");
        let environment = kafka.environment("engine", 9112);
        assert_eq!(environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"], "true");
        assert_eq!(environment["KAFKA_ADVERTISED_LISTENERS"], "PLAINTEXT://engine:9112,BROKER://localhost:9094");
        assert_eq!(environment["CLUSTER_ID"].len(), 22);
    }
}
