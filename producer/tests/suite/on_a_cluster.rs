//! The producer against the in-process cluster: in memory, on one thread, under a paused clock.

#![expect(clippy::disallowed_methods, reason = "tests read the paused clock and sleep on it")]
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

use std::collections::BTreeMap;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use milena_client::{Client, Error, ErrorKind, Outcome};
use milena_producer::{Acks, Backlog, Compression, Delivery, OwnedRecord, Producer, ProducerBuilder, Purge, Record};
use milena_testkit::{Api, Cluster, ErrorCode, Link, Reaction};
use tokio::time::{Instant, sleep};

async fn producer_with(cluster: &Cluster, set: impl FnOnce(ProducerBuilder) -> ProducerBuilder) -> (Client, Producer) {
    let client = crate::common::client(cluster, 1).connect().await.unwrap();
    let producer = set(Producer::builder(&client)).build().await.unwrap();
    (client, producer)
}

fn cluster() -> Cluster {
    Cluster::builder().brokers(3).topic("orders", 3).seed(1).start_in_memory().unwrap()
}

const MINUTE: Duration = Duration::from_secs(60);

/// The values of a partition, in order.
fn values(cluster: &Cluster, topic: &str, partition: i32) -> Vec<String> {
    let records = cluster.records(topic, partition).into_iter();
    records.map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap()).collect()
}

async fn send(producer: &Producer, partition: i32, value: impl ToString) -> Delivery {
    producer.send(&Record::to("orders").partition(partition).value(&value.to_string())).await.unwrap()
}

/// Sends `count` numbers to partition 0, far enough apart that each is a batch of its own, but faster than the answers come.
async fn send_batches(producer: &Producer, range: std::ops::Range<u32>) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for n in range {
        deliveries.push(send(producer, 0, n).await);
        sleep(Duration::from_millis(1)).await;
    }
    deliveries
}

async fn all_written(deliveries: Vec<Delivery>) -> Vec<i64> {
    let mut offsets = Vec::new();
    for delivery in deliveries {
        offsets.push(delivery.await.unwrap().offset.unwrap());
    }
    offsets
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn records_arrive_in_order_with_their_parts_and_the_ack_says_where() {
    let cluster = cluster();
    let (client, producer) = producer_with(&cluster, |builder| builder).await;
    let mut deliveries = Vec::new();
    for n in 0..1000 {
        let (key, value) = (format!("k{}", n % 7), format!("v{n}"));
        let record = Record::to("orders").key(&key).value(&value).header("h", "1").header("h", "2").timestamp(1000 + n);
        deliveries.push((key.clone(), value.clone(), producer.send(&record).await.unwrap()));
    }
    let mut last = BTreeMap::new();
    for (key, value, delivery) in deliveries {
        let placed = delivery.await.unwrap();
        assert_eq!(placed.partition, milena_producer::murmur2_partition(key.as_bytes(), 3));
        let offset = placed.offset.unwrap();
        assert!(last.insert(placed.partition, offset).is_none_or(|before| before + 1 == offset));
        let stored = &cluster.records("orders", placed.partition)[offset as usize];
        assert_eq!((stored.key.as_deref(), stored.value.as_deref()), (Some(key.as_bytes()), Some(value.as_bytes())));
        assert_eq!(stored.headers.len(), 2);
        assert_eq!(placed.timestamp, None);
    }
    producer.close(MINUTE).await.unwrap();
    client.close().await;
    assert_eq!(client.tasks(), 0);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn many_partitions_travel_in_one_request_and_lingering_batches_go_after_the_linger() {
    let cluster = Cluster::builder().brokers(1).topic("orders", 8).seed(1).start_in_memory().unwrap();
    let (client, producer) = producer_with(&cluster, |builder| builder).await;
    producer.prepare_topic("orders").await.unwrap();
    // The first batches prove the producer to each partition.
    for round in 0..2 {
        let before = cluster.requests(Api::Produce);
        let mut deliveries = Vec::new();
        let started = Instant::now();
        for partition in 0..8 {
            deliveries.push(send(&producer, partition, round).await);
        }
        for delivery in deliveries {
            delivery.await.unwrap();
        }
        assert_eq!(cluster.requests(Api::Produce) - before, 1, "eight partitions, one request");
        if round == 1 {
            assert_eq!(started.elapsed().as_millis(), 5, "nothing but the linger is waited for");
        }
    }
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn five_batches_of_a_partition_are_in_flight_in_order_and_never_six() {
    let cluster =
        Cluster::builder().brokers(1).topic("orders", 1).latency(Duration::from_millis(50)).start_in_memory().unwrap();
    let (client, producer) =
        producer_with(&cluster, |builder| builder.linger(Duration::ZERO).max_batch_size(16 << 10)).await;
    send(&producer, 0, 0).await.await.unwrap();
    let metric = || {
        let in_flight = client.metrics().snapshot().into_iter().find(|(name, _)| name.name == "requests-in-flight");
        in_flight.unwrap().1
    };
    let mut most: f64 = 0.0;
    let mut deliveries = Vec::new();
    for n in 1..200 {
        deliveries.push(send(&producer, 0, n).await);
        sleep(Duration::from_millis(3)).await;
        most = most.max(metric());
    }
    assert_eq!(all_written(deliveries).await, (1..200).collect::<Vec<i64>>());
    assert_eq!(most, 5.0);
    assert_eq!(values(&cluster, "orders", 0), numbers(0..200));
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_and_nothing_is_doubled() {
    // Lessons 5.1, 8.
    let cluster = cluster();
    let lost = cluster.faults().when(Api::Produce).nth(3).times(3).then(Reaction::ApplyThenDisconnect);
    let (client, producer) = producer_with(&cluster, |builder| builder.linger(Duration::ZERO)).await;
    let deliveries = send_batches(&producer, 0..100).await;
    assert_eq!(all_written(deliveries).await, (0..100).collect::<Vec<i64>>());
    assert_eq!(lost.fired(), 3);
    assert_eq!(values(&cluster, "orders", 0), numbers(0..100));
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn retriable_errors_are_retried_in_order() {
    let cluster = cluster();
    for (nth, code) in [
        (2, ErrorCode::NOT_ENOUGH_REPLICAS),
        (4, ErrorCode::NOT_LEADER_OR_FOLLOWER),
        (6, ErrorCode::REQUEST_TIMED_OUT),
        (7, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        (8, ErrorCode::CORRUPT_MESSAGE),
    ] {
        cluster.faults().when(Api::Produce).nth(nth).then(Reaction::Error(code));
    }
    let (client, producer) = producer_with(&cluster, |builder| builder.linger(Duration::ZERO)).await;
    let deliveries = send_batches(&producer, 0..200).await;
    assert_eq!(all_written(deliveries).await, (0..200).collect::<Vec<i64>>());
    assert_eq!(values(&cluster, "orders", 0), numbers(0..200));
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_move_in_the_middle_loses_doubles_and_reorders_nothing() {
    let cluster = cluster();
    let (client, producer) = producer_with(&cluster, |builder| builder.linger(Duration::ZERO)).await;
    let mut deliveries = Vec::new();
    for round in 0..6 {
        deliveries.extend(send_batches(&producer, round * 20..round * 20 + 20).await);
        let leader = cluster.partition_info("orders", 0).leader.unwrap();
        cluster.move_leader("orders", 0, leader % 3 + 1);
    }
    assert_eq!(all_written(deliveries).await, (0..120).collect::<Vec<i64>>());
    assert_eq!(values(&cluster, "orders", 0), numbers(0..120));
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_frozen_old_leader_does_not_hold_the_partition_up_after_a_move() {
    let cluster = cluster();
    let (client, producer) = producer_with(&cluster, |builder| builder.linger(Duration::ZERO)).await;
    send(&producer, 0, 0).await.await.unwrap();
    let old = cluster.partition_info("orders", 0).leader.unwrap();
    let frozen = cluster.faults().when(Api::Produce).broker(old).always().then(Reaction::HoldAnswer);
    let deliveries = send_batches(&producer, 1..6).await;
    cluster.move_leader("orders", 0, old % 3 + 1);
    client.refresh_metadata(milena_client::RefreshReason::Asked);
    let started = Instant::now();
    assert_eq!(all_written(deliveries).await, (1..6).collect::<Vec<i64>>());
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    frozen.release();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(values(&cluster, "orders", 0), numbers(0..6));
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_frozen_leader_stalls_its_partitions_no_longer_than_the_election_takes() {
    let cluster = cluster();
    let (client, producer) = producer_with(&cluster, |builder| builder.linger(Duration::ZERO)).await;
    send(&producer, 0, 0).await.await.unwrap();
    let old = cluster.partition_info("orders", 0).leader.unwrap();
    // It takes requests and says nothing, and whoever asks it for metadata waits, too.
    cluster.cut(Link::ToClients(old));
    let deliveries = send_batches(&producer, 1..6).await;
    sleep(Duration::from_secs(9)).await;
    cluster.move_leader("orders", 0, old % 3 + 1);
    let elected = Instant::now();
    assert_eq!(all_written(deliveries).await, (1..6).collect::<Vec<i64>>());
    assert!(elected.elapsed() < Duration::from_secs(2), "{:?}", elected.elapsed());
    cluster.heal_all();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(values(&cluster, "orders", 0), numbers(0..6));
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_partition_whose_records_ended_unsent_is_sent_by_its_next_leader() {
    let cluster = cluster();
    let (client, producer) = producer_with(&cluster, |builder| {
        builder.linger(Duration::ZERO).request_timeout(Duration::from_secs(2)).delivery_timeout(Duration::from_secs(5))
    })
    .await;
    for purges in [true, false] {
        send(&producer, 0, "before").await.await.unwrap();
        let old = cluster.partition_info("orders", 0).leader.unwrap();
        cluster.cut(Link::Clients(old));
        cluster.disconnect(old);
        // No connection can be made, and the partition stays in the queue of a broker that nothing is sent to.
        let unsent = send(&producer, 0, "unsent").await;
        sleep(Duration::from_secs(1)).await;
        if purges {
            producer.purge(Purge::QueuedAndInFlight);
        }
        unsent.await.unwrap_err();
        cluster.move_leader("orders", 0, old % 3 + 1);
        client.refresh_metadata(milena_client::RefreshReason::Asked);
        sleep(Duration::from_secs(1)).await;
        send(&producer, 0, "after").await.await.unwrap();
        cluster.heal_all();
    }
    assert_eq!(values(&cluster, "orders", 0), ["before", "after", "before", "after"]);
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

/// The new leader would take a repeat for another record: the answer of the old one is waited for.
#[tokio::test(start_paused = true)]
async fn without_idempotence_a_move_does_not_double_what_the_old_leader_has_written() {
    let cluster = cluster();
    let (client, producer) = producer_with(&cluster, |builder| builder.linger(Duration::ZERO).acks(Acks::Leader)).await;
    send(&producer, 0, 0).await.await.unwrap();
    let old = cluster.partition_info("orders", 0).leader.unwrap();
    let slow = Reaction::DelayAnswer(Duration::from_millis(500));
    let slow = cluster.faults().when(Api::Produce).broker(old).always().then(slow);
    let deliveries = send_batches(&producer, 1..6).await;
    cluster.move_leader("orders", 0, old % 3 + 1);
    client.refresh_metadata(milena_client::RefreshReason::Asked);
    assert_eq!(all_written(deliveries).await, (1..6).collect::<Vec<i64>>());
    slow.remove();
    assert_eq!(values(&cluster, "orders", 0), numbers(0..6));
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_forgot_the_producer_gets_a_new_epoch_and_every_record_once() {
    let cluster = cluster();
    let (client, producer) = producer_with(&cluster, |builder| builder.linger(Duration::ZERO)).await;
    let mut deliveries = send_batches(&producer, 0..20).await;
    sleep(Duration::from_secs(1)).await;
    cluster.faults().when(Api::Produce).then(Reaction::Error(ErrorCode::UNKNOWN_PRODUCER_ID));
    deliveries.extend(send_batches(&producer, 20..40).await);
    assert_eq!(all_written(deliveries).await, (0..40).collect::<Vec<i64>>());
    let epochs: Vec<_> = cluster.records("orders", 0).iter().map(|record| record.producer_epoch).collect();
    assert_eq!((epochs[0], epochs[39]), (0, 1));
    assert_eq!(values(&cluster, "orders", 0), numbers(0..40));
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn records_outlive_a_cluster_that_is_away_for_a_minute() {
    // Lessons 5.1, 14.
    let cluster = cluster();
    let (client, producer) = producer_with(&cluster, |builder| builder.linger(Duration::ZERO)).await;
    send(&producer, 0, 0).await.await.unwrap();
    (1..=3).for_each(|broker| cluster.crash(broker));
    let deliveries = send_batches(&producer, 1..50).await;
    sleep(Duration::from_secs(60)).await;
    (1..=3).for_each(|broker| cluster.restart(broker));
    assert_eq!(all_written(deliveries).await, (1..50).collect::<Vec<i64>>());
    assert_eq!(values(&cluster, "orders", 0), numbers(0..50));
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_record_fails_at_its_delivery_timeout_with_what_is_known_about_it() {
    let cluster = cluster();
    let (client, producer) = producer_with(&cluster, |builder| {
        builder.linger(Duration::ZERO).request_timeout(Duration::from_secs(5)).delivery_timeout(Duration::from_secs(20))
    })
    .await;
    send(&producer, 0, 0).await.await.unwrap();
    let silent = cluster.faults().when(Api::Produce).always().then(Reaction::Drop);
    let started = Instant::now();
    let sent = send(&producer, 0, 1).await;
    sleep(Duration::from_secs(1)).await;
    let queued = send(&producer, 0, 2).await;
    let error = sent.await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown));
    assert_eq!(started.elapsed().as_secs(), 20);
    let error: Error = queued.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(started.elapsed().as_secs(), 21);
    // Lessons 5.1, 9: what comes later is written, without an out-of-order sequence that nobody can cure.
    silent.remove();
    assert_eq!(all_written(send_batches(&producer, 3..6).await).await, [1, 2, 3]);
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_sent_says_why_and_harms_nothing_else() {
    let cluster = cluster();
    let (client, producer) =
        producer_with(&cluster, |builder| builder.max_block(Duration::from_secs(3)).max_request_size(20_000)).await;
    let started = Instant::now();
    let error = producer.send(&Record::to("nowhere").value("x")).await.unwrap_err();
    assert!(error.kind() == ErrorKind::UnknownTopicOrPartition && error.to_string().contains("nowhere"), "{error}");
    assert_eq!(started.elapsed().as_secs(), 3);
    let error = producer.send(&Record::to("orders").partition(3).value("x")).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::UnknownTopicOrPartition && error.to_string().contains("3 partitions"),
        "{error}"
    );
    let error = producer.send(&Record::to("orders").value(&vec![0; 30_000])).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Limit && error.to_string().contains("max_request_size"), "{error}");
    cluster.faults().when(Api::Produce).then(Reaction::Error(ErrorCode::INVALID_RECORD));
    let error = send(&producer, 0, "refused").await.await.unwrap_err();
    assert_eq!((error.code(), error.outcome()), (Some(ErrorCode::INVALID_RECORD), Outcome::NotWritten));
    assert_eq!(send(&producer, 0, "fine").await.await.unwrap().offset, Some(0));
    producer.close(MINUTE).await.unwrap();
    let error = producer.send(&Record::to("orders").value("x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert_eq!(producer.send(&Record::to("another").value("x")).await.unwrap_err().kind(), ErrorKind::Closed);
    let (error, record) = producer.try_send_owned(OwnedRecord::to("orders").value("back")).unwrap_err();
    assert_eq!((error.kind(), record.value.as_deref()), (ErrorKind::Closed, Some(&b"back"[..])));
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_too_large_for_the_topic_is_sent_as_two() {
    let cluster = cluster();
    cluster.faults().when(Api::Produce).times(2).then(Reaction::Error(ErrorCode::MESSAGE_TOO_LARGE));
    let (client, producer) = producer_with(&cluster, |builder| builder).await;
    let mut deliveries = Vec::new();
    for n in 0..10 {
        deliveries.push(send(&producer, 0, n).await);
    }
    let more = send(&producer, 1, "alone").await;
    assert_eq!(all_written(deliveries).await, (0..10).collect::<Vec<i64>>());
    assert_eq!(values(&cluster, "orders", 0), numbers(0..10));
    let _ = more.await;
    producer.flush().await.ok();
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded_while_the_brokers_are_silent_and_whoever_gives_up_harms_nobody() {
    // Lessons 5.1, 12.
    let cluster = cluster();
    let (client, producer) = producer_with(&cluster, |builder| {
        builder
            .buffer_memory(64 << 10)
            .max_block(Duration::from_secs(10))
            .linger(Duration::from_secs(3600))
            .delivery_timeout(Duration::from_secs(7200))
    })
    .await;
    let silent = cluster.faults().when(Api::Produce).always().then(Reaction::Hold);
    let value = vec![b'x'; 1000];
    let record = Record::to("orders").value(&value);
    let mut taken = 0;
    let error = loop {
        match producer.send(&record).await {
            Ok(delivery) => {
                taken += 1;
                drop(delivery);
            }
            Err(error) => break error,
        }
    };
    assert!(error.kind() == ErrorKind::Limit && error.to_string().contains("buffer_memory"), "{error}");
    assert!((45..=64).contains(&taken), "{taken}");
    assert!(producer.try_send(&record).is_err());
    let mut waiting: Vec<_> = (0..50).map(|_| Box::pin(producer.send(&record))).collect();
    for (n, future) in waiting.iter_mut().enumerate() {
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(), "{n}");
    }
    waiting.truncate(7);
    silent.release();
    for future in waiting {
        future.await.unwrap().await.unwrap();
    }
    producer.flush().await.unwrap();
    assert_eq!(producer.room(), 64 << 10);
    let stored: usize = (0..3).map(|partition| cluster.records("orders", partition).len()).sum();
    assert_eq!(stored, taken + 7);
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn close_says_what_was_not_delivered_and_no_task_is_left() {
    let cluster = cluster();
    let (client, producer) = producer_with(&cluster, |builder| builder).await;
    cluster.faults().when(Api::Produce).always().then(Reaction::Drop);
    let lost = send(&producer, 0, "sent").await;
    sleep(Duration::from_secs(1)).await;
    let error = producer.close(Duration::from_secs(2)).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Timeout && error.outcome() == Outcome::Unknown, "{error}");
    assert!(error.to_string().contains("of 1 nobody"), "{error}");
    let error = lost.await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Closed, Outcome::Unknown));
    client.close().await;
    assert_eq!((client.tasks(), client.sockets()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_producer_ends_its_tasks_and_nobody_waits_for_ever() {
    let cluster = cluster();
    let (client, producer) = producer_with(&cluster, |builder| builder.linger(Duration::from_secs(10))).await;
    let delivery = send(&producer, 0, "never").await;
    let tasks = client.tasks();
    drop(producer);
    let error = delivery.await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Closed, Outcome::NotWritten));
    sleep(Duration::from_millis(10)).await;
    assert!(client.tasks() + 3 <= tasks, "{} of {tasks}", client.tasks());
    let (other, producer) = producer_with(&cluster, |builder| builder.linger(Duration::from_secs(10))).await;
    let delivery = send(&producer, 0, "never").await;
    other.close().await;
    assert_eq!(delivery.await.unwrap_err().kind(), ErrorKind::Closed);
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn flush_sends_what_lingers_at_once() {
    let cluster = cluster();
    let (client, producer) = producer_with(&cluster, |builder| builder.linger(Duration::from_secs(60))).await;
    let started = Instant::now();
    let deliveries = [send(&producer, 0, 0).await, send(&producer, 1, 1).await];
    producer.flush().await.unwrap();
    assert!(deliveries.iter().all(Delivery::is_done));
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn acks_and_codecs_work() {
    let acks = [Acks::None, Acks::Leader].map(|acks| (acks, Compression::None));
    for (acks, codec) in acks.into_iter().chain(Compression::ALL.map(|codec| (Acks::All, codec))) {
        if codec.supported().is_err() {
            continue;
        }
        let cluster = cluster();
        let (client, producer) = producer_with(&cluster, |builder| builder.acks(acks).compression(codec)).await;
        let mut deliveries = Vec::new();
        for n in 0..3000 {
            deliveries.push(send(&producer, n % 2, format!("{n:0100}")).await);
        }
        for (n, delivery) in deliveries.into_iter().enumerate() {
            let offset = delivery.await.unwrap().offset;
            assert_eq!(offset, (acks != Acks::None).then_some(n as i64 / 2));
        }
        sleep(Duration::from_secs(1)).await;
        let stored = values(&cluster, "orders", 1);
        assert_eq!(stored, (0..1500).map(|n| format!("{:0100}", 2 * n + 1)).collect::<Vec<_>>());
        assert!(cluster.violations().is_empty(), "{:?}", cluster.violations());
        producer.close(MINUTE).await.unwrap();
        client.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn batches_that_are_compressed_on_another_thread_keep_their_order_too() {
    for (codec, level) in [(Compression::Lz4, None), (Compression::Gzip, Some(9)), (Compression::Zstd, Some(3))] {
        if codec.supported().is_err() {
            continue;
        }
        let cluster = cluster();
        let (client, producer) = producer_with(&cluster, |builder| {
            let builder = builder.compression(codec).batch_size(128 << 10).max_request_size(1 << 20);
            level.into_iter().fold(builder, |builder, level| builder.compression_level(level))
        })
        .await;
        let mut deliveries = Vec::new();
        for n in 0..6000 {
            deliveries.push(send(&producer, 0, format!("{n:0100}")).await);
        }
        assert_eq!(all_written(deliveries).await, (0..6000).collect::<Vec<i64>>());
        assert_eq!(values(&cluster, "orders", 0), (0..6000).map(|n| format!("{n:0100}")).collect::<Vec<_>>());
        producer.close(MINUTE).await.unwrap();
        client.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_level_that_the_codec_does_not_have_is_refused_before_anything_starts() {
    let cluster = cluster();
    let client = crate::common::client(&cluster, 1).connect().await.unwrap();
    for (codec, level, sentence) in [
        (Compression::Snappy, 1, "compression_level: snappy has no compression levels"),
        (Compression::Gzip, 10, "compression_level: gzip has no compression level 10: it must be 1 to 9"),
    ] {
        let refused = Producer::builder(&client).compression(codec).compression_level(level).build().await.unwrap_err();
        if codec.supported().is_ok() {
            assert!(refused.to_string().contains(sentence), "{refused}");
        }
        assert_eq!(refused.kind(), ErrorKind::Config);
    }
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn records_without_a_key_fill_one_partition_after_the_other_evenly() {
    let cluster = cluster();
    let (client, producer) = producer_with(&cluster, |builder| builder).await;
    for n in 0..20_000 {
        let delivery = producer.send(&Record::to("orders").value(&format!("{n:0100}"))).await.unwrap();
        drop(delivery);
        if n % 100 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    producer.flush().await.unwrap();
    let counts: Vec<_> = (0..3).map(|partition| cluster.records("orders", partition).len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 20_000);
    assert!(counts.iter().all(|count| (4000..9500).contains(count)), "{counts:?}");
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_iterator_is_appended_in_one_run_and_what_has_no_room_stays_in_it() {
    let cluster = cluster();
    let (client, producer) = producer_with(&cluster, |builder| builder.buffer_memory(32 << 10)).await;
    producer.prepare_topic("orders").await.unwrap();
    let values: Vec<_> = (0..1000).map(|n| format!("{n:0100}")).collect();
    let mut records = Backlog::new(values.iter().map(|value| Record::to("orders").value(value)));
    let first = producer.append("orders", 2, &mut records).unwrap();
    assert!(first.is_full() && first.count() > 200 && first.count() < 400);
    let mut taken = first.count();
    first.delivered().await.unwrap();
    while records.peek().is_some() {
        let run = producer.append("orders", 2, &mut records).unwrap();
        taken += run.count();
        run.delivered().await.unwrap();
    }
    assert_eq!(taken, 1000);
    let stored: Vec<_> = cluster.records("orders", 2).into_iter().map(|record| record.value.unwrap()).collect();
    assert_eq!(stored, values);
    producer.close(MINUTE).await.unwrap();
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_send_that_is_dropped_before_it_is_ready_has_taken_nothing() {
    let cluster = cluster();
    let (client, producer) = producer_with(&cluster, |builder| builder).await;
    // Its first await is the topic's metadata; then there is none.
    {
        let record = Record::to("orders").partition(0).value("dropped");
        let mut future = pin!(producer.send(&record));
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    assert_eq!(send(&producer, 0, "kept").await.await.unwrap().offset, Some(0));
    producer.close(MINUTE).await.unwrap();
    client.close().await;
    assert_eq!(values(&cluster, "orders", 0), ["kept"]);
}
