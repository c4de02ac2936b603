//! What a test cluster looks like: its shape, its ports, and the `server.properties` of each node.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use crate::problem;

/// What a cluster looks like. The default is three brokers of [`DEFAULT_VERSION`](crate::jars::DEFAULT_VERSION).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Nodes, each of them broker and controller; 1 to 9.
    pub brokers: u16,
    /// The Kafka release.
    pub version: String,
    /// Cluster features given to the storage tool, as `name=level`.
    pub features: Vec<String>,
    /// One broker with a larger heap and the whole JIT compiler, for measurements.
    pub bench: bool,
    /// More lines of `server.properties`, which win over ours.
    pub settings: Vec<(String, String)>,
}

/// How many ports one cluster occupies: brokers on `base ..= base + 8`, controllers ten above them.
pub(crate) const PORTS_PER_CLUSTER: u16 = 20;

/// The port of a broker of the cluster whose ports begin with `base`.
pub fn broker_port(base: u16, node: u16) -> u16 {
    base + node - 1
}

pub(crate) fn controller_port(base: u16, node: u16) -> u16 {
    base + 10 + node - 1
}

pub(crate) fn bootstrap_servers(base: u16, brokers: u16) -> String {
    let all: Vec<String> = (1..=brokers).map(|node| format!("127.0.0.1:{}", broker_port(base, node))).collect();
    all.join(",")
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            brokers: 3,
            version: crate::jars::DEFAULT_VERSION.to_owned(),
            features: Vec::new(),
            bench: false,
            settings: Vec::new(),
        }
    }
}

impl Shape {
    /// Whether there is such a cluster.
    ///
    /// # Errors
    /// A sentence about what is wrong: the number of brokers, a release that needs ZooKeeper, a feature without a level.
    pub fn check(&self) -> io::Result<()> {
        if !(1..=9).contains(&self.brokers) {
            return Err(problem(format!("{} brokers: a cluster has 1 to 9 brokers here", self.brokers)));
        }
        let version = &self.version;
        let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
        let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next()) else {
            return Err(problem(format!("version {version}: a release looks like {}", crate::jars::DEFAULT_VERSION)));
        };
        if (major, minor) < (3, 3) {
            return Err(problem(format!(
                "version {version}: releases before 3.3 need ZooKeeper, which is not started here"
            )));
        }
        for feature in &self.features {
            if feature.split_once('=').is_none_or(|(_, level)| level.parse::<u16>().is_err()) {
                return Err(problem(format!("feature {feature}: a feature looks like transaction.version=1")));
            }
        }
        Ok(())
    }

    /// Flags of the node's JVM: small and quick to start, or, with `--bench`, fast in the long run.
    pub(crate) fn jvm_flags(&self) -> &'static [&'static str] {
        if self.bench {
            &["-Xms1g", "-Xmx1g", "-XX:+UseSerialGC"]
        } else {
            &["-Xmx400m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        }
    }

    /// In words, for messages.
    pub fn describe(&self) -> String {
        let mut text = format!("{} broker{} of Kafka {}", self.brokers, plural(self.brokers), self.version);
        if !self.features.is_empty() {
            let _ = write!(text, " with {}", self.features.join(", "));
        }
        if self.bench {
            text.push_str(" (bench)");
        }
        text
    }
}

fn plural(n: u16) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// The settings of one node. Internal topics are as small as tests need; a rebalance does not wait for
/// late members; transactions are looked over every half second, so that a time-out can be tested; every node is a rack, so
/// that fetching from the closest replica can be tested.
pub fn server_properties(shape: &Shape, base: u16, node: u16, log_dir: &Path) -> String {
    let replicas = shape.brokers.min(3);
    let voters: Vec<String> =
        (1..=shape.brokers).map(|n| format!("{n}@127.0.0.1:{}", controller_port(base, n))).collect();
    let broker = broker_port(base, node);
    let controller = controller_port(base, node);
    let mut text = format!(
        "\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={log_dir}
broker.rack=rack-{node}
replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector
num.partitions=1
default.replication.factor={replicas}
min.insync.replicas=1
auto.create.topics.enable=false
delete.topic.enable=true
group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=10
offsets.topic.replication.factor={replicas}
transaction.state.log.num.partitions=10
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr=1
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
share.coordinator.state.topic.num.partitions=10
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr=1
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=4194304
",
        voters = voters.join(","),
        log_dir = log_dir.display(),
    );
    for (name, value) in &shape.settings {
        // The last line of a name is the one that counts. Writing to a string cannot fail.
        let _ = writeln!(text, "{name}={value}");
    }
    text
}

/// Everything to standard output, which goes to the node's log file. In the properties format because it needs no
/// further jar in any release.
pub(crate) const BROKER_LOG4J: &str = "\
status=warn
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %c{1}: %m%n
rootLogger.level=info
rootLogger.appenderRef.out.ref=out
";

/// Warnings to standard error: a tool's standard output is its result.
pub const TOOL_LOG4J: &str = "\
status=warn
appender.err.type=Console
appender.err.name=err
appender.err.target=SYSTEM_ERR
appender.err.layout.type=PatternLayout
appender.err.layout.pattern=%p %c{1}: %m%n
rootLogger.level=warn
rootLogger.appenderRef.err.ref=err
";

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(brokers: u16) -> Shape {
        Shape { brokers, ..Shape::default() }
    }

    #[test]
    fn a_single_broker_needs_no_second_replica() {
        let text = server_properties(&shape(1), 9092, 1, Path::new("data"));
        assert!(text.contains("offsets.topic.replication.factor=1\n"));
        assert!(text.contains("controller.quorum.voters=1@127.0.0.1:9102\n"));
    }

    #[test]
    fn releases_that_need_zookeeper_and_features_without_a_level_are_refused() {
        let refused = |shape: Shape| shape.check().unwrap_err().to_string();
        assert!(refused(Shape { version: "2.8.2".into(), ..Shape::default() }).contains("ZooKeeper"));
        let features = vec!["transaction.version".into()];
        assert!(refused(Shape { features, ..Shape::default() }).contains("transaction.version=1"));
        assert!(refused(shape(10)).contains("1 to 9"));
        shape(9).check().unwrap();
    }

    #[test]
    fn a_given_setting_comes_last() {
        let settings = vec![("auto.create.topics.enable".to_owned(), "true".to_owned())];
        let text = server_properties(&Shape { settings, ..Shape::default() }, 9092, 1, Path::new("data"));
        assert!(text.ends_with("\nauto.create.topics.enable=true\n"), "{text}");
    }

    #[test]
    fn five_brokers_keep_three_replicas_and_do_not_share_ports() {
        let text = server_properties(&shape(5), 9092, 5, Path::new("data"));
        assert!(text.contains("offsets.topic.replication.factor=3\n"));
        assert!(text.contains("listeners=PLAINTEXT://127.0.0.1:9096,CONTROLLER://127.0.0.1:9106\n"));
        assert_eq!(bootstrap_servers(9092, 3), "127.0.0.1:9092,127.0.0.1:9093,127.0.0.1:9094");
        assert!(controller_port(9092, 9) < 9092 + PORTS_PER_CLUSTER);
    }
}
