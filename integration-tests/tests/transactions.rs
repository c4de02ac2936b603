//! Transactions on every cluster: what is committed is read together, and what is not, not at all.

#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]
#![expect(clippy::disallowed_methods, reason = "the test plays the user's part: it has tasks of its own")]

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use milena::{
    Backlog, Client, CommitError, ErrorKind, GroupMetadata, IsolationLevel, NewTopic, OffsetAndMetadata, OffsetReset,
    OffsetSpec, PartitionConsumer, Record, StartAt, TopicPartition, Transaction, TransactionalProducer,
};
use milena_integration_tests::{Env, on_every_cluster};

const MOMENT: Duration = Duration::from_millis(50);

async fn producer(client: &Client, id: &str) -> TransactionalProducer {
    client.producer().linger(Duration::ZERO).transactional_id(id).build().await.unwrap()
}

/// Sends and waits for the ack.
async fn put(transaction: &Transaction, topic: &str, partition: i32, value: &str) {
    transaction.send(&Record::to(topic).partition(partition).value(value)).await.unwrap().await.unwrap();
}

async fn reader(client: &Client, topic: &str, partitions: i32, level: IsolationLevel) -> PartitionConsumer {
    let builder = client.partition_consumer().assign(topic, 0..partitions, StartAt::Beginning);
    builder.max_wait(MOMENT).isolation_level(level).build().await.unwrap()
}

/// The ends of the log, open transactions included.
async fn ends(client: &Client, topic: &str, partitions: i32) -> BTreeMap<TopicPartition, i64> {
    let ends: Vec<_> = (0..partitions).map(|p| (TopicPartition::new(topic, p), OffsetSpec::Latest)).collect();
    let ends = client.admin().list_offsets(&ends).await.unwrap();
    ends.into_iter().map(|(tp, end)| (tp, end.unwrap())).collect()
}

/// The values of each partition, in order, once everything is decided.
async fn read_to_the_end(client: &Client, topic: &str, partitions: i32, level: IsolationLevel) -> Vec<Vec<String>> {
    let mut reader = reader(client, topic, partitions, level).await;
    let ends = ends(client, topic, partitions).await;
    let handle = reader.handle();
    let mut read = vec![Vec::new(); partitions as usize];
    while !ends.iter().all(|(tp, end)| handle.position(tp).is_some_and(|position| position >= *end)) {
        for record in &reader.poll(MOMENT).await.unwrap() {
            read[record.partition() as usize].push(text(record.value()));
        }
    }
    assert!(ends.keys().all(|tp| handle.lag(tp) == Some(0)));
    reader.close(Duration::from_secs(5)).await.unwrap();
    read
}

fn text(value: Option<&[u8]>) -> String {
    String::from_utf8(value.unwrap().to_vec()).unwrap()
}

async fn committed(client: &Client, topic: &str) -> Vec<String> {
    read_to_the_end(client, topic, 1, IsolationLevel::ReadCommitted).await.remove(0)
}

async fn written(client: &Client, topic: &str) -> Vec<String> {
    read_to_the_end(client, topic, 1, IsolationLevel::ReadUncommitted).await.remove(0)
}

#[test]
fn committed_records_are_read_and_aborted_ones_are_not() {
    on_every_cluster("committed_records_are_read_and_aborted_ones_are_not", async |env: &Env| {
        let client = env.connect().await;
        let topic = env.topic(&client, "orders", 3).await;
        let mut producer = client.producer().transactional_id(env.name("id")).build().await.unwrap();
        let (mut good, mut all) = (vec![Vec::new(); 3], vec![Vec::new(); 3]);
        for round in 0..6 {
            let transaction = producer.begin();
            let mut deliveries = Vec::new();
            for n in 0..300 {
                let (partition, value) = (n % 3, format!("{round}-{n}-{}", "x".repeat(100)));
                let record = Record::to(&topic).partition(partition as i32).value(&value);
                deliveries.push(transaction.send(&record).await.unwrap());
                all[partition].push(value.clone());
                if round % 2 == 0 {
                    good[partition].push(value);
                }
            }
            producer = if round % 2 == 0 {
                transaction.commit().await.unwrap()
            } else {
                transaction.flush().await.unwrap();
                transaction.abort().await.unwrap()
            };
            for delivery in deliveries {
                delivery.await.unwrap();
            }
        }
        assert_eq!(read_to_the_end(&client, &topic, 3, IsolationLevel::ReadCommitted).await, good);
        assert_eq!(read_to_the_end(&client, &topic, 3, IsolationLevel::ReadUncommitted).await, all);
        producer.close(Duration::from_secs(5)).await.unwrap();
        client.close().await;
        assert_eq!((client.tasks(), client.sockets(), client.spawner().threads()), (0, 0, 0));
    });
}

#[test]
fn an_open_transaction_holds_readers_of_committed_records_back() {
    on_every_cluster("an_open_transaction_holds_readers_of_committed_records_back", async |env: &Env| {
        let client = env.connect().await;
        let topic = env.topic(&client, "orders", 1).await;
        let transaction = producer(&client, &env.name("id")).await.begin();
        put(&transaction, &topic, 0, "open").await;
        let plain = client.producer().build().await.unwrap();
        plain.send(&Record::to(&topic).value("plain")).await.unwrap().await.unwrap();

        let mut reader = reader(&client, &topic, 1, IsolationLevel::ReadCommitted).await;
        let handle = reader.handle();
        let tp = TopicPartition::new(topic.as_str(), 0);
        while handle.state(&tp).is_none_or(|state| state.high_watermark != Some(2)) {
            assert_eq!(reader.poll(MOMENT).await.unwrap().len(), 0);
        }
        assert_eq!((handle.position(&tp), handle.lag(&tp)), (Some(0), Some(0)));
        assert_eq!(written(&client, &topic).await, ["open", "plain"]);

        let producer = transaction.commit().await.unwrap();
        let mut values = Vec::new();
        while values.len() < 2 {
            values.extend(reader.poll(MOMENT).await.unwrap().iter().map(|record| text(record.value())));
        }
        assert_eq!(values, ["open", "plain"]);
        drop(producer);
        client.close().await;
    });
}

#[test]
fn interleaved_transactions_are_told_apart() {
    on_every_cluster("interleaved_transactions_are_told_apart", async |env: &Env| {
        let client = env.connect().await;
        let topic = env.topic(&client, "orders", 1).await;
        let (first, second) = (producer(&client, &env.name("a")).await, producer(&client, &env.name("b")).await);
        let (first, second) = (first.begin(), second.begin());
        for n in 0..3 {
            put(&first, &topic, 0, &format!("a{n}")).await;
            put(&second, &topic, 0, &format!("b{n}")).await;
        }
        let first = first.abort().await.unwrap().begin();
        put(&first, &topic, 0, "a again").await;
        put(&second, &topic, 0, "b3").await;
        let _ = second.commit().await.unwrap();
        let _ = first.commit().await.unwrap();
        assert_eq!(committed(&client, &topic).await, ["b0", "b1", "b2", "a again", "b3"]);
        client.close().await;
    });
}

#[test]
fn a_second_producer_with_the_same_id_fences_the_first() {
    on_every_cluster("a_second_producer_with_the_same_id_fences_the_first", async |env: &Env| {
        let (client, other) = (env.connect().await, env.connect().await);
        let topic = env.topic(&client, "orders", 1).await;
        let id = env.name("id");
        // One that has nothing left to send learns of it when it commits.
        let transaction = producer(&client, &id).await.begin();
        put(&transaction, &topic, 0, "first").await;
        let second = producer(&other, &id).await;
        let refused = transaction.commit().await.unwrap_err();
        assert!(matches!(&refused, CommitError::Fenced(error) if error.is_fatal()), "{refused}");

        // One that sends on learns of it from its record.
        let transaction = second.begin();
        put(&transaction, &topic, 0, "second").await;
        let third = producer(&client, &id).await;
        let delivery = transaction.send(&Record::to(&topic).value("late")).await.unwrap();
        assert!(delivery.await.is_err());
        let refused = transaction.commit().await.unwrap_err();
        match refused {
            CommitError::Abortable(transaction, _) => {
                let refused = transaction.abort().await.unwrap_err();
                assert!(refused.error().is_fatal(), "{refused}");
            }
            CommitError::Fenced(_) => {}
            other => panic!("{other}"),
        }

        let transaction = third.begin();
        put(&transaction, &topic, 0, "third").await;
        let _ = transaction.commit().await.unwrap();
        assert_eq!(committed(&client, &topic).await, ["third"]);
        client.close().await;
        other.close().await;
    });
}

#[test]
fn a_transaction_with_a_failed_record_can_only_be_aborted_and_the_next_one_works() {
    on_every_cluster("a_transaction_with_a_failed_record_can_only_be_aborted", async |env: &Env| {
        let client = env.connect().await;
        let (topic, small) = (env.topic(&client, "orders", 1).await, env.name("small"));
        let new = NewTopic::new(&small, 1).config("max.message.bytes", "500");
        client.admin().ensure_topics(&[new]).await.unwrap();
        let mut producer = producer(&client, &env.name("id")).await;
        for round in 0..2 {
            let transaction = producer.begin();
            put(&transaction, &topic, 0, "lost").await;
            let large = "x".repeat(5_000);
            // Nobody looks at its result.
            drop(transaction.send(&Record::to(&small).value(&large)).await.unwrap());
            let refused = transaction.commit().await.unwrap_err();
            let CommitError::Abortable(transaction, error) = refused else { panic!("{refused}") };
            assert_eq!(error.code(), Some(milena::ErrorCode::MESSAGE_TOO_LARGE), "{error}");
            let late = transaction.send(&Record::to(&topic).value("late")).await.unwrap_err();
            assert_eq!(late.kind(), ErrorKind::TransactionEnded);

            let transaction = transaction.abort().await.unwrap().begin();
            put(&transaction, &topic, 0, &format!("good {round}")).await;
            put(&transaction, &small, 0, &format!("good {round}")).await;
            producer = transaction.commit().await.unwrap();
        }
        drop(producer);
        assert_eq!(committed(&client, &topic).await, ["good 0", "good 1"]);
        assert_eq!(committed(&client, &small).await, ["good 0", "good 1"]);
        client.close().await;
    });
}

#[test]
fn offsets_are_committed_with_their_transaction_or_not_at_all() {
    on_every_cluster("offsets_are_committed_with_their_transaction_or_not_at_all", async |env: &Env| {
        let client = env.connect().await;
        let (input, output) = (env.topic(&client, "input", 1).await, env.topic(&client, "output", 1).await);
        let plain = client.producer().build().await.unwrap();
        for n in 0..4 {
            plain.send(&Record::to(&input).value(&n.to_string())).await.unwrap().await.unwrap();
        }
        let (group, tp) = (env.name("copy"), TopicPartition::new(input.as_str(), 0));
        let mut producer = producer(&client, &env.name("id")).await;
        // The first attempt of each is aborted, and then it is read again by another member.
        for n in 0..4 {
            for attempt in 0..2 {
                let builder = client.consumer(group.as_str()).subscribe([input.as_str()]).commits_in_transactions();
                let builder = builder.offset_reset(OffsetReset::Earliest).max_poll_records(1);
                let mut consumer = builder.build().await.unwrap();
                let handle = consumer.handle();
                let value = text(consumer.recv().await.unwrap().unwrap().value());
                assert_eq!(value, n.to_string());
                let member = handle.group_metadata().await.unwrap();
                let transaction = producer.begin();
                drop(transaction.send(&Record::to(&output).value(&value)).await.unwrap());
                let offset = OffsetAndMetadata { offset: n + 1, leader_epoch: -1, metadata: "mine".to_owned() };
                transaction.send_offsets([(tp.clone(), offset)], &member).await.unwrap();
                producer =
                    if attempt == 0 { transaction.abort().await.unwrap() } else { transaction.commit().await.unwrap() };
                consumer.close(Duration::from_secs(10)).await.unwrap();
            }
        }
        drop(producer);
        assert_eq!(committed(&client, &output).await, ["0", "1", "2", "3"]);
        client.close().await;
    });
}

#[test]
fn a_member_that_is_no_member_any_more_cannot_commit_its_offsets() {
    on_every_cluster("a_member_that_is_no_member_any_more_cannot_commit_its_offsets", async |env: &Env| {
        let client = env.connect().await;
        let topic = env.topic(&client, "orders", 1).await;
        let tp = TopicPartition::new(topic.as_str(), 0);
        let transaction = producer(&client, &env.name("id")).await.begin();
        put(&transaction, &topic, 0, "lost").await;
        let group = env.name("group");
        let zombie = GroupMetadata {
            group: group.as_str().into(),
            member_id: "nobody".into(),
            generation: 7,
            instance_id: None,
        };
        let offsets = [(tp.clone(), OffsetAndMetadata::from(1))];
        let refused = transaction.send_offsets(offsets.clone(), &zombie).await.unwrap_err();
        assert!(refused.requires_abort(), "{refused}");
        let refused = transaction.commit().await.unwrap_err();
        let CommitError::Abortable(transaction, _) = refused else { panic!("{refused}") };

        // Without a member, nobody is fenced: a program that has partitions of its own and no group to share them with.
        let transaction = transaction.abort().await.unwrap().begin();
        put(&transaction, &topic, 0, "good").await;
        let nobody = GroupMetadata { group: group.as_str().into(), generation: -1, ..GroupMetadata::default() };
        transaction.send_offsets(offsets, &nobody).await.unwrap();
        let none: [(TopicPartition, OffsetAndMetadata); 0] = [];
        transaction.send_offsets(none, &nobody).await.unwrap();
        let _ = transaction.commit().await.unwrap();
        assert_eq!(committed(&client, &topic).await, ["good"]);
        client.close().await;
    });
}

#[test]
fn a_sender_sends_from_another_task_and_fails_once_its_transaction_has_ended() {
    on_every_cluster("a_sender_sends_from_another_task", async |env: &Env| {
        let client = env.connect().await;
        let topic = env.topic(&client, "orders", 1).await;
        let transaction = producer(&client, &env.name("id")).await.begin();
        let sender = transaction.sender();
        let (task, to) = (sender.clone(), topic.clone());
        let sent = tokio::task::spawn(async move { task.send(&Record::to(&to).value("one")).await.map(drop) });
        sent.await.unwrap().unwrap();
        let producer = transaction.commit().await.unwrap();
        let late = Record::to(&topic).value("late");
        assert_eq!(sender.send(&late).await.unwrap_err().kind(), ErrorKind::TransactionEnded);

        // It does not slip into the next transaction either.
        let transaction = producer.begin();
        let error = sender.send(&late).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TransactionEnded);
        assert_eq!(sender.try_send(&late).unwrap_err().kind(), ErrorKind::TransactionEnded);
        let mut late = Backlog::new([late]);
        assert_eq!(sender.append(&topic, 0, &mut late).unwrap_err().kind(), ErrorKind::TransactionEnded);
        put(&transaction, &topic, 0, "two").await;
        let _ = transaction.commit().await.unwrap();
        assert_eq!(committed(&client, &topic).await, ["one", "two"]);
        client.close().await;
    });
}

/// Polls a future once and drops it. (On a machine with other work the client's thread may have come to its end by then.)
async fn begin_and_drop<F: Future>(future: F) {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let _ = future.as_mut().poll(cx);
        Poll::Ready(())
    })
    .await;
}

#[test]
fn a_commit_whose_future_is_dropped_goes_on_and_the_next_producer_of_the_id_waits_for_it() {
    on_every_cluster("a_commit_whose_future_is_dropped_goes_on", async |env: &Env| {
        let client = env.connect().await;
        let topic = env.topic(&client, "orders", 1).await;
        let id = env.name("id");
        for n in 0..5 {
            let transaction = producer(&client, &id).await.begin();
            drop(transaction.send(&Record::to(&topic).value(&format!("commit {n}"))).await.unwrap());
            begin_and_drop(transaction.commit()).await;
            // And a transaction that is dropped is aborted.
            let transaction = producer(&client, &id).await.begin();
            drop(transaction.send(&Record::to(&topic).value(&format!("drop {n}"))).await.unwrap());
            if n % 2 == 0 {
                transaction.flush().await.unwrap();
            }
        }
        let _ = producer(&client, &id).await;
        let expected: Vec<_> = (0..5).map(|n| format!("commit {n}")).collect();
        assert_eq!(committed(&client, &topic).await, expected);
        client.close().await;
        assert_eq!((client.tasks(), client.sockets(), client.spawner().threads()), (0, 0, 0));
    });
}

#[test]
fn what_is_left_open_by_a_client_that_is_gone_is_aborted_by_the_next_one() {
    on_every_cluster("what_is_left_open_by_a_client_that_is_gone", async |env: &Env| {
        let (gone, client) = (env.connect().await, env.connect().await);
        let topic = env.topic(&client, "orders", 1).await;
        let id = env.name("id");
        let transaction = producer(&gone, &id).await.begin();
        put(&transaction, &topic, 0, "open").await;
        // No abort can be sent any more.
        gone.close().await;
        let error = transaction.commit().await.unwrap_err();
        assert!(matches!(error, CommitError::Fenced(_)), "{error}");
        let transaction = producer(&client, &id).await.begin();
        put(&transaction, &topic, 0, "next").await;
        let _ = transaction.commit().await.unwrap();
        assert_eq!(committed(&client, &topic).await, ["next"]);
        client.close().await;
    });
}

#[test]
fn a_transactional_producer_refuses_what_does_not_fit_together() {
    on_every_cluster("a_transactional_producer_refuses_what_does_not_fit_together", async |env: &Env| {
        let client = env.connect().await;
        let refused = client.producer().transactional_id("").build().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Config);
        let refused = client.producer().idempotence(false).transactional_id("id").build().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Config);
        // Longer than brokers allow.
        let builder = client.producer().transactional_id(env.name("id"));
        let refused = builder.transaction_timeout(Duration::from_secs(3600)).build().await.unwrap_err();
        assert_eq!(refused.code(), Some(milena::ErrorCode::INVALID_TRANSACTION_TIMEOUT), "{refused}");
        client.close().await;
        assert_eq!((client.tasks(), client.sockets(), client.spawner().threads()), (0, 0, 0));
    });
}
