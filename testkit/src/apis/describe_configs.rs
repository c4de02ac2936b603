//! DescribeConfigs: of topics, of the broker that is asked itself (another one is `INVALID_REQUEST`), and of all brokers (an empty name:
//! only what was set for them at run time). Each value says where it comes from, and what it would be otherwise: its synonyms, as
//! `configs/brokers.rs` has them.

use milena_protocol::messages::describe_configs_request::DescribeConfigsResource;
use milena_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use milena_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use milena_protocol::{ErrorCode, StrBytes};

use super::config_resources::{BROKER, TOPIC};
use super::{Api, Call, Names, Served, Touched, create_topics, listed, whole};
use crate::configs::brokers::{self, BrokerConfig, DEFAULT, DYNAMIC_DEFAULT, DYNAMIC_TOPIC, Synonym};
use crate::configs::{self, ConfigType};
use crate::state::State;

pub(crate) struct DescribeConfigs;

impl Api for DescribeConfigs {
    type Request = DescribeConfigsRequest;

    fn digest(_: &dyn Names, _: &Call, request: &DescribeConfigsRequest) -> String {
        listed(",", request.resources.iter().map(|r| r.resource_name.as_str()))
    }

    fn partitions(_: &dyn Names, _: &Call, request: &DescribeConfigsRequest) -> Vec<Touched> {
        let topics = request.resources.iter().filter(|r| r.resource_type == TOPIC);
        whole(topics.map(|r| r.resource_name.as_str()))
    }

    fn serve(state: &mut State, call: &Call, request: DescribeConfigsRequest) -> Served<DescribeConfigsResponse> {
        let one = |resource: &DescribeConfigsResource| {
            let mut result = DescribeConfigsResult::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone());
            match describe(state, call, resource) {
                Ok(mut configs) => {
                    if !request.include_synonyms {
                        configs.iter_mut().for_each(|config| config.synonyms.clear());
                    }
                    result.configs = configs;
                }
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
    let name = resource.resource_name.as_str();
    let rows = match resource.resource_type {
        TOPIC => of_topic(state, call, name)?,
        BROKER => of_broker(state, call, name)?,
        _ => return Err(ErrorCode::INVALID_REQUEST),
    };
    let wanted = |row: &DescribeConfigsResourceResult| {
        resource.configuration_keys.as_ref().is_none_or(|keys| keys.contains(&row.name))
    };
    Ok(rows.into_iter().filter(wanted).collect())
}

fn of_topic(state: &State, call: &Call, name: &str) -> Result<Vec<DescribeConfigsResourceResult>, ErrorCode> {
    create_topics::check_name(name).map_err(|_| ErrorCode::INVALID_TOPIC_EXCEPTION)?;
    let topic = state.topics.get(name).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    let one = |(name, default, kind): &(&'static str, &'static str, ConfigType)| {
        let own = topic.configs.get(*name);
        let own = own.map(|value| Synonym { source: DYNAMIC_TOPIC, name: (*name).to_owned(), value: value.clone() });
        let inherited = brokers::inherited_from(name).map(|name| state.broker_configs.synonyms(call.broker, name));
        let synonyms = own.into_iter().chain(inherited.into_iter().flatten()).collect();
        row(call, name, Some(default), *kind, false, synonyms)
    };
    Ok(configs::TOPIC_CONFIGS.iter().map(one).collect())
}

/// Of the broker that is asked itself, or, with an empty name, what was set for all.
fn of_broker(state: &State, call: &Call, name: &str) -> Result<Vec<DescribeConfigsResourceResult>, ErrorCode> {
    let for_all = name.is_empty();
    if !for_all && name.parse() != Ok(call.broker) {
        return Err(ErrorCode::INVALID_REQUEST);
    }
    let one = |config: &BrokerConfig| {
        let mut synonyms = state.broker_configs.synonyms(call.broker, config.name);
        if for_all {
            synonyms.retain(|synonym| synonym.source == DYNAMIC_DEFAULT);
            if synonyms.is_empty() {
                return None;
            }
        }
        Some(row(call, config.name, config.default, config.kind, config.read_only, synonyms))
    };
    Ok(brokers::BROKER_CONFIGS.iter().filter_map(one).collect())
}

fn row(
    call: &Call,
    name: &'static str,
    default: Option<&str>,
    kind: ConfigType,
    read_only: bool,
    synonyms: Vec<Synonym>,
) -> DescribeConfigsResourceResult {
    let value = synonyms.first().map(|first| first.value.as_str()).or(default);
    let mut row = DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(name))
        .with_value(value.map(|value| StrBytes::from_string(value.to_owned())))
        .with_read_only(read_only)
        .with_config_source(synonyms.first().map_or(DEFAULT, |first| first.source));
    if call.version >= 3 {
        row.config_type = kind as i8;
    }
    row.synonyms = synonyms
        .into_iter()
        .map(|synonym| {
            DescribeConfigsSynonym::default()
                .with_name(StrBytes::from_string(synonym.name))
                .with_value(Some(StrBytes::from_string(synonym.value)))
                .with_source(synonym.source)
        })
        .collect();
    row
}
