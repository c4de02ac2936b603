//! IncrementalAlterConfigs: of topics: set (0), delete (1), append to a list (2), subtract from a list (3). Each resource as a whole
//! succeeds or fails. Brokers have no configuration here: `INVALID_REQUEST`.

use std::collections::BTreeMap;

use milena_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use milena_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use milena_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};
use milena_protocol::{ErrorCode, StrBytes};

use super::create_topics::Refused;
use super::{Api, Call, Names, Served};
use crate::configs;
use crate::state::State;

pub(crate) struct IncrementalAlterConfigs;

const TOPIC: i8 = 2;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

impl Api for IncrementalAlterConfigs {
    type Request = IncrementalAlterConfigsRequest;

    fn digest(_: &dyn Names, _: &Call, request: &IncrementalAlterConfigsRequest) -> String {
        request.resources.iter().map(|r| r.resource_name.to_string()).collect::<Vec<_>>().join(",")
    }

    fn partitions(_: &dyn Names, _: &Call, request: &IncrementalAlterConfigsRequest) -> Vec<(String, i32)> {
        let topics = request.resources.iter().filter(|r| r.resource_type == TOPIC);
        topics.map(|r| (r.resource_name.to_string(), -1)).collect()
    }

    fn serve(
        state: &mut State,
        call: &Call,
        request: IncrementalAlterConfigsRequest,
    ) -> Served<IncrementalAlterConfigsResponse> {
        let mut responses = Vec::new();
        for resource in &request.resources {
            let mut response = AlterConfigsResourceResponse::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone())
                .with_error_message(None);
            if let Err((code, message)) = alter(state, call, resource, request.validate_only) {
                response.error_code = code.0;
                response.error_message = Some(StrBytes::from_string(message));
            }
            responses.push(response);
        }
        Served::Now(IncrementalAlterConfigsResponse::default().with_responses(responses))
    }
}

fn alter(state: &mut State, call: &Call, resource: &AlterConfigsResource, validate_only: bool) -> Result<(), Refused> {
    let name = resource.resource_name.as_str();
    call.injected(name, -1).map_err(|code| (code, "injected by a fault".to_owned()))?;
    if resource.resource_type != TOPIC {
        return Err((ErrorCode::INVALID_REQUEST, "only topics have configurations in the test kit".to_owned()));
    }
    let topic = state.topics.get_mut(name);
    let topic = topic.ok_or_else(|| (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("There is no topic {name}.")))?;
    let mut changed = topic.configs.clone();
    for config in &resource.configs {
        apply(&mut changed, config)?;
    }
    if !validate_only {
        topic.configs = changed;
    }
    Ok(())
}

fn apply(configs: &mut BTreeMap<String, String>, change: &AlterableConfig) -> Result<(), Refused> {
    let name = change.name.as_str();
    let invalid = |message: String| (ErrorCode::INVALID_CONFIG, message);
    if change.config_operation == DELETE {
        configs.remove(name);
        return Ok(());
    }
    let value = change
        .value
        .as_deref()
        .ok_or_else(|| (ErrorCode::INVALID_REQUEST, format!("Null value not supported for : {name}")))?;
    let listed = || {
        let current = configs.get(name).map(String::as_str).or_else(|| configs::default_of(name)).unwrap_or_default();
        current.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let value = match change.config_operation {
        SET => value.to_owned(),
        APPEND => {
            let mut entries = listed();
            entries.extend(value.split(',').map(|entry| entry.trim().to_owned()));
            entries.dedup();
            entries.join(",")
        }
        SUBTRACT => {
            let mut entries = listed();
            entries.retain(|entry| !value.split(',').any(|gone| gone.trim() == entry));
            entries.join(",")
        }
        other => return Err((ErrorCode::INVALID_REQUEST, format!("Unknown config operation {other}"))),
    };
    configs::check(name, &value).map_err(invalid)?;
    configs.insert(name.to_owned(), value);
    Ok(())
}
