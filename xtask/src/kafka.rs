//! `cargo xtask kafka …`: a real Apache Kafka cluster as plain processes of this machine.
//!
//! How brokers are formatted, started and killed is in `testkit/kafka-process/`, which the test kit uses, too. Here is what outlives
//! one run of this program: what is running is written to `target/kafka/run/cluster`, so that `up`, `down` and `status` agree about it.

pub(crate) mod image;

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use milena_kafka_process as process;
use process::{Node, Ports, Shape, TOOL_LOG4J, broker_port, jars, need_java, probe};

use crate::arguments::Arguments;
use crate::docker::Docker;
use crate::{Result, say, told, workspace};

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
  freeze N, thaw N
          stop broker N where it is (SIGSTOP), its connections open; let it go on (SIGCONT)
  move    kill all brokers (kill -9) and start them again, with their data, on other ports; the last line is bootstrap.servers=…
            --port BASE         first broker port (default: the next free block of ports)
  image   build a container image of it with the environment of the official apache/kafka image: milena-kafka:VERSION
            --version VERSION   release (default: 4.3.0)
  run CLASS [ARGUMENTS…]
          run a Java class from Kafka's class path, for example
            cargo xtask kafka run org.apache.kafka.tools.TopicCommand --bootstrap-server 127.0.0.1:9092 --list
          --version VERSION before the class takes another release
";

pub(crate) fn main(mut arguments: Arguments) -> Result<()> {
    match arguments.next_word().as_deref() {
        Some("up") => {
            let mut wanted = Wanted::default();
            while let Some(flag) = arguments.next_word() {
                match flag.as_str() {
                    "--brokers" => wanted.brokers = Some(arguments.value_of(&flag)?),
                    "--version" => wanted.version = Some(arguments.value_of(&flag)?),
                    "--feature" => wanted.features.get_or_insert_default().push(arguments.value_of(&flag)?),
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
                let libs = resolve(&cluster.shape.version)?;
                cluster.start(&[node], &libs).map_err(told)
            })
        }
        Some(action @ ("freeze" | "thaw")) => {
            let id = arguments.value_of(action)?;
            arguments.no_more(HELP)?;
            one_broker(id, |_, node| match if action == "freeze" { node.freeze() } else { node.thaw() } {
                true => Ok(()),
                false => Err(format!("broker {id} is not running")),
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
        Some("image") => {
            let mut version = jars::DEFAULT_VERSION.to_owned();
            while let Some(flag) = arguments.next_word() {
                match flag.as_str() {
                    "--version" => version = arguments.value_of(&flag)?,
                    _ => return Err(arguments.unknown(&flag, HELP)),
                }
            }
            println!("{}", image::build(&Docker::that_is_here()?, &version, true)?);
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
    /// `Some` of nothing: Kafka's defaults, and no others.
    pub(crate) features: Option<Vec<String>>,
    pub(crate) port: Option<u16>,
    pub(crate) bench: bool,
}

impl Wanted {
    fn shape(&self) -> Result<Shape> {
        let shape = Shape {
            brokers: self.brokers.unwrap_or(if self.bench { 1 } else { 3 }),
            version: self.version.clone().unwrap_or_else(|| jars::DEFAULT_VERSION.to_owned()),
            features: self.features.clone().unwrap_or_default(),
            bench: self.bench,
            settings: Vec::new(),
        };
        shape.check().map_err(told)?;
        Ok(shape)
    }

    /// Does the running cluster do? Only what was asked for counts.
    fn accepts(&self, running: &Cluster) -> bool {
        self.brokers.is_none_or(|n| n == running.shape.brokers)
            && self.version.as_ref().is_none_or(|v| *v == running.shape.version)
            && self.port.is_none_or(|p| p == running.base)
            && self.features.as_ref().is_none_or(|wanted| *wanted == running.shape.features)
            && (!self.bench || running.shape.bench)
    }
}

/// A cluster that was started by this program, as its state file tells.
pub(crate) struct Cluster {
    inner: process::Cluster,
    /// It was running before, so whoever asked for it does not own it.
    pub(crate) was_running: bool,
}

impl Deref for Cluster {
    type Target = process::Cluster;

    fn deref(&self) -> &process::Cluster {
        &self.inner
    }
}

impl Cluster {
    /// The process of the first broker, for who wants to know what it uses.
    pub(crate) fn first_pid(&self) -> Option<u32> {
        self.nodes().first().and_then(Node::alive)
    }

    fn state_file(run_dir: &Path) -> PathBuf {
        run_dir.join("cluster")
    }

    fn remember(&self) -> Result<()> {
        let Shape { brokers, version, features, bench, settings: _ } = &self.shape;
        let text = format!(
            "brokers={brokers}\nversion={version}\nfeatures={}\nbench={bench}\nport={}\n",
            features.join(","),
            self.base
        );
        let path = Self::state_file(&self.dir);
        fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
    }

    /// The cluster that was started last, if any of its processes still lives.
    fn recall(run_dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(Self::state_file(run_dir)).ok()?;
        let value =
            |key: &str| text.lines().find_map(|line| line.split_once('=').filter(|(k, _)| *k == key)).map(|x| x.1);
        let features = value("features")?;
        // The first '=' ends the key, so a feature's own '=' stays in the value.
        let shape = Shape {
            brokers: value("brokers")?.parse().ok()?,
            version: value("version")?.to_owned(),
            features: features.split(',').filter(|f| !f.is_empty()).map(str::to_owned).collect(),
            bench: value("bench")? == "true",
            settings: Vec::new(),
        };
        let inner = process::Cluster { shape, base: value("port")?.parse().ok()?, dir: run_dir.to_owned() };
        let cluster = Self { inner, was_running: true };
        cluster.nodes().iter().any(|node| node.alive().is_some()).then_some(cluster)
    }
}

/// The jars of that release, resolved by Maven if they are not there yet.
pub(crate) fn resolve(version: &str) -> Result<PathBuf> {
    jars::resolve(&workspace::kafka_dir(), version).map_err(told)
}

/// Starts the cluster, or finds that it is there.
pub(crate) fn up(wanted: &Wanted) -> Result<Cluster> {
    let shape = wanted.shape()?;
    let kafka_dir = workspace::kafka_dir();
    let run_dir = kafka_dir.join("run");
    let _one_at_a_time = process::lock(&kafka_dir.join("lock")).map_err(told)?;

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
            running.wait_until_it_answers(&running.nodes()).map_err(told)?;
            say(&format!("{} already running", running.shape.describe()));
        } else {
            let ids: Vec<String> = dead.iter().map(|node| node.id().to_string()).collect();
            say(&format!("{} running, but for broker {}: starting it again", running.shape.describe(), ids.join(", ")));
            running.start(&dead, &resolve(&running.shape.version)?).map_err(told)?;
        }
        return Ok(running);
    }

    need_java().map_err(told)?;
    let libs = resolve(&shape.version)?;
    let began = Instant::now();
    let ports = Ports::choose(wanted.port, shape.brokers).map_err(told)?;
    let inner = process::Cluster { shape, base: ports.base(), dir: run_dir };
    let cluster = Cluster { inner, was_running: false };
    say(&format!("starting {} on {}", cluster.shape.describe(), cluster.bootstrap_servers()));
    let _ = fs::remove_dir_all(&cluster.dir);
    cluster.format(&libs).map_err(told)?;
    cluster.remember()?;
    let stop_the_rest = |problem| format!("{problem}\n\nStop the rest with:  cargo xtask kafka down");
    cluster.start(&cluster.nodes(), &libs).map_err(stop_the_rest)?;
    say(&format!("up after {:.1} s; logs: {}/node-*/server.log", began.elapsed().as_secs_f32(), cluster.dir.display()));
    Ok(cluster)
}

/// Stops every node that lives and deletes the data of all.
pub(crate) fn down() -> Result<()> {
    let kafka_dir = workspace::kafka_dir();
    let run_dir = kafka_dir.join("run");
    let _one_at_a_time = process::lock(&kafka_dir.join("lock")).map_err(told)?;
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
        say(&format!("stopped {} broker{}", nodes.len(), if nodes.len() == 1 { "" } else { "s" }));
    }
    Ok(())
}

/// The cluster with its data on other ports, as after a move to other machines: no broker is where it was.
fn move_away(port: Option<u16>) -> Result<Cluster> {
    let kafka_dir = workspace::kafka_dir();
    let _one_at_a_time = process::lock(&kafka_dir.join("lock")).map_err(told)?;
    let mut cluster = running(&kafka_dir)?;
    let libs = resolve(&cluster.shape.version)?;
    // Chosen while it still runs, or the first free ports would be its own.
    let ports = Ports::choose(port, cluster.shape.brokers).map_err(told)?;
    for node in cluster.nodes() {
        node.kill();
    }
    cluster.inner.base = ports.base();
    for node in cluster.nodes() {
        cluster.write_settings(&node).map_err(told)?;
    }
    cluster.remember()?;
    cluster.start(&cluster.nodes(), &libs).map_err(told)?;
    Ok(cluster)
}

fn running(kafka_dir: &Path) -> Result<Cluster> {
    let running = Cluster::recall(&kafka_dir.join("run"));
    running.ok_or_else(|| "no Kafka is running; start one with:  cargo xtask kafka up".to_owned())
}

/// Does something to one broker of the running cluster.
fn one_broker(id: u16, action: impl FnOnce(&Cluster, Node) -> Result<()>) -> Result<()> {
    let kafka_dir = workspace::kafka_dir();
    let _one_at_a_time = process::lock(&kafka_dir.join("lock")).map_err(told)?;
    let cluster = running(&kafka_dir)?;
    match cluster.nodes().into_iter().find(|node| node.id() == id) {
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
        let port = broker_port(cluster.base, node.id());
        let state = match (node.alive(), probe::ask(port)) {
            (None, _) => "dead".to_owned(),
            (Some(pid), None) => format!("pid {pid}, does not answer"),
            (Some(pid), Some(view)) if view.brokers.len() < usize::from(cluster.shape.brokers) => {
                format!("pid {pid}, answers, but knows only the brokers {:?}", view.brokers)
            }
            (Some(pid), Some(_)) => format!("pid {pid}, answers"),
        };
        println!("  broker {} on 127.0.0.1:{port}: {state}; log: {}", node.id(), node.log().display());
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
    need_java().map_err(told)?;
    let version = version
        .or_else(|| Cluster::recall(&kafka_dir.join("run")).map(|cluster| cluster.shape.version.clone()))
        .unwrap_or_else(|| jars::DEFAULT_VERSION.to_owned());
    let libs = resolve(&version)?;
    let log4j = kafka_dir.join("log4j2-tools.properties");
    fs::write(&log4j, TOOL_LOG4J).map_err(|e| format!("cannot write {}: {e}", log4j.display()))?;
    let status = Command::new("java")
        .args(["-Xmx512m", "-XX:+UseSerialGC"])
        .arg(format!("-Dlog4j2.configurationFile={}", log4j.display()))
        .args(["-cp", &format!("{}/*", libs.display()), &class])
        .args(arguments.rest())
        .status()
        .map_err(|e| format!("cannot start java: {e}"))?;
    std::process::exit(status.code().unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_asked_for_is_taken_as_it_runs() {
        let shape = Wanted { brokers: Some(1), ..Wanted::default() }.shape().unwrap();
        let running = Cluster { inner: process::Cluster { shape, base: 9092, dir: PathBuf::new() }, was_running: true };
        assert!(Wanted::default().accepts(&running));
        assert!(!Wanted { brokers: Some(3), ..Wanted::default() }.accepts(&running));
        let with = |features: &[&str]| Wanted {
            features: Some(features.iter().map(|&feature| feature.to_owned()).collect()),
            ..Wanted::default()
        };
        assert!(with(&[]).accepts(&running));
        assert!(!with(&["transaction.version=1"]).accepts(&running));
    }
}
