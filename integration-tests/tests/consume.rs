//! The consumer on every cluster.

#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use milena::serde::Text;
use milena::{
    Client, CompactedTable, Consumer, ConsumerEvent, IsolationLevel, NewTopic, OffsetReset, Producer, Record, StartAt,
    TopicPartition,
};
use milena_integration_tests::{Env, java_tool, on_every_cluster, on_every_cluster_with_faults, real_kafka, unique};
use milena_testkit::{Api, Reaction};

const SECOND: Duration = Duration::from_secs(1);

async fn send(producer: &Producer, topic: &str, numbers: std::ops::Range<u32>) {
    let mut deliveries = Vec::new();
    for n in numbers {
        let value = n.to_string();
        deliveries.push(producer.send(&Record::to(topic).key(&value).value(&value)).await.unwrap());
    }
    for delivery in deliveries {
        delivery.await.unwrap();
    }
}

async fn member(client: &Client, group: &str, topic: &str) -> Consumer {
    client.consumer(group).subscribe([topic]).offset_reset(OffsetReset::Earliest).build().await.unwrap()
}

/// Polls until nothing has come for a while; every record's number and how often it came.
async fn drain(consumer: &mut Consumer, seen: &mut BTreeMap<u32, u32>, patience: Duration) {
    loop {
        let records = consumer.poll(patience).await.unwrap();
        if records.is_empty() {
            return;
        }
        for record in &records {
            let number = std::str::from_utf8(record.value().unwrap()).unwrap().parse().unwrap();
            *seen.entry(number).or_default() += 1;
        }
        records.ack();
    }
}

#[test]
fn partitions_are_read_in_order_from_where_it_was_asked() {
    on_every_cluster("partitions_are_read_in_order_from_where_it_was_asked", async |env: &Env| {
        let client = env.connect().await;
        let topic = env.topic(&client, "orders", 2).await;
        let producer = client.producer().build().await.unwrap();
        send(&producer, &topic, 0..1_000).await;
        let build = |start| client.partition_consumer().assign(topic.as_str(), [0, 1], start).build();
        let mut reader = build(StartAt::Beginning).await.unwrap();
        let mut next = [0i64; 2];
        for _ in 0..1_000 {
            let record = reader.recv().await.unwrap().unwrap();
            let expected = &mut next[record.partition() as usize];
            assert_eq!(record.offset(), *expected);
            assert_eq!(record.key(), record.value());
            *expected += 1;
        }
        assert_eq!(next[0] + next[1], 1_000);
        reader.close(SECOND * 5).await.unwrap();
        let mut reader = build(StartAt::End).await.unwrap();
        assert!(reader.poll(SECOND / 5).await.unwrap().is_empty());
        send(&producer, &topic, 1_000..1_001).await;
        let record = reader.recv().await.unwrap().unwrap();
        assert_eq!(record.value(), Some(&b"1000"[..]));
        reader.close(SECOND * 5).await.unwrap();
        producer.close(SECOND * 5).await.unwrap();
        client.close().await;
        assert_eq!((client.tasks(), client.sockets(), client.spawner().threads()), (0, 0, 0));
    });
}

#[test]
fn a_member_that_joins_late_gets_its_share_and_nothing_is_read_twice() {
    on_every_cluster("a_member_that_joins_late_gets_its_share_and_nothing_is_read_twice", async |env: &Env| {
        let client = env.connect().await;
        let topic = env.topic(&client, "orders", 6).await;
        let group = env.name("group");
        let producer = client.producer().build().await.unwrap();
        send(&producer, &topic, 0..500).await;
        let mut first = member(&client, &group, &topic).await;
        let mut seen = BTreeMap::new();
        while seen.len() < 500 {
            drain(&mut first, &mut seen, SECOND / 5).await;
        }
        assert_eq!(first.handle().assignment().len(), 6);
        let mut second = member(&client, &group, &topic).await;
        // Cooperative: two rebalances, while both go on reading.
        while second.handle().assignment().len() < 3 || first.handle().assignment().len() > 3 {
            drain(&mut first, &mut seen, SECOND / 10).await;
            drain(&mut second, &mut seen, SECOND / 10).await;
        }
        let mine: BTreeSet<_> = first.handle().assignment().into_iter().collect();
        let theirs: BTreeSet<_> = second.handle().assignment().into_iter().collect();
        assert!(mine.is_disjoint(&theirs), "{mine:?} {theirs:?}");
        send(&producer, &topic, 500..1_000).await;
        let (mut of_first, mut of_second) = (BTreeMap::new(), BTreeMap::new());
        while of_first.len() + of_second.len() < 500 {
            drain(&mut first, &mut of_first, SECOND / 10).await;
            drain(&mut second, &mut of_second, SECOND / 10).await;
        }
        assert!(of_first.len() > 100 && of_second.len() > 100, "{} {}", of_first.len(), of_second.len());
        for (number, times) in of_first.into_iter().chain(of_second) {
            *seen.entry(number).or_default() += times;
        }
        assert_eq!(seen.len(), 1_000);
        let twice: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "nobody was killed: {twice:?}");
        second.close(SECOND * 5).await.unwrap();
        first.close(SECOND * 5).await.unwrap();

        // Everything was committed: whoever comes next starts at the end.
        let mut third = member(&client, &group, &topic).await;
        while third.handle().assignment().len() < 6 {
            assert!(third.poll(SECOND / 10).await.unwrap().is_empty());
        }
        assert!(third.poll(SECOND / 2).await.unwrap().is_empty());
        third.close(SECOND * 5).await.unwrap();
        producer.close(SECOND * 5).await.unwrap();
        client.close().await;
        assert_eq!((client.tasks(), client.sockets(), client.spawner().threads()), (0, 0, 0));
    });
}

#[test]
fn offsets_that_are_gone_and_topics_that_are_made_anew_are_told() {
    on_every_cluster("offsets_that_are_gone_and_topics_that_are_made_anew_are_told", async |env: &Env| {
        let client = env.connect().await;
        let topic = env.topic(&client, "orders", 1).await;
        let tp = TopicPartition::new(topic.as_str(), 0);
        let producer = client.producer().build().await.unwrap();
        send(&producer, &topic, 0..100).await;
        let builder = client.partition_consumer().assign(topic.as_str(), [0], StartAt::Beginning);
        let mut reader = builder.offset_reset(OffsetReset::Earliest).build().await.unwrap();
        let handle = reader.handle();
        for offset in 0..100 {
            assert_eq!(reader.recv().await.unwrap().unwrap().offset(), offset);
        }
        assert_eq!((handle.lag(&tp), handle.lag_time(&tp)), (Some(0), Some(Duration::ZERO)));
        assert_eq!(handle.end_offsets([tp.clone()]).await.unwrap()[&tp], 100);
        let first = handle.offsets_for_times([(tp.clone(), 0)]).await.unwrap()[&tp].unwrap();
        assert_eq!((first.offset, first.leader_epoch), (0, Some(0)));

        client.admin().delete_records(&[(tp.clone(), 60)]).await.unwrap();
        handle.seek(&tp, StartAt::Offset(10)).unwrap();
        assert_eq!(reader.recv().await.unwrap().unwrap().offset(), 60);
        let event = handle.next_event().await.unwrap();
        assert!(matches!(event, ConsumerEvent::Reset { from: Some(10), to: 60, lost: 50, .. }), "{event:?}");
        assert_eq!(handle.beginning_offsets([tp.clone()]).await.unwrap()[&tp], 60);

        client.admin().delete_topics(&[topic.as_str()]).await.unwrap();
        client.admin().ensure_topics(&[NewTopic::new(&topic, 1)]).await.unwrap();
        let producer = client.producer().build().await.unwrap();
        send(&producer, &topic, 200..300).await;
        let mut numbers = Vec::new();
        while numbers.last() != Some(&299) {
            let record = reader.recv().await.unwrap().unwrap();
            numbers.push(std::str::from_utf8(record.value().unwrap()).unwrap().parse::<u32>().unwrap());
        }
        let anew: Vec<_> = numbers.into_iter().filter(|number| *number >= 200).collect();
        assert_eq!(anew, (200..300).collect::<Vec<_>>());
        let event = handle.next_event().await.unwrap();
        assert!(matches!(event, ConsumerEvent::TopicRecreated { .. }), "{event:?}");
        let event = handle.next_event().await.unwrap();
        assert!(matches!(event, ConsumerEvent::Reset { to: 0, .. }), "{event:?}");
        reader.close(SECOND * 5).await.unwrap();
        assert_eq!(handle.next_event().await, None);
    });
}

#[test]
fn a_follower_in_the_readers_rack_is_read_where_the_brokers_have_racks() {
    // Real brokers that the kit or xtask starts are a rack each, rack-1, rack-2, …; those in the process have none here.
    on_every_cluster_with_faults(
        "a_follower_in_the_readers_rack_is_read_where_the_brokers_have_racks",
        async |env: &Env| {
            let client = env.connect().await;
            let topic = env.name("orders");
            let copies = client.metadata().brokers.len().min(3) as i16;
            client.admin().ensure_topics(&[NewTopic::new(&topic, 1).replication_factor(copies)]).await.unwrap();
            let known = client.admin().describe_topic(&topic).await.unwrap();
            let leader = known.partitions[0].leader.unwrap();
            let follower = known.partitions[0].replicas.iter().copied().find(|id| *id != leader);
            let near = follower.and_then(|id| client.metadata().brokers[&id].rack.clone());
            let producer = client.producer().build().await.unwrap();
            let builder = client.partition_consumer().assign(topic.as_str(), [0], StartAt::Beginning);
            let mut reader = builder.rack(near.clone().unwrap_or("nowhere".to_owned())).build().await.unwrap();
            let fetches = |broker| env.request_log().api(Api::Fetch).broker(broker).count();
            println!("the reader is near {near:?}");
            let mut at_leader = 0;
            for round in 0..5 {
                send(&producer, &topic, round * 10..round * 10 + 10).await;
                for n in round * 10..round * 10 + 10 {
                    assert_eq!(reader.recv().await.unwrap().unwrap().offset(), i64::from(n));
                }
                if round == 0 {
                    at_leader = fetches(leader);
                }
            }
            match near {
                Some(_) => assert_eq!((fetches(leader), fetches(follower.unwrap()) >= 4), (at_leader, true)),
                None => assert!(fetches(leader) > at_leader),
            }
            reader.close(SECOND * 5).await.unwrap();
        },
    );
}

/// KIP-951: Metadata is asked for, and not answered any more. Whoever reads, and whoever writes, is told by the old leader who is the new
/// one.
#[test]
fn a_moved_leader_is_found_without_metadata() {
    on_every_cluster_with_faults("a_moved_leader_is_found_without_metadata", async |env: &Env| {
        let client = env.connect().await;
        let topic = env.name("orders");
        let copies = client.metadata().brokers.len().min(3) as i16;
        if copies < 3 {
            return println!("one broker leads everything here");
        }
        client.admin().ensure_topics(&[NewTopic::new(&topic, 1).replication_factor(copies)]).await.unwrap();
        let known = client.admin().describe_topic(&topic).await.unwrap();
        let leader = known.partitions[0].leader.unwrap();
        let others: Vec<i32> = known.partitions[0].replicas.iter().copied().filter(|id| *id != leader).collect();
        // Of a client of its own: each has to find the leader by itself.
        let writer = env.connect().await;
        let producer = writer.producer().build().await.unwrap();
        let mut reader =
            client.partition_consumer().assign(topic.as_str(), [0], StartAt::Beginning).build().await.unwrap();
        let fetches = |broker: i32| env.request_log().api(Api::Fetch).broker(broker).count();
        let mut read_up_to = async |end: i64| {
            for offset in end - 10..end {
                assert_eq!(reader.recv().await.unwrap().unwrap().offset(), offset);
            }
        };
        send(&producer, &topic, 0..10).await;
        read_up_to(10).await;
        assert_eq!(others.iter().map(|id| fetches(*id)).sum::<usize>(), 0);

        let silent = env.faults().when(Api::Metadata).always().optional().then(Reaction::Drop);
        match env.cluster() {
            Some(cluster) => cluster.move_leader(&topic, 0, others[0]),
            None => move_to(&real_kafka("a_moved_leader_is_found_without_metadata").unwrap(), &topic, &others),
        }
        send(&producer, &topic, 10..20).await;
        read_up_to(20).await;
        assert!(fetches(others[0]) > 0, "the new leader is read");
        println!("{} questions for metadata had no answer", silent.fired());
        silent.remove();
        reader.close(SECOND * 5).await.unwrap();
        producer.close(SECOND * 5).await.unwrap();
        writer.close().await;
        client.close().await;
    });
}

/// Gives the partition to these brokers, the first of which leads it then.
fn move_to(servers: &str, topic: &str, brokers: &[i32]) {
    let plan = format!(
        "{{\"version\":1,\"partitions\":[{{\"topic\":\"{topic}\",\"partition\":0,\"replicas\":{brokers:?}}}]}}"
    );
    let file = std::env::temp_dir().join(unique("reassignment"));
    std::fs::write(&file, plan).unwrap();
    let arguments = ["--bootstrap-server", servers, "--execute", "--reassignment-json-file", file.to_str().unwrap()];
    java_tool("org.apache.kafka.tools.reassign.ReassignPartitionsCommand", &arguments, "");
    std::fs::remove_file(&file).unwrap();
}

/// The last offset of every partition is a transaction's marker, an aborted one among them; one partition is empty.
#[test]
fn a_compacted_topic_is_loaded_to_its_end_and_followed() {
    on_every_cluster("a_compacted_topic_is_loaded_to_its_end_and_followed", async |env: &Env| {
        let client = env.connect().await;
        let topic = env.name("users");
        let new = NewTopic::new(&topic, 3).config("cleanup.policy", "compact");
        client.admin().ensure_topics(&[new]).await.unwrap();
        let mut producer = client.producer().transactional_id(env.name("id")).build().await.unwrap();
        for (key, value, partition, commits) in
            [("ada", "1", 0, true), ("ada", "2", 0, true), ("bob", "1", 1, true), ("cyd", "1", 1, false)]
        {
            let transaction = producer.begin();
            let record = Record::to(&topic).partition(partition).key(key).value(value);
            transaction.send(&record).await.unwrap().await.unwrap();
            producer = if commits { transaction.commit().await.unwrap() } else { transaction.abort().await.unwrap() };
        }
        let load =
            |level| client.compacted_table::<String, String>(topic.as_str(), Text, Text).isolation_level(level).load();
        let all = load(IsolationLevel::ReadUncommitted).await.unwrap();
        let committed = load(IsolationLevel::ReadCommitted).await.unwrap();
        let pairs = |table: &CompactedTable<String, String>| -> Vec<String> {
            table.entries().into_iter().map(|(key, value)| format!("{key}={value}")).collect()
        };
        assert_eq!(pairs(&all), ["ada=2", "bob=1", "cyd=1"]);
        assert_eq!(pairs(&committed), ["ada=2", "bob=1"]);
        let mut changes = committed.watch();
        let transaction = producer.begin();
        transaction.send(&Record::to(&topic).partition(2).key("dan").value("1")).await.unwrap().await.unwrap();
        transaction.send(&Record::to(&topic).partition(1).key("bob")).await.unwrap().await.unwrap();
        drop(transaction.commit().await.unwrap());
        let mut seen = BTreeMap::new();
        while seen.len() < 2 {
            let (key, value) = changes.next().await.unwrap().unwrap();
            seen.insert(key, value);
        }
        assert_eq!(seen, BTreeMap::from([("bob".to_owned(), None), ("dan".to_owned(), Some("1".to_owned()))]));
        assert_eq!(pairs(&committed), ["ada=2", "dan=1"]);
        all.close(SECOND * 5).await.unwrap();
        committed.close(SECOND * 5).await.unwrap();
        client.close().await;
        assert_eq!((client.tasks(), client.sockets(), client.spawner().threads()), (0, 0, 0));
    });
}
