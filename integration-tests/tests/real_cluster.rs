//! Kafka processes that the test kit starts, kills, freezes and stops.

#![expect(clippy::disallowed_methods, reason = "real processes live by the real clock")]
#![expect(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use milena::{Client, ConsumerEvent, NewTopic, OffsetReset, Producer, Record, StartAt, TopicPartition};
use milena_integration_tests::real_kafka;
use milena_testkit::RealCluster;
use tokio::time::{sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const TOPIC: &str = "orders";

async fn send(producer: &Producer, value: &str) {
    let delivery = producer.send(&Record::to(TOPIC).partition(0).value(&value)).await.unwrap();
    timeout(SECOND * 60, delivery).await.expect("the broker is back").unwrap();
}

#[tokio::test]
async fn a_broker_is_killed_frozen_and_started_again_and_its_records_stay() {
    if real_kafka("a_broker_is_killed_frozen_and_started_again_and_its_records_stay").is_none() {
        return;
    }
    let settings = RealCluster::builder().brokers(1).setting("message.max.bytes", "5000");
    let mut kafka = settings.start().await.unwrap();
    let client = Client::builder(kafka.bootstrap_servers()).connect().await.unwrap();
    client.admin().ensure_topics(&[NewTopic::new(TOPIC, 1)]).await.unwrap();
    let producer = client.producer().delivery_timeout(SECOND * 60).build().await.unwrap();
    send(&producer, "before").await;

    kafka.kill(1).unwrap();
    assert_eq!(kafka.pid(1), None);
    assert!(TcpStream::connect(kafka.bootstrap_servers()).is_err(), "nobody listens");
    let refused = kafka.freeze(1).unwrap_err().to_string();
    assert!(refused.contains("broker 1 is not running"), "{refused}");
    kafka.restart(1).await.unwrap();
    send(&producer, "after").await;

    kafka.freeze(1).unwrap();
    TcpStream::connect(kafka.bootstrap_servers()).expect("its kernel still takes connections");
    let mut waits = producer.send(&Record::to(TOPIC).partition(0).value("frozen")).await.unwrap();
    assert!(timeout(SECOND, &mut waits).await.is_err(), "a frozen broker answers nothing");
    kafka.thaw(1).unwrap();
    timeout(SECOND * 60, waits).await.expect("it goes on").unwrap();

    let too_large = producer.send(&Record::to(TOPIC).partition(0).value(&"x".repeat(6000))).await.unwrap().await;
    assert!(too_large.is_err(), "the given setting holds");
    let mut reader = client.partition_consumer().assign(TOPIC, [0], StartAt::Beginning).build().await.unwrap();
    for expected in ["before", "after", "frozen"] {
        let record = reader.recv().await.unwrap().unwrap();
        assert_eq!(record.value(), Some(expected.as_bytes()));
    }
    assert!(kafka.kill(2).unwrap_err().to_string().contains("there is no broker 2"));

    let (servers, log) = (kafka.bootstrap_servers(), kafka.log_file(1).unwrap());
    assert!(fs::read_to_string(&log).unwrap().contains("Kafka Server started"));
    drop(kafka);
    assert!(TcpStream::connect(servers).is_err() && !log.exists(), "the cluster is gone with its owner");
}

/// Started again by the test below, as a program of its own; otherwise it does nothing.
#[tokio::test]
async fn a_program_that_waits_for_its_end() {
    if std::env::var_os("MILENA_WAIT_FOR_THE_END").is_some() {
        let kafka = RealCluster::builder().brokers(1).start().await.unwrap();
        println!("\nbroker {}", kafka.pid(1).unwrap());
        std::future::pending::<()>().await;
    }
}

#[tokio::test]
async fn brokers_of_a_program_that_is_killed_end_with_it_and_a_start_that_is_dropped_leaves_none() {
    let name = "brokers_of_a_program_that_is_killed_end_with_it_and_a_start_that_is_dropped_leaves_none";
    if real_kafka(name).is_none() {
        return;
    }
    let start = RealCluster::builder().brokers(1).start();
    assert!(timeout(SECOND * 2, start).await.is_err(), "a start takes longer");

    let mut program = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_program_that_waits_for_its_end", "--nocapture"])
        .env("MILENA_WAIT_FOR_THE_END", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines().map_while(Result::ok);
    let broker =
        lines.find_map(|line| line.strip_prefix("broker ").map(str::to_owned)).expect("the program starts one");
    program.kill().unwrap();
    program.wait().unwrap();
    let ours = format!("milena-kafka-{}-", std::process::id());
    for _ in 0..600 {
        let folders = fs::read_dir(std::env::temp_dir()).unwrap().flatten();
        let left = folders.filter(|entry| entry.file_name().to_string_lossy().starts_with(&ours)).count();
        if left == 0 && !fs::exists(format!("/proc/{broker}")).unwrap() {
            return;
        }
        sleep(SECOND / 10).await;
    }
    panic!("a broker is still there");
}

/// KIP-320 as it happens: a broker that lacks records is elected, because it is the only one left.
#[tokio::test]
async fn a_reader_goes_back_to_where_a_real_unclean_election_has_cut_the_log() {
    if real_kafka("a_reader_goes_back_to_where_a_real_unclean_election_has_cut_the_log").is_none() {
        return;
    }
    let settings = RealCluster::builder().setting("unclean.leader.election.enable", "true");
    let mut kafka = settings.start().await.unwrap();
    let client = Client::builder(kafka.bootstrap_servers()).connect().await.unwrap();
    let topic = NewTopic::new(TOPIC, 1).replication_factor(2);
    client.admin().ensure_topics(&[topic]).await.unwrap();
    let known = client.admin().describe_topic(TOPIC).await.unwrap();
    let leader = known.partitions[0].leader.unwrap();
    let follower = *known.partitions[0].replicas.iter().find(|id| **id != leader).unwrap();
    let producer = client.producer().delivery_timeout(SECOND * 60).build().await.unwrap();
    let builder = client.partition_consumer().assign(TOPIC, [0], StartAt::Beginning);
    let mut reader = builder.offset_reset(OffsetReset::Earliest).build().await.unwrap();
    let handle = reader.handle();
    for n in 0..10 {
        send(&producer, &n.to_string()).await;
    }
    kafka.kill(follower).unwrap();
    for n in 10..20 {
        send(&producer, &n.to_string()).await;
    }
    for n in 0..20 {
        let record = timeout(SECOND * 60, reader.recv()).await.unwrap().unwrap().unwrap();
        assert_eq!(record.value(), Some(n.to_string().as_bytes()));
    }
    kafka.kill(leader).unwrap();
    kafka.restart(follower).await.unwrap();
    producer.close(SECOND).await.ok();
    let producer = client.producer().delivery_timeout(SECOND * 60).build().await.unwrap();
    for n in 100..140 {
        send(&producer, &n.to_string()).await;
    }
    for n in 100..140 {
        let record = timeout(SECOND * 60, reader.recv()).await.unwrap().unwrap().unwrap();
        assert_eq!((record.offset(), record.value()), (n - 90, Some(n.to_string().as_bytes())));
    }
    let event = handle.try_next_event().unwrap();
    let partition = TopicPartition::new(TOPIC, 0);
    assert_eq!(event, ConsumerEvent::Truncated { partition, from: 20, to: Some(10) });
}
