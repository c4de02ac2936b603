//! Coordinators that freeze: their connections stay as they are, and nothing is answered any more. After a while the cluster gives
//! their place to another broker, and the group must go there.
//!
//! A join may be held for `max_poll_interval`, five minutes here, so its own deadline is of no help. (Java waits that long.)

use std::sync::Arc;
use std::time::Duration;

use milena::Consumer;
use milena_client::CoordinatorKind;
use milena_testkit::{Api, Cluster, Reaction};
use tokio::time::{Instant, sleep, timeout};

use super::{MINUTE, PARTITIONS, RECORDS, SECOND, TOPIC, assert_written_once, builder, member, produce};

/// After so long without a word the cluster takes a broker for dead (`broker.session.timeout.ms`).
const BROKER_SESSION: Duration = Duration::from_secs(9);
/// From the moment in which the coordinator is another one: an answer is waited for (10 s), then the rebalance.
const PATIENCE: Duration = Duration::from_secs(30);

/// The broker that gets the n-th request of this API freezes over it. Later it has no place any more, and is never heard of again.
async fn freeze(cluster: &Cluster, api: Api, nth: u64) {
    let fault = cluster.faults().when(api).nth(nth).then(Reaction::Drop);
    fault.has_fired(1).await;
    let frozen = cluster.request_log().api(api).into_iter().nth(nth as usize - 1).unwrap().broker;
    cluster.faults().any().broker(frozen).always().then(Reaction::Drop);
    sleep(BROKER_SESSION).await;
    let other = frozen % 3 + 1;
    cluster.move_coordinator("group", other);
    for partition in 0..PARTITIONS {
        if cluster.partition_info(TOPIC, partition).leader == Some(frozen) {
            cluster.move_leader(TOPIC, partition, other);
        }
    }
}

/// Reads until all partitions are assigned and their records are read, by this member or the other.
async fn read_until_over(cluster: &Cluster, mut consumer: Consumer, members: usize) -> Consumer {
    loop {
        consumer.poll(SECOND / 2).await.unwrap().ack();
        let Some(group) = cluster.group_info("group") else { continue };
        let committed: i64 = group.offsets.values().sum();
        if group.state == "Stable" && group.members.len() == members && committed >= RECORDS as i64 {
            return consumer;
        }
    }
}

fn the_coordinator_freezes(api: Api, nth: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let cluster = Cluster::builder().brokers(3).topic(TOPIC, PARTITIONS).seed(1).start_in_memory().unwrap();
        let client = builder(&cluster, cluster.bootstrap_servers()).connect().await.unwrap();
        let producer = client.producer().request_timeout(SECOND * 10).build().await.unwrap();
        let story = format!("{api:?} number {nth}, and its broker freezes");
        let began = Instant::now();
        let (first, second) = (member(&client), async {
            sleep(SECOND * 4).await;
            member(&client).await
        });
        let all = async {
            tokio::join!(
                async { read_until_over(&cluster, first.await, 2).await },
                async { read_until_over(&cluster, second.await, 2).await },
                produce(&producer, 0),
                freeze(&cluster, api, nth),
            )
        };
        let (first, second, (), ()) = timeout(MINUTE * 20, all).await.unwrap_or_else(|_| {
            panic!("{story}: not over after twenty minutes\n{}", cluster.request_log());
        });
        println!("{story}: gone on after {:?}", began.elapsed());
        // The freezing comes within the first eight seconds.
        assert!(began.elapsed() < SECOND * 8 + BROKER_SESSION + PATIENCE, "{story}: it took {:?}", began.elapsed());
        first.close(MINUTE).await.unwrap();
        second.close(MINUTE).await.unwrap();
        producer.close(MINUTE).await.unwrap();
        assert_written_once(&cluster, RECORDS);
        client.close().await;
        assert_eq!((client.tasks(), client.sockets()), (0, 0));
        cluster.shutdown().await;
    });
}

#[tokio::test(start_paused = true)]
async fn who_waits_at_a_frozen_coordinator_goes_where_others_of_its_client_have_found_another() {
    let cluster = Cluster::builder().brokers(3).topic(TOPIC, PARTITIONS).seed(1).start_in_memory().unwrap();
    let client = builder(&cluster, cluster.bootstrap_servers()).request_timeout(MINUTE).connect().await.unwrap();
    let reading = client.consumer("group").subscribe([TOPIC]).session_timeout(MINUTE);
    let (consumer, ()) = tokio::join!(reading.build(), freeze(&cluster, Api::JoinGroup, 1));
    assert!(cluster.group_info("group").is_none_or(|group| group.members.is_empty()));

    let (other, group) = (client.new_owner("other"), Arc::from("group"));
    other.forget_coordinator(CoordinatorKind::Group, &group);
    other.coordinator(CoordinatorKind::Group, &group, Instant::now() + SECOND * 5).await.unwrap();
    sleep(SECOND * 2).await;
    assert_eq!(cluster.group_info("group").unwrap().state, "Stable");
    drop((consumer, other));
    client.close().await;
    cluster.shutdown().await;
}

#[test]
fn a_coordinator_freezes_over_the_join_of_a_new_member() {
    // Without a member id, and with it; of the first member of the group, and of the second.
    for nth in [1, 2, 3, 4] {
        the_coordinator_freezes(Api::JoinGroup, nth);
    }
}

#[test]
fn a_coordinator_freezes_over_the_join_of_a_member() {
    for nth in [5, 6] {
        the_coordinator_freezes(Api::JoinGroup, nth);
    }
}

#[test]
fn a_coordinator_freezes_over_a_sync() {
    for nth in [1, 2, 3, 4] {
        the_coordinator_freezes(Api::SyncGroup, nth);
    }
}

#[test]
fn a_coordinator_freezes_over_a_heartbeat_or_a_commit() {
    the_coordinator_freezes(Api::Heartbeat, 1);
    the_coordinator_freezes(Api::OffsetCommit, 1);
    the_coordinator_freezes(Api::OffsetFetch, 1);
    the_coordinator_freezes(Api::FindCoordinator, 1);
}
