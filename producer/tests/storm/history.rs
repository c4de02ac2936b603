//! What was sent, what the producer said became of it, and what the logs say.
//!
//! The invariants, for idempotent producers with `acks=all` on topics with `min.insync.replicas=2`:
//! - I-1: no offset has two values. The cluster watches that itself (`Cluster::violations`); an ack names the place of its record.
//! - I-2: no record is there twice, in whatever partition.
//! - I-3: an acknowledged record is there. Only an unclean election may take it, or DeleteRecords.
//! - I-4: a producer's records of a partition are there in the order in which they were sent.
//! - I-5: a record that failed as `NotWritten` is not there.
//! - I-6: key, value, headers and timestamp are there to the bit, null and empty apart.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;

use bytes::Bytes;
use milena_client::Outcome;
use milena_producer::{Delivery, OwnedRecord, Producer};
use milena_testkit::{Cluster, StoredRecord};

use crate::weather::Weather;
use crate::{PARTITIONS, TOPIC};

/// What was sent, in order.
#[derive(Default)]
pub(crate) struct History {
    sent: Vec<Sent>,
}

struct Sent {
    producer: usize,
    record: OwnedRecord,
    delivery: Delivery,
}

/// What became of the records.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) acknowledged: usize,
    not_written: usize,
    unknown: usize,
    /// Acknowledged ones that an unclean election took.
    lost_by_kafka: usize,
}

impl History {
    /// A record that nobody has sent before: its first header is its number in the whole history.
    pub(crate) fn next_record(&self, producer: usize, rng: &mut fastrand::Rng) -> OwnedRecord {
        let mut record = OwnedRecord::to(TOPIC);
        record.headers.push((Bytes::from_static(b"number"), Some(Bytes::from(self.sent.len().to_string()))));
        for _ in 0..rng.usize(0..3) {
            // Repeats of a key, too.
            record.headers.push((Bytes::from_static(b"h"), bytes(rng)));
        }
        record.key = bytes(rng);
        record.value = bytes(rng);
        // Where the partitioner puts it would not tell anything new about order: most say where they go.
        record.partition = (rng.u32(0..8) > 0).then(|| rng.i32(0..PARTITIONS));
        record.timestamp = rng.bool().then(|| rng.i64(0..1 << 41) + producer as i64);
        record
    }

    pub(crate) fn sent(&mut self, producer: usize, record: OwnedRecord, delivery: Delivery) {
        self.sent.push(Sent { producer, record, delivery });
    }

    /// Sends a record to every partition, which must be acknowledged: nothing is wrong with the cluster any more, and whatever happened
    /// has left no partition behind.
    pub(crate) async fn probe(&mut self, who: usize, producer: &Producer, rng: &mut fastrand::Rng) {
        for partition in 0..PARTITIONS {
            let record = OwnedRecord { partition: Some(partition), ..self.next_record(who, rng) };
            let mut delivery = producer.send(&record).await.unwrap();
            let end = (&mut delivery).await;
            assert!(end.is_ok(), "partition {partition} of producer {who} is not sent any more: {end:?}");
            self.sent(who, record, delivery);
        }
    }

    /// Compares what the producers said with the logs.
    pub(crate) async fn check(self, cluster: &Cluster, weather: &Weather<'_>) -> Summary {
        let logs = Logs::read(cluster);
        let mut summary = Summary::default();
        let mut last: BTreeMap<(usize, i32), (i64, usize)> = BTreeMap::new();
        for (number, Sent { producer, record, delivery }) in self.sent.into_iter().enumerate() {
            let there = logs.places.get(&number).map_or(&[][..], Vec::as_slice);
            assert!(there.len() <= 1, "I-2: record {number} is there more than once: {there:?}");
            if let Some((partition, stored)) = there.first() {
                assert!(same(&record, stored), "I-6: record {number} was sent as {record:?} and is {stored:?}");
                if let Some((offset, before)) = last.insert((producer, *partition), (stored.offset, number)) {
                    assert!(
                        offset < stored.offset,
                        "I-4: {before} was sent before {number}, by producer {producer}, and is behind it in {partition}"
                    );
                }
            }
            match delivery.await {
                Ok(placed) => {
                    summary.acknowledged += 1;
                    let named = placed.offset.map(|offset| (placed.partition, offset));
                    let is_deleted = named.is_some_and(|(partition, at)| at < logs.starts[partition as usize]);
                    match there.first() {
                        Some((partition, stored)) if !weather.is_unclean => {
                            let place = Some((*partition, stored.offset));
                            assert_eq!(named, place, "I-1: the ack of record {number} names another place");
                        }
                        Some(_) => {}
                        None if is_deleted => {}
                        None if weather.is_unclean => summary.lost_by_kafka += 1,
                        None => panic!("I-3: record {number} was acknowledged at {named:?} and is lost"),
                    }
                }
                Err(error) if error.outcome() == Outcome::NotWritten => {
                    summary.not_written += 1;
                    assert!(there.is_empty(), "I-5: record {number} is there, and was told not to be: {error}");
                }
                Err(_) => summary.unknown += 1,
            }
        }
        summary
    }
}

/// What is in the partitions, by the records' numbers.
struct Logs {
    places: BTreeMap<usize, Vec<(i32, StoredRecord)>>,
    starts: Vec<i64>,
}

impl Logs {
    fn read(cluster: &Cluster) -> Self {
        let mut places: BTreeMap<usize, Vec<_>> = BTreeMap::new();
        let mut starts = Vec::new();
        for partition in 0..PARTITIONS {
            for stored in cluster.records(TOPIC, partition) {
                let number = stored.headers[0].1.as_ref().unwrap();
                let number = std::str::from_utf8(number).unwrap().parse().unwrap();
                places.entry(number).or_default().push((partition, stored));
            }
            starts.push(cluster.partition_info(TOPIC, partition).log_start_offset);
        }
        Self { places, starts }
    }
}

fn same(sent: &OwnedRecord, stored: &StoredRecord) -> bool {
    let timestamp = sent.timestamp.is_none_or(|timestamp| timestamp == stored.timestamp);
    sent.key == stored.key && sent.value == stored.value && sent.headers == stored.headers && timestamp
}

/// Nothing, empty, short, or long enough to make a batch of its own.
fn bytes(rng: &mut fastrand::Rng) -> Option<Bytes> {
    let length = match rng.u32(0..40) {
        0..=5 => return None,
        6..=11 => 0,
        12 => 700,
        _ => rng.usize(1..60),
    };
    Some((0..length).map(|_| rng.u8(..)).collect())
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.not_written += other.not_written;
        self.unknown += other.unknown;
        self.lost_by_kafka += other.lost_by_kafka;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, not_written, unknown, lost_by_kafka } = self;
        write!(
            f,
            "{acknowledged} acknowledged (of which {lost_by_kafka} were lost by unclean elections), {not_written} not written, \
             {unknown} unknown"
        )
    }
}
