//! Transactions on the in-process cluster, in virtual time: what only its own controls can bring about. What Kafka answers to which
//! request is compared in `portable_transactions.rs`.

#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests wait in virtual time, and panic")]

mod common;

use std::time::Duration;

use common::transactional::Txn;
use common::*;
use milena_protocol::ErrorCode;
use milena_protocol::messages::{DeleteTopicsRequest, FetchRequest};
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
    let response = reader.receive::<FetchRequest>(12).await.unwrap();
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

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_takes_over_goes_on_with_the_transaction() {
    let cluster = Cluster::builder().brokers(3).topic("t", 2).start_in_memory().unwrap();
    cluster.move_leader("t", 0, 1);
    cluster.move_coordinator("a", 2);
    let (mut leader, mut coordinator) = (connect(&cluster, 1).await, connect(&cluster, 2).await);
    let mut txn = Txn::new("a", true);
    coordinator.init(&mut txn).await;
    write(&mut leader, &mut txn, 0, &["a"]).await;
    cluster.hold_markers();
    coordinator.end(&mut txn, true).await;
    cluster.crash(2);
    let taken_over_by = cluster.transaction_info("a").unwrap().coordinator.unwrap();
    assert_ne!(taken_over_by, 2);
    cluster.release_markers();
    assert_eq!(values(&cluster), ["a"]);
    let marker = cluster.records("t", 0).into_iter().find(|record| record.control).unwrap();
    assert_eq!(marker.value.as_deref(), Some(&[0, 0, 0, 0, 0, 1][..]), "the second coordinator's epoch");
    let mut coordinator = connect(&cluster, taken_over_by).await;
    write(&mut leader, &mut txn, 0, &["b"]).await;
    coordinator.end(&mut txn, true).await;
    assert_eq!(values(&cluster), ["a", "b"]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_open_transaction_outlives_its_coordinator_and_the_old_one_refuses() {
    let cluster = Cluster::builder().brokers(2).topic("t", 2).start_in_memory().unwrap();
    cluster.move_leader("t", 0, 1);
    cluster.move_coordinator("a", 1);
    let mut raw = connect(&cluster, 1).await;
    let mut txn = Txn::new("a", true);
    raw.init(&mut txn).await;
    write(&mut raw, &mut txn, 0, &["a"]).await;
    cluster.move_coordinator("a", 2);
    let refused = raw.call(5, txn.end_request(true)).await;
    assert_eq!(refused.error_code, ErrorCode::NOT_COORDINATOR.0);
    connect(&cluster, 2).await.end(&mut txn, true).await;
    assert_eq!(values(&cluster), ["a"]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_marker_waits_for_a_leader() {
    let cluster = Cluster::builder().brokers(2).topic("t", 2).start_in_memory().unwrap();
    cluster.move_coordinator("a", 1);
    cluster.move_leader("t", 0, 2);
    let (mut coordinator, mut leader) = (connect(&cluster, 1).await, connect(&cluster, 2).await);
    let mut txn = Txn::new("a", true);
    coordinator.init(&mut txn).await;
    write(&mut leader, &mut txn, 0, &["a"]).await;
    cluster.crash(1);
    cluster.crash(2);
    assert_eq!(cluster.partition_info("t", 0).leader, None);
    cluster.restart(1);
    let mut coordinator = connect(&cluster, 1).await;
    coordinator.end(&mut txn, true).await;
    let info = cluster.transaction_info("a").unwrap();
    assert_eq!((info.state.as_str(), info.partitions.len()), ("PrepareCommit", 1));
    cluster.restart(2);
    assert_eq!(cluster.transaction_info("a").unwrap().state, "CompleteCommit");
    assert_eq!(values(&cluster), ["a"]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_markers_of_a_deleted_topic_are_not_waited_for() {
    let cluster = cluster();
    let (mut raw, mut txn) = begin(&cluster, "a").await;
    write(&mut raw, &mut txn, 0, &["a"]).await;
    cluster.hold_markers();
    raw.end(&mut txn, true).await;
    let delete = DeleteTopicsRequest::default().with_topic_names(vec![name("t")]);
    raw.call(5, delete).await;
    cluster.release_markers();
    assert_eq!(cluster.transaction_info("a").unwrap().state, "CompleteCommit");
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_producer_of_the_old_protocol_is_told_to_try_again_while_markers_are_held() {
    let cluster = cluster();
    let (mut raw, mut txn) = begin(&cluster, "a").await;
    txn.v2 = false;
    raw.add(&txn, "t", 0).await;
    write(&mut raw, &mut txn, 0, &["a"]).await;
    cluster.hold_markers();
    raw.end(&mut txn, true).await;
    assert_eq!(raw.add(&txn, "t", 1).await, ErrorCode::CONCURRENT_TRANSACTIONS.0);
    let again = raw.call(4, txn.end_request(true)).await;
    assert_eq!(again.error_code, ErrorCode::CONCURRENT_TRANSACTIONS.0);
    let batch = txn.batch(&["b"], WALL_CLOCK_BASE_MS);
    let answer = raw.write_as(&txn, "t", 1, &batch, 11).await;
    assert_eq!(answer.error_code, ErrorCode::NOT_ENOUGH_REPLICAS.0);
    cluster.release_markers();
    assert_eq!(raw.add(&txn, "t", 1).await, 0);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_abort_for_its_time_waits_for_held_markers_too() {
    let cluster = cluster();
    let (mut raw, mut txn) = begin(&cluster, "a").await;
    write(&mut raw, &mut txn, 0, &["a"]).await;
    cluster.hold_markers();
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(cluster.transaction_info("a").unwrap().state, "PrepareAbort");
    let init = raw.call(5, txn.init_request(60_000)).await;
    assert_eq!(init.error_code, ErrorCode::CONCURRENT_TRANSACTIONS.0);
    cluster.release_markers();
    let init = raw.call(5, txn.init_request(60_000)).await;
    assert_eq!((init.error_code, init.producer_epoch), (0, 2));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn faults_reach_the_requests_of_transactions() {
    let cluster = cluster();
    let (mut raw, mut txn) = begin(&cluster, "a").await;
    let refused = cluster
        .faults()
        .when(Api::EndTxn)
        .transactional_id("a")
        .then(Reaction::Error(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS));
    write(&mut raw, &mut txn, 0, &["a"]).await;
    let answer = raw.call(5, txn.end_request(true)).await;
    assert_eq!(answer.error_code, ErrorCode::COORDINATOR_LOAD_IN_PROGRESS.0);
    assert_eq!(refused.fired(), 1);
    assert_eq!(cluster.transaction_info("a").unwrap().state, "Ongoing", "nothing was applied");
    cluster.faults().when(Api::TxnOffsetCommit).group("g").topic("t").then(Reaction::Error(ErrorCode::NOT_COORDINATOR));
    for expected in [ErrorCode::NOT_COORDINATOR, ErrorCode::NONE] {
        let response = raw.call(5, txn.offset_request("g", "t", 0, 5)).await;
        assert_eq!(response.topics[0].partitions[0].error_code, expected.0);
    }
    let other = cluster.faults().when(Api::EndTxn).transactional_id("b").optional().then(Reaction::Drop);
    raw.end(&mut txn, true).await;
    assert_eq!(other.fired(), 0, "the fault is another producer's");
    assert_eq!(cluster.group_info("g").unwrap().offsets[&("t".to_owned(), 0)], 5);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_may_lose_its_place_after_it_has_written() {
    let cluster = cluster();
    let (mut raw, mut txn) = begin(&cluster, "a").await;
    write(&mut raw, &mut txn, 0, &["a"]).await;
    let fault = cluster.faults().when(Api::EndTxn).then(Reaction::ApplyThenError(ErrorCode::NOT_COORDINATOR));
    let answer = raw.call(5, txn.end_request(true)).await;
    assert_eq!((answer.error_code, fault.fired()), (ErrorCode::NOT_COORDINATOR.0, 1));
    assert_eq!(values(&cluster), ["a"], "it is committed");
    assert_eq!(raw.end(&mut txn, true).await.producer_epoch, 1, "the next request of the connection is answered, too");
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn offsets_wait_for_held_markers() {
    let cluster = cluster();
    let (mut raw, mut txn) = begin(&cluster, "a").await;
    raw.call(5, txn.offset_request("g", "t", 0, 5)).await;
    cluster.hold_markers();
    raw.end(&mut txn, true).await;
    let info = cluster.group_info("g").unwrap();
    assert!(info.offsets.is_empty());
    assert_eq!(info.pending_offsets[&("t".to_owned(), 0)], 5);
    assert_eq!(raw.committed("g", "t", 0, true).await, (-1, ErrorCode::UNSTABLE_OFFSET_COMMIT.0));
    cluster.release_markers();
    assert_eq!(raw.committed("g", "t", 0, true).await, (5, 0));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn one_transaction_spans_partitions_and_all_get_their_marker() {
    let cluster = cluster();
    let (mut raw, mut txn) = begin(&cluster, "a").await;
    write(&mut raw, &mut txn, 0, &["a"]).await;
    txn.sequence = 0; // counted per partition
    write(&mut raw, &mut txn, 1, &["b"]).await;
    raw.end(&mut txn, true).await;
    for partition in [0, 1] {
        assert_eq!(cluster.partition_info("t", partition).last_stable_offset, 2);
        assert_eq!(cluster.committed_records("t", partition).len(), 1);
    }
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_same_transactions_write_the_same_log() {
    let mut logs = Vec::new();
    for _ in 0..2 {
        let cluster = cluster();
        let (mut raw, mut txn) = begin(&cluster, "a").await;
        for commit in [true, false, true] {
            write(&mut raw, &mut txn, 0, &["a", "b"]).await;
            raw.call(5, txn.offset_request("g", "t", 0, 5)).await;
            raw.end(&mut txn, commit).await;
        }
        logs.push(cluster.request_log().to_string());
        cluster.shutdown().await;
    }
    assert!(logs[0].contains("commit marker of 0/1 at 2"), "{}", logs[0]);
    assert_eq!(logs[0], logs[1]);
}
