//! Members of a group on the in-process cluster, in virtual time.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::{PATIENCE, Seen, World, tp, within};
use milena_client::TopicPartition;
use milena_consumer::{Consumer, ConsumerHandle, ListenerFuture, OffsetAndMetadata, RebalanceListener, StartAt};
use milena_testkit::{Api, Cluster, ErrorCode, Reaction};
use tokio::time::Instant;

const WAIT: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(20);

#[expect(clippy::disallowed_methods, reason = "virtual time")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "virtual time")]
async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Polls once, notes and acknowledges.
async fn drink(consumer: &mut Consumer, seen: &mut Seen) {
    let records = within("a poll", consumer.poll(TICK)).await.unwrap();
    records.iter().for_each(|record| seen.note(record));
    records.ack();
}

async fn fill(world: &World, partitions: i32, numbers: std::ops::Range<i64>) {
    for partition in 0..partitions {
        world.write("t", partition, numbers.clone()).await;
    }
}

/// Polls all members in turn until their partitions are as told.
async fn until_balanced(members: &mut [(Consumer, Seen)], sizes: &[usize]) {
    let start = now();
    loop {
        for (consumer, seen) in members.iter_mut() {
            drink(consumer, seen).await;
        }
        let have: Vec<usize> = members.iter().map(|(consumer, _)| consumer.handle().assignment().len()).collect();
        if have == sizes {
            return;
        }
        assert!(now() - start < PATIENCE, "{have:?} instead of {sizes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lone_member_reads_everything_and_its_offsets_are_committed_when_it_closes() {
    let world = World::new(Cluster::builder().brokers(3).topic("t", 4)).await;
    fill(&world, 4, 0..25).await;
    let mut consumer = world.consumer("g").subscribe(["t"]).build().await.unwrap();
    let mut seen = Seen::default();
    while seen.count() < 100 {
        seen.note(within("a record", consumer.recv()).await.unwrap().unwrap());
    }
    // Asking for one more acknowledges the last.
    assert!(consumer.poll(TICK).await.unwrap().is_empty());
    consumer.close(WAIT).await.unwrap();
    let info = world.cluster.group_info("g").unwrap();
    assert_eq!((info.state.as_str(), info.members.len()), ("Empty", 0));
    for partition in 0..4 {
        assert_eq!(seen.offsets("t", partition), (0..25).collect::<Vec<_>>());
        assert_eq!(info.offsets[&("t".to_owned(), partition)], 25);
    }
    world.client.close().await;
    assert_eq!((world.client.tasks(), world.cluster.violations()), (0, vec![]));
}

#[tokio::test(start_paused = true)]
async fn what_was_lent_last_is_not_acknowledged_by_closing() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 1)).await;
    fill(&world, 1, 0..30).await;
    let mut consumer = world.consumer("g").subscribe(["t"]).build().await.unwrap();
    for _ in 0..10 {
        within("a record", consumer.recv()).await.unwrap().unwrap();
    }
    consumer.close(WAIT).await.unwrap();
    assert_eq!(world.cluster.group_info("g").unwrap().offsets[&("t".to_owned(), 0)], 9);
    let mut next = world.consumer("g").subscribe(["t"]).build().await.unwrap();
    assert_eq!(within("a record", next.recv()).await.unwrap().unwrap().offset(), 9);
}

#[tokio::test(start_paused = true)]
async fn members_share_what_there_is_and_every_record_is_read_once() {
    let world = World::new(Cluster::builder().brokers(3).topic("t", 6)).await;
    let mut members = Vec::new();
    let mut written = 0;
    for count in 1..=3 {
        let consumer = world.consumer("g").subscribe(["t"]).build().await.unwrap();
        members.push((consumer, Seen::default()));
        fill(&world, 6, written..written + 20).await;
        written += 20;
        until_balanced(&mut members, &vec![6 / count; count]).await;
    }
    // One leaves; the others take over.
    let (gone, mut all) = members.remove(0);
    gone.close(WAIT).await.unwrap();
    fill(&world, 6, written..written + 20).await;
    written += 20;
    until_balanced(&mut members, &[3, 3]).await;
    let start = now();
    loop {
        for (consumer, seen) in &mut members {
            drink(consumer, seen).await;
        }
        let count = all.count() + members.iter().map(|(_, seen)| seen.count()).sum::<usize>();
        if count as i64 >= 6 * written {
            break;
        }
        assert!(now() - start < PATIENCE, "{count} of {}", 6 * written);
    }
    for (_, seen) in &members {
        for (partition, records) in &seen.0 {
            all.0.entry(partition.clone()).or_default().extend(records);
        }
    }
    for partition in 0..6 {
        let mut offsets = all.offsets("t", partition);
        offsets.sort_unstable();
        assert_eq!(offsets, (0..written).collect::<Vec<_>>(), "nothing lost, nothing doubled");
    }
    assert_eq!(world.cluster.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_member_that_stays_keeps_reading_while_another_joins() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 4)).await;
    let mut first = world.consumer("g").subscribe(["t"]).build().await.unwrap();
    let mut seen = Seen::default();
    while first.handle().assignment().len() < 4 {
        drink(&mut first, &mut seen).await;
    }
    // The second's join is held by the coordinator until the first has joined again; the first never loses what it keeps.
    let mut members =
        vec![(first, seen), (world.consumer("g").subscribe(["t"]).build().await.unwrap(), Seen::default())];
    let mut least = 4;
    let start = now();
    while members[1].0.handle().assignment().len() < 2 {
        for (consumer, seen) in &mut members {
            drink(consumer, seen).await;
        }
        least = least.min(members[0].0.handle().assignment().len());
        assert!(now() - start < PATIENCE);
    }
    assert_eq!(least, 2);
}

#[tokio::test(start_paused = true)]
async fn handed_out_records_are_waited_for_and_committed_before_the_partition_moves() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 2)).await;
    fill(&world, 2, 0..10).await;
    let mut first = world.consumer("g").subscribe(["t"]).build().await.unwrap();
    let mut held = Vec::new();
    while held.iter().map(milena_consumer::Records::len).sum::<usize>() < 20 {
        held.push(within("records", first.poll(WAIT)).await.unwrap());
    }
    // The user looks at all of it, and acknowledges nothing yet.
    assert_eq!(held.iter().flat_map(|records| records.iter()).count(), 20);
    let second = world.consumer("g").subscribe(["t"]).build().await.unwrap();
    for _ in 0..1000 {
        assert!(first.poll(TICK).await.unwrap().is_empty());
    }
    assert_eq!((first.handle().assignment().len(), second.handle().assignment().len()), (2, 0));
    held.iter().for_each(milena_consumer::Records::ack);
    let start = now();
    while second.handle().assignment().is_empty() {
        assert!(first.poll(TICK).await.unwrap().is_empty());
        assert!(now() - start < Duration::from_secs(5), "the second waits only for the acknowledgement");
    }
    let moved = second.handle().assignment()[0].partition;
    assert_eq!(world.cluster.group_info("g").unwrap().offsets[&("t".to_owned(), moved)], 10);
}

#[tokio::test(start_paused = true)]
async fn kept_records_of_a_revoked_partition_are_skipped() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 2)).await;
    fill(&world, 2, 0..10).await;
    let mut first = world.consumer("g").subscribe(["t"]).build().await.unwrap();
    let mut held = Vec::new();
    while held.iter().map(milena_consumer::Records::len).sum::<usize>() < 20 {
        held.push(within("records", first.poll(WAIT)).await.unwrap());
    }
    let mut members = vec![(world.consumer("g").subscribe(["t"]).build().await.unwrap(), Seen::default())];
    until_balanced(&mut members, &[1]).await;
    let moved = members[0].0.handle().assignment()[0].partition;
    let left: BTreeSet<i32> = held.iter().flat_map(|r| r.iter()).map(|record| record.partition()).collect();
    assert_eq!(left, BTreeSet::from([1 - moved]), "nothing of the moved partition is handed out any more");
    held.iter().for_each(milena_consumer::Records::ack);
    first.handle().commit().await.unwrap();
    while members[0].1.count() < 10 {
        let (consumer, seen) = &mut members[0];
        drink(consumer, seen).await;
    }
    assert_eq!(members[0].1.offsets("t", moved), (0..10).collect::<Vec<_>>(), "its new owner has them all");
}

#[tokio::test(start_paused = true)]
async fn a_revocation_in_the_midst_of_an_iteration_leaves_no_hole() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 2)).await;
    for batch in 0..3 {
        fill(&world, 2, batch * 10..batch * 10 + 10).await;
    }
    let mut first = world.consumer("g").subscribe(["t"]).build().await.unwrap();
    sleep(Duration::from_secs(5)).await;
    let records = within("records", first.poll(WAIT)).await.unwrap();
    assert_eq!(records.len(), 60, "all of it is in one poll");
    let mut readings: Vec<_> = records.partitions().map(|partition| (partition, partition.iter())).collect();
    // A record of each partition is looked at; the other batches are not.
    readings.iter_mut().for_each(|(_, reading)| assert_eq!(reading.next().unwrap().offset(), 0));
    let mut second = world.consumer("g").subscribe(["t"]).build().await.unwrap();
    for _ in 0..500 {
        assert!(first.poll(TICK).await.unwrap().is_empty());
    }
    let positions = [0, 1].map(|partition| first.handle().position(&tp("t", partition)));
    assert!(
        positions == [None, Some(30)] || positions == [Some(30), None],
        "nothing comes next of what moves: {positions:?}"
    );
    let rest: Vec<usize> = readings.iter_mut().map(|(_, reading)| reading.count()).collect();
    let ends: Vec<i64> = readings.iter().map(|(partition, _)| partition.next_offset().unwrap()).collect();
    assert!(
        (rest == [9, 29] && ends == [10, 30]) || (rest == [29, 9] && ends == [30, 10]),
        "of what moves, the batch that was begun and nothing behind it: {rest:?} records, up to {ends:?}"
    );
    let offsets = readings.iter().zip(&ends).map(|((partition, _), end)| (partition.topic_partition(), (*end).into()));
    first.handle().commit_offsets(offsets).await.unwrap();
    let mut seen = Seen::default();
    let start = now();
    while seen.count() < 20 {
        drink(&mut second, &mut seen).await;
        first.poll(TICK).await.unwrap();
        assert!(now() - start < PATIENCE, "{} of the 20 records that were taken back", seen.count());
    }
    let moved = second.handle().assignment()[0].partition;
    assert_eq!(seen.offsets("t", moved), (10..30).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn back_to_what_is_committed_reads_again_and_lets_a_partition_move() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 2)).await;
    fill(&world, 2, 0..10).await;
    let mut first = world.consumer("g").commits_in_transactions().subscribe(["t"]).build().await.unwrap();
    let handle = first.handle();
    let mut count = 0;
    while count < 20 {
        let records = within("records", first.poll(WAIT)).await.unwrap();
        count += records.iter().count();
        records.ack();
    }
    // As if a transaction had committed this much.
    handle.commit_offsets([(tp("t", 0), 4.into()), (tp("t", 1), 4.into())]).await.unwrap();
    handle.seek_to_committed(&[tp("t", 0), tp("t", 1), tp("t", 9)]);
    let mut seen = Seen::default();
    let mut held = Vec::new();
    while seen.count() < 12 {
        let records = within("records", first.poll(WAIT)).await.unwrap();
        records.iter().for_each(|record| seen.note(record));
        held.push(records);
    }
    assert_eq!([0, 1].map(|p| seen.offsets("t", p)), [(4..10).collect::<Vec<_>>(), (4..10).collect()]);
    // A partition that moves waits for what is in the user's hands, or for the word that it is taken back.
    let mut second = world.consumer("g").commits_in_transactions().subscribe(["t"]).build().await.unwrap();
    for _ in 0..500 {
        assert!(first.poll(TICK).await.unwrap().is_empty());
    }
    assert!(second.handle().assignment().is_empty());
    handle.seek_to_committed(&[tp("t", 0), tp("t", 1)]);
    let mut moved = Seen::default();
    let start = now();
    while moved.count() < 6 {
        drink(&mut second, &mut moved).await;
        first.poll(TICK).await.unwrap();
        assert!(now() - start < PATIENCE, "{} records of the partition that moves", moved.count());
    }
    let partition = second.handle().assignment()[0].partition;
    assert_eq!(moved.offsets("t", partition), (4..10).collect::<Vec<_>>());
    second.close(WAIT).await.unwrap();
    let committed = world.cluster.group_info("g").unwrap().offsets;
    assert_eq!(committed.values().copied().collect::<Vec<i64>>(), [4, 4], "it commits nothing by itself");
}

/// Takes its time to hear that partitions were lost.
struct SlowToHear(Arc<tokio::sync::Semaphore>);

impl RebalanceListener for SlowToHear {
    fn on_lost<'a>(&'a self, _: &'a [TopicPartition], _: &'a ConsumerHandle) -> ListenerFuture<'a> {
        Box::pin(async move { self.0.acquire().await.unwrap().forget() })
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_read_before_a_loss_cannot_be_committed_after_it() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 1)).await;
    fill(&world, 1, 0..10).await;
    let hears = Arc::new(tokio::sync::Semaphore::new(0));
    let mut consumer = world.consumer("g").subscribe(["t"]).listener(SlowToHear(hears.clone())).build().await.unwrap();
    let records = within("records", consumer.poll(WAIT)).await.unwrap();
    assert_eq!(records.iter().count(), 10);
    let handle = consumer.handle();
    let member = handle.group_metadata().await.unwrap();
    world.cluster.faults().when(Api::Heartbeat).nth(1).then(Reaction::Error(ErrorCode::UNKNOWN_MEMBER_ID));
    let start = now();
    while world.cluster.group_info("g").unwrap().members.contains_key(&*member.member_id)
        || handle.assignment().is_empty()
    {
        consumer.poll(TICK).await.unwrap();
        assert!(now() - start < PATIENCE, "the partition comes back");
    }
    let error = handle.group_metadata().await.unwrap_err();
    assert_eq!(
        error.kind(),
        milena_client::ErrorKind::NotAssigned,
        "nor can a transaction commit it under the new generation"
    );
    let refused = handle.commit_offsets([(tp("t", 0), 10.into())]).await.unwrap_err();
    assert_eq!(refused.kind(), milena_client::ErrorKind::NotAssigned, "another member may have had it in between");
    hears.add_permits(1);
    sleep(Duration::from_secs(1)).await;
    assert_ne!(handle.group_metadata().await.unwrap(), member);
    handle.commit_offsets([(tp("t", 0), 4.into())]).await.unwrap();
    assert_eq!(world.cluster.group_info("g").unwrap().offsets[&("t".to_owned(), 0)], 4);
}

/// Notes what it is told; commits and seeks.
#[derive(Default, Clone)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn write(&self, what: &str, partitions: &[TopicPartition]) {
        let numbers: Vec<i32> = partitions.iter().map(|tp| tp.partition).collect();
        self.0.lock().unwrap().push(format!("{what} {numbers:?}"));
    }

    fn read(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl RebalanceListener for Notes {
    fn on_assigned<'a>(&'a self, partitions: &'a [TopicPartition], consumer: &'a ConsumerHandle) -> ListenerFuture<'a> {
        Box::pin(async move {
            sleep(Duration::from_millis(100)).await;
            for partition in partitions.iter().filter(|tp| tp.partition == 0) {
                consumer.seek(partition, StartAt::Offset(7)).unwrap();
            }
            self.write("assigned", partitions);
        })
    }

    fn on_revoked<'a>(&'a self, partitions: &'a [TopicPartition], consumer: &'a ConsumerHandle) -> ListenerFuture<'a> {
        Box::pin(async move {
            self.write("revoked", partitions);
            let offsets = partitions.iter().map(|tp| (tp.clone(), OffsetAndMetadata::from(5)));
            consumer.commit_offsets(offsets).await.unwrap();
        })
    }

    fn on_lost<'a>(&'a self, partitions: &'a [TopicPartition], _: &'a ConsumerHandle) -> ListenerFuture<'a> {
        Box::pin(async move { self.write("lost", partitions) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_listener_is_told_in_order_and_may_seek_and_commit() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 2).allow_backward_commits()).await;
    fill(&world, 2, 0..10).await;
    let notes = Notes::default();
    let mut consumer = world.consumer("g").subscribe(["t"]).listener(notes.clone()).build().await.unwrap();
    let mut seen = Seen::default();
    while seen.count() < 13 {
        seen.note(within("a record", consumer.recv()).await.unwrap().unwrap());
    }
    assert_eq!(seen.offsets("t", 0), [7, 8, 9], "sought before anything was read");
    consumer.close(WAIT).await.unwrap();
    assert_eq!(notes.read(), ["assigned [0, 1]", "revoked [0, 1]"]);
    assert_eq!(world.cluster.group_info("g").unwrap().offsets[&("t".to_owned(), 1)], 5, "what the listener committed");
}

#[tokio::test(start_paused = true)]
async fn a_held_join_delays_no_heartbeat() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 2)).await;
    let mut first = world.consumer("g").subscribe(["t"]).build().await.unwrap();
    let mut seen = Seen::default();
    while first.handle().assignment().is_empty() {
        drink(&mut first, &mut seen).await;
    }
    // From now on the coordinator keeps every JoinGroup to itself.
    let hold = world.cluster.faults().when(Api::JoinGroup).always().then(Reaction::Hold);
    let _second = world.consumer("g").subscribe(["t"]).build().await.unwrap();
    let beats = |of_nobody: bool| {
        let all = world.cluster.request_log().api(Api::Heartbeat);
        all.only(|entry| entry.digest.contains("generation=-1") == of_nobody).count()
    };
    let before = beats(false);
    sleep(Duration::from_secs(30)).await;
    let members = beats(false) - before;
    assert!((9..=11).contains(&members), "{members} heartbeats in 30 s");
    let newcomers = beats(true);
    assert!(
        (9..=11).contains(&newcomers),
        "who is not a member yet asks as often whether the coordinator is there: {newcomers}"
    );
    hold.remove();
}

#[tokio::test(start_paused = true)]
async fn a_generation_that_is_held_ends_when_it_is_let_go() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 2)).await;
    let mut first = world.consumer("g").subscribe(["t"]).build().await.unwrap();
    let mut seen = Seen::default();
    while first.handle().assignment().is_empty() {
        drink(&mut first, &mut seen).await;
    }
    let handle = first.handle();
    let holds = [handle.hold_generation().await.unwrap(), handle.hold_generation().await.unwrap()];
    let second = world.consumer("g").subscribe(["t"]).build().await.unwrap();
    for held in holds {
        sleep(Duration::from_secs(20)).await;
        assert_eq!((held.group_metadata().generation, handle.is_rebalancing()), (1, false));
        assert_eq!(
            world.cluster.group_info("g").unwrap().generation,
            1,
            "the group waits, though it has heard of the other"
        );
        assert!(second.handle().assignment().is_empty());
        drop(held);
    }
    // Asked for in the midst of the join, it is the next one.
    sleep(Duration::from_millis(1)).await;
    assert!(handle.hold_generation().await.unwrap().group_metadata().generation > 1);
    sleep(Duration::from_secs(10)).await;
    assert_eq!((second.handle().assignment().len(), handle.assignment().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_member_of_which_nothing_is_heard_leaves_and_comes_back_when_it_polls() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 1)).await;
    fill(&world, 1, 0..10).await;
    let interval = Duration::from_secs(30);
    let mut consumer = world.consumer("g").subscribe(["t"]).max_poll_interval(interval).build().await.unwrap();
    let records = within("records", consumer.poll(WAIT)).await.unwrap();
    assert_eq!(records.iter().count(), 10);
    sleep(Duration::from_secs(25)).await;
    assert_eq!(world.cluster.group_info("g").unwrap().members.len(), 1);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.cluster.group_info("g").unwrap().members.len(), 0, "it has left");
    records.ack();
    let mut seen = Seen::default();
    while seen.count() < 10 {
        drink(&mut consumer, &mut seen).await;
    }
    assert_eq!(seen.offsets("t", 0), (0..10).collect::<Vec<_>>(), "read again: at least once");
}

#[tokio::test(start_paused = true)]
async fn an_idle_user_with_nothing_in_its_hands_stays_a_member() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 1)).await;
    let interval = Duration::from_secs(30);
    let mut consumer = world.consumer("g").subscribe(["t"]).max_poll_interval(interval).build().await.unwrap();
    assert!(consumer.poll(WAIT).await.unwrap().is_empty());
    sleep(Duration::from_secs(600)).await;
    assert_eq!(world.cluster.group_info("g").unwrap().members.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn commits_are_coalesced_in_order_and_survive_a_lost_answer_and_a_moving_coordinator() {
    let world = World::new(Cluster::builder().brokers(3).topic("t", 2)).await;
    fill(&world, 2, 0..100).await;
    let mut consumer =
        world.consumer("g").subscribe(["t"]).auto_commit(None).max_poll_records(10).build().await.unwrap();
    let handle = consumer.handle();
    world.cluster.faults().when(Api::OffsetCommit).nth(2).then(Reaction::ApplyThenDisconnect);
    world.cluster.faults().when(Api::OffsetCommit).nth(3).then(Reaction::Error(ErrorCode::REBALANCE_IN_PROGRESS));
    let mut seen = Seen::default();
    let mut commits = Vec::new();
    let mut rounds = 0;
    while seen.count() < 200 {
        drink(&mut consumer, &mut seen).await;
        rounds += 1;
        let handle = handle.clone();
        #[expect(clippy::disallowed_methods, reason = "a test")]
        commits.push(tokio::spawn(async move { handle.commit().await }));
        if rounds == 8 {
            world.cluster.move_coordinator("g", 2);
        }
    }
    for commit in commits {
        within("a commit", commit).await.unwrap().unwrap();
    }
    let info = world.cluster.group_info("g").unwrap();
    assert_eq!((info.offsets[&("t".to_owned(), 0)], info.offsets[&("t".to_owned(), 1)]), (100, 100));
    assert_eq!(world.cluster.violations(), Vec::<String>::new(), "no committed offset went back");
}

#[tokio::test(start_paused = true)]
async fn an_explicit_commit_counts_as_acknowledgement_and_foreign_partitions_are_refused() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 1)).await;
    fill(&world, 1, 0..10).await;
    let mut consumer = world.consumer("g").subscribe(["t"]).build().await.unwrap();
    let records = within("records", consumer.poll(WAIT)).await.unwrap();
    assert_eq!(records.iter().count(), 10);
    let handle = consumer.handle();
    let offset = OffsetAndMetadata { offset: 10, leader_epoch: -1, metadata: "mine".into() };
    handle.commit_offsets([(tp("t", 0), offset)]).await.unwrap();
    assert_eq!(world.cluster.group_info("g").unwrap().offsets[&("t".to_owned(), 0)], 10);
    assert!(handle.commit_offsets([(tp("t", 9), 1.into())]).await.is_err());
    let metadata = handle.group_metadata().await.unwrap();
    assert!(metadata.generation >= 1 && !metadata.member_id.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lost_membership_is_told_and_joined_again() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 2)).await;
    fill(&world, 2, 0..10).await;
    let notes = Notes::default();
    let mut consumer = world.consumer("g").subscribe(["t"]).listener(notes.clone()).build().await.unwrap();
    let mut seen = Seen::default();
    while seen.count() < 13 {
        drink(&mut consumer, &mut seen).await;
    }
    world.cluster.faults().when(Api::Heartbeat).nth(1).then(Reaction::Error(ErrorCode::UNKNOWN_MEMBER_ID));
    let start = now();
    while notes.read().len() < 3 {
        drink(&mut consumer, &mut seen).await;
        assert!(now() - start < PATIENCE, "{:?}", notes.read());
    }
    assert_eq!(notes.read(), ["assigned [0, 1]", "lost [0, 1]", "assigned [0, 1]"]);
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_comes_later_is_read() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 1)).await;
    let mut consumer = world.consumer("g").subscribe(["t", "later"]).build().await.unwrap();
    let mut seen = Seen::default();
    while consumer.handle().assignment().is_empty() {
        drink(&mut consumer, &mut seen).await;
    }
    world.cluster.create_topic("later", 2);
    world.client.refresh_metadata(milena_client::RefreshReason::Asked);
    let start = now();
    while consumer.handle().assignment().len() < 3 {
        drink(&mut consumer, &mut seen).await;
        world.client.refresh_metadata(milena_client::RefreshReason::Asked);
        assert!(now() - start < PATIENCE);
    }
}

#[tokio::test(start_paused = true)]
async fn coordinators_that_crash_move_and_disconnect_cost_no_record() {
    let world = World::new(Cluster::builder().brokers(3).topic("t", 4)).await;
    let mut members = vec![
        (world.consumer("g").subscribe(["t"]).build().await.unwrap(), Seen::default()),
        (world.consumer("g").subscribe(["t"]).build().await.unwrap(), Seen::default()),
    ];
    let mut written = 0;
    for round in 0..6 {
        fill(&world, 4, written..written + 10).await;
        written += 10;
        match round % 3 {
            0 => world.cluster.disconnect(round % 3 + 1),
            1 => world.cluster.move_coordinator("g", round % 3 + 1),
            _ => world.cluster.move_leader("t", 1, round % 3 + 1),
        }
        for _ in 0..20 {
            for (consumer, seen) in &mut members {
                drink(consumer, seen).await;
            }
        }
    }
    let start = now();
    let read = |members: &[(Consumer, Seen)]| -> BTreeSet<(i32, i64)> {
        let offsets = |seen: &Seen| {
            (0..4).flat_map(|p| seen.offsets("t", p).into_iter().map(move |o| (p, o))).collect::<Vec<_>>()
        };
        members.iter().flat_map(|(_, seen)| offsets(seen)).collect()
    };
    while (read(&members).len() as i64) < 4 * written {
        for (consumer, seen) in &mut members {
            drink(consumer, seen).await;
        }
        assert!(now() - start < PATIENCE, "{} of {}", read(&members).len(), 4 * written);
    }
    for (consumer, _) in members {
        consumer.close(WAIT).await.unwrap();
    }
    assert_eq!(world.cluster.violations(), Vec::<String>::new());
}
