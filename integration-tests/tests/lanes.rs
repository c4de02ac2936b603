//! Nobody waits for somebody else's request: in virtual time, to the millisecond.

#![expect(clippy::disallowed_methods, reason = "the test measures virtual time")]

use std::time::Duration;

use milena::{ApiKey, OffsetReset, Record, StartAt};
use milena_integration_tests::simulated;
use milena_testkit::{Api, Cluster, Reaction};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn two_consumers_and_a_producer_on_one_client_do_not_delay_one_another() {
    let cluster = Cluster::builder().brokers(1).topic("idle", 1).topic("busy", 1).start_in_memory().unwrap();
    let client = simulated(&cluster).connect().await.unwrap();
    let wait = SECOND * 30;
    let mut idle =
        client.partition_consumer().assign("idle", [0], StartAt::Beginning).max_wait(wait).build().await.unwrap();
    let mut busy =
        client.partition_consumer().assign("busy", [0], StartAt::Beginning).max_wait(wait).build().await.unwrap();
    let producer = client.producer().linger(Duration::ZERO).build().await.unwrap();
    // Both fetches are at the broker now, where they would wait for half a minute.
    assert!(idle.poll(SECOND).await.unwrap().is_empty());
    assert!(busy.poll(SECOND).await.unwrap().is_empty());
    producer.send(&Record::to("busy").value("warm up")).await.unwrap().await.unwrap();
    busy.recv().await.unwrap().unwrap();
    for n in 0..20 {
        let started = Instant::now();
        producer.send(&Record::to("busy").value("v")).await.unwrap().await.unwrap();
        assert_eq!(started.elapsed(), Duration::ZERO, "record {n} waited for a fetch");
        busy.recv().await.unwrap().unwrap();
        assert_eq!(started.elapsed(), Duration::ZERO, "record {n} was delayed on its way to the reader");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(idle.try_poll().unwrap().is_empty());
    client.close().await;
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_held_join_delays_no_heartbeat() {
    let cluster = Cluster::builder().brokers(1).topic("orders", 2).start_in_memory().unwrap();
    let client = simulated(&cluster).connect().await.unwrap();
    let build =
        |group: &'static str| client.consumer(group).subscribe(["orders"]).offset_reset(OffsetReset::Earliest).build();
    let first = build("first").await.unwrap();
    while first.handle().assignment().len() < 2 {
        tokio::time::sleep(SECOND / 10).await;
    }
    let held = cluster.faults().when(Api::JoinGroup).group("second").nth(1).then(Reaction::Hold);
    let second = build("second").await.unwrap();
    tokio::time::sleep(SECOND * 4).await;
    assert_eq!(held.fired(), 1);
    let beats = || cluster.request_log().api(ApiKey::HEARTBEAT).group("first").count();
    let before = beats();
    tokio::time::sleep(SECOND * 30).await;
    assert_eq!(beats() - before, 10, "one every three seconds, whatever the other member's join waits for");
    let started = Instant::now();
    first.handle().commit().await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO, "nor does a commit wait");
    held.release();
    while second.handle().assignment().len() < 2 {
        tokio::time::sleep(SECOND / 10).await;
    }
    second.close(SECOND * 5).await.unwrap();
    first.close(SECOND * 5).await.unwrap();
    client.close().await;
    cluster.shutdown().await;
}
