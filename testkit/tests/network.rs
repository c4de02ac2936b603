//! Links that are cut and healed, and machines that lose their power.

#![expect(clippy::disallowed_methods, reason = "tests wait")]
#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]

mod common;

use std::time::Duration;

use common::transactional::Txn;
use common::{Raw, TestBatch, connect, connect_tcp, produce_request, try_connect};
use milena_protocol::ErrorCode;
use milena_protocol::messages::produce_response::PartitionProduceResponse;
use milena_protocol::messages::{MetadataRequest, ProduceRequest};
use milena_testkit::{Cluster, Link, MemoryStream, WALL_CLOCK_BASE_MS};
use tokio::time::timeout;

const SECOND: Duration = Duration::from_secs(1);

fn cluster() -> Cluster {
    Cluster::builder().brokers(3).topic("t", 3).start_in_memory().unwrap()
}

fn batch(value: &str) -> bytes::Bytes {
    TestBatch::of(&[value]).bytes()
}

fn end(cluster: &Cluster) -> i64 {
    cluster.partition_info("t", 0).log_end_offset
}

async fn write(raw: &mut Raw<MemoryStream>, txn: &mut Txn, values: &[&str]) -> PartitionProduceResponse {
    let batch = txn.batch(values, WALL_CLOCK_BASE_MS);
    raw.write(txn, "t", 0, &batch).await
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_a_link_that_is_cut_and_then_arrive_in_order() {
    let cluster = cluster();
    let (mut one, mut two) = (connect(&cluster, 1).await, connect(&cluster, 1).await);
    cluster.cut(Link::ClientsTo(1));
    one.send(9, &produce_request("t", 0, batch("a"), -1)).await;
    assert!(one.is_silent_for(SECOND * 60).await);
    two.send(9, &produce_request("t", 0, batch("b"), -1)).await;
    drop(two);
    assert!(timeout(SECOND, try_connect(&cluster, 1)).await.is_err(), "nothing answers, not even with a refusal");
    assert_eq!((end(&cluster), cluster.connections(1)), (0, 2), "nor does the broker see that somebody hangs up");
    let connecting = tokio::join!(try_connect(&cluster, 1), async {
        tokio::time::sleep(SECOND).await;
        cluster.heal(Link::ClientsTo(1));
    });
    assert!(connecting.0.is_ok());
    let answer = one.receive::<ProduceRequest>(9).await.unwrap();
    assert_eq!(answer.responses[0].partition_responses[0].base_offset, 0);
    assert_eq!(end(&cluster), 2, "the other's request arrived before its end");
    assert!(cluster.request_log().to_string().contains("b1 c2 closed by the client"));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn with_only_the_way_back_cut_requests_are_served_and_answers_wait() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    cluster.cut(Link::ToClients(1));
    raw.send(9, &produce_request("t", 0, batch("a"), -1)).await;
    assert!(raw.is_silent_for(SECOND).await);
    assert_eq!(end(&cluster), 1);
    cluster.heal_all();
    assert!(raw.receive::<ProduceRequest>(9).await.is_some());
    cluster.shutdown().await;
}

#[tokio::test]
async fn over_tcp_a_cut_link_is_silent_too() {
    let cluster = Cluster::builder().brokers(1).topic("t", 1).start().await.unwrap();
    let mut raw = connect_tcp(cluster.bootstrap_servers().parse().unwrap()).await;
    cluster.cut(Link::Clients(1));
    raw.send(9, &MetadataRequest::default()).await;
    assert!(raw.is_silent_for(SECOND / 5).await);
    assert!(cluster.request_log().is_empty());
    cluster.heal(Link::Clients(1));
    assert!(raw.receive::<MetadataRequest>(9).await.is_some());
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_is_cut_off_leaves_the_in_sync_replicas_and_comes_back() {
    let cluster =
        Cluster::builder().brokers(3).topic_with("t", 1, [("min.insync.replicas", "3")]).start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    cluster.cut(Link::Brokers(3, 1));
    assert_eq!(cluster.partition_info("t", 0).isr, [1, 2]);
    assert_eq!(cluster.partition_info("t", 0).leader, Some(1), "both reach the second broker");
    assert_eq!(ErrorCode(raw.produce("t", 0, batch("a")).await.error_code), ErrorCode::NOT_ENOUGH_REPLICAS);
    cluster.heal(Link::Brokers(1, 3));
    assert_eq!(cluster.partition_info("t", 0).isr, [1, 2, 3]);
    assert_eq!(raw.produce("t", 0, batch("a")).await.error_code, 0);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_isolated_leads_and_coordinates_nothing() {
    let cluster = cluster();
    cluster.move_coordinator("g", 1);
    let (mut one, mut two) = (connect(&cluster, 1).await, connect(&cluster, 2).await);
    cluster.isolate(1);
    let info = cluster.partition_info("t", 0);
    assert_eq!((info.leader, info.leader_epoch, info.isr), (Some(2), 1, vec![2, 3]));
    let told = two.call(9, MetadataRequest::default().with_topics(None)).await;
    assert_eq!(told.brokers.iter().map(|broker| broker.node_id.0).collect::<Vec<_>>(), [2, 3]);
    one.send(9, &produce_request("t", 0, batch("a"), -1)).await;
    assert_eq!(two.produce("t", 0, batch("b")).await.error_code, 0);
    cluster.heal_all();
    let late = one.receive::<ProduceRequest>(9).await.unwrap();
    let code = ErrorCode(late.responses[0].partition_responses[0].error_code);
    assert_eq!(code, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    assert_eq!(cluster.partition_info("t", 0).isr, [2, 3, 1]);
    assert_eq!(cluster.partition_info("t", 0).leader, Some(2), "it does not lead again on its own");
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_does_not_reach_a_leader_writes_its_markers_later() {
    let cluster = cluster();
    cluster.move_coordinator("a", 1);
    cluster.move_leader("t", 0, 2);
    let (mut coordinator, mut leader) = (connect(&cluster, 1).await, connect(&cluster, 2).await);
    let mut txn = Txn::new("a", true);
    coordinator.init(&mut txn).await;
    cluster.cut(Link::Brokers(1, 2));
    let refused = write(&mut leader, &mut txn.clone(), &["early"]).await;
    assert_eq!(ErrorCode(refused.error_code), ErrorCode::NOT_ENOUGH_REPLICAS, "the leader cannot ask the coordinator");
    cluster.heal_all();
    assert_eq!(write(&mut leader, &mut txn, &["a"]).await.error_code, 0);
    cluster.cut(Link::Brokers(1, 2));
    coordinator.end(&mut txn, true).await;
    assert_eq!(cluster.transaction_info("a").unwrap().state, "PrepareCommit");
    assert!(cluster.committed_records("t", 0).is_empty());
    cluster.heal_all();
    assert_eq!(cluster.transaction_info("a").unwrap().state, "CompleteCommit");
    assert_eq!(cluster.committed_records("t", 0).len(), 1);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_without_power_loses_what_it_alone_had_and_had_not_flushed() {
    let cluster = Cluster::builder().brokers(1).topic("t", 1).start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    let by_producer = |value: &str, sequence| TestBatch::of(&[value]).by_producer(7, 0, sequence).bytes();
    for (sequence, value) in ["kept", "kept too", "lost"].into_iter().enumerate() {
        if sequence == 2 {
            cluster.flush();
        }
        assert_eq!(raw.produce("t", 0, by_producer(value, sequence as i32)).await.error_code, 0);
    }
    cluster.crash(1);
    cluster.restart(1);
    assert_eq!(end(&cluster), 3, "the process died, and the machine lived");
    cluster.crash_losing_unflushed(1);
    cluster.restart(1);
    let info = cluster.partition_info("t", 0);
    assert_eq!((info.log_end_offset, info.leader, info.leader_epoch), (2, Some(1), 4));
    let mut raw = connect(&cluster, 1).await;
    assert_eq!(ErrorCode(raw.fetch("t", 0, 3).await.error_code), ErrorCode::OFFSET_OUT_OF_RANGE);
    let repeat = raw.produce("t", 0, by_producer("kept too", 1)).await;
    assert_eq!((repeat.error_code, repeat.base_offset), (0, 1), "the producer is known by what is left");
    let other = raw.produce("t", 0, by_producer("another value", 2)).await;
    assert_eq!((other.error_code, other.base_offset), (0, 2), "an offset that was lost may get another value");
    raw.fetch("t", 0, 0).await;
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn what_other_replicas_have_no_power_cut_takes_away() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    raw.produce("t", 0, batch("a")).await;
    cluster.crash_losing_unflushed(1);
    cluster.restart(1);
    assert_eq!((end(&cluster), cluster.partition_info("t", 0).leader), (1, Some(2)));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_open_transaction_whose_end_was_lost_is_open_again() {
    let cluster = Cluster::builder().brokers(1).topic("t", 1).start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    let mut txn = Txn::new("a", true);
    raw.init(&mut txn).await;
    write(&mut raw, &mut txn, &["a", "b"]).await;
    raw.end(&mut txn, false).await;
    write(&mut raw, &mut txn, &["c"]).await;
    cluster.flush();
    raw.end(&mut txn, true).await;
    assert_eq!(cluster.committed_records("t", 0).len(), 1);
    cluster.crash_losing_unflushed(1);
    cluster.restart(1);
    let info = cluster.partition_info("t", 0);
    assert_eq!(
        (info.log_end_offset, info.last_stable_offset),
        (4, 3),
        "the marker is gone, and the aborted one is known"
    );
    assert!(cluster.committed_records("t", 0).is_empty());
    cluster.shutdown().await;
}
