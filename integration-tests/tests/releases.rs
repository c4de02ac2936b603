//! milena against clusters that are like older releases of Kafka: each job that a client has, once.
//!
//! `MILENA_RELEASE=2.8` (or 3.9, 4.3) runs every portable suite on such a cluster; `cargo xtask accept releases` does.

#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]

use std::collections::BTreeSet;
use std::time::Duration;

use milena::{
    Client, IsolationLevel, NewTopic, OffsetAndMetadata, OffsetReset, OffsetSpec, Record, StartAt, TopicPartition,
};
use milena_integration_tests::simulated;
use milena_testkit::{Api, Cluster, KafkaVersion};

const SECOND: Duration = Duration::from_secs(1);

/// Runs one job on a cluster of each release.
async fn on_each_release(job: impl AsyncFn(&Cluster, &Client, KafkaVersion)) {
    for release in [KafkaVersion::V2_8, KafkaVersion::V3_9, KafkaVersion::V4_3] {
        println!("{release:?}");
        let cluster = Cluster::builder().kafka_version(release).topic("orders", 3).start_in_memory().unwrap();
        let client = simulated(&cluster).connect().await.unwrap();
        job(&cluster, &client, release).await;
        client.close().await;
        cluster.shutdown().await;
    }
}

fn number(value: Option<&[u8]>) -> u32 {
    std::str::from_utf8(value.unwrap()).unwrap().parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_group_reads_what_was_produced_and_goes_on_where_it_stopped() {
    on_each_release(async |cluster, client, release| {
        let producer = client.producer().build().await.unwrap();
        let mut read = BTreeSet::new();
        for half in [0..200u32, 200..400] {
            for n in half.clone() {
                let value = n.to_string();
                drop(producer.send(&Record::to("orders").key(&value).value(&value)).await.unwrap());
            }
            producer.flush().await.unwrap();
            let member = client.consumer("billing").subscribe(["orders"]).offset_reset(OffsetReset::Earliest);
            let mut member = member.build().await.unwrap();
            let mut got = 0;
            while got < 200 {
                let records = member.poll(SECOND).await.unwrap();
                for record in &records {
                    got += 1;
                    assert!(read.insert(number(record.value())), "{release:?}: nothing is read twice");
                }
                records.ack();
            }
            member.close(SECOND * 5).await.unwrap();
        }
        assert_eq!(read.len(), 400);
        producer.close(SECOND * 5).await.unwrap();
        let highest = |api: Api| cluster.request_log().api(api).entries().map(|entry| entry.version).max();
        let produce = match release {
            KafkaVersion::V2_8 => 9,
            KafkaVersion::V3_9 => 11,
            _ => 13,
        };
        assert_eq!(highest(Api::Produce), Some(produce), "{release:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn transactions_are_committed_with_offsets_and_aborted() {
    on_each_release(async |cluster, client, release| {
        let tp = TopicPartition::new("orders", 1);
        let mut producer = client.producer().transactional_id("copy").build().await.unwrap();
        let mut good = Vec::new();
        for round in 0..4u32 {
            let member = client.consumer("billing").subscribe(["orders"]).commits_in_transactions();
            let mut member = member.offset_reset(OffsetReset::Earliest).build().await.unwrap();
            while member.handle().assignment().is_empty() {
                member.poll(SECOND / 10).await.unwrap();
            }
            let metadata = member.handle().group_metadata().await.unwrap();
            let transaction = producer.begin();
            for partition in 0..3 {
                let value = round.to_string();
                drop(transaction.send(&Record::to("orders").partition(partition).value(&value)).await.unwrap());
            }
            let offset = OffsetAndMetadata::from(i64::from(round) + 1);
            transaction.send_offsets([(tp.clone(), offset)], &metadata).await.unwrap();
            producer = if round % 2 == 0 {
                good.push(round);
                transaction.commit().await.unwrap()
            } else {
                transaction.abort().await.unwrap()
            };
            member.close(SECOND * 5).await.unwrap();
        }
        producer.close(SECOND * 5).await.unwrap();
        let reader = client.partition_consumer().assign("orders", [1], StartAt::Beginning);
        let mut reader = reader.isolation_level(IsolationLevel::ReadCommitted).build().await.unwrap();
        let mut read = Vec::new();
        while read.len() < good.len() {
            read.extend(reader.poll(SECOND).await.unwrap().iter().map(|record| number(record.value())));
        }
        assert_eq!(read, good, "{release:?}");
        reader.close(SECOND * 5).await.unwrap();
        let committed = cluster.group_info("billing").unwrap().offsets[&("orders".to_owned(), 1)];
        assert_eq!(committed, 3, "{release:?}: that of the last committed transaction");
        // Since KIP-890 nobody asks for partitions to be added.
        assert_eq!(cluster.requests(Api::AddPartitionsToTxn) > 0, release < KafkaVersion::V4_3, "{release:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn topics_are_made_asked_about_shortened_and_deleted() {
    on_each_release(async |cluster, client, release| {
        let admin = client.admin();
        admin.ensure_topics(&[NewTopic::new("new", 2)]).await.unwrap();
        assert_eq!(admin.describe_topic("new").await.unwrap().partitions.len(), 2);
        let producer = client.producer().linger(Duration::ZERO).build().await.unwrap();
        for _ in 0..5 {
            producer.send(&Record::to("new").partition(1).value("x")).await.unwrap().await.unwrap();
        }
        let tp = TopicPartition::new("new", 1);
        admin.delete_records(&[(tp.clone(), 2)]).await.unwrap();
        let asked = [(tp.clone(), OffsetSpec::Earliest)];
        let ends = admin.list_offsets(&asked).await.unwrap();
        assert_eq!(ends.into_values().map(|end| end.unwrap()).collect::<Vec<_>>(), [2], "{release:?}");
        producer.close(SECOND).await.unwrap();
        admin.delete_topics(&["new"]).await.unwrap().remove(0).unwrap();
        assert!(cluster.partitions("new").is_none());
    })
    .await;
}
