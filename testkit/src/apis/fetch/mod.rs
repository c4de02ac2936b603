//! Fetch: reads partitions that this broker leads or follows in, waits for data, and keeps sessions.
//!
//! - A request waits until there are `min_bytes`, until `max_wait_ms` is over, or until something is wrong with a partition; errors
//!   are answered at once. While it waits, its connection serves nothing else.
//! - The bytes of a partition are cut at its limit, and those of the response at `max_bytes`, in the middle of a batch, as a broker
//!   does that sends slices of files; but the first partition with data gives at least one whole batch. A later partition whose first
//!   batch does not fit gives nothing.
//! - Sessions (v7, KIP-227) in `sessions.rs`. A partition that gave data goes to the end of its session's order.
//! - Records below the fetch offset may stand in the first batch: the client skips them.
//! - A reader of committed data (isolation level 1) gets nothing from the last stable offset on and waits for it to move; it is told
//!   the aborted transactions of what it gets, perhaps with some that lie behind. Another reader gets null in their place.
//! - Between the high watermark and the log's end there is nothing, and no error; beyond the end is `OFFSET_OUT_OF_RANGE`.
//! - v12 takes the epoch of the last record that the client has, and tells it where its log and the leader's part (`diverging_epoch`),
//!   without records. Java's consumers do not ask so; they ask OffsetForLeaderEpoch.
//! - v9 checks the leader epoch, before it asks who leads. v13 takes topic ids, v16 names the leader and its address with
//!   `NOT_LEADER_OR_FOLLOWER` and `FENCED_LEADER_EPOCH` (KIP-951).
//! - Since v11 (KIP-392) followers serve consumers, too, whoever asks: what they have, up to the high watermark. A leader that is asked by
//!   a client in another rack, and knows a follower in that rack that has the offset, gives no records but names the follower
//!   (`replica.rs`).

mod replica;
mod sessions;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use milena_protocol::messages::fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use milena_protocol::messages::{BrokerId, FetchRequest, FetchResponse, ProducerId, TopicName};
use milena_protocol::{ErrorCode, StrBytes};
use tokio::time::Instant;

use super::{Api, Call, Names, Pending, Served, Touched, listed, touches};
use crate::invariants::Fetched;
use crate::state::{State, Timer};
pub(crate) use sessions::FetchSessions;
use sessions::{Asked, Context, Place, Wanted};

/// Kafka's `fetch.max.bytes`: no response is larger, but for a batch that is larger itself.
const MAX_RESPONSE_BYTES: usize = 55 << 20;

pub(crate) struct Fetch;

impl Api for Fetch {
    type Request = FetchRequest;

    fn digest(names: &dyn Names, call: &Call, request: &FetchRequest) -> String {
        let wanted = wanted(names, call, request).into_iter();
        let wanted = wanted.map(|w| format!(" {}-{}@{}", w.place.name, w.place.partition, w.offset));
        let forgotten = forgotten(names, call, request).into_iter();
        let forgotten = forgotten.map(|place| format!(" !{}-{}", place.name, place.partition));
        let words = listed("", wanted.chain(forgotten));
        format!("session={}/{}{words}", request.session_id, request.session_epoch)
    }

    fn partitions(names: &dyn Names, call: &Call, request: &FetchRequest) -> Vec<Touched> {
        let named = wanted(names, call, request).into_iter().map(|wanted| (wanted.place.name, wanted.place.partition));
        named.chain(names.session(call.broker, request.session_id)).collect()
    }

    fn serve(state: &mut State, call: &Call, request: FetchRequest) -> Served<FetchResponse> {
        let by_id = call.version >= 13;
        let asked = Asked {
            session_id: request.session_id,
            epoch: if call.version >= 7 { request.session_epoch } else { -1 },
            by_id,
            wanted: wanted(state, call, &request),
            forgotten: forgotten(state, call, &request),
        };
        let of_session = |code: ErrorCode| {
            matches!(
                code,
                ErrorCode::FETCH_SESSION_ID_NOT_FOUND
                    | ErrorCode::INVALID_FETCH_SESSION_EPOCH
                    | ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR
            )
        };
        if let Err(code) = call.injected_at_the_top(of_session) {
            return Served::Now(FetchResponse::default().with_error_code(code.0));
        }
        let Some(broker) = state.brokers.get_mut(&call.broker) else {
            return Served::Close("no such broker".to_owned());
        };
        let context = match broker.sessions.context(call.broker, asked) {
            Ok(context) => context,
            Err(code) => return Served::Now(FetchResponse::default().with_error_code(code.0)),
        };
        let fetch = ParkedFetch {
            call: call.clone(),
            pending: call.pending(),
            context,
            min_bytes: usize::try_from(request.min_bytes).unwrap_or(0),
            max_bytes: usize::try_from(request.max_bytes).unwrap_or(0).min(MAX_RESPONSE_BYTES),
            read_committed: request.isolation_level == 1,
            rack: if call.version >= 11 { request.rack_id.clone() } else { StrBytes::new() },
        };
        let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
        if wait.is_zero() || fetch.is_complete(state) {
            return Served::Now(fetch.respond(state));
        }
        park(state, fetch, call.now + wait);
        Served::Later
    }
}

/// These partitions of a topic; they share its name.
fn places(
    names: &dyn Names,
    call: &Call,
    (name, id): (&TopicName, uuid::Uuid),
    partitions: impl Iterator<Item = i32>,
) -> impl Iterator<Item = Place> {
    // A topic that is asked for by id keeps the name it has now; if the id is unknown, the name stays empty.
    let name = names.topic_name(call.version >= 13, name, &id).unwrap_or_default();
    touches(name, partitions).map(move |(name, partition)| Place { name, id, partition })
}

fn wanted(names: &dyn Names, call: &Call, request: &FetchRequest) -> Vec<Wanted> {
    let mut all = Vec::new();
    for topic in &request.topics {
        let indexes = topic.partitions.iter().map(|p| p.partition);
        let places = places(names, call, (&topic.topic, topic.topic_id), indexes);
        all.extend(topic.partitions.iter().zip(places).map(|(p, place)| Wanted {
            place,
            current_leader_epoch: if call.version >= 9 { p.current_leader_epoch } else { -1 },
            last_fetched_epoch: if call.version >= 12 { p.last_fetched_epoch } else { -1 },
            offset: p.fetch_offset,
            max_bytes: p.partition_max_bytes,
            told_high_watermark: -1,
            told_log_start: -1,
        }));
    }
    all
}

fn forgotten(names: &dyn Names, call: &Call, request: &FetchRequest) -> Vec<Place> {
    let mut all = Vec::new();
    for topic in &request.forgotten_topics_data {
        all.extend(places(names, call, (&topic.topic, topic.topic_id), topic.partitions.iter().copied()));
    }
    all
}

/// Fetches that wait for data.
#[derive(Default)]
pub(crate) struct ParkedFetches {
    /// With the partitions that it waits for.
    parked: BTreeMap<u64, (ParkedFetch, Vec<(String, i32)>)>,
    next: u64,
    /// Who waits for which partition; a partition for which nobody waits any more keeps its empty entry.
    waiting: BTreeMap<(String, i32), BTreeSet<u64>>,
}

/// A fetch request that is being served.
struct ParkedFetch {
    call: Call,
    pending: Pending<FetchResponse>,
    context: Context,
    min_bytes: usize,
    max_bytes: usize,
    read_committed: bool,
    rack: StrBytes,
}

fn park(state: &mut State, fetch: ParkedFetch, deadline: Instant) {
    let id = state.fetches.next;
    state.fetches.next += 1;
    let places: Vec<(String, i32)> =
        fetch.wanted(state).map(|w| (w.place.name.to_string(), w.place.partition)).collect();
    for place in &places {
        state.fetches.waiting.entry(place.clone()).or_default().insert(id);
    }
    state.fetches.parked.insert(id, (fetch, places));
    state.at(deadline, Timer::Fetch(id));
}

/// The wait is over.
pub(crate) fn on_deadline(state: &mut State, id: u64, now: Instant) {
    let Some((fetch, places)) = state.fetches.parked.remove(&id) else { return };
    for place in &places {
        if let Some(waiting) = state.fetches.waiting.get_mut(place) {
            waiting.remove(&id);
        }
    }
    let response = fetch.respond(state);
    state.answer(&fetch.pending, &response, now);
}

/// A partition got data, or another leader.
pub(crate) fn on_partition_changed(state: &mut State, topic: &str, partition: i32, now: Instant) {
    let Some(waiting) = state.fetches.waiting.get(&(topic.to_owned(), partition)) else { return };
    for id in waiting.iter().copied().collect::<Vec<_>>() {
        if state.fetches.parked.get(&id).is_some_and(|(fetch, _)| fetch.is_complete(state)) {
            on_deadline(state, id, now);
        }
    }
}

impl ParkedFetch {
    /// All partitions to read, in order.
    fn wanted<'a>(&'a self, state: &'a State) -> impl Iterator<Item = &'a Wanted> {
        let (named, session) = match &self.context {
            Context::Sessionless(wanted) => (wanted.as_slice(), None),
            Context::Full { session } | Context::Incremental { session } => {
                let sessions = state.brokers.get(&self.call.broker).map(|broker| &broker.sessions);
                (&[][..], sessions.and_then(|sessions| sessions.get(*session)))
            }
        };
        named.iter().chain(session.into_iter().flat_map(|session| session.partitions()))
    }

    /// Whether a quota wants that nothing is given now.
    fn is_throttled(&self, state: &State) -> bool {
        state.throttle_of(self.pending.connection).is_some()
    }

    /// Whether there is enough, or something wrong: then nobody waits.
    fn is_complete(&self, state: &State) -> bool {
        if self.is_throttled(state) {
            return true;
        }
        let (mut bytes, mut partitions) = (0, 0);
        for wanted in self.wanted(state) {
            partitions += 1;
            match self.look(state, wanted) {
                Ok(replica) if !replica.gives_records() => return true,
                Ok(replica) => {
                    let limit = usize::try_from(wanted.max_bytes).unwrap_or(0);
                    bytes += replica.log.available(wanted.offset, replica.readable_below(self.read_committed), limit);
                }
                Err(_) => return true,
            }
            if bytes >= self.min_bytes {
                return true;
            }
        }
        partitions == 0 || bytes >= self.min_bytes
    }

    fn respond(&self, state: &mut State) -> FetchResponse {
        let mut response = FetchResponse::default();
        if self.is_throttled(state) {
            if let Context::Incremental { session } = self.context {
                response.session_id = session;
            }
            return response;
        }
        let mut room = self.max_bytes;
        let mut at_least_one = true;
        let (mut answers, mut epochs) = (Vec::new(), Vec::new());
        for wanted in self.wanted(state) {
            let data = self.read(state, wanted, &mut room, &mut at_least_one);
            if data.current_leader.leader_id.0 >= 0 {
                add_endpoint(state, &mut response.node_endpoints, data.current_leader.leader_id.0);
            }
            answers.push((wanted.place.clone(), data));
            epochs.push(wanted.current_leader_epoch);
        }
        for ((place, data), client_epoch) in answers.iter().zip(epochs) {
            if data.error_code == 0 {
                state.check_fetched(&Fetched {
                    topic: &place.name,
                    partition: place.partition,
                    client_epoch,
                    high_watermark: data.high_watermark,
                    read_committed: self.read_committed,
                    records: data.records.as_ref().unwrap_or(&Bytes::new()),
                });
            }
        }
        let only_changes = matches!(self.context, Context::Incremental { .. });
        if let Context::Full { session } | Context::Incremental { session } = self.context {
            response.session_id = session;
            self.remember(state, session, &mut answers, only_changes);
        }
        for (place, data) in answers {
            let same = |topic: &&mut FetchableTopicResponse| {
                if self.call.version >= 13 { topic.topic_id == place.id } else { topic.topic.as_str() == &*place.name }
            };
            // Only neighbours share a topic entry: the order of partitions stays the order in which they were read.
            match response.responses.last_mut().filter(same) {
                Some(topic) => topic.partitions.push(data),
                None => {
                    let mut topic = FetchableTopicResponse::default().with_partitions(vec![data]);
                    if self.call.version >= 13 {
                        topic.topic_id = place.id;
                    } else {
                        topic.topic = TopicName(StrBytes::from_string(place.name.to_string()));
                    }
                    response.responses.push(topic);
                }
            }
        }
        response
    }

    /// Notes what the client is told, drops what it knows already, and puts partitions that gave data last.
    fn remember(&self, state: &mut State, session: i32, answers: &mut Vec<(Place, PartitionData)>, only_changes: bool) {
        let sessions = state.brokers.get_mut(&self.call.broker).map(|broker| &mut broker.sessions);
        let Some(session) = sessions.and_then(|sessions| sessions.get_mut(session)) else { return };
        let mut served = Vec::new();
        answers.retain(|(place, data)| {
            let Some(wanted) = session.get_mut(place) else { return true };
            let has_records = data.records.as_ref().is_some_and(|records| !records.is_empty());
            let failed = data.error_code != 0;
            let changed = has_records
                || failed
                || data.preferred_read_replica.0 >= 0
                || data.diverging_epoch.epoch >= 0
                || wanted.told_high_watermark != data.high_watermark
                || wanted.told_log_start != data.log_start_offset;
            // After an error everything is told again.
            wanted.told_high_watermark = if failed { -1 } else { data.high_watermark };
            wanted.told_log_start = data.log_start_offset;
            if has_records && only_changes {
                served.push(place.clone());
            }
            changed || !only_changes
        });
        served.iter().for_each(|place| session.put_last(place));
    }

    fn read(&self, state: &State, wanted: &Wanted, room: &mut usize, at_least_one: &mut bool) -> PartitionData {
        let mut data = PartitionData::default()
            .with_partition_index(wanted.place.partition)
            .with_high_watermark(-1)
            .with_last_stable_offset(-1)
            .with_records(Some(Bytes::new()));
        if self.call.version >= 5 {
            data.log_start_offset = -1;
        }
        if self.read_committed {
            data.aborted_transactions = Some(Vec::new());
        } else {
            data.aborted_transactions = None;
        }
        match self.look(state, wanted) {
            Ok(replica) => {
                let log = replica.log;
                data.high_watermark = replica.high_watermark;
                data.last_stable_offset = replica.last_stable_offset();
                if self.call.version >= 5 {
                    data.log_start_offset = log.start();
                }
                data.preferred_read_replica = BrokerId(replica.preferred.unwrap_or(-1));
                if let Some((epoch, end)) = replica.diverging {
                    data.diverging_epoch = EpochEndOffset::default().with_epoch(epoch).with_end_offset(end);
                }
                if !replica.gives_records() {
                    return data;
                }
                let limit = usize::try_from(wanted.max_bytes).unwrap_or(0).min(*room);
                let below = replica.readable_below(self.read_committed);
                if self.read_committed && wanted.offset < below {
                    let aborted = log.aborted_transactions(wanted.offset, limit).into_iter().map(|aborted| {
                        AbortedTransaction::default()
                            .with_producer_id(ProducerId(aborted.producer_id))
                            .with_first_offset(aborted.first_offset)
                    });
                    data.aborted_transactions = Some(aborted.collect());
                }
                let read = log.read(wanted.offset, below, limit, *at_least_one);
                if !read.first_is_cut && !read.bytes.is_empty() {
                    *at_least_one = false;
                    *room = room.saturating_sub(read.bytes.len());
                    data.records = Some(read.bytes);
                }
            }
            Err(code) => {
                data.error_code = code.0;
                if matches!(code, ErrorCode::NOT_LEADER_OR_FOLLOWER | ErrorCode::FENCED_LEADER_EPOCH)
                    && self.call.version >= 16
                    && let Some((leader, epoch)) = state.leader_hint(&wanted.place.name, wanted.place.partition)
                {
                    data.current_leader =
                        LeaderIdAndEpoch::default().with_leader_id(BrokerId(leader)).with_leader_epoch(epoch);
                }
            }
        }
        data
    }
}

fn add_endpoint(state: &State, endpoints: &mut Vec<NodeEndpoint>, broker: i32) {
    if endpoints.iter().any(|known| known.node_id.0 == broker) {
        return;
    }
    if let Some((host, port, rack)) = state.endpoint(broker) {
        let endpoint = NodeEndpoint::default().with_node_id(BrokerId(broker)).with_host(host).with_port(port);
        endpoints.push(endpoint.with_rack(rack));
    }
}
