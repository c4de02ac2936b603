//! The consumer of a group, and how it is built.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use milena_client::{Client, Error, ErrorKind, Owner};
use tokio::sync::{mpsc, oneshot};

use crate::config::{Config, fetch_settings};
use crate::deadline::after;
use crate::driver::group::{self, Command, GroupConfig};
use crate::driver::listener::Calls;
use crate::driver::upkeep;
use crate::reader::Reader;
use crate::reading::reading_methods;
use crate::shared::Shared;
use crate::{Assignor, ConsumerHandle, CooperativeSticky, RebalanceListener};

/// Reads the topics of a group's subscription, shared with the group's other members.
///
/// Reading is *at least once*: what was acknowledged is committed (every [`auto_commit`](ConsumerBuilder::auto_commit) interval, before
/// a partition goes to another member, and when the consumer is closed), and what was not is read again by whoever comes next.
/// [`recv`](Self::recv) lends a record and takes it as acknowledged when the next one is asked for; what [`poll`](Self::poll) gives is
/// acknowledged with [`Records::ack`](crate::Records::ack).
///
/// Heartbeats, joins and commits happen on the client's thread: a program that is busy, or blocks its own runtime, stays a member.
pub struct Consumer {
    reader: Reader,
    owner: Owner,
    group: mpsc::UnboundedSender<Command>,
}

impl Consumer {
    /// Starts building a member of `group` (`group.id`).
    pub fn builder(client: &Client, group: impl Into<Arc<str>>) -> ConsumerBuilder {
        ConsumerBuilder {
            client: client.clone(),
            config: Config::default(),
            group: GroupConfig {
                group: group.into(),
                topics: BTreeSet::new(),
                instance_id: None,
                assignor: Arc::new(CooperativeSticky),
                session_timeout: Duration::from_secs(45),
                heartbeat_interval: Duration::from_secs(3),
                max_poll_interval: Duration::from_secs(300),
                auto_commit: Some(Duration::from_secs(5)),
                commits: true,
            },
            listener: None,
        }
    }

    /// A handle that pauses, seeks, acknowledges and commits while a read waits.
    pub fn handle(&self) -> ConsumerHandle {
        ConsumerHandle::new(self.reader.shared.clone())
    }

    /// Commits what is acknowledged, gives the partitions up, leaves the group and ends all tasks, by `deadline` from now at the latest.
    /// A record that `recv` has lent last is not acknowledged by closing.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] if the last acknowledged offsets could not be committed in time: their records will be read again.
    ///
    /// # Cancel safety
    /// Dropped, the consumer ends without leaving; its partitions are given to others when its session times out.
    pub async fn close(self, deadline: Duration) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        let deadline = after(self.owner.now(), deadline);
        let result = match self.group.send(Command::Close { deadline, reply }) {
            // The driver has gone before: there is nothing left to commit for.
            Err(_) => Ok(()),
            Ok(()) => answer.await.unwrap_or(Ok(())),
        };
        self.reader.shared.change(|partitions| partitions.close(None));
        self.owner.close().await;
        result
    }
}

reading_methods!(Consumer);

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("owner", &self.owner.label()).finish_non_exhaustive()
    }
}

/// Builds a [`Consumer`].
#[must_use]
pub struct ConsumerBuilder {
    client: Client,
    config: Config,
    group: GroupConfig,
    listener: Option<Arc<dyn RebalanceListener>>,
}

impl ConsumerBuilder {
    /// The topics to read. One that does not exist yet is read when it does.
    pub fn subscribe(mut self, topics: impl IntoIterator<Item = impl Into<Arc<str>>>) -> Self {
        self.group.topics.extend(topics.into_iter().map(Into::into));
        self
    }

    /// How often acknowledged offsets are committed (`auto.commit.interval.ms`); `None` leaves it to
    /// [`commit`](ConsumerHandle::commit), revocations and the close. Default: 5 s. More often means fewer records read again after a
    /// crash, and more requests.
    pub fn auto_commit(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.group.auto_commit = interval.into();
        self
    }

    /// The offsets are committed by a transactional producer (`Transaction::send_offsets`), and never by this consumer: not every
    /// interval, not before a partition moves, not when it is closed. [Acknowledge](ConsumerHandle::ack_up_to) what a transaction has
    /// committed: a partition that moves waits until what was handed out of it is acknowledged, or
    /// [taken back](ConsumerHandle::seek_to_committed). Use it with `IsolationLevel::ReadCommitted`.
    pub fn commits_in_transactions(mut self) -> Self {
        self.group.auto_commit = None;
        self.group.commits = false;
        self
    }

    /// After how long without a heartbeat the coordinator gives this member up (`session.timeout.ms`). Default: 45 s. Shorter finds a
    /// dead member sooner, and mistakes a slow network for one.
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.group.session_timeout = timeout;
        self
    }

    /// How often a heartbeat is sent (`heartbeat.interval.ms`). Default: 3 s; at most a third of the session time-out. It is also how
    /// soon a rebalance is noticed.
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.group.heartbeat_interval = interval;
        self
    }

    /// For how long records may stay unacknowledged without another poll, receive or acknowledgement before this member leaves, so
    /// that others can do its work (`max.poll.interval.ms`). Default: 5 min. It is also how long a rebalance waits for members.
    pub fn max_poll_interval(mut self, interval: Duration) -> Self {
        self.group.max_poll_interval = interval;
        self
    }

    /// A name that survives restarts (`group.instance.id`, KIP-345): the member's partitions wait for it, for as long as the session
    /// time-out, instead of being given to others. Two members must never have the same.
    pub fn instance_id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.group.instance_id = Some(id.into());
        self
    }

    /// How partitions are distributed (`partition.assignment.strategy`). Default: [`CooperativeSticky`]. All members must use the same.
    pub fn assignor(mut self, assignor: impl Assignor) -> Self {
        self.group.assignor = Arc::new(assignor);
        self
    }

    /// Like [`assignor`](Self::assignor), for one that its maker keeps a hand on.
    pub fn shared_assignor(mut self, assignor: Arc<dyn Assignor>) -> Self {
        self.group.assignor = assignor;
        self
    }

    /// Is told what this member gets and gives up. It runs on the runtime on which [`build`](Self::build) is called.
    pub fn listener(mut self, listener: impl RebalanceListener) -> Self {
        self.listener = Some(Arc::new(listener));
        self
    }

    /// Starts the member. It joins in the background; reads wait for what it is given.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for settings that make no sense together.
    ///
    /// # Cancel safety
    /// Dropped, nothing has been started.
    pub async fn build(self) -> Result<Consumer, Error> {
        self.check()?;
        self.config.check()?;
        let owner = self.client.new_owner("consumer");
        let (sender, commands) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(self.config, owner.link().clone(), Some(sender.clone())));
        let handle = ConsumerHandle::new(shared.clone());
        let runtime = match tokio::runtime::Handle::try_current() {
            Ok(runtime) => runtime,
            Err(_) if self.listener.is_none() => owner.spawner().handle().clone(),
            Err(_) => {
                let text = "a consumer with a rebalance listener must be built on a tokio runtime, on which the listener then runs.";
                return Err(Error::new(ErrorKind::Config, text));
            }
        };
        let listener = Calls::start(self.listener, &runtime, handle);
        let name = self.group.group.clone();
        owner.spawn("group", group::run(shared.clone(), self.group, listener, commands));
        owner.spawn("upkeep", upkeep::run(shared.clone(), Some(name)));
        Ok(Consumer { reader: Reader::new(shared), owner, group: sender })
    }

    fn check(&self) -> Result<(), Error> {
        let group = &self.group;
        let text = if group.group.is_empty() {
            "a group needs a name: give one to Consumer::builder, or use PartitionConsumer to read without a group."
        } else if group.topics.is_empty() {
            "nothing is subscribed: call subscribe, or use PartitionConsumer to read chosen partitions."
        } else if group.heartbeat_interval.is_zero() || group.heartbeat_interval * 3 > group.session_timeout {
            "heartbeat_interval must be above zero and at most a third of session_timeout."
        } else if group.max_poll_interval < group.heartbeat_interval {
            "max_poll_interval must not be shorter than heartbeat_interval."
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Config, text))
    }
}

fetch_settings!(ConsumerBuilder);

impl fmt::Debug for ConsumerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerBuilder")
            .field("group", &self.group)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
