//! The task of one broker: its connection, what is under way on it, and the loop around them. What it sends is put together in
//! [`requests`], and what comes back is taken in by [`answers`].
//!
//! One `poll` looks at everything: the bell, answers, time-outs, lingers, what can be sent, the socket. No `select!`, no channel and
//! no second task stands between the batches and the socket.

#![expect(clippy::disallowed_methods, reason = "a driver: it reads the clock and awaits sockets and timers")]

mod answers;
mod requests;

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use milena_client::{Backoff, Error, RefreshReason, RequestId, Sleep, Wire};
use tokio::time::Instant;
use uuid::Uuid;

use crate::accumulator::Part;
use crate::broker::Broker;
use crate::config::Acks;
use crate::metrics::SentBatch;
use crate::sequence::Ticket;
use crate::shared::Shared;

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
    /// While it speaks no version of Produce that this client does.
    no_version: Backoff,
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
    /// Counted once its request is on its way, which it may not get to be.
    sent: SentBatch,
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

/// A broker that says nothing for so long may be frozen. Much less than an election takes, so that nothing waits long after one.
const SILENCE: Duration = Duration::from_secs(1);
/// Turns of the loop in one poll, so that other tasks of the thread get theirs.
const TURNS: usize = 32;

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
            no_version: Backoff::RETRY,
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
