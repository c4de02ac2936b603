//! Partitioners inside a producer: on the in-process cluster, in memory, on one thread, under a paused clock.

#![expect(clippy::disallowed_methods, reason = "tests sleep on the paused clock")]
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use milena_client::{Client, ErrorKind};
use milena_producer::{
    Choice, ClusterView, Header, Partitioner, Producer, ProducerBuilder, Record, RoundRobin, Salted, Tiered, Unplaced,
    murmur2_partition,
};
use milena_testkit::{Api, Cluster, Reaction};
use tokio::time::sleep;

const MINUTE: Duration = Duration::from_secs(60);
const MILLISECOND: Duration = Duration::from_millis(1);

async fn producer_with(cluster: &Cluster, set: impl FnOnce(ProducerBuilder) -> ProducerBuilder) -> (Client, Producer) {
    let client = crate::common::client(cluster, 1).connect().await.unwrap();
    let producer = set(Producer::builder(&client)).build().await.unwrap();
    (client, producer)
}

fn cluster(partitions: i32) -> Cluster {
    Cluster::builder().brokers(3).topic("orders", partitions).seed(1).start_in_memory().unwrap()
}

fn counts(cluster: &Cluster, topic: &str, partitions: i32) -> Vec<usize> {
    (0..partitions).map(|partition| cluster.records(topic, partition).len()).collect()
}

/// How many of the records are on partitions that the broker leads.
fn led_by(cluster: &Cluster, broker: i32, counts: &[usize]) -> usize {
    let is_led = |partition: &usize| cluster.partition_info("orders", *partition as i32).leader == Some(broker);
    (0..counts.len()).filter(is_led).map(|partition| counts[partition]).sum()
}

/// Four records of 1 KB without a key each millisecond; waits for none of them.
async fn send_steadily(producer: &Producer, milliseconds: u32) {
    let value = [7; 1000];
    for _ in 0..milliseconds {
        for _ in 0..4 {
            drop(producer.send(&Record::to("orders").value(&value)).await.unwrap());
        }
        sleep(MILLISECOND).await;
    }
}

/// Records by partition, and how many of them are led by a broker that takes 20 ms for each request.
async fn beside_a_slow_broker(adaptive: bool) -> (Vec<usize>, usize) {
    let cluster = cluster(6);
    let slow = 2;
    let delay = Reaction::DelayAnswer(20 * MILLISECOND);
    let slowed = cluster.faults().when(Api::Produce).broker(slow).always().then(delay);
    let sizes = |builder: ProducerBuilder| builder.batch_size(4 << 10).max_batch_size(4 << 10);
    let (client, producer) = producer_with(&cluster, |builder| sizes(builder).partitioner_adaptive(adaptive)).await;
    send_steadily(&producer, 1000).await;
    producer.close(MINUTE).await.unwrap();
    client.close().await;
    assert!(slowed.fired() > 20);
    let counts = counts(&cluster, "orders", 6);
    let led = led_by(&cluster, slow, &counts);
    (counts, led)
}

#[tokio::test(start_paused = true)]
async fn a_slow_broker_gets_what_it_can_take_and_an_equal_share_if_nobody_looks() {
    let (even, evenly) = beside_a_slow_broker(false).await;
    let (adapted, adaptively) = beside_a_slow_broker(true).await;
    assert_eq!((even.iter().sum::<usize>(), adapted.iter().sum::<usize>()), (4000, 4000));
    println!("by partition, without {even:?} and with {adapted:?}; on the slow broker {evenly} and {adaptively}");
    assert!((1000..1700).contains(&evenly), "about a third: {even:?}");
    assert!(adaptively * 2 < evenly, "{adaptively} and {evenly}");
    assert!(adaptively > 100, "it is not left out: {adapted:?}");
    assert_eq!(beside_a_slow_broker(true).await, (adapted, adaptively), "the same seed, the same places");
}

#[tokio::test(start_paused = true)]
async fn a_silent_broker_is_left_out_after_the_timeout_and_comes_back_with_its_first_answer() {
    let cluster = cluster(6);
    let frozen = cluster.faults().when(Api::Produce).broker(2).always().then(Reaction::HoldAnswer);
    let (client, producer) = producer_with(&cluster, |builder| {
        let sizes = builder.batch_size(4 << 10).max_batch_size(4 << 10);
        sizes.partitioner_adaptive(false).partitioner_availability_timeout(200 * MILLISECOND)
    })
    .await;
    const THAWED: u32 = 1200;
    let mut sent = Vec::new();
    let value = [7; 1000];
    for n in 0..1800 {
        if n == THAWED {
            frozen.release();
        }
        for _ in 0..4 {
            sent.push((n, producer.send(&Record::to("orders").value(&value)).await.unwrap()));
        }
        sleep(MILLISECOND).await;
    }
    producer.flush().await.unwrap();
    let led: Vec<i32> = (0..6).filter(|id| cluster.partition_info("orders", *id).leader == Some(2)).collect();
    let mut by_time = [0; 3];
    for (n, delivery) in sent {
        let placed = delivery.await.unwrap();
        // 300 ms: the silence begins with the first request, and a partition that is the sticky one gets its batch.
        let period = usize::from(n >= 300) + usize::from(n >= THAWED);
        by_time[period] += usize::from(led.contains(&placed.partition));
    }
    assert!(by_time[0] > 100, "{by_time:?}");
    assert_eq!(by_time[1], 0, "{by_time:?}");
    assert!(by_time[2] > 400, "{by_time:?}");
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_always_owes_an_answer_and_always_gives_it_is_not_silent() {
    // The other two are idle now and then; were all of them taken for silent, all would be drawn again.
    let cluster = cluster(6);
    let busy = 2;
    let late = Reaction::DelayAnswer(30 * MILLISECOND);
    let slowed = cluster.faults().when(Api::Produce).broker(busy).always().then(late);
    let (client, producer) = producer_with(&cluster, |builder| {
        let sizes = builder.batch_size(4 << 10).max_batch_size(4 << 10);
        sizes.partitioner_adaptive(false).partitioner_availability_timeout(100 * MILLISECOND)
    })
    .await;
    send_steadily(&producer, 1000).await;
    producer.close(MINUTE).await.unwrap();
    client.close().await;
    assert!(slowed.fired() > 20);
    let counts = counts(&cluster, "orders", 6);
    assert!(led_by(&cluster, busy, &counts) > 1000, "about a third: {counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_salt_travels_behind_the_records_own_headers_and_the_key_stays() {
    let cluster = cluster(6);
    let (client, producer) = producer_with(&cluster, |builder| builder.partitioner(Salted::new(4, "salt"))).await;
    let home = murmur2_partition(b"celebrity", 6);
    let names: Vec<String> = (0..30).map(|n| format!("h{n}")).collect();
    for own in [0, 1, 7, 8, 9, 30] {
        let header = |name| Header { key: str::as_bytes(name), value: Some(b"own") };
        let headers: Vec<Header<'_>> = names[..own].iter().map(|name| header(name)).collect();
        let record = Record::to("orders").key("celebrity").value("v").timestamp(7).headers(&headers);
        let placed = producer.send(&record).await.unwrap().await.unwrap();
        let stored = &cluster.records("orders", placed.partition)[placed.offset.unwrap() as usize];
        assert_eq!(stored.key.as_deref(), Some(&b"celebrity"[..]));
        assert_eq!(stored.headers.len(), own + 1);
        for (stored, name) in stored.headers.iter().zip(&names[..own]) {
            assert_eq!(stored.0, name.as_bytes());
        }
        let (key, value) = stored.headers.last().unwrap();
        let salt: i32 = std::str::from_utf8(value.as_deref().unwrap()).unwrap().parse().unwrap();
        assert_eq!((&key[..], (home + salt) % 6), (&b"salt"[..], placed.partition));
    }
    // One that names its partition is not the partitioner's business.
    let placed = producer.send(&Record::to("orders").partition(5).key("celebrity")).await.unwrap().await.unwrap();
    assert_eq!(cluster.records("orders", 5)[placed.offset.unwrap() as usize].headers.len(), 0);
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_topic_has_its_own_partitioner_and_the_others_the_producers() {
    let topics = Cluster::builder().brokers(3).topic("orders", 4).topic("alarms", 4).topic("other", 4);
    let cluster = topics.seed(1).start_in_memory().unwrap();
    let (client, producer) = producer_with(&cluster, |builder| {
        let own = builder.topic("alarms", |alarms| alarms.partitioner(Tiered::keys(1, ["vip"])));
        own.partitioner_ignore_keys(true).topic("other", |other| other.partitioner(RoundRobin))
    })
    .await;
    for topic in ["orders", "alarms", "other"] {
        for _ in 0..40 {
            drop(producer.send(&Record::to(topic).key("vip")).await.unwrap());
            drop(producer.send(&Record::to(topic).key("another")).await.unwrap());
        }
    }
    producer.flush().await.unwrap();
    let orders = counts(&cluster, "orders", 4);
    assert_eq!(
        orders.iter().filter(|count| **count == 80).count(),
        1,
        "one batch, as if there were no keys: {orders:?}"
    );
    let alarms = counts(&cluster, "alarms", 4);
    assert_eq!((alarms[0], alarms[murmur2_partition(b"another", 3) as usize + 1]), (40, 40));
    assert_eq!(counts(&cluster, "other", 4), [20; 4]);
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_round_robin_stays_even_where_every_record_waits_for_room() {
    // KAFKA-9965: asked twice for each record, it would leave out every second partition.
    let cluster = cluster(4);
    let (client, producer) = producer_with(&cluster, |builder| {
        builder.partitioner(RoundRobin).batch_size(1 << 10).max_batch_size(1 << 10).buffer_memory(1 << 10)
    })
    .await;
    for _ in 0..100 {
        drop(producer.send(&Record::to("orders").value(&[7; 900])).await.unwrap());
    }
    producer.flush().await.unwrap();
    assert_eq!(counts(&cluster, "orders", 4), [25; 4]);
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

/// Sends records without a key, one every 10 ms, and waits for each.
async fn trickle(producer: &Producer, records: usize, bytes: usize) -> Vec<i32> {
    let value = vec![7; bytes];
    let mut places = Vec::new();
    for _ in 0..records {
        places.push(producer.send(&Record::to("orders").value(&value)).await.unwrap().await.unwrap().partition);
        sleep(10 * MILLISECOND).await;
    }
    places
}

/// The lengths of runs of equal neighbours, without the last, which may go on.
fn runs(places: &[i32]) -> Vec<usize> {
    let mut runs: Vec<usize> = places.chunk_by(|a, b| a == b).map(<[i32]>::len).collect();
    runs.pop();
    runs
}

#[tokio::test(start_paused = true)]
async fn a_trickle_without_keys_stays_for_a_batchs_worth_and_goes_on() {
    // KIP-794. Each record is alone in its batch.
    let cluster = cluster(4);
    let (client, producer) = producer_with(&cluster, |builder| builder.partitioner_adaptive(false)).await;
    let places = trickle(&producer, 1000, 900).await;
    let counts = counts(&cluster, "orders", 4);
    assert!(counts.iter().all(|count| *count > 100), "{counts:?}");
    // 970 bytes each with their batch's header: 17 reach 16 KiB. The draw may fall on the same partition again.
    let runs = runs(&places);
    assert!(runs.iter().all(|run| run.is_multiple_of(17)) && runs.contains(&17), "{runs:?}");
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn records_larger_than_half_a_batch_are_spread_over_all_partitions() {
    let cluster = cluster(4);
    let (client, producer) =
        producer_with(&cluster, |builder| builder.partitioner_adaptive(false).max_batch_size(16 << 10)).await;
    let value = vec![7; 10 << 10];
    let mut deliveries = Vec::new();
    for _ in 0..400 {
        deliveries.push(producer.send(&Record::to("orders").value(&value)).await.unwrap());
    }
    let mut places = Vec::new();
    for delivery in deliveries {
        places.push(delivery.await.unwrap().partition);
    }
    let counts = counts(&cluster, "orders", 4);
    assert!(counts.iter().all(|count| *count > 50), "{counts:?}");
    assert!(runs(&places).iter().all(|run| run.is_multiple_of(2)), "two of them are more than a batch: {places:?}");
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

/// Sees what it is shown, and then chooses a partition that there is not.
#[derive(Debug)]
struct Astray;

impl Partitioner for Astray {
    fn choose(&self, record: &Unplaced<'_>, cluster: &dyn ClusterView) -> Choice<'_> {
        assert_eq!((record.topic, record.value, record.timestamp), ("orders", Some(&b"v"[..]), 7));
        assert!((0..6).all(|partition| cluster.leader(partition).is_some_and(|leader| (1..=3).contains(&leader))));
        assert!((0..6).all(|partition| cluster.is_available(partition)));
        assert_eq!((cluster.leader(-1), cluster.leader(6), cluster.queued_bytes(6)), (None, None, 0));
        assert_eq!(cluster.next_turn().wrapping_add(1), cluster.next_turn());
        Choice::Partition(cluster.partitions() + record.key.map_or(0, |key| key.len() as i32) - 7)
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_there_is_not_is_an_error_whoever_names_it() {
    let cluster = cluster(6);
    let (client, producer) = producer_with(&cluster, |builder| builder.partitioner(Astray)).await;
    let record = Record::to("orders").value("v").timestamp(7);
    for record in [record.clone(), record.clone().key("1234567"), record.clone().partition(6), record.partition(-1)] {
        let error = producer.send(&record).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownTopicOrPartition);
        assert!(error.to_string().contains("6 partitions"), "{error}");
    }
    assert!(counts(&cluster, "orders", 6).iter().all(|count| *count == 0));
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

/// Tells what waits at each partition.
#[derive(Debug)]
struct Watching(Mutex<Vec<(u32, usize)>>);

impl Partitioner for Watching {
    fn choose(&self, _: &Unplaced<'_>, cluster: &dyn ClusterView) -> Choice<'_> {
        let queues = (0..2).map(|partition| (cluster.queue_depth(partition), cluster.queued_bytes(partition)));
        *self.0.lock().unwrap() = queues.collect();
        Choice::Partition(0)
    }
}

#[tokio::test(start_paused = true)]
async fn a_partitioner_sees_what_waits_and_that_it_has_gone() {
    let cluster = cluster(2);
    let seen = Arc::new(Watching(Mutex::default()));
    let (client, producer) = producer_with(&cluster, |builder| {
        builder.partitioner(seen.clone()).batch_size(1 << 10).max_batch_size(1 << 10).linger(MINUTE / 60)
    })
    .await;
    let mut queues = Vec::new();
    for _ in 0..5 {
        drop(producer.send(&Record::to("orders").value(&[7; 900])).await.unwrap());
        queues.push(seen.0.lock().unwrap()[0]);
    }
    assert_eq!(queues.iter().map(|(batches, _)| *batches).collect::<Vec<_>>(), [0, 1, 2, 3, 4], "{queues:?}");
    assert!(
        queues
            .iter()
            .all(|(batches, bytes)| (900..1000).contains(&(bytes / (*batches).max(1) as usize)) || *batches == 0)
    );
    producer.flush().await.unwrap();
    drop(producer.send(&Record::to("orders")).await.unwrap());
    assert_eq!(*seen.0.lock().unwrap(), [(0, 0), (0, 0)]);
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}
