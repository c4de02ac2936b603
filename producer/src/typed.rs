//! Records of values instead of bytes: a producer, or a transaction's sender, together with the serializers of key and value.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::ops::Range;

use milena_client::{Error, ErrorKind, SerializeError, Serializer};

use crate::delivery::Delivery;
use crate::producer::Producer;
use crate::record::{AsRecord, Header, RecordView};
use crate::transaction::TransactionSender;

/// A producer, or a transaction's sender, that takes keys and values of any type that its serializers know (Java's
/// `KafkaProducer<K, V>`). Made by [`Producer::typed`] and [`Transaction::typed`](crate::Transaction::typed).
///
/// ```no_run
/// # use milena_client::serde::{Long, Text};
/// # use milena_producer::{Producer, TypedRecord};
/// # async fn f(producer: &Producer) -> Result<(), milena_client::Error> {
/// let counts = producer.typed(Text, Long);
/// let delivery = counts.send(&TypedRecord::to("counts").key("apples").value(&3_i64)).await?;
/// delivery.await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Typed<P, KS, VS> {
    sender: P,
    key_serializer: KS,
    value_serializer: VS,
}

/// A record whose key and value are values: what [`Typed::send`] turns into bytes. It borrows its parts, so that they stay with
/// whoever has them when it is refused.
pub struct TypedRecord<'a, K: ?Sized, V: ?Sized> {
    topic: &'a str,
    partition: Option<i32>,
    key: Option<&'a K>,
    value: Option<&'a V>,
    headers: Vec<Header<'a>>,
    timestamp: Option<i64>,
}

impl<'a, K: ?Sized, V: ?Sized> TypedRecord<'a, K, V> {
    /// A record for `topic`, with no key, no value (a tombstone) and no headers.
    pub fn to(topic: &'a str) -> Self {
        Self { topic, partition: None, key: None, value: None, headers: Vec::new(), timestamp: None }
    }

    /// The partition it must go to. Without it the partitioner chooses, by the key's bytes.
    #[must_use]
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// The key.
    #[must_use]
    pub fn key(mut self, key: &'a K) -> Self {
        self.key = Some(key);
        self
    }

    /// The value.
    #[must_use]
    pub fn value(mut self, value: &'a V) -> Self {
        self.value = Some(value);
        self
    }

    /// Adds a header; order and repeats are kept.
    #[must_use]
    pub fn header(mut self, key: &'a (impl AsRef<[u8]> + ?Sized), value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.headers.push(Header { key: key.as_ref(), value: Some(value.as_ref()) });
        self
    }

    /// The record's time in milliseconds since 1970. Default: the client's wall clock when it is sent.
    #[must_use]
    pub fn timestamp(mut self, milliseconds: i64) -> Self {
        self.timestamp = Some(milliseconds);
        self
    }
}

/// What takes a record of bytes.
pub trait SendsRecords: sealed::Sealed + Sync {
    /// As [`Producer::send`].
    #[doc(hidden)]
    fn send_record(&self, record: &(impl AsRecord + Sync)) -> impl Future<Output = Result<Delivery, Error>> + Send;

    /// As [`Producer::try_send`].
    #[doc(hidden)]
    fn try_send_record(&self, record: &impl AsRecord) -> Result<Delivery, Error>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Producer {}
    impl Sealed for super::TransactionSender {}
}

impl SendsRecords for Producer {
    fn send_record(&self, record: &(impl AsRecord + Sync)) -> impl Future<Output = Result<Delivery, Error>> + Send {
        self.send(record)
    }

    fn try_send_record(&self, record: &impl AsRecord) -> Result<Delivery, Error> {
        self.try_send(record)
    }
}

impl SendsRecords for TransactionSender {
    fn send_record(&self, record: &(impl AsRecord + Sync)) -> impl Future<Output = Result<Delivery, Error>> + Send {
        self.send(record)
    }

    fn try_send_record(&self, record: &impl AsRecord) -> Result<Delivery, Error> {
        self.try_send(record)
    }
}

impl<P: SendsRecords, KS, VS> Typed<P, KS, VS> {
    pub(crate) fn new(sender: P, key_serializer: KS, value_serializer: VS) -> Self {
        Self { sender, key_serializer, value_serializer }
    }

    /// The producer or sender of bytes behind it.
    pub fn inner(&self) -> &P {
        &self.sender
    }

    /// Serializes the record and takes it, as [`Producer::send`] does. Its parts are borrowed: when it is refused, they are where
    /// they were.
    ///
    /// # Errors
    /// [`ErrorKind::Serialization`] when a serializer refuses, with its reason as the source; else as [`Producer::send`]. Nothing was
    /// taken then.
    ///
    /// # Cancel safety
    /// Safe: dropped before it is ready, nothing was taken. Nothing is awaited after a record has been taken.
    pub async fn send<K: ?Sized, V: ?Sized>(&self, record: &TypedRecord<'_, K, V>) -> Result<Delivery, Error>
    where
        KS: Serializer<K>,
        VS: Serializer<V>,
    {
        let serialized = self.serialize(record)?;
        self.sender.send_record(&serialized).await
    }

    /// Serializes the record and takes it if that needs no waiting, as [`Producer::try_send`] does.
    ///
    /// # Errors
    /// As [`send`](Self::send) and [`Producer::try_send`].
    pub fn try_send<K: ?Sized, V: ?Sized>(&self, record: &TypedRecord<'_, K, V>) -> Result<Delivery, Error>
    where
        KS: Serializer<K>,
        VS: Serializer<V>,
    {
        self.sender.try_send_record(&self.serialize(record)?)
    }

    fn serialize<'a, K: ?Sized, V: ?Sized>(&self, record: &TypedRecord<'a, K, V>) -> Result<Serialized<'a>, Error>
    where
        KS: Serializer<K>,
        VS: Serializer<V>,
    {
        let mut serialized = Serialized {
            topic: record.topic,
            partition: record.partition,
            key: None,
            value: None,
            headers: record.headers.clone(),
            timestamp: record.timestamp,
            bytes: SPARE.take(),
        };
        let (topic, bytes) = (record.topic, &mut serialized.bytes);
        if let Some(key) = record.key {
            self.key_serializer.serialize(topic, key, bytes).map_err(|error| refused(topic, "key", error))?;
            serialized.key = Some(0..bytes.len());
        }
        if let Some(value) = record.value {
            let from = bytes.len();
            self.value_serializer.serialize(topic, value, bytes).map_err(|error| refused(topic, "value", error))?;
            serialized.value = Some(from..bytes.len());
        }
        Ok(serialized)
    }
}

#[cold]
fn refused(topic: &str, what: &str, error: SerializeError) -> Error {
    let text = format!(
        "the {what} of a record for the topic {topic:?} has no bytes: {error}. Send another {what}, or mend its serializer."
    );
    Error::new(ErrorKind::Serialization, text).with_source(error)
}

/// The bytes of a record, in a buffer that the thread keeps for the next one.
struct Serialized<'a> {
    topic: &'a str,
    partition: Option<i32>,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Vec<Header<'a>>,
    timestamp: Option<i64>,
    bytes: Vec<u8>,
}

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A buffer that has grown beyond this is not kept.
const MOST_SPARE: usize = 64 * 1024;

impl AsRecord for Serialized<'_> {
    fn with_view<T>(&self, look: impl FnOnce(&RecordView<'_>) -> T) -> T {
        look(&RecordView {
            topic: self.topic,
            partition: self.partition,
            key: self.key.clone().map(|range| &self.bytes[range]),
            value: self.value.clone().map(|range| &self.bytes[range]),
            headers: &self.headers,
            timestamp: self.timestamp,
        })
    }
}

impl Drop for Serialized<'_> {
    fn drop(&mut self) {
        if self.bytes.capacity() <= MOST_SPARE {
            self.bytes.clear();
            // A thread that ends has no use for it.
            let _ = SPARE.try_with(|spare| spare.set(std::mem::take(&mut self.bytes)));
        }
    }
}

impl<P: fmt::Debug, KS, VS> fmt::Debug for Typed<P, KS, VS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Typed").field("sender", &self.sender).finish_non_exhaustive()
    }
}

impl<K: ?Sized, V: ?Sized> fmt::Debug for TypedRecord<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys and values are nobody's business in a log.
        f.debug_struct("TypedRecord")
            .field("topic", &self.topic)
            .field("partition", &self.partition)
            .finish_non_exhaustive()
    }
}
