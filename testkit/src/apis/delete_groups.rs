//! DeleteGroups: a group without members and its offsets; else `NON_EMPTY_GROUP`, or `GROUP_ID_NOT_FOUND`.

use milena_protocol::ErrorCode;
use milena_protocol::messages::delete_groups_response::DeletableGroupResult;
use milena_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

use super::{Api, Call, Names, Served, listed};
use crate::groups::Phase;
use crate::state::State;

pub(crate) struct DeleteGroups;

impl Api for DeleteGroups {
    type Request = DeleteGroupsRequest;

    fn digest(_: &dyn Names, _: &Call, request: &DeleteGroupsRequest) -> String {
        listed(",", request.groups_names.iter().map(|group| group.as_str()))
    }

    fn group(request: &DeleteGroupsRequest) -> Option<String> {
        request.groups_names.first().map(|group| group.to_string())
    }

    fn serve(state: &mut State, call: &Call, request: DeleteGroupsRequest) -> Served<DeleteGroupsResponse> {
        let mut response = DeleteGroupsResponse::default();
        for group in request.groups_names {
            let code = delete(state, call, &group).err().unwrap_or(ErrorCode::NONE);
            response.results.push(DeletableGroupResult::default().with_group_id(group).with_error_code(code.0));
        }
        Served::Now(response)
    }
}

fn delete(state: &mut State, call: &Call, name: &str) -> Result<(), ErrorCode> {
    call.injected_for_request()?;
    state.check_group(call.broker, name)?;
    let group = state.groups.get(name).ok_or(ErrorCode::GROUP_ID_NOT_FOUND)?;
    if group.classic.phase != Phase::Empty {
        return Err(ErrorCode::NON_EMPTY_GROUP);
    }
    state.groups.remove(name);
    Ok(())
}
