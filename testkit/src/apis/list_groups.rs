//! ListGroups: the groups that *this* broker coordinates; ask every broker for all. v4 filters by state, v5 by type (`classic`).

use milena_protocol::messages::list_groups_response::ListedGroup;
use milena_protocol::messages::{ListGroupsRequest, ListGroupsResponse};
use milena_protocol::{ErrorCode, StrBytes};

use super::{Api, Call, Served};
use crate::groups::Group;
use crate::state::State;

pub(crate) struct ListGroups;

impl Api for ListGroups {
    type Request = ListGroupsRequest;

    fn serve(state: &mut State, call: &Call, request: ListGroupsRequest) -> Served<ListGroupsResponse> {
        let mut response = ListGroupsResponse::default();
        response.error_code = call.injected_for_request().err().unwrap_or(ErrorCode::NONE).0;
        if response.error_code != 0 {
            return Served::Now(response);
        }
        // Kafka compares without regard to case.
        let among = |filter: &[StrBytes], value: &str| {
            filter.is_empty() || filter.iter().any(|f| f.eq_ignore_ascii_case(value))
        };
        let listed = |(name, group): &(&String, &Group)| {
            state.coordinator(name) == Some(call.broker)
                && among(&request.states_filter, group.classic.phase.name())
                && among(&request.types_filter, "classic")
        };
        let one = |(name, group): (&String, &Group)| {
            ListedGroup::default()
                .with_group_id(StrBytes::from_string(name.clone()).into())
                .with_protocol_type(group.classic.protocol_type.clone().unwrap_or_default())
                .with_group_state(StrBytes::from_static_str(group.classic.phase.name()))
                .with_group_type(StrBytes::from_static_str("classic"))
        };
        response.groups = state.groups.iter().filter(listed).map(one).collect();
        Served::Now(response)
    }
}
