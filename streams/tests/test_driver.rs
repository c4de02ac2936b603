//! `TopologyTestDriver`: what goes in, what comes out.

#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use milena_streams::{KStream, Materialized, StreamsBuilder, Topology, TopologyTestDriver};

fn word_count(materialized: impl Into<Materialized>) -> Topology {
    let b = StreamsBuilder::new();
    b.stream::<(), String>("lines")
        .flat_map_values_with(|line: &String, emit| {
            for word in line.to_lowercase().split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
                if !word.is_empty() {
                    emit.push(word.to_owned());
                }
            }
        })
        .group_by(|_, word| word.clone())
        .count(materialized)
        .to_stream()
        .to("counts");
    b.build().unwrap()
}

fn counts(driver: &mut TopologyTestDriver) -> Vec<(String, i64)> {
    driver.read_all::<String, i64>("counts").unwrap()
}

fn owned(pairs: &[(&str, i64)]) -> Vec<(String, i64)> {
    pairs.iter().map(|(word, n)| ((*word).to_owned(), *n)).collect()
}

#[test]
fn every_update_comes_out_as_in_javas_driver() {
    let mut driver = TopologyTestDriver::new(&word_count("store"));
    driver.pipe_input::<(), String>("lines", (), "all streams lead to kafka").unwrap();
    driver.pipe_input::<(), String>("lines", (), "Kafka, streams!").unwrap();
    let all = [("all", 1), ("streams", 1), ("lead", 1), ("to", 1), ("kafka", 1), ("kafka", 2), ("streams", 2)];
    assert_eq!(counts(&mut driver), owned(&all));
    let store = driver.store("store").unwrap();
    assert_eq!((store.len(), store.get::<String, i64>("kafka").unwrap()), (5, Some(2)));
    assert_eq!(store.get::<String, i64>("milena").unwrap(), None);
    assert!(driver.store("other").is_none());
    assert_eq!(driver.read_all::<String, i64>("store-changelog").unwrap(), owned(&all), "the changelog says the same");
}

#[test]
fn a_cache_lets_only_the_last_update_of_a_key_out() {
    let mut driver = TopologyTestDriver::builder(&word_count("store")).cached().build();
    for _ in 0..3 {
        driver.pipe_input::<(), String>("lines", (), "a b a").unwrap();
    }
    assert_eq!(counts(&mut driver), []);
    assert_eq!(driver.store("store").unwrap().get::<String, i64>("a").unwrap(), Some(6), "the store is ahead");
    driver.commit().unwrap();
    assert_eq!(counts(&mut driver), owned(&[("a", 6), ("b", 3)]), "in the order of the keys' first update");
    driver.pipe_input::<(), String>("lines", (), "b").unwrap();
    driver.commit().unwrap();
    assert_eq!(counts(&mut driver), owned(&[("b", 4)]));
    assert_eq!(driver.read_all::<String, i64>("store-changelog").unwrap(), owned(&[("a", 6), ("b", 3), ("b", 4)]));
}

#[test]
fn without_caching_every_update_comes_out_before_the_commit() {
    let mut driver =
        TopologyTestDriver::builder(&word_count(Materialized::named("s").without_caching().without_logging()))
            .cached()
            .build();
    driver.pipe_input::<(), String>("lines", (), "a b a").unwrap();
    assert_eq!(counts(&mut driver), owned(&[("a", 1), ("b", 1), ("a", 2)]));
    assert!(driver.read_all::<String, i64>("s-changelog").is_err(), "there is no changelog");
}

#[test]
fn results_carry_the_largest_timestamp_of_their_inputs() {
    let mut driver = TopologyTestDriver::builder(&word_count("s")).start_time(1_000).build();
    driver.pipe_input::<(), String>("lines", (), "a").unwrap();
    driver.advance_time(Duration::from_secs(2));
    driver.pipe_input::<(), String>("lines", (), "a").unwrap();
    driver.pipe_input_at::<(), String>("lines", (), "a", 5).unwrap();
    let mut times = Vec::new();
    while let Some(record) = driver.read_output::<String, i64>("counts").unwrap() {
        times.push(record.timestamp);
    }
    assert_eq!(times, [1_000, 3_000, 3_000]);
}

/// Counts of random text through every way a count can be built are those of a plain loop.
#[test]
fn counts_of_random_text_are_a_plain_count() {
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (vocabulary, mut plain) = (rng.u32(1..200), BTreeMap::<String, i64>::new());
        let lines: Vec<String> = (0..rng.usize(1..120))
            .map(|_| {
                let mut line = String::new();
                for _ in 0..rng.usize(0..15) {
                    let word = format!("w{}_{}", rng.u32(0..vocabulary), "x".repeat(rng.usize(0..3) * 15));
                    *plain.entry(word.clone()).or_default() += 1;
                    line.push_str(&if rng.bool() { word.to_uppercase() } else { word });
                    line.push_str([" ", ", ", "...", "\t"][rng.usize(0..4)]);
                }
                line
            })
            .collect();
        for (way, options) in [(0, Materialized::named("s")), (1, Materialized::named("s").without_caching())] {
            let builder = TopologyTestDriver::builder(&word_count(options));
            let cached = rng.bool();
            let mut driver = if cached { builder.cached().build() } else { builder.build() };
            for line in &lines {
                driver.pipe_input::<(), String>("lines", (), line.as_str()).unwrap();
                if rng.u8(..10) == 0 {
                    driver.commit().unwrap();
                }
            }
            driver.commit().unwrap();
            let last: BTreeMap<String, i64> = counts(&mut driver).into_iter().collect();
            assert_eq!(last, plain, "seed {seed}, way {way}, cached {cached}");
            let store = driver.store("s").unwrap().entries::<String, i64>().unwrap();
            assert_eq!(store.into_iter().collect::<BTreeMap<_, _>>(), plain, "seed {seed}, way {way}");
            let log: BTreeMap<String, i64> = driver.read_all("s-changelog").unwrap().into_iter().collect();
            assert_eq!(log, plain, "seed {seed}: what a restore would read");
        }
    }
}

#[test]
fn a_cloned_handle_is_a_fan_out() {
    let b = StreamsBuilder::new();
    let numbers = b.stream::<String, i64>("in");
    numbers.clone().filter(|_, n| n % 2 == 0).to("even");
    numbers.clone().map_values(|n| n * 10).to("tenfold");
    numbers.to("same");
    let mut driver = TopologyTestDriver::new(&b.build().unwrap());
    for n in 1..=4_i64 {
        driver.pipe_input::<String, i64>("in", "k", n).unwrap();
    }
    let values = |driver: &mut TopologyTestDriver, topic: &str| -> Vec<i64> {
        driver.read_all::<String, i64>(topic).unwrap().into_iter().map(|(_, n)| n).collect()
    };
    assert_eq!(values(&mut driver, "even"), [2, 4]);
    assert_eq!(values(&mut driver, "tenfold"), [10, 20, 30, 40]);
    assert_eq!(values(&mut driver, "same"), [1, 2, 3, 4]);
}

#[test]
fn a_stream_merged_with_itself_gives_every_record_twice() {
    let b = StreamsBuilder::new();
    let s = b.stream::<String, i64>("in");
    s.clone().merge(s).group_by_key().count("s").to_stream().to("out");
    let mut driver = TopologyTestDriver::builder(&b.build().unwrap()).cached().build();
    driver.pipe_input::<String, i64>("in", "a", 7).unwrap();
    driver.commit().unwrap();
    assert_eq!(driver.read_all::<String, i64>("out").unwrap(), owned(&[("a", 2)]));
}

#[test]
fn a_flush_reaches_a_merge_after_all_its_parents() {
    // Two cached counts merge and are counted again: the second count is flushed once, with both parents' results in it.
    let b = StreamsBuilder::new();
    let left = b.stream::<String, i64>("left").group_by_key().count("l").to_stream();
    let right = b.stream::<String, i64>("right").group_by_key().count("r").to_stream();
    left.merge(right).group_by_key().count("both").to_stream().to("out");
    let mut driver = TopologyTestDriver::builder(&b.build().unwrap()).cached().build();
    for topic in ["left", "right"] {
        driver.pipe_input::<String, i64>(topic, "a", 1).unwrap();
        driver.pipe_input::<String, i64>(topic, "a", 1).unwrap();
    }
    driver.commit().unwrap();
    assert_eq!(driver.read_all::<String, i64>("out").unwrap(), owned(&[("a", 2)]));
}

#[test]
fn null_keys_and_values_are_not_counted() {
    let b = StreamsBuilder::new();
    b.stream::<Option<String>, Option<String>>("in").group_by_key().count("direct");
    b.stream::<Option<String>, Option<String>>("in2")
        .select_key(|k, _| k.clone())
        .group_by_key()
        .count("repartitioned");
    let mut driver = TopologyTestDriver::new(&b.build().unwrap());
    for topic in ["in", "in2"] {
        driver.pipe_bytes(topic, None, Some(b"v"), 0).unwrap();
        driver.pipe_bytes(topic, Some(b"k"), None, 0).unwrap();
        driver.pipe_bytes(topic, Some(b"k"), Some(b"v"), 0).unwrap();
    }
    for store in ["direct", "repartitioned"] {
        assert_eq!(driver.store(store).unwrap().entries::<String, i64>().unwrap(), owned(&[("k", 1)]), "{store}");
    }
    assert_eq!(driver.dropped_records(), 4);
}

#[test]
fn bad_bytes_name_the_record_but_not_its_content() {
    let b = StreamsBuilder::new();
    b.stream::<String, i64>("in").to("out");
    let topology = b.build().unwrap();
    let mut driver = TopologyTestDriver::new(&topology);
    driver.pipe_input::<String, i64>("in", "fine", 1).unwrap();
    assert_eq!(
        driver.pipe_bytes("in", Some(b"k"), Some(b"secret"), 0).unwrap_err().to_string(),
        "KSTREAM-SOURCE-0000000000 at in-0@1: the record's value: a 64-bit integer has 8 bytes, here are 6: is it another type?"
    );
    let mut driver = TopologyTestDriver::new(&topology);
    let error = driver.pipe_bytes("in", None, Some(&[0; 8]), 0).unwrap_err().to_string();
    assert!(error.contains("read it as Option<alloc::string::String>, or as ()"), "{error}");
    let error = driver.pipe_bytes("out", None, None, 0).unwrap_err().to_string();
    assert_eq!(error, "input to out: the topology does not read this topic");
}

#[test]
fn operators_do_what_they_say() {
    let b = StreamsBuilder::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (peeked, ended) = (seen.clone(), seen.clone());
    let stream: KStream<String, i64> = b.stream("in");
    stream
        .peek(move |k, v| peeked.lock().unwrap().push(format!("peek {k} {v}")))
        .flat_map_values(|n| 0..n)
        .select_key(|k, v| format!("{k}{v}"))
        .map(|k, v| (v, k))
        .map_values(|k| k.len() as i64)
        .for_each(move |k, v| ended.lock().unwrap().push(format!("end {k} {v}")));
    let mut driver = TopologyTestDriver::new(&b.build().unwrap());
    driver.pipe_input::<String, i64>("in", "ab", 2).unwrap();
    assert_eq!(*seen.lock().unwrap(), ["peek ab 2", "end 0 3", "end 1 3"]);
}
