//! A real Kafka cluster of local processes that belongs to a test: started from the jars, killed, frozen and started again by node
//! id, gone when the test is.

#![expect(clippy::disallowed_methods, reason = "a driver: real processes are started on a thread that may block")]

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use milena_kafka_process::{Cluster, Node, Ports, Shape, Watchdog, jars, need_java};

/// The variable that names the folder with Kafka's jars.
const JARS: &str = "MILENA_KAFKA_JARS";

/// What kind of cluster to start. Every setting has a default: three brokers of Kafka 4.3.0, each of them broker and controller,
/// with the small internal topics that tests need.
#[derive(Debug, Clone, Default)]
pub struct RealClusterBuilder {
    shape: Shape,
    jars: Option<PathBuf>,
}

impl RealClusterBuilder {
    /// How many brokers, 1 to 9 (default 3); their ids are 1, 2, …. Each takes about 360 MB and, with all of them at once, five
    /// seconds to start.
    pub fn brokers(mut self, brokers: u8) -> Self {
        self.shape.brokers = u16::from(brokers);
        self
    }

    /// The release (default 4.3.0; from 3.3 on). Without meaning when the jars' folder is given.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.shape.version = version.into();
        self
    }

    /// The level of a cluster feature, e.g. `("transaction.version", 1)`; default: the newest that the release has.
    pub fn feature(mut self, name: &str, level: u16) -> Self {
        self.shape.features.push(format!("{name}={level}"));
        self
    }

    /// A line of every broker's `server.properties`, which wins over ours: `("auto.create.topics.enable", "true")`.
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.shape.settings.push((name.into(), value.into()));
        self
    }

    /// The folder with Kafka's jars: `libs` of a Kafka download, for example. Default: the one that `MILENA_KAFKA_JARS` names, or
    /// else Maven resolves the release, once, into cargo's target folder (`target/kafka/VERSION/libs`, as `cargo xtask kafka` does).
    pub fn jars(mut self, folder: impl Into<PathBuf>) -> Self {
        self.jars = Some(folder.into());
        self
    }

    /// Formats the brokers' folders, starts the processes and waits until every broker knows every other one.
    ///
    /// # Errors
    /// A sentence, with a command where one helps: no Java from 17 on, no Maven where there are no jars, a broker that stopped (with
    /// the last lines of its log), a cluster that does not answer within two minutes.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    /// The start goes on, on a thread that may block, and what it has started is stopped.
    pub async fn start(self) -> io::Result<RealCluster> {
        blocking(move || self.start_blocking()).await
    }

    fn start_blocking(self) -> io::Result<RealCluster> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        self.shape.check()?;
        need_java()?;
        let libs = match self.jars.or_else(|| std::env::var_os(JARS).map(PathBuf::from)) {
            Some(folder) => folder,
            None => {
                let kept = jars::kept_in_target().ok_or_else(|| {
                    io::Error::other(format!(
                        "where are Kafka's jars? Name their folder by {JARS} or RealClusterBuilder::jars"
                    ))
                })?;
                jars::resolve(&kept, &self.shape.version)?
            }
        };
        if !libs.is_dir() {
            return Err(io::Error::other(format!("{} is no folder with Kafka's jars", libs.display())));
        }
        let name = format!("milena-kafka-{}-{}", process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        let ports = Ports::choose(None, self.shape.brokers)?;
        // Before the first process: from here on every way out stops what was started.
        let watchdog = Watchdog::over_cluster(&dir)?;
        let inner = Cluster { shape: self.shape, base: ports.base(), dir };
        let cluster = RealCluster { inner, libs, _ports: ports, _watchdog: watchdog };
        cluster.inner.format(&cluster.libs)?;
        cluster.inner.start(&cluster.inner.nodes(), &cluster.libs)?;
        Ok(cluster)
    }
}

/// A real Kafka cluster of local processes. Dropping it kills them and deletes their data, and so does the end of this program,
/// however it ends.
///
/// ```no_run
/// # async fn f() -> std::io::Result<()> {
/// use milena_testkit::RealCluster;
///
/// let mut kafka = RealCluster::builder().brokers(3).feature("transaction.version", 1).start().await?;
/// println!("any Kafka client can connect to {}", kafka.bootstrap_servers());
/// kafka.kill(1)?; // kill -9
/// kafka.freeze(2)?; // its connections stay open, and nothing is answered
/// kafka.thaw(2)?;
/// kafka.restart(1).await?;
/// # Ok(()) }
/// ```
///
/// It takes the same faults as the in-process cluster from a [`Proxy`](crate::Proxy) in front of it.
pub struct RealCluster {
    inner: Cluster,
    libs: PathBuf,
    /// A broker that was killed comes back to its port, which nobody may have taken meanwhile.
    _ports: Ports,
    /// Ends the processes when this program is killed, and removes their folder in any case.
    _watchdog: Watchdog,
}

impl RealCluster {
    /// Begins to say what to start.
    pub fn builder() -> RealClusterBuilder {
        RealClusterBuilder::default()
    }

    /// `host:port` of every broker, separated by commas. They stay the same over [`restart`](Self::restart).
    pub fn bootstrap_servers(&self) -> String {
        self.inner.bootstrap_servers()
    }

    /// Ends a broker as a crash does (`kill -9`), and returns when it is gone. Its data stays.
    ///
    /// # Errors
    /// When there is no such broker, or it is not running.
    pub fn kill(&self, broker: i32) -> io::Result<()> {
        let node = self.running(broker)?;
        node.kill();
        Ok(())
    }

    /// Stops a broker where it is (`SIGSTOP`): it answers nothing, and its connections stay open. After about nine seconds the others
    /// take its partitions over.
    ///
    /// # Errors
    /// When there is no such broker, or it is not running.
    pub fn freeze(&self, broker: i32) -> io::Result<()> {
        self.running(broker)?.freeze().then_some(()).ok_or_else(|| gone(broker))
    }

    /// Lets a frozen broker go on (`SIGCONT`).
    ///
    /// # Errors
    /// When there is no such broker, or it is not running.
    pub fn thaw(&self, broker: i32) -> io::Result<()> {
        self.running(broker)?.thaw().then_some(()).ok_or_else(|| gone(broker))
    }

    /// Starts a broker that was killed, with its data, at its old address, and waits until it answers. One that is running is killed
    /// first.
    ///
    /// # Errors
    /// When there is no such broker, or it does not come up: the last lines of its log.
    ///
    /// # Cancel safety
    /// The start goes on, on a thread that may block; the broker belongs to this cluster.
    pub async fn restart(&mut self, broker: i32) -> io::Result<()> {
        let node = self.node(broker)?;
        let (cluster, libs) = (self.inner.clone(), self.libs.clone());
        blocking(move || {
            node.kill();
            cluster.start_again(&node, &libs)
        })
        .await
    }

    /// The process of a broker, while it runs.
    pub fn pid(&self, broker: i32) -> Option<u32> {
        self.node(broker).ok()?.alive()
    }

    /// The file with what a broker said.
    ///
    /// # Errors
    /// When there is no such broker.
    pub fn log_file(&self, broker: i32) -> io::Result<PathBuf> {
        Ok(self.node(broker)?.log())
    }

    fn node(&self, broker: i32) -> io::Result<Node> {
        let brokers = self.inner.shape.brokers;
        match u16::try_from(broker) {
            Ok(id @ 1..) if id <= brokers => Ok(self.inner.node(id)),
            _ => Err(io::Error::other(format!(
                "there is no broker {broker}: this cluster has the brokers 1 to {brokers}"
            ))),
        }
    }

    fn running(&self, broker: i32) -> io::Result<Node> {
        let node = self.node(broker)?;
        if node.alive().is_some() { Ok(node) } else { Err(gone(broker)) }
    }
}

impl Drop for RealCluster {
    fn drop(&mut self) {
        for node in self.inner.nodes() {
            node.kill();
        }
    }
}

impl fmt::Debug for RealCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RealCluster({} on {})", self.inner.shape.describe(), self.bootstrap_servers())
    }
}

fn gone(broker: i32) -> io::Error {
    io::Error::other(format!("broker {broker} is not running: restart({broker}) starts it"))
}

/// Runs it where it may block; it goes on when nobody waits for it any more.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(io::Error::other(error)),
    }
}
