//! `cargo xtask kafka …`: a real Apache Kafka cluster as plain processes of this machine.
//!
//! The journey of `kafka up`: the jars ([`jars`]) → the shape, ports and settings of each node ([`config`]) → the
//! storage tool formats its folder → the process starts ([`node`]) → every broker names every other one ([`probe`]).
//! What is running is written to `target/kafka/run/cluster`, so that `up`, `down` and `status` agree about it.

mod config;
pub(crate) mod jars;
mod node;
mod probe;

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::{Result, missing, say, workspace};

use config::{Shape, TOOL_LOG4J, bootstrap_servers, broker_port, controller_port, plural, server_properties};
use node::Node;

pub(crate) const HELP: &str = "\
cargo xtask kafka: a real Apache Kafka cluster on this machine

  up      start it and wait until it answers; the last line is bootstrap.servers=…
          An already running cluster of the same kind is left as it is; brokers of it that died are started again.
            --brokers N         1 to 9 nodes, each broker and controller (default: 3)
            --version VERSION   release (default: 4.3.0; from 3.3 on)
            --feature NAME=N    level of a cluster feature, for example transaction.version=1; may be repeated
            --port BASE         first broker port (default: 9092, or the next free block of ports)
            --bench             one broker with 1 GiB and the whole JIT compiler, for measurements
  down    stop it and delete its data
  status  what is running, and where its logs are
  kill N  kill broker N (kill -9); its data stays
  start N start broker N again and wait until every broker knows it
  move    kill all brokers (kill -9) and start them again, with their data, on other ports; the last line is bootstrap.servers=…
            --port BASE         first broker port (default: the next free block of ports)
  run CLASS [ARGUMENTS…]
          run a Java class from Kafka's class path, for example
            cargo xtask kafka run org.apache.kafka.tools.TopicCommand --bootstrap-server 127.0.0.1:9092 --list
          --version VERSION before the class takes another release
";

/// How long a cluster may take from its first process to its last answer; a machine with all cores busy needs
/// several times the usual five seconds.
const START_LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn main(mut arguments: Arguments) -> Result<()> {
    match arguments.next_word().as_deref() {
        Some("up") => {
            let mut wanted = Wanted::default();
            while let Some(flag) = arguments.next_word() {
                match flag.as_str() {
                    "--brokers" => wanted.brokers = Some(arguments.value_of(&flag)?),
                    "--version" => wanted.version = Some(arguments.value_of(&flag)?),
                    "--feature" => wanted.features.push(arguments.value_of(&flag)?),
                    "--port" => wanted.port = Some(arguments.value_of(&flag)?),
                    "--bench" => wanted.bench = true,
                    _ => return Err(arguments.unknown(&flag, HELP)),
                }
            }
            let cluster = up(&wanted)?;
            println!("bootstrap.servers={}", cluster.bootstrap_servers());
            Ok(())
        }
        Some("down") => {
            arguments.no_more(HELP)?;
            down()
        }
        Some("status") => {
            arguments.no_more(HELP)?;
            status()
        }
        Some("kill") => {
            let id = arguments.value_of("kill")?;
            arguments.no_more(HELP)?;
            one_broker(id, |_, node| {
                node.kill();
                Ok(())
            })
        }
        Some("start") => {
            let id = arguments.value_of("start")?;
            arguments.no_more(HELP)?;
            one_broker(id, |cluster, node| {
                if node.alive().is_some() {
                    return Err(format!("broker {id} is running; kill it first:  cargo xtask kafka kill {id}"));
                }
                let class_path = class_path(&jars::resolve(&workspace::kafka_dir(), &cluster.shape.version)?);
                cluster.start(&[node], &class_path)
            })
        }
        Some("move") => {
            let mut port = None;
            while let Some(flag) = arguments.next_word() {
                match flag.as_str() {
                    "--port" => port = Some(arguments.value_of(&flag)?),
                    _ => return Err(arguments.unknown(&flag, HELP)),
                }
            }
            let cluster = move_away(port)?;
            println!("bootstrap.servers={}", cluster.bootstrap_servers());
            Ok(())
        }
        Some("run") => run_tool(arguments),
        None | Some("help" | "--help" | "-h") => {
            print!("{HELP}");
            Ok(())
        }
        Some(other) => Err(arguments.unknown(other, HELP)),
    }
}

/// What the command line asks for. What it leaves open is taken from the running cluster, or else from the defaults.
#[derive(Default)]
pub(crate) struct Wanted {
    pub(crate) brokers: Option<u16>,
    pub(crate) version: Option<String>,
    pub(crate) features: Vec<String>,
    pub(crate) port: Option<u16>,
    pub(crate) bench: bool,
}

impl Wanted {
    fn shape(&self) -> Result<Shape> {
        let brokers = self.brokers.unwrap_or(if self.bench { 1 } else { 3 });
        if !(1..=9).contains(&brokers) {
            return Err(format!("--brokers {brokers}: a cluster has 1 to 9 brokers here"));
        }
        let version = self.version.clone().unwrap_or_else(|| jars::DEFAULT_VERSION.to_owned());
        let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
        let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next()) else {
            return Err(format!("--version {version}: a release looks like {}", jars::DEFAULT_VERSION));
        };
        if (major, minor) < (3, 3) {
            return Err(format!("--version {version}: releases before 3.3 need ZooKeeper, which is not started here"));
        }
        for feature in &self.features {
            if feature.split_once('=').is_none_or(|(_, level)| level.parse::<u16>().is_err()) {
                return Err(format!("--feature {feature}: a feature looks like transaction.version=1"));
            }
        }
        Ok(Shape { brokers, version, features: self.features.clone(), bench: self.bench })
    }

    /// Does the running cluster do? Only what was asked for counts.
    fn accepts(&self, running: &Cluster) -> bool {
        self.brokers.is_none_or(|n| n == running.shape.brokers)
            && self.version.as_ref().is_none_or(|v| *v == running.shape.version)
            && self.port.is_none_or(|p| p == running.base)
            && (self.features.is_empty() || self.features == running.shape.features)
            && (!self.bench || running.shape.bench)
    }
}

/// A cluster that was started by this program, as its state file tells.
pub(crate) struct Cluster {
    shape: Shape,
    base: u16,
    run_dir: PathBuf,
    /// It was running before, so whoever asked for it does not own it.
    pub(crate) was_running: bool,
}

impl Cluster {
    pub(crate) fn bootstrap_servers(&self) -> String {
        bootstrap_servers(self.base, self.shape.brokers)
    }

    /// The process of the first broker, for who wants to know what it uses.
    pub(crate) fn first_pid(&self) -> Option<u32> {
        self.nodes().first().and_then(Node::alive)
    }

    fn nodes(&self) -> Vec<Node> {
        (1..=self.shape.brokers).map(|id| Node::new(&self.run_dir, id)).collect()
    }

    fn state_file(run_dir: &Path) -> PathBuf {
        run_dir.join("cluster")
    }

    fn remember(&self) -> Result<()> {
        let Shape { brokers, version, features, bench } = &self.shape;
        let text = format!(
            "brokers={brokers}\nversion={version}\nfeatures={}\nbench={bench}\nport={}\n",
            features.join(","),
            self.base
        );
        let path = Self::state_file(&self.run_dir);
        fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
    }

    /// The cluster that was started last, if any of its processes still lives.
    fn recall(run_dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(Self::state_file(run_dir)).ok()?;
        let value =
            |key: &str| text.lines().find_map(|line| line.split_once('=').filter(|(k, _)| *k == key)).map(|x| x.1);
        let features = value("features")?;
        // The first '=' ends the key, so a feature's own '=' stays in the value.
        let cluster = Self {
            shape: Shape {
                brokers: value("brokers")?.parse().ok()?,
                version: value("version")?.to_owned(),
                features: features.split(',').filter(|f| !f.is_empty()).map(str::to_owned).collect(),
                bench: value("bench")? == "true",
            },
            base: value("port")?.parse().ok()?,
            run_dir: run_dir.to_owned(),
            was_running: true,
        };
        cluster.nodes().iter().any(|node| node.alive().is_some()).then_some(cluster)
    }

    fn write_settings(&self, node: &Node) -> Result<()> {
        let text = server_properties(&self.shape, self.base, node.id, &node.data_dir());
        fs::write(node.properties(), text).map_err(|e| format!("cannot write {}: {e}", node.properties().display()))
    }

    fn start(&self, nodes: &[Node], class_path: &str) -> Result<()> {
        for node in nodes {
            node.start(&self.shape, class_path)?;
        }
        self.wait_until_it_answers()
    }

    /// Until every broker names all brokers: then each of them is registered and unfenced.
    fn wait_until_it_answers(&self) -> Result<()> {
        let all: Vec<i32> = (1..=i32::from(self.shape.brokers)).collect();
        let until = Instant::now() + START_LIMIT;
        for node in self.nodes() {
            loop {
                let view = probe::ask(broker_port(self.base, node.id));
                if view.as_ref().is_some_and(|view| view.brokers == all && view.controller > 0) {
                    break;
                }
                let problem = if node.alive().is_none() {
                    "has stopped by itself"
                } else if Instant::now() > until {
                    "does not answer"
                } else {
                    sleep(Duration::from_millis(100));
                    continue;
                };
                return Err(format!(
                    "broker {} {problem}. Its last words ({}):\n{}\n\nStop the rest with:  cargo xtask kafka down",
                    node.id,
                    node.log().display(),
                    node.last_words()
                ));
            }
        }
        Ok(())
    }
}

/// Starts the cluster, or finds that it is there.
pub(crate) fn up(wanted: &Wanted) -> Result<Cluster> {
    let shape = wanted.shape()?;
    let kafka_dir = workspace::kafka_dir();
    let run_dir = kafka_dir.join("run");
    let _one_at_a_time = lock(&kafka_dir.join("lock"))?;

    if let Some(running) = Cluster::recall(&run_dir) {
        if !wanted.accepts(&running) {
            return Err(format!(
                "running on {}: {}, which is not what was asked for ({}{}). Stop it first:  cargo xtask kafka down",
                running.bootstrap_servers(),
                running.shape.describe(),
                shape.describe(),
                wanted.port.map(|port| format!(" from port {port} on")).unwrap_or_default()
            ));
        }
        let dead: Vec<Node> = running.nodes().into_iter().filter(|node| node.alive().is_none()).collect();
        if dead.is_empty() {
            running.wait_until_it_answers()?;
            say(&format!("{} already running", running.shape.describe()));
        } else {
            let ids: Vec<String> = dead.iter().map(|node| node.id.to_string()).collect();
            say(&format!("{} running, but for broker {}: starting it again", running.shape.describe(), ids.join(", ")));
            let class_path = class_path(&jars::resolve(&kafka_dir, &running.shape.version)?);
            running.start(&dead, &class_path)?;
        }
        return Ok(running);
    }

    missing::need_java()?;
    let class_path = class_path(&jars::resolve(&kafka_dir, &shape.version)?);
    let began = Instant::now();
    // Two worktrees that start a cluster at the same moment must not choose the same ports.
    let _ports = lock(&std::env::temp_dir().join("milena-xtask-kafka-ports.lock")).ok();
    let base = choose_ports(wanted.port, shape.brokers)?;
    let cluster = Cluster { shape, base, run_dir, was_running: false };
    say(&format!("starting {} on {}", cluster.shape.describe(), cluster.bootstrap_servers()));
    let _ = fs::remove_dir_all(&cluster.run_dir);
    format_storage(&cluster, &class_path)?;
    cluster.remember()?;
    cluster.start(&cluster.nodes(), &class_path)?;
    say(&format!(
        "up after {:.1} s; logs: {}/node-*/server.log",
        began.elapsed().as_secs_f32(),
        cluster.run_dir.display()
    ));
    Ok(cluster)
}

/// Stops every node that lives and deletes the data of all.
pub(crate) fn down() -> Result<()> {
    let kafka_dir = workspace::kafka_dir();
    let run_dir = kafka_dir.join("run");
    let _one_at_a_time = lock(&kafka_dir.join("lock"))?;
    // By the folders and not by the state file: it may be missing or stale.
    let nodes: Vec<Node> = (1..=9).map(|id| Node::new(&run_dir, id)).filter(|node| node.alive().is_some()).collect();
    // Their data goes away, so nothing is gained by letting them close it in order, which takes five seconds.
    for node in &nodes {
        node.kill();
    }
    let _ = fs::remove_dir_all(&run_dir);
    if nodes.is_empty() {
        say("no Kafka was running");
    } else {
        say(&format!("stopped {} broker{}", nodes.len(), plural(nodes.len() as u16)));
    }
    Ok(())
}

/// The cluster with its data on other ports, as after a move to other machines: no broker is where it was.
fn move_away(port: Option<u16>) -> Result<Cluster> {
    let kafka_dir = workspace::kafka_dir();
    let _one_at_a_time = lock(&kafka_dir.join("lock"))?;
    let mut cluster = running(&kafka_dir)?;
    let class_path = class_path(&jars::resolve(&kafka_dir, &cluster.shape.version)?);
    let _ports = lock(&std::env::temp_dir().join("milena-xtask-kafka-ports.lock")).ok();
    // Chosen while it still runs, or the first free ports would be its own.
    let base = choose_ports(port, cluster.shape.brokers)?;
    for node in cluster.nodes() {
        node.kill();
    }
    cluster.base = base;
    for node in cluster.nodes() {
        cluster.write_settings(&node)?;
    }
    cluster.remember()?;
    cluster.start(&cluster.nodes(), &class_path)?;
    Ok(cluster)
}

fn running(kafka_dir: &Path) -> Result<Cluster> {
    let running = Cluster::recall(&kafka_dir.join("run"));
    running.ok_or_else(|| "no Kafka is running; start one with:  cargo xtask kafka up".to_owned())
}

/// Does something to one broker of the running cluster.
fn one_broker(id: u16, action: impl FnOnce(&Cluster, Node) -> Result<()>) -> Result<()> {
    let kafka_dir = workspace::kafka_dir();
    let _one_at_a_time = lock(&kafka_dir.join("lock"))?;
    let cluster = running(&kafka_dir)?;
    match cluster.nodes().into_iter().find(|node| node.id == id) {
        Some(node) => action(&cluster, node),
        None => Err(format!("there is no broker {id}: {} running", cluster.shape.describe())),
    }
}

fn status() -> Result<()> {
    let run_dir = workspace::kafka_dir().join("run");
    let Some(cluster) = Cluster::recall(&run_dir) else {
        println!("no Kafka is running; start one with:  cargo xtask kafka up");
        return Ok(());
    };
    println!("{}", cluster.shape.describe());
    for node in cluster.nodes() {
        let port = broker_port(cluster.base, node.id);
        let state = match (node.alive(), probe::ask(port)) {
            (None, _) => "dead".to_owned(),
            (Some(pid), None) => format!("pid {pid}, does not answer"),
            (Some(pid), Some(view)) if view.brokers.len() < usize::from(cluster.shape.brokers) => {
                format!("pid {pid}, answers, but knows only the brokers {:?}", view.brokers)
            }
            (Some(pid), Some(_)) => format!("pid {pid}, answers"),
        };
        println!("  broker {} on 127.0.0.1:{port}: {state}; log: {}", node.id, node.log().display());
    }
    println!("bootstrap.servers={}", cluster.bootstrap_servers());
    Ok(())
}

/// Runs a Java class with this terminal's input and output and gives back its exit code as ours.
fn run_tool(mut arguments: Arguments) -> Result<()> {
    let kafka_dir = workspace::kafka_dir();
    let mut version = None;
    let class = loop {
        match arguments.next_word() {
            Some(word) if word == "--version" => version = Some(arguments.value_of(&word)?),
            Some(class) if !class.starts_with('-') => break class,
            Some(other) => return Err(arguments.unknown(&other, HELP)),
            None => return Err(format!("which class? For example org.apache.kafka.tools.TopicCommand\n\n{HELP}")),
        }
    };
    missing::need_java()?;
    let version = version
        .or_else(|| Cluster::recall(&kafka_dir.join("run")).map(|cluster| cluster.shape.version))
        .unwrap_or_else(|| jars::DEFAULT_VERSION.to_owned());
    let class_path = class_path(&jars::resolve(&kafka_dir, &version)?);
    let log4j = kafka_dir.join("log4j2-tools.properties");
    fs::write(&log4j, TOOL_LOG4J).map_err(|e| format!("cannot write {}: {e}", log4j.display()))?;
    let status = Command::new("java")
        .args(["-Xmx512m", "-XX:+UseSerialGC"])
        .arg(format!("-Dlog4j2.configurationFile={}", log4j.display()))
        .args(["-cp", &class_path, &class])
        .args(arguments.rest())
        .status()
        .map_err(|e| format!("cannot start java: {e}"))?;
    std::process::exit(status.code().unwrap_or(1))
}

/// Writes each node's settings and lets Kafka's storage tool format its folder; all nodes at once, since most of the
/// second that it takes is the start of a JVM.
fn format_storage(cluster: &Cluster, class_path: &str) -> Result<()> {
    let cluster_id = cluster_id(cluster);
    let mut tools = Vec::new();
    for node in cluster.nodes() {
        fs::create_dir_all(node.dir()).map_err(|e| format!("cannot create {}: {e}", node.dir().display()))?;
        cluster.write_settings(&node)?;
        let log4j = node.dir().join("log4j2-tools.properties");
        fs::write(&log4j, TOOL_LOG4J).map_err(|e| format!("cannot write {}: {e}", log4j.display()))?;
        let mut command = Command::new("java");
        command
            .args(["-Xmx200m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg(format!("-Dlog4j2.configurationFile={}", log4j.display()))
            .args(["-cp", class_path, "kafka.tools.StorageTool", "format", "-t", &cluster_id, "-c"])
            .arg(node.properties())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for feature in &cluster.shape.features {
            command.args(["--feature", feature]);
        }
        tools.push((node.id, command.spawn().map_err(|e| format!("cannot start java: {e}"))?));
    }
    for (id, tool) in tools {
        let out = tool.wait_with_output().map_err(|e| format!("cannot wait for the storage tool: {e}"))?;
        if !out.status.success() {
            return Err(format!(
                "Kafka's storage tool could not format the folder of broker {id}:\n{}{}",
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&out.stderr)
            ));
        }
    }
    Ok(())
}

/// A cluster id is 16 bytes in URL-safe base 64, 22 characters. Ours tells the cluster's first port and its age, so
/// that two clusters on this machine are told apart.
fn cluster_id(cluster: &Cluster) -> String {
    let seconds = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    // The last character holds only four bits of the 16 bytes; 'A' (zeros) is always valid there.
    format!("milena{:05}{seconds:010}A", cluster.base)
}

/// The first block of ports in which every port that the cluster needs can be bound.
fn choose_ports(wanted: Option<u16>, brokers: u16) -> Result<u16> {
    let first_taken = |base: u16| {
        (1..=brokers)
            .flat_map(|node| [broker_port(base, node), controller_port(base, node)])
            .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_err())
    };
    if let Some(base) = wanted {
        if !(1024..=65_000).contains(&base) {
            return Err(format!("--port {base}: choose one between 1024 and 65000"));
        }
        return match first_taken(base) {
            None => Ok(base),
            Some(port) => {
                Err(format!("port {port} is in use by another program; choose another --port, or leave it away"))
            }
        };
    }
    (0..100)
        .map(|block| 9092 + block * config::PORTS_PER_CLUSTER)
        .find(|base| first_taken(*base).is_none())
        .ok_or_else(|| "no free ports between 9092 and 11092; choose some with --port".to_owned())
}

fn class_path(libs: &Path) -> String {
    format!("{}/*", libs.display())
}

/// Held until the returned file is dropped; waits for another run of this program.
fn lock(path: &Path) -> Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
    }
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|e| format!("cannot open {}: {e}", path.display()))?;
    file.lock().map_err(|e| format!("cannot lock {}: {e}", path.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_that_need_zookeeper_are_refused() {
        let wanted = Wanted { version: Some("2.8.2".into()), ..Wanted::default() };
        assert!(wanted.shape().unwrap_err().contains("ZooKeeper"));
    }

    #[test]
    fn a_feature_without_a_level_is_refused() {
        let wanted = Wanted { features: vec!["transaction.version".into()], ..Wanted::default() };
        assert!(wanted.shape().unwrap_err().contains("transaction.version=1"));
    }

    #[test]
    fn a_cluster_id_has_22_characters() {
        let shape = Wanted::default().shape().unwrap();
        for base in [9092, 11_072] {
            let cluster = Cluster { shape: shape.clone(), base, run_dir: PathBuf::new(), was_running: false };
            assert_eq!(cluster_id(&cluster).len(), 22);
        }
    }

    #[test]
    fn what_was_not_asked_for_is_taken_as_it_runs() {
        let shape = Wanted { brokers: Some(1), ..Wanted::default() }.shape().unwrap();
        let running = Cluster { shape, base: 9092, run_dir: PathBuf::new(), was_running: true };
        assert!(Wanted::default().accepts(&running));
        assert!(!Wanted { brokers: Some(3), ..Wanted::default() }.accepts(&running));
        assert!(!Wanted { features: vec!["transaction.version=1".into()], ..Wanted::default() }.accepts(&running));
    }
}
