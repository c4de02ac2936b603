//! The producer on every cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use milena::{Compression, OffsetSpec, Record, StartAt, TopicPartition};
use milena_integration_tests::{Env, on_every_cluster};

#[test]
fn every_record_gets_an_offset_of_its_own() {
    on_every_cluster("every_record_gets_an_offset_of_its_own", async |env: &Env| {
        let client = env.connect().await;
        let topic = env.topic(&client, "orders", 3).await;
        for compression in Compression::ALL {
            let producer = client.producer().compression(compression).build().await.unwrap();
            let mut deliveries = Vec::new();
            for n in 0..5_000 {
                let (key, value) =
                    (format!("key-{n}"), format!("value {n} of some length, to fill more than one batch"));
                deliveries.push(producer.send(&Record::to(&topic).key(&key).value(&value)).await.unwrap());
            }
            let mut placed = BTreeSet::new();
            for delivery in deliveries {
                let at = delivery.await.unwrap();
                assert!(placed.insert((at.partition, at.offset)), "{at:?} was given twice");
            }
            producer.close(Duration::from_secs(5)).await.unwrap();
        }
        let ends: Vec<_> = (0..3).map(|p| (TopicPartition::new(topic.as_str(), p), OffsetSpec::Latest)).collect();
        let ends = client.admin().list_offsets(&ends).await.unwrap();
        assert_eq!(ends.values().map(|end| end.unwrap()).sum::<i64>(), 25_000);
        client.close().await;
        assert_eq!((client.tasks(), client.sockets(), client.spawner().threads()), (0, 0, 0));
    });
}

/// Java's side of the same is in `codecs.rs`, which needs Java's tools and so runs on real Kafka only.
#[test]
fn every_codec_and_level_is_read_back_as_it_was_sent() {
    on_every_cluster("every_codec_and_level_is_read_back_as_it_was_sent", async |env: &Env| {
        let client = env.connect().await;
        let topic = env.topic(&client, "compressed", 1).await;
        let mut sent = Vec::new();
        for codec in Compression::ALL {
            let levels = codec.levels().into_iter().flatten().map(Some).chain([None]);
            for level in levels {
                let builder = client.producer().compression(codec);
                let builder = level.into_iter().fold(builder, |builder, level| builder.compression_level(level));
                let producer = builder.build().await.unwrap();
                let mut last = None;
                for n in 0..300 {
                    let value = format!("{codec}/{level:?} {n} {}", "a text that repeats itself ".repeat(n % 7));
                    last = Some(producer.send(&Record::to(&topic).value(&value)).await.unwrap());
                    sent.push(value);
                }
                last.unwrap().await.unwrap();
                producer.close(Duration::from_secs(5)).await.unwrap();
            }
        }
        let mut reader =
            client.partition_consumer().assign(topic.as_str(), [0], StartAt::Beginning).build().await.unwrap();
        for value in sent {
            let record = reader.recv().await.unwrap().unwrap();
            assert_eq!(record.value(), Some(value.as_bytes()));
        }
        reader.close(Duration::from_secs(5)).await.unwrap();
        client.close().await;
        assert_eq!((client.tasks(), client.sockets(), client.spawner().threads()), (0, 0, 0));
    });
}
