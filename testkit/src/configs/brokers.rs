//! Configurations of brokers: those that topics inherit, and the few others that the cluster has.
//!
//! A value comes from the first of these that has one: what was set for this broker (DYNAMIC_BROKER_CONFIG), for all of them
//! (DYNAMIC_DEFAULT_BROKER_CONFIG), in its properties (STATIC_BROKER_CONFIG: what the cluster was built with), Kafka's default. Topics
//! inherit what holds for all brokers; what was set for a single broker is told and has no effect.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ConfigType, TOPIC_CONFIGS};

/// Where a value comes from, by its number in DescribeConfigs.
pub(crate) const DYNAMIC_TOPIC: i8 = 1;
pub(crate) const DYNAMIC_BROKER: i8 = 2;
pub(crate) const DYNAMIC_DEFAULT: i8 = 3;
const STATIC: i8 = 4;
pub(crate) const DEFAULT: i8 = 5;

/// One broker configuration.
pub(crate) struct BrokerConfig {
    pub(crate) name: &'static str,
    pub(crate) default: Option<&'static str>,
    pub(crate) kind: ConfigType,
    pub(crate) read_only: bool,
}

const fn dynamic(name: &'static str, default: &'static str, kind: ConfigType) -> BrokerConfig {
    BrokerConfig { name, default: Some(default), kind, read_only: false }
}

const fn fixed(name: &'static str, default: Option<&'static str>, kind: ConfigType) -> BrokerConfig {
    BrokerConfig { name, default, kind, read_only: true }
}

const fn unset(name: &'static str) -> BrokerConfig {
    BrokerConfig { name, default: None, kind: ConfigType::Long, read_only: false }
}

/// With Kafka 4.3's defaults.
pub(crate) static BROKER_CONFIGS: &[BrokerConfig] = &[
    fixed("auto.create.topics.enable", Some("true"), ConfigType::Boolean),
    fixed("broker.id", Some("-1"), ConfigType::Int),
    fixed("broker.rack", None, ConfigType::String),
    dynamic("compression.gzip.level", "-1", ConfigType::Int),
    dynamic("compression.lz4.level", "9", ConfigType::Int),
    dynamic("compression.type", "producer", ConfigType::String),
    dynamic("compression.zstd.level", "3", ConfigType::Int),
    fixed("default.replication.factor", Some("1"), ConfigType::Int),
    fixed("group.initial.rebalance.delay.ms", Some("3000"), ConfigType::Int),
    dynamic("log.cleaner.delete.retention.ms", "86400000", ConfigType::Long),
    dynamic("log.cleaner.max.compaction.lag.ms", "9223372036854775807", ConfigType::Long),
    dynamic("log.cleaner.min.cleanable.ratio", "0.5", ConfigType::Double),
    dynamic("log.cleaner.min.compaction.lag.ms", "0", ConfigType::Long),
    dynamic("log.cleanup.policy", "delete", ConfigType::List),
    dynamic("log.flush.interval.messages", "9223372036854775807", ConfigType::Long),
    unset("log.flush.interval.ms"),
    dynamic("log.index.interval.bytes", "4096", ConfigType::Int),
    dynamic("log.index.size.max.bytes", "10485760", ConfigType::Int),
    dynamic("log.message.timestamp.after.max.ms", "3600000", ConfigType::Long),
    dynamic("log.message.timestamp.before.max.ms", "9223372036854775807", ConfigType::Long),
    dynamic("log.message.timestamp.type", "CreateTime", ConfigType::String),
    dynamic("log.preallocate", "false", ConfigType::Boolean),
    dynamic("log.retention.bytes", "-1", ConfigType::Long),
    fixed("log.retention.hours", Some("168"), ConfigType::Int),
    fixed("log.retention.minutes", None, ConfigType::Int),
    unset("log.retention.ms"),
    unset("log.roll.jitter.ms"),
    unset("log.roll.ms"),
    dynamic("log.segment.bytes", "1073741824", ConfigType::Int),
    dynamic("log.segment.delete.delay.ms", "60000", ConfigType::Long),
    dynamic("message.max.bytes", "1048588", ConfigType::Int),
    dynamic("min.insync.replicas", "1", ConfigType::Int),
    fixed("node.id", None, ConfigType::Int),
    fixed("num.partitions", Some("1"), ConfigType::Int),
    fixed("replica.lag.time.max.ms", Some("30000"), ConfigType::Long),
    fixed("replica.selector.class", None, ConfigType::String),
    dynamic("unclean.leader.election.enable", "false", ConfigType::Boolean),
];

pub(crate) fn find(name: &str) -> Option<&'static BrokerConfig> {
    BROKER_CONFIGS.iter().find(|config| config.name == name)
}

/// The broker configuration that a topic configuration inherits from.
pub(crate) fn inherited_from(topic_config: &str) -> Option<&'static str> {
    Some(match topic_config {
        "cleanup.policy" => "log.cleanup.policy",
        "compression.gzip.level" => "compression.gzip.level",
        "compression.lz4.level" => "compression.lz4.level",
        "compression.type" => "compression.type",
        "compression.zstd.level" => "compression.zstd.level",
        "delete.retention.ms" => "log.cleaner.delete.retention.ms",
        "file.delete.delay.ms" => "log.segment.delete.delay.ms",
        "flush.messages" => "log.flush.interval.messages",
        "flush.ms" => "log.flush.interval.ms",
        "index.interval.bytes" => "log.index.interval.bytes",
        "max.compaction.lag.ms" => "log.cleaner.max.compaction.lag.ms",
        "max.message.bytes" => "message.max.bytes",
        "message.timestamp.after.max.ms" => "log.message.timestamp.after.max.ms",
        "message.timestamp.before.max.ms" => "log.message.timestamp.before.max.ms",
        "message.timestamp.type" => "log.message.timestamp.type",
        "min.cleanable.dirty.ratio" => "log.cleaner.min.cleanable.ratio",
        "min.compaction.lag.ms" => "log.cleaner.min.compaction.lag.ms",
        "min.insync.replicas" => "min.insync.replicas",
        "preallocate" => "log.preallocate",
        "retention.bytes" => "log.retention.bytes",
        "retention.ms" => "log.retention.ms",
        "segment.bytes" => "log.segment.bytes",
        "segment.index.bytes" => "log.index.size.max.bytes",
        "segment.jitter.ms" => "log.roll.jitter.ms",
        "segment.ms" => "log.roll.ms",
        "unclean.leader.election.enable" => "unclean.leader.election.enable",
        _ => return None,
    })
}

/// What topics have where they set nothing and brokers do.
pub(crate) type Inherited = Arc<BTreeMap<&'static str, String>>;

/// A value and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Synonym {
    pub(crate) source: i8,
    pub(crate) name: String,
    pub(crate) value: String,
}

/// What the brokers are configured with.
#[derive(Debug, Default)]
pub(crate) struct BrokerConfigs {
    /// In the properties of all.
    properties: BTreeMap<String, String>,
    /// In those of one.
    own: BTreeMap<i32, BTreeMap<String, String>>,
    /// Set at run time, of one broker or of all.
    dynamic: BTreeMap<Option<i32>, BTreeMap<String, String>>,
}

impl BrokerConfigs {
    pub(crate) fn new(properties: BTreeMap<String, String>, own: BTreeMap<i32, BTreeMap<String, String>>) -> Self {
        Self { properties, own, dynamic: BTreeMap::new() }
    }

    /// What was set at run time for a broker, or for all.
    pub(crate) fn set_for(&self, broker: Option<i32>) -> BTreeMap<String, String> {
        self.dynamic.get(&broker).cloned().unwrap_or_default()
    }

    pub(crate) fn store(&mut self, broker: Option<i32>, configs: BTreeMap<String, String>) {
        self.dynamic.insert(broker, configs);
    }

    /// Where a broker has a configuration from, the first of which counts. Nothing if it has no value.
    pub(crate) fn synonyms(&self, broker: i32, name: &str) -> Vec<Synonym> {
        let one = |source: i8, value: Option<&String>| {
            value.map(|value| Synonym { source, name: name.to_owned(), value: value.clone() })
        };
        let mut found: Vec<Synonym> = [
            one(DYNAMIC_BROKER, self.dynamic.get(&Some(broker)).and_then(|set| set.get(name))),
            one(DYNAMIC_DEFAULT, self.dynamic.get(&None).and_then(|set| set.get(name))),
            one(STATIC, self.own.get(&broker).and_then(|own| own.get(name)).or_else(|| self.properties.get(name))),
        ]
        .into_iter()
        .flatten()
        .collect();
        let default = find(name).and_then(|config| config.default);
        match default {
            Some(default) => {
                found.push(Synonym { source: DEFAULT, name: name.to_owned(), value: default.to_owned() });
            }
            // Milliseconds have no default, and hours have.
            None if name == "log.retention.ms" && !found.is_empty() => {
                found.push(Synonym {
                    source: DEFAULT,
                    name: "log.retention.hours".to_owned(),
                    value: "168".to_owned(),
                });
            }
            None => {}
        }
        found
    }

    /// What topics inherit that is not Kafka's default.
    pub(crate) fn inherited(&self) -> Inherited {
        let set =
            |name: &str| self.dynamic.get(&None).and_then(|set| set.get(name)).or_else(|| self.properties.get(name));
        let topics = TOPIC_CONFIGS.iter().filter_map(|(name, ..)| Some((*name, set(inherited_from(name)?)?.clone())));
        Arc::new(topics.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_configuration_inherits_from_one_that_brokers_have_with_the_same_default() {
        for (name, default, kind) in TOPIC_CONFIGS {
            let broker = find(inherited_from(name).unwrap_or_default());
            assert!(broker.is_some_and(|broker| broker.kind == *kind), "{name}");
            let of_broker = broker.and_then(|broker| broker.default);
            assert!(of_broker.is_none_or(|of_broker| of_broker == *default), "{name}: {of_broker:?}");
        }
        assert!(BROKER_CONFIGS.is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn what_was_set_for_one_counts_more_than_what_was_set_for_all_and_that_more_than_properties() {
        let of = |value: &str| BTreeMap::from([("message.max.bytes".to_owned(), value.to_owned())]);
        let mut configs = BrokerConfigs::new(of("1"), BTreeMap::new());
        configs.store(None, of("2"));
        configs.store(Some(1), of("3"));
        let values = |broker| -> Vec<String> {
            let synonyms = configs.synonyms(broker, "message.max.bytes").into_iter();
            synonyms.map(|synonym| format!("{} {}", synonym.source, synonym.value)).collect()
        };
        assert_eq!(values(1), ["2 3", "3 2", "4 1", "5 1048588"]);
        assert_eq!(values(2), ["3 2", "4 1", "5 1048588"]);
        assert_eq!(configs.inherited().get("max.message.bytes").map(String::as_str), Some("2"));
    }
}
