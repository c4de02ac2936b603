//! What a broker can speak, and which version a request is sent in.

use std::collections::BTreeMap;

use kafka_protocol::messages::ApiVersionsResponse;
use kafka_protocol::protocol::Message;

use crate::{ApiKey, Request};

/// A range of versions, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// The lowest version.
    pub min: i16,
    /// The highest version.
    pub max: i16,
}

/// What one broker announced on one connection: its APIs and the features its cluster has finalised.
#[derive(Debug, Clone, Default)]
pub struct ApiVersions {
    apis: BTreeMap<i16, VersionRange>,
    features: BTreeMap<String, i16>,
    features_epoch: i64,
}

impl ApiVersions {
    /// Reads an ApiVersions response.
    pub fn from_response(response: &ApiVersionsResponse) -> Self {
        Self {
            apis: response
                .api_keys
                .iter()
                .map(|api| (api.api_key, VersionRange { min: api.min_version, max: api.max_version }))
                .collect(),
            features: response
                .finalized_features
                .iter()
                .map(|feature| (feature.name.to_string(), feature.max_version_level))
                .collect(),
            features_epoch: response.finalized_features_epoch,
        }
    }

    /// The versions the broker has of an API.
    pub fn range(&self, api: ApiKey) -> Option<VersionRange> {
        self.apis.get(&api.0).copied()
    }

    /// The highest version of `R` that both sides speak, or `None` if there is none.
    ///
    /// Uses `R::VERSIONS`; `ApiKey::valid_versions` of the message crate is one too high for OffsetCommit, OffsetFetch and
    /// InitProducerId, and encoding then fails.
    pub fn choose<R: Request>(&self) -> Option<i16> {
        self.choose_at_most::<R>(i16::MAX)
    }

    /// Like [`choose`](Self::choose), but never above `max`: for a request that needs an older shape (Fetch without topic ids).
    pub fn choose_at_most<R: Request>(&self, max: i16) -> Option<i16> {
        let broker = self.range(R::KEY)?;
        let ours = <R as Message>::VERSIONS;
        let version = broker.max.min(ours.max).min(max);
        (version >= broker.min && version >= ours.min).then_some(version)
    }

    /// The finalised level of a cluster feature such as `transaction.version`; 0 when the cluster has not got it.
    pub fn feature(&self, name: &str) -> i16 {
        self.features.get(name).copied().unwrap_or(0)
    }

    /// The epoch of the finalised features. Features arrive on new connections only, so the highest epoch seen is the truth.
    pub fn features_epoch(&self) -> i64 {
        self.features_epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::api_versions_response::ApiVersion;
    use crate::messages::{OffsetCommitRequest, ProduceRequest};

    fn broker(api: ApiKey, min: i16, max: i16) -> ApiVersions {
        let api = ApiVersion::default().with_api_key(api.0).with_min_version(min).with_max_version(max);
        ApiVersions::from_response(&ApiVersionsResponse::default().with_api_keys(vec![api]))
    }

    #[test]
    fn the_highest_common_version_is_chosen() {
        assert_eq!(broker(ApiKey::PRODUCE, 0, 9).choose::<ProduceRequest>(), Some(9));
        assert_eq!(broker(ApiKey::PRODUCE, 0, 99).choose_at_most::<ProduceRequest>(12), Some(12));
        assert_eq!(broker(ApiKey::OFFSET_COMMIT, 0, 10).choose::<OffsetCommitRequest>(), Some(9));
    }

    #[test]
    fn nothing_in_common_is_nothing() {
        assert_eq!(broker(ApiKey::PRODUCE, 0, 2).choose::<ProduceRequest>(), None);
        assert_eq!(broker(ApiKey::PRODUCE, 90, 99).choose::<ProduceRequest>(), None);
        assert_eq!(broker(ApiKey::FETCH, 0, 9).choose::<ProduceRequest>(), None);
    }
}
