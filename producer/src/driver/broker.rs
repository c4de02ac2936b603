//! The task of one broker: its connection, what is under way on it, and the loop around them.
//!
//! One `poll` looks at everything: the bell, answers, time-outs, lingers, what can be sent, the socket. No `select!`, no channel and
//! no second task stands between the batches and the socket.

#![expect(clippy::disallowed_methods, reason = "a driver: it reads the clock and awaits sockets and timers")]

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use milena_client::{Error, ErrorKind, Outcome, RefreshReason, RequestId, Wire};
use milena_protocol::produce::{self, PartitionBatch, Produce, Produced, ProducedPartition};
use milena_protocol::records::Compression;
use milena_protocol::{ApiKey, ErrorCode};
use tokio::time::{Instant, Sleep};
use uuid::Uuid;

use super::prepare;
use crate::accumulator::{Batch, Filling, Notice, Part, PartState};
use crate::broker::Broker;
use crate::config::Acks;
use crate::delivery::Ending;
use crate::sequence::{Answer, Next, Stamp, Ticket};
use crate::shared::Shared;
use crate::transaction::Transactional;

/// Runs until the producer ends.
pub(crate) async fn run(shared: Arc<Shared>, broker: Arc<Broker>) {
    let mut task = Task::new(shared, broker);
    std::future::poll_fn(|cx| task.poll(cx)).await;
}

struct Task {
    shared: Arc<Shared>,
    broker: Arc<Broker>,
    connection: Connection,
    /// Partitions with something to send, in turn: whoever was served goes to the back.
    ready: VecDeque<Arc<Part>>,
    /// Partitions that wait for a back-off. The number keeps those of the same instant apart.
    resting: BTreeMap<(Instant, u64), Arc<Part>>,
    next_rest: u64,
    /// Requests without an answer, oldest first: a broker answers in order.
    flights: VecDeque<Flight>,
    /// A request that is still being put together, while compression gives the socket its turns.
    building: Option<Flight>,
    /// Emptied lists of requests that have ended.
    spare: Vec<Vec<Entry>>,
    /// When the broker last answered, or was last suspected.
    heard_at: Option<Instant>,
    /// KIP-219: the broker asks to be left alone until then.
    muted_until: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    /// When `timer` fires; it is only moved to fire earlier, or again.
    timer_at: Option<Instant>,
    /// No answer has come since the connection was lost or could not be made.
    is_in_trouble: bool,
    /// Since when something is asked of the broker to which it has not answered; see `watch_silence`.
    silent_since: Option<Instant>,
    /// It has answered since that was looked at last.
    has_answered: bool,
    rng: fastrand::Rng,
}

enum Connection {
    Closed,
    Opening(Pin<Box<dyn Future<Output = Result<Wire, Error>> + Send>>),
    Open(Box<Wire>),
}

/// A request on its way, or about to be.
struct Flight {
    id: Option<RequestId>,
    version: i16,
    gather: u64,
    bytes: usize,
    records: u32,
    sent: Instant,
    entries: Vec<Entry>,
}

/// One batch in a request.
struct Entry {
    part: Arc<Part>,
    /// Taken when the answer for it has been found.
    ticket: Option<Ticket>,
    bytes: Bytes,
    topic_id: Uuid,
}

/// What became of a partition whose turn it was.
enum Turn {
    Took,
    Nothing,
    /// One of its batches is being compressed elsewhere, and there may be more to do about it at once.
    Handed,
    /// It must wait for the next request, or for something else; it stays in front.
    NotNow,
}

/// Above this, compression by a quick codec takes longer than an answer should have to wait, and handing it to another thread pays
/// (measured: +50 % at 16 KiB, +15 % at 64 KiB). The codecs that are not quick always go to the other thread.
const COMPRESS_HERE: usize = 64 * 1024;
/// A broker that says nothing for so long may be frozen. Much less than an election takes, so that nothing waits long after one.
const SILENCE: Duration = Duration::from_secs(1);
/// Turns of the loop in one poll, so that other tasks of the thread get theirs.
const TURNS: usize = 32;
/// A request that holds this much goes out even if more could be compressed for it.
const ENOUGH: usize = 64 * 1024;

impl Task {
    fn new(shared: Arc<Shared>, broker: Arc<Broker>) -> Self {
        let rng = shared.link.rng(&format!("produce/{}", broker.id));
        let timer = shared.link.sleep_until(shared.link.now());
        Self {
            shared,
            broker,
            connection: Connection::Closed,
            ready: VecDeque::new(),
            resting: BTreeMap::new(),
            next_rest: 0,
            flights: VecDeque::new(),
            building: None,
            spare: Vec::new(),
            heard_at: None,
            muted_until: None,
            timer,
            timer_at: None,
            is_in_trouble: false,
            silent_since: None,
            has_answered: false,
            rng,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..TURNS {
            let mut again = self.broker.answer(cx.waker());
            let now = Instant::now();
            again |= self.poll_opening(cx);
            self.poll_answers(cx, now);
            self.expire_requests(now);
            let linger_at = self.collect(now);
            again |= self.gather(now);
            again |= self.poll_flush(cx, now);
            self.watch_silence(now);
            let silent_at = self.suspect(now);
            again |= self.poll_timer(cx, now, [linger_at, silent_at]);
            if !again {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    // ---- the connection

    fn poll_opening(&mut self, cx: &mut Context<'_>) -> bool {
        let Connection::Opening(opening) = &mut self.connection else { return false };
        match opening.as_mut().poll(cx) {
            Poll::Pending => false,
            Poll::Ready(Ok(wire)) => {
                self.connection = Connection::Open(Box::new(wire));
                true
            }
            Poll::Ready(Err(error)) => {
                tracing::debug!(broker = self.broker.id, %error, "no connection for produce");
                self.on_trouble(Some(error));
                // The back-off is inside `open`; whether the partitions have moved meanwhile is seen when their turn comes.
                self.connection = Connection::Closed;
                true
            }
        }
    }

    /// Keeps what is wrong, for the records that are given up because of it; `None` when a broker has answered again.
    fn on_trouble(&mut self, trouble: Option<Error>) {
        if self.is_in_trouble || trouble.is_some() {
            self.is_in_trouble = trouble.is_some();
            *self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        }
    }

    /// Keeps since when the broker owes an answer or a connection, for whoever leaves out the partitions of a silent broker
    /// (`partitioner_availability_timeout`).
    fn watch_silence(&mut self, now: Instant) {
        if self.shared.config.partitioning.availability_timeout.is_zero() {
            return;
        }
        let is_connecting = matches!(self.connection, Connection::Opening(_));
        let has_work = !self.flights.is_empty() || !self.ready.is_empty() || !self.resting.is_empty();
        let since = match self.silent_since {
            // Nothing is owed: the next record may try it again.
            _ if !is_connecting && !has_work => None,
            Some(since) if !std::mem::take(&mut self.has_answered) => Some(since),
            _ => Some(now),
        };
        if since != self.silent_since {
            self.silent_since = since;
            self.broker.set_silent_since(since);
        }
    }

    fn open(&mut self) {
        let (link, id) = (self.shared.link.clone(), self.broker.id);
        self.connection = Connection::Opening(Box::pin(async move { link.open(id).await }));
    }

    fn poll_answers(&mut self, cx: &mut Context<'_>, now: Instant) {
        while let Connection::Open(wire) = &mut self.connection {
            match wire.poll_response(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok((id, body))) => self.on_response(id, &body, now),
                Poll::Ready(Err(error)) => self.on_lost(&error, now),
            }
        }
    }

    /// Writes what is queued; returns whether that has made room for more.
    fn poll_flush(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let Connection::Open(wire) = &mut self.connection else { return false };
        let was_idle = wire.is_write_idle();
        match wire.poll_flush(cx) {
            Poll::Pending => return false,
            Poll::Ready(Ok(())) if self.shared.config.acks == Acks::None => self.on_written(now),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => {
                self.on_lost(&error, now);
                return true;
            }
        }
        !was_idle && !self.ready.is_empty()
    }

    fn expire_requests(&mut self, now: Instant) {
        let Connection::Open(wire) = &self.connection else { return };
        if let Err(error) = wire.expire(now) {
            self.on_lost(&error, now);
        }
    }

    /// A frozen broker says nothing, and so does not say either that another one leads by now: while it is silent the others are asked.
    /// Returns when to look again.
    fn suspect(&mut self, now: Instant) -> Option<Instant> {
        let oldest = self.flights.front().filter(|_| self.shared.config.acks != Acks::None)?;
        let due = self.heard_at.map_or(oldest.sent, |heard| heard.max(oldest.sent)) + SILENCE;
        if now < due {
            return Some(due);
        }
        self.shared.link.refresh_metadata(RefreshReason::Silent);
        self.heard_at = Some(now);
        Some(now + SILENCE)
    }

    /// The connection is gone. Whatever was under way on it has no answer.
    fn on_lost(&mut self, error: &Error, now: Instant) {
        self.connection = Connection::Closed;
        let building = self.building.take();
        if self.flights.is_empty() && building.is_none() {
            return;
        }
        self.on_trouble(Some(error.clone()));
        tracing::debug!(broker = self.broker.id, requests = self.flights.len(), %error, "answers were lost");
        self.shared.metrics.on_requests_ended(self.flights.len());
        for flight in std::mem::take(&mut self.flights) {
            for entry in flight.entries {
                let Some(ticket) = entry.ticket else { continue };
                self.on_lost_attempt(&entry.part, ticket, now);
            }
        }
        for entry in building.into_iter().flat_map(|flight| flight.entries) {
            let Some(ticket) = entry.ticket else { continue };
            let mut state = entry.part.lock();
            let drained = state.window.on_unsent(ticket);
            self.requeue(&entry.part, &mut state, now);
            drop(state);
            self.shared.fail_drained(&entry.part, drained);
        }
        self.shared.link.refresh_metadata(RefreshReason::Disconnected);
    }

    fn on_lost_attempt(&mut self, part: &Arc<Part>, ticket: Ticket, now: Instant) {
        let mut state = part.lock();
        let drained = state.window.on_lost(ticket, now, &mut self.rng);
        self.requeue(part, &mut state, now);
        drop(state);
        self.shared.fail_drained(part, drained);
    }

    // ---- answers

    fn on_response(&mut self, id: RequestId, body: &Bytes, now: Instant) {
        // The wire has checked that it answers the oldest request.
        let Some(mut flight) = self.flights.pop_front() else { return };
        debug_assert_eq!(flight.id, Some(id));
        let produced = match Produced::decode(body, flight.version) {
            Ok(produced) => produced,
            Err(error) => {
                self.flights.push_front(flight);
                let error = Error::from(error).with_broker(self.broker.id);
                return self.on_lost(&error, now);
            }
        };
        self.on_trouble(None);
        self.heard_at = Some(now);
        self.has_answered = true;
        let throttle = Duration::from_millis(u64::try_from(produced.throttle_ms).unwrap_or(0));
        self.shared.metrics.on_requests_ended(1);
        self.shared.metrics.on_request_answered(now - flight.sent, throttle, now);
        if !throttle.is_zero() {
            self.muted_until = Some(now + throttle);
        }
        let mut at = 0;
        for answered in &produced.partitions {
            let Some(index) = flight.find(answered, at) else { continue };
            at = index + 1;
            if let Some(ticket) = flight.entries[index].ticket.take() {
                let part = flight.entries[index].part.clone();
                self.on_answer(&part, ticket, answered, &produced, now);
            }
        }
        for entry in &mut flight.entries {
            // A partition that the broker has not answered for.
            if let Some(ticket) = entry.ticket.take() {
                let part = entry.part.clone();
                self.on_lost_attempt(&part, ticket, now);
            }
        }
        flight.entries.clear();
        self.spare.push(flight.entries);
    }

    fn on_answer(
        &mut self,
        part: &Arc<Part>,
        ticket: Ticket,
        answered: &ProducedPartition,
        produced: &Produced,
        now: Instant,
    ) {
        let mut state = part.lock();
        let answer = state.window.on_answer(ticket, answered.error, now, &mut self.rng);
        self.requeue(part, &mut state, now);
        drop(state);
        match answer {
            Answer::Written(slot) => {
                let known = |value: i64| (value >= 0).then_some(value);
                let (base, append_time) = (known(answered.base_offset), known(answered.log_append_time));
                self.shared.end_batch(part, slot.count, slot.batch, Ending::Written { base, append_time });
            }
            Answer::Failed(slot, outcome) => {
                self.shared.count_failed(part, slot.count);
                let error = self.error(part, answered);
                let ending = Ending::Failed(error.clone().with_outcome(outcome));
                self.shared.end_batch(part, slot.count, slot.batch, ending);
                self.shared.on_records_failed(&error);
            }
            Answer::Split(number) => self.split(part, number, answered, now),
            Answer::Again | Answer::Ignored => {}
        }
        if answered.error.is_invalid_metadata() {
            self.on_old_metadata(part, answered, produced);
        }
    }

    fn error(&self, part: &Part, answered: &ProducedPartition) -> Error {
        let said = answered.record_errors.iter().find_map(|record| record.message.as_deref());
        let said = answered.error_message.as_deref().or(said);
        Error::from_code_and_message(ApiKey::PRODUCE, answered.error, said)
            .with_broker(self.broker.id)
            .with_topic_partition(part.topic_partition())
    }

    /// The broker says that it does not lead the partition, and since 3.7 also who does (KIP-951).
    fn on_old_metadata(&self, part: &Arc<Part>, answered: &ProducedPartition, produced: &Produced) {
        let link = &self.shared.link;
        if let Some(hint) = answered.current_leader.filter(|hint| hint.leader_id >= 0) {
            let endpoint = produced.node_endpoints.iter().find(|endpoint| endpoint.node_id == hint.leader_id);
            let endpoint = endpoint.and_then(|endpoint| {
                Some(milena_client::Broker {
                    id: endpoint.node_id,
                    host: endpoint.host.clone(),
                    port: u16::try_from(endpoint.port).ok()?,
                    rack: endpoint.rack.clone(),
                })
            });
            link.update_leader(&part.topic, part.id, hint.leader_id, hint.leader_epoch, endpoint);
        }
        link.refresh_metadata(RefreshReason::NotLeader);
        // The picture may name another one already, and then does not change any more.
        self.shared.follow(part);
    }

    fn split(&mut self, part: &Arc<Part>, number: u64, answered: &ProducedPartition, now: Instant) {
        let mut state = part.lock();
        let parts = match state.window.begin_preparing(number) {
            Some((batch, _)) => prepare::split(batch, &part.common.settings.codec, part.id),
            None => return,
        };
        let Some(parts) = parts else {
            let failed = state.window.split(number, []);
            state.window.on_gap();
            self.requeue(part, &mut state, now);
            drop(state);
            if let Some((count, batch)) = failed {
                let error = self.error(part, answered);
                self.shared.count_failed(part, count);
                let ending = Ending::Failed(error.clone().with_outcome(Outcome::NotWritten));
                self.shared.end_batch(part, count, batch, ending);
                self.shared.on_records_failed(&error);
            }
            return;
        };
        let whole = state.window.split(number, parts);
        self.requeue(part, &mut state, now);
        drop(state);
        tracing::debug!(topic = %part.topic, partition = part.id, "a batch was too large and is sent as two");
        self.shared.metrics.on_batch_split(now);
        if let Some(frozen) = whole.and_then(|(_, batch)| batch.frozen) {
            self.shared.pool.recycle(frozen.thaw().into_buf());
        }
    }

    /// With acks = 0: everything has been handed to the connection, and that is all there will be.
    fn on_written(&mut self, now: Instant) {
        for mut flight in std::mem::take(&mut self.flights) {
            self.shared.metrics.on_requests_ended(1);
            self.shared.metrics.on_request_answered(now - flight.sent, Duration::ZERO, now);
            for entry in flight.entries.drain(..) {
                let Some(ticket) = entry.ticket else { continue };
                let mut state = entry.part.lock();
                let answer = state.window.on_answer(ticket, ErrorCode::NONE, now, &mut self.rng);
                self.requeue(&entry.part, &mut state, now);
                drop(state);
                let part = entry.part.clone();
                drop(entry);
                if let Answer::Written(slot) = answer {
                    let ending = Ending::Written { base: None, append_time: None };
                    self.shared.end_batch(&part, slot.count, slot.batch, ending);
                }
            }
            self.spare.push(flight.entries);
        }
    }

    // ---- whose turn it is

    /// Whether this task sends for the partition.
    fn is_mine(&self, state: &PartState) -> bool {
        state.broker.as_ref().is_some_and(|broker| Arc::ptr_eq(broker, &self.broker))
    }

    /// Something about the partition has changed: has it queued, or woken later, if it has something to send.
    fn requeue(&mut self, part: &Arc<Part>, state: &mut PartState, now: Instant) {
        if !self.is_mine(state) {
            let mut notice = Notice::default();
            state.notify(&mut notice);
            if let Some(broker) = notice.ready {
                broker.push_ready(part.clone());
            }
            return;
        }
        if state.queued {
            return;
        }
        match state.next(part.sizes(), now) {
            Next::Blocked => {}
            Next::NotBefore(at) => self.rest(at, part),
            Next::Admit | Next::Prepare(_) | Next::Send(_) | Next::Bump => {
                state.queued = true;
                self.ready.push_back(part.clone());
            }
        }
    }

    fn rest(&mut self, until: Instant, part: &Arc<Part>) {
        self.next_rest += 1;
        self.resting.insert((until, self.next_rest), part.clone());
    }

    /// Takes in what the senders have queued and whose time has come. Returns the end of the next linger.
    fn collect(&mut self, now: Instant) -> Option<Instant> {
        let mut over = Vec::new();
        let broker = self.broker.clone();
        let mut queue = broker.queue();
        self.ready.append(&mut queue.ready);
        let next = queue.take_over(now, &mut over);
        drop(queue);
        for (number, part) in over {
            let mut state = part.lock();
            if self.is_mine(&state) && state.on_linger_over(Some(number)) {
                self.requeue(&part, &mut state, now);
            }
        }
        while let Some(first) = self.resting.first_entry().filter(|first| first.key().0 <= now) {
            let part = first.remove();
            let mut state = part.lock();
            if self.is_mine(&state) {
                self.requeue(&part, &mut state, now);
            }
        }
        next
    }

    /// Puts the next request together, if there is something to send and room on the connection. Returns whether there may be more
    /// to do once the socket has had its turn.
    fn gather(&mut self, now: Instant) -> bool {
        if self.ready.is_empty() && self.building.is_none() {
            return false;
        }
        if self.muted_until.is_some_and(|until| now < until) {
            return false;
        }
        self.muted_until = None;
        match &self.connection {
            Connection::Opening(_) => return false,
            Connection::Closed => {
                self.drop_foreign();
                if self.ready.is_empty() {
                    return false;
                }
                self.open();
                // Polled before anybody sleeps.
                return true;
            }
            // While a request is being written the next one can still grow.
            Connection::Open(wire) if !wire.is_write_idle() => return false,
            Connection::Open(_) if self.flights.len() >= self.shared.config.max_in_flight => return false,
            Connection::Open(_) => {}
        }
        let mut flight = self.building.take().unwrap_or_else(|| Flight {
            id: None,
            version: 0,
            gather: self.shared.next_gather(),
            bytes: 0,
            records: 0,
            sent: now,
            entries: self.spare.pop().unwrap_or_default(),
        });
        let mut may_compress = true;
        let (mut wants_more, mut handed) = (false, false);
        for _ in 0..self.ready.len() {
            let Some(part) = self.ready.pop_front() else { break };
            match self.turn(&part, &mut flight, &mut may_compress, now) {
                Turn::Took | Turn::Nothing => {}
                // Whoever finishes the compression does not ring for a partition that is in the queue: it must not be slept on.
                Turn::Handed => handed = true,
                Turn::NotNow => {
                    self.ready.push_front(part);
                    wants_more = !may_compress && flight.bytes < ENOUGH;
                    break;
                }
            }
        }
        if wants_more && (flight.entries.is_empty() || !self.flights.is_empty()) {
            // Nothing waits for this request but the network's turn: let it grow.
            self.building = Some(flight);
            return true;
        }
        if flight.entries.is_empty() {
            self.spare.push(flight.entries);
            return handed && !self.ready.is_empty();
        }
        self.submit(flight, now);
        !self.ready.is_empty()
    }

    /// Forgets partitions that another broker leads by now.
    fn drop_foreign(&mut self) {
        let mut ready = std::mem::take(&mut self.ready);
        ready.retain(|part| self.is_mine(&part.lock()));
        self.ready = ready;
    }

    /// A partition's turn: at most one of its batches goes into the request.
    fn turn(&mut self, part: &Arc<Part>, flight: &mut Flight, may_compress: &mut bool, now: Instant) -> Turn {
        let shared = self.shared.clone();
        let mut state = part.lock();
        if !self.is_mine(&state) {
            return Turn::Nothing;
        }
        if state.gathered == flight.gather {
            // Its next batch is for the next request.
            drop(state);
            self.ready.push_back(part.clone());
            return Turn::Nothing;
        }
        loop {
            match state.next(part.sizes(), now) {
                Next::Blocked => {
                    state.queued = false;
                    return Turn::Nothing;
                }
                Next::NotBefore(at) => {
                    state.queued = false;
                    self.rest(at, part);
                    return Turn::Nothing;
                }
                Next::Send(number) => {
                    let bytes = state.window.peek(number).map_or(0, |batch| batch.bytes);
                    if flight.bytes > 0 && flight.bytes + bytes > shared.config.max_request_size {
                        return Turn::NotNow;
                    }
                    state.queued = false;
                    if let Some((ticket, count, batch)) = state.window.send(number)
                        && let Some(frozen) = &batch.frozen
                    {
                        let again = ticket.is_again();
                        shared.metrics.on_batch_sent(&part.common.metrics, batch, count, again, now);
                        flight.bytes += bytes;
                        flight.records += count;
                        let bytes = frozen.bytes();
                        flight.entries.push(Entry {
                            part: part.clone(),
                            ticket: Some(ticket),
                            bytes,
                            topic_id: Uuid::nil(),
                        });
                    }
                    state.gathered = flight.gather;
                    self.requeue(part, &mut state, now);
                    return Turn::Took;
                }
                Next::Admit => {
                    if let Some(transaction) = &shared.transaction
                        && !transaction.join(part, &mut state)
                    {
                        // It is woken when the coordinator has taken it in.
                        state.queued = false;
                        return Turn::Nothing;
                    }
                    let bytes = state.new_bytes();
                    if flight.bytes > 0 && flight.bytes + bytes > shared.config.max_request_size {
                        return Turn::NotNow;
                    }
                    let identity = if state.window.needs_identity() {
                        match shared.identity() {
                            Some(identity) => Some(identity),
                            None => return Turn::NotNow,
                        }
                    } else {
                        None
                    };
                    let codec = &part.common.settings.codec;
                    let compresses = codec.compression != Compression::None;
                    let here = codec.compression.is_quick() && bytes < COMPRESS_HERE;
                    if here && !std::mem::replace(may_compress, false) {
                        return Turn::NotNow;
                    }
                    let Some(filling) = state.take_new(part.sizes()) else {
                        state.queued = false;
                        return Turn::Nothing;
                    };
                    let Filling { builder, done, charge, opened, closed, .. } = filling;
                    shared.metrics.on_batch_closed(closed, builder.len(), part.sizes().batch, now);
                    let deadline = opened + shared.config.delivery_timeout;
                    let batch = Batch { done, charge, opened, bytes, raw_bytes: builder.len(), frozen: None };
                    let (number, stamp) = state.window.admit(builder.count(), deadline, identity, now, batch);
                    drop(state);
                    if compresses && !here {
                        return self.compress_elsewhere(part, builder, number, stamp, now);
                    }
                    let mut compressor = if compresses { codec.take() } else { None };
                    let frozen = prepare::prepare(builder, compressor.as_mut(), &shared.pool, stamp);
                    compressor.into_iter().for_each(|compressor| codec.keep(compressor));
                    state = part.lock();
                    put_back(&mut state, number, frozen);
                }
                Next::Prepare(number) => {
                    let Some((batch, stamp)) = state.window.begin_preparing(number) else {
                        state.queued = false;
                        return Turn::Nothing;
                    };
                    let frozen = batch.frozen.take();
                    drop(state);
                    let frozen = frozen.map(|frozen| prepare::restamp(frozen, stamp));
                    state = part.lock();
                    if let Some(frozen) = frozen {
                        put_back(&mut state, number, frozen);
                    }
                }
                Next::Bump => {
                    let new = match state.window.identity() {
                        Some(used_up) if state.window.needs_new_producer_id() => match shared.identity_after(used_up) {
                            Some(new) => Some(new),
                            None => return Turn::NotNow,
                        },
                        _ => None,
                    };
                    let unknown = state.window.bump(new);
                    drop(state);
                    tracing::debug!(topic = %part.topic, partition = part.id, unknown = unknown.len(), "a new epoch begins");
                    for slot in unknown {
                        shared.count_failed(part, slot.count);
                        shared.end_batch(part, slot.count, slot.batch, Ending::Failed(lost_track(part)));
                    }
                    state = part.lock();
                }
            }
            if !self.is_mine(&state) {
                // It moved while its lock was free.
                state.queued = false;
                self.requeue(part, &mut state, now);
                return Turn::Nothing;
            }
        }
    }

    /// Has a large batch compressed on the client's CPU thread; the batch keeps its place meanwhile.
    fn compress_elsewhere(
        &mut self,
        part: &Arc<Part>,
        builder: milena_protocol::records::BatchBuilder,
        number: u64,
        stamp: Stamp,
        now: Instant,
    ) -> Turn {
        let (shared, of) = (self.shared.clone(), part.clone());
        self.shared.link.spawner().cpu(Box::new(move || {
            let codec = &of.common.settings.codec;
            let mut compressor = codec.take();
            let frozen = prepare::prepare(builder, compressor.as_mut(), &shared.pool, stamp);
            compressor.into_iter().for_each(|compressor| codec.keep(compressor));
            let mut notice = Notice::default();
            let mut state = of.lock();
            put_back(&mut state, number, frozen);
            state.notify(&mut notice);
            drop(state);
            shared.on_notice(&of, notice);
        }));
        let mut state = part.lock();
        state.queued = false;
        self.requeue(part, &mut state, now);
        Turn::Handed
    }

    fn submit(&mut self, mut flight: Flight, now: Instant) {
        let Connection::Open(wire) = &mut self.connection else { return };
        let shared = &self.shared;
        // Batches of one topic stand together; among them their order stays.
        if flight.entries.windows(2).any(|pair| !Arc::ptr_eq(&pair[0].part.topic, &pair[1].part.topic)) {
            flight.entries.sort_by(|a, b| a.part.topic.cmp(&b.part.topic));
        }
        let theirs = wire.versions().range(ApiKey::PRODUCE).map_or(*produce::VERSIONS.start(), |range| range.max);
        let newest = shared.transaction.as_ref().map_or(i16::MAX, Transactional::newest_produce);
        let mut version = theirs.min(*produce::VERSIONS.end()).min(newest);
        if version >= FIRST_BY_ID {
            let metadata = shared.link.metadata_ref();
            let mut last: Option<(Arc<str>, Uuid)> = None;
            for entry in &mut flight.entries {
                let id = match &last {
                    Some((topic, id)) if Arc::ptr_eq(topic, &entry.part.topic) => *id,
                    _ => metadata.topic(&entry.part.topic).map_or(Uuid::nil(), |topic| topic.id),
                };
                last = Some((entry.part.topic.clone(), id));
                entry.topic_id = id;
            }
            if flight.entries.iter().any(|entry| entry.topic_id.is_nil()) {
                version = FIRST_BY_ID - 1;
            }
        }
        let batches: Vec<PartitionBatch<'_>> = flight
            .entries
            .iter_mut()
            .map(|entry| PartitionBatch {
                topic: &entry.part.topic,
                topic_id: entry.topic_id,
                partition: entry.part.id,
                batch: std::mem::take(&mut entry.bytes),
            })
            .collect();
        let request = Produce {
            transactional_id: shared.transaction.as_ref().map(Transactional::id),
            acks: match shared.config.acks {
                Acks::None => 0,
                Acks::Leader => 1,
                Acks::All => -1,
            },
            timeout_ms: i32::try_from(shared.config.request_timeout.as_millis()).unwrap_or(i32::MAX),
            batches: &batches,
        };
        let chunks = match request.encode(version) {
            Ok(chunks) => chunks,
            Err(error) => {
                // The broker speaks no version that this client does: nothing on this connection can succeed.
                drop(batches);
                self.shared.metrics.on_request_sent(flight.records, now);
                self.flights.push_back(flight);
                return self.on_lost(&Error::new(ErrorKind::UnsupportedVersion, error.to_string()), now);
            }
        };
        let flexible = produce::is_flexible(version);
        flight.id = if shared.config.acks == Acks::None {
            wire.submit_without_response(ApiKey::PRODUCE, version, flexible, chunks);
            None
        } else {
            Some(wire.submit(ApiKey::PRODUCE, version, flexible, chunks, now + shared.config.request_timeout))
        };
        drop(batches);
        flight.version = version;
        flight.sent = now;
        shared.metrics.on_request_sent(flight.records, now);
        self.flights.push_back(flight);
    }

    /// Sleeps until something is due; returns whether something is.
    fn poll_timer(&mut self, cx: &mut Context<'_>, now: Instant, due: [Option<Instant>; 2]) -> bool {
        let wire = match &self.connection {
            Connection::Open(wire) => wire.next_deadline(),
            _ => None,
        };
        let rested = self.resting.first_key_value().map(|((at, _), _)| *at);
        let muted = self.muted_until.filter(|_| !self.ready.is_empty());
        let Some(at) = [wire, rested, muted].into_iter().chain(due).flatten().min() else { return false };
        if at <= now {
            return true;
        }
        if self.timer_at.is_none_or(|armed| at < armed || armed <= now) {
            self.timer.as_mut().reset(at);
            self.timer_at = Some(at);
        }
        match self.timer.as_mut().poll(cx) {
            Poll::Pending => false,
            Poll::Ready(()) => {
                self.timer_at = None;
                true
            }
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // Ended by a close: nobody waits for these answers any more.
        self.shared.metrics.on_requests_ended(self.flights.len());
    }
}

impl Flight {
    /// The batch that an answer is for. Brokers mostly answer in the order of the request.
    fn find(&self, answered: &ProducedPartition, guess: usize) -> Option<usize> {
        let is_it = |entry: &Entry| {
            use milena_protocol::TopicKey;
            entry.part.id == answered.partition
                && match &answered.topic {
                    TopicKey::Name(name) => *entry.part.topic == **name,
                    TopicKey::Id(id) => entry.topic_id == *id,
                }
        };
        match self.entries.get(guess) {
            Some(entry) if is_it(entry) => Some(guess),
            _ => self.entries.iter().position(is_it),
        }
    }
}

/// The batch is stamped; if it has ended meanwhile, its bytes are of no more use.
fn put_back(state: &mut PartState, number: u64, frozen: milena_protocol::records::FrozenBatch) {
    if let Some(batch) = state.window.prepared(number) {
        batch.bytes = frozen.len();
        batch.frozen = Some(frozen);
    }
}

fn lost_track(part: &Part) -> Error {
    Error::new(
        ErrorKind::Disconnected,
        "the broker has lost track of this producer while the record's fate was not known: it may or may not be in the log, and \
         sending it again could double it. Look it up, or send it again if doubling does no harm.",
    )
    .with_outcome(Outcome::Unknown)
    .with_topic_partition(part.topic_partition())
}

/// The first version that names topics by id.
const FIRST_BY_ID: i16 = 13;
