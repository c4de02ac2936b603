//! One connection through the proxy, and how the proxy finds the brokers.

#![expect(clippy::disallowed_methods, reason = "a driver: it waits, and a late copy has a task of its own")]

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use milena_protocol::messages::{FetchRequest, MetadataRequest};
use milena_protocol::{ApiKey, Decodable, Request, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::Core;
use super::rewrite::{self, Asked};
use crate::apis::{self, Described, Names};
use crate::faults::{Chosen, Reaction, damage};
use crate::net::connection::{read_frame, time_for, write};
use crate::serving::RequestHead;

/// How long a broker may take to say who its fellows are.
const DISCOVERY: Duration = Duration::from_secs(10);

/// Metadata in a version that brokers from 0.11 to 4.3 speak.
const DISCOVERY_VERSION: i16 = 4;

/// Asks the bootstrap servers, one after the other, for the brokers, and listens for each.
pub(super) async fn discover(core: &Arc<Core>, servers: &str) -> io::Result<()> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no bootstrap server was given");
    for server in servers.split(',').map(str::trim).filter(|server| !server.is_empty()) {
        match tokio::time::timeout(DISCOVERY, ask(core, server)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(e)) => last = io::Error::new(e.kind(), format!("{server}: {e}")),
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{server} did not answer in time")),
        }
    }
    Err(last)
}

async fn ask(core: &Arc<Core>, server: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(server).await?;
    let request = MetadataRequest::default().with_topics(Some(Vec::new()));
    let mut head = BytesMut::new();
    let flexible = frame::request_is_flexible::<MetadataRequest>(DISCOVERY_VERSION);
    frame::put_request_header(&mut head, MetadataRequest::KEY, DISCOVERY_VERSION, flexible, 1, "milena-testkit-proxy");
    let body = frame::encode_body(&request, DISCOVERY_VERSION).map_err(io::Error::other)?;
    frame::seal(&mut head, body.len());
    stream.write_all(&head).await?;
    stream.write_all(&body).await?;
    let answer = read_frame(&mut stream, &mut BytesMut::new(), 0).await.ok_or(io::ErrorKind::UnexpectedEof)?;
    let body = answer.slice(answer.len().min(4)..);
    let response = frame::decode_body::<MetadataRequest>(body, DISCOVERY_VERSION).map_err(io::Error::other)?;
    for broker in response.brokers {
        core.port_of(broker.node_id.0, broker.host.as_str(), broker.port)?;
    }
    Ok(())
}

/// Accepts the connections that clients make to a broker.
pub(super) async fn listen(core: Arc<Core>, broker: i32, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let core = Arc::clone(&core);
                core.runtime.clone().spawn(async move { run(core, broker, client).await });
            }
            Err(e) => {
                tracing::warn!(target: "milena_testkit", broker, error = %e, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await; // out of file descriptors, most likely
            }
        }
    }
}

async fn run(core: Arc<Core>, broker: i32, client: TcpStream) {
    let mut generation = core.generation.subscribe();
    generation.mark_unchanged();
    let upstream = core.lock().learned.upstream(broker);
    let Some(upstream) = upstream else { return };
    let upstream = match TcpStream::connect(&upstream).await {
        Ok(stream) => stream,
        Err(e) => return core.note(format!("b{broker} cannot be reached at {upstream}: {e}")),
    };
    for stream in [&client, &upstream] {
        let _ = stream.set_nodelay(true); // an option that fails costs latency only
    }
    let id = {
        let mut inner = core.lock();
        let id = inner.next_connection;
        inner.next_connection += 1;
        inner.open.insert((broker, id));
        id
    };
    core.note(format!("b{broker} c{id} connected"));
    let mut connection = Connection {
        core: &core,
        broker,
        id,
        client,
        requests: BytesMut::new(),
        upstream,
        answers: BytesMut::new(),
        bandwidth: None,
    };
    let why = tokio::select! {
        biased;
        _ = generation.changed() => "by the test",
        why = connection.serve() => why,
    };
    drop(connection);
    core.lock().open.remove(&(broker, id));
    core.note(format!("b{broker} c{id} closed {why}"));
}

struct Connection<'a> {
    core: &'a Arc<Core>,
    broker: i32,
    id: u64,
    client: TcpStream,
    requests: BytesMut,
    upstream: TcpStream,
    answers: BytesMut,
    bandwidth: Option<u32>,
}

/// Why a connection ends.
type Why = &'static str;

const AFTER_APPLIED: Why = "by a fault, after the request was applied";

impl Connection<'_> {
    async fn serve(&mut self) -> Why {
        loop {
            // Both keep what they have read when the other is done first.
            let request = tokio::select! {
                biased;
                request = read_frame(&mut self.client, &mut self.requests, self.id) => request,
                _ = self.upstream.read_buf(&mut self.answers) => return "by the broker",
            };
            let Some(request) = request else { return "by the client" };
            if let Some(rate) = self.bandwidth {
                tokio::time::sleep(time_for(request.len(), rate)).await;
            }
            if let Err(why) = self.request(request).await {
                return why;
            }
        }
    }

    async fn request(&mut self, mut request: Bytes) -> Result<(), Why> {
        let head = RequestHead::read(&request).ok_or("for a header that cannot be read")?;
        let (described, chosen) = self.judge(&head, &request);
        if let Some(chosen) = chosen {
            match chosen.reaction {
                Reaction::Drop | Reaction::HalfOpen => return Err(self.swallow(chosen.reaction).await),
                Reaction::Disconnect => return Err("by a fault"),
                Reaction::Delay(delay) => tokio::time::sleep(delay).await,
                Reaction::Hold => self.released(chosen.fault).await,
                Reaction::CorruptRequest => request = damage::corrupt(&request, head.len, chosen.lot),
                Reaction::Bandwidth(rate) => self.bandwidth = Some(rate.max(1)),
                _ => {}
            }
        }
        self.upstream.write_all(&rewrite::with_length(&request)).await.map_err(|_| "by the broker")?;
        if !described.is_answered {
            return match chosen.map(|chosen| chosen.reaction) {
                Some(Reaction::ApplyThenDisconnect) => Err(AFTER_APPLIED),
                Some(Reaction::ApplyThenDrop) => Err(self.swallow(Reaction::ApplyThenDrop).await),
                _ => Ok(()),
            };
        }
        let answer = read_frame(&mut self.upstream, &mut self.answers, self.id).await.ok_or("by the broker")?;
        let asked = Asked { broker: self.broker, head: &head, partitions: &described.partitions };
        let mut answer = rewrite::answer(self.core, &asked, answer);
        if let Some(chosen) = chosen {
            match chosen.reaction {
                Reaction::ApplyThenDrop => return Err(self.swallow(chosen.reaction).await),
                Reaction::ApplyThenDisconnect => return Err(AFTER_APPLIED),
                Reaction::DelayAnswer(delay) => tokio::time::sleep(delay).await,
                Reaction::HoldAnswer => self.released(chosen.fault).await,
                Reaction::CorruptAnswer => answer = damage::corrupt_answer(&answer, chosen.lot),
                Reaction::WrongCorrelationId => answer = damage::wrong_correlation_id(&answer),
                Reaction::TruncateAnswer => {
                    let _ = write(&mut self.client, &damage::truncate(&answer), self.bandwidth).await; // the end anyway
                    return Err("by a fault, in the middle of an answer");
                }
                _ => {}
            }
        }
        write(&mut self.client, &answer, self.bandwidth).await.map_err(|_| "by the client")
    }

    /// Logs a request, compares it with the faults, and sends its late copies off.
    fn judge(&self, head: &RequestHead, request: &Bytes) -> (Described, Option<Chosen>) {
        let call = head.call(self.id, self.broker, Instant::now());
        let mut inner = self.core.lock();
        let inner = &mut *inner;
        let described = describe(&inner.learned, &call, head, request);
        let verdict = inner.faults.judge(&head.facts(self.broker, self.id, &described));
        let at = self.core.started.elapsed();
        inner.log.request(head.entry(at, self.broker, self.id, request).about(described.clone()));
        for line in verdict.lines(self.broker, self.id) {
            inner.log.note(at, line);
        }
        for (fault, delay) in verdict.copies {
            let released = inner.faults.follow(fault);
            let (core, broker, request) = (Arc::clone(self.core), self.broker, request.clone());
            self.core.runtime.spawn(async move {
                match (delay, released) {
                    (Some(delay), _) => tokio::time::sleep(delay).await,
                    // Gone is as good as released.
                    (None, Some(mut released)) => drop(released.wait_for(|progress| progress.released).await),
                    (None, None) => {}
                }
                deliver_copy(&core, broker, &request).await;
            });
        }
        (described, verdict.reaction)
    }

    /// Waits until a fault lets go.
    async fn released(&self, fault: u64) {
        let following = self.core.lock().faults.follow(fault);
        if let Some(mut progress) = following {
            let _ = progress.wait_for(|progress| progress.released).await; // a fault that is gone holds nobody
        }
    }

    /// Takes what the client writes, until it hangs up; of a connection that is half open the broker does not even see that.
    async fn swallow(&mut self, reaction: Reaction) -> Why {
        while matches!(self.client.read_buf(&mut self.requests).await, Ok(read) if read > 0) {
            self.requests.clear();
        }
        if reaction == Reaction::HalfOpen {
            std::future::pending::<()>().await;
        }
        "by the client"
    }
}

/// What a request is about, as far as the kit knows its API.
fn describe(names: &dyn Names, call: &apis::Call, head: &RequestHead, request: &Bytes) -> Described {
    let unknown = Described { is_answered: true, ..Described::default() };
    let Some(api) = apis::find(head.api).filter(|api| (api.min..=api.max).contains(&head.version)) else {
        return unknown;
    };
    let Some(body) = head.body(request, (api.request_header_version)(head.version) >= 2) else { return unknown };
    let mut described = (api.describe)(names, call, body.clone()).unwrap_or(unknown);
    if head.api == ApiKey::FETCH
        && let Ok(fetch) = FetchRequest::decode(&mut body.clone(), head.version)
    {
        for topic in fetch.forgotten_topics_data {
            let name = names.topic_name(head.version >= 13, topic.topic.as_str(), &topic.topic_id).unwrap_or_default();
            described.partitions.retain(|(known, index)| **known != *name || !topic.partitions.contains(index));
        }
    }
    described
}

/// The same bytes once more, on a connection of their own. Nobody reads the answer but to know that there was one.
async fn deliver_copy(core: &Core, broker: i32, request: &Bytes) {
    let upstream = core.lock().learned.upstream(broker);
    let Some(upstream) = upstream else { return };
    let delivered = async {
        let mut stream = TcpStream::connect(&upstream).await.ok()?;
        stream.write_all(&rewrite::with_length(request)).await.ok()?;
        read_frame(&mut stream, &mut BytesMut::new(), 0).await
    };
    let came = delivered.await.is_some();
    core.note(format!("b{broker} the late copy of a request {}", if came { "is answered" } else { "gets no answer" }));
}
