//! JoinGroup: a member joins, or joins again, and waits until the next generation begins. The rules are in `groups/classic.rs`.
//!
//! - v0 has no rebalance time-out of its own: the session time-out counts. v4 sends a new member away with its id first
//!   (`MEMBER_ID_REQUIRED`, KIP-394). v5 knows static members (KIP-345). v9 can tell the leader to keep the assignment (KIP-814).
//! - Session time-outs outside of 6 s to 30 min, as brokers have them by default, are `INVALID_SESSION_TIMEOUT`.

use std::time::Duration;

use milena_protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use milena_protocol::{ErrorCode, StrBytes};

use super::{Api, Call, Names, Served, listed};
use crate::groups::{Join, failed_join};
use crate::state::State;

pub(crate) struct JoinGroup;

/// `group.min.session.timeout.ms` and `group.max.session.timeout.ms`.
const SESSION_TIMEOUTS: std::ops::RangeInclusive<i32> = 6_000..=1_800_000;

impl Api for JoinGroup {
    type Request = JoinGroupRequest;

    fn digest(_: &dyn Names, _: &Call, request: &JoinGroupRequest) -> String {
        let protocols = listed(",", request.protocols.iter().map(|protocol| protocol.name.as_str()));
        format!("{} {:?} [{protocols}]", request.group_id.as_str(), request.member_id.as_str())
    }

    fn group(request: &JoinGroupRequest) -> Option<String> {
        Some(request.group_id.to_string())
    }

    fn serve(state: &mut State, call: &Call, request: JoinGroupRequest) -> Served<JoinGroupResponse> {
        match join(state, call, &request) {
            Ok(()) => Served::Later,
            Err(code) => Served::Now(failed_join(call.version, code, &request.member_id)),
        }
    }
}

fn join(state: &mut State, call: &Call, request: &JoinGroupRequest) -> Result<(), ErrorCode> {
    call.injected_for_request()?;
    state.check_group(call.broker, &request.group_id)?;
    if !SESSION_TIMEOUTS.contains(&request.session_timeout_ms) {
        return Err(ErrorCode::INVALID_SESSION_TIMEOUT);
    }
    if !request.member_id.is_empty() && !state.groups.contains_key(request.group_id.as_str()) {
        return Err(ErrorCode::UNKNOWN_MEMBER_ID);
    }
    let millis = |ms: i32| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    let session_timeout = millis(request.session_timeout_ms);
    let prefix = request.group_instance_id.as_ref().unwrap_or(&call.client_id);
    let join = Join {
        member_id: request.member_id.clone(),
        new_id: StrBytes::from_string(format!("{}-{}", prefix.as_str(), uuid::Uuid::from_u128(state.rng.u128(..)))),
        instance_id: request.group_instance_id.clone(),
        client_id: call.client_id.clone(),
        session_timeout,
        rebalance_timeout: if call.version >= 1 { millis(request.rebalance_timeout_ms) } else { session_timeout },
        protocol_type: request.protocol_type.clone(),
        protocols: request.protocols.iter().map(|p| (p.name.clone(), p.metadata.clone())).collect(),
        pending: call.pending(),
    };
    state.group(&request.group_id);
    state.with_group(&request.group_id, call.now, |group, out| group.on_join(join, call.now, out));
    Ok(())
}
