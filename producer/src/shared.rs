//! What the handles and the tasks of one producer share: its topics, its brokers, its identity and its end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use milena_client::{Error, ErrorKind, Link, Outcome, TopicInterest};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::accumulator::{Batch, Filling, Notice, Part, closed};
use crate::broker::Broker;
use crate::config::Config;
use crate::delivery::{Done, Ending, Placed};
use crate::driver;
use crate::interceptor::Acknowledged;
use crate::lookups::LookUps;
use crate::metrics::Metrics;
use crate::pool::Pool;
use crate::preflight::Warned;
use crate::sequence::{Identity, Slot, Window};
use crate::settings::{AllSettings, Common};
use crate::topics::{self, Moving, Sticky, Topic, Topics};
use crate::transaction::{Transactional, given_up};

pub(crate) struct Shared {
    pub(crate) link: Link,
    pub(crate) config: Config,
    pub(crate) settings: AllSettings,
    pub(crate) pool: Arc<Pool>,
    pub(crate) metrics: Metrics,
    /// Read by every `send`.
    pub(crate) topics: Topics,
    /// Held while a topic is added to `topics`. Keeps the topics in the client's metadata.
    interests: Mutex<Vec<TopicInterest>>,
    brokers: Mutex<BTreeMap<i32, Arc<Broker>>>,
    identity: Mutex<ProducerId>,
    /// Has the upkeep task look around.
    pub(crate) upkeep: Notify,
    /// The upkeep task will look for expired batches: whoever opens one need not tell it.
    pub(crate) expiry_armed: AtomicBool,
    /// Those who wait for room.
    pub(crate) waiters: AtomicUsize,
    /// Bytes of batches that were closed since a sender last gave way to the network.
    pub(crate) owed: AtomicUsize,
    /// No topic is added and nobody waits any more.
    pub(crate) is_closed: AtomicBool,
    /// What was wrong with a connection last, while no answer has come since: told with records that are given up.
    pub(crate) trouble: Mutex<Option<Error>>,
    /// The state of its transactions, for a transactional producer.
    pub(crate) transaction: Option<Transactional>,
    /// What about the topics was warned of already.
    pub(crate) warned: Warned,
    /// Topics that somebody who does not wait has asked for.
    pub(crate) look_ups: LookUps,
    gathers: AtomicU64,
}

/// The producer's identity, which new partitions begin with.
#[derive(Debug, Default)]
struct ProducerId {
    known: Option<Identity>,
    wanted: bool,
}

impl Shared {
    pub(crate) fn new(link: Link, config: Config, transaction: Option<Transactional>) -> Self {
        let settings = AllSettings::new(&config);
        let pool = Arc::new(Pool::new(config.buffer_memory, settings.lengths()));
        Self {
            metrics: Metrics::new(&link, &pool, config.buffer_memory),
            settings,
            pool,
            config,
            topics: Topics::new(),
            interests: Mutex::default(),
            brokers: Mutex::default(),
            identity: Mutex::default(),
            upkeep: Notify::new(),
            expiry_armed: AtomicBool::new(false),
            waiters: AtomicUsize::new(0),
            owed: AtomicUsize::new(0),
            trouble: Mutex::default(),
            is_closed: AtomicBool::new(false),
            transaction,
            warned: Warned::default(),
            look_ups: LookUps::default(),
            gathers: AtomicU64::new(0),
            link,
        }
    }

    /// Makes a topic that the cluster knows one of the producer's, or takes in that it has other partitions: more of them; or, as it was
    /// made anew, fewer.
    pub(crate) fn add_topic(self: &Arc<Self>, known: &milena_client::Topic) {
        let mut interests = lock(&self.interests);
        if self.is_closed.load(Ordering::Acquire) {
            return;
        }
        let before = self.topics.get(&known.name);
        let count = topics::count(known.partitions.iter().map(|partition| partition.id));
        if before.is_some() && count == 0 {
            return;
        }
        let mut parts = before.map_or_else(Vec::new, |before| before.parts.clone());
        let ids = before.map_or_else(Arc::default, |before| before.ids.clone());
        let Some(is_made_anew) = topics::take_id(&mut lock(&ids), known.id) else { return };
        if is_made_anew {
            // Its leaders do not know the producer, also if there are as many of them.
            parts.iter().for_each(|part| part.lock().window.on_made_anew());
        }
        // Whoever says that the same topic has fewer partitions has old news. Without ids nobody can tell.
        if before.is_some_and(|before| count == before.count || (count < before.count && !is_made_anew)) {
            return;
        }
        let common = match parts.first() {
            Some(part) => part.common.clone(),
            None => Arc::new(Common {
                settings: self.settings.of(&known.name).clone(),
                metrics: Metrics::of_topic(&self.link, &known.name),
            }),
        };
        for id in parts.len() as i32..count {
            let depth = self.config.max_in_flight;
            let (window, transaction) = match &self.transaction {
                // Whoever begins or ends a transaction holds the same lock.
                Some(transaction) => (Window::transactional(depth), transaction.taken()),
                None => (Window::new(self.config.idempotence, depth).starting_at(self.config.first_sequence), 0),
            };
            parts.push(Part::of(&common, known.name.clone(), id, window, transaction));
        }
        let sticky = match before {
            Some(before) => before.sticky.clone(),
            None => {
                interests.push(self.link.want_topics([&*known.name]));
                let has_leader = |partition| known.partition(partition).is_some_and(|known| known.leader.is_some());
                Sticky::new(count, has_leader, self.link.rng(&format!("sticky/{}", known.name)))
            }
        };
        let topic = Topic::new((known.name.clone(), ids), count, parts, sticky, common.settings.placing.clone());
        let is_new = before.is_none();
        self.assign_all(known, &topic);
        self.topics.insert(topic.clone());
        // What has come since `known` was looked up went past a topic that was not there yet, and comes once only.
        if let Some(newer) = self.link.metadata().topic(&known.name) {
            self.assign_all(newer, &topic);
        }
        drop(interests);
        if is_new {
            self.on_new_topic(known);
        }
    }

    /// Warns of what may lose acknowledged records of a topic.
    fn on_new_topic(self: &Arc<Self>, known: &milena_client::Topic) {
        if let Some(finding) = self.look_at(known) {
            self.warned.warn(&finding);
        }
        if self.config.preflight {
            let (shared, topic) = (self.clone(), known.name.to_string());
            let deadline = self.link.now() + self.config.max_block;
            self.link.spawn("producer-preflight", async move {
                if let Err(error) = shared.preflight(&[topic], deadline).await {
                    tracing::debug!(%error, "a topic could not be looked at");
                }
            });
        }
    }

    /// Takes in a new picture of the cluster: more partitions, other leaders.
    pub(crate) fn on_metadata(self: &Arc<Self>) {
        let metadata = self.link.metadata();
        for topic in self.topics.sorted() {
            let Some(known) = metadata.topic(&topic.name) else { continue };
            self.assign_all(known, &topic);
            self.add_topic(known);
        }
    }

    /// Gives a partition to whoever leads it in the picture of now.
    pub(crate) fn follow(self: &Arc<Self>, part: &Arc<Part>) {
        let metadata = self.link.metadata();
        if let Some(known) = metadata.topic(&part.topic).and_then(|topic| topic.partition(part.id)) {
            self.assign(part, known.leader);
        }
    }

    fn assign_all(self: &Arc<Self>, known: &milena_client::Topic, topic: &Topic) {
        for partition in &known.partitions {
            let part = usize::try_from(partition.id).ok().and_then(|id| topic.parts.get(id));
            if let Some(part) = part {
                self.assign(part, partition.leader);
            }
        }
    }

    /// The topic's records without a key go on to another partition than `from`.
    #[cold]
    pub(crate) fn move_sticky(&self, topic: &Topic, from: i32) {
        let partitioning = &self.config.partitioning;
        let stalled = match partitioning.availability_timeout {
            Duration::ZERO => Vec::new(),
            timeout => self.stalled_brokers(timeout),
        };
        topic.move_sticky(from, Moving { adaptive: partitioning.adaptive, stalled: &stalled });
    }

    /// The brokers that have been silent for longer than that.
    fn stalled_brokers(&self, timeout: Duration) -> Vec<i32> {
        let now = self.link.now();
        let is_stalled = |broker: &&Arc<Broker>| {
            broker.silent_since().is_some_and(|since| now.saturating_duration_since(since) > timeout)
        };
        lock(&self.brokers).values().filter(is_stalled).map(|broker| broker.id).collect()
    }

    /// Gives a partition to its leader's task. Without a leader it stays where it is, with its sequence and its records.
    fn assign(self: &Arc<Self>, part: &Arc<Part>, leader: Option<i32>) {
        part.load.set_leader(leader);
        let Some(leader) = leader else { return };
        if part.lock().broker.as_ref().is_some_and(|broker| broker.id == leader) {
            return;
        }
        let broker = self.broker(leader);
        let mut state = part.lock();
        let has_moved = state.broker.replace(broker.clone()).is_some();
        if has_moved {
            state.window.on_move();
        }
        state.on_linger_over(None);
        let is_idle = state.is_idle();
        // It may be in the old broker's queue as well, which skips what is not its own, and so does not count: also an idle partition may,
        // whose batches have ended there unsent.
        state.queued = !is_idle;
        drop(state);
        if !is_idle {
            broker.push_ready(part.clone());
        }
        if has_moved {
            // Without the lock: a subscriber may send what it hears through this producer.
            tracing::debug!(topic = %part.topic, partition = part.id, leader, "the leader has moved");
        }
    }

    /// The broker's shared half; its task is started with the first partition it leads.
    fn broker(self: &Arc<Self>, id: i32) -> Arc<Broker> {
        let mut brokers = lock(&self.brokers);
        let broker = brokers.entry(id).or_insert_with(|| {
            let broker = Arc::new(Broker::new(id));
            self.link.spawn("produce", driver::broker::run(self.clone(), broker.clone()));
            broker
        });
        broker.clone()
    }

    fn all_brokers(&self) -> Vec<Arc<Broker>> {
        lock(&self.brokers).values().cloned().collect()
    }

    /// All partitions, in order.
    pub(crate) fn parts(&self) -> Vec<Arc<Part>> {
        self.topics.sorted().iter().flat_map(|topic| topic.parts.iter().cloned()).collect()
    }

    /// Does what an append, or anything else under a partition's lock, has left to be done outside of it.
    pub(crate) fn on_notice(&self, part: &Arc<Part>, notice: Notice) {
        if notice.closed_bytes > 0 {
            self.owed.fetch_add(notice.closed_bytes, Ordering::Relaxed);
        }
        if let Some((broker, at, number)) = notice.lingering {
            broker.push_lingering(at, number, part.clone());
        }
        if let Some(broker) = notice.ready {
            broker.push_ready(part.clone());
        }
        if notice.opened && !self.expiry_armed.load(Ordering::Relaxed) {
            self.expiry_armed.store(true, Ordering::Relaxed);
            self.upkeep.notify_one();
        }
    }

    /// Has everything sent that lingers. Returns what was not settled at that moment.
    pub(crate) fn hurry(&self) -> Vec<Arc<Done>> {
        let mut pending = Vec::new();
        for part in self.parts() {
            let mut notice = Notice::default();
            let mut state = part.lock();
            pending.extend(state.pending().cloned());
            if state.on_linger_over(None) {
                state.notify(&mut notice);
            }
            drop(state);
            self.on_notice(&part, notice);
        }
        pending
    }

    /// The identity for a partition that has none; asks for one if there is none yet.
    pub(crate) fn identity(&self) -> Option<Identity> {
        let mut identity = lock(&self.identity);
        if identity.known.is_none() && !identity.wanted && self.transaction.is_none() {
            identity.wanted = true;
            self.upkeep.notify_one();
        }
        identity.known
    }

    /// An identity with another producer id than `used_up`, whose epoch cannot grow; asks for one if there is none yet.
    pub(crate) fn identity_after(&self, used_up: Identity) -> Option<Identity> {
        let mut identity = lock(&self.identity);
        if identity.known.is_some_and(|known| known.producer_id == used_up.producer_id) {
            identity.known = None;
        }
        drop(identity);
        self.identity()
    }

    pub(crate) fn is_identity_wanted(&self) -> bool {
        lock(&self.identity).wanted
    }

    pub(crate) fn on_identity(&self, identity: Option<Identity>) {
        *lock(&self.identity) = ProducerId { known: identity, wanted: false };
        for broker in self.all_brokers() {
            broker.ring();
        }
    }

    /// A number that no other gathering of a request has.
    pub(crate) fn next_gather(&self) -> u64 {
        self.gathers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Fails what is older than `delivery_timeout`; returns when the next batch will be.
    pub(crate) fn expire(&self, now: Instant) -> Option<Instant> {
        let timeout = self.config.delivery_timeout;
        let mut next: Option<Instant> = None;
        for part in self.parts() {
            let mut notice = Notice::default();
            let mut state = part.lock();
            let new = now.checked_sub(timeout).map_or_else(Vec::new, |before| state.expire_new(before));
            let sent = state.window.expire(now);
            state.settle_sent(&sent);
            if !sent.is_empty() {
                // A gap in the sequence must be closed.
                state.notify(&mut notice);
            }
            let oldest = state.oldest_new().map(|opened| opened + timeout);
            next = [next, oldest, state.window.next_deadline()].into_iter().flatten().min();
            let error = (!new.is_empty() || !sent.is_empty()).then(|| self.too_late(&part));
            if let Some(error) = &error {
                self.on_records_failed(error);
            }
            drop(state);
            self.on_notice(&part, notice);
            if let Some(error) = error {
                self.fail_new(&part, new, &error);
                self.fail_sent(&part, sent, &error);
            }
        }
        // A batch that somebody prepares just now could not be taken though its time is over.
        next.map(|next| next.max(now + Duration::from_millis(1)))
    }

    /// The failure of records that are older than `delivery_timeout`.
    fn too_late(&self, part: &Part) -> Error {
        let timeout = self.config.delivery_timeout;
        let mut text = format!(
            "the record was not acknowledged within delivery_timeout ({timeout:?}): its partition's leader is down, slow or \
             overloaded, or more is sent than it can take."
        );
        let trouble = lock(&self.trouble).clone();
        if let Some(trouble) = &trouble {
            text = format!("{text} What was wrong last: {trouble}");
        }
        let error = Error::new(ErrorKind::Timeout, text).with_topic_partition(part.topic_partition());
        match trouble {
            Some(trouble) => error.with_source(trouble),
            None => error,
        }
    }

    /// Fails batches that have not been sent. Returns how many records they had.
    fn fail_new(&self, part: &Part, new: impl IntoIterator<Item = Filling>, error: &Error) -> u64 {
        let mut records = 0;
        for filling in new {
            let count = filling.builder.count();
            self.count_failed(part, count);
            let error = error.clone().with_outcome(Outcome::NotWritten);
            self.tell_interceptors(part, count, &Ending::Failed(error.clone()));
            filling.fail(&self.pool, &error);
            records += u64::from(count);
        }
        records
    }

    /// Fails batches that have left their window. Returns how many records were not written, and of how many nobody can say.
    fn fail_sent(
        &self,
        part: &Part,
        sent: impl IntoIterator<Item = (Slot<Batch>, Outcome)>,
        error: &Error,
    ) -> (u64, u64) {
        let (mut not_written, mut unknown) = (0, 0);
        for (slot, outcome) in sent {
            self.count_failed(part, slot.count);
            match outcome {
                Outcome::NotWritten => not_written += u64::from(slot.count),
                Outcome::Unknown | Outcome::Written => unknown += u64::from(slot.count),
            }
            self.end_batch(part, slot.count, slot.batch, Ending::Failed(error.clone().with_outcome(outcome)));
        }
        (not_written, unknown)
    }

    /// A batch of `count` records has its result. Called without any lock held.
    pub(crate) fn end_batch(&self, part: &Part, count: u32, batch: Batch, ending: Ending) {
        self.tell_interceptors(part, count, &ending);
        batch.end(&self.pool, ending);
    }

    fn tell_interceptors(&self, part: &Part, records: u32, ending: &Ending) {
        if self.config.interceptors.is_empty() {
            return;
        }
        let partition = part.id;
        let result = match ending {
            Ending::Written { base, append_time } => Ok(Placed { partition, offset: *base, timestamp: *append_time }),
            Ending::Failed(error) => Err(error),
        };
        let acknowledged = Acknowledged { topic: &part.topic, partition: Some(partition), records, result };
        self.config.interceptors.on_acknowledgement(&acknowledged);
    }

    /// Counts records that have failed.
    pub(crate) fn count_failed(&self, part: &Part, records: u32) {
        self.metrics.on_records_failed(&part.common.metrics, records, self.link.now());
    }

    /// Records have failed: what that means for the transaction, if there is one. Called while their partition is locked that their batch
    /// was taken from: who commits and does not find it there any more must know of its failure.
    pub(crate) fn on_records_failed(&self, error: &Error) {
        if let Some(transaction) = &self.transaction {
            transaction.on_records_failed(error);
        }
    }

    /// Fails batches that a window has given up with their transaction.
    pub(crate) fn fail_drained(&self, part: &Part, drained: impl IntoIterator<Item = (Slot<Batch>, Outcome)>) {
        self.fail_sent(part, drained, &given_up().with_topic_partition(part.topic_partition()));
    }

    // ---- transactions

    /// Takes records of the transaction `number` from now on.
    pub(crate) fn begin_transaction(&self, transaction: &Transactional, number: u64) {
        let _interests = lock(&self.interests);
        transaction.set_taken(number);
        for part in self.parts() {
            part.lock().begin(number);
        }
    }

    /// Takes no more records of the transaction, and sends at once what it has. Returns what was not settled at that moment.
    pub(crate) fn end_transaction(&self, transaction: &Transactional) -> Vec<Arc<Done>> {
        let _interests = lock(&self.interests);
        transaction.set_taken(0);
        for part in self.parts() {
            part.lock().end_transaction();
        }
        self.hurry()
    }

    /// Gives the transaction up: takes none of its records any more, fails those that are not with a broker, and sends none again.
    /// Returns what is with a broker and not settled.
    pub(crate) fn drain_transaction(&self, transaction: &Transactional) -> Vec<Arc<Done>> {
        let interests = lock(&self.interests);
        transaction.set_taken(0);
        let (mut pending, mut given_up_here) = (Vec::new(), Vec::new());
        for part in self.parts() {
            let mut state = part.lock();
            state.end_transaction();
            let new = state.abandon_new();
            let sent = state.window.drain();
            state.settle_sent(&sent);
            pending.extend(state.pending().cloned());
            drop(state);
            given_up_here.push((part, new, sent));
        }
        drop(interests);
        for (part, new, sent) in given_up_here {
            let error = given_up().with_topic_partition(part.topic_partition());
            self.fail_new(&part, new, &error);
            self.fail_sent(&part, sent, &error);
        }
        pending
    }

    /// A new epoch begins for all partitions; nothing of the old one is under way.
    pub(crate) fn restart_sequences(&self, identity: Identity) {
        lock(&self.identity).known = Some(identity);
        for part in self.parts() {
            part.lock().window.restart(identity);
        }
    }

    /// Has the partitions that have something to send looked at again: what they waited for has happened.
    pub(crate) fn wake_parts(&self) {
        for part in self.parts() {
            let mut notice = Notice::default();
            let mut state = part.lock();
            if !state.is_idle() {
                state.notify(&mut notice);
            }
            drop(state);
            self.on_notice(&part, notice);
        }
    }

    /// Takes no more records.
    pub(crate) fn shut(&self) {
        let _interests = lock(&self.interests);
        self.is_closed.store(true, Ordering::Release);
        for part in self.parts() {
            let mut notice = Notice::default();
            let mut state = part.lock();
            state.shut(&mut notice);
            drop(state);
            self.on_notice(&part, notice);
        }
        self.pool.close();
    }

    /// Gives up whatever is not settled. Returns how many records certainly were not written, and of how many nobody can say.
    pub(crate) fn abandon(&self, error: &Error) -> (u64, u64) {
        let (mut not_written, mut unknown) = (0, 0);
        for part in self.parts() {
            let error = error.clone().with_topic_partition(part.topic_partition());
            let mut state = part.lock();
            let new = state.abandon_new();
            let sent = state.window.abandon();
            state.settle_sent(&sent);
            drop(state);
            not_written += self.fail_new(&part, new, &error);
            let (refused, lost) = self.fail_sent(&part, sent, &error);
            not_written += refused;
            unknown += lost;
        }
        (not_written, unknown)
    }

    /// Gives up what has not been sent, or also what is under way. Returns how many records certainly were not written, and of how many
    /// nobody can say.
    pub(crate) fn purge(&self, in_flight: bool) -> (u64, u64) {
        let (mut not_written, mut unknown) = (0, 0);
        for part in self.parts() {
            let mut notice = Notice::default();
            let mut state = part.lock();
            let new = state.abandon_new();
            let sent = state.window.purge(in_flight);
            state.settle_sent(&sent);
            if !sent.is_empty() {
                // A gap in the sequence must be closed.
                state.notify(&mut notice);
            }
            drop(state);
            self.on_notice(&part, notice);
            if new.is_empty() && sent.is_empty() {
                continue;
            }
            let error = Error::new(ErrorKind::Purged, "the record was purged before it was acknowledged.")
                .with_topic_partition(part.topic_partition());
            not_written += self.fail_new(&part, new, &error);
            let (refused, lost) = self.fail_sent(&part, sent, &error);
            not_written += refused;
            unknown += lost;
        }
        (not_written, unknown)
    }

    /// The end, when nobody closes the producer first: dropped, or its client closed.
    pub(crate) fn end(&self) {
        self.shut();
        self.abandon(&closed());
        for broker in self.all_brokers() {
            // Partitions in a queue that nobody reads any more.
            broker.queue().clear();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What stands behind these locks changes by single insertions and replacements: a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
