//! What a reader sees of the end: of its client, which may be closed before it, and of deadlines that never come.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use futures_util::StreamExt;
use milena_client::serde::Text;
use milena_client::{Client, ErrorKind};
use milena_consumer::{CompactedTable, PartitionConsumer, StartAt};
use milena_testkit::Cluster;

use crate::common::{World, tp, within};

const WAIT: Duration = Duration::from_secs(5);

#[tokio::test(start_paused = true)]
async fn a_client_that_is_closed_first_ends_every_read_with_an_error() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 2)).await;
    world.write("t", 0, 0..3).await;
    let mut reader = world.reader("t", 0..2).build().await.unwrap();
    let mut streams = world.reader("t", 0..1).build().await.unwrap().split();
    let mut stream = streams.take_streams().remove(0);
    let mut member = world.consumer("g").subscribe(["t"]).build().await.unwrap();
    let table = CompactedTable::builder(&world.client, "t", Text, Text).skip_undecodable().load().await.unwrap();
    let mut changes = table.watch();
    for _ in 0..3 {
        within("a record", reader.recv()).await.unwrap().unwrap();
        within("a record", stream.next()).await.unwrap().unwrap();
        within("a record", member.recv()).await.unwrap().unwrap();
    }
    let all = async {
        tokio::join!(
            async { reader.recv().await.map(drop) },
            async { stream.next().await.unwrap().map(drop) },
            async { member.recv().await.map(drop) },
            changes.next(),
            async { world.client.close().await },
        )
    };
    let (recv, next, of_the_group, change, ()) = within("every read ends", all).await;
    for (what, ended) in [("recv", recv), ("stream", next), ("member", of_the_group)] {
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::Closed, "{what}");
    }
    assert!(change.unwrap().is_err() && changes.next().await.is_none());
    assert!(table.error().is_some(), "it is not followed any more");
    for _ in 0..2 {
        assert_eq!(reader.poll(WAIT).await.unwrap_err().kind(), ErrorKind::Closed);
    }
    assert!(stream.next().await.is_none(), "it has been told");
    let handle = reader.handle();
    assert_eq!(handle.end_offsets(vec![tp("t", 0)]).await.unwrap_err().kind(), ErrorKind::Closed);
    reader.close(WAIT).await.unwrap();
    member.close(WAIT).await.unwrap();
}

/// The client's own thread is gone then, and with it the runtime of every timer. In real time, over TCP.
#[tokio::test]
async fn a_client_that_is_closed_takes_its_timers_with_it_and_nobody_panics() {
    let cluster = Cluster::builder().brokers(1).topic("t", 1).start().await.unwrap();
    let client = Client::builder(cluster.bootstrap_servers()).connect().await.unwrap();
    let assigned = PartitionConsumer::builder(&client).assign("t", [0], StartAt::Beginning);
    let mut reader = assigned.build().await.unwrap();
    let other = client.new_owner("other");
    let deadline = other.now() + Duration::from_secs(600);
    let (polled, topic, ()) =
        tokio::join!(reader.poll(Duration::from_secs(600)), other.topic("later", deadline), async {
            while cluster.requests(milena_testkit::Api::Fetch) == 0 {
                tokio::task::yield_now().await;
            }
            client.close().await;
        });
    assert_eq!(polled.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(topic.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(reader.poll(WAIT).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(reader.poll_blocking(WAIT).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(other.topic("t2", deadline).await.unwrap_err().kind(), ErrorKind::Closed);
    let lost = reader.handle().beginning_offsets(vec![tp("t", 0)]).await;
    assert_eq!(lost.unwrap_err().kind(), ErrorKind::Closed);
    reader.close(WAIT).await.unwrap();
    cluster.shutdown().await;
}

/// A timer that is over at once must not keep the task busy that waits for it: it would never meet its end. In real time, over TCP.
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the test's own limit")]
async fn a_client_can_be_closed_at_every_moment() {
    let cluster = Cluster::builder().brokers(1).topic("t", 1).start().await.unwrap();
    for n in 0..300 {
        let client = Client::builder(cluster.bootstrap_servers()).connect().await.unwrap();
        let reader = PartitionConsumer::builder(&client).assign("t", [0], StartAt::Beginning).build().await.unwrap();
        for _ in 0..n % 7 {
            tokio::task::yield_now().await;
        }
        tokio::time::timeout(WAIT * 4, client.close()).await.unwrap_or_else(|_| panic!("close number {n} hangs"));
        assert_eq!((client.tasks(), client.sockets()), (0, 0));
        drop(reader);
    }
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn for_ever_is_a_time_to_wait_like_any_other() {
    let world = World::new(Cluster::builder().brokers(1).topic("t", 1)).await;
    let mut reader = world.reader("t", 0..1).api_timeout(Duration::MAX).build().await.unwrap();
    let unknown = PartitionConsumer::builder(&world.client).assign("later", [0], StartAt::Beginning);
    let mut patient = unknown.api_timeout(Duration::MAX).build().await.unwrap();
    assert!(patient.poll(WAIT * 60).await.unwrap().is_empty(), "no error, however long it takes");
    let (records, ()) = tokio::join!(
        async { within("records", reader.poll(Duration::MAX)).await.unwrap().len() },
        world.write("t", 0, 0..3)
    );
    assert_eq!(records, 3);
    world.cluster.create_topic("later", 1);
    world.write("later", 0, 0..2).await;
    assert_eq!(within("records", patient.poll(Duration::MAX)).await.unwrap().len(), 2);
    assert_eq!(reader.handle().end_offsets(vec![tp("t", 0)]).await.unwrap()[&tp("t", 0)], 3);
    reader.close(Duration::MAX).await.unwrap();
    let member = world.consumer("g").subscribe(["t"]).build().await.unwrap();
    member.close(Duration::MAX).await.unwrap();
}
