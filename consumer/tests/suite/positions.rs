//! Positions and what may happen to them: logs that are truncated, offsets that fall out of retention, topics that are made anew,
//! followers that are read, budgets that are used up. In virtual time.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::pin::Pin;
use std::time::Duration;

use crate::common::{Seen, World, batch_of, tp, within};
use futures_util::{Stream, StreamExt};
use milena_client::{Error, ErrorKind};
use milena_consumer::{
    ConsumerEvent, LogTruncation, OffsetGone, OffsetReset, PartitionConsumer, PartitionConsumerBuilder, ResetReason,
    SharedRecord, StartAt,
};
use milena_testkit::{Api, Cluster, ClusterBuilder, ErrorCode, Reaction};

const WAIT: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);

async fn read(consumer: &mut PartitionConsumer, count: usize) -> Seen {
    let mut seen = Seen::default();
    while seen.count() < count {
        let what = format!("record {} of {count}", seen.count());
        seen.note(within(&what, consumer.recv()).await.unwrap().unwrap());
    }
    seen
}

#[expect(clippy::disallowed_methods, reason = "virtual time")]
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Three brokers have a copy each of a partition; broker 2 lacks the records from offset 10 on, which are readable.
async fn diverging(builder: ClusterBuilder) -> World {
    let world = World::new(builder.brokers(3).topic("t", 1)).await;
    world.write("t", 0, 0..10).await;
    world.cluster.hold_follower("t", 0, 2);
    world.cluster.drop_from_isr("t", 0, 2);
    world.write("t", 0, 10..20).await;
    world
}

/// Broker 2 is elected all the same, and other records are written where the lost ones were.
async fn lose_and_write(world: &World, numbers: std::ops::Range<i64>) {
    world.cluster.elect_unclean("t", 0, 2);
    world.write("t", 0, numbers).await;
}

fn earliest(world: &World) -> PartitionConsumerBuilder {
    world.reader("t", 0..1).offset_reset(OffsetReset::Earliest)
}

/// With Fetch as it is, and as it was before it could say where logs part.
fn both_ages() -> [ClusterBuilder; 2] {
    [Cluster::builder(), Cluster::builder().newest_version(Api::Fetch, 11)]
}

#[tokio::test(start_paused = true)]
async fn a_position_behind_a_truncation_goes_back_to_where_the_logs_part() {
    // As many new records as were lost, or more: an offset alone would not show it.
    for builder in both_ages() {
        for end in [105, 110, 140] {
            let world = diverging(builder.clone()).await;
            let mut consumer = earliest(&world).build().await.unwrap();
            let handle = consumer.handle();
            assert_eq!(read(&mut consumer, 20).await.values("t", 0), (0..20).collect::<Vec<_>>());
            lose_and_write(&world, 100..end).await;
            let seen = read(&mut consumer, (end - 100) as usize).await;
            assert_eq!(seen.values("t", 0), (100..end).collect::<Vec<_>>());
            assert_eq!(seen.offsets("t", 0)[0], 10);
            let truncated = ConsumerEvent::Truncated { partition: tp("t", 0), from: 20, to: Some(10) };
            assert_eq!(handle.try_next_event(), Some(truncated));
            assert_eq!(handle.try_next_event(), None);
            consumer.close(WAIT).await.unwrap();
            assert_eq!(handle.next_event().await, None);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_reset_policy_a_truncation_is_an_error_that_says_where_to_go_on() {
    for builder in both_ages() {
        let world = diverging(builder).await;
        let mut consumer = world.reader("t", 0..1).offset_reset(OffsetReset::None).build().await.unwrap();
        read(&mut consumer, 20).await;
        lose_and_write(&world, 100..140).await;
        let error = within("the error", consumer.recv()).await.unwrap_err();
        assert_eq!((error.kind(), error.topic_partition()), (ErrorKind::LogTruncated, Some(&tp("t", 0))));
        let known = LogTruncation::of(&error).unwrap();
        assert_eq!(known.position, 20);
        let (parted, _) = known.parted;
        assert_eq!(parted, 10);
        assert_eq!(consumer.poll(WAIT).await.unwrap_err().to_string(), error.to_string(), "the same before a seek");
        consumer.handle().seek(&tp("t", 0), StartAt::Offset(parted)).unwrap();
        assert_eq!(read(&mut consumer, 40).await.values("t", 0), (100..140).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_fetched_and_is_truncated_before_it_is_handed_out_is_not_handed_out() {
    let world = diverging(Cluster::builder()).await;
    let mut consumer = earliest(&world).build().await.unwrap();
    let mut seen = read(&mut consumer, 5).await;
    lose_and_write(&world, 100..140).await;
    pass(SECOND).await;
    let rest = read(&mut consumer, 45).await;
    seen.0.get_mut(&tp("t", 0)).unwrap().extend(&rest.0[&tp("t", 0)]);
    let expected: Vec<_> = (0..10).chain(100..140).collect();
    assert_eq!(seen.values("t", 0), expected);
    assert_eq!(seen.offsets("t", 0), (0..50).collect::<Vec<_>>());
    assert_eq!(consumer.handle().try_next_event(), None, "nothing that anybody has seen is gone");
}

/// A stream has given half a batch when the log is cut behind that batch: the other half is still there, and is given.
#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_behind_the_record_that_it_gave_last_and_not_behind_its_batch() {
    for is_split in [false, true] {
        let world = diverging(Cluster::builder()).await;
        let mut consumer = earliest(&world).build().await.unwrap();
        let handle = consumer.handle();
        let mut parted;
        let mut stream: Pin<Box<dyn Stream<Item = Result<SharedRecord, Error>> + '_>> = if is_split {
            parted = consumer.split();
            Box::pin(parted.take_streams().remove(0))
        } else {
            Box::pin(consumer.stream())
        };
        let mut offsets = Vec::new();
        for n in 0..50 {
            if n == 5 {
                assert_eq!(handle.position(&tp("t", 0)), Some(5), "behind the record, not behind the batch");
                assert_eq!(handle.lag(&tp("t", 0)), Some(15));
                lose_and_write(&world, 100..140).await;
                pass(SECOND).await;
            }
            let record = within("a record", stream.next()).await.unwrap().unwrap();
            offsets.push((record.offset(), std::str::from_utf8(record.value().unwrap()).unwrap().parse().unwrap()));
        }
        let expected: Vec<(i64, i64)> = (0..50).zip((0..10).chain(100..140)).collect();
        assert_eq!(offsets, expected, "split: {is_split}");
        assert_eq!(handle.try_next_event(), None, "nothing that anybody has seen is gone");
    }
}

/// The leader names the follower in the reader's rack before it looks at its log, so it says nothing of what it has cut off.
#[tokio::test(start_paused = true)]
async fn a_truncation_is_found_before_a_follower_of_the_new_leader_is_read() {
    let world = World::new(Cluster::builder().brokers(3).racks(["a", "b", "c"]).topic("t", 1)).await;
    world.cluster.move_leader("t", 0, 1);
    world.write("t", 0, 0..10).await;
    for behind in [2, 3] {
        world.cluster.hold_follower("t", 0, behind);
        world.cluster.drop_from_isr("t", 0, behind);
    }
    world.write("t", 0, 10..20).await;
    let mut consumer = earliest(&world).rack("c").build().await.unwrap();
    assert_eq!(read(&mut consumer, 20).await.offsets("t", 0), (0..20).collect::<Vec<_>>());
    // Broker 2 is elected without the last ten, and broker 3 is in sync with it before it is asked.
    let handle = consumer.handle();
    handle.pause(&[tp("t", 0)]);
    world.cluster.elect_unclean("t", 0, 2);
    world.cluster.release_follower("t", 0, 3);
    world.write("t", 0, 100..140).await;
    pass(WAIT).await;
    assert!(world.cluster.partition_info("t", 0).isr.contains(&3));
    handle.resume(&[tp("t", 0)]);
    assert_eq!(read(&mut consumer, 40).await.values("t", 0), (100..140).collect::<Vec<_>>());
    let event = consumer.handle().try_next_event();
    assert!(matches!(event, Some(ConsumerEvent::Truncated { from: 20, to: Some(10), .. })), "{event:?}");
}

#[tokio::test(start_paused = true)]
async fn a_committed_offset_is_known_by_its_epoch_too() {
    for builder in both_ages() {
        let world = diverging(builder.clone()).await;
        let owner = world.client.new_owner("test");
        let _interest = owner.want_topics(["t"]);
        let member = || world.consumer("g").subscribe(["t"]).auto_commit(None).build();
        let mut consumer = member().await.unwrap();
        let mut count = 0;
        while count < 20 {
            let records = within("records", consumer.poll(WAIT)).await.unwrap();
            assert!(!records.is_empty(), "{count} so far");
            count += records.len();
            records.ack();
        }
        consumer.handle().commit().await.unwrap();
        consumer.close(WAIT).await.unwrap();
        lose_and_write(&world, 100..140).await;
        let mut consumer = member().await.unwrap();
        let first = within("a record", consumer.recv()).await.unwrap().unwrap();
        assert_eq!((first.offset(), first.value().unwrap()), (10, &b"100"[..]));
        let handle = consumer.handle();
        assert!(matches!(handle.try_next_event(), Some(ConsumerEvent::Truncated { from: 20, to: Some(10), .. })));
        consumer.close(WAIT).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn clean_elections_change_no_position_and_old_brokers_are_asked_once_for_each() {
    for (builder, questions) in both_ages().into_iter().zip([0, 5]) {
        let world = World::new(builder.brokers(3).topic("t", 1)).await;
        world.write("t", 0, 0..10).await;
        let mut consumer = earliest(&world).build().await.unwrap();
        assert_eq!(read(&mut consumer, 10).await.count(), 10);
        for round in 1..6 {
            world.cluster.move_leader("t", 0, (round % 3 + 1) as i32);
            world.write("t", 0, round * 10..round * 10 + 10).await;
            let seen = read(&mut consumer, 10).await;
            assert_eq!(seen.offsets("t", 0), (round * 10..round * 10 + 10).collect::<Vec<_>>());
        }
        assert_eq!(world.cluster.requests(Api::OffsetForLeaderEpoch), questions);
        assert_eq!(consumer.handle().try_next_event(), None);
        assert_eq!(world.fetched().1, 0, "nothing was fetched in vain");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_does_not_know_an_epoch_yet_is_asked_again_and_nothing_is_reset() {
    let world = World::new(Cluster::builder().newest_version(Api::Fetch, 11).brokers(2).topic("t", 1)).await;
    world.write("t", 0, 0..10).await;
    world.cluster.faults().when(Api::OffsetForLeaderEpoch).then(Reaction::Error(ErrorCode::UNKNOWN_LEADER_EPOCH));
    let mut consumer = earliest(&world).build().await.unwrap();
    read(&mut consumer, 10).await;
    world.cluster.move_leader("t", 0, 2);
    world.write("t", 0, 10..20).await;
    assert_eq!(read(&mut consumer, 10).await.offsets("t", 0), (10..20).collect::<Vec<_>>(), "asked again, no reset");
    assert_eq!(world.cluster.requests(Api::OffsetForLeaderEpoch), 2);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_moves_again_while_it_is_asked_about_the_position_is_not_believed() {
    let world = World::new(Cluster::builder().newest_version(Api::Fetch, 11).brokers(3).topic("t", 1)).await;
    world.write("t", 0, 0..10).await;
    let mut consumer = earliest(&world).build().await.unwrap();
    read(&mut consumer, 10).await;
    let asked = world.cluster.stop_when(Api::OffsetForLeaderEpoch).nth(1).before_answering();
    world.cluster.move_leader("t", 0, 2);
    within("the question", asked.reached()).await;
    world.cluster.move_leader("t", 0, 3);
    world.client.refresh_metadata(milena_client::RefreshReason::Asked);
    pass(SECOND).await;
    asked.go_on();
    world.write("t", 0, 10..20).await;
    assert_eq!(read(&mut consumer, 10).await.offsets("t", 0), (10..20).collect::<Vec<_>>());
    assert_eq!(world.cluster.requests(Api::OffsetForLeaderEpoch), 2);
}

#[tokio::test(start_paused = true)]
async fn an_offset_that_fell_out_of_retention_is_told_with_what_is_lost() {
    for (policy, first) in [
        (OffsetReset::Earliest, 20),
        (OffsetReset::Latest, 40),
        (OffsetReset::ByDuration(Duration::from_secs(3600)), 40),
    ] {
        let world = World::new(Cluster::builder().brokers(1).topic("t", 1)).await;
        for start in 0..4 {
            world.write("t", 0, start * 10..start * 10 + 10).await;
        }
        let mut consumer = world.reader("t", 0..1).offset_reset(policy).max_partition_bytes(1).build().await.unwrap();
        let handle = consumer.handle();
        read(&mut consumer, 10).await;
        handle.pause(&[tp("t", 0)]);
        pass(SECOND).await;
        // Whatever had been fetched before the pause is still good; what comes behind is gone.
        world.cluster.delete_records("t", 0, 30);
        handle.seek(&tp("t", 0), StartAt::Offset(10)).unwrap();
        handle.resume(&[tp("t", 0)]);
        let event = within("the event", handle.next_event()).await.unwrap();
        let first = first.max(30);
        let reset = ConsumerEvent::Reset {
            partition: tp("t", 0),
            from: Some(10),
            to: first,
            policy,
            reason: ResetReason::OutOfRange,
            lost: 20,
        };
        assert_eq!(event, reset);
        world.write("t", 0, 40..50).await;
        assert_eq!(read(&mut consumer, 1).await.offsets("t", 0), [first]);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_policy_an_offset_that_is_gone_is_an_error_with_what_is_lost() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 1)).await;
    world.write("t", 0, 0..30).await;
    world.cluster.delete_records("t", 0, 20);
    let mut consumer = world.reader("t", 0..1).offset_reset(OffsetReset::None).build().await.unwrap();
    let handle = consumer.handle();
    for (offset, lost) in [(5, 15), (1000, 0)] {
        handle.seek(&tp("t", 0), StartAt::Offset(offset)).unwrap();
        let error = within("the error", consumer.recv()).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::OFFSET_OUT_OF_RANGE));
        let gone = OffsetGone::of(&error).unwrap();
        assert_eq!((gone.offset, gone.log_start, gone.lost), (offset, 20, lost));
        let event = ConsumerEvent::OutOfRange { partition: tp("t", 0), offset, log_start: 20, lost };
        assert_eq!(handle.try_next_event(), Some(event));
        assert_eq!(handle.position(&tp("t", 0)), Some(offset), "the position stays");
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_that_has_committed_nothing_is_told_where_it_starts() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 1)).await;
    world.write("t", 0, 0..30).await;
    let consumer = world.consumer("g").subscribe(["t"]).offset_reset(OffsetReset::Latest).build().await.unwrap();
    let event = within("the event", consumer.handle().next_event()).await.unwrap();
    let reset = ConsumerEvent::Reset {
        partition: tp("t", 0),
        from: None,
        to: 30,
        policy: OffsetReset::Latest,
        reason: ResetReason::NothingCommitted,
        lost: 0,
    };
    assert_eq!(event, reset);
}

#[tokio::test(start_paused = true)]
async fn paused_partitions_that_fill_the_budget_do_not_starve_the_one_that_is_read() {
    let world = World::new(Cluster::builder().brokers(2).topic("t", 100).request_log(false)).await;
    for partition in 0..100 {
        for start in 0..8 {
            world.write("t", partition, start * 100..start * 100 + 100).await;
        }
    }
    let budget = 64 << 10;
    let mut consumer = world.reader("t", 0..100).buffer_memory(budget).build().await.unwrap();
    let handle = consumer.handle();
    // All of them fill the budget; then all but one are paused with what they have.
    pass(SECOND).await;
    let held = world.fetched().0;
    assert!(held <= 2 * budget as i64, "{held}");
    let paused: Vec<_> = (0..100).filter(|partition| *partition != 57).map(|partition| tp("t", partition)).collect();
    handle.pause(&paused);
    let seen = read(&mut consumer, 800).await;
    assert_eq!(seen.offsets("t", 57), (0..800).collect::<Vec<_>>());
    handle.resume(&paused);
    let seen = read(&mut consumer, 99 * 800).await;
    assert!(paused.iter().all(|tp| seen.offsets("t", tp.partition) == (0..800).collect::<Vec<_>>()));
    assert_eq!(world.fetched().1, 0, "nothing was thrown away");
}

#[tokio::test(start_paused = true)]
async fn a_batch_larger_than_its_limit_and_larger_than_the_budget_arrives() {
    for (budget, partition_bytes) in [(1 << 20, 500), (1000, 500), (1000, 1 << 20)] {
        let world = World::new(Cluster::builder().brokers(1).topic("t", 2).request_log(false)).await;
        for partition in 0..2 {
            for start in 0..3 {
                world.write("t", partition, start * 500..start * 500 + 500).await;
            }
        }
        let builder = world.reader("t", 0..2).buffer_memory(budget).max_partition_bytes(partition_bytes);
        let mut consumer = builder.build().await.unwrap();
        let seen = read(&mut consumer, 3000).await;
        for partition in 0..2 {
            assert_eq!(seen.offsets("t", partition), (0..1500).collect::<Vec<_>>());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn closing_ends_everything_whatever_is_under_way() {
    type Trouble = fn(&World);
    let troubles: [(&str, Trouble); 6] = [
        ("looking up", |world| drop(world.cluster.faults().when(Api::ListOffsets).always().then(Reaction::Drop))),
        ("the broker is silent", |world| drop(world.cluster.faults().when(Api::Fetch).always().then(Reaction::Drop))),
        ("throttled", |world| world.cluster.throttle(Api::Fetch, Duration::from_secs(30))),
        ("resetting", |world| {
            world.cluster.delete_records("t", 0, 20);
            world.cluster.faults().when(Api::ListOffsets).then(Reaction::Drop);
        }),
        ("no broker is up", |world| world.cluster.crash(1)),
        ("the budget is used up", |_| {}),
    ];
    for (what, trouble) in troubles {
        let world = World::new(Cluster::builder().brokers(1).topic("t", 1)).await;
        for start in 0..4 {
            world.write("t", 0, start * 10..start * 10 + 10).await;
        }
        let before = world.client.tasks();
        trouble(&world);
        let start = if what == "resetting" { StartAt::Offset(5) } else { StartAt::Beginning };
        let builder = PartitionConsumer::builder(&world.client).assign("t", [0], start).buffer_memory(200);
        let mut consumer = builder.offset_reset(OffsetReset::Earliest).build().await.unwrap();
        if what != "the budget is used up" {
            consumer.poll(SECOND * 2).await.unwrap();
        }
        pass(SECOND).await;
        within(what, consumer.close(WAIT)).await.unwrap();
        pass(SECOND).await;
        assert_eq!(world.client.tasks(), before, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_made_anew_is_never_read_on_at_an_old_offset() {
    for policy in [OffsetReset::Earliest, OffsetReset::Latest, OffsetReset::None] {
        let world = World::new(Cluster::builder().brokers(2).topic("t", 1)).await;
        world.write("t", 0, 0..10).await;
        let mut consumer = world.reader("t", 0..1).offset_reset(policy).build().await.unwrap();
        let handle = consumer.handle();
        read(&mut consumer, 10).await;
        world.cluster.delete_topic("t");
        pass(SECOND).await;
        world.cluster.create_topic("t", 1);
        world.write("t", 0, 100..130).await;
        let event = within("the event", handle.next_event()).await.unwrap();
        assert!(matches!(&event, ConsumerEvent::TopicRecreated { position: Some(10), old, new, .. } if old != new));
        if policy == OffsetReset::None {
            let error = within("the error", consumer.recv()).await.unwrap_err();
            assert_eq!((error.kind(), error.topic_partition()), (ErrorKind::TopicRecreated, Some(&tp("t", 0))));
            handle.seek(&tp("t", 0), StartAt::Beginning).unwrap();
            assert_eq!(read(&mut consumer, 30).await.values("t", 0), (100..130).collect::<Vec<_>>());
            continue;
        }
        let event = within("the reset", handle.next_event()).await.unwrap();
        let reason = ResetReason::TopicRecreated;
        assert!(matches!(event, ConsumerEvent::Reset { from: Some(10), reason: r, .. } if r == reason), "{event:?}");
        // The end, too, was that of the topic when it was new.
        assert_eq!(read(&mut consumer, 30).await.values("t", 0), (100..130).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_nobody_knows_is_an_error_after_a_while_and_read_when_it_is_there() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 1)).await;
    for (topic, partition) in [("later", 0), ("t", 7)] {
        let reader = PartitionConsumer::builder(&world.client).assign(topic, [partition], StartAt::Beginning);
        let mut consumer = reader.api_timeout(Duration::from_secs(20)).build().await.unwrap();
        assert!(consumer.poll(Duration::from_secs(19)).await.unwrap().is_empty());
        let error = consumer.poll(SECOND * 2).await.unwrap_err();
        let expected = (ErrorKind::UnknownTopicOrPartition, Some(&tp(topic, partition)));
        assert_eq!((error.kind(), error.topic_partition()), expected);
        assert_eq!(
            consumer.handle().try_next_event(),
            Some(ConsumerEvent::Unavailable { partition: tp(topic, partition) })
        );
        assert!(consumer.poll(Duration::from_secs(17)).await.unwrap().is_empty());
        assert_eq!(
            consumer.poll(SECOND * 4).await.unwrap_err().to_string(),
            error.to_string(),
            "it still is not there"
        );
        assert_eq!(consumer.handle().try_next_event(), None, "that is no news");
        if topic == "later" {
            world.cluster.create_topic("later", 1);
            world.write("later", 0, 0..5).await;
            assert_eq!(read(&mut consumer, 5).await.offsets("later", 0), [0, 1, 2, 3, 4]);
        }
    }
}

/// Three brokers in racks a, b and c; broker 1 leads.
async fn racks() -> World {
    let world = World::new(Cluster::builder().brokers(3).racks(["a", "b", "c"]).topic("t", 1)).await;
    world.cluster.move_leader("t", 0, 1);
    world.write("t", 0, 0..10).await;
    world
}

fn fetches(world: &World, broker: i32) -> usize {
    world.cluster.request_log().api(Api::Fetch).broker(broker).count()
}

#[tokio::test(start_paused = true)]
async fn a_follower_in_the_readers_rack_is_read_until_its_time_is_over_and_then_the_leader_is_asked_again() {
    let world = racks().await;
    let mut consumer = world.reader("t", 0..1).rack("c").build().await.unwrap();
    assert_eq!(read(&mut consumer, 10).await.offsets("t", 0), (0..10).collect::<Vec<_>>());
    assert_eq!(fetches(&world, 1), 1, "the leader has named the follower");
    for round in 1..10 {
        world.write("t", 0, round * 10..round * 10 + 10).await;
        assert_eq!(read(&mut consumer, 10).await.offsets("t", 0), (round * 10..round * 10 + 10).collect::<Vec<_>>());
    }
    assert_eq!((fetches(&world, 1), fetches(&world, 2)), (1, 0));
    assert!(consumer.poll(Duration::from_secs(310)).await.unwrap().is_empty());
    assert_eq!(fetches(&world, 1), 2, "after metadata.max.age");
    assert_eq!(world.fetched().1, 0, "nothing was fetched in vain");
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_fails_is_left_for_the_leader() {
    let out_of_range = ErrorCode::OFFSET_OUT_OF_RANGE;
    for trouble in [Some(out_of_range), Some(ErrorCode::NOT_LEADER_OR_FOLLOWER), None] {
        let world = racks().await;
        let mut consumer = world.reader("t", 0..1).rack("c").offset_reset(OffsetReset::None).build().await.unwrap();
        assert_eq!(read(&mut consumer, 10).await.count(), 10);
        match trouble {
            Some(code) => drop(world.cluster.faults().when(Api::Fetch).broker(3).always().then(Reaction::Error(code))),
            None => drop(world.cluster.faults().when(Api::Fetch).broker(3).always().then(Reaction::Disconnect)),
        }
        for round in 1..5 {
            world.write("t", 0, round * 10..round * 10 + 10).await;
            let seen = read(&mut consumer, 10).await;
            assert_eq!(seen.offsets("t", 0), (round * 10..round * 10 + 10).collect::<Vec<_>>());
        }
        assert!(fetches(&world, 1) >= 4 && fetches(&world, 3) <= 3, "{}", world.cluster.request_log());
        assert_eq!(consumer.handle().try_next_event(), None, "a follower resets nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_a_broker_names_is_read_at_once() {
    let world = World::new(Cluster::builder().brokers(3).topic("t", 1)).await;
    world.cluster.move_leader("t", 0, 1);
    world.write("t", 0, 0..10).await;
    let mut consumer = world.reader("t", 0..1).build().await.unwrap();
    read(&mut consumer, 10).await;
    // Nobody else says who leads.
    let silent = world.cluster.faults().when(Api::Metadata).always().optional().then(Reaction::Drop);
    world.cluster.move_leader("t", 0, 3);
    assert!(consumer.poll(SECOND).await.unwrap().is_empty());
    assert!(fetches(&world, 3) > 0, "{}", world.cluster.request_log());
    silent.remove();
    world.write("t", 0, 10..20).await;
    assert_eq!(read(&mut consumer, 10).await.offsets("t", 0), (10..20).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn offsets_are_looked_up_at_all_leaders_at_once_and_again_where_one_has_moved() {
    let world = World::new(Cluster::builder().brokers(3).topic("t", 6)).await;
    for partition in 0..6 {
        world.write("t", partition, 0..10).await;
        world.write("t", partition, 10..20).await;
    }
    world.cluster.delete_records("t", 3, 7);
    let consumer = world.reader("t", 0..1).api_timeout(Duration::from_secs(10)).build().await.unwrap();
    let handle = consumer.handle();
    let all = || (0..6).map(|partition| tp("t", partition));
    pass(SECOND).await;
    let asked = world.cluster.requests(Api::ListOffsets);
    let ends = handle.end_offsets(all()).await.unwrap();
    assert_eq!(world.cluster.requests(Api::ListOffsets) - asked, 3, "one question for each leader");
    assert!(ends.len() == 6 && ends.values().all(|end| *end == 20), "{ends:?}");
    let refused = Reaction::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER);
    world.cluster.faults().when(Api::ListOffsets).partition(3).times(2).then(refused);
    let begins = handle.beginning_offsets(all()).await.unwrap();
    assert_eq!((begins[&tp("t", 3)], begins[&tp("t", 2)]), (7, 0));
    // The values' numbers are the timestamps, from 1000 on.
    let times = [(tp("t", 0), 1015), (tp("t", 1), 5000)];
    let found = handle.offsets_for_times(times).await.unwrap();
    let place = found[&tp("t", 0)].unwrap();
    assert_eq!((place.offset, place.timestamp, found[&tp("t", 1)]), (15, 1015, None));
    let error = handle.offsets_for_times([(tp("t", 0), -1)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let error = within("the deadline", handle.end_offsets([tp("nowhere", 0)])).await.unwrap_err();
    assert_eq!((error.kind(), error.topic_partition()), (ErrorKind::UnknownTopicOrPartition, Some(&tp("nowhere", 0))));
}

/// A world whose wall clock stands at ten seconds after 1970.
async fn at_ten_seconds() -> World {
    let cluster = Cluster::builder().brokers(1).topic("t", 1).start_in_memory().unwrap();
    let client = milena_client::Client::builder(cluster.bootstrap_servers())
        .connector(cluster.connector())
        .resolver(cluster.resolver())
        .simulation(tokio::runtime::Handle::current())
        .wall_clock(milena_client::WallClock::from_fn(|| 10_000))
        .connect()
        .await
        .unwrap();
    let world = World::of(cluster, client);
    world.write("t", 0, 0..10).await;
    world.write("t", 0, 10..20).await;
    world
}

#[tokio::test(start_paused = true)]
async fn a_reset_by_duration_starts_with_the_first_record_that_is_young_enough() {
    let world = at_ten_seconds().await;
    // The values' numbers are the timestamps, from 1000 on.
    for (ago, first) in [(8_985, 15), (9_000, 0), (1 << 40, 0)] {
        let policy = OffsetReset::ByDuration(Duration::from_millis(ago));
        let reader = PartitionConsumer::builder(&world.client).assign("t", [0], StartAt::Offset(99));
        let mut consumer = reader.offset_reset(policy).build().await.unwrap();
        assert_eq!(read(&mut consumer, 1).await.offsets("t", 0), [first]);
        let event = consumer.handle().try_next_event().unwrap();
        assert!(matches!(event, ConsumerEvent::Reset { from: Some(99), lost: 0, .. }), "{event:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_seeks_wakes_a_read_that_waits() {
    let world = at_ten_seconds().await;
    let mut consumer = world.reader("t", 0..1).build().await.unwrap();
    read(&mut consumer, 20).await;
    let handle = consumer.handle();
    for (to, first) in [(StartAt::Offset(7), 7), (StartAt::Timestamp(1015), 15), (StartAt::Beginning, 0)] {
        handle.seek(&tp("t", 0), StartAt::End).unwrap();
        let (record, ()) =
            tokio::join!(async { within("a record", consumer.recv()).await.unwrap().unwrap().offset() }, async {
                pass(SECOND).await;
                assert_eq!(handle.position(&tp("t", 0)), Some(20));
                handle.seek(&tp("t", 0), to).unwrap();
            });
        assert_eq!((record, handle.position(&tp("t", 0))), (first, Some(first + 1)));
    }
}

#[tokio::test(start_paused = true)]
async fn lag_in_time_is_that_of_the_next_record_and_nothing_at_the_end() {
    let world = at_ten_seconds().await;
    let mut consumer = world.reader("t", 0..1).max_poll_records(5).build().await.unwrap();
    let handle = consumer.handle();
    let lag = || handle.lag_time(&tp("t", 0)).map(|lag| lag.as_millis());
    assert_eq!(lag(), None, "nothing is known yet");
    let mut lags = Vec::new();
    for _ in 0..4 {
        assert_eq!(within("records", consumer.poll(WAIT)).await.unwrap().len(), 5);
        lags.push(lag().unwrap());
    }
    assert_eq!(lags, [9000, 8990, 8990, 0]);
}

/// Where a tombstone is left, compaction writes into the header when it may go, and that lies in the future (KIP-534).
#[tokio::test(start_paused = true)]
async fn lag_in_time_is_not_that_of_a_delete_horizon() {
    let compacted = Cluster::builder().brokers(1).topic_with("t", 1, [("cleanup.policy", "compact")]);
    let world = World::new(compacted).await;
    world.write_batch("t", 0, batch_of(&[(Some(b"ada"), Some(b"1"))])).await;
    world.write_batch("t", 0, batch_of(&[(Some(b"bob"), None), (Some(b"cyd"), Some(b"2"))])).await;
    world.write_batch("t", 0, batch_of(&[(Some(b"dan"), Some(b"3"))])).await;
    world.cluster.compact("t");
    let mut consumer = world.reader("t", 0..1).max_poll_records(1).build().await.unwrap();
    pass(SECOND).await;
    let handle = consumer.handle();
    let mut lags = Vec::new();
    for _ in 0..4 {
        assert_eq!(within("records", consumer.poll(WAIT)).await.unwrap().len(), 1);
        lags.push(handle.lag_time(&tp("t", 0)).unwrap().is_zero());
    }
    assert_eq!(lags, [false, false, false, true]);
}

#[tokio::test(start_paused = true)]
async fn settings_that_make_no_sense_together_are_refused_with_a_sentence() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 1)).await;
    let with = |change: fn(PartitionConsumerBuilder) -> PartitionConsumerBuilder| change(world.reader("t", 0..1));
    for (builder, named) in [
        (with(|builder| builder.min_bytes(2000).max_bytes(1000)), "min_bytes"),
        (with(|builder| builder.min_bytes(2000).buffer_memory(1000)), "buffer_memory"),
        (with(|builder| builder.buffer_memory(0)), "buffer_memory"),
        (with(|builder| builder.max_partition_bytes(0)), "max_partition_bytes"),
        (with(|builder| builder.max_batch_bytes(0)), "max_batch_bytes"),
        (with(|builder| builder.max_wait(Duration::from_secs(3600))), "max_wait"),
        (with(|builder| builder.api_timeout(Duration::ZERO)), "api_timeout"),
        (with(|builder| builder.assign("t", [0], StartAt::End)), "twice"),
        (with(|builder| builder.assign("t", [-1], StartAt::End)), "numbered"),
        (with(|builder| builder.assign("u", [0], StartAt::Offset(-5))), "negative"),
        (with(|builder| builder.assign("u", [0], StartAt::Timestamp(-5))), "1970"),
    ] {
        let error = builder.build().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(named), "{error}");
    }
    let consumer = world.reader("t", 0..1).build().await.unwrap();
    assert_eq!(consumer.handle().seek(&tp("t", 0), StartAt::Offset(-1)).unwrap_err().kind(), ErrorKind::Config);
}

#[tokio::test(start_paused = true)]
async fn metrics_have_javas_names_and_what_they_say_adds_up() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 1)).await;
    world.write("t", 0, 0..100).await;
    let mut consumer = world.reader("t", 0..1).max_poll_records(30).build().await.unwrap();
    within("records", consumer.poll(WAIT)).await.unwrap();
    assert_eq!((world.metric("records-lag"), world.metric("records-lag-max")), (70, 100));
    assert_eq!((world.metric("records-lead"), world.metric("records-lead-min")), (30, 0));
    assert_eq!(world.metric("preferred-read-replica"), -1, "the leader");
    assert_eq!((world.metric("records-consumed-total"), world.metric("records-per-request-avg")), (30, 100));
    assert_eq!(world.metric("fetch-size-avg"), world.metric("fetch-size-max"));
    assert_eq!(world.metric("fetch-size-max"), world.metric("batch-bytes-fetched-total"));
    assert!(consumer.poll(WAIT).await.unwrap().len() == 30);
    pass(SECOND * 2).await;
    assert!(world.metric("fetch-total") >= 2 && world.metric("bytes-consumed-rate") > 0);
    assert_eq!(world.metric("fetch-latency-max"), 500, "an empty answer waits that long");
    assert_eq!(world.metric("fetch-throttle-time-max"), 0);
    assert_eq!(world.metric("records-consumed-rate"), 60 / 30 - 1, "60 in the first half minute, as Java counts it");
}
