//! A reader of some partitions and its user, who reads in every way and at every pace, pauses, seeks, and compares what he is given with
//! the history.
//!
//! The invariants:
//! - I-6: a record has the bytes it was written with, and is where it was written.
//! - I-7: within a poll the offsets of a partition go up, and none is left out that the reader should see.
//! - I-8: the same from one poll to the next; after a seek nothing comes from before it.
//! - I-9: the position is behind what was handed out last, or further where nothing is to be seen; it never goes back by itself, and no
//!   local answer says what never was.
//! - I-14: who is set back, or loses records, is told.
//! - I-16: a reader of committed records gets no aborted one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use milena_client::protocol::ErrorCode;
use milena_client::{Client, Error, ErrorKind, TopicPartition};
use milena_consumer::{
    ConsumerEvent, IsolationLevel, LogTruncation, OffsetGone, OffsetReset, PartitionConsumer, ReaderHandle, RecordRef,
    ResetReason, StartAt,
};
use tokio::time::{sleep, timeout};

use crate::history::{History, Log, Number, Place};
use crate::weather::Happened;
use crate::{BROKERS, TOPICS};

/// The least that a broker is asked for.
const SMALL_REQUEST: usize = 64 << 10;
/// Of twelve records; see `history.rs`.
const LARGEST_BATCH: usize = 9 << 10;

/// What is owed to the user since he has sought.
#[derive(Debug, Clone, Copy)]
enum From {
    Offset(i64),
    /// With this timestamp or a later one.
    Time(i64),
    Beginning,
    /// What is written later than this.
    End(u64),
}

#[derive(Debug)]
struct Cursor {
    from: From,
    /// Where reading began, once that is known.
    first: Option<i64>,
    /// Behind the record that was handed out last.
    next: Option<i64>,
    /// The last position that was told.
    position: Option<i64>,
    /// Which of the topics of that name is read, and whether the user knows of another.
    incarnation: u32,
    is_told_of_another: bool,
    /// Handed out since the seek.
    got: BTreeSet<Number>,
    /// Given up by the user, as they could not be read.
    given_up: Vec<std::ops::Range<i64>>,
    /// When that was.
    since: u64,
    /// When the position was looked at.
    looked_at: u64,
    /// Nothing had been handed out of the partition before.
    is_untouched: bool,
}

impl Cursor {
    fn new(from: From, since: u64, incarnation: u32) -> Self {
        let first = if let From::Offset(at) = from { Some(at) } else { None };
        Self {
            from,
            first,
            next: None,
            position: None,
            incarnation,
            is_told_of_another: false,
            got: BTreeSet::new(),
            given_up: Vec::new(),
            since,
            looked_at: since,
            is_untouched: false,
        }
    }

    /// Whether a record is to be handed out, as far as the place goes from which on the user wants to read.
    fn wants(&self, number: Number, history: &History) -> bool {
        let written = &history.written[number];
        if written.incarnation < history.logs[&written.place].incarnation
            || self.first.is_some_and(|first| written.offset < first)
            || self.given_up.iter().any(|range| range.contains(&written.offset))
        {
            return false;
        }
        match self.from {
            From::Offset(_) | From::Beginning => true,
            // Before the first record nobody knows where that time begins but the log.
            // And a log that cannot read a batch does not know its times.
            From::Time(time) => {
                let is_readable = !history.logs[&written.place].damaged.contains(&written.batch.0);
                self.first.is_some() || (written.timestamp >= time && is_readable)
            }
            From::End(at) => self.first.is_some() || written.at > at,
        }
    }

    /// Reading goes on there, and the user knows why. What is handed out a second time because of it is no mistake.
    fn go_on_at(&mut self, to: i64) {
        self.from = From::Offset(to);
        self.first = Some(to);
        self.next = None;
        self.position = None;
    }

    /// Whether no record of the partition has ever been handed out.
    fn has_seen_nothing(&self) -> bool {
        self.is_untouched && self.got.is_empty()
    }

    fn lowest(&self) -> i64 {
        self.next.or(self.first).unwrap_or(0)
    }
}

pub(crate) struct Reader {
    name: String,
    consumer: PartitionConsumer,
    handle: ReaderHandle,
    committed_only: bool,
    reset: OffsetReset,
    cursors: BTreeMap<Place, Cursor>,
    paused: BTreeSet<Place>,
    /// It does not read for so many steps.
    stalls: u32,
    /// So many bytes may be held for it.
    most_buffered: usize,
    pub(crate) records: usize,
    pub(crate) happened: Happened,
}

impl Reader {
    pub(crate) async fn new(
        client: &Client,
        name: &str,
        places: &[Place],
        history: &History,
        rng: &mut fastrand::Rng,
    ) -> Self {
        let committed_only = rng.bool();
        let reset = [OffsetReset::None, OffsetReset::Earliest, OffsetReset::Latest][rng.usize(0..3)];
        let budget = if rng.bool() { rng.usize(2000..20_000) } else { 1 << 20 };
        let mut builder = PartitionConsumer::builder(client)
            .isolation_level(if committed_only {
                IsolationLevel::ReadCommitted
            } else {
                IsolationLevel::ReadUncommitted
            })
            .offset_reset(reset)
            .max_poll_records(rng.usize(1..40))
            .max_partition_bytes(rng.u32(300..4000))
            .max_bytes(rng.u32(1000..20_000))
            .buffer_memory(budget)
            .max_wait(Duration::from_millis(rng.u64(1..500)))
            .min_bytes(if rng.u32(0..3) == 0 { rng.u32(1..500) } else { 1 });
        let mut cursors = BTreeMap::new();
        for place in places {
            let (start, from) = start(*place, history, rng);
            builder = builder.assign(place.topic, [place.partition], start);
            let cursor = Cursor::new(from, history.clock, history.logs[place].incarnation);
            cursors.insert(*place, Cursor { is_untouched: true, ..cursor });
        }
        let consumer = builder.build().await.unwrap();
        Self {
            name: format!("{name}, {}", if committed_only { "committed records" } else { "all records" }),
            handle: consumer.handle(),
            consumer,
            committed_only,
            reset,
            cursors,
            paused: BTreeSet::new(),
            stalls: 0,
            // Beyond the budget, each broker may be asked for a little while the reader waits, and may send a batch that is larger.
            most_buffered: budget + BROKERS.count() * (budget.min(SMALL_REQUEST) + LARGEST_BATCH),
            records: 0,
            happened: Happened::default(),
        }
    }

    // ---- what the user does ----

    /// Reads, or does something else.
    pub(crate) async fn act(&mut self, history: &History, rng: &mut fastrand::Rng) {
        let held = self.handle.buffered_bytes();
        assert!(held <= self.most_buffered, "{}: {held} bytes are held, and {} at most", self.name, self.most_buffered);
        if self.stalls > 0 {
            self.stalls -= 1;
            return;
        }
        let places: Vec<Place> = self.cursors.keys().copied().collect();
        let place = places[rng.usize(0..places.len())];
        match rng.u32(0..100) {
            0..=44 => self.try_poll(history),
            45..=64 => self.poll(Duration::from_millis(rng.u64(0..60)), history).await,
            65..=84 => self.receive(rng.usize(1..20), Duration::from_millis(rng.u64(0..30)), history).await,
            85..=87 => {
                let (start, from) = start(place, history, rng);
                self.seek(place, start, from, history);
            }
            88..=90 => {
                self.handle.pause(&[place.tp()]);
                self.paused.insert(place);
                self.happened.note("pauses");
            }
            91..=94 => {
                self.handle.resume(&[place.tp()]);
                self.paused.remove(&place);
            }
            95 => {
                self.stalls = rng.u32(1..60);
                self.happened.note("stalls");
            }
            _ => {}
        }
        self.look(history);
    }

    fn seek(&mut self, place: Place, to: StartAt, from: From, history: &History) {
        // What was told before is not about the seek.
        self.hear(history);
        self.handle.seek(&place.tp(), to).unwrap();
        let incarnation = history.logs[&place].incarnation;
        let is_untouched = self.cursors[&place].has_seen_nothing();
        self.cursors.insert(place, Cursor { is_untouched, ..Cursor::new(from, history.clock, incarnation) });
        self.happened.note(match to {
            StartAt::Beginning => "seeks to the beginning",
            StartAt::End => "seeks to the end",
            StartAt::Timestamp(_) => "seeks to a time",
            _ => "seeks to an offset",
        });
        if let StartAt::Offset(offset) = to {
            let position = self.handle.position(&place.tp());
            assert_eq!(position, Some(offset), "I-9: {}: {place:?} was sought to {offset}", self.name);
        }
    }

    fn try_poll(&mut self, history: &History) {
        match self.consumer.try_poll() {
            Ok(records) => self.take(&records, history),
            Err(error) => self.on_error(&error, history),
        }
    }

    async fn poll(&mut self, wait: Duration, history: &History) {
        match self.consumer.poll(wait).await {
            Ok(records) => self.take(&records, history),
            Err(error) => self.on_error(&error, history),
        }
    }

    fn take(&mut self, records: &milena_consumer::Records, history: &History) {
        self.hear(history);
        assert_eq!(records.iter().count(), records.len(), "{}", self.name);
        let mut last: BTreeMap<Place, i64> = BTreeMap::new();
        for record in records {
            let place = place_of(record);
            let before = last.insert(place, record.offset());
            let invariant = if before.is_some() { "I-7" } else { "I-8" };
            self.on_record(invariant, place, record, history);
        }
        for partition in records.partitions() {
            let place = place_of(partition.iter().next().unwrap());
            let (next, last) = (partition.next_offset().unwrap(), last[&place]);
            assert!(next > last, "I-9: {}: {place:?} goes on at {next}, behind {last}", self.name);
        }
    }

    /// Receives record by record, as long as none takes longer than `patience`.
    async fn receive(&mut self, most: usize, patience: Duration, history: &History) {
        for _ in 0..most {
            match timeout(patience, self.consumer.recv()).await {
                Err(_) => return,
                Ok(Ok(record)) => {
                    let record = record.unwrap();
                    let place = place_of(record);
                    hear(&self.handle, &self.name, self.reset, &mut self.cursors, &mut self.happened, history);
                    let (cursors, name) = (&mut self.cursors, &self.name);
                    check_record("I-8", name, self.committed_only, cursors, place, record, history);
                    self.records += 1;
                    let position = self.handle.position(&place.tp());
                    let offset = self.cursors[&place].next;
                    assert_eq!(position, offset, "I-9: {}: {place:?} lends the record before {offset:?}", self.name);
                }
                Ok(Err(error)) => return self.on_error(&error, history),
            }
        }
    }

    // ---- what he compares ----

    fn on_record(&mut self, invariant: &str, place: Place, record: RecordRef<'_>, history: &History) {
        check_record(invariant, &self.name, self.committed_only, &mut self.cursors, place, record, history);
        self.records += 1;
    }

    fn hear(&mut self, history: &History) {
        hear(&self.handle, &self.name, self.reset, &mut self.cursors, &mut self.happened, history);
    }

    /// Errors say what they are about, and come only when there is a reason.
    fn on_error(&mut self, error: &Error, history: &History) {
        self.hear(history);
        let who = &self.name;
        let Some(tp) = error.topic_partition() else { panic!("{who}: an error about nothing: {error}") };
        let topic = TOPICS.iter().map(|(topic, _)| *topic).find(|topic| **topic == *tp.topic).unwrap();
        let place = Place { topic, partition: tp.partition };
        let log = &history.logs[&place];
        let cursor = self.cursors.get_mut(&place).unwrap();
        match (error.kind(), error.code()) {
            (ErrorKind::Malformed, _) => {
                let damaged = log.damaged.iter().find(|base| error.to_string().contains(&format!("offset {base} ")));
                let Some(base) = damaged.copied() else {
                    panic!("I-6: {who}: {place:?}: no batch was damaged there: {error}")
                };
                self.happened.note("damaged batches met");
                // Perhaps mended by now, or else to be left out, the second time at the latest; of a reader of committed records the position may not have come to the batch.
                let at = cursor.lowest().max(log.start);
                if self.happened.0["damaged batches met"].is_multiple_of(2) && log.is_damaged.is_none() {
                    self.set_back(place, at, None);
                } else {
                    let behind = history.written.iter().rev().find(|w| w.place == place && w.batch.0 == base);
                    let behind = behind.unwrap().batch.1;
                    self.set_back(place, behind.max(at), Some(base..behind));
                }
            }
            (_, Some(ErrorCode::OFFSET_OUT_OF_RANGE)) => {
                assert!(self.reset == OffsetReset::None, "I-14: {who}: {place:?}: {error}");
                let gone = OffsetGone::of(error).unwrap_or_else(|| panic!("I-14: {who}: what is gone? {error}"));
                check_lost(who, place, (gone.offset, gone.log_start, gone.lost), cursor, log);
                self.happened.note("out of range");
                self.handle.seek(&place.tp(), StartAt::Beginning).unwrap();
                let got = std::mem::take(&mut cursor.got);
                let is_behind = gone.lost > 0;
                *cursor = Cursor::new(From::Beginning, history.clock, log.incarnation);
                if is_behind {
                    cursor.got = got;
                }
            }
            (ErrorKind::LogTruncated, _) => {
                let (parted, _) = LogTruncation::of(error).unwrap_or_else(|| panic!("I-14: {who}: {error}")).parted;
                self.handle.seek(&place.tp(), StartAt::Offset(parted)).unwrap();
                cursor.go_on_at(parted);
            }
            (ErrorKind::TopicRecreated, _) => {
                assert!(cursor.is_told_of_another, "I-14: {who}: {place:?}: {error}");
                self.handle.seek(&place.tp(), StartAt::Beginning).unwrap();
                *cursor = Cursor::new(From::Beginning, history.clock, log.incarnation);
            }
            _ => panic!("{who}: {place:?}: an error that is not the user's: {error}"),
        }
    }

    /// The user goes on at another offset, and what he was given counts still.
    fn set_back(&mut self, place: Place, to: i64, given_up: Option<std::ops::Range<i64>>) {
        self.handle.seek(&place.tp(), StartAt::Offset(to)).unwrap();
        let cursor = self.cursors.get_mut(&place).unwrap();
        if cursor.next.is_none() {
            cursor.first = Some(to);
        }
        cursor.next = cursor.next.map(|next| next.max(to));
        cursor.position = None;
        cursor.given_up.extend(given_up);
    }

    /// What is known without asking anybody.
    fn look(&mut self, history: &History) {
        self.hear(history);
        let who = &self.name;
        for (place, cursor) in &mut self.cursors {
            let log = &history.logs[place];
            let state = self.handle.state(&place.tp()).unwrap();
            assert_eq!(state.paused, self.paused.contains(place), "{who}: {place:?}");
            for told in [state.high_watermark, state.last_stable_offset] {
                assert!(told <= Some(log.most_high), "I-9: {who}: {place:?}: {state:?}, and {}", log.most_high);
            }
            assert!(
                state.log_start_offset <= Some(log.most_start),
                "I-9: {who}: {place:?}: {state:?}, and {}",
                log.most_start
            );
            if cursor.incarnation < log.incarnation {
                // As far as anybody knows, the position is one of the topic that is gone.
                if cursor.is_told_of_another {
                    cursor.first = cursor.first.or(state.position);
                }
                continue;
            }
            let Some(position) = state.position else {
                // A reader that is out of range has to be set to where the log begins now.
                let is_known = cursor.next.is_some() || cursor.position.is_some();
                let may_be_lost = cursor.lowest() < log.start || !log.truncated.is_empty() || log.incarnation > 0;
                assert!(!is_known || may_be_lost, "I-9: {who}: {place:?}: the position is forgotten");
                continue;
            };
            if cursor.first.is_none() {
                if let Some(missed) = history.there(*place, 0..position, |number| {
                    cursor.wants(number, history) && history.is_visible(number, self.committed_only)
                }) {
                    let written = &history.written[missed];
                    // What was written since the broker was asked lies behind the position, or is no business of the seek: also what
                    // stands where the log has lost its end since then, below a place that nobody has read up to (Java keeps it, too).
                    let is_anew = log.truncated.iter().any(|(at, _)| *at > cursor.since && written.at >= *at);
                    assert!(
                        (matches!(cursor.from, From::End(_)) && written.at > cursor.since) || is_anew,
                        "I-8: {who}: {place:?}: {:?} begins at {position}, behind {written:?}",
                        cursor.from
                    );
                }
                cursor.first = Some(position);
            }
            let since = cursor.position.map_or(cursor.lowest(), |before| before.max(cursor.lowest()));
            let is_cut = log.truncated.last().is_some_and(|(at, _)| *at > cursor.looked_at);
            cursor.looked_at = history.clock;
            let before = cursor.position.replace(position).unwrap_or(position).max(cursor.next.unwrap_or(position));
            assert!(position >= before, "I-9: {who}: {place:?}: the position went back from {before} to {position}");
            let missed = history.there(*place, since..position, |number| {
                // What stands where something was lost may be passed by with what was fetched before; that is told later, and at the
                // end nothing may lack.
                let written = &history.written[number];
                let stands_anew = log.truncated.iter().any(|(at, end)| *at < written.at && *end <= written.offset);
                !is_cut
                    && !stands_anew
                    && cursor.wants(number, history)
                    && history.is_visible(number, self.committed_only)
                    && !cursor.got.contains(&number)
            });
            assert!(
                missed.is_none(),
                "I-9: {who}: {place:?}: the position is {position}, and {:?} was not handed out",
                missed.map(|number| &history.written[number])
            );
            let lag = self.handle.lag(&place.tp()).unwrap_or(0);
            let most = (log.most_high - position).max(0);
            assert!(lag as i64 <= most, "I-9: {who}: {place:?}: a lag of {lag}, and {most} at most");
        }
    }

    // ---- the end ----

    /// Reads all that is there, in good weather, and looks whether that is all.
    pub(crate) async fn finish(&mut self, history: &History) {
        let paused: Vec<_> = std::mem::take(&mut self.paused).into_iter().map(Place::tp).collect();
        self.handle.resume(&paused);
        let mut rest = 0;
        for _ in 0..600 {
            self.poll(Duration::from_millis(500), history).await;
            self.look(history);
            let is_behind = |place: &Place| self.handle.position(&place.tp()) != Some(history.logs[place].end);
            if self.cursors.keys().any(is_behind) {
                rest = 0;
            } else if rest == 3 || self.cursors.keys().all(|place| history.logs[place].is_what_it_was()) {
                break;
            }
            // At the end of a log that is gone, or has lost its end, there is something to be heard of.
            rest += 1;
            sleep(Duration::from_millis(1)).await;
        }
        for (place, cursor) in &self.cursors {
            let log = &history.logs[place];
            let position = self.handle.position(&place.tp());
            assert!(
                position >= Some(log.end),
                "I-15: {}: {place:?} stays at {position:?}, and the log ends at {}: {cursor:?}",
                self.name,
                log.end
            );
            let missed = history.there(*place, 0..log.end, |number| {
                cursor.wants(number, history)
                    && history.is_visible(number, self.committed_only)
                    && !cursor.got.contains(&number)
            });
            assert!(
                missed.is_none(),
                "I-8: {}: {place:?}: {:?} was never handed out: {cursor:?}",
                self.name,
                missed.map(|number| &history.written[number])
            );
        }
    }

    pub(crate) async fn close(self) -> Happened {
        self.consumer.close(Duration::from_secs(60)).await.unwrap();
        assert_eq!(self.handle.buffered_bytes(), 0, "{}: all is read, and bytes are held", self.name);
        self.happened
    }
}

/// Positions are moved by something else than reading only when there is a reason, and never silently.
fn hear(
    handle: &ReaderHandle,
    who: &str,
    reset: OffsetReset,
    cursors: &mut BTreeMap<Place, Cursor>,
    happened: &mut Happened,
    history: &History,
) {
    while let Some(event) = handle.try_next_event() {
        let place = |tp: &TopicPartition| {
            let topic = TOPICS.iter().map(|(topic, _)| *topic).find(|topic| **topic == *tp.topic).unwrap();
            Place { topic, partition: tp.partition }
        };
        match &event {
            ConsumerEvent::Reset { partition, from, to, policy, reason, lost } => {
                let place = place(partition);
                let (log, cursor) = (&history.logs[&place], cursors.get_mut(&place).unwrap());
                assert!(*policy == reset, "{who}: {event:?}");
                if *reason == ResetReason::OutOfRange {
                    check_lost(who, place, (from.unwrap(), *to, *lost), cursor, log);
                }
                let is_behind = *lost > 0 && *reason == ResetReason::OutOfRange;
                if !is_behind {
                    cursor.got.clear();
                }
                cursor.go_on_at(*to);
                happened.note("told: reset");
            }
            ConsumerEvent::OutOfRange { .. } => {
                assert!(reset == OffsetReset::None, "{who}: {event:?}");
                happened.note("told: out of range");
            }
            ConsumerEvent::Truncated { partition, from, to } => {
                let place = place(partition);
                let (log, cursor) = (&history.logs[&place], cursors.get_mut(&place).unwrap());
                assert!(!log.truncated.is_empty(), "I-14: {who}: {event:?}, and nothing was lost");
                let to = to.unwrap_or(*from);
                // What was read from there on must not be in the log any more.
                let twice = history.there(place, to..*from, |number| cursor.got.contains(&number));
                assert!(
                    twice.is_none(),
                    "I-14: {who}: {event:?}, and {:?} is still there",
                    twice.map(|number| &history.written[number])
                );
                // Without a policy an error follows, and the user decides.
                if reset != OffsetReset::None {
                    cursor.go_on_at(to);
                }
                happened.note("told: truncated");
            }
            ConsumerEvent::TopicRecreated { partition, .. } => {
                let place = place(partition);
                let (log, cursor) = (&history.logs[&place], cursors.get_mut(&place).unwrap());
                assert!(log.incarnation > 0, "I-14: {who}: {event:?}, and it is the first");
                cursor.is_told_of_another = true;
                cursor.position = None;
                happened.note("told: topic made anew");
            }
            event => panic!("{who}: {event:?}"),
        }
    }
}

/// What is told to be lost is, and whoever is out of range was that.
fn check_lost(who: &str, place: Place, (from, to, lost): (i64, i64, u64), cursor: &Cursor, log: &Log) {
    let lost = lost as i64;
    let is_true = match lost {
        0 => from > to || !log.truncated.is_empty() || log.incarnation > 0,
        _ => lost <= to - from && lost <= log.most_start - from && from >= cursor.lowest(),
    };
    assert!(is_true, "I-14: {who}: {place:?}: {lost} offsets lost from {from} on, goes on at {to}: {cursor:?}");
}

fn check_record(
    invariant: &str,
    who: &str,
    committed_only: bool,
    cursors: &mut BTreeMap<Place, Cursor>,
    place: Place,
    record: RecordRef<'_>,
    history: &History,
) {
    let number = history.number(place, record);
    let written = &history.written[number];
    let cursor = cursors.get_mut(&place).unwrap_or_else(|| panic!("{who}: {place:?} was not asked for"));
    let offset = record.offset();
    assert!(!committed_only || history.is_committed(number) == Some(true), "I-16: {who}: {written:?} is not committed");
    assert!(
        written.incarnation >= cursor.incarnation,
        "I-14: {who}: {written:?} is of a topic that is gone, and the user knows of the next: {cursor:?}"
    );
    if written.incarnation > cursor.incarnation {
        // Who has not seen the first one yet knows of no other.
        let is_first_seen = cursor.has_seen_nothing();
        assert!(cursor.is_told_of_another || is_first_seen, "I-14: {who}: {written:?} is of another topic: {cursor:?}");
        *cursor = Cursor::new(From::Offset(offset), cursor.since, written.incarnation);
    }
    assert!(cursor.got.insert(number), "{invariant}: {who}: {written:?} comes a second time: {cursor:?}");
    let lowest = cursor.lowest();
    assert!(offset >= lowest, "{invariant}: {who}: {written:?} comes behind offset {lowest}: {cursor:?}");
    let is_owed = |number: Number| cursor.wants(number, history) && history.is_visible(number, committed_only);
    let missed = history.left_out(place, lowest..offset, number, |number| {
        // Of what was written since a seek to the end, nobody knows on which side of the end it was.
        is_owed(number) && (cursor.first.is_some() || !matches!(cursor.from, From::End(_)))
    });
    assert!(
        missed.is_none(),
        "{invariant}: {who}: {written:?} was handed out, and {:?} was left out: {cursor:?}",
        missed.map(|number| &history.written[number])
    );
    let untold = history.deleted(place, lowest..offset, |before| {
        let before_it = &history.written[before];
        // A new leader's log may even end before the old one began.
        let was_lost_too =
            history.logs[&place].truncated.iter().any(|(at, end)| *at > before_it.at && *end <= before_it.offset);
        !was_lost_too
            && is_owed(before)
            && cursor.first.is_some()
            && before_it.at <= written.at
            && !cursor.got.contains(&before)
    });
    assert!(
        untold.is_none(),
        "I-14: {who}: {written:?} was handed out, and nobody told that {:?} was deleted: {cursor:?}",
        untold.map(|number| &history.written[number])
    );
    cursor.first.get_or_insert(offset);
    cursor.next = Some(offset + 1);
}

fn place_of(record: RecordRef<'_>) -> Place {
    let topic = TOPICS.iter().map(|(topic, _)| *topic).find(|topic| *topic == record.topic());
    Place { topic: topic.unwrap(), partition: record.partition() }
}

/// Where to go on reading.
fn start(place: Place, history: &History, rng: &mut fastrand::Rng) -> (StartAt, From) {
    let log = &history.logs[&place];
    match rng.u32(0..10) {
        0 => (StartAt::Beginning, From::Beginning),
        1 => (StartAt::End, From::End(history.clock)),
        2..=4 if !log.live.is_empty() => {
            let at = rng.usize(0..log.live.len());
            let time = log.live.values().nth(at).map_or(0, |number| history.written[*number].timestamp);
            (StartAt::Timestamp(time), From::Time(time))
        }
        _ => {
            let at = rng.i64(log.start..=log.most_high.max(log.start));
            (StartAt::Offset(at), From::Offset(at))
        }
    }
}
