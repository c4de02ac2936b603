//! SyncGroup: the leader brings the assignments, everybody gets his. Followers wait for the leader.
//!
//! v3 knows static members; v5 checks protocol type and name (`INCONSISTENT_GROUP_PROTOCOL`) and answers with them.

use milena_protocol::messages::{SyncGroupRequest, SyncGroupResponse};
use milena_protocol::{ErrorCode, StrBytes};

use super::{Api, Call, Names, Served};
use crate::groups::failed_sync;
use crate::state::State;

pub(crate) struct SyncGroup;

impl Api for SyncGroup {
    type Request = SyncGroupRequest;

    fn digest(_: &dyn Names, _: &Call, request: &SyncGroupRequest) -> String {
        let assigned = request.assignments.len();
        format!(
            "{} {:?} generation={} assignments={assigned}",
            request.group_id.as_str(),
            request.member_id.as_str(),
            request.generation_id
        )
    }

    fn group(request: &SyncGroupRequest) -> Option<String> {
        Some(request.group_id.to_string())
    }

    fn serve(state: &mut State, call: &Call, request: SyncGroupRequest) -> Served<SyncGroupResponse> {
        match sync(state, call, request) {
            Ok(()) => Served::Later,
            Err(code) => Served::Now(failed_sync(code)),
        }
    }
}

fn sync(state: &mut State, call: &Call, request: SyncGroupRequest) -> Result<(), ErrorCode> {
    call.injected_for_request()?;
    state.check_group(call.broker, &request.group_id)?;
    let group = &state.groups.get(request.group_id.as_str()).ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?.classic;
    group.check(&request.member_id, request.group_instance_id.as_ref(), request.generation_id)?;
    let differs = |theirs: &Option<StrBytes>, ours: &Option<StrBytes>| theirs.is_some() && theirs != ours;
    if call.version >= 5
        && (differs(&request.protocol_type, &group.protocol_type) || differs(&request.protocol_name, &group.protocol))
    {
        return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    }
    let assignments = request.assignments.into_iter().map(|a| (a.member_id, a.assignment)).collect();
    state.with_group(&request.group_id, call.now, |group, out| {
        group.on_sync(&request.member_id, assignments, call.pending(), call.now, out);
    });
    Ok(())
}
