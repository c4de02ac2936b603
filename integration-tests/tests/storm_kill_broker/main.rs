//! Real brokers are killed (`kill -9`) while requests wait on them: first a partition's leader, then the broker that coordinates both
//! the group and the transactional ids.
//!
//! All the while a producer sends, a member of a group reads and commits, an admin client asks and creates, and two more producers
//! commit small transactions and abort some ([`transactions`]). Every record is acknowledged and written once, in order; the member
//! reads all of them; every admin call and every commit is answered in time. `MILENA_STORM_ROUNDS` is how often both are killed.
//! The same in memory, for each kind of request: `recovery/`.

#![expect(clippy::disallowed_methods, reason = "real processes live by the real clock")]
#![expect(clippy::unwrap_used, reason = "all of this is a test")]

mod transactions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use milena::{Client, NewTopic, OffsetReset, OffsetSpec, StartAt, TopicPartition};
use milena_client::CoordinatorKind;
use milena_integration_tests::{kill_and_start, produce_until, real_kafka, rounds, unique};
use tokio::time::{Instant, sleep, timeout};

const PARTITIONS: i32 = 6;
const SECOND: Duration = Duration::from_secs(1);
/// No call may take longer: the brokers elect a leader in about ten seconds, on a busy machine in twenty.
const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn killed_brokers_lose_nothing_and_double_nothing() {
    let Some(servers) = real_kafka("killed_brokers_lose_nothing_and_double_nothing") else { return };
    let client = Client::builder(servers).request_timeout(SECOND * 10).connect().await.unwrap();
    let topic = unique("killed");
    client.admin().ensure_topics(&[NewTopic::new(&topic, PARTITIONS).replication_factor(3)]).await.unwrap();
    let leader = client.admin().describe_topic(&topic).await.unwrap().partitions[0].leader.unwrap();
    let other = client.metadata().brokers.keys().copied().find(|broker| *broker != leader).unwrap();
    let group = coordinated_by(&client, other, CoordinatorKind::Group, "readers").await;
    let mut transactional = Vec::new();
    for name in ["debits", "credits"] {
        let id = coordinated_by(&client, other, CoordinatorKind::Transaction, name).await;
        transactional.push(transactions::Scene::prepare(&client, &id).await);
    }
    let over = AtomicBool::new(false);

    let storm = async {
        for _ in 0..rounds() {
            sleep(SECOND * 2).await;
            kill_and_start(client.metadata().leader(&topic, 0).unwrap().0).await;
            sleep(SECOND).await;
            kill_and_start(coordinator(&client, CoordinatorKind::Group, &group).await).await;
        }
        sleep(SECOND).await;
        over.store(true, Ordering::Release);
    };
    let (sent, read, calls, debits, credits, ()) = tokio::join!(
        produce_until(&over, &client, (&topic, PARTITIONS), SECOND / 500, DEADLINE),
        consume(&client, &topic, &group, &over),
        administrate(&client, &topic, &over),
        transactional[0].transact(&over),
        transactional[1].transact(&over),
        storm
    );
    println!("{sent} records, {calls} admin calls, {} records read", read.values().sum::<i64>());
    transactional[0].assert_whole_or_not_at_all(&debits).await;
    transactional[1].assert_whole_or_not_at_all(&credits).await;

    let ends = client.admin().list_offsets(&all(&topic)).await.unwrap();
    for (partition, next) in &read {
        assert_eq!(ends[&TopicPartition::new(topic.as_str(), *partition)], Some(*next), "read to the end");
    }
    assert_written_once(&client, &topic, sent).await;
    client.close().await;
    assert_eq!((client.tasks(), client.sockets()), (0, 0));
}

/// A name of which this broker is the coordinator.
async fn coordinated_by(client: &Client, broker: i32, kind: CoordinatorKind, name: &str) -> String {
    for _ in 0..100 {
        let name = unique(name);
        if coordinator(client, kind, &name).await == broker {
            return name;
        }
    }
    panic!("broker {broker} coordinates nothing of the kind {kind}");
}

async fn coordinator(client: &Client, kind: CoordinatorKind, key: &str) -> i32 {
    let owner = client.new_owner("storm");
    owner.coordinator(kind, &Arc::from(key), Instant::now() + DEADLINE).await.unwrap()
}

fn all(topic: &str) -> Vec<(TopicPartition, OffsetSpec)> {
    (0..PARTITIONS).map(|partition| (TopicPartition::new(topic, partition), OffsetSpec::Latest)).collect()
}

/// Reads and commits until the storm is over and nothing comes any more. Nothing is left out; what was read is committed in the end.
async fn consume(client: &Client, topic: &str, group: &str, over: &AtomicBool) -> BTreeMap<i32, i64> {
    let builder = client.consumer(group).subscribe([topic]).offset_reset(OffsetReset::Earliest).auto_commit(None);
    let mut consumer = builder.session_timeout(SECOND * 30).build().await.unwrap();
    let handle = consumer.handle();
    let mut next: BTreeMap<i32, i64> = (0..PARTITIONS).map(|partition| (partition, 0)).collect();
    let mut quiet = 0;
    while quiet < 5 {
        let records = consumer.poll(SECOND).await.unwrap();
        for record in &records {
            let next = next.entry(record.partition()).or_default();
            assert!(record.offset() <= *next, "nothing is left out: {} after {next}", record.offset());
            *next = (*next).max(record.offset() + 1);
        }
        quiet = if records.is_empty() && over.load(Ordering::Acquire) { quiet + 1 } else { 0 };
        records.ack();
        if !records.is_empty() {
            timeout(DEADLINE, handle.commit()).await.expect("a commit is answered in time").unwrap();
        }
    }
    consumer.close(DEADLINE).await.unwrap();
    next
}

/// Asks and creates until the storm is over. Returns the number of calls.
async fn administrate(client: &Client, topic: &str, over: &AtomicBool) -> usize {
    let admin = client.admin().timeout(DEADLINE);
    let mut calls = 0;
    while !over.load(Ordering::Acquire) {
        let began = Instant::now();
        admin.list_offsets(&all(topic)).await.unwrap();
        admin.ensure_topics(&[NewTopic::new(format!("{topic}-{calls}"), 1)]).await.unwrap();
        assert!(began.elapsed() < DEADLINE * 2, "both calls end inside their deadlines");
        calls += 2;
        sleep(SECOND / 4).await;
    }
    calls
}

/// Every number is in the log once, in the order in which it was sent.
async fn assert_written_once(client: &Client, topic: &str, sent: usize) {
    let builder = client.partition_consumer().assign(topic, 0..PARTITIONS, StartAt::Beginning);
    let mut reader = builder.build().await.unwrap();
    let mut next: BTreeMap<i32, usize> = (0..PARTITIONS).map(|partition| (partition, partition as usize)).collect();
    let mut read = 0;
    while read < sent {
        let records = timeout(DEADLINE, reader.poll(DEADLINE)).await.unwrap().unwrap();
        assert!(!records.is_empty(), "{read} of {sent} records are there");
        for record in &records {
            let number: usize = std::str::from_utf8(record.value().unwrap()).unwrap().parse().unwrap();
            let next = next.get_mut(&record.partition()).unwrap();
            assert_eq!(number, *next, "partition {}", record.partition());
            *next += PARTITIONS as usize;
            read += 1;
        }
    }
    assert!(reader.poll(SECOND).await.unwrap().is_empty(), "and nothing more");
    reader.close(DEADLINE).await.unwrap();
}
