//! DescribeGroups: state and members of classic groups. A group that does not exist is `Dead`, from v6 on with
//! `GROUP_ID_NOT_FOUND`. The members' metadata and the protocol's name are
//! shown of a stable group only.

use milena_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use milena_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse, GroupId};
use milena_protocol::{ErrorCode, StrBytes};

use super::{Api, Call, Names, Served, listed};
use crate::groups::{ClassicGroup, Phase};
use crate::state::State;

pub(crate) struct DescribeGroups;

impl Api for DescribeGroups {
    type Request = DescribeGroupsRequest;

    fn digest(_: &dyn Names, _: &Call, request: &DescribeGroupsRequest) -> String {
        listed(",", request.groups.iter().map(|group| group.as_str()))
    }

    fn group(request: &DescribeGroupsRequest) -> Option<String> {
        request.groups.first().map(|group| group.to_string())
    }

    fn serve(state: &mut State, call: &Call, request: DescribeGroupsRequest) -> Served<DescribeGroupsResponse> {
        let groups = request.groups.iter().map(|group| describe(state, call, group)).collect();
        Served::Now(DescribeGroupsResponse::default().with_groups(groups))
    }
}

fn describe(state: &State, call: &Call, id: &GroupId) -> DescribedGroup {
    let mut described = DescribedGroup::default().with_group_id(id.clone());
    let checked = call.injected_for_request().and_then(|()| state.check_group(call.broker, id));
    if let Err(code) = checked {
        return described.with_error_code(code.0);
    }
    let Some(group) = state.groups.get(id.as_str()).map(|group| &group.classic) else {
        described.group_state = StrBytes::from_static_str("Dead");
        if call.version >= 6 {
            described.error_code = ErrorCode::GROUP_ID_NOT_FOUND.0;
            described.error_message = Some(StrBytes::from_string(format!("Group {} not found.", id.as_str())));
        }
        return described;
    };
    described.group_state = StrBytes::from_static_str(group.phase.name());
    described.protocol_type = group.protocol_type.clone().unwrap_or_default();
    let is_stable = group.phase == Phase::Stable;
    if is_stable {
        described.protocol_data = group.protocol.clone().unwrap_or_default();
    }
    described.members = members(call, group, is_stable);
    described
}

fn members(call: &Call, group: &ClassicGroup, with_metadata: bool) -> Vec<DescribedGroupMember> {
    let protocol = group.protocol.as_deref().unwrap_or_default();
    let one = |(id, member): (&StrBytes, &crate::groups::Member)| {
        let mut described = DescribedGroupMember::default()
            .with_member_id(id.clone())
            .with_client_id(member.client_id.clone())
            .with_client_host(StrBytes::from_static_str("/127.0.0.1"));
        if call.version >= 4 {
            described.group_instance_id = member.instance_id.clone();
        }
        described.member_assignment = member.assignment.clone();
        if with_metadata {
            described.member_metadata = member.metadata(protocol);
        }
        described
    };
    group.members.iter().map(one).collect()
}
