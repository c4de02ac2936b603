//! What becomes of a request: read, logged, compared with the faults, served; and what becomes of its answer.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use milena_protocol::{ApiKey, Encodable, ErrorCode, HeaderVersion, StrBytes};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::apis::{self, Call, Described, Parked, Pending};
use crate::faults::{Chosen, Facts, Held, InjectedError, Reaction, damage};
use crate::network::Waiting;
use crate::planted::Defect;
use crate::request_log::RequestEntry;
use crate::state::{State, Timer};
use crate::throttling::Throttled;

/// Why a connection is closed that a fault cuts behind a request.
const AFTER_APPLIED: &str = "a fault, after the request was applied";

/// What goes back to a connection's task.
pub(crate) enum Answer {
    /// Write this frame, then read the next request.
    Frame(Bytes),
    /// Write this and hang up.
    Last(Bytes),
    /// There is no answer (acks=0): read the next request.
    None,
    /// After the answer, which is still to come, do not read for so long.
    Mute(Duration),
    /// Carry only so many bytes per second from now on; the answer is still to come.
    Bandwidth(u32),
    /// Swallow what comes, and never say anything again.
    Swallow,
}

/// An open connection.
pub(crate) struct Connection {
    pub(crate) broker: i32,
    pub(crate) answers: mpsc::UnboundedSender<Answer>,
    /// Dropped with the connection: the task that reads and writes ends.
    pub(crate) _cut: oneshot::Sender<()>,
    /// The request that is being served.
    pub(crate) serving: Option<Serving>,
    /// It has brought a copy of a request, and nobody reads its answer.
    pub(crate) is_copy: bool,
    /// For how long it is not read after the request that is being served.
    pub(crate) throttle: Option<Duration>,
    pub(crate) fetch_was_throttled: bool,
}

#[derive(Default)]
pub(crate) struct Serving {
    /// What a fault wants to be done with the answer.
    reaction: Option<Chosen>,
    /// What is served once there is an answer, which is forgotten: the same request, and an error for it.
    instead: Option<Parked>,
}

/// Whether the faults look at a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Judged {
    Now,
    /// It is a fault that has sent it.
    Already,
}

impl State {
    /// A whole request frame (without its length field) arrived.
    pub(crate) fn on_frame(&mut self, connection: u64, frame: Bytes, now: Instant) {
        let broker = self.connections.get(&connection).map(|entry| entry.broker);
        if broker.is_some_and(|broker| !self.network.lets_requests(broker)) {
            return self.network.wait(Waiting::Request { connection, frame });
        }
        assert!(self.settings.planted != Some(Defect::Panic), "a planted panic");
        self.take_in(connection, frame, Judged::Now, now);
    }

    /// A copy of a request arrives on a connection of its own. Nobody is told if the broker is down.
    pub(crate) fn on_copy(&mut self, broker: i32, frame: Bytes, now: Instant) {
        let (answers, _) = mpsc::unbounded_channel();
        let (cut, _) = oneshot::channel();
        let Some(connection) = self.on_connected(broker, answers, cut, now) else { return };
        if let Some(entry) = self.connections.get_mut(&connection) {
            entry.is_copy = true;
        }
        self.note(now, format!("b{broker} c{connection} brings the late copy of a request"));
        self.take_in(connection, frame, Judged::Already, now);
    }

    fn take_in(&mut self, connection: u64, frame: Bytes, judged: Judged, now: Instant) {
        let Some(entry) = self.connections.get_mut(&connection) else { return };
        entry.serving = Some(Serving::default());
        let broker = entry.broker;
        let Some(header) = RequestHead::read(&frame) else {
            tracing::warn!(target: "milena_testkit", connection, "the request header cannot be read; closing");
            return self.cut(connection, now, "unreadable request header");
        };
        let found = apis::find(header.api);
        let found = found.and_then(|api| Some((api, api.versions(&self.settings)?)));
        let Some((api, (min, max))) = found else {
            tracing::warn!(target: "milena_testkit", api = %header.api, "an API that this cluster does not have; closing");
            return self.cut(connection, now, &format!("{} is not an API of this cluster", header.api));
        };
        let at = self.since_start(now);
        let entry = header.entry(at, broker, connection, &frame);
        if header.version < min || header.version > max {
            self.log.request(RequestEntry { digest: "version not supported".to_owned(), ..entry });
            if header.api == ApiKey::API_VERSIONS {
                // The one API that answers a version it does not know, with a version 0 that everybody can read (KIP-511).
                let frame = apis::api_versions::unsupported(self, header.correlation_id);
                return self.answer_frame(connection, frame, now);
            }
            tracing::warn!(target: "milena_testkit", api = %header.api, header.version, "unsupported version; closing");
            return self.cut(connection, now, &format!("{} has no version {}", header.api, header.version));
        }
        let Some(body) = header.body(&frame, (api.request_header_version)(header.version) >= 2) else {
            return self.cut(connection, now, "unreadable tags in the request header");
        };
        self.judge_quota(connection, header.api, &header.client_id);
        let call = header.call(connection, broker, now);
        let opened = match (api.open)(self, &call, body) {
            Ok(opened) => opened,
            Err(reason) => {
                self.log.request(RequestEntry { digest: format!("cannot be read: {reason}"), ..entry });
                tracing::warn!(target: "milena_testkit", api = %header.api, header.version, reason, "unreadable request; closing");
                return self.cut(connection, now, &format!("unreadable {} request", header.api));
            }
        };
        let parked = Parked { call, serve: opened.serve };
        let described = opened.described;
        if self.faults.is_empty() || judged == Judged::Already {
            self.log.request(entry.about(described));
            return self.run(parked, now);
        }
        let verdict = self.faults.judge(&header.facts(broker, connection, &described));
        self.log.request(entry.about(described));
        for line in verdict.lines(broker, connection) {
            self.note(now, line);
        }
        for (fault, delay) in verdict.copies {
            let frame = frame.clone();
            match delay {
                Some(delay) => self.at(now + delay, Timer::Copy { broker, frame }),
                None => {
                    let held = self.faults.hold(fault, Held::Copy { broker, frame });
                    self.resume(held.into_iter().collect());
                }
            }
        }
        let parked = Parked { call: Call { errors: verdict.errors, ..parked.call }, ..parked };
        match verdict.reaction {
            Some(chosen) => self.react(chosen, parked, frame, now),
            None => self.run(parked, now),
        }
    }

    /// Does what a fault wants to be done with a request.
    fn react(&mut self, chosen: Chosen, parked: Parked, frame: Bytes, now: Instant) {
        let connection = parked.call.connection;
        match chosen.reaction {
            Reaction::Drop => {}
            Reaction::Disconnect => self.cut(connection, now, "a fault"),
            Reaction::Delay(delay) => self.at(now + delay, Timer::Serve(parked)),
            Reaction::Hold => {
                if let Some(Held::Request(released)) = self.faults.hold(chosen.fault, Held::Request(parked)) {
                    self.run(released, now);
                }
            }
            Reaction::CorruptRequest => {
                let header = RequestHead::read(&frame).map_or(frame.len(), |header| header.len);
                let frame = damage::corrupt(&frame, header, chosen.lot);
                self.take_in(connection, frame, Judged::Already, now);
            }
            Reaction::ApplyThenError(code) => {
                let instead = self.read_again(&frame, code, &parked.call);
                if let Some(entry) = self.connections.get_mut(&connection) {
                    entry.serving = Some(Serving { instead, reaction: None });
                }
                self.run(parked, now);
            }
            Reaction::HalfOpen => self.send(connection, Answer::Swallow),
            Reaction::Bandwidth(rate) => {
                self.send(connection, Answer::Bandwidth(rate));
                self.run(parked, now);
            }
            _ => {
                if let Some(entry) = self.connections.get_mut(&connection) {
                    entry.serving = Some(Serving { reaction: Some(chosen), instead: None });
                }
                self.run(parked, now);
            }
        }
    }

    /// The same request once more, to be refused with this code.
    fn read_again(&self, frame: &Bytes, code: ErrorCode, call: &Call) -> Option<Parked> {
        let api = apis::find(call.api)?;
        let body = RequestHead::read(frame)?.body(frame, (api.request_header_version)(call.version) >= 2)?;
        let mut call = call.clone();
        call.errors.push(InjectedError::for_all(code));
        let serve = (api.open)(self, &call, body).ok()?.serve;
        Some(Parked { call, serve })
    }

    /// Serves a request that has been read, logged and judged, unless its connection has gone meanwhile.
    pub(crate) fn run(&mut self, parked: Parked, now: Instant) {
        let Parked { mut call, serve } = parked;
        let (connection, api) = (call.connection, call.api);
        if !self.connections.contains_key(&connection) {
            return;
        }
        call.now = now;
        if let Err(apis::Close(reason)) = serve(self, call) {
            tracing::warn!(target: "milena_testkit", %api, reason, "closing the connection");
            self.cut(connection, now, &reason);
        }
    }

    /// Goes on with what a fault has kept.
    pub(crate) fn resume(&mut self, held: Vec<Held>) {
        for held in held {
            let timer = match held {
                Held::Request(parked) => Timer::Serve(parked),
                Held::Answer { connection, frame } => Timer::Answer { connection, frame },
                Held::Copy { broker, frame } => Timer::Copy { broker, frame },
            };
            // Through the timers, so that it happens in the loop and in this order.
            self.at(self.started, timer);
        }
    }

    /// Answers a request, at once or a parked one. Nothing happens if its connection has gone.
    pub(crate) fn answer<R>(&mut self, pending: &Pending<R>, response: &R, now: Instant)
    where
        R: Encodable + HeaderVersion + Throttled,
    {
        let encoded = match self.throttle_of(pending.connection) {
            None => encode(response, pending.version, pending.correlation_id),
            Some(time) => {
                self.send(pending.connection, Answer::Mute(time));
                let mut response = response.clone();
                response.set_throttle_time_ms(i32::try_from(time.as_millis()).unwrap_or(i32::MAX));
                encode(&response, pending.version, pending.correlation_id)
            }
        };
        match encoded {
            Ok(frame) => self.answer_frame(pending.connection, frame, now),
            Err(reason) => {
                self.violation(format!(
                    "the test kit cannot encode its {} v{} response ({reason}): this is a bug of the kit",
                    std::any::type_name::<R>().rsplit("::").next().unwrap_or_default(),
                    pending.version
                ));
                self.cut(pending.connection, now, "a response that cannot be encoded");
            }
        }
    }

    /// The request gets no answer (acks=0); the next one may come.
    pub(crate) fn answer_nothing(&mut self, connection: u64, now: Instant) {
        let Some(entry) = self.connections.get_mut(&connection) else { return };
        let Serving { reaction, instead } = entry.serving.take().unwrap_or_default();
        if let Some(instead) = instead {
            return self.run(instead, now);
        }
        match reaction.map(|chosen| chosen.reaction) {
            Some(Reaction::ApplyThenDisconnect) => return self.cut(connection, now, AFTER_APPLIED),
            Some(Reaction::ApplyThenDrop) => return,
            _ => {}
        }
        if let Some(time) = self.throttle_of(connection) {
            self.send(connection, Answer::Mute(time));
        }
        self.send(connection, Answer::None);
    }

    fn answer_frame(&mut self, connection: u64, frame: Bytes, now: Instant) {
        let Some(entry) = self.connections.get_mut(&connection) else { return };
        let Serving { reaction, instead } = entry.serving.take().unwrap_or_default();
        if let Some(instead) = instead {
            return self.run(instead, now);
        }
        let Some(chosen) = reaction else { return self.send(connection, Answer::Frame(frame)) };
        match chosen.reaction {
            Reaction::ApplyThenDrop => {}
            Reaction::ApplyThenDisconnect => self.cut(connection, now, AFTER_APPLIED),
            Reaction::DelayAnswer(delay) => self.at(now + delay, Timer::Answer { connection, frame }),
            Reaction::HoldAnswer => {
                if let Some(Held::Answer { connection, frame }) =
                    self.faults.hold(chosen.fault, Held::Answer { connection, frame })
                {
                    self.send(connection, Answer::Frame(frame));
                }
            }
            Reaction::CorruptAnswer => {
                let frame = damage::corrupt_answer(&frame, chosen.lot);
                self.send(connection, Answer::Frame(frame));
            }
            Reaction::TruncateAnswer => self.send(connection, Answer::Last(damage::truncate(&frame))),
            Reaction::WrongCorrelationId => {
                let frame = damage::wrong_correlation_id(&frame);
                self.send(connection, Answer::Frame(frame));
            }
            _ => self.send(connection, Answer::Frame(frame)),
        }
    }

    pub(crate) fn send(&mut self, connection: u64, answer: Answer) {
        let Some(entry) = self.connections.get(&connection) else { return };
        if entry.is_copy {
            self.connections.remove(&connection); // its answer is what nobody reads
            return;
        }
        if !self.network.lets_answers(entry.broker) {
            return self.network.wait(Waiting::Answer { connection, answer });
        }
        // A task that has gone has told so, or will: `on_closed`.
        let _ = entry.answers.send(answer);
    }
}

/// Encodes a response frame with its length field.
pub(crate) fn encode<R: Encodable + HeaderVersion>(
    response: &R,
    version: i16,
    correlation_id: i32,
) -> Result<Bytes, String> {
    let mut frame = BytesMut::with_capacity(256);
    frame.put_i32(0);
    frame.put_i32(correlation_id);
    if R::header_version(version) >= 1 {
        frame.put_u8(0);
    }
    response.encode(&mut frame, version).map_err(|e| e.to_string())?;
    let length = (frame.len() - 4) as i32;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame.freeze())
}

/// The part of a request header that stands there in every version.
pub(crate) struct RequestHead {
    pub(crate) api: ApiKey,
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
    pub(crate) client_id: StrBytes,
    pub(crate) len: usize,
}

impl RequestHead {
    pub(crate) fn read(frame: &Bytes) -> Option<Self> {
        let mut rest = frame.clone();
        let api = ApiKey(rest.try_get_i16().ok()?);
        let version = rest.try_get_i16().ok()?;
        let correlation_id = rest.try_get_i32().ok()?;
        let client_id = match rest.try_get_i16().ok()? {
            -1 => StrBytes::new(),
            len => {
                let len = usize::try_from(len).ok().filter(|len| *len <= rest.len())?;
                // What is no text is one to Kafka all the same.
                let name = rest.split_to(len);
                StrBytes::from_utf8(name.clone())
                    .unwrap_or_else(|_| StrBytes::from_string(String::from_utf8_lossy(&name).into_owned()))
            }
        };
        Some(Self { api, version, correlation_id, client_id, len: frame.len() - rest.len() })
    }

    pub(crate) fn body(&self, frame: &Bytes, flexible: bool) -> Option<Bytes> {
        let mut body = frame.slice(self.len..);
        if flexible {
            milena_protocol::frame::skip_tags(&mut body)?;
        }
        Some(body)
    }

    pub(crate) fn call(&self, connection: u64, broker: i32, now: Instant) -> Call {
        Call {
            connection,
            broker,
            api: self.api,
            version: self.version,
            correlation_id: self.correlation_id,
            client_id: self.client_id.clone(),
            errors: Vec::new(),
            now,
        }
    }

    /// What the faults can see of the request.
    pub(crate) fn facts<'a>(&'a self, broker: i32, connection: u64, described: &'a Described) -> Facts<'a> {
        Facts {
            api: self.api,
            version: self.version,
            broker,
            connection,
            client_id: &self.client_id,
            group: described.group.as_deref(),
            transactional_id: described.transactional_id.as_deref(),
            partitions: &described.partitions,
            is_answered: described.is_answered,
            tells_only: described.tells_only,
        }
    }

    /// A line of the log that does not say yet what the request is about.
    pub(crate) fn entry(&self, at: Duration, broker: i32, connection: u64, frame: &Bytes) -> RequestEntry {
        RequestEntry {
            at,
            broker,
            connection,
            api: self.api,
            version: self.version,
            correlation_id: self.correlation_id,
            client_id: self.client_id.clone(),
            size: frame.len(),
            hash: crc32c::crc32c(frame),
            digest: String::new(),
            partitions: Vec::new(),
            group: None,
            transactional_id: None,
        }
    }
}
