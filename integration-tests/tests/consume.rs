//! The consumer on every cluster.

#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use milena::{Client, Consumer, OffsetReset, Producer, Record, StartAt};
use milena_integration_tests::{Env, on_every_cluster};

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
