//! Fills a task's stores from their changelogs before it processes anything.

use std::{collections::BTreeMap, time::Duration};

use milena_client::{Admin, Client, OffsetSpec, TopicPartition};
use milena_consumer::{IsolationLevel, PartitionConsumer, StartAt};

use super::{names::TopicNames, thread::FETCH_BYTES};
use crate::{error::StreamsError, task::Task};

/// How long one read of the changelogs waits; nothing depends on it but how soon a progress is seen.
const READ: Duration = Duration::from_millis(100);

/// Reads the changelogs of one task up to the ends they had when it began. What a store holds then is what its last
/// owner had committed (and perhaps more: what that owner wrote and could not commit is counted again, at least once).
#[derive(Debug)]
pub(crate) struct Restore {
    reader: Option<PartitionConsumer>,
    /// The store of each changelog, and the offset that must be reached.
    ends: BTreeMap<TopicPartition, (usize, i64)>,
    records: u64,
}

impl Restore {
    /// Asks for the ends and starts reading. `None` if nothing is there to restore.
    ///
    /// With exactly-once only committed records are read, still up to where the log ends now and not only to the last stable
    /// offset: a transaction that is decided already may not have all its markers yet, and what its offsets cover must be in the
    /// store. One that nobody ends is aborted by its time-out.
    pub(crate) async fn start(
        client: &Client,
        admin: &Admin,
        names: &TopicNames,
        task: &mut Task,
        isolation: IsolationLevel,
    ) -> Result<Option<Self>, StreamsError> {
        let partition = task.id().partition;
        let changelogs: BTreeMap<TopicPartition, usize> = task
            .stores()
            .iter()
            .enumerate()
            .filter_map(|(store, spec)| {
                let topic = names.name(spec.changelog?).clone();
                Some((TopicPartition { topic, partition }, store))
            })
            .collect();
        if changelogs.is_empty() {
            return Ok(None);
        }
        let id = task.id();
        let fail = || StreamsError::client(format!("restoring the stores of task {id}"));
        let ask: Vec<(TopicPartition, OffsetSpec)> =
            changelogs.keys().map(|changelog| (changelog.clone(), OffsetSpec::Latest)).collect();
        let latest = admin.list_offsets(&ask).await.map_err(fail())?;
        let ends: BTreeMap<TopicPartition, (usize, i64)> = changelogs
            .into_iter()
            .filter_map(|(changelog, store)| {
                let end = latest.get(&changelog).copied().flatten().filter(|end| *end > 0)?;
                Some((changelog, (store, end)))
            })
            .collect();
        if ends.is_empty() {
            return Ok(None);
        }
        let mut builder = PartitionConsumer::builder(client);
        for changelog in ends.keys() {
            builder = builder.assign(changelog.topic.clone(), [changelog.partition], StartAt::Beginning);
        }
        let reader = builder
            .isolation_level(isolation)
            .max_bytes(FETCH_BYTES)
            .max_poll_records(10_000)
            .build()
            .await
            .map_err(fail())?;
        Ok(Some(Self { reader: Some(reader), ends, records: 0 }))
    }

    /// Reads on. True once every store is complete.
    ///
    /// Dropped at its await, nothing is lost.
    pub(crate) async fn step(&mut self, task: &mut Task) -> Result<bool, StreamsError> {
        // Before the read: where nothing but aborted records and markers is left, the position gets to the end while a read waits
        // for records, and whoever calls this may never let it wait to its end.
        if self.is_done() {
            tracing::info!(task = %task.id(), records = self.records, "stores restored");
            return Ok(true);
        }
        let id = task.id();
        let fail = || StreamsError::client(format!("restoring the stores of task {id}"));
        let Some(reader) = &mut self.reader else { return Ok(true) };
        let records = reader.poll(READ).await.map_err(fail())?;
        for record in &records {
            let key = TopicPartition::new(record.topic(), record.partition());
            let (Some((store, end)), Some(key)) = (self.ends.get(&key), record.key()) else { continue };
            // What was written after the restore began is by a zombie, or is not there.
            if record.offset() < *end {
                task.stores_mut()[*store].kv.restore(key, record.value(), record.timestamp());
                self.records += 1;
            }
        }
        Ok(false)
    }

    /// The position counts, not the last record: compaction leaves holes, control records are not handed out.
    fn is_done(&self) -> bool {
        let Some(reader) = &self.reader else { return true };
        let handle = reader.handle();
        self.ends
            .iter()
            .all(|(changelog, (_, end))| handle.position(changelog).is_some_and(|position| position >= *end))
    }

    /// Ends the reader's connections.
    pub(crate) async fn close(mut self, deadline: Duration) {
        if let Some(reader) = self.reader.take() {
            // Nothing is lost with it.
            let _ = reader.close(deadline).await;
        }
    }
}
