//! Settings that belong together, for what one wants most; and what each setting means, in words.

use std::fmt;
use std::time::Duration;

use milena_protocol::records::Compression;

use crate::config::{Acks, Config};

/// A starting point for a producer's settings: see [`ProducerBuilder::profile`](crate::ProducerBuilder::profile). Printed, it says
/// what each of a producer's settings is with it, those that it leaves at their defaults too, and what that means.
///
/// None of them gives durability up: all keep `acks = all` and idempotence.
///
/// ```
/// println!("{}", milena_producer::Profile::Throughput);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Profile {
    /// No acknowledged record is lost, and a record fails only after a long time: for what must not be missed. The first record to a
    /// topic has it [looked at](crate::Producer::preflight), and a warning says what would lose acknowledged records.
    Durable,
    /// Full, compressed batches: the most records by the second and by the CPU second, for acks that come tens of milliseconds later.
    Throughput,
    /// Records go out as soon as they come, and one that cannot be written soon fails soon.
    LowLatency,
}

impl Profile {
    pub(crate) fn apply(self, config: &mut Config) {
        config.acks = Acks::All;
        match self {
            Self::Durable => {
                config.delivery_timeout = Duration::from_secs(300);
                config.preflight = true;
            }
            Self::Throughput => {
                config.linger = Duration::from_millis(50);
                config.batch_size = 128 * 1024;
                config.max_batch_size = 512 * 1024;
                config.buffer_memory = 64 * 1024 * 1024;
                // A build without it has nothing as quick.
                if Compression::Lz4.supported().is_ok() {
                    (config.compression, config.compression_level) = (Compression::Lz4, None);
                }
            }
            Self::LowLatency => {
                config.linger = Duration::ZERO;
                (config.compression, config.compression_level) = (Compression::None, None);
                config.request_timeout = Duration::from_secs(5);
                config.delivery_timeout = Duration::from_secs(15);
                config.max_block = Duration::from_secs(1);
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Durable => "durable: no acknowledged record is lost, and none is given up soon",
            Self::Throughput => "throughput: full, compressed batches",
            Self::LowLatency => "low latency: records go out as they come, and fail soon if they cannot",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut config = Config::default();
        self.apply(&mut config);
        writeln!(f, "{}", self.name())?;
        f.write_str(&describe(&config))
    }
}

/// Each setting with its value and its meaning, one a line; then those of topics that differ.
pub(crate) fn describe(config: &Config) -> String {
    let usual = meanings(config);
    let mut text: String = usual.iter().map(|setting| line(2, setting)).collect();
    for topic in config.topics.keys() {
        text.push_str(&format!("  for the topic {topic:?}:\n"));
        let own = meanings(&config.of_topic(topic));
        text.extend(own.iter().zip(&usual).filter(|(own, usual)| own.1 != usual.1).map(|(own, _)| line(4, own)));
    }
    text
}

fn line(indent: usize, (name, value, meaning): &(&str, String, String)) -> String {
    let setting = format!("{:indent$}{name} = {value}", "");
    format!("{setting:<34} {meaning}\n")
}

fn meanings(config: &Config) -> Vec<(&'static str, String, String)> {
    let acks = match config.acks {
        Acks::None => ("none", "nobody confirms a record: what a broken connection swallows is not noticed"),
        Acks::Leader => ("leader", "the leader confirms a record: what it has not passed on when it dies is lost"),
        Acks::All => {
            ("all", "all replicas in sync, at least min.insync.replicas of them, have a record that is confirmed")
        }
    };
    let repeats = if config.idempotence && config.acks == Acks::All {
        ("on", "a repeat is recognised: no record is doubled or reordered")
    } else {
        ("off", "a repeat may double a record; one batch of a partition is in flight at a time")
    };
    let linger = match config.linger {
        Duration::ZERO => "a batch goes out as soon as its broker is ready for it".to_owned(),
        linger => format!("a batch that is not full waits {linger:?} for more records"),
    };
    let codec = match config.compression {
        Compression::None => "batches are sent as they are: more bytes, no CPU".to_owned(),
        codec => format!("batches are compressed by {codec}: fewer bytes, some CPU"),
    };
    let partitioner = match &config.partitioning.partitioner {
        Some(partitioner) => (format!("{partitioner:?}"), "chooses the partition of records that name none"),
        None if config.partitioning.ignore_keys => {
            ("sticky".to_owned(), "records go where there is room, whatever their keys")
        }
        None => {
            ("murmur2".to_owned(), "a key has its partition, as in Java; without one a record goes where there is room")
        }
    };
    let silence = match config.partitioning.availability_timeout {
        Duration::ZERO => ("off".to_owned(), "a broker that is silent gets records without a key like the others"),
        timeout => (format!("{timeout:?}"), "a broker that is silent for longer gets no records that can go elsewhere"),
    };
    let level = config.compression_level.map_or(String::new(), |level| format!(" level {level}"));
    let row = |name, value: String, meaning: String| (name, value, meaning);
    vec![
        row("acks", acks.0.to_owned(), acks.1.to_owned()),
        row("idempotence", repeats.0.to_owned(), repeats.1.to_owned()),
        row("partitioner", partitioner.0, partitioner.1.to_owned()),
        row(
            "partitioner_adaptive",
            on_or_off(config.partitioning.adaptive),
            if config.partitioning.adaptive {
                "records without a key rather go where less waits".to_owned()
            } else {
                "records without a key go everywhere alike, also to slow brokers".to_owned()
            },
        ),
        row("partitioner_availability_timeout", silence.0, silence.1.to_owned()),
        row("linger", if config.linger.is_zero() { "0".to_owned() } else { format!("{:?}", config.linger) }, linger),
        row("batch_size", bytes(config.batch_size), "a batch with that many bytes is full".to_owned()),
        row(
            "max_batch_size",
            bytes(config.max_batch_size.clamp(config.batch_size, config.max_request_size.max(config.batch_size))),
            "a batch that must wait for those before it grows up to here".to_owned(),
        ),
        row("compression", format!("{}{level}", config.compression), codec),
        row(
            "buffer_memory",
            bytes(config.buffer_memory),
            "send waits while records that are not acknowledged hold that much".to_owned(),
        ),
        row(
            "max_block",
            format!("{:?}", config.max_block),
            "and fails after that time; so it does for a topic nobody knows".to_owned(),
        ),
        row("max_request_size", bytes(config.max_request_size), "larger records are refused".to_owned()),
        row(
            "max_in_flight",
            config.max_in_flight.to_string(),
            "so many requests are on their way to one broker without an answer".to_owned(),
        ),
        row(
            "request_timeout",
            format!("{:?}", config.request_timeout),
            "a connection whose answer takes longer is given up, and the batch sent again".to_owned(),
        ),
        row(
            "delivery_timeout",
            format!("{:?}", config.delivery_timeout),
            "a record that is not acknowledged by then has failed".to_owned(),
        ),
        row(
            "preflight",
            on_or_off(config.preflight),
            if config.preflight {
                "each topic is looked at, and a warning says what would lose acknowledged records".to_owned()
            } else {
                "topics are looked at when somebody asks".to_owned()
            },
        ),
        row(
            "interceptors",
            config.interceptors.len().to_string(),
            "see each record before it is sent, and what became of it".to_owned(),
        ),
    ]
}

fn on_or_off(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

fn bytes(bytes: usize) -> String {
    match bytes {
        bytes if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        bytes if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        bytes => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TopicSettings;

    #[test]
    fn every_profile_fits_together_and_stays_durable() {
        for profile in [Profile::Durable, Profile::Throughput, Profile::LowLatency] {
            let mut config = Config::default();
            profile.apply(&mut config);
            config.check().unwrap();
            assert!(config.acks == Acks::All && config.idempotence);
        }
    }

    #[test]
    fn a_profile_says_what_it_sets_and_what_that_means() {
        let text = Profile::LowLatency.to_string();
        assert!(text.contains("linger = 0 ") && text.contains("as soon as its broker is ready"), "{text}");
        assert!(text.contains("delivery_timeout = 15s"), "{text}");
        let text = Profile::Throughput.to_string();
        assert!(text.contains("batch_size = 128 KiB") && text.contains("waits 50ms for more"), "{text}");
        let text = Profile::Durable.to_string();
        assert!(text.contains("acks = all") && text.contains("preflight = on"), "{text}");
        assert!(text.lines().count() == 18 && text.lines().skip(1).all(|line| line.len() > 40), "{text}");
    }

    #[test]
    fn what_differs_for_a_topic_is_said_after_the_rest() {
        let mut config = Config::default();
        let own = TopicSettings::default().linger(Duration::from_secs(1)).batch_size(16 * 1024);
        config.topics.insert("logs".into(), own);
        let text = describe(&config);
        let (_, after) = text.split_once("for the topic \"logs\":\n").unwrap();
        assert!(after.lines().count() == 1 && after.contains("linger = 1s"), "{text}");
    }
}
