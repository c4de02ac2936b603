//! AddPartitionsToTxn: partitions belong to the transaction from now on; the first begins it. With transaction.version 2 clients need
//! it no more: Produce v12 does that itself.
//!
//! - All or nothing: if one partition does not exist (`UNKNOWN_TOPIC_OR_PARTITION`), the others are `OPERATION_NOT_ATTEMPTED`.
//! - Another epoch is `PRODUCER_FENCED` (before v2 `INVALID_PRODUCER_EPOCH`), another producer id `INVALID_PRODUCER_ID_MAPPING`; while
//!   markers are still to be written it is `CONCURRENT_TRANSACTIONS`.
//! - v4 and v5 are for brokers: several transactions at once, and some only to be verified. Without authorisation Kafka serves them to
//!   everybody.

use std::iter;

use milena_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use milena_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use milena_protocol::messages::{AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, TransactionalId};
use milena_protocol::{ErrorCode, StrBytes};

use super::{Api, Call, Names, Served, Touched, listed, touches};
use crate::state::State;
use crate::transactions::IdAndEpoch;

pub(crate) struct AddPartitionsToTxn;

/// What is asked for one transactional id.
struct Asked<'a> {
    id: &'a TransactionalId,
    producer: IdAndEpoch,
    verify_only: bool,
    topics: &'a [AddPartitionsToTxnTopic],
}

fn asked<'a>(call: &Call, request: &'a AddPartitionsToTxnRequest) -> Vec<Asked<'a>> {
    if call.version < 4 {
        return vec![Asked {
            id: &request.v3_and_below_transactional_id,
            producer: (request.v3_and_below_producer_id.0, request.v3_and_below_producer_epoch),
            verify_only: false,
            topics: &request.v3_and_below_topics,
        }];
    }
    let asked = request.transactions.iter().map(|one| Asked {
        id: &one.transactional_id,
        producer: (one.producer_id.0, one.producer_epoch),
        verify_only: one.verify_only,
        topics: &one.topics,
    });
    asked.collect()
}

impl Asked<'_> {
    fn partitions(&self) -> impl Iterator<Item = Touched> {
        self.topics.iter().flat_map(|topic| touches(&topic.name, topic.partitions.iter().copied()))
    }
}

impl Api for AddPartitionsToTxn {
    type Request = AddPartitionsToTxnRequest;

    fn digest(_: &dyn Names, call: &Call, request: &AddPartitionsToTxnRequest) -> String {
        let asked = asked(call, request);
        let words = asked.iter().flat_map(|asked| {
            let who = format!("{} {}/{}", asked.id.as_str(), asked.producer.0, asked.producer.1);
            iter::once(who).chain(asked.partitions().map(|(topic, partition)| format!("{topic}-{partition}")))
        });
        listed(" ", words)
    }

    fn partitions(_: &dyn Names, call: &Call, request: &AddPartitionsToTxnRequest) -> Vec<Touched> {
        asked(call, request).iter().flat_map(Asked::partitions).collect()
    }

    fn transactional_id(request: &AddPartitionsToTxnRequest) -> Option<String> {
        let first = request.transactions.first().map(|one| &one.transactional_id);
        Some(first.unwrap_or(&request.v3_and_below_transactional_id).to_string())
    }

    fn serve(state: &mut State, call: &Call, request: AddPartitionsToTxnRequest) -> Served<AddPartitionsToTxnResponse> {
        let mut response = AddPartitionsToTxnResponse::default();
        for asked in asked(call, &request) {
            let codes = add(state, call, &asked);
            if codes.iter().any(|(_, code)| *code == ErrorCode::UNSUPPORTED_VERSION) {
                let code = ErrorCode::UNSUPPORTED_VERSION.0;
                return Served::Now(AddPartitionsToTxnResponse::default().with_error_code(code));
            }
            let results = results(&codes, call.version);
            if call.version < 4 {
                response.results_by_topic_v3_and_below = results;
            } else {
                let result = AddPartitionsToTxnResult::default()
                    .with_transactional_id(asked.id.clone())
                    .with_topic_results(results);
                response.results_by_transaction.push(result);
            }
        }
        Served::Now(response)
    }
}

/// The code of each partition.
type Results = Vec<(Touched, ErrorCode)>;

fn add(state: &mut State, call: &Call, asked: &Asked<'_>) -> Results {
    let partitions: Vec<Touched> = asked.partitions().collect();
    let all = |code: ErrorCode| partitions.iter().map(|partition| (partition.clone(), code)).collect();
    if let Err(code) = state.check_transactional_id(call.broker, asked.id) {
        return all(code);
    }
    let exists = |(topic, partition): &Touched| {
        call.injected(topic, *partition)?;
        let found = state.topics.get(&**topic).and_then(|topic| topic.partition(*partition));
        found.map(|_| ()).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
    };
    let found: Vec<Result<(), ErrorCode>> = partitions.iter().map(exists).collect();
    if found.iter().any(Result::is_err) {
        let code = |found: Result<(), ErrorCode>| found.err().unwrap_or(ErrorCode::OPERATION_NOT_ATTEMPTED);
        return partitions.into_iter().zip(found.into_iter().map(code)).collect();
    }
    // From here on all are partitions that exist, and their names are short.
    let owned: Vec<(String, i32)> = partitions.iter().map(|(topic, index)| (topic.to_string(), *index)).collect();
    // With transaction.version 0 there is no place for what belongs to the new protocol, and the request fails as a whole.
    let refused = call.version >= 4 && state.transaction_version() == 0;
    if asked.verify_only || refused {
        let verify = |partition: &(String, i32)| match state.transaction(asked.id) {
            Some(transaction) => transaction.verify(asked.producer, partition).map_err(|code| match code {
                ErrorCode::TRANSACTION_ABORTABLE if !asked.verify_only => ErrorCode::UNSUPPORTED_VERSION,
                code => code,
            }),
            None => Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING),
        };
        let code = |partition: &(String, i32)| verify(partition).err().unwrap_or(ErrorCode::NONE);
        return partitions.into_iter().zip(owned.iter().map(code)).collect();
    }
    all(state.add_to_transaction(asked.id, asked.producer, &owned, call.now).err().unwrap_or(ErrorCode::NONE))
}

fn results(codes: &Results, version: i16) -> Vec<AddPartitionsToTxnTopicResult> {
    let mut topics: Vec<AddPartitionsToTxnTopicResult> = Vec::new();
    for ((topic, partition), code) in codes {
        let old = version < 2 && *code == ErrorCode::PRODUCER_FENCED;
        let code = if old { ErrorCode::INVALID_PRODUCER_EPOCH } else { *code };
        let result = AddPartitionsToTxnPartitionResult::default()
            .with_partition_index(*partition)
            .with_partition_error_code(code.0);
        match topics.iter_mut().find(|known| known.name.as_str() == &**topic) {
            Some(known) => known.results_by_partition.push(result),
            None => {
                let name = StrBytes::from_string(topic.to_string()).into();
                topics.push(
                    AddPartitionsToTxnTopicResult::default().with_name(name).with_results_by_partition(vec![result]),
                );
            }
        }
    }
    topics
}
