//! The memory store. One hash map is store and record cache at once: an update marks its entry dirty, and the commit
//! walks the dirty list; there is no second copy. Measured: a cache layered over a map costs twice the memory and twice
//! the time.
//!
//! Entries sit in one vector, 64 bytes each, short keys and values inline; the hash table holds their positions. Walks
//! follow the vector or the dirty list, so no order depends on the hash.

use hashbrown::HashTable;

/// What an entry costs besides the bytes that do not fit into it: 64 bytes, and five for the hash table at its usual load.
const ENTRY_BYTES: usize = 70;

/// A hash map from bytes to bytes and a timestamp, with the list of keys written since the last flush.
#[derive(Debug, Default)]
pub(crate) struct MemoryStore {
    table: HashTable<u32>,
    entries: Vec<Entry>,
    /// Positions in `entries` that a delete left empty.
    free: Vec<u32>,
    /// Positions of entries written since they were last taken, in the order of their first write.
    dirty: Vec<u32>,
    /// How many at the front of `dirty` have been taken: a drain in slices would move the rest each time.
    taken: usize,
    /// Bytes that `dirty` stands for, as `statestore.cache.max.bytes` counts them.
    dirty_bytes: usize,
    live: usize,
    seed: u64,
}

#[derive(Debug)]
struct Entry {
    key: Small,
    /// `None`: deleted, and kept until the flush has told the changelog.
    value: Option<Small>,
    timestamp: i64,
    dirty: bool,
}

/// An entry found or made by `MemoryStore::entry`: write through it with `set`.
pub(crate) struct Slot<'a> {
    store: &'a mut MemoryStore,
    position: u32,
}

impl Slot<'_> {
    /// The value and its timestamp; `None` for a key the store does not hold.
    pub(crate) fn value(&self) -> Option<(&[u8], i64)> {
        self.store.entries[self.position as usize].view()
    }

    /// Writes and marks the key dirty.
    pub(crate) fn set(self, value: Option<&[u8]>, timestamp: i64) {
        self.store.write(self.position, value, timestamp);
        self.store.mark_dirty(self.position);
    }
}

/// An entry that the flush hands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Update<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) timestamp: i64,
}

impl MemoryStore {
    /// An empty store; `seed` keeps an attacker from choosing keys that collide.
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Number of keys.
    pub(crate) fn len(&self) -> usize {
        self.live
    }

    /// The value of `key` and its timestamp.
    pub(crate) fn get(&self, key: &[u8]) -> Option<(&[u8], i64)> {
        let position = self.table.find(hash(self.seed, key), |&at| self.entries[at as usize].key.get() == key)?;
        self.entries[*position as usize].view()
    }

    /// The entry of `key`, made if absent: one look-up for a read and a write.
    pub(crate) fn entry(&mut self, key: &[u8]) -> Slot<'_> {
        let position = self.position(key);
        Slot { store: self, position }
    }

    /// Puts what the changelog says, without marking it dirty.
    pub(crate) fn restore(&mut self, key: &[u8], value: Option<&[u8]>, timestamp: i64) {
        let position = self.position(key);
        self.write(position, value, timestamp);
        if value.is_none() && !self.entries[position as usize].dirty {
            self.remove(position);
        }
    }

    /// Entries in no particular but a stable order, deleted ones left out.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Update<'_>> {
        self.entries.iter().filter_map(|entry| {
            let (value, timestamp) = entry.view()?;
            Some(Update { key: entry.key.get(), value: Some(value), timestamp })
        })
    }

    /// Bytes written since the last flush, repeated writes of a key counted once.
    pub(crate) fn dirty_bytes(&self) -> usize {
        self.dirty_bytes
    }

    /// Whether a flush has nothing to do.
    pub(crate) fn is_clean(&self) -> bool {
        self.taken == self.dirty.len()
    }

    /// Hands up to `limit` dirty entries on, in the order of their first write, and marks them clean.
    pub(crate) fn take_dirty(&mut self, limit: usize, mut each: impl FnMut(Update<'_>)) {
        let end = self.taken.saturating_add(limit).min(self.dirty.len());
        for index in self.taken..end {
            let position = self.dirty[index];
            let entry = &mut self.entries[position as usize];
            entry.dirty = false;
            let deleted = entry.value.is_none();
            self.dirty_bytes -= entry.key.spilled() + ENTRY_BYTES;
            each(Update {
                key: entry.key.get(),
                value: entry.value.as_ref().map(Small::get),
                timestamp: entry.timestamp,
            });
            if deleted {
                self.remove(position);
            }
        }
        self.taken = end;
        if self.is_clean() {
            self.dirty.clear();
            self.taken = 0;
        }
    }

    fn position(&mut self, key: &[u8]) -> u32 {
        let hash_of = |at: &u32, entries: &[Entry], seed| hash(seed, entries[*at as usize].key.get());
        let Self { table, entries, free, seed, .. } = self;
        let found = table.entry(
            hash(*seed, key),
            |&at| entries[at as usize].key.get() == key,
            |at| hash_of(at, entries, *seed),
        );
        match found {
            hashbrown::hash_table::Entry::Occupied(at) => *at.get(),
            hashbrown::hash_table::Entry::Vacant(vacant) => {
                let entry = Entry { key: Small::new(key), value: None, timestamp: -1, dirty: false };
                let position = match free.pop() {
                    Some(position) => position,
                    // 2^32 entries of 64 bytes do not fit into any memory this runs in.
                    None => u32::try_from(entries.len()).unwrap_or(u32::MAX),
                };
                vacant.insert(position);
                match entries.get_mut(position as usize) {
                    Some(place) => *place = entry,
                    None => entries.push(entry),
                }
                position
            }
        }
    }

    fn write(&mut self, position: u32, value: Option<&[u8]>, timestamp: i64) {
        let entry = &mut self.entries[position as usize];
        entry.timestamp = timestamp;
        match (value, &mut entry.value) {
            (Some(new), Some(old)) => old.set(new),
            (Some(new), none) => {
                *none = Some(Small::new(new));
                self.live += 1;
            }
            (None, old) => {
                self.live -= usize::from(old.take().is_some());
            }
        }
    }

    fn mark_dirty(&mut self, position: u32) {
        let entry = &mut self.entries[position as usize];
        if !entry.dirty {
            entry.dirty = true;
            self.dirty.push(position);
            // The value's spilled bytes may change before the flush, so they are not counted: the bound is a guide.
            self.dirty_bytes += entry.key.spilled() + ENTRY_BYTES;
        }
    }

    fn remove(&mut self, position: u32) {
        let entry = &mut self.entries[position as usize];
        let hash = hash(self.seed, entry.key.get());
        if let Ok(found) = self.table.find_entry(hash, |&at| at == position) {
            found.remove();
            entry.key = Small::new(&[]);
            self.free.push(position);
        }
    }
}

impl Entry {
    fn view(&self) -> Option<(&[u8], i64)> {
        self.value.as_ref().map(|value| (value.get(), self.timestamp))
    }
}

const INLINE: usize = 22;

/// Bytes, inline up to 22.
#[derive(Debug)]
enum Small {
    Inline { len: u8, bytes: [u8; INLINE] },
    Heap(Box<[u8]>),
}

impl Small {
    fn new(from: &[u8]) -> Self {
        if from.len() <= INLINE {
            let mut bytes = [0; INLINE];
            bytes[..from.len()].copy_from_slice(from);
            #[expect(clippy::cast_possible_truncation, reason = "at most 22")]
            let len = from.len() as u8;
            Self::Inline { len, bytes }
        } else {
            Self::Heap(from.into())
        }
    }

    fn get(&self) -> &[u8] {
        match self {
            Self::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Self::Heap(bytes) => bytes,
        }
    }

    fn set(&mut self, from: &[u8]) {
        match self {
            Self::Heap(bytes) if bytes.len() == from.len() => bytes.copy_from_slice(from),
            Self::Inline { len, bytes } if usize::from(*len) == from.len() => {
                bytes[..from.len()].copy_from_slice(from);
            }
            other => *other = Self::new(from),
        }
    }

    /// Bytes outside the entry.
    fn spilled(&self) -> usize {
        match self {
            Self::Inline { .. } => 0,
            Self::Heap(bytes) => bytes.len(),
        }
    }
}

/// A seeded hash of bytes by folded multiplication: two loads and one multiplication for keys up to 16 bytes.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    const A: u64 = 0x9e37_79b9_7f4a_7c15;
    const B: u64 = 0xa076_1d64_78bd_642f;
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        #[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
        let folded = (product as u64) ^ ((product >> 64) as u64);
        folded
    };
    let word = |at: usize| {
        let mut eight = [0; 8];
        eight.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(eight)
    };
    let len = bytes.len();
    let mut state = seed ^ A ^ len as u64;
    let (first, last) = match len {
        0 => (0, 0),
        1..4 => (u64::from(bytes[0]) << 16 | u64::from(bytes[len / 2]) << 8 | u64::from(bytes[len - 1]), 0),
        4..8 => {
            let half = |at: usize| {
                let mut four = [0; 4];
                four.copy_from_slice(&bytes[at..at + 4]);
                u64::from(u32::from_le_bytes(four))
            };
            (half(0), half(len - 4))
        }
        8..=16 => (word(0), word(len - 8)),
        _ => {
            let mut at = 0;
            while at + 16 < len {
                state = fold(state ^ word(at), B ^ word(at + 8));
                at += 16;
            }
            (word(len - 16), word(len - 8))
        }
    };
    fold(fold(state ^ first, B ^ last), A)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn dirty(store: &mut MemoryStore) -> Vec<(Vec<u8>, Option<Vec<u8>>, i64)> {
        let mut out = Vec::new();
        store.take_dirty(usize::MAX, |u| out.push((u.key.to_vec(), u.value.map(<[u8]>::to_vec), u.timestamp)));
        out
    }

    #[test]
    fn an_entry_is_one_cache_line() {
        assert_eq!(size_of::<Small>(), 24);
        assert_eq!(size_of::<Entry>(), 64);
    }

    #[test]
    fn updates_of_a_key_collapse_and_leave_in_order_of_first_write() {
        let mut store = MemoryStore::new(1);
        store.entry(b"b").set(Some(b"1"), 10);
        store.entry(b"a").set(Some(b"1"), 11);
        store.entry(b"b").set(Some(b"2"), 12);
        assert_eq!(store.get(b"b"), Some((&b"2"[..], 12)));
        assert_eq!(
            dirty(&mut store),
            [(b"b".to_vec(), Some(b"2".to_vec()), 12), (b"a".to_vec(), Some(b"1".to_vec()), 11)]
        );
        assert_eq!(dirty(&mut store), []);
        assert_eq!(store.dirty_bytes(), 0);
        assert_eq!(store.len(), 2);
    }

    #[test]
    fn a_delete_is_told_once_and_its_place_is_used_again() {
        let mut store = MemoryStore::new(1);
        store.entry(b"a").set(Some(b"1"), 1);
        dirty(&mut store);
        store.entry(b"a").set(None, 2);
        assert_eq!((store.get(b"a"), store.len()), (None, 0));
        assert_eq!(dirty(&mut store), [(b"a".to_vec(), None, 2)]);
        store.entry(b"c").set(Some(b"3"), 3);
        assert_eq!((store.entries.len(), store.get(b"c")), (1, Some((&b"3"[..], 3))));
    }

    #[test]
    fn restored_entries_are_clean() {
        let mut store = MemoryStore::new(1);
        store.restore(b"a", Some(b"1"), 5);
        store.restore(b"b", Some(b"1"), 6);
        store.restore(b"b", None, 7);
        assert!(store.is_clean());
        assert_eq!(store.iter().map(|u| u.key.to_vec()).collect::<Vec<_>>(), [b"a".to_vec()]);
    }

    #[test]
    fn random_writes_agree_with_a_btree_map() {
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut store, mut model, mut changelog) = (MemoryStore::new(7), BTreeMap::new(), BTreeMap::new());
        for time in 0..20_000_i64 {
            let key = vec![b'k'; rng.usize(..40)];
            let key = [key, rng.u16(..500).to_be_bytes().to_vec()].concat();
            if rng.u8(..10) == 0 {
                store.entry(&key).set(None, time);
                model.remove(&key);
            } else {
                let value = vec![b'v'; rng.usize(..30)];
                store.entry(&key).set(Some(&value), time);
                model.insert(key, (value, time));
            }
            if rng.u16(..1000) == 0 {
                store.take_dirty(100, |u| {
                    match u.value {
                        Some(value) => changelog.insert(u.key.to_vec(), (value.to_vec(), u.timestamp)),
                        None => changelog.remove(u.key),
                    };
                });
            }
        }
        let held: BTreeMap<_, _> =
            store.iter().map(|u| (u.key.to_vec(), (u.value.unwrap().to_vec(), u.timestamp))).collect();
        assert_eq!(held, model);
        assert_eq!(store.len(), model.len());
        store.take_dirty(usize::MAX, |u| {
            match u.value {
                Some(value) => changelog.insert(u.key.to_vec(), (value.to_vec(), u.timestamp)),
                None => changelog.remove(u.key),
            };
        });
        assert_eq!(changelog, model, "what the changelog was told is what the store holds");
    }

    #[test]
    fn short_keys_rarely_collide() {
        let mut seen = std::collections::BTreeSet::new();
        for a in 0..=255_u8 {
            for b in 0..=255_u8 {
                seen.insert(hash(3, &[a, b]));
                seen.insert(hash(3, &[a, b, b, a, a]));
                seen.insert(hash(3, &[[a, b]; 10].concat()));
            }
        }
        assert_eq!(seen.len(), 3 * 65_536);
    }
}
