//! The default, and the one that Java's producers and Kafka Streams have: a key's murmur2 names its partition.
//!
//! Use it unless there is a reason for another one: every record of a key is on one partition, in order, and Java agrees which. It
//! costs nothing but what uneven keys cost: a key that makes half of the records makes half of the load of one partition (see
//! `salted.rs` and `sharded.rs`), and more partitions later move almost every key.

use super::{Choice, ClusterView, Partitioner, Unplaced};

/// The default, as Java's: the key's murmur2 over *all* partitions, and the sticky partition for records without a key. An empty
/// key is a key. Java: `BuiltInPartitioner`; librdkafka: `murmur2_random`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Murmur2;

impl Partitioner for Murmur2 {
    #[inline]
    fn choose(&self, record: &Unplaced<'_>, cluster: &dyn ClusterView) -> Choice<'_> {
        by_key(record, cluster)
    }
}

/// The default's choice: also what other partitioners do with a record that lacks what they go by.
#[inline]
pub(super) fn by_key<'a>(record: &Unplaced<'_>, cluster: &dyn ClusterView) -> Choice<'a> {
    match record.key {
        Some(key) => Choice::Partition(murmur2_partition(key, cluster.partitions())),
        None => Choice::Sticky,
    }
}

/// The partition that Java's default partitioner and Kafka Streams give a key's bytes in a topic of `partitions` partitions.
#[inline]
pub fn murmur2_partition(key: &[u8], partitions: i32) -> i32 {
    // A topic with no partitions is refused before: the largest of the two keeps the remainder defined.
    positive_murmur2(key) % partitions.max(1)
}

/// Java's `Utils.toPositive(Utils.murmur2(key))`: without the sign, which a remainder would keep.
#[inline]
pub(super) fn positive_murmur2(key: &[u8]) -> i32 {
    (murmur2::murmur2(key, SEED) & 0x7fff_ffff) as i32
}

/// Java's `Utils.murmur2`.
const SEED: u32 = 0x9747_b28c;

#[cfg(test)]
mod tests {
    use super::super::{View, keyed};
    use super::*;

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
            assert_eq!(murmur2::murmur2(key.as_bytes(), SEED) as i32, hash, "{key}");
            assert_eq!(murmur2_partition(key.as_bytes(), 7), (hash & 0x7fff_ffff) % 7, "{key}");
        }
        assert_eq!(murmur2::murmur2(b"abc", SEED) as i32, 479_470_107);
    }

    #[test]
    fn librdkafka_says_the_same() {
        // The figures of its test 0048-partitioner, which has them from Java.
        for (key, positive) in [
            ("", 0x106e_08d9),
            ("23456", 0x058d_780f),
            ("this is another string with more length to it perhaps", 0x4f77_03da),
            ("hejsan", 0x5ec1_9395),
        ] {
            assert_eq!(positive_murmur2(key.as_bytes()), positive, "{key}");
        }
    }

    #[test]
    fn an_empty_key_is_hashed_and_no_key_is_sticky() {
        assert_eq!(Murmur2.choose(&keyed(None), &View::of(5)), Choice::Sticky);
        let Choice::Partition(partition) = Murmur2.choose(&keyed(Some(b"")), &View::of(5)) else { panic!("sticky") };
        assert_eq!(partition, (275_646_681 & 0x7fff_ffff) % 5);
    }
}
