//! InitProducerId: ids for idempotent and for transactional producers.
//!
//! - Without a transactional id every request gets a new producer id, with epoch 0.
//! - With one the coordinator (`NOT_COORDINATOR`) gives the same producer id with the next epoch; when epochs are used up, a new id
//!   with epoch 0. A time-out above 15 minutes, or none, is `INVALID_TRANSACTION_TIMEOUT`.
//! - An open transaction is aborted first, with a higher epoch, and the answer is `CONCURRENT_TRANSACTIONS`, as it is while markers are
//!   still to be written.
//! - v3 lets a producer say which id and epoch it thinks it has (KIP-360): another id, or an epoch that is neither the current one nor
//!   the one before, is `PRODUCER_FENCED` (before v4 `INVALID_PRODUCER_EPOCH`).
//! - v6 (two-phase commit, KIP-939) is not spoken.

use milena_protocol::ErrorCode;
use milena_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use super::{Api, Call, Names, Served};
use crate::state::State;

pub(crate) struct InitProducerId;

impl Api for InitProducerId {
    type Request = InitProducerIdRequest;

    fn digest(_: &dyn Names, _: &Call, request: &InitProducerIdRequest) -> String {
        match &request.transactional_id {
            Some(id) => format!("{} {}/{}", id.as_str(), request.producer_id.0, request.producer_epoch),
            None => String::new(),
        }
    }

    fn transactional_id(request: &InitProducerIdRequest) -> Option<String> {
        request.transactional_id.as_ref().map(|id| id.to_string())
    }

    fn serve(state: &mut State, call: &Call, request: InitProducerIdRequest) -> Served<InitProducerIdResponse> {
        let mut response = InitProducerIdResponse::default();
        match init(state, call, &request) {
            Ok((id, epoch)) => {
                response.producer_id = ProducerId(id);
                response.producer_epoch = epoch;
            }
            Err(code) => {
                let old = call.version < 4 && code == ErrorCode::PRODUCER_FENCED;
                response.error_code = if old { ErrorCode::INVALID_PRODUCER_EPOCH.0 } else { code.0 };
                response.producer_id = ProducerId(-1);
                response.producer_epoch = -1;
            }
        }
        Served::Now(response)
    }
}

fn init(state: &mut State, call: &Call, request: &InitProducerIdRequest) -> Result<(i64, i16), ErrorCode> {
    call.injected_for_request()?;
    let expected = match (request.producer_id.0, request.producer_epoch) {
        _ if call.version < 3 => None,
        (-1, -1) => None,
        (-1, _) | (_, -1) => return Err(ErrorCode::INVALID_REQUEST),
        expected => Some(expected),
    };
    let Some(transactional_id) = &request.transactional_id else {
        return Ok((state.producer_ids.new_id(), 0));
    };
    state.check_transactional_id(call.broker, transactional_id)?;
    state.init_transactions(transactional_id, request.transaction_timeout_ms, expected, call.now)
}
