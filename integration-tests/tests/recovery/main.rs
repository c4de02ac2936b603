//! Brokers that die while a request waits on them, and clusters that move as a whole: in memory, in virtual time.
//!
//! Here: a producer, a member and an admin client, each of whose requests loses its broker. [`transactions`]: the same for an
//! exactly-once copy. [`frozen`]: coordinators that neither answer nor hang up. [`moved`]: all brokers at other addresses. With real brokers and real kills: `storm_kill_broker/` and
//! `storm_moved_cluster.rs`.

#![expect(
    clippy::disallowed_methods,
    reason = "scenarios in virtual time: they sleep on the paused clock, which is free"
)]
#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]

mod frozen;
mod moved;
mod transactions;

use std::collections::BTreeMap;
use std::time::Duration;

use milena::{Client, ClientBuilder, Consumer, NewTopic, OffsetReset, OffsetSpec, Producer, Record, TopicPartition};
use milena_integration_tests::simulated_from;
use milena_testkit::{Api, Cluster, Fault, Reaction, StoredRecord};
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const TOPIC: &str = "orders";
const PARTITIONS: i32 = 3;
const RECORDS: usize = 60;

fn builder(cluster: &Cluster, bootstrap: String) -> ClientBuilder<Client> {
    simulated_from(cluster, bootstrap).request_timeout(SECOND * 10)
}

async fn member(client: &Client) -> Consumer {
    let builder = client.consumer("group").subscribe([TOPIC]).offset_reset(OffsetReset::Earliest);
    builder.session_timeout(SECOND * 10).auto_commit(SECOND).build().await.unwrap()
}

/// Sends numbered records, one each tenth of a second, and waits for all of them.
async fn produce(producer: &Producer, from: usize) {
    let mut deliveries = Vec::new();
    for number in from..from + RECORDS {
        let (partition, value) = (number as i32 % PARTITIONS, number.to_string());
        deliveries.push(producer.send(&Record::to(TOPIC).partition(partition).value(&value)).await.unwrap());
        sleep(SECOND / 10).await;
    }
    for delivery in deliveries {
        delivery.await.unwrap();
    }
}

/// Reads until as many different records have come. What comes is the next of its partition, or has come before.
async fn consume(consumer: &mut Consumer, next: &mut BTreeMap<i32, i64>, count: usize) {
    while (next.values().sum::<i64>() as usize) < count {
        let records = consumer.poll(SECOND).await.unwrap();
        for record in &records {
            let next = next.entry(record.partition()).or_default();
            assert!(record.offset() <= *next, "nothing is left out: {} after {next}", record.offset());
            *next = (*next).max(record.offset() + 1);
        }
        records.ack();
    }
}

/// Every record is there once, in the order in which it was sent.
fn assert_written_once(cluster: &Cluster, count: usize) {
    assert_once(count, |partition| cluster.records(TOPIC, partition));
}

/// These are `count` numbers, each once, in the order in which they were sent.
fn assert_once(count: usize, records: impl Fn(i32) -> Vec<StoredRecord>) {
    for partition in 0..PARTITIONS {
        let values: Vec<usize> = records(partition)
            .into_iter()
            .map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap().parse().unwrap())
            .collect();
        let sent: Vec<usize> = (0..count).filter(|number| *number as i32 % PARTITIONS == partition).collect();
        assert_eq!(values, sent, "partition {partition}");
    }
}

fn ends() -> Vec<(TopicPartition, OffsetSpec)> {
    (0..PARTITIONS).map(|partition| (TopicPartition::new(TOPIC, partition), OffsetSpec::Latest)).collect()
}

/// Admin calls all the while: each is answered, or refused with a reason that says to ask again.
async fn administrate(client: &Client) {
    for round in 0..RECORDS / 10 {
        let began = Instant::now();
        client.admin().timeout(SECOND * 30).list_offsets(&ends()).await.unwrap();
        client.admin().timeout(SECOND * 30).ensure_topics(&[NewTopic::new(format!("t{round}"), 1)]).await.unwrap();
        assert!(began.elapsed() <= MINUTE);
        sleep(SECOND).await;
    }
}

/// Once the fault has fired at the n-th request of its API, the broker that was asked dies, and comes back after a while or never.
async fn kill_who_was_asked(cluster: &Cluster, fault: &Fault, api: Api, nth: u64, back_after: Option<Duration>) {
    fault.has_fired(1).await;
    let broker = cluster.request_log().api(api).into_iter().nth(nth as usize - 1).unwrap().broker;
    sleep(SECOND / 10).await;
    cluster.crash(broker);
    if let Some(after) = back_after {
        sleep(after).await;
        cluster.restart(broker);
    }
}

/// The broker that a request of this API waits on dies, `reaction` says whether before or after it has done what was asked.
fn the_broker_dies(api: Api, nth: u64, reaction: Reaction) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let cluster = Cluster::builder().brokers(3).topic(TOPIC, PARTITIONS).seed(1).start_in_memory().unwrap();
        let fault = cluster.faults().when(api).nth(nth).then(reaction);
        let killing = kill_who_was_asked(&cluster, &fault, api, nth, Some(SECOND * 3));
        let working = async {
            let client = builder(&cluster, cluster.bootstrap_servers()).connect().await.unwrap();
            let producer = client.producer().linger(SECOND / 100).request_timeout(SECOND * 10).build().await.unwrap();
            let mut consumer = member(&client).await;
            let mut next = BTreeMap::new();
            tokio::join!(produce(&producer, 0), consume(&mut consumer, &mut next, RECORDS), administrate(&client));
            producer.close(MINUTE).await.unwrap();
            consumer.close(MINUTE).await.unwrap();
            client.close().await;
            assert_eq!((client.tasks(), client.sockets()), (0, 0));
            next
        };
        let story = format!("{api:?} number {nth}, {reaction:?}, and its broker dies");
        let (next, ()) = timeout(MINUTE * 3, async { tokio::join!(working, killing) })
            .await
            .unwrap_or_else(|_| panic!("{story}: not over after three minutes\n{}", cluster.request_log()));
        println!("{story}: gone on");
        assert_written_once(&cluster, RECORDS);
        let group = cluster.group_info("group").unwrap();
        for (partition, next) in next {
            assert_eq!(group.offsets[&(TOPIC.to_owned(), partition)], next, "what was read is committed");
        }
        cluster.shutdown().await;
    });
}

fn either_way(api: Api, nth: u64) {
    the_broker_dies(api, nth, Reaction::Hold);
    the_broker_dies(api, nth, Reaction::HoldAnswer);
}

#[test]
fn a_broker_that_a_produce_request_waits_on_dies() {
    either_way(Api::Produce, 1);
    either_way(Api::Produce, 20);
    either_way(Api::InitProducerId, 1);
}

#[test]
fn a_broker_that_a_fetch_waits_on_dies() {
    either_way(Api::Fetch, 1);
    either_way(Api::Fetch, 30);
    either_way(Api::ListOffsets, 1);
}

#[test]
fn a_coordinator_that_a_member_waits_on_dies() {
    either_way(Api::FindCoordinator, 1);
    either_way(Api::JoinGroup, 1);
    either_way(Api::JoinGroup, 2);
    either_way(Api::SyncGroup, 1);
    either_way(Api::OffsetFetch, 1);
    either_way(Api::Heartbeat, 1);
    either_way(Api::OffsetCommit, 2);
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_coordinator_dies_is_answered_by_the_next_one() {
    for reaction in [Reaction::Hold, Reaction::HoldAnswer] {
        let cluster = Cluster::builder().brokers(3).topic(TOPIC, PARTITIONS).seed(1).start_in_memory().unwrap();
        let client = builder(&cluster, cluster.bootstrap_servers()).connect().await.unwrap();
        let producer = client.producer().build().await.unwrap();
        let reading = client.consumer("group").subscribe([TOPIC]).offset_reset(OffsetReset::Earliest);
        let mut consumer = reading.session_timeout(SECOND * 10).auto_commit(None).build().await.unwrap();
        let (handle, mut next) = (consumer.handle(), BTreeMap::new());
        tokio::join!(produce(&producer, 0), consume(&mut consumer, &mut next, RECORDS));

        let fault = cluster.faults().when(Api::OffsetCommit).then(reaction);
        let began = Instant::now();
        let killing = kill_who_was_asked(&cluster, &fault, Api::OffsetCommit, 1, None);
        let (committed, ()) = tokio::join!(handle.commit(), killing);
        committed.unwrap();
        assert!(began.elapsed() < SECOND * 5, "it took {:?}", began.elapsed());
        let group = cluster.group_info("group").unwrap();
        for (partition, next) in &next {
            assert_eq!(group.offsets[&(TOPIC.to_owned(), *partition)], *next);
        }
        drop((producer, consumer, handle));
        client.close().await;
        cluster.shutdown().await;
    }
}

#[test]
fn a_broker_that_an_admin_call_or_a_question_about_the_cluster_waits_on_dies() {
    either_way(Api::Metadata, 1);
    either_way(Api::Metadata, 3);
    either_way(Api::ListOffsets, 5);
    either_way(Api::CreateTopics, 2);
}
