//! A cluster in memory with a client, and what is alive of the two.

#![expect(
    clippy::disallowed_methods,
    reason = "scenarios in virtual time: they sleep on the paused clock, which is free"
)]

use std::time::Duration;

use milena::{Client, ClientBuilder, Record};
use milena_integration_tests::simulated;
use milena_testkit::{Cluster, ClusterBuilder};
use tokio::runtime::Handle;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The topic of most scenarios; it has one partition.
pub(crate) const TOPIC: &str = "orders";

/// What is alive when a scenario is over, before its client is closed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// Tasks of the client.
    tasks: usize,
    /// Open connections of the client.
    sockets: i64,
    /// Tasks of the whole runtime: the cluster's, too.
    all_tasks: usize,
}

impl Footprint {
    pub(crate) fn tasks(&self) -> usize {
        self.tasks
    }

    pub(crate) fn sockets(&self) -> i64 {
        self.sockets
    }
}

pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) client: Client,
}

/// One broker: metadata may be asked of any broker, and which one it is must not make a difference to what is alive.
pub(crate) fn cluster() -> ClusterBuilder {
    Cluster::builder().brokers(1).topic(TOPIC, 1)
}

/// A client of the cluster that has not been connected.
pub(crate) fn client(cluster: &Cluster) -> ClientBuilder<Client> {
    simulated(cluster)
}

/// Time enough for whatever has been started to end.
pub(crate) async fn settle() {
    tokio::time::sleep(SECOND * 5).await;
}

pub(crate) fn alive_tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(cluster()).await
    }

    pub(crate) async fn with(cluster: ClusterBuilder) -> Self {
        let cluster = cluster.start_in_memory().unwrap();
        let client = client(&cluster).connect().await.unwrap();
        // The first metadata came from the bootstrap address; now the broker itself has a connection, too.
        client.admin().describe_topic(TOPIC).await.unwrap();
        client.refresh_metadata(milena::RefreshReason::Asked);
        settle().await;
        Self { cluster, client }
    }

    /// Writes the numbers as text, one record each.
    pub(crate) async fn write(&self, topic: &str, numbers: std::ops::Range<i64>) {
        let producer = self.client.producer().build().await.unwrap();
        for number in numbers {
            drop(producer.send(&Record::to(topic).value(&number.to_string())).await.unwrap());
        }
        producer.close(MINUTE).await.unwrap();
    }

    /// The values that the partition has, in order.
    pub(crate) fn values(&self, topic: &str) -> Vec<String> {
        let records = self.cluster.records(topic, 0).into_iter();
        records.map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap()).collect()
    }

    /// What is alive now. Time passes first, so that whatever ends by itself has ended.
    pub(crate) async fn footprint(&self) -> Footprint {
        settle().await;
        Footprint { tasks: self.client.tasks(), sockets: self.client.sockets(), all_tasks: alive_tasks() }
    }

    /// Ends client and cluster, and sees to it that nothing at all is left. Returns what was alive before.
    pub(crate) async fn end(self) -> Footprint {
        let footprint = self.footprint().await;
        let Self { cluster, client } = self;
        client.close().await;
        assert_eq!((client.tasks(), client.sockets()), (0, 0), "a closed client has tasks or sockets");
        drop(client);
        settle().await;
        assert_eq!(cluster.connections(1), 0, "the broker still has connections");
        cluster.shutdown().await;
        settle().await;
        assert_eq!(alive_tasks(), 0, "tasks are left when client and cluster have gone");
        footprint
    }
}
