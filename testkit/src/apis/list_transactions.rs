//! ListTransactions: the transactional ids that this broker coordinates. They can be filtered by state, by producer id, and from v1 on
//! by how long their transaction runs. A state that Kafka does not have is told in the answer. v2 (a pattern for the id) is not served.

use milena_protocol::messages::list_transactions_response::TransactionState;
use milena_protocol::messages::{ListTransactionsRequest, ListTransactionsResponse, ProducerId, TransactionalId};
use milena_protocol::{ErrorCode, StrBytes};

use super::{Api, Call, Served};
use crate::state::State;

/// Kafka's names of states; two of them nobody ever sees.
const STATES: [&str; 8] = [
    "Empty",
    "Ongoing",
    "PrepareCommit",
    "PrepareAbort",
    "CompleteCommit",
    "CompleteAbort",
    "Dead",
    "PrepareEpochFence",
];

pub(crate) struct ListTransactions;

impl Api for ListTransactions {
    type Request = ListTransactionsRequest;
    const MAX: i16 = 1;

    fn serve(state: &mut State, call: &Call, request: ListTransactionsRequest) -> Served<ListTransactionsResponse> {
        let mut response = ListTransactionsResponse::default();
        if let Err(code) = call.injected_for_request() {
            return Served::Now(response.with_error_code(code.0));
        }
        let known = |filter: &&StrBytes| STATES.contains(&filter.as_str());
        response.unknown_state_filters = request.state_filters.iter().filter(|f| !known(f)).cloned().collect();
        let now_ms = state.wall_clock_ms(call.now);
        let longest = if call.version >= 1 { request.duration_filter } else { -1 };
        for (id, coordinator, transaction) in state.all_transactions() {
            let phase = transaction.phase.name();
            let since = transaction.start.map(|start| now_ms - start.wall_clock_ms);
            let listed = coordinator == Some(call.broker)
                && (request.state_filters.is_empty() || request.state_filters.iter().any(|f| f.as_str() == phase))
                && (request.producer_id_filters.is_empty()
                    || request.producer_id_filters.contains(&ProducerId(transaction.producer_id)))
                && (longest < 0 || since.is_some_and(|since| since > longest));
            if listed {
                let listed = TransactionState::default()
                    .with_transactional_id(TransactionalId(StrBytes::from_string(id.to_owned())))
                    .with_producer_id(ProducerId(transaction.producer_id))
                    .with_transaction_state(StrBytes::from_static_str(phase));
                response.transaction_states.push(listed);
            }
        }
        Served::Now(response.with_error_code(ErrorCode::NONE.0))
    }
}
