//! Topic configurations that the cluster knows, with Kafka 4.3's defaults.
//!
//! All of them can be set and described. `cleanup.policy`, `delete.retention.ms`, `max.message.bytes`, `message.timestamp.type`,
//! `message.timestamp.after.max.ms`, `message.timestamp.before.max.ms`, `min.compaction.lag.ms`, `min.insync.replicas`,
//! `retention.bytes`, `retention.ms` and `unclean.leader.election.enable` also have their effect. Batches are stored with the codec they
//! come with, whatever `compression.type` says.

pub(crate) mod brokers;

/// How a value reads: Kafka's `ConfigDef.Type`, by its number in DescribeConfigs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConfigType {
    Boolean = 1,
    String = 2,
    Int = 3,
    Long = 5,
    Double = 6,
    List = 7,
}

/// Name, default, type.
pub(crate) static TOPIC_CONFIGS: &[(&str, &str, ConfigType)] = &[
    ("cleanup.policy", "delete", ConfigType::List),
    ("compression.gzip.level", "-1", ConfigType::Int),
    ("compression.lz4.level", "9", ConfigType::Int),
    ("compression.type", "producer", ConfigType::String),
    ("compression.zstd.level", "3", ConfigType::Int),
    ("delete.retention.ms", "86400000", ConfigType::Long),
    ("file.delete.delay.ms", "60000", ConfigType::Long),
    ("flush.messages", "9223372036854775807", ConfigType::Long),
    ("flush.ms", "9223372036854775807", ConfigType::Long),
    ("index.interval.bytes", "4096", ConfigType::Int),
    ("max.compaction.lag.ms", "9223372036854775807", ConfigType::Long),
    ("max.message.bytes", "1048588", ConfigType::Int),
    ("message.timestamp.after.max.ms", "3600000", ConfigType::Long),
    ("message.timestamp.before.max.ms", "9223372036854775807", ConfigType::Long),
    ("message.timestamp.type", "CreateTime", ConfigType::String),
    ("min.cleanable.dirty.ratio", "0.5", ConfigType::Double),
    ("min.compaction.lag.ms", "0", ConfigType::Long),
    ("min.insync.replicas", "1", ConfigType::Int),
    ("preallocate", "false", ConfigType::Boolean),
    ("retention.bytes", "-1", ConfigType::Long),
    ("retention.ms", "604800000", ConfigType::Long),
    ("segment.bytes", "1073741824", ConfigType::Int),
    ("segment.index.bytes", "10485760", ConfigType::Int),
    ("segment.jitter.ms", "0", ConfigType::Long),
    ("segment.ms", "604800000", ConfigType::Long),
    ("unclean.leader.election.enable", "false", ConfigType::Boolean),
];

/// The default of a topic configuration; `None` if there is no such configuration.
pub(crate) fn default_of(name: &str) -> Option<&'static str> {
    TOPIC_CONFIGS.iter().find(|(n, ..)| *n == name).map(|(_, default, _)| *default)
}

/// The type of a topic configuration.
pub(crate) fn type_of(name: &str) -> Option<ConfigType> {
    TOPIC_CONFIGS.iter().find(|(n, ..)| *n == name).map(|(.., kind)| *kind)
}

/// Checks a value that somebody wants to set for a topic.
pub(crate) fn check(name: &str, value: &str) -> Result<(), String> {
    let kind = type_of(name).ok_or_else(|| format!("Unknown topic config name: {name}"))?;
    check_value(name, kind, value)
}

/// Checks a value of a configuration that is known, of a topic or of brokers.
pub(crate) fn check_value(name: &str, kind: ConfigType, value: &str) -> Result<(), String> {
    let one_of = |allowed: &[&str]| value.split(',').all(|v| allowed.contains(&v.trim()));
    let good = match (name, kind) {
        ("cleanup.policy" | "log.cleanup.policy", _) => value.is_empty() || one_of(&["delete", "compact"]),
        ("compression.type", _) => one_of(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]),
        ("message.timestamp.type" | "log.message.timestamp.type", _) => one_of(&["CreateTime", "LogAppendTime"]),
        (_, ConfigType::Boolean) => one_of(&["true", "false"]),
        (_, ConfigType::Int) => value.parse::<i32>().is_ok(),
        (_, ConfigType::Long) => value.parse::<i64>().is_ok(),
        (_, ConfigType::Double) => value.parse::<f64>().is_ok(),
        (_, ConfigType::String | ConfigType::List) => true,
    };
    if good { Ok(()) } else { Err(format!("Invalid value {value} for configuration {name}")) }
}
