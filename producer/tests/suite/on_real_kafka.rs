//! The producer on a real Kafka cluster, when `KAFKA_BOOTSTRAP_SERVERS` names one.

use std::time::Duration;

use milena_client::{Client, ErrorKind, NewTopic, OffsetSpec, Outcome, TopicPartition};
use milena_producer::{Compression, Concern, Producer, Purge, Record};

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

#[tokio::test]
async fn what_is_purged_is_not_sent_again_and_what_follows_is_written_in_order() {
    let test = "what_is_purged_is_not_sent_again_and_what_follows_is_written_in_order";
    let Some(servers) = milena_testkit::real_bootstrap_servers(test) else { return };
    let client = Client::builder(servers).connect().await.unwrap();
    let topic = format!("purged-{}-{}", client.wall_clock().now_ms(), std::process::id());
    client.admin().create_topics(&[NewTopic::new(&topic, 1)]).await.unwrap().remove(0).unwrap();
    let producer = Producer::builder(&client).build().await.unwrap();
    let mut deliveries = Vec::new();
    for round in 0..20 {
        let values: Vec<String> = (0..1_000).map(|n| format!("{round}-{n:0100}")).collect();
        producer.send_all(values.iter().map(|value| Record::to(&topic).value(value)), &mut deliveries).await.unwrap();
        match round % 3 {
            0 => assert_eq!(producer.purge(Purge::Queued).unknown, 0),
            1 => assert!(producer.purge(Purge::QueuedAndInFlight).not_written > 0),
            _ => producer.flush().await.unwrap(),
        }
    }
    producer.flush().await.ok();
    let (mut written, mut not_written, mut unknown, mut last) = (0, 0, 0, -1);
    for delivery in deliveries {
        match delivery.await {
            Ok(placed) => {
                written += 1;
                let offset = placed.offset.unwrap();
                assert!(offset > last, "{offset} is behind {last}");
                last = offset;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Purged, "{error}");
                if error.outcome() == Outcome::NotWritten { not_written += 1 } else { unknown += 1 }
            }
        }
    }
    assert_eq!(written + not_written + unknown, 20_000);
    assert!(written >= 6_000 && not_written > 0, "{written} written, {not_written} not, {unknown} unknown");
    let asked = [(TopicPartition::new(&*topic, 0), OffsetSpec::Latest)];
    let end = client.admin().list_offsets(&asked).await.unwrap().into_values().next().unwrap().unwrap();
    assert!(
        (written..=written + unknown).contains(&end),
        "{written} written, {unknown} unknown, and the log ends at {end}"
    );
    producer.close(Duration::from_secs(30)).await.unwrap();
    client.admin().delete_topics(&[&topic]).await.unwrap().remove(0).unwrap();
    client.close().await;
}

#[tokio::test]
async fn real_brokers_say_how_safe_a_topic_is() {
    let Some(servers) = milena_testkit::real_bootstrap_servers("real_brokers_say_how_safe_a_topic_is") else { return };
    let client = Client::builder(servers).connect().await.unwrap();
    let unique = format!("{}-{}", client.wall_clock().now_ms(), std::process::id());
    let [alone, usual, safe] = ["alone", "usual", "safe"].map(|name| format!("{name}-{unique}"));
    let replicas = i16::try_from(client.metadata().brokers.len().min(3)).unwrap();
    let settings = |topic: &str, min: &str| {
        let topic = NewTopic::new(topic, 2).replication_factor(replicas).config("min.insync.replicas", min);
        topic.config("unclean.leader.election.enable", "false")
    };
    let topics = [NewTopic::new(&alone, 1).replication_factor(1), settings(&usual, "1"), settings(&safe, "2")];
    client.admin().ensure_topics(&topics).await.unwrap();
    let producer = Producer::builder(&client).build().await.unwrap();
    let found = producer.preflight([&alone, &usual, &safe]).await.unwrap();
    let about: Vec<_> = found.iter().map(|finding| (&finding.topic, &finding.concern)).collect();
    if replicas > 1 {
        assert!(
            matches!(about.as_slice(), [(a, Concern::ReplicationFactorOne), (b, Concern::MinInsyncReplicasOne)]
                if **a == alone && **b == usual),
            "{about:?}"
        );
    } else {
        assert!(about.iter().all(|(_, concern)| matches!(concern, Concern::ReplicationFactorOne)), "{about:?}");
    }
    producer.close(Duration::from_secs(30)).await.unwrap();
    client.admin().delete_topics(&[&alone, &usual, &safe]).await.unwrap();
    client.close().await;
}
