//! milena's consumer of assigned partitions, as it is by default, through the batch read `poll`.

use std::time::Duration;

use milena::{Client, PartitionConsumer, StartAt};
use spine::{Arguments, Measurement, PARTITIONS, TOPIC, VALUE_SIZE};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments = Arguments::read();
    let client = Client::builder(&arguments.bootstrap_servers).connect().await.expect("a client");
    let mut consumer = PartitionConsumer::builder(&client)
        .assign(TOPIC, 0..PARTITIONS, StartAt::Beginning)
        .build()
        .await
        .expect("a consumer");
    read(&mut consumer, arguments.warm_up()).await;
    let measurement = Measurement::start();
    let records = read(&mut consumer, arguments.records).await;
    println!("{}", measurement.stop(records));
}

/// Reads at least that many records and says how many.
async fn read(consumer: &mut PartitionConsumer, count: u64) -> u64 {
    let (mut records, mut bytes) = (0, 0);
    while records < count {
        let batch = consumer.poll(Duration::from_secs(1)).await.expect("records");
        for record in &batch {
            bytes += record.value().map_or(0, <[u8]>::len);
            records += 1;
        }
    }
    assert_eq!(bytes as u64, records * VALUE_SIZE as u64);
    records
}
