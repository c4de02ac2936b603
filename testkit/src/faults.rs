//! Faults are data: *when* a request looks like this, *then* react like that.
//!
//! ```no_run
//! # async fn f() -> std::io::Result<()> {
//! use std::time::Duration;
//! use milena_testkit::{Api, Cluster, ErrorCode, Reaction};
//!
//! let cluster = Cluster::builder().topic("orders", 6).start_in_memory()?;
//! let lost_ack = cluster.faults().when(Api::Produce).topic("orders").nth(3).then(Reaction::ApplyThenDisconnect);
//! let slow = cluster.faults().when(Api::Fetch).broker(2).always().then(Reaction::Delay(Duration::from_millis(200)));
//! let refused = cluster.faults().when(Api::OffsetCommit).times(2).then(Reaction::Error(ErrorCode::NOT_COORDINATOR));
//! // … drive the client, then be sure that the premise of the test came true:
//! assert_eq!(lost_ack.fired(), 1);
//! slow.remove();
//! # drop(refused); Ok(()) }
//! ```
//!
//! A request is compared with the faults in the order in which they were made. The first that fires decides; only errors add up, so
//! that two partitions of one request can fail in two ways. Errors are injected where the broker itself would find them, per
//! partition: the other partitions of the request are served, and a refused batch is not appended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use milena_protocol::{ApiKey, ErrorCode};

use crate::apis::Parked;
use crate::event_loop::Shared;

/// What the broker does when a fault fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reaction {
    /// Answers with this code: for the partitions that the fault names, or for all of them, or for the whole request where the API
    /// has no partitions. Nothing is applied there. Codes of fetch sessions stand at the top of a Fetch response, and an error of
    /// OffsetFetch that names no topic is the group's.
    Error(ErrorCode),
    /// Neither applies nor answers; the connection stays open and, as a broker serves one request at a time, silent.
    Drop,
    /// Closes the connection without applying anything.
    Disconnect,
    /// Applies, and never answers.
    ApplyThenDrop,
    /// Applies, and closes the connection instead of answering: the client cannot know.
    ApplyThenDisconnect,
    /// Applies, and then answers with this code, for the whole request, as if it had not, as a coordinator does that loses its place between writing to its
    /// log and hearing of its followers.
    ApplyThenError(ErrorCode),
    /// Waits before it applies. Later requests of the connection wait behind it.
    Delay(Duration),
    /// Applies at once, and waits before it answers.
    DelayAnswer(Duration),
    /// Waits before it applies until [`Fault::release`].
    Hold,
    /// Applies at once, and waits with the answer until [`Fault::release`].
    HoldAnswer,
}

/// What a fault can see of a request.
pub(crate) struct Facts<'a> {
    pub(crate) api: ApiKey,
    pub(crate) broker: i32,
    pub(crate) client_id: &'a str,
    pub(crate) group: Option<&'a str>,
    pub(crate) transactional_id: Option<&'a str>,
    pub(crate) partitions: &'a [(String, i32)],
}

/// An error that a handler has to give for the partitions it names.
#[derive(Debug, Clone)]
pub(crate) struct InjectedError {
    topic: Option<String>,
    partition: Option<i32>,
    code: ErrorCode,
}

impl InjectedError {
    /// An error that concerns the whole request.
    pub(crate) fn for_all(code: ErrorCode) -> Self {
        Self { topic: None, partition: None, code }
    }

    /// Whether the error concerns this partition.
    pub(crate) fn concerns(&self, topic: &str, partition: i32) -> bool {
        self.topic.as_deref().is_none_or(|t| t == topic) && self.partition.is_none_or(|p| p == partition)
    }

    /// Whether the fault names no topic and no partition.
    pub(crate) fn is_for_all(&self) -> bool {
        self.topic.is_none() && self.partition.is_none()
    }

    pub(crate) fn code(&self) -> ErrorCode {
        self.code
    }
}

/// What the faults say about one request.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) errors: Vec<InjectedError>,
    pub(crate) reaction: Option<(u64, Reaction)>,
    /// The faults that fired, for the log.
    pub(crate) fired: Vec<(u64, Reaction)>,
}

/// A request or an answer that waits for [`Fault::release`].
pub(crate) enum Held {
    Request(Parked),
    Answer { connection: u64, frame: Bytes },
}

#[derive(Debug, Clone, Default)]
struct When {
    api: Option<ApiKey>,
    broker: Option<i32>,
    client_id: Option<String>,
    group: Option<String>,
    transactional_id: Option<String>,
    topic: Option<String>,
    partition: Option<i32>,
    nth: u64,
    times: Option<u64>,
    probability: Option<f64>,
}

impl When {
    fn matches(&self, facts: &Facts<'_>) -> bool {
        let names_partition = self.topic.is_some() || self.partition.is_some();
        self.api.is_none_or(|api| api == facts.api)
            && self.broker.is_none_or(|broker| broker == facts.broker)
            && self.client_id.as_deref().is_none_or(|id| id == facts.client_id)
            && self.group.as_deref().is_none_or(|group| facts.group == Some(group))
            && self.transactional_id.as_deref().is_none_or(|id| facts.transactional_id == Some(id))
            && (!names_partition
                || facts.partitions.iter().any(|(topic, partition)| {
                    self.topic.as_ref().is_none_or(|t| t == topic) && self.partition.is_none_or(|p| p == *partition)
                }))
    }
}

struct Rule {
    when: When,
    reaction: Reaction,
    rng: fastrand::Rng,
    matched: u64,
    fired: u64,
    released: bool,
}

/// All faults of a cluster.
pub(crate) struct Rules {
    rules: BTreeMap<u64, Rule>,
    next_id: u64,
    seed: u64,
    held: BTreeMap<u64, Vec<Held>>,
    /// How often faults fired that have been removed since.
    removed: BTreeMap<u64, u64>,
}

impl Rules {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rules: BTreeMap::new(), next_id: 1, seed, held: BTreeMap::new(), removed: BTreeMap::new() }
    }

    /// Whether there is nothing to compare a request with.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    fn add(&mut self, when: When, reaction: Reaction) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let rng = fastrand::Rng::with_seed(self.seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        self.rules.insert(id, Rule { when, reaction, rng, matched: 0, fired: 0, released: false });
        id
    }

    /// Compares a request with all faults.
    pub(crate) fn judge(&mut self, facts: &Facts<'_>) -> Verdict {
        let mut verdict = Verdict::default();
        for (id, rule) in &mut self.rules {
            if rule.released || !rule.when.matches(facts) {
                continue;
            }
            rule.matched += 1;
            let is_error = matches!(rule.reaction, Reaction::Error(_));
            if rule.matched < rule.when.nth.max(1)
                || rule.when.times.is_some_and(|times| rule.fired >= times)
                || (verdict.reaction.is_some() && !is_error)
                || rule.when.probability.is_some_and(|p| rule.rng.f64() >= p)
            {
                continue;
            }
            rule.fired += 1;
            verdict.fired.push((*id, rule.reaction));
            match rule.reaction {
                Reaction::Error(code) => {
                    let (topic, partition) = (rule.when.topic.clone(), rule.when.partition);
                    verdict.errors.push(InjectedError { topic, partition, code });
                }
                reaction => verdict.reaction = Some((*id, reaction)),
            }
        }
        verdict
    }

    /// Keeps something until its fault is released; gives it back if that has happened already.
    pub(crate) fn hold(&mut self, fault: u64, held: Held) -> Option<Held> {
        if self.rules.get(&fault).is_none_or(|rule| rule.released) {
            return Some(held);
        }
        self.held.entry(fault).or_default().push(held);
        None
    }

    fn fired(&self, id: u64) -> u64 {
        self.rules.get(&id).map_or_else(|| self.removed.get(&id).copied().unwrap_or(0), |rule| rule.fired)
    }

    fn release(&mut self, id: u64) -> Vec<Held> {
        if let Some(rule) = self.rules.get_mut(&id) {
            rule.released = true;
        }
        self.held.remove(&id).unwrap_or_default()
    }

    fn remove(&mut self, id: u64) -> Vec<Held> {
        let held = self.release(id);
        if let Some(rule) = self.rules.remove(&id) {
            self.removed.insert(id, rule.fired);
        }
        held
    }
}

/// Makes faults: [`Cluster::faults`](crate::Cluster::faults).
pub struct Faults {
    pub(crate) shared: Arc<Shared>,
}

impl Faults {
    /// A fault for requests of this API.
    pub fn when(&self, api: impl Into<ApiKey>) -> FaultBuilder {
        self.any().api(api.into())
    }

    /// A fault for requests of every API.
    pub fn any(&self) -> FaultBuilder {
        FaultBuilder { shared: Arc::clone(&self.shared), when: When { nth: 1, times: Some(1), ..When::default() } }
    }
}

/// Says which requests a fault concerns. It fires once, at the first that matches, unless it is told otherwise.
#[must_use = "a fault is made by `then`"]
pub struct FaultBuilder {
    shared: Arc<Shared>,
    when: When,
}

impl FaultBuilder {
    fn api(mut self, api: ApiKey) -> Self {
        self.when.api = Some(api);
        self
    }

    /// Only requests to this broker.
    pub fn broker(mut self, broker: i32) -> Self {
        self.when.broker = Some(broker);
        self
    }

    /// Only requests of clients with this client id.
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.when.client_id = Some(client_id.into());
        self
    }

    /// Only requests that name this group.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.when.group = Some(group.into());
        self
    }

    /// Only requests that name this transactional id.
    pub fn transactional_id(mut self, id: impl Into<String>) -> Self {
        self.when.transactional_id = Some(id.into());
        self
    }

    /// Only requests that touch this topic.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.when.topic = Some(topic.into());
        self
    }

    /// Only requests that touch this partition.
    pub fn partition(mut self, partition: i32) -> Self {
        self.when.partition = Some(partition);
        self
    }

    /// Fires at the n-th matching request, counted from 1, and not before.
    pub fn nth(mut self, nth: u64) -> Self {
        self.when.nth = nth;
        self
    }

    /// Fires so many times (1 by default).
    pub fn times(mut self, times: u64) -> Self {
        self.when.times = Some(times);
        self
    }

    /// Fires at every matching request until it is removed.
    pub fn always(mut self) -> Self {
        self.when.times = None;
        self
    }

    /// Fires at a matching request with this probability, 0.0 to 1.0, drawn from the cluster's seed; and from then on as often as it
    /// is drawn.
    pub fn probability(mut self, probability: f64) -> Self {
        self.when.probability = Some(probability);
        self.when.times = None;
        self
    }

    /// Makes the fault. It stays in force when the handle is dropped.
    pub fn then(self, reaction: Reaction) -> Fault {
        let id = self.shared.control(|state| state.faults.add(self.when, reaction));
        Fault { shared: self.shared, id }
    }
}

/// A fault that is in force: ask whether it fired, release what it holds, remove it.
pub struct Fault {
    shared: Arc<Shared>,
    id: u64,
}

impl Fault {
    /// How often it has fired.
    pub fn fired(&self) -> u64 {
        self.shared.control(|state| state.faults.fired(self.id))
    }

    /// Lets everything go that [`Reaction::Hold`] and [`Reaction::HoldAnswer`] keep, in the order of arrival, and ends the fault.
    pub fn release(&self) {
        self.shared.control(|state| {
            let held = state.faults.release(self.id);
            state.resume(held);
        });
    }

    /// Ends the fault; what it holds goes on.
    pub fn remove(&self) {
        self.shared.control(|state| {
            let held = state.faults.remove(self.id);
            state.resume(held);
        });
    }
}
