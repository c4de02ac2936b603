//! AlterConfigs: replaces all configurations of a topic, of one broker, or of all brokers (with an empty name). What is not named goes
//! back to its default; that is why Kafka 2.3 brought IncrementalAlterConfigs. Each resource as a whole succeeds or fails.

use std::collections::BTreeMap;

use milena_protocol::StrBytes;
use milena_protocol::messages::alter_configs_request::AlterConfigsResource;
use milena_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use milena_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse};

use super::config_resources::{Resource, TOPIC, given};
use super::create_topics::Refused;
use super::{Api, Call, Names, Served, Touched, listed, whole};
use crate::state::State;

pub(crate) struct AlterConfigs;

impl Api for AlterConfigs {
    type Request = AlterConfigsRequest;

    fn digest(_: &dyn Names, _: &Call, request: &AlterConfigsRequest) -> String {
        listed(",", request.resources.iter().map(|r| r.resource_name.as_str()))
    }

    fn partitions(_: &dyn Names, _: &Call, request: &AlterConfigsRequest) -> Vec<Touched> {
        let topics = request.resources.iter().filter(|r| r.resource_type == TOPIC);
        whole(topics.map(|r| r.resource_name.as_str()))
    }

    fn serve(state: &mut State, call: &Call, request: AlterConfigsRequest) -> Served<AlterConfigsResponse> {
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
        Served::Now(AlterConfigsResponse::default().with_responses(responses))
    }
}

fn alter(state: &mut State, call: &Call, asked: &AlterConfigsResource, validate_only: bool) -> Result<(), Refused> {
    let name = asked.resource_name.as_str();
    call.injected(name, -1).map_err(|code| (code, "injected by a fault".to_owned()))?;
    let resource = Resource::find(state, asked.resource_type, name)?;
    let mut configs = BTreeMap::new();
    for config in &asked.configs {
        let name = config.name.as_str();
        let value = given(name, config.value.as_deref())?;
        configs.insert(name.to_owned(), resource.check(name, value)?);
    }
    if !validate_only {
        resource.store(state, configs, call.now);
    }
    Ok(())
}
