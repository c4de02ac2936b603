//! The consumers' calls, dropped. Each record is read once, in order, and commits are what was acknowledged.

use futures_util::StreamExt as _;
use milena::serde::{Raw, Text};
use milena::{
    CompactedTableBuilder, Consumer, ConsumerEvent, OffsetAndMetadata, OffsetReset, PartitionConsumer, ReaderHandle,
    Record, StartAt, TopicPartition,
};
use milena_testkit::{Api, Reaction};

use crate::cut::Cut;
use crate::world::{Footprint, MINUTE, SECOND, TOPIC, World};

const GROUP: &str = "group";
const RECORDS: i64 = 10;

async fn start() -> World {
    let world = World::start().await;
    world.write(TOPIC, 0..RECORDS).await;
    world
}

async fn member(world: &World) -> Consumer {
    let builder = world.client.consumer(GROUP).subscribe([TOPIC]).offset_reset(OffsetReset::Earliest);
    // Short, because a member that is dropped is missed only after it.
    builder.session_timeout(SECOND * 10).auto_commit(None).build().await.unwrap()
}

async fn reader(world: &World) -> PartitionConsumer {
    world.client.partition_consumer().assign(TOPIC, [0], StartAt::Beginning).build().await.unwrap()
}

fn orders() -> TopicPartition {
    TopicPartition::new(TOPIC, 0)
}

/// The offset that the group has committed.
fn committed(world: &World) -> Option<i64> {
    world.cluster.group_info(GROUP).and_then(|group| group.offsets.get(&(TOPIC.to_owned(), 0)).copied())
}

/// Reads from `next` to the end: nothing is missing and nothing comes twice.
async fn reads_on(consumer: &mut Consumer, next: i64) {
    for offset in next..RECORDS {
        assert_eq!(consumer.recv().await.unwrap().unwrap().offset(), offset);
    }
    assert!(consumer.poll(SECOND).await.unwrap().is_empty());
}

pub(crate) async fn build(cut: &Cut) -> Footprint {
    let world = start().await;
    let before = world.footprint().await;
    drop(cut.of(member(&world)).await);
    assert_eq!(world.footprint().await, before, "a consumer that is dropped leaves nothing");
    let mut consumer = member(&world).await;
    reads_on(&mut consumer, 0).await;
    consumer.close(MINUTE).await.unwrap();
    world.end().await
}

pub(crate) async fn recv(cut: &Cut) -> Footprint {
    let world = start().await;
    let mut consumer = member(&world).await;
    let first = cut.of(async { consumer.recv().await.unwrap().unwrap().offset() }).await;
    reads_on(&mut consumer, first.map_or(0, |offset| offset + 1)).await;
    consumer.close(MINUTE).await.unwrap();
    assert_eq!(committed(&world), Some(RECORDS), "the poll behind the last record has acknowledged it");
    world.end().await
}

pub(crate) async fn poll(cut: &Cut) -> Footprint {
    let world = start().await;
    let mut consumer = member(&world).await;
    let first = cut.of(consumer.poll(MINUTE)).await.map_or(0, |records| {
        let records = records.unwrap();
        records.ack();
        records.len() as i64
    });
    if first < RECORDS {
        let rest = consumer.poll(MINUTE).await.unwrap();
        let offsets: Vec<i64> = rest.iter().map(|record| record.offset()).collect();
        assert_eq!(offsets, (first..RECORDS).collect::<Vec<_>>());
        rest.ack();
    }
    consumer.close(MINUTE).await.unwrap();
    assert_eq!(committed(&world), Some(RECORDS));
    world.end().await
}

pub(crate) async fn close(cut: &Cut) -> Footprint {
    let world = start().await;
    let mut consumer = member(&world).await;
    for _ in 0..5 {
        consumer.recv().await.unwrap().unwrap();
    }
    consumer.handle().ack_up_to(&orders(), 5);
    cut.of(consumer.close(MINUTE)).await;
    // Whether it has committed depends on when it was dropped; but it has committed all or nothing.
    let mut next = member(&world).await;
    let first = next.recv().await.unwrap().unwrap().offset();
    assert_eq!(first, committed(&world).unwrap_or(0));
    assert!(matches!(first, 0 | 5), "{first}");
    reads_on(&mut next, first + 1).await;
    next.close(MINUTE).await.unwrap();
    world.end().await
}

pub(crate) async fn commit(cut: &Cut) -> Footprint {
    let world = start().await;
    let mut consumer = member(&world).await;
    let handle = consumer.handle();
    consumer.poll(MINUTE).await.unwrap();
    handle.ack_up_to(&orders(), 5);
    world.cluster.faults().when(Api::OffsetCommit).optional().then(Reaction::DelayAnswer(SECOND / 10));
    let began = cut.of(handle.commit()).await;
    began.unwrap_or(Ok(())).unwrap();
    handle.ack_up_to(&orders(), 6);
    handle.commit().await.unwrap();
    assert_eq!(committed(&world), Some(6));
    consumer.close(MINUTE).await.unwrap();
    drop(handle);
    world.end().await
}

pub(crate) async fn commit_offsets(cut: &Cut) -> Footprint {
    let world = start().await;
    let mut consumer = member(&world).await;
    let handle = consumer.handle();
    consumer.poll(MINUTE).await.unwrap();
    let offset = |offset| [(orders(), OffsetAndMetadata::from(offset))];
    world.cluster.faults().when(Api::OffsetCommit).optional().then(Reaction::DelayAnswer(SECOND / 10));
    cut.of(handle.commit_offsets(offset(3))).await;
    handle.commit_offsets(offset(7)).await.unwrap();
    assert_eq!(committed(&world), Some(7), "commits arrive in their order");
    consumer.close(MINUTE).await.unwrap();
    assert_eq!(committed(&world), Some(7));
    drop(handle);
    world.end().await
}

pub(crate) async fn group_metadata(cut: &Cut) -> Footprint {
    let world = start().await;
    let mut consumer = member(&world).await;
    consumer.poll(MINUTE).await.unwrap();
    let handle = consumer.handle();
    cut.of(handle.group_metadata()).await;
    assert_eq!(handle.group_metadata().await.unwrap().generation, 1);
    consumer.close(MINUTE).await.unwrap();
    drop(handle);
    world.end().await
}

pub(crate) async fn hold_generation(cut: &Cut) -> Footprint {
    let world = start().await;
    let mut consumer = member(&world).await;
    consumer.poll(MINUTE).await.unwrap();
    let handle = consumer.handle();
    drop(cut.of(handle.hold_generation()).await);
    let held = handle.hold_generation().await.unwrap();
    assert_eq!(held.group_metadata().generation, 1);
    drop(held);
    // Nothing is held any more: another member gets into the group.
    let second = member(&world).await;
    while handle.group_metadata().await.unwrap().generation == 1 || handle.is_rebalancing() {
        consumer.poll(SECOND).await.unwrap().ack();
    }
    second.close(MINUTE).await.unwrap();
    consumer.close(MINUTE).await.unwrap();
    drop(handle);
    world.end().await
}

pub(crate) async fn build_reader(cut: &Cut) -> Footprint {
    let world = start().await;
    let before = world.footprint().await;
    drop(cut.of(reader(&world)).await);
    assert_eq!(world.footprint().await, before, "a consumer that is dropped leaves nothing");
    let consumer = reader(&world).await;
    consumer.close(MINUTE).await.unwrap();
    world.end().await
}

pub(crate) async fn recv_of_a_reader(cut: &Cut) -> Footprint {
    let world = start().await;
    let mut consumer = reader(&world).await;
    let first = cut.of(async { consumer.recv().await.unwrap().unwrap().offset() }).await;
    for offset in first.map_or(0, |offset| offset + 1)..RECORDS {
        assert_eq!(consumer.recv().await.unwrap().unwrap().offset(), offset);
    }
    consumer.close(MINUTE).await.unwrap();
    world.end().await
}

pub(crate) async fn poll_of_a_reader(cut: &Cut) -> Footprint {
    let world = start().await;
    let mut consumer = reader(&world).await;
    let first = cut.of(consumer.poll(MINUTE)).await.map_or(0, |records| records.unwrap().len() as i64);
    let mut next = first;
    while next < RECORDS {
        for record in &consumer.poll(MINUTE).await.unwrap() {
            assert_eq!(record.offset(), next);
            next += 1;
        }
    }
    consumer.close(MINUTE).await.unwrap();
    world.end().await
}

pub(crate) async fn close_reader(cut: &Cut) -> Footprint {
    let world = start().await;
    let before = world.footprint().await;
    let mut consumer = reader(&world).await;
    consumer.recv().await.unwrap().unwrap();
    cut.of(consumer.close(MINUTE)).await;
    assert_eq!(world.footprint().await, before, "its tasks and connections end by themselves");
    let mut consumer = reader(&world).await;
    assert_eq!(consumer.recv().await.unwrap().unwrap().offset(), 0);
    consumer.close(MINUTE).await.unwrap();
    world.end().await
}

pub(crate) async fn next_event(cut: &Cut) -> Footprint {
    let world = start().await;
    let gone = StartAt::Offset(RECORDS * 2);
    let builder = world.client.partition_consumer().assign(TOPIC, [0], gone);
    let mut consumer = builder.offset_reset(OffsetReset::Earliest).build().await.unwrap();
    let handle = consumer.handle();
    let first = cut.of(handle.next_event()).await;
    let event = if first.is_some() { first.flatten() } else { handle.next_event().await };
    assert!(matches!(event, Some(ConsumerEvent::Reset { to: 0, .. })), "{event:?}");
    assert_eq!(consumer.recv().await.unwrap().unwrap().offset(), 0);
    consumer.close(MINUTE).await.unwrap();
    assert_eq!(handle.next_event().await, None);
    drop(handle);
    world.end().await
}

/// A question about offsets, whose answer comes late, is dropped; another one is answered.
async fn look_up(cut: &Cut, ask: impl AsyncFn(&ReaderHandle) -> i64, answer: i64) -> Footprint {
    let world = start().await;
    let mut consumer = reader(&world).await;
    assert_eq!(consumer.recv().await.unwrap().unwrap().offset(), 0);
    let handle = consumer.handle();
    world.cluster.faults().when(Api::ListOffsets).optional().then(Reaction::DelayAnswer(SECOND / 10));
    let first = cut.of(ask(&handle)).await;
    assert_eq!(first.unwrap_or(answer), answer);
    assert_eq!(ask(&handle).await, answer);
    assert_eq!(consumer.recv().await.unwrap().unwrap().offset(), 1);
    consumer.close(MINUTE).await.unwrap();
    drop(handle);
    world.end().await
}

pub(crate) async fn beginning_offsets(cut: &Cut) -> Footprint {
    look_up(cut, async |handle| handle.beginning_offsets([orders()]).await.unwrap()[&orders()], 0).await
}

pub(crate) async fn end_offsets(cut: &Cut) -> Footprint {
    look_up(cut, async |handle| handle.end_offsets([orders()]).await.unwrap()[&orders()], RECORDS).await
}

pub(crate) async fn offsets_for_times(cut: &Cut) -> Footprint {
    let first = async |handle: &ReaderHandle| {
        handle.offsets_for_times([(orders(), 0)]).await.unwrap()[&orders()].unwrap().offset
    };
    look_up(cut, first, 0).await
}

pub(crate) async fn close_streams(cut: &Cut) -> Footprint {
    let world = start().await;
    let before = world.footprint().await;
    let mut parts = reader(&world).await.split();
    let mut streams = parts.take_streams();
    streams[0].next().await.unwrap().unwrap();
    cut.of(parts.close(MINUTE)).await;
    drop(streams);
    assert_eq!(world.footprint().await, before, "its tasks and connections end by themselves");
    world.end().await
}

pub(crate) async fn recv_typed(cut: &Cut) -> Footprint {
    let world = start().await;
    let mut typed = reader(&world).await.typed::<String, Vec<u8>>(Text, Raw);
    let first = cut.of(async { typed.recv().await.unwrap().unwrap().offset() }).await;
    for offset in first.map_or(0, |offset| offset + 1)..RECORDS {
        assert_eq!(typed.recv().await.unwrap().unwrap().offset(), offset);
    }
    typed.into_inner().close(MINUTE).await.unwrap();
    world.end().await
}

/// A world with a keyed record, and how a table of it is loaded.
async fn start_with_a_table() -> (World, CompactedTableBuilder<String, String>) {
    let world = World::start().await;
    let producer = world.client.producer().build().await.unwrap();
    producer.send(&Record::to(TOPIC).key("ada").value("1")).await.unwrap().await.unwrap();
    producer.close(MINUTE).await.unwrap();
    let builder = world.client.compacted_table(TOPIC, Text, Text);
    (world, builder)
}

pub(crate) async fn load_table(cut: &Cut) -> Footprint {
    let (world, builder) = start_with_a_table().await;
    let before = world.footprint().await;
    drop(cut.of(builder.load()).await);
    assert_eq!(world.footprint().await, before, "a table that is dropped leaves nothing");
    let table = world.client.compacted_table::<String, String>(TOPIC, Text, Text).load().await.unwrap();
    assert_eq!(table.get("ada"), Some("1".to_owned()));
    table.close(MINUTE).await.unwrap();
    world.end().await
}

pub(crate) async fn close_table(cut: &Cut) -> Footprint {
    let (world, builder) = start_with_a_table().await;
    let before = world.footprint().await;
    let table = builder.load().await.unwrap();
    cut.of(table.close(MINUTE)).await;
    assert_eq!(world.footprint().await, before, "its tasks and connections end by themselves");
    world.end().await
}
