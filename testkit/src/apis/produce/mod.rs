//! Produce: batches are validated as strictly as a broker does and appended, partition by partition; one that is refused does not
//! hinder the others.
//!
//! - acks 0 gets no answer; if anything fails then, the broker closes the connection. 1 is answered after the append. −1 needs
//!   `min.insync.replicas`, else `NOT_ENOUGH_REPLICAS` and nothing is appended; then it is answered when the high watermark has passed
//!   the batch (`waiting.rs`), a repeated one, too. Any other number is `INVALID_REQUIRED_ACKS`.
//! - `NOT_ENOUGH_REPLICAS_AFTER_APPEND` comes only from a cluster like Kafka 2.8, or from a fault
//!   ([`ApplyThenError`](crate::Reaction::ApplyThenError)): since Kafka 3.7 no high watermark passes a batch while too few replicas are
//!   in sync, and the request times out; what is left of that code is a race of a millisecond.
//! - A repeat of one of the last five batches of a producer gets its original offset, and that batch's max timestamp as
//!   `log_append_time_ms` even where the topic has CreateTime, as Kafka does.
//! - `NOT_LEADER_OR_FOLLOWER` carries the new leader from v10 on (KIP-951).
//! - A transactional batch that begins a transaction in its partition needs the coordinator's word. v12 adds the partition to the
//!   transaction (KIP-890); before, it must have been added by AddPartitionsToTxn: `TRANSACTION_ABORTABLE` in v11, `INVALID_TXN_STATE`
//!   before that. While the last transaction's markers are still to be written it is `CONCURRENT_TRANSACTIONS`, before v12
//!   `NOT_ENOUGH_REPLICAS`. Kafka itself tries again for 100 ms before it answers that. All of this comes before the batch is looked at.
//! - v8 names the record that is to blame, v13 takes topic ids (`UNKNOWN_TOPIC_ID`).

mod waiting;

use milena_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use milena_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use milena_protocol::messages::{BrokerId, ProduceRequest, ProduceResponse};
use milena_protocol::{ErrorCode, StrBytes};
use tokio::time::Instant;

use super::{Api, Call, Names, Served, Touched, listed, touches};
use crate::log::batch::{self, BatchHeader, Refusal, Rules};
use crate::planted::Defect;
use crate::state::State;

use waiting::Awaited;
pub(crate) use waiting::{ParkedProduces, on_deadline, on_partition_changed};

/// The version whose rules count for what no request brings.
const LATEST: i16 = 13;

pub(crate) struct Produce;

impl Api for Produce {
    type Request = ProduceRequest;

    fn digest(names: &dyn Names, call: &Call, request: &ProduceRequest) -> String {
        let words = request.topic_data.iter().flat_map(|topic| {
            let name = name(names, call, topic).unwrap_or("?");
            topic.partition_data.iter().map(move |partition| {
                let mut word = format!(" {name}-{}", partition.index);
                if let Some(batch) = partition.records.as_ref().and_then(|bytes| BatchHeader::read(bytes)) {
                    word.push_str(&format!(":{}", batch.count));
                    if batch.producer_id >= 0 {
                        let BatchHeader { producer_id, producer_epoch, base_sequence, .. } = batch;
                        word.push_str(&format!("@{producer_id}/{producer_epoch}/{base_sequence}"));
                    }
                }
                word
            })
        });
        format!("acks={}{}", request.acks, listed("", words))
    }

    fn partitions(names: &dyn Names, call: &Call, request: &ProduceRequest) -> Vec<Touched> {
        let mut touched = Vec::new();
        for topic in &request.topic_data {
            if let Some(name) = name(names, call, topic) {
                touched.extend(touches(name, topic.partition_data.iter().map(|p| p.index)));
            }
        }
        touched
    }

    fn transactional_id(request: &ProduceRequest) -> Option<String> {
        request.transactional_id.as_ref().map(|id| id.to_string())
    }

    fn is_answered(request: &ProduceRequest) -> bool {
        request.acks != 0
    }

    fn serve(state: &mut State, call: &Call, request: ProduceRequest) -> Served<ProduceResponse> {
        let mut response = ProduceResponse::default();
        let (mut failed, mut awaited) = (false, Vec::new());
        let headers = request.topic_data.iter().flat_map(|topic| &topic.partition_data);
        let mut headers = headers.filter_map(|data| BatchHeader::read(data.records.as_ref()?));
        let transactional = headers.any(|header| header.magic == 2 && header.is_transactional());
        for topic in &request.topic_data {
            let name = name(state, call, topic).map(str::to_owned);
            let mut partitions = Vec::new();
            for data in &topic.partition_data {
                let outcome = match &name {
                    Some(_) if transactional && request.transactional_id.is_none() => Err(Refusal::new(
                        ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
                        "a transactional batch came without a transactional id",
                    )),
                    Some(name) => {
                        let transactional_id = request.transactional_id.as_ref().filter(|_| transactional);
                        let transactional_id = transactional_id.map(|id| id.as_str());
                        produce(state, call, name, data, request.acks, transactional_id)
                    }
                    None => Err(Refusal::new(ErrorCode::UNKNOWN_TOPIC_ID, "no topic has this id")),
                };
                failed |= outcome.is_err();
                let log_start =
                    name.as_ref().and_then(|name| Some(state.topics.get(name)?.partition(data.index)?.log.start()));
                if let (Some(name), Ok(appended)) = (&name, &outcome)
                    && request.acks == -1
                {
                    let (at, end) = ((response.responses.len(), partitions.len()), appended.end);
                    if appended.high_watermark < end && state.settings.planted != Some(Defect::AckBeforeMinIsr) {
                        awaited.push(Awaited { topic: name.clone(), partition: data.index, high_watermark: end, at });
                    } else {
                        state.check_acknowledged(name, data.index, end);
                    }
                }
                partitions.push(answer(call, data.index, outcome, log_start));
            }
            let mut answered = TopicProduceResponse::default().with_partition_responses(partitions);
            if call.version >= 13 {
                answered.topic_id = topic.topic_id;
            } else {
                answered.name = topic.name.clone();
            }
            response.responses.push(answered);
        }
        match request.acks {
            0 if failed => Served::Close("a produce request with acks=0 failed".to_owned()),
            0 => Served::Never,
            _ if awaited.is_empty() => {
                add_leader_hints(state, call, &mut response);
                Served::Now(response)
            }
            _ => {
                waiting::park(state, call, response, awaited, request.timeout_ms);
                Served::Later
            }
        }
    }
}

fn name<'a>(names: &'a dyn Names, call: &Call, topic: &'a TopicProduceData) -> Option<&'a str> {
    names.topic_name(call.version >= 13, &topic.name, &topic.topic_id)
}

/// What a partition's answer says.
struct Appended {
    base_offset: i64,
    log_append_time: i64,
    log_start: i64,
    /// Behind its last record.
    end: i64,
    high_watermark: i64,
}

fn produce(
    state: &mut State,
    call: &Call,
    topic: &str,
    data: &PartitionProduceData,
    acks: i16,
    transactional_id: Option<&str>,
) -> Result<Appended, Refusal> {
    let plain = |code: ErrorCode| Refusal::new(code, code.name().unwrap_or_default());
    call.injected(topic, data.index).map_err(plain)?;
    if !matches!(acks, -1..=1) {
        return Err(plain(ErrorCode::INVALID_REQUIRED_ACKS));
    }
    let wall_clock = state.wall_clock_ms(call.now);
    let rules = rules(state, topic, wall_clock);
    let min_in_sync = state.topics.get(topic).map_or(1, |topic| topic.min_in_sync());
    let by_broker =
        state.topics.get(topic).is_some_and(|t| t.config("message.timestamp.type") == Some("LogAppendTime"));
    let bytes = data.records.as_deref().unwrap_or_default();
    if let (Some(header), Some(id)) = (BatchHeader::read(bytes).filter(BatchHeader::is_transactional), transactional_id)
    {
        admit(state, call, topic, data.index, &header, id)?;
    }
    let planted = state.settings.planted;
    let partition = state.led_by(call.broker, topic, data.index).map_err(plain)?;
    if acks == -1 && !partition.has_enough_in_sync(min_in_sync) && planted != Some(Defect::AckBeforeMinIsr) {
        return Err(Refusal::new(
            ErrorCode::NOT_ENOUGH_REPLICAS,
            format!("{} replicas are in sync, and min.insync.replicas is {min_in_sync}", partition.isr.len()),
        ));
    }
    let valid = batch::validate(bytes, call.version, rules)?;
    let log = &mut partition.log;
    if valid.header.producer_id >= 0 {
        let original = log.producers.duplicate_of(&valid.header);
        let accepted = match planted {
            Some(Defect::SequenceCheckOff) => original.is_none(),
            Some(Defect::DuplicateAccepted) => original.is_some(),
            _ => false,
        };
        if let Some(original) = original.filter(|_| !accepted) {
            return Ok(Appended {
                base_offset: original.base_offset,
                log_append_time: original.timestamp,
                log_start: log.start(),
                end: original.base_offset + i64::from(valid.header.last_offset_delta) + 1,
                high_watermark: log.high_watermark(),
            });
        }
        if !accepted {
            log.producers.check(&valid.header)?;
        }
    }
    let append_time = by_broker.then_some(wall_clock);
    let base_offset = log.append(&valid, partition.leader_epoch, append_time);
    let (log_start, end) = (log.start(), log.end());
    for oddity in &valid.oddities {
        state.violation(format!(
            "{topic}-{}: client {:?} wrote a batch that Kafka takes and no correct encoder writes: {oddity}",
            data.index,
            call.client_id.as_str()
        ));
    }
    state.check_appended(topic, data.index, &valid.header, base_offset);
    state.on_appended(topic, data.index, call.now);
    let high_watermark =
        state.topics.get(topic).and_then(|t| t.partition(data.index)).map_or(-1, |p| p.log.high_watermark());
    Ok(Appended { base_offset, log_append_time: append_time.unwrap_or(-1), log_start, end, high_watermark })
}

/// Appends a batch that no request brought: whoever leads the partition takes it, and its transaction is nobody's.
pub(crate) fn append(state: &mut State, topic: &str, index: i32, bytes: &[u8], now: Instant) -> Result<i64, ErrorCode> {
    let rules = rules(state, topic, state.wall_clock_ms(now));
    let found = state.topics.get_mut(topic).and_then(|topic| topic.partition_mut(index));
    let partition = found.filter(|partition| partition.leader.is_some()).ok_or(ErrorCode::LEADER_NOT_AVAILABLE)?;
    let code = |refusal: Refusal| refusal.code;
    let valid = batch::validate(bytes, LATEST, rules).map_err(code)?;
    if valid.header.producer_id >= 0 {
        partition.log.producers.check(&valid.header).map_err(code)?;
    }
    let base_offset = partition.log.append(&valid, partition.leader_epoch, None);
    state.check_appended(topic, index, &valid.header, base_offset);
    state.on_appended(topic, index, now);
    Ok(base_offset)
}

/// Asks the coordinator, if a transactional batch begins a transaction in this partition.
fn admit(
    state: &mut State,
    call: &Call,
    topic: &str,
    index: i32,
    header: &BatchHeader,
    transactional_id: &str,
) -> Result<(), Refusal> {
    let plain = |code: ErrorCode| Refusal::new(code, code.name().unwrap_or_default());
    let BatchHeader { producer_id, producer_epoch, .. } = *header;
    let adds = call.version >= 12;
    let verifies = state.settings.verifies_transactions;
    let producers = &mut state.led_by(call.broker, topic, index).map_err(plain)?.log.producers;
    producers.check_epoch(producer_id, producer_epoch)?;
    if producers.has_open_transaction(producer_id, producer_epoch) || !verifies {
        return Ok(());
    }
    producers.on_beginning(header, adds);
    let place = (topic.to_owned(), index);
    let admitted =
        state.admit_to_transaction(call.broker, transactional_id, (producer_id, producer_epoch), place, adds, call.now);
    admitted.map_err(|code| match code {
        ErrorCode::TRANSACTION_ABORTABLE if call.version < 11 => {
            Refusal::new(ErrorCode::INVALID_TXN_STATE, "Partition was not added to the transaction")
        }
        ErrorCode::CONCURRENT_TRANSACTIONS if adds => plain(code),
        ErrorCode::CONCURRENT_TRANSACTIONS | ErrorCode::COORDINATOR_NOT_AVAILABLE => Refusal::new(
            ErrorCode::NOT_ENOUGH_REPLICAS,
            format!("Unable to verify the partition has been added to the transaction. Underlying error: {code}"),
        ),
        code => plain(code),
    })
}

fn rules(state: &State, topic: &str, wall_clock: i64) -> Rules {
    let topic = state.topics.get(topic);
    let number = |name: &str| topic.and_then(|topic| topic.config_i64(name));
    let configured = |name: &str| topic.is_some_and(|topic| topic.configured(name).is_some());
    let after = number("message.timestamp.after.max.ms")
        .filter(|_| state.settings.default_timestamp_limit || configured("message.timestamp.after.max.ms"));
    let before = number("message.timestamp.before.max.ms").filter(|limit| *limit != i64::MAX);
    let by_producer = topic.is_none_or(|topic| topic.config("message.timestamp.type") == Some("CreateTime"));
    Rules {
        max_message_bytes: number("max.message.bytes").and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX),
        compacted: topic.is_some_and(|topic| topic.is_compacted()),
        now: wall_clock,
        ahead: after.filter(|_| by_producer),
        behind: before.filter(|_| by_producer),
    }
}

fn answer(
    call: &Call,
    index: i32,
    outcome: Result<Appended, Refusal>,
    log_start: Option<i64>,
) -> PartitionProduceResponse {
    let mut response = PartitionProduceResponse::default().with_index(index);
    match outcome {
        Ok(appended) => {
            response.base_offset = appended.base_offset;
            response.log_append_time_ms = appended.log_append_time;
            if call.version >= 5 {
                response.log_start_offset = appended.log_start;
            }
        }
        Err(refusal) => {
            tracing::debug!(target: "milena_testkit", partition = index, code = %refusal.code, "{}", refusal.message);
            response.error_code = refusal.code.0;
            response.base_offset = -1;
            response.log_append_time_ms = -1;
            if call.version >= 5 {
                response.log_start_offset = log_start.filter(|_| refusal.by_log).unwrap_or(-1);
            }
            if call.version >= 8 {
                let message = StrBytes::from_string(refusal.message);
                let blame = |index: &i32| {
                    BatchIndexAndErrorMessage::default()
                        .with_batch_index(*index)
                        .with_batch_index_error_message(Some(message.clone()))
                };
                response.record_errors = refusal.records.iter().map(blame).collect();
                response.error_message = Some(message);
            }
        }
    }
    response
}

/// Names the new leaders of partitions that this broker does not lead any more.
fn add_leader_hints(state: &State, call: &Call, response: &mut ProduceResponse) {
    if call.version < 10 {
        return;
    }
    let ProduceResponse { responses, node_endpoints, .. } = response;
    for topic in responses {
        let Some(name) = state.topic_name(call.version >= 13, &topic.name, &topic.topic_id) else { continue };
        for answer in &mut topic.partition_responses {
            if answer.error_code != ErrorCode::NOT_LEADER_OR_FOLLOWER.0 {
                continue;
            }
            if let Some((leader, epoch)) = state.leader_hint(name, answer.index) {
                answer.current_leader =
                    LeaderIdAndEpoch::default().with_leader_id(BrokerId(leader)).with_leader_epoch(epoch);
                add_endpoint(state, node_endpoints, leader);
            }
        }
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
