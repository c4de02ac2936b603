//! Heartbeat: a member of a classic group is alive. `REBALANCE_IN_PROGRESS` asks it to join again; while members are still syncing all
//! is well. `ILLEGAL_GENERATION` and `UNKNOWN_MEMBER_ID` tell it that the group went on without it. v3 knows static members.

use milena_protocol::ErrorCode;
use milena_protocol::messages::{HeartbeatRequest, HeartbeatResponse};

use super::{Api, Call, Names, Served};
use crate::state::State;

pub(crate) struct Heartbeat;

impl Api for Heartbeat {
    type Request = HeartbeatRequest;

    fn digest(_: &dyn Names, _: &Call, request: &HeartbeatRequest) -> String {
        format!("{} {:?} generation={}", request.group_id.as_str(), request.member_id.as_str(), request.generation_id)
    }

    fn group(request: &HeartbeatRequest) -> Option<String> {
        Some(request.group_id.to_string())
    }

    fn serve(state: &mut State, call: &Call, request: HeartbeatRequest) -> Served<HeartbeatResponse> {
        let code = heartbeat(state, call, &request).err().unwrap_or(ErrorCode::NONE);
        Served::Now(HeartbeatResponse::default().with_error_code(code.0))
    }
}

fn heartbeat(state: &mut State, call: &Call, request: &HeartbeatRequest) -> Result<(), ErrorCode> {
    call.injected_for_request()?;
    state.check_group(call.broker, &request.group_id)?;
    let beat = state.with_group(&request.group_id, call.now, |group, _| {
        group.check(&request.member_id, request.group_instance_id.as_ref(), request.generation_id)?;
        group.on_heartbeat(&request.member_id, call.now)
    });
    beat.unwrap_or(Err(ErrorCode::UNKNOWN_MEMBER_ID))
}
