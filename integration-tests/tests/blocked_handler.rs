//! A handler that blocks its own runtime costs neither the membership nor a record.

#![expect(clippy::disallowed_methods, reason = "blocking a thread by the clock is what this is about")]
#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::Duration;

use milena::{Client, NewTopic, OffsetReset, Record};
use milena_integration_tests::{real_kafka, unique};
use milena_testkit::Cluster;

const SECOND: Duration = Duration::from_secs(1);

/// Reads a hundred records on a current-thread runtime; in the middle the handler sleeps for `nap`, and the member's session
/// would be over after `session`.
async fn keeps_its_membership(servers: String, session: Duration, nap: Duration) {
    let client = Client::builder(servers).connect().await.unwrap();
    let (topic, group) = (unique("blocked"), unique("blocked-group"));
    client.admin().ensure_topics(&[NewTopic::new(&topic, 3)]).await.unwrap();
    let producer = client.producer().build().await.unwrap();
    for n in 0..100 {
        // flush() tells whether they were written.
        drop(producer.send(&Record::to(&topic).value(&n.to_string())).await.unwrap());
    }
    producer.flush().await.unwrap();
    let mut consumer = client
        .consumer(group.as_str())
        .subscribe([topic.as_str()])
        .offset_reset(OffsetReset::Earliest)
        .session_timeout(session)
        .heartbeat_interval(session / 5)
        .build()
        .await
        .unwrap();
    let mut seen = BTreeSet::new();
    let mut generation = None;
    while seen.len() < 100 {
        let record = consumer.recv().await.unwrap().unwrap();
        assert!(seen.insert((record.partition(), record.offset())), "{record:?} came twice");
        if seen.len() == 50 {
            generation = Some(consumer.handle().group_metadata().await.unwrap());
            // Nothing else runs on this runtime meanwhile: a heartbeat that needed it would never leave.
            sleep(nap);
        }
    }
    let after = consumer.handle().group_metadata().await.unwrap();
    assert_eq!(generation, Some(after), "the same member in the same generation");
    consumer.close(SECOND * 10).await.unwrap();
    producer.close(SECOND * 10).await.unwrap();
    client.close().await;
    assert_eq!((client.tasks(), client.sockets(), client.spawner().threads()), (0, 0, 0));
}

#[tokio::test(flavor = "current_thread")]
async fn on_the_in_process_cluster() {
    let cluster = Cluster::builder().start().await.unwrap();
    keeps_its_membership(cluster.bootstrap_servers(), SECOND * 6, SECOND * 8).await;
    cluster.shutdown().await;
}

#[cfg(feature = "storms")]
#[tokio::test(flavor = "current_thread")]
async fn on_real_kafka_for_a_minute() {
    let Some(servers) = real_kafka("a handler that blocks for a minute") else { return };
    keeps_its_membership(servers, SECOND * 45, SECOND * 60).await;
}

#[cfg(not(feature = "storms"))]
#[tokio::test(flavor = "current_thread")]
async fn on_real_kafka() {
    let Some(servers) = real_kafka("a handler that blocks for longer than its session") else { return };
    keeps_its_membership(servers, SECOND * 6, SECOND * 8).await;
}
