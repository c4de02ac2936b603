//! The test kit's own calls, dropped.

use std::net::TcpStream;

use milena_testkit::Cluster;

use crate::cut::Cut;
use crate::world::{self, Footprint, alive_tasks, settle};

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
