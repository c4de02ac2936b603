//! Transactions on the in-process cluster, in virtual time: what only its own controls can bring about. What Kafka answers to which
//! request is compared in `portable_transactions.rs`.

#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests wait in virtual time, and panic")]

mod common;

use std::time::Duration;

use common::transactional::Txn;
use common::*;
use milena_protocol::ErrorCode;
use milena_testkit::{Api, Cluster, MemoryStream, Reaction, WALL_CLOCK_BASE_MS};

fn cluster() -> Cluster {
    Cluster::builder().brokers(1).topic("t", 2).start_in_memory().unwrap()
}

async fn begin(cluster: &Cluster, id: &str) -> (Raw<MemoryStream>, Txn) {
    let mut raw = connect(cluster, 1).await;
    let mut txn = Txn::new(id, true);
    raw.init(&mut txn).await;
    (raw, txn)
}

async fn write(raw: &mut Raw<MemoryStream>, txn: &mut Txn, partition: i32, values: &[&str]) -> i64 {
    let batch = txn.batch(values, WALL_CLOCK_BASE_MS);
    let answer = raw.write(txn, "t", partition, &batch).await;
    assert_eq!(answer.error_code, 0, "{:?}", answer.error_message);
    answer.base_offset
}

fn values(cluster: &Cluster) -> Vec<String> {
    let records = cluster.committed_records("t", 0).into_iter();
    records.map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn committed_records_are_read_and_aborted_ones_are_not() {
    let cluster = cluster();
    let (mut raw, mut txn) = begin(&cluster, "a").await;
    write(&mut raw, &mut txn, 0, &["a", "b"]).await;
    assert!(values(&cluster).is_empty(), "the transaction is open");
    let committed = raw.end(&mut txn, true).await;
    assert_eq!(committed.producer_epoch, 1, "every transaction has an epoch of its own");
    write(&mut raw, &mut txn, 0, &["c"]).await;
    raw.end(&mut txn, false).await;
    assert_eq!(values(&cluster), ["a", "b"]);
    let all = cluster.records("t", 0);
    assert_eq!(all.iter().filter(|record| record.control).count(), 2);
    assert_eq!(all.len(), 5);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn held_markers_keep_the_stable_offset_back_and_the_next_transaction_out() {
    let cluster = cluster();
    let (mut raw, mut txn) = begin(&cluster, "a").await;
    write(&mut raw, &mut txn, 0, &["a"]).await;
    cluster.hold_markers();
    raw.end(&mut txn, true).await;
    assert_eq!(cluster.transaction_info("a").unwrap().state, "PrepareCommit");
    assert_eq!(cluster.partition_info("t", 0).last_stable_offset, 0);
    let batch = txn.batch(&["b"], WALL_CLOCK_BASE_MS);
    let answer = raw.write(&mut txn, "t", 0, &batch).await;
    assert_eq!(answer.error_code, ErrorCode::CONCURRENT_TRANSACTIONS.0);
    cluster.release_markers();
    assert_eq!(cluster.transaction_info("a").unwrap().state, "CompleteCommit");
    assert_eq!(cluster.partition_info("t", 0).last_stable_offset, 2);
    assert_eq!(raw.write(&mut txn, "t", 0, &batch).await.error_code, 0);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_waiting_reader_of_committed_data_is_woken_by_the_marker() {
    let cluster = cluster();
    let (mut raw, mut txn) = begin(&cluster, "a").await;
    let mut reader = connect(&cluster, 1).await;
    let wait = fetch_request(&[("t", 0, 0)]).with_isolation_level(1).with_max_wait_ms(60_000).with_min_bytes(1);
    reader.send(12, &wait).await;
    write(&mut raw, &mut txn, 0, &["a"]).await;
    assert!(reader.is_silent_for(Duration::from_secs(1)).await, "the transaction is open");
    raw.end(&mut txn, true).await;
    let response = reader.receive::<milena_protocol::messages::FetchRequest>(12).await.unwrap();
    assert_eq!(only(&response).last_stable_offset, 2);
    assert!(only(&response).records.as_ref().is_some_and(|records| !records.is_empty()));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_is_open_for_too_long_is_aborted() {
    let cluster = cluster();
    let (mut raw, mut txn) = begin(&cluster, "a").await;
    write(&mut raw, &mut txn, 0, &["a"]).await;
    tokio::time::advance(Duration::from_millis(59_999)).await;
    assert_eq!(cluster.transaction_info("a").unwrap().state, "Ongoing");
    tokio::time::sleep(Duration::from_millis(2)).await;
    let info = cluster.transaction_info("a").unwrap();
    assert_eq!((info.state.as_str(), info.producer_epoch), ("CompleteAbort", 1));
    let batch = txn.batch(&["b"], WALL_CLOCK_BASE_MS);
    let answer = raw.write(&mut txn, "t", 0, &batch).await;
    assert_eq!(answer.error_code, ErrorCode::INVALID_PRODUCER_EPOCH.0);
    assert_eq!(cluster.partition_info("t", 0).last_stable_offset, 2);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_of_end_txn_is_given_again() {
    let cluster = cluster();
    let (mut raw, mut txn) = begin(&cluster, "a").await;
    write(&mut raw, &mut txn, 0, &["a"]).await;
    cluster.faults().when(Api::EndTxn).transactional_id("a").then(Reaction::ApplyThenDisconnect);
    raw.send(5, &txn.end_request(true)).await;
    assert!(raw.is_closed().await);
    let mut raw = connect(&cluster, 1).await;
    assert_eq!(raw.end(&mut txn, true).await.producer_epoch, 1);
    assert_eq!(values(&cluster), ["a"]);
    cluster.shutdown().await;
}
