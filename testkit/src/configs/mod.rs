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

/// A value that somebody wants to set for a topic, as Kafka tells it.
///
/// # Errors
/// A sentence, when there is no such configuration, or when it cannot have this value.
pub(crate) fn check(name: &str, value: &str) -> Result<String, String> {
    let kind = type_of(name).ok_or_else(|| format!("Unknown topic config name: {name}"))?;
    check_value(name, kind, value)
}

/// The same of a configuration that is known, of a topic or of brokers: Kafka's `ConfigDef.parseType` and its validators.
pub(crate) fn check_value(name: &str, kind: ConfigType, value: &str) -> Result<String, String> {
    let refused = || format!("Invalid value {value} for configuration {name}");
    let trimmed = value.trim_matches(|c| c <= ' '); // as Java's
    let parsed = match kind {
        ConfigType::Boolean => trimmed.to_ascii_lowercase().parse::<bool>().map(|value| value.to_string()).ok(),
        ConfigType::Int => {
            trimmed.parse::<i32>().ok().filter(|value| in_range(name, f64::from(*value))).map(|value| value.to_string())
        }
        ConfigType::Long => {
            trimmed.parse::<i64>().ok().filter(|value| in_range(name, *value as f64)).map(|value| value.to_string())
        }
        ConfigType::Double => {
            trimmed.parse::<f64>().ok().filter(|value| in_range(name, *value)).map(|value| format!("{value:?}"))
        }
        ConfigType::String => allowed(name).is_none_or(|all| all.contains(&trimmed)).then(|| trimmed.to_owned()),
        ConfigType::List if trimmed.is_empty() => Some(String::new()),
        ConfigType::List => {
            let entries: Vec<&str> = trimmed.split(',').map(str::trim).collect();
            let good = allowed(name).is_none_or(|all| entries.iter().all(|entry| all.contains(entry)));
            good.then(|| entries.join(","))
        }
    };
    parsed.ok_or_else(refused)
}

/// The words that a configuration may have, if not any.
fn allowed(name: &str) -> Option<&'static [&'static str]> {
    Some(match name {
        "cleanup.policy" | "log.cleanup.policy" => &["delete", "compact"],
        "compression.type" => &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"],
        "message.timestamp.type" | "log.message.timestamp.type" => &["CreateTime", "LogAppendTime"],
        _ => return None,
    })
}

/// Whether a number lies where it must: Kafka's `LogConfig` and `AbstractKafkaConfig`. Those of brokers have the ranges of the topic
/// configurations that inherit from them.
fn in_range(name: &str, value: f64) -> bool {
    let of_topic =
        TOPIC_CONFIGS.iter().map(|(topic, ..)| *topic).find(|topic| brokers::inherited_from(topic) == Some(name));
    let (least, most) = match of_topic.unwrap_or(name) {
        "compression.gzip.level" => return value == -1.0 || (1.0..=9.0).contains(&value),
        "compression.lz4.level" => (1.0, 17.0),
        "compression.zstd.level" => (-131_072.0, 22.0),
        "min.cleanable.dirty.ratio" => (0.0, 1.0),
        // To brokers anything negative is no limit, and zero is refused.
        _ if name == "log.retention.ms" => return value != 0.0,
        _ if name == "log.flush.interval.ms" => return true,
        "retention.bytes" => return true,
        "retention.ms" => (-1.0, f64::MAX),
        "flush.messages" | "max.compaction.lag.ms" | "min.insync.replicas" | "segment.ms" => (1.0, f64::MAX),
        "segment.index.bytes" => (4.0, f64::MAX),
        "segment.bytes" => (1_048_576.0, f64::MAX),
        _ => (0.0, f64::MAX),
    };
    (least..=most).contains(&value)
}
