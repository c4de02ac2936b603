//! milena: its defaults, but for what the case says.

use milena::{Client, Compression, Delivery, Producer, Record};

use super::{Contender, LINGER, Shot};
use crate::job::Job;

pub(crate) struct Milena {
    producer: Producer,
    topic: String,
}

impl Contender for Milena {
    type Delivery = Delivery;

    async fn connect(job: &Job) -> Self {
        let client = Client::builder(&job.bootstrap_servers).connect().await.expect("a client");
        let producer = Producer::builder(&client)
            .linger(LINGER)
            .batch_size(job.load.batch)
            .max_batch_size(job.load.max_batch)
            .compression(if job.load.lz4 { Compression::Lz4 } else { Compression::None })
            .build()
            .await
            .expect("a producer");
        Self { producer, topic: job.topic.clone() }
    }

    #[inline]
    async fn send(&self, shot: Shot<'_>) -> Delivery {
        let mut record = Record::to(&self.topic).value(shot.value);
        if let Some(key) = shot.key {
            record = record.key(key);
        }
        if let Some(partition) = shot.partition {
            record = record.partition(partition);
        }
        self.producer.send(&record).await.expect("every record is taken")
    }

    #[inline]
    async fn settle(&self, delivery: Delivery) {
        delivery.await.expect("every record is delivered");
    }
}
