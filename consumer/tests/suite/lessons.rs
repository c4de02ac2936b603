//! What other clients learnt as bugs of their fetch paths, as scenarios in virtual time. The numbers are those of the list that they were
//! collected in; most brokers here are the in-process cluster's, and where they say what no cluster says, somebody stands between.

#![expect(clippy::disallowed_methods, reason = "tests sleep on the paused clock")]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use milena_client::protocol::Uuid;
use milena_client::protocol::messages::fetch_response::PartitionData;
use milena_client::protocol::messages::{BrokerId, FetchRequest, FetchResponse};
use milena_client::protocol::records::{BatchBuilder, Compression, Compressor, ProducerStamp};
use milena_client::{ErrorKind, RefreshReason};
use milena_consumer::{
    ConsumerEvent, IsolationLevel, OffsetReset, PartitionConsumer, PartitionConsumerBuilder, ResetReason, StartAt,
};
use milena_testkit::{Api, Cluster, ClusterBuilder, ErrorCode, Reaction};
use tokio::time::sleep;

use crate::between::Between;
use crate::common::{Seen, World, batch_of, tp, within};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

async fn read(consumer: &mut PartitionConsumer, count: usize) -> Seen {
    let mut seen = Seen::default();
    while seen.count() < count {
        let what = format!("record {} of {count}", seen.count());
        seen.note(within(&what, consumer.recv()).await.unwrap().unwrap());
    }
    seen
}

/// Reads the next records of partition 0, which have these offsets and no others.
async fn read_on(consumer: &mut PartitionConsumer, offsets: Range<i64>) {
    let seen = read(consumer, offsets.clone().count()).await;
    assert_eq!(seen.offsets("t", 0), offsets.collect::<Vec<_>>());
}

/// Nothing comes for so long.
async fn nothing_comes(consumer: &mut PartitionConsumer, time: Duration) {
    let records = consumer.poll(time).await.unwrap();
    assert!(records.is_empty(), "{} records", records.len());
}

/// One topic, `t`, with one partition, which broker 1 leads.
fn cluster(brokers: u8) -> ClusterBuilder {
    Cluster::builder().brokers(brokers).topic("t", 1)
}

fn earliest(world: &World) -> PartitionConsumerBuilder {
    world.reader("t", 0..1).offset_reset(OffsetReset::Earliest)
}

fn committed(world: &World) -> PartitionConsumerBuilder {
    world.reader("t", 0..1).isolation_level(IsolationLevel::ReadCommitted)
}

fn fetches(world: &World) -> usize {
    world.cluster.requests(Api::Fetch)
}

/// A batch of a transaction whose values are the numbers as text.
fn transactional(producer_id: i64, base_sequence: i32, numbers: Range<i64>, codec: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(vec![0; 64 << 10], 0);
    for number in numbers {
        builder.append(1000 + number, None, Some(number.to_string().as_bytes()), &[]).unwrap();
    }
    let mut sealed = builder.seal();
    if codec != Compression::None {
        sealed = sealed.compress(&mut Compressor::new(codec).unwrap(), Vec::new()).0;
    }
    sealed.stamp(ProducerStamp { producer_id, epoch: 0, base_sequence, transactional: true });
    Bytes::copy_from_slice(sealed.bytes())
}

/// Writes by hand, as a leader that is asked by nobody.
fn append(world: &World, batch: &Bytes) -> i64 {
    world.cluster.append("t", 0, batch).unwrap()
}

fn end(world: &World, producer_id: i64, commit: bool) -> i64 {
    world.cluster.append_marker("t", 0, (producer_id, 0), commit).unwrap()
}

/// Every partition of an answer.
fn partitions(answer: &mut FetchResponse) -> impl Iterator<Item = &mut PartitionData> {
    answer.responses.iter_mut().flat_map(|topic| &mut topic.partitions)
}

#[tokio::test(start_paused = true)]
async fn lesson_34_what_compaction_took_from_the_end_of_a_batch_is_passed_and_an_emptied_batch_too() {
    let world = World::new(Cluster::builder().brokers(1).topic_with("t", 1, [("cleanup.policy", "compact")])).await;
    let of = |keys: &[&'static str]| -> Vec<(Option<&[u8]>, Option<&[u8]>)> {
        keys.iter().map(|key| (Some(key.as_bytes()), Some(&b"1"[..]))).collect()
    };
    world.write_batch("t", 0, batch_of(&of(&["ada", "bob", "cyd"]))).await;
    world.write_batch("t", 0, batch_of(&of(&["bob", "cyd"]))).await;
    world.write_batch("t", 0, batch_of(&[(Some(b"cyd"), None)])).await;
    // The second compaction, a day later, takes the tombstone; the header of its batch stays, as the log's last.
    world.cluster.compact("t");
    sleep(2 * 24 * 3600 * SECOND).await;
    world.cluster.compact("t");
    let mut consumer = world.reader("t", 0..1).max_poll_records(1).build().await.unwrap();
    let handle = consumer.handle();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let records = within("a record", consumer.poll(SECOND)).await.unwrap();
        let offsets: Vec<i64> = records.iter().map(|record| record.offset()).collect();
        seen.push((offsets, handle.position(&tp("t", 0)).unwrap()));
    }
    assert_eq!(seen, [(vec![0], 3), (vec![3], 5)], "behind the batches, not behind the records");
    nothing_comes(&mut consumer, SECOND).await;
    assert_eq!((handle.position(&tp("t", 0)), handle.lag(&tp("t", 0))), (Some(6), Some(0)));
}

#[tokio::test(start_paused = true)]
async fn lesson_35_no_aborted_record_is_delivered_however_the_list_of_transactions_is_sorted() {
    for turns in 0..4 {
        let (world, between) = Between::start(cluster(1)).await;
        // Producers 7, 8, 9 and 7 again abort, interleaved; 5 commits.
        append(&world, &transactional(7, 0, 0..3, Compression::None));
        append(&world, &transactional(8, 0, 3..6, Compression::None));
        append(&world, &transactional(5, 0, 6..9, Compression::None));
        end(&world, 7, false);
        append(&world, &transactional(9, 0, 10..13, Compression::None));
        append(&world, &transactional(7, 3, 13..16, Compression::None));
        for (producer, commit) in [(8, false), (5, true), (7, false), (9, false)] {
            end(&world, producer, commit);
        }
        between.alter_fetches(move |_, _, answer| {
            for aborted in partitions(answer).filter_map(|partition| partition.aborted_transactions.as_mut()) {
                assert!(aborted.is_empty() || aborted.len() == 4);
                if !aborted.is_empty() {
                    aborted.sort_by_key(|aborted| std::cmp::Reverse(aborted.first_offset));
                    aborted.rotate_left(turns);
                }
            }
        });
        let mut consumer = committed(&world).build().await.unwrap();
        assert_eq!(read(&mut consumer, 3).await.values("t", 0), [6, 7, 8]);
        nothing_comes(&mut consumer, SECOND).await;
        assert_eq!(consumer.handle().position(&tp("t", 0)), Some(20));
    }
}

/// What is aborted is dropped by its header alone, so that header must be right: it says how far the batch goes.
#[tokio::test(start_paused = true)]
async fn the_header_of_an_aborted_batch_is_checked_before_it_is_passed() {
    let world = World::new(cluster(1)).await;
    append(&world, &transactional(7, 0, 0..3, Compression::None));
    end(&world, 7, false);
    world.write("t", 0, 4..10).await;
    // The last offset delta, one high bit: the batch seems to reach far behind all that follows.
    assert!(world.cluster.spoil("t", 0, 0, |bytes| bytes[24] |= 0x40));
    let mut consumer = committed(&world).offset_reset(OffsetReset::Latest).build().await.unwrap();
    let error = within("the error", consumer.recv()).await.unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Malformed, Some(0)), "{error}");
    consumer.handle().seek(&tp("t", 0), StartAt::Offset(4)).unwrap();
    assert_eq!(read(&mut consumer, 6).await.values("t", 0), [4, 5, 6, 7, 8, 9]);
    assert_eq!(consumer.handle().try_next_event(), None, "nothing was reset");
}

#[tokio::test(start_paused = true)]
async fn lesson_36_a_marker_of_a_producer_without_records_here_hides_nothing_that_follows() {
    let world = World::new(cluster(1)).await;
    // Of another partition's transactions; and twice, as a coordinator may write it.
    for _ in 0..2 {
        end(&world, 7, false);
    }
    append(&world, &transactional(7, 0, 0..3, Compression::None));
    end(&world, 7, true);
    append(&world, &transactional(7, 3, 3..6, Compression::None));
    end(&world, 7, false);
    end(&world, 7, false);
    append(&world, &transactional(7, 6, 6..9, Compression::None));
    end(&world, 7, true);
    let mut consumer = committed(&world).build().await.unwrap();
    assert_eq!(read(&mut consumer, 6).await.values("t", 0), [0, 1, 2, 6, 7, 8]);
    nothing_comes(&mut consumer, SECOND).await;
    assert_eq!(consumer.handle().lag(&tp("t", 0)), Some(0));
}

#[tokio::test(start_paused = true)]
async fn lesson_37_answers_full_of_aborted_records_are_passed_also_compressed_ones() {
    for codec in [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let world = World::new(cluster(1)).await;
        let batch = |n: i64| transactional(7, n as i32 * 100, n * 100..n * 100 + 100, codec);
        for n in 0..30 {
            append(&world, &batch(n));
        }
        end(&world, 7, false);
        append(&world, &transactional(8, 0, 9000..9001, codec));
        end(&world, 8, true);
        // Two batches and a piece in each answer.
        let limit = batch(29).len() as u32 * 2 + 100;
        let mut consumer = committed(&world).max_partition_bytes(limit).build().await.unwrap();
        assert_eq!(read(&mut consumer, 1).await.values("t", 0), [9000], "{codec:?}");
        nothing_comes(&mut consumer, SECOND).await;
        let handle = consumer.handle();
        assert_eq!((handle.position(&tp("t", 0)), handle.lag(&tp("t", 0))), (Some(3003), Some(0)));
        assert!(fetches(&world) < 30, "no request for nothing: {}", fetches(&world));
        assert_eq!(handle.try_next_event(), None);
    }
}

/// A full answer begins with the first partition that is asked for, and only that one may have more than its limit.
#[tokio::test(start_paused = true)]
async fn without_sessions_each_partition_is_the_first_one_in_turn() {
    let (world, between) = Between::start(Cluster::builder().brokers(1).topic("t", 3)).await;
    between.alter_fetches(|_, _, answer| answer.session_id = 0);
    let batch = |at: i64, bytes: usize| {
        let mut builder = BatchBuilder::new(vec![0; 64 << 10], 0);
        let text = format!("{at:0bytes$}");
        builder.append(1000, None, Some(text.as_bytes()), &[]).unwrap();
        let mut sealed = builder.seal();
        sealed.stamp(ProducerStamp::NONE);
        Bytes::copy_from_slice(sealed.bytes())
    };
    for n in 0..200 {
        world.cluster.append("t", 0, &batch(n, 3000)).unwrap();
        world.cluster.append("t", 1, &batch(n, 3000)).unwrap();
    }
    world.cluster.append("t", 2, &batch(0, 20_000)).unwrap();
    let limited = world.reader("t", 0..3).max_partition_bytes(4096).max_bytes(10_000);
    let mut consumer = limited.build().await.unwrap();
    let seen = read(&mut consumer, 60).await;
    assert_eq!(seen.offsets("t", 2), [0], "what is larger than the limit arrives all the same");
    let counts = [seen.offsets("t", 0).len(), seen.offsets("t", 1).len()];
    assert!(counts.iter().all(|count| *count > 15), "in turn: {counts:?}");
    assert_eq!(read(&mut consumer, 341).await.count(), 341);
}

/// What each Fetch request says of its session: id, epoch, partitions named.
type Sessions = Arc<Mutex<Vec<(i32, i32, usize)>>>;

fn note_sessions(
    between: &Between,
    mut and: impl FnMut(&FetchRequest, &mut FetchResponse) + Send + 'static,
) -> Sessions {
    let seen = Sessions::default();
    let noted = seen.clone();
    between.alter_fetches(move |_, request, answer| {
        let named = request.topics.iter().map(|topic| topic.partitions.len()).sum();
        noted.lock().unwrap().push((request.session_id, request.session_epoch, named));
        and(request, answer);
    });
    seen
}

#[tokio::test(start_paused = true)]
async fn lesson_38_a_broker_without_sessions_is_read_without_them_and_a_lost_session_is_begun_anew_once() {
    type Answer = fn(&FetchRequest, &mut FetchResponse);
    fn refuse(answer: &mut FetchResponse) {
        *answer = FetchResponse::default().with_error_code(ErrorCode::FETCH_SESSION_ID_NOT_FOUND.0);
    }
    let no_room: Answer = |_, answer| answer.session_id = 0;
    let no_sessions: Answer = |request, answer| {
        if request.session_epoch != -1 {
            refuse(answer);
        }
    };
    for (answer, epoch, at_first) in [(no_room, 0, 0), (no_sessions, -1, 1)] {
        let (world, between) = Between::start(cluster(1)).await;
        let seen = note_sessions(&between, answer);
        world.write("t", 0, 0..10).await;
        let mut consumer = earliest(&world).build().await.unwrap();
        read_on(&mut consumer, 0..10).await;
        nothing_comes(&mut consumer, 10 * SECOND).await;
        world.write("t", 0, 10..20).await;
        read_on(&mut consumer, 10..20).await;
        let seen = seen.lock().unwrap().clone();
        assert!(seen[at_first..].iter().all(|request| *request == (0, epoch, 1)), "for ever: {seen:?}");
        assert!(seen.len() <= 24 + at_first, "{} requests in 10 s, each of which may wait for half of one", seen.len());
    }
    // A live session that is thrown out by the broker: one more full request, and then the session goes on.
    let (world, between) = Between::start(cluster(1)).await;
    let seen = note_sessions(&between, move |request, answer| {
        if request.session_epoch == 4 && request.session_id != 0 && !answer.responses.is_empty() {
            refuse(answer);
        }
    });
    world.write("t", 0, 0..10).await;
    let mut consumer = earliest(&world).build().await.unwrap();
    let mut written = 10;
    read_on(&mut consumer, 0..10).await;
    while seen.lock().unwrap().len() < 8 {
        world.write("t", 0, written..written + 10).await;
        read_on(&mut consumer, written..written + 10).await;
        written += 10;
    }
    let epochs: Vec<i32> = seen.lock().unwrap().iter().map(|(_, epoch, _)| *epoch).collect();
    assert_eq!(epochs[..8], [0, 1, 2, 3, 4, 0, 1, 2]);
}

/// What each broker remembers of its one session, as Kafka does it.
type Remembered = Arc<Mutex<BTreeMap<i32, BTreeSet<(Uuid, i32)>>>>;

fn remember(between: &Between) -> Remembered {
    let all = Remembered::default();
    let kept = all.clone();
    between.alter_fetches(move |broker, request, answer| {
        let named: BTreeSet<(Uuid, i32)> = request
            .topics
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.topic_id, partition.partition)))
            .collect();
        let forgotten: BTreeSet<(Uuid, i32)> = request
            .forgotten_topics_data
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.topic_id, *partition)))
            .collect();
        assert!(named.union(&forgotten).all(|(id, _)| !id.is_nil()), "a zero topic id");
        if answer.error_code != 0 {
            return;
        }
        let mut all = kept.lock().unwrap();
        let session = all.entry(broker).or_default();
        if request.session_epoch == 0 {
            session.clear();
        }
        assert!(forgotten.is_subset(session), "nobody forgets what is not remembered");
        session.retain(|partition| !forgotten.contains(partition));
        session.extend(named);
    });
    all
}

#[tokio::test(start_paused = true)]
async fn lesson_39_what_a_broker_remembers_is_what_is_read_from_it_whatever_was_cut_off_paused_moved_or_forgotten() {
    let builder = Cluster::builder().brokers(2).topic("t", 6).topic("u", 2).latency(2 * MILLISECOND);
    let (world, between) = Between::start(builder).await;
    let remembered = remember(&between);
    let consumer = world.reader("t", 0..6).assign("u", 0..2, StartAt::Beginning).build().await.unwrap();
    let handle = consumer.handle();
    let all: Vec<_> = (0..6).map(|partition| tp("t", partition)).chain([tp("u", 0), tp("u", 1)]).collect();
    let mut rng = fastrand::Rng::with_seed(39);
    for round in 0..40 {
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..all.len());
            let (of, broker) = (&all[at], rng.i32(1..=2));
            match rng.u32(0..7) {
                0 => handle.pause(std::slice::from_ref(of)),
                1 => handle.pause(&all[6..]),
                2 => handle.resume(&all),
                3 => handle.seek(of, StartAt::Beginning).unwrap(),
                4 => world.cluster.move_leader(&of.topic, of.partition, broker),
                5 => world.cluster.disconnect(broker),
                _ => {
                    // All of a broker's partitions, so that its loop is ended in the middle of whatever it does.
                    for of in &all {
                        world.cluster.move_leader(&of.topic, of.partition, broker);
                    }
                }
            }
            sleep(rng.u32(0..8) * MILLISECOND).await;
        }
        world.client.refresh_metadata(RefreshReason::Asked);
        // Twice max.wait: whatever changed has been said.
        sleep(3 * SECOND).await;
        let id = |topic: &str| world.client.metadata().topic(topic).unwrap().id;
        let mut read_from: BTreeMap<i32, BTreeSet<(Uuid, i32)>> = BTreeMap::new();
        for of in all.iter().filter(|of| !handle.state(of).unwrap().paused) {
            let leader = world.cluster.partition_info(&of.topic, of.partition).leader.unwrap();
            read_from.entry(leader).or_default().insert((id(&of.topic), of.partition));
        }
        let remembered = remembered.lock().unwrap();
        for (broker, partitions) in read_from {
            assert_eq!(remembered.get(&broker), Some(&partitions), "round {round}, broker {broker}");
        }
    }
    consumer.close(SECOND).await.unwrap();
}

/// Three brokers in racks a, b and c; broker 1 leads.
fn racks() -> ClusterBuilder {
    cluster(3).racks(["a", "b", "c"])
}

#[tokio::test(start_paused = true)]
async fn lesson_40_a_follower_whose_log_begins_later_than_the_leaders_is_left_for_the_leader() {
    let (world, between) = Between::start(racks()).await;
    for start in 0..4 {
        world.write("t", 0, start * 10..start * 10 + 10).await;
    }
    // The follower has nothing below 20.
    between.alter_fetches(|broker, request, answer| {
        let asked = request.topics.iter().flat_map(|topic| &topic.partitions).map(|asked| asked.fetch_offset).min();
        if broker == 3 && asked.is_some_and(|asked| asked < 20) {
            for partition in partitions(answer) {
                *partition = PartitionData::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(ErrorCode::OFFSET_OUT_OF_RANGE.0)
                    .with_high_watermark(-1)
                    .with_last_stable_offset(-1)
                    .with_log_start_offset(-1);
            }
        }
    });
    let mut consumer = world.reader("t", 0..1).offset_reset(OffsetReset::None).rack("c").build().await.unwrap();
    read_on(&mut consumer, 0..40).await;
    // Ten seconds later the leader may name it again, and it has what is asked for by then.
    nothing_comes(&mut consumer, 20 * SECOND).await;
    world.write("t", 0, 40..50).await;
    read_on(&mut consumer, 40..50).await;
    assert_eq!(world.cluster.requests(Api::ListOffsets), 1, "where to start, and no more");
    assert_eq!(consumer.handle().try_next_event(), None);
    assert!(world.cluster.request_log().api(Api::Fetch).broker(3).count() >= 2);
    assert_eq!(world.metric("preferred-read-replica"), 3);
}

#[tokio::test(start_paused = true)]
async fn lesson_41_a_preferred_replica_that_nobody_knows_strands_no_partition() {
    // Unknown, or the leader itself.
    for named in [9, 1] {
        let (world, between) = Between::start(cluster(2)).await;
        world.write("t", 0, 0..10).await;
        between.alter_fetches(move |_, request, answer| {
            if !request.rack_id.is_empty() {
                for partition in partitions(answer) {
                    partition.preferred_read_replica = BrokerId(named);
                    partition.records = Some(Bytes::new());
                }
            }
        });
        let mut consumer = earliest(&world).rack("c").build().await.unwrap();
        let asked = world.cluster.requests(Api::Metadata);
        read_on(&mut consumer, 0..10).await;
        nothing_comes(&mut consumer, 60 * SECOND).await;
        world.write("t", 0, 10..20).await;
        read_on(&mut consumer, 10..20).await;
        if named == 9 {
            assert!(world.cluster.requests(Api::Metadata) > asked, "who is it?");
        }
        // Every ten seconds the leader is asked with a rack again.
        assert!(fetches(&world) < 200, "{} requests in a minute", fetches(&world));
    }
    // A follower that is read until the leader is asked again: nothing is read twice at the changes.
    let world = World::new(racks()).await;
    let mut consumer = earliest(&world).rack("c").build().await.unwrap();
    for round in 0..4 {
        world.write("t", 0, round * 10..round * 10 + 10).await;
        read_on(&mut consumer, round * 10..round * 10 + 10).await;
        nothing_comes(&mut consumer, 301 * SECOND).await;
    }
    assert!(world.cluster.request_log().api(Api::Fetch).broker(1).count() >= 4, "the leader was asked again");
    assert_eq!(world.fetched().1, 0);
}

/// Three brokers have a copy each of a partition; broker 2 lacks the records from offset 10 on, which are readable. Fetch is as it was
/// before it could say where logs part.
async fn diverging() -> (World, Between) {
    let (world, between) = Between::start(cluster(3).newest_version(Api::Fetch, 11)).await;
    world.write("t", 0, 0..10).await;
    world.cluster.hold_follower("t", 0, 2);
    world.cluster.drop_from_isr("t", 0, 2);
    world.write("t", 0, 10..20).await;
    (world, between)
}

#[tokio::test(start_paused = true)]
async fn lesson_42_a_leader_that_knows_no_epochs_has_lost_nothing_until_the_offset_is_out_of_range() {
    for policy in [OffsetReset::Earliest, OffsetReset::Latest, OffsetReset::None] {
        let (world, between) = diverging().await;
        between.alter_epoch_ends(|answer| {
            for partition in answer.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
                (partition.leader_epoch, partition.end_offset) = (-1, -1);
            }
        });
        let mut consumer = world.reader("t", 0..1).offset_reset(policy).build().await.unwrap();
        let handle = consumer.handle();
        read_on(&mut consumer, 0..20).await;
        world.cluster.move_leader("t", 0, 3);
        world.write("t", 0, 20..30).await;
        read_on(&mut consumer, 20..30).await;
        assert!(world.cluster.requests(Api::OffsetForLeaderEpoch) > 0);
        assert_eq!(handle.try_next_event(), None, "nothing was lost, and nothing is told");
        // And now it is.
        world.cluster.elect_unclean("t", 0, 2);
        world.client.refresh_metadata(RefreshReason::Asked);
        if policy == OffsetReset::None {
            let error = within("the error", consumer.recv()).await.unwrap_err();
            assert_eq!(error.code(), Some(ErrorCode::OFFSET_OUT_OF_RANGE));
            continue;
        }
        let (event, _) = tokio::join!(within("the reset", handle.next_event()), consumer.poll(SECOND));
        let to = if policy == OffsetReset::Earliest { 0 } else { 10 };
        let reason = ResetReason::OutOfRange;
        let reset = ConsumerEvent::Reset { partition: tp("t", 0), from: Some(30), to, policy, reason, lost: 0 };
        assert_eq!(event, Some(reset));
    }
}

/// The epochs that metadata tells become what `to` makes of them.
fn alter_epochs(between: &Between, mut to: impl FnMut(i32) -> i32 + Send + 'static) {
    between.alter_metadata(move |answer| {
        for partition in answer.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
            partition.leader_epoch = to(partition.leader_epoch);
        }
    });
}

#[tokio::test(start_paused = true)]
async fn lesson_43_an_epoch_that_is_no_longer_told_is_kept_and_a_truncation_is_still_seen() {
    let (world, between) = diverging().await;
    let mut consumer = earliest(&world).build().await.unwrap();
    read_on(&mut consumer, 0..20).await;
    let known = world.client.metadata().leader("t", 0).unwrap();
    alter_epochs(&between, |_| -1);
    for _ in 0..10 {
        world.pause().await;
        assert_eq!(world.client.metadata().leader("t", 0), Some(known), "−1 is not an epoch");
    }
    between.step_aside();
    world.cluster.elect_unclean("t", 0, 2);
    world.write("t", 0, 100..120).await;
    assert_eq!(read(&mut consumer, 20).await.values("t", 0), (100..120).collect::<Vec<_>>());
    let truncated = ConsumerEvent::Truncated { partition: tp("t", 0), from: 20, to: Some(10) };
    assert_eq!(consumer.handle().try_next_event(), Some(truncated));
}

#[tokio::test(start_paused = true)]
async fn lesson_43_a_lower_epoch_is_believed_when_everybody_says_so_and_not_at_once() {
    let (world, between) = Between::start(cluster(2)).await;
    // Once upon a time the cluster was ten epochs further.
    alter_epochs(&between, |epoch| epoch + 10);
    let mut consumer = earliest(&world).build().await.unwrap();
    nothing_comes(&mut consumer, SECOND).await;
    let told = Arc::new(Mutex::new(0));
    let count = told.clone();
    alter_epochs(&between, move |epoch| {
        *count.lock().unwrap() += 1;
        epoch
    });
    while world.client.metadata().leader("t", 0).unwrap().1 >= 10 {
        world.pause().await;
        assert!(*told.lock().unwrap() < 50, "never");
    }
    assert!(*told.lock().unwrap() >= 5, "a broker that has not heard of the new leader says the same for a while");
    world.write("t", 0, 0..10).await;
    read_on(&mut consumer, 0..10).await;
}

#[tokio::test(start_paused = true)]
async fn lesson_44_what_arrives_while_a_position_is_validated_is_discarded() {
    let builder = Cluster::builder().newest_version(Api::Fetch, 11).brokers(3).topic("t", 4);
    let world = World::new(builder).await;
    world.write("t", 0, 0..10).await;
    let mut consumer = world.reader("t", 0..4).offset_reset(OffsetReset::Earliest).build().await.unwrap();
    read_on(&mut consumer, 0..10).await;
    world.cluster.hold_follower("t", 0, 2);
    world.cluster.drop_from_isr("t", 0, 2);
    // An answer of the old leader is on its way. (Its loop lives on: it leads partition 3, too.)
    let answer = world.cluster.stop_when(Api::Fetch).broker(1).before_answering();
    within("the next request", answer.reached()).await;
    world.write("t", 0, 10..20).await;
    let asked = world.cluster.stop_when(Api::OffsetForLeaderEpoch).before_serving();
    world.cluster.elect_unclean("t", 0, 2);
    world.client.refresh_metadata(RefreshReason::Asked);
    within("the question", asked.reached()).await;
    answer.go_on();
    nothing_comes(&mut consumer, SECOND).await;
    asked.go_on();
    world.write("t", 0, 100..120).await;
    let seen = read(&mut consumer, 20).await;
    assert_eq!(seen.0[&tp("t", 0)], (0..20).map(|n| (10 + n, 100 + n)).collect::<Vec<_>>());
    assert_eq!(consumer.handle().try_next_event(), None, "nobody had seen what is gone");
}

#[tokio::test(start_paused = true)]
async fn lesson_44_whatever_becomes_of_a_validation_there_is_no_loop_and_no_reset() {
    let codes = [
        ErrorCode::FENCED_LEADER_EPOCH,
        ErrorCode::UNKNOWN_LEADER_EPOCH,
        ErrorCode::NOT_LEADER_OR_FOLLOWER,
        ErrorCode::UNKNOWN_SERVER_ERROR,
        ErrorCode::TOPIC_AUTHORIZATION_FAILED,
        ErrorCode::UNSUPPORTED_VERSION,
    ];
    for code in codes {
        for is_moved in [false, true] {
            let world = World::new(cluster(3).newest_version(Api::Fetch, 11)).await;
            world.write("t", 0, 0..10).await;
            let mut consumer = earliest(&world).build().await.unwrap();
            read_on(&mut consumer, 0..10).await;
            let failing =
                world.cluster.faults().when(Api::OffsetForLeaderEpoch).broker(2).always().then(Reaction::Error(code));
            world.cluster.move_leader("t", 0, 2);
            nothing_comes(&mut consumer, 5 * SECOND).await;
            assert!((1..=25).contains(&failing.fired()), "{code}: {} questions in 5 s", failing.fired());
            // The leader changes while it is being asked again, or the question is answered in the end.
            if is_moved {
                world.cluster.move_leader("t", 0, 3);
            } else {
                failing.remove();
            }
            world.write("t", 0, 10..20).await;
            read_on(&mut consumer, 10..20).await;
            assert_eq!(consumer.handle().try_next_event(), None);
            assert_eq!(world.cluster.requests(Api::ListOffsets), 1, "no reset");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lesson_44_a_fetch_in_a_fenced_epoch_is_asked_again_in_the_new_one() {
    // With and without a hint who leads (KIP-951).
    for newest in [15, 17] {
        let world = World::new(cluster(2).newest_version(Api::Fetch, newest)).await;
        world.write("t", 0, 0..10).await;
        let mut consumer = earliest(&world).build().await.unwrap();
        read_on(&mut consumer, 0..10).await;
        for round in 1..6 {
            // The same leader, in another epoch: only the fence says so.
            world.cluster.move_leader("t", 0, 1);
            world.write("t", 0, round * 10..round * 10 + 10).await;
            read_on(&mut consumer, round * 10..round * 10 + 10).await;
        }
        assert!(fetches(&world) < 40, "{}", world.cluster.request_log());
        assert_eq!((consumer.handle().try_next_event(), world.fetched().1), (None, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn lesson_45_a_leader_without_a_new_epoch_or_without_any_is_followed_too() {
    let builder = || {
        let old = cluster(3).newest_version(Api::Fetch, 8).newest_version(Api::ListOffsets, 3);
        old.newest_version(Api::OffsetForLeaderEpoch, 1)
    };
    // Always the same epoch, none from the beginning, none from the first move on.
    for (first, later) in [(3, 3), (-1, -1), (3, -1)] {
        let (world, between) = Between::start(builder()).await;
        alter_epochs(&between, move |_| first);
        world.write("t", 0, 0..10).await;
        let mut consumer = earliest(&world).build().await.unwrap();
        read_on(&mut consumer, 0..10).await;
        alter_epochs(&between, move |_| later);
        for round in 1..5 {
            let leader = (round % 3 + 1) as i32;
            world.cluster.move_leader("t", 0, leader);
            world.write("t", 0, round * 10..round * 10 + 10).await;
            read_on(&mut consumer, round * 10..round * 10 + 10).await;
            assert_eq!(world.client.metadata().leader("t", 0).unwrap().0, leader);
        }
        assert_eq!(consumer.handle().try_next_event(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn lesson_46_reading_goes_on_wherever_everything_was_interrupted() {
    for step in (0..40).step_by(2) {
        let builder = Cluster::builder().brokers(6).topic("t", 12).latency(2 * MILLISECOND).request_log(false);
        let world = World::new(builder).await;
        for partition in 0..12 {
            for start in 0..4 {
                world.write("t", partition, start * 5..start * 5 + 5).await;
            }
        }
        let builder = PartitionConsumer::builder(&world.client).assign("t", 0..12, StartAt::Offset(10));
        let mut consumer = builder.max_poll_records(7).build().await.unwrap();
        let handle = consumer.handle();
        let all: Vec<_> = (0..12).map(|partition| tp("t", partition)).collect();
        // A read that is given up in any state, and then everything at once.
        let _ = tokio::time::timeout(step * MILLISECOND, consumer.poll(SECOND)).await;
        handle.pause(&all);
        let leader = world.cluster.partition_info("t", 3).leader.unwrap();
        world.cluster.move_leader("t", 3, leader % 6 + 1);
        world.cluster.disconnect(5);
        world.client.refresh_metadata(RefreshReason::Asked);
        // Back, so that what is on its way must not be taken for what comes next.
        all.iter().for_each(|of| handle.seek(of, StartAt::Offset(0)).unwrap());
        handle.resume(&all);
        let seen = read(&mut consumer, 240).await;
        for partition in 0..12 {
            assert_eq!(seen.offsets("t", partition), (0..20).collect::<Vec<_>>(), "step {step}");
        }
        within("the end", consumer.close(SECOND)).await.unwrap();
    }
}

/// Damages the bytes of a batch. (Checksums are not looked at here: they would find it all before anybody else does.)
type Damage = fn(&mut Vec<u8>);

fn set(batch: &mut [u8], at: usize, number: i32) {
    batch[at..at + 4].copy_from_slice(&number.to_be_bytes());
}

/// Replaces what is behind the header of a batch, compressed by this codec.
fn repack(batch: &mut Vec<u8>, codec: u8, body: &[u8]) {
    batch.truncate(61);
    batch.extend_from_slice(body);
    batch[22] = codec;
    let length = batch.len() as i32 - 12;
    set(batch, 8, length);
}

const DAMAGES: [(&str, Damage); 8] = [
    ("a length below zero", |batch| set(batch, 8, -5)),
    ("a length of nothing", |batch| set(batch, 8, 0)),
    ("a magic that nobody knows", |batch| batch[16] = 9),
    ("a count below zero", |batch| set(batch, 57, -1)),
    ("a huge count", |batch| set(batch, 57, i32::MAX)),
    ("records in no bytes", |batch| repack(batch, 0, &[])),
    // A zstd frame that announces 4 GiB, and a snappy block that does.
    ("4 GiB of zstd", |batch| repack(batch, 4, &[0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0])),
    ("4 GiB of snappy", |batch| repack(batch, 2, &[0xff, 0xff, 0xff, 0xff, 0x0f, 0xfe, 0xff, 0xff, 0xff])),
];

#[tokio::test(start_paused = true)]
async fn lesson_47_damaged_batches_are_errors_with_their_place_and_nothing_is_passed_over() {
    for (what, damage) in DAMAGES {
        let (world, between) = Between::start(cluster(1)).await;
        world.write("t", 0, 0..5).await;
        let mut consumer = earliest(&world).check_crcs(false).build().await.unwrap();
        read_on(&mut consumer, 0..5).await;
        between.alter_fetches(move |_, _, answer| {
            for records in partitions(answer).filter_map(|partition| partition.records.as_mut()) {
                if !records.is_empty() {
                    let mut damaged = records.to_vec();
                    damage(&mut damaged);
                    *records = Bytes::from(damaged);
                }
            }
        });
        world.write("t", 0, 5..10).await;
        let error = within(what, consumer.recv()).await.unwrap_err();
        assert_eq!((error.kind(), error.topic_partition()), (ErrorKind::Malformed, Some(&tp("t", 0))), "{what}");
        assert!(error.to_string().contains("offset 5"), "{what}: {error}");
        let asked = fetches(&world);
        for _ in 0..10 {
            // Nothing, or the same again.
            if let Ok(records) = consumer.poll(SECOND).await {
                assert!(records.is_empty(), "{what}");
            }
        }
        assert!(fetches(&world) - asked <= 40, "{what}: {} requests in 10 s", fetches(&world) - asked);
        let handle = consumer.handle();
        assert_eq!(handle.position(&tp("t", 0)), Some(5), "{what}");
        between.step_aside();
        handle.seek(&tp("t", 0), StartAt::Offset(5)).unwrap();
        read_on(&mut consumer, 5..10).await;
    }
}

#[tokio::test(start_paused = true)]
async fn lesson_47_answers_that_make_no_sense_are_asked_for_again_slowly_and_nothing_comes_twice() {
    type Answer = fn(&mut FetchResponse);
    let answers: [(&str, Answer, bool); 4] = [
        (
            "a partition twice",
            |answer| {
                for topic in &mut answer.responses {
                    topic.partitions = topic.partitions.iter().flat_map(|one| [one.clone(), one.clone()]).collect();
                }
            },
            true,
        ),
        ("an error that nobody knows", |answer| answer.error_code = 999, false),
        (
            "a partition's error that nobody knows",
            |answer| {
                partitions(answer).for_each(|partition| partition.error_code = ErrorCode::UNKNOWN_SERVER_ERROR.0);
            },
            false,
        ),
        (
            "a partition that nobody asked for",
            |answer| {
                partitions(answer).for_each(|partition| partition.partition_index += 7);
            },
            false,
        ),
    ];
    for (what, alter, is_read) in answers {
        let (world, between) = Between::start(cluster(1)).await;
        between.alter_fetches(move |_, _, answer| alter(answer));
        world.write("t", 0, 0..10).await;
        let mut consumer = earliest(&world).build().await.unwrap();
        if is_read {
            read_on(&mut consumer, 0..10).await;
        }
        nothing_comes(&mut consumer, 10 * SECOND).await;
        assert!(fetches(&world) <= 60, "{what}: {} requests in 10 s", fetches(&world));
        between.step_aside();
        world.write("t", 0, 10..20).await;
        read_on(&mut consumer, if is_read { 10..20 } else { 0..20 }).await;
        assert_eq!(consumer.handle().try_next_event(), None, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn lesson_48_records_below_the_offset_that_was_asked_for_are_no_reason_to_ask_without_a_pause() {
    let (world, between) = Between::start(cluster(1)).await;
    world.write("t", 0, 0..10).await;
    let mut first = None;
    between.alter_fetches(move |_, _, answer| {
        for partition in partitions(answer) {
            let records = partition.records.clone().unwrap_or_default();
            partition.records = Some(first.get_or_insert(records).clone());
        }
    });
    let mut consumer = earliest(&world).build().await.unwrap();
    read_on(&mut consumer, 0..10).await;
    world.write("t", 0, 10..20).await;
    nothing_comes(&mut consumer, 10 * SECOND).await;
    assert!((3..=40).contains(&fetches(&world)), "{} requests in 10 s", fetches(&world));
    assert_eq!(consumer.handle().position(&tp("t", 0)), Some(10));
    between.step_aside();
    read_on(&mut consumer, 10..20).await;
}
