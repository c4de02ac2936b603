//! What all that send have in common, a producer, a transaction and its senders: waiting for a topic's metadata and for room.

use std::iter::Peekable;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use milena_client::{Counter, Error, ErrorKind};
use tokio::time::Instant;

use crate::accumulator::{Claim, closed};
use crate::append::{NotTaken, Run};
use crate::backlog::Backlog;
use crate::delivery::Delivery;
use crate::interceptor::Interceptors;
use crate::lookups::LookUp;
use crate::metrics::Metrics;
use crate::pool::Charge;
use crate::producer::{Appended, first_failure, settled};
use crate::record::{AsRecord, RecordView};
use crate::shared::Shared;

/// Sends for whoever has the claim.
#[derive(Clone, Copy)]
pub(crate) struct Sending<'a, C> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) claim: C,
}

/// A sender that never waits gives way to the network once per this many bytes of closed batches: on a runtime that it shares with
/// the producer's tasks they would otherwise only run when the memory is full (measured: free at 1 MB, +30 % at 96 KB).
const GIVE_WAY_AFTER: usize = 1 << 20;

/// So many records come out of the user's iterator before the first of them is taken: enough that a lock is soon forgotten.
const CHUNK: usize = 16;

impl Shared {
    /// Whether a sender must give way before it sends on.
    #[inline]
    pub(crate) fn owes(&self) -> bool {
        self.owed.load(Ordering::Relaxed) >= GIVE_WAY_AFTER
    }

    /// Gives way. Before a record is taken, or a future dropped here would lose its Delivery.
    pub(crate) async fn give_way(&self) {
        self.owed.store(0, Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
}

impl<C: Claim> Sending<'_, C> {
    #[inline]
    pub(crate) async fn send(self, record: &impl AsRecord) -> Result<Delivery, Error> {
        if self.shared.owes() {
            self.shared.give_way().await;
        }
        if !self.shared.config.interceptors.is_empty() {
            return Box::pin(self.send_intercepted(record)).await;
        }
        match record.with_view(|view| self.shared.append(view, &mut None, self.claim)) {
            Ok(delivery) => Ok(delivery),
            Err(why) => Box::pin(self.send_slowly(record, why)).await,
        }
    }

    /// Sends a record as the interceptors make it.
    #[cold]
    pub(crate) async fn send_intercepted(self, record: &impl AsRecord) -> Result<Delivery, Error> {
        let interceptors = &self.shared.config.interceptors;
        let record = interceptors.on_send(record, None);
        let shown = Shown { interceptors, record: &record, is_settled: false };
        let sent = match record.with_view(|view| self.shared.append_again(view, &mut None, self.claim)) {
            Ok(delivery) => Ok(delivery),
            Err(why) => self.send_slowly(&record, why).await,
        };
        shown.settle(&sent);
        sent
    }

    /// Sends records one after the other; what is taken goes to `deliveries`.
    pub(crate) async fn send_all<R: AsRecord>(
        self,
        records: impl IntoIterator<Item = R>,
        deliveries: &mut Vec<Delivery>,
    ) -> Result<(), Error> {
        let mut records = records.into_iter().fuse();
        if !self.shared.config.interceptors.is_empty() {
            for record in records {
                deliveries.push(self.send(&record).await?);
            }
            return Ok(());
        }
        loop {
            // The user's iterator runs here, where nothing is locked.
            let chunk: [Option<R>; CHUNK] = std::array::from_fn(|_| records.next());
            let mut chunk = chunk.into_iter().flatten().peekable();
            if chunk.peek().is_none() {
                return Ok(());
            }
            self.send_chunk(&mut chunk, deliveries).await?;
        }
    }

    async fn send_chunk<R: AsRecord>(
        self,
        records: &mut Peekable<impl Iterator<Item = R>>,
        deliveries: &mut Vec<Delivery>,
    ) -> Result<(), Error> {
        loop {
            if self.shared.owes() {
                self.shared.give_way().await;
            }
            let why = self.shared.append_all(records, self.claim, deliveries);
            let Some(record) = records.peek() else { return Ok(()) };
            if let Some(why) = why {
                let delivery = Box::pin(self.send_slowly(record, why)).await?;
                // Nothing is awaited between this and the next record: a future that is dropped loses no delivery.
                deliveries.push(delivery);
                records.next();
            }
        }
    }

    /// Sends a record that was not taken at once.
    #[cold]
    pub(crate) async fn send_slowly(self, record: &impl AsRecord, mut why: NotTaken) -> Result<Delivery, Error> {
        let shared = self.shared;
        let deadline = shared.link.now() + shared.config.max_block;
        let mut prepaid = Prepaid { shared: &**shared, charge: None };
        let mut chosen = None;
        loop {
            match why {
                NotTaken::Error(error) => return Err(error),
                NotTaken::UnknownTopic => {
                    let topic = record.with_view(|view| view.topic.to_owned());
                    self.learn_topic(&topic, deadline).await?;
                }
                NotTaken::NoRoom(bytes, partition) => {
                    chosen = partition;
                    prepaid.charge = Some(self.wait_for_room(bytes, deadline).await?);
                }
            }
            let appended = record.with_view(|view| {
                // The topic may have been made anew meanwhile, with fewer partitions: then the choice is made again.
                let is_there = |partition: &i32| {
                    shared.topics.get(view.topic).is_some_and(|topic| topic.part(*partition).is_some())
                };
                let view = RecordView { partition: view.partition.or(chosen.filter(is_there)), ..*view };
                shared.append_again(&view, &mut prepaid.charge, self.claim)
            });
            match appended {
                Ok(delivery) => return Ok(delivery),
                Err(again) => why = again,
            }
        }
    }

    pub(crate) fn try_send(self, record: &impl AsRecord) -> Result<Delivery, Error> {
        self.try_send_with(record, &mut None, "at the moment")
    }

    /// Takes a record if there is room for it, or if `prepaid` is enough.
    pub(crate) fn try_send_with(
        self,
        record: &impl AsRecord,
        prepaid: &mut Option<Charge>,
        when: &str,
    ) -> Result<Delivery, Error> {
        let interceptors = &self.shared.config.interceptors;
        if interceptors.is_empty() {
            return self.try_take(record, prepaid, when);
        }
        let record = interceptors.on_send(record, None);
        self.try_take(&record, prepaid, when).inspect_err(|error| interceptors.on_refused(&record, error))
    }

    fn try_take(self, record: &impl AsRecord, prepaid: &mut Option<Charge>, when: &str) -> Result<Delivery, Error> {
        record.with_view(|view| {
            self.shared.append(view, prepaid, self.claim).map_err(|why| match why {
                NotTaken::Error(error) => error,
                NotTaken::NoRoom(bytes, _) => {
                    self.shared.metrics.on_exhausted(self.shared.link.now());
                    no_room(self.shared, bytes, when)
                }
                NotTaken::UnknownTopic => self.look_up(view.topic),
            })
        })
    }

    pub(crate) async fn prepare_topic(self, topic: &str) -> Result<i32, Error> {
        let deadline = self.shared.link.now() + self.shared.config.max_block;
        self.learn_topic(topic, deadline).await
    }

    pub(crate) fn append<R: AsRecord>(
        self,
        topic: &str,
        partition: i32,
        records: &mut Backlog<impl Iterator<Item = R>>,
    ) -> Result<Appended, Error> {
        let mut run = self.append_run(topic, partition, records, &mut None);
        match run.stopped.take() {
            Some(NotTaken::Error(error)) if run.taken == 0 => Err(error),
            Some(NotTaken::UnknownTopic) => Err(self.look_up(topic)),
            stopped => {
                run.stopped = stopped;
                Ok(Appended { run })
            }
        }
    }

    pub(crate) fn append_blocking<R: AsRecord>(
        self,
        topic: &str,
        partition: i32,
        records: &mut Backlog<impl Iterator<Item = R>>,
    ) -> Result<Appended, Error> {
        let shared = self.shared;
        let mut all = Run::default();
        let mut prepaid = Prepaid { shared: &**shared, charge: None };
        loop {
            let run = self.append_run(topic, partition, records, &mut prepaid.charge);
            let stopped = all.extend(run);
            let deadline = shared.link.now() + shared.config.max_block;
            let failed = match stopped {
                None => return Ok(Appended { run: all }),
                Some(NotTaken::Error(error)) => error,
                Some(NotTaken::UnknownTopic) => match park_on(self.learn_topic(topic, deadline)) {
                    Ok(_) => continue,
                    Err(error) => error,
                },
                Some(NotTaken::NoRoom(bytes, _)) => match park_on(self.wait_for_room(bytes, deadline)) {
                    Ok(charge) => {
                        prepaid.charge = Some(charge);
                        continue;
                    }
                    Err(error) => {
                        // They have seen the record when there was no room for it.
                        shared.config.interceptors.on_refused_at(topic, Some(partition), &error);
                        error
                    }
                },
            };
            if all.taken == 0 {
                return Err(failed);
            }
            all.stopped = Some(NotTaken::Error(failed));
            return Ok(Appended { run: all });
        }
    }

    /// Appends records of one partition for as long as there is room.
    fn append_run<R: AsRecord>(
        self,
        topic: &str,
        partition: i32,
        records: &mut Backlog<impl Iterator<Item = R>>,
        prepaid: &mut Option<Charge>,
    ) -> Run {
        let (shared, interceptors) = (self.shared, &self.shared.config.interceptors);
        if interceptors.is_empty() {
            return shared.append_run(topic, partition, records, prepaid, self.claim);
        }
        let mut run = Run::default();
        if shared.topics.get(topic).is_none() {
            // Before they see a record that is not taken: it will be tried again.
            run.stopped = Some(shared.not_known());
            return run;
        }
        while let Some(record) = records.peek() {
            let record = interceptors.on_send(record, Some((topic, partition)));
            let mut one = Backlog::new(std::iter::once(&record));
            let this = shared.append_run(topic, partition, &mut one, prepaid, self.claim);
            if let Some(NotTaken::Error(error)) = &this.stopped {
                interceptors.on_refused(&record, error);
            }
            if this.taken == 0 {
                run.stopped = this.stopped;
                break;
            }
            drop(record);
            records.next();
            run.extend(this);
        }
        run
    }

    pub(crate) async fn flush(self) -> Result<(), Error> {
        let shared = self.shared;
        let _timed = Timed::start(shared, |metrics| &metrics.flush_time);
        let pending = shared.hurry();
        settled(&pending).await;
        first_failure(&pending)
    }

    async fn learn_topic(self, topic: &str, deadline: Instant) -> Result<i32, Error> {
        let shared = self.shared;
        if shared.is_closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        check_name(topic)?;
        let _timed = Timed::start(shared, |metrics| &metrics.metadata_wait_time);
        let known = shared.link.topic(topic, deadline).await?;
        shared.add_topic(&known);
        Ok(known.partitions.len() as i32)
    }

    /// Looks a topic up in the background, unless somebody does. Returns what to tell who cannot wait: that it is being looked up, or
    /// how the last look-up failed.
    #[cold]
    fn look_up(self, topic: &str) -> Error {
        let shared = self.shared;
        if let Err(error) = check_name(topic) {
            return error;
        }
        if let Some(known) = shared.link.metadata().topic(topic).filter(|known| !known.partitions.is_empty()) {
            shared.add_topic(known);
        } else {
            match shared.look_ups.begin(topic) {
                LookUp::Failed(error) => return error,
                LookUp::UnderWay => {}
                LookUp::Begin => {
                    let (looking, topic) = (shared.clone(), topic.to_owned());
                    shared.link.spawn("producer-topic", async move {
                        let deadline = looking.link.now() + looking.config.max_block;
                        let known = looking.link.topic(&topic, deadline).await;
                        looking.look_ups.end(&topic, known.map(|known| looking.add_topic(&known)));
                    });
                }
            }
        }
        Error::new(
            ErrorKind::UnknownTopicOrPartition,
            format!("the topic {topic:?} is being looked up: try again in a moment, or prepare it first."),
        )
    }

    pub(crate) async fn wait_for_room(self, bytes: usize, deadline: Instant) -> Result<Charge, Error> {
        let shared = self.shared;
        let _waiting = Waiting::start(shared);
        let mut timer = shared.link.sleep_until(deadline);
        tokio::select! {
            biased;
            charge = shared.pool.charge(bytes) => charge,
            () = &mut timer => {
                shared.metrics.on_exhausted(shared.link.now());
                let waited = format!("after max_block ({:?})", shared.config.max_block);
                Err(no_room(shared, bytes, &waited))
            }
        }
    }
}

fn check_name(topic: &str) -> Result<(), Error> {
    if (1..=249).contains(&topic.len()) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::UnknownTopicOrPartition,
        format!("{topic:?} is no topic's name: it has 1 to 249 letters, digits, dots, underscores and hyphens."),
    ))
}

/// A record that interceptors have seen, until it is taken: they are told if it is not, also when who sends it does not wait for that.
struct Shown<'a, R: AsRecord> {
    interceptors: &'a Interceptors,
    record: &'a R,
    is_settled: bool,
}

impl<R: AsRecord> Shown<'_, R> {
    fn settle(mut self, sent: &Result<Delivery, Error>) {
        self.is_settled = true;
        if let Err(error) = sent {
            self.interceptors.on_refused(self.record, error);
        }
    }
}

impl<R: AsRecord> Drop for Shown<'_, R> {
    fn drop(&mut self) {
        if !self.is_settled {
            let error = Error::new(ErrorKind::Purged, "who sent the record stopped waiting before it was taken.");
            self.interceptors.on_refused(self.record, &error);
        }
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
pub(crate) struct Prepaid<S: Deref<Target = Shared>> {
    pub(crate) shared: S,
    pub(crate) charge: Option<Charge>,
}

impl<S: Deref<Target = Shared>> Drop for Prepaid<S> {
    fn drop(&mut self) {
        if let Some(charge) = self.charge.take() {
            self.shared.pool.pay_back(charge);
        }
    }
}

/// Counts one who waits for room, and for how long.
struct Waiting<'a> {
    shared: &'a Shared,
    since: Instant,
}

impl<'a> Waiting<'a> {
    fn start(shared: &'a Shared) -> Self {
        shared.metrics.on_wait_begun();
        if shared.waiters.fetch_add(1, Ordering::AcqRel) == 0 {
            shared.upkeep.notify_one();
        }
        Self { shared, since: shared.link.now() }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let now = self.shared.link.now();
        self.shared.metrics.on_wait_ended(now - self.since, now);
        self.shared.waiters.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Adds the nanoseconds from its start to its end to a counter.
pub(crate) struct Timed<'a> {
    shared: &'a Shared,
    counter: &'a Counter,
    since: Instant,
}

impl<'a> Timed<'a> {
    pub(crate) fn start(shared: &'a Shared, counter: impl FnOnce(&'a Metrics) -> &'a Counter) -> Self {
        Self { shared, counter: counter(&shared.metrics), since: shared.link.now() }
    }
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        self.counter.add((self.shared.link.now() - self.since).as_nanos() as u64);
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
