//! krafka: idempotent by itself; one batch in flight per partition.

use bytes::Bytes;
use krafka::producer::{DeliveryHandle, Producer};
use krafka::{Compression, Kafka, Record};

use super::{Contender, LINGER, Shot};
use crate::job::Job;

pub(crate) struct Krafka {
    producer: Producer,
    topic: String,
}

impl Contender for Krafka {
    type Delivery = DeliveryHandle;

    async fn connect(job: &Job) -> Self {
        let kafka = Kafka::builder(&job.bootstrap_servers).client_id("bench").connect().await.expect("a connection");
        let producer = kafka
            .producer()
            .linger(LINGER)
            .batch_size(job.load.batch)
            .compression(if job.load.lz4 { Compression::Lz4 } else { Compression::None })
            .build()
            .await
            .expect("a producer");
        Self { producer, topic: job.topic.clone() }
    }

    async fn send(&self, shot: Shot<'_>) -> DeliveryHandle {
        let mut record = Record::new(self.topic.as_str(), shot.value.clone());
        if let Some(key) = shot.key {
            record = record.key(Bytes::copy_from_slice(key));
        }
        if let Some(partition) = shot.partition {
            record = record.partition(partition);
        }
        self.producer.enqueue(record).await.expect("every record is taken")
    }

    async fn settle(&self, delivery: DeliveryHandle) {
        drop(delivery.await.expect("every record is delivered"));
    }
}
