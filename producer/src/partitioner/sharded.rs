//! A key that is too much for one partition, in shards: by an entity that the records are about.
//!
//! Use it when a natural key is coarse (a country, a city, a restaurant, a tenant) and order matters only per entity behind it (a
//! user, a driver, an order): `US` becomes `US-0` to `US-9`, and a user is always in the same one.
//!
//! It costs order between entities of one key, and a second step for whoever wants one figure per key: count per shard, then add the
//! shards up (in Streams: group by the sharded key, then by the natural one). Ten shards over ten partitions do not fill all ten:
//! each is hashed for itself. With fewer shards than the hottest key needs it is still too much, and with thousands the key means
//! nothing any more.

use std::fmt;
use std::sync::Arc;

use super::murmur2::{by_key, murmur2_partition};
use super::{Choice, ClusterView, Partitioner, Unplaced, derived};

/// The partition that Java's default partitioner gives to [`sharded_key`]; the record keeps its own key.
///
/// Records without a key or without an entity go where [`Murmur2`](super::Murmur2) has them.
///
/// ```
/// use milena_producer::{Sharded, murmur2_partition};
///
/// // Ten shards of each key, by a number in the value.
/// let by_number = Sharded::new(10, |record| record.value?.first_chunk().map(|id| u64::from_be_bytes(*id)));
/// // By a header: an entity that is not a number is hashed.
/// let by_header = Sharded::new(10, |record| {
///     let user = record.headers.iter().find(|header| header.key == b"user")?.value?;
///     Some(murmur2_partition(user, 10) as u64)
/// });
/// # let _ = (by_number, by_header);
/// ```
#[derive(Clone)]
pub struct Sharded {
    shards: u32,
    entity: EntityOf,
}

type EntityOf = Arc<dyn Fn(&Unplaced<'_>) -> Option<u64> + Send + Sync>;

impl Sharded {
    /// So many shards of each key, at least one. `entity` says whom a record is about, by an id or the hash of one; the shard is its
    /// remainder. It is asked about each record, and must not block.
    pub fn new(shards: u32, entity: impl Fn(&Unplaced<'_>) -> Option<u64> + Send + Sync + 'static) -> Self {
        Self { shards: shards.max(1), entity: Arc::new(entity) }
    }
}

impl Partitioner for Sharded {
    fn choose(&self, record: &Unplaced<'_>, cluster: &dyn ClusterView) -> Choice<'_> {
        match (record.key, (self.entity)(record)) {
            (Some(key), Some(entity)) => {
                let partition = |sharded: &[u8]| murmur2_partition(sharded, cluster.partitions());
                Choice::Partition(derived::with_number(key, shard(entity, self.shards), partition))
            }
            _ => by_key(record, cluster),
        }
    }
}

/// `US` and entity 1207 in ten shards: `US-7`. For records that shall carry the sharded key as their own, so that who reads them can
/// group by it; any producer with Java's default partitioner has them where [`Sharded`] has them.
pub fn sharded_key(key: &[u8], entity: u64, shards: u32) -> Vec<u8> {
    derived::owned(key, shard(entity, shards.max(1)))
}

fn shard(entity: u64, shards: u32) -> i64 {
    // Less than `shards`, which has 32 bits.
    (entity % u64::from(shards)) as i64
}

impl fmt::Debug for Sharded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sharded").field("shards", &self.shards).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{View, keyed};
    use super::*;

    fn by_value(shards: u32) -> Sharded {
        Sharded::new(shards, |record| std::str::from_utf8(record.value?).ok()?.parse().ok())
    }

    fn chosen(sharded: &Sharded, key: &str, value: &str, partitions: i32) -> i32 {
        let record = Unplaced { value: Some(value.as_bytes()), ..keyed(Some(key.as_bytes())) };
        match sharded.choose(&record, &View::of(partitions)) {
            Choice::Partition(partition) => partition,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_key_says_the_shard() {
        assert_eq!(sharded_key(b"US", 1207, 10), b"US-7");
        assert_eq!(sharded_key(b"rest-123", 14, 5), b"rest-123-4");
        assert_eq!(sharded_key(b"US", u64::MAX, 0), b"US-0");
    }

    #[test]
    fn a_record_goes_where_its_sharded_key_would() {
        let sharded = by_value(10);
        for entity in 0..100_u64 {
            let expected = murmur2_partition(&sharded_key(b"US", entity, 10), 12);
            assert_eq!(chosen(&sharded, "US", &entity.to_string(), 12), expected);
        }
    }

    #[test]
    fn one_hot_key_is_spread_and_an_entity_stays_where_it_is() {
        // "US" makes all of the records: one partition of 12 without shards.
        let mut partitions: Vec<i32> = (0..1000).map(|n| chosen(&by_value(48), "US", &n.to_string(), 12)).collect();
        assert_eq!(partitions[7], chosen(&by_value(48), "US", "7", 12));
        partitions.sort_unstable();
        let most = partitions.chunk_by(|a, b| a == b).map(<[i32]>::len).max().unwrap();
        assert!(most < 250, "the fullest of 12 partitions has {most} of 1,000");
    }

    #[test]
    fn without_an_entity_or_a_key_it_is_as_ever() {
        assert_eq!(chosen(&by_value(10), "US", "no number", 12), murmur2_partition(b"US", 12));
        assert_eq!(by_value(10).choose(&keyed(None), &View::of(12)), Choice::Sticky);
    }
}
