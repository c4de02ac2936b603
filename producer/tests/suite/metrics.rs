//! What the producer counts, exactly: on the in-process cluster, under a paused clock.

#![expect(clippy::disallowed_methods, reason = "tests sleep on the paused clock")]
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

use std::time::Duration;

use milena_client::Client;
use milena_producer::{Producer, ProducerBuilder, Record};
use milena_testkit::{Api, Cluster, ErrorCode, Reaction};
use tokio::time::sleep;

const MINUTE: Duration = Duration::from_secs(60);

struct World {
    cluster: Cluster,
    client: Client,
    producer: Producer,
}

impl World {
    async fn start(set: impl FnOnce(ProducerBuilder) -> ProducerBuilder) -> Self {
        let cluster = Cluster::builder().topic("orders", 2).topic("logs", 1).seed(1).start_in_memory().unwrap();
        let client = crate::common::client(&cluster, 1).connect().await.unwrap();
        let producer = set(Producer::builder(&client)).build().await.unwrap();
        Self { cluster, client, producer }
    }

    /// A metric of the producer.
    fn metric(&self, name: &str) -> f64 {
        self.value("producer-metrics", name, 1).unwrap_or_else(|| panic!("there is no metric {name}"))
    }

    /// A metric of the topic `orders`.
    fn topic_metric(&self, name: &str) -> f64 {
        self.value("producer-topic-metrics", name, 2).unwrap_or_else(|| panic!("there is no metric {name}"))
    }

    fn value(&self, group: &str, name: &str, tags: usize) -> Option<f64> {
        let found = self.client.metrics().snapshot().into_iter().find(|(known, _)| {
            (known.group, known.name) == (group, name) && known.tags.get(1).is_none_or(|(_, topic)| topic == "orders")
        });
        found.inspect(|(known, _)| assert_eq!(known.tags.len(), tags)).map(|(_, value)| value)
    }

    async fn send(&self, topic: &str, partition: i32, bytes: usize) {
        let record = vec![7; bytes];
        drop(self.producer.send(&Record::to(topic).partition(partition).value(&record)).await.unwrap());
    }

    async fn end(self) {
        self.producer.close(MINUTE).await.unwrap();
        drop(self.producer);
        self.client.close().await;
        self.cluster.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn records_batches_and_requests_are_counted_under_javas_names() {
    let world = World::start(|builder| builder).await;
    for partition in [0, 1] {
        world.send("orders", partition, 100).await;
        world.send("orders", partition, 100).await;
    }
    world.send("logs", 0, 100).await;
    world.producer.flush().await.unwrap();
    assert_eq!((world.metric("record-send-total"), world.topic_metric("record-send-total")), (5.0, 4.0));
    // Java's rates spread a first value over a window of 30 s.
    assert!((world.metric("record-send-rate") - 5.0 / 30.0).abs() < 0.01);
    let (average, largest) = (world.metric("batch-size-avg"), world.metric("batch-size-max"));
    let bytes = world.topic_metric("byte-total");
    assert_eq!(largest, bytes / 2.0);
    assert!(average > 150.0 && average < largest, "{average} {largest}");
    // The batch of the one record: its header is nobody else's.
    assert!((world.metric("record-size-max") - (average * 3.0 - bytes)).abs() < 1e-6);
    assert_eq!((world.metric("compression-rate-avg"), world.topic_metric("compression-rate")), (1.0, 1.0));
    assert_eq!(world.metric("batch-flush-total") + world.metric("batch-linger-total"), 3.0);
    let requests = world.cluster.requests(Api::Produce) as f64;
    assert_eq!(world.metric("records-per-request-avg"), 5.0 / requests);
    assert_eq!(world.metric("record-error-total") + world.metric("record-retry-total"), 0.0);
    assert_eq!((world.metric("requests-in-flight"), world.metric("waiting-threads")), (0.0, 0.0));
    assert!(world.metric("metadata-wait-time-ns-total") >= 0.0 && world.metric("flush-time-ns-total") >= 0.0);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn times_are_those_of_the_virtual_clock_and_leave_the_window() {
    let world = World::start(|builder| builder.linger(Duration::from_millis(40))).await;
    world.producer.prepare_topic("orders").await.unwrap();
    world.send("orders", 0, 100).await;
    world.producer.flush().await.unwrap();
    sleep(MINUTE).await;
    assert!(world.metric("record-queue-time-max").is_nan(), "the last minute had no batch");
    let late = world.cluster.faults().when(Api::Produce).nth(1).then(Reaction::DelayAnswer(Duration::from_millis(70)));
    world.send("orders", 0, 100).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(late.fired(), 1);
    assert_eq!((world.metric("record-queue-time-avg"), world.metric("record-queue-time-max")), (40.0, 40.0));
    assert_eq!((world.metric("request-latency-avg"), world.metric("request-latency-max")), (70.0, 70.0));
    assert_eq!(world.metric("batch-linger-total"), 1.0);
    assert!(world.metric("metadata-age") >= 60.0, "nothing has asked for metadata");
    let flushed = world.metric("flush-time-ns-total");
    world.send("orders", 0, 100).await;
    world.cluster.faults().when(Api::Produce).nth(1).then(Reaction::DelayAnswer(Duration::from_millis(30)));
    world.producer.flush().await.unwrap();
    assert_eq!(world.metric("flush-time-ns-total") - flushed, 30e6);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn full_batches_and_how_full_they_were() {
    let world = World::start(|builder| builder.batch_size(1024).max_batch_size(1024)).await;
    for _ in 0..8 {
        world.send("orders", 0, 400).await;
    }
    world.producer.flush().await.unwrap();
    assert_eq!(world.metric("batch-full-total"), 3.0, "two records fit, so the third one closes");
    assert_eq!(world.metric("batch-flush-total") + world.metric("batch-linger-total"), 1.0);
    let fill = world.metric("batch-fill-ratio-avg");
    assert!((fill - world.metric("batch-size-avg") / 1024.0).abs() < 1e-9 && fill > 0.8, "{fill}");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn free_memory_is_right_at_any_time_and_waiting_is_counted() {
    let world = World::start(|builder| {
        builder.buffer_memory(64 << 10).max_batch_size(16 << 10).max_block(Duration::from_secs(2))
    })
    .await;
    world.producer.prepare_topic("orders").await.unwrap();
    world.cluster.faults().when(Api::Produce).always().then(Reaction::DelayAnswer(Duration::from_secs(10)));
    assert_eq!((world.metric("buffer-total-bytes"), world.metric("buffer-available-bytes")), (65536.0, 65536.0));
    for _ in 0..4 {
        world.send("orders", 0, 15 << 10).await;
    }
    assert_eq!(world.metric("buffer-available-bytes"), 0.0, "no answer has come yet");
    let large = vec![7; 15 << 10];
    let record = Record::to("orders").partition(0).value(&large);
    assert!(world.producer.try_send(&record).is_err());
    let waiting = tokio::time::timeout(Duration::from_millis(500), world.producer.send(&record));
    let watched = async {
        sleep(Duration::from_millis(1)).await;
        assert_eq!(world.metric("waiting-threads"), 1.0);
    };
    let (gave_up, ()) = tokio::join!(waiting, watched);
    assert!(gave_up.is_err());
    assert!(world.producer.send(&record).await.is_err());
    assert_eq!(world.metric("waiting-threads"), 0.0);
    assert_eq!(world.metric("buffer-exhausted-total"), 2.0, "a try and a wait to its end");
    assert_eq!(world.metric("bufferpool-wait-time-ns-total"), 2.5e9);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn retries_and_failures_are_counted_by_topic_too() {
    let world = World::start(|builder| builder).await;
    world.cluster.faults().when(Api::Produce).nth(1).then(Reaction::Error(ErrorCode::NOT_ENOUGH_REPLICAS));
    world.cluster.faults().when(Api::Produce).nth(3).then(Reaction::Error(ErrorCode::INVALID_RECORD));
    for _ in 0..3 {
        world.send("orders", 0, 10).await;
    }
    world.producer.flush().await.unwrap();
    assert_eq!((world.metric("record-retry-total"), world.topic_metric("record-retry-total")), (3.0, 3.0));
    assert_eq!(world.metric("record-send-total"), 3.0, "a repeat is no new record");
    world.send("orders", 0, 10).await;
    assert!(world.producer.flush().await.is_err());
    assert_eq!((world.metric("record-error-total"), world.topic_metric("record-error-total")), (1.0, 1.0));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_halves_of_a_batch_that_was_split_are_sent_again() {
    let world = World::start(|builder| builder).await;
    let too_large = Reaction::Error(ErrorCode::MESSAGE_TOO_LARGE);
    let fault = world.cluster.faults().when(Api::Produce).nth(1).then(too_large);
    for _ in 0..4 {
        world.send("orders", 0, 10).await;
    }
    world.producer.flush().await.unwrap();
    assert_eq!((fault.fired(), world.metric("batch-split-total")), (1, 1.0));
    assert_eq!((world.metric("record-send-total"), world.topic_metric("record-send-total")), (4.0, 4.0));
    assert_eq!((world.metric("record-retry-total"), world.topic_metric("record-retry-total")), (4.0, 4.0));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn queues_say_what_each_partition_holds() {
    let world = World::start(|builder| builder.linger(Duration::from_secs(10))).await;
    world.producer.prepare_topic("orders").await.unwrap();
    world.cluster.faults().when(Api::Produce).always().then(Reaction::DelayAnswer(Duration::from_secs(1)));
    world.send("orders", 1, 100).await;
    sleep(Duration::from_secs(3)).await;
    let of = |partition: usize| world.producer.queues().swap_remove(partition);
    assert_eq!((of(0).queued_batches, of(0).oldest), (0, None));
    assert_eq!((of(1).queued_batches, of(1).unacknowledged_batches), (1, 0));
    assert!(of(1).queued_bytes > 100);
    assert_eq!((of(1).topic_partition.partition, of(1).oldest), (1, Some(Duration::from_secs(3))));
    sleep(Duration::from_millis(7500)).await;
    assert_eq!((of(1).queued_batches, of(1).unacknowledged_batches), (0, 1));
    sleep(Duration::from_secs(1)).await;
    assert_eq!((of(1).unacknowledged_batches, of(1).oldest), (0, None));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn gauges_of_several_producers_are_summed_and_go_with_them() {
    let world = World::start(|builder| builder.buffer_memory(1 << 20)).await;
    let other = Producer::builder(&world.client).buffer_memory(2 << 20).build().await.unwrap();
    assert_eq!(world.metric("buffer-total-bytes"), f64::from(3 << 20));
    drop(other);
    // Its tasks end when they are next looked at.
    sleep(Duration::from_millis(1)).await;
    assert_eq!(world.metric("buffer-total-bytes"), f64::from(1 << 20));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_transaction_waits_for_is_counted() {
    let world = World::start(|builder| builder).await;
    let late = |api| world.cluster.faults().when(api).nth(1).then(Reaction::DelayAnswer(Duration::from_millis(40)));
    let faults = [late(Api::InitProducerId), late(Api::EndTxn)];
    let producer = Producer::builder(&world.client).transactional_id("id").build().await.unwrap();
    assert_eq!(world.metric("txn-init-time-ns-total"), 40e6);
    let transaction = producer.begin();
    transaction.send(&Record::to("orders").partition(0).value("x")).await.unwrap().await.unwrap();
    let producer = transaction.commit().await.unwrap();
    assert_eq!(world.metric("txn-commit-time-ns-total"), 40e6);
    late(Api::EndTxn);
    let transaction = producer.begin();
    transaction.send(&Record::to("orders").partition(0).value("y")).await.unwrap().await.unwrap();
    let producer = transaction.abort().await.unwrap();
    assert_eq!((world.metric("txn-abort-time-ns-total"), world.metric("txn-send-offsets-time-ns-total")), (40e6, 0.0));
    assert!(faults.iter().all(|fault| fault.fired() == 1));
    producer.close(MINUTE).await.unwrap();
    world.end().await;
}
