//! librdkafka's idempotent producer through `BaseProducer`, every delivery reported to a callback.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use spine::{Arguments, Measurement, PARTITIONS, Partitioning, TOPIC, value, write_key};

/// Counts what was delivered; runs in the thread that polls.
#[derive(Clone, Default)]
struct Deliveries(Arc<AtomicU64>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        result.as_ref().expect("every record is delivered");
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn main() {
    let arguments = Arguments::read();
    let deliveries = Deliveries::default();
    let producer: BaseProducer<Deliveries> = ClientConfig::new()
        .set("bootstrap.servers", &arguments.bootstrap_servers)
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .set("partitioner", "murmur2_random")
        .create_with_context(deliveries.clone())
        .expect("a producer");

    let value = value();
    let number = Cell::new(0_u64);
    let send = |count: u64| {
        let target = deliveries.0.load(Ordering::Relaxed) + count;
        let mut key = [0; 16];
        for _ in 0..count {
            let n = number.replace(number.get() + 1);
            loop {
                let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(TOPIC).payload(&value);
                match arguments.partitioning {
                    Partitioning::RoundRobin => record = record.partition((n % PARTITIONS as u64) as i32),
                    Partitioning::Murmur2 => {
                        write_key(&mut key, n);
                        record = record.key(&key);
                    }
                }
                match producer.send(record) {
                    Ok(()) => break,
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                        producer.poll(Duration::from_millis(100));
                    }
                    Err((problem, _)) => panic!("{problem}"),
                }
            }
            if n.is_multiple_of(1000) {
                producer.poll(Duration::ZERO);
            }
        }
        producer.flush(Duration::from_secs(60)).expect("everything is delivered");
        assert_eq!(deliveries.0.load(Ordering::Relaxed), target);
    };
    send(arguments.warm_up());
    let measurement = Measurement::start();
    send(arguments.records);
    println!("{}", measurement.stop(arguments.records));
}
