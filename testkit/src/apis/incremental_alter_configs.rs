//! IncrementalAlterConfigs: of a topic, of one broker, or of all brokers (with an empty name): set (0), delete (1), append to a list (2),
//! subtract from a list (3). Each resource as a whole succeeds or fails.

use std::collections::{BTreeMap, BTreeSet};

use milena_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use milena_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use milena_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};
use milena_protocol::{ErrorCode, StrBytes};

use super::config_resources::{Resource, TOPIC, given};
use super::create_topics::Refused;
use super::{Api, Call, Names, Served, Touched, listed, whole};
use crate::state::State;

pub(crate) struct IncrementalAlterConfigs;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

impl Api for IncrementalAlterConfigs {
    type Request = IncrementalAlterConfigsRequest;

    fn digest(_: &dyn Names, _: &Call, request: &IncrementalAlterConfigsRequest) -> String {
        listed(",", request.resources.iter().map(|r| r.resource_name.as_str()))
    }

    fn partitions(_: &dyn Names, _: &Call, request: &IncrementalAlterConfigsRequest) -> Vec<Touched> {
        let topics = request.resources.iter().filter(|r| r.resource_type == TOPIC);
        whole(topics.map(|r| r.resource_name.as_str()))
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

fn alter(state: &mut State, call: &Call, asked: &AlterConfigsResource, validate_only: bool) -> Result<(), Refused> {
    let name = asked.resource_name.as_str();
    call.injected(name, -1).map_err(|code| (code, "injected by a fault".to_owned()))?;
    let mut names = BTreeSet::new();
    if !asked.configs.iter().all(|config| names.insert(config.name.as_str())) {
        return Err((ErrorCode::INVALID_REQUEST, "Error due to duplicate config keys".to_owned()));
    }
    let resource = Resource::find(state, asked.resource_type, name)?;
    let mut changed = resource.current(state);
    for config in &asked.configs {
        apply(&resource, &mut changed, config)?;
    }
    if !validate_only {
        resource.store(state, changed, call.now);
    }
    Ok(())
}

fn apply(resource: &Resource, configs: &mut BTreeMap<String, String>, change: &AlterableConfig) -> Result<(), Refused> {
    let name = change.name.as_str();
    if change.config_operation == DELETE {
        configs.remove(name);
        return Ok(());
    }
    let value = given(name, change.value.as_deref())?;
    let listed = || {
        if !resource.is_list(name) {
            let message = format!("Can't APPEND or SUBTRACT to config {name} because it is not a list");
            return Err((ErrorCode::INVALID_CONFIG, message));
        }
        let current = configs.get(name).map(String::as_str).or_else(|| resource.default_of(name)).unwrap_or_default();
        let entries = current.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        Ok(entries.map(str::to_owned).collect::<Vec<_>>())
    };
    let value = match change.config_operation {
        SET => value.to_owned(),
        APPEND => {
            let mut entries = listed()?;
            for entry in value.split(',').map(str::trim) {
                if !entries.iter().any(|known| known == entry) {
                    entries.push(entry.to_owned());
                }
            }
            entries.join(",")
        }
        SUBTRACT => {
            let mut entries = listed()?;
            entries.retain(|entry| !value.split(',').any(|gone| gone.trim() == entry));
            entries.join(",")
        }
        other => return Err((ErrorCode::UNKNOWN_SERVER_ERROR, format!("Unknown config operation {other}"))),
    };
    configs.insert(name.to_owned(), resource.check(name, &value)?);
    Ok(())
}
