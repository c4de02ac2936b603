//! What was written, and what became of it: each record has a number that no other has, so whatever a reader is given can be looked up
//! here, with the bytes that it must have and the place where it was.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use milena_client::TopicPartition;
use milena_client::protocol::records::{BatchBuilder, Compression, Compressor, Header, ProducerStamp};
use milena_consumer::RecordRef;
use milena_testkit::Cluster;

use crate::{COMPACTED, KEYS};

/// A record's number in the whole history.
pub(crate) type Number = usize;

/// A partition, cheap to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) topic: &'static str,
    pub(crate) partition: i32,
}

impl Place {
    pub(crate) fn tp(self) -> TopicPartition {
        TopicPartition::new(self.topic, self.partition)
    }
}

/// Why a record is not in its log any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// It lies before the log's start: retention, or DeleteRecords.
    Deleted,
    /// A later record has its key, or its transaction was aborted.
    Compacted,
    /// It was lost at the log's end, at this time of the history.
    Truncated(u64),
    /// Its topic was deleted.
    WithItsTopic,
}

/// A record.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) place: Place,
    pub(crate) offset: i64,
    /// Which of the topics of this name has it, counted from 0.
    pub(crate) incarnation: u32,
    /// Its batch is at these offsets.
    pub(crate) batch: (i64, i64),
    pub(crate) timestamp: i64,
    key: Option<Bytes>,
    value: Option<Bytes>,
    transaction: Option<usize>,
    pub(crate) at: u64,
    pub(crate) gone: Option<Gone>,
}

/// What is known of a partition's log.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) incarnation: u32,
    pub(crate) start: i64,
    pub(crate) end: i64,
    /// Everything is replicated, and every transaction decided.
    is_at_rest: bool,
    /// As far as readers may have been told.
    pub(crate) most_high: i64,
    pub(crate) most_start: i64,
    /// What is there, by offset.
    pub(crate) live: BTreeMap<i64, Number>,
    /// All that ever was there.
    ever: BTreeMap<i64, Vec<Number>>,
    /// The batches that have or had a bit turned over, by their first offset.
    pub(crate) damaged: BTreeSet<i64>,
    pub(crate) is_damaged: Option<i64>,
    /// When it lost its end, and where it ended then.
    pub(crate) truncated: Vec<(u64, i64)>,
}

impl Log {
    /// Nothing has happened to it that a reader has to be told.
    pub(crate) fn is_what_it_was(&self) -> bool {
        self.incarnation == 0 && self.truncated.is_empty()
    }
}

/// A transaction, of one partition.
#[derive(Debug)]
struct Transaction {
    place: Place,
    producer_id: i64,
    sequence: i32,
    /// Its records, and whether some of them were lost.
    records: Vec<Number>,
    is_torn: bool,
    /// Committed, or aborted.
    decision: Option<bool>,
    /// Where the marker is.
    marker: Option<i64>,
}

/// How much of what happened.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) written: usize,
    pub(crate) transactions: usize,
    pub(crate) aborted: usize,
    pub(crate) deleted: usize,
    pub(crate) compacted: usize,
    pub(crate) truncated: usize,
}

pub(crate) struct History {
    pub(crate) logs: BTreeMap<Place, Log>,
    pub(crate) written: Vec<Written>,
    transactions: Vec<Transaction>,
    /// Those that the log does not know the end of.
    open: BTreeSet<usize>,
    next_producer: i64,
    /// Goes up with everything that happens.
    pub(crate) clock: u64,
    pub(crate) counts: Counts,
}

impl History {
    pub(crate) fn new(topics: &[(&'static str, i32)]) -> Self {
        let places = topics.iter().flat_map(|(topic, partitions)| {
            (0..*partitions).map(|partition| (Place { topic, partition }, Log::default()))
        });
        Self {
            logs: places.collect(),
            written: Vec::new(),
            transactions: Vec::new(),
            open: BTreeSet::new(),
            next_producer: 1000,
            clock: 0,
            counts: Counts::default(),
        }
    }

    pub(crate) fn places(&self) -> Vec<Place> {
        self.logs.keys().copied().collect()
    }

    // ---- writing ----

    /// One batch more, or the end of a transaction.
    pub(crate) fn write(&mut self, cluster: &Cluster, rng: &mut fastrand::Rng) {
        let places = self.places();
        let place = places[rng.usize(0..places.len())];
        let open: Vec<usize> = self.open.iter().copied().filter(|id| self.transactions[*id].place == place).collect();
        match (rng.u32(0..10), open.is_empty()) {
            (0..=5, _) => self.append(cluster, place, None, rng),
            (6..=7, false) => self.append(cluster, place, Some(open[rng.usize(0..open.len())]), rng),
            (8.., false) => self.decide(cluster, open[rng.usize(0..open.len())], rng.bool()),
            _ => {
                let producer_id = self.next_producer;
                self.next_producer += 1;
                self.transactions.push(Transaction {
                    place,
                    producer_id,
                    sequence: 0,
                    records: Vec::new(),
                    is_torn: false,
                    decision: None,
                    marker: None,
                });
                self.append(cluster, place, Some(self.transactions.len() - 1), rng);
            }
        }
    }

    fn append(&mut self, cluster: &Cluster, place: Place, transaction: Option<usize>, rng: &mut fastrand::Rng) {
        let stamp = match transaction.map(|id| &self.transactions[id]) {
            None => ProducerStamp::NONE,
            Some(torn) if torn.is_torn || torn.decision.is_some() => return,
            Some(open) => ProducerStamp {
                producer_id: open.producer_id,
                epoch: 0,
                base_sequence: open.sequence,
                transactional: true,
            },
        };
        let mut builder = BatchBuilder::new(vec![0; 8 << 10], 0);
        let mut records = Vec::new();
        let most = if rng.u32(0..8) == 0 { 12 } else { 4 };
        for _ in 0..rng.usize(1..=most) {
            let number = self.written.len() + records.len();
            let key = (place.topic == COMPACTED || rng.bool()).then(|| Bytes::from(format!("k{}", rng.u32(0..KEYS))));
            let value = bytes(rng);
            let timestamp = cluster.wall_clock_ms() - rng.i64(0..20);
            let name = number.to_string();
            let headers = [Header { key: b"number", value: Some(name.as_bytes()) }];
            builder.append(timestamp, key.as_deref(), value.as_deref(), &headers).unwrap();
            records.push((key, value, timestamp));
        }
        let mut sealed = builder.seal();
        if rng.u32(0..3) == 0 {
            sealed = sealed.compress(&mut Compressor::new(Compression::Lz4).unwrap(), Vec::new()).0;
        }
        sealed.stamp(stamp);
        // Without a leader nobody can write.
        let Ok(base) = cluster.append(place.topic, place.partition, sealed.bytes()) else { return };
        self.clock += 1;
        let batch = (base, base + records.len() as i64);
        if let Some(id) = transaction {
            let open = &mut self.transactions[id];
            open.sequence += records.len() as i32;
            open.records.extend(self.written.len()..self.written.len() + records.len());
            if self.open.insert(id) {
                self.counts.transactions += 1;
            }
        }
        let log = self.logs.get_mut(&place).unwrap();
        for (offset, (key, value, timestamp)) in (base..).zip(records) {
            let number = self.written.len();
            log.live.insert(offset, number);
            log.ever.entry(offset).or_default().push(number);
            let incarnation = log.incarnation;
            let at = self.clock;
            let gone = None;
            self.written.push(Written {
                place,
                offset,
                incarnation,
                batch,
                timestamp,
                key,
                value,
                transaction,
                at,
                gone,
            });
            self.counts.written += 1;
        }
        self.look(cluster);
    }

    /// Writes the marker of a transaction.
    fn decide(&mut self, cluster: &Cluster, id: usize, commit: bool) {
        let Transaction { place, producer_id, decision, .. } = self.transactions[id];
        // Who has been told once, was told.
        let commit = decision.unwrap_or(commit);
        let Ok(offset) = cluster.append_marker(place.topic, place.partition, (producer_id, 0), commit) else { return };
        self.clock += 1;
        let transaction = &mut self.transactions[id];
        transaction.marker = Some(offset);
        if transaction.decision.replace(commit).is_none() && !commit {
            self.counts.aborted += 1;
        }
        self.open.remove(&id);
        self.look(cluster);
    }

    /// Ends all transactions.
    pub(crate) fn end_transactions(&mut self, cluster: &Cluster) {
        for id in self.open.clone() {
            self.decide(cluster, id, id % 2 == 0);
        }
        let restless: Vec<_> = self.logs.iter().filter(|(_, log)| !log.is_at_rest).collect();
        assert!(restless.is_empty(), "the storm has left something open: {restless:?}, {:?}", self.open);
    }

    // ---- what becomes of it ----

    /// Looks at what has become of the logs: whoever does something to them, calls this at once.
    pub(crate) fn look(&mut self, cluster: &Cluster) {
        self.clock += 1;
        for (place, log) in &mut self.logs {
            let info = cluster.partition_info(place.topic, place.partition);
            if info.log_end_offset < log.end {
                log.truncated.push((self.clock, info.log_end_offset));
                for (_, number) in log.live.split_off(&info.log_end_offset) {
                    self.written[number].gone = Some(Gone::Truncated(self.clock));
                    self.counts.truncated += 1;
                }
                for (id, transaction) in self.transactions.iter_mut().enumerate() {
                    if transaction.place != *place {
                        continue;
                    }
                    let is_there = |number: &Number| self.written[*number].offset < info.log_end_offset;
                    let lost_marker = transaction.marker.take_if(|at| *at >= info.log_end_offset).is_some();
                    let is_open = lost_marker || self.open.contains(&id);
                    if !is_open {
                        continue;
                    }
                    transaction.is_torn |= !transaction.records.iter().all(is_there);
                    if transaction.records.iter().any(is_there) {
                        self.open.insert(id);
                    } else {
                        self.open.remove(&id);
                    }
                }
            }
            if info.log_start_offset > log.start {
                let kept = log.live.split_off(&info.log_start_offset);
                for number in std::mem::replace(&mut log.live, kept).into_values() {
                    self.written[number].gone = Some(Gone::Deleted);
                    self.counts.deleted += 1;
                }
            }
            (log.start, log.end) = (info.log_start_offset, info.log_end_offset);
            log.most_high = log.most_high.max(info.high_watermark);
            log.most_start = log.most_start.max(info.log_start_offset);
            log.is_at_rest = info.last_stable_offset == info.log_end_offset;
        }
    }

    /// A topic was compacted.
    pub(crate) fn on_compacted(&mut self, cluster: &Cluster, topic: &str) {
        self.clock += 1;
        for (place, log) in self.logs.iter_mut().filter(|(place, _)| place.topic == topic) {
            let left: BTreeSet<i64> =
                cluster.records(topic, place.partition).into_iter().map(|record| record.offset).collect();
            let (written, counts) = (&mut self.written, &mut self.counts);
            log.live.retain(|offset, number| {
                let stays = left.contains(offset);
                if !stays {
                    written[*number].gone = Some(Gone::Compacted);
                    counts.compacted += 1;
                }
                stays
            });
        }
    }

    /// A topic was deleted, and another one made under its name.
    pub(crate) fn on_recreated(&mut self, cluster: &Cluster, topic: &str) {
        self.clock += 1;
        for (place, log) in self.logs.iter_mut().filter(|(place, _)| place.topic == topic) {
            for number in std::mem::take(&mut log.live).into_values() {
                self.written[number].gone = Some(Gone::WithItsTopic);
            }
            log.incarnation += 1;
            (log.start, log.end) = (0, 0);
            let transactions = &self.transactions;
            self.open.retain(|id| transactions[*id].place != *place);
        }
        self.look(cluster);
    }

    /// A topic has a partition more.
    pub(crate) fn on_grown(&mut self, place: Place) {
        self.clock += 1;
        self.logs.insert(place, Log::default());
    }

    /// A bit of the batch at this offset is turned over, or back.
    pub(crate) fn on_damaged(&mut self, place: Place, offset: i64) {
        let log = self.logs.get_mut(&place).unwrap();
        let base = self.written[log.live[&offset]].batch.0;
        log.damaged.insert(base);
        log.is_damaged = match log.is_damaged {
            Some(_) => None,
            None => Some(offset),
        };
    }

    // ---- what a reader may expect ----

    /// Which record this is, after having compared all of it.
    pub(crate) fn number(&self, place: Place, record: RecordRef<'_>) -> Number {
        let name = record.headers().iter().next().and_then(|header| header.value).map(<[u8]>::to_vec);
        let name = name.and_then(|name| String::from_utf8(name).ok()).and_then(|name| name.parse().ok());
        let number: Number = name.unwrap_or_else(|| panic!("I-6: {record:?} has no number"));
        let written = &self.written[number];
        let got = (place, record.offset(), record.timestamp(), record.key(), record.value());
        let sent = (written.place, written.offset, written.timestamp, written.key.as_deref(), written.value.as_deref());
        assert!(got == sent, "I-6: record {number} was written as {sent:?} and is {got:?}");
        number
    }

    /// Whether a record's transaction, if it has one, was committed; `None` while that is open.
    pub(crate) fn is_committed(&self, number: Number) -> Option<bool> {
        self.written[number].transaction.map_or(Some(true), |id| self.transactions[id].decision)
    }

    /// Whether a reader of committed records, or one of all, ever gets to see it.
    pub(crate) fn is_visible(&self, number: Number, committed_only: bool) -> bool {
        !committed_only || self.is_committed(number) != Some(false)
    }

    /// A record at these offsets that the log had when `number` was written, and that nothing but a truncation has taken since: who
    /// goes by it to `number` leaves it out.
    pub(crate) fn left_out(
        &self,
        place: Place,
        offsets: std::ops::Range<i64>,
        number: Number,
        is_owed: impl Fn(Number) -> bool,
    ) -> Option<Number> {
        let next = &self.written[number];
        if offsets.is_empty() {
            return None;
        }
        self.logs[&place].ever.range(offsets).flat_map(|(_, all)| all).copied().find(|at| {
            let was_there = match self.written[*at].gone {
                Some(Gone::Deleted | Gone::Compacted | Gone::WithItsTopic) => false,
                Some(Gone::Truncated(at)) => at > next.at,
                None => true,
            };
            let written = &self.written[*at];
            was_there && written.at <= next.at && written.incarnation == next.incarnation && is_owed(*at)
        })
    }

    /// A record at these offsets that was there until it was deleted.
    pub(crate) fn deleted(
        &self,
        place: Place,
        offsets: std::ops::Range<i64>,
        is_owed: impl Fn(Number) -> bool,
    ) -> Option<Number> {
        if offsets.is_empty() {
            return None;
        }
        let mut all = self.logs[&place].ever.range(offsets).flat_map(|(_, all)| all).copied();
        all.find(|number| self.written[*number].gone == Some(Gone::Deleted) && is_owed(*number))
    }

    /// A record at these offsets that is there now.
    pub(crate) fn there(
        &self,
        place: Place,
        offsets: std::ops::Range<i64>,
        is_owed: impl Fn(Number) -> bool,
    ) -> Option<Number> {
        if offsets.is_empty() {
            return None;
        }
        self.logs[&place].live.range(offsets).map(|(_, number)| *number).find(|number| is_owed(*number))
    }
}

/// Nothing, empty, short, or long enough to be more than a fetch wants of a partition.
fn bytes(rng: &mut fastrand::Rng) -> Option<Bytes> {
    let length = match rng.u32(0..40) {
        0..=2 => return None,
        3..=5 => 0,
        6 => 600,
        _ => rng.usize(1..60),
    };
    Some(std::iter::repeat_with(|| rng.u8(..)).take(length).collect())
}
