//! Pipes inside the process: what a client's connector returns when there is no network.
//!
//! A [`MemoryStream`] is one end of two byte queues. With a modelled latency each piece of bytes arrives that much after it was
//! written, in order; everything happens on tokio's clock, so under `tokio::time::pause` a minute of network costs nothing.

#![expect(clippy::disallowed_methods, reason = "a driver: it reads the clock and sleeps for the modelled latency")]

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep};
use tower::Service;

use super::connection;
use crate::event_loop::Shared;

/// Bytes that one direction keeps before a writer has to wait, like a socket's buffers.
const CAPACITY: usize = 256 << 10;

/// The port of every broker in memory, at first.
pub(crate) const PORT: u16 = 9092;

/// The address of a broker in memory: `broker-2` is 10.0.0.2.
pub(crate) fn address_of(broker: i32, port: u16) -> SocketAddr {
    let [_, b, c, d] = broker.to_be_bytes();
    SocketAddr::from(([10, b, c, d], port))
}

/// The host name of a broker in memory.
pub(crate) fn host_of(broker: i32) -> String {
    format!("broker-{broker}")
}

/// Connects to a broker of a cluster that runs in memory: a `tower::Service` from an address to a byte stream, as a client wants
/// one. From [`Cluster::connector`](crate::Cluster::connector).
#[derive(Clone)]
pub struct MemoryConnector {
    pub(crate) shared: Arc<Shared>,
    pub(crate) latency: Duration,
}

impl Service<SocketAddr> for MemoryConnector {
    type Response = MemoryStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<MemoryStream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Fails with `ConnectionRefused` when no broker is up at that address.
    fn call(&mut self, address: SocketAddr) -> Self::Future {
        let (shared, latency) = (Arc::clone(&self.shared), self.latency);
        Box::pin(async move {
            if !latency.is_zero() {
                tokio::time::sleep(latency * 2).await; // SYN and its answer
            }
            let broker = shared.control(|state| {
                let mut brokers = state.brokers.iter();
                brokers.find(|(id, broker)| address_of(**id, broker.port) == address).map(|(id, _)| *id)
            });
            if let Some(broker) = broker {
                // A link that is cut answers nothing, not even "refused".
                let changed = shared.control(|state| Arc::clone(&state.network.changed));
                loop {
                    let mut bell = std::pin::pin!(changed.notified());
                    bell.as_mut().enable();
                    if shared.control(|state| state.stopped || state.network.lets_connect(broker)) {
                        break;
                    }
                    bell.await;
                }
            }
            let (answers, replies) = mpsc::unbounded_channel();
            let (cut, was_cut) = oneshot::channel();
            let connected = shared.control_at(|state, now| state.on_connected(broker?, answers, cut, now));
            let Some(id) = connected else {
                return Err(io::Error::new(
                    io::ErrorKind::ConnectionRefused,
                    format!("no broker of the in-memory cluster is up at {address}"),
                ));
            };
            let (client, server) = pipe(latency);
            shared.spawn(connection::run(Arc::clone(&shared), id, server, replies, was_cut));
            Ok(client)
        })
    }
}

/// Resolves the host names of a cluster that runs in memory (`broker-1` …), and addresses that need no resolving. From
/// [`Cluster::resolver`](crate::Cluster::resolver).
#[derive(Clone)]
pub struct MemoryResolver {
    pub(crate) shared: Arc<Shared>,
}

impl Service<(String, u16)> for MemoryResolver {
    type Response = Vec<SocketAddr>;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Vec<SocketAddr>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Fails with `NotFound` for a name that is no broker's.
    fn call(&mut self, (host, port): (String, u16)) -> Self::Future {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return std::future::ready(Ok(vec![SocketAddr::new(ip, port)]));
        }
        let found = self.shared.control(|state| {
            let of_host = state.brokers.iter().find(|(_, broker)| broker.host == host);
            of_host.map(|(id, _)| address_of(*id, port))
        });
        std::future::ready(match found {
            Some(address) => Ok(vec![address]),
            None => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{host} is no broker of the in-memory cluster: its brokers are named broker-1, broker-2, …"),
            )),
        })
    }
}

/// Two connected ends.
fn pipe(latency: Duration) -> (MemoryStream, MemoryStream) {
    let there = Arc::new(Mutex::new(Queue::default()));
    let back = Arc::new(Mutex::new(Queue::default()));
    let end = |incoming: &Arc<Mutex<Queue>>, outgoing: &Arc<Mutex<Queue>>| MemoryStream {
        incoming: Arc::clone(incoming),
        outgoing: Arc::clone(outgoing),
        latency,
        arrival: None,
    };
    (end(&back, &there), end(&there, &back))
}

/// One direction.
#[derive(Default)]
struct Queue {
    /// Pieces with the time at which they arrive.
    pieces: VecDeque<(Option<Instant>, Bytes)>,
    bytes: usize,
    /// The writer has gone: after the pieces comes the end.
    ended: bool,
    /// The reader has gone: writing makes no sense any more.
    abandoned: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// One end of an in-memory connection.
pub struct MemoryStream {
    incoming: Arc<Mutex<Queue>>,
    outgoing: Arc<Mutex<Queue>>,
    latency: Duration,
    /// Runs while the next piece is on its way.
    arrival: Option<Pin<Box<Sleep>>>,
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsyncRead for MemoryStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut queue = lock(&this.incoming);
        let mut now = if this.latency.is_zero() { None } else { Some(Instant::now()) };
        let mut read = false;
        while buf.remaining() > 0 {
            let Some((at, piece)) = queue.pieces.front_mut() else { break };
            if let (Some(at), Some(clock)) = (*at, now)
                && at > clock
            {
                if read {
                    break;
                }
                let sleep = this.arrival.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
                if sleep.deadline() != at {
                    sleep.as_mut().reset(at);
                }
                match sleep.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) => {
                        now = Some(at);
                        continue;
                    }
                }
            }
            let len = piece.len().min(buf.remaining());
            buf.put_slice(&piece[..len]);
            piece.advance(len);
            if piece.is_empty() {
                queue.pieces.pop_front();
            }
            queue.bytes -= len;
            read = true;
        }
        if read {
            if let Some(writer) = queue.writer.take() {
                writer.wake();
            }
            return Poll::Ready(Ok(()));
        }
        if queue.ended || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        queue.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for MemoryStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut queue = lock(&self.outgoing);
        if queue.abandoned {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        let room = CAPACITY.saturating_sub(queue.bytes);
        if room == 0 && total > 0 {
            queue.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut piece = Vec::with_capacity(total.min(room));
        for buf in bufs {
            let len = buf.len().min(room - piece.len());
            piece.extend_from_slice(&buf[..len]);
        }
        let written = piece.len();
        if written > 0 {
            let at = (!self.latency.is_zero()).then(|| Instant::now() + self.latency);
            queue.bytes += written;
            queue.pieces.push_back((at, piece.into()));
            if let Some(reader) = queue.reader.take() {
                reader.wake();
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        end(&mut lock(&self.outgoing));
        Poll::Ready(Ok(()))
    }
}

impl Drop for MemoryStream {
    fn drop(&mut self) {
        end(&mut lock(&self.outgoing));
        let mut incoming = lock(&self.incoming);
        incoming.abandoned = true;
        if let Some(writer) = incoming.writer.take() {
            writer.wake();
        }
    }
}

/// Nothing more will be written into this queue.
fn end(queue: &mut Queue) {
    queue.ended = true;
    if let Some(reader) = queue.reader.take() {
        reader.wake();
    }
}
