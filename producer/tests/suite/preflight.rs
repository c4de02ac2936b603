//! A look at the topics before they are sent to: what loses acknowledged records is found, and said in a sentence.

#![expect(clippy::disallowed_methods, reason = "tests sleep on the paused clock")]
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

use std::time::Duration;

use milena_client::ErrorKind;
use milena_producer::{Acks, Concern, Finding, Producer, ProducerBuilder, Profile, Record};
use milena_testkit::{Api, Cluster, ErrorCode, Reaction};
use tokio::time::sleep;

async fn producer(cluster: &Cluster, set: impl FnOnce(ProducerBuilder) -> ProducerBuilder) -> Producer {
    let client = crate::common::client(cluster, 1).connect().await.unwrap();
    set(Producer::builder(&client)).build().await.unwrap()
}

fn cluster() -> Cluster {
    Cluster::builder()
        .brokers(3)
        .topic("usual", 3)
        .topic_with("safe", 3, [("min.insync.replicas", "2")])
        .topic_with("unclean", 3, [("min.insync.replicas", "2"), ("unclean.leader.election.enable", "true")])
        .start_in_memory()
        .unwrap()
}

fn said(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

#[tokio::test(start_paused = true)]
async fn replicated_topics_are_held_against_their_settings() {
    let cluster = cluster();
    let producer = producer(&cluster, |builder| builder).await;
    let findings = producer.preflight(["usual", "safe", "unclean"]).await.unwrap();
    let found: Vec<_> = findings.iter().map(|finding| (&*finding.topic, &finding.concern)).collect();
    assert!(
        matches!(
            found.as_slice(),
            [("usual", Concern::MinInsyncReplicasOne), ("unclean", Concern::UncleanLeaderElection)]
        ),
        "{found:?}"
    );
    let said = said(&findings);
    assert!(said[0].contains("min.insync.replicas is 1") && said[0].contains("Set it to 2"), "{said:?}");
    assert_eq!(cluster.requests(Api::DescribeConfigs), 1, "one question for all of them");
}

#[tokio::test(start_paused = true)]
async fn one_replica_is_found_and_its_min_insync_replicas_is_beside_the_point() {
    let cluster = Cluster::builder().brokers(1).topic("alone", 1).start_in_memory().unwrap();
    let producer = producer(&cluster, |builder| builder).await;
    let findings = producer.preflight(["alone"]).await.unwrap();
    assert!(matches!(findings.as_slice(), [Finding { concern: Concern::ReplicationFactorOne, .. }]), "{findings:?}");
    assert!(said(&findings)[0].starts_with("alone: there is one replica"));
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_may_not_be_looked_at_is_a_finding_of_its_own() {
    let cluster = cluster();
    let denied =
        cluster.faults().when(Api::DescribeConfigs).then(Reaction::Error(ErrorCode::TOPIC_AUTHORIZATION_FAILED));
    let producer = producer(&cluster, |builder| builder).await;
    let findings = producer.preflight(["safe"]).await.unwrap();
    assert_eq!(denied.fired(), 1);
    let [Finding { concern: Concern::NotLookedAt(error), .. }] = findings.as_slice() else { panic!("{findings:?}") };
    assert_eq!(error.code(), Some(ErrorCode::TOPIC_AUTHORIZATION_FAILED));
    assert!(said(&findings)[0].contains("could not be looked at"), "{findings:?}");
    assert!(producer.preflight(["safe"]).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn with_less_than_all_acks_nothing_else_matters_and_an_unknown_topic_is_an_error() {
    let cluster = cluster();
    let producer = producer(&cluster, |builder| builder.acks(Acks::Leader).max_block(Duration::from_secs(1))).await;
    let findings = producer.preflight(["safe"]).await.unwrap();
    assert!(matches!(findings.as_slice(), [Finding { concern: Concern::AcksNotAll, .. }]), "{findings:?}");
    let error = producer.preflight(["nobody-knows"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownTopicOrPartition);
}

#[tokio::test(start_paused = true)]
async fn the_durable_profile_looks_at_each_topic_once_and_the_others_do_not() {
    for (profile, looks) in [(Profile::Durable, 2), (Profile::Throughput, 0), (Profile::LowLatency, 0)] {
        let cluster = cluster();
        let producer = producer(&cluster, |builder| builder.profile(profile)).await;
        for topic in ["usual", "safe", "usual", "safe"] {
            producer.send(&Record::to(topic).value("x")).await.unwrap().await.unwrap();
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(cluster.requests(Api::DescribeConfigs), looks, "{profile:?}");
        producer.close(Duration::from_secs(60)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_set_after_a_profile_counts_and_a_contradiction_is_refused() {
    let cluster = cluster();
    let client = crate::common::client(&cluster, 1).connect().await.unwrap();
    let builder = Producer::builder(&client).profile(Profile::Throughput).linger(Duration::from_millis(7));
    let text = builder.describe();
    assert!(text.contains("linger = 7ms") && text.contains("batch_size = 128 KiB"), "{text}");
    // Fewer acks than the profile's are taken, and bring their consequence with them.
    let fewer = Producer::builder(&client).profile(Profile::Durable).acks(Acks::Leader);
    assert!(fewer.describe().contains("idempotence = off"), "{}", fewer.describe());
    fewer.build().await.unwrap().close(Duration::from_secs(60)).await.unwrap();
    let builder = Producer::builder(&client).profile(Profile::Durable).acks(Acks::Leader).idempotence(true);
    let error = builder.build().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Config && error.to_string().contains("acks = all"), "{error}");
}
