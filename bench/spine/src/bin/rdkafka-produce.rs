//! librdkafka's idempotent producer through `BaseProducer`, or with the word `threaded` through `ThreadedProducer`; every
//! delivery is reported to a callback.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, ClientContext};
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

/// What the two kinds of producer have in common.
trait Send {
    fn send(&self, record: BaseRecord<'_, [u8], [u8]>) -> Result<(), KafkaError>;
    /// Lets delivery reports in; waits for some when the queue is full.
    fn reports(&self, queue_is_full: bool);
    fn flush(&self);
}

impl Send for BaseProducer<Deliveries> {
    fn send(&self, record: BaseRecord<'_, [u8], [u8]>) -> Result<(), KafkaError> {
        Self::send(self, record).map_err(|(problem, _)| problem)
    }

    fn reports(&self, queue_is_full: bool) {
        self.poll(Duration::from_millis(if queue_is_full { 100 } else { 0 }));
    }

    fn flush(&self) {
        rdkafka::producer::Producer::flush(self, Duration::from_secs(60)).expect("everything is delivered");
    }
}

impl Send for ThreadedProducer<Deliveries> {
    fn send(&self, record: BaseRecord<'_, [u8], [u8]>) -> Result<(), KafkaError> {
        Self::send(self, record).map_err(|(problem, _)| problem)
    }

    fn reports(&self, queue_is_full: bool) {
        if queue_is_full {
            sleep(Duration::from_millis(1));
        }
    }

    fn flush(&self) {
        rdkafka::producer::Producer::flush(self, Duration::from_secs(60)).expect("everything is delivered");
    }
}

fn main() {
    let arguments = Arguments::read();
    let deliveries = Deliveries::default();
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &arguments.bootstrap_servers)
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .set("partitioner", "murmur2_random");
    if arguments.threaded {
        let producer: ThreadedProducer<_> = config.create_with_context(deliveries.clone()).expect("a producer");
        measure(&producer, &deliveries, &arguments);
    } else {
        let producer: BaseProducer<_> = config.create_with_context(deliveries.clone()).expect("a producer");
        measure(&producer, &deliveries, &arguments);
    }
}

fn measure(producer: &impl Send, deliveries: &Deliveries, arguments: &Arguments) {
    let value = value();
    send(producer, &value, 0..arguments.warm_up(), arguments.partitioning);
    let measurement = Measurement::start();
    let all = arguments.warm_up() + arguments.records;
    send(producer, &value, arguments.warm_up()..all, arguments.partitioning);
    println!("{}", measurement.stop(arguments.records));
    assert_eq!(deliveries.0.load(Ordering::Relaxed), all);
}

fn send(producer: &impl Send, value: &[u8], numbers: std::ops::Range<u64>, partitioning: Partitioning) {
    let mut key = [0; 16];
    for n in numbers {
        loop {
            let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(TOPIC).payload(value);
            match partitioning {
                Partitioning::RoundRobin => record = record.partition((n % PARTITIONS as u64) as i32),
                Partitioning::Sticky => {}
                Partitioning::Murmur2 => {
                    write_key(&mut key, n);
                    record = record.key(&key);
                }
            }
            match producer.send(record) {
                Ok(()) => break,
                Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) => producer.reports(true),
                Err(problem) => panic!("{problem}"),
            }
        }
        if n.is_multiple_of(1000) {
            producer.reports(false);
        }
    }
    producer.flush();
}
