//! The producer's topics: a table that only grows, so that `send` reads it without a lock, a reference count or a locked
//! instruction (an `ArcSwap` of a map costs two of them, 11 ns a record).

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use uuid::Uuid;

use crate::accumulator::Part;
use crate::load::Load;
use crate::partitioner::{Candidate, ClusterView, Draw, Placing};

/// A topic and its partitions.
pub(crate) struct Topic {
    pub(crate) name: Arc<str>,
    /// The ids that it has had, the present one last; none where brokers give none. Whoever still tells of one before has old news.
    pub(crate) ids: Arc<Mutex<Vec<Uuid>>>,
    /// How many it has now.
    pub(crate) count: i32,
    /// All that it ever had; the index is the partition's number. Those beyond `count` were another topic's of this name: they take no
    /// more records, and end those that they have.
    pub(crate) parts: Vec<Arc<Part>>,
    pub(crate) sticky: Arc<Sticky>,
    /// Who chooses for its records that name no partition.
    pub(crate) placing: Placing,
    /// Those of the partitions, close together for who looks at all of them.
    loads: Vec<Arc<Load>>,
    /// The same topic once it has other partitions.
    later: OnceLock<Arc<Self>>,
}

/// Where a topic's records without a key go at the moment.
pub(crate) struct Sticky {
    pub(crate) partition: AtomicI32,
    draw: Mutex<Draw>,
    turns: AtomicU32,
}

/// How the next sticky partition is chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moving<'a> {
    /// By what waits at each partition (Java's `partitioner.adaptive.partitioning.enable`).
    pub(crate) adaptive: bool,
    /// Brokers that have been silent for too long.
    pub(crate) stalled: &'a [i32],
}

/// Topics by name. Entries are never removed; who adds one holds a lock of its own, so that there is one at a time.
pub(crate) struct Topics {
    first: Table,
    hasher: foldhash::fast::FixedState,
}

/// A table with open addressing. When it is half full another one follows, eight times as large.
struct Table {
    slots: Box<[OnceLock<Arc<Topic>>]>,
    next: OnceLock<Box<Self>>,
}

/// Enough for most producers; a power of two, as all of them are.
const FIRST: usize = 64;
/// How far from its place an entry may be before the next table is taken.
const REACH: usize = 8;

impl Topics {
    pub(crate) fn new() -> Self {
        Self { first: Table::new(FIRST), hasher: foldhash::fast::FixedState::default() }
    }

    /// The topic, as it is known to be.
    #[inline]
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Topic>> {
        let hash = self.hasher.hash_one(name) as usize;
        let mut table = &self.first;
        loop {
            for slot in table.places(hash) {
                match slot.get() {
                    Some(topic) if *topic.name == *name => return Some(topic.latest()),
                    Some(_) => {}
                    // It would have been put here, or before.
                    None => return None,
                }
            }
            table = table.next.get()?;
        }
    }

    /// Adds a topic, or a later form of one that is there.
    pub(crate) fn insert(&self, topic: Arc<Topic>) {
        if let Some(known) = self.get(&topic.name) {
            // The newest form has no successor yet: only one inserts at a time.
            let _ = known.later.set(topic);
            return;
        }
        let hash = self.hasher.hash_one(&*topic.name) as usize;
        let mut table = &self.first;
        loop {
            if let Some(free) = table.places(hash).find(|slot| slot.get().is_none()) {
                let _ = free.set(topic);
                return;
            }
            table = table.next.get_or_init(|| Box::new(Table::new(table.slots.len() * 8)));
        }
    }

    /// All topics, in the order of their names.
    pub(crate) fn sorted(&self) -> Vec<Arc<Topic>> {
        let mut all = Vec::new();
        let mut table = Some(&self.first);
        while let Some(this) = table {
            all.extend(this.slots.iter().filter_map(OnceLock::get).map(|topic| topic.latest().clone()));
            table = this.next.get().map(|next| &**next);
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

impl Table {
    fn new(slots: usize) -> Self {
        Self { slots: (0..slots).map(|_| OnceLock::new()).collect(), next: OnceLock::new() }
    }

    /// Where an entry with this hash may be, nearest first.
    #[inline]
    fn places(&self, hash: usize) -> impl Iterator<Item = &OnceLock<Arc<Topic>>> {
        let mask = self.slots.len() - 1;
        (0..REACH).map(move |step| &self.slots[(hash + step) & mask])
    }
}

impl Topic {
    /// A topic that has `count` of these partitions.
    pub(crate) fn new(
        (name, ids): (Arc<str>, Arc<Mutex<Vec<Uuid>>>),
        count: i32,
        parts: Vec<Arc<Part>>,
        sticky: Arc<Sticky>,
        placing: Placing,
    ) -> Arc<Self> {
        let loads = parts.iter().map(|part| part.load.clone()).collect();
        Arc::new(Self { name, ids, count, parts, sticky, placing, loads, later: OnceLock::new() })
    }

    #[inline]
    fn latest(self: &Arc<Self>) -> &Arc<Self> {
        let mut topic = self;
        while let Some(later) = topic.later.get() {
            topic = later;
        }
        topic
    }

    /// The partition, if it has one of this number now.
    #[inline]
    pub(crate) fn part(&self, partition: i32) -> Option<&Arc<Part>> {
        if partition < self.count {
            usize::try_from(partition).ok().and_then(|index| self.parts.get(index))
        } else {
            None
        }
    }

    /// Another sticky partition, if it still is `from`. What waits where is looked at here, and so once per batch or so.
    pub(crate) fn move_sticky(&self, from: i32, how: Moving<'_>) {
        if self.count < 2 && from == 0 {
            return;
        }
        let mut draw = lock(&self.sticky.draw);
        let next = draw.next(self.partitions(), |partition| self.candidate(partition, how));
        let _ = self.sticky.partition.compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn candidate(&self, partition: i32, how: Moving<'_>) -> Candidate {
        let Some(load) = self.load(partition) else {
            return Candidate { has_leader: false, is_stalled: false, queue: 0 };
        };
        let leader = load.leader();
        let batch_size = self.parts.first().map_or(1, |part| part.sizes().batch);
        let (batches, bytes) = load.queue();
        // An open batch grows while the window is full: by its bytes, or a slow broker's queue would look short.
        let queue = batches.max(u32::try_from(bytes.div_ceil(batch_size.max(1))).unwrap_or(u32::MAX));
        Candidate {
            has_leader: leader.is_some(),
            is_stalled: leader.is_some_and(|leader| how.stalled.contains(&leader)),
            queue: if how.adaptive { queue } else { 0 },
        }
    }

    fn load(&self, partition: i32) -> Option<&Load> {
        usize::try_from(partition).ok().and_then(|index| self.loads.get(index)).map(|load| &**load)
    }
}

impl Sticky {
    /// Begins at one of the partitions with a leader.
    pub(crate) fn new(partitions: i32, has_leader: impl Fn(i32) -> bool, rng: fastrand::Rng) -> Arc<Self> {
        let mut draw = Draw::new(rng);
        let first = draw.next(partitions, |partition| Candidate {
            has_leader: has_leader(partition),
            is_stalled: false,
            queue: 0,
        });
        let turns = AtomicU32::new(draw.number());
        Arc::new(Self { partition: AtomicI32::new(first), draw: Mutex::new(draw), turns })
    }
}

impl ClusterView for Topic {
    fn partitions(&self) -> i32 {
        self.count
    }

    fn leader(&self, partition: i32) -> Option<i32> {
        self.load(partition).and_then(Load::leader)
    }

    fn queue_depth(&self, partition: i32) -> u32 {
        self.load(partition).map_or(0, |load| load.queue().0)
    }

    fn queued_bytes(&self, partition: i32) -> usize {
        self.load(partition).map_or(0, |load| load.queue().1)
    }

    fn next_turn(&self) -> u32 {
        self.sticky.turns.fetch_add(1, Ordering::Relaxed)
    }
}

/// More partitions than any topic has: brokers, which keep files for each of them, give up far earlier. An index beyond that is a mistake of
/// whoever says it, and believing it would cost all memory.
const MOST_PARTITIONS: i32 = 1_000_000;

/// How many partitions a topic has that has those.
pub(crate) fn count(partitions: impl Iterator<Item = i32>) -> i32 {
    partitions.filter(|partition| (0..MOST_PARTITIONS).contains(partition)).max().map_or(0, |last| last + 1)
}

/// Notes the id that a topic is said to have. Returns whether it is another topic than before, and `None` if it is one that is gone.
pub(crate) fn take_id(ids: &mut Vec<Uuid>, id: Uuid) -> Option<bool> {
    if id.is_nil() || ids.last() == Some(&id) {
        return Some(false);
    }
    if ids.contains(&id) {
        return None;
    }
    ids.push(id);
    Some(ids.len() > 1)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every draw begins afresh: a panic in one leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str, partitions: i32) -> Arc<Topic> {
        let name: Arc<str> = Arc::from(name);
        let parts: Vec<_> = (0..partitions).map(|id| Part::new(name.clone(), id, true, 5)).collect();
        let sticky = Sticky::new(partitions, |_| true, fastrand::Rng::with_seed(1));
        Topic::new((name, Arc::default()), partitions, parts, sticky, Placing::Default)
    }

    #[test]
    fn thousands_of_topics_are_found_and_a_grown_one_is_found_grown() {
        let topics = Topics::new();
        for n in 0..3000 {
            topics.insert(topic(&format!("topic-{n}"), 1));
        }
        topics.insert(topic("topic-7", 5));
        topics.insert(topic("topic-7", 9));
        for n in 0..3000 {
            let found = topics.get(&format!("topic-{n}")).unwrap();
            assert_eq!(found.parts.len(), if n == 7 { 9 } else { 1 });
        }
        assert!(topics.get("topic-3000").is_none());
        let sorted = topics.sorted();
        assert_eq!(sorted.len(), 3000);
        assert!(sorted.is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn a_partition_that_no_topic_can_have_does_not_count() {
        assert_eq!(count([2, 0, 1].into_iter()), 3);
        assert_eq!(count([0, i32::MAX, 2_000_000_000, 1, -1, i32::MIN].into_iter()), 2);
        assert_eq!(count([-1].into_iter()), 0);
        assert_eq!(count(std::iter::empty()), 0);
    }

    #[test]
    fn a_topic_made_anew_has_a_new_id_and_old_news_have_an_old_one() {
        let (mut ids, [first, second]) = (Vec::new(), [Uuid::from_u128(1), Uuid::from_u128(2)]);
        assert_eq!(take_id(&mut ids, Uuid::nil()), Some(false), "an old broker");
        assert_eq!(take_id(&mut ids, first), Some(false));
        assert_eq!(take_id(&mut ids, first), Some(false));
        assert_eq!(take_id(&mut ids, second), Some(true));
        assert_eq!(take_id(&mut ids, first), None, "a broker that is behind");
        assert_eq!(take_id(&mut ids, second), Some(false));
        assert_eq!(take_id(&mut ids, Uuid::nil()), Some(false));
    }
}
