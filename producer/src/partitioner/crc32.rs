//! As librdkafka places keys: by CRC-32.
//!
//! Use it on a topic that clients built on librdkafka write as well (C, C++, Python, .NET, PHP, and Go with confluent-kafka-go): their
//! default is `consistent_random`, and a key must be on one partition whoever has sent it. It costs nothing beside that Java's
//! clients and Streams do not agree with it: a join of this topic with one of theirs finds nothing. Where all of librdkafka's
//! producers can be changed instead, give them `partitioner=murmur2_random`, and leave [`Murmur2`](super::Murmur2) here.

use super::{Choice, ClusterView, Partitioner, Unplaced};

/// The CRC-32 of the key (the checksum of zlib and Ethernet), as an unsigned number, over all partitions. librdkafka: `consistent`
/// and `consistent_random`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crc32 {
    empty_is_first: bool,
}

impl Crc32 {
    /// A null key and an empty one are alike: the record goes to the sticky partition. librdkafka: `consistent_random`, its default.
    pub const fn consistent_random() -> Self {
        Self { empty_is_first: false }
    }

    /// A null key and an empty one are alike: the record goes to partition 0, their checksum. librdkafka: `consistent`.
    pub const fn consistent() -> Self {
        Self { empty_is_first: true }
    }
}

/// [`consistent_random`](Crc32::consistent_random).
impl Default for Crc32 {
    fn default() -> Self {
        Self::consistent_random()
    }
}

impl Partitioner for Crc32 {
    fn choose(&self, record: &Unplaced<'_>, cluster: &dyn ClusterView) -> Choice<'_> {
        let key = record.key.unwrap_or_default();
        if key.is_empty() && !self.empty_is_first {
            return Choice::Sticky;
        }
        Choice::Partition((crc32(key) % cluster.partitions().max(1) as u32) as i32)
    }
}

fn crc32(key: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, key) as u32
}

#[cfg(test)]
mod tests {
    use super::super::{View, keyed};
    use super::*;

    #[test]
    fn the_checksum_is_librdkafkas() {
        // The figures of its test 0048-partitioner, and the check value of CRC-32/ISO-HDLC.
        for (key, checksum) in [
            ("23456", 0xb1b4_51d7_u32),
            ("this is another string with more length to it perhaps", 0xb015_0df7),
            ("hejsan", 0xd077_037e),
            ("123456789", 0xcbf4_3926),
        ] {
            assert_eq!(crc32(key.as_bytes()), checksum, "{key}");
            for partitioner in [Crc32::consistent(), Crc32::default()] {
                for partitions in [1, 7, 17] {
                    let chosen = partitioner.choose(&keyed(Some(key.as_bytes())), &View::of(partitions));
                    // Above 2³¹: taken for a signed number it would be another partition, or none.
                    assert_eq!(chosen, Choice::Partition((checksum % partitions as u32) as i32), "{key}");
                }
            }
        }
    }

    #[test]
    fn no_key_and_an_empty_one_are_alike() {
        for key in [None, Some(&b""[..])] {
            assert_eq!(Crc32::consistent().choose(&keyed(key), &View::of(17)), Choice::Partition(0));
            assert_eq!(Crc32::consistent_random().choose(&keyed(key), &View::of(17)), Choice::Sticky);
        }
    }
}
