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

use milena_client::{Action, Backoff, Broker, Error, ErrorKind, Link, RefreshReason, TopicPartition, Wire, action_for};
use milena_protocol::fetch::{
    self, Fetch, FetchEvent, FetchParser, FetchPartition, FetchTopic, FetchedPartition, ForgottenTopic,
};
use milena_protocol::records::{BatchError, RawBatch};
use milena_protocol::{ApiKey, ErrorCode, TopicKey};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use crate::IsolationLevel;
use crate::fetch::aborted::Aborted;
use crate::fetch::budget::Reservation;
use crate::fetch::session::{Asked, Session};
use crate::partitions::{SlotId, Wanted, Watermarks};
use crate::shared::{Shared, batch_error_at};

/// How many bytes are read before their batches are handed over and other tasks have a turn.
const HAND_OVER_BYTES: usize = 256 << 10;
/// How soon a broker is asked again for other partitions while the reader is busy with those it has.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// Runs until its task is ended.
pub(crate) async fn run(shared: Arc<Shared>, broker: i32, bell: Arc<Notify>) {
    let mut fetcher = Fetcher {
        link: shared.link.clone(),
        broker,
        session: Session::default(),
        parser: FetchParser::new(),
        backoff: Backoff::RETRY,
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
    rng: fastrand::Rng,
}

/// What one response is read into.
struct Response {
    shared: Arc<Shared>,
    version: i16,
    /// Slot and what was asked of it, by the topic as this version names it.
    index: BTreeMap<TopicKey, BTreeMap<i32, (SlotId, u32, Asked)>>,
    /// The partition whose batches come.
    current: Option<(SlotId, u32)>,
    /// Which batches of that partition are not for a reader of committed records.
    aborted: Aborted,
    /// What was parsed and not handed over.
    arrived: Vec<(SlotId, u32, Arrived)>,
    batches: usize,
    hints: Vec<(TopicPartition, i32, i32)>,
    /// An error was told; metadata may be old.
    refresh: bool,
    throttle: Duration,
}

/// A piece of a partition.
enum Arrived {
    Batch(RawBatch),
    /// Nothing for the user up to this offset; the bytes are not kept.
    Hole(i64),
}

impl Drop for Response {
    fn drop(&mut self) {
        // The loop was ended in the middle: what had arrived was the queue's already, and never got there.
        let bytes = |arrived: &Arrived| match arrived {
            Arrived::Batch(batch) => batch.len() as i64,
            Arrived::Hole(_) => 0,
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
        let config = &self.shared.config;
        let shared = self.shared.clone();
        // A share each: what a loop has reserved, it holds for as long as its broker waits for news.
        let share = shared.budget.limit() / shared.partitions().loops();
        let mut reservation = shared.budget.reserve(share.min(i64::from(config.max_bytes))).await;
        // Time may have passed while waiting for room.
        let now = self.link.now();
        let wanted = shared.partitions().wanted_from(self.broker, now);
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
        let mut response = self.submit(wire, &wanted, max_wait, reservation.left(), deadline)?;
        self.shared.metrics.fetches.add(1);
        let received = self.receive(wire, &mut response, &mut reservation, deadline).await;
        // Also when the connection broke: whole batches are good, and need not be fetched again.
        self.hand_over(&mut response);
        received?;
        drop(reservation);
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
        } else {
            Round::Good
        })
    }

    fn submit(
        &mut self,
        wire: &mut Wire,
        wanted: &Wanted,
        max_wait: Duration,
        max_bytes: i64,
        deadline: Instant,
    ) -> Result<Response, Error> {
        let config = &self.shared.config;
        let version = self.version(wire, wanted)?;
        let request = self.session.build(wanted.partitions.iter().map(|(slot, (asked, _))| (*slot, *asked)).collect());
        let names: BTreeMap<SlotId, TopicPartition> = {
            let partitions = self.shared.partitions();
            let all = wanted.partitions.keys().chain(request.forget.iter().map(|(slot, _)| slot));
            all.map(|slot| (*slot, partitions.tp(*slot).clone())).collect()
        };
        let mut topics: BTreeMap<(&str, Uuid), Vec<FetchPartition>> = BTreeMap::new();
        for slot in &request.send {
            let (asked, tp) = (wanted.partitions[slot].0, &names[slot]);
            topics.entry((&tp.topic, asked.topic_id)).or_default().push(FetchPartition {
                partition: tp.partition,
                leader_epoch: asked.leader_epoch,
                offset: asked.offset,
                // Only followers let the fetch find where logs diverge.
                last_fetched_epoch: -1,
                max_bytes: asked.max_bytes,
            });
        }
        let mut forgotten: BTreeMap<(&str, Uuid), Vec<i32>> = BTreeMap::new();
        for (slot, topic_id) in &request.forget {
            let tp = &names[slot];
            forgotten.entry((&tp.topic, *topic_id)).or_default().push(tp.partition);
        }
        let topics: Vec<FetchTopic<'_>> = topics
            .into_iter()
            .map(|((topic, topic_id), partitions)| FetchTopic { topic, topic_id, partitions })
            .collect();
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
            rack: "",
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
            current: None,
            aborted: Aborted::default(),
            arrived: Vec::new(),
            batches: 0,
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
                        self.on_bad_batch(slot, generation, error, response);
                    }
                }
                FetchEvent::End(end) => {
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
        match response.aborted.hides(&batch) {
            Ok(false) => response.arrived.push((slot, generation, Arrived::Batch(batch))),
            Ok(true) => {
                self.shared.budget.free(batch.len() as i64);
                response.arrived.push((slot, generation, Arrived::Hole(batch.next_offset())));
            }
            Err(error) => {
                self.shared.budget.free(batch.len() as i64);
                self.on_bad_batch(slot, generation, error, response);
                // What follows might belong to a transaction whose end could not be read.
                response.current = None;
            }
        }
    }

    fn on_bad_batch(&mut self, slot: SlotId, generation: u32, error: BatchError, response: &mut Response) {
        // Sound batches before it are handed over first.
        self.hand_over(response);
        let mut partitions = self.shared.partitions();
        let error = batch_error_at(partitions.tp(slot).clone(), partitions.fetch_offset(slot), error);
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
        let found = response.index.get(&head.topic).and_then(|topic| topic.get(&head.partition)).copied();
        response.current = found.map(|(slot, generation, _)| (slot, generation));
        let Some((slot, generation, asked)) = found else { return };
        if head.error.is_none() {
            self.backoff.on_success();
            let marks = Watermarks {
                high: head.high_watermark,
                last_stable: head.last_stable_offset,
                log_start: head.log_start_offset,
            };
            self.shared.partitions().on_watermarks(slot, generation, &marks);
            return;
        }
        tracing::debug!(code = %head.error, broker = self.broker, offset = asked.offset, "a partition was not fetched");
        let until = self.link.now() + self.backoff.on_failure(&mut self.rng);
        if let Some(leader) = head.hints.current_leader.filter(|leader| leader.leader_id >= 0) {
            let tp = self.shared.partitions().tp(slot).clone();
            response.hints.push((tp, leader.leader_id, leader.leader_epoch));
        }
        if head.error == ErrorCode::OFFSET_OUT_OF_RANGE {
            return self.on_out_of_range(slot, generation, asked.offset, until);
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
            _ => self.shared.partitions().rest(slot, generation, until),
        }
    }

    fn on_out_of_range(&self, slot: SlotId, generation: u32, asked: i64, until: Instant) {
        let reset = self.shared.config.reset;
        self.shared.change(|partitions| {
            if !partitions.has_handed_out_all_below(slot, generation, asked) {
                // What was fetched before is still good; the question is asked again when it has been read.
                partitions.rest(slot, generation, until);
                return None;
            }
            let tp = partitions.tp(slot).clone();
            match reset.start() {
                Some(start) => {
                    tracing::warn!(%tp, offset = asked, ?reset, "the log does not have the offset; the position is reset");
                    partitions.reset(slot, generation, start);
                    None
                }
                None => {
                    let error = Error::from_code(ApiKey::FETCH, ErrorCode::OFFSET_OUT_OF_RANGE);
                    partitions.stick(slot, generation, error.with_topic_partition(tp))
                }
            }
        });
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
                    if !partitions.queue(slot, generation, batch) {
                        unwanted += bytes;
                    }
                }
                Arrived::Hole(to) => partitions.queue_hole(slot, generation, to),
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
fn timed_out<T>(timer: Pin<&mut tokio::time::Sleep>, cx: &mut Context<'_>, broker: i32) -> Poll<Result<T, Error>> {
    timer.poll(cx).map(|()| {
        let text = "the broker did not answer in time when it was asked for records: it may be overloaded or frozen, or the network is cut. \
                    Look at its log. The records are fetched again on a new connection.";
        Err(Error::new(ErrorKind::Timeout, text).with_api(ApiKey::FETCH).with_broker(broker))
    })
}
