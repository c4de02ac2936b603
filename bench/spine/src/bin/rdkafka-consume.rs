//! librdkafka's consumer of assigned partitions through `BaseConsumer`, one record after the other.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use spine::{Arguments, Measurement, PARTITIONS, TOPIC, VALUE_SIZE};

fn main() {
    let arguments = Arguments::read();
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &arguments.bootstrap_servers)
        .set("group.id", "spine")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assignment.add_partition_offset(TOPIC, partition, Offset::Beginning).expect("a partition");
    }
    consumer.assign(&assignment).expect("an assignment");

    let read = |count: u64| {
        let (mut records, mut bytes) = (0, 0);
        while records < count {
            if let Some(message) = consumer.poll(Duration::from_secs(1)) {
                let message = message.expect("a record");
                bytes += message.payload().map_or(0, <[u8]>::len);
                records += 1;
            }
        }
        assert_eq!(bytes as u64, count * VALUE_SIZE as u64);
    };
    read(arguments.warm_up());
    let measurement = Measurement::start();
    read(arguments.records);
    println!("{}", measurement.stop(arguments.records));
}
