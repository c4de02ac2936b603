//! milena: batches of views, one view after the other, and owned records.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream as _, StreamExt as _};
use milena::{Client, PartitionConsumer, StartAt};

use super::Contender;
use crate::job::Job;

async fn reader(job: &Job) -> PartitionConsumer {
    let client = Client::builder(&job.bootstrap_servers).connect().await.expect("a client");
    let builder = client.partition_consumer().assign(job.topic.as_str(), 0..job.partitions, StartAt::Beginning);
    builder.build().await.expect("a reader")
}

pub(crate) struct Poll(PartitionConsumer);

impl Contender for Poll {
    async fn connect(job: &Job) -> Self {
        Self(reader(job).await)
    }

    #[inline]
    async fn read(&mut self, each: &mut impl FnMut(&[u8])) {
        for record in &self.0.poll(Duration::from_secs(1)).await.expect("records") {
            each(record.value().expect("a value"));
        }
    }
}

pub(crate) struct Recv(PartitionConsumer);

impl Contender for Recv {
    async fn connect(job: &Job) -> Self {
        Self(reader(job).await)
    }

    #[inline]
    async fn read(&mut self, each: &mut impl FnMut(&[u8])) {
        let record = self.0.recv().await.expect("a record").expect("it is open");
        each(record.value().expect("a value"));
    }
}

pub(crate) struct Stream(PartitionConsumer);

impl Contender for Stream {
    async fn connect(job: &Job) -> Self {
        Self(reader(job).await)
    }

    /// A thousand records, or as many as are there: the stream is made anew for each call, which a user would not do.
    #[inline]
    async fn read(&mut self, each: &mut impl FnMut(&[u8])) {
        let mut stream = std::pin::pin!(self.0.stream());
        let first = stream.next().await.expect("it is open").expect("a record");
        each(first.value().expect("a value"));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        for _ in 1..1000 {
            match Pin::as_mut(&mut stream).poll_next(&mut context) {
                std::task::Poll::Ready(record) => {
                    each(record.expect("it is open").expect("a record").value().expect("a value"));
                }
                std::task::Poll::Pending => break,
            }
        }
    }
}
