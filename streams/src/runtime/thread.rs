//! A stream thread: one consumer, one producer, some tasks. The same loop runs on a thread of its own, or in a simulation
//! as a task on the client's runtime; heartbeats and fetches run on the client's thread, so that a slow operator costs
//! neither.
//!
//! The loop takes whole polls from the consumer, gives them to the tasks, and lets the tasks process in slices; between
//! two slices it looks at what the group wants. A commit is: flush the record caches, wait until the producer has
//! delivered everything, then commit the offsets of exactly what was processed. With exactly-once the offsets are part of the
//! transaction in which all of it was written; when that fails, every task starts over from what is committed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use milena_client::{Admin, Client, Error, ErrorKind, OffsetAndMetadata, TopicPartition, protocol::ErrorCode};
use milena_consumer::{
    Consumer, ConsumerHandle, GenerationHold, GroupMetadata, IsolationLevel, ListenerFuture, OffsetReset,
    RebalanceListener, Records,
};
use milena_producer::Producer;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    assignor::TaskAssignor,
    config::{ProcessingGuarantee, StreamsConfig},
    names::TopicNames,
    restore::Restore,
    sends::Sends,
    status::{Phase, Status, StreamsState},
    writer::{TransactionSettings, Writer, is_recoverable},
};
use crate::{
    error::{Failure, StreamsError},
    processor::Flow,
    record::Headers,
    task::{BlockBuilder, Progress, Task, TaskId},
    topology::{TopicId, TopicRole, Topology},
};

/// Records that a task processes before the loop looks around.
const SLICE: usize = 1_000;

/// How long a poll waits; nothing depends on it, because whatever else happens ends the wait.
const POLL: Duration = Duration::from_secs(1);

/// What one fetch may bring. Small against the consumer's memory, which all brokers share, and plenty for a thread.
pub(crate) const FETCH_BYTES: u32 = 4 << 20;

/// Java's heartbeat interval.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// How often committed records of repartition topics are deleted (Java: `repartition.purge.interval.ms`).
const PURGE: Duration = Duration::from_secs(30);

/// Which part of a transaction's time the end of a join may take.
const JOIN_SHARE: u32 = 4;

/// How long a thread of a failed application has for leaving the group.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// What a thread is made of.
pub(crate) struct ThreadPlan {
    pub(crate) index: usize,
    /// Names this life of the process.
    pub(crate) process: Arc<str>,
    pub(crate) client: Client,
    pub(crate) topology: Topology,
    pub(crate) names: Arc<TopicNames>,
    pub(crate) config: Arc<StreamsConfig>,
    pub(crate) status: Arc<Status>,
    pub(crate) close: mpsc::UnboundedReceiver<Instant>,
}

/// Runs until closed or failed; the status says how it ended.
pub(crate) async fn run(plan: ThreadPlan) {
    let (status, index) = (plan.status.clone(), plan.index);
    // Also when an operator panics.
    let guard = Ended { status: status.clone(), index };
    let phase = match StreamThread::run(plan).await {
        Ok(()) => Phase::Stopped,
        Err(error) => {
            tracing::error!(thread = index, %error, "the stream thread failed");
            Phase::Failed(error)
        }
    };
    status.set(index, phase);
    std::mem::forget(guard);
}

struct Ended {
    status: Arc<Status>,
    index: usize,
}

impl Drop for Ended {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.status.set(self.index, Phase::Failed(StreamsError::Panicked));
        } else {
            // The client was closed under it.
            self.status.set(self.index, Phase::Stopped);
        }
    }
}

/// What the group wants, and whom to tell when it is done.
#[derive(Debug)]
enum GroupEvent {
    Assigned(Vec<TopicPartition>, oneshot::Sender<()>),
    /// Partitions will be given up as soon as what was handed out of them is committed.
    Revoking(Vec<TopicPartition>),
    Revoked(Vec<TopicPartition>, oneshot::Sender<()>),
    Lost(Vec<TopicPartition>, oneshot::Sender<()>),
}

/// Hands the group's calls to the loop.
struct Listener(mpsc::UnboundedSender<GroupEvent>);

impl Listener {
    fn call<'a>(&'a self, event: impl FnOnce(oneshot::Sender<()>) -> GroupEvent) -> ListenerFuture<'a> {
        let (done, waiting) = oneshot::channel();
        let sent = self.0.send(event(done));
        Box::pin(async move {
            if sent.is_ok() {
                // An error means that the loop has ended: nothing is done any more.
                let _ = waiting.await;
            }
        })
    }
}

impl RebalanceListener for Listener {
    fn on_assigned<'a>(&'a self, partitions: &'a [TopicPartition], _: &'a ConsumerHandle) -> ListenerFuture<'a> {
        self.call(|done| GroupEvent::Assigned(partitions.to_vec(), done))
    }

    fn on_revoking(&self, partitions: &[TopicPartition]) {
        // An error means that the loop has ended: there is nothing more to commit.
        let _ = self.0.send(GroupEvent::Revoking(partitions.to_vec()));
    }

    fn on_revoked<'a>(&'a self, partitions: &'a [TopicPartition], _: &'a ConsumerHandle) -> ListenerFuture<'a> {
        self.call(|done| GroupEvent::Revoked(partitions.to_vec(), done))
    }

    fn on_lost<'a>(&'a self, partitions: &'a [TopicPartition], _: &'a ConsumerHandle) -> ListenerFuture<'a> {
        self.call(|done| GroupEvent::Lost(partitions.to_vec(), done))
    }
}

/// A task of this thread.
struct Active {
    task: Task,
    /// There while its stores are being filled.
    restore: Option<Restore>,
    /// What was committed last.
    committed: BTreeMap<TopicId, i64>,
}

struct StreamThread {
    index: usize,
    client: Client,
    admin: Admin,
    topology: Topology,
    names: Arc<TopicNames>,
    config: Arc<StreamsConfig>,
    status: Arc<Status>,
    sources: BTreeMap<Arc<str>, usize>,
    handle: ConsumerHandle,
    sends: Sends,
    tasks: BTreeMap<TaskId, Active>,
    commit_at: Instant,
    /// A commit is being put off, at most until then.
    put_off_until: Option<Instant>,
    purge_at: Instant,
    /// A task's record cache is full.
    commit_soon: bool,
    /// Whether the group has spoken yet.
    is_assigned: bool,
}

impl StreamThread {
    async fn run(plan: ThreadPlan) -> Result<(), StreamsError> {
        let ThreadPlan { index, process, client, topology, names, config, status, mut close } = plan;
        let writer = match config.guarantee {
            ProcessingGuarantee::AtLeastOnce => {
                Producer::builder(&client).linger(config.linger).build().await.map(Writer::Idempotent)
            }
            ProcessingGuarantee::ExactlyOnce => {
                let id = format!("{}-{process}-{index}", config.application_id);
                let (timeout, linger) = (config.transaction_timeout, config.linger);
                Writer::transactional(&client, TransactionSettings { id, timeout, linger }).await
            }
        };
        let writer = writer.map_err(StreamsError::client("starting the producer"))?;
        let rng = client.rng(&format!("streams/{index}"));
        let sends = Sends::new(writer, &names, &topology.written_topics(), topology.topics().len(), rng)
            .await
            .map_err(StreamsError::client("looking up the topics that are written"))?;
        let sources = names.sources(&topology);
        let (events_in, mut events) = mpsc::unbounded_channel();
        let mut builder = Consumer::builder(&client, config.application_id.as_str())
            .isolation_level(isolation(config.guarantee))
            .auto_commit(None);
        if config.is_exactly_once() {
            builder = builder.commits_in_transactions();
        }
        let mut consumer = builder
            .subscribe(sources.keys().map(|topic| &**topic))
            .assignor(TaskAssignor::new(sources.clone()))
            .listener(Listener(events_in))
            .offset_reset(OffsetReset::Earliest)
            .session_timeout(config.session_timeout)
            .heartbeat_interval((config.session_timeout / 3).min(HEARTBEAT))
            .max_bytes(FETCH_BYTES)
            .max_poll_records(config.max_poll_records)
            .build()
            .await
            .map_err(StreamsError::client("joining the group"))?;
        let now = client.spawner().now();
        let mut thread = Self {
            handle: consumer.handle(),
            commit_at: now + config.commit_every(),
            put_off_until: None,
            purge_at: now + PURGE,
            commit_soon: false,
            is_assigned: false,
            tasks: BTreeMap::new(),
            index,
            admin: client.admin(),
            client,
            topology,
            names,
            config,
            status,
            sources,
            sends,
        };
        let ended = thread.run_until_closed(&mut consumer, &mut events, &mut close).await;
        thread.status.set(index, Phase::Stopping);
        let deadline = match &ended {
            Ok(deadline) => *deadline,
            Err(_) => thread.now() + LAST_WORDS,
        };
        let committed = match &ended {
            Ok(_) => thread.commit().await,
            // Whatever was not committed is processed again.
            Err(_) => Ok(()),
        };
        let committed = committed.or_else(|trouble| match trouble {
            Trouble::Fatal(error) => Err(error),
            Trouble::StartOver(error) => {
                tracing::warn!(thread = index, %error, "the last transaction was aborted: whoever comes next does its work again");
                Ok(())
            }
        });
        thread.tasks.clear();
        thread.publish_committed();
        let Self { client, sends, .. } = thread;
        // Closing gives the partitions up, which the listener is told: answer it meanwhile.
        let closing = async {
            let spawner = client.spawner();
            let left = consumer.close(deadline.saturating_duration_since(spawner.now())).await;
            let ended = sends.close(deadline.saturating_duration_since(spawner.now())).await;
            left.and(ended).map_err(|error| StreamsError::Close(format!("closing thread {index}: {error}")))
        };
        let mut closing = std::pin::pin!(closing);
        let closed = loop {
            tokio::select! {
                biased;
                Some(event) = events.recv() => answer(event),
                closed = &mut closing => break closed,
            }
        };
        // The first thing that went wrong is the one to tell.
        ended.map(drop).and(committed).and(closed)
    }

    async fn run_until_closed(
        &mut self,
        consumer: &mut Consumer,
        events: &mut mpsc::UnboundedReceiver<GroupEvent>,
        close: &mut mpsc::UnboundedReceiver<Instant>,
    ) -> Result<Instant, StreamsError> {
        let mut state = self.status.subscribe();
        loop {
            match self.round(consumer, events, close, &mut state).await {
                Ok(None) => {}
                Ok(Some(deadline)) => return Ok(deadline),
                Err(Trouble::StartOver(error)) => self.start_over(&error).await?,
                Err(Trouble::Fatal(error)) => return Err(error),
            }
        }
    }

    /// Does what is to do, or waits for it. The deadline for closing once that is asked for.
    async fn round(
        &mut self,
        consumer: &mut Consumer,
        events: &mut mpsc::UnboundedReceiver<GroupEvent>,
        close: &mut mpsc::UnboundedReceiver<Instant>,
        state: &mut watch::Receiver<StreamsState>,
    ) -> Result<Option<Instant>, Trouble> {
        // What the group and the user want comes before work.
        while let Ok(event) = events.try_recv() {
            self.on_group(event).await?;
        }
        match close.try_recv() {
            Ok(deadline) => return Ok(Some(deadline)),
            Err(mpsc::error::TryRecvError::Empty) => {}
            // The handle was dropped: as good as closed.
            Err(mpsc::error::TryRecvError::Disconnected) => return Ok(Some(self.now() + Duration::from_secs(30))),
        }
        if matches!(&*state.borrow(), StreamsState::Error(_)) {
            // Another thread failed: half an application would only look alive.
            return Ok(Some(self.now() + LAST_WORDS));
        }
        self.tell_phase();
        if self.process().await? {
            // On a shared runtime the sockets must get their turn.
            tokio::task::yield_now().await;
            return Ok(None);
        }
        let restoring = self.tasks.iter().find(|(_, active)| active.restore.is_some()).map(|(id, _)| *id);
        let timer = self.client.spawner().sleep_until(self.commit_at);
        tokio::select! {
            biased;
            Some(event) = events.recv() => self.on_group(event).await?,
            deadline = close.recv() => {
                return Ok(Some(deadline.unwrap_or_else(|| self.now() + Duration::from_secs(30))));
            }
            () = failed(state) => {}
            () = timer => self.commit_if_due().await?,
            restored = Self::restore_step(&mut self.tasks, restoring), if restoring.is_some() => {
                if let Some(restore) = restored? {
                    self.begin(restoring);
                    restore.close(Duration::from_secs(5)).await;
                }
            }
            records = consumer.poll(POLL) => match records {
                Ok(records) => self.take(&records),
                Err(error) => return Err(StreamsError::client("reading")(error).into()),
            },
        }
        Ok(None)
    }

    /// Gives up what is not committed: with an aborted transaction the stores hold what nobody will ever see. Every task
    /// begins again where the group has committed.
    async fn start_over(&mut self, error: &Error) -> Result<(), StreamsError> {
        tracing::warn!(thread = self.index, %error, "the transaction is aborted, and its records are processed again");
        self.sends.start_over().await.map_err(StreamsError::client("beginning a new transaction"))?;
        for (id, active) in std::mem::take(&mut self.tasks) {
            if let Some(restore) = active.restore {
                restore.close(Duration::ZERO).await;
            }
            let active = self.start_task(id).await?;
            self.handle.seek_to_committed(&partitions_of(&self.names, &active.task));
            self.tasks.insert(id, active);
        }
        self.commit_soon = false;
        Ok(())
    }

    /// A task whose stores are being filled, if there is something to fill them with.
    async fn start_task(&mut self, id: TaskId) -> Result<Active, StreamsError> {
        let seed = self.client.rng(&format!("store/{id}")).u64(..);
        let mut task = self.topology.task(id, seed)?;
        task.set_cache_bound(self.config.cache_max_bytes / self.config.threads);
        let isolation = isolation(self.config.guarantee);
        let restore = Restore::start(&self.client, &self.admin, &self.names, &mut task, isolation).await?;
        if restore.is_some() {
            self.handle.pause(&partitions_of(&self.names, &task));
        }
        Ok(Active { task, restore, committed: BTreeMap::new() })
    }

    fn now(&self) -> Instant {
        self.client.spawner().now()
    }

    fn tell_phase(&self) {
        let ready = self.is_assigned && self.tasks.values().all(|active| active.restore.is_none());
        self.status.set(self.index, if ready { Phase::Running } else { Phase::Rebalancing });
    }

    // ---- the group ----

    async fn on_group(&mut self, event: GroupEvent) -> Result<(), Trouble> {
        match event {
            GroupEvent::Assigned(partitions, done) => {
                self.is_assigned = true;
                if self.put_off_until.take().is_some() {
                    self.commit_at = self.now();
                }
                let ids: Vec<TaskId> = self.task_ids(&partitions);
                for id in ids {
                    if !self.tasks.contains_key(&id) {
                        let active = self.start_task(id).await?;
                        self.tasks.insert(id, active);
                    }
                }
                tracing::info!(thread = self.index, tasks = ?self.tasks.keys().map(ToString::to_string).collect::<Vec<_>>(), "assigned");
                self.publish_committed();
                // Nobody waits for the answer if the consumer was closed meanwhile.
                let _ = done.send(());
            }
            GroupEvent::Revoking(partitions) => {
                // The commit counts what was handed out as done, so all of it must be processed.
                for id in self.task_ids(&partitions) {
                    self.finish_input(id).await?;
                }
                self.commit().await?;
            }
            GroupEvent::Revoked(partitions, done) => {
                self.drop_tasks(&partitions).await;
                let _ = done.send(());
            }
            GroupEvent::Lost(partitions, done) => {
                tracing::warn!(
                    thread = self.index,
                    "the group gave this member up: its tasks start again elsewhere from the last commit"
                );
                self.drop_tasks(&partitions).await;
                let _ = done.send(());
                if self.config.is_exactly_once() {
                    // What the tasks have written must not be committed by the next transaction that is.
                    let lost = "the group gave this member up, and its tasks with it.";
                    return Err(Trouble::StartOver(Error::new(ErrorKind::NotAssigned, lost)));
                }
            }
        }
        Ok(())
    }

    fn task_ids(&self, partitions: &[TopicPartition]) -> Vec<TaskId> {
        let mut ids: Vec<TaskId> = partitions
            .iter()
            .filter_map(|p| Some(TaskId { sub_topology: *self.sources.get(&p.topic)?, partition: p.partition }))
            .collect();
        ids.sort();
        ids.dedup();
        ids
    }

    async fn drop_tasks(&mut self, partitions: &[TopicPartition]) {
        for id in self.task_ids(partitions) {
            if let Some(Active { restore: Some(restore), .. }) = self.tasks.remove(&id) {
                restore.close(Duration::ZERO).await;
            }
        }
        self.publish_committed();
    }

    async fn restore_step(
        tasks: &mut BTreeMap<TaskId, Active>,
        id: Option<TaskId>,
    ) -> Result<Option<Restore>, StreamsError> {
        let Some(active) = id.and_then(|id| tasks.get_mut(&id)) else { return Ok(None) };
        let Some(restore) = &mut active.restore else { return Ok(None) };
        if restore.step(&mut active.task).await? { Ok(active.restore.take()) } else { Ok(None) }
    }

    /// A task's stores are complete.
    fn begin(&self, id: Option<TaskId>) {
        if let Some(active) = id.and_then(|id| self.tasks.get(&id)) {
            self.handle.resume(&partitions_of(&self.names, &active.task));
        }
    }

    // ---- records ----

    /// Copies what a poll gave into the tasks' queues. It is acknowledged by the commit that covers it.
    fn take(&mut self, records: &Records) {
        for partition in records.partitions() {
            let topic = self.names.id(partition.topic());
            let id = self
                .sources
                .get(partition.topic())
                .map(|sub| TaskId { sub_topology: *sub, partition: partition.partition() });
            let active = id.and_then(|id| self.tasks.get_mut(&id));
            let (Some(topic), Some(active)) = (topic, active) else {
                // A task that has gone since the poll: its new owner reads this again, and so does this one if it comes back.
                self.handle.seek_to_committed(&[partition.topic_partition()]);
                continue;
            };
            let Some(input) = active.task.input(topic) else { continue };
            let mut block = BlockBuilder::default();
            for record in partition {
                let mut headers = Headers::default();
                for header in record.headers().iter() {
                    headers.push(header.key.to_vec(), header.value.map(|value| value.to_vec().into()));
                }
                // Before the push, not after it: the last block must not be empty, it carries the offset behind a hole.
                if block.is_full() {
                    active.task.add(input, block.finish());
                }
                block.push(record.offset(), record.timestamp(), record.key(), record.value(), headers);
            }
            if !block.is_empty() {
                // Asked for now, and not before the iteration: a revocation may have cut it short, and the offset must not lie
                // behind records that were taken back unseen.
                active.task.add(input, block.finish_to(partition.next_offset().unwrap_or(0)));
            }
        }
    }

    /// Lets every task process a slice. False if there was nothing to do.
    async fn process(&mut self) -> Result<bool, Trouble> {
        let mut did = false;
        let mut processed = 0;
        for active in self.tasks.values_mut().filter(|active| active.restore.is_none()) {
            if !active.task.has_input() {
                continue;
            }
            did = true;
            let before = active.task.processed();
            let progress = active.task.process(&mut self.sends, SLICE)?;
            processed += active.task.processed() - before;
            self.commit_soon |= progress == Progress::CommitSoon;
            written(&self.config, self.sends.hand_over())?;
        }
        if did {
            self.status.add_processed(self.index, processed);
            if self.sends.is_behind() {
                written(&self.config, self.sends.make_room().await)?;
            }
            self.commit_if_due().await?;
        }
        Ok(did)
    }

    /// Processes all that a task was given.
    async fn finish_input(&mut self, id: TaskId) -> Result<(), Trouble> {
        let Some(active) = self.tasks.get_mut(&id).filter(|active| active.restore.is_none()) else { return Ok(()) };
        while active.task.has_input() {
            let before = active.task.processed();
            let progress = active.task.process(&mut self.sends, SLICE)?;
            self.status.add_processed(self.index, active.task.processed() - before);
            self.commit_soon |= progress == Progress::CommitSoon;
            written(&self.config, self.sends.make_room().await)?;
        }
        Ok(())
    }

    // ---- commits ----

    async fn commit_if_due(&mut self) -> Result<(), Trouble> {
        if self.commit_soon || (self.now() >= self.commit_at && !self.puts_commit_off()) {
            self.commit().await?;
        }
        Ok(())
    }

    /// Offsets in a transaction are refused if a join ends while they are on their way: everything written would be done again. So
    /// a commit waits for the end of a join, and the work goes on meanwhile; but not for long, because transactions have their time.
    fn puts_commit_off(&mut self) -> bool {
        if !self.config.is_exactly_once() || !self.handle.is_rebalancing() {
            return false;
        }
        let now = self.now();
        let until = *self.put_off_until.get_or_insert(now + self.config.transaction_timeout / JOIN_SHARE);
        self.commit_at = until;
        now < until
    }

    /// Flushes, waits for the producer, commits what was processed.
    async fn commit(&mut self) -> Result<(), Trouble> {
        self.commit_soon = false;
        for active in self.tasks.values_mut() {
            while active.task.flush(&mut self.sends)? == Flow::NeedRoom {
                written(&self.config, self.sends.make_room().await)?;
            }
        }
        written(&self.config, self.sends.settle().await)?;
        let reached: BTreeMap<TaskId, BTreeMap<TopicId, i64>> =
            self.tasks.iter().map(|(id, active)| (*id, self.reached(active))).collect();
        let mut offsets = Vec::new();
        for (id, reached) in &reached {
            for (topic, offset) in reached {
                if self.tasks[id].committed.get(topic) != Some(offset) {
                    let tp = TopicPartition { topic: self.names.name(*topic).clone(), partition: id.partition };
                    offsets.push((tp, OffsetAndMetadata::from(*offset)));
                }
            }
        }
        if !offsets.is_empty() && self.commit_offsets(offsets).await? {
            for (id, reached) in reached {
                if let Some(active) = self.tasks.get_mut(&id) {
                    active.committed = reached;
                }
            }
        }
        self.publish_committed();
        self.purge().await;
        self.commit_at = self.now() + self.config.commit_every();
        self.put_off_until = None;
        Ok(())
    }

    /// The offsets to commit for a task. Behind the last record there may be what is none: markers of transactions, holes of
    /// compaction. The consumer's position knows, once all that it gave is processed; else the group would lag for ever.
    /// (Of a partition that is being given up there is no position: what was handed out may have been taken back unseen.)
    fn reached(&self, active: &Active) -> BTreeMap<TopicId, i64> {
        let mut reached = active.task.offsets();
        if !active.task.has_input() {
            for (topic, offset) in &mut reached {
                let partition = active.task.id().partition;
                let tp = TopicPartition { topic: self.names.name(*topic).clone(), partition };
                *offset = self.handle.position(&tp).map_or(*offset, |position| position.max(*offset));
            }
        }
        reached
    }

    /// False if they are not committed: the tasks are another member's by now, or the coordinator has not confirmed it in time.
    async fn commit_offsets(&mut self, offsets: Vec<(TopicPartition, OffsetAndMetadata)>) -> Result<bool, Trouble> {
        let doing = "committing offsets";
        if !self.config.is_exactly_once() {
            return match self.handle.commit_offsets(offsets).await {
                Ok(()) => Ok(true),
                Err(error) if is_migrated(&error) => {
                    tracing::warn!(thread = self.index, %error, "not committed: the tasks have moved, and are processed again elsewhere");
                    Ok(false)
                }
                // The offsets' own topic may lack replicas while everything else goes on. Nothing is lost by it, and what was
                // processed is committed with the next one.
                Err(error) if error.kind() == ErrorKind::Timeout => {
                    tracing::warn!(thread = self.index, %error, "not committed yet: tried again with the next commit");
                    Ok(false)
                }
                Err(error) => Err(StreamsError::client(doing)(error).into()),
            };
        }
        // Asked for at the last moment: a group that has moved on refuses the generation of before.
        let patience = self.client.spawner().sleep_until(self.now() + self.config.transaction_timeout / JOIN_SHARE);
        let committed = match held(self.handle.clone(), patience).await {
            Ok((group, _held)) => self.sends.commit(offsets.clone(), &group).await,
            // Lost, and the news is still on its way.
            Err(error) => Err(error),
        };
        written(&self.config, committed)?;
        for (partition, offset) in offsets {
            self.handle.ack_up_to(&partition, offset.offset);
        }
        Ok(true)
    }

    /// Deletes what was committed of repartition topics, which nothing else does. Now and then, and never fatal.
    async fn purge(&mut self) {
        if self.now() < self.purge_at {
            return;
        }
        self.purge_at = self.now() + PURGE;
        let mut before = Vec::new();
        for active in self.tasks.values() {
            let partition = active.task.id().partition;
            for (topic, offset) in &active.committed {
                if self.topology.topics()[topic.0].role == TopicRole::Repartition {
                    before.push((TopicPartition { topic: self.names.name(*topic).clone(), partition }, *offset));
                }
            }
        }
        if !before.is_empty()
            && let Err(error) = self.admin.delete_records(&before).await
        {
            tracing::debug!(%error, "records of repartition topics were not deleted; tried again later");
        }
    }

    /// Tells the handle what is committed.
    fn publish_committed(&self) {
        let partitions = self.tasks.values().flat_map(|active| {
            let partition = active.task.id().partition;
            let is_idle = !active.task.has_input();
            active.task.topics().map(move |topic| {
                let name = TopicPartition { topic: self.names.name(topic).clone(), partition };
                let committed = active.committed.get(&topic).copied();
                // Of what was never processed, the consumer's position says where the group had committed; and behind what is
                // processed and committed there is nothing but markers and holes up to it.
                let is_all = is_idle && active.task.offsets().get(&topic).copied() <= committed;
                let position = self.handle.position(&name).filter(|_| is_all);
                (name, committed.max(position))
            })
        });
        self.status.set_committed(self.index, partitions.collect());
    }
}

/// Ready when the application has failed.
async fn failed(state: &mut watch::Receiver<StreamsState>) {
    // An error means that the status is gone, and with it everybody who could fail.
    let _ = state.wait_for(|state| matches!(state, StreamsState::Error(_))).await;
}

/// Tells the group that nothing stands in its way.
fn answer(event: GroupEvent) {
    match event {
        GroupEvent::Assigned(_, done) | GroupEvent::Revoked(_, done) | GroupEvent::Lost(_, done) => {
            let _ = done.send(());
        }
        GroupEvent::Revoking(_) => {}
    }
}

/// Why the loop does not go on as it is.
#[derive(Debug)]
enum Trouble {
    /// The application has failed.
    Fatal(StreamsError),
    /// The transaction cannot be committed, but its work can be done again in another one.
    StartOver(Error),
}

impl From<StreamsError> for Trouble {
    fn from(error: StreamsError) -> Self {
        Self::Fatal(error)
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Fatal(failure.into())
    }
}

/// What a failure to write means.
fn written(config: &StreamsConfig, result: Result<(), Error>) -> Result<(), Trouble> {
    result.map_err(|error| {
        if config.is_exactly_once() && is_recoverable(&error) {
            return Trouble::StartOver(error);
        }
        Trouble::Fatal(StreamsError::client("writing results")(error))
    })
}

/// With exactly-once, nothing is read that may still be aborted.
fn isolation(guarantee: ProcessingGuarantee) -> IsolationLevel {
    match guarantee {
        ProcessingGuarantee::AtLeastOnce => IsolationLevel::ReadUncommitted,
        ProcessingGuarantee::ExactlyOnce => IsolationLevel::ReadCommitted,
    }
}

/// Who the member is while its offsets are on their way; of a join that takes long the end is not waited for.
async fn held(
    handle: ConsumerHandle,
    patience: impl Future<Output = ()>,
) -> Result<(GroupMetadata, Option<GenerationHold>), Error> {
    tokio::select! {
        biased;
        held = handle.hold_generation() => held.map(|held| (held.group_metadata().clone(), Some(held))),
        () = patience => Ok((handle.group_metadata().await?, None)),
    }
}

/// Whether a commit was refused because the partitions are another member's by now.
fn is_migrated(error: &Error) -> bool {
    let codes = [ErrorCode::ILLEGAL_GENERATION, ErrorCode::UNKNOWN_MEMBER_ID, ErrorCode::REBALANCE_IN_PROGRESS];
    error.kind() == ErrorKind::NotAssigned || error.code().is_some_and(|code| codes.contains(&code))
}

fn partitions_of(names: &TopicNames, task: &Task) -> Vec<TopicPartition> {
    let partition = task.id().partition;
    task.topics().map(|topic| TopicPartition { topic: names.name(topic).clone(), partition }).collect()
}
