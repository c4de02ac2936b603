//! A cluster: its nodes are formatted, started, asked whether they are up, and moved to other ports.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use crate::probe::{self, ClusterView};
use crate::settings::{TOOL_LOG4J, bootstrap_servers, server_properties};
use crate::{Node, Shape, broker_port, cannot, problem};

/// How long a cluster may take from its first process to its last answer; a machine with all cores busy needs
/// several times the usual five seconds.
pub const START_LIMIT: Duration = Duration::from_secs(120);

/// A cluster of local processes: what it looks like, where its ports and its folder are.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// What it looks like.
    pub shape: Shape,
    /// The port of the first broker.
    pub base: u16,
    /// The folder of its nodes.
    pub dir: PathBuf,
}

impl Cluster {
    /// `host:port` of every broker, separated by commas.
    pub fn bootstrap_servers(&self) -> String {
        bootstrap_servers(self.base, self.shape.brokers)
    }

    /// All nodes, in the order of their ids.
    pub fn nodes(&self) -> Vec<Node> {
        (1..=self.shape.brokers).map(|id| self.node(id)).collect()
    }

    /// The node with this id.
    pub fn node(&self, id: u16) -> Node {
        Node::new(&self.dir, id)
    }

    /// Writes the node's `server.properties`, as shape and ports say.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_settings(&self, node: &Node) -> io::Result<()> {
        let text = server_properties(&self.shape, self.base, node.id(), &node.data_dir());
        fs::write(node.properties(), text).map_err(cannot("write", &node.properties()))
    }

    /// Writes each node's settings and lets Kafka's storage tool format its folder; all nodes at once, since most of the
    /// second that it takes is the start of a JVM.
    ///
    /// # Errors
    /// With what the storage tool said.
    pub fn format(&self, libs: &Path) -> io::Result<()> {
        let cluster_id = self.new_cluster_id();
        let mut tools = Vec::new();
        for node in self.nodes() {
            fs::create_dir_all(node.dir()).map_err(cannot("create", node.dir()))?;
            self.write_settings(&node)?;
            let log4j = node.dir().join("log4j2-tools.properties");
            fs::write(&log4j, TOOL_LOG4J).map_err(cannot("write", &log4j))?;
            let mut command = Command::new("java");
            command
                .args(["-Xmx200m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
                .arg(format!("-Dlog4j2.configurationFile={}", log4j.display()))
                .args(["-cp", &class_path(libs), "kafka.tools.StorageTool", "format", "-t", &cluster_id, "-c"])
                .arg(node.properties())
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            for feature in &self.shape.features {
                command.args(["--feature", feature]);
            }
            tools.push((node.id(), command.spawn().map_err(|e| problem(format!("cannot start java: {e}")))?));
        }
        for (id, tool) in tools {
            let out = tool.wait_with_output()?;
            if !out.status.success() {
                return Err(problem(format!(
                    "Kafka's storage tool could not format the folder of broker {id}:\n{}{}",
                    String::from_utf8_lossy(&out.stdout),
                    String::from_utf8_lossy(&out.stderr)
                )));
            }
        }
        Ok(())
    }

    /// Starts these nodes, with the jars in `libs`, and waits until the whole cluster answers.
    ///
    /// # Errors
    /// As [`wait_until_it_answers`](Self::wait_until_it_answers), and when java cannot be started.
    pub fn start(&self, nodes: &[Node], libs: &Path) -> io::Result<()> {
        for node in nodes {
            node.start(&self.shape, &class_path(libs))?;
        }
        self.wait_until_it_answers(&self.nodes())
    }

    /// Starts one node of a cluster that is running, and waits until it answers and knows itself as a member. The others may be down.
    ///
    /// # Errors
    /// As [`wait_until_it_answers`](Self::wait_until_it_answers).
    pub fn start_again(&self, node: &Node, libs: &Path) -> io::Result<()> {
        node.start(&self.shape, &class_path(libs))?;
        self.wait_for(node, &|view| view.brokers.contains(&i32::from(node.id())))
    }

    /// Until each of `asked` names all brokers: then each broker is registered and unfenced.
    ///
    /// # Errors
    /// The last lines of the log of a broker that has stopped, or does not answer within [`START_LIMIT`].
    pub fn wait_until_it_answers(&self, asked: &[Node]) -> io::Result<()> {
        let all: Vec<i32> = (1..=i32::from(self.shape.brokers)).collect();
        asked.iter().try_for_each(|node| self.wait_for(node, &|view| view.brokers == all))
    }

    /// Until the node answers, there is a controller, and `is_up` finds in its answer what it looks for.
    fn wait_for(&self, node: &Node, is_up: &dyn Fn(&ClusterView) -> bool) -> io::Result<()> {
        let until = Instant::now() + START_LIMIT;
        loop {
            let view = probe::ask(broker_port(self.base, node.id()));
            if view.is_some_and(|view| view.controller > 0 && is_up(&view)) {
                return Ok(());
            }
            let state = if node.alive().is_none() {
                "has stopped by itself"
            } else if Instant::now() > until {
                "does not answer, or does not name every broker"
            } else {
                sleep(Duration::from_millis(100));
                continue;
            };
            return Err(problem(format!(
                "broker {} {state}. Its last words ({}):\n{}",
                node.id(),
                node.log().display(),
                node.last_words()
            )));
        }
    }

    /// A cluster id is 16 bytes in URL-safe base 64, 22 characters. Ours tells the cluster's first port and its age, so
    /// that two clusters on this machine are told apart.
    fn new_cluster_id(&self) -> String {
        let seconds = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        // The last character holds only four bits of the 16 bytes; 'A' (zeros) is always valid there.
        format!("milena{:05}{seconds:010}A", self.base)
    }
}

/// Every jar of a folder, as java takes it.
fn class_path(libs: &Path) -> String {
    format!("{}/*", libs.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_id_has_22_characters() {
        for base in [9092, 11_072] {
            let cluster = Cluster { shape: Shape::default(), base, dir: PathBuf::new() };
            assert_eq!(cluster.new_cluster_id().len(), 22);
        }
    }
}
