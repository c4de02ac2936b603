//! As Sarama places keys: by FNV-1a.
//!
//! Use it on a topic that Go programs with Sarama write as well, or clients of librdkafka with `partitioner=fnv1a_random`: a key must
//! be on one partition whoever has sent it. It costs nothing beside that Java's clients and Streams do not agree with it. It is not
//! for Sarama's `NewReferenceHashPartitioner`, which clears the sign where this takes the absolute value.

use super::{Choice, ClusterView, Partitioner, Unplaced};

/// The 32-bit FNV-1a of the key, as a signed number, over all partitions, and of the remainder the absolute value; the sticky
/// partition for records without a key (Sarama: any, one by one). An empty key is a key. Sarama: `NewHashPartitioner`, its default;
/// librdkafka: `fnv1a_random`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fnv1a;

impl Partitioner for Fnv1a {
    fn choose(&self, record: &Unplaced<'_>, cluster: &dyn ClusterView) -> Choice<'_> {
        let Some(key) = record.key else { return Choice::Sticky };
        // The remainder has the sign of the hash, in Go as here. It is smaller than 2³¹, so it has an absolute value.
        Choice::Partition((fnv1a(key) as i32 % cluster.partitions().max(1)).abs())
    }
}

fn fnv1a(key: &[u8]) -> u32 {
    const OFFSET_BASIS: u32 = 0x811c_9dc5;
    const PRIME: u32 = 0x0100_0193;
    key.iter().fold(OFFSET_BASIS, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::super::{View, keyed};
    use super::*;

    #[test]
    fn partitions_are_saramas() {
        // Absolute values of Go's hash/fnv, from librdkafka's unit test and its test 0048-partitioner.
        for (key, absolute) in [
            ("kafka", 0x0d33_c4e1),
            ("giberish123456789", 0x77a5_8295),
            ("1234", 0x023b_dd03),
            ("234", 0x2dea_3cd2),
            ("34", 0x740f_a83e),
            ("4", 0x310c_a263),
            ("PreAmbleWillBeRemoved,ThePrePartThatIs", 0x65cb_d69c),
            ("reAmbleWillBeRemoved,ThePrePartThatIs", 0x6e49_c79a),
            ("eAmbleWillBeRemoved,ThePrePartThatIs", 0x69ee_d356),
            ("AmbleWillBeRemoved,ThePrePartThatIs", 0x6abc_c023),
            ("23456", 0x27e6_f469),
            ("this is another string with more length to it perhaps", 0x155e_3e5f),
            ("hejsan", 0x17b1_e27a),
            ("", 0x7ee3_623b),
        ] {
            assert_eq!((fnv1a(key.as_bytes()) as i32).wrapping_abs(), absolute, "{key}");
            for partitions in [1, 7, 17] {
                let chosen = Fnv1a.choose(&keyed(Some(key.as_bytes())), &View::of(partitions));
                assert_eq!(chosen, Choice::Partition(absolute % partitions), "{key}");
            }
        }
    }

    #[test]
    fn the_absolute_value_is_taken_and_the_sign_not_cleared() {
        // The empty key's hash is 0x811c9dc5, below zero: over 7 partitions its absolute value leaves 2, without its sign 0.
        assert_eq!(Fnv1a.choose(&keyed(Some(b"")), &View::of(7)), Choice::Partition(0x7ee3_623b % 7));
        assert_ne!(0x7ee3_623b % 7, 0x011c_9dc5 % 7);
    }

    #[test]
    fn no_key_is_sticky() {
        assert_eq!(Fnv1a.choose(&keyed(None), &View::of(7)), Choice::Sticky);
    }
}
