//! Where records wait: the open batch of each partition, its closed ones, and the window of those that are under way.
//!
//! One short lock per partition protects all of it. Under the lock a record is encoded, and that is all; checksums, compression,
//! wake-ups and anything that may wait happen outside.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use milena_client::{Error, ErrorKind, Outcome, TopicPartition};
use milena_protocol::records::{BATCH_HEADER_BYTES, BatchBuilder, FrozenBatch, Header};
use tokio::time::Instant;

use crate::broker::Broker;
use crate::delivery::{Delivery, Done, Ending};
use crate::load::Load;
use crate::metrics::PartitionQueue;
use crate::pool::{Charge, Pool};
use crate::sequence::{Next, Slot, Window};
use crate::settings::Common;

/// A partition as the producer sees it. Aligned so that two partitions' locks never share a cache line (or the pair that is fetched
/// together).
#[repr(align(128))]
pub(crate) struct Part {
    state: Mutex<PartState>,
    pub(crate) id: i32,
    pub(crate) topic: Arc<str>,
    pub(crate) common: Arc<Common>,
    /// What partitioners ask, without the lock.
    pub(crate) load: Arc<Load>,
}

/// What the lock of a [`Part`] protects.
pub(crate) struct PartState {
    open: Option<Filling>,
    /// Full or overdue batches that have no place in the sequence yet.
    closed: VecDeque<Filling>,
    closed_bytes: usize,
    load: Arc<Load>,
    pub(crate) window: Window<Batch>,
    /// The completions of batches that were taken out and complete once the lock is released: whoever flushes waits for them, too. Those
    /// that have are forgotten when the next ones come.
    settling: Vec<Arc<Done>>,
    /// Who sends for this partition now. Kept while there is no leader.
    pub(crate) broker: Option<Arc<Broker>>,
    /// Whether the partition is in a broker's queue already.
    pub(crate) queued: bool,
    /// The last gathering that has taken a batch of it: a request has at most one.
    pub(crate) gathered: u64,
    /// The open batch's linger is over, or somebody flushes: it is taken as soon as there is a place for it, and grows until then.
    overdue: Option<Closed>,
    /// Bytes since the sticky partition came here.
    sticky_bytes: usize,
    next_number: u64,
    /// The producer takes no more records.
    shut: bool,
    /// The number of the transaction whose records are taken; 0 between transactions, and without them.
    transaction: u64,
    /// The last transaction that the partition has become part of.
    pub(crate) joined: u64,
}

/// Whose records they are: asked under the partition's lock, so that none slips into a transaction that is not its own.
pub(crate) trait Claim: Copy {
    /// Whether the partition takes them now.
    fn holds(self, state: &PartState) -> bool;
}

/// Records of a producer without transactions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Anyone;

/// Records of the transaction with this number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InTransaction(pub(crate) u64);

impl Claim for Anyone {
    #[inline]
    fn holds(self, _: &PartState) -> bool {
        true
    }
}

impl Claim for InTransaction {
    #[inline]
    fn holds(self, state: &PartState) -> bool {
        state.transaction == self.0
    }
}

/// A batch that takes records, or has just stopped to.
pub(crate) struct Filling {
    pub(crate) builder: BatchBuilder,
    pub(crate) done: Arc<Done>,
    pub(crate) charge: Charge,
    pub(crate) opened: Instant,
    pub(crate) closed: Closed,
    number: u64,
}

/// Why a batch takes no more records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// Nothing more fits.
    Full,
    /// Its linger is over.
    Lingered,
    /// Somebody flushes, waits for room, or closes the producer.
    Flushed,
}

/// A batch that has its place in the sequence.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) done: Arc<Done>,
    pub(crate) charge: Charge,
    pub(crate) opened: Instant,
    pub(crate) bytes: usize,
    /// Before compression.
    pub(crate) raw_bytes: usize,
    /// Not there while somebody prepares it.
    pub(crate) frozen: Option<FrozenBatch>,
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Done").field("is_done", &self.is_done()).finish()
    }
}

/// The sizes that decide when a batch closes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    pub(crate) max_batch: usize,
    pub(crate) max_request: usize,
    pub(crate) memory: usize,
    pub(crate) linger: Duration,
}

/// What a batch is opened with.
#[derive(Clone, Copy)]
pub(crate) struct Means<'a> {
    pub(crate) sizes: &'a Sizes,
    pub(crate) pool: &'a Pool,
    pub(crate) now: Instant,
}

/// What must happen once the lock is released, because a batch was opened or closed.
#[derive(Default)]
pub(crate) struct Notice {
    /// The broker has something to send now.
    pub(crate) ready: Option<Arc<Broker>>,
    /// The broker will have something to send then.
    pub(crate) lingering: Option<(Arc<Broker>, Instant, u64)>,
    /// Bytes of batches that were closed.
    pub(crate) closed_bytes: usize,
    /// A batch was opened.
    pub(crate) opened: bool,
}

/// Why a record was not appended.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// There is no room for a buffer of this many bytes now.
    NoRoom(usize),
    /// It never will be.
    Error(Error),
}

/// A record's parts, with its timestamp decided.
#[derive(Clone, Copy)]
pub(crate) struct Content<'a> {
    pub(crate) timestamp: i64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: &'a [Header<'a>],
}

impl Part {
    /// A partition; `transaction` is the one that is open, 0 if there is none.
    pub(crate) fn of(
        common: &Arc<Common>,
        topic: Arc<str>,
        id: i32,
        window: Window<Batch>,
        transaction: u64,
    ) -> Arc<Self> {
        let load = Arc::new(Load::default());
        let state = PartState {
            open: None,
            closed: VecDeque::new(),
            closed_bytes: 0,
            load: load.clone(),
            window,
            settling: Vec::new(),
            broker: None,
            queued: false,
            gathered: 0,
            overdue: None,
            sticky_bytes: 0,
            next_number: 0,
            shut: false,
            transaction,
            joined: 0,
        };
        let common = common.clone();
        Arc::new(Self { state: Mutex::new(state), id, topic, common, load })
    }

    /// A partition with the default settings.
    #[cfg(test)]
    pub(crate) fn new(topic: Arc<str>, id: i32, idempotent: bool, depth: usize) -> Arc<Self> {
        let settings = crate::settings::AllSettings::new(&crate::config::Config::default());
        let common = Common { settings: settings.of(&topic).clone(), metrics: Default::default() };
        Self::of(&Arc::new(common), topic, id, Window::new(idempotent, depth), 0)
    }

    pub(crate) fn sizes(&self) -> &Sizes {
        &self.common.settings.sizes
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, PartState> {
        // A panic under the lock would be a bug of this crate; its other partitions and its `close` still work.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(self.topic.clone(), self.id)
    }
}

impl PartState {
    /// Appends to the open batch, if there is one and it has room: the way almost every record goes. Always part of its caller: called
    /// from several places, it otherwise is a call for each record.
    #[inline(always)]
    pub(crate) fn append(&mut self, record: &Content<'_>) -> Option<Delivery> {
        let open = self.open.as_mut()?;
        let index = open.builder.append(record.timestamp, record.key, record.value, record.headers).ok()?;
        Some(Delivery::new(open.done.clone(), index))
    }

    /// As [`append`](Self::append), for who needs no delivery of the record's own: nothing is counted up.
    #[inline]
    pub(crate) fn append_to_open(&mut self, record: &Content<'_>) -> Option<&Arc<Done>> {
        let open = self.open.as_mut()?;
        open.builder.append(record.timestamp, record.key, record.value, record.headers).ok()?;
        Some(&open.done)
    }

    /// Appends where [`append`](Self::append) could not: grows the open batch, or closes it and opens another.
    #[cold]
    pub(crate) fn append_slowly(
        &mut self,
        part: &Part,
        record: &Content<'_>,
        means: &Means<'_>,
        prepaid: &mut Option<Charge>,
        notice: &mut Notice,
    ) -> Result<Delivery, Refusal> {
        let Means { sizes, pool, now } = *means;
        if self.shut {
            return Err(Refusal::Error(closed()));
        }
        if self.grow(record, sizes, pool)
            && let Some(delivery) = self.append(record)
        {
            self.publish_load();
            return Ok(delivery);
        }
        self.close_open(notice);
        // The size is that of a first record, whose deltas are zero.
        let empty = BatchBuilder::new(Vec::new(), 0);
        let needed = BATCH_HEADER_BYTES + empty.record_size(record.timestamp, record.key, record.value, record.headers);
        if needed > sizes.max_request || needed > sizes.memory {
            let (limit, name) = if needed > sizes.max_request {
                (sizes.max_request, "max_request_size")
            } else {
                (sizes.memory, "buffer_memory")
            };
            let error = Error::new(
                ErrorKind::Limit,
                format!("the record takes {needed} bytes and {name} is {limit}: raise it, or send smaller records."),
            );
            return Err(Refusal::Error(error.with_topic_partition(part.topic_partition())));
        }
        let mut length = if needed > sizes.batch {
            needed
        } else if self.is_blocked() && prepaid.is_none() && pool.has(sizes.max_batch) {
            // It would grow anyway: five are in flight.
            sizes.max_batch
        } else {
            sizes.batch
        };
        let charge = match prepaid.take() {
            Some(mut charge) if charge.covers(length) => {
                // A permit may have been for more than the record needs.
                pool.pay_back(charge.excess(length));
                charge
            }
            other => {
                if let Some(charge) = other {
                    pool.pay_back(charge);
                }
                let least = needed.max(sizes.batch);
                match pool.try_charge(length) {
                    Some(charge) => charge,
                    None => {
                        // A large buffer was only the better choice.
                        length = least;
                        pool.try_charge(least).ok_or(Refusal::NoRoom(least))?
                    }
                }
            }
        };
        let number = self.next_number;
        self.next_number += 1;
        self.open = Some(Filling {
            builder: BatchBuilder::new(pool.buffer(length), 0),
            done: Done::new(part.id),
            charge,
            opened: now,
            closed: Closed::Full,
            number,
        });
        self.overdue = sizes.linger.is_zero().then_some(Closed::Lingered);
        notice.opened = true;
        if self.overdue.is_some() {
            self.notify(notice);
        } else if let Some(broker) = &self.broker {
            notice.lingering = Some((broker.clone(), now + sizes.linger, number));
        }
        let delivery = self.append(record).ok_or(Refusal::NoRoom(length));
        self.publish_load();
        delivery
    }

    /// Lets the open batch grow rather than queue another small one behind a window that is full.
    fn grow(&mut self, record: &Content<'_>, sizes: &Sizes, pool: &Pool) -> bool {
        let blocked = self.is_blocked();
        let Some(open) = &mut self.open else { return false };
        let length = open.builder.len() + open.builder.room();
        let needed = open.builder.record_size(record.timestamp, record.key, record.value, record.headers);
        if !blocked || length >= sizes.max_batch || open.builder.len() + needed > sizes.max_batch {
            return false;
        }
        match pool.try_charge(sizes.max_batch - length) {
            Some(more) => {
                open.charge.add(more);
                pool.recycle(open.builder.move_to(pool.buffer(sizes.max_batch)));
                true
            }
            None => false,
        }
    }

    /// Whether a batch that is closed now would only wait.
    fn is_blocked(&self) -> bool {
        self.window.is_full() || !self.closed.is_empty()
    }

    fn close_open(&mut self, notice: &mut Notice) {
        if let Some(open) = self.open.take() {
            notice.closed_bytes += open.builder.len();
            self.closed_bytes += open.builder.len();
            self.closed.push_back(open);
            self.overdue = None;
            self.notify(notice);
            self.publish_load();
        }
    }

    /// Closes the open batch because nothing more fits.
    pub(crate) fn close_full(&mut self, notice: &mut Notice) {
        self.close_open(notice);
    }

    /// Puts the partition into its broker's queue, unless it is there.
    pub(crate) fn notify(&mut self, notice: &mut Notice) {
        if !self.queued
            && let Some(broker) = &self.broker
        {
            self.queued = true;
            notice.ready = Some(broker.clone());
        }
    }

    /// The linger of batch `number` is over; `None` for whatever is open, as on a flush. Returns whether there is something to send.
    pub(crate) fn on_linger_over(&mut self, number: Option<u64>) -> bool {
        let over = self.open.as_ref().is_some_and(|open| number.is_none_or(|number| open.number == number));
        if over {
            let why = if number.is_some() { Closed::Lingered } else { Closed::Flushed };
            self.overdue.get_or_insert(why);
        }
        over || (number.is_none() && !self.closed.is_empty())
    }

    /// Whether something can be sent (or done about sending) now, or when.
    pub(crate) fn next(&self, sizes: &Sizes, now: Instant) -> Next {
        match self.window.next(now) {
            Next::Admit if !self.has_new(sizes) => Next::Blocked,
            next => next,
        }
    }

    fn has_new(&self, sizes: &Sizes) -> bool {
        !self.closed.is_empty()
            || self.open.as_ref().is_some_and(|open| self.overdue.is_some() || open.builder.len() >= sizes.batch)
    }

    /// Bytes of the batch that [`take_new`](Self::take_new) would give.
    pub(crate) fn new_bytes(&self) -> usize {
        self.closed.front().or(self.open.as_ref()).map_or(0, |filling| filling.builder.len())
    }

    /// Takes the oldest batch that is full or overdue.
    pub(crate) fn take_new(&mut self, sizes: &Sizes) -> Option<Filling> {
        if !self.has_new(sizes) {
            return None;
        }
        let oldest = match self.closed.pop_front() {
            Some(closed) => {
                self.closed_bytes -= closed.builder.len();
                Some(closed)
            }
            None => {
                let overdue = self.overdue.take();
                let mut open = self.open.take();
                if let Some(open) = &mut open
                    && open.builder.len() < sizes.batch
                {
                    open.closed = overdue.unwrap_or(Closed::Full);
                }
                open
            }
        };
        self.publish_load();
        oldest
    }

    /// Takes out all batches that were opened before `before`, newest last.
    pub(crate) fn expire_new(&mut self, before: Instant) -> Vec<Filling> {
        let mut expired = Vec::new();
        let old = self.closed.iter().take_while(|filling| filling.opened <= before).count();
        for filling in self.closed.drain(..old) {
            self.closed_bytes -= filling.builder.len();
            expired.push(filling);
        }
        if self.open.as_ref().is_some_and(|open| open.opened <= before) {
            expired.extend(self.open.take());
        }
        if !expired.is_empty() {
            self.settle(expired.iter().map(|filling| &filling.done));
            self.publish_load();
        }
        expired
    }

    /// Takes records of a transaction from now on.
    pub(crate) fn begin(&mut self, transaction: u64) {
        self.transaction = transaction;
        self.window.resume();
    }

    /// Takes no more records of the transaction.
    pub(crate) fn end_transaction(&mut self) {
        self.transaction = 0;
    }

    /// Takes no more records: without an open batch every append comes to where this is checked.
    pub(crate) fn shut(&mut self, notice: &mut Notice) {
        self.shut = true;
        if let Some(open) = &mut self.open {
            open.closed = Closed::Flushed;
        }
        self.close_open(notice);
    }

    /// Takes out all batches that have no place in the sequence, newest last.
    pub(crate) fn abandon_new(&mut self) -> Vec<Filling> {
        self.closed_bytes = 0;
        let mut all: Vec<_> = self.closed.drain(..).collect();
        all.extend(self.open.take());
        self.settle(all.iter().map(|filling| &filling.done));
        self.publish_load();
        all
    }

    /// When the oldest batch was opened that has not been sent.
    pub(crate) fn oldest_new(&self) -> Option<Instant> {
        self.closed.front().or(self.open.as_ref()).map(|filling| filling.opened)
    }

    /// Whether any record is not settled.
    pub(crate) fn is_idle(&self) -> bool {
        self.open.is_none() && self.closed.is_empty() && self.window.is_empty()
    }

    /// The completions of all records that are not settled.
    pub(crate) fn pending(&self) -> impl Iterator<Item = &Arc<Done>> {
        let new = self.closed.iter().chain(&self.open).map(|filling| &filling.done);
        let settling = self.settling.iter().filter(|done| !done.is_done());
        self.window.batches().map(|batch| &batch.done).chain(new).chain(settling)
    }

    /// Batches have been taken out whose results are told once the lock is released.
    pub(crate) fn settle<'a>(&mut self, taken: impl IntoIterator<Item = &'a Arc<Done>>) {
        self.settling.retain(|done| !done.is_done());
        self.settling.extend(taken.into_iter().cloned());
    }

    /// As [`settle`](Self::settle), for batches that have left the window.
    pub(crate) fn settle_sent<'a>(&mut self, taken: impl IntoIterator<Item = &'a (Slot<Batch>, Outcome)>) {
        self.settle(taken.into_iter().map(|(slot, _)| &slot.batch.done));
    }

    /// What it holds now.
    pub(crate) fn queue(&self, part: &Part, now: Instant) -> PartitionQueue {
        let oldest = self.window.batches().map(|batch| batch.opened).chain(self.oldest_new()).min();
        PartitionQueue {
            topic_partition: part.topic_partition(),
            leader: self.broker.as_ref().map(|broker| broker.id),
            queued_bytes: self.queued_bytes(),
            queued_batches: self.closed.len() + usize::from(self.open.is_some()),
            unacknowledged_batches: self.window.batches().count(),
            oldest: oldest.map(|opened| now.saturating_duration_since(opened)),
        }
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.closed_bytes + self.open.as_ref().map_or(0, |open| open.builder.len())
    }

    /// Tells partitioners what waits here.
    fn publish_load(&self) {
        let batches = self.closed.len() + usize::from(self.open.is_some());
        self.load.set_queue(batches, self.queued_bytes());
    }

    /// Counts bytes of a record without a key; true when the sticky partition should go on.
    #[inline]
    pub(crate) fn on_sticky(&mut self, bytes: usize, batch_size: usize, batch_closed: bool) -> bool {
        self.sticky_bytes += bytes;
        let over = crate::partitioner::sticky_is_over(self.sticky_bytes, batch_size, batch_closed);
        if over {
            self.sticky_bytes = 0;
            self.publish_load();
        }
        over
    }

    /// Encoded bytes in the open batch.
    #[inline]
    pub(crate) fn open_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.builder.len())
    }
}

impl Filling {
    /// Ends the batch without sending it.
    pub(crate) fn fail(self, pool: &Pool, error: &Error) -> u32 {
        let count = self.builder.count();
        self.done.complete(Ending::Failed(error.clone().with_outcome(Outcome::NotWritten)));
        pool.recycle(self.builder.into_buf());
        pool.pay_back(self.charge);
        count
    }
}

impl Batch {
    /// Ends the batch and gives its buffer back.
    pub(crate) fn end(self, pool: &Pool, ending: Ending) {
        if let Some(frozen) = self.frozen {
            // Before the completion, so that whoever is woken by it finds room.
            pool.recycle(frozen.thaw().into_buf());
        }
        pool.pay_back(self.charge);
        self.done.complete(ending);
    }
}

/// The producer has been closed.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the producer has been closed: build a new one to send more.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::Identity;

    const SIZES: Sizes =
        Sizes { batch: 1024, max_batch: 4096, max_request: 8192, memory: 16 << 10, linger: Duration::from_millis(5) };

    struct Fixture {
        part: Arc<Part>,
        pool: Pool,
        broker: Arc<Broker>,
        now: Instant,
        sizes: Sizes,
    }

    #[expect(clippy::disallowed_methods, reason = "a test's first reading; from there on time is moved by hand")]
    fn fixture() -> Fixture {
        let part = Part::new("t".into(), 0, true, 5);
        let broker = Arc::new(Broker::new(1));
        part.lock().broker = Some(broker.clone());
        Fixture { part, pool: Pool::new(16 << 10, [1024, 4096]), broker, now: Instant::now(), sizes: SIZES }
    }

    impl Fixture {
        fn append(&self, bytes: usize) -> (Result<Delivery, Refusal>, Notice) {
            let value = vec![7; bytes];
            let record = Content { timestamp: 1, key: None, value: Some(&value), headers: &[] };
            let means = Means { sizes: &self.sizes, pool: &self.pool, now: self.now };
            let mut state = self.part.lock();
            let mut notice = Notice::default();
            let result = match state.append(&record) {
                Some(delivery) => Ok(delivery),
                None => state.append_slowly(&self.part, &record, &means, &mut None, &mut notice),
            };
            (result, notice)
        }

        /// Fills the window with five batches that are at the broker.
        fn fill_window(&self) {
            let mut state = self.part.lock();
            for _ in 0..5 {
                let batch = Batch {
                    done: Done::new(0),
                    charge: self.pool.try_charge(1024).unwrap(),
                    opened: self.now,
                    bytes: 100,
                    raw_bytes: 100,
                    frozen: None,
                };
                let identity = Some(Identity { producer_id: 1, epoch: 0 });
                state.window.admit(1, self.now + Duration::from_secs(1), identity, self.now, batch);
            }
        }
    }

    #[test]
    fn the_first_record_of_a_batch_starts_its_linger_and_a_full_batch_is_ready() {
        let fixture = fixture();
        let (result, notice) = fixture.append(300);
        assert!(result.is_ok() && notice.ready.is_none());
        let (broker, at, number) = notice.lingering.unwrap();
        assert!(Arc::ptr_eq(&broker, &fixture.broker) && at == fixture.now + SIZES.linger && number == 0);
        for _ in 0..2 {
            let (result, notice) = fixture.append(300);
            assert!(result.is_ok() && notice.lingering.is_none() && notice.ready.is_none());
        }
        let (result, notice) = fixture.append(300);
        assert!(result.is_ok() && notice.ready.is_some() && notice.closed_bytes > 900);
        assert!(matches!(fixture.part.lock().next(&SIZES, fixture.now), Next::Admit));
        assert!(fixture.part.lock().queued);
    }

    #[test]
    fn a_batch_whose_linger_is_over_is_taken_and_a_stale_timer_takes_nothing() {
        let fixture = fixture();
        drop(fixture.append(10).0.unwrap());
        let mut state = fixture.part.lock();
        assert!(state.take_new(&SIZES).is_none());
        assert!(!state.on_linger_over(Some(7)), "the timer of another batch");
        assert!(state.on_linger_over(Some(0)));
        assert_eq!(state.take_new(&SIZES).map(|filling| filling.builder.count()), Some(1));
        assert!(!state.on_linger_over(Some(0)));
    }

    #[test]
    fn the_open_batch_grows_while_five_are_in_flight_and_no_further_than_it_may() {
        let fixture = fixture();
        fixture.fill_window();
        for _ in 0..13 {
            assert!(fixture.append(290).0.is_ok());
        }
        let state = fixture.part.lock();
        assert!(state.closed.is_empty() && state.open_bytes() > 3500);
        drop(state);
        assert!(fixture.append(290).0.is_ok());
        assert_eq!(fixture.part.lock().closed.len(), 1);
    }

    #[test]
    fn a_full_budget_refuses_and_the_record_is_not_half_there() {
        let fixture = fixture();
        let mut accepted = 0;
        let refused = loop {
            match fixture.append(900).0 {
                Ok(delivery) => {
                    accepted += 1;
                    drop(delivery);
                }
                Err(refusal) => break refusal,
            }
        };
        assert!(matches!(refused, Refusal::NoRoom(1024)));
        let mut state = fixture.part.lock();
        state.on_linger_over(None);
        let taken: u32 = std::iter::from_fn(|| state.take_new(&SIZES)).map(|filling| filling.builder.count()).sum();
        assert_eq!(taken, accepted);
        assert!(fixture.pool.room() < 1024);
    }

    #[test]
    fn a_record_that_is_too_large_fails_and_a_large_one_gets_a_buffer_of_its_own() {
        let fixture = fixture();
        let Err(Refusal::Error(error)) = fixture.append(9000).0 else { panic!("accepted") };
        assert!(error.kind() == ErrorKind::Limit && error.to_string().contains("max_request_size"), "{error}");
        assert!(fixture.append(5000).0.is_ok());
        assert!(fixture.append(10).1.ready.is_some(), "nothing fits behind it");
    }

    #[test]
    fn an_old_batch_expires_before_it_is_sent() {
        let fixture = fixture();
        let delivery = fixture.append(10).0.unwrap();
        let expired = fixture.part.lock().expire_new(fixture.now);
        assert_eq!(expired.len(), 1);
        let error = Error::new(ErrorKind::Timeout, "too late");
        for filling in expired {
            assert_eq!(filling.fail(&fixture.pool, &error), 1);
        }
        assert_eq!(delivery.try_result().unwrap().unwrap_err().outcome(), Outcome::NotWritten);
        assert_eq!(fixture.pool.room(), 16 << 10);
    }
}
