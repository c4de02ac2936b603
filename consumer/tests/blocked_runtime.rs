//! A user that blocks its own runtime stays a member: heartbeats are sent on the client's thread. In real time, over TCP.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::time::Duration;

use common::batch;
use milena_client::Client;
use milena_client::protocol::messages::ProduceRequest;
use milena_client::protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use milena_client::protocol::records::Compression;
use milena_client::{Lane, Target};
use milena_consumer::{Consumer, OffsetReset};
use milena_testkit::Cluster;

const WAIT: Duration = Duration::from_secs(20);
/// Kafka's shortest (`group.min.session.timeout.ms`).
const SESSION: Duration = Duration::from_secs(6);

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "blocking the runtime is what is tested")]
async fn a_handler_that_blocks_its_runtime_for_longer_than_the_session_keeps_its_partitions() {
    let cluster = Cluster::builder().brokers(1).topic("t", 1).start().await.unwrap();
    let client = Client::builder(cluster.bootstrap_servers()).connect().await.unwrap();
    let writer = client.new_owner("writer");
    let id = writer.topic("t", writer.now() + WAIT).await.unwrap().id;
    let request = move |_| {
        let data = PartitionProduceData::default().with_records(Some(batch(0..10, Compression::None)));
        let topic = TopicProduceData::default().with_topic_id(id).with_partition_data(vec![data]);
        ProduceRequest::default().with_acks(-1).with_timeout_ms(1000).with_topic_data(vec![topic])
    };
    writer.send_versioned(Target::Broker(1), Lane::Produce, WAIT, request).await.unwrap();

    let mut consumer = Consumer::builder(&client, "g")
        .subscribe(["t"])
        .offset_reset(OffsetReset::Earliest)
        .session_timeout(SESSION)
        .heartbeat_interval(Duration::from_millis(500))
        .build()
        .await
        .unwrap();
    let mut offsets = Vec::new();
    for _ in 0..5 {
        offsets.push(consumer.recv().await.unwrap().unwrap().offset());
    }
    let before = cluster.group_info("g").unwrap();
    std::thread::sleep(SESSION + Duration::from_secs(2));
    let after = cluster.group_info("g").unwrap();
    assert_eq!((after.generation, after.state.as_str()), (before.generation, "Stable"));
    assert_eq!(after.members.keys().collect::<Vec<_>>(), before.members.keys().collect::<Vec<_>>());
    for _ in 0..5 {
        offsets.push(consumer.recv().await.unwrap().unwrap().offset());
    }
    assert_eq!(offsets, (0..10).collect::<Vec<_>>());
    consumer.close(WAIT).await.unwrap();
    writer.close().await;
    client.close().await;
    assert_eq!((client.tasks(), client.sockets()), (0, 0));
    cluster.shutdown().await;
}
