//! librdkafka through the `rdkafka` crate: deliveries reported to a callback (`ThreadedProducer`), or awaited
//! (`FutureProducer`). Idempotent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, DeliveryFuture, FutureProducer, FutureRecord, Producer as _, ProducerContext};
use rdkafka::producer::{FutureProducer as Futures, ThreadedProducer};
use rdkafka::{ClientConfig, ClientContext};

use super::{Contender, LINGER, Shot};
use crate::job::Job;

fn config(job: &Job) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &job.bootstrap_servers)
        .set("enable.idempotence", "true")
        .set("linger.ms", LINGER.as_millis().to_string())
        // As many as the others have outstanding; by default ten times as many.
        .set("queue.buffering.max.messages", job.window().to_string())
        .set("batch.size", job.load.batch.to_string())
        .set("compression.type", if job.load.lz4 { "lz4" } else { "none" })
        .set("partitioner", "murmur2_random");
    config
}

/// Counts what was delivered; runs in the thread that polls.
#[derive(Clone)]
struct Deliveries {
    delivered: Arc<AtomicU64>,
    clock: Arc<Mutex<Clock>>,
}

struct Clock {
    zero: Instant,
    latencies_us: Vec<u32>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    /// When the record was due, as [`Shot::due_us`].
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, due_us: usize) {
        result.as_ref().expect("every record is delivered");
        self.delivered.fetch_add(1, Ordering::Relaxed);
        if due_us > 0 {
            let mut clock = self.clock.lock().expect("no panic");
            let latency = (clock.zero.elapsed().as_micros() as u64).saturating_sub(due_us as u64 - 1);
            clock.latencies_us.push(latency as u32);
        }
    }
}

pub(crate) struct Threaded {
    producer: ThreadedProducer<Deliveries>,
    deliveries: Deliveries,
    sent: AtomicU64,
    topic: String,
}

impl Contender for Threaded {
    type Delivery = ();

    async fn connect(job: &Job) -> Self {
        let clock = Clock { zero: Instant::now(), latencies_us: Vec::new() };
        let deliveries = Deliveries { delivered: Arc::default(), clock: Arc::new(Mutex::new(clock)) };
        let producer = config(job).create_with_context(deliveries.clone()).expect("a producer");
        Self { producer, deliveries, sent: AtomicU64::new(0), topic: job.topic.clone() }
    }

    async fn send(&self, shot: Shot<'_>) {
        let mut record: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&self.topic, shot.due_us as usize).payload(shot.value.as_ref());
        if let Some(key) = shot.key {
            record = record.key(key);
        }
        if let Some(partition) = shot.partition {
            record = record.partition(partition);
        }
        while let Err((problem, same)) = self.producer.send(record) {
            wait_for_room(&problem);
            record = same;
        }
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    async fn settle(&self, (): ()) {}

    async fn finish(&self) {
        self.producer.flush(Duration::from_secs(60)).expect("everything is delivered");
        assert_eq!(self.deliveries.delivered.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed));
    }

    fn latencies(&self, now_is_zero: bool) -> Option<Vec<u32>> {
        let mut clock = self.deliveries.clock.lock().expect("no panic");
        if now_is_zero {
            clock.zero = Instant::now();
        }
        Some(std::mem::take(&mut clock.latencies_us))
    }
}

pub(crate) struct Future {
    producer: Futures,
    topic: String,
}

impl Contender for Future {
    type Delivery = DeliveryFuture;

    async fn connect(job: &Job) -> Self {
        let producer: FutureProducer = config(job).create().expect("a producer");
        Self { producer, topic: job.topic.clone() }
    }

    async fn send(&self, shot: Shot<'_>) -> DeliveryFuture {
        let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&self.topic).payload(shot.value.as_ref());
        if let Some(key) = shot.key {
            record = record.key(key);
        }
        if let Some(partition) = shot.partition {
            record = record.partition(partition);
        }
        loop {
            match self.producer.send_result(record) {
                Ok(delivery) => return delivery,
                Err((problem, same)) => {
                    wait_for_room(&problem);
                    record = same;
                }
            }
        }
    }

    async fn settle(&self, delivery: DeliveryFuture) {
        delivery.await.expect("a report").expect("every record is delivered");
    }
}

/// Its queue is full: its threads make room.
fn wait_for_room(problem: &KafkaError) {
    match problem {
        KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) => std::thread::sleep(Duration::from_millis(1)),
        problem => panic!("{problem}"),
    }
}
