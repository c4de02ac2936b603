//! The producer on every cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use milena::{Compression, OffsetSpec, Record, TopicPartition};
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
