//! Compacted topics as tables. In-process cluster, virtual time.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use crate::common::{World, batch_of, connect, tp, within};
use bytes::Bytes;
use futures_util::StreamExt;
use milena_client::protocol::records::{BatchBuilder, ProducerStamp};
use milena_client::serde::Text;
use milena_client::{Client, ErrorKind};
use milena_consumer::{CompactedTable, CompactedTableBuilder, IsolationLevel, ReadError};
use milena_testkit::{Api, Cluster, ClusterBuilder, Reaction};

const WAIT: Duration = Duration::from_secs(5);

type Table = CompactedTable<String, String>;

fn cluster(partitions: i32) -> ClusterBuilder {
    Cluster::builder().brokers(2).topic_with("users", partitions, [("cleanup.policy", "compact")])
}

async fn put(world: &World, partition: i32, key: &str, value: Option<&str>) {
    let record = [(Some(key.as_bytes()), value.map(str::as_bytes))];
    world.write_batch("users", partition, batch_of(&record)).await;
}

fn builder(client: &Client) -> CompactedTableBuilder<String, String> {
    Table::builder(client, "users", Text, Text)
}

async fn load(world: &World) -> Table {
    within("loading", builder(&world.client).load()).await.unwrap()
}

fn entries(table: &Table) -> Vec<(String, String)> {
    table.entries()
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_table_has_the_last_value_of_every_key_and_no_removed_one() {
    let world = World::new(cluster(3)).await;
    for (partition, key, value) in
        [(0, "ada", Some("1")), (0, "ada", Some("2")), (2, "bob", Some("1")), (2, "bob", None), (2, "cyd", Some("3"))]
    {
        put(&world, partition, key, value).await;
    }
    let table = load(&world).await;
    assert_eq!(entries(&table), pairs(&[("ada", "2"), ("cyd", "3")]), "partition 1 is empty");
    assert_eq!((table.len(), table.get("ada"), table.get("bob")), (2, Some("2".to_owned()), None));
    assert!(table.contains_key("cyd") && !table.is_empty() && table.error().is_none());
    let mut seen = Vec::new();
    table.for_each(|key, _| seen.push(key.clone()));
    assert_eq!(seen, ["ada", "cyd"]);
    table.close(WAIT).await.unwrap();
    drop(connect(&world.cluster).await);
}

#[tokio::test(start_paused = true)]
async fn an_empty_topic_is_loaded_at_once_and_followed() {
    let world = World::new(cluster(2)).await;
    let table = load(&world).await;
    assert!(table.is_empty());
    let mut changes = table.watch();
    put(&world, 1, "ada", Some("1")).await;
    let change = within("a change", changes.next()).await.unwrap().unwrap();
    assert_eq!(change, ("ada".to_owned(), Some("1".to_owned())));
    put(&world, 1, "ada", None).await;
    assert_eq!(within("a change", changes.next()).await.unwrap().unwrap(), ("ada".to_owned(), None));
    assert!(table.is_empty());
    table.close(WAIT).await.unwrap();
    assert!(within("the end", changes.next()).await.is_none());
}

#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "virtual time")]
async fn loading_ends_in_its_own_time_whoever_does_not_answer() {
    for seconds in [5, 200] {
        let world = World::new(cluster(1)).await;
        put(&world, 0, "ada", Some("1")).await;
        world.cluster.faults().when(Api::ListOffsets).always().optional().then(Reaction::Drop);
        let began = tokio::time::Instant::now();
        let loading = builder(&world.client).load_timeout(Duration::from_secs(seconds)).load();
        assert_eq!(loading.await.unwrap_err().kind(), ErrorKind::Timeout);
        assert_eq!(began.elapsed().as_secs(), seconds);
    }
}

#[tokio::test(start_paused = true)]
async fn what_compaction_took_counts_as_progress() {
    let world = World::new(cluster(1)).await;
    for round in 0..20 {
        for key in ["ada", "bob"] {
            put(&world, 0, key, Some(&round.to_string())).await;
        }
    }
    put(&world, 0, "bob", None).await;
    // The first compaction meets the tombstone, the second, a day later, takes it: the log then ends with a hole.
    world.cluster.compact("users");
    sleep(Duration::from_secs(2 * 24 * 3600)).await;
    world.cluster.compact("users");
    assert_eq!(world.cluster.records("users", 0).len(), 1);
    let table = load(&world).await;
    assert_eq!(entries(&table), pairs(&[("ada", "19")]));
    put(&world, 0, "cyd", Some("1")).await;
    until(&table, |table| table.len() == 2).await;
}

#[expect(clippy::disallowed_methods, reason = "a test in virtual time")]
async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

async fn until(table: &Table, is_so: impl Fn(&Table) -> bool) {
    for _ in 0..2000 {
        if is_so(table) {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("the table has {} keys", table.len());
}

#[tokio::test(start_paused = true)]
async fn what_is_written_while_it_loads_is_followed() {
    let world = World::new(cluster(1)).await;
    for number in 0..200 {
        put(&world, 0, &format!("key-{number}"), Some("old")).await;
    }
    let (table, ()) = tokio::join!(load(&world), async {
        for number in 0..300 {
            put(&world, 0, &format!("key-{number}"), Some("new")).await;
        }
    });
    assert!(table.len() >= 200);
    until(&table, |table| table.len() == 300 && table.entries().iter().all(|(_, value)| value == "new")).await;
}

#[tokio::test(start_paused = true)]
async fn changes_of_a_key_that_nobody_fetched_are_one() {
    let world = World::new(cluster(1)).await;
    let table = load(&world).await;
    let mut changes = table.watch();
    for (key, value) in [("ada", Some("1")), ("bob", Some("1")), ("ada", Some("2")), ("cyd", Some("1")), ("cyd", None)]
    {
        put(&world, 0, key, value).await;
    }
    put(&world, 0, "end", Some("")).await;
    until(&table, |table| table.contains_key("end")).await;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|(key, _): &(String, Option<String>)| key != "end") {
        seen.push(within("a change", changes.next()).await.unwrap().unwrap());
    }
    let expected = [("ada", Some("2")), ("bob", Some("1")), ("cyd", None), ("end", Some(""))];
    assert_eq!(seen, expected.map(|(key, value)| (key.to_owned(), value.map(str::to_owned))));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_decoded_ends_it_or_is_counted() {
    let world = World::new(cluster(1)).await;
    put(&world, 0, "ada", Some("1")).await;
    let table = load(&world).await;
    let mut changes = table.watch();
    world.write_batch("users", 0, batch_of(&[(Some(b"bad"), Some(b"\xff"))])).await;
    put(&world, 0, "bob", Some("1")).await;
    let error = within("the error", changes.next()).await.unwrap().unwrap_err();
    assert!(matches!(&error, ReadError::Undecodable(bad) if bad.offset() == 1 && bad.raw().value() == Some(b"\xff")));
    assert!(within("the end", changes.next()).await.is_none());
    assert!(table.error().is_some());
    assert_eq!(entries(&table), pairs(&[("ada", "1")]), "it stays what it was");

    let error = within("loading", builder(&world.client).load()).await.unwrap_err();
    assert_eq!((error.kind(), error.topic_partition()), (ErrorKind::Serialization, Some(&tp("users", 0))));
    let table = within("loading", builder(&world.client).skip_undecodable().load()).await.unwrap();
    assert_eq!((entries(&table), table.skipped()), (pairs(&[("ada", "1"), ("bob", "1")]), 1));
}

#[tokio::test(start_paused = true)]
async fn the_old_values_of_a_topic_that_is_made_anew_go() {
    let world = World::new(cluster(1)).await;
    put(&world, 0, "ada", Some("1")).await;
    put(&world, 0, "bob", Some("1")).await;
    let table = load(&world).await;
    world.client.admin().delete_topics(&["users"]).await.unwrap().remove(0).unwrap();
    let topic = milena_client::NewTopic::new("users", 1).config("cleanup.policy", "compact");
    world.client.admin().ensure_topics(&[topic]).await.unwrap();
    // So that the writer knows its new id.
    world.client.admin().describe_topic("users").await.unwrap();
    put(&world, 0, "cyd", Some("1")).await;
    until(&table, |table| entries(table) == pairs(&[("cyd", "1")])).await;
}

#[tokio::test(start_paused = true)]
async fn what_an_unclean_election_has_cut_off_goes_though_nothing_is_written_after_it() {
    let world = World::new(Cluster::builder().brokers(3).topic_with("users", 1, [("cleanup.policy", "compact")])).await;
    put(&world, 0, "ada", Some("1")).await;
    world.cluster.hold_follower("users", 0, 2);
    world.cluster.drop_from_isr("users", 0, 2);
    put(&world, 0, "ada", Some("2")).await;
    put(&world, 0, "bob", Some("1")).await;
    let table = load(&world).await;
    let mut changes = table.watch();
    assert_eq!(entries(&table), pairs(&[("ada", "2"), ("bob", "1")]));
    world.cluster.elect_unclean("users", 0, 2);
    until(&table, |table| entries(table) == pairs(&[("ada", "1")])).await;
    let mut told = Vec::new();
    for _ in 0..2 {
        told.push(within("a change", changes.next()).await.unwrap().unwrap().0);
    }
    assert_eq!(told, ["ada", "bob"], "a watcher is told, too");
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_not_there_is_an_error() {
    let world = World::new(cluster(1)).await;
    let builder = Table::builder(&world.client, "nobody", Text, Text).load_timeout(WAIT);
    let error = within("the error", builder.load()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownTopicOrPartition);
}

#[tokio::test(start_paused = true)]
async fn uncommitted_records_show_only_where_that_is_asked_for() {
    let world = World::new(cluster(1)).await;
    put(&world, 0, "ada", Some("1")).await;
    let table = within("loading", builder(&world.client).isolation_level(IsolationLevel::ReadUncommitted).load());
    assert_eq!(table.await.unwrap().len(), 1);
}

/// A batch of one record that belongs to a producer's first transaction.
fn of_transaction(producer_id: i64, key: &str, value: &str) -> Bytes {
    let mut builder = BatchBuilder::new(vec![0; 1024], 0);
    builder.append(1000, Some(key.as_bytes()), Some(value.as_bytes()), &[]).unwrap();
    let mut sealed = builder.seal();
    sealed.stamp(ProducerStamp { producer_id, epoch: 0, base_sequence: 0, transactional: true });
    Bytes::copy_from_slice(sealed.bytes())
}

fn by_hand(world: &World, partition: i32, batch: &Bytes) {
    world.cluster.append("users", partition, batch).unwrap();
}

fn one(key: &str, value: &str) -> Bytes {
    batch_of(&[(Some(key.as_bytes()), Some(value.as_bytes()))])
}

#[tokio::test(start_paused = true)]
async fn markers_at_the_end_of_a_log_are_part_of_the_way_there() {
    let world = World::new(cluster(4)).await;
    // Partition 0 ends with a commit, 1 with an abort, 2 holds markers alone, 3 a transaction that is still open.
    by_hand(&world, 0, &of_transaction(7, "ada", "1"));
    by_hand(&world, 1, &one("bob", "1"));
    by_hand(&world, 1, &of_transaction(8, "bob", "2"));
    by_hand(&world, 3, &one("cyd", "1"));
    by_hand(&world, 3, &of_transaction(9, "cyd", "2"));
    for (partition, producer, commit) in [(0, 7, true), (1, 8, false), (2, 5, true), (2, 6, false)] {
        world.cluster.append_marker("users", partition, (producer, 0), commit).unwrap();
    }
    let started = now();
    let table = load(&world).await;
    assert!(now() - started < Duration::from_secs(1), "no time-out ends the loading: {:?}", now() - started);
    assert_eq!(entries(&table), pairs(&[("ada", "1"), ("bob", "1"), ("cyd", "1")]));
    assert_eq!(table.lag(), 0);
    world.cluster.append_marker("users", 3, (9, 0), true).unwrap();
    until(&table, |table| table.get("cyd") == Some("2".to_owned())).await;
}

#[expect(clippy::disallowed_methods, reason = "a test in virtual time")]
fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

#[tokio::test(start_paused = true)]
async fn partitions_that_have_nothing_are_loaded_at_once_however_they_came_to_that() {
    let world = World::new(cluster(4)).await;
    // Partition 0 was never written to, 1 was emptied, 2 has one batch that compaction has emptied, 3 has a record.
    for partition in 1..4 {
        by_hand(&world, partition, &one("ada", &partition.to_string()));
    }
    by_hand(&world, 2, &batch_of(&[(Some(b"ada"), None)]));
    world.cluster.delete_records("users", 1, i64::MAX);
    world.cluster.compact("users");
    sleep(Duration::from_secs(2 * 24 * 3600)).await;
    world.cluster.compact("users");
    let info = |partition| world.cluster.partition_info("users", partition);
    assert_eq!((info(1).log_start_offset, info(1).log_end_offset, world.cluster.records("users", 2).len()), (1, 1, 0));
    let started = now();
    let table = load(&world).await;
    assert!(now() - started < Duration::from_secs(1), "{:?}", now() - started);
    assert_eq!(entries(&table), pairs(&[("ada", "3")]));
    for partition in 0..3 {
        by_hand(&world, partition, &one(&format!("later {partition}"), ""));
    }
    until(&table, |table| table.len() == 4).await;
}

/// Starts to load, does something while the first records are on their way, and lets them come.
async fn load_while(world: &World, happens: impl AsyncFnOnce()) -> Table {
    let records = world.cluster.stop_when(Api::Fetch).before_serving();
    let (table, ()) = tokio::join!(load(world), async {
        within("a fetch", records.reached()).await;
        happens().await;
        records.go_on();
    });
    table
}

#[tokio::test(start_paused = true)]
async fn partitions_that_are_added_while_it_loads_or_later_are_read_from_their_beginning() {
    let world = World::new(cluster(1)).await;
    by_hand(&world, 0, &one("ada", "1"));
    let table = load_while(&world, async || {
        world.cluster.grow_topic("users", 2);
        by_hand(&world, 1, &one("bob", "1"));
        world.pause().await;
    })
    .await;
    assert_eq!(table.get("ada"), Some("1".to_owned()));
    until(&table, |table| table.len() == 2).await;
    world.cluster.grow_topic("users", 5);
    for partition in 2..5 {
        by_hand(&world, partition, &one(&format!("key {partition}"), "1"));
    }
    world.pause().await;
    until(&table, |table| table.len() == 5).await;
    by_hand(&world, 4, &one("key 4", "2"));
    until(&table, |table| table.get("key 4") == Some("2".to_owned())).await;
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_made_anew_while_it_loads_is_loaded_as_it_is_then() {
    // Longer than before, shorter, empty, or with more partitions.
    for (partitions, records) in [(1, 30), (1, 2), (1, 0), (3, 5)] {
        let world = World::new(cluster(1)).await;
        for n in 0..10 {
            by_hand(&world, 0, &one(&format!("old {n}"), "1"));
        }
        let table = load_while(&world, async || {
            world.cluster.delete_topic("users");
            sleep(Duration::from_secs(1)).await;
            world.cluster.create_topic("users", partitions);
            for n in 0..records {
                by_hand(&world, n % partitions, &one(&format!("new {n}"), "1"));
            }
            world.pause().await;
        })
        .await;
        let is_loaded = |table: &Table| {
            table.len() == records as usize && entries(table).iter().all(|(key, _)| key.starts_with("new"))
        };
        until(&table, is_loaded).await;
        by_hand(&world, 0, &one("last", "1"));
        until(&table, |table| table.contains_key("last")).await;
        table.close(WAIT).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_that_moves_back_or_falls_out_of_the_log_while_it_loads_is_not_waited_for() {
    // An unclean election cuts off all but the first record; retention takes all but the last, or all of them.
    for (left, expected) in [(None, "first"), (Some(4), "last"), (Some(5), "")] {
        let compacted = [("cleanup.policy", "compact")];
        let world = World::new(Cluster::builder().brokers(3).topic_with("users", 1, compacted)).await;
        by_hand(&world, 0, &one("first", "1"));
        world.cluster.hold_follower("users", 0, 2);
        world.cluster.drop_from_isr("users", 0, 2);
        for key in ["a", "b", "c", "last"] {
            by_hand(&world, 0, &one(key, "1"));
        }
        let table = load_while(&world, async || {
            match left {
                None => world.cluster.elect_unclean("users", 0, 2),
                Some(first) => world.cluster.delete_records("users", 0, first),
            }
            world.pause().await;
        })
        .await;
        let keys: Vec<String> = entries(&table).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys.join(","), expected);
        by_hand(&world, 0, &one("later", "1"));
        until(&table, |table| table.contains_key("later")).await;
    }
}
