//! Where records go whose place does not matter: to one partition after the other, a batch's worth each (KIP-794).
//!
//! Full batches are what this is for: spread one by one, records would travel in batches of a few. Which partition is next is drawn
//! by chance, and rather where little waits: a slow broker gets as much as it takes, and does not fill the memory that all share.

/// When the records without a key go on to another partition.
///
/// At about a batch's worth of bytes, and then only when a batch has just been closed, so that no half-full one is left behind;
/// at twice that in any case.
pub(crate) fn sticky_is_over(bytes: usize, batch_size: usize, batch_closed: bool) -> bool {
    bytes >= 2 * batch_size || (batch_closed && bytes >= batch_size)
}

/// What a draw looks at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) has_leader: bool,
    /// Its leader has been silent for too long (Java's `partitioner.availability.timeout.ms`).
    pub(crate) is_stalled: bool,
    /// Batches that wait; zero for all is a draw in which all are alike.
    pub(crate) queue: u32,
}

/// Draws sticky partitions.
#[derive(Debug)]
pub(crate) struct Draw {
    rng: fastrand::Rng,
    /// The partitions that may be drawn, and with each the sum of the weights up to its own. Kept for its memory.
    weighed: Vec<(i32, u64)>,
}

impl Draw {
    pub(crate) fn new(rng: fastrand::Rng) -> Self {
        Self { rng, weighed: Vec::new() }
    }

    /// Any number.
    pub(crate) fn number(&mut self) -> u32 {
        self.rng.u32(..)
    }

    /// The next partition, of so many.
    ///
    /// Among those with a leader that is not stalled; among all with a leader if there are none; among all if none has one. The
    /// weights are Java's (`BuiltInPartitioner.updatePartitionLoadStats`): the longest queue plus one, less one's own; queues of 0,
    /// 3 and 1 give 4, 1 and 3. So the longest is not left out, and equal ones are equally likely.
    pub(crate) fn next(&mut self, partitions: i32, load: impl Fn(i32) -> Candidate) -> i32 {
        self.weigh(partitions, |load| load.has_leader && !load.is_stalled, &load);
        if self.weighed.is_empty() {
            self.weigh(partitions, |load| load.has_leader, &load);
        }
        let Some((_, total)) = self.weighed.last() else { return self.rng.i32(0..partitions.max(1)) };
        let drawn = self.rng.u64(0..*total);
        let index = self.weighed.partition_point(|(_, sum)| *sum <= drawn);
        // There is one: the last sum is larger than what was drawn.
        self.weighed.get(index).map_or(0, |(partition, _)| *partition)
    }

    fn weigh(&mut self, partitions: i32, may: impl Fn(Candidate) -> bool, load: impl Fn(i32) -> Candidate) {
        let queues = (0..partitions).map(|partition| (partition, load(partition)));
        let candidates =
            queues.filter(|(_, load)| may(*load)).map(|(partition, load)| (partition, u64::from(load.queue)));
        self.weighed.clear();
        self.weighed.extend(candidates);
        let longest = self.weighed.iter().map(|(_, queue)| *queue).max().unwrap_or(0);
        let mut sum = 0;
        for (_, queue) in &mut self.weighed {
            sum += longest + 1 - *queue;
            *queue = sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each of the partitions with these loads is drawn in 8,000 draws, by a fixed seed.
    fn drawn<const N: usize>(loads: [Candidate; N]) -> [u32; N] {
        let mut draw = Draw::new(fastrand::Rng::with_seed(1));
        let mut counts = [0; N];
        for _ in 0..8000 {
            counts[draw.next(N as i32, |partition| loads[partition as usize]) as usize] += 1;
        }
        counts
    }

    fn queue(queue: u32) -> Candidate {
        Candidate { has_leader: true, is_stalled: false, queue }
    }

    fn within(count: u32, expected: u32) -> bool {
        // Four standard deviations of a binomial of 8,000 are at most 180.
        count.abs_diff(expected) < 180
    }

    #[test]
    fn the_sticky_partition_changes_when_a_batch_closed_or_at_twice_its_size() {
        assert!(!sticky_is_over(100, 100, false));
        assert!(sticky_is_over(100, 100, true));
        assert!(!sticky_is_over(99, 100, true));
        assert!(sticky_is_over(200, 100, false));
    }

    #[test]
    fn equal_queues_are_equally_likely_whatever_their_length() {
        for length in [0, 1, 1000, u32::MAX] {
            let counts = drawn([queue(length); 4]);
            assert!(counts.iter().all(|count| within(*count, 2000)), "{counts:?}");
        }
    }

    #[test]
    fn short_queues_are_preferred_in_javas_proportion() {
        // BuiltInPartitionerTest: sizes 0, 3, 1 have the sums 4, 5, 8.
        let mut draw = Draw::new(fastrand::Rng::with_seed(1));
        draw.next(3, |partition| queue([0, 3, 1][partition as usize]));
        assert_eq!(draw.weighed, [(0, 4), (1, 5), (2, 8)]);
        let counts = drawn([queue(0), queue(3), queue(1)]);
        assert!(within(counts[0], 4000) && within(counts[1], 1000) && within(counts[2], 3000), "{counts:?}");
    }

    #[test]
    fn a_partition_without_a_leader_gets_nothing_though_its_queue_is_empty() {
        let leaderless = Candidate { has_leader: false, ..queue(0) };
        let counts = drawn([queue(5), leaderless, queue(5), queue(5)]);
        assert_eq!(counts[1], 0);
        assert!([counts[0], counts[2], counts[3]].iter().all(|count| within(*count, 2667)), "{counts:?}");
    }

    #[test]
    fn a_stalled_leader_gets_nothing_unless_all_are_stalled() {
        let stalled = Candidate { is_stalled: true, ..queue(0) };
        assert_eq!(drawn([stalled, queue(9), stalled]), [0, 8000, 0]);
        let counts = drawn([stalled, stalled]);
        assert!(counts.iter().all(|count| within(*count, 4000)), "{counts:?}");
        let leaderless = Candidate { has_leader: false, ..queue(0) };
        assert_eq!(drawn([stalled, leaderless]), [8000, 0], "rather a slow leader than none");
    }

    #[test]
    fn without_any_leader_all_are_drawn_and_a_topic_without_partitions_does_no_harm() {
        let leaderless = Candidate { has_leader: false, ..queue(0) };
        let counts = drawn([leaderless; 4]);
        assert!(counts.iter().all(|count| within(*count, 2000)), "{counts:?}");
        assert_eq!(Draw::new(fastrand::Rng::with_seed(1)).next(0, |_| leaderless), 0);
    }
}
