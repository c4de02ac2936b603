//! A compacted topic as a table in memory: read to its end, then followed.
//!
//! Where the end is, the *position* says and never a record: the last offset may be a transaction's marker, or a record that
//! compaction took away.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::Stream;
use milena_client::{Client, Deserializer, Error, ErrorKind, Link, Owner, TopicPartition};

use crate::config::Config;
use crate::deadline::after;
use crate::driver::upkeep;
use crate::metrics::PartitionGauges;
use crate::partition_consumer::end;
use crate::partitions::Stand;
use crate::reader::{Reader, closed};
use crate::shared::Shared;
use crate::typed::decode_shared;
use crate::{ConsumerEvent, IsolationLevel, OffsetReset, ReadError, ReaderHandle, Records, ResetReason, StartAt};

/// How often loading looks whether it is done when nothing tells it so: an end that the log has no more, for example.
const LOOK: Duration = Duration::from_millis(100);

/// The latest value of every key of a compacted topic, in memory: [loaded](CompactedTableBuilder::load) to the end that the topic had
/// then, and following it from there on.
///
/// ```no_run
/// # use milena_client::{Client, Error, serde::Text};
/// # use milena_consumer::CompactedTable;
/// # async fn f(client: &Client) -> Result<(), Error> {
/// let users = CompactedTable::<String, String>::builder(client, "users", Text, Text).load().await?;
/// println!("{} users; ada is {:?}", users.len(), users.get("ada"));
/// # Ok(()) }
/// ```
///
/// A record without a value (a tombstone) removes its key. New partitions of the topic are read from their beginning. It holds all keys
/// and values in memory. Keys are compared decoded: two forms of bytes that decode to the same key are one.
///
/// Where a log is not the one that was read any more (the topic was made anew, an unclean election has cut it, retention went past the
/// position), what came of that partition is removed and the partition is read again from its beginning.
pub struct CompactedTable<K, V> {
    content: Arc<Content<K, V>>,
    shared: Arc<Shared>,
    owner: Owner,
}

/// Builds a [`CompactedTable`].
#[must_use]
pub struct CompactedTableBuilder<K, V> {
    client: Client,
    topic: Arc<str>,
    key: Box<dyn Deserializer<K>>,
    value: Box<dyn Deserializer<V>>,
    config: Config,
    timeout: Duration,
    skips_undecodable: bool,
}

impl<K, V> CompactedTableBuilder<K, V>
where
    K: Ord + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Which records of transactions count (`isolation.level`). Default: [`IsolationLevel::ReadCommitted`]: what was aborted never
    /// shows, and the table follows to the first open transaction.
    pub fn isolation_level(mut self, level: IsolationLevel) -> Self {
        self.config.isolation = level;
        self
    }

    /// How long [`load`](Self::load) may take. Default: 5 min.
    pub fn load_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Leaves records out that have no key or cannot be decoded, and [counts](CompactedTable::skipped) them; each is a warning in the log,
    /// with its place. Without this such a record is an error, which ends loading or following.
    pub fn skip_undecodable(mut self) -> Self {
        self.skips_undecodable = true;
        self
    }

    /// Reads the topic to the end that each of its partitions has now, and starts to follow it.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopicOrPartition`] if there is no such topic; [`ErrorKind::Timeout`] if the end was not reached in time;
    /// [`ErrorKind::Serialization`] for a record that cannot be decoded (its bytes are in the error's source); what a broker refuses.
    ///
    /// # Cancel safety
    /// Dropped, nothing goes on.
    pub async fn load(self) -> Result<CompactedTable<K, V>, Error> {
        let owner = self.client.new_owner("table");
        let deadline = after(owner.now(), self.timeout);
        let topic = owner.topic(&self.topic, deadline).await?;
        // Nothing that is asked for on the way gives up earlier, and all of it ends then.
        let config = Config { api_timeout: self.timeout, ..self.config };
        let shared = Arc::new(Shared::new(config, owner.link().clone(), None));
        let content = Arc::new(Content::default());
        let mut follower = Follower {
            reader: Reader::new(shared.clone()),
            link: owner.link().clone(),
            handle: ReaderHandle { shared: shared.clone() },
            topic: self.topic,
            known: 0,
            key: self.key,
            value: self.value,
            skips_undecodable: self.skips_undecodable,
            content: content.clone(),
        };
        let partitions: Vec<TopicPartition> = follower.partitions(topic.partitions.len());
        let timer = owner.sleep_until(deadline);
        let loading = async {
            // The ends before the reading starts: what is written from now on does not put them off.
            let (begins, ends) = (
                follower.handle.beginning_offsets(partitions.clone()).await?,
                follower.handle.end_offsets(partitions).await?,
            );
            let open =
                ends.into_iter().filter(|(partition, end)| begins.get(partition).is_none_or(|begin| begin < end));
            let open: BTreeMap<TopicPartition, i64> = open.collect();
            follower.grow(topic.partitions.len());
            owner.spawn("upkeep", upkeep::run(shared.clone(), None));
            follower.load(open).await
        };
        tokio::select! {
            biased;
            loaded = loading => loaded?,
            () = timer => {
                let text = "the table was not read to its end in time: give it more with load_timeout, or look why its brokers are slow.";
                return Err(Error::new(ErrorKind::Timeout, text));
            }
        }
        owner.spawn("table", follower.follow());
        Ok(CompactedTable { content, shared, owner })
    }
}

impl<K, V> fmt::Debug for CompactedTableBuilder<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompactedTableBuilder").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl<K, V> CompactedTable<K, V>
where
    K: Ord + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Starts building a table of `topic`. For keys or values as they are, [`Raw`](milena_client::serde::Raw) gives `Vec<u8>` or
    /// `Bytes`. (`Bytes` are slices that keep the batch in memory in which they came: for a large table take `Vec<u8>`.)
    pub fn builder(
        client: &Client,
        topic: impl Into<Arc<str>>,
        key: impl Deserializer<K> + 'static,
        value: impl Deserializer<V> + 'static,
    ) -> CompactedTableBuilder<K, V> {
        CompactedTableBuilder {
            client: client.clone(),
            topic: topic.into(),
            key: Box::new(key),
            value: Box::new(value),
            config: Config {
                isolation: IsolationLevel::ReadCommitted,
                reset: OffsetReset::Earliest,
                ..Config::default()
            },
            timeout: Duration::from_secs(300),
            skips_undecodable: false,
        }
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.content.state().entries.get(key).map(|entry| entry.value.clone())
    }

    /// Whether there is such a key.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.content.state().entries.contains_key(key)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.content.state().entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All keys and values at this moment, by key.
    pub fn entries(&self) -> Vec<(K, V)> {
        self.content.state().entries.iter().map(|(key, entry)| (key.clone(), entry.value.clone())).collect()
    }

    /// Shows each key and value to `look`, by key, without copies. The table stands still meanwhile: do not wait in it, and do not ask
    /// the table from it.
    pub fn for_each(&self, mut look: impl FnMut(&K, &V)) {
        self.content.state().entries.iter().for_each(|(key, entry)| look(key, &entry.value));
    }

    /// Changes from now on, as a [`Stream`]. To miss nothing, take it before you look at what is there.
    pub fn watch(&self) -> TableWatch<K, V> {
        let watcher = Arc::new(Watcher::default());
        self.content.state().watchers.push(Arc::downgrade(&watcher));
        TableWatch { watcher, content: self.content.clone(), told: false }
    }

    /// Why the table is not followed any more, if so: it stays what it was then.
    pub fn error(&self) -> Option<ReadError> {
        self.content.state().over.clone().flatten()
    }

    /// How many records were left out because they have no key or could not be decoded.
    pub fn skipped(&self) -> u64 {
        self.content.skipped.load(Ordering::Relaxed)
    }

    /// How many records the table is behind the ends of its partitions, as the last answers told them.
    pub fn lag(&self) -> u64 {
        let handle = ReaderHandle { shared: self.shared.clone() };
        handle.assignment().iter().filter_map(|partition| handle.lag(partition)).sum()
    }

    /// Ends the following, all tasks and connections, and waits until they are gone, at most until `deadline` from now.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] if they are not; they end nevertheless.
    ///
    /// # Cancel safety
    /// Dropped, the tasks end by themselves.
    pub async fn close(self, deadline: Duration) -> Result<(), Error> {
        let result = end(&self.shared, &self.owner, deadline).await;
        self.content.end(None);
        result
    }
}

impl<K, V> Drop for CompactedTable<K, V> {
    fn drop(&mut self) {
        self.content.end(None);
    }
}

impl<K, V> fmt::Debug for CompactedTable<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompactedTable").field("owner", &self.owner.label()).finish_non_exhaustive()
    }
}

/// The changes of a [`CompactedTable`], as a [`Stream`]: keys with the values they have now, `None` for one that is gone.
///
/// Changes of one key that come before they are fetched are one: the last. (So a slow watcher costs at most one entry per key, and a
/// key may come with the value that it had before.) It ends when the table is closed or dropped; if following has failed, the reason
/// comes first.
#[must_use = "a stream does nothing unless it is polled"]
pub struct TableWatch<K, V> {
    watcher: Arc<Watcher<K>>,
    content: Arc<Content<K, V>>,
    told: bool,
}

impl<K: Ord + Clone, V: Clone> Stream for TableWatch<K, V> {
    type Item = Result<(K, Option<V>), ReadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let state = this.content.state();
        let mut changes = this.watcher.changes();
        if let Some(key) = changes.order.pop_front() {
            changes.keys.remove(&key);
            let value = state.entries.get(&key).map(|entry| entry.value.clone());
            return Poll::Ready(Some(Ok((key, value))));
        }
        match &state.over {
            Some(Some(error)) if !this.told => {
                this.told = true;
                Poll::Ready(Some(Err(error.clone())))
            }
            Some(_) => Poll::Ready(None),
            None => {
                changes.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<K, V> fmt::Debug for TableWatch<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableWatch").finish_non_exhaustive()
    }
}

/// What the table and its follower share.
struct Content<K, V> {
    state: Mutex<State<K, V>>,
    skipped: AtomicU64,
}

struct State<K, V> {
    entries: BTreeMap<K, Entry<V>>,
    watchers: Vec<Weak<Watcher<K>>>,
    /// It is not followed any more, with the reason if it is one.
    over: Option<Option<ReadError>>,
}

struct Entry<V> {
    value: V,
    partition: i32,
}

struct Watcher<K>(Mutex<Changes<K>>);

/// Keys that have changed since they were fetched, in the order of their first change. Its lock is taken inside the state's.
struct Changes<K> {
    keys: BTreeSet<K>,
    order: VecDeque<K>,
    waker: Option<Waker>,
}

impl<K> Watcher<K> {
    fn changes(&self) -> MutexGuard<'_, Changes<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Default for Watcher<K> {
    fn default() -> Self {
        Self(Mutex::new(Changes { keys: BTreeSet::new(), order: VecDeque::new(), waker: None }))
    }
}

impl<K, V> Default for Content<K, V> {
    fn default() -> Self {
        let state = State { entries: BTreeMap::new(), watchers: Vec::new(), over: None };
        Self { state: Mutex::new(state), skipped: AtomicU64::new(0) }
    }
}

impl<K, V> Content<K, V> {
    fn state(&self) -> MutexGuard<'_, State<K, V>> {
        // What panics inside is a comparison or a clone of the user's own; the map is whole nevertheless.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the table, and wakes those who watch it once its lock is released.
    fn change(&self, change: impl FnOnce(&mut State<K, V>)) {
        let mut state = self.state();
        change(&mut state);
        let wakers = state.take_wakers();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn end(&self, error: Option<ReadError>) {
        self.change(|state| {
            state.over.get_or_insert(error);
        });
    }
}

impl<K, V> State<K, V> {
    fn take_wakers(&mut self) -> Vec<Waker> {
        self.watchers.iter().filter_map(Weak::upgrade).filter_map(|watcher| watcher.changes().waker.take()).collect()
    }
}

impl<K: Ord + Clone, V> State<K, V> {
    fn set(&mut self, key: K, value: Option<V>, partition: i32) {
        self.tell(&key);
        match value {
            Some(value) => drop(self.entries.insert(key, Entry { value, partition })),
            None => drop(self.entries.remove(&key)),
        }
    }

    /// Nothing of this partition holds any more.
    fn forget(&mut self, partition: i32) {
        let of_it = self.entries.iter().filter(|(_, entry)| entry.partition == partition);
        let keys: Vec<K> = of_it.map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.tell(&key);
            self.entries.remove(&key);
        }
    }

    fn tell(&mut self, key: &K) {
        self.watchers.retain(|watcher| {
            let Some(watcher) = watcher.upgrade() else { return false };
            let mut changes = watcher.changes();
            if changes.keys.insert(key.clone()) {
                changes.order.push_back(key.clone());
            }
            true
        });
    }
}

/// Reads the topic into the table.
struct Follower<K, V> {
    reader: Reader,
    link: Link,
    handle: ReaderHandle,
    topic: Arc<str>,
    /// How many partitions are read.
    known: usize,
    key: Box<dyn Deserializer<K>>,
    value: Box<dyn Deserializer<V>>,
    skips_undecodable: bool,
    content: Arc<Content<K, V>>,
}

impl<K, V> Drop for Follower<K, V> {
    fn drop(&mut self) {
        // Where its task was ended by the client's close, nobody else says that nothing more comes. What was said before stays.
        let by_its_owner = matches!(self.reader.shared.partitions().closed(), Some(None));
        self.content.end((!by_its_owner).then(|| ReadError::Kafka(closed())));
    }
}

impl<K, V> Follower<K, V>
where
    K: Ord + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// The partitions up to this count that are not read yet.
    fn partitions(&self, count: usize) -> Vec<TopicPartition> {
        let partition = |partition| TopicPartition { topic: self.topic.clone(), partition: partition as i32 };
        (self.known..count).map(partition).collect()
    }

    /// Reads so many partitions.
    fn grow(&mut self, count: usize) {
        let new = self.partitions(count);
        self.known = self.known.max(count);
        let shared = &self.handle.shared;
        shared.change(|partitions| {
            let assigned = new.into_iter().map(|tp| {
                let gauges = PartitionGauges::new(&self.link, &tp);
                (tp, Stand::AwaitReset(StartAt::Beginning), gauges)
            });
            partitions.assign(assigned);
            None
        });
    }

    /// Reads all partitions that the topic has by now.
    fn grow_to_all(&mut self) {
        let count = self.link.metadata().topic(&self.topic).map_or(0, |topic| topic.partitions.len());
        self.grow(count);
    }

    /// Reads until each partition's position is at its end or behind it.
    async fn load(&mut self, mut open: BTreeMap<TopicPartition, i64>) -> Result<(), ReadError> {
        let mut timer = self.link.sleep_until(self.link.now() + LOOK);
        loop {
            let (reader, handle) = (&mut self.reader, &self.handle);
            let read = std::future::poll_fn(|cx| {
                // The reader moves positions over markers and holes before it says that there is nothing.
                if let Some(records) = reader.try_poll(cx.waker())? {
                    return Poll::Ready(Ok(Some(records)));
                }
                // No lag: the log is shorter than it was (truncated), or retention has taken all.
                let is_open = |partition: &TopicPartition, end: &mut i64| {
                    handle.position(partition).is_none_or(|position| position < *end)
                        && handle.lag(partition) != Some(0)
                };
                open.retain(is_open);
                if open.is_empty() {
                    return Poll::Ready(Ok::<_, Error>(None));
                }
                timer.as_mut().poll(cx).map(|()| Ok(Some(Records::none(&handle.shared))))
            });
            match read.await? {
                Some(records) if records.is_empty() => timer = self.link.sleep_until(self.link.now() + LOOK),
                Some(records) => self.apply(records)?,
                None => return Ok(()),
            }
            self.look_at_events();
            tokio::task::yield_now().await;
        }
    }

    /// Follows the topic until its task is ended.
    async fn follow(mut self) {
        let mut changes = self.link.metadata_changes();
        // What has been added while it was loaded.
        self.grow_to_all();
        loop {
            let reader = &mut self.reader;
            let read = std::future::poll_fn(|cx| match reader.try_poll(cx.waker()) {
                Ok(Some(records)) => Poll::Ready(Ok(records)),
                Ok(None) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            });
            let applied = tokio::select! {
                biased;
                () = changes.changed() => {
                    self.grow_to_all();
                    Ok(())
                }
                // Also where no record follows: what was cut off must not stay in the table until one does.
                Some(event) = self.handle.next_event() => {
                    self.on_event(event);
                    Ok(())
                }
                records = read => records.map_err(ReadError::from).and_then(|records| self.apply(records)),
            };
            match applied {
                Ok(()) => {}
                // The topic is gone, or may not be read for now: it is read again when that changes.
                Err(ReadError::Kafka(error)) if error.is_retriable() => {
                    tracing::warn!(%error, "the table stands still");
                }
                Err(ReadError::Kafka(error)) if error.kind() == ErrorKind::Closed => return self.content.end(None),
                Err(error) => return self.content.end(Some(error)),
            }
            self.look_at_events();
            tokio::task::yield_now().await;
        }
    }

    fn apply(&mut self, records: Records) -> Result<(), ReadError> {
        let mut result = Ok(());
        // Decoded first: the user's code does not run under the lock that the table is read with.
        let mut decoded = Vec::with_capacity(records.len());
        for record in records {
            let partition = record.partition();
            match decode_shared(&*self.key, &*self.value, record) {
                Ok(record) => {
                    let place = record.record().offset();
                    match record.into_parts() {
                        (Some(key), value) => decoded.push((key, value, partition)),
                        (None, _) if self.skips_undecodable => {
                            self.skip(&format!("{}-{partition}@{place} has no key", self.topic))
                        }
                        (None, _) => {
                            let text = format!(
                                "the record at offset {place} has no key: is this a compacted topic? skip_undecodable leaves such records out."
                            );
                            let tp = TopicPartition { topic: self.topic.clone(), partition };
                            result = Err(Error::new(ErrorKind::Serialization, text).with_topic_partition(tp).into());
                            break;
                        }
                    }
                }
                Err(undecodable) if self.skips_undecodable => self.skip(&undecodable.to_string()),
                Err(undecodable) => {
                    result = Err(undecodable.into());
                    break;
                }
            }
        }
        self.content.change(|state| {
            decoded.into_iter().for_each(|(key, value, partition)| state.set(key, value, partition));
        });
        result
    }

    fn skip(&self, why: &str) {
        self.content.skipped.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(why, "a record is left out of the table");
    }

    fn look_at_events(&mut self) {
        while let Some(event) = self.handle.try_next_event() {
            self.on_event(event);
        }
    }

    /// Where a log is another one than was read, what came of it is forgotten and it is read again.
    fn on_event(&self, event: ConsumerEvent) {
        let again = match event {
            ConsumerEvent::TopicRecreated { partition, .. }
            | ConsumerEvent::Truncated { partition, .. }
            | ConsumerEvent::Reset { partition, reason: ResetReason::OutOfRange, .. } => vec![partition],
            // Any partition may have been among those that nobody heard of.
            ConsumerEvent::Missed { .. } => self.handle.assignment(),
            _ => return,
        };
        for partition in again {
            self.content.change(|state| state.forget(partition.partition));
            // Not an error if it is gone: then there is nothing to be read.
            let _ = self.handle.seek(&partition, StartAt::Beginning);
        }
    }
}
