//! Defects that are planted in the brokers, each caught by the checker that runs in every test, and each with the same run without it.

#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]

mod common;

use common::{TestBatch, connect, fetch_request};
use milena_protocol::ErrorCode;
use milena_testkit::planted::Defect;
use milena_testkit::{Cluster, ClusterBuilder};

fn builder() -> ClusterBuilder {
    Cluster::builder().brokers(2).topic("t", 1)
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

async fn high_watermark(builder: ClusterBuilder) -> (i64, Vec<String>) {
    let cluster = builder.start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    raw.produce("t", 0, batch(0)).await;
    let told = raw.fetch("t", 0, 0).await.high_watermark;
    let violations = cluster.take_violations();
    cluster.shutdown().await;
    (told, violations)
}

#[tokio::test(start_paused = true)]
async fn a_high_watermark_ahead_of_the_in_sync_replicas_is_noticed() {
    assert_eq!(high_watermark(builder()).await, (2, vec![]));
    let (told, violations) = high_watermark(builder().planted(Defect::HighWatermarkAheadOfIsr)).await;
    assert_eq!(told, 3);
    assert!(violations[0].contains("was told to be 3, and the in-sync replicas end at 2"), "{violations:?}");
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
