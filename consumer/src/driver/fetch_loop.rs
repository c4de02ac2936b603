//! The fetch loop of one broker: its own connection, its own fetch session, always one request ahead of the reader.
//!
//! The next request goes out when the last byte of an answer has been parsed, whether the reader has touched the answer or not. The
//! answer is read in 256 KiB chunks; a chunk's batches are handed over when it is full or the socket is dry, and after each the
//! loop yields: a socket that is always readable would otherwise keep the thread for 32 MB (tokio counts polls, not bytes).

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use milena_client::{
    Action, Backoff, Broker, Error, ErrorKind, Link, RefreshReason, Sleep, TopicPartition, Wire, action_for,
};
use milena_protocol::fetch::{
    self, Fetch, FetchEvent, FetchParser, FetchPartition, FetchTopic, FetchedPartition, ForgottenTopic,
};
use milena_protocol::records::{BatchError, RawBatch};
use milena_protocol::{ApiKey, ErrorCode, TopicKey};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use crate::IsolationLevel;
use crate::errors::UnreadableBatch;
use crate::fetch::aborted::Aborted;
use crate::fetch::budget::Reservation;
use crate::fetch::session::{Asked, Session};
use crate::metrics::Fetched;
use crate::partitions::{SlotId, Wanted, Watermarks};
use crate::shared::Shared;

/// How many bytes are read before their batches are handed over and other tasks have a turn.
const HAND_OVER_BYTES: usize = 256 << 10;
/// For how long a leader is read, and asked without a rack, after the follower that it named was of no use.
const LEADER_ONLY: Duration = Duration::from_secs(10);
/// How soon a broker is asked again for other partitions while the reader is busy with those it has.
const FULL_PAUSE: Duration = Duration::from_millis(20);
/// A broker that has nothing waits for records, and answers early once when a leader or a session changes. One that goes on doing so
/// does not wait at all.
const MOST_EARLY: u32 = 10;

/// Runs until its task is ended.
pub(crate) async fn run(shared: Arc<Shared>, broker: i32, bell: Arc<Notify>) {
    let mut fetcher = Fetcher {
        link: shared.link.clone(),
        broker,
        session: Session::default(),
        parser: FetchParser::new().counting(shared.pinned.clone()),
        backoff: Backoff::RETRY,
        in_vain: Backoff::RETRY,
        early: 0,
        full_requests: 0,
        rng: shared.link.rng(&format!("fetch-{broker}")),
        shared,
    };
    let mut wire: Option<Wire> = None;
    loop {
        let wanted = fetcher.shared.partitions().wanted_from(broker, fetcher.link.now());
        if wanted.partitions.is_empty() {
            fetcher.wait(&bell, wanted.rest_until).await;
            continue;
        }
        let mut connected = match wire.take() {
            Some(wire) => wire,
            None => match fetcher.link.open(broker).await {
                Ok(wire) => wire,
                Err(error) => {
                    fetcher.tell(&error, "no connection to fetch from");
                    fetcher.pause().await;
                    continue;
                }
            },
        };
        match fetcher.fetch(&mut connected).await {
            Ok(Round::Good) => wire = Some(connected),
            Ok(Round::Wait(until)) => {
                wire = Some(connected);
                fetcher.wait(&bell, Some(until)).await;
            }
            Err(error) => {
                fetcher.tell(&error, "the fetch connection is given up");
                fetcher.session.reset();
                fetcher.link.refresh_metadata(RefreshReason::Disconnected);
                fetcher.pause().await;
            }
        }
    }
}

/// How a request went.
enum Round {
    /// Ask again.
    Good,
    /// Ask again then, or when something has changed.
    Wait(Instant),
}

struct Fetcher {
    shared: Arc<Shared>,
    link: Link,
    broker: i32,
    session: Session,
    parser: FetchParser,
    backoff: Backoff,
    /// After answers without an error, and without anything that was asked for.
    in_vain: Backoff,
    /// Answers in a row that had nothing and came long before `max_wait`.
    early: u32,
    /// How many requests have named all partitions.
    full_requests: usize,
    rng: fastrand::Rng,
}

/// What one response is read into.
struct Response {
    shared: Arc<Shared>,
    version: i16,
    /// Slot and what was asked of it, by the topic as this version names it.
    index: BTreeMap<TopicKey, BTreeMap<i32, (SlotId, u32, Asked)>>,
    /// The whole of it is an error: whatever else stands in it means nothing.
    is_refused: bool,
    /// Nobody was to be named who is nearer than the leader.
    leader_only: bool,
    /// The partition whose batches come.
    current: Option<(SlotId, u32)>,
    /// Its next batch holds this offset, or a later one.
    expected: i64,
    /// A batch of it that was there held neither.
    is_misplaced: bool,
    /// Which batches of that partition are not for a reader of committed records.
    aborted: Aborted,
    /// What was parsed and not handed over.
    arrived: Vec<(SlotId, u32, Arrived)>,
    batches: usize,
    /// Whether any of it was new.
    is_useful: bool,
    /// Whether a batch was cut off at a limit.
    is_cut: bool,
    bytes: u64,
    records: u64,
    hints: Vec<(TopicPartition, i32, i32)>,
    /// An error was told; metadata may be old.
    refresh: bool,
    throttle: Duration,
}

/// A piece of a partition.
enum Arrived {
    Batch(RawBatch),
    /// Nothing for the user in these offsets, of this epoch; the bytes are not kept.
    Hole((i64, i64), i32),
}

impl Drop for Response {
    fn drop(&mut self) {
        // The loop was ended in the middle: what had arrived was the queue's already, and never got there.
        let bytes = |arrived: &Arrived| match arrived {
            Arrived::Batch(batch) => batch.len() as i64,
            Arrived::Hole(..) => 0,
        };
        let bytes: i64 = self.arrived.iter().map(|(_, _, arrived)| bytes(arrived)).sum();
        if bytes > 0 {
            self.shared.budget.free(bytes);
            self.shared.metrics.stale_bytes.add(bytes as u64);
        }
    }
}

impl Fetcher {
    /// Waits until something changes, at most until `until`.
    async fn wait(&self, bell: &Notify, until: Option<Instant>) {
        match until {
            None => bell.notified().await,
            Some(until) => tokio::select! {
                biased;
                () = bell.notified() => {}
                () = self.link.sleep_until(until) => {}
            },
        }
    }

    /// Says what is wrong: aloud once, and then quietly until an answer has come.
    fn tell(&self, error: &Error, what: &str) {
        let broker = self.broker;
        self.shared.partitions().lose_replica(broker, self.link.now() + LEADER_ONLY);
        if self.backoff.failures() == 0 {
            tracing::warn!(%error, broker, "{what}");
        } else {
            tracing::debug!(%error, broker, "{what}");
        }
    }

    async fn pause(&mut self) {
        let until = self.link.now() + self.backoff.on_failure(&mut self.rng);
        self.link.sleep_until(until).await;
    }

    /// One request and its answer. An error means that the connection is of no use any more.
    async fn fetch(&mut self, wire: &mut Wire) -> Result<Round, Error> {
        let shared = self.shared.clone();
        let config = &shared.config;
        // A share each: what a loop has reserved, it holds for as long as its broker waits for news.
        let share = shared.budget.limit() / shared.partitions().loops();
        let is_hungry = || shared.partitions().is_hungry(self.broker);
        let want = share.min(i64::from(config.max_bytes));
        let mut reservation = shared.budget.reserve(want, is_hungry, &shared.signals.hungry).await;
        // Time may have passed while waiting for room.
        let now = self.link.now();
        let mut wanted = shared.partitions().wanted_from(self.broker, now);
        let version = self.version(wire, &wanted)?;
        if version < 12 && !wanted.unvalidated.is_empty() {
            // This version cannot say where logs part.
            let mut partitions = shared.partitions();
            for (slot, generation) in wanted.unvalidated.drain(..) {
                partitions.await_validation(slot, generation);
                wanted.partitions.remove(&slot);
            }
        }
        if wanted.partitions.is_empty() {
            return Ok(Round::Good);
        }
        let mut max_wait = config.max_wait;
        if wanted.some_are_full {
            // The reader will make room sooner than a broker without news answers.
            max_wait = Duration::ZERO;
        } else if let Some(until) = wanted.rest_until {
            max_wait = max_wait.min(until.saturating_duration_since(now));
        }
        let deadline = now + max_wait + self.link.request_timeout();
        let mut response = self.submit(wire, &wanted, version, max_wait, reservation.left(), deadline)?;
        self.shared.metrics.on_fetch_sent(now);
        let received = self.receive(wire, &mut response, &mut reservation, deadline).await;
        // Also when the connection broke: whole batches are good, and need not be fetched again.
        self.hand_over(&mut response);
        received?;
        drop(reservation);
        let answered = self.link.now();
        let (lag, lead) = shared.partitions().worst_places();
        let fetched = Fetched {
            latency: answered - now,
            throttle: response.throttle,
            bytes: response.bytes,
            records: response.records,
            lag,
            lead,
        };
        shared.metrics.on_fetch_answered(fetched, answered);
        let is_early = response.batches == 0 && config.min_bytes > 0 && answered - now < max_wait / 2;
        self.early = if is_early { self.early + 1 } else { 0 };
        if response.refresh {
            self.link.refresh_metadata(RefreshReason::NotLeader);
        }
        let now = self.link.now();
        Ok(if !response.throttle.is_zero() {
            // KIP-219: the broker has answered already and asks to be left alone.
            self.link.sleep_until(now + response.throttle).await;
            Round::Good
        } else if wanted.some_are_full && response.batches == 0 {
            Round::Wait(now + FULL_PAUSE)
        } else if !response.is_useful && (response.batches > 0 || response.is_cut || self.early > MOST_EARLY) {
            // Nothing that was asked for, and at once: a broker that does so would be asked without a pause. (A seek in between rings.)
            Round::Wait(now + self.in_vain.on_failure(&mut self.rng))
        } else {
            self.in_vain.on_success();
            Round::Good
        })
    }

    fn submit(
        &mut self,
        wire: &mut Wire,
        wanted: &Wanted,
        version: i16,
        max_wait: Duration,
        max_bytes: i64,
        deadline: Instant,
    ) -> Result<Response, Error> {
        let config = &self.shared.config;
        let request = self.session.build(wanted.partitions.iter().map(|(slot, (asked, _))| (*slot, *asked)).collect());
        let names: BTreeMap<SlotId, TopicPartition> = {
            let partitions = self.shared.partitions();
            let all = wanted.partitions.keys().chain(request.forget.iter().map(|(slot, _)| slot));
            all.map(|slot| (*slot, partitions.tp(*slot).clone())).collect()
        };
        // A broker fills its answer in the order in which it is asked, and sends only the first partition more than its limit. In a session
        // it takes turns itself.
        let mut send = request.send;
        if request.id == 0 && !send.is_empty() {
            let first = self.full_requests % send.len();
            send.rotate_left(first);
            self.full_requests += 1;
        }
        let mut topics: Vec<FetchTopic<'_>> = Vec::new();
        let mut places: BTreeMap<(&str, Uuid), usize> = BTreeMap::new();
        for slot in &send {
            let (asked, tp) = (wanted.partitions[slot].0, &names[slot]);
            let at = *places.entry((&tp.topic, asked.topic_id)).or_insert_with(|| {
                topics.push(FetchTopic { topic: &tp.topic, topic_id: asked.topic_id, partitions: Vec::new() });
                topics.len() - 1
            });
            topics[at].partitions.push(FetchPartition {
                partition: tp.partition,
                leader_epoch: asked.leader_epoch,
                offset: asked.offset,
                last_fetched_epoch: asked.last_epoch,
                max_bytes: asked.max_bytes,
            });
        }
        let mut forgotten: BTreeMap<(&str, Uuid), Vec<i32>> = BTreeMap::new();
        for (slot, topic_id) in &request.forget {
            let tp = &names[slot];
            forgotten.entry((&tp.topic, *topic_id)).or_default().push(tp.partition);
        }
        let forgotten: Vec<ForgottenTopic<'_>> = forgotten
            .into_iter()
            .map(|((topic, topic_id), partitions)| ForgottenTopic { topic, topic_id, partitions })
            .collect();
        let body = Fetch {
            // Rounded up: a wait that is cut to nothing would ask again and again until its time has come.
            max_wait_ms: i32::try_from(max_wait.as_micros().div_ceil(1000)).unwrap_or(i32::MAX),
            min_bytes: config.min_bytes,
            max_bytes: i32::try_from(max_bytes).unwrap_or(i32::MAX),
            read_committed: config.isolation == IsolationLevel::ReadCommitted,
            session_id: request.id,
            session_epoch: request.epoch,
            topics: &topics,
            forgotten: &forgotten,
            rack: if wanted.leader_only { "" } else { &config.rack },
        }
        .encode(version)?;
        wire.submit(ApiKey::FETCH, version, fetch::is_flexible(version), [body], deadline);

        let mut index: BTreeMap<TopicKey, BTreeMap<i32, (SlotId, u32, Asked)>> = BTreeMap::new();
        for (slot, (asked, generation)) in &wanted.partitions {
            let tp = &names[slot];
            let key =
                if fetch::by_id(version) { TopicKey::Id(asked.topic_id) } else { TopicKey::Name(tp.topic.clone()) };
            index.entry(key).or_default().insert(tp.partition, (*slot, *generation, *asked));
        }
        Ok(Response {
            shared: self.shared.clone(),
            version,
            index,
            is_refused: false,
            leader_only: wanted.leader_only,
            current: None,
            expected: 0,
            is_misplaced: false,
            aborted: Aborted::default(),
            arrived: Vec::new(),
            batches: 0,
            is_useful: false,
            is_cut: false,
            bytes: 0,
            records: 0,
            hints: Vec::new(),
            refresh: false,
            throttle: Duration::ZERO,
        })
    }

    /// The highest version both sides speak; with names where an id is not known.
    fn version(&self, wire: &Wire, wanted: &Wanted) -> Result<i16, Error> {
        let by_name = wanted.partitions.values().any(|(asked, _)| asked.topic_id.is_nil());
        let most = if by_name { 12 } else { *fetch::VERSIONS.end() };
        wire.versions()
            .range(ApiKey::FETCH)
            .map(|range| (range.min, range.max.min(most)))
            .filter(|(min, max)| min <= max && fetch::VERSIONS.contains(max))
            .map(|(_, max)| max)
            .ok_or_else(|| {
                let text = "the broker speaks no version of Fetch that this client does: it is too old or too new.";
                Error::new(ErrorKind::UnsupportedVersion, text).with_api(ApiKey::FETCH).with_broker(self.broker)
            })
    }

    async fn receive(
        &mut self,
        wire: &mut Wire,
        response: &mut Response,
        reservation: &mut Reservation<'_>,
        deadline: Instant,
    ) -> Result<(), Error> {
        let mut timer = self.link.sleep_until(deadline);
        let start = poll_fn(|cx| {
            // Both at once: a broker may answer before a large request is written to its end.
            if let Poll::Ready(Err(error)) = wire.poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
            match wire.poll_response_start(cx) {
                Poll::Ready(start) => Poll::Ready(start),
                Poll::Pending => timed_out(timer.as_mut(), cx, self.broker),
            }
        })
        .await?;
        self.parser.begin(response.version, start.len)?;
        let mut since = 0;
        loop {
            self.parse(response, reservation)?;
            if self.parser.is_done() {
                self.hand_over(response);
                return Ok(());
            }
            if since >= HAND_OVER_BYTES {
                self.hand_over(response);
                since = 0;
                tokio::task::yield_now().await;
            }
            since += poll_fn(|cx| {
                let wanted = self.parser.wanted();
                let buffer = self.parser.buffer();
                let room = wanted.min(buffer.capacity() - buffer.len());
                match wire.poll_body(cx, buffer, room) {
                    Poll::Ready(Ok(0)) => Poll::Ready(Err(self.cut_short())),
                    Poll::Ready(read) => Poll::Ready(read),
                    Poll::Pending => {
                        // The socket is dry: what is there is handed over now.
                        self.hand_over(response);
                        since = 0;
                        timed_out(timer.as_mut(), cx, self.broker)
                    }
                }
            })
            .await?;
        }
    }

    fn cut_short(&self) -> Error {
        let text = "the Fetch response ended before its content did, so the broker may be broken or not be Kafka: look at its log. The \
                    connection is given up, and the records are fetched again on a new one.";
        Error::new(ErrorKind::Malformed, text).with_api(ApiKey::FETCH).with_broker(self.broker)
    }

    fn parse(&mut self, response: &mut Response, reservation: &mut Reservation<'_>) -> Result<(), Error> {
        while let Some(event) = self.parser.next_event()? {
            match event {
                FetchEvent::Batch(batch) => {
                    reservation.arrived(batch.len() as i64);
                    self.shared.metrics.fetched_bytes.add(batch.len() as u64);
                    response.batches += 1;
                    response.bytes += batch.len() as u64;
                    response.records += u64::from(batch.count());
                    match response.current {
                        Some((slot, generation)) => self.on_batch(slot, generation, batch, response),
                        None => self.drop_batch(&batch),
                    }
                }
                FetchEvent::Head(head) => {
                    self.session.on_answer(head.error, head.session_id);
                    response.throttle = Duration::from_millis(u64::try_from(head.throttle_ms).unwrap_or(0));
                    self.on_head_error(head.error, response);
                }
                FetchEvent::Partition(partition) => self.on_partition(partition, response),
                FetchEvent::Hints(hints) => {
                    if let (Some((slot, _)), Some(leader)) = (response.current, hints.current_leader) {
                        let tp = self.shared.partitions().tp(slot).clone();
                        response.hints.push((tp, leader.leader_id, leader.leader_epoch));
                    }
                }
                FetchEvent::BadBatch(error) => {
                    if let Some((slot, generation)) = response.current {
                        self.on_bad_batch((slot, generation), None, error, response);
                    }
                }
                FetchEvent::End(end) => {
                    response.is_cut = end.cut_bytes > 0;
                    for (tp, leader, epoch) in response.hints.drain(..) {
                        let endpoint = end.node_endpoints.iter().find(|endpoint| endpoint.node_id == leader);
                        let endpoint = endpoint.and_then(|endpoint| {
                            Some(Broker {
                                id: endpoint.node_id,
                                host: endpoint.host.clone(),
                                port: u16::try_from(endpoint.port).ok()?,
                                rack: endpoint.rack.clone(),
                            })
                        });
                        self.link.update_leader(&tp.topic, tp.partition, leader, epoch, endpoint);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn on_batch(&mut self, slot: SlotId, generation: u32, batch: RawBatch, response: &mut Response) {
        if let Err((end, error)) = self.check_place(&batch, response) {
            self.drop_batch(&batch);
            self.on_bad_batch((slot, generation), end, error, response);
            response.current = None;
            return;
        }
        let hides = response.aborted.hides(&batch).and_then(|hides| {
            // Nobody will open it: its header alone says how far it goes.
            if hides && self.shared.config.check_crcs {
                batch.verify_crc()?;
            }
            Ok(hides)
        });
        match hides {
            Ok(false) => response.arrived.push((slot, generation, Arrived::Batch(batch))),
            Ok(true) => {
                self.shared.budget.free(batch.len() as i64);
                let range = (batch.base_offset(), batch.next_offset());
                response.arrived.push((slot, generation, Arrived::Hole(range, batch.leader_epoch())));
            }
            Err(error) => {
                self.shared.budget.free(batch.len() as i64);
                let end = UnreadableBatch::end_of(&batch, &error);
                self.on_bad_batch((slot, generation), end, error, response);
                // What follows might belong to a transaction whose end could not be read.
                response.current = None;
            }
        }
    }

    /// No broker sends a batch that ends before the offset that was asked for, or behind another one that goes further. If that is what a
    /// damaged header says, the batch is dropped; asked for again for ever, if it is the last one, and else left out, with nobody told.
    /// The checksum covers all of the header but the first offset: where that is what is wrong, the batch behind it shows it. The error
    /// comes with the offset at which reading goes on.
    fn check_place(&self, batch: &RawBatch, response: &mut Response) -> Result<(), (Option<i64>, BatchError)> {
        let base_offset = batch.base_offset();
        if batch.next_offset() <= response.expected {
            response.is_misplaced = true;
            return if self.shared.config.check_crcs {
                batch.verify_crc().map_err(|error| (None, error))
            } else {
                Ok(())
            };
        }
        if response.is_misplaced && base_offset > response.expected {
            let reason = "a batch in front of it lies before the offset that was asked for";
            return Err((Some(base_offset), BatchError::Malformed { base_offset, reason }));
        }
        response.expected = batch.next_offset();
        Ok(())
    }

    /// What comes next of the partition cannot be read; `end` is the offset behind it, if that is known.
    fn on_bad_batch(
        &mut self,
        (slot, generation): (SlotId, u32),
        end: Option<i64>,
        error: BatchError,
        response: &mut Response,
    ) {
        // Sound batches before it are handed over first.
        self.hand_over(response);
        let mut partitions = self.shared.partitions();
        let offset = partitions.fetch_offset(slot);
        let end = end.filter(|end| *end > offset);
        let error = UnreadableBatch::error(partitions.tp(slot).clone(), offset, end, error);
        let waker = partitions.stick_behind(slot, generation, error);
        drop(partitions);
        waker.into_iter().for_each(std::task::Waker::wake);
    }

    /// An error of the whole request: the session was reset, and the partitions are asked for again after a rest.
    fn on_head_error(&mut self, code: ErrorCode, response: &mut Response) {
        if code.is_none() {
            return;
        }
        tracing::debug!(%code, broker = self.broker, "the fetch was refused");
        response.is_refused = true;
        let sessions = [
            ErrorCode::FETCH_SESSION_ID_NOT_FOUND,
            ErrorCode::INVALID_FETCH_SESSION_EPOCH,
            ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR,
        ];
        response.refresh |= !sessions[..2].contains(&code);
        if !sessions.contains(&code) || self.backoff.failures() > 0 {
            response.throttle = response.throttle.max(self.backoff.on_failure(&mut self.rng));
        } else {
            // A lost session is replaced at once; losing one after the other is not a loop without a pause.
            self.backoff.on_failure(&mut self.rng);
        }
    }

    fn on_partition(&mut self, mut head: FetchedPartition, response: &mut Response) {
        // Each answer names all aborted transactions that its records may hold pieces of.
        response.aborted = Aborted::new(std::mem::take(&mut head.aborted), self.shared.config.check_crcs);
        if response.is_refused {
            response.current = None;
            return;
        }
        let found = response.index.get(&head.topic).and_then(|topic| topic.get(&head.partition)).copied();
        response.current = found.map(|(slot, generation, _)| (slot, generation));
        (response.expected, response.is_misplaced) = (found.map_or(0, |(.., asked)| asked.offset), false);
        let Some((slot, generation, asked)) = found else {
            // The broker's session is not the one that is meant, and it might answer at once for ever.
            self.session.reset();
            response.throttle = response.throttle.max(self.backoff.on_failure(&mut self.rng));
            return;
        };
        if head.error.is_none() {
            self.backoff.on_success();
            let marks = Watermarks {
                high: head.high_watermark,
                last_stable: head.last_stable_offset,
                log_start: head.log_start_offset,
            };
            if let Some(parted) = head.hints.diverging_epoch.filter(|parted| parted.end_offset >= 0) {
                let policy = self.shared.policy();
                self.shared.change(|partitions| {
                    partitions.on_parted(slot, generation, (parted.epoch, parted.end_offset), policy)
                });
                return;
            }
            let mut partitions = self.shared.partitions();
            partitions.on_watermarks(slot, self.broker, asked.topic_id, &marks);
            partitions.on_fetched(slot, generation, asked.leader_epoch);
            drop(partitions);
            if let Some(replica) = head.preferred_read_replica.filter(|replica| *replica >= 0) {
                self.on_preferred(slot, generation, replica, response);
            }
            return;
        }
        tracing::debug!(code = %head.error, broker = self.broker, offset = asked.offset, "a partition was not fetched");
        // No broker sends records beside an error, and none are believed.
        response.current = None;
        let until = self.link.now() + self.backoff.on_failure(&mut self.rng);
        if let Some(leader) = head.hints.current_leader.filter(|leader| leader.leader_id >= 0) {
            let tp = self.shared.partitions().tp(slot).clone();
            response.hints.push((tp, leader.leader_id, leader.leader_epoch));
        }
        if self.shared.partitions().is_follower(slot, self.broker) {
            // Also where it has not got the offset: the leader knows.
            response.refresh |= action_for(Some(ApiKey::FETCH), head.error) == Action::RefreshMetadata;
            self.shared.partitions().read_leader(slot, self.link.now() + LEADER_ONLY);
            return;
        }
        if head.error == ErrorCode::OFFSET_OUT_OF_RANGE {
            // What was fetched before is still good; the question is asked again when it has been read.
            let mut partitions = self.shared.partitions();
            if !partitions.out_of_range(slot, generation, asked.offset) {
                partitions.rest(slot, generation, until);
            }
            return;
        }
        match action_for(Some(ApiKey::FETCH), head.error) {
            Action::RefreshMetadata => {
                response.refresh = true;
                self.shared.partitions().rest(slot, generation, until);
            }
            Action::Fail if head.error != ErrorCode::UNKNOWN_SERVER_ERROR => {
                let tp = self.shared.partitions().tp(slot).clone();
                let error =
                    Error::from_code(ApiKey::FETCH, head.error).with_topic_partition(tp).with_broker(self.broker);
                self.shared.change(|partitions| partitions.stick(slot, generation, error));
            }
            // Before v13 a topic that was made anew shows only so.
            _ => {
                response.refresh |= head.error == ErrorCode::UNKNOWN_LEADER_EPOCH;
                self.shared.partitions().rest(slot, generation, until);
            }
        }
    }

    /// The leader has given nothing, but the name of a follower that is nearer (KIP-392).
    fn on_preferred(&mut self, slot: SlotId, generation: u32, replica: i32, response: &mut Response) {
        let now = self.link.now();
        if response.leader_only {
            // Somebody is named though nobody was asked for: that would go on without a pause.
            let until = now + self.in_vain.on_failure(&mut self.rng);
            self.shared.partitions().rest(slot, generation, until);
            return;
        }
        let mut partitions = self.shared.partitions();
        if replica == self.broker || partitions.is_follower(slot, self.broker) {
            // Only a leader names somebody, and somebody else.
            partitions.read_leader(slot, now + LEADER_ONLY);
        } else if self.link.metadata_ref().brokers.contains_key(&replica) {
            partitions.prefer(slot, generation, replica, now + self.link.metadata_max_age());
        } else {
            response.refresh = true;
            partitions.read_leader(slot, now + LEADER_ONLY);
        }
    }

    /// Queues what was parsed and wakes the reader, once.
    fn hand_over(&self, response: &mut Response) {
        if response.arrived.is_empty() {
            return;
        }
        let mut partitions = self.shared.partitions();
        let mut unwanted = 0;
        for (slot, generation, arrived) in response.arrived.drain(..) {
            match arrived {
                Arrived::Batch(batch) => {
                    let bytes = batch.len() as i64;
                    if partitions.queue(slot, generation, batch) {
                        response.is_useful = true;
                    } else {
                        unwanted += bytes;
                    }
                }
                Arrived::Hole(range, epoch) => {
                    response.is_useful |= partitions.queue_hole(slot, generation, range, epoch);
                }
            }
        }
        let reader = partitions.take_reader();
        drop(partitions);
        if unwanted > 0 {
            self.shared.budget.free(unwanted);
            self.shared.metrics.stale_bytes.add(unwanted as u64);
        }
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn drop_batch(&self, batch: &RawBatch) {
        self.shared.budget.free(batch.len() as i64);
        self.shared.metrics.stale_bytes.add(batch.len() as u64);
    }
}

/// Ready with an error once the request is past its deadline.
fn timed_out<T>(timer: Pin<&mut Sleep>, cx: &mut Context<'_>, broker: i32) -> Poll<Result<T, Error>> {
    timer.poll(cx).map(|()| {
        let text = "the broker did not answer in time when it was asked for records: it may be overloaded or frozen, or the network is cut. \
                    Look at its log. The records are fetched again on a new connection.";
        Err(Error::new(ErrorKind::Timeout, text).with_api(ApiKey::FETCH).with_broker(broker))
    })
}
