//! The consumer of chosen partitions, without a group, and how it is built.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use milena_client::{Client, Error, ErrorKind, Owner, TopicPartition};

use crate::config::{Config, fetch_settings};
use crate::deadline::after;
use crate::driver::upkeep;
use crate::metrics::PartitionGauges;
use crate::partitions::Stand;
use crate::reader::Reader;
use crate::reading::reading_methods;
use crate::shared::Shared;
use crate::{PartitionStreams, ReaderHandle, StartAt};

/// Reads the partitions it was built for, from where it was told. It has no group: it shares nothing and commits nothing.
pub struct PartitionConsumer {
    reader: Reader,
    owner: Owner,
}

impl PartitionConsumer {
    /// Starts building.
    pub fn builder(client: &Client) -> PartitionConsumerBuilder {
        PartitionConsumerBuilder { client: client.clone(), config: Config::default(), assigned: Vec::new() }
    }

    /// A handle that pauses and seeks while a read waits.
    pub fn handle(&self) -> ReaderHandle {
        ReaderHandle { shared: self.reader.shared.clone() }
    }

    /// Ends all tasks and connections and waits until they are gone, at most until `deadline` from now.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] if they are not; they end nevertheless.
    ///
    /// # Cancel safety
    /// Dropped, the tasks end by themselves.
    pub async fn close(self, deadline: Duration) -> Result<(), Error> {
        end(&self.reader.shared, &self.owner, deadline).await
    }

    /// Splits it into a stream for each partition, to be read by different tasks, each at its own pace. They go on where this one
    /// has stopped.
    pub fn split(self) -> PartitionStreams {
        let Self { mut reader, owner } = self;
        reader.give_back();
        PartitionStreams::new(&reader.shared, owner)
    }
}

/// Ends a reader without a group.
pub(crate) async fn end(shared: &Shared, owner: &Owner, deadline: Duration) -> Result<(), Error> {
    shared.change(|partitions| partitions.close(None));
    let timer = owner.sleep_until(after(owner.now(), deadline));
    tokio::select! {
        biased;
        () = owner.close() => Ok(()),
        () = timer => Err(Error::new(ErrorKind::Timeout, "the consumer's tasks did not end before the deadline.")),
    }
}

reading_methods!(PartitionConsumer);

impl fmt::Debug for PartitionConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionConsumer").field("owner", &self.owner.label()).finish_non_exhaustive()
    }
}

/// Builds a [`PartitionConsumer`].
#[must_use]
pub struct PartitionConsumerBuilder {
    client: Client,
    config: Config,
    assigned: Vec<(TopicPartition, StartAt)>,
}

impl PartitionConsumerBuilder {
    /// Reads these partitions of `topic`, from `start` on. May be called for several topics.
    ///
    /// These and no others: a topic that grows is not read further than that. One that the cluster does not know (yet) is waited for;
    /// after [`api_timeout`](Self::api_timeout) reads say so with an error, and again each time that has passed.
    pub fn assign(
        mut self,
        topic: impl Into<Arc<str>>,
        partitions: impl IntoIterator<Item = i32>,
        start: StartAt,
    ) -> Self {
        let topic = topic.into();
        let partition = |partition| (TopicPartition { topic: topic.clone(), partition }, start);
        self.assigned.extend(partitions.into_iter().map(partition));
        self
    }

    /// Starts reading.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if nothing is assigned, or a partition twice, or for settings that make no sense together.
    ///
    /// # Cancel safety
    /// Dropped, nothing has been started.
    pub async fn build(self) -> Result<PartitionConsumer, Error> {
        if self.assigned.is_empty() {
            return Err(Error::new(ErrorKind::Config, "nothing is assigned: call assign at least once."));
        }
        self.config.check()?;
        let mut known = BTreeSet::new();
        for (tp, start) in &self.assigned {
            let error = |text: &str| Error::new(ErrorKind::Config, text).with_topic_partition(tp.clone());
            start.check().map_err(|error| error.with_topic_partition(tp.clone()))?;
            if tp.partition < 0 {
                return Err(error("partitions are numbered from 0 on."));
            }
            if !known.insert(tp) {
                return Err(error("the partition is assigned twice: where shall it start?"));
            }
        }
        drop(known);
        let owner = self.client.new_owner("reader");
        let shared = Arc::new(Shared::new(self.config, owner.link().clone(), None));
        shared.change(|partitions| {
            let assigned = self.assigned.into_iter().map(|(tp, start)| {
                let gauges = PartitionGauges::new(owner.link(), &tp);
                (tp, Stand::AwaitReset(start), gauges)
            });
            partitions.assign(assigned);
            None
        });
        owner.spawn("upkeep", upkeep::run(shared.clone(), None));
        Ok(PartitionConsumer { reader: Reader::new(shared), owner })
    }
}

fetch_settings!(PartitionConsumerBuilder);

impl fmt::Debug for PartitionConsumerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionConsumerBuilder").field("assigned", &self.assigned).finish_non_exhaustive()
    }
}
