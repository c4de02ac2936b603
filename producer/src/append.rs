//! From a record to its place in an open batch: topic, partition, lock, encode, unlock. What every `send` runs, so it counts its
//! instructions: one lock, one reference counted up, a coarse clock, and nothing else that is locked or shared.

use std::iter::Peekable;
use std::sync::Arc;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use milena_client::{Error, ErrorKind, TopicPartition};

use crate::accumulator::{Claim, Content, Means, Notice, Part, PartState, Refusal, closed};
use crate::backlog::Backlog;
use crate::delivery::{Delivery, Done};
use crate::partitioner::{Choice, Partitioner, Placing, Unplaced, murmur2_partition};
use crate::pool::Charge;
use crate::record::{AsRecord, Header, RecordView};
use crate::shared::Shared;
use crate::topics::Topic;

/// Why a record was not taken at once.
#[derive(Debug)]
pub(crate) enum NotTaken {
    /// The topic is not known to this producer yet.
    UnknownTopic,
    /// There is no room for this many bytes. The partition that was chosen is kept for the next attempt: a round robin that is asked
    /// twice for each record would leave out every second partition (KAFKA-9965).
    NoRoom(usize, Option<i32>),
    /// It is not going to be taken.
    Error(Error),
}

/// What [`Shared::append_run`] has taken.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) taken: usize,
    /// The batches that the records went into, each once.
    pub(crate) batches: Vec<Arc<Done>>,
    /// Why it stopped before the end, if it did.
    pub(crate) stopped: Option<NotTaken>,
}

impl Run {
    /// Adds what another run has taken. Returns why that one stopped.
    pub(crate) fn extend(&mut self, other: Self) -> Option<NotTaken> {
        self.taken += other.taken;
        for done in other.batches {
            self.add(&done);
        }
        other.stopped
    }

    /// Counts nothing up for a record that goes where the one before it went.
    #[inline]
    fn add(&mut self, done: &Arc<Done>) {
        if self.batches.last().is_none_or(|last| !Arc::ptr_eq(last, done)) {
            self.batches.push(done.clone());
        }
    }
}

impl Shared {
    /// Appends a record, or says why not. `prepaid` is room that was waited for; what is not used of it stays there.
    #[inline]
    pub(crate) fn append(
        &self,
        record: &RecordView<'_>,
        prepaid: &mut Option<Charge>,
        claim: impl Claim,
    ) -> Result<Delivery, NotTaken> {
        let Some(topic) = self.topics.get(record.topic) else { return Err(self.not_known()) };
        let content = self.content(record);
        let partition = match record.partition {
            Some(partition) => partition,
            // The default partitioner is known here: it needs no view of the cluster, no call, and nothing but a register.
            None => match (&topic.placing, record.key) {
                (Placing::Default, Some(key)) => murmur2_partition(key, topic.count),
                (Placing::Default, None) | (Placing::Sticky, _) => {
                    return self.append_sticky(topic, &content, prepaid, claim);
                }
                (Placing::By(partitioner), _) => match ask(&**partitioner, record, &content, topic) {
                    Choice::Partition(partition) => partition,
                    Choice::Sticky => return self.append_sticky(topic, &content, prepaid, claim),
                    Choice::PartitionWithHeader(partition, header) => {
                        return self.append_with_header(record, &content, partition, header, prepaid, claim);
                    }
                },
            },
        };
        let Some(part) = topic.part(partition) else {
            return Err(NotTaken::Error(no_such_partition(record.topic, partition, topic)));
        };
        let mut state = part.lock();
        if !claim.holds(&state) {
            drop(state);
            return Err(self.not_claimed());
        }
        match state.append(&content) {
            Some(delivery) => Ok(delivery),
            None => self.append_slowly(part, state, &content, prepaid),
        }
    }

    /// As [`append`](Self::append), for those who are slow anyway. A function of its own, so that there is one place where `append` is
    /// made part of `send`: with more of them the compiler makes it part of none.
    #[cold]
    #[inline(never)]
    pub(crate) fn append_again(
        &self,
        record: &RecordView<'_>,
        prepaid: &mut Option<Charge>,
        claim: impl Claim,
    ) -> Result<Delivery, NotTaken> {
        self.append(record, prepaid, claim)
    }

    #[inline]
    fn content<'a>(&self, record: &RecordView<'a>) -> Content<'a> {
        Content {
            timestamp: record.timestamp.unwrap_or_else(|| self.link.wall_clock().now_ms()),
            key: record.key,
            value: record.value,
            headers: record.headers,
        }
    }

    fn means<'a>(&'a self, part: &'a Part) -> Means<'a> {
        Means { sizes: part.sizes(), pool: &self.pool, now: self.link.now() }
    }

    #[cold]
    #[inline(never)]
    fn append_slowly(
        &self,
        part: &Arc<Part>,
        mut state: MutexGuard<'_, PartState>,
        content: &Content<'_>,
        prepaid: &mut Option<Charge>,
    ) -> Result<Delivery, NotTaken> {
        let mut notice = Notice::default();
        let result = state.append_slowly(part, content, &self.means(part), prepaid, &mut notice);
        drop(state);
        self.on_notice(part, notice);
        result.map_err(|refusal| match refusal {
            Refusal::NoRoom(bytes) => NotTaken::NoRoom(bytes, Some(part.id)),
            Refusal::Error(error) => NotTaken::Error(error),
        })
    }

    /// Appends a record that its partitioner adds a header to. Nobody else pays for the copy of the headers.
    #[inline(never)]
    fn append_with_header(
        &self,
        record: &RecordView<'_>,
        content: &Content<'_>,
        partition: i32,
        header: Header<'_>,
        prepaid: &mut Option<Charge>,
        claim: impl Claim,
    ) -> Result<Delivery, NotTaken> {
        /// Records rarely have more headers; more of them cost an allocation.
        const ON_STACK: usize = 8;
        let own = record.headers;
        let mut append = |headers: &[Header<'_>]| {
            let (partition, timestamp) = (Some(partition), Some(content.timestamp));
            self.append(&RecordView { partition, timestamp, headers, ..*record }, prepaid, claim)
        };
        let appended = if own.len() < ON_STACK {
            let mut headers = [header; ON_STACK];
            headers[..own.len()].copy_from_slice(own);
            append(&headers[..=own.len()])
        } else {
            append(&[own, &[header]].concat())
        };
        appended.map_err(|why| match why {
            // Kept, the partition would be named by the record, which then gets no header.
            NotTaken::NoRoom(bytes, _) => NotTaken::NoRoom(bytes, None),
            why => why,
        })
    }

    /// Appends to the topic's sticky partition, and moves it on when enough has gone there.
    fn append_sticky(
        &self,
        topic: &Topic,
        content: &Content<'_>,
        prepaid: &mut Option<Charge>,
        claim: impl Claim,
    ) -> Result<Delivery, NotTaken> {
        loop {
            let partition = topic.sticky.partition.load(Ordering::Relaxed);
            let Some(part) = topic.part(partition) else {
                if topic.count == 0 {
                    return Err(NotTaken::UnknownTopic);
                }
                // The topic was made anew, and has fewer.
                self.move_sticky(topic, partition);
                continue;
            };
            let mut state = part.lock();
            if topic.sticky.partition.load(Ordering::Relaxed) != partition {
                // It moved on while the lock was waited for: no half-empty batch is started behind it.
                continue;
            }
            if !claim.holds(&state) {
                drop(state);
                return Err(self.not_claimed());
            }
            let before = state.open_bytes();
            if let Some(delivery) = state.append(content) {
                let bytes = state.open_bytes() - before;
                let over = state.on_sticky(bytes, part.sizes().batch, false);
                drop(state);
                if over {
                    self.move_sticky(topic, partition);
                }
                return Ok(delivery);
            }
            // The batch is full, or it has been sent: if enough has gone here, the record goes where the next ones go. That may be
            // here again, and somebody may have opened a batch meanwhile: so it is tried from the start, with nothing counted.
            if topic.count > 1 && state.on_sticky(0, part.sizes().batch, true) {
                let mut notice = Notice::default();
                state.close_full(&mut notice);
                drop(state);
                self.on_notice(part, notice);
                self.move_sticky(topic, partition);
                continue;
            }
            return self.append_sticky_slowly(topic, part, state, content, prepaid);
        }
    }

    #[cold]
    #[inline(never)]
    fn append_sticky_slowly(
        &self,
        topic: &Topic,
        part: &Arc<Part>,
        mut state: MutexGuard<'_, PartState>,
        content: &Content<'_>,
        prepaid: &mut Option<Charge>,
    ) -> Result<Delivery, NotTaken> {
        let before = state.open_bytes();
        let mut notice = Notice::default();
        let result = state.append_slowly(part, content, &self.means(part), prepaid, &mut notice);
        // Counted like any other record's: where each record opens a batch, nothing else would ever move the partition (KIP-794).
        let bytes = state.open_bytes().saturating_sub(if notice.opened { 0 } else { before });
        let over = result.is_ok() && state.on_sticky(bytes, part.sizes().batch, false);
        drop(state);
        self.on_notice(part, notice);
        if over {
            self.move_sticky(topic, part.id);
        }
        result.map_err(|refusal| match refusal {
            // By the time that there is room, the topic may have moved on.
            Refusal::NoRoom(bytes) => NotTaken::NoRoom(bytes, None),
            Refusal::Error(error) => NotTaken::Error(error),
        })
    }

    /// Appends records of any partitions until one cannot be taken at once, or a sender should give way: then the first that was not
    /// taken is the next one of `records`. Records in a row that have a place of their own, or a key, and go to the same partition
    /// are taken under one lock: `records` must not run code of the user's.
    pub(crate) fn append_all<R: AsRecord>(
        &self,
        records: &mut Peekable<impl Iterator<Item = R>>,
        claim: impl Claim,
        deliveries: &mut Vec<Delivery>,
    ) -> Option<NotTaken> {
        let mut held: Option<(&Arc<Part>, MutexGuard<'_, PartState>)> = None;
        while let Some(record) = records.peek() {
            let taken = record.with_view(|view| {
                let Some(topic) = self.topics.get(view.topic) else { return Err(self.not_known()) };
                let partition = match (view.partition, &topic.placing, view.key) {
                    (Some(partition), ..) => partition,
                    (None, Placing::Default, Some(key)) => murmur2_partition(key, topic.count),
                    _ => {
                        // Whoever chooses may look at any partition.
                        held = None;
                        return self.append(view, &mut None, claim);
                    }
                };
                let Some(part) = topic.part(partition) else {
                    return Err(NotTaken::Error(no_such_partition(view.topic, partition, topic)));
                };
                let mut state = match held.take() {
                    Some((same, state)) if Arc::ptr_eq(same, part) => state,
                    other => {
                        drop(other);
                        part.lock()
                    }
                };
                if !claim.holds(&state) {
                    drop(state);
                    return Err(self.not_claimed());
                }
                let content = self.content(view);
                match state.append(&content) {
                    Some(delivery) => {
                        held = Some((part, state));
                        Ok(delivery)
                    }
                    None => self.append_slowly(part, state, &content, &mut None),
                }
            });
            match taken {
                Ok(delivery) => deliveries.push(delivery),
                Err(why) => return Some(why),
            }
            records.next();
            if held.is_none() && self.owes() {
                break;
            }
        }
        None
    }

    /// Appends records of one partition for as long as there is room; what is not taken stays in `records`. Those that were asked for in
    /// advance are taken under one lock. The user's iterator runs, and the records are dropped, where nothing is locked: an iterator that
    /// waits, or that sends, holds nobody up.
    pub(crate) fn append_run<R: AsRecord>(
        &self,
        topic: &str,
        partition: i32,
        records: &mut Backlog<impl Iterator<Item = R>>,
        prepaid: &mut Option<Charge>,
        claim: impl Claim,
    ) -> Run {
        let mut run = Run::default();
        let Some(known) = self.topics.get(topic) else {
            run.stopped = Some(self.not_known());
            return run;
        };
        let Some(part) = known.part(partition) else {
            run.stopped = Some(NotTaken::Error(no_such_partition(topic, partition, known)));
            return run;
        };
        while records.peek().is_some() {
            let mut held = None;
            while let Some(record) = records.front() {
                let appended = record.with_view(|view| {
                    let content = self.content(view);
                    let mut state = held.take().unwrap_or_else(|| part.lock());
                    if !claim.holds(&state) {
                        drop(state);
                        return Err(self.not_claimed());
                    }
                    if let Some(done) = state.append_to_open(&content) {
                        run.add(done);
                        held = Some(state);
                        return Ok(());
                    }
                    let delivery = self.append_slowly(part, state, &content, prepaid)?;
                    run.add(&delivery.into_done());
                    Ok(())
                });
                if let Err(why) = appended {
                    run.stopped = Some(why);
                    return run;
                }
                records.take_front();
                run.taken += 1;
            }
        }
        run
    }

    #[cold]
    fn not_claimed(&self) -> NotTaken {
        NotTaken::Error(match &self.transaction {
            Some(transaction) if !self.is_closed.load(Ordering::Acquire) => transaction.why_ended(),
            _ => closed(),
        })
    }

    #[cold]
    pub(crate) fn not_known(&self) -> NotTaken {
        if self.is_closed.load(Ordering::Acquire) { NotTaken::Error(closed()) } else { NotTaken::UnknownTopic }
    }
}

/// Asks a partitioner of the user's.
#[inline(never)]
fn ask<'a>(
    partitioner: &'a dyn Partitioner,
    record: &RecordView<'_>,
    content: &Content<'_>,
    topic: &Topic,
) -> Choice<'a> {
    let Content { timestamp, key, value, headers } = *content;
    partitioner.choose(&Unplaced { topic: record.topic, key, value, headers, timestamp }, topic)
}

#[cold]
fn no_such_partition(name: &str, partition: i32, topic: &Topic) -> Error {
    let (count, ending) = (topic.count, if topic.count == 1 { "" } else { "s" });
    Error::new(
        ErrorKind::UnknownTopicOrPartition,
        format!("the topic has {count} partition{ending}, numbered from 0: name one of them, or leave the choice to the partitioner."),
    )
    .with_topic_partition(TopicPartition::new(name, partition))
}
