//! `KafkaStreams`: runs a topology on a cluster.
//!
//! Before anything joins the group, the source topics are looked up and the internal topics created. Then every stream
//! thread (`thread.rs`) joins the group as a member of its own; the leader distributes tasks (`assignor.rs`), a new task's
//! stores are filled from their changelogs (`restore.rs`), and records flow.

mod assignor;
mod config;
mod names;
mod restore;
mod sends;
mod status;
mod thread;
mod writer;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use milena_client::{Admin, Client, NewTopic, OffsetSpec, Owner, TopicPartition};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

pub use config::{ProcessingGuarantee, StreamsConfig};
pub use status::StreamsState;

use crate::{error::StreamsError, topology::Topology};
use names::{InternalTopic, TopicNames};
use status::Status;
use thread::ThreadPlan;

/// An application that has not started yet (Java: `KafkaStreams`).
///
/// ```no_run
/// # async fn run(client: &milena_client::Client, topology: milena_streams::Topology) -> Result<(), Box<dyn std::error::Error>> {
/// use milena_streams::{KafkaStreams, StreamsConfig};
///
/// let streams = KafkaStreams::new(topology, StreamsConfig::new("word-count").num_stream_threads(2)).start(client).await?;
/// // …
/// streams.close(std::time::Duration::from_secs(30)).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct KafkaStreams {
    topology: Topology,
    config: StreamsConfig,
}

impl KafkaStreams {
    /// An application of this topology.
    pub fn new(topology: Topology, config: StreamsConfig) -> Self {
        Self { topology, config }
    }

    /// Looks up the source topics, creates the internal topics, and starts the threads. Whether they get their tasks, the
    /// returned handle's state tells.
    ///
    /// # Errors
    /// A source or output topic that does not exist, an internal topic that cannot be created or has another number of
    /// partitions than the topology needs, no thread to be had.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, no thread was started; internal topics may have been created.
    pub async fn start(self, client: &Client) -> Result<RunningStreams, StreamsError> {
        let Self { topology, config } = self;
        let (names, config) = (Arc::new(TopicNames::new(&topology, &config.application_id)), Arc::new(config));
        let deadline = client.spawner().now() + config.start_timeout;
        let owner = client.new_owner("streams");
        prepare_topics(client, &owner, &topology, &names, &config, deadline).await?;
        let status = Status::new(config.threads);
        // Of this life of this process: another one's transactions are ended by the coordinator, and never fenced by name.
        let mut rng = client.rng(&format!("process/{}", owner.label()));
        let process: Arc<str> = format!("{:016x}{:016x}", rng.u64(..), rng.u64(..)).into();
        let mut threads = Vec::new();
        for index in 0..config.threads {
            let (sender, close) = mpsc::unbounded_channel();
            let plan = ThreadPlan {
                index,
                process: process.clone(),
                client: client.clone(),
                topology: topology.clone(),
                names: names.clone(),
                config: config.clone(),
                status: status.clone(),
                close,
            };
            threads.push(sender);
            spawn(&owner, plan)?;
        }
        let state = status.subscribe();
        Ok(RunningStreams { admin: client.admin(), owner, threads, status, state })
    }
}

/// Starts a stream thread: a thread of its own, or a task where everything runs inline.
fn spawn(owner: &Owner, plan: ThreadPlan) -> Result<(), StreamsError> {
    let spawner = owner.spawner();
    if spawner.is_inline() {
        owner.spawn("stream-thread", thread::run(plan));
        return Ok(());
    }
    let fail = "starting a stream thread";
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| {
        let text = format!("there is no runtime to be had: {error}");
        StreamsError::client(fail)(milena_client::Error::new(milena_client::ErrorKind::Limit, text))
    })?;
    let name = format!("milena-stream-{}", plan.index);
    // Sockets and timers are the client's; the runtime only runs the loop and the group's calls to it.
    spawner.thread(&name, move || runtime.block_on(thread::run(plan))).map_err(StreamsError::client(fail))
}

/// Sees to it that every topic is there.
async fn prepare_topics(
    client: &Client,
    owner: &Owner,
    topology: &Topology,
    names: &TopicNames,
    config: &StreamsConfig,
    deadline: Instant,
) -> Result<(), StreamsError> {
    let mut sizes = BTreeMap::new();
    for topic in names.user_topics(topology) {
        let known = owner
            .topic(&topic, deadline)
            .await
            .map_err(StreamsError::client(format!("looking for topic {topic}, which the topology reads or writes")))?;
        sizes.insert(topic, known.partitions.len() as i32);
    }
    let internal = names.internal_topics(topology, &sizes);
    let new: Vec<NewTopic> = internal.iter().map(|topic| new_topic(topic, config.replication_factor)).collect();
    client.admin().ensure_topics(&new).await.map_err(StreamsError::client("creating the internal topics"))?;
    for topic in &internal {
        let known = owner
            .topic(&topic.name, deadline)
            .await
            .map_err(StreamsError::client(format!("looking for the internal topic {}", topic.name)))?;
        let partitions = known.partitions.len() as i32;
        if partitions != topic.partitions {
            return Err(StreamsError::InternalTopic(format!(
                "the internal topic {} has {partitions} partitions, and the topology needs {}: were the source topics given more partitions? \
                 Close all instances and delete the internal topics, or use another application id.",
                topic.name, topic.partitions
            )));
        }
    }
    Ok(())
}

fn new_topic(topic: &InternalTopic, replication_factor: i16) -> NewTopic {
    let new = NewTopic::new(&*topic.name, topic.partitions).replication_factor(replication_factor);
    topic.configs().iter().fold(new, |new, (name, value)| new.config(*name, *value))
}

/// A running application. Dropped, its threads commit what they have and end; [`close`](Self::close) waits for them.
pub struct RunningStreams {
    admin: Admin,
    owner: Owner,
    threads: Vec<mpsc::UnboundedSender<Instant>>,
    status: Arc<Status>,
    state: watch::Receiver<StreamsState>,
}

impl RunningStreams {
    /// The state now.
    pub fn state(&self) -> StreamsState {
        self.state.borrow().clone()
    }

    /// The state as it changes.
    pub fn state_changes(&self) -> watch::Receiver<StreamsState> {
        self.state.clone()
    }

    /// Waits until every thread has its tasks and processes records.
    ///
    /// # Errors
    /// What stopped the application instead.
    ///
    /// # Cancel safety
    /// Nothing but waiting.
    pub async fn running(&self) -> Result<(), StreamsError> {
        let mut state = self.state.clone();
        let reached = state
            .wait_for(|state| {
                matches!(state, StreamsState::Running | StreamsState::NotRunning | StreamsState::Error(_))
            })
            .await;
        match reached.as_deref() {
            Ok(StreamsState::Running) => Ok(()),
            Ok(StreamsState::Error(error)) => Err(error.clone()),
            _ => Err(StreamsError::Close("the application was closed".to_owned())),
        }
    }

    /// Input records that this instance has processed, those of repartition topics included.
    pub fn processed_records(&self) -> u64 {
        self.status.processed()
    }

    /// For each partition that this instance reads, the records that no commit covers yet. All zero means: everything that
    /// was written to these topics before the call is processed, its results are written, and its offsets are committed.
    ///
    /// # Errors
    /// When a partition's leader does not say where its log ends.
    ///
    /// # Cancel safety
    /// Nothing but a question.
    pub async fn uncommitted_records(&self) -> Result<BTreeMap<TopicPartition, u64>, StreamsError> {
        // In this order: what a commit covers has written its results before the ends are asked for.
        let committed = self.status.committed();
        let ask: Vec<(TopicPartition, OffsetSpec)> =
            committed.keys().flat_map(|partition| [OffsetSpec::Latest].map(|spec| (partition.clone(), spec))).collect();
        let ends = self.admin.list_offsets(&ask).await.map_err(StreamsError::client("asking for the ends"))?;
        Ok(committed
            .into_iter()
            .map(|(partition, committed)| {
                let end = ends.get(&partition).copied().flatten().unwrap_or(0);
                let left = end.saturating_sub(committed.unwrap_or(0));
                (partition, u64::try_from(left).unwrap_or(0))
            })
            .collect())
    }

    /// Commits what was processed, leaves the group, and waits until the threads have ended.
    ///
    /// # Errors
    /// What a thread could not finish within `deadline` from now; the error that had stopped the application before.
    ///
    /// # Cancel safety
    /// Dropped, the threads still end.
    pub async fn close(self, deadline: Duration) -> Result<(), StreamsError> {
        let deadline = self.owner.now() + deadline;
        for thread in &self.threads {
            // A thread that has ended has nothing to close.
            let _ = thread.send(deadline);
        }
        let mut state = self.state.clone();
        let timer = self.owner.sleep_until(deadline);
        let ended = async {
            let ended =
                state.wait_for(|state| matches!(state, StreamsState::NotRunning | StreamsState::Error(_))).await;
            match ended.as_deref() {
                Ok(StreamsState::Error(error)) => Err(error.clone()),
                _ => Ok(()),
            }
        };
        let result = tokio::select! {
            biased;
            ended = ended => ended,
            () = timer => return Err(StreamsError::Close(
                "the stream threads did not end by the deadline: an operator blocks, or the cluster does not answer. \
                 What they had not committed will be processed again.".to_owned(),
            )),
        };
        self.owner.close().await;
        result
    }
}

impl fmt::Debug for RunningStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningStreams").field("state", &self.state()).finish_non_exhaustive()
    }
}
