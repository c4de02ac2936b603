//! An exactly-once copy, each of whose requests loses its broker: in both protocols, with the request applied and without, and with
//! the broker back soon or never.

use std::collections::BTreeMap;
use std::time::Duration;

use milena::{
    Client, CommitError, Consumer, InitialiseError, IsolationLevel, OffsetAndMetadata, OffsetReset, Record, Records,
    StartAt, TopicPartition, Transaction, TransactionalProducer,
};
use milena_testkit::{Api, Cluster, Reaction};
use tokio::time::{Instant, sleep, timeout};

use super::{MINUTE, PARTITIONS, RECORDS, SECOND, TOPIC, assert_once, builder, kill_who_was_asked};

const INPUT: &str = "input";
/// What a call of the producer may take (`max_block`), and so any call of the copy.
const DEADLINE: Duration = Duration::from_secs(40);
/// Every so many transactions one is aborted, whatever happens.
const ABORTED: usize = 3;

/// Reads `INPUT`, writes `TOPIC`, and commits both together.
struct Copy {
    consumer: Consumer,
    /// Taken while a transaction is open.
    producer: Option<TransactionalProducer>,
    /// How many transactions have begun.
    begun: usize,
}

/// Awaits a call, which must end inside the deadline.
async fn in_time<T>(what: &str, call: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let result = call.await;
    assert!(began.elapsed() <= DEADLINE + SECOND, "{what} took {:?}", began.elapsed());
    result
}

impl Copy {
    async fn start(client: &Client) -> Self {
        let reading = client.consumer("copy").subscribe([INPUT]).offset_reset(OffsetReset::Earliest);
        let reading = reading.commits_in_transactions().session_timeout(SECOND * 10).max_poll_records(5);
        let writing = client.producer().linger(SECOND / 100).request_timeout(SECOND * 10).max_block(DEADLINE);
        let writing = writing.delivery_timeout(SECOND * 30).transactional_id("copy-1").build();
        Self {
            consumer: reading.build().await.unwrap(),
            producer: Some(in_time("build", writing).await.unwrap()),
            begun: 0,
        }
    }

    /// One transaction, if there is something to copy. Returns whether it is committed.
    async fn step(&mut self) -> bool {
        let records = self.consumer.poll(SECOND).await.unwrap();
        if records.is_empty() {
            return false;
        }
        // The work of which the records are.
        sleep(SECOND / 2).await;
        let committed = self.copy(&records).await;
        if committed {
            records.ack();
        } else {
            // Also when nobody can say: the offsets know it.
            let handle = self.consumer.handle();
            handle.seek_to_committed(&handle.assignment());
        }
        committed
    }

    async fn copy(&mut self, records: &Records) -> bool {
        // Who is no member now has lost what it has read.
        let Ok(member) = self.consumer.handle().group_metadata().await else { return false };
        self.begun += 1;
        let transaction = self.producer.take().unwrap().begin();
        let mut next = BTreeMap::new();
        for record in records {
            let from = TopicPartition::new(INPUT, record.partition());
            next.insert(from, OffsetAndMetadata::from(record.offset() + 1));
            let copied = Record::to(TOPIC).partition(record.partition()).value(record.value().unwrap());
            if let Err(error) = in_time("send", transaction.send(&copied)).await {
                println!("not taken: {error}");
                return self.abort(transaction).await;
            }
        }
        let sent = transaction.send_offsets(next, &member);
        let refused = in_time("send_offsets", sent).await.is_err();
        if refused || self.begun.is_multiple_of(ABORTED) {
            return self.abort(transaction).await;
        }
        match in_time("commit", transaction.commit()).await {
            Ok(producer) => {
                self.producer = Some(producer);
                true
            }
            Err(CommitError::Abortable(transaction, error) | CommitError::Retry(transaction, error)) => {
                println!("aborted: {error}");
                self.abort(transaction).await
            }
            Err(CommitError::Unknown(producer, error)) => {
                println!("unknown: {error}");
                self.producer = Some(initialised(producer).await);
                false
            }
            Err(CommitError::Fenced(error)) => panic!("nobody else has the id: {error}"),
        }
    }

    async fn abort(&mut self, transaction: Transaction) -> bool {
        self.producer = Some(match in_time("abort", transaction.abort()).await {
            Ok(producer) => producer,
            Err(milena::AbortError::Unknown(producer, _)) => initialised(producer).await,
            Err(milena::AbortError::Fenced(error)) => panic!("nobody else has the id: {error}"),
        });
        false
    }
}

async fn initialised(mut producer: milena::UninitialisedProducer) -> TransactionalProducer {
    loop {
        match in_time("initialise", producer.initialise()).await {
            Ok(initialised) => return initialised,
            Err(InitialiseError::Retry(again, _)) => producer = again,
            Err(InitialiseError::Fenced(error)) => panic!("nobody else has the id: {error}"),
        }
    }
}

/// What a reader of committed records sees is what was copied, as soon as everything is decided.
async fn assert_read_once(client: &Client) {
    let reading = client.partition_consumer().assign(TOPIC, 0..PARTITIONS, StartAt::Beginning);
    let mut reader = reading.isolation_level(IsolationLevel::ReadCommitted).build().await.unwrap();
    let mut read: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    while read.values().map(Vec::len).sum::<usize>() < RECORDS {
        let records = timeout(MINUTE, reader.poll(MINUTE)).await.unwrap().unwrap();
        assert!(!records.is_empty(), "everything is decided, so everything can be read: {read:?}");
        for record in &records {
            let number = std::str::from_utf8(record.value().unwrap()).unwrap().parse().unwrap();
            read.entry(record.partition()).or_default().push(number);
        }
    }
    assert!(reader.poll(SECOND * 5).await.unwrap().is_empty(), "and nothing more");
    for (partition, numbers) in read {
        let sent: Vec<usize> = (0..RECORDS).filter(|number| *number as i32 % PARTITIONS == partition).collect();
        assert_eq!(numbers, sent, "partition {partition}");
    }
    reader.close(MINUTE).await.unwrap();
}

/// What to do to the broker that a request waits on.
#[derive(Debug, Clone, Copy)]
struct Death {
    api: Api,
    nth: u64,
    reaction: Reaction,
    back_after: Option<Duration>,
}

fn the_broker_dies(transaction_version: i16, death: Death) {
    let story = format!("transaction.version {transaction_version}, {death:?}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let cluster = Cluster::builder().brokers(3).topic(INPUT, PARTITIONS).topic(TOPIC, PARTITIONS).seed(1);
        let cluster = cluster.transaction_version(transaction_version).start_in_memory().unwrap();
        let client = builder(&cluster, cluster.bootstrap_servers()).connect().await.unwrap();
        let plain = client.producer().build().await.unwrap();
        for number in 0..RECORDS {
            let (partition, value) = (number as i32 % PARTITIONS, number.to_string());
            plain.send(&Record::to(INPUT).partition(partition).value(&value)).await.unwrap().await.unwrap();
        }
        plain.close(MINUTE).await.unwrap();

        let Death { api, nth, reaction, back_after } = death;
        let before = cluster.requests(api) as u64;
        let fault = cluster.faults().when(api).nth(nth).then(reaction);
        let copying = async {
            let mut copy = Copy::start(&client).await;
            let offsets = |cluster: &Cluster| -> i64 {
                cluster.group_info("copy").map_or(0, |group| group.offsets.values().sum())
            };
            while offsets(&cluster) < RECORDS as i64 {
                copy.step().await;
            }
            // The next one works, too.
            let Copy { consumer, producer, .. } = copy;
            let transaction = producer.unwrap().begin();
            drop(in_time("send", transaction.send(&Record::to(INPUT).value("more"))).await.unwrap());
            let producer = in_time("commit", transaction.commit()).await.unwrap();
            producer.close(MINUTE).await.unwrap();
            consumer.close(MINUTE).await.unwrap();
            assert_read_once(&client).await;
        };
        let killing = kill_who_was_asked(&cluster, &fault, api, before + nth, back_after);
        timeout(MINUTE * 10, async { tokio::join!(copying, killing) })
            .await
            .unwrap_or_else(|_| panic!("{story}: not over after ten minutes\n{}", cluster.request_log()));
        println!("{story}: gone on");
        assert_eq!(cluster.transaction_info("copy-1").unwrap().partitions.len(), 0, "no transaction is left open");
        client.close().await;
        assert_eq!((client.tasks(), client.sockets()), (0, 0));
        sleep(SECOND).await;
        assert_once(RECORDS, |partition| cluster.committed_records(TOPIC, partition));
        cluster.shutdown().await;
    });
}

fn each_way(versions: &[i16], api: Api, nth: u64) {
    for &version in versions {
        for reaction in [Reaction::Hold, Reaction::HoldAnswer] {
            for back_after in [Some(SECOND * 3), None] {
                the_broker_dies(version, Death { api, nth, reaction, back_after });
            }
        }
    }
}

const V1: &[i16] = &[1];
const BOTH: &[i16] = &[1, 2];

#[test]
fn a_coordinator_that_the_end_of_a_transaction_waits_on_dies() {
    // The third is an abort.
    for nth in 1..=3 {
        each_way(BOTH, Api::EndTxn, nth);
    }
}

#[test]
fn a_coordinator_that_hears_what_belongs_to_a_transaction_dies() {
    for nth in 1..=3 {
        each_way(V1, Api::AddPartitionsToTxn, nth);
        each_way(V1, Api::AddOffsetsToTxn, nth);
    }
}

#[test]
fn a_coordinator_that_takes_offsets_in_a_transaction_dies() {
    for nth in 1..=3 {
        each_way(BOTH, Api::TxnOffsetCommit, nth);
    }
}

#[test]
fn a_coordinator_that_gives_a_producer_its_identity_dies() {
    each_way(BOTH, Api::InitProducerId, 1);
    // In the old protocol the abort is followed by another.
    each_way(V1, Api::InitProducerId, 2);
}

#[test]
fn a_broker_that_is_asked_for_a_coordinator_dies() {
    for nth in 1..=2 {
        each_way(BOTH, Api::FindCoordinator, nth);
    }
}

#[test]
fn a_coordinator_of_the_group_that_reads_dies() {
    for api in [Api::JoinGroup, Api::SyncGroup, Api::Heartbeat, Api::OffsetFetch] {
        each_way(BOTH, api, 1);
    }
}

#[test]
fn a_leader_that_writes_in_a_transaction_dies() {
    for nth in [1, 4] {
        each_way(BOTH, Api::Produce, nth);
    }
}
