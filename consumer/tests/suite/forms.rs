//! The owned forms of reading: streams, records taken apart, a stream per partition. In-process cluster, virtual time.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use crate::common::{PATIENCE, World, batch, tp, within};
use futures_util::StreamExt;
use milena_client::Client;
use milena_client::protocol::records::Compression;
use milena_consumer::{PartitionConsumer, PartitionStream, RecordStream, SharedRecord, StartAt};
use milena_testkit::Cluster;

const WAIT: Duration = Duration::from_secs(5);

async fn next(stream: &mut RecordStream<'_>) -> SharedRecord {
    within("the stream", stream.next()).await.unwrap().unwrap()
}

async fn next_of(stream: &mut PartitionStream) -> SharedRecord {
    within("the stream of a partition", stream.next()).await.unwrap().unwrap()
}

fn number(record: &SharedRecord) -> i64 {
    std::str::from_utf8(record.value().unwrap()).unwrap().parse().unwrap()
}

async fn world(topic: &str, partitions: i32, batches: i64) -> World {
    let world = World::new(Cluster::builder().brokers(2).topic(topic, partitions)).await;
    for partition in 0..partitions {
        for start in 0..batches {
            world.write_batch(topic, partition, batch(start * 10..start * 10 + 10, Compression::Lz4)).await;
        }
    }
    world
}

#[tokio::test(start_paused = true)]
async fn a_stream_gives_owned_records_that_outlive_the_reading() {
    let world = world("t", 2, 5).await;
    let mut consumer = world.reader("t", 0..2).build().await.unwrap();
    let mut kept = Vec::new();
    let mut stream = consumer.stream();
    for _ in 0..100 {
        kept.push(next(&mut stream).await);
    }
    drop(stream);
    consumer.close(WAIT).await.unwrap();
    for partition in 0..2 {
        let of_partition: Vec<_> = kept.iter().filter(|record| record.partition() == partition).collect();
        assert_eq!(of_partition.iter().map(|r| r.offset()).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
        assert_eq!(of_partition.iter().map(|r| number(r)).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
    }
    let (first, alone) = (&kept[0], kept[0].detach());
    assert_eq!((alone.offset(), alone.value(), alone.timestamp()), (first.offset(), first.value(), first.timestamp()));
    assert_eq!(first.value_bytes().unwrap(), first.value().unwrap());
    assert_eq!((first.key(), first.headers().len()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn streams_receives_and_polls_may_follow_each_other_and_a_dropped_stream_loses_nothing() {
    let world = world("t", 1, 30).await;
    let mut consumer = world.reader("t", 0..1).max_poll_records(7).build().await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 300 {
        let mut stream = consumer.stream();
        for _ in 0..4.min(300 - seen.len()) {
            seen.push(next(&mut stream).await.offset());
        }
        drop(stream);
        if seen.len() < 300 {
            seen.push(within("recv", consumer.recv()).await.unwrap().unwrap().offset());
        }
        if seen.len() < 300 {
            let records = within("poll", consumer.poll(WAIT)).await.unwrap();
            let count = records.len();
            let owned: Vec<SharedRecord> = records.into_iter().collect();
            assert_eq!(owned.len(), count);
            seen.extend(owned.iter().map(SharedRecord::offset));
        }
    }
    assert_eq!(seen, (0..300).collect::<Vec<_>>());
    assert_eq!(world.metric("records-consumed-total"), 300);
}

#[tokio::test(start_paused = true)]
async fn nothing_stale_comes_out_of_a_stream_after_a_seek_or_while_it_is_paused() {
    let world = world("t", 1, 30).await;
    let mut consumer = world.reader("t", 0..1).build().await.unwrap();
    let handle = consumer.handle();
    let mut stream = consumer.stream();
    for target in [0, 150, 3] {
        handle.seek(&tp("t", 0), StartAt::Offset(target)).unwrap();
        for offset in target..target + 15 {
            assert_eq!(next(&mut stream).await.offset(), offset);
        }
    }
    handle.pause(&[tp("t", 0)]);
    assert!(tokio_timeout(WAIT, stream.next()).await.is_none(), "in the midst of a batch");
    assert_eq!(handle.position(&tp("t", 0)), Some(18));
    handle.resume(&[tp("t", 0)]);
    assert_eq!(next(&mut stream).await.offset(), 18);
}

#[expect(clippy::disallowed_methods, reason = "a test in virtual time")]
async fn tokio_timeout<T>(wait: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(wait, future).await.ok()
}

fn committed(world: &World, group: &str) -> Option<i64> {
    world.cluster.group_info(group)?.offsets.get(&("t".to_owned(), 0)).copied()
}

#[tokio::test(start_paused = true)]
async fn in_a_group_asking_for_the_next_acknowledges_nothing_and_acks_come_in_any_order() {
    let world = world("t", 1, 3).await;
    let mut consumer = world.consumer("g").subscribe(["t"]).auto_commit(None).build().await.unwrap();
    let handle = consumer.handle();
    let mut stream = consumer.stream();
    let mut records = Vec::new();
    for _ in 0..25 {
        records.push(next(&mut stream).await);
    }
    handle.commit().await.unwrap();
    assert_eq!(committed(&world, "g").unwrap_or(0), 0, "none of them is done");
    for (ack, frontier) in [(3, 0), (1, 0), (0, 2), (2, 4), (15, 4), (4, 5)] {
        records[ack].ack();
        handle.commit().await.unwrap();
        assert_eq!(committed(&world, "g").unwrap_or(0), frontier, "after {ack}");
    }
    records[5..25].iter().rev().for_each(SharedRecord::ack);
    records.iter().for_each(SharedRecord::ack); // twice does no harm
    handle.commit().await.unwrap();
    assert_eq!(committed(&world, "g"), Some(25));
    drop(stream);
    // What the stream had begun and not given is not the user's: closing need not wait for it.
    consumer.close(WAIT).await.unwrap();
    assert_eq!(committed(&world, "g"), Some(25));
    let mut consumer = world.consumer("g").subscribe(["t"]).build().await.unwrap();
    assert_eq!(within("on", consumer.recv()).await.unwrap().unwrap().offset(), 25);
}

#[tokio::test(start_paused = true)]
async fn records_that_were_taken_apart_are_acknowledged_one_by_one() {
    let world = world("t", 1, 3).await;
    let mut consumer =
        world.consumer("g").subscribe(["t"]).auto_commit(None).max_poll_records(7).build().await.unwrap();
    let handle = consumer.handle();
    let mut owned: Vec<SharedRecord> = Vec::new();
    while owned.len() < 30 {
        owned.extend(within("poll", consumer.poll(WAIT)).await.unwrap());
    }
    assert_eq!(owned.iter().map(SharedRecord::offset).collect::<Vec<_>>(), (0..30).collect::<Vec<_>>());
    owned[1..30].iter().for_each(SharedRecord::ack);
    handle.commit().await.unwrap();
    assert_eq!(committed(&world, "g").unwrap_or(0), 0);
    owned[0].ack();
    handle.commit().await.unwrap();
    assert_eq!(committed(&world, "g"), Some(30));
}

#[tokio::test(start_paused = true)]
async fn a_partition_in_the_midst_of_a_stream_goes_to_another_member_behind_what_was_acknowledged() {
    let world = world("t", 1, 3).await;
    let member = || world.consumer("g").subscribe(["t"]).auto_commit(None).build();
    let mut first = member().await.unwrap();
    let mut stream = first.stream();
    for offset in 0..14 {
        let record = next(&mut stream).await;
        assert_eq!(record.offset(), offset);
        record.ack();
    }
    let mut second = member().await.unwrap();
    // The one partition stays where it is, or moves; nobody reads twice what was acknowledged.
    drop(stream);
    first.close(WAIT).await.unwrap();
    assert_eq!(within("the next", second.recv()).await.unwrap().unwrap().offset(), 14);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_read_stops_no_other() {
    let world = world("t", 3, 200).await;
    let builder = world.reader("t", 0..3).max_partition_bytes(2 << 10).buffer_memory(256 << 10);
    let mut parts = builder.build().await.unwrap().split();
    let mut streams = parts.take_streams();
    assert_eq!(streams.iter().map(PartitionStream::topic_partition).collect::<Vec<_>>().len(), 3);
    for read in [2, 0] {
        for offset in 0..2000 {
            assert_eq!(next_of(&mut streams[read]).await.offset(), offset);
        }
    }
    let mut seen = Vec::new();
    for _ in 0..2000 {
        seen.push(next_of(&mut streams[1]).await.offset());
    }
    assert_eq!(seen, (0..2000).collect::<Vec<_>>());
    assert_eq!(world.fetched().1, 0, "nothing was fetched in vain");
    // Each hears of its own records only.
    world.write("t", 1, 7..8).await;
    assert_eq!(number(&next_of(&mut streams[1]).await), 7);
    assert!(tokio_timeout(WAIT, streams[0].next()).await.is_none());
    parts.close(WAIT).await.unwrap();
    for stream in &mut streams {
        assert!(within("the end", stream.next()).await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_a_stream_gives_its_partition_up_and_the_last_one_ends_the_tasks() {
    let world = world("t", 3, 20).await;
    let mut consumer = world.reader("t", 0..3).max_partition_bytes(512).build().await.unwrap();
    let first = within("recv", consumer.recv()).await.unwrap().unwrap();
    let (begun, offset) = (first.partition() as usize, first.offset());
    let mut parts = consumer.split();
    let handle = parts.handle();
    let mut streams = parts.take_streams();
    drop(parts);
    assert_eq!(next_of(&mut streams[begun]).await.offset(), offset + 1, "it goes on where recv has stopped");
    let dropped = streams.remove((begun + 1) % 3);
    let gone = dropped.topic_partition().clone();
    drop(dropped);
    assert_eq!(handle.assignment().len(), 2);
    assert!(!handle.assignment().contains(&gone));
    for stream in &mut streams {
        let from = if stream.topic_partition().partition as usize == begun { 2 } else { 0 };
        for offset in from..200 {
            assert_eq!(next_of(stream).await.offset(), offset);
        }
    }
    drop(handle);
    drop(streams);
    world.pause().await;
    world.client.close().await;
    assert_eq!(world.client.tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_streams_of_a_split_see_their_own_errors_seeks_and_pauses() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 2)).await;
    world.write_batch("t", 0, batch(0..200, Compression::Lz4)).await;
    world.write("t", 0, 200..210).await;
    world.write("t", 1, 0..10).await;
    let mut parts = world.reader("t", 0..2).max_batch_bytes(64).build().await.unwrap().split();
    let handle = parts.handle();
    let [mut damaged, mut sound] = parts.take_streams().try_into().unwrap();
    for offset in 0..10 {
        assert_eq!(next_of(&mut sound).await.offset(), offset);
    }
    let error = within("the error", damaged.next()).await.unwrap().unwrap_err();
    assert_eq!(error.topic_partition(), Some(&tp("t", 0)));
    handle.seek(&tp("t", 0), StartAt::Offset(200)).unwrap();
    assert_eq!(next_of(&mut damaged).await.offset(), 200);
    handle.pause(&[tp("t", 0)]);
    assert!(tokio_timeout(WAIT, damaged.next()).await.is_none());
    let (resumed, ()) = tokio::join!(next_of(&mut damaged), async { handle.resume(&[tp("t", 0)]) });
    assert_eq!(resumed.offset(), 201);
}

#[tokio::test(start_paused = true)]
async fn a_stream_tells_once_why_it_is_over() {
    let world = world("t", 1, 1).await;
    let consumer = world.reader("t", 0..1).build().await.unwrap();
    let mut parts = consumer.split();
    let mut stream = parts.take_streams().remove(0);
    for offset in 0..10 {
        assert_eq!(next_of(&mut stream).await.offset(), offset);
    }
    parts.close(WAIT).await.unwrap();
    assert!(within("the end", stream.next()).await.is_none());
    assert!(within("the end again", stream.next()).await.is_none());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a plain thread is what is tested")]
fn a_plain_thread_polls_and_is_woken_by_what_comes() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (cluster, client, mut consumer) = runtime.block_on(async {
        let cluster = Cluster::builder().brokers(1).topic("t", 1).start().await.unwrap();
        let client = Client::builder(cluster.bootstrap_servers()).connect().await.unwrap();
        let builder = PartitionConsumer::builder(&client).assign("t", [0], StartAt::Beginning);
        (cluster, client.clone(), builder.build().await.unwrap())
    });
    let reader = std::thread::spawn(move || {
        let mut seen = Vec::new();
        while seen.len() < 20 {
            let records = consumer.poll_blocking(PATIENCE).unwrap();
            assert!(!records.is_empty(), "it was woken, not timed out");
            seen.extend(records.into_iter().map(|record| number(&record)));
        }
        assert!(consumer.poll_blocking(Duration::ZERO).unwrap().is_empty());
        seen
    });
    let writer = World::of(cluster, client);
    runtime.block_on(async {
        writer.write("t", 0, 0..10).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        writer.write("t", 0, 10..20).await;
    });
    assert_eq!(reader.join().unwrap(), (0..20).collect::<Vec<_>>());
}

mod typed {
    use milena_client::serde::{Long, Raw, Text};
    use milena_consumer::{ReadError, RecordPart, UndecodableRecord};

    use super::*;

    fn undecodable<T: std::fmt::Debug>(result: Result<T, ReadError>) -> Box<UndecodableRecord> {
        match result {
            Err(ReadError::Undecodable(record)) => record,
            other => panic!("{other:?}"),
        }
    }

    /// Values: "0" to "9", eight bytes that are no text, "10" to "19".
    async fn with_a_foreign_record() -> World {
        let world = World::new(Cluster::builder().brokers(1).topic("t", 1)).await;
        world.write("t", 0, 0..10).await;
        world.write_batch("t", 0, crate::common::batch_of(&[(Some(b"k"), Some(&0xff00_u64.to_be_bytes()))])).await;
        world.write("t", 0, 10..20).await;
        world
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_cannot_be_decoded_is_an_error_with_its_bytes_and_reading_goes_on() {
        let world = with_a_foreign_record().await;
        let reader = world.reader("t", 0..1).build().await.unwrap();
        let mut typed = reader.typed::<String, String>(Text, Text);
        for offset in 0..10 {
            let record = within("recv", typed.recv()).await.unwrap().unwrap();
            assert_eq!((record.key(), record.value(), record.offset()), (None, Some(&offset.to_string()), offset));
        }
        let bad = undecodable(within("recv", typed.recv()).await);
        assert_eq!((bad.topic_partition(), bad.offset(), bad.part()), (tp("t", 0), 10, RecordPart::Value));
        assert_eq!((bad.raw().key(), bad.raw().value()), (Some(&b"k"[..]), Some(&0xff00_u64.to_be_bytes()[..])));
        assert!(bad.to_string().starts_with("t-0@10: "), "{bad}");
        let error = milena_client::Error::from(ReadError::from(bad));
        assert_eq!(error.kind(), milena_client::ErrorKind::Serialization);
        assert_eq!(error.topic_partition(), Some(&tp("t", 0)));
        let next = within("recv", typed.recv()).await.unwrap().unwrap();
        assert_eq!((next.offset(), next.record().value()), (11, Some(&b"10"[..])));
        typed.into_inner().close(WAIT).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn types_differ_and_polled_records_are_decoded_too() {
        let world = with_a_foreign_record().await;
        let mut typed = world.reader("t", 0..1).build().await.unwrap().typed::<bytes::Bytes, i64>(Raw, Long);
        let records = within("poll", typed.inner_mut().poll(WAIT)).await.unwrap();
        let decoded: Vec<_> = records.into_iter().map(|record| typed.decode(record)).collect();
        let good: Vec<_> = decoded.iter().flatten().collect();
        assert_eq!(good.len(), 1);
        assert_eq!((good[0].key().unwrap().as_ref(), good[0].value()), (&b"k"[..], Some(&0xff00)));
        assert_eq!(decoded.iter().filter(|record| record.is_err()).count(), decoded.len() - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_group_nothing_behind_an_undecodable_record_of_a_stream_is_committed_before_it_is_dealt_with() {
        let world = with_a_foreign_record().await;
        let consumer = world.consumer("g").subscribe(["t"]).auto_commit(None).build().await.unwrap();
        let handle = consumer.handle();
        let mut typed = consumer.typed::<String, String>(Text, Text);
        let mut stream = typed.stream();
        let mut bad = None;
        for offset in 0..21 {
            match within("the stream", stream.next()).await.unwrap() {
                Ok(record) => {
                    assert_eq!(record.offset(), offset);
                    record.ack();
                }
                failed => bad = Some(undecodable(failed)),
            }
        }
        handle.commit().await.unwrap();
        assert_eq!(committed(&world, "g"), Some(10));
        bad.unwrap().ack();
        handle.commit().await.unwrap();
        assert_eq!(committed(&world, "g"), Some(21));
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_group_an_undecodable_record_is_acknowledged_by_reading_on_and_not_before() {
        let world = with_a_foreign_record().await;
        let build = || world.consumer("g").subscribe(["t"]).auto_commit(None).build();
        let mut typed = build().await.unwrap().typed::<String, String>(Text, Text);
        for _ in 0..10 {
            within("recv", typed.recv()).await.unwrap().unwrap();
        }
        undecodable(within("recv", typed.recv()).await);
        typed.into_inner().close(WAIT).await.unwrap();
        assert_eq!(committed(&world, "g"), Some(10));
        let mut typed = build().await.unwrap().typed::<String, String>(Text, Text);
        undecodable(within("recv", typed.recv()).await);
        assert_eq!(within("recv", typed.recv()).await.unwrap().unwrap().offset(), 11);
        typed.into_inner().close(WAIT).await.unwrap();
        assert_eq!(committed(&world, "g"), Some(11));
    }
}
