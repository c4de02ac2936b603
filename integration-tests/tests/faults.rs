//! The same faults on every cluster: in memory, in process over TCP, and in front of real Kafka, where the proxy makes them.

#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]
#![expect(clippy::disallowed_methods, reason = "the test plays the user's part: it waits")]

use std::time::Duration;

use milena::{Client, ErrorKind, IsolationLevel, OffsetReset, OffsetSpec, Record, StartAt, TopicPartition};
use milena_integration_tests::{Env, on_every_cluster_with_faults};
use milena_testkit::{Api, Reaction};
use tokio::time::{sleep, timeout};

const MOMENT: Duration = Duration::from_millis(50);
const SECOND: Duration = Duration::from_secs(1);

/// The values of a topic's only partition, in order, up to its end.
async fn values(client: &Client, topic: &str, level: IsolationLevel) -> Vec<String> {
    let end = [(TopicPartition::new(topic, 0), OffsetSpec::Latest)];
    let end = *client.admin().list_offsets(&end).await.unwrap().values().next().unwrap().as_ref().unwrap();
    let reader = client.partition_consumer().assign(topic, [0], StartAt::Beginning).max_wait(MOMENT);
    let mut reader = reader.isolation_level(level).build().await.unwrap();
    let handle = reader.handle();
    let mut values = Vec::new();
    while handle.position(&TopicPartition::new(topic, 0)).is_none_or(|position| position < end) {
        for record in &reader.poll(MOMENT).await.unwrap() {
            values.push(String::from_utf8(record.value().unwrap().to_vec()).unwrap());
        }
    }
    reader.close(SECOND * 5).await.unwrap();
    values
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

/// Nineteen requests of one record each, of which this happens to the third, and all are there once, in order.
async fn produce_through(env: &Env, reactions: &[Reaction]) {
    let client = env.connect().await;
    for (round, reaction) in reactions.iter().enumerate() {
        let topic = env.topic(&client, &format!("orders-{round}"), 1).await;
        let fault = env.faults().when(Api::Produce).topic(&topic).nth(3).then(*reaction);
        let producer = client.producer().linger(Duration::ZERO).request_timeout(SECOND * 2).build().await.unwrap();
        for value in numbers(19) {
            producer.send(&Record::to(&topic).value(&value)).await.unwrap().await.unwrap();
        }
        assert_eq!(fault.fired(), 1);
        assert!(env.request_log().api(Api::Produce).topic(&topic).partition(0).count() >= 19, "{reaction:?}");
        assert_eq!(values(&client, &topic, IsolationLevel::ReadUncommitted).await, numbers(19), "{reaction:?}");
        producer.close(SECOND * 5).await.unwrap();
    }
    client.close().await;
}

#[test]
fn a_lost_ack_doubles_nothing() {
    on_every_cluster_with_faults("a_lost_ack_doubles_nothing", async |env: &Env| {
        let lost = [Reaction::ApplyThenDisconnect, Reaction::ApplyThenDrop, Reaction::Disconnect, Reaction::Drop];
        produce_through(env, &lost).await;
    });
}

#[test]
fn what_is_cut_damaged_or_repeated_on_its_way_loses_and_doubles_nothing() {
    on_every_cluster_with_faults("what_is_cut_damaged_or_repeated_on_its_way", async |env: &Env| {
        let damage = [
            Reaction::TruncateAnswer,
            Reaction::WrongCorrelationId,
            Reaction::LateCopy(MOMENT),
            Reaction::HalfOpen,
            Reaction::Bandwidth(20_000),
            Reaction::Delay(MOMENT),
            Reaction::DelayAnswer(MOMENT),
        ];
        produce_through(env, &damage).await;
    });
}

#[test]
fn an_end_of_a_transaction_that_comes_again_ends_no_other_transaction() {
    on_every_cluster_with_faults("an_end_of_a_transaction_that_comes_again", async |env: &Env| {
        let client = env.connect().await;
        let topic = env.topic(&client, "orders", 1).await;
        let id = env.name("copy");
        let producer = client.producer().linger(Duration::ZERO).transactional_id(id.as_str()).build().await.unwrap();
        let copy = env.faults().when(Api::EndTxn).transactional_id(&id).then(Reaction::HoldCopy);
        let transaction = producer.begin();
        transaction.send(&Record::to(&topic).value("committed")).await.unwrap().await.unwrap();
        let producer = transaction.commit().await.unwrap();
        assert_eq!(copy.fired(), 1);

        let transaction = producer.begin();
        transaction.send(&Record::to(&topic).value("open")).await.unwrap().await.unwrap();
        copy.release();
        sleep(SECOND).await;
        assert!(env.request_log().to_string().contains("the late copy of a request"), "{}", env.request_log());
        assert_eq!(values_so_far(&client, &topic).await, ["committed"], "the late commit is that of an old epoch");
        let producer = transaction.abort().await.unwrap();
        assert_eq!(values(&client, &topic, IsolationLevel::ReadCommitted).await, ["committed"]);
        producer.close(SECOND * 5).await.unwrap();
        client.close().await;
    });
}

/// What a reader of committed records gets while a transaction is open.
async fn values_so_far(client: &Client, topic: &str) -> Vec<String> {
    let reader = client.partition_consumer().assign(topic, [0], StartAt::Beginning).max_wait(MOMENT);
    let mut reader = reader.isolation_level(IsolationLevel::ReadCommitted).build().await.unwrap();
    let mut values = Vec::new();
    for _ in 0..5 {
        for record in &reader.poll(MOMENT * 2).await.unwrap() {
            values.push(String::from_utf8(record.value().unwrap().to_vec()).unwrap());
        }
    }
    reader.close(SECOND * 5).await.unwrap();
    values
}

#[test]
fn a_join_that_is_held_is_a_member_once_it_is_let_go() {
    on_every_cluster_with_faults("a_join_that_is_held", async |env: &Env| {
        let client = env.connect().await;
        let topic = env.topic(&client, "orders", 2).await;
        let producer = client.producer().build().await.unwrap();
        producer.send(&Record::to(&topic).partition(1).value("v")).await.unwrap().await.unwrap();
        producer.close(SECOND * 5).await.unwrap();
        let group = env.name("billing");
        let join = env.faults().when(Api::JoinGroup).group(&group).before_serving();
        let builder = client.consumer(group.as_str()).subscribe([topic.as_str()]).offset_reset(OffsetReset::Earliest);
        let mut consumer = builder.build().await.unwrap();
        let handle = consumer.handle();
        join.reached().await;
        assert!(consumer.poll(SECOND).await.unwrap().is_empty());
        assert!(handle.assignment().is_empty(), "nobody has answered the join");
        join.go_on();
        let records = loop {
            let records = consumer.poll(SECOND).await.unwrap();
            if !records.is_empty() {
                break records;
            }
        };
        let read: Vec<_> = records.iter().map(|record| record.partition()).collect();
        assert_eq!((read, handle.assignment().len()), (vec![1], 2));
        records.ack();
        consumer.close(SECOND * 5).await.unwrap();
        client.close().await;
    });
}

#[test]
fn a_fault_of_one_client_is_no_other_clients_business() {
    on_every_cluster_with_faults("a_fault_of_one_client", async |env: &Env| {
        let silenced = env.client().client_id("silenced").request_timeout(SECOND).connect().await.unwrap();
        let other = env.connect().await;
        env.faults().when(Api::ListOffsets).client_id("silenced").always().then(Reaction::Drop);
        let topic = env.topic(&other, "orders", 1).await;
        let ends = [(TopicPartition::new(topic.as_str(), 0), OffsetSpec::Latest)];
        other.admin().list_offsets(&ends).await.unwrap();
        let admin = silenced.admin().timeout(SECOND * 2);
        let error = timeout(SECOND * 10, admin.list_offsets(&ends)).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        silenced.close().await;
        other.close().await;
    });
}
