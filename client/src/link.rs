//! How a producer, a consumer or an admin call reaches the cluster: an [`Owner`] has connections and tasks of its own, and its
//! [`Link`] is what those tasks hold.
//!
//! ```text
//! Client ◀── Owner (one per producer, consumer; dropped = its tasks end)
//!               └── Link (cloned into tasks; keeps nothing alive)
//! ```

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::Guard;
use milena_protocol::messages::FindCoordinatorRequest;
use milena_protocol::{ApiKey, ErrorCode, Request, frame};
use tokio::time::Instant;
use tower::ServiceExt;

use crate::action::Action;
use crate::backoff::Backoff;
use crate::client::Client;
use crate::connection::establish::unreachable;
use crate::connection::service::{self, Call, Connect, Encoded, closed};
use crate::connection::wire::Wire;
use crate::coordinator::{self, CoordinatorKind};
use crate::core::Core;
use crate::metadata::changes::Changes;
use crate::metadata::snapshot::{Broker, Metadata, Topic};
use crate::metrics::Metrics;
use crate::outcomes::OpenOutcome;
use crate::seam::clock::WallClock;
use crate::seam::spawner::{Sleep, Spawner, TaskHandle};
use crate::{Error, ErrorKind, Lane, RefreshReason};

/// How long a broker has to answer what any other could answer, so that a frozen one costs seconds and not a request time-out.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// This broker.
    Broker(i32),
    /// Any broker that answers.
    Any,
    /// The broker that answers for the controller.
    Controller,
    /// The coordinator of a group or a transactional id.
    Coordinator(CoordinatorKind, Arc<str>),
}

/// A part of a client with connections and tasks of its own. Keeps the client alive; ends its tasks and connections when dropped.
#[derive(Debug)]
pub struct Owner {
    link: Link,
    client: Client,
}

/// What the tasks of an [`Owner`] hold: a way to the cluster that keeps neither the owner nor the client alive.
#[derive(Clone)]
pub struct Link {
    core: Arc<Core>,
    id: u64,
    name: Arc<str>,
    spawner: Spawner,
}

impl Owner {
    pub(crate) fn new(client: Client, name: &str) -> Self {
        Self { link: Link::new(client.core.clone(), name), client }
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What tasks hold.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Ends the tasks and connections and waits until they are gone.
    ///
    /// # Cancel safety
    /// Dropped, it leaves the tasks to end by themselves.
    pub async fn close(&self) {
        self.link.abort();
        self.link.spawner.drained().await;
    }
}

impl Deref for Owner {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.link.abort();
    }
}

impl Link {
    pub(crate) fn new(core: Arc<Core>, name: &str) -> Self {
        let id = core.next_owner();
        let spawner = core.spawner.for_owner();
        Self { core, id, name: Arc::from(name), spawner }
    }

    pub(crate) fn abort(&self) {
        self.spawner.abort_tasks();
        self.core.pool.close_owner(self.id);
    }

    /// The owner's name and number, such as `producer-3`: the label for its randomness and its metrics.
    pub fn label(&self) -> String {
        format!("{}-{}", self.name, self.id)
    }

    /// Starts a task of the owner's: counted, and ended with the owner.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> TaskHandle {
        self.spawner.spawn(name, task)
    }

    /// Tasks, threads, CPU work and timers.
    pub fn spawner(&self) -> &Spawner {
        &self.spawner
    }

    /// The time, for machines that take `now`.
    pub fn now(&self) -> Instant {
        self.spawner.now()
    }

    /// The error of whoever goes on when the client has been closed.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`].
    pub fn check_open(&self) -> Result<(), Error> {
        if self.spawner.is_over() { Err(closed()) } else { Ok(()) }
    }

    /// A timer, also for a caller who is not on a tokio runtime. Over at once when the client has been closed: ask
    /// [`check_open`](Self::check_open) before you sleep again.
    pub fn sleep_until(&self, deadline: Instant) -> Pin<Box<Sleep>> {
        self.spawner.sleep_until(deadline)
    }

    /// Randomness derived from the client's seed, this owner and `label`.
    pub fn rng(&self, label: &str) -> fastrand::Rng {
        self.core.rng(&format!("{}/{label}", self.label()))
    }

    /// The wall clock, for record timestamps.
    pub fn wall_clock(&self) -> &WallClock {
        &self.core.clock
    }

    /// The client's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.core.metrics
    }

    /// The client's id, as brokers log it.
    pub fn client_id(&self) -> &Arc<str> {
        &self.core.config.client_id
    }

    /// How long one request may take unless its caller says otherwise (`request.timeout.ms`, default 30 s).
    pub fn request_timeout(&self) -> Duration {
        self.core.config.request_timeout
    }

    /// How old the picture of the cluster may become (`metadata.max.age.ms`, default 5 min).
    pub fn metadata_max_age(&self) -> Duration {
        self.core.config.metadata_max_age
    }

    /// The picture of the cluster.
    pub fn metadata(&self) -> Arc<Metadata> {
        self.core.metadata.load_full()
    }

    /// The picture, borrowed: cheaper than [`metadata`](Self::metadata) on a hot path; never held across an await.
    pub fn metadata_ref(&self) -> Guard<Arc<Metadata>> {
        self.core.metadata.load()
    }

    /// Waits for the picture of the cluster to change.
    pub fn metadata_changes(&self) -> Changes {
        self.core.changes.changes()
    }

    /// How old the picture is: the time since a broker last answered what it was asked about the cluster. Zero before the first answer.
    pub fn metadata_age(&self) -> Duration {
        self.core.machine().age(self.now())
    }

    /// Wants fresh metadata. Returns at once; requests are coalesced and backed off.
    pub fn refresh_metadata(&self, reason: RefreshReason) {
        self.core.refresh(reason);
    }

    /// Takes in that a broker named a partition's new leader (KIP-951). Older news than the picture's is ignored.
    pub fn update_leader(&self, topic: &str, partition: i32, leader: i32, epoch: i32, endpoint: Option<Broker>) {
        self.core.replace(|metadata, _| metadata.after_hint(topic, partition, leader, epoch, endpoint));
    }

    /// Makes the topics part of every refresh for as long as the guard lives.
    pub fn want_topics<'a>(&self, topics: impl IntoIterator<Item = &'a str>) -> TopicInterest {
        let topics: Vec<Arc<str>> = topics.into_iter().map(Arc::from).collect();
        let mut news = false;
        for topic in &topics {
            news |= self.core.machine().on_interest(topic);
        }
        if news {
            self.core.refresh(RefreshReason::NewTopic);
        }
        TopicInterest { core: self.core.clone(), topics }
    }

    /// Waits until the cluster knows `topic`, at most until `deadline`. Somebody must [want](Self::want_topics) it meanwhile, or
    /// nobody keeps it in the picture afterwards.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopicOrPartition`] at the deadline, what the broker says about the name or the rights at once, and the
    /// last failure to reach a broker if none answered.
    ///
    /// # Cancel safety
    /// Nothing is lost; metadata that was asked for still arrives.
    pub async fn topic(&self, topic: &str, deadline: Instant) -> Result<Arc<Topic>, Error> {
        self.await_topic(topic, deadline, false).await
    }

    /// The same, of what the cluster says after this was called.
    pub(crate) async fn fresh_topic(&self, topic: &str, deadline: Instant) -> Result<Arc<Topic>, Error> {
        self.await_topic(topic, deadline, true).await
    }

    async fn await_topic(&self, topic: &str, deadline: Instant, fresh: bool) -> Result<Arc<Topic>, Error> {
        let interest = self.want_topics([topic]);
        let first = if fresh { self.core.question.load(Ordering::Acquire) + 1 } else { 0 };
        let mut refreshed = self.core.refreshed.changes();
        let mut timer = self.sleep_until(deadline);
        loop {
            refreshed.mark_seen();
            let is_fresh = self.core.answered.load(Ordering::Acquire) >= first;
            let known = self.core.metadata.load().topic(topic).cloned();
            let reason = if known.is_some() { RefreshReason::Asked } else { RefreshReason::NewTopic };
            if let Some(known) = known.filter(|_| is_fresh) {
                match known.error {
                    ErrorCode::NONE if !known.partitions.is_empty() => return Ok(known),
                    ErrorCode::NONE | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION | ErrorCode::LEADER_NOT_AVAILABLE => {}
                    code if code.is_retriable() => {}
                    code => {
                        let error = Error::from_code(ApiKey::METADATA, code);
                        return Err(error.with_topic_partition(crate::TopicPartition::new(topic, -1)));
                    }
                }
            }
            self.core.refresh(reason);
            tokio::select! {
                biased;
                () = refreshed.changed() => {}
                () = &mut timer => break,
            }
        }
        drop(interest);
        self.check_open()?;
        Err(match self.core.last_failure() {
            Some(error) => error,
            None => Error::new(
                ErrorKind::UnknownTopicOrPartition,
                format!("the cluster does not know the topic {topic:?}: check its name, or create it first."),
            ),
        })
    }

    /// Sends one request, once, and waits for its answer, at most `timeout`.
    ///
    /// # Errors
    /// Whatever kept the answer away. An error code *inside* an answer is the caller's to read.
    ///
    /// # Cancel safety
    /// Dropped before its first poll, nothing was sent. Dropped later, the request may be carried out; its answer is forgotten and
    /// no other request is disturbed.
    pub async fn send<R: Request>(
        &self,
        target: Target,
        lane: Lane,
        request: R,
        timeout: Duration,
    ) -> Result<R::Response, Error> {
        self.send_versioned(target, lane, timeout, move |_| request).await
    }

    /// Like [`send`](Self::send), for a request whose shape depends on its version.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn send_versioned<R: Request>(
        &self,
        target: Target,
        lane: Lane,
        timeout: Duration,
        make: impl FnOnce(i16) -> R + Send + 'static,
    ) -> Result<R::Response, Error> {
        self.send_at_most(target, lane, timeout, i16::MAX, make).await
    }

    /// Like [`send_versioned`](Self::send_versioned), in no newer version than `newest`: for an API whose newer versions ask for
    /// something else (EndTxn v5 asks for a new epoch).
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn send_at_most<R: Request>(
        &self,
        target: Target,
        lane: Lane,
        timeout: Duration,
        newest: i16,
        make: impl FnOnce(i16) -> R + Send + 'static,
    ) -> Result<R::Response, Error> {
        let deadline = self.now() + timeout;
        let broker = self.resolve(&target, deadline).await?;
        let result = self.send_to(broker, lane, deadline, newest, make).await;
        if let (Err(error), Target::Coordinator(kind, key)) = (&result, &target) {
            self.on_coordinator_error(*kind, key, broker, error);
        }
        result
    }

    async fn send_to<R: Request>(
        &self,
        broker: i32,
        lane: Lane,
        deadline: Instant,
        newest: i16,
        make: impl FnOnce(i16) -> R + Send + 'static,
    ) -> Result<R::Response, Error> {
        if let Some(until) = self.core.pool.throttled_until(broker)
            && until > self.now()
        {
            // KIP-219: the broker answers at once and asks the client to keep still for a while.
            self.sleep_until(until.min(deadline)).await;
        }
        let connection = self.core.pool.connection(self.id, broker, lane, || self.start_connection(broker));
        let encode = Box::new(move |versions: &milena_protocol::ApiVersions| {
            let version = versions.choose_at_most::<R>(newest).ok_or_else(|| {
                let theirs =
                    versions.range(R::KEY).map_or("not at all".to_owned(), |r| format!("in v{} to v{}", r.min, r.max));
                Error::new(
                    ErrorKind::UnsupportedVersion,
                    format!(
                        "the broker speaks {} {theirs}, which this client does not: it is too old or too new.",
                        R::KEY
                    ),
                )
                .with_api(R::KEY)
            })?;
            let body = frame::encode_body(&make(version), version)?;
            Ok(Encoded { version, flexible: frame::request_is_flexible::<R>(version), body })
        });
        let answered = connection.oneshot(Call { api: R::KEY, deadline, encode }).await;
        match &answered {
            Ok(_) => self.core.pool.on_request(broker, true),
            Err(error) if error.kind() == ErrorKind::Timeout => self.core.pool.on_request(broker, false),
            Err(_) => {}
        }
        let answer = answered?;
        let response =
            frame::decode_body::<R>(answer.body, answer.version).map_err(|e| Error::from(e).with_broker(broker))?;
        let throttle = R::throttle_time_ms(&response);
        if throttle > 0 {
            self.core.pool.on_throttled(broker, self.now() + Duration::from_millis(throttle as u64));
        }
        Ok(response)
    }

    /// Sends a request until its answer settles the matter or `deadline` has passed: the one retry helper. What an error code means
    /// stands in the one table (see [`Error::action`]); `code` finds it in the answer.
    ///
    /// # Errors
    /// The last failure at the deadline; at once what cannot be helped by asking again.
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn call<R: Request>(
        &self,
        target: Target,
        lane: Lane,
        deadline: Instant,
        make: impl Fn(i16) -> R + Clone + Send + 'static,
        code: impl Fn(&R::Response) -> ErrorCode,
    ) -> Result<R::Response, Error> {
        let mut backoff = Backoff::RETRY;
        let mut rng = self.rng("call");
        loop {
            self.check_open()?;
            let timeout = match target {
                Target::Any => self.patience(backoff.failures()),
                _ => self.request_timeout(),
            };
            let timeout = timeout.min(deadline.saturating_duration_since(self.now()));
            let error = match self.send_versioned(target.clone(), lane, timeout, make.clone()).await {
                Ok(response) => match code(&response) {
                    code if crate::action::action_for(Some(R::KEY), code) == Action::Proceed => return Ok(response),
                    code => Error::from_code(R::KEY, code),
                },
                Err(error) => error,
            };
            match error.action() {
                Action::Retry => {}
                Action::RefreshMetadata => self.core.refresh(RefreshReason::Outdated),
                Action::FindCoordinator => {
                    if let Target::Coordinator(kind, key) = &target {
                        self.core.coordinators.forget(*kind, key);
                    }
                }
                Action::Proceed | Action::Abort | Action::Fence | Action::Fail => return Err(error),
            }
            let again = self.now() + backoff.on_failure(&mut rng);
            if again >= deadline {
                return Err(error);
            }
            tracing::debug!(%error, "asking again");
            self.sleep_until(again).await;
        }
    }

    /// The broker that a target is now.
    async fn resolve(&self, target: &Target, deadline: Instant) -> Result<i32, Error> {
        match target {
            Target::Broker(broker) => Ok(*broker),
            Target::Any => self.any_broker(),
            Target::Controller => match self.core.metadata.load().controller_id {
                Some(broker) if self.core.pool.failures(broker) == 0 => Ok(broker),
                _ => self.any_broker(),
            },
            Target::Coordinator(kind, key) => self.coordinator(*kind, key, deadline).await,
        }
    }

    /// Twice as long after each failure: it may be all brokers that are slow.
    fn patience(&self, failures: u32) -> Duration {
        self.request_timeout().min(PATIENCE * (1 << failures.min(8)))
    }

    fn any_broker(&self) -> Result<i32, Error> {
        let metadata = self.core.metadata.load();
        let known = metadata.brokers.keys().copied();
        let best = known.min_by_key(|broker| self.core.pool.failures(*broker));
        match best {
            Some(broker) if self.core.pool.failures(broker) == 0 => Ok(broker),
            best => {
                self.core.bootstrap_ids().chain(best).min_by_key(|broker| self.core.pool.failures(*broker)).ok_or_else(
                    || Error::new(ErrorKind::Config, "no broker is known: give at least one bootstrap server."),
                )
            }
        }
    }

    /// The broker that coordinates a group or a transactional id.
    ///
    /// # Errors
    /// Whatever kept the answer away until `deadline`.
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn coordinator(&self, kind: CoordinatorKind, key: &Arc<str>, deadline: Instant) -> Result<i32, Error> {
        if let Some(known) = self.core.coordinators.known(kind, key) {
            return Ok(known);
        }
        let mut backoff = Backoff::RETRY;
        let mut rng = self.rng("coordinator");
        loop {
            self.check_open()?;
            let broker = self.any_broker()?;
            let until = deadline.min(self.now() + self.patience(backoff.failures()));
            let asked = key.clone();
            let found = self
                .send_to::<FindCoordinatorRequest>(broker, Lane::Rest, until, i16::MAX, move |version| {
                    coordinator::question(version, kind, &asked)
                })
                .await
                .and_then(|response| coordinator::answer(&response, kind, key));
            match found {
                Ok(found) => {
                    let id = found.id;
                    self.core.learn(found);
                    self.core.coordinators.on_found(kind, key, id);
                    return Ok(id);
                }
                Err(error) if error.is_retriable() => {
                    let again = self.now() + backoff.on_failure(&mut rng);
                    if again >= deadline {
                        return Err(error);
                    }
                    // Once or twice is what a restart looks like. A deadline may be minutes away, and until then nobody else says it.
                    if backoff.failures() == 3 {
                        tracing::warn!(%error, "the coordinator of the {kind} {key:?} is not found; it is asked on");
                    }
                    self.sleep_until(again).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The level of a cluster feature such as `transaction.version` that brokers have finalised, as the newest of their hand-shakes
    /// says; 0 when the cluster has not got it.
    pub fn feature(&self, name: &str) -> i16 {
        self.core.establish.features.level(name)
    }

    /// Says that the outcome of `transactional_id`'s transaction is open, until the guard is dropped.
    pub fn open_outcome(&self, transactional_id: &str) -> OpenOutcome {
        self.core.outcomes.open(transactional_id)
    }

    /// Waits until no outcome of a transaction of `transactional_id` is open in this client.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn outcomes_settled(&self, transactional_id: &str) {
        self.core.outcomes.settled(transactional_id).await;
    }

    /// The broker that coordinates a group or a transactional id, if it has been looked up and not been [forgotten](Self::forget_coordinator).
    pub fn known_coordinator(&self, kind: CoordinatorKind, key: &str) -> Option<i32> {
        self.core.coordinators.known(kind, key)
    }

    /// Forgets a coordinator that turned out to be none; the next call looks it up again.
    pub fn forget_coordinator(&self, kind: CoordinatorKind, key: &str) {
        self.core.coordinators.forget(kind, key);
    }

    /// Forgets a coordinator that could not be reached or did not answer: it may have moved because its broker is gone. `asked` is the
    /// broker; if another one is known by now, a late word about the one before says nothing about it.
    pub fn on_coordinator_error(&self, kind: CoordinatorKind, key: &str, asked: i32, error: &Error) {
        if matches!(error.kind(), ErrorKind::Connect | ErrorKind::Disconnected | ErrorKind::Timeout) {
            self.core.coordinators.forget_if(kind, key, asked);
        }
    }

    /// A connection of the owner's own, for a loop that polls it. Waits for the broker's reconnect back-off first.
    ///
    /// # Errors
    /// When no connection could be made this time.
    ///
    /// # Cancel safety
    /// Dropped, the half-made connection is closed.
    pub async fn open(&self, broker: i32) -> Result<Wire, Error> {
        if let Some(until) = self.core.pool.not_before(broker) {
            self.sleep_until(until).await;
        }
        let Some((host, port)) = self.core.endpoint(broker) else {
            // Its machine is down, or it has left: whoever comes again at once waits like after an attempt, or would spin.
            self.core.pool.on_attempt(broker, self.now(), false, &mut self.rng("reconnect"));
            self.core.refresh(RefreshReason::Outdated);
            return Err(Error::new(
                ErrorKind::Connect,
                format!("broker {broker} is not in the cluster's metadata at the moment."),
            )
            .with_broker(broker));
        };
        let result = self.core.establish.wire(broker, &host, port).await;
        let mut rng = self.rng("reconnect");
        self.core.pool.on_attempt(broker, self.now(), result.is_ok(), &mut rng);
        if result.is_err() {
            self.core.refresh(RefreshReason::Disconnected);
        }
        result
    }

    /// How often in a row connecting to the broker has failed.
    pub fn connect_failures(&self, broker: i32) -> u32 {
        self.core.pool.connect_failures(broker)
    }

    fn start_connection(&self, broker: i32) -> service::Connection {
        let (connection, queue) = service::channel();
        let connector = Connector { link: self.clone(), broker };
        self.spawn("connection", service::run(connector, queue));
        connection
    }
}

/// Connects one shared connection's task.
struct Connector {
    link: Link,
    broker: i32,
}

impl Connect for Connector {
    async fn connect(&self) -> Result<Wire, Error> {
        self.link.open(self.broker).await
    }

    fn too_late(&self, api: ApiKey) -> Error {
        let name = match self.link.core.endpoint(self.broker) {
            Some((host, port)) => format!("{host}:{port}"),
            None => format!("broker {}", self.broker),
        };
        let why = "there was no connection yet when the request was due";
        unreachable(self.broker, &name, why).with_api(api)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<Sleep>> {
        self.link.sleep_until(deadline)
    }

    fn now(&self) -> Instant {
        self.link.now()
    }
}

/// Keeps topics in the picture while it lives.
pub struct TopicInterest {
    core: Arc<Core>,
    topics: Vec<Arc<str>>,
}

impl Drop for TopicInterest {
    fn drop(&mut self) {
        for topic in &self.topics {
            self.core.machine().on_interest_ended(topic);
        }
    }
}

impl fmt::Debug for TopicInterest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TopicInterest").field(&self.topics).finish()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("owner", &self.label()).finish_non_exhaustive()
    }
}
