//! Small transactions of one producer all through the storm. Afterwards a reader of committed records finds each that is committed, whole and once,
//! nothing of one that is aborted, and of one whose end nobody could tell either all or nothing. The offsets that were committed with
//! them say the same.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use milena::{
    AbortError, Client, CommitError, GroupMetadata, InitialiseError, IsolationLevel, NewTopic, OffsetAndMetadata,
    OffsetSpec, Record, StartAt, TopicPartition, Transaction, TransactionalProducer, UninitialisedProducer,
};
use tokio::time::{sleep, timeout};

use super::{DEADLINE, SECOND};

const PARTITIONS: i32 = 3;
/// Records of a transaction: two of each partition.
const RECORDS: i32 = 2 * PARTITIONS;
/// Every so many transactions one is aborted, whatever happens.
const ABORTED: usize = 4;

/// How a transaction has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Committed,
    Aborted,
    Unknown,
}

pub(super) struct Scene {
    client: Client,
    /// Of the producer, the topic and the group.
    name: String,
}

impl Scene {
    pub(super) async fn prepare(client: &Client, name: &str) -> Self {
        client.admin().ensure_topics(&[NewTopic::new(name, PARTITIONS).replication_factor(3)]).await.unwrap();
        Self { client: client.clone(), name: name.to_owned() }
    }

    /// Commits and aborts until the storm is over.
    pub(super) async fn transact(&self, over: &AtomicBool) -> Vec<End> {
        let builder = self.client.producer().request_timeout(SECOND * 10).max_block(DEADLINE).linger(SECOND / 200);
        let builder = builder.delivery_timeout(DEADLINE).transactional_id(self.name.as_str());
        let mut producer = builder.transaction_timeout(DEADLINE * 2).build().await.unwrap();
        let mut ends = Vec::new();
        while !over.load(Ordering::Acquire) {
            let (end, next) = self.transaction(producer.begin(), ends.len()).await;
            ends.push(end);
            producer = next;
            sleep(Duration::from_millis(5)).await;
        }
        // The storm has not spoilt it.
        let (end, producer) = self.transaction(producer.begin(), (ends.len() / ABORTED + 1) * ABORTED).await;
        assert_eq!(end, End::Committed);
        producer.close(DEADLINE).await.unwrap();
        ends
    }

    async fn transaction(&self, transaction: Transaction, number: usize) -> (End, TransactionalProducer) {
        let value = number.to_string();
        for record in 0..RECORDS {
            let record = Record::to(&self.name).partition(record % PARTITIONS).value(&value);
            if let Err(error) = transaction.send(&record).await {
                println!("transaction {number}: {error}");
                return abort(transaction).await;
            }
        }
        let nobody = GroupMetadata { group: self.name.as_str().into(), generation: -1, ..GroupMetadata::default() };
        let offset = [(self.offset_of(), OffsetAndMetadata::from(number as i64))];
        let refused = timeout(DEADLINE * 2, transaction.send_offsets(offset, &nobody)).await.unwrap();
        if let Err(error) = &refused {
            println!("transaction {number}: {error}");
        }
        if refused.is_err() || number % ABORTED == 1 {
            return abort(transaction).await;
        }
        match timeout(DEADLINE * 2, transaction.commit()).await.expect("a commit ends inside its deadline") {
            Ok(producer) => (End::Committed, producer),
            Err(CommitError::Abortable(transaction, error) | CommitError::Retry(transaction, error)) => {
                println!("transaction {number}: {error}");
                abort(transaction).await
            }
            Err(CommitError::Unknown(producer, error)) => {
                println!("transaction {number}: {error}");
                (End::Unknown, initialised(producer).await)
            }
            Err(CommitError::Fenced(error)) => panic!("nobody else has the id: {error}"),
        }
    }

    fn offset_of(&self) -> TopicPartition {
        TopicPartition::new(self.name.as_str(), 0)
    }

    pub(super) async fn assert_whole_or_not_at_all(&self, ends: &[End]) {
        let count = |end| ends.iter().filter(|each| **each == end).count();
        let (committed, aborted, unknown) = (count(End::Committed), count(End::Aborted), count(End::Unknown));
        println!("{committed} transactions committed, {aborted} aborted, {unknown} unknown");
        assert!(committed > aborted, "most of them are to be committed");
        let read = self.read().await;
        let mut last = 0;
        for (number, end) in ends.iter().enumerate() {
            let there = read.get(&number).copied().unwrap_or_default();
            let allowed: &[i32] = match end {
                End::Committed => &[RECORDS],
                End::Aborted => &[0],
                End::Unknown => &[0, RECORDS],
            };
            assert!(allowed.contains(&there), "{there} records of transaction {number}, which is {end:?}");
            last = if there == 0 { last } else { number };
        }
        let after = *read.keys().next_back().unwrap();
        assert!(after > last, "the one after the storm is there");
        assert_eq!(read[&after], RECORDS);
        assert_eq!(self.committed_offset().await, after as i64);
    }

    /// How many records of each transaction a reader of committed records gets; of a partition in the order in which they began.
    async fn read(&self) -> BTreeMap<usize, i32> {
        let assigned = self.client.partition_consumer().assign(self.name.as_str(), 0..PARTITIONS, StartAt::Beginning);
        let mut reader = assigned.isolation_level(IsolationLevel::ReadCommitted).build().await.unwrap();
        let ends: Vec<_> =
            (0..PARTITIONS).map(|p| (TopicPartition::new(self.name.as_str(), p), OffsetSpec::Latest)).collect();
        let ends = self.client.admin().timeout(DEADLINE).list_offsets(&ends).await.unwrap();
        let (handle, mut read, mut last) = (reader.handle(), BTreeMap::new(), BTreeMap::new());
        while !ends.iter().all(|(tp, end)| handle.position(tp) >= *end) {
            // It is empty where a marker or an aborted batch is all that comes.
            for record in &timeout(DEADLINE, reader.poll(SECOND)).await.unwrap().unwrap() {
                let number: usize = std::str::from_utf8(record.value().unwrap()).unwrap().parse().unwrap();
                *read.entry(number).or_default() += 1;
                let before = last.insert(record.partition(), number).unwrap_or_default();
                assert!(before <= number, "{number} after {before}");
            }
        }
        reader.close(DEADLINE).await.unwrap();
        read
    }

    /// Where a member of the group would go on.
    async fn committed_offset(&self) -> i64 {
        let consumer = self.client.consumer(self.name.as_str()).subscribe([self.name.as_str()]).build().await.unwrap();
        let handle = consumer.handle();
        let position = async {
            loop {
                match handle.position(&self.offset_of()) {
                    Some(position) => return position,
                    None => sleep(SECOND / 10).await,
                }
            }
        };
        let position = timeout(DEADLINE, position).await.expect("a new member gets its partitions");
        consumer.close(DEADLINE).await.unwrap();
        position
    }
}

async fn abort(transaction: Transaction) -> (End, TransactionalProducer) {
    match timeout(DEADLINE * 2, transaction.abort()).await.expect("an abort ends inside its deadline") {
        Ok(producer) => (End::Aborted, producer),
        Err(AbortError::Unknown(producer, _)) => (End::Aborted, initialised(producer).await),
        Err(AbortError::Fenced(error)) => panic!("nobody else has the id: {error}"),
    }
}

async fn initialised(mut producer: UninitialisedProducer) -> TransactionalProducer {
    loop {
        match producer.initialise().await {
            Ok(initialised) => return initialised,
            Err(InitialiseError::Retry(again, error)) => {
                println!("{error}");
                producer = again;
            }
            Err(InitialiseError::Fenced(error)) => panic!("nobody else has the id: {error}"),
        }
    }
}
