//! Which requests a fault concerns.

use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::panic::Location;
use std::sync::Arc;

use milena_protocol::{ApiKey, ErrorCode};

use super::fault::{Barrier, Fault, on};
use super::{Reaction, Site};
use crate::apis::Touched;

/// What a fault can see of a request.
pub(crate) struct Facts<'a> {
    pub(crate) api: ApiKey,
    pub(crate) version: i16,
    pub(crate) broker: i32,
    pub(crate) connection: u64,
    pub(crate) client_id: &'a str,
    pub(crate) group: Option<&'a str>,
    pub(crate) transactional_id: Option<&'a str>,
    pub(crate) partitions: &'a [Touched],
    pub(crate) is_answered: bool,
    pub(crate) tells_only: Option<&'static [ErrorCode]>,
}

/// The conditions of a fault.
#[derive(Debug, Clone)]
pub(super) struct When {
    api: Option<ApiKey>,
    versions: (i16, i16),
    broker: Option<i32>,
    connection: Option<u64>,
    client_id: Option<String>,
    group: Option<String>,
    transactional_id: Option<String>,
    pub(super) topic: Option<String>,
    pub(super) partition: Option<i32>,
    pub(super) nth: u64,
    pub(super) times: Option<u64>,
    pub(super) probability: Option<f64>,
    pub(super) optional: bool,
}

impl When {
    fn new(api: Option<ApiKey>) -> Self {
        Self {
            api,
            versions: (i16::MIN, i16::MAX),
            broker: None,
            connection: None,
            client_id: None,
            group: None,
            transactional_id: None,
            topic: None,
            partition: None,
            nth: 1,
            times: Some(1),
            probability: None,
            optional: false,
        }
    }

    pub(super) fn matches(&self, facts: &Facts<'_>) -> bool {
        let names_partition = self.topic.is_some() || self.partition.is_some();
        self.api.is_none_or(|api| api == facts.api)
            && (self.versions.0..=self.versions.1).contains(&facts.version)
            && self.broker.is_none_or(|broker| broker == facts.broker)
            && self.connection.is_none_or(|connection| connection == facts.connection)
            && self.client_id.as_deref().is_none_or(|id| id == facts.client_id)
            && self.group.as_deref().is_none_or(|group| facts.group == Some(group))
            && self.transactional_id.as_deref().is_none_or(|id| facts.transactional_id == Some(id))
            && (!names_partition
                || facts.partitions.iter().any(|(topic, partition)| {
                    self.topic.as_ref().is_none_or(|t| **t == **topic) && self.partition.is_none_or(|p| p == *partition)
                }))
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.api {
            Some(api) => write!(f, "when {api}")?,
            None => write!(f, "when any request")?,
        }
        match self.versions {
            (i16::MIN, i16::MAX) => {}
            (from, to) if from == to => write!(f, " v{from}")?,
            (from, i16::MAX) => write!(f, " v{from} or later")?,
            (i16::MIN, to) => write!(f, " v{to} or earlier")?,
            (from, to) => write!(f, " v{from} to v{to}")?,
        }
        let named = [
            ("topic", self.topic.clone()),
            ("partition", self.partition.map(|partition| partition.to_string())),
            ("group", self.group.clone()),
            ("transactional id", self.transactional_id.clone()),
            ("client id", self.client_id.clone()),
            ("broker", self.broker.map(|broker| broker.to_string())),
            ("connection", self.connection.map(|connection| connection.to_string())),
        ];
        for (what, value) in named {
            if let Some(value) = value {
                write!(f, ", {what} {value}")?;
            }
        }
        if self.nth > 1 { write!(f, ", number {}", self.nth) } else { Ok(()) }
    }
}

/// Makes faults: `faults()` of a [`Cluster`](crate::Cluster::faults) or of a [`Proxy`](crate::Proxy::faults).
pub struct Faults {
    pub(crate) site: Arc<dyn Site>,
}

impl Faults {
    /// A fault for requests of this API.
    pub fn when(&self, api: impl Into<ApiKey>) -> FaultBuilder {
        FaultBuilder { site: Arc::clone(&self.site), when: When::new(Some(api.into())) }
    }

    /// A fault for requests of every API.
    pub fn any(&self) -> FaultBuilder {
        FaultBuilder { site: Arc::clone(&self.site), when: When::new(None) }
    }
}

/// Says which requests a fault concerns. It fires once, at the first that matches, unless it is told otherwise.
#[must_use = "a fault is made by `then`, a barrier by `before_serving` or `before_answering`"]
pub struct FaultBuilder {
    site: Arc<dyn Site>,
    when: When,
}

impl FaultBuilder {
    /// Only requests of this version.
    pub fn version(self, version: i16) -> Self {
        self.versions(version..=version)
    }

    /// Only requests of these versions, e.g. `..=11`.
    pub fn versions(mut self, versions: impl RangeBounds<i16>) -> Self {
        let from = match versions.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(from) => from.saturating_add(1),
            Bound::Unbounded => i16::MIN,
        };
        let to = match versions.end_bound() {
            Bound::Included(to) => *to,
            Bound::Excluded(to) => to.saturating_sub(1),
            Bound::Unbounded => i16::MAX,
        };
        self.when.versions = (from, to);
        self
    }

    /// Only requests to this broker.
    pub fn broker(mut self, broker: i32) -> Self {
        self.when.broker = Some(broker);
        self
    }

    /// Only requests on this connection, by the number it has in the request log.
    pub fn connection(mut self, connection: u64) -> Self {
        self.when.connection = Some(connection);
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
    /// is drawn. Such a fault may stay silent: it is [`optional`](Self::optional).
    pub fn probability(mut self, probability: f64) -> Self {
        self.when.probability = Some(probability);
        self.when.times = None;
        self.optional()
    }

    /// The test does not fail if the fault never fires.
    pub fn optional(mut self) -> Self {
        self.when.optional = true;
        self
    }

    /// Makes the fault. It stays in force when the handle is dropped.
    ///
    /// # Panics
    /// On a proxy, for [`Reaction::Error`] and [`Reaction::ApplyThenError`]: it makes no answers up.
    #[track_caller]
    pub fn then(self, reaction: Reaction) -> Fault {
        let Self { site, when } = self;
        let line = Location::caller();
        if let Some(why) = site.refuses(reaction) {
            panic!("{when}, then {reaction:?}: {why}");
        }
        let (id, progress) = on(&*site, |rules| rules.add(when, reaction, line));
        Fault { site, id, progress }
    }

    /// Stops the matching request before it is served, until the [`Barrier`] lets it go on.
    #[track_caller]
    pub fn before_serving(self) -> Barrier {
        Barrier { fault: self.then(Reaction::Hold) }
    }

    /// Stops the matching request after it was served, before its answer goes out, until the [`Barrier`] lets it go on. A request that gets no answer (acks=0) does not match.
    #[track_caller]
    pub fn before_answering(self) -> Barrier {
        Barrier { fault: self.then(Reaction::HoldAnswer) }
    }
}
