//! FindCoordinator: which broker coordinates a group (key type 0) or a transactional id (1).
//!
//! v4 asks for many keys at once; before there is one, without a list. If no broker is up, or for another key type, the answer is an
//! error of that key: `COORDINATOR_NOT_AVAILABLE`, `INVALID_REQUEST`.

use milena_protocol::messages::find_coordinator_response::Coordinator;
use milena_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use milena_protocol::{ErrorCode, StrBytes};

use super::{Api, Call, Names, Served, listed};
use crate::state::State;

pub(crate) struct FindCoordinator;

fn keys(call: &Call, request: &FindCoordinatorRequest) -> Vec<StrBytes> {
    if call.version >= 4 { request.coordinator_keys.clone() } else { vec![request.key.clone()] }
}

impl Api for FindCoordinator {
    type Request = FindCoordinatorRequest;

    fn digest(_: &dyn Names, call: &Call, request: &FindCoordinatorRequest) -> String {
        listed(",", keys(call, request).iter().map(|key| key.as_str()))
    }

    fn group(request: &FindCoordinatorRequest) -> Option<String> {
        request.coordinator_keys.first().or(Some(&request.key)).map(|key| key.to_string())
    }

    fn serve(state: &mut State, call: &Call, request: FindCoordinatorRequest) -> Served<FindCoordinatorResponse> {
        let found: Vec<Coordinator> =
            keys(call, &request).into_iter().map(|key| find(state, call, key, request.key_type)).collect();
        if call.version >= 4 {
            return Served::Now(FindCoordinatorResponse::default().with_coordinators(found));
        }
        let mut response = FindCoordinatorResponse::default().with_error_message(Some(StrBytes::new()));
        if let Some(found) = found.into_iter().next() {
            response.error_code = found.error_code;
            response.node_id = found.node_id;
            response.host = found.host;
            response.port = found.port;
        }
        Served::Now(response)
    }
}

fn find(state: &State, call: &Call, key: StrBytes, key_type: i8) -> Coordinator {
    let found = call.injected_for_request().and_then(|()| {
        if !matches!(key_type, 0 | 1) || (key_type == 1 && key.is_empty()) {
            return Err(ErrorCode::INVALID_REQUEST);
        }
        let broker = state.coordinator(&key).ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
        let (host, port, _) = state.endpoint(broker).ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
        Ok((broker, host, port))
    });
    let coordinator = Coordinator::default().with_key(key).with_error_message(Some(StrBytes::new()));
    match found {
        Ok((broker, host, port)) => coordinator.with_node_id(BrokerId(broker)).with_host(host).with_port(port),
        Err(code) => coordinator.with_error_code(code.0).with_node_id(BrokerId(-1)).with_port(-1),
    }
}
