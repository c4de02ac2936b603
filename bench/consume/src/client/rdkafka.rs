//! librdkafka through the `rdkafka` crate: polled on this thread (`BaseConsumer`), or awaited (`StreamConsumer`).

use std::time::Duration;

use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{BaseConsumer, StreamConsumer};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

use super::Contender;
use crate::job::Job;

fn consumer<C: rdkafka::consumer::Consumer + FromClientConfig>(job: &Job) -> C {
    let consumer: C = ClientConfig::new()
        .set("bootstrap.servers", &job.bootstrap_servers)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    let mut assignment = TopicPartitionList::new();
    for partition in 0..job.partitions {
        assignment.add_partition_offset(&job.topic, partition, Offset::Beginning).expect("a partition");
    }
    consumer.assign(&assignment).expect("an assignment");
    consumer
}

pub(crate) struct Base(BaseConsumer);

impl Contender for Base {
    async fn connect(job: &Job) -> Self {
        Self(consumer(job))
    }

    async fn read(&mut self, each: &mut impl FnMut(&[u8])) {
        if let Some(message) = self.0.poll(Duration::from_secs(1)) {
            each(message.expect("a record").payload().expect("a value"));
        }
    }
}

pub(crate) struct Stream(StreamConsumer);

impl Contender for Stream {
    async fn connect(job: &Job) -> Self {
        Self(consumer(job))
    }

    async fn read(&mut self, each: &mut impl FnMut(&[u8])) {
        each(self.0.recv().await.expect("a record").payload().expect("a value"));
    }
}
