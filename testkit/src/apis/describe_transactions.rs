//! DescribeTransactions: state, producer and partitions of transactional ids, from their coordinator (`NOT_COORDINATOR`). An id that
//! nobody has used is `TRANSACTIONAL_ID_NOT_FOUND`. Start time −1: no transaction has begun since InitProducerId.

use milena_protocol::messages::describe_transactions_response::{TopicData, TransactionState};
use milena_protocol::messages::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, ProducerId, TopicName, TransactionalId,
};
use milena_protocol::{ErrorCode, StrBytes};

use super::{Api, Call, Names, Served, listed};
use crate::state::State;

pub(crate) struct DescribeTransactions;

impl Api for DescribeTransactions {
    type Request = DescribeTransactionsRequest;

    fn digest(_: &dyn Names, _: &Call, request: &DescribeTransactionsRequest) -> String {
        listed(",", request.transactional_ids.iter().map(|id| id.as_str()))
    }

    fn transactional_id(request: &DescribeTransactionsRequest) -> Option<String> {
        request.transactional_ids.first().map(|id| id.to_string())
    }

    fn serve(
        state: &mut State,
        call: &Call,
        request: DescribeTransactionsRequest,
    ) -> Served<DescribeTransactionsResponse> {
        let mut response = DescribeTransactionsResponse::default();
        for id in request.transactional_ids {
            let described = describe(state, call, &id)
                .unwrap_or_else(|code| TransactionState::default().with_error_code(code.0))
                .with_transactional_id(id);
            response.transaction_states.push(described);
        }
        Served::Now(response)
    }
}

fn describe(state: &State, call: &Call, id: &TransactionalId) -> Result<TransactionState, ErrorCode> {
    call.injected_for_request()?;
    state.check_transactional_id(call.broker, id)?;
    let transaction = state.transaction(id).ok_or(ErrorCode::TRANSACTIONAL_ID_NOT_FOUND)?;
    let mut topics: Vec<TopicData> = Vec::new();
    for (topic, partition) in &transaction.partitions {
        match topics.last_mut().filter(|known| known.topic.as_str() == topic) {
            Some(known) => known.partitions.push(*partition),
            None => {
                let name = TopicName(StrBytes::from_string(topic.clone()));
                topics.push(TopicData::default().with_topic(name).with_partitions(vec![*partition]));
            }
        }
    }
    Ok(TransactionState::default()
        .with_producer_id(ProducerId(transaction.producer_id))
        .with_producer_epoch(transaction.epoch)
        .with_transaction_state(StrBytes::from_static_str(transaction.phase.name()))
        .with_transaction_timeout_ms(transaction.timeout.as_millis() as i32)
        .with_transaction_start_time_ms(transaction.start.map_or(-1, |start| start.wall_clock_ms))
        .with_topics(topics))
}
