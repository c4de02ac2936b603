//! Keeps every assigned partition fetchable: finds its leader and where to start, and runs a fetch loop for each broker that leads
//! something.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use milena_client::{
    Action, Backoff, CoordinatorKind, Error, Link, RefreshReason, TaskHandle, TopicInterest, TopicPartition,
};
use milena_protocol::ErrorCode;
use tokio::time::Instant;

use super::fetch_loop;
use super::offsets::{self, Found, Place};
use crate::StartAt;
use crate::partitions::{LookUp, Picture, SlotId, Stand, Whereabouts};
use crate::reader::closed;
use crate::shared::Shared;

/// How often the picture of the cluster is asked for while a partition has no leader in it. (The client coalesces and backs off.)
const LEADERLESS_PAUSE: Duration = Duration::from_millis(200);

/// A look-up that is under way, and what it will say.
type Answer = (Vec<LookUp>, Result<Found<LookedUp>, Error>);
type UnderWay = FuturesUnordered<Pin<Box<dyn Future<Output = Answer> + Send>>>;

/// What was found.
enum LookedUp {
    Listed(Option<Place>),
    Committed(Option<(i64, i32)>),
    /// The end of the epoch that was asked for, as the leader of this epoch knows it.
    EpochEnd((i32, i64), i32),
}

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
    /// When a partition that is unknown has been so for too long.
    look_again_at: Option<Instant>,
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
        look_again_at: None,
        topics: BTreeSet::new(),
        interest: None,
        shared: shared.clone(),
    };
    loop {
        changes.mark_seen();
        upkeep.follow_topics();
        upkeep.follow_leaders();
        upkeep.look_up();
        let wake_at = [upkeep.retry_at, upkeep.leaderless_until, upkeep.look_again_at].into_iter().flatten().min();
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
        let whereabouts = |tp: &TopicPartition| {
            let Some(topic) = metadata.topic(&tp.topic) else {
                return Whereabouts { trouble: Some(None), ..Whereabouts::default() };
            };
            let trouble = match topic.error {
                ErrorCode::NONE if topic.partition(tp.partition).is_some() || topic.partitions.is_empty() => None,
                ErrorCode::NONE => Some(Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)),
                ErrorCode::LEADER_NOT_AVAILABLE => None,
                code => Some(Some(code)),
            };
            Whereabouts { topic_id: topic.id, leader: metadata.leader(&tp.topic, tp.partition), trouble }
        };
        let clock = (self.link.now(), self.shared.config.api_timeout);
        let policy = self.shared.policy();
        let mut picture = Default::default();
        self.shared.change(|partitions| {
            picture = partitions.on_metadata(whereabouts, clock, policy);
            None
        });
        let Picture { brokers, is_leader_missing, look_again_at, wakers } = picture;
        wakers.into_iter().for_each(Waker::wake);
        self.look_again_at = look_again_at;
        if !is_leader_missing {
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
        let mut to_validate: BTreeMap<i32, Vec<LookUp>> = BTreeMap::new();
        // In a statement of its own: the loop's body takes the lock again.
        let look_ups = self.shared.partitions().look_ups();
        for look_up in look_ups {
            if self.asked.contains(&(look_up.slot, look_up.generation)) {
                continue;
            }
            match (&look_up.stand, look_up.leader) {
                (Stand::AwaitCommitted, _) => committed.push(look_up),
                (Stand::AwaitReset(StartAt::Offset(offset)), _) => {
                    self.shared.partitions().start_at(look_up.slot, look_up.generation, *offset, -1);
                }
                (Stand::AwaitValidation, Some((leader, _))) => to_validate.entry(leader).or_default().push(look_up),
                (Stand::AwaitReset(_) | Stand::AwaitLogStart(_), Some((leader, _))) => {
                    by_leader.entry(leader).or_default().push(look_up);
                }
                // Without a leader there is nobody to ask, yet.
                _ => {}
            }
        }
        if let Some(group) = self.group.clone().filter(|_| !committed.is_empty()) {
            let link = self.link.clone();
            self.start(committed, move |asked| async move {
                let partitions = asked.iter().map(|look_up| look_up.tp.clone()).collect();
                let answer = offsets::committed(&link, &group, partitions).await;
                (asked, answer.map(|found| looked_up(found, LookedUp::Committed)))
            });
        }
        for (leader, look_ups) in by_leader {
            let (link, isolation) = (self.link.clone(), self.shared.config.isolation);
            self.start(look_ups, move |asked| async move {
                let partition = |look_up: &LookUp| match (&look_up.stand, look_up.leader) {
                    (Stand::AwaitReset(start), Some((_, epoch))) => Some((look_up.tp.clone(), (*start, epoch))),
                    (Stand::AwaitLogStart(_), Some((_, epoch))) => {
                        Some((look_up.tp.clone(), (StartAt::Beginning, epoch)))
                    }
                    _ => None,
                };
                let partitions = asked.iter().filter_map(partition).collect();
                let answer = offsets::starts(&link, leader, isolation, partitions).await;
                (asked, answer.map(|found| looked_up(found, LookedUp::Listed)))
            });
        }
        for (leader, look_ups) in to_validate {
            let link = self.link.clone();
            self.start(look_ups, move |asked| async move {
                let epochs: BTreeMap<TopicPartition, (i32, i32)> = asked
                    .iter()
                    .filter_map(|look_up| Some((look_up.tp.clone(), (look_up.epoch, look_up.leader?.1))))
                    .collect();
                let answer = offsets::epoch_ends(&link, leader, epochs.clone().into_iter().collect()).await;
                let found = answer.map(|found| {
                    let of_leader = |tp: &TopicPartition| epochs.get(tp).map_or(-1, |(_, leader_epoch)| *leader_epoch);
                    found
                        .into_iter()
                        .map(|(tp, end)| {
                            let leader_epoch = of_leader(&tp);
                            (tp, end.map(|end| LookedUp::EpochEnd(end, leader_epoch)))
                        })
                        .collect()
                });
                (asked, found)
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

    fn on_answer(&mut self, asked: Vec<LookUp>, answer: Result<Found<LookedUp>, Error>) {
        for look_up in &asked {
            self.asked.remove(&(look_up.slot, look_up.generation));
        }
        let mut found: BTreeMap<TopicPartition, Result<LookedUp, Error>> = match answer {
            Ok(found) => {
                // An answer that is all errors is none that a pause could be forgotten for.
                if found.iter().any(|(_, found)| found.is_ok()) {
                    self.backoff.on_success();
                }
                found.into_iter().collect()
            }
            Err(error) => asked.iter().map(|look_up| (look_up.tp.clone(), Err(error.clone()))).collect(),
        };
        for look_up in asked {
            match found.remove(&look_up.tp) {
                Some(Ok(found)) => self.on_found(&look_up, found),
                Some(Err(error)) => self.on_failure(&look_up, error),
                // The broker left it out: ask again.
                None => self.retry(),
            }
        }
    }

    fn on_found(&mut self, look_up: &LookUp, found: LookedUp) {
        let (slot, generation) = (look_up.slot, look_up.generation);
        let policy = self.shared.policy();
        self.shared.change(|partitions| match (found, &look_up.stand) {
            (LookedUp::Listed(Some(place)), Stand::AwaitLogStart(_)) => {
                partitions.on_log_start(slot, generation, place.offset, policy)
            }
            // Java, too, takes the place as it is: no record before it has been read.
            (LookedUp::Listed(Some(place)), _) => {
                partitions.start_at(slot, generation, place.offset, -1);
                None
            }
            (LookedUp::Listed(None), _) => {
                partitions.reset_to_end(slot, generation);
                None
            }
            (LookedUp::Committed(Some((offset, epoch))), _) => {
                partitions.start_at(slot, generation, offset, epoch);
                None
            }
            (LookedUp::Committed(None), _) => partitions.nothing_committed(slot, generation, policy),
            (LookedUp::EpochEnd((epoch, end), _), _) if epoch < 0 || end < 0 => {
                partitions.on_epoch_unknown(slot, generation);
                None
            }
            (LookedUp::EpochEnd((epoch, end), leader_epoch), _) => {
                if partitions.has_parted(slot, generation, epoch, end) {
                    partitions.on_parted(slot, generation, (epoch, end), policy)
                } else {
                    partitions.on_validated(slot, generation, leader_epoch);
                    None
                }
            }
        });
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
            // Of a topic that was made anew, which is asked for by its name, the old epoch is unknown for ever.
            Action::Retry if error.code() == Some(ErrorCode::UNKNOWN_LEADER_EPOCH) => {
                self.link.refresh_metadata(RefreshReason::NotLeader);
            }
            Action::Retry => {}
            _ if look_up.stand == Stand::AwaitValidation => {
                // A broker without the API, or without the right to it: Java goes on, too.
                let epoch = look_up.leader.map_or(-1, |(_, epoch)| epoch);
                self.shared.partitions().on_validated(look_up.slot, look_up.generation, epoch);
                return;
            }
            _ => {
                let (slot, generation) = (look_up.slot, look_up.generation);
                self.shared.change(|partitions| partitions.stick(slot, generation, error));
                return;
            }
        }
        self.retry();
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        // It lives as long as the consumer, or as its client, if that is closed first: then nobody would wake a read.
        self.shared.signals.events.close();
        self.shared.change(|partitions| partitions.close(Some(closed())));
    }
}

fn looked_up<T>(found: Found<T>, make: impl Fn(T) -> LookedUp) -> Found<LookedUp> {
    found.into_iter().map(|(tp, result)| (tp, result.map(&make))).collect()
}
