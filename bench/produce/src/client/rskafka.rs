//! rskafka: neither idempotent nor able to choose a partition, so keys are hashed here, as Java does; one producer per partition.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::DateTime;
use milena::murmur2_partition;
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{Compression, UnknownTopicHandling};
use rskafka::client::producer::aggregator::RecordAggregator;
use rskafka::client::producer::{BatchProducer, BatchProducerBuilder, Error};
use rskafka::record::Record;

use super::{Contender, LINGER, Shot};
use crate::job::Job;

pub(crate) struct Rskafka {
    producers: Vec<Arc<BatchProducer<RecordAggregator>>>,
}

/// It takes the record when it is first polled.
type Produce = Pin<Box<dyn Future<Output = Result<i64, Error>> + Send>>;

pub(crate) enum Delivery {
    Pending(Produce),
    Done,
}

impl Contender for Rskafka {
    type Delivery = Delivery;

    async fn connect(job: &Job) -> Self {
        let servers = job.bootstrap_servers.split(',').map(str::to_owned).collect();
        let client = ClientBuilder::new(servers).build().await.expect("a client");
        let mut producers = Vec::new();
        for partition in 0..job.load.partitions {
            let partition = client.partition_client(&job.topic, partition, UnknownTopicHandling::Retry).await;
            let producer = BatchProducerBuilder::new(Arc::new(partition.expect("a partition")))
                .with_linger(LINGER)
                .with_compression(if job.load.lz4 { Compression::Lz4 } else { Compression::NoCompression })
                .build(RecordAggregator::new(job.load.batch));
            producers.push(Arc::new(producer));
        }
        Self { producers }
    }

    async fn send(&self, shot: Shot<'_>) -> Delivery {
        let partition = match (shot.partition, shot.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => murmur2_partition(key, self.producers.len() as i32),
            (None, None) => 0,
        };
        let producer = Arc::clone(&self.producers[partition as usize]);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let record = Record {
            key: shot.key.map(|key| key.to_vec()),
            value: Some(shot.value.to_vec()),
            headers: BTreeMap::new(),
            timestamp: DateTime::from_timestamp_millis(now.as_millis() as i64).unwrap_or_default(),
        };
        let mut produce: Produce = Box::pin(async move { producer.produce(record).await });
        let first = poll_fn(|context| Poll::Ready(produce.as_mut().poll(context))).await;
        match first {
            Poll::Pending => Delivery::Pending(produce),
            Poll::Ready(done) => {
                done.expect("every record is delivered");
                Delivery::Done
            }
        }
    }

    async fn settle(&self, delivery: Delivery) {
        if let Delivery::Pending(produce) = delivery {
            produce.await.expect("every record is delivered");
        }
    }
}
