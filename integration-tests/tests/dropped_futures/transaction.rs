//! The transactional producer's calls, dropped. What was committed is there, once; what was not is not.
//!
//! Each in both protocols: `version` is the cluster's transaction.version, 2 for KIP-890 and 1 for what was before it.

use milena::{CommitError, GroupMetadata, OffsetAndMetadata, Record, TopicPartition, TransactionalProducer};
use milena_testkit::{Api, Reaction};

use crate::cut::Cut;
use crate::world::{self, Footprint, MINUTE, SECOND, TOPIC, World};

/// A topic that the client has not heard of.
const NEW: &str = "new";
const GROUP: &str = "group";

async fn start_world(version: i16) -> World {
    World::with(world::cluster().transaction_version(version)).await
}

async fn start(version: i16) -> (World, TransactionalProducer) {
    let world = start_world(version).await;
    world.cluster.create_topic(NEW, 1);
    let producer = build_one(&world).await;
    (world, producer)
}

async fn build_one(world: &World) -> TransactionalProducer {
    world.client.producer().max_block(SECOND * 10).transactional_id("id").build().await.unwrap()
}

/// Answers of the coordinator are late.
fn slow_answers(world: &World, api: Api) {
    world.cluster.faults().when(api).optional().then(Reaction::DelayAnswer(SECOND / 10));
}

/// What a reader of committed records gets.
fn committed(world: &World, topic: &str) -> Vec<String> {
    let records = world.cluster.committed_records(topic, 0).into_iter();
    records.map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap()).collect()
}

/// One more transaction, which commits `value`; and the end of the producer.
async fn commit_one_more(producer: TransactionalProducer, topic: &str, value: &str) {
    let transaction = producer.begin();
    drop(transaction.send(&Record::to(topic).value(value)).await.unwrap());
    transaction.commit().await.unwrap().close(MINUTE).await.unwrap();
}

pub(crate) async fn build(cut: &Cut, version: i16) -> Footprint {
    let world = start_world(version).await;
    slow_answers(&world, Api::InitProducerId);
    drop(cut.of(build_one(&world)).await);
    commit_one_more(build_one(&world).await, TOPIC, "a").await;
    assert_eq!(committed(&world, TOPIC), ["a"]);
    world.end().await
}

pub(crate) async fn send(cut: &Cut, version: i16) -> Footprint {
    let (world, producer) = start(version).await;
    let transaction = producer.begin();
    let taken = cut.of(transaction.send(&Record::to(NEW).value("a"))).await;
    drop(transaction.send(&Record::to(NEW).value("b")).await.unwrap());
    transaction.commit().await.unwrap().close(MINUTE).await.unwrap();
    let expected: &[&str] = if taken.is_some() { &["a", "b"] } else { &["b"] };
    assert_eq!(committed(&world, NEW), expected);
    world.end().await
}

pub(crate) async fn send_by_a_sender(cut: &Cut, version: i16) -> Footprint {
    let (world, producer) = start(version).await;
    let transaction = producer.begin();
    let sender = transaction.sender();
    let taken = cut.of(sender.send(&Record::to(NEW).value("a"))).await;
    drop(sender.send(&Record::to(NEW).value("b")).await.unwrap());
    drop(sender);
    transaction.commit().await.unwrap().close(MINUTE).await.unwrap();
    let expected: &[&str] = if taken.is_some() { &["a", "b"] } else { &["b"] };
    assert_eq!(committed(&world, NEW), expected);
    world.end().await
}

/// Five records, of which a cut lets some be taken.
const FIVE: [&str; 5] = ["a", "b", "c", "d", "e"];

pub(crate) async fn send_all(cut: &Cut, version: i16) -> Footprint {
    let (world, producer) = start(version).await;
    let transaction = producer.begin();
    let mut deliveries = Vec::new();
    let records = FIVE.map(|value| Record::to(NEW).value(value));
    if let Some(sent) = cut.of(transaction.send_all(&records, &mut deliveries)).await {
        sent.unwrap();
    }
    transaction.commit().await.unwrap().close(MINUTE).await.unwrap();
    assert_eq!(committed(&world, NEW), FIVE[..deliveries.len()]);
    world.end().await
}

pub(crate) async fn send_all_by_a_sender(cut: &Cut, version: i16) -> Footprint {
    let (world, producer) = start(version).await;
    let transaction = producer.begin();
    let sender = transaction.sender();
    let mut deliveries = Vec::new();
    let records = FIVE.map(|value| Record::to(NEW).value(value));
    if let Some(sent) = cut.of(sender.send_all(&records, &mut deliveries)).await {
        sent.unwrap();
    }
    drop(sender);
    transaction.commit().await.unwrap().close(MINUTE).await.unwrap();
    assert_eq!(committed(&world, NEW), FIVE[..deliveries.len()]);
    world.end().await
}

pub(crate) async fn prepare_topic(cut: &Cut, version: i16) -> Footprint {
    let (world, producer) = start(version).await;
    let transaction = producer.begin();
    cut.of(transaction.prepare_topic(NEW)).await;
    assert_eq!(transaction.prepare_topic(NEW).await.unwrap(), 1);
    drop(transaction.try_send(&Record::to(NEW).value("a")).unwrap());
    transaction.commit().await.unwrap().close(MINUTE).await.unwrap();
    assert_eq!(committed(&world, NEW), ["a"]);
    world.end().await
}

pub(crate) async fn prepare_topic_by_a_sender(cut: &Cut, version: i16) -> Footprint {
    let (world, producer) = start(version).await;
    let transaction = producer.begin();
    let sender = transaction.sender();
    cut.of(sender.prepare_topic(NEW)).await;
    assert_eq!(sender.prepare_topic(NEW).await.unwrap(), 1);
    drop(sender);
    transaction.commit().await.unwrap().close(MINUTE).await.unwrap();
    world.end().await
}

pub(crate) async fn flush(cut: &Cut, version: i16) -> Footprint {
    let (world, producer) = start(version).await;
    slow_answers(&world, Api::Produce);
    let transaction = producer.begin();
    let delivery = transaction.send(&Record::to(TOPIC).value("a")).await.unwrap();
    cut.of(transaction.flush()).await;
    transaction.flush().await.unwrap();
    assert!(delivery.is_done());
    transaction.commit().await.unwrap().close(MINUTE).await.unwrap();
    assert_eq!(committed(&world, TOPIC), ["a"]);
    world.end().await
}

pub(crate) async fn flush_by_a_sender(cut: &Cut, version: i16) -> Footprint {
    let (world, producer) = start(version).await;
    slow_answers(&world, Api::Produce);
    let transaction = producer.begin();
    let sender = transaction.sender();
    let delivery = sender.send(&Record::to(TOPIC).value("a")).await.unwrap();
    cut.of(sender.flush()).await;
    sender.flush().await.unwrap();
    assert!(delivery.is_done());
    drop((delivery, sender));
    transaction.commit().await.unwrap().close(MINUTE).await.unwrap();
    assert_eq!(committed(&world, TOPIC), ["a"]);
    world.end().await
}

pub(crate) async fn send_offsets(cut: &Cut, version: i16) -> Footprint {
    let (world, producer) = start(version).await;
    slow_answers(&world, Api::TxnOffsetCommit);
    let transaction = producer.begin();
    drop(transaction.send(&Record::to(TOPIC).value("a")).await.unwrap());
    // Of no member: nobody else reads in this group.
    let group = GroupMetadata { group: GROUP.into(), generation: -1, ..GroupMetadata::default() };
    let offsets = [(TopicPartition::new(TOPIC, 0), OffsetAndMetadata::from(5))];
    if let Some(sent) = cut.of(transaction.send_offsets(offsets, &group)).await {
        sent.unwrap();
    }
    transaction.commit().await.unwrap().close(MINUTE).await.unwrap();
    let offset = world.cluster.group_info(GROUP).and_then(|group| group.offsets.get(&(TOPIC.to_owned(), 0)).copied());
    assert_eq!(offset, cut.was_polled().then_some(5), "sent in any case, once it was begun");
    assert_eq!(committed(&world, TOPIC), ["a"]);
    world.end().await
}

pub(crate) async fn commit(cut: &Cut, version: i16) -> Footprint {
    let (world, producer) = start(version).await;
    slow_answers(&world, Api::Produce);
    slow_answers(&world, Api::EndTxn);
    let transaction = producer.begin();
    drop(transaction.send(&Record::to(TOPIC).value("a")).await.unwrap());
    let producer = match cut.of(transaction.commit()).await {
        Some(producer) => producer.unwrap(),
        // It waits for the outcome of the one that was dropped.
        None => build_one(&world).await,
    };
    let expected: &[&str] = if cut.was_polled() { &["a", "b"] } else { &["b"] };
    commit_one_more(producer, TOPIC, "b").await;
    assert_eq!(committed(&world, TOPIC), expected, "a commit that was begun goes on");
    world.end().await
}

pub(crate) async fn abort(cut: &Cut, version: i16) -> Footprint {
    let (world, producer) = start(version).await;
    slow_answers(&world, Api::Produce);
    slow_answers(&world, Api::EndTxn);
    let transaction = producer.begin();
    drop(transaction.send(&Record::to(TOPIC).value("a")).await.unwrap());
    let producer = match cut.of(transaction.abort()).await {
        Some(producer) => producer.unwrap(),
        None => build_one(&world).await,
    };
    commit_one_more(producer, TOPIC, "b").await;
    assert_eq!(committed(&world, TOPIC), ["b"]);
    world.end().await
}

pub(crate) async fn close(cut: &Cut, version: i16) -> Footprint {
    let world = start_world(version).await;
    let before = world.footprint().await;
    let producer = build_one(&world).await;
    cut.of(producer.close(MINUTE)).await;
    assert_eq!(world.footprint().await, before, "its tasks and connections end by themselves");
    commit_one_more(build_one(&world).await, TOPIC, "a").await;
    assert_eq!(committed(&world, TOPIC), ["a"]);
    world.end().await
}

pub(crate) async fn initialise(cut: &Cut, version: i16) -> Footprint {
    let (world, producer) = start(version).await;
    // The coordinator does not answer until the commit has given up: nobody knows its outcome then.
    let silent = world.cluster.faults().when(Api::EndTxn).always().then(Reaction::Disconnect);
    let transaction = producer.begin();
    drop(transaction.send(&Record::to(TOPIC).value("a")).await.unwrap());
    let uninitialised = match transaction.commit().await {
        Err(CommitError::Unknown(uninitialised, _)) => uninitialised,
        other => panic!("a commit that is never answered: {other:?}"),
    };
    silent.remove();
    slow_answers(&world, Api::InitProducerId);
    let producer = match cut.of(uninitialised.initialise()).await {
        Some(producer) => producer.unwrap(),
        None => build_one(&world).await,
    };
    commit_one_more(producer, TOPIC, "b").await;
    assert_eq!(committed(&world, TOPIC), ["b"], "none of the requests to commit was carried out");
    world.end().await
}
