//! krafka, without a group.

use std::time::Duration;

use krafka::Kafka;
use krafka::consumer::{AutoOffsetReset, Consumer};

use super::Contender;
use crate::job::Job;

pub(crate) struct Krafka(Consumer);

impl Contender for Krafka {
    async fn connect(job: &Job) -> Self {
        let kafka = Kafka::builder(&job.bootstrap_servers).client_id("bench").connect().await.expect("a connection");
        let builder = kafka.consumer_without_group().auto_offset_reset(AutoOffsetReset::Earliest);
        let consumer = builder.build().await.expect("a consumer");
        consumer.assign(&job.topic, (0..job.partitions).collect()).await.expect("an assignment");
        Self(consumer)
    }

    async fn read(&mut self, each: &mut impl FnMut(&[u8])) {
        for record in self.0.poll(Duration::from_secs(1)).await.expect("records") {
            each(record.value.as_deref().expect("a value"));
        }
    }
}
