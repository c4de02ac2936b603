//! The client by itself: connecting, metadata, admin, closing.

use std::time::Duration;

use milena::{Client, ErrorCode, ErrorKind, NewTopic, OffsetSpec, TopicPartition};
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
