//! The client by itself: connecting, metadata, admin, closing.

use std::time::Duration;

use milena::{Client, ErrorCode, ErrorKind, NewTopic, OffsetSpec, Record, StartAt, TopicPartition};
use milena_integration_tests::{Env, on_every_cluster};

#[test]
fn topics_are_created_described_listed_and_deleted() {
    on_every_cluster("topics_are_created_described_listed_and_deleted", async |env: &Env| {
        let client = env.connect().await;
        let admin = client.admin();
        let name = env.name("admin");
        admin.ensure_topics(&[NewTopic::new(&name, 3).config("cleanup.policy", "compact")]).await.unwrap();
        let topic = admin.describe_topic(&name).await.unwrap();
        assert_eq!(topic.partitions.len(), 3);
        assert!(!topic.id.is_nil());
        let again = admin.create_topics(&[NewTopic::new(&name, 3)]).await.unwrap();
        assert_eq!(again[0].as_ref().unwrap_err().code(), Some(ErrorCode::TOPIC_ALREADY_EXISTS));
        let refused = admin.create_topics(&[NewTopic::new(env.name("wide"), 1).replication_factor(99)]).await.unwrap();
        let error = refused[0].as_ref().unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::INVALID_REPLICATION_FACTOR), "{error}");
        let asked: Vec<_> = (0..3).map(|p| (TopicPartition::new(name.as_str(), p), OffsetSpec::Latest)).collect();
        let offsets = admin.list_offsets(&asked).await.unwrap();
        assert!(offsets.len() == 3 && offsets.values().all(|offset| *offset == Some(0)), "{offsets:?}");
        let beyond = [(TopicPartition::new(name.as_str(), 7), OffsetSpec::Latest)];
        let error = admin.list_offsets(&beyond).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownTopicOrPartition, "{error}");
        admin.delete_topics(&[&name]).await.unwrap().remove(0).unwrap();
        drop(admin);
        client.close().await;
        assert_eq!((client.tasks(), client.sockets(), client.spawner().threads()), (0, 0, 0));
    });
}

#[test]
fn records_are_deleted_up_to_an_offset_and_the_rest_stays() {
    on_every_cluster("records_are_deleted_up_to_an_offset_and_the_rest_stays", async |env: &Env| {
        let client = env.connect().await;
        let topic = env.topic(&client, "deleted", 2).await;
        let producer = client.producer().build().await.unwrap();
        for n in 0..10 {
            let value = n.to_string();
            producer.send(&Record::to(&topic).partition(0).value(&value)).await.unwrap().await.unwrap();
        }
        producer.close(Duration::from_secs(5)).await.unwrap();
        let admin = client.admin();
        let partition = TopicPartition::new(topic.as_str(), 0);
        let starts = admin.delete_records(&[(partition.clone(), 7)]).await.unwrap();
        assert_eq!(starts[&partition], 7);
        let first = admin.list_offsets(&[(partition.clone(), OffsetSpec::Earliest)]).await.unwrap();
        assert_eq!(first[&partition], Some(7));
        let error = admin.delete_records(&[(partition.clone(), 11)]).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::OFFSET_OUT_OF_RANGE), "{error}");
        let mut reader =
            client.partition_consumer().assign(topic.as_str(), [0], StartAt::Beginning).build().await.unwrap();
        for n in 7..10 {
            let record = reader.recv().await.unwrap().unwrap();
            assert_eq!((record.offset(), record.value()), (n, Some(n.to_string().as_bytes())));
        }
        reader.close(Duration::from_secs(5)).await.unwrap();
        drop(admin);
        client.close().await;
    });
}

#[test]
fn a_topic_that_is_not_there_is_said_at_the_deadline() {
    on_every_cluster("a_topic_that_is_not_there_is_said_at_the_deadline", async |env: &Env| {
        let client = env.connect().await;
        let admin = client.admin().timeout(Duration::from_millis(700));
        let error = admin.describe_topic(&env.name("nowhere")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownTopicOrPartition, "{error}");
        assert!(error.to_string().contains("check its name, or create it first"), "{error}");
    });
}

#[tokio::test]
async fn nobody_at_the_port_is_said_in_a_sentence() {
    let error = Client::builder("127.0.0.1:1").connect_timeout(Duration::from_millis(300)).connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
    let text = error.to_string();
    assert!(text.contains("127.0.0.1:1 cannot be reached") && text.contains("that the broker runs there"), "{text}");
}
