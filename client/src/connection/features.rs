//! The features that the cluster has finalised, as the newest hand-shake says. They arrive on new connections only, and brokers learn
//! of a change one after the other: the highest epoch seen is the truth.

use std::sync::{Arc, Mutex, PoisonError};

use milena_protocol::ApiVersions;

/// What hand-shakes said.
#[derive(Debug, Default)]
pub(crate) struct Features(Mutex<Option<Arc<ApiVersions>>>);

impl Features {
    /// A broker has said what its cluster has finalised.
    pub(crate) fn on_handshake(&self, versions: &Arc<ApiVersions>) {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.as_ref().is_none_or(|newest| newest.features_epoch() <= versions.features_epoch()) {
            *newest = Some(versions.clone());
        }
    }

    /// The level of a feature; 0 when the cluster has not got it.
    pub(crate) fn level(&self, name: &str) -> i16 {
        let newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        newest.as_ref().map_or(0, |newest| newest.feature(name))
    }
}

#[cfg(test)]
mod tests {
    use milena_protocol::StrBytes;
    use milena_protocol::messages::ApiVersionsResponse;
    use milena_protocol::messages::api_versions_response::FinalizedFeatureKey;

    use super::*;

    fn said(epoch: i64, level: i16) -> Arc<ApiVersions> {
        let feature = FinalizedFeatureKey::default()
            .with_name(StrBytes::from_static_str("transaction.version"))
            .with_max_version_level(level);
        let response =
            ApiVersionsResponse::default().with_finalized_features_epoch(epoch).with_finalized_features(vec![feature]);
        Arc::new(ApiVersions::from_response(&response))
    }

    #[test]
    fn a_broker_that_lags_behind_takes_no_feature_back() {
        let features = Features::default();
        assert_eq!(features.level("transaction.version"), 0);
        features.on_handshake(&said(7, 2));
        features.on_handshake(&said(6, 1));
        assert_eq!(features.level("transaction.version"), 2);
        features.on_handshake(&said(8, 1));
        assert_eq!(features.level("transaction.version"), 1);
    }
}
