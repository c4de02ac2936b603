//! Names, sub-topologies and descriptions are Java's, letter for letter: each topology here is built in
//! `golden/Describe.java` with the same calls, and Kafka Streams 4.3.0 printed `golden/describe.txt`.

#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]

use milena_streams::{Consumed, Grouped, KStream, Materialized, StreamsBuilder};

const GOLDEN: &str = include_str!("golden/describe.txt");

fn expect(name: &str, builder: &StreamsBuilder) {
    let (_, rest) = GOLDEN.split_once(&format!("== {name}\n")).unwrap_or_else(|| panic!("no golden text for {name}"));
    let golden = rest.split("== ").next().unwrap_or_default();
    assert_eq!(builder.build().unwrap().describe(), golden, "{name}");
}

fn lines(builder: &StreamsBuilder, topic: &str) -> KStream<String, String> {
    builder.stream(topic)
}

fn words(line: String) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn grouped(name: &str) -> Grouped<String, String> {
    Grouped::default().named(name)
}

#[test]
fn word_count() {
    let b = StreamsBuilder::new();
    lines(&b, "text-lines-topic")
        .flat_map_values(words)
        .group_by(|_, w| w.clone())
        .count(Materialized::default())
        .to_stream()
        .to("word-counts-output-topic");
    expect("word_count_unnamed_store", &b);

    let b = StreamsBuilder::new();
    lines(&b, "text-lines-topic")
        .flat_map_values(words)
        .group_by(|_, w| w.clone())
        .count("word-counts")
        .to_stream()
        .to("word-counts-output-topic");
    expect("word_count_named_store", &b);
}

#[test]
fn a_kept_key_needs_no_repartition_topic() {
    let b = StreamsBuilder::new();
    lines(&b, "in").filter(|_, _| true).group_by_key().count("c").to_stream().to("out");
    expect("group_by_key_needs_no_repartition", &b);
}

#[test]
fn a_groups_name_names_its_repartition_topic() {
    let b = StreamsBuilder::new();
    lines(&b, "in")
        .map(|k, v| (v, k))
        .peek(|_, _| {})
        .map_values(|v| v)
        .group_by_key_with(grouped("by-user"))
        .count("users")
        .to_stream()
        .for_each(|_, _| {});
    expect("grouped_name_names_the_repartition_topic", &b);

    let b = StreamsBuilder::new();
    lines(&b, "in")
        .group_by_with(|_, v| v.clone(), grouped("by-user"))
        .count(Materialized::default())
        .to_stream()
        .to("out");
    expect("grouped_name_in_group_by", &b);
}

#[test]
fn merge_and_fan_out() {
    let b = StreamsBuilder::new();
    let left = lines(&b, "left").filter(|_, _| true);
    let right = lines(&b, "right").map_values(|v| v);
    let merged = left.merge(right);
    merged.clone().to("out");
    merged.select_key(|_, v| v.clone()).to("by-value");
    expect("merge_and_fan_out", &b);

    let b = StreamsBuilder::new();
    let s = lines(&b, "in");
    s.clone().group_by(|_, v| v.clone()).count("one").to_stream().to("out-1");
    s.clone().group_by_key().count("two").to_stream().to("out-2");
    s.peek(|_, _| {}).for_each(|_, _| {});
    expect("three_branches_of_one_stream", &b);

    let b = StreamsBuilder::new();
    let many = b.stream::<String, String>(["orders", "payments", "alpha"]);
    many.merge(lines(&b, "beta")).filter(|_, _| true).to("out");
    expect("several_topics_and_merge", &b);
}

#[test]
fn two_counts_of_one_group() {
    let b = StreamsBuilder::new();
    let g = lines(&b, "in").group_by(|_, v| v.clone());
    g.clone().count("one").to_stream().to("out-1");
    g.count("two").to_stream().to("out-2");
    expect("two_counts_of_one_group", &b);

    let b = StreamsBuilder::new();
    let g = lines(&b, "in").select_key(|_, v| v.clone()).group_by_key_with(grouped("shared"));
    g.clone().count("one").to_stream().to("out-1");
    g.count("two").to_stream().to("out-2");
    expect("two_counts_share_a_named_repartition_topic", &b);
}

#[test]
fn named_sources_burn_an_index_and_sub_topologies_follow_creation() {
    let b = StreamsBuilder::new();
    b.stream_with("second", Consumed::<String, String>::default().named("zzz")).to("out-2");
    b.stream_with("first", Consumed::<String, String>::default().named("aaa")).to("out-1");
    lines(&b, "third").flat_map_values(|v| [v]).flat_map_values(|v| [v]).to("out-3");
    expect("named_sources", &b);
}

#[test]
fn a_table_used_twice() {
    let b = StreamsBuilder::new();
    let t = lines(&b, "in").group_by_key().count("c");
    t.clone().to_stream().to("out");
    t.to_stream().group_by(|_, _| "all".to_owned()).count(Materialized::default()).to_stream().to("total");
    expect("table_twice_and_a_count_of_counts", &b);
}

#[test]
fn mistakes_are_named_at_build() {
    let why = |build: &dyn Fn(&StreamsBuilder)| {
        let b = StreamsBuilder::new();
        build(&b);
        b.build().unwrap_err().to_string()
    };
    assert_eq!(why(&|_| {}), "the topology reads no topic: call StreamsBuilder::stream first");
    assert_eq!(
        why(&|b| {
            lines(b, "in").to("a");
            lines(b, "in").to("b");
        }),
        "topic in is read by two sources: call stream() once and clone its handle"
    );
    assert!(why(&|b| lines(b, "no topic").to("a")).contains("holds something else than letters"));
    assert_eq!(
        why(&|b| {
            lines(b, "in").group_by_key().count("s");
            lines(b, "in2").group_by_key().count("s");
        }),
        "two stores are named \"s\": give one of them another name"
    );
}
