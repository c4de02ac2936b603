//! The producer as its user sees it.

use std::fmt;
use std::iter::Peekable;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use milena_client::{Client, Error, ErrorKind, Outcome, Owner};
use tokio::time::Instant;

use crate::accumulator::closed;
use crate::append::{NotTaken, Run};
use crate::config::{Config, ProducerBuilder};
use crate::delivery::{Delivery, Done};
use crate::driver;
use crate::pool::Charge;
use crate::record::{AsRecord, OwnedRecord};
use crate::shared::Shared;

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

struct Inner {
    shared: Arc<Shared>,
    owner: Owner,
}

/// What [`Producer::append`] has taken.
#[derive(Debug)]
#[must_use]
pub struct Appended {
    run: Run,
}

/// A sender that never waits gives way to the network once per this many bytes of closed batches: on a runtime that it shares with
/// the producer's tasks they would otherwise only run when the memory is full (measured: free at 1 MB, +30 % at 96 KB).
const GIVE_WAY_AFTER: usize = 1 << 20;

impl Producer {
    /// Starts building a producer.
    pub fn builder(client: &Client) -> ProducerBuilder {
        ProducerBuilder::new(client)
    }

    pub(crate) fn start(client: &Client, config: Config) -> Self {
        let owner = client.new_owner("producer");
        let shared = Arc::new(Shared::new(owner.link().clone(), config));
        owner.spawn("producer-upkeep", driver::upkeep::run(shared.clone()));
        Self { inner: Arc::new(Inner { shared, owner }) }
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
        let shared = &*self.inner.shared;
        if shared.owed.load(Ordering::Relaxed) >= GIVE_WAY_AFTER {
            // Paid before the record is taken, or a future dropped here would lose its Delivery.
            shared.owed.store(0, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
        match record.with_view(|view| shared.append(view, &mut None)) {
            Ok(delivery) => Ok(delivery),
            Err(why) => Box::pin(self.send_slowly(record, why)).await,
        }
    }

    #[cold]
    async fn send_slowly(&self, record: &impl AsRecord, mut why: NotTaken) -> Result<Delivery, Error> {
        let shared = &self.inner.shared;
        let deadline = shared.link.now() + shared.config.max_block;
        let mut prepaid = Prepaid { shared, charge: None };
        loop {
            match why {
                NotTaken::Error(error) => return Err(error),
                NotTaken::UnknownTopic => {
                    let topic = record.with_view(|view| view.topic.to_owned());
                    self.learn_topic(&topic, deadline).await?;
                }
                NotTaken::NoRoom(bytes) => prepaid.charge = Some(self.wait_for_room(bytes, deadline).await?),
            }
            match record.with_view(|view| shared.append(view, &mut prepaid.charge)) {
                Ok(delivery) => return Ok(delivery),
                Err(again) => why = again,
            }
        }
    }

    /// Takes a record if that needs no waiting.
    ///
    /// # Errors
    /// As [`send`](Self::send), and [`ErrorKind::Limit`] at once when there is no room. A topic that the producer has not seen before
    /// is [`ErrorKind::UnknownTopicOrPartition`]; it is looked up meanwhile (see also [`prepare_topic`](Self::prepare_topic)).
    pub fn try_send(&self, record: &impl AsRecord) -> Result<Delivery, Error> {
        let shared = &self.inner.shared;
        record.with_view(|view| {
            shared.append(view, &mut None).map_err(|why| match why {
                NotTaken::Error(error) => error,
                NotTaken::NoRoom(bytes) => no_room(shared, bytes, "at the moment"),
                NotTaken::UnknownTopic => {
                    self.learn_topic_in_background(view.topic);
                    Error::new(
                        ErrorKind::UnknownTopicOrPartition,
                        format!("the topic {:?} is being looked up: try again in a moment.", view.topic),
                    )
                }
            })
        })
    }

    /// As [`try_send`](Self::try_send), and gives the record back when it is not taken.
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send), with the record.
    #[expect(clippy::result_large_err, reason = "the record goes back to where it came from")]
    pub fn try_send_owned(&self, record: OwnedRecord) -> Result<Delivery, (Error, OwnedRecord)> {
        self.try_send(&record).map_err(|error| (error, record))
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
        let deadline = self.inner.shared.link.now() + self.inner.shared.config.max_block;
        self.learn_topic(topic, deadline).await
    }

    /// Takes records of one partition for as long as there is room, under one lock, without waiting: for a thread that is on no
    /// runtime and must not park. What is not taken stays in `records`; [`Appended::is_full`] says that room was the reason.
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
        records: &mut Peekable<impl Iterator<Item = R>>,
    ) -> Result<Appended, Error> {
        let mut run = self.inner.shared.append_run(topic, partition, records, &mut None);
        match run.stopped.take() {
            Some(NotTaken::Error(error)) if run.taken == 0 => Err(error),
            Some(NotTaken::UnknownTopic) => {
                self.learn_topic_in_background(topic);
                Err(Error::new(
                    ErrorKind::UnknownTopicOrPartition,
                    format!("the topic {topic:?} is being looked up: try again in a moment, or prepare it first."),
                ))
            }
            stopped => {
                run.stopped = stopped;
                Ok(Appended { run })
            }
        }
    }

    /// As [`append`](Self::append), but takes all records: parks the calling thread while there is no room, at most
    /// [`max_block`](ProducerBuilder::max_block) at a time. Not for a thread of an async runtime.
    ///
    /// # Errors
    /// As [`send`](Self::send); the first record that was not taken is then the next one in `records`.
    pub fn append_blocking<R: AsRecord>(
        &self,
        topic: &str,
        partition: i32,
        records: &mut Peekable<impl Iterator<Item = R>>,
    ) -> Result<Appended, Error> {
        let shared = &self.inner.shared;
        let mut all = Run::default();
        let mut prepaid = Prepaid { shared, charge: None };
        loop {
            let run = shared.append_run(topic, partition, records, &mut prepaid.charge);
            all.taken += run.taken;
            all.batches.extend(run.batches);
            let deadline = shared.link.now() + shared.config.max_block;
            match run.stopped {
                None => return Ok(Appended { run: all }),
                Some(NotTaken::Error(error)) => return Err(error),
                Some(NotTaken::UnknownTopic) => {
                    park_on(self.learn_topic(topic, deadline))?;
                }
                Some(NotTaken::NoRoom(bytes)) => {
                    prepaid.charge = Some(park_on(self.wait_for_room(bytes, deadline))?);
                }
            }
        }
    }

    /// Free bytes of [`buffer_memory`](ProducerBuilder::buffer_memory).
    pub fn room(&self) -> usize {
        self.inner.shared.pool.room()
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
        let pending = self.inner.shared.hurry();
        settled(&pending).await;
        pending.iter().find_map(|done| done.failure()).map_or(Ok(()), Err)
    }

    /// Takes no more records, delivers what there is, by `deadline` from now at the latest, and ends the producer's tasks and
    /// connections.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] when records were left at the deadline: how many certainly were not written, and of how many nobody can
    /// say. Their [`Delivery`]s say the same one by one.
    ///
    /// # Cancel safety
    /// Dropped, the producer takes no more records, goes on delivering what it has, and ends when it is dropped.
    pub async fn close(&self, deadline: Duration) -> Result<(), Error> {
        let shared = &self.inner.shared;
        let deadline = shared.link.now() + deadline;
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

    async fn learn_topic(&self, topic: &str, deadline: Instant) -> Result<i32, Error> {
        let shared = &self.inner.shared;
        if shared.is_closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        if topic.is_empty() || topic.len() > 249 {
            return Err(Error::new(
                ErrorKind::UnknownTopicOrPartition,
                format!(
                    "{topic:?} is no topic's name: it has 1 to 249 letters, digits, dots, underscores and hyphens."
                ),
            ));
        }
        let known = shared.link.topic(topic, deadline).await?;
        shared.add_topic(&known);
        Ok(known.partitions.len() as i32)
    }

    fn learn_topic_in_background(&self, topic: &str) {
        let (shared, topic) = (self.inner.shared.clone(), topic.to_owned());
        if let Some(known) = shared.link.metadata().topic(&topic).filter(|known| !known.partitions.is_empty()) {
            return shared.add_topic(known);
        }
        let link = shared.link.clone();
        link.spawn("producer-topic", async move {
            let deadline = shared.link.now() + shared.config.max_block;
            if let Ok(known) = shared.link.topic(&topic, deadline).await {
                shared.add_topic(&known);
            }
        });
    }

    async fn wait_for_room(&self, bytes: usize, deadline: Instant) -> Result<Charge, Error> {
        let shared = &self.inner.shared;
        let _waiting = Waiting::start(shared);
        let mut timer = shared.link.sleep_until(deadline);
        tokio::select! {
            biased;
            charge = shared.pool.charge(bytes) => charge,
            () = &mut timer => {
                let waited = format!("after max_block ({:?})", shared.config.max_block);
                Err(no_room(shared, bytes, &waited))
            }
        }
    }
}

impl Appended {
    /// How many records were taken.
    pub fn count(&self) -> usize {
        self.run.taken
    }

    /// Whether it stopped because there is no room at the moment.
    pub fn is_full(&self) -> bool {
        matches!(self.run.stopped, Some(NotTaken::NoRoom(_)))
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
        Some(self.run.batches.iter().find_map(|done| done.failure()).map_or(Ok(()), Err))
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

async fn settled(pending: &[Arc<Done>]) {
    for done in pending {
        done.clone().wait().await;
    }
}

fn no_room(shared: &Shared, bytes: usize, when: &str) -> Error {
    Error::new(
        ErrorKind::Limit,
        format!(
            "there is no room for {bytes} bytes {when}: buffer_memory ({}) holds records that are not acknowledged yet. Send less, \
             raise it, or look at the brokers.",
            shared.config.buffer_memory
        ),
    )
}

/// Room that was waited for and goes back if it is not needed after all.
struct Prepaid<'a> {
    shared: &'a Shared,
    charge: Option<Charge>,
}

impl Drop for Prepaid<'_> {
    fn drop(&mut self) {
        if let Some(charge) = self.charge.take() {
            self.shared.pool.pay_back(charge);
        }
    }
}

/// Counts one who waits for room.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn start(shared: &'a Shared) -> Self {
        shared.metrics.waiting_threads.add(1);
        if shared.waiters.fetch_add(1, Ordering::AcqRel) == 0 {
            shared.upkeep.notify_one();
        }
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.metrics.waiting_threads.add(-1);
        self.0.waiters.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Waits for a future on a thread that is on no runtime. The future's timers are the client's.
fn park_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => return result,
            Poll::Pending => thread::park(),
        }
    }
}
