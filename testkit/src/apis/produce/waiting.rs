//! Produce requests with `acks=all` that wait until all in-sync replicas have what they brought. Kafka's `DelayedProduce`.
//!
//! A partition that is not there when the request's `timeout.ms` is over is answered `REQUEST_TIMED_OUT`, and what was appended stays; a
//! partition that has another leader meanwhile is `NOT_LEADER_OR_FOLLOWER`; one whose high watermark has come there because replicas left
//! that were in sync, and now fewer are than `min.insync.replicas`, is `NOT_ENOUGH_REPLICAS_AFTER_APPEND`. All keep the base offset in
//! the answer.

use std::collections::{BTreeMap, BTreeSet};

use milena_protocol::ErrorCode;
use milena_protocol::messages::produce_response::PartitionProduceResponse;
use milena_protocol::messages::{ProduceRequest, ProduceResponse};
use tokio::time::Instant;

use super::add_leader_hints;
use crate::apis::{Call, Pending};
use crate::state::{State, Timer};

/// Produce requests that wait.
#[derive(Default)]
pub(crate) struct ParkedProduces {
    parked: BTreeMap<u64, ParkedProduce>,
    next: u64,
    /// Who waits for which partition.
    waiting: BTreeMap<(String, i32), BTreeSet<u64>>,
}

struct ParkedProduce {
    call: Call,
    pending: Pending<<ProduceRequest as milena_protocol::Request>::Response>,
    response: ProduceResponse,
    /// What has to be replicated yet.
    awaited: Vec<Awaited>,
}

/// A partition whose high watermark has to come to an offset.
pub(super) struct Awaited {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) high_watermark: i64,
    /// Where its answer stands.
    pub(super) at: (usize, usize),
}

/// Keeps an answer until the partitions are replicated, or so many milliseconds are over.
pub(super) fn park(state: &mut State, call: &Call, response: ProduceResponse, awaited: Vec<Awaited>, timeout_ms: i32) {
    let id = state.produces.next;
    state.produces.next += 1;
    for one in &awaited {
        state.produces.waiting.entry((one.topic.clone(), one.partition)).or_default().insert(id);
    }
    let parked = ParkedProduce { call: call.clone(), pending: call.pending(), response, awaited };
    state.produces.parked.insert(id, parked);
    let timeout = std::time::Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0));
    state.at(call.now + timeout, Timer::Produce(id));
}

/// The high watermark or the leader of a partition changed.
pub(crate) fn on_partition_changed(state: &mut State, topic: &str, partition: i32, now: Instant) {
    if state.produces.waiting.is_empty() {
        return; // the ordinary path
    }
    let place = (topic.to_owned(), partition);
    let Some(waiting) = state.produces.waiting.get(&place) else { return };
    for id in waiting.iter().copied().collect::<Vec<_>>() {
        let Some(mut parked) = state.produces.parked.remove(&id) else { continue };
        let (here, elsewhere) =
            parked.awaited.drain(..).partition(|one| (&*one.topic, one.partition) == (topic, partition));
        parked.awaited = elsewhere;
        for one in here {
            match look(state, parked.call.broker, &one) {
                None => parked.awaited.push(one),
                Some(Ok(())) => {
                    state.check_acknowledged(&one.topic, one.partition, one.high_watermark);
                    state.produces.forget(&place, id);
                }
                Some(Err(code)) => {
                    fail(&mut parked.response, &one, code);
                    state.produces.forget(&place, id);
                }
            }
        }
        if parked.awaited.is_empty() {
            answer(state, parked, now);
        } else {
            state.produces.parked.insert(id, parked);
        }
    }
}

/// Whether a partition is done, and how; `None` while it is not.
fn look(state: &State, broker: i32, one: &Awaited) -> Option<Result<(), ErrorCode>> {
    let found = state.topics.get(&one.topic).and_then(|topic| Some((topic.partition(one.partition)?, topic)));
    let Some((partition, topic)) = found else { return Some(Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)) };
    if partition.leader != Some(broker) {
        return Some(Err(ErrorCode::NOT_LEADER_OR_FOLLOWER));
    }
    if partition.log.high_watermark() < one.high_watermark {
        return None;
    }
    let is_enough = partition.has_enough_in_sync(topic.min_in_sync());
    Some(if is_enough { Ok(()) } else { Err(ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND) })
}

fn fail(response: &mut ProduceResponse, one: &Awaited, code: ErrorCode) {
    let (topic, partition) = one.at;
    let answer: Option<&mut PartitionProduceResponse> =
        response.responses.get_mut(topic).and_then(|topic| topic.partition_responses.get_mut(partition));
    if let Some(answer) = answer {
        answer.error_code = code.0;
    }
}

fn answer(state: &mut State, mut parked: ParkedProduce, now: Instant) {
    add_leader_hints(state, &parked.call, &mut parked.response);
    state.answer(&parked.pending, &parked.response, now);
}

/// The request's time is over.
pub(crate) fn on_deadline(state: &mut State, id: u64, now: Instant) {
    let Some(mut parked) = state.produces.parked.remove(&id) else { return };
    for one in std::mem::take(&mut parked.awaited) {
        fail(&mut parked.response, &one, ErrorCode::REQUEST_TIMED_OUT);
        state.produces.forget(&(one.topic, one.partition), id);
    }
    answer(state, parked, now);
}

impl ParkedProduces {
    fn forget(&mut self, place: &(String, i32), id: u64) {
        if let Some(waiting) = self.waiting.get_mut(place) {
            waiting.remove(&id);
            if waiting.is_empty() {
                self.waiting.remove(place);
            }
        }
    }
}
