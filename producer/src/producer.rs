//! The producer as its user sees it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use milena_client::{Client, Error, ErrorKind, Outcome, Owner};

use crate::accumulator::Anyone;
use crate::append::{NotTaken, Run};
use crate::backlog::Backlog;
use crate::config::{Config, LONGEST, ProducerBuilder};
use crate::delivery::{Delivery, Done};
use crate::driver;
use crate::metrics::PartitionQueue;
use crate::permit::Permit;
use crate::preflight::Finding;
use crate::record::{AsRecord, OwnedRecord};
use crate::sending::Sending;
use crate::shared::Shared;
use crate::transaction::Transactional;
use crate::typed::Typed;

/// Sends records. A clone is the same producer; the last one dropped ends it without waiting.
///
/// ```no_run
/// # use milena_producer::{Producer, Record};
/// # async fn f(client: &milena_client::Client) -> Result<(), milena_client::Error> {
/// let producer = Producer::builder(client).build().await?;
/// let delivery = producer.send(&Record::to("orders").key("o-17").value("{}")).await?; // waits for room only
/// let placed = delivery.await?; // is written
/// # let _ = placed; Ok(()) }
/// ```
#[derive(Clone)]
pub struct Producer {
    inner: Arc<Inner>,
}

/// What the handles of one producer share. The last one dropped ends it.
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) owner: Owner,
}

/// What [`Producer::append`] has taken.
#[derive(Debug)]
#[must_use]
pub struct Appended {
    pub(crate) run: Run,
}

/// What [`Producer::purge`] gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purge {
    /// What no broker has: records that wait to be sent, and those that a broker has certainly refused and that would be sent again.
    /// They are [`Outcome::NotWritten`].
    Queued,
    /// Also what has been sent and not acknowledged, and what was sent and lost its answer: [`Outcome::Unknown`], because it may be in
    /// the log or still get there. It is not sent again.
    QueuedAndInFlight,
}

/// How many records [`Producer::purge`] has given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Purged {
    /// Certainly not in the log.
    pub not_written: u64,
    /// Nobody can say.
    pub unknown: u64,
}

impl Producer {
    /// Starts building a producer.
    pub fn builder(client: &Client) -> ProducerBuilder {
        ProducerBuilder::new(client)
    }

    pub(crate) fn start(client: &Client, config: Config) -> Self {
        Self { inner: Arc::new(Inner::start(client, config, None)) }
    }

    /// Takes a record and returns the future of its ack. Waits for room and for a topic's first metadata, at most
    /// [`max_block`](ProducerBuilder::max_block), and for nothing else.
    ///
    /// # Errors
    /// [`ErrorKind::Limit`] when there was no room in time or the record is too large, [`ErrorKind::UnknownTopicOrPartition`], and
    /// [`ErrorKind::Closed`]. Nothing was taken then.
    ///
    /// # Cancel safety
    /// Safe: dropped before it is ready, nothing was taken. Nothing is awaited after a record has been taken.
    #[inline]
    pub async fn send(&self, record: &impl AsRecord) -> Result<Delivery, Error> {
        self.sending().send(record).await
    }

    #[inline]
    fn sending(&self) -> Sending<'_, Anyone> {
        Sending { shared: &self.inner.shared, claim: Anyone }
    }

    /// Takes a record if that needs no waiting.
    ///
    /// # Errors
    /// As [`send`](Self::send), and [`ErrorKind::Limit`] at once when there is no room. A topic that the producer has not seen before
    /// is [`ErrorKind::UnknownTopicOrPartition`]; it is looked up meanwhile (see also [`prepare_topic`](Self::prepare_topic)). If that
    /// fails, because of the name or of missing rights for instance, the next call returns why.
    pub fn try_send(&self, record: &impl AsRecord) -> Result<Delivery, Error> {
        self.sending().try_send(record)
    }

    /// As [`try_send`](Self::try_send), and gives the record back when it is not taken.
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send), with the record.
    #[expect(clippy::result_large_err, reason = "the record goes back to where it came from")]
    pub fn try_send_owned(&self, record: OwnedRecord) -> Result<Delivery, (Error, OwnedRecord)> {
        self.try_send(&record).map_err(|error| (error, record))
    }

    /// Takes records one after the other, as [`send`](Self::send) takes each, and adds their [`Delivery`]s to `deliveries`, in their
    /// order. They come out of `records` up to 16 at a time, and those in a row that name the same partition, or whose keys belong
    /// there, are taken under one lock.
    ///
    /// Lend the records (`&records`): then none is lost with an error.
    ///
    /// ```no_run
    /// # use milena_producer::{Producer, Record};
    /// # async fn f(producer: &Producer, lines: &[String]) -> Result<(), milena_client::Error> {
    /// let mut deliveries = Vec::new();
    /// producer.send_all(lines.iter().map(|line| Record::to("lines").value(line)), &mut deliveries).await?;
    /// for delivery in deliveries {
    ///     delivery.await?;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`send`](Self::send), for the first record that was not taken. Those before it were: each has added its delivery, so that
    /// the number of added deliveries is the failed record's place among `records`. None behind it was taken, but up to 15 of them may
    /// have come out of `records` already.
    ///
    /// # Cancel safety
    /// Safe: dropped before it is ready, `deliveries` has those of exactly the records that were taken.
    pub async fn send_all<R: AsRecord>(
        &self,
        records: impl IntoIterator<Item = R>,
        deliveries: &mut Vec<Delivery>,
    ) -> Result<(), Error> {
        self.sending().send_all(records, deliveries).await
    }

    /// Waits for room for a record of so many bytes (its key, its value and its headers: their names, their values, and 10 bytes for
    /// each), at most [`max_block`](ProducerBuilder::max_block). The [`Permit`] then takes a record without waiting. It holds at
    /// least [`batch_size`](ProducerBuilder::batch_size) of the memory: the record may have to open a batch.
    ///
    /// # Errors
    /// [`ErrorKind::Limit`] when there was no room in time, or never will be; [`ErrorKind::Closed`].
    ///
    /// # Cancel safety
    /// Safe: dropped, nothing is held.
    pub async fn reserve(&self, bytes: usize) -> Result<Permit, Error> {
        Permit::wait_for(&self.inner.shared, bytes).await
    }

    /// Gives records up (librdkafka: `purge`). Their [`Delivery`]s fail with [`ErrorKind::Purged`], and their memory is free again.
    /// Whoever waits for room or flushes goes on. Does not wait for anything.
    pub fn purge(&self, purge: Purge) -> Purged {
        let (not_written, unknown) = self.inner.shared.purge(purge == Purge::QueuedAndInFlight);
        Purged { not_written, unknown }
    }

    /// The same producer for keys and values that these serializers turn into bytes.
    pub fn typed<KS, VS>(&self, key_serializer: KS, value_serializer: VS) -> Typed<Self, KS, VS> {
        Typed::new(self.clone(), key_serializer, value_serializer)
    }

    /// Looks at topics: whether their replicas and their settings keep what `acks = all` promises. Returns by what acknowledged records
    /// could be lost, each [`Finding`] a sentence that says how; nothing if all is well. Each finding is also warned of, once for each
    /// topic. Waits for the topics' metadata and a broker's answer, at most [`max_block`](ProducerBuilder::max_block).
    ///
    /// A topic whose settings this user may not see is a finding of its own. That a topic has one replica is warned of without this
    /// call, when it is first sent to; [`Profile::Durable`](crate::Profile::Durable) has all of it looked at.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopicOrPartition`] for a topic that the cluster does not know, and the last failure to reach a broker.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn preflight<T: AsRef<str>>(&self, topics: impl IntoIterator<Item = T>) -> Result<Vec<Finding>, Error> {
        let topics: Vec<String> = topics.into_iter().map(|topic| topic.as_ref().to_owned()).collect();
        let shared = &self.inner.shared;
        shared.preflight(&topics, shared.link.now() + shared.config.max_block).await
    }

    /// Looks a topic up, so that neither [`try_send`](Self::try_send) nor [`append`](Self::append) finds it unknown. Returns the number
    /// of its partitions.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopicOrPartition`] after [`max_block`](ProducerBuilder::max_block).
    ///
    /// # Cancel safety
    /// Safe: at worst the look-up is repeated.
    pub async fn prepare_topic(&self, topic: &str) -> Result<i32, Error> {
        self.sending().prepare_topic(topic).await
    }

    /// Takes records of one partition for as long as there is room, without waiting: for a thread that is on no runtime and must not
    /// park. What is not taken stays in `records`; [`Appended::is_full`] says that room was the reason. Those that `records` knows in
    /// advance are taken under one lock, so this is the cheapest way into a partition.
    ///
    /// ```no_run
    /// # use milena_producer::{Backlog, Producer, Record};
    /// # fn f(producer: &Producer, lines: &[String]) -> Result<(), milena_client::Error> {
    /// let mut lines = Backlog::new(lines.iter().map(|line| Record::to("lines").value(line)));
    /// let appended = producer.append("lines", 0, &mut lines)?;
    /// if appended.is_full() {
    ///     // Later again, with the same backlog.
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// The records' own topics and partitions are not looked at.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopicOrPartition`] for a topic that was not [prepared](Self::prepare_topic), and as
    /// [`try_send`](Self::try_send) for the first record in `records`, which is then still there. Records before it were taken: errors
    /// of this kind are returned only when it is the first.
    pub fn append<R: AsRecord>(
        &self,
        topic: &str,
        partition: i32,
        records: &mut Backlog<impl Iterator<Item = R>>,
    ) -> Result<Appended, Error> {
        self.sending().append(topic, partition, records)
    }

    /// As [`append`](Self::append), but takes all records: parks the calling thread while there is no room, at most
    /// [`max_block`](ProducerBuilder::max_block) at a time. Not for a thread of an async runtime.
    ///
    /// # Errors
    /// As [`send`](Self::send), for the first record in `records`, which is then still there. Records before it were taken: then it
    /// is no error but [`Appended::error`], and the first record that was not taken is the next one in `records`.
    pub fn append_blocking<R: AsRecord>(
        &self,
        topic: &str,
        partition: i32,
        records: &mut Backlog<impl Iterator<Item = R>>,
    ) -> Result<Appended, Error> {
        self.sending().append_blocking(topic, partition, records)
    }

    /// Free bytes of [`buffer_memory`](ProducerBuilder::buffer_memory).
    pub fn room(&self) -> usize {
        self.inner.shared.pool.room()
    }

    /// What waits and what is under way, partition by partition, in order: all that this producer has sent to. It takes each
    /// partition's lock once, so it is for a look now and then; what is counted all the time is in
    /// [`Client::metrics`](milena_client::Client::metrics).
    pub fn queues(&self) -> Vec<PartitionQueue> {
        let shared = &self.inner.shared;
        let now = shared.link.now();
        shared.parts().iter().map(|part| part.lock().queue(part, now)).collect()
    }

    /// Sends at once whatever lingers, and waits until every record taken before has its result.
    ///
    /// Failures are told by the records' [`Delivery`]s; the first one is returned here as well.
    ///
    /// # Errors
    /// The first failure among those records.
    ///
    /// # Cancel safety
    /// Safe: dropped, the records are still sent.
    pub async fn flush(&self) -> Result<(), Error> {
        self.sending().flush().await
    }

    /// Takes no more records, delivers what there is, by `deadline` from now at the latest, and ends the producer's tasks and
    /// connections. More than 24 days are as good as 24.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] when records were left at the deadline: how many certainly were not written, and of how many nobody can
    /// say. Their [`Delivery`]s say the same one by one.
    ///
    /// # Cancel safety
    /// Dropped, the producer takes no more records, goes on delivering what it has, and ends when it is dropped.
    pub async fn close(&self, deadline: Duration) -> Result<(), Error> {
        let shared = &self.inner.shared;
        let deadline = shared.link.now() + deadline.min(LONGEST);
        shared.shut();
        let pending = shared.hurry();
        let mut timer = shared.link.sleep_until(deadline);
        tokio::select! {
            biased;
            () = settled(&pending) => {}
            () = &mut timer => {}
        }
        let (not_written, unknown) = shared.abandon(&Error::new(
            ErrorKind::Closed,
            "the producer was closed before the record was acknowledged: give close more time.",
        ));
        self.inner.owner.close().await;
        if not_written + unknown == 0 {
            return Ok(());
        }
        let outcome = if unknown > 0 { Outcome::Unknown } else { Outcome::NotWritten };
        Err(Error::new(
            ErrorKind::Timeout,
            format!(
                "the producer was closed with records that were not acknowledged by the deadline: {not_written} were not written, \
                 and of {unknown} nobody can say."
            ),
        )
        .with_outcome(outcome))
    }
}

impl Inner {
    /// Starts the tasks; with the id and the time-out of its transactions for a transactional producer.
    pub(crate) fn start(client: &Client, config: Config, transactions: Option<(Arc<str>, Duration)>) -> Self {
        let owner = client.new_owner("producer");
        let transaction = transactions
            .map(|(id, timeout)| Transactional::new(owner.link().clone(), id, timeout, config.request_timeout));
        let shared = Arc::new(Shared::new(owner.link().clone(), config, transaction));
        owner.spawn("producer-upkeep", driver::upkeep::run(shared.clone()));
        Self { shared, owner }
    }
}

impl Appended {
    /// How many records were taken.
    pub fn count(&self) -> usize {
        self.run.taken
    }

    /// Whether it stopped because there is no room at the moment.
    pub fn is_full(&self) -> bool {
        matches!(self.run.stopped, Some(NotTaken::NoRoom(..)))
    }

    /// Why it stopped before the end of the records, if that was not for want of room: what the next one would be refused with. Who
    /// has appended with [`append_blocking`](Producer::append_blocking) is told of want of room here as well, as it has waited for it.
    pub fn error(&self) -> Option<&Error> {
        match &self.run.stopped {
            Some(NotTaken::Error(error)) => Some(error),
            _ => None,
        }
    }

    /// Waits until all of them have their results.
    ///
    /// # Errors
    /// The first failure.
    ///
    /// # Cancel safety
    /// Safe: dropped, the records are still sent.
    pub async fn delivered(&self) -> Result<(), Error> {
        settled(&self.run.batches).await;
        self.try_delivered().unwrap_or(Ok(()))
    }

    /// The result, if it is there for all of them.
    pub fn try_delivered(&self) -> Option<Result<(), Error>> {
        if !self.run.batches.iter().all(|done| done.is_done()) {
            return None;
        }
        Some(first_failure(&self.run.batches))
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("config", &self.inner.shared.config).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.end();
        // The owner, dropped next, ends the tasks.
    }
}

pub(crate) async fn settled(pending: &[Arc<Done>]) {
    for done in pending {
        done.clone().wait().await;
    }
}

pub(crate) fn first_failure(settled: &[Arc<Done>]) -> Result<(), Error> {
    settled.iter().find_map(|done| done.failure()).map_or(Ok(()), Err)
}
