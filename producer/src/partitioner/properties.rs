//! What holds for all partitioners that go by the key: the same key is on the same partition, and that partition exists.

use std::time::Duration;

use super::*;

fn by_the_key() -> Vec<(&'static str, Box<dyn Partitioner>)> {
    vec![
        ("murmur2", Box::new(Murmur2)),
        ("crc32 consistent", Box::new(Crc32::consistent())),
        ("crc32 consistent_random", Box::new(Crc32::consistent_random())),
        ("fnv1a", Box::new(Fnv1a)),
        ("tiered", Box::new(Tiered::when(3, |record| record.key.is_some_and(|key| key.len() % 2 == 0)))),
        ("sharded", Box::new(Sharded::new(7, |record| record.key.map(|key| key.len() as u64)))),
        ("geohash", Box::new(ByGeohash::new(6, |record| place(record.key?)))),
        ("time bucket", Box::new(TimeBucket::new(Duration::from_secs(10)))),
    ]
}

/// A place that has nothing to do with the map.
fn place(key: &[u8]) -> Option<(f64, f64)> {
    let [a, b, ..] = key else { return None };
    Some((f64::from(*a) * 0.7 - 90.0, f64::from(*b) * 1.4 - 180.0))
}

/// Ten thousand keys of 0 to 40 bytes, the empty one among them.
fn keys() -> Vec<Vec<u8>> {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut keys: Vec<Vec<u8>> = (0..10_000).map(|n| (0..n % 41).map(|_| rng.u8(..)).collect()).collect();
    keys.push(Vec::new());
    keys
}

#[test]
fn the_same_key_is_on_the_same_partition_and_the_partition_exists() {
    let keys = keys();
    for (name, partitioner) in by_the_key() {
        for partitions in 1..=50 {
            // Another view each time: what a key's place depends on is the number of partitions, not the turn or a leader.
            let (first, second) = (View::of(partitions), View::of(partitions).without_leaders(&[0, 1]));
            second.next_turn();
            for key in &keys {
                let chosen = partitioner.choose(&keyed(Some(key)), &first);
                assert_eq!(chosen, partitioner.choose(&keyed(Some(key)), &second), "{name}, {partitions}: {key:?}");
                match chosen {
                    Choice::Partition(partition) => {
                        assert!(
                            (0..partitions).contains(&partition),
                            "{name}: {partition} of {partitions} for {key:?}"
                        );
                    }
                    // librdkafka takes an empty key for none.
                    Choice::Sticky => assert!(key.is_empty() && name == "crc32 consistent_random", "{name}: {key:?}"),
                    Choice::PartitionWithHeader(..) => panic!("{name} adds a header"),
                }
            }
        }
    }
}

#[test]
fn those_that_go_by_turns_choose_partitions_that_exist() {
    let turns: Vec<Box<dyn Partitioner>> =
        vec![Box::new(RoundRobin), Box::new(Salted::new(9, "salt")), Box::new(Salted::new(9, "salt").only_hot(0.1))];
    for partitioner in turns {
        for partitions in 1..=50 {
            let view = View::of(partitions);
            view.turn.set(u32::MAX - 100);
            for n in 0..1000_u32 {
                let key = [b'k', if n % 2 == 0 { 0 } else { n as u8 }];
                let (Choice::Partition(partition) | Choice::PartitionWithHeader(partition, _)) =
                    partitioner.choose(&keyed(Some(&key)), &view)
                else {
                    panic!("sticky");
                };
                assert!((0..partitions).contains(&partition), "{partitioner:?}: {partition} of {partitions}");
            }
        }
    }
}

#[test]
fn a_topic_without_partitions_does_no_harm() {
    let mut all = by_the_key();
    all.push(("round robin", Box::new(RoundRobin)));
    all.push(("salted", Box::new(Salted::new(9, "salt"))));
    for (_, partitioner) in all {
        for key in [None, Some(&b"key"[..])] {
            partitioner.choose(&keyed(key), &View::of(0));
        }
    }
}
