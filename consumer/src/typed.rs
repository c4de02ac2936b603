//! Values instead of bytes: a consumer together with the deserializers of key and value.

use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use milena_client::{Deserializer, Error, ErrorKind, SerializeError, TopicPartition};

use crate::owned::SharedRecord;
use crate::reader::Reader;
use crate::records::{ConsumerRecord, OpenBatch, RecordRef};
use crate::{Consumer, PartitionConsumer};

/// A consumer that gives keys and values of the types its deserializers know (Java's `KafkaConsumer<K, V>`). Made by
/// [`Consumer::typed`] and [`PartitionConsumer::typed`].
///
/// ```no_run
/// # use milena_client::serde::{Long, Text};
/// # use milena_consumer::{PartitionConsumer, ReadError};
/// # async fn f(reader: PartitionConsumer) -> Result<(), milena_client::Error> {
/// let mut counts = reader.typed::<String, i64>(Text, Long);
/// loop {
///     match counts.recv().await {
///         Ok(Some(record)) => println!("{:?} → {:?}", record.key(), record.value()),
///         Ok(None) => return Ok(()),
///         // The next `recv` goes on behind it.
///         Err(ReadError::Undecodable(record)) => eprintln!("{record}: {:?}", record.raw().value()),
///         Err(error) => return Err(error.into()),
///     }
/// }
/// # }
/// ```
///
/// A record that cannot be decoded is an [error](ReadError::Undecodable) in its place among the others, with its bytes in it, and
/// reading goes on behind it: nothing is left out silently.
pub struct TypedConsumer<C, K, V> {
    consumer: C,
    key: Box<dyn Deserializer<K>>,
    value: Box<dyn Deserializer<V>>,
}

/// A record with its decoded key and value. What else there is to know of the record is its own: `R` is what is behind it, a
/// [`RecordRef`] or a [`SharedRecord`].
#[derive(Clone)]
pub struct Decoded<R, K, V> {
    record: R,
    key: Option<K>,
    value: Option<V>,
}

impl<R, K, V> Decoded<R, K, V> {
    /// The key; `None` where the record has none.
    pub fn key(&self) -> Option<&K> {
        self.key.as_ref()
    }

    /// The value; `None` for a tombstone.
    pub fn value(&self) -> Option<&V> {
        self.value.as_ref()
    }

    /// The record as it was read.
    pub fn record(&self) -> &R {
        &self.record
    }

    /// Key and value, to keep.
    pub fn into_parts(self) -> (Option<K>, Option<V>) {
        (self.key, self.value)
    }
}

impl<R, K, V> Deref for Decoded<R, K, V> {
    type Target = R;

    /// For offset, timestamp, headers and the like. (Key and value are the decoded ones; their bytes are
    /// [`record`](Decoded::record)`().key()`.)
    fn deref(&self) -> &R {
        &self.record
    }
}

impl<R: fmt::Debug, K, V> fmt::Debug for Decoded<R, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys and values never appear in logs.
        write!(f, "Decoded({:?})", self.record)
    }
}

/// Which part of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordPart {
    /// Its key.
    Key,
    /// Its value.
    Value,
}

impl fmt::Display for RecordPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Value => "value",
        })
    }
}

/// A record that its deserializers do not understand. It is whole: [`raw`](Self::raw) has its bytes, which may be stored or sent
/// elsewhere (a dead-letter topic).
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "{}-{}@{}: the record's {part} cannot be decoded: {source}. Its bytes are kept in this error; reading goes on behind it.",
    record.topic(), record.partition(), record.offset()
)]
pub struct UndecodableRecord {
    record: ConsumerRecord,
    part: RecordPart,
    source: SerializeError,
    /// The record, if it must be acknowledged by itself.
    unacknowledged: Option<SharedRecord>,
}

impl UndecodableRecord {
    #[cold]
    fn new(record: RecordRef<'_>, part: RecordPart, source: SerializeError) -> Box<Self> {
        Box::new(Self { record: record.detach(), part, source, unacknowledged: None })
    }

    /// The record has been dealt with: see [`SharedRecord::ack`]. For errors of a [`TypedStream`]; one that `recv` gave is acknowledged
    /// by asking for the next record, and this does nothing.
    pub fn ack(&self) {
        self.unacknowledged.iter().for_each(SharedRecord::ack);
    }

    /// The record as it was read: topic, partition, offset, key, value and headers.
    pub fn raw(&self) -> &ConsumerRecord {
        &self.record
    }

    /// The record, to keep.
    pub fn into_raw(self) -> ConsumerRecord {
        self.record
    }

    /// Which part could not be decoded. (The key is tried first.)
    pub fn part(&self) -> RecordPart {
        self.part
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        self.record.topic()
    }

    /// The partition.
    pub fn partition(&self) -> i32 {
        self.record.partition()
    }

    /// Topic and partition.
    pub fn topic_partition(&self) -> TopicPartition {
        self.record.topic_partition()
    }

    /// The offset.
    pub fn offset(&self) -> i64 {
        self.record.offset()
    }
}

/// What typed reading may give instead of a record.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The record that comes next cannot be decoded. Reading on goes on behind it.
    #[error(transparent)]
    Undecodable(Box<UndecodableRecord>),
    /// Reading itself failed.
    #[error(transparent)]
    Kafka(#[from] Error),
}

impl ReadError {
    /// The partition that it is about, if it is about one.
    pub fn topic_partition(&self) -> Option<TopicPartition> {
        match self {
            Self::Undecodable(record) => Some(record.topic_partition()),
            Self::Kafka(error) => error.topic_partition().cloned(),
        }
    }

    /// The offset in that partition, if it is about one: of the record that cannot be decoded, or [`Error::offset`].
    pub fn offset(&self) -> Option<i64> {
        match self {
            Self::Undecodable(record) => Some(record.offset()),
            Self::Kafka(error) => error.offset(),
        }
    }
}

impl From<Box<UndecodableRecord>> for ReadError {
    fn from(record: Box<UndecodableRecord>) -> Self {
        Self::Undecodable(record)
    }
}

impl From<ReadError> for Error {
    /// For those who end at the first record that cannot be decoded: it is [`ErrorKind::Serialization`] then, and its bytes are in the
    /// source.
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Kafka(error) => error,
            ReadError::Undecodable(record) => {
                let text = format!(
                    "the {} of the record at offset {} cannot be decoded: {}. Read with the deserializers that it was written for, or \
                     read on, and it is left out.",
                    record.part,
                    record.offset(),
                    record.source
                );
                Self::new(ErrorKind::Serialization, text)
                    .with_topic_partition(record.topic_partition())
                    .with_offset(record.offset())
                    .with_source(*record)
            }
        }
    }
}

/// What gives records: [`Consumer`] and [`PartitionConsumer`].
pub trait ReadsRecords: sealed::Sealed + Send {
    #[doc(hidden)]
    fn reader(&mut self) -> sealed::ReaderOf<'_>;
}

mod sealed {
    /// Hides the reader's type.
    #[derive(Debug)]
    pub struct ReaderOf<'a>(pub(super) &'a mut super::Reader);
    pub trait Sealed {}
    impl Sealed for super::Consumer {}
    impl Sealed for super::PartitionConsumer {}
}

impl ReadsRecords for Consumer {
    fn reader(&mut self) -> sealed::ReaderOf<'_> {
        sealed::ReaderOf(self.reader_mut())
    }
}

impl ReadsRecords for PartitionConsumer {
    fn reader(&mut self) -> sealed::ReaderOf<'_> {
        sealed::ReaderOf(self.reader_mut())
    }
}

impl<C: ReadsRecords, K, V> TypedConsumer<C, K, V> {
    pub(crate) fn new(consumer: C, key: Box<dyn Deserializer<K>>, value: Box<dyn Deserializer<V>>) -> Self {
        Self { consumer, key, value }
    }

    /// The next record, decoded, its bytes borrowed until the next call. Asking for it acknowledges the one before, as with
    /// [`Consumer::recv`]. `None` when the consumer is closed.
    ///
    /// # Errors
    /// [`ReadError::Undecodable`] for a record that cannot be decoded. Asking again goes on behind it and, in a group, acknowledges
    /// it, like any other: what shall be done about it is to be done before. Else as [`Consumer::recv`].
    ///
    /// # Cancel safety
    /// Dropped, nothing is lost: the record is lent by the next call. The record lent before counts as acknowledged.
    pub async fn recv(&mut self) -> Result<Option<Decoded<RecordRef<'_>, K, V>>, ReadError> {
        let reader = self.consumer.reader().0;
        if !std::future::poll_fn(|cx| reader.poll_next(cx)).await? {
            return Ok(None);
        }
        let Some((record, batch)) = reader.lent_in_batch() else { return Ok(None) };
        Ok(Some(decode(&*self.key, &*self.value, record, batch)?))
    }

    /// The records as a stream, decoded and owned. In a group each is acknowledged [by itself](SharedRecord::ack).
    pub fn stream(&mut self) -> TypedStream<'_, K, V> {
        TypedStream { records: self.consumer.reader().0, key: &*self.key, value: &*self.value }
    }

    /// Decodes a record that was read in another way: one of those that a poll of the [inner](Self::inner_mut) consumer gave, for
    /// example.
    ///
    /// # Errors
    /// When it cannot be decoded.
    pub fn decode(&self, record: SharedRecord) -> Result<Decoded<SharedRecord, K, V>, Box<UndecodableRecord>> {
        decode_shared(&*self.key, &*self.value, record)
    }

    /// The consumer of bytes behind it.
    pub fn inner(&self) -> &C {
        &self.consumer
    }

    /// The consumer of bytes behind it: to poll, or to take its handle.
    pub fn inner_mut(&mut self) -> &mut C {
        &mut self.consumer
    }

    /// Gives the consumer back, to close it.
    pub fn into_inner(self) -> C {
        self.consumer
    }
}

fn decode<'a, K, V>(
    key: &dyn Deserializer<K>,
    value: &dyn Deserializer<V>,
    record: RecordRef<'a>,
    batch: &OpenBatch,
) -> Result<Decoded<RecordRef<'a>, K, V>, Box<UndecodableRecord>> {
    let (key, value) = decode_parts(key, value, record, batch)?;
    Ok(Decoded { record, key, value })
}

pub(crate) fn decode_shared<K, V>(
    key: &dyn Deserializer<K>,
    value: &dyn Deserializer<V>,
    record: SharedRecord,
) -> Result<Decoded<SharedRecord, K, V>, Box<UndecodableRecord>> {
    match decode_parts(key, value, record.as_view(), &record.run.batch) {
        Ok((key, value)) => Ok(Decoded { record, key, value }),
        Err(mut undecodable) => {
            undecodable.unacknowledged = Some(record);
            Err(undecodable)
        }
    }
}

type Parts<K, V> = (Option<K>, Option<V>);

/// Key and value in memory of their own, and where the value begins: values that are slices of it keep nothing else alive.
#[cold]
fn copy_of(record: RecordRef<'_>) -> (Bytes, usize) {
    let (key, value) = (record.key().unwrap_or_default(), record.value().unwrap_or_default());
    (Bytes::from([key, value].concat()), key.len())
}

fn decode_parts<K, V>(
    key_of: &dyn Deserializer<K>,
    value_of: &dyn Deserializer<V>,
    record: RecordRef<'_>,
    batch: &OpenBatch,
) -> Result<Parts<K, V>, Box<UndecodableRecord>> {
    let copy = batch.copies.then(|| copy_of(record));
    let (key, value) = match &copy {
        Some((owner, key)) => (record.key().map(|_| &owner[..*key]), record.value().map(|_| &owner[*key..])),
        None => (record.key(), record.value()),
    };
    let (topic, owner) = (record.topic(), copy.as_ref().map_or_else(|| batch.owner(), |(owner, _)| owner));
    let undecodable = |part| move |error| UndecodableRecord::new(record, part, error);
    let key = key.map(|bytes| key_of.deserialize(topic, bytes, owner)).transpose();
    let key = key.map_err(undecodable(RecordPart::Key))?;
    let value = value.map(|bytes| value_of.deserialize(topic, bytes, owner)).transpose();
    let value = value.map_err(undecodable(RecordPart::Value))?;
    Ok((key, value))
}

/// The records of a [`TypedConsumer`], decoded and owned, as a [`Stream`].
///
/// A record that cannot be decoded is an error in its place, and the stream goes on behind it. In a group nothing behind it is
/// committed until it is [acknowledged](UndecodableRecord::ack), like every other.
#[must_use = "a stream does nothing unless it is polled"]
pub struct TypedStream<'a, K, V> {
    records: &'a mut Reader,
    key: &'a dyn Deserializer<K>,
    value: &'a dyn Deserializer<V>,
}

impl<K, V> Stream for TypedStream<'_, K, V> {
    type Item = Result<Decoded<SharedRecord, K, V>, ReadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        this.records.poll_owned(cx).map(|next| next.map(|record| Ok(decode_shared(this.key, this.value, record?)?)))
    }
}

impl<K, V> Drop for TypedStream<'_, K, V> {
    fn drop(&mut self) {
        self.records.end_turn();
    }
}

impl<K, V> fmt::Debug for TypedStream<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedStream").finish_non_exhaustive()
    }
}

impl<C: fmt::Debug, K, V> fmt::Debug for TypedConsumer<C, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedConsumer").field("consumer", &self.consumer).finish_non_exhaustive()
    }
}
