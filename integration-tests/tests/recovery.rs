//! Brokers that die while a request waits on them, and clusters that move as a whole: in memory, in virtual time.
//!
//! The same with real brokers and real kills: `storm_kill_broker.rs`.

#![expect(
    clippy::disallowed_methods,
    reason = "scenarios in virtual time: they sleep on the paused clock, which is free"
)]
#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use milena::{
    Client, ClientBuilder, Consumer, ErrorCode, ErrorKind, MetadataRecoveryStrategy, NewTopic, OffsetReset, OffsetSpec,
    Outcome, Producer, Record, RefreshReason, TopicPartition,
};
use milena_integration_tests::simulated_from;
use milena_testkit::{Api, Cluster, Reaction};
use tokio::time::{Instant, sleep, timeout};
use tower::{ServiceExt, service_fn};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const TOPIC: &str = "orders";
const PARTITIONS: i32 = 3;
const RECORDS: usize = 60;

fn builder(cluster: &Cluster, bootstrap: String) -> ClientBuilder<Client> {
    simulated_from(cluster, bootstrap).request_timeout(SECOND * 10)
}

async fn member(client: &Client) -> Consumer {
    let builder = client.consumer("group").subscribe([TOPIC]).offset_reset(OffsetReset::Earliest);
    builder.session_timeout(SECOND * 10).auto_commit(SECOND).build().await.unwrap()
}

/// Sends numbered records, one each tenth of a second, and waits for all of them.
async fn produce(producer: &Producer, from: usize) {
    let mut deliveries = Vec::new();
    for number in from..from + RECORDS {
        let (partition, value) = (number as i32 % PARTITIONS, number.to_string());
        deliveries.push(producer.send(&Record::to(TOPIC).partition(partition).value(&value)).await.unwrap());
        sleep(SECOND / 10).await;
    }
    for delivery in deliveries {
        delivery.await.unwrap();
    }
}

/// Reads until as many different records have come. What comes is the next of its partition, or has come before.
async fn consume(consumer: &mut Consumer, next: &mut BTreeMap<i32, i64>, count: usize) {
    while (next.values().sum::<i64>() as usize) < count {
        let records = consumer.poll(SECOND).await.unwrap();
        for record in &records {
            let next = next.entry(record.partition()).or_default();
            assert!(record.offset() <= *next, "nothing is left out: {} after {next}", record.offset());
            *next = (*next).max(record.offset() + 1);
        }
        records.ack();
    }
}

/// Every record is there once, in the order in which it was sent.
fn assert_written_once(cluster: &Cluster, count: usize) {
    for partition in 0..PARTITIONS {
        let values: Vec<usize> = cluster
            .records(TOPIC, partition)
            .into_iter()
            .map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap().parse().unwrap())
            .collect();
        let sent: Vec<usize> = (0..count).filter(|number| *number as i32 % PARTITIONS == partition).collect();
        assert_eq!(values, sent, "partition {partition}");
    }
}

fn ends() -> Vec<(TopicPartition, OffsetSpec)> {
    (0..PARTITIONS).map(|partition| (TopicPartition::new(TOPIC, partition), OffsetSpec::Latest)).collect()
}

/// Admin calls all the while: each is answered, or refused with a reason that says to ask again.
async fn administrate(client: &Client) {
    for round in 0..RECORDS / 10 {
        let began = Instant::now();
        client.admin().timeout(SECOND * 30).list_offsets(&ends()).await.unwrap();
        client.admin().timeout(SECOND * 30).ensure_topics(&[NewTopic::new(format!("t{round}"), 1)]).await.unwrap();
        assert!(began.elapsed() <= MINUTE);
        sleep(SECOND).await;
    }
}

/// The broker that a request of this API waits on dies, `reaction` says whether before or after it has done what was asked.
fn the_broker_dies(api: Api, nth: u64, reaction: Reaction) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let cluster = Cluster::builder().brokers(3).topic(TOPIC, PARTITIONS).seed(1).start_in_memory().unwrap();
        let fault = cluster.faults().when(api).nth(nth).then(reaction);
        let killing = async {
            while fault.fired() == 0 {
                sleep(SECOND / 20).await;
            }
            let asked = cluster.request_entries().into_iter().filter(|entry| entry.api == api.into());
            let broker = asked.map(|entry| entry.broker).nth(nth as usize - 1).unwrap();
            sleep(SECOND / 10).await;
            cluster.crash(broker);
            sleep(SECOND * 3).await;
            cluster.restart(broker);
        };
        let working = async {
            let client = builder(&cluster, cluster.bootstrap_servers()).connect().await.unwrap();
            let producer = client.producer().linger(SECOND / 100).request_timeout(SECOND * 10).build().await.unwrap();
            let mut consumer = member(&client).await;
            let mut next = BTreeMap::new();
            tokio::join!(produce(&producer, 0), consume(&mut consumer, &mut next, RECORDS), administrate(&client));
            producer.close(MINUTE).await.unwrap();
            consumer.close(MINUTE).await.unwrap();
            client.close().await;
            assert_eq!((client.tasks(), client.sockets()), (0, 0));
            next
        };
        let story = format!("{api:?} number {nth}, {reaction:?}, and its broker dies");
        let (next, ()) = timeout(MINUTE * 3, async { tokio::join!(working, killing) })
            .await
            .unwrap_or_else(|_| panic!("{story}: not over after three minutes\n{}", cluster.request_log()));
        println!("{story}: gone on");
        assert_written_once(&cluster, RECORDS);
        let group = cluster.group_info("group").unwrap();
        for (partition, next) in next {
            assert_eq!(group.offsets[&(TOPIC.to_owned(), partition)], next, "what was read is committed");
        }
        cluster.shutdown().await;
    });
}

fn either_way(api: Api, nth: u64) {
    the_broker_dies(api, nth, Reaction::Hold);
    the_broker_dies(api, nth, Reaction::HoldAnswer);
}

#[test]
fn a_broker_that_a_produce_request_waits_on_dies() {
    either_way(Api::Produce, 1);
    either_way(Api::Produce, 20);
    either_way(Api::InitProducerId, 1);
}

#[test]
fn a_broker_that_a_fetch_waits_on_dies() {
    either_way(Api::Fetch, 1);
    either_way(Api::Fetch, 30);
    either_way(Api::ListOffsets, 1);
}

#[test]
fn a_coordinator_that_a_member_waits_on_dies() {
    either_way(Api::FindCoordinator, 1);
    either_way(Api::JoinGroup, 1);
    either_way(Api::JoinGroup, 2);
    either_way(Api::SyncGroup, 1);
    either_way(Api::OffsetFetch, 1);
    either_way(Api::Heartbeat, 1);
    either_way(Api::OffsetCommit, 2);
}

#[test]
fn a_broker_that_an_admin_call_or_a_question_about_the_cluster_waits_on_dies() {
    either_way(Api::Metadata, 1);
    either_way(Api::Metadata, 3);
    either_way(Api::ListOffsets, 5);
    either_way(Api::CreateTopics, 2);
}

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

    let told = Reaction::Error(ErrorCode::REBOOTSTRAP_REQUIRED);
    let required = cluster.faults().when(Api::Metadata).then(told);
    client.refresh_metadata(RefreshReason::Asked);
    sleep(SECOND * 2).await;
    assert_eq!(required.fired(), 1);
    assert_eq!(forwarder.connections(), asked + 1, "the bootstrap address was looked up and connected to anew");
    assert_eq!(client.sockets(), 1, "no other connection is kept");
    client.admin().list_offsets(&ends()).await.unwrap();
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
