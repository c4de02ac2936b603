//! One partition after the other: the same number of records for each.
//!
//! Use it where consumers share the work by partition, records are few and large, and an even *number* of them matters more than
//! full batches. It costs batches: with many partitions each gets a record now and then, and a batch goes out with a few of them
//! when its linger is over. Keys are not looked at, so there is no order among the records of a key.

use super::{Choice, ClusterView, Partitioner, Unplaced};

/// Each record to the next partition that has a leader, whatever its key. Java: `RoundRobinPartitioner`.
///
/// Each topic takes turns of its own, and begins at a partition by chance (Java: at 0, so that many short-lived producers load the
/// first partitions).
#[derive(Debug, Clone, Copy, Default)]
pub struct RoundRobin;

impl Partitioner for RoundRobin {
    fn choose(&self, _: &Unplaced<'_>, cluster: &dyn ClusterView) -> Choice<'_> {
        let partitions = cluster.partitions().max(1);
        let next = || (cluster.next_turn() % partitions as u32) as i32;
        // A turn that falls on a partition without a leader is over: those with one stay even.
        for _ in 0..partitions {
            let partition = next();
            if cluster.is_available(partition) {
                return Choice::Partition(partition);
            }
        }
        Choice::Partition(next())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{View, keyed};
    use super::*;

    fn chosen(view: &View, count: usize) -> Vec<i32> {
        let choices = (0..count).map(|n| RoundRobin.choose(&keyed(Some(&[n as u8][..]).filter(|_| n % 2 == 0)), view));
        choices.map(|choice| if let Choice::Partition(partition) = choice { partition } else { -1 }).collect()
    }

    #[test]
    fn partitions_take_turns_whatever_the_key() {
        assert_eq!(chosen(&View::of(3), 7), [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(chosen(&View::of(1), 3), [0, 0, 0]);
    }

    #[test]
    fn a_partition_without_a_leader_is_left_out_and_the_others_stay_even() {
        assert_eq!(chosen(&View::of(4).without_leaders(&[1, 2]), 6), [0, 3, 0, 3, 0, 3]);
    }

    #[test]
    fn without_any_leader_all_take_turns() {
        let mut all = chosen(&View::of(3).without_leaders(&[0, 1, 2]), 3);
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2]);
    }
}
