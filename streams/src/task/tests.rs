//! The task alone: order of records, back-pressure, offsets.

use super::*;
use crate::{
    dsl::StreamsBuilder,
    processor::{Outgoing, Part},
    record::Headers,
    topology::{TopicRole, Topology},
};

/// Remembers what was sent; has room for so many records before `room` is set again.
#[derive(Default)]
struct Recorder {
    sent: Vec<(TopicId, Part, Vec<u8>, Vec<u8>, i64)>,
    room: usize,
}

impl Driver for Recorder {
    fn send(&mut self, topic: TopicId, part: Part, record: Outgoing<'_>) {
        let bytes = |bytes: Option<&[u8]>| bytes.unwrap_or(b"null").to_vec();
        self.sent.push((topic, part, bytes(record.key), bytes(record.value), record.timestamp));
        self.room = self.room.saturating_sub(1);
    }

    fn has_room(&self) -> bool {
        self.room > 0
    }
}

fn block(records: &[(i64, &str, &str)]) -> Block {
    let mut builder = BlockBuilder::default();
    for (offset, (timestamp, key, value)) in (0..).zip(records) {
        builder.push(offset, *timestamp, Some(key.as_bytes()), Some(value.as_bytes()), Headers::default());
    }
    builder.finish()
}

fn task(topology: &Topology, sub_topology: usize) -> Task {
    topology.task(TaskId { sub_topology, partition: 3 }, 1).unwrap()
}

fn counting() -> Topology {
    let b = StreamsBuilder::new();
    b.stream::<String, String>("in").group_by_key().count("s").to_stream().to("out");
    b.build().unwrap()
}

#[test]
fn the_input_with_the_lowest_timestamp_goes_first_and_runs_on() {
    let b = StreamsBuilder::new();
    b.stream::<String, String>("a").merge(b.stream("b")).to("out");
    let topology = b.build().unwrap();
    let (mut task, mut driver) = (task(&topology, 0), Recorder { room: 100, ..Recorder::default() });
    task.add(0, block(&[(1, "a", "1"), (2, "a", "2"), (9, "a", "9")]));
    task.add(1, block(&[(2, "b", "2"), (3, "b", "3"), (8, "b", "8"), (10, "b", "10")]));
    assert_eq!(task.process(&mut driver, 100).unwrap(), Progress::Idle);
    let times: Vec<i64> = driver.sent.iter().map(|sent| sent.4).collect();
    assert_eq!(times, [1, 2, 2, 3, 8, 9, 10]);
    assert_eq!(task.stream_time(), 10);
    assert_eq!(task.offsets().into_values().collect::<Vec<_>>(), [3, 4]);
}

#[test]
fn equal_timestamps_of_two_inputs_make_progress() {
    let b = StreamsBuilder::new();
    b.stream::<String, String>("a").merge(b.stream("b")).to("out");
    let (mut task, mut driver) = (task(&b.build().unwrap(), 0), Recorder { room: 100, ..Recorder::default() });
    task.add(0, block(&[(i64::MAX, "a", "1")]));
    task.add(1, block(&[(i64::MAX, "b", "2")]));
    assert_eq!(task.process(&mut driver, 100).unwrap(), Progress::Idle);
    assert_eq!(driver.sent.len(), 2);
}

#[test]
fn a_budget_ends_early_and_offsets_are_of_what_was_processed() {
    let topology = counting();
    let (mut task, mut driver) = (task(&topology, 0), Recorder { room: 100, ..Recorder::default() });
    assert!(task.offsets().is_empty());
    task.add(0, block(&[(1, "a", "x"), (2, "b", "x"), (3, "a", "x")]));
    assert_eq!(task.process(&mut driver, 2).unwrap(), Progress::More);
    assert_eq!(task.offsets().into_values().collect::<Vec<_>>(), [2]);
    assert_eq!(task.process(&mut driver, 2).unwrap(), Progress::Idle);
    assert_eq!(task.offsets().into_values().collect::<Vec<_>>(), [3]);
}

#[test]
fn without_room_processing_stops_and_goes_on_without_loss() {
    let b = StreamsBuilder::new();
    b.stream::<String, String>("in").flat_map_values(|v: String| [v.clone(), v]).to("out");
    let (mut task, mut driver) = (task(&b.build().unwrap(), 0), Recorder { room: 1, ..Recorder::default() });
    task.add(0, block(&[(1, "a", "1"), (2, "a", "2"), (3, "a", "3")]));
    // One record may overshoot; the next one waits.
    assert_eq!(task.process(&mut driver, 100).unwrap(), Progress::NeedRoom);
    assert_eq!(driver.sent.len(), 2);
    assert_eq!(task.process(&mut driver, 100).unwrap(), Progress::NeedRoom);
    assert_eq!(driver.sent.len(), 2);
    driver.room = 100;
    assert_eq!(task.process(&mut driver, 100).unwrap(), Progress::Idle);
    let values: Vec<&[u8]> = driver.sent.iter().map(|sent| &sent.3[..]).collect();
    assert_eq!(values, [b"1", b"1", b"2", b"2", b"3", b"3"]);
}

#[test]
fn a_flush_of_many_keys_resumes_where_the_room_ended() {
    let topology = counting();
    let keys: Vec<String> = (0..2_000).map(|n| format!("key-{n}")).collect();
    let records: Vec<(i64, &str, &str)> = keys.iter().map(|key| (5, &key[..], "x")).collect();
    let flush = |rooms: &mut dyn FnMut() -> usize| {
        let (mut task, mut driver) = (task(&topology, 0), Recorder { room: 9_999, ..Recorder::default() });
        task.add(0, block(&records));
        assert_eq!(task.process(&mut driver, usize::MAX).unwrap(), Progress::Idle);
        assert!(driver.sent.is_empty(), "all in the cache");
        driver.room = rooms();
        while task.flush(&mut driver).unwrap() == Flow::NeedRoom {
            assert!(!driver.has_room());
            driver.room = rooms();
        }
        assert_eq!(task.flush(&mut driver).unwrap(), Flow::Done);
        driver.sent
    };
    let at_once = flush(&mut || 100_000);
    assert_eq!(at_once.len(), 4_000, "a changelog record and a result for each key");
    let mut rng = fastrand::Rng::with_seed(1);
    assert_eq!(flush(&mut || rng.usize(1..700)), at_once);
    assert_eq!(flush(&mut || 1), at_once);
}

#[test]
fn the_changelog_goes_to_the_tasks_partition_with_the_values_time() {
    let topology = counting();
    let (mut task, mut driver) = (task(&topology, 0), Recorder { room: 9, ..Recorder::default() });
    task.add(0, block(&[(7, "a", "x"), (4, "a", "x")]));
    assert_eq!(task.process(&mut driver, 9).unwrap(), Progress::Idle);
    assert_eq!(task.flush(&mut driver).unwrap(), Flow::Done);
    let two = 2_i64.to_be_bytes().to_vec();
    let [(changelog, part, key, value, time), (out, by_key, ..)] = &driver.sent[..] else {
        panic!("{:?}", driver.sent)
    };
    assert_eq!(topology.topics()[changelog.0].role, TopicRole::Changelog);
    assert_eq!((part, &key[..], value, *time), (&Part::Fixed(3), &b"a"[..], &two, 7));
    assert_eq!((&*topology.topics()[out.0].name, by_key), ("out", &Part::ByKey));
}

#[test]
fn a_restored_store_goes_on_counting_and_repeats_nothing() {
    let topology = counting();
    let (mut task, mut driver) = (task(&topology, 0), Recorder { room: 9, ..Recorder::default() });
    let store = &mut task.stores_mut()[0].kv;
    store.restore(b"a", Some(&41_i64.to_be_bytes()), 100);
    store.restore(b"b", Some(&1_i64.to_be_bytes()), 100);
    assert_eq!(task.flush(&mut driver).unwrap(), Flow::Done);
    assert!(driver.sent.is_empty(), "what came from the changelog is not written to it again");
    task.add(0, block(&[(7, "a", "x")]));
    assert_eq!(task.process(&mut driver, 9).unwrap(), Progress::Idle);
    assert_eq!(task.flush(&mut driver).unwrap(), Flow::Done);
    let (_, _, key, value, time) = &driver.sent[0];
    assert_eq!((&key[..], &value[..], *time), (&b"a"[..], &42_i64.to_be_bytes()[..], 100));
    assert_eq!(driver.sent.len(), 2);
}

#[test]
fn the_cache_bound_asks_for_an_early_commit() {
    let topology = counting();
    let (mut task, mut driver) = (task(&topology, 0), Recorder { room: 9, ..Recorder::default() });
    task.set_cache_bound(10_000);
    let keys: Vec<String> = (0..1_000).map(|n| format!("key-{n}")).collect();
    let records: Vec<(i64, &str, &str)> = keys.iter().map(|key| (5, &key[..], "x")).collect();
    task.add(0, block(&records));
    assert_eq!(task.process(&mut driver, 1 << 20).unwrap(), Progress::CommitSoon);
    let processed = task.offsets().into_values().next().unwrap();
    assert!((100..300).contains(&processed), "{processed} records of about 70 bytes");
}

#[test]
fn a_broken_store_value_is_an_error_that_names_the_store() {
    let topology = counting();
    let (mut task, mut driver) = (task(&topology, 0), Recorder { room: 9, ..Recorder::default() });
    task.stores_mut()[0].kv.restore(b"a", Some(b"abc"), 100);
    task.add(0, block(&[(7, "a", "x")]));
    let error = task.process(&mut driver, 9).unwrap_err().to_string();
    assert!(error.contains("store s holds a value that is no count"), "{error}");
}
