//! ApiVersions: what this broker can speak, derived from the table of registered APIs, and the cluster's finalised features.
//!
//! - A version that the broker does not know is answered in version 0 with `UNSUPPORTED_VERSION` and the range of ApiVersions itself,
//!   so that a newer client can ask again (KIP-511).
//! - Produce is told to begin with v0, though v3 is the first that is served, as Kafka does from 4.0 on: librdkafka compresses nothing
//!   for a broker that has not got v0 (KAFKA-18659).
//! - v3 checks the client's software name and version: letters, digits, `.` and `-`, beginning and ending with a letter or digit;
//!   else `INVALID_REQUEST`. It also brings the features; what is supported from level 0 on is told from v4 on only (KIP-1022). The
//!   response header never has tags.

use bytes::Bytes;
use milena_protocol::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
use milena_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use milena_protocol::{ApiKey, ErrorCode, StrBytes};

use super::{APIS, Api, Call, Names, Registered, Served};
use crate::kafka_version::KafkaVersion;
use crate::serving::encode;
use crate::state::State;

pub(crate) struct ApiVersions;

impl Api for ApiVersions {
    type Request = ApiVersionsRequest;

    fn digest(_: &dyn Names, _: &Call, request: &ApiVersionsRequest) -> String {
        format!("{} {}", request.client_software_name.as_str(), request.client_software_version.as_str())
    }

    fn serve(state: &mut State, call: &Call, request: ApiVersionsRequest) -> Served<ApiVersionsResponse> {
        let mut response = ApiVersionsResponse::default();
        let names_are_fine = call.version < 3
            || (is_software_name(&request.client_software_name) && is_software_name(&request.client_software_version));
        let checked =
            call.injected_for_request().and(if names_are_fine { Ok(()) } else { Err(ErrorCode::INVALID_REQUEST) });
        if let Err(code) = checked {
            response.error_code = code.0;
            return Served::Now(response);
        }
        response.api_keys = APIS.iter().filter_map(|api| row(state, api)).collect();
        if call.version >= 3 {
            // A release without features has none to be at an epoch with.
            let has_features = state.settings.kafka_version.is_none_or(|version| version >= KafkaVersion::V4_3);
            response.finalized_features_epoch = i64::from(has_features);
            for (name, level) in state.settings.features.iter().filter(|(_, level)| has_features || **level > 0) {
                let highest = if name == "transaction.version" { 2.max(*level) } else { *level };
                let name = StrBytes::from_string(name.clone());
                if call.version >= 4 {
                    let supported = SupportedFeatureKey::default().with_name(name.clone()).with_max_version(highest);
                    response.supported_features.push(supported);
                }
                if *level > 0 {
                    let finalised = FinalizedFeatureKey::default().with_name(name);
                    let finalised = finalised.with_min_version_level(*level).with_max_version_level(*level);
                    response.finalized_features.push(finalised);
                }
            }
        }
        Served::Now(response)
    }
}

fn row(state: &State, api: &Registered) -> Option<ApiVersion> {
    let (mut min, max) = api.versions(&state.settings)?;
    if api.key == ApiKey::PRODUCE {
        min = 0;
    }
    Some(ApiVersion::default().with_api_key(api.key.0).with_min_version(min).with_max_version(max))
}

fn is_software_name(name: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    ends(name.chars().next())
        && ends(name.chars().next_back())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-')
}

/// The answer to an ApiVersions request in a version that is too new.
pub(crate) fn unsupported(state: &mut State, correlation_id: i32) -> Bytes {
    let itself = APIS.iter().filter(|api| api.key == ApiKey::API_VERSIONS).filter_map(|api| row(state, api)).collect();
    let response =
        ApiVersionsResponse::default().with_error_code(ErrorCode::UNSUPPORTED_VERSION.0).with_api_keys(itself);
    encode(&response, 0, correlation_id).unwrap_or_else(|reason| {
        state.violation(format!("the test kit cannot encode ApiVersions v0: {reason}"));
        Bytes::new()
    })
}
