//! Storms: cut connections, applied or not, errors, held answers and leader moves, drawn from a seed, while records are sent.
//!
//! Whatever happens, an acknowledged record is in the log once, at the place that its ack names, records of a partition are in the
//! order in which they were sent, and one that was certainly not written is not there.

#![expect(clippy::disallowed_methods, reason = "tests sleep on the paused clock")]
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common;

use std::time::Duration;

use milena_client::Outcome;
use milena_producer::{Compression, Producer, Record};
use milena_testkit::{Api, Cluster, ErrorCode, Reaction};
use tokio::time::sleep;

const PARTITIONS: i32 = 4;

struct Ended {
    log: String,
    acked: usize,
    unknown: usize,
}

async fn storm(seed: u64) -> Ended {
    let mut rng = fastrand::Rng::with_seed(seed);
    let cluster = Cluster::builder()
        .brokers(3)
        .topic("orders", PARTITIONS)
        .seed(seed)
        .latency(Duration::from_millis(rng.u64(0..20)))
        .start_in_memory()
        .unwrap();
    let client = common::client(&cluster, seed).wall_clock(common::virtual_wall_clock()).connect().await.unwrap();
    let codec = if rng.bool() { Compression::Lz4 } else { Compression::None };
    let producer = Producer::builder(&client)
        .linger(Duration::from_millis(rng.u64(0..4)))
        .batch_size(512)
        .max_batch_size(2048)
        .request_timeout(Duration::from_secs(2))
        .delivery_timeout(Duration::from_secs(if rng.u32(0..4) == 0 { 6 } else { 60 }))
        .compression(codec)
        .build()
        .await
        .unwrap();

    let faults = [
        (0.04, Reaction::Disconnect),
        (0.04, Reaction::ApplyThenDisconnect),
        (0.01, Reaction::ApplyThenDrop),
        (0.02, Reaction::Error(ErrorCode::NOT_ENOUGH_REPLICAS)),
        (0.02, Reaction::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER)),
        (0.01, Reaction::Error(ErrorCode::REQUEST_TIMED_OUT)),
        (0.01, Reaction::Error(ErrorCode::MESSAGE_TOO_LARGE)),
        (0.05, Reaction::DelayAnswer(Duration::from_millis(rng.u64(1..400)))),
    ];
    let faults: Vec<_> = faults
        .into_iter()
        .filter(|_| rng.bool())
        .map(|(often, reaction)| cluster.faults().when(Api::Produce).probability(often).then(reaction))
        .collect();

    let mut deliveries = Vec::new();
    for number in 0..600u32 {
        let partition = rng.i32(0..PARTITIONS);
        let value = format!("{number:06}{}", "x".repeat(rng.usize(0..60)));
        let record = Record::to("orders").partition(partition).value(&value);
        deliveries.push((partition, value.clone(), producer.send(&record).await.unwrap()));
        match rng.u32(0..100) {
            0 => cluster.move_leader("orders", rng.i32(0..PARTITIONS), rng.i32(1..=3)),
            1 => cluster.disconnect(rng.i32(1..=3)),
            2..=20 => sleep(Duration::from_millis(rng.u64(0..30))).await,
            _ => {}
        }
    }
    sleep(Duration::from_millis(200)).await;
    for fault in &faults {
        fault.remove();
    }
    producer.flush().await.ok();

    let logs: Vec<Vec<String>> = (0..PARTITIONS)
        .map(|partition| {
            let records = cluster.records("orders", partition).into_iter();
            records.map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap()).collect()
        })
        .collect();
    let (mut acked, mut unknown) = (0, 0);
    for (partition, value, delivery) in deliveries {
        let log = &logs[partition as usize];
        let times = log.iter().filter(|logged| **logged == value).count();
        match delivery.await {
            Ok(placed) => {
                acked += 1;
                assert_eq!(times, 1, "seed {seed}: {value} was acknowledged and is there {times} times");
                let offset = placed.offset.unwrap() as usize;
                assert_eq!(log[offset], value, "seed {seed}: the ack names another record's place");
            }
            Err(error) if error.outcome() == Outcome::NotWritten => {
                assert_eq!(times, 0, "seed {seed}: {value} is there, and was told not to be: {error}");
            }
            Err(_) => {
                unknown += 1;
                assert!(times <= 1, "seed {seed}: {value} is there {times} times");
            }
        }
    }
    for log in &logs {
        assert!(log.is_sorted(), "seed {seed}: records are out of order: {log:?}");
    }
    assert!(cluster.violations().is_empty(), "seed {seed}: {:?}", cluster.violations());
    assert_eq!(producer.room(), 32 << 20, "seed {seed}: memory was not given back");
    producer.close(Duration::from_secs(60)).await.unwrap();
    client.close().await;
    assert_eq!((client.tasks(), client.sockets()), (0, 0), "seed {seed}");
    let log = cluster.request_log().to_string();
    cluster.shutdown().await;
    Ended { log, acked, unknown }
}

fn run(seed: u64) -> Ended {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let limit = Duration::from_secs(3600);
    runtime.block_on(async {
        tokio::time::timeout(limit, storm(seed)).await.unwrap_or_else(|_| panic!("seed {seed} hangs"))
    })
}

#[test]
fn no_storm_loses_doubles_or_reorders_a_record() {
    let (mut acked, mut unknown) = (0, 0);
    for seed in common::seeds() {
        println!("seed {seed}: MILENA_SEEDS={seed} cargo test -p milena-producer --test storm");
        let ended = run(seed);
        acked += ended.acked;
        unknown += ended.unknown;
    }
    println!("{acked} acknowledged, {unknown} unknown");
    // One seed alone may be a bad one.
    let count = common::seeds().count();
    assert!(count == 1 || acked > 400 * count, "a storm in which nothing is written proves nothing: {acked}");
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_the_wire() {
    for seed in 0..3 {
        assert!(run(seed).log == run(seed).log, "seed {seed}: two request logs");
    }
}
