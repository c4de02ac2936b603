//! Kafka in a container that the test kit starts: records, a group and a transaction; and what a dropped start leaves behind.
//!
//! `cargo xtask accept containers` runs it, with an engine and an image where there are none.

#![expect(clippy::disallowed_methods, reason = "a container lives by the real clock")]
#![expect(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::pin::pin;
use std::process::Command;
use std::time::Duration;

use milena::{Client, IsolationLevel, NewTopic, OffsetReset, Record, StartAt};
use milena_testkit::containers::Kafka;
use tokio::time::{sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn records_a_group_and_a_transaction_on_a_container_which_is_gone_afterwards() {
    let kafka = Kafka::default().setting("message.max.bytes", "5000").start().await.unwrap();
    println!("container {} on {}", &kafka.container_id()[..12], kafka.bootstrap_servers());
    let client = Client::builder(kafka.bootstrap_servers()).connect().await.unwrap();
    client.admin().ensure_topics(&[NewTopic::new("orders", 3), NewTopic::new("copies", 1)]).await.unwrap();

    let producer = client.producer().build().await.unwrap();
    let mut deliveries = Vec::new();
    for n in 0..1_000 {
        let value = n.to_string();
        deliveries.push(producer.send(&Record::to("orders").key(&value).value(&value)).await.unwrap());
    }
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    let too_large = producer.send(&Record::to("orders").value(&"x".repeat(6_000))).await.unwrap().await;
    assert!(too_large.is_err(), "the given setting holds");

    let group = client.consumer("billing").subscribe(["orders"]).offset_reset(OffsetReset::Earliest);
    let mut consumer = group.build().await.unwrap();
    let mut seen = BTreeSet::new();
    while seen.len() < 1_000 {
        let record = timeout(SECOND * 30, consumer.recv()).await.expect("records are there").unwrap().unwrap();
        let number: u32 = std::str::from_utf8(record.value().unwrap()).unwrap().parse().unwrap();
        assert!(seen.insert(number), "{number} came twice");
    }
    consumer.close(SECOND * 10).await.unwrap();

    let copies = client.producer().transactional_id("copy").build().await.unwrap();
    let transaction = copies.begin();
    transaction.send(&Record::to("copies").value("aborted")).await.unwrap().await.unwrap();
    let copies = transaction.abort().await.unwrap();
    let transaction = copies.begin();
    transaction.send(&Record::to("copies").value("committed")).await.unwrap().await.unwrap();
    transaction.commit().await.unwrap().close(SECOND * 10).await.unwrap();
    let reader = client.partition_consumer().assign("copies", [0], StartAt::Beginning);
    let mut reader = reader.isolation_level(IsolationLevel::ReadCommitted).build().await.unwrap();
    let record = timeout(SECOND * 30, reader.recv()).await.expect("its marker is written").unwrap().unwrap();
    assert_eq!(record.value(), Some(&b"committed"[..]));
    client.close().await;

    let (servers, id) = (kafka.bootstrap_servers().to_owned(), kafka.container_id().to_owned());
    drop(kafka);
    assert!(TcpStream::connect(servers).is_err(), "nobody listens");
    assert!(!containers().contains(&id), "it is removed");
}

#[tokio::test]
async fn a_start_that_is_dropped_leaves_no_container_and_an_image_that_is_not_there_is_said() {
    let before = containers();
    {
        let mut start = pin!(Kafka::default().start());
        while containers().is_subset(&before) {
            assert!(timeout(SECOND / 10, &mut start).await.is_err(), "it is not up before its container is there");
        }
    }
    let error = Kafka::default().image("milena-kafka:nobody-has-it").start().await.unwrap_err().to_string();
    assert!(error.contains("milena-kafka:nobody-has-it does not start"), "{error}");
    for _ in 0..600 {
        // Another test's may be among those of before, or come and go meanwhile.
        if containers().is_subset(&before) {
            return;
        }
        sleep(SECOND / 10).await;
    }
    panic!("a container is still there: {:?}", containers());
}

/// The ids of all containers.
fn containers() -> BTreeSet<String> {
    let out = Command::new("docker").args(["ps", "--all", "--quiet", "--no-trunc"]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect()
}
