//! A key that is too much for one partition, over several of them by turns.
//!
//! Use it when one key makes more records than a partition takes (a celebrity, a flagship tenant, the null of some upstream system)
//! and nothing about the records could tell them apart for [`Sharded`](super::Sharded). [`only_hot`](Salted::only_hot) leaves all
//! other keys where they are.
//!
//! **It gives up the order of a salted key's records**, and nothing brings it back: not the timestamps, and not the header. It also
//! costs a second step for whoever wants one figure per key: count per partition, then add up by key. Not for a compacted topic, nor
//! for one that is read as a table: each of the partitions would keep a latest value of its own. A header of a few bytes travels with
//! each salted record. Finding hot keys takes a short lock for each record, and some 10 KB for a share of one in a hundred.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use milena_protocol::records::Header;

use super::hot_keys::HotKeys;
use super::murmur2::{by_key, positive_murmur2};
use super::{Choice, ClusterView, Partitioner, Unplaced};

/// Spreads a key's records over as many partitions as it has salts: the one that [`Murmur2`](super::Murmur2) gives it, and those
/// behind it. The key stays as it is; the salt, a decimal number from 0, is in a header of its own behind the record's. (A record that
/// was read and is sent on may have one from before: the last one counts.)
///
/// Records without a key go to the sticky partition. A clone shares what it knows of hot keys.
///
/// ```
/// use milena_producer::Salted;
///
/// // Four partitions for each key.
/// let all = Salted::new(4, "salt");
/// // Four partitions for keys that make a fiftieth of all records, or more; one for the others.
/// let hot = Salted::new(4, "salt").only_hot(0.02);
/// # let _ = (all, hot);
/// ```
#[derive(Clone)]
pub struct Salted {
    header: Arc<[u8]>,
    /// What the header says, by salt.
    salts: Arc<[Box<[u8]>]>,
    hot: Option<Arc<Mutex<HotKeys>>>,
}

impl Salted {
    /// So many salts for each key, at least one, and no more than the topic has partitions; `header` is the header's key.
    pub fn new(salts: u16, header: impl Into<Vec<u8>>) -> Self {
        let text = |salt: u16| salt.to_string().into_bytes().into_boxed_slice();
        Self { header: header.into().into(), salts: (0..salts.max(1)).map(text).collect(), hot: None }
    }

    /// Only keys that make at least this part of all records lately: 0.01 is one in a hundred (held to 0.0001 to 1). The others are
    /// where [`Murmur2`](super::Murmur2) has them, in order, without a header.
    ///
    /// "Lately" is about the last `100 / share` records that the producer was given, over all topics that it serves. A key that is hot
    /// becomes so after `10 / share` of them; what it has sent before is on its first partition. A key between once and 1.25 times the
    /// share may be called hot or not.
    #[must_use]
    pub fn only_hot(mut self, share: f64) -> Self {
        self.hot = Some(Arc::new(Mutex::new(HotKeys::new(share))));
        self
    }

    fn is_salted(&self, key: &[u8]) -> bool {
        match &self.hot {
            // Whatever a panic may have left there is a sketch with a wrong count.
            Some(hot) => hot.lock().unwrap_or_else(PoisonError::into_inner).observe(key),
            None => true,
        }
    }
}

impl Partitioner for Salted {
    fn choose(&self, record: &Unplaced<'_>, cluster: &dyn ClusterView) -> Choice<'_> {
        let Some(key) = record.key.filter(|key| self.is_salted(key)) else { return by_key(record, cluster) };
        let partitions = cluster.partitions().max(1);
        let salts = self.salts.len().min(partitions as usize);
        let salt = ((u64::from(spread(cluster.next_turn())) * salts as u64) >> 32) as usize;
        let partition = (i64::from(positive_murmur2(key)) + salt as i64) % i64::from(partitions);
        Choice::PartitionWithHeader(partition as i32, Header { key: &self.header, value: Some(&self.salts[salt]) })
    }
}

/// Turns as numbers of which any first few, and any second, third or tenth one, are even over their range (multiples of the golden
/// ratio, as in Fibonacci hashing). By plain turns a key that comes every fourth time would have one salt only.
fn spread(turn: u32) -> u32 {
    turn.wrapping_mul(0x9e37_79b9)
}

impl fmt::Debug for Salted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (salts, only_hot) = (self.salts.len(), self.hot.is_some());
        f.debug_struct("Salted").field("salts", &salts).field("only_hot", &only_hot).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{View, keyed, murmur2_partition};
    use super::*;

    /// The partition and the salt.
    fn chosen(salted: &Salted, key: &str, view: &View) -> (i32, Option<usize>) {
        match salted.choose(&keyed(Some(key.as_bytes())), view) {
            Choice::PartitionWithHeader(partition, header) => {
                assert_eq!(header.key, b"salt");
                let salt = std::str::from_utf8(header.value.unwrap()).unwrap().parse().unwrap();
                (partition, Some(salt))
            }
            Choice::Partition(partition) => (partition, None),
            Choice::Sticky => panic!("sticky"),
        }
    }

    /// The records of the fullest partition, and of the average one.
    fn fullest(counts: &[u32]) -> (u32, u32) {
        (counts.iter().copied().max().unwrap(), counts.iter().sum::<u32>() / counts.len() as u32)
    }

    #[test]
    fn a_key_has_as_many_partitions_as_salts_and_the_header_says_which() {
        let (salted, view) = (Salted::new(4, "salt"), View::of(10));
        let home = murmur2_partition(b"celebrity", 10);
        let mut counts = [0_u32; 10];
        for _ in 0..4000 {
            let (partition, salt) = chosen(&salted, "celebrity", &view);
            assert_eq!(partition, (home + salt.unwrap() as i32) % 10);
            counts[partition as usize] += 1;
        }
        for step in 0..10 {
            let count = counts[(home as usize + step) % 10];
            assert!(if step < 4 { count.abs_diff(1000) < 10 } else { count == 0 }, "{counts:?}");
        }
    }

    #[test]
    fn salts_are_even_also_for_a_key_that_comes_every_few_records() {
        for every in 2..20 {
            let (salted, view) = (Salted::new(4, "salt"), View::of(4));
            let mut counts = [0_u32; 4];
            for _ in 0..1000 {
                for _ in 1..every {
                    chosen(&salted, "another", &view);
                }
                counts[chosen(&salted, "celebrity", &view).1.unwrap()] += 1;
            }
            assert!(counts.iter().all(|count| count.abs_diff(250) < 25), "every {every}: {counts:?}");
        }
    }

    #[test]
    fn there_are_never_more_salts_than_partitions() {
        for partitions in 1..6 {
            let (salted, view) = (Salted::new(u16::MAX, "salt"), View::of(partitions));
            let mut counts = vec![0_u32; partitions as usize];
            for _ in 0..600 {
                counts[chosen(&salted, "celebrity", &view).0 as usize] += 1;
            }
            let (most, average) = fullest(&counts);
            assert!(most <= average + 10, "{counts:?}");
        }
        assert_eq!(chosen(&Salted::new(0, "salt"), "celebrity", &View::of(3)).1, Some(0));
    }

    #[test]
    fn only_the_hot_key_is_spread_and_the_others_stay() {
        // Half of the records are one key's; the others have a thousand keys.
        let mut rng = fastrand::Rng::with_seed(3);
        let (salted, view) = (Salted::new(8, "salt").only_hot(0.05), View::of(8));
        let (mut before, mut after) = ([0_u32; 8], [0_u32; 8]);
        for n in 0..20_000 {
            let key = if n % 2 == 0 { "celebrity".to_owned() } else { format!("user-{}", rng.u32(0..1000)) };
            let home = murmur2_partition(key.as_bytes(), 8);
            let (partition, salt) = chosen(&salted, &key, &view);
            assert_eq!(salt.is_some(), key == "celebrity" && n >= 199, "record {n}");
            assert!(salt.is_some() || partition == home);
            before[home as usize] += 1;
            after[partition as usize] += 1;
        }
        let ((most, average), (most_after, _)) = (fullest(&before), fullest(&after));
        assert!(most > 4 * average, "{before:?}");
        assert!(most_after * 100 < 115 * average, "{after:?}");
    }

    #[test]
    fn no_key_is_sticky() {
        assert_eq!(Salted::new(4, "salt").choose(&keyed(None), &View::of(4)), Choice::Sticky);
    }
}
