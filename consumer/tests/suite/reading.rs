//! Reading chosen partitions on the in-process cluster, in virtual time.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use crate::common::{Seen, World, batch, tp, within};
use milena_client::protocol::records::Compression;
use milena_consumer::{PartitionConsumer, StartAt};
use milena_testkit::{Api, Cluster, ErrorCode, Reaction};

const WAIT: Duration = Duration::from_secs(5);

async fn read(consumer: &mut PartitionConsumer, count: usize) -> Seen {
    let mut seen = Seen::default();
    while seen.count() < count {
        let so_far = format!("a record; so far {:?}", seen.0.iter().map(|(tp, r)| (tp, r.len())).collect::<Vec<_>>());
        let record = within(&so_far, consumer.recv()).await.unwrap().unwrap();
        seen.note(record);
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn everything_is_read_in_order_and_nothing_twice() {
    let world = World::new(Cluster::builder().brokers(3).topic("t", 6)).await;
    for partition in 0..6 {
        for start in [0, 10, 20] {
            world.write("t", partition, start..start + 10).await;
        }
    }
    let mut consumer = world.reader("t", 0..6).build().await.unwrap();
    let seen = read(&mut consumer, 180).await;
    for partition in 0..6 {
        assert_eq!(seen.offsets("t", partition), (0..30).collect::<Vec<_>>());
        assert_eq!(seen.values("t", partition), (0..30).collect::<Vec<_>>());
    }
    assert_eq!(world.fetched().1, 0, "nothing was fetched in vain");
    consumer.close(WAIT).await.unwrap();
    drop(world.client.new_owner("x"));
    world.client.close().await;
    assert_eq!(world.client.tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_poll_gives_whole_runs_by_partition_and_never_more_than_its_limit() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 2)).await;
    for partition in 0..2 {
        world.write("t", partition, 0..100).await;
        world.write("t", partition, 100..130).await;
    }
    let mut consumer = world.reader("t", 0..2).max_poll_records(70).build().await.unwrap();
    let mut seen = Seen::default();
    while seen.count() < 260 {
        let records = within("a poll", consumer.poll(WAIT)).await.unwrap();
        assert!(records.len() <= 70 && !records.is_empty());
        assert_eq!(records.iter().count(), records.len());
        let by_partition: usize = records.partitions().map(|partition| partition.iter().count()).sum();
        assert_eq!(by_partition, records.len());
        for partition in records.partitions() {
            let last = partition.iter().last().unwrap();
            assert_eq!(partition.next_offset(), Some(last.offset() + 1));
            assert!(partition.iter().all(|record| record.partition() == partition.partition()));
        }
        records.iter().for_each(|record| seen.note(record));
    }
    for partition in 0..2 {
        assert_eq!(seen.offsets("t", partition), (0..130).collect::<Vec<_>>());
    }
    assert!(within("an empty poll", consumer.poll(Duration::from_millis(10))).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn compressed_batches_are_read_and_receiving_and_polling_may_alternate() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 1)).await;
    for start in [0, 50, 100] {
        world.write_batch("t", 0, batch(start..start + 50, Compression::Lz4)).await;
    }
    let mut consumer = world.reader("t", 0..1).max_poll_records(7).build().await.unwrap();
    let mut seen = Seen::default();
    while seen.count() < 150 {
        for _ in 0..3 {
            if seen.count() < 150 {
                seen.note(within("recv", consumer.recv()).await.unwrap().unwrap());
            }
        }
        within("poll", consumer.poll(WAIT)).await.unwrap().iter().for_each(|record| seen.note(record));
    }
    assert_eq!(seen.offsets("t", 0), (0..150).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn records_that_come_later_are_read_and_an_idle_broker_delays_nothing() {
    let world = World::new(Cluster::builder().brokers(2).topic("t", 2)).await;
    let mut consumer = world.reader("t", 0..2).build().await.unwrap();
    assert!(within("poll", consumer.poll(WAIT)).await.unwrap().is_empty());
    for number in 0..20 {
        world.write("t", 0, number..number + 1).await;
        let written = consumer_now(&consumer);
        let record = within("a record", consumer.recv()).await.unwrap().unwrap();
        assert_eq!(record.offset(), number);
        assert!(consumer_now(&consumer) - written < Duration::from_millis(5), "the idle broker's wait is not ours");
    }
}

#[expect(clippy::disallowed_methods, reason = "virtual time")]
fn consumer_now(_: &PartitionConsumer) -> tokio::time::Instant {
    tokio::time::Instant::now()
}

#[tokio::test(start_paused = true)]
async fn nothing_stale_comes_after_a_seek() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 1)).await;
    for start in 0..20 {
        world.write("t", 0, start * 10..start * 10 + 10).await;
    }
    let mut consumer = world.reader("t", 0..1).build().await.unwrap();
    let handle = consumer.handle();
    assert_eq!(read(&mut consumer, 15).await.offsets("t", 0), (0..15).collect::<Vec<_>>());
    for target in [150, 3, 100, 101] {
        handle.seek(&tp("t", 0), StartAt::Offset(target)).unwrap();
        assert_eq!(handle.position(&tp("t", 0)), Some(target));
        assert_eq!(read(&mut consumer, 15).await.offsets("t", 0), (target..target + 15).collect::<Vec<_>>());
    }
    handle.seek(&tp("t", 0), StartAt::Beginning).unwrap();
    assert_eq!(read(&mut consumer, 1).await.offsets("t", 0), [0]);
    handle.seek(&tp("t", 0), StartAt::Timestamp(1000 + 42)).unwrap();
    let first = read(&mut consumer, 1).await.offsets("t", 0)[0];
    assert!((40..=42).contains(&first), "{first}");
    handle.seek(&tp("t", 0), StartAt::End).unwrap();
    assert!(consumer.poll(WAIT).await.unwrap().is_empty());
    world.write("t", 0, 200..201).await;
    assert_eq!(read(&mut consumer, 1).await.offsets("t", 0), [200]);
    assert!(handle.seek(&tp("t", 1), StartAt::End).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_is_under_way_while_somebody_seeks_is_not_delivered() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 1)).await;
    world.write("t", 0, 0..10).await;
    let mut consumer = world.reader("t", 0..1).build().await.unwrap();
    let handle = consumer.handle();
    read(&mut consumer, 10).await;
    // The loop waits at the broker, for offset 10. The seek comes first, then the record for which the broker answers.
    assert!(consumer.poll(Duration::from_millis(50)).await.unwrap().is_empty());
    handle.seek(&tp("t", 0), StartAt::Offset(2)).unwrap();
    world.write("t", 0, 10..11).await;
    assert_eq!(read(&mut consumer, 9).await.offsets("t", 0), (2..11).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_paused_partition_keeps_what_was_fetched_and_others_go_on() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 2)).await;
    for partition in 0..2 {
        for start in 0..4 {
            world.write("t", partition, start * 10..start * 10 + 10).await;
        }
    }
    let mut consumer = world.reader("t", 0..2).build().await.unwrap();
    let handle = consumer.handle();
    let mut seen = read(&mut consumer, 5).await;
    handle.pause(&[tp("t", 0)]);
    assert!(handle.state(&tp("t", 0)).unwrap().paused);
    while seen.offsets("t", 1).len() < 40 {
        let record = within("the other", consumer.recv()).await.unwrap().unwrap();
        assert_eq!(record.partition(), 1);
        seen.note(record);
    }
    assert!(consumer.poll(WAIT).await.unwrap().is_empty());
    let before = world.fetched().0;
    handle.resume(&[tp("t", 0)]);
    while seen.count() < 80 {
        seen.note(within("the rest", consumer.recv()).await.unwrap().unwrap());
    }
    assert_eq!(seen.offsets("t", 0), (0..40).collect::<Vec<_>>());
    assert_eq!(world.fetched().0, before, "nothing was fetched again");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_moves_while_it_is_read_from_costs_nothing_but_time() {
    let world = World::new(Cluster::builder().brokers(3).topic("t", 1)).await;
    let mut consumer = world.reader("t", 0..1).build().await.unwrap();
    let mut seen = Seen::default();
    for round in 0..6 {
        world.write("t", 0, round * 10..round * 10 + 10).await;
        world.cluster.move_leader("t", 0, (round % 3 + 1) as i32);
        world.write("t", 0, 100 + round * 10..100 + round * 10 + 10).await;
        while seen.count() < (round as usize + 1) * 20 {
            seen.note(within("after a move", consumer.recv()).await.unwrap().unwrap());
        }
    }
    assert_eq!(seen.offsets("t", 0), (0..120).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn disconnects_lost_sessions_and_refusals_lose_and_double_nothing() {
    let world = World::new(Cluster::builder().brokers(2).topic("t", 4)).await;
    world.cluster.faults().when(Api::Fetch).nth(4).then(Reaction::Error(ErrorCode::FETCH_SESSION_ID_NOT_FOUND));
    world.cluster.faults().when(Api::Fetch).nth(7).then(Reaction::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER));
    world.cluster.faults().when(Api::Fetch).nth(9).then(Reaction::ApplyThenDisconnect);
    world.cluster.faults().when(Api::Fetch).nth(12).then(Reaction::Error(ErrorCode::UNKNOWN_LEADER_EPOCH));
    let mut consumer = world.reader("t", 0..4).build().await.unwrap();
    let mut seen = Seen::default();
    for round in 0..10 {
        for partition in 0..4 {
            world.write("t", partition, round * 5..round * 5 + 5).await;
        }
        if round % 3 == 2 {
            world.cluster.disconnect(1);
        }
        while seen.count() < (round as usize + 1) * 20 {
            seen.note(within("a record", consumer.recv()).await.unwrap().unwrap());
        }
    }
    for partition in 0..4 {
        assert_eq!(seen.offsets("t", partition), (0..50).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn a_crashed_broker_is_waited_for() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 1)).await;
    world.write("t", 0, 0..5).await;
    let mut consumer = world.reader("t", 0..1).build().await.unwrap();
    read(&mut consumer, 5).await;
    world.cluster.crash(1);
    assert!(consumer.poll(WAIT).await.unwrap().is_empty());
    world.cluster.restart(1);
    world.write("t", 0, 5..10).await;
    assert_eq!(read(&mut consumer, 5).await.offsets("t", 0), [5, 6, 7, 8, 9]);
}

#[tokio::test(start_paused = true)]
async fn an_offset_that_is_gone_is_reset_or_an_error_as_the_policy_says() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 1)).await;
    for start in 0..4 {
        world.write("t", 0, start * 10..start * 10 + 10).await;
    }
    world.cluster.delete_records("t", 0, 20);
    let start = |builder: milena_consumer::PartitionConsumerBuilder| builder.assign("t", [0], StartAt::Offset(5));
    let mut earliest = start(PartitionConsumer::builder(&world.client))
        .offset_reset(milena_consumer::OffsetReset::Earliest)
        .build()
        .await
        .unwrap();
    assert_eq!(read(&mut earliest, 1).await.offsets("t", 0), [20]);
    let mut none = start(PartitionConsumer::builder(&world.client))
        .offset_reset(milena_consumer::OffsetReset::None)
        .build()
        .await
        .unwrap();
    let error = within("the error", none.recv()).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::OFFSET_OUT_OF_RANGE));
    assert_eq!(error.topic_partition(), Some(&tp("t", 0)));
    none.handle().seek(&tp("t", 0), StartAt::Offset(33)).unwrap();
    assert_eq!(read(&mut none, 1).await.offsets("t", 0), [33]);
}

#[tokio::test(start_paused = true)]
async fn what_is_fetched_is_delivered_once_over_twelve_partitions() {
    let world = World::new(Cluster::builder().brokers(3).topic("t", 12).request_log(false)).await;
    for partition in 0..12 {
        for start in 0..40 {
            world.write("t", partition, start * 50..start * 50 + 50).await;
        }
    }
    let mut consumer = world.reader("t", 0..12).max_partition_bytes(8 << 10).build().await.unwrap();
    let mut count = 0;
    while count < 12 * 40 * 50 {
        count += within("a poll", consumer.poll(WAIT)).await.unwrap().len();
    }
    let (fetched, dropped) = world.fetched();
    assert!(fetched > 0);
    assert_eq!(dropped, 0, "fetched ÷ delivered is exactly 1");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_read_stops_the_fetching_at_the_budget() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 4).request_log(false)).await;
    for partition in 0..4 {
        for start in 0..30 {
            world.write("t", partition, start * 100..start * 100 + 100).await;
        }
    }
    let mut consumer =
        world.reader("t", 0..4).buffer_memory(8 << 10).max_partition_bytes(4 << 10).build().await.unwrap();
    for _ in 0..20 {
        world.pause().await;
    }
    let (fetched, _) = world.fetched();
    assert!(fetched <= 16 << 10, "{fetched} bytes are held");
    let seen = read(&mut consumer, 4 * 3000).await;
    for partition in 0..4 {
        assert_eq!(seen.offsets("t", partition), (0..3000).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_batch_names_its_place_and_a_seek_goes_on_behind_it() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 1)).await;
    world.write("t", 0, 0..5).await;
    world.write("t", 0, 5..10).await;
    world.write("t", 0, 10..15).await;
    let mut consumer = world.reader("t", 0..1).max_batch_bytes(1).build().await.unwrap();
    // Uncompressed batches have no limit: all is read.
    assert_eq!(read(&mut consumer, 15).await.count(), 15);
    world.write_batch("t", 0, batch(15..215, Compression::Lz4)).await;
    world.write("t", 0, 215..220).await;
    for _ in 0..2 {
        let error = within("an error", consumer.recv()).await.unwrap_err();
        assert_eq!(error.topic_partition(), Some(&tp("t", 0)));
        assert!(error.to_string().contains("15"), "{error}");
    }
    consumer.handle().seek(&tp("t", 0), StartAt::Offset(215)).unwrap();
    assert_eq!(read(&mut consumer, 5).await.offsets("t", 0), (215..220).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn lag_and_watermarks_are_known_without_asking() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 1)).await;
    world.write("t", 0, 0..100).await;
    let mut consumer = world.reader("t", 0..1).max_poll_records(30).build().await.unwrap();
    let handle = consumer.handle();
    consumer.poll(WAIT).await.unwrap();
    assert_eq!((handle.position(&tp("t", 0)), handle.lag(&tp("t", 0))), (Some(30), Some(70)));
    assert_eq!(handle.state(&tp("t", 0)).unwrap().high_watermark, Some(100));
    assert_eq!((world.metric("records-lag"), world.metric("records-consumed-total")), (70, 30));
    assert_eq!(handle.assignment(), [tp("t", 0)]);
}
