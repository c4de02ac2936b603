//! What the tests on the in-process cluster share: a cluster and a client in virtual time, and a way to write records.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(unreachable_pub, reason = "each test file is a crate of its own")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use milena_client::protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use milena_client::protocol::messages::{ProduceRequest, TopicName};
use milena_client::protocol::records::{BatchBuilder, Compression, Compressor, ProducerStamp};
use milena_client::protocol::{ErrorCode, StrBytes};
use milena_client::{Client, Lane, Owner, Target, TopicPartition};
use milena_consumer::{Consumer, ConsumerBuilder, PartitionConsumer, PartitionConsumerBuilder, RecordRef, StartAt};
use milena_testkit::{Cluster, ClusterBuilder};

pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct World {
    pub cluster: Cluster,
    pub client: Client,
    writer: Owner,
}

impl World {
    pub async fn new(builder: ClusterBuilder) -> Self {
        let cluster = builder.start_in_memory().unwrap();
        let client = connect(&cluster).await;
        Self::of(cluster, client)
    }

    pub fn of(cluster: Cluster, client: Client) -> Self {
        let writer = client.new_owner("writer");
        Self { cluster, client, writer }
    }

    /// Writes one batch whose values are the numbers as text, to whoever leads the partition.
    pub async fn write(&self, topic: &str, partition: i32, numbers: Range<i64>) {
        self.write_batch(topic, partition, batch(numbers, Compression::None)).await;
    }

    pub async fn write_batch(&self, topic: &str, partition: i32, records: Bytes) {
        let deadline = self.writer.now() + PATIENCE;
        let id = self.client.new_owner("look").topic(topic, deadline).await.unwrap().id;
        loop {
            let leader = self.client.metadata().leader(topic, partition);
            let Some((leader, _)) = leader else {
                self.pause().await;
                continue;
            };
            let (name, records) = (topic.to_owned(), records.clone());
            let request = move |version: i16| {
                let data = PartitionProduceData::default().with_index(partition).with_records(Some(records));
                let topic = TopicProduceData::default().with_partition_data(vec![data]);
                let topic = if version >= 13 {
                    topic.with_topic_id(id)
                } else {
                    topic.with_name(TopicName(StrBytes::from_string(name)))
                };
                ProduceRequest::default().with_acks(-1).with_timeout_ms(1000).with_topic_data(vec![topic])
            };
            let answer = self
                .writer
                .send_versioned(Target::Broker(leader), Lane::Produce, Duration::from_secs(5), request)
                .await;
            match answer.map(|answer| ErrorCode(answer.responses[0].partition_responses[0].error_code)) {
                Ok(ErrorCode::NONE) => return,
                _ => self.pause().await,
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a test in virtual time")]
    pub async fn pause(&self) {
        self.client.refresh_metadata(milena_client::RefreshReason::Asked);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    pub fn consumer(&self, group: &str) -> ConsumerBuilder {
        Consumer::builder(&self.client, group).offset_reset(milena_consumer::OffsetReset::Earliest)
    }

    pub fn reader(&self, topic: &str, partitions: Range<i32>) -> PartitionConsumerBuilder {
        PartitionConsumer::builder(&self.client).assign(topic, partitions, StartAt::Beginning)
    }

    /// Batch bytes that arrived, and those of them that were dropped.
    pub fn fetched(&self) -> (i64, i64) {
        (self.metric("batch-bytes-fetched-total"), self.metric("batch-bytes-dropped-total"))
    }

    pub fn metric(&self, name: &str) -> i64 {
        let values = self.client.metrics().snapshot().into_iter().filter(|(n, _)| n.name == name);
        values.map(|(_, value)| value as i64).sum()
    }
}

pub async fn connect(cluster: &Cluster) -> Client {
    Client::builder(cluster.bootstrap_servers())
        .connector(cluster.connector())
        .resolver(cluster.resolver())
        .simulation(tokio::runtime::Handle::current())
        .seed(7)
        .connect()
        .await
        .unwrap()
}

/// A batch whose values are the numbers as text.
pub fn batch(numbers: Range<i64>, codec: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(vec![0; 1 << 20], 0);
    for number in numbers {
        builder.append(1000 + number, None, Some(number.to_string().as_bytes()), &[]).unwrap();
    }
    let mut sealed = builder.seal();
    if codec != Compression::None {
        sealed = sealed.compress(&mut Compressor::new(codec).unwrap(), Vec::new()).0;
    }
    sealed.stamp(ProducerStamp::NONE);
    Bytes::copy_from_slice(sealed.bytes())
}

/// A batch of these keys and values.
pub fn batch_of(records: &[(Option<&[u8]>, Option<&[u8]>)]) -> Bytes {
    let mut builder = BatchBuilder::new(vec![0; 1 << 20], 0);
    for (key, value) in records {
        builder.append(1000, *key, *value, &[]).unwrap();
    }
    let mut sealed = builder.seal();
    sealed.stamp(ProducerStamp::NONE);
    Bytes::copy_from_slice(sealed.bytes())
}

pub fn tp(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

/// What was read, by partition: offset and value.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Seen(pub BTreeMap<TopicPartition, Vec<(i64, i64)>>);

impl Seen {
    pub fn note(&mut self, record: RecordRef<'_>) {
        let value = std::str::from_utf8(record.value().unwrap()).unwrap().parse().unwrap();
        self.0.entry(tp(record.topic(), record.partition())).or_default().push((record.offset(), value));
    }

    pub fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    pub fn offsets(&self, topic: &str, partition: i32) -> Vec<i64> {
        self.0.get(&tp(topic, partition)).into_iter().flatten().map(|(offset, _)| *offset).collect()
    }

    pub fn values(&self, topic: &str, partition: i32) -> Vec<i64> {
        self.0.get(&tp(topic, partition)).into_iter().flatten().map(|(_, value)| *value).collect()
    }
}

/// Fails instead of hanging.
#[expect(clippy::disallowed_methods, reason = "a test in virtual time")]
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("took too long: {what}"))
}
