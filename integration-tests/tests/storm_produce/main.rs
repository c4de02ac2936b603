//! Four producers send uniquely numbered records to twelve partitions, two of them through a proxy that loses answers, while leaders on
//! a real cluster are frozen for 5 s, which moves nothing, killed with `kill -9`, and frozen for 20 s, which moves their partitions.
//!
//! Every acknowledged record is there once, in the order of its producer and partition; what failed as `NotWritten` is not there. A
//! frozen leader stalls its partitions no longer than Kafka's own election takes.
//!
//! The same storm goes over two readers of other records: [`fetch`].
//!
//! Of `MILENA_STORM_ROUNDS` the first has the short freeze and a kill, every further one the long freeze as well, and behind the last one
//! the follower that a reader prefers is killed ([`nearest`]); ten send more than a million records.

#![expect(clippy::disallowed_methods, reason = "real processes live by the real clock")]
#![expect(clippy::unwrap_used, reason = "all of this is a test")]

mod fetch;
mod nearest;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use milena::{Client, NewTopic, Outcome, Producer, Record, StartAt};
use milena_integration_tests::{kill_and_start, on_broker, real_kafka, rounds, unique};
use milena_testkit::{Api, Proxy, Reaction};
use tokio::time::{Instant, sleep, timeout};

const PARTITIONS: i32 = 12;
const PRODUCERS: usize = 4;
const SECOND: Duration = Duration::from_secs(1);
/// Elections take ten seconds, on a busy machine twenty, and a broker that was killed copies what it has missed.
const DEADLINE: Duration = Duration::from_secs(120);
/// How much longer than an election a partition may stall: what a busy machine makes of a second or two.
const SLACK: Duration = Duration::from_secs(8);

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Acknowledged,
    NotWritten,
    Unknown,
}

#[tokio::test]
async fn records_survive_killed_and_frozen_leaders_and_lost_answers() {
    let Some(servers) = real_kafka("records_survive_killed_and_frozen_leaders_and_lost_answers") else {
        return;
    };
    let fetched = fetch::Scene::prepare(&servers).await;
    let proxy = Proxy::builder(servers.clone()).start().await.unwrap();
    let client = Client::builder(servers).connect().await.unwrap();
    let proxied = Client::builder(proxy.bootstrap_servers()).connect().await.unwrap();
    let topic = unique("produced");
    let new = NewTopic::new(&topic, PARTITIONS).replication_factor(3);
    client.admin().ensure_topics(&[new.config("min.insync.replicas", "2")]).await.unwrap();
    let lost = [
        proxy.faults().when(Api::Produce).probability(0.01).then(Reaction::ApplyThenDisconnect),
        proxy.faults().when(Api::Produce).probability(0.01).then(Reaction::Disconnect),
        proxy.faults().when(Api::Produce).probability(0.001).then(Reaction::ApplyThenDrop),
    ];

    let over = AtomicBool::new(false);
    let storm = async {
        let mut killed = Vec::new();
        for round in 0..rounds() {
            freeze(&client, &topic, round, 5 * SECOND).await;
            all_in_sync(&client, fetched.topic()).await;
            kill(&client, &topic, &mut killed).await;
            all_in_sync(&client, fetched.topic()).await;
            if round > 0 {
                let producer =
                    client.producer().linger(Duration::ZERO).delivery_timeout(DEADLINE).build().await.unwrap();
                // With a producer id, which the broker that is going to be frozen might be asked for.
                let first = Record::to(&topic).partition(0).key("stall");
                producer.send(&first).await.unwrap().await.unwrap();
                let (elected, longest) = tokio::join!(
                    freeze(&client, &topic, round + 2, 20 * SECOND),
                    longest_stall(&producer, &topic, 25 * SECOND)
                );
                producer.close(DEADLINE).await.unwrap();
                let elected = elected.expect("a broker that is frozen for 20 s loses what it leads");
                println!("elected after {elected:?}, the longest stall was {longest:?}");
                assert!(longest <= elected + SLACK, "{longest:?}, and the election took {elected:?}");
                all_in_sync(&client, fetched.topic()).await;
            }
        }
        assert_eq!(BTreeSet::from_iter(killed).len(), rounds().min(3), "each broker has its turn");
        over.store(true, Ordering::Release);
    };
    let senders = (0..PRODUCERS).map(|who| send(if who % 2 == 0 { &client } else { &proxied }, &topic, who, &over));
    let (fates, (), ()) = tokio::join!(join_all(senders), fetched.write_and_read(&over), storm);
    println!("lost answers: {:?}", lost.each_ref().map(milena_testkit::Fault::fired));
    lost.iter().for_each(milena_testkit::Fault::remove);

    check(&client, &topic, &fates).await;
    if rounds() > 1 {
        nearest::killed(&client, &proxy).await;
    }
    for client in [client, proxied] {
        client.close().await;
        assert_eq!((client.tasks(), client.sockets()), (0, 0));
    }
}

/// Sends until the storm is over: twenty records, each to the next partition, every 20 ms. What became of each.
async fn send(client: &Client, topic: &str, who: usize, over: &AtomicBool) -> Vec<Fate> {
    let builder = client.producer().request_timeout(10 * SECOND).delivery_timeout(DEADLINE);
    let producer = builder.linger(Duration::from_millis(5)).build().await.unwrap();
    let mut deliveries = Vec::new();
    while !over.load(Ordering::Acquire) {
        for _ in 0..20 {
            let number = deliveries.len();
            let value = format!("{who} {number}");
            let record = Record::to(topic).partition(number as i32 % PARTITIONS).value(&value);
            deliveries.push(producer.send(&record).await.unwrap());
        }
        sleep(SECOND / 50).await;
    }
    let mut fates = Vec::new();
    for delivery in deliveries {
        fates.push(match delivery.await {
            Ok(_) => Fate::Acknowledged,
            Err(error) if error.outcome() == Outcome::NotWritten => Fate::NotWritten,
            Err(_) => Fate::Unknown,
        });
    }
    producer.close(DEADLINE).await.unwrap();
    fates
}

/// Stops the leader of a partition where it is, for so long, and lets it go on. How long it took until it led nothing of the topic any
/// more, if it did.
async fn freeze(client: &Client, topic: &str, round: usize, time: Duration) -> Option<Duration> {
    let broker = leader(client, topic, round).await;
    println!("broker {broker} is frozen for {time:?}");
    on_broker("freeze", broker).await;
    let began = Instant::now();
    let mut elected = None;
    while began.elapsed() < time {
        sleep(SECOND / 4).await;
        // A frozen broker may be the one that is asked.
        let described = timeout(SECOND, client.admin().describe_topic(topic)).await;
        if let Ok(Ok(described)) = described
            && described.partitions.iter().all(|partition| partition.leader.is_some_and(|leader| leader != broker))
        {
            elected.get_or_insert(began.elapsed());
        }
    }
    on_broker("thaw", broker).await;
    all_in_sync(client, topic).await;
    elected
}

/// Kills each broker in turn: of those that lead something the one whose turn is longest ago.
async fn kill(client: &Client, topic: &str, killed: &mut Vec<i32>) {
    let described = client.admin().describe_topic(topic).await.unwrap();
    let leaders = described.partitions.iter().filter_map(|partition| partition.leader);
    let broker = leaders.min_by_key(|leader| killed.iter().rposition(|each| each == leader)).unwrap();
    killed.push(broker);
    kill_and_start(broker).await;
    all_in_sync(client, topic).await;
}

/// One leader after the other.
async fn leader(client: &Client, topic: &str, round: usize) -> i32 {
    let described = client.admin().describe_topic(topic).await.unwrap();
    described.partitions[round % PARTITIONS as usize].leader.unwrap()
}

/// Another broker may only be taken away when every partition has all of its replicas.
async fn all_in_sync(client: &Client, topic: &str) {
    let until = Instant::now() + DEADLINE;
    loop {
        let described = client.admin().describe_topic(topic).await;
        if described.is_ok_and(|described| described.partitions.iter().all(|partition| partition.isr.len() == 3)) {
            return;
        }
        assert!(Instant::now() < until, "the brokers are not in sync after {DEADLINE:?}");
        sleep(SECOND / 2).await;
    }
}

/// The longest time that a record took, of one each 100 ms and partition, over so long. They have keys, and are no part of the history.
async fn longest_stall(producer: &Producer, topic: &str, time: Duration) -> Duration {
    let until = Instant::now() + time;
    let longest = join_all((0..PARTITIONS).map(async |partition| {
        let mut longest = Duration::ZERO;
        while Instant::now() < until {
            let began = Instant::now();
            let record = Record::to(topic).partition(partition).key("stall");
            producer.send(&record).await.unwrap().await.unwrap();
            longest = longest.max(began.elapsed());
            sleep(SECOND / 10).await;
        }
        longest
    }))
    .await;
    longest.into_iter().max().unwrap_or_default()
}

/// Reads everything back.
async fn check(client: &Client, topic: &str, fates: &[Vec<Fate>]) {
    let mut times: Vec<Vec<u8>> = fates.iter().map(|fates| vec![0; fates.len()]).collect();
    let mut last: BTreeMap<(usize, i32), usize> = BTreeMap::new();
    let assigned = client.partition_consumer().assign(Arc::<str>::from(topic), 0..PARTITIONS, StartAt::Beginning);
    let mut reader = assigned.build().await.unwrap();
    loop {
        let records = timeout(DEADLINE, reader.poll(3 * SECOND)).await.unwrap().unwrap();
        if records.is_empty() {
            break;
        }
        for record in records.iter().filter(|record| record.key().is_none()) {
            let value = std::str::from_utf8(record.value().unwrap()).unwrap();
            let (who, number) = value.split_once(' ').unwrap();
            let (who, number): (usize, usize) = (who.parse().unwrap(), number.parse().unwrap());
            times[who][number] += 1;
            if let Some(before) = last.insert((who, record.partition()), number) {
                assert!(before < number, "producer {who}, partition {}: {number} behind {before}", record.partition());
            }
        }
    }
    reader.close(DEADLINE).await.unwrap();
    let mut counts = [0; 3];
    for (who, fates) in fates.iter().enumerate() {
        for (number, fate) in fates.iter().enumerate() {
            let times = times[who][number];
            counts[*fate as usize] += 1;
            match fate {
                Fate::Acknowledged => {
                    assert_eq!(times, 1, "{who} {number} was acknowledged and is there {times} times")
                }
                Fate::NotWritten => assert_eq!(times, 0, "{who} {number} is there, and was told not to be"),
                Fate::Unknown => assert!(times <= 1, "{who} {number} is there {times} times"),
            }
        }
    }
    let [acknowledged, not_written, unknown] = counts;
    println!("{acknowledged} acknowledged and read back once, {not_written} not written, {unknown} unknown");
    assert!(acknowledged > 10_000, "a storm in which nothing is written proves nothing");
}
