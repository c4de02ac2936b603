//! Topics with settings of their own: linger, sizes and compression, on the in-process cluster under a paused clock.

#![expect(clippy::disallowed_methods, reason = "tests read the paused clock and sleep on it")]
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

use std::time::Duration;

use milena_client::ErrorKind;
use milena_producer::{Compression, Delivery, Producer, ProducerBuilder, Record};
use milena_testkit::Cluster;
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

async fn producer(cluster: &Cluster, set: impl FnOnce(ProducerBuilder) -> ProducerBuilder) -> Producer {
    let client = crate::common::client(cluster, 1).connect().await.unwrap();
    set(Producer::builder(&client)).build().await.unwrap()
}

async fn send(producer: &Producer, topic: &str, bytes: usize) -> Delivery {
    producer.send(&Record::to(topic).value(&vec![7; bytes])).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_topic_lingers_for_its_own_time_whatever_the_order_of_sending() {
    let cluster = Cluster::builder()
        .brokers(1)
        .topic("usual", 1)
        .topic("slow", 1)
        .topic("slower", 1)
        .topic("at-once", 1)
        .start_in_memory()
        .unwrap();
    let producer = producer(&cluster, |builder| {
        builder
            .linger(millis(20))
            .topic("slow", |topic| topic.linger(millis(300)))
            .topic("slower", |topic| topic.linger(millis(900)))
            .topic("at-once", |topic| topic.linger(Duration::ZERO))
    })
    .await;
    let topics = [("slower", 900), ("usual", 20), ("slow", 300), ("at-once", 0)];
    for (topic, _) in topics {
        producer.prepare_topic(topic).await.unwrap();
        send(&producer, topic, 1).await.await.unwrap();
    }
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
        let started = Instant::now();
        let mut waiting = Vec::new();
        for index in order {
            let (topic, linger) = topics[index];
            let delivery = send(&producer, topic, 1).await;
            waiting.push(async move {
                delivery.await.unwrap();
                assert_eq!(started.elapsed(), millis(linger), "{topic} in the order {order:?}");
            });
        }
        // Polled together, or the later ones would be looked at too late.
        let mut waiting = waiting.into_iter();
        let [a, b, c, d] = std::array::from_fn(|_| waiting.next().unwrap());
        tokio::join!(a, b, c, d);
    }
    producer.close(MINUTE).await.unwrap();
}

#[tokio::test(start_paused = true)]
#[cfg(feature = "lz4")]
async fn each_topic_has_batches_of_its_own_size_and_codec() {
    let cluster = Cluster::builder().brokers(1).topic("usual", 1).topic("logs", 1).start_in_memory().unwrap();
    let client = crate::common::client(&cluster, 1).connect().await.unwrap();
    let producer = Producer::builder(&client)
        .batch_size(1 << 10)
        .max_batch_size(1 << 10)
        .linger(Duration::from_secs(1))
        .topic("logs", |topic| topic.batch_size(64 << 10).compression(Compression::Lz4))
        .build()
        .await
        .unwrap();
    let metric = |wanted: &str, topic: &str| -> f64 {
        let values = client.metrics().snapshot().into_iter();
        let wanted = values.filter(|(name, _)| name.name == wanted);
        wanted.filter(|(name, _)| name.tags.get(1).is_none_or(|(_, of)| of == topic)).map(|(_, value)| value).sum()
    };
    let batches = || {
        ["batch-full-total", "batch-linger-total", "batch-flush-total"].map(|name| metric(name, "")).iter().sum::<f64>()
    };
    for (topic, expected) in [("usual", 50.0), ("logs", 1.0)] {
        producer.prepare_topic(topic).await.unwrap();
        let (room, before) = (producer.room(), batches());
        for _ in 0..100 {
            drop(send(&producer, topic, 450).await);
        }
        producer.flush().await.unwrap();
        assert_eq!(cluster.records(topic, 0).len(), 100);
        assert_eq!(batches() - before, expected, "{topic}");
        assert_eq!(producer.room(), room, "what was charged has been paid back");
    }
    assert_eq!(metric("compression-rate", "usual"), 1.0);
    assert!(metric("compression-rate", "logs") < 0.1);
    producer.close(MINUTE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn settings_of_a_topic_are_checked_and_the_error_names_it() {
    let cluster = Cluster::builder().brokers(1).topic("logs", 1).start_in_memory().unwrap();
    let client = crate::common::client(&cluster, 1).connect().await.unwrap();
    for (word, set) in [
        (
            "delivery_timeout",
            (|topic| topic.linger(Duration::from_secs(100))) as fn(milena_producer::TopicSettings) -> _,
        ),
        ("max_request_size", |topic| topic.batch_size(2 << 20)),
        ("batch_size", |topic| topic.batch_size(1)),
        ("levels", |topic| topic.compression_with_level(Compression::None, 3)),
    ] {
        let error = Producer::builder(&client).topic("logs", set).build().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let text = error.to_string();
        assert!(text.contains("\"logs\"") && text.contains(word), "{text}");
    }
}
