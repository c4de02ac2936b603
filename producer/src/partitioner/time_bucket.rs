//! A key whose records belong together only while they are close in time.
//!
//! Use it when readers work in windows (counts per ten seconds, per hour) and a key would fill its partition for ever: a trending
//! tag's records of one window are together, and the next window's are elsewhere. It spreads a key's *storage* and its total over the
//! partitions; at any moment all of its records still go to one of them, so it does nothing against a peak ([`Sharded`](super::Sharded)
//! and [`Salted`](super::Salted) do).
//!
//! It costs order across buckets: a reader may see a key's new bucket before the end of the old one. Who wants a figure per key adds
//! its buckets up.

use std::time::Duration;

use super::murmur2::{by_key, murmur2_partition};
use super::{Choice, ClusterView, Partitioner, Unplaced, derived};

/// The partition that Java's default partitioner gives to [`time_bucket_key`]; the record keeps its own key. Its time is its
/// timestamp, or that of sending. Records without a key go to the sticky partition.
#[derive(Debug, Clone, Copy)]
pub struct TimeBucket {
    width: Duration,
}

impl TimeBucket {
    /// Buckets of this width, in whole milliseconds and at least one, counted from 1970.
    pub const fn new(width: Duration) -> Self {
        Self { width }
    }
}

impl Partitioner for TimeBucket {
    fn choose(&self, record: &Unplaced<'_>, cluster: &dyn ClusterView) -> Choice<'_> {
        match record.key {
            Some(key) => {
                let partition = |bucketed: &[u8]| murmur2_partition(bucketed, cluster.partitions());
                Choice::Partition(derived::with_number(key, bucket(record.timestamp, self.width), partition))
            }
            None => by_key(record, cluster),
        }
    }
}

/// `#rust` at second 1,700,000,007 in buckets of ten seconds: `#rust-170000000`. For records that shall carry the bucket in their
/// key, so that who reads them can group by it. `timestamp` is in milliseconds since 1970.
pub fn time_bucket_key(key: &[u8], timestamp: i64, width: Duration) -> Vec<u8> {
    derived::owned(key, bucket(timestamp, width))
}

fn bucket(timestamp: i64, width: Duration) -> i64 {
    // Rounded down, also before 1970: no bucket is twice as wide as the others.
    timestamp.div_euclid(i64::try_from(width.as_millis()).unwrap_or(i64::MAX).max(1))
}

#[cfg(test)]
mod tests {
    use super::super::{View, keyed};
    use super::*;

    const TEN_SECONDS: Duration = Duration::from_secs(10);

    fn chosen(key: &str, timestamp: i64) -> i32 {
        let record = Unplaced { timestamp, ..keyed(Some(key.as_bytes())) };
        match TimeBucket::new(TEN_SECONDS).choose(&record, &View::of(12)) {
            Choice::Partition(partition) => partition,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_key_says_the_bucket() {
        assert_eq!(time_bucket_key(b"#rust", 1_700_000_007_999, TEN_SECONDS), b"#rust-170000000");
        assert_eq!(time_bucket_key(b"#rust", -1, TEN_SECONDS), b"#rust--1");
        assert_eq!(time_bucket_key(b"#rust", 0, TEN_SECONDS), b"#rust-0");
        assert_eq!(time_bucket_key(b"#rust", 7, Duration::ZERO), b"#rust-7");
        assert_eq!(time_bucket_key(b"#rust", i64::MIN, Duration::MAX), b"#rust--2");
    }

    #[test]
    fn a_bucket_is_together_and_the_buckets_of_a_key_are_not() {
        let mut seen = std::collections::BTreeSet::new();
        for bucket in 0..100 {
            let first = chosen("#rust", bucket * 10_000);
            assert_eq!(first, murmur2_partition(&time_bucket_key(b"#rust", bucket * 10_000, TEN_SECONDS), 12));
            for within in [1, 5_000, 9_999] {
                assert_eq!(chosen("#rust", bucket * 10_000 + within), first);
            }
            seen.insert(first);
        }
        assert_eq!(seen.len(), 12);
    }

    #[test]
    fn no_key_is_sticky() {
        assert_eq!(TimeBucket::new(TEN_SECONDS).choose(&keyed(None), &View::of(12)), Choice::Sticky);
    }
}
