//! Keeps every assigned partition fetchable: finds its leader and where to start, and runs a fetch loop for each broker that leads
//! something.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use milena_client::{
    Action, Backoff, CoordinatorKind, Error, Link, RefreshReason, TaskHandle, TopicInterest, TopicPartition,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::fetch_loop;
use super::offsets::{self, Found};
use crate::StartAt;
use crate::partitions::{LookUp, SlotId, Stand};
use crate::shared::Shared;

/// How often the picture of the cluster is asked for while a partition has no leader in it. (The client coalesces and backs off.)
const LEADERLESS_PAUSE: Duration = Duration::from_millis(200);

/// A look-up that is under way, and what it will say.
type Answer = (Vec<LookUp>, Result<Found<Option<i64>>, Error>);
type UnderWay = FuturesUnordered<Pin<Box<dyn Future<Output = Answer> + Send>>>;

struct Upkeep {
    shared: Arc<Shared>,
    link: Link,
    group: Option<Arc<str>>,
    loops: BTreeMap<i32, TaskHandle>,
    /// Partitions whose look-up is under way.
    asked: BTreeSet<(SlotId, u32)>,
    under_way: UnderWay,
    backoff: Backoff,
    rng: fastrand::Rng,
    /// When look-ups are tried again.
    retry_at: Option<Instant>,
    /// When the picture is asked for again, because a partition has no leader in it.
    leaderless_until: Option<Instant>,
    topics: BTreeSet<Arc<str>>,
    interest: Option<TopicInterest>,
}

/// Runs until its task is ended. `group` for a consumer that starts at committed offsets.
pub(crate) async fn run(shared: Arc<Shared>, group: Option<Arc<str>>) {
    let link = shared.link.clone();
    let mut changes = link.metadata_changes();
    let mut upkeep = Upkeep {
        rng: link.rng("upkeep"),
        link,
        group,
        loops: BTreeMap::new(),
        asked: BTreeSet::new(),
        under_way: UnderWay::new(),
        backoff: Backoff::RETRY,
        retry_at: None,
        leaderless_until: None,
        topics: BTreeSet::new(),
        interest: None,
        shared: shared.clone(),
    };
    loop {
        changes.mark_seen();
        upkeep.follow_topics();
        upkeep.follow_leaders();
        upkeep.look_up();
        let wake_at = upkeep.retry_at.into_iter().chain(upkeep.leaderless_until).min();
        let timer = wake_at.map(|at| upkeep.link.sleep_until(at));
        let waiting = upkeep.under_way.is_empty();
        tokio::select! {
            biased;
            () = shared.signals.upkeep.notified() => {}
            () = changes.changed() => {}
            Some((asked, answer)) = upkeep.under_way.next(), if !waiting => upkeep.on_answer(asked, answer),
            () = async { match timer { Some(timer) => timer.await, None => std::future::pending().await } } => {
                let now = upkeep.link.now();
                upkeep.retry_at = upkeep.retry_at.filter(|at| *at > now);
                upkeep.leaderless_until = upkeep.leaderless_until.filter(|at| *at > now);
            }
        }
    }
}

impl Upkeep {
    /// Keeps the topics that are read in the client's picture of the cluster.
    fn follow_topics(&mut self) {
        let topics: BTreeSet<Arc<str>> = self.shared.partitions().assignment().into_iter().map(|tp| tp.topic).collect();
        if topics != self.topics {
            // The new interest before the old one goes, so that what stays is wanted all the time.
            let interest = self.link.want_topics(topics.iter().map(|topic| &**topic));
            self.interest = Some(interest);
            self.topics = topics;
        }
    }

    fn follow_leaders(&mut self) {
        let metadata = self.link.metadata();
        let (brokers, missing) = self.shared.partitions().on_leaders(|tp| {
            let id = metadata.topic(&tp.topic).map_or(Uuid::nil(), |topic| topic.id);
            (id, metadata.leader(&tp.topic, tp.partition))
        });
        if !missing {
            self.leaderless_until = None;
        } else if self.leaderless_until.is_none() {
            self.link.refresh_metadata(RefreshReason::NoLeader);
            self.leaderless_until = Some(self.link.now() + LEADERLESS_PAUSE);
        }
        self.loops.retain(|broker, task| {
            let leads = brokers.contains(broker);
            if !leads {
                task.abort();
                self.shared.partitions().remove_bell(*broker);
            }
            leads
        });
        for broker in brokers {
            self.loops.entry(broker).or_insert_with(|| {
                let bell = self.shared.partitions().bell(broker);
                self.link.spawn("fetch", fetch_loop::run(self.shared.clone(), broker, bell))
            });
        }
    }

    fn retry(&mut self) {
        if self.retry_at.is_none() {
            self.retry_at = Some(self.link.now() + self.backoff.on_failure(&mut self.rng));
        }
    }

    /// Starts what has to be looked up and is not being looked up.
    fn look_up(&mut self) {
        if self.retry_at.is_some() {
            return;
        }
        let mut committed = Vec::new();
        let mut by_leader: BTreeMap<i32, Vec<LookUp>> = BTreeMap::new();
        // In a statement of its own: the loop's body takes the lock again.
        let look_ups = self.shared.partitions().look_ups();
        for look_up in look_ups {
            if self.asked.contains(&(look_up.slot, look_up.generation)) {
                continue;
            }
            match (&look_up.stand, look_up.leader) {
                (Stand::AwaitCommitted, _) => committed.push(look_up),
                (Stand::AwaitReset(StartAt::Offset(offset)), _) => {
                    self.shared.partitions().start_at(look_up.slot, look_up.generation, *offset);
                }
                (Stand::AwaitReset(_), Some((leader, _))) => by_leader.entry(leader).or_default().push(look_up),
                // Without a leader there is nobody to ask, yet.
                _ => {}
            }
        }
        if let Some(group) = self.group.clone().filter(|_| !committed.is_empty()) {
            let link = self.link.clone();
            self.start(committed, move |asked| async move {
                let partitions = asked.iter().map(|look_up| look_up.tp.clone()).collect();
                let answer = offsets::committed(&link, &group, partitions).await;
                (asked, answer)
            });
        }
        for (leader, look_ups) in by_leader {
            let (link, isolation) = (self.link.clone(), self.shared.config.isolation);
            self.start(look_ups, move |asked| async move {
                let partition = |look_up: &LookUp| match (&look_up.stand, look_up.leader) {
                    (Stand::AwaitReset(start), Some((_, epoch))) => Some((look_up.tp.clone(), (*start, epoch))),
                    _ => None,
                };
                let answer =
                    offsets::list(&link, leader, isolation, asked.iter().filter_map(partition).collect()).await;
                (asked, answer)
            });
        }
    }

    fn start<F>(&mut self, look_ups: Vec<LookUp>, ask: impl FnOnce(Vec<LookUp>) -> F)
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        self.asked.extend(look_ups.iter().map(|look_up| (look_up.slot, look_up.generation)));
        self.under_way.push(Box::pin(ask(look_ups)));
    }

    fn on_answer(&mut self, asked: Vec<LookUp>, answer: Result<Found<Option<i64>>, Error>) {
        for look_up in &asked {
            self.asked.remove(&(look_up.slot, look_up.generation));
        }
        let mut found: BTreeMap<TopicPartition, Result<Option<i64>, Error>> = match answer {
            Ok(found) => {
                self.backoff.on_success();
                found.into_iter().collect()
            }
            Err(error) => asked.iter().map(|look_up| (look_up.tp.clone(), Err(error.clone()))).collect(),
        };
        for look_up in asked {
            match found.remove(&look_up.tp) {
                Some(Ok(offset)) => self.on_found(&look_up, offset),
                Some(Err(error)) => self.on_failure(&look_up, error),
                // The broker left it out: ask again.
                None => self.retry(),
            }
        }
    }

    fn on_found(&mut self, look_up: &LookUp, offset: Option<i64>) {
        let (slot, generation) = (look_up.slot, look_up.generation);
        match (offset, &look_up.stand) {
            (Some(offset), _) => {
                self.shared.partitions().start_at(slot, generation, offset);
            }
            (None, Stand::AwaitReset(_)) => self.shared.partitions().reset(slot, generation, StartAt::End),
            (None, _) => match self.shared.config.reset.start() {
                Some(start) => self.shared.partitions().reset(slot, generation, start),
                None => {
                    let text = "the group has no committed offset for the partition, and offset_reset is None: seek, or choose a policy.";
                    let error =
                        Error::new(milena_client::ErrorKind::Config, text).with_topic_partition(look_up.tp.clone());
                    self.shared.change(|partitions| partitions.stick(slot, generation, error));
                }
            },
        }
    }

    fn on_failure(&mut self, look_up: &LookUp, error: Error) {
        // A code that passes is nothing unusual; no answer is, and is said aloud once.
        if error.code().is_none() && self.backoff.failures() == 0 {
            tracing::warn!(%error, tp = %look_up.tp, "where to start is not known yet: it is asked again");
        } else {
            tracing::debug!(%error, tp = %look_up.tp, "where to start is not known yet");
        }
        match error.action() {
            Action::RefreshMetadata => self.link.refresh_metadata(RefreshReason::NotLeader),
            Action::FindCoordinator => {
                if let Some(group) = &self.group {
                    self.link.forget_coordinator(CoordinatorKind::Group, group);
                }
            }
            Action::Retry => {}
            _ => {
                let (slot, generation) = (look_up.slot, look_up.generation);
                self.shared.change(|partitions| partitions.stick(slot, generation, error));
                return;
            }
        }
        self.retry();
    }
}
