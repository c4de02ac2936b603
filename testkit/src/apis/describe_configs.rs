//! DescribeConfigs: of topics. Values that were given come as `DYNAMIC_TOPIC_CONFIG`, all others as `DEFAULT_CONFIG`.
//! Broker resources (4) are answered with an empty list, as if every broker had its defaults.

use milena_protocol::messages::describe_configs_request::DescribeConfigsResource;
use milena_protocol::messages::describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult};
use milena_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use milena_protocol::{ErrorCode, StrBytes};

use super::{Api, Call, Names, Served, create_topics};
use crate::configs;
use crate::state::State;

pub(crate) struct DescribeConfigs;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

const DYNAMIC_TOPIC_CONFIG: i8 = 1;
const DEFAULT_CONFIG: i8 = 5;

impl Api for DescribeConfigs {
    type Request = DescribeConfigsRequest;

    fn digest(_: &dyn Names, _: &Call, request: &DescribeConfigsRequest) -> String {
        request.resources.iter().map(|r| r.resource_name.to_string()).collect::<Vec<_>>().join(",")
    }

    fn partitions(_: &dyn Names, _: &Call, request: &DescribeConfigsRequest) -> Vec<(String, i32)> {
        let topics = request.resources.iter().filter(|r| r.resource_type == TOPIC);
        topics.map(|r| (r.resource_name.to_string(), -1)).collect()
    }

    fn serve(state: &mut State, call: &Call, request: DescribeConfigsRequest) -> Served<DescribeConfigsResponse> {
        let one = |resource: &DescribeConfigsResource| {
            let mut result = DescribeConfigsResult::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone());
            match describe(state, call, resource) {
                Ok(configs) => result.configs = configs,
                Err(code) => {
                    result.error_code = code.0;
                    result.error_message = Some(StrBytes::from_static_str(code.name().unwrap_or_default()));
                }
            }
            result
        };
        let results = request.resources.iter().map(one).collect();
        Served::Now(DescribeConfigsResponse::default().with_results(results))
    }
}

fn describe(
    state: &State,
    call: &Call,
    resource: &DescribeConfigsResource,
) -> Result<Vec<DescribeConfigsResourceResult>, ErrorCode> {
    call.injected(&resource.resource_name, -1)?;
    match resource.resource_type {
        TOPIC => {}
        BROKER => return Ok(Vec::new()),
        _ => return Err(ErrorCode::INVALID_REQUEST),
    }
    create_topics::check_name(&resource.resource_name).map_err(|_| ErrorCode::INVALID_TOPIC_EXCEPTION)?;
    let topic = state.topics.get(resource.resource_name.as_str()).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    let wanted =
        |name: &str| resource.configuration_keys.as_ref().is_none_or(|keys| keys.iter().any(|k| k.as_str() == name));
    let rows = configs::TOPIC_CONFIGS.iter().filter(|(name, ..)| wanted(name));
    Ok(rows
        .map(|(name, default, kind)| {
            let configured = topic.configs.get(*name);
            let mut row = DescribeConfigsResourceResult::default()
                .with_name(StrBytes::from_static_str(name))
                .with_value(Some(StrBytes::from_string(configured.cloned().unwrap_or_else(|| (*default).to_owned()))))
                .with_config_source(if configured.is_some() { DYNAMIC_TOPIC_CONFIG } else { DEFAULT_CONFIG });
            if call.version >= 3 {
                row.config_type = *kind as i8;
            }
            row
        })
        .collect())
}
