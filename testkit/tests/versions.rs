//! Every version of every registered API is answered, with success and with errors; what Kafka 4.3 has beyond that is a list; and a
//! cluster that is pinned to a release tells and serves what that release has.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test reads the clock, waits and panics")]

mod common;
mod sweep;

use common::*;
use milena_protocol::messages::*;
use milena_protocol::{ApiKey, StrBytes};
use milena_testkit::{Cluster, KafkaVersion};

fn text(s: &'static str) -> StrBytes {
    StrBytes::from_static_str(s)
}

#[tokio::test(start_paused = true)]
async fn every_version_of_every_api_is_answered() {
    let cluster = Cluster::builder().topic("t", 3).start_in_memory().unwrap();
    let (seen, requests) = sweep::every_version_of_every_api(&cluster).await;
    assert!(requests.len() > 400, "{}", requests.len());
    let mut raw = connect(&cluster, 1).await;
    let versions =
        ApiVersionsRequest::default().with_client_software_name(text("x")).with_client_software_version(text("1"));
    let mut registered: Vec<ApiKey> =
        raw.call(4, versions).await.api_keys.iter().map(|api| ApiKey(api.api_key)).collect();
    registered.sort();
    assert_eq!(seen, registered, "an API is registered that this test does not sweep");
    cluster.shutdown().await;
}

/// APIs of Kafka 4.3 that this cluster has not, and why.
const MISSING: &[(&[i16], &str)] = &[
    (&[17, 36, 50, 51], "SASL: nobody has to say here who they are"),
    (&[29, 30, 31, 38, 39, 40, 41], "ACLs and delegation tokens: everybody may do everything"),
    (&[48, 49], "client quotas"),
    (&[27], "WriteTxnMarkers: markers are written inside the cluster"),
    (
        &[34, 35, 43, 45, 46, 83, 84, 85, 86, 87],
        "replicas, log folders and the state of share groups are not administered by clients",
    ),
    (&[55, 57, 64, 80, 81], "the controller's quorum is not modelled; features do not change while the cluster runs"),
    (&[74], "ListConfigResources: of client metrics there are none"),
    (&[75], "DescribeTopicPartitions: clients take Metadata where it is not there"),
    (&[68, 69], "groups of KIP-848, which come with the consumer that speaks it"),
    (&[76, 77, 78, 79, 90, 91, 92], "share groups: there is no client for them here"),
    (&[88, 89], "groups of KIP-1071: there is no client for them here"),
];

/// APIs of which Kafka 4.3 has versions that the message crate cannot speak: the highest here, the highest there.
const BEHIND: &[(ApiKey, i16, i16)] = &[
    (ApiKey::LIST_OFFSETS, 10, 11),
    (ApiKey::OFFSET_COMMIT, 9, 10),
    (ApiKey::OFFSET_FETCH, 9, 10),
    (ApiKey::LIST_TRANSACTIONS, 1, 2),
];

#[tokio::test(start_paused = true)]
async fn what_kafka_has_beyond_this_cluster_is_known() {
    let cluster = Cluster::builder().start_in_memory().unwrap();
    let request =
        ApiVersionsRequest::default().with_client_software_name(text("x")).with_client_software_version(text("1"));
    let answer = connect(&cluster, 1).await.call(4, request).await;
    let ours = |api: ApiKey| answer.api_keys.iter().find(|served| served.api_key == api.0);
    let (mut missing, mut behind) = (Vec::new(), Vec::new());
    for (api, min, max) in KafkaVersion::V4_3.apis() {
        match ours(api) {
            None => missing.push(api.0),
            Some(served) if served.max_version < max => behind.push((api, served.max_version, max)),
            Some(served) => assert!(served.min_version <= min, "{api} from v{} on", served.min_version),
        }
    }
    let mut known: Vec<i16> = MISSING.iter().flat_map(|(apis, _)| apis.iter().copied()).collect();
    known.sort_unstable();
    assert_eq!(missing, known, "an API has come, or one has gone: MISSING says which are not there, and why");
    assert_eq!(behind, BEHIND, "versions have come or gone");
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_pinned_cluster_tells_and_serves_what_that_release_has() {
    for release in [KafkaVersion::V2_8, KafkaVersion::V3_9, KafkaVersion::V4_3] {
        let cluster = Cluster::builder().kafka_version(release).topic("t", 1).start_in_memory().unwrap();
        let mut raw = connect(&cluster, 1).await;
        let request =
            ApiVersionsRequest::default().with_client_software_name(text("x")).with_client_software_version(text("1"));
        let answer = raw.call(3, request).await;
        for served in &answer.api_keys {
            if served.api_key == ApiKey::PRODUCE.0 {
                assert_eq!(served.min_version, 0, "librdkafka asks for it, or it compresses nothing (KAFKA-18659)");
            }
            let (_, min, max) = release.apis().find(|(api, ..)| api.0 == served.api_key).unwrap();
            assert!(min <= served.min_version && served.max_version <= max, "{release:?}: {served:?}");
        }
        let transactions = answer.finalized_features.iter().find(|f| f.name.as_str() == "transaction.version");
        assert_eq!(transactions.map(|f| f.max_version_level), (release == KafkaVersion::V4_3).then_some(2));
        let range = |api: ApiKey| answer.api_keys.iter().find(|served| served.api_key == api.0);
        let fetch = range(ApiKey::FETCH).unwrap();
        for version in [fetch.min_version - 1, fetch.max_version + 1] {
            let mut raw = connect(&cluster, 1).await;
            if (4..=18).contains(&version) {
                let mut request = fetch_request(&[("t", 0, 0)]);
                if version >= 13 {
                    request.topics[0].topic = Default::default();
                }
                raw.send(version, &request).await;
                assert!(raw.is_closed().await, "{release:?}: Fetch v{version}");
            }
        }
        if release == KafkaVersion::V2_8 {
            assert!(range(ApiKey::DESCRIBE_TRANSACTIONS).is_none());
            raw.send(0, &DescribeTransactionsRequest::default()).await;
            assert!(raw.is_closed().await, "DescribeTransactions is none of 2.8's");
        }
        cluster.shutdown().await;
    }
}
