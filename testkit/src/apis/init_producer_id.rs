//! InitProducerId: ids for idempotent producers; every request without a transactional id gets a new one, with epoch 0.
//!
//! With a transactional id the same producer id comes back with the next epoch, from its coordinator only (`NOT_COORDINATOR`). The
//! first id is 0, as on a new Kafka cluster: a client may not take 0 for "none". When epochs are used up there is a new id.

use milena_protocol::ErrorCode;
use milena_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use super::{Api, Call, Served};
use crate::state::State;

pub(crate) struct InitProducerId;

impl Api for InitProducerId {
    type Request = InitProducerIdRequest;

    fn digest(_: &State, _: &Call, request: &InitProducerIdRequest) -> String {
        match &request.transactional_id {
            Some(id) => format!("{} {}/{}", id.as_str(), request.producer_id.0, request.producer_epoch),
            None => String::new(),
        }
    }

    fn serve(state: &mut State, call: &Call, request: InitProducerIdRequest) -> Served<InitProducerIdResponse> {
        let mut response = InitProducerIdResponse::default();
        match init(state, call, &request) {
            Ok((id, epoch)) => {
                response.producer_id = ProducerId(id);
                response.producer_epoch = epoch;
            }
            Err(code) => {
                response.error_code = code.0;
                response.producer_id = ProducerId(-1);
                response.producer_epoch = -1;
            }
        }
        Served::Now(response)
    }
}

fn init(state: &mut State, call: &Call, request: &InitProducerIdRequest) -> Result<(i64, i16), ErrorCode> {
    call.injected_for_request()?;
    let Some(transactional_id) = &request.transactional_id else {
        return Ok((new_id(state), 0));
    };
    if transactional_id.is_empty() {
        return Err(ErrorCode::INVALID_REQUEST);
    }
    state.check_coordinator(call.broker, transactional_id)?;
    let known = state.producer_ids.transactional.get(transactional_id.as_str()).copied();
    let (id, epoch) = match known {
        Some((id, epoch)) if epoch < i16::MAX - 1 => (id, epoch + 1),
        _ => (new_id(state), 0),
    };
    state.producer_ids.transactional.insert(transactional_id.to_string(), (id, epoch));
    Ok((id, epoch))
}

fn new_id(state: &mut State) -> i64 {
    let id = state.producer_ids.next;
    state.producer_ids.next += 1;
    id
}
