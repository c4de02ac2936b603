//! rskafka: a stream per partition, taken together.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::{SelectAll, select_all};
use rskafka::client::ClientBuilder;
use rskafka::client::consumer::{StartOffset, StreamConsumer, StreamConsumerBuilder};
use rskafka::client::partition::UnknownTopicHandling;

use super::Contender;
use crate::job::Job;

pub(crate) struct Rskafka(SelectAll<StreamConsumer>);

impl Contender for Rskafka {
    async fn connect(job: &Job) -> Self {
        let servers = job.bootstrap_servers.split(',').map(str::to_owned).collect();
        let client = ClientBuilder::new(servers).build().await.expect("a client");
        let mut streams = Vec::new();
        for partition in 0..job.partitions {
            let partition = client.partition_client(&job.topic, partition, UnknownTopicHandling::Retry).await;
            let partition = Arc::new(partition.expect("a partition"));
            // As much of a partition as the others ask for: by default it asks for 50 MB.
            let builder = StreamConsumerBuilder::new(partition, StartOffset::Earliest).with_max_batch_size(1 << 20);
            streams.push(builder.build());
        }
        Self(select_all(streams))
    }

    async fn read(&mut self, each: &mut impl FnMut(&[u8])) {
        let (record, _) = self.0.next().await.expect("it is open").expect("a record");
        each(record.record.value.as_deref().expect("a value"));
    }
}
