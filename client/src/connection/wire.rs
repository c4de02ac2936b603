//! A connected, hand-shaken byte stream with requests in flight.
//!
//! A wire has no task: whoever owns it polls it, so a hot loop reads, writes and decides in one place without a channel between.
//! Request bytes are queued as chunks and written vectored, never copied. An answer is either taken whole
//! ([`Wire::poll_response`]) or as it arrives ([`Wire::poll_response_start`], [`Wire::poll_body`]), on one wire one way or the other.
//!
//! A broken frame, a wrong correlation id or a request past its deadline poisons the wire: nothing that comes later on it can be
//! trusted to be what it claims.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use milena_protocol::frame;
use milena_protocol::{ApiKey, ApiVersions};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::time::Instant;

use super::generation::Generation;
use super::in_flight::{InFlight, Pending, RequestId};
use crate::metrics::{Counter, Gauge};
use crate::seam::connector::BoxStream;
use crate::{Error, ErrorKind};

/// As many slices as one write takes; the kernel's own limit is 1,024.
const MAX_SLICES: usize = 64;
/// A frame's buffer grows by what has arrived, never by what was announced.
const READ_STEP: usize = 64 * 1024;
/// The length and the correlation id.
const START_BYTES: usize = 8;

/// A connection of one owner's own.
pub struct Wire {
    broker: i32,
    /// `host:port`, for errors.
    address: Arc<str>,
    client_id: Arc<str>,
    max_frame: usize,
    io: BoxStream,
    out: VecDeque<Bytes>,
    unflushed: bool,
    read: BytesMut,
    /// Of a response whose start has been read: the bytes still to come.
    body_left: Option<(RequestId, usize)>,
    /// The request of that response: its deadline is that of the last byte.
    arriving: Option<Pending>,
    in_flight: InFlight,
    versions: Arc<ApiVersions>,
    counters: WireCounters,
    generation: Generation,
}

/// What a wire counts: Java's node metrics.
#[derive(Debug, Clone, Default)]
pub(crate) struct WireCounters {
    pub(crate) requests: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) connections: Gauge,
}

/// The start of a response that is read as it arrives.
#[derive(Debug, Clone, Copy)]
pub struct ResponseStart {
    /// The request it answers.
    pub id: RequestId,
    /// Bytes that follow: header tags, if the version has them, and the message.
    pub len: usize,
}

impl Wire {
    pub(crate) fn new(
        io: BoxStream,
        broker: i32,
        address: Arc<str>,
        client_id: Arc<str>,
        max_frame: usize,
        counters: WireCounters,
        generation: Generation,
    ) -> Self {
        counters.connections.add(1);
        Self {
            broker,
            address,
            client_id,
            max_frame,
            io,
            out: VecDeque::new(),
            unflushed: false,
            read: BytesMut::new(),
            body_left: None,
            arriving: None,
            in_flight: InFlight::default(),
            versions: Arc::default(),
            counters,
            generation,
        }
    }

    /// What the broker speaks.
    pub fn versions(&self) -> &Arc<ApiVersions> {
        &self.versions
    }

    pub(crate) fn set_versions(&mut self, versions: Arc<ApiVersions>) {
        self.versions = versions;
    }

    /// The broker's id; negative while only its bootstrap address is known.
    pub fn broker_id(&self) -> i32 {
        self.broker
    }

    /// Queues a request: a header of the wire's own, then `chunks` as they are. [`poll_flush`](Self::poll_flush) writes it.
    ///
    /// `flexible` says whether the header of this version carries tags. The answer is due by `deadline`.
    pub fn submit(
        &mut self,
        api: ApiKey,
        version: i16,
        flexible: bool,
        chunks: impl IntoIterator<Item = Bytes>,
        deadline: Instant,
    ) -> RequestId {
        let id = self.queue(api, version, flexible, chunks);
        self.in_flight.on_submitted(id, api, deadline);
        id
    }

    /// Like [`submit`](Self::submit), for a request that the broker does not answer (Produce with acks = 0).
    pub fn submit_without_response(
        &mut self,
        api: ApiKey,
        version: i16,
        flexible: bool,
        chunks: impl IntoIterator<Item = Bytes>,
    ) {
        self.queue(api, version, flexible, chunks);
    }

    fn queue(
        &mut self,
        api: ApiKey,
        version: i16,
        flexible: bool,
        chunks: impl IntoIterator<Item = Bytes>,
    ) -> RequestId {
        let id = self.in_flight.next_id();
        let mut header = BytesMut::with_capacity(16 + self.client_id.len());
        frame::put_request_header(&mut header, api, version, flexible, id.0, &self.client_id);
        let head = self.out.len();
        self.out.push_back(Bytes::new());
        let mut body = 0;
        for chunk in chunks {
            body += chunk.len();
            if !chunk.is_empty() {
                self.out.push_back(chunk);
            }
        }
        frame::seal(&mut header, body);
        self.counters.requests.add(1);
        self.out[head] = header.freeze();
        id
    }

    /// Writes what is queued. Ready when all of it has been handed to the stream.
    ///
    /// # Errors
    /// When the stream has ended, or the client has started again from its bootstrap servers; the wire is then of no more use.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.still_of_use(cx)?;
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let mut count = 0;
            for (slice, chunk) in slices.iter_mut().zip(&self.out) {
                *slice = IoSlice::new(chunk);
                count += 1;
            }
            let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &slices[..count]));
            match written {
                Ok(0) => return Poll::Ready(Err(self.lost("it was closed while a request was being written"))),
                Ok(written) => self.on_written(written),
                Err(error) => return Poll::Ready(Err(self.lost(error))),
            }
        }
        if self.unflushed {
            match ready!(Pin::new(&mut self.io).poll_flush(cx)) {
                Ok(()) => self.unflushed = false,
                Err(error) => return Poll::Ready(Err(self.lost(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn on_written(&mut self, mut written: usize) {
        self.counters.bytes_out.add(written as u64);
        self.unflushed = true;
        while let Some(first) = self.out.front_mut() {
            if first.len() > written {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.out.pop_front();
        }
    }

    /// Whether everything that was queued has been written.
    pub fn is_write_idle(&self) -> bool {
        self.out.is_empty() && !self.unflushed
    }

    /// The next whole response: the request it answers, and its body (header tags, if any, still in front).
    ///
    /// # Errors
    /// When the stream ends, or what comes is not an answer to the oldest request.
    pub fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<(RequestId, Bytes), Error>> {
        self.still_of_use(cx)?;
        if self.body_left.is_none() {
            ready!(self.poll_read(cx, START_BYTES, READ_STEP))?;
            self.take_start()?;
        }
        while let Some((id, left)) = self.body_left {
            if self.read.len() >= left {
                self.body_left = None;
                return Poll::Ready(Ok((id, self.read.split_to(left).freeze())));
            }
            let step = left.min(self.read.len() + READ_STEP);
            ready!(self.poll_read(cx, step, READ_STEP))?;
        }
        Poll::Pending
    }

    /// The start of the next response; its body is then read with [`poll_body`](Self::poll_body) to its end.
    ///
    /// # Errors
    /// As [`poll_response`](Self::poll_response).
    pub fn poll_response_start(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseStart, Error>> {
        if let Some((_, left)) = self.body_left {
            return Poll::Ready(Err(Error::new(
                ErrorKind::Malformed,
                format!(
                    "{left} bytes of the last response were not read: this is a bug of the client, please report it"
                ),
            )));
        }
        self.still_of_use(cx)?;
        // Not one byte more than the start: the body goes straight into the caller's chunk.
        ready!(self.poll_read(cx, START_BYTES, 0))?;
        self.take_start()?;
        let (id, len) = self.body_left.unwrap_or((RequestId(-1), 0));
        if len == 0 {
            self.body_left = None;
        }
        Poll::Ready(Ok(ResponseStart { id, len }))
    }

    /// Reads some of the body into `buf`, at most `max` bytes and never beyond the response. Ready with 0 at its end.
    ///
    /// # Errors
    /// When the stream ends before the response does.
    pub fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut, max: usize) -> Poll<Result<usize, Error>> {
        let Some((id, left)) = self.body_left else { return Poll::Ready(Ok(0)) };
        self.still_of_use(cx)?;
        let wanted = left.min(max);
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        let read = {
            let mut limited = (&mut *buf).limit(wanted);
            let read = pin!(self.io.read_buf(&mut limited));
            ready!(read.poll(cx))
        };
        match read {
            Ok(0) => Poll::Ready(Err(self.lost(io::ErrorKind::UnexpectedEof))),
            Ok(read) => {
                self.counters.bytes_in.add(read as u64);
                self.body_left = (left > read).then_some((id, left - read));
                Poll::Ready(Ok(read))
            }
            Err(error) => Poll::Ready(Err(self.lost(error))),
        }
    }

    /// Fills the buffer to at least `wanted` bytes, taking up to `extra` more if they are there.
    fn poll_read(&mut self, cx: &mut Context<'_>, wanted: usize, extra: usize) -> Poll<Result<(), Error>> {
        while self.read.len() < wanted {
            let most = wanted - self.read.len() + extra;
            self.read.reserve(most.min(READ_STEP));
            let read = {
                let mut limited = (&mut self.read).limit(most);
                let read = pin!(self.io.read_buf(&mut limited));
                ready!(read.poll(cx))
            };
            match read {
                Ok(0) => return Poll::Ready(Err(self.lost(io::ErrorKind::UnexpectedEof))),
                Ok(read) => self.counters.bytes_in.add(read as u64),
                Err(error) => return Poll::Ready(Err(self.lost(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes length and correlation id off the buffer and finds the request they answer.
    fn take_start(&mut self) -> Result<(), Error> {
        let announced = self.read.get_i32();
        let correlation_id = self.read.get_i32();
        let length = usize::try_from(announced).unwrap_or(usize::MAX);
        if length > self.max_frame || length < 4 {
            let mut start = [0; START_BYTES];
            start[..4].copy_from_slice(&announced.to_be_bytes());
            start[4..].copy_from_slice(&correlation_id.to_be_bytes());
            return Err(self.malformed(&not_kafka(&start, announced, self.max_frame)));
        }
        match self.in_flight.on_answer(correlation_id) {
            Ok(pending) => {
                self.arriving = Some(pending);
                self.body_left = Some((pending.id, length - 4));
                Ok(())
            }
            Err(Some(due)) => Err(self.malformed(&format!(
                "it answered request {correlation_id} where {} was due: the connection is given up, and the next request makes a new one",
                due.0
            ))),
            Err(None) => Err(self.malformed(&format!(
                "it answered request {correlation_id}, but nothing was asked; give the port of a Kafka listener"
            ))),
        }
    }

    /// The earliest deadline of the requests in flight, the one whose answer is just arriving included.
    pub fn next_deadline(&self) -> Option<Instant> {
        let arriving = self.still_arriving().map(|pending| pending.deadline);
        [arriving, self.in_flight.next_deadline()].into_iter().flatten().min()
    }

    fn still_arriving(&self) -> Option<Pending> {
        self.arriving.filter(|_| self.body_left.is_some())
    }

    /// Fails if a request is past its deadline.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`]; the wire must then be dropped, because the answer may still come.
    pub fn expire(&self, now: Instant) -> Result<(), Error> {
        let arriving = self.still_arriving().filter(|pending| pending.deadline <= now);
        match arriving.or_else(|| self.in_flight.expired(now)) {
            None => Ok(()),
            Some(pending) => Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "{} did not answer in time: the broker may be overloaded or frozen, or the network is cut. Look at its log, or \
                     allow more time (request_timeout).",
                    self.address
                ),
            )
            .with_api(pending.api)
            .with_broker(self.broker)),
        }
    }

    /// The number of requests that wait for an answer.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Fails once the client has started again from its bootstrap servers, and has the caller woken when it does.
    fn still_of_use(&mut self, cx: &Context<'_>) -> Result<(), Error> {
        if self.generation.poll_over(cx).is_ready() { Err(self.lost(GIVEN_UP)) } else { Ok(()) }
    }

    fn lost(&self, cause: impl LostCause) -> Error {
        cause.into_error(&self.address).with_broker(self.broker)
    }

    fn malformed(&self, what: &str) -> Error {
        Error::new(ErrorKind::Malformed, format!("{} does not speak Kafka as expected: {what}.", self.address))
            .with_broker(self.broker)
    }
}

/// Guesses what is talking from the first bytes of an impossible frame.
fn not_kafka(start: &[u8; START_BYTES], announced: i32, max_frame: usize) -> String {
    if start.starts_with(b"HTTP") {
        "an HTTP server is listening on that port; give the port of a Kafka listener".to_owned()
    } else if matches!(start[..3], [0x15 | 0x16, 3, 0..=4]) {
        "that port speaks TLS, and this connection is plaintext; use a TLS connection or another listener".to_owned()
    } else if start.starts_with(b"SSH-") {
        "an SSH server is listening on that port; give the port of a Kafka listener".to_owned()
    } else {
        format!(
            "it announced a frame of {announced} bytes, and the limit is {max_frame}; give the port of a Kafka listener"
        )
    }
}

const GIVEN_UP: &str = "it is given up, because the client starts again from its bootstrap servers";

/// Why a stream ended.
trait LostCause {
    fn into_error(self, address: &str) -> Error;
}

impl LostCause for &str {
    fn into_error(self, address: &str) -> Error {
        Error::new(ErrorKind::Disconnected, format!("the connection to {address} was lost: {self}."))
    }
}

impl LostCause for io::ErrorKind {
    fn into_error(self, address: &str) -> Error {
        let text = format!(
            "{address} closed the connection: the broker may have stopped, the connection was idle for long, or the port expects TLS."
        );
        Error::new(ErrorKind::Disconnected, text)
    }
}

impl LostCause for io::Error {
    fn into_error(self, address: &str) -> Error {
        Error::new(ErrorKind::Disconnected, format!("the connection to {address} was lost: {self}.")).with_source(self)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.counters.connections.add(-1);
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire")
            .field("broker", &self.broker)
            .field("in_flight", &self.in_flight.len())
            .finish_non_exhaustive()
    }
}
