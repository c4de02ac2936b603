//! Exact properties of the producer under load: counted, never timed.

#![expect(clippy::disallowed_methods, reason = "tests sleep on the paused clock")]
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

use std::time::Duration;

use milena_client::Client;
use milena_producer::{Compression, Delivery, Producer, ProducerBuilder, Record};
use milena_testkit::{Api, Cluster, Reaction};
use tokio::time::sleep;

/// A sender gives way after so many bytes of closed batches; see `send`.
const GIVES_WAY_AFTER: usize = 1 << 20;

async fn producer(
    partitions: i32,
    set: impl FnOnce(ProducerBuilder) -> ProducerBuilder,
) -> (Cluster, Client, Producer) {
    producer_of(3, partitions, set).await
}

async fn producer_of(
    brokers: u8,
    partitions: i32,
    set: impl FnOnce(ProducerBuilder) -> ProducerBuilder,
) -> (Cluster, Client, Producer) {
    let cluster = Cluster::builder().brokers(brokers).topic("orders", partitions).start_in_memory().unwrap();
    let client = crate::common::client(&cluster, 1).connect().await.unwrap();
    let producer = set(Producer::builder(&client)).build().await.unwrap();
    producer.prepare_topic("orders").await.unwrap();
    (cluster, client, producer)
}

/// The worst case: sender, producer and brokers on one thread, and a sender that never waits for anything.
#[tokio::test(start_paused = true)]
async fn a_sender_that_never_waits_does_not_starve_the_network() {
    let (cluster, _client, producer) = producer(1, |builder| builder).await;
    let value = [7; 1000];
    let record = Record::to("orders").partition(0).value(&value);
    // Proves the producer, and opens its connection.
    producer.send(&record).await.unwrap().await.unwrap();
    let (mut sent, mut arrived, mut longest) = (0, cluster.requests(Api::Produce), 0);
    for _ in 0..20_000 {
        drop(producer.send(&record).await.unwrap());
        sent += value.len();
        let now = cluster.requests(Api::Produce);
        if now != arrived {
            longest = longest.max(sent);
            (sent, arrived) = (0, now);
        }
    }
    // One batch may be open, and a turn of the network is one of each task.
    assert!(longest <= 2 * GIVES_WAY_AFTER, "{longest} bytes were sent between two requests");
    assert!(arrived >= 10, "{arrived} requests for 20 MB");
    producer.close(Duration::from_secs(60)).await.unwrap();
}

/// Eight batches are due at once. Nothing but compression takes long on the thread of the sockets, so between two of their turns there is
/// one: the first request leaves with what one compression has brought, and the others are made ready while it is under way.
#[tokio::test(start_paused = true)]
async fn the_sockets_wait_for_one_small_compression_and_no_more() {
    for (compression, expected) in [(Compression::None, vec![8]), (Compression::Lz4, vec![1, 7])] {
        let (cluster, _client, producer) = producer_of(1, 8, |builder| builder.compression(compression)).await;
        let mut before = 0;
        // The first round opens the connection and proves the producer.
        for _ in 0..2 {
            before = cluster.requests(Api::Produce);
            let mut deliveries = Vec::new();
            for partition in 0..8 {
                let record = Record::to("orders").partition(partition).value("as small as it may be");
                deliveries.push(producer.send(&record).await.unwrap());
            }
            for delivery in deliveries {
                delivery.await.unwrap();
            }
        }
        let log = cluster.request_log().api(Api::Produce);
        let batches: Vec<_> = log.entries().skip(before).map(|entry| entry.partitions.len()).collect();
        assert_eq!(batches, expected, "{compression:?}");
        producer.close(Duration::from_secs(60)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_number_of_tasks_depends_on_the_brokers_alone() {
    let mut counts = Vec::new();
    for partitions in [3, 30, 300] {
        let (_cluster, client, producer) = producer(partitions, |builder| builder).await;
        // The first records bring the tasks of the brokers, and their connections; more records and partitions bring none.
        for round in 0..2 {
            let mut deliveries = Vec::new();
            for n in 0..3000 {
                let value = n.to_string();
                let record = Record::to("orders").partition(n % partitions).value(&value);
                deliveries.push(producer.send(&record).await.unwrap());
            }
            let during = client.tasks();
            for delivery in deliveries {
                delivery.await.unwrap();
            }
            if round == 1 {
                counts.push((during, client.tasks()));
            }
        }
        producer.close(Duration::from_secs(60)).await.unwrap();
        client.close().await;
        assert_eq!(client.tasks(), 0);
    }
    assert!(counts.iter().all(|count| *count == counts[0] && count.0 == count.1), "{counts:?}");
}

/// Whatever the partitions hold, it is within the one budget, and it is flat there: what waits takes nothing.
#[tokio::test(start_paused = true)]
async fn memory_stays_at_the_budget_while_the_brokers_are_silent() {
    const BUDGET: usize = 1 << 20;
    let (cluster, _client, producer) = producer(100, |builder| {
        builder.buffer_memory(BUDGET).max_block(Duration::from_secs(1)).delivery_timeout(Duration::from_secs(3600))
    })
    .await;
    let silent = cluster.faults().when(Api::Produce).always().then(Reaction::Hold);
    let value = [7; 500];
    let mut deliveries: Vec<Delivery> = Vec::new();
    let mut refused = 0;
    for n in 0..4000 {
        match producer.try_send(&Record::to("orders").partition(n % 100).value(&value)) {
            Ok(delivery) => deliveries.push(delivery),
            Err(_) => refused += 1,
        }
        assert!(producer.room() <= BUDGET);
        if n % 100 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    assert!(refused > 0 && deliveries.len() * 500 <= BUDGET, "{refused} refused, {} taken", deliveries.len());
    silent.release();
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    assert_eq!(producer.room(), BUDGET);
    producer.close(Duration::from_secs(60)).await.unwrap();
}
