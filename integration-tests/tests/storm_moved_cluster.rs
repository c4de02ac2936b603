//! All brokers of a real cluster are killed and come back on other ports; the bootstrap address is a forwarder, which leads to one of
//! them. The same client goes on: a producer with records in flight, one with a transaction open, and a member of a group.
//!
//! KIP-899 and KIP-1102. The same in memory: `recovery/moved.rs`.

#![expect(clippy::disallowed_methods, reason = "real processes live by the real clock")]
#![expect(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use milena::{Client, IsolationLevel, NewTopic, OffsetReset, Record, StartAt};
use milena_integration_tests::{produce_until, real_kafka, unique, xtask};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

const PARTITIONS: i32 = 3;
const SECOND: Duration = Duration::from_secs(1);
/// No call may take longer, from before the move to after it.
const DEADLINE: Duration = Duration::from_secs(120);

/// Listens on one address for ever, and connects whoever comes with the broker that it leads to at the time.
struct Forwarder {
    address: SocketAddr,
    to: Arc<Mutex<String>>,
}

impl Forwarder {
    async fn start(to: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, to) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(to.to_owned())));
        let leads = to.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let to = leads.lock().unwrap().clone();
                tokio::spawn(async move {
                    // Nobody there: the client sees its connection end.
                    let Ok(mut broker) = TcpStream::connect(to).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut broker).await;
                });
            }
        });
        Self { address, to }
    }
}

/// Where the cluster was, and is again when this is dropped: other tests look for it there.
struct Home {
    port: String,
    away: bool,
}

impl Home {
    fn of(servers: &str) -> Self {
        let first = servers.split(',').next().unwrap();
        Self { port: first.rsplit_once(':').unwrap().1.to_owned(), away: false }
    }

    /// Returns the bootstrap servers of the place it has moved to.
    async fn leave(&mut self) -> String {
        self.away = true;
        moved(&[]).await
    }

    async fn come_back(&mut self) -> String {
        let servers = moved(&["--port", &self.port]).await;
        self.away = false;
        servers
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.away {
            let _ = xtask().args(["kafka", "move", "--port", &self.port]).status();
        }
    }
}

async fn moved(arguments: &[&str]) -> String {
    let mut command = xtask();
    command.args(["kafka", "move"]).args(arguments);
    let output = Command::from(command).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let servers = said.lines().find_map(|line| line.strip_prefix("bootstrap.servers=")).unwrap().to_owned();
    println!("the cluster has moved to {servers}");
    servers
}

#[tokio::test]
async fn a_cluster_moves_behind_its_bootstrap_address_and_its_clients_go_on() {
    let Some(servers) = real_kafka("a_cluster_moves_behind_its_bootstrap_address_and_its_clients_go_on") else {
        return;
    };
    let mut home = Home::of(&servers);
    let forwarder = Forwarder::start(servers.split(',').next().unwrap()).await;
    let client = Client::builder(forwarder.address.to_string()).request_timeout(SECOND * 10).connect().await.unwrap();
    let topic = unique("moved");
    client.admin().ensure_topics(&[NewTopic::new(&topic, PARTITIONS).replication_factor(3)]).await.unwrap();
    let over = AtomicBool::new(false);

    let moving = async {
        sleep(SECOND * 2).await;
        // There and back again.
        for back in [false, true] {
            let servers = if back { home.come_back().await } else { home.leave().await };
            *forwarder.to.lock().unwrap() = servers.split(',').nth(1).unwrap().to_owned();
            let began = Instant::now();
            let known = |client: &Client| -> Vec<String> {
                let metadata = client.metadata();
                metadata.brokers.values().map(|broker| format!("127.0.0.1:{}", broker.port)).collect()
            };
            while known(&client).join(",") != servers {
                assert!(began.elapsed() < DEADLINE, "{:?} is all that is known", known(&client));
                sleep(SECOND / 4).await;
            }
            println!("found after {:?}", began.elapsed());
            sleep(SECOND * 2).await;
        }
        over.store(true, Ordering::Release);
    };
    let (sent, read, transactions, ()) = tokio::join!(
        produce_until(&over, &client, (&topic, PARTITIONS), SECOND / 200, DEADLINE),
        consume(&client, &topic, &over),
        transact(&client, &topic, &over),
        moving
    );
    println!("{sent} records sent, {} read, {transactions} transactions", read.values().map(Vec::len).sum::<usize>());
    for (partition, numbers) in read {
        let expected: Vec<usize> = (0..sent).filter(|number| *number as i32 % PARTITIONS == partition).collect();
        assert_eq!(numbers, expected, "partition {partition}");
    }
    client.admin().timeout(DEADLINE).ensure_topics(&[NewTopic::new(format!("{topic}-after"), 1)]).await.unwrap();
    client.close().await;
    assert_eq!((client.tasks(), client.sockets()), (0, 0));
}

/// Reads until it is over and nothing comes any more; what comes again after a rebalance is left out.
async fn consume(client: &Client, topic: &str, over: &AtomicBool) -> BTreeMap<i32, Vec<usize>> {
    let builder = client.consumer(topic).subscribe([topic]).offset_reset(OffsetReset::Earliest);
    let mut consumer = builder.session_timeout(SECOND * 30).auto_commit(SECOND).build().await.unwrap();
    let mut read: BTreeMap<i32, (i64, Vec<usize>)> = BTreeMap::new();
    let mut quiet = 0;
    while quiet < 5 {
        let records = consumer.poll(SECOND).await.unwrap();
        quiet = if records.is_empty() && over.load(Ordering::Acquire) { quiet + 1 } else { 0 };
        for record in &records {
            let (next, numbers) = read.entry(record.partition()).or_default();
            assert!(record.offset() <= *next, "nothing is left out: {} after {next}", record.offset());
            if record.offset() == *next {
                *next += 1;
                numbers.push(std::str::from_utf8(record.value().unwrap()).unwrap().parse().unwrap());
            }
        }
        records.ack();
    }
    consumer.close(DEADLINE).await.unwrap();
    read.into_iter().map(|(partition, (_, numbers))| (partition, numbers)).collect()
}

/// Commits a record at a time until it is over. Each is there, once.
async fn transact(client: &Client, topic: &str, over: &AtomicBool) -> usize {
    let topic = format!("{topic}-transactions");
    client.admin().ensure_topics(&[NewTopic::new(&topic, 1).replication_factor(3)]).await.unwrap();
    let builder = client.producer().request_timeout(SECOND * 10).max_block(DEADLINE).delivery_timeout(DEADLINE);
    let builder = builder.linger(Duration::ZERO).transactional_id(topic.as_str());
    let mut producer = builder.transaction_timeout(DEADLINE * 2).build().await.unwrap();
    let mut count: usize = 0;
    while !over.load(Ordering::Acquire) {
        let transaction = producer.begin();
        let delivery = transaction.send(&Record::to(&topic).value(&count.to_string())).await.unwrap();
        delivery.await.unwrap();
        producer = transaction.commit().await.unwrap();
        count += 1;
        sleep(Duration::from_millis(20)).await;
    }
    producer.close(DEADLINE).await.unwrap();

    let assigned = client.partition_consumer().assign(topic.as_str(), [0], StartAt::Beginning);
    let mut reader = assigned.isolation_level(IsolationLevel::ReadCommitted).build().await.unwrap();
    let mut next = 0;
    while next < count {
        let records = timeout(DEADLINE, reader.poll(DEADLINE)).await.unwrap().unwrap();
        for record in &records {
            let number: usize = std::str::from_utf8(record.value().unwrap()).unwrap().parse().unwrap();
            assert_eq!(number, next);
            next += 1;
        }
    }
    reader.close(DEADLINE).await.unwrap();
    count
}
