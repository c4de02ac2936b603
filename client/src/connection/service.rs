//! One shared connection as a `tower::Service<Call>`: requests from many tasks, pipelined, each with a deadline.
//!
//! Behind it stands one task for as long as its owner lives. It connects when the first call comes, fails every waiting call when
//! the connection is lost (their fate is then unknown) and connects again with the next call. A caller who goes away leaves its
//! request to be answered and forgotten: nobody else's request is disturbed.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use milena_protocol::{ApiKey, ApiVersions};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tower::Service;

use super::in_flight::RequestId;
use super::wire::Wire;
use crate::seam::spawner::Sleep;
use crate::{Error, ErrorKind};

/// Encodes a request once the broker's versions are known.
pub type Encode = Box<dyn FnOnce(&ApiVersions) -> Result<Encoded, Error> + Send>;

/// A request as it goes onto the wire.
#[derive(Debug)]
pub struct Encoded {
    /// The version.
    pub version: i16,
    /// Whether its header carries tags.
    pub flexible: bool,
    /// The message.
    pub body: Bytes,
}

/// A request to one broker. Layers see its API and deadline; its bytes exist once a connection has told its versions.
pub struct Call {
    /// The API.
    pub api: ApiKey,
    /// When the answer is due.
    pub deadline: Instant,
    /// Makes the bytes.
    pub encode: Encode,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("api", &self.api).field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// The answer to a [`Call`].
#[derive(Debug)]
pub struct Answer {
    /// The version of the request, in which the answer is written.
    pub version: i16,
    /// Header tags, if any, and the message.
    pub body: Bytes,
}

/// A handle to a connection's task.
#[derive(Debug, Clone)]
pub struct Connection {
    calls: mpsc::UnboundedSender<Queued>,
}

#[derive(Debug)]
pub(crate) struct Queued {
    call: Call,
    reply: Reply,
}

pub(crate) fn channel() -> (Connection, mpsc::UnboundedReceiver<Queued>) {
    // Unbounded, because each caller waits for its answer: what is queued is bounded by the callers.
    let (calls, queue) = mpsc::unbounded_channel();
    (Connection { calls }, queue)
}

impl Service<Call> for Connection {
    type Response = Answer;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let (reply, answer) = oneshot::channel();
        let sent = self.calls.send(Queued { call, reply });
        Box::pin(async move {
            sent.map_err(|_| closed())?;
            answer.await.unwrap_or_else(|_| Err(closed()))
        })
    }
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the client has been closed.")
}

/// What the task needs from the world.
pub(crate) trait Connect: Send + 'static {
    /// A ready wire, after the broker's reconnect back-off.
    fn connect(&self) -> impl Future<Output = Result<Wire, Error>> + Send;
    /// The error of a request that was due before there was a connection.
    fn too_late(&self, api: ApiKey) -> Error;
    /// A timer.
    fn sleep_until(&self, deadline: Instant) -> Pin<Box<Sleep>>;
    /// The time.
    fn now(&self) -> Instant;
}

/// The task of one connection.
pub(crate) async fn run(connect: impl Connect, mut queue: mpsc::UnboundedReceiver<Queued>) {
    let mut alarm = Alarm::default();
    while let Some(first) = queue.recv().await {
        if first.reply.is_closed() {
            continue;
        }
        let mut callers = VecDeque::from([first]);
        match connected(&connect, &mut queue, &mut callers, &mut alarm).await {
            Ok(wire) => {
                let mut driver = Driver { wire, replies: VecDeque::new() };
                callers.drain(..).for_each(|queued| driver.submit(queued));
                match driver.run(&connect, &mut queue, &mut alarm).await {
                    // Nobody can reach this connection any more, but some may wait for their answers.
                    Ok(()) => return driver.fail_all(&given_up()),
                    Err(error) => {
                        tracing::debug!(%error, "connection lost");
                        driver.fail_all(&error);
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%error, "connection failed");
                // Who came meanwhile hears it at once: their retry, with its back-off, is theirs.
                for queued in callers {
                    let _ = queued.reply.send(Err(error.clone()));
                }
            }
        }
    }
}

/// Connects, and meanwhile gathers those who call and sends away those whose deadline passes: setting a connection up may take
/// longer than a caller has time.
async fn connected(
    connect: &impl Connect,
    queue: &mut mpsc::UnboundedReceiver<Queued>,
    callers: &mut VecDeque<Queued>,
    alarm: &mut Alarm,
) -> Result<Wire, Error> {
    let mut connecting = pin!(connect.connect());
    poll_fn(|cx| {
        while let Poll::Ready(queued) = queue.poll_recv(cx) {
            match queued {
                Some(queued) => callers.push_back(queued),
                None => return Poll::Ready(Err(given_up())),
            }
        }
        if let Poll::Ready(result) = connecting.as_mut().poll(cx) {
            return Poll::Ready(result);
        }
        while alarm.poll(cx, callers.iter().map(|queued| queued.call.deadline).min(), connect).is_ready() {
            let now = connect.now();
            let (late, in_time): (VecDeque<_>, _) = callers.drain(..).partition(|queued| queued.call.deadline <= now);
            *callers = in_time;
            for queued in late {
                let _ = queued.reply.send(Err(connect.too_late(queued.call.api)));
            }
        }
        Poll::Pending
    })
    .await
}

fn given_up() -> Error {
    Error::new(
        ErrorKind::Disconnected,
        "the connection was given up, because the client starts again from its bootstrap servers.",
    )
}

/// One timer for all deadlines of a connection.
#[derive(Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready when it is `at`; never, without a deadline.
    fn poll(&mut self, cx: &mut Context<'_>, at: Option<Instant>, connect: &impl Connect) -> Poll<()> {
        let Some(at) = at else { return Poll::Pending };
        let sleep = self.0.get_or_insert_with(|| connect.sleep_until(at));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(cx)
    }
}

struct Driver {
    wire: Wire,
    replies: VecDeque<Waiting>,
}

/// Somebody who waits for an answer.
struct Waiting {
    id: RequestId,
    version: i16,
    reply: Reply,
}

type Reply = oneshot::Sender<Result<Answer, Error>>;

impl Driver {
    fn submit(&mut self, Queued { call, reply }: Queued) {
        if reply.is_closed() {
            return;
        }
        match (call.encode)(self.wire.versions()) {
            Ok(Encoded { version, flexible, body }) => {
                let id = self.wire.submit(call.api, version, flexible, [body], call.deadline);
                self.replies.push_back(Waiting { id, version, reply });
            }
            Err(error) => {
                let _ = reply.send(Err(error.with_broker(self.wire.broker_id())));
            }
        }
    }

    /// Runs until the queue ends (`Ok`) or the connection does (`Err`).
    async fn run(
        &mut self,
        connect: &impl Connect,
        queue: &mut mpsc::UnboundedReceiver<Queued>,
        alarm: &mut Alarm,
    ) -> Result<(), Error> {
        loop {
            match poll_fn(|cx| self.poll(cx, connect, queue, alarm)).await {
                Event::Call(queued) => self.submit(queued),
                Event::QueueEnded => return Ok(()),
                Event::Answered => {}
                Event::Failed(error) => return Err(error),
                Event::Late => self.wire.expire(connect.now())?,
            }
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        connect: &impl Connect,
        queue: &mut mpsc::UnboundedReceiver<Queued>,
        alarm: &mut Alarm,
    ) -> Poll<Event> {
        match queue.poll_recv(cx) {
            Poll::Ready(Some(queued)) => return Poll::Ready(Event::Call(queued)),
            Poll::Ready(None) => return Poll::Ready(Event::QueueEnded),
            Poll::Pending => {}
        }
        if let Poll::Ready(Err(error)) = self.wire.poll_flush(cx) {
            return Poll::Ready(Event::Failed(error));
        }
        match self.wire.poll_response(cx) {
            Poll::Ready(Ok((id, body))) => return Poll::Ready(self.answer(id, body)),
            Poll::Ready(Err(error)) => return Poll::Ready(Event::Failed(error)),
            Poll::Pending => {}
        }
        alarm.poll(cx, self.wire.next_deadline(), connect).map(|()| Event::Late)
    }

    fn answer(&mut self, id: RequestId, body: Bytes) -> Event {
        if let Some(waiting) = self.replies.pop_front() {
            debug_assert_eq!(waiting.id, id, "the wire has checked the order already");
            let _ = waiting.reply.send(Ok(Answer { version: waiting.version, body }));
        }
        Event::Answered
    }

    fn fail_all(&mut self, error: &Error) {
        for waiting in self.replies.drain(..) {
            let _ = waiting.reply.send(Err(error.clone()));
        }
    }
}

enum Event {
    Call(Queued),
    QueueEnded,
    Answered,
    Failed(Error),
    Late,
}
