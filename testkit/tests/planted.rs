//! Defects that are planted in the brokers, each caught by the checker that runs in every test, and each with the same run without it.

#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]

mod common;

use std::time::Duration;

use common::{TestBatch, connect, connect_tcp, fetch_request, produce_request, try_connect};
use milena_protocol::ErrorCode;
use milena_testkit::planted::Defect;
use milena_testkit::{Cluster, ClusterBuilder};

fn builder() -> ClusterBuilder {
    Cluster::builder().brokers(2).topic_with("t", 1, [("min.insync.replicas", "2")])
}

fn batch(sequence: i32) -> bytes::Bytes {
    TestBatch::of(&["a", "b"]).by_producer(7, 0, sequence).bytes()
}

/// Writes batches with these sequences, two records each; what each is answered, and what the checker says.
async fn write(builder: ClusterBuilder, sequences: &[i32]) -> (Vec<ErrorCode>, Vec<String>) {
    let cluster = builder.start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    let mut answers = Vec::new();
    for sequence in sequences {
        answers.push(ErrorCode(raw.produce("t", 0, batch(*sequence)).await.error_code));
    }
    let violations = cluster.take_violations();
    cluster.shutdown().await;
    (answers, violations)
}

#[tokio::test(start_paused = true)]
async fn a_sequence_check_that_is_off_is_noticed() {
    let (answers, violations) = write(builder(), &[0, 4, 2]).await;
    let refused = ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER;
    assert_eq!((answers, violations), (vec![ErrorCode::NONE, refused, ErrorCode::NONE], vec![]));
    let (answers, violations) = write(builder().planted(Defect::SequenceCheckOff), &[0, 4, 2]).await;
    assert_eq!(answers, [ErrorCode::NONE; 3]);
    assert!(
        violations[0].contains("producer 7 wrote sequence 4 of epoch 0 at offset 2 behind sequence 1"),
        "{violations:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_that_is_accepted_is_noticed() {
    let (answers, violations) = write(builder(), &[0, 2, 0]).await;
    assert_eq!((answers, violations), (vec![ErrorCode::NONE; 3], vec![]));
    let (answers, violations) = write(builder().planted(Defect::DuplicateAccepted), &[0, 2, 0]).await;
    assert_eq!(answers, [ErrorCode::NONE; 3]);
    assert!(
        violations[0].contains("producer 7 wrote sequence 0 of epoch 0 at offset 4 behind sequence 3"),
        "{violations:?}"
    );
}

/// What a cluster says at its end whose brokers have panicked.
#[expect(clippy::disallowed_methods, reason = "a task of its own may panic")]
async fn told_at_the_end(cluster: Cluster) -> String {
    let end = tokio::time::timeout(Duration::from_secs(60), tokio::spawn(cluster.shutdown())).await;
    *end.expect("the cluster ends").unwrap_err().into_panic().downcast::<String>().unwrap()
}

const PANICKED: &str = "the brokers panicked, which is a bug of the kit: a planted panic";

#[tokio::test(start_paused = true)]
async fn brokers_that_panic_hang_up_on_everybody_and_fail_the_test() {
    // Who does not want violations is told, too.
    let cluster = builder().planted(Defect::Panic).check_invariants(false).start_in_memory().unwrap();
    let (mut one, mut two) = (connect(&cluster, 1).await, connect(&cluster, 2).await);
    one.send(9, &produce_request("t", 0, batch(0), -1)).await;
    assert!(one.is_closed().await && two.is_closed().await);
    assert!(try_connect(&cluster, 1).await.is_err());
    let told = told_at_the_end(cluster).await;
    assert!(told.contains(PANICKED) && told.contains(" connected\n"), "{told}");
}

#[tokio::test]
async fn brokers_that_panic_over_tcp_hang_up_too() {
    let cluster = builder().brokers(1).planted(Defect::Panic).start().await.unwrap();
    let mut raw = connect_tcp(cluster.bootstrap_servers().parse().unwrap()).await;
    raw.send(9, &produce_request("t", 0, batch(0), -1)).await;
    assert!(raw.is_closed().await);
    let told = told_at_the_end(cluster).await;
    assert!(told.contains(PANICKED), "{told}");
}

/// Reads with the leader epoch of two leaders ago.
async fn read(builder: ClusterBuilder) -> (ErrorCode, Vec<String>) {
    let cluster = builder.start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    raw.produce("t", 0, batch(0)).await;
    cluster.move_leader("t", 0, 2);
    cluster.move_leader("t", 0, 1);
    let mut request = fetch_request(&[("t", 0, 0)]);
    request.topics[0].partitions[0].current_leader_epoch = 0;
    let response = raw.call(12, request).await;
    let violations = cluster.take_violations();
    cluster.shutdown().await;
    (ErrorCode(response.responses[0].partitions[0].error_code), violations)
}

#[tokio::test(start_paused = true)]
async fn a_leader_epoch_that_is_ignored_is_noticed() {
    assert_eq!(read(builder()).await, (ErrorCode::FENCED_LEADER_EPOCH, vec![]));
    let (answer, violations) = read(builder().planted(Defect::LeaderEpochIgnored)).await;
    assert_eq!(answer, ErrorCode::NONE);
    assert!(violations[0].contains("knows leader epoch 0 was served in epoch 2"), "{violations:?}");
}

/// Reads what only one of two in-sync replicas has: the high watermark that is told, and how many bytes come.
async fn read_ahead(builder: ClusterBuilder) -> (i64, usize, Vec<String>) {
    let cluster = builder.start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    cluster.hold_follower("t", 0, 2);
    raw.call(9, produce_request("t", 0, batch(0), 1)).await;
    let told = raw.fetch("t", 0, 0).await;
    let violations = cluster.take_violations();
    cluster.shutdown().await;
    (told.high_watermark, told.records.unwrap().len(), violations)
}

#[tokio::test(start_paused = true)]
async fn a_high_watermark_ahead_of_the_in_sync_replicas_is_noticed() {
    assert_eq!(read_ahead(builder()).await, (0, 0, vec![]));
    let (told, bytes, violations) = read_ahead(builder().planted(Defect::HighWatermarkAheadOfIsr)).await;
    assert_eq!((told, bytes), (2, batch(0).len()));
    assert!(violations[0].contains("was told to be 2, and the in-sync replicas end at 0"), "{violations:?}");
}

/// Writes with acks=all what one of two in-sync replicas does not get, and then what only one is in sync for.
async fn acknowledge(builder: ClusterBuilder) -> ([ErrorCode; 2], Vec<String>) {
    let cluster = builder.start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    cluster.hold_follower("t", 0, 2);
    let held = raw.call(9, produce_request("t", 0, batch(0), -1).with_timeout_ms(100)).await;
    cluster.drop_from_isr("t", 0, 2);
    let alone = raw.produce("t", 0, batch(2)).await;
    let violations = cluster.take_violations();
    cluster.shutdown().await;
    ([ErrorCode(held.responses[0].partition_responses[0].error_code), ErrorCode(alone.error_code)], violations)
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_before_enough_replicas_have_the_batch_is_noticed() {
    let refused = [ErrorCode::REQUEST_TIMED_OUT, ErrorCode::NOT_ENOUGH_REPLICAS];
    assert_eq!(acknowledge(builder()).await, (refused, vec![]));
    let (answers, violations) = acknowledge(builder().planted(Defect::AckBeforeMinIsr)).await;
    assert_eq!(answers, [ErrorCode::NONE; 2]);
    assert!(
        violations[0].contains("was acknowledged with acks=all, and the in-sync replicas end at 0"),
        "{violations:?}"
    );
    assert!(violations[1].contains("and min.insync.replicas is 2, and [1] are in sync"), "{violations:?}");
}

/// Writes with acks=all, and then the leader dies that alone has it.
async fn lose(builder: ClusterBuilder) -> Vec<String> {
    let cluster = builder.start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    cluster.hold_follower("t", 0, 2);
    raw.call(9, produce_request("t", 0, batch(0), -1).with_timeout_ms(100)).await;
    cluster.crash(1);
    let violations = cluster.take_violations();
    cluster.shutdown().await;
    violations
}

#[tokio::test(start_paused = true)]
async fn acknowledged_records_that_a_clean_election_takes_away_are_noticed() {
    assert_eq!(lose(builder()).await, [""; 0], "nobody was told that they are written");
    let violations = lose(builder().planted(Defect::AckBeforeMinIsr)).await;
    assert!(
        violations[1].contains("b2 was in sync and ends at 0, and what lies below 2 was promised"),
        "{violations:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_violation_fails_the_test_with_a_sentence_and_the_log_unless_the_checker_is_off() {
    let cluster = builder().planted(Defect::DuplicateAccepted).start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    raw.produce("t", 0, batch(0)).await;
    raw.produce("t", 0, batch(0)).await;
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(cluster))).unwrap_err();
    let told = panic.downcast::<String>().unwrap();
    assert!(told.starts_with("the cluster saw what must not happen:\nt-0: producer 7 wrote"), "{told}");
    assert!(
        told.contains(" Produce v9 #2 \"raw\"") && told.contains("again with: MILENA_SEEDS=0 cargo test"),
        "{told}"
    );
    let off = builder().planted(Defect::DuplicateAccepted).check_invariants(false);
    assert_eq!(write(off, &[0, 0]).await.1, [""; 0]);
}
