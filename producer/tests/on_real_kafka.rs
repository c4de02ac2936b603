//! The producer on a real Kafka cluster, when `KAFKA_BOOTSTRAP_SERVERS` names one.

use std::time::Duration;

use milena_client::{Client, ErrorKind, NewTopic, OffsetSpec, TopicPartition};
use milena_producer::{Compression, Producer, Record};

#[tokio::test]
async fn twenty_thousand_records_are_acknowledged_at_dense_offsets_in_order() {
    let test = "twenty_thousand_records_are_acknowledged_at_dense_offsets_in_order";
    let Some(servers) = milena_testkit::real_bootstrap_servers(test) else { return };
    let client = Client::builder(servers).connect().await.unwrap();
    let now = client.wall_clock().now_ms();
    for codec in [Compression::None, Compression::Lz4] {
        let topic = format!("producer-{codec}-{now}-{}", std::process::id());
        client.admin().create_topics(&[NewTopic::new(&topic, 4)]).await.unwrap().remove(0).unwrap();
        let producer = Producer::builder(&client).compression(codec).build().await.unwrap();
        let mut deliveries = Vec::new();
        for n in 0..20_000 {
            let (key, value) = (format!("k{}", n % 101), format!("{n:0100}"));
            let record = Record::to(&topic).key(&key).value(&value).header("n", "1");
            deliveries.push(producer.send(&record).await.unwrap());
        }
        let mut next = [0; 4];
        for delivery in deliveries {
            let placed = delivery.await.unwrap();
            let next = &mut next[placed.partition as usize];
            assert_eq!(placed.offset, Some(*next), "the order of sending is the order of the log");
            *next += 1;
        }
        for (partition, count) in next.into_iter().enumerate() {
            let asked = [(TopicPartition::new(&*topic, partition as i32), OffsetSpec::Latest)];
            let end = client.admin().list_offsets(&asked).await.unwrap();
            assert_eq!(end.into_values().collect::<Vec<_>>(), [Some(count)]);
        }
        // 1.5 MB of one record: beyond the broker's own limit (message.max.bytes, 1 MiB), and still below the producer's.
        let large = Producer::builder(&client).max_request_size(4 << 20).build().await.unwrap();
        let noise: Vec<u8> = {
            let mut rng = client.rng("noise");
            (0..1_500_000).map(|_| rng.u8(..)).collect()
        };
        let error = large.send(&Record::to(&topic).value(&noise)).await.unwrap().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Broker(_)), "{error}");
        let after = large.send(&Record::to(&topic).value("fine")).await.unwrap().await;
        assert!(after.is_ok(), "{after:?}");
        for producer in [producer, large] {
            producer.close(Duration::from_secs(30)).await.unwrap();
        }
        client.admin().delete_topics(&[&topic]).await.unwrap().remove(0).unwrap();
    }
    client.close().await;
    assert_eq!((client.tasks(), client.sockets()), (0, 0));
}
