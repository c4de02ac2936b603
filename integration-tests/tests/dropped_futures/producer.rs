//! The producer's calls, dropped. What was taken is written once, what was not taken is not written.

#![expect(
    clippy::disallowed_methods,
    reason = "scenarios in virtual time: they sleep on the paused clock, which is free"
)]

use milena::{Backlog, Delivery, Error, OwnedRecord, Producer, Record, TypedRecord, serde};
use milena_testkit::{Api, Reaction};

use crate::cut::Cut;
use crate::world::{Footprint, MINUTE, SECOND, TOPIC, World};

/// A topic that the client has not heard of.
const NEW: &str = "new";

async fn start() -> (World, Producer) {
    let world = World::start().await;
    let producer = world.client.producer().build().await.unwrap();
    (world, producer)
}

fn record(value: &str) -> Record<'_> {
    Record::to(TOPIC).partition(0).value(value)
}

/// Every answer to a produce request is late.
fn slow_acks(world: &World) {
    world.cluster.faults().when(Api::Produce).always().optional().then(Reaction::DelayAnswer(SECOND / 10));
}

/// The first of two records for a new topic, whose future may have been dropped, is there or was not taken; the second, `b`, is there.
async fn taken_once_or_not_at_all(world: &World, first: Option<Result<Delivery, Error>>) {
    match first {
        Some(taken) => {
            taken.unwrap().await.unwrap();
            assert_eq!(world.values(NEW), ["a", "b"]);
        }
        None => assert_eq!(world.values(NEW), ["b"], "nothing was taken"),
    }
}

pub(crate) async fn build(cut: &Cut) -> Footprint {
    let world = World::start().await;
    drop(cut.of(world.client.producer().build()).await);
    world.write(TOPIC, 0..2).await;
    assert_eq!(world.values(TOPIC), ["0", "1"]);
    world.end().await
}

pub(crate) async fn send_to_a_new_topic(cut: &Cut) -> Footprint {
    let (world, producer) = start().await;
    world.cluster.create_topic(NEW, 1);
    let first = cut.of(producer.send(&Record::to(NEW).value("a"))).await;
    let second = producer.send(&Record::to(NEW).value("b")).await.unwrap();
    assert!(second.await.is_ok());
    taken_once_or_not_at_all(&world, first).await;
    producer.close(MINUTE).await.unwrap();
    world.end().await
}

pub(crate) async fn send_without_room(cut: &Cut) -> Footprint {
    let world = World::start().await;
    slow_acks(&world);
    let memory = 64 * 1024;
    let producer = world.client.producer().buffer_memory(memory).batch_size(16 * 1024).build().await.unwrap();
    let large = "x".repeat(15 * 1024);
    producer.prepare_topic(TOPIC).await.unwrap();
    let room = producer.room();
    let mut taken = Vec::new();
    while let Ok(delivery) = producer.try_send(&record(&large)) {
        taken.push(delivery);
    }
    assert!(!taken.is_empty(), "the memory is full only after some records");
    taken.extend(cut.of(producer.send(&record(&large))).await.map(Result::unwrap));
    taken.push(producer.send(&record("last")).await.unwrap());
    let count = taken.len();
    for delivery in taken {
        delivery.await.unwrap();
    }
    let values = world.values(TOPIC);
    assert_eq!((values.len(), values.last().map(String::as_str)), (count, Some("last")));
    assert_eq!(producer.room(), room, "room that was waited for goes back");
    producer.close(MINUTE).await.unwrap();
    world.end().await
}

pub(crate) async fn send_all(cut: &Cut) -> Footprint {
    let world = World::start().await;
    slow_acks(&world);
    world.cluster.create_topic(NEW, 1);
    let producer = world.client.producer().buffer_memory(64 * 1024).max_batch_size(16 * 1024).build().await.unwrap();
    let padding = "x".repeat(4 * 1024);
    let values: Vec<String> = (10..40).map(|n| format!("{n}{padding}")).collect();
    let mut deliveries = Vec::new();
    let records = values.iter().map(|value| Record::to(NEW).partition(0).value(value));
    if let Some(sent) = cut.of(producer.send_all(records, &mut deliveries)).await {
        sent.unwrap();
    }
    let taken = deliveries.len();
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    assert_eq!(world.values(NEW), values[..taken], "deliveries are there for exactly what was taken");
    producer.close(MINUTE).await.unwrap();
    world.end().await
}

pub(crate) async fn reserve(cut: &Cut) -> Footprint {
    let world = World::start().await;
    slow_acks(&world);
    let producer = world.client.producer().buffer_memory(64 * 1024).max_batch_size(16 * 1024).build().await.unwrap();
    let large = "x".repeat(15 * 1024);
    producer.prepare_topic(TOPIC).await.unwrap();
    let room = producer.room();
    let mut taken = Vec::new();
    while let Ok(delivery) = producer.try_send(&record(&large)) {
        taken.push(delivery);
    }
    if let Some(permit) = cut.of(producer.reserve(large.len())).await {
        taken.push(permit.unwrap().send(&record(&large)).unwrap());
    }
    let count = taken.len();
    for delivery in taken {
        delivery.await.unwrap();
    }
    assert_eq!(world.values(TOPIC).len(), count);
    assert_eq!(producer.room(), room, "room that was reserved goes back");
    producer.close(MINUTE).await.unwrap();
    world.end().await
}

pub(crate) async fn send_typed(cut: &Cut) -> Footprint {
    let (world, producer) = start().await;
    world.cluster.create_topic(NEW, 1);
    let typed = producer.typed(serde::Text, serde::Text);
    let first = cut.of(typed.send(&TypedRecord::to(NEW).key("k").value("a"))).await;
    let second = typed.send(&TypedRecord::to(NEW).key("k").value("b")).await.unwrap();
    assert!(second.await.is_ok());
    drop(typed);
    taken_once_or_not_at_all(&world, first).await;
    producer.close(MINUTE).await.unwrap();
    world.end().await
}

pub(crate) async fn preflight(cut: &Cut) -> Footprint {
    let (world, producer) = start().await;
    cut.of(producer.preflight([TOPIC])).await;
    assert_eq!(producer.preflight([TOPIC]).await.unwrap().len(), 1, "one broker, one replica");
    producer.send(&record("a")).await.unwrap().await.unwrap();
    producer.close(MINUTE).await.unwrap();
    world.end().await
}

pub(crate) async fn prepare_topic(cut: &Cut) -> Footprint {
    let (world, producer) = start().await;
    world.cluster.create_topic(NEW, 1);
    cut.of(producer.prepare_topic(NEW)).await;
    assert_eq!(producer.prepare_topic(NEW).await.unwrap(), 1);
    producer.try_send(&Record::to(NEW).value("a")).unwrap().await.unwrap();
    producer.close(MINUTE).await.unwrap();
    assert_eq!(world.values(NEW), ["a"]);
    world.end().await
}

pub(crate) async fn flush(cut: &Cut) -> Footprint {
    let world = World::start().await;
    slow_acks(&world);
    let producer = world.client.producer().linger(SECOND * 20).build().await.unwrap();
    let first = producer.send(&record("a")).await.unwrap();
    cut.of(producer.flush()).await;
    let second = producer.send(&record("b")).await.unwrap();
    producer.flush().await.unwrap();
    assert!(first.is_done() && second.is_done(), "a flush waits for all that was taken before it");
    assert_eq!(world.values(TOPIC), ["a", "b"]);
    producer.close(MINUTE).await.unwrap();
    world.end().await
}

pub(crate) async fn close(cut: &Cut) -> Footprint {
    let (world, producer) = start().await;
    let before = world.footprint().await;
    slow_acks(&world);
    let delivery = producer.send(&record("a")).await.unwrap();
    let began = tokio::time::Instant::now();
    let closed = cut.of(producer.close(MINUTE)).await;
    // Dropped, it delivers what it has.
    delivery.await.unwrap();
    assert!(began.elapsed() < SECOND * 5, "what was taken is delivered as if nothing had happened");
    match closed {
        Some(closed) => closed.unwrap(),
        None => producer.close(MINUTE).await.unwrap(),
    }
    assert!(producer.send(&record("b")).await.unwrap_err().is_fatal(), "a closed producer takes nothing");
    assert_eq!(world.values(TOPIC), ["a"]);
    drop(producer);
    assert!(world.footprint().await.tasks() < before.tasks(), "the producer's tasks have gone");
    world.end().await
}

pub(crate) async fn delivered(cut: &Cut) -> Footprint {
    let (world, producer) = start().await;
    slow_acks(&world);
    producer.prepare_topic(TOPIC).await.unwrap();
    let mut records = Backlog::new((0..10).map(|n| OwnedRecord::to(TOPIC).value(n.to_string())));
    let appended = producer.append(TOPIC, 0, &mut records).unwrap();
    cut.of(appended.delivered()).await;
    appended.delivered().await.unwrap();
    assert_eq!(world.values(TOPIC), ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    producer.close(MINUTE).await.unwrap();
    world.end().await
}

pub(crate) async fn delivery(cut: &Cut) -> Footprint {
    let (world, producer) = start().await;
    slow_acks(&world);
    let first = producer.send(&record("a")).await.unwrap();
    cut.of(first).await;
    let second = producer.send(&record("b")).await.unwrap();
    second.await.unwrap();
    assert_eq!(world.values(TOPIC), ["a", "b"], "dropping a Delivery never un-sends");
    producer.close(MINUTE).await.unwrap();
    world.end().await
}
