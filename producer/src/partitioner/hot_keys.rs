//! Which keys are hot: a space-saving sketch (Metwally, Agrawal and El Abbadi, 2005) of the records seen lately.
//!
//! It counts a fixed number of keys, by their hashes. A key that is not among them takes the place and the count of the rarest one,
//! and remembers that count as its error: so its real count is between its count less its error and its count, and every key that is
//! more frequent than one in so many is among them.

use std::hash::BuildHasher;

use milena_client::FixedHashMap;

/// Counts keys. A few kilobytes, whatever the keys are.
#[derive(Debug)]
pub(super) struct HotKeys {
    /// What part of all records makes a key hot.
    share: f64,
    /// From the most frequent to the rarest.
    counters: Vec<Counter>,
    /// Where in `counters` a hash is.
    places: FixedHashMap<u64, usize>,
    capacity: usize,
    seen: u64,
}

#[derive(Debug, Clone, Copy)]
struct Counter {
    hash: u64,
    count: u64,
    /// So much of the count may be another key's.
    error: u64,
}

impl HotKeys {
    /// `share` is held to one in ten thousand and one in one.
    pub(super) fn new(share: f64) -> Self {
        let share = if share.is_nan() { 1.0 } else { share.clamp(0.0001, 1.0) };
        // The error is at most a quarter of what makes a key hot.
        let capacity = (4.0 / share).ceil() as usize;
        Self { share, counters: Vec::with_capacity(capacity), places: FixedHashMap::default(), capacity, seen: 0 }
    }

    /// Counts a record of this key; returns whether the key is hot. Never true for one that makes less than `share` of the records,
    /// always for one that makes 1.25 times as much, once the first few have been seen.
    pub(super) fn observe(&mut self, key: &[u8]) -> bool {
        self.seen += 1;
        if self.seen as f64 * self.share >= FORGET_AFTER {
            self.forget();
        }
        let hash = self.places.hasher().hash_one(key);
        let counter = self.count(hash);
        let certain = (counter.count - counter.error) as f64;
        let expected = self.seen as f64 * self.share;
        // The very first record has a share of one.
        expected >= ENOUGH && certain >= expected
    }

    fn count(&mut self, hash: u64) -> Counter {
        let at = match self.places.get(&hash) {
            Some(at) => *at,
            None => self.admit(hash),
        };
        // In front of all that are as frequent, one more does not disturb the order.
        let count = self.counters[at].count;
        let first = self.counters.partition_point(|counter| counter.count > count);
        if first != at {
            self.places.insert(self.counters[first].hash, at);
            self.places.insert(hash, first);
            self.counters.swap(first, at);
        }
        self.counters[first].count += 1;
        self.counters[first]
    }

    /// Makes room for a hash at the end, and returns where.
    fn admit(&mut self, hash: u64) -> usize {
        let mut counter = Counter { hash, count: 0, error: 0 };
        if self.counters.len() == self.capacity
            && let Some(rarest) = self.counters.pop()
        {
            self.places.remove(&rarest.hash);
            counter = Counter { hash, count: rarest.count, error: rarest.count };
        }
        self.places.insert(hash, self.counters.len());
        self.counters.push(counter);
        self.counters.len() - 1
    }

    /// Halves everything: what was hot yesterday cools down.
    fn forget(&mut self) {
        self.seen /= 2;
        for counter in &mut self.counters {
            counter.count /= 2;
            counter.error /= 2;
        }
    }
}

/// Records of a key that makes just `share`, before any key is called hot.
const ENOUGH: f64 = 10.0;
/// Records of such a key, after which half of what was seen is forgotten: the sketch is about the last 50 to 100 of them.
const FORGET_AFTER: f64 = 100.0;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Numbers of which small ones are far more frequent.
    fn skewed(rng: &mut fastrand::Rng) -> u32 {
        (1.0 / (rng.f64() + 1e-6)).powf(1.5) as u32
    }

    #[test]
    fn counts_are_right_within_their_errors_and_in_order() {
        for seed in 0..20 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut sketch = HotKeys::new(0.05);
            let (mut truth, mut seen) = (BTreeMap::<u64, u64>::new(), 0);
            for _ in 0..1900 {
                let key = skewed(&mut rng).to_be_bytes();
                sketch.observe(&key);
                *truth.entry(sketch.places.hasher().hash_one(&key[..])).or_default() += 1;
                seen += 1;
            }
            assert_eq!(
                (sketch.seen, sketch.counters.len(), sketch.places.len()),
                (seen, 80, 80),
                "nothing is forgotten yet"
            );
            assert!(sketch.counters.is_sorted_by(|a, b| a.count >= b.count), "seed {seed}");
            for (at, counter) in sketch.counters.iter().enumerate() {
                let real = truth[&counter.hash];
                assert_eq!(sketch.places[&counter.hash], at, "seed {seed}");
                assert!(
                    (counter.count - counter.error..=counter.count).contains(&real),
                    "seed {seed}: {counter:?}, {real}"
                );
                assert!(counter.error <= seen / 80, "seed {seed}");
            }
            for (hash, real) in truth {
                assert!(real <= seen / 80 || sketch.places.contains_key(&hash), "seed {seed}: {real} of {seen}");
            }
        }
    }

    #[test]
    fn a_key_above_the_share_is_hot_and_those_below_never_are() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut sketch = HotKeys::new(0.1);
        let mut hot = 0;
        for n in 0..10_000 {
            // Every fifth record is of one key; the others have a thousand.
            let key = if n % 5 == 0 { 0 } else { rng.u32(1..1000) };
            let is_hot = sketch.observe(&key.to_be_bytes());
            assert!(key == 0 || !is_hot, "record {n}, key {key}");
            hot += u32::from(is_hot);
            assert_eq!(is_hot, key == 0 && n >= 100, "record {n}: from the hundredth on");
        }
        assert_eq!(hot, 2000 - 20);
    }

    #[test]
    fn what_may_be_another_keys_count_makes_no_key_hot() {
        let mut sketch = HotKeys::new(0.1);
        for n in 0..400_u32 {
            sketch.observe(&n.to_be_bytes());
        }
        // It takes the place of a rare key, and with it a count of ten. Of all records it makes less than a tenth up to the thousandth.
        for n in 400..990_u32 {
            let key = if n % 6 == 0 { 0 } else { n };
            assert!(!sketch.observe(&(key + 1_000_000).to_be_bytes()), "record {n}");
        }
        let most = sketch.counters[0];
        assert!(most.count >= 99 && most.count - most.error < 99, "with its error it would be hot: {most:?}");
    }

    #[test]
    fn a_key_that_was_hot_cools_down() {
        let mut sketch = HotKeys::new(0.1);
        for _ in 0..500 {
            sketch.observe(b"yesterday");
        }
        assert!(sketch.observe(b"yesterday"));
        for n in 0..10_000_u32 {
            sketch.observe(&n.to_be_bytes());
        }
        assert!(!sketch.observe(b"yesterday"));
    }

    #[test]
    fn nonsense_for_a_share_does_no_harm() {
        for share in [f64::NAN, f64::INFINITY, -1.0, 0.0] {
            let mut sketch = HotKeys::new(share);
            for n in 0..100_u32 {
                sketch.observe(&n.to_be_bytes());
            }
            assert!(sketch.counters.len() <= 100 && sketch.capacity <= 40_000);
        }
    }
}
