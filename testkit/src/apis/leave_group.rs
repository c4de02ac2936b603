//! LeaveGroup: one member (v0–v2), or several, static ones by their instance id, too (v3); each gets its own code.

use milena_protocol::ErrorCode;
use milena_protocol::messages::leave_group_request::MemberIdentity;
use milena_protocol::messages::leave_group_response::MemberResponse;
use milena_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

use super::{Api, Call, Names, Served, listed};
use crate::state::State;

pub(crate) struct LeaveGroup;

fn members(call: &Call, request: &LeaveGroupRequest) -> Vec<MemberIdentity> {
    if call.version >= 3 {
        return request.members.clone();
    }
    vec![MemberIdentity::default().with_member_id(request.member_id.clone()).with_group_instance_id(None)]
}

impl Api for LeaveGroup {
    type Request = LeaveGroupRequest;

    fn digest(_: &dyn Names, call: &Call, request: &LeaveGroupRequest) -> String {
        let members = members(call, request);
        let ids = listed(",", members.iter().map(|m| format!("{:?}", m.member_id.as_str())));
        format!("{} {ids}", request.group_id.as_str())
    }

    fn group(request: &LeaveGroupRequest) -> Option<String> {
        Some(request.group_id.to_string())
    }

    fn serve(state: &mut State, call: &Call, request: LeaveGroupRequest) -> Served<LeaveGroupResponse> {
        let mut response = LeaveGroupResponse::default();
        let checked = call.injected_for_request().and_then(|()| state.check_group(call.broker, &request.group_id));
        if let Err(code) = checked {
            response.error_code = code.0;
            return Served::Now(response);
        }
        for member in members(call, &request) {
            let left = state.with_group(&request.group_id, call.now, |group, out| {
                group.on_leave(&member.member_id, member.group_instance_id.as_ref(), call.now, out)
            });
            let code = left.unwrap_or(Err(ErrorCode::UNKNOWN_MEMBER_ID)).err().unwrap_or(ErrorCode::NONE);
            if call.version >= 3 {
                response.members.push(
                    MemberResponse::default()
                        .with_member_id(member.member_id)
                        .with_group_instance_id(member.group_instance_id)
                        .with_error_code(code.0),
                );
            } else {
                response.error_code = code.0;
            }
        }
        Served::Now(response)
    }
}
