//! The state of an application: what its threads say, put together.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use milena_client::TopicPartition;
use tokio::sync::watch;

use crate::error::StreamsError;

/// The state of a running application (Java: `KafkaStreams.State`).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum StreamsState {
    /// Tasks are being assigned, or stores restored.
    Rebalancing,
    /// Every thread has its tasks and processes records.
    Running,
    /// `close` was called.
    PendingShutdown,
    /// Closed.
    NotRunning,
    /// A thread failed, and all have stopped. What they had not committed will be processed again.
    Error(StreamsError),
}

/// What the threads share with the handle.
#[derive(Debug)]
pub(crate) struct Status {
    threads: Mutex<Vec<ThreadStatus>>,
    state: watch::Sender<StreamsState>,
}

#[derive(Debug, Default, Clone)]
struct ThreadStatus {
    phase: Phase,
    processed: u64,
    /// What the thread reads: the committed offset of each partition, once there is one.
    committed: BTreeMap<TopicPartition, Option<i64>>,
}

/// What a thread does.
#[derive(Debug, Default, Clone)]
pub(crate) enum Phase {
    #[default]
    Rebalancing,
    Running,
    Stopping,
    Stopped,
    Failed(StreamsError),
}

impl Status {
    pub(crate) fn new(threads: usize) -> Arc<Self> {
        let state = watch::Sender::new(StreamsState::Rebalancing);
        Arc::new(Self { threads: Mutex::new(vec![ThreadStatus::default(); threads]), state })
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<StreamsState> {
        self.state.subscribe()
    }

    pub(crate) fn set(&self, thread: usize, phase: Phase) {
        let mut threads = self.threads();
        if matches!(threads[thread].phase, Phase::Failed(_)) {
            return;
        }
        threads[thread].phase = phase;
        let next = overall(&threads);
        drop(threads);
        self.state.send_if_modified(|state| {
            // The first error stays.
            if matches!(state, StreamsState::Error(_)) || std::mem::discriminant(state) == std::mem::discriminant(&next)
            {
                return false;
            }
            tracing::info!(from = ?state, to = ?next, "streams state");
            *state = next;
            true
        });
    }

    pub(crate) fn add_processed(&self, thread: usize, records: u64) {
        self.threads()[thread].processed += records;
    }

    pub(crate) fn processed(&self) -> u64 {
        self.threads().iter().map(|thread| thread.processed).sum()
    }

    pub(crate) fn set_committed(&self, thread: usize, committed: BTreeMap<TopicPartition, Option<i64>>) {
        self.threads()[thread].committed = committed;
    }

    pub(crate) fn committed(&self) -> BTreeMap<TopicPartition, Option<i64>> {
        self.threads().iter().flat_map(|thread| thread.committed.clone()).collect()
    }

    fn threads(&self) -> MutexGuard<'_, Vec<ThreadStatus>> {
        // Only plain assignments happen under it.
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn overall(threads: &[ThreadStatus]) -> StreamsState {
    let any = |test: fn(&Phase) -> bool| threads.iter().any(|thread| test(&thread.phase));
    let failed = threads.iter().find_map(|thread| match &thread.phase {
        Phase::Failed(error) => Some(error.clone()),
        _ => None,
    });
    if let Some(error) = failed {
        StreamsState::Error(error)
    } else if threads.iter().all(|thread| matches!(thread.phase, Phase::Stopped)) {
        StreamsState::NotRunning
    } else if any(|phase| matches!(phase, Phase::Stopping | Phase::Stopped)) {
        StreamsState::PendingShutdown
    } else if any(|phase| matches!(phase, Phase::Rebalancing)) {
        StreamsState::Rebalancing
    } else {
        StreamsState::Running
    }
}
