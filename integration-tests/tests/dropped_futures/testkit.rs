//! The test kit's own calls, dropped.

use std::future::{Future, poll_fn};
use std::net::TcpStream;
use std::pin::pin;
use std::time::Duration;

use milena::RefreshReason;
use milena_testkit::{Api, Cluster, Proxy, Reaction};

use crate::cut::Cut;
use crate::world::{self, Footprint, TOPIC, World, alive_tasks, settle};

pub(crate) async fn start(cut: &Cut) -> Footprint {
    if let Some(cluster) = cut.of(Cluster::builder().brokers(1).start()).await {
        TcpStream::connect(cluster.unwrap().bootstrap_servers()).unwrap();
    }
    Footprint::default()
}

pub(crate) async fn shutdown(cut: &Cut) -> Footprint {
    let cluster = world::cluster().start_in_memory().unwrap();
    let client = world::client(&cluster).connect().await.unwrap();
    cut.of(cluster.shutdown()).await;
    client.close().await;
    settle().await;
    assert_eq!(alive_tasks(), 0, "a cluster that is dropped stops, too");
    Footprint::default()
}

pub(crate) async fn has_fired(cut: &Cut) -> Footprint {
    let world = World::start().await;
    let slow = world.cluster.faults().when(Api::Metadata).then(Reaction::Delay(Duration::from_secs(1)));
    world.client.refresh_metadata(RefreshReason::Asked);
    cut.of(slow.has_fired(1)).await;
    settle().await;
    slow.has_fired(1).await;
    world.end().await
}

pub(crate) async fn reached(cut: &Cut) -> Footprint {
    let world = World::start().await;
    let barrier = world.cluster.stop_when(Api::Metadata).before_serving();
    world.client.refresh_metadata(RefreshReason::Asked);
    cut.of(barrier.reached()).await;
    settle().await;
    assert!(barrier.is_reached(), "a wait that is dropped opens no barrier");
    barrier.go_on();
    world.client.admin().describe_topic(TOPIC).await.unwrap();
    world.end().await
}

pub(crate) async fn start_proxy(cut: &Cut) -> Footprint {
    let cluster = world::cluster().start().await.unwrap();
    if let Some(proxy) = cut.of(patiently(Proxy::builder(cluster.bootstrap_servers()).start())).await {
        TcpStream::connect(proxy.unwrap().bootstrap_servers()).unwrap();
    }
    // Another one starts in any case.
    patiently(Proxy::builder(cluster.bootstrap_servers()).start()).await.unwrap();
    Footprint::default()
}

/// A proxy lives on a thread of its own, by the real clock: between two polls it gets a real moment.
#[expect(clippy::disallowed_methods, reason = "what is waited for happens on another thread")]
async fn patiently<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() {
            std::thread::sleep(Duration::from_millis(1));
            cx.waker().wake_by_ref();
        }
        polled
    })
    .await
}
