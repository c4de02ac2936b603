//! The producer's settings, their defaults, and which of them fit together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use milena_client::{Client, Error, ErrorKind};
use milena_protocol::records::Compression;

use crate::accumulator::Sizes;
use crate::interceptor::{Interceptor, Interceptors};
use crate::partitioner::{Partitioner, Partitioning};
use crate::producer::Producer;
use crate::profile::{Profile, describe};
use crate::settings::Codec;
use crate::transaction::TransactionalProducerBuilder;

/// Who must have a record before it counts as written (Java's `acks`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acks {
    /// Nobody: the record counts as written once it has been handed to the connection. It has no offset, and what a broken
    /// connection swallows is not noticed.
    None,
    /// The partition's leader. What it has not passed on when it dies is lost.
    Leader,
    /// All replicas in sync, at least `min.insync.replicas` of them.
    #[default]
    All,
}

/// Plain data: what the builder was told.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) linger: Duration,
    pub(crate) batch_size: usize,
    pub(crate) max_batch_size: usize,
    pub(crate) buffer_memory: usize,
    pub(crate) compression: Compression,
    pub(crate) compression_level: Option<i32>,
    pub(crate) acks: Acks,
    pub(crate) idempotence: bool,
    pub(crate) max_in_flight: usize,
    pub(crate) max_request_size: usize,
    pub(crate) request_timeout: Duration,
    pub(crate) delivery_timeout: Duration,
    pub(crate) max_block: Duration,
    pub(crate) first_sequence: i32,
    pub(crate) partitioning: Partitioning,
    /// Whether each topic is looked at when it is first sent to.
    pub(crate) preflight: bool,
    pub(crate) interceptors: Interceptors,
    /// Topics with settings of their own.
    pub(crate) topics: BTreeMap<Arc<str>, TopicSettings>,
}

/// Settings of one topic that differ from the producer's: see [`ProducerBuilder::topic`]. What is not set is the producer's.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct TopicSettings {
    linger: Option<Duration>,
    batch_size: Option<usize>,
    max_batch_size: Option<usize>,
    compression: Option<(Compression, Option<i32>)>,
    partitioner: Option<Arc<dyn Partitioner>>,
}

impl TopicSettings {
    /// As [`ProducerBuilder::linger`].
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = Some(linger);
        self
    }

    /// As [`ProducerBuilder::batch_size`].
    pub fn batch_size(mut self, bytes: usize) -> Self {
        self.batch_size = Some(bytes);
        self
    }

    /// As [`ProducerBuilder::max_batch_size`].
    pub fn max_batch_size(mut self, bytes: usize) -> Self {
        self.max_batch_size = Some(bytes);
        self
    }

    /// As [`ProducerBuilder::partitioner`].
    pub fn partitioner(mut self, partitioner: impl Partitioner + 'static) -> Self {
        self.partitioner = Some(Arc::new(partitioner));
        self
    }

    /// As [`ProducerBuilder::compression`], with the codec's default level.
    pub fn compression(mut self, codec: Compression) -> Self {
        self.compression = Some((codec, None));
        self
    }

    /// As [`ProducerBuilder::compression`] and [`ProducerBuilder::compression_level`].
    pub fn compression_with_level(mut self, codec: Compression, level: i32) -> Self {
        self.compression = Some((codec, Some(level)));
        self
    }
}

/// Builds a [`Producer`]. Every setting has a default that is good enough to forget.
#[derive(Debug, Clone)]
#[must_use]
pub struct ProducerBuilder {
    client: Client,
    config: Config,
    idempotence: Option<bool>,
}

impl ProducerBuilder {
    pub(crate) fn new(client: &Client) -> Self {
        let config = Config::default();
        Self { client: client.clone(), config, idempotence: None }
    }

    /// Sets what belongs together for what one wants most; what is set afterwards counts, what was set before is replaced as far as
    /// the profile has an opinion on it. The profile, printed, says what that is.
    pub fn profile(mut self, profile: Profile) -> Self {
        profile.apply(&mut self.config);
        // Decided by acks, unless it is set afterwards.
        self.idempotence = None;
        self
    }

    /// Every setting with its value and what it means, one a line.
    pub fn describe(&self) -> String {
        let mut config = self.config.clone();
        config.idempotence = self.is_idempotent();
        describe(&config)
    }

    /// How long a batch that is not full waits for more records. Default 5 ms. Longer: fuller batches, later acks; zero sends as soon
    /// as the broker is ready for more. At most 24 days, and no more than [`delivery_timeout`](Self::delivery_timeout) leaves. Java:
    /// `linger.ms`.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.config.linger = linger;
        self
    }

    /// Bytes at which a batch is full, before compression. Default 16 KiB; at least 512, at most
    /// [`max_request_size`](Self::max_request_size) and [`buffer_memory`](Self::buffer_memory). Larger: fewer requests, more memory per partition. Java:
    /// `batch.size` (which estimates compressed bytes).
    pub fn batch_size(mut self, bytes: usize) -> Self {
        self.config.batch_size = bytes;
        self
    }

    /// Up to here an open batch may grow while its partition has as many batches in flight as it may. Default 64 KiB, at least
    /// [`batch_size`](Self::batch_size). Java has no such setting.
    pub fn max_batch_size(mut self, bytes: usize) -> Self {
        self.config.max_batch_size = bytes;
        self
    }

    /// Bytes for records that are not acknowledged yet; beyond them `send` waits. Default 32 MiB; at least
    /// [`batch_size`](Self::batch_size), at most 1 TiB. Counted by buffer, so it is what is
    /// really held. Java: `buffer.memory`.
    pub fn buffer_memory(mut self, bytes: usize) -> Self {
        self.config.buffer_memory = bytes;
        self
    }

    /// How batches are compressed. Default: not at all. A codec whose feature is off is refused by name. Java: `compression.type`.
    ///
    /// lz4 and snappy cost least; zstd shrinks most for its time; gzip is for readers that know nothing newer.
    pub fn compression(mut self, codec: Compression) -> Self {
        self.config.compression = codec;
        self
    }

    /// How hard the codec tries: gzip 1 to 9, default 6; zstd 1 to 3, default 1 (Java: 3). Higher: smaller batches, more CPU. The
    /// other codecs have no levels and refuse one. Java: `compression.gzip.level`, `compression.zstd.level`.
    pub fn compression_level(mut self, level: i32) -> Self {
        self.config.compression_level = Some(level);
        self
    }

    /// Who must have a record before it counts as written. Default [`Acks::All`]. With less, idempotence is off. Java: `acks`.
    pub fn acks(mut self, acks: Acks) -> Self {
        self.config.acks = acks;
        self
    }

    /// Whether the broker recognises repeats, so that a retry neither doubles nor reorders records. Default true with
    /// [`Acks::All`]. Without it one batch per partition is in flight at a time, and a retry may double it. Java:
    /// `enable.idempotence`.
    pub fn idempotence(mut self, on: bool) -> Self {
        self.idempotence = Some(on);
        self
    }

    /// How many requests may be under way to one broker, and how many batches of one partition. At least 1, default and largest 5: a broker
    /// recognises repeats of the last five batches. Java: `max.in.flight.requests.per.connection`.
    pub fn max_in_flight(mut self, requests: usize) -> Self {
        self.config.max_in_flight = requests;
        self
    }

    /// The most bytes in one request, and so of one record. Default 1 MiB; at least [`batch_size`](Self::batch_size), at most 1 GiB. Brokers have a limit of their own
    /// (`message.max.bytes`). Java: `max.request.size`.
    pub fn max_request_size(mut self, bytes: usize) -> Self {
        self.config.max_request_size = bytes;
        self
    }

    /// How long a broker may take for an answer before its connection is given up. Default 30 s; 1 ms to 24 days. Java: `request.timeout.ms`.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.config.request_timeout = timeout;
        self
    }

    /// From `send` to the last attempt: after this a record has failed. Default 120 s; at least [`linger`](Self::linger) plus
    /// [`request_timeout`](Self::request_timeout), at most 24 days. Java: `delivery.timeout.ms`.
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.config.delivery_timeout = timeout;
        self
    }

    /// How long `send` waits for room and for a topic's first metadata. Default 60 s; at most 24 days. Java: `max.block.ms`.
    pub fn max_block(mut self, timeout: Duration) -> Self {
        self.config.max_block = timeout;
        self
    }

    /// The sequence of the first record of each partition, which is 0: for tests of what comes after 2³¹ − 1. A broker takes any from
    /// a producer that it does not know.
    #[doc(hidden)]
    pub fn first_sequence(mut self, sequence: i32) -> Self {
        self.config.first_sequence = sequence;
        self
    }

    /// Chooses the partition of records that name none. Default [`Murmur2`](crate::Murmur2). Java: `partitioner.class`.
    pub fn partitioner(mut self, partitioner: impl Partitioner + 'static) -> Self {
        self.config.partitioning.partitioner = Some(Arc::new(partitioner));
        self
    }

    /// Whether the default partitioner treats records with a key as if they had none. Default false. With true batches are as full
    /// as can be and partitions even, and the records of a key are in no order any more. A partitioner of one's own decides itself,
    /// so together with one it is refused. Java: `partitioner.ignore.keys`.
    pub fn partitioner_ignore_keys(mut self, on: bool) -> Self {
        self.config.partitioning.ignore_keys = on;
        self
    }

    /// Whether records without a key rather go where fewer batches wait. Default true: a slow broker gets what it can take, and the
    /// rest does not wait for it. With false all partitions get about the same number of bytes, and the slowest broker sets the pace
    /// once the memory is full. Java: `partitioner.adaptive.partitioning.enable`.
    pub fn partitioner_adaptive(mut self, on: bool) -> Self {
        self.config.partitioning.adaptive = on;
        self
    }

    /// Leaves the partitions of a broker that has neither answered nor could be reached for this long, while something was asked of
    /// it, to records that must go there. Default 0: off. Shorter than [`request_timeout`](Self::request_timeout), and longer than a
    /// broker takes on a bad day. Java: `partitioner.availability.timeout.ms` (and there only together with the adaptive part).
    pub fn partitioner_availability_timeout(mut self, timeout: Duration) -> Self {
        self.config.partitioning.availability_timeout = timeout;
        self
    }

    /// Whether each topic is [looked at](Producer::preflight) when it is first sent to, and warned of if acknowledged records could be
    /// lost. Default false; [`Profile::Durable`] sets it. It costs a request for each topic. Java has no such setting.
    pub fn preflight(mut self, on: bool) -> Self {
        self.config.preflight = on;
        self
    }

    /// Adds an interceptor behind those given before. Default: none. Java: `interceptor.classes`.
    pub fn interceptor(mut self, interceptor: impl Interceptor + 'static) -> Self {
        self.config.interceptors.push(interceptor);
        self
    }

    /// Gives a topic settings of its own: the linger, the size and the compression of its batches. Called again for the same topic,
    /// it goes on with what was set before. Java has one producer for each such set of settings.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use milena_producer::{Compression, Producer};
    /// # async fn f(client: &milena_client::Client) -> Result<(), milena_client::Error> {
    /// let producer = Producer::builder(client)
    ///     .topic("logs", |logs| logs.linger(Duration::from_millis(200)).batch_size(256 << 10).compression(Compression::Zstd))
    ///     .build()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn topic(mut self, topic: impl Into<Arc<str>>, set: impl FnOnce(TopicSettings) -> TopicSettings) -> Self {
        let settings = self.config.topics.entry(topic.into()).or_default();
        *settings = set(std::mem::take(settings));
        self
    }

    /// Makes it a producer of transactions, which begin and end one after the other under this id. Only one producer of an id is
    /// alive at a time in the whole cluster: the next one to be built fences it. Java: `transactional.id`.
    pub fn transactional_id(self, id: impl Into<Arc<str>>) -> TransactionalProducerBuilder {
        TransactionalProducerBuilder::new(self.client.clone(), self.checked(), id.into())
    }

    /// Starts the producer. The producer id is asked for with the first batch, not here.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when settings contradict one another.
    ///
    /// # Cancel safety
    /// Dropped, there is no producer.
    pub async fn build(self) -> Result<Producer, Error> {
        let config = self.checked()?;
        Ok(Producer::start(&self.client, config))
    }

    fn is_idempotent(&self) -> bool {
        self.idempotence.unwrap_or(self.config.acks == Acks::All)
    }

    fn checked(&self) -> Result<Config, Error> {
        let mut config = self.config.clone();
        config.idempotence = self.is_idempotent();
        config.check()?;
        config.check_topics()?;
        Ok(config)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(5),
            batch_size: 16 * 1024,
            max_batch_size: 64 * 1024,
            buffer_memory: 32 * 1024 * 1024,
            compression: Compression::None,
            compression_level: None,
            acks: Acks::All,
            idempotence: true,
            max_in_flight: 5,
            max_request_size: 1024 * 1024,
            request_timeout: Duration::from_secs(30),
            delivery_timeout: Duration::from_secs(120),
            max_block: Duration::from_secs(60),
            first_sequence: 0,
            partitioning: Partitioning::default(),
            preflight: false,
            interceptors: Interceptors::default(),
            topics: BTreeMap::new(),
        }
    }
}

impl Config {
    /// What holds for a topic, as if it were all that is sent to.
    pub(crate) fn of_topic(&self, topic: &str) -> Self {
        let mut config = self.clone();
        config.topics.clear();
        let Some(own) = self.topics.get(topic) else { return config };
        config.linger = own.linger.unwrap_or(config.linger);
        config.batch_size = own.batch_size.unwrap_or(config.batch_size);
        config.max_batch_size = own.max_batch_size.unwrap_or(config.max_batch_size);
        if let Some((codec, level)) = own.compression {
            (config.compression, config.compression_level) = (codec, level);
        }
        if let Some(partitioner) = &own.partitioner {
            // The producer's setting of the default partitioner is not about this one.
            config.partitioning.partitioner = Some(partitioner.clone());
            config.partitioning.ignore_keys = false;
        }
        config
    }

    pub(crate) fn codec(&self) -> Codec {
        Codec::new(self.compression, self.compression_level)
    }

    /// What decides when a batch closes.
    pub(crate) fn sizes(&self) -> Sizes {
        Sizes {
            batch: self.batch_size,
            max_batch: self.max_batch_size.clamp(self.batch_size, self.max_request_size),
            max_request: self.max_request_size,
            memory: self.buffer_memory,
            linger: self.linger,
        }
    }

    /// Checks the settings of the topics that have some of their own.
    pub(crate) fn check_topics(&self) -> Result<(), Error> {
        for topic in self.topics.keys() {
            let checked = self.of_topic(topic).check();
            checked.map_err(|error| Error::new(ErrorKind::Config, format!("for the topic {topic:?}, {error}")))?;
        }
        Ok(())
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |sentence: String| Err(Error::new(ErrorKind::Config, sentence));
        if self.idempotence && self.acks != Acks::All {
            return refuse(
                "idempotence needs acks = all: leave idempotence out, or leave acks at its default.".to_owned(),
            );
        }
        if self.partitioning.ignore_keys && self.partitioning.partitioner.is_some() {
            return refuse(
                "partitioner_ignore_keys is a setting of the default partitioner: leave it out, or leave the partitioner out."
                    .to_owned(),
            );
        }
        if !(1..=5).contains(&self.max_in_flight) {
            return refuse(format!(
                "max_in_flight is {}: it must be 1 to 5, because a broker recognises repeats of five batches.",
                self.max_in_flight
            ));
        }
        for (name, time) in [
            ("linger", self.linger),
            ("request_timeout", self.request_timeout),
            ("delivery_timeout", self.delivery_timeout),
            ("max_block", self.max_block),
        ] {
            if time > LONGEST {
                return refuse(format!("{name} is {time:?}: {LONGEST:?} (24 days) is the most."));
            }
        }
        if self.request_timeout < Duration::from_millis(1) {
            return refuse(format!(
                "request_timeout is {:?}: no broker answers in less than a millisecond; give it seconds.",
                self.request_timeout
            ));
        }
        if self.delivery_timeout < self.linger + self.request_timeout {
            return refuse(format!(
                "delivery_timeout ({:?}) must be at least linger ({:?}) plus request_timeout ({:?}): otherwise a record fails before \
                 its first request can.",
                self.delivery_timeout, self.linger, self.request_timeout
            ));
        }
        if self.batch_size < MIN_BATCH {
            return refuse(format!(
                "batch_size is {} bytes: {MIN_BATCH} is the least that holds a batch.",
                self.batch_size
            ));
        }
        if self.max_request_size < self.batch_size {
            return refuse(format!(
                "max_request_size ({}) is smaller than batch_size ({}): no full batch could be sent.",
                self.max_request_size, self.batch_size
            ));
        }
        if self.max_request_size > MAX_REQUEST {
            return refuse(format!("max_request_size is {} bytes: {MAX_REQUEST} is the most.", self.max_request_size));
        }
        if self.buffer_memory < self.batch_size {
            return refuse(format!(
                "buffer_memory ({}) is smaller than batch_size ({}): there is no room for even one batch.",
                self.buffer_memory, self.batch_size
            ));
        }
        if self.buffer_memory > MAX_MEMORY {
            return refuse(format!("buffer_memory is {} bytes: {MAX_MEMORY} is the most.", self.buffer_memory));
        }
        if let Err(error) = self.compression.supported() {
            return refuse(format!("{error}."));
        }
        if let Some(level) = self.compression_level
            && let Err(error) = self.compression.check_level(level)
        {
            return refuse(format!("compression_level: {error}."));
        }
        Ok(())
    }
}

/// The header and a few records.
const MIN_BATCH: usize = 512;
/// A frame's length is a signed 32-bit number; half of it leaves room for what is not records.
const MAX_REQUEST: usize = 1 << 30;
/// Kafka's requests carry times as milliseconds in a signed 32-bit number.
pub(crate) const LONGEST: Duration = Duration::from_millis(i32::MAX as u64);
/// Counted in kibibytes as `u32` (see `pool.rs`), with room to spare.
const MAX_MEMORY: usize = 1 << 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_contradict_one_another_are_refused_with_a_sentence() {
        assert!(Config::default().check().is_ok());
        type Spoil = fn(&mut Config);
        let wrong: [(&str, Spoil); 16] = [
            ("linger is", |config| config.linger = Duration::MAX),
            ("max_block is", |config| config.max_block = Duration::from_secs(3_000_000)),
            ("delivery_timeout is", |config| config.delivery_timeout = Duration::MAX),
            ("request_timeout is", |config| config.request_timeout = Duration::ZERO),
            ("max_request_size is", |config| config.max_request_size = usize::MAX),
            ("acks = all", |config| config.acks = Acks::Leader),
            ("partitioner_ignore_keys", |config| {
                config.partitioning.partitioner = Some(Arc::new(crate::Murmur2));
                config.partitioning.ignore_keys = true;
            }),
            ("max_in_flight", |config| config.max_in_flight = 6),
            ("delivery_timeout", |config| config.delivery_timeout = Duration::from_secs(30)),
            ("batch_size", |config| config.batch_size = 100),
            ("max_request_size", |config| config.max_request_size = 1024),
            ("buffer_memory", |config| config.buffer_memory = 1024),
            ("none has no compression levels", |config| config.compression_level = Some(1)),
            ("snappy", |config| (config.compression, config.compression_level) = (Compression::Snappy, Some(1))),
            ("gzip", |config| (config.compression, config.compression_level) = (Compression::Gzip, Some(10))),
            ("zstd", |config| (config.compression, config.compression_level) = (Compression::Zstd, Some(22))),
        ];
        for (word, spoil) in wrong {
            let mut config = Config::default();
            spoil(&mut config);
            let error = config.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(word) && error.to_string().contains('.'), "{error}");
        }
    }
    /// With `--no-default-features` this is about every codec; with all of them, about the levels.
    #[test]
    fn codecs_and_levels_are_taken_or_refused_by_name() {
        for compression in Compression::ALL {
            let with = |level| Config { compression, compression_level: level, ..Config::default() };
            let Ok(()) = compression.supported() else {
                let error = with(None).check().unwrap_err().to_string();
                assert!(error.contains(&format!("feature `{compression}`")), "{error}");
                continue;
            };
            assert!(with(None).check().is_ok() && with(None).codec().compressor().is_some());
            let Some(levels) = compression.levels() else { continue };
            for level in levels.clone() {
                assert!(with(Some(level)).check().is_ok() && with(Some(level)).codec().compressor().is_some());
            }
            let error = with(Some(levels.end() + 1)).check().unwrap_err().to_string();
            assert!(error.contains(&format!("must be {} to {}", levels.start(), levels.end())), "{error}");
        }
    }
}
