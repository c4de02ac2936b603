//! What holds for one topic: the sizes and the linger of its batches, how they are compressed, and what is counted of it.
//!
//! Topics without settings of their own share those of the producer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use milena_protocol::records::{Compression, Compressor};

use crate::accumulator::Sizes;
use crate::config::Config;
use crate::metrics::TopicMetrics;
use crate::partitioner::Placing;

/// What the partitions of a topic have in common.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) settings: Arc<Settings>,
    pub(crate) metrics: TopicMetrics,
}

/// The settings of one topic, or of all that have none of their own.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) sizes: Sizes,
    /// Which of a broker's queues of lingering batches is the topic's: in each of them the linger is the same, so that they are in
    /// the order of their times.
    pub(crate) lane: usize,
    pub(crate) codec: Codec,
    /// Who chooses for the records that name no partition.
    pub(crate) placing: Placing,
}

/// A codec, and its compressors that are not in use; each has tables that are worth keeping.
#[derive(Debug)]
pub(crate) struct Codec {
    pub(crate) compression: Compression,
    level: Option<i32>,
    idle: Mutex<Vec<Idle>>,
}

struct Idle(Compressor);

/// The settings of all topics.
#[derive(Debug)]
pub(crate) struct AllSettings {
    usual: Arc<Settings>,
    own: BTreeMap<Arc<str>, Arc<Settings>>,
}

impl AllSettings {
    pub(crate) fn new(config: &Config) -> Self {
        let mut lingers = vec![config.linger];
        let mut settings = |config: &Config| {
            let known = lingers.iter().position(|linger| *linger == config.linger);
            let lane = known.unwrap_or_else(|| {
                lingers.push(config.linger);
                lingers.len() - 1
            });
            let placing = config.partitioning.placing();
            Arc::new(Settings { sizes: config.sizes(), lane, codec: config.codec(), placing })
        };
        let usual = settings(config);
        let own = config.topics.keys().map(|topic| (topic.clone(), settings(&config.of_topic(topic)))).collect();
        Self { usual, own }
    }

    pub(crate) fn of(&self, topic: &str) -> &Arc<Settings> {
        self.own.get(topic).unwrap_or(&self.usual)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Settings>> {
        std::iter::once(&self.usual).chain(self.own.values())
    }

    /// The lengths of buffers that batches are usually opened with, or grow to.
    pub(crate) fn lengths(&self) -> Vec<usize> {
        self.all().flat_map(|settings| [settings.sizes.batch, settings.sizes.max_batch]).collect()
    }

    /// The largest `batch_size` of all.
    pub(crate) fn largest_batch(&self) -> usize {
        self.all().map(|settings| settings.sizes.batch).max().unwrap_or(0)
    }

    pub(crate) fn longest_linger(&self) -> Duration {
        self.all().map(|settings| settings.sizes.linger).max().unwrap_or_default()
    }
}

impl Codec {
    pub(crate) fn new(compression: Compression, level: Option<i32>) -> Self {
        Self { compression, level, idle: Mutex::default() }
    }

    /// A new compressor.
    pub(crate) fn compressor(&self) -> Option<Compressor> {
        // Whether the codec is in this build, and the level one of the codec's, was checked when the producer was built.
        match self.level {
            Some(level) => Compressor::with_level(self.compression, level).ok(),
            None => Compressor::new(self.compression).ok(),
        }
    }

    /// A compressor that has been used before, if one lies ready.
    pub(crate) fn take(&self) -> Option<Compressor> {
        let idle = self.idle().pop();
        idle.map(|idle| idle.0).or_else(|| self.compressor())
    }

    pub(crate) fn keep(&self, compressor: Compressor) {
        self.idle().push(Idle(compressor));
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        // One push or pop at a time: a panic elsewhere leaves the list whole.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compressor")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TopicSettings;

    #[test]
    fn a_topic_has_its_own_settings_where_it_names_them_and_the_producers_elsewhere() {
        let mut config = Config::default();
        let own = TopicSettings::default().linger(Duration::from_millis(50)).batch_size(100_000);
        config.topics.insert("logs".into(), own);
        config.topics.insert("other".into(), TopicSettings::default().max_batch_size(20_000));
        let all = AllSettings::new(&config);
        let (usual, logs, other) = (all.of("orders"), all.of("logs"), all.of("other"));
        assert_eq!((usual.sizes.batch, usual.sizes.max_batch, usual.lane), (16 << 10, 64 << 10, 0));
        assert_eq!((logs.sizes.batch, logs.sizes.max_batch, logs.lane), (100_000, 100_000, 1));
        assert_eq!((other.sizes.batch, other.sizes.max_batch, other.lane), (16 << 10, 20_000, 0));
        assert_eq!((all.longest_linger(), all.largest_batch()), (Duration::from_millis(50), 100_000));
    }

    #[test]
    #[cfg(feature = "gzip")]
    fn the_producers_level_is_not_that_of_a_topics_other_codec() {
        let mut config = Config { compression: Compression::Gzip, compression_level: Some(9), ..Config::default() };
        config.topics.insert("same".into(), TopicSettings::default().linger(Duration::ZERO));
        config.topics.insert("none".into(), TopicSettings::default().compression(Compression::None));
        assert_eq!(config.of_topic("same").compression_level, Some(9));
        assert_eq!(config.of_topic("none").compression_level, None);
        assert!(config.check_topics().is_ok());
    }
}
