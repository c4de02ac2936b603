//! Partitions for those who must not wait behind the others: important keys on the first ones, the rest on the rest.
//!
//! Use it when a few keys have a promise that the many have not (VIP customers, alarms): they get partitions whose queues are theirs
//! alone, and consumers of their own by assignment. (A group's members share *all* partitions of a topic; a consumer that is
//! assigned the first ones beside a group that is subscribed reads what the group reads as well. Two topics are simpler.)
//!
//! It costs evenness: the tiers are as full as their keys make them, and the first partitions idle while the VIPs are silent. Within a
//! tier every record of a key is on one partition, in order; a key that is promoted or demoted changes its partition, and what is
//! still unread on the old one is then read in any order with the new.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::murmur2::positive_murmur2;
use super::{Choice, ClusterView, Partitioner, Unplaced};

/// VIPs on partitions `0..k`, all others on the partitions behind them; each tier by the key's murmur2 over its own partitions.
///
/// The others keep at least one partition: where the topic has no more than `k`, the VIPs have all but the last. A topic with one
/// partition has no tiers, and with `k` = 0 there are none anywhere. Records without a key go through those of their tier's partitions
/// that have a leader, sixty-four on each.
///
/// ```
/// use milena_producer::Tiered;
///
/// // Partition 0 for two customers, the others for everybody else.
/// let by_key = Tiered::keys(1, ["customer-7", "customer-12"]);
/// // Partitions 0 and 1 for whatever says so in a header.
/// let by_header = Tiered::when(2, |record| record.headers.iter().any(|header| header.key == b"vip"));
/// # let _ = (by_key, by_header);
/// ```
#[derive(Clone)]
pub struct Tiered {
    first: u32,
    is_vip: IsVip,
}

type IsVip = Arc<dyn Fn(&Unplaced<'_>) -> bool + Send + Sync>;

impl Tiered {
    /// The records with these keys on the first `k` partitions.
    pub fn keys<K: Into<Vec<u8>>>(k: u32, vips: impl IntoIterator<Item = K>) -> Self {
        let vips: BTreeSet<Vec<u8>> = vips.into_iter().map(Into::into).collect();
        Self::when(k, move |record| record.key.is_some_and(|key| vips.contains(key)))
    }

    /// The records for which `is_vip` is true on the first `k` partitions. It is asked about each record, and must not block.
    pub fn when(k: u32, is_vip: impl Fn(&Unplaced<'_>) -> bool + Send + Sync + 'static) -> Self {
        Self { first: k, is_vip: Arc::new(is_vip) }
    }
}

impl Partitioner for Tiered {
    fn choose(&self, record: &Unplaced<'_>, cluster: &dyn ClusterView) -> Choice<'_> {
        let partitions = cluster.partitions().max(1);
        let first = i32::try_from(self.first).unwrap_or(i32::MAX).min(partitions - 1);
        let (from, size) = match first {
            0 => (0, partitions),
            _ if (self.is_vip)(record) => (0, first),
            _ => (first, partitions - first),
        };
        let nth = match record.key {
            Some(key) => positive_murmur2(key) % size,
            None => {
                let turn = (cluster.next_turn() / RUN % size as u32) as i32;
                let mut on_from_there = (0..size).map(|step| (turn + step) % size);
                on_from_there.find(|nth| cluster.is_available(from + nth)).unwrap_or(turn)
            }
        };
        Choice::Partition(from + nth)
    }
}

/// Records without a key in one go to a partition, so that they make batches.
const RUN: u32 = 64;

impl fmt::Debug for Tiered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tiered").field("first", &self.first).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{View, keyed};
    use super::*;

    fn chosen(tiered: &Tiered, key: Option<&str>, partitions: i32) -> i32 {
        match tiered.choose(&keyed(key.map(str::as_bytes)), &View::of(partitions)) {
            Choice::Partition(partition) => partition,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_vip_has_the_first_partition_and_the_others_murmur2_over_the_rest() {
        let tiered = Tiered::keys(1, ["vip"]);
        assert_eq!(chosen(&tiered, Some("vip"), 6), 0);
        // "21" and "foobar" have negative hashes (Kafka's UtilsTest): a remainder with its sign would be no partition.
        for (key, hash) in [("21", -973_932_308_i32), ("foobar", -790_332_482), ("abc", 479_470_107)] {
            assert_eq!(chosen(&tiered, Some(key), 6), (hash & 0x7fff_ffff) % 5 + 1, "{key}");
        }
    }

    #[test]
    fn each_tier_uses_all_of_its_partitions_and_no_other() {
        let tiered = Tiered::when(3, |record| record.key.is_some_and(|key| key.starts_with(b"vip")));
        for (prefix, tier) in [("vip", 0..3), ("other", 3..8)] {
            let mut counts = [0; 8];
            for n in 0..8000 {
                counts[chosen(&tiered, Some(&format!("{prefix}-{n}")), 8) as usize] += 1;
            }
            let share = 8000 / tier.len();
            for (partition, count) in counts.into_iter().enumerate() {
                let expected = if tier.contains(&partition) { share } else { 0 };
                assert!(expected.abs_diff(count) <= expected / 10, "{prefix}: {counts:?}");
            }
        }
    }

    #[test]
    fn the_others_keep_a_partition_however_many_are_asked_for() {
        for k in [2, 3, 100, u32::MAX] {
            let tiered = Tiered::keys(k, ["vip"]);
            assert_eq!(chosen(&tiered, Some("other"), 2), 1, "{k}");
            assert_eq!(chosen(&tiered, Some("vip"), 2), 0, "{k}");
            assert_eq!(chosen(&tiered, Some("vip"), 1), 0, "{k}");
            assert_eq!(chosen(&tiered, Some("other"), 1), 0, "{k}");
        }
    }

    #[test]
    fn without_first_partitions_all_keys_are_alike() {
        let tiered = Tiered::keys(0, ["vip"]);
        for key in ["vip", "21", "foobar"] {
            assert_eq!(chosen(&tiered, Some(key), 6), super::super::murmur2_partition(key.as_bytes(), 6));
        }
    }

    #[test]
    fn records_without_a_key_go_through_their_tier() {
        let (tiered, view) = (Tiered::keys(2, ["vip"]), View::of(5));
        let mut counts = [0; 5];
        for _ in 0..64 * 9 {
            let Choice::Partition(partition) = tiered.choose(&keyed(None), &view) else { panic!("sticky") };
            counts[partition as usize] += 1;
        }
        assert_eq!(counts, [0, 0, 192, 192, 192]);
        let view = View::of(5).without_leaders(&[2, 3]);
        assert_eq!(tiered.choose(&keyed(None), &view), Choice::Partition(4), "not where there is no leader");
    }
}
