//! A forwarder whose address is the bootstrap address, and clusters whose brokers all come back on other ports behind it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use milena::{
    Client, ClientBuilder, ErrorCode, ErrorKind, MetadataRecoveryStrategy, Outcome, Record, RefreshReason, StartAt,
};
use milena_testkit::{Api, Cluster, Fault, Reaction};
use tokio::time::{Instant, sleep};
use tower::{ServiceExt, service_fn};

use super::{
    MINUTE, PARTITIONS, RECORDS, SECOND, TOPIC, administrate, assert_written_once, builder, consume, ends, member,
    produce,
};

/// A forwarder in front of the cluster, whose address is the bootstrap address and stays the same.
struct Forwarder {
    /// Where it leads to.
    to: Arc<Mutex<SocketAddr>>,
    /// How often it was connected to.
    connections: Arc<AtomicUsize>,
}

const FORWARDER: &str = "forwarder:9092";
const PORT_BEFORE: u16 = 9092;
const PORT_AFTER: u16 = 19092;

fn broker_at(broker: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, broker], port))
}

impl Forwarder {
    fn new() -> Self {
        Self { to: Arc::new(Mutex::new(broker_at(1, PORT_BEFORE))), connections: Arc::default() }
    }

    fn client(&self, cluster: &Cluster) -> ClientBuilder<Client> {
        let (brokers, names) = (cluster.connector(), cluster.resolver());
        let (to, connections) = (self.to.clone(), self.connections.clone());
        let its_own = SocketAddr::from(([10, 9, 9, 9], 9092));
        let connector = service_fn(move |address: SocketAddr| {
            let forwarded = address == its_own;
            let address = if forwarded { *to.lock().unwrap() } else { address };
            connections.fetch_add(usize::from(forwarded), Ordering::SeqCst);
            brokers.clone().oneshot(address)
        });
        let resolver = service_fn(move |(host, port): (String, u16)| {
            let names = names.clone();
            async move {
                if host == "forwarder" {
                    return Ok::<_, io::Error>(vec![its_own]);
                }
                names.oneshot((host, port)).await
            }
        });
        builder(cluster, FORWARDER.to_owned()).connector(connector).resolver(resolver)
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// All brokers stop, and come back on other ports, to which the forwarder leads then.
async fn the_cluster_moves(cluster: &Cluster, forwarder: &Forwarder) {
    for broker in 1..=3 {
        cluster.crash(broker);
    }
    sleep(SECOND * 5).await;
    for broker in 1..=3 {
        cluster.restart_at(broker, PORT_AFTER);
    }
    *forwarder.to.lock().unwrap() = broker_at(2, PORT_AFTER);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_moves_as_a_whole_behind_its_bootstrap_address_and_its_clients_find_it() {
    let cluster = Cluster::builder().brokers(3).topic(TOPIC, PARTITIONS).start_in_memory().unwrap();
    let forwarder = Forwarder::new();
    let client = forwarder.client(&cluster).connect().await.unwrap();
    let producer = client.producer().build().await.unwrap();
    let mut consumer = member(&client).await;
    let mut next = BTreeMap::new();
    tokio::join!(produce(&producer, 0), consume(&mut consumer, &mut next, RECORDS));

    let began = Instant::now();
    tokio::join!(
        the_cluster_moves(&cluster, &forwarder),
        produce(&producer, RECORDS),
        consume(&mut consumer, &mut next, 2 * RECORDS),
        administrate(&client),
    );
    assert!(began.elapsed() < SECOND * 30, "it took {:?}", began.elapsed());
    let ports: Vec<u16> = client.metadata().brokers.values().map(|broker| broker.port).collect();
    assert_eq!(ports, [PORT_AFTER; 3]);
    producer.close(MINUTE).await.unwrap();
    consumer.close(MINUTE).await.unwrap();
    assert_written_once(&cluster, 2 * RECORDS);
    client.close().await;
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_shall_not_go_back_to_its_bootstrap_servers_says_where_it_looks() {
    let cluster = Cluster::builder().brokers(3).topic(TOPIC, PARTITIONS).start_in_memory().unwrap();
    let forwarder = Forwarder::new();
    let build = forwarder.client(&cluster).metadata_recovery_strategy(MetadataRecoveryStrategy::None);
    let client = build.connect().await.unwrap();
    let producer = client.producer().request_timeout(SECOND * 10).delivery_timeout(SECOND * 60).build().await.unwrap();
    let record = Record::to(TOPIC).partition(0).value("v");
    producer.send(&record).await.unwrap().await.unwrap();
    let asked = forwarder.connections();

    the_cluster_moves(&cluster, &forwarder).await;
    let error = producer.send(&record).await.unwrap().await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotWritten), "{error}");
    let error = client.admin().timeout(SECOND * 30).list_offsets(&ends()).await.unwrap_err();
    assert!(error.to_string().contains(&format!(":{PORT_BEFORE} cannot be reached")), "{error}");
    sleep(MINUTE * 10).await;
    assert_eq!(forwarder.connections(), asked, "it was not to go back");
    drop(producer);
    client.close().await;
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_asks_for_a_new_start_gets_one() {
    let cluster = Cluster::builder().brokers(3).topic(TOPIC, PARTITIONS).start_in_memory().unwrap();
    let forwarder = Forwarder::new();
    let client = forwarder.client(&cluster).connect().await.unwrap();
    client.admin().list_offsets(&ends()).await.unwrap();
    let asked = forwarder.connections();

    start_again(&cluster, &client).await;
    assert_eq!(forwarder.connections(), asked + 1, "the bootstrap address was looked up and connected to anew");
    assert_eq!(client.sockets(), 0, "no connection is kept");
    client.admin().list_offsets(&ends()).await.unwrap();
    client.close().await;
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_connected_before_the_bootstrap_servers_have_answered_is_let_go() {
    let cluster = Cluster::builder().brokers(3).topic(TOPIC, PARTITIONS).start_in_memory().unwrap();
    let forwarder = Forwarder::new();
    let client = forwarder.client(&cluster).connect().await.unwrap();
    let producer = client.producer().build().await.unwrap();
    let record = Record::to(TOPIC).partition(0).value("v");
    producer.send(&record).await.unwrap().await.unwrap();

    let told = Reaction::Error(ErrorCode::REBOOTSTRAP_REQUIRED);
    let required = cluster.faults().when(Api::Metadata).then(told);
    let slow = cluster.faults().when(Api::Metadata).nth(2).then(Reaction::Delay(SECOND * 3));
    client.refresh_metadata(RefreshReason::Asked);
    sleep(SECOND * 2).await;
    assert_eq!([&required, &slow].map(Fault::fired), [1, 1]);
    // Only the old picture says where the leader is.
    producer.send(&record).await.unwrap().await.unwrap();
    let connected = || (1..=3).map(|broker| cluster.connections(broker)).sum::<usize>();
    assert_eq!(connected(), 2, "the forwarder's and the producer's");
    sleep(SECOND * 2).await;
    assert_eq!(connected(), 0);
    producer.send(&record).await.unwrap().await.unwrap();
    drop(producer);
    client.close().await;
    cluster.shutdown().await;
}

/// A broker tells the client that it is of another time.
async fn start_again(cluster: &Cluster, client: &Client) {
    let told = Reaction::Error(ErrorCode::REBOOTSTRAP_REQUIRED);
    let required = cluster.faults().when(Api::Metadata).then(told);
    client.refresh_metadata(RefreshReason::Asked);
    sleep(SECOND * 2).await;
    assert_eq!(required.fired(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_start_waits_for_no_answer_of_the_old_one() {
    let cluster = Cluster::builder().brokers(3).topic(TOPIC, PARTITIONS).start_in_memory().unwrap();
    let forwarder = Forwarder::new();
    let client = forwarder.client(&cluster).connect().await.unwrap();
    let producer = client.producer().request_timeout(MINUTE).build().await.unwrap();
    let assigned = client.partition_consumer().assign(TOPIC, [0], StartAt::Beginning);
    let mut reader = assigned.build().await.unwrap();
    let record = Record::to(TOPIC).partition(0).value("v");
    producer.send(&record).await.unwrap().await.unwrap();
    assert_eq!(reader.poll(MINUTE).await.unwrap().len(), 1);

    // The broker has become silent on these two, and looks well to everybody else.
    let leader = cluster.partition_info(TOPIC, 0).leader.unwrap();
    let frozen = [Api::Produce, Api::Fetch].map(|api| cluster.faults().when(api).broker(leader).then(Reaction::Drop));
    sleep(SECOND).await;
    let delivery = producer.send(&record).await.unwrap();
    sleep(SECOND).await;
    assert_eq!(frozen.each_ref().map(Fault::fired), [1, 1]);
    assert_eq!(cluster.records(TOPIC, 0).len(), 1);

    let began = Instant::now();
    start_again(&cluster, &client).await;
    delivery.await.unwrap();
    assert_eq!(reader.poll(MINUTE).await.unwrap().len(), 1);
    assert!(began.elapsed() < SECOND * 5, "it took {:?}", began.elapsed());
    assert_eq!(cluster.records(TOPIC, 0).len(), 2);
    drop((producer, reader));
    client.close().await;
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn metadata_that_fails_for_as_long_as_the_trigger_is_asked_for_at_the_bootstrap_address() {
    let cluster = Cluster::builder().brokers(3).topic(TOPIC, PARTITIONS).start_in_memory().unwrap();
    let forwarder = Forwarder::new();
    let build = forwarder.client(&cluster).metadata_recovery_rebootstrap_trigger(SECOND * 20);
    let client = build.connect().await.unwrap();
    let owner = client.new_owner("test");
    // A connection that works all the while, and goes when the client starts again.
    client.admin().list_offsets(&ends()).await.unwrap();
    let broken = cluster.faults().when(Api::Metadata).always().then(Reaction::Disconnect);
    client.refresh_metadata(RefreshReason::Asked);
    sleep(SECOND * 19).await;
    let ask = milena_client::protocol::messages::DescribeClusterRequest::default;
    let target = milena_client::Target::Broker(2);
    owner.send(target.clone(), milena_client::Lane::Slow, ask(), SECOND).await.unwrap();
    let before = cluster.connections(2);
    sleep(SECOND * 4).await;
    assert!(cluster.connections(2) < before, "what was connected is given up");
    broken.remove();
    sleep(SECOND * 2).await;
    client.admin().list_offsets(&ends()).await.unwrap();
    drop(owner);
    client.close().await;
    cluster.shutdown().await;
}
