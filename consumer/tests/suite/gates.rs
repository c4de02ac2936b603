//! Exact properties of the fetch path: counted, or compared on a clock that stands still between two events, never timed.

#![expect(clippy::disallowed_methods, reason = "tests read the paused clock and sleep on it")]

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use milena_client::protocol::records::{BatchBuilder, ProducerStamp};
use milena_client::{Client, RefreshReason};
use milena_consumer::{OffsetReset, PartitionConsumer, Records, StartAt};
use milena_testkit::{Api, Cluster, ClusterBuilder, Reaction};
use tokio::time::{Instant, sleep};

use crate::common::{World, tp, within};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);
/// Records of the batch that is written again and again, and of a poll.
const PER_BATCH: i64 = 125;
const PER_POLL: usize = 500;
/// The least that a broker is asked for, also beyond the budget by a reader that waits (`buffered_bytes`).
const SMALL_REQUEST: usize = 64 << 10;

/// A batch of 100-byte values, a little below 16 KB.
fn batch() -> Bytes {
    let mut builder = BatchBuilder::new(vec![0; 16 << 10], 0);
    for _ in 0..PER_BATCH {
        builder.append(1000, None, Some(&[7; 120]), &[]).unwrap();
    }
    let mut sealed = builder.seal();
    sealed.stamp(ProducerStamp::NONE);
    let batch = Bytes::copy_from_slice(sealed.bytes());
    assert!((15 << 10..=16 << 10).contains(&batch.len()), "{}", batch.len());
    batch
}

/// `batches` in each partition, by hand.
fn fill(cluster: &Cluster, partitions: i32, batches: usize) -> i64 {
    let batch = batch();
    for partition in 0..partitions {
        for _ in 0..batches {
            cluster.append("t", partition, &batch).unwrap();
        }
    }
    (batch.len() * batches * partitions as usize) as i64
}

fn cluster(brokers: u8, partitions: i32) -> ClusterBuilder {
    Cluster::builder().brokers(brokers).topic("t", partitions)
}

/// What is fetched is delivered, and is fetched once, however small a poll is. (What is cut off at a limit, at the end of an answer, is
/// no batch, and is not counted.)
#[tokio::test(start_paused = true)]
async fn of_what_is_fetched_everything_is_delivered_and_nothing_is_fetched_twice() {
    for (partitions, batches) in [(1, 150), (12, 12), (100, 2)] {
        let world = World::new(cluster(3, partitions).request_log(false)).await;
        let written = fill(&world.cluster, partitions, batches);
        let builder = world.reader("t", 0..partitions).max_poll_records(PER_POLL);
        let mut consumer = builder.build().await.unwrap();
        let (mut left, mut most) = (partitions as usize * batches * PER_BATCH as usize, 0);
        while left > 0 {
            // Slower than the brokers now and then, so that all there is room for has been fetched.
            if left % 7 == 0 {
                sleep(SECOND).await;
            }
            let records = within("a poll", consumer.poll(SECOND)).await.unwrap();
            left -= records.len();
            most = most.max(records.len());
        }
        assert_eq!(most, PER_POLL);
        assert_eq!(world.fetched(), (written, 0), "{partitions} partitions: fetched ÷ delivered is 1");
    }
}

/// When each record comes, with a partition on another broker beside it, or without.
async fn arrivals(with_idle: bool) -> Vec<Duration> {
    let world = World::new(cluster(2, 2).latency(3 * MILLISECOND)).await;
    let mut consumer = world.reader("t", 0..if with_idle { 2 } else { 1 }).build().await.unwrap();
    let start = Instant::now();
    let batch = batch();
    let mut arrivals = Vec::new();
    for n in 0..40_u32 {
        world.cluster.append("t", 0, &batch).unwrap();
        // Sometimes the reader waits for the broker, sometimes for a request that was not there yet.
        let pause = [1, 2, 50, 700][n as usize % 4] * MILLISECOND;
        if n % 4 < 2 {
            sleep(pause).await;
            continue;
        }
        let mut left = if n % 4 == 2 { 3 * PER_BATCH } else { PER_BATCH };
        while left > 0 {
            let record = within("a record", consumer.recv()).await.unwrap().unwrap();
            assert_eq!(record.partition(), 0);
            arrivals.push(start.elapsed());
            left -= 1;
        }
        sleep(pause).await;
    }
    arrivals
}

#[tokio::test(start_paused = true)]
async fn an_idle_broker_adds_nothing_to_the_time_of_any_record() {
    let alone = arrivals(false).await;
    assert_eq!(alone.len(), 40 * PER_BATCH as usize);
    assert_eq!(alone, arrivals(true).await);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_for_a_reader_that_does_not_read_stays_within_the_budget_for_ever() {
    const BUDGET: usize = 1 << 20;
    let world = World::new(cluster(3, 12)).await;
    let written = fill(&world.cluster, 12, 20);
    let mut consumer = world.reader("t", 0..12).buffer_memory(BUDGET).build().await.unwrap();
    let handle = consumer.handle();
    sleep(SECOND).await;
    let (full, asked) = (world.fetched().0, world.cluster.requests(Api::Fetch));
    assert_eq!(handle.buffered_bytes() as i64, full, "nothing is under way any more");
    assert!(full <= BUDGET as i64, "{full} bytes are held");
    assert!(full > BUDGET as i64 - SMALL_REQUEST as i64, "{full}: there is room for one more request");
    for _ in 0..60 {
        sleep(60 * SECOND).await;
        assert_eq!((world.fetched().0, world.cluster.requests(Api::Fetch)), (full, asked), "nothing is asked for");
    }
    // And it goes on, at whatever pace. Each loop may be let out once beyond the budget, while the reader waits.
    let (mut left, mut polls) = (12 * 20 * PER_BATCH as usize, 0);
    while left > 0 {
        let records = within("a poll", consumer.poll(SECOND)).await.unwrap();
        assert!(!records.is_empty());
        left -= records.len();
        polls += 1;
        drop(records);
        if polls % 3 == 0 {
            sleep(20 * MILLISECOND).await;
        }
        assert!(handle.buffered_bytes() <= BUDGET + 3 * SMALL_REQUEST, "{} bytes are held", handle.buffered_bytes());
    }
    assert_eq!(world.fetched(), (written, 0));
    consumer.close(SECOND).await.unwrap();
    assert_eq!(handle.buffered_bytes(), 0);
}

/// What a reader is in the middle of, when it is closed.
type State = fn(&World);

#[tokio::test(start_paused = true)]
async fn no_task_and_no_socket_is_left_whatever_a_reader_was_doing() {
    let states: [(&str, State); 9] = [
        ("reading", |_| {}),
        ("nothing to read", |world| world.cluster.delete_records("t", 0, i64::MAX)),
        ("looking up", |world| drop(world.cluster.faults().when(Api::ListOffsets).always().then(Reaction::Drop))),
        ("a silent broker", |world| drop(world.cluster.faults().when(Api::Fetch).always().then(Reaction::Drop))),
        ("half an answer", |world| {
            world.cluster.faults().when(Api::Fetch).always().then(Reaction::Bandwidth(1000));
        }),
        ("cut off again and again", |world| {
            world.cluster.faults().when(Api::Fetch).always().then(Reaction::TruncateAnswer);
        }),
        ("throttled", |world| world.cluster.throttle(Api::Fetch, 60 * SECOND)),
        ("a broker that is down", |world| world.cluster.crash(1)),
        ("metadata that does not come", |world| {
            drop(world.cluster.faults().when(Api::Metadata).always().optional().then(Reaction::Drop));
            world.cluster.move_leader("t", 0, 2);
            world.client.refresh_metadata(RefreshReason::Asked);
        }),
    ];
    for (what, state) in states {
        for is_closed in [true, false] {
            let world = World::new(cluster(2, 4).latency(MILLISECOND)).await;
            fill(&world.cluster, 4, 4);
            state(&world);
            let builder = world.reader("t", 0..4).buffer_memory(100 << 10).offset_reset(OffsetReset::Earliest);
            let mut consumer = builder.build().await.unwrap();
            // Records are in the user's hands, and more is on its way.
            let kept = consumer.poll(SECOND).await.unwrap();
            consumer.handle().seek(&tp("t", 1), StartAt::Beginning).unwrap();
            sleep(MILLISECOND).await;
            end_of(what, world.client, is_closed.then_some(consumer), kept).await;
        }
    }
    // The same for streams of its partitions.
    let world = World::new(cluster(2, 4)).await;
    fill(&world.cluster, 4, 4);
    let mut streams = world.reader("t", 0..4).build().await.unwrap().split();
    let mut each = streams.take_streams();
    let kept = within("a record", each[2].next()).await.unwrap().unwrap();
    within("the end", streams.close(SECOND)).await.unwrap();
    world.client.close().await;
    assert_eq!((world.client.tasks(), world.client.sockets()), (0, 0));
    assert_eq!(kept.value().unwrap().len(), 120);
}

/// Ends a reader (one that is `None` was just dropped) and then its client.
async fn end_of(what: &str, client: Client, consumer: Option<PartitionConsumer>, kept: Records) {
    if let Some(consumer) = consumer {
        within(what, consumer.close(SECOND)).await.unwrap();
    }
    within(what, client.close()).await;
    assert_eq!((client.tasks(), client.sockets()), (0, 0), "{what}");
    assert!(kept.iter().all(|record| record.value().unwrap().len() == 120), "what was handed out stays good");
}

/// One request is always at the broker or on its way, whether anybody reads or not, and never two: the next one comes exactly one way
/// there and back after the broker had something to say, or nothing for `max.wait`.
#[tokio::test(start_paused = true)]
async fn a_loop_is_one_request_ahead_of_its_reader_and_never_two() {
    let (way, max_wait) = (3 * MILLISECOND, 500 * MILLISECOND);
    let start = Instant::now();
    let world = World::new(cluster(3, 6).latency(way)).await;
    let _consumer = world.reader("t", 0..6).build().await.unwrap();
    let batch = batch();
    sleep(SECOND).await;
    let mut written: Vec<Vec<Duration>> = vec![Vec::new(); 4];
    let mut rng = fastrand::Rng::with_seed(9);
    for _ in 0..200 {
        let partition = rng.i32(0..6);
        let leader = world.cluster.partition_info("t", partition).leader.unwrap();
        written[leader as usize].push(start.elapsed());
        world.cluster.append("t", partition, &batch).unwrap();
        sleep(rng.u32(1..120) * MILLISECOND).await;
    }
    let log = world.cluster.request_log();
    for broker in 1..=3 {
        let came: Vec<Duration> = log.api(Api::Fetch).broker(broker).entries().map(|entry| entry.at).collect();
        assert!(came.len() > 40, "{} requests", came.len());
        for pair in came.windows(2) {
            // The first news that the broker has had since it answered the request before.
            let news = written[broker as usize].iter().find(|at| **at > pair[0].saturating_sub(way * 2));
            let answered = news.map_or(pair[0] + max_wait, |at| (*at).max(pair[0]).min(pair[0] + max_wait));
            assert_eq!(pair[1], answered + way * 2, "broker {broker}: {pair:?}");
        }
    }
}
