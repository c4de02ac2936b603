//! Which partition a record goes to: its own wish, its key's hash, or wherever the topic's sticky partition is.

use std::fmt;

use milena_protocol::records::Header;

/// Chooses the partition of a record that does not name one.
///
/// It runs in `send`, for each record, before the partition's lock is taken: it must not block.
pub trait Partitioner: Send + Sync + fmt::Debug {
    /// The choice for one record.
    fn choose(&self, record: &Unplaced<'_>, cluster: &dyn ClusterView) -> Choice;
}

/// What a partitioner sees of a record.
#[derive(Debug, Clone, Copy)]
pub struct Unplaced<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The key's bytes.
    pub key: Option<&'a [u8]>,
    /// The value's bytes.
    pub value: Option<&'a [u8]>,
    /// The headers.
    pub headers: &'a [Header<'a>],
}

/// What a partitioner sees of the record's topic.
pub trait ClusterView {
    /// How many partitions the topic has.
    fn partitions(&self) -> i32;
    /// Whether the partition has a leader that this client knows.
    fn is_available(&self, partition: i32) -> bool;
    /// How many bytes wait for the partition's broker.
    fn queued_bytes(&self, partition: i32) -> usize;
}

/// A partitioner's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// This partition; one that the topic does not have fails the `send`.
    Partition(i32),
    /// The sticky one: all such records of a topic go to one partition until about a batch's worth of bytes is there, then to
    /// another one at random (KIP-794 without the adaptive part). Full batches for records whose place does not matter.
    Sticky,
}

/// The default, as Java's: the key's murmur2 over *all* partitions, and the sticky partition for records without a key. An empty
/// key is a key.
#[derive(Debug, Clone, Copy, Default)]
pub struct Murmur2;

impl Partitioner for Murmur2 {
    #[inline]
    fn choose(&self, record: &Unplaced<'_>, cluster: &dyn ClusterView) -> Choice {
        match record.key {
            Some(key) => Choice::Partition(murmur2_partition(key, cluster.partitions())),
            None => Choice::Sticky,
        }
    }
}

/// The partition that Java's default partitioner and Kafka Streams give a key's bytes in a topic of `partitions` partitions.
#[inline]
pub fn murmur2_partition(key: &[u8], partitions: i32) -> i32 {
    /// Java's `Utils.murmur2`.
    const SEED: u32 = 0x9747_b28c;
    let hash = murmur2::murmur2(key, SEED) & 0x7fff_ffff;
    // A topic with no partitions is refused before: the largest of the two keeps the remainder defined.
    (hash as i32) % partitions.max(1)
}

/// When the records without a key go on to another partition (KIP-794).
///
/// At about a batch's worth of bytes, and then only when a batch has just been closed, so that no half-full one is left behind;
/// at twice that in any case.
pub(crate) fn sticky_is_over(bytes: usize, batch_size: usize, batch_closed: bool) -> bool {
    bytes >= 2 * batch_size || (batch_closed && bytes >= batch_size)
}

/// The next sticky partition: another one at random among those with a leader, or among all if none has one.
pub(crate) fn next_sticky(rng: &mut fastrand::Rng, partitions: i32, is_available: impl Fn(i32) -> bool) -> i32 {
    let available = (0..partitions).filter(|partition| is_available(*partition)).count();
    if available == 0 {
        return rng.i32(0..partitions.max(1));
    }
    let nth = rng.usize(0..available);
    (0..partitions).filter(|partition| is_available(*partition)).nth(nth).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct View(i32);

    impl ClusterView for View {
        fn partitions(&self) -> i32 {
            self.0
        }
        fn is_available(&self, _: i32) -> bool {
            true
        }
        fn queued_bytes(&self, _: i32) -> usize {
            0
        }
    }

    #[test]
    fn the_hash_is_javas() {
        // UtilsTest.testMurmur2 of Apache Kafka.
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ] {
            assert_eq!(murmur2::murmur2(key.as_bytes(), 0x9747_b28c) as i32, hash, "{key}");
            assert_eq!(murmur2_partition(key.as_bytes(), 7), (hash & 0x7fff_ffff) % 7, "{key}");
        }
        assert_eq!(murmur2::murmur2(b"abc", 0x9747_b28c) as i32, 479_470_107);
    }

    #[test]
    fn an_empty_key_is_hashed_and_no_key_is_sticky() {
        let record = |key| Unplaced { topic: "t", key, value: None, headers: &[] };
        assert_eq!(Murmur2.choose(&record(None), &View(5)), Choice::Sticky);
        let Choice::Partition(partition) = Murmur2.choose(&record(Some(&b""[..])), &View(5)) else { panic!("sticky") };
        assert_eq!(partition, (275_646_681 & 0x7fff_ffff) % 5);
    }

    #[test]
    fn the_sticky_partition_changes_when_a_batch_closed_or_at_twice_its_size() {
        assert!(!sticky_is_over(100, 100, false));
        assert!(sticky_is_over(100, 100, true));
        assert!(!sticky_is_over(99, 100, true));
        assert!(sticky_is_over(200, 100, false));
    }

    #[test]
    fn sticky_choices_are_even_and_avoid_partitions_without_a_leader() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut counts = [0; 4];
        for _ in 0..3000 {
            counts[next_sticky(&mut rng, 4, |partition| partition != 2) as usize] += 1;
        }
        assert_eq!(counts[2], 0);
        assert!([counts[0], counts[1], counts[3]].iter().all(|count| (900..1100).contains(count)), "{counts:?}");
        assert!((0..4).contains(&next_sticky(&mut rng, 4, |_| false)));
    }
}
