//! Storms over transactions: cut connections, applied or not, errors, late markers, moving leaders and coordinators, drawn from a seed.
//!
//! Whatever happens, a transaction is there as a whole or not at all: committed if its commit said so, not if it was aborted or its
//! commit said that it was not. Offsets are those of the last committed transaction, and the records of a partition keep their order.

#![expect(clippy::disallowed_methods, reason = "tests sleep on the paused clock")]
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use milena_client::{Client, GroupMetadata, OffsetAndMetadata, TopicPartition};
use milena_producer::{
    AbortError, CommitError, InitialiseError, Producer, Record, Transaction, TransactionalProducer,
    UninitialisedProducer,
};
use milena_testkit::{Api, Cluster, ErrorCode, Fault, Reaction};
use tokio::time::sleep;

const PARTITIONS: i32 = 3;
const ID: &str = "payments-1";
const TRANSACTIONS: u32 = 25;

/// What is known about a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Committed,
    Gone,
    Nothing,
}

#[derive(Default)]
struct Tally {
    committed: usize,
    aborted: usize,
    unknown: usize,
    log: String,
}

struct Storm {
    seed: u64,
    rng: fastrand::Rng,
    cluster: Cluster,
    client: Client,
    tally: Tally,
}

impl Storm {
    async fn start(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let cluster = Cluster::builder()
            .brokers(3)
            .topic("orders", PARTITIONS)
            .topic("input", 1)
            .seed(seed)
            .transaction_version(rng.i16(1..=2))
            .latency(Duration::from_millis(rng.u64(0..10)))
            .start_in_memory()
            .unwrap();
        let client = common::client(&cluster, seed)
            .wall_clock(common::virtual_wall_clock())
            .request_timeout(Duration::from_secs(2))
            .connect()
            .await
            .unwrap();
        Self { seed, rng, cluster, client, tally: Tally::default() }
    }

    fn faults(&mut self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let transactional = [
            Api::InitProducerId,
            Api::AddPartitionsToTxn,
            Api::AddOffsetsToTxn,
            Api::TxnOffsetCommit,
            Api::EndTxn,
            Api::FindCoordinator,
            Api::Produce,
        ];
        let common = [
            Reaction::Disconnect,
            Reaction::ApplyThenDisconnect,
            Reaction::ApplyThenDrop,
            Reaction::DelayAnswer(Duration::from_millis(self.rng.u64(1..400))),
        ];
        for api in transactional {
            for reaction in common {
                if self.rng.u32(0..3) == 0 {
                    faults.push(self.cluster.faults().when(api).probability(0.06).then(reaction));
                }
            }
        }
        let errors = [
            (Api::EndTxn, ErrorCode::COORDINATOR_LOAD_IN_PROGRESS),
            (Api::EndTxn, ErrorCode::NOT_COORDINATOR),
            (Api::AddPartitionsToTxn, ErrorCode::CONCURRENT_TRANSACTIONS),
            (Api::TxnOffsetCommit, ErrorCode::COORDINATOR_NOT_AVAILABLE),
            (Api::TxnOffsetCommit, ErrorCode::ILLEGAL_GENERATION),
            (Api::InitProducerId, ErrorCode::CONCURRENT_TRANSACTIONS),
            (Api::Produce, ErrorCode::NOT_ENOUGH_REPLICAS),
            (Api::Produce, ErrorCode::CONCURRENT_TRANSACTIONS),
            (Api::Produce, ErrorCode::INVALID_PRODUCER_EPOCH),
            (Api::Produce, ErrorCode::TRANSACTION_ABORTABLE),
            (Api::Produce, ErrorCode::MESSAGE_TOO_LARGE),
        ];
        for (api, code) in errors {
            if self.rng.u32(0..3) == 0 {
                faults.push(self.cluster.faults().when(api).probability(0.04).then(Reaction::Error(code)));
            }
        }
        faults
    }

    async fn producer(&mut self) -> TransactionalProducer {
        loop {
            let built = Producer::builder(&self.client)
                .linger(Duration::from_millis(self.rng.u64(0..4)))
                .batch_size(512)
                .max_batch_size(2048)
                .request_timeout(Duration::from_secs(2))
                .delivery_timeout(Duration::from_secs(20))
                .max_block(Duration::from_secs(if self.rng.bool() { 15 } else { 3 }))
                .transactional_id(ID)
                .transaction_timeout(Duration::from_secs(600))
                .build()
                .await;
            match built {
                Ok(producer) => return producer,
                Err(error) => assert!(error.is_retriable(), "seed {}: {error}", self.seed),
            }
        }
    }

    async fn initialise(&mut self, mut producer: UninitialisedProducer) -> TransactionalProducer {
        loop {
            producer = match producer.initialise().await {
                Ok(producer) => return producer,
                Err(InitialiseError::Retry(producer, _)) => producer,
                Err(InitialiseError::Fenced(error)) => panic!("seed {}: nobody else has the id: {error}", self.seed),
            };
        }
    }

    async fn trouble(&mut self) {
        match self.rng.u32(0..60) {
            0 => self.cluster.move_leader("orders", self.rng.i32(0..PARTITIONS), self.rng.i32(1..=3)),
            1 => self.cluster.disconnect(self.rng.i32(1..=3)),
            2 => self.cluster.move_coordinator(ID, self.rng.i32(1..=3)),
            3 => self.cluster.move_coordinator("copy", self.rng.i32(1..=3)),
            4 => self.cluster.hold_markers(),
            5..=8 => self.cluster.release_markers(),
            9..=20 => sleep(Duration::from_millis(self.rng.u64(0..30))).await,
            _ => {}
        }
    }

    /// Ends a transaction in one of the ways that there are.
    async fn end(&mut self, mut transaction: Transaction) -> (Known, TransactionalProducer) {
        self.cluster.release_markers();
        if self.rng.u32(0..8) == 0 {
            drop(transaction);
            return (Known::Gone, self.producer().await);
        }
        if self.rng.u32(0..4) > 0 {
            loop {
                let failed = match transaction.commit().await {
                    Ok(producer) => return (Known::Committed, producer),
                    Err(failed) => failed,
                };
                transaction = match failed {
                    CommitError::Abortable(transaction, _) => {
                        self.tally.aborted += 1;
                        transaction
                    }
                    CommitError::Retry(again, _) => {
                        if self.rng.bool() {
                            transaction = again;
                            continue;
                        }
                        again
                    }
                    CommitError::Unknown(producer, _) => {
                        return (Known::Nothing, self.initialise(producer).await);
                    }
                    CommitError::Fenced(error) => panic!("seed {}: nobody else has the id: {error}", self.seed),
                };
                break;
            }
        }
        match transaction.abort().await {
            Ok(producer) => (Known::Gone, producer),
            Err(AbortError::Unknown(producer, _)) => (Known::Gone, self.initialise(producer).await),
            Err(AbortError::Fenced(error)) => panic!("seed {}: nobody else has the id: {error}", self.seed),
        }
    }

    async fn run(mut self) -> Tally {
        let seed = self.seed;
        let faults = self.faults();
        let mut producer = self.producer().await;
        let mut known = BTreeMap::new();
        let mut sent: BTreeMap<u32, Vec<(i32, String)>> = BTreeMap::new();
        let group = GroupMetadata { group: "copy".into(), generation: -1, ..GroupMetadata::default() };
        let mut with_offsets = Vec::new();
        for number in 0..TRANSACTIONS {
            let transaction = producer.begin();
            for n in 0..self.rng.u32(0..40) {
                let partition = self.rng.i32(0..PARTITIONS);
                let value = format!("{number:03} {n:03}{}", "x".repeat(self.rng.usize(0..60)));
                let record = Record::to("orders").partition(partition).value(&value);
                match transaction.send(&record).await {
                    Ok(delivery) => {
                        drop(delivery);
                        sent.entry(number).or_default().push((partition, value));
                    }
                    // It has failed already.
                    Err(_) => break,
                }
                self.trouble().await;
            }
            if self.rng.bool() {
                let offset = OffsetAndMetadata::from(i64::from(number));
                let offsets = [(TopicPartition::new("input", 0), offset)];
                if transaction.send_offsets(offsets, &group).await.is_ok() {
                    with_offsets.push(number);
                }
            }
            let (what, next) = self.end(transaction).await;
            known.insert(number, what);
            producer = next;
        }
        for fault in &faults {
            fault.remove();
        }
        self.cluster.release_markers();
        // A last one, undisturbed: whatever was left behind is decided by now.
        let transaction = producer.begin();
        let record = Record::to("orders").partition(0).value("999");
        transaction.send(&record).await.unwrap().await.unwrap();
        let producer = transaction.commit().await.unwrap();
        sleep(Duration::from_secs(5)).await;

        let logs: Vec<Vec<String>> = (0..PARTITIONS)
            .map(|partition| {
                let records = self.cluster.committed_records("orders", partition).into_iter();
                records.map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap()).collect()
            })
            .collect();
        let mut last_offset = None;
        for (number, what) in &known {
            let values = sent.get(number).map_or(&[][..], |values| &values[..]);
            let times = |(partition, value): &(i32, String)| {
                logs[*partition as usize].iter().filter(|logged| *logged == value).count()
            };
            let counts: Vec<_> = values.iter().map(times).collect();
            let all = |count: usize| counts.iter().all(|times| *times == count);
            match what {
                Known::Committed => {
                    self.tally.committed += 1;
                    assert!(all(1), "seed {seed}: {number} is committed and incomplete: {counts:?}");
                }
                Known::Gone => assert!(all(0), "seed {seed}: {number} is not committed and there: {counts:?}"),
                Known::Nothing => {
                    self.tally.unknown += 1;
                    assert!(all(0) || all(1), "seed {seed}: {number} is there in part: {counts:?}");
                }
            }
            let is_there = *what == Known::Committed || (*what == Known::Nothing && !values.is_empty() && all(1));
            if is_there && with_offsets.contains(number) {
                last_offset = Some(i64::from(*number));
            }
        }
        for log in &logs {
            assert!(log.is_sorted(), "seed {seed}: records are out of order: {log:?}");
        }
        let committed = self.cluster.group_info("copy").and_then(|group| {
            assert!(group.pending_offsets.is_empty(), "seed {seed}: {:?}", group.pending_offsets);
            group.offsets.get(&("input".to_owned(), 0)).copied()
        });
        // Of a transaction without records, nothing else tells whether it is there.
        let is_silent = |number: &u32| known[number] == Known::Nothing && sent.get(number).is_none_or(Vec::is_empty);
        if !with_offsets.iter().any(is_silent) {
            assert_eq!(committed, last_offset, "seed {seed}: offsets of another transaction");
        }
        assert!(self.cluster.violations().is_empty(), "seed {seed}: {:?}", self.cluster.violations());
        producer.close(Duration::from_secs(60)).await.unwrap();
        self.client.close().await;
        assert_eq!((self.client.tasks(), self.client.sockets()), (0, 0), "seed {seed}");
        self.tally.log = self.cluster.request_log().to_string();
        self.cluster.shutdown().await;
        self.tally
    }
}

fn run(seed: u64) -> Tally {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let limit = Duration::from_secs(24 * 3600);
    runtime.block_on(async {
        let storm = async { Storm::start(seed).await.run().await };
        tokio::time::timeout(limit, storm).await.unwrap_or_else(|_| panic!("seed {seed} hangs"))
    })
}

#[test]
fn no_storm_breaks_a_transaction_apart() {
    let mut all = Tally::default();
    for seed in common::seeds() {
        println!("seed {seed}: MILENA_SEEDS={seed} cargo test -p milena-producer --test storm_transactions");
        let tally = run(seed);
        all.committed += tally.committed;
        all.aborted += tally.aborted;
        all.unknown += tally.unknown;
    }
    let Tally { committed, aborted, unknown, .. } = all;
    println!("{committed} committed, {aborted} spoilt, {unknown} unknown");
    // One seed alone may be a bad one.
    let count = common::seeds().count();
    assert!(count == 1 || committed > 8 * count, "a storm in which nothing is committed proves nothing: {committed}");
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_the_wire() {
    for seed in 0..3 {
        assert!(run(seed).log == run(seed).log, "seed {seed}: two request logs");
    }
}
