//! The client as a user meets it: the shared client of `milena-client`, with a method for each thing it can build.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use milena_client::{ClientBuilder, Deserializer};
use milena_consumer::{
    CompactedTable, CompactedTableBuilder, Consumer, ConsumerBuilder, PartitionConsumer, PartitionConsumerBuilder,
};
use milena_producer::{Producer, ProducerBuilder};

/// A connection to a Kafka cluster: the start of everything.
///
/// Cheap to clone; the last clone dropped ends its tasks and its thread, without waiting.
#[derive(Clone)]
pub struct Client(milena_client::Client);

impl Client {
    /// Starts building a client. `bootstrap_servers` is a comma-separated list of `host:port` (Java: `bootstrap.servers`): any
    /// brokers of the cluster, from which the others are learned.
    pub fn builder(bootstrap_servers: impl Into<String>) -> ClientBuilder<Self> {
        ClientBuilder::new(bootstrap_servers)
    }

    /// Starts building a producer.
    pub fn producer(&self) -> ProducerBuilder {
        Producer::builder(&self.0)
    }

    /// Starts building a member of a consumer group (Java: `group.id`).
    pub fn consumer(&self, group: impl Into<Arc<str>>) -> ConsumerBuilder {
        Consumer::builder(&self.0, group)
    }

    /// Starts building a table in memory of a compacted topic: the last value of every key.
    pub fn compacted_table<K, V>(
        &self,
        topic: impl Into<Arc<str>>,
        key: impl Deserializer<K> + 'static,
        value: impl Deserializer<V> + 'static,
    ) -> CompactedTableBuilder<K, V>
    where
        K: Ord + Clone + Send + Sync + 'static,
        V: Clone + Send + Sync + 'static,
    {
        CompactedTable::builder(&self.0, topic, key, value)
    }

    /// Starts building a reader of chosen partitions, without a group (Java: `assign`).
    pub fn partition_consumer(&self) -> PartitionConsumerBuilder {
        PartitionConsumer::builder(&self.0)
    }
}

impl Deref for Client {
    type Target = milena_client::Client;

    fn deref(&self) -> &milena_client::Client {
        &self.0
    }
}

impl From<milena_client::Client> for Client {
    fn from(client: milena_client::Client) -> Self {
        Self(client)
    }
}

impl From<Client> for milena_client::Client {
    fn from(client: Client) -> Self {
        client.0
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
