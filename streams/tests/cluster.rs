//! `KafkaStreams` on the in-process cluster: in memory, under a paused clock.

#![expect(clippy::disallowed_methods, reason = "a test waits by the paused clock")]
#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]

mod common;

use std::time::Duration;

use common::{
    COUNTS, LINES, Survivor, after_a_kill, caught_up, client, cluster, count_in_two_runs, counts, load,
    run_until_caught_up, text, word_count,
};
use milena_producer::{Producer, Record};
use milena_streams::{KafkaStreams, StreamsConfig, StreamsState};
use milena_testkit::{Api, Cluster, ErrorCode, Reaction};
use tokio::time::Instant;

fn config() -> StreamsConfig {
    StreamsConfig::new("app").commit_interval(Duration::from_secs(1))
}

#[tokio::test(start_paused = true)]
async fn words_are_counted_exactly_when_nothing_fails() {
    let cluster = cluster(3).start_in_memory().unwrap();
    let client = client(&cluster, 1).await;
    let (lines, plain) = text(1, 2_000);
    load(&client, &lines).await;
    let streams = KafkaStreams::new(word_count(), config()).start(&client).await.unwrap();
    streams.running().await.unwrap();
    caught_up(&streams, 6).await;
    assert!(streams.processed_records() as usize > lines.len());
    streams.close(Duration::from_secs(30)).await.unwrap();
    let (counted, records) = counts(&client, COUNTS, 3).await;
    assert_eq!(counted, plain);
    let words: i64 = plain.values().sum();
    assert!(records < words as usize / 2, "the record cache collapses updates: {records} of {words}");
    assert_eq!(counts(&client, "app-word-counts-changelog", 3).await.0, plain, "the changelog says the same");
    assert_eq!(client.spawner().threads(), 0);
    client.close().await;
    assert_eq!(client.tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_second_instance_takes_over_half_and_nothing_is_lost_or_doubled() {
    let cluster = cluster(4).start_in_memory().unwrap();
    let (one, two) = (client(&cluster, 1).await, client(&cluster, 2).await);
    let (lines, mut plain) = text(2, 3_000);
    load(&one, &lines[..1_000]).await;
    let first = KafkaStreams::new(word_count(), config()).start(&one).await.unwrap();
    first.running().await.unwrap();
    load(&one, &lines[1_000..2_000]).await;
    let second = KafkaStreams::new(word_count(), config()).start(&two).await.unwrap();
    second.running().await.unwrap();
    // In the midst of the rebalance.
    load(&one, &lines[2_000..]).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let (left, right) = (first.uncommitted_records().await.unwrap(), second.uncommitted_records().await.unwrap());
    assert_eq!((left.len(), right.len()), (4, 4), "half of the tasks each");
    assert!(left.keys().all(|partition| !right.contains_key(partition)));
    first.close(Duration::from_secs(30)).await.unwrap();
    // What the first one had comes back to the second.
    let (more, more_plain) = text(3, 500);
    load(&one, &more).await;
    caught_up(&second, 8).await;
    second.close(Duration::from_secs(30)).await.unwrap();
    for (word, count) in more_plain {
        *plain.entry(word).or_default() += count;
    }
    assert_eq!(counts(&one, COUNTS, 4).await.0, plain);
    for client in [one, two] {
        client.close().await;
        assert_eq!(client.tasks(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_revocation_waits_for_no_commit_interval() {
    let cluster = cluster(4).start_in_memory().unwrap();
    let (one, two) = (client(&cluster, 1).await, client(&cluster, 2).await);
    let (lines, plain) = text(7, 60_000);
    // Much is handed out at once, so that a revocation comes in the midst of it; nothing commits by itself.
    let config = || StreamsConfig::new("app").commit_interval(Duration::from_secs(3_600)).max_poll_records(100_000);
    let first = KafkaStreams::new(word_count(), config()).start(&one).await.unwrap();
    first.running().await.unwrap();
    load(&one, &lines[..30_000]).await;
    let second = KafkaStreams::new(word_count(), config()).start(&two).await.unwrap();
    load(&one, &lines[30_000..]).await;
    let started = Instant::now();
    while second.uncommitted_records().await.unwrap().len() < 4 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(started.elapsed() < Duration::from_secs(30), "the second instance waits for its tasks");
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let by_first = first.processed_records();
    first.close(Duration::from_secs(30)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let words: i64 = plain.values().sum();
    assert_eq!(
        by_first + second.processed_records(),
        lines.len() as u64 + words as u64,
        "what moved was committed: nothing is processed twice"
    );
    second.close(Duration::from_secs(30)).await.unwrap();
    assert_eq!(counts(&one, COUNTS, 4).await.0, plain);
    for client in [one, two] {
        client.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_instance_loses_nothing() {
    for seed in milena_testkit::seeds(0..100) {
        println!("seed {seed}: MILENA_SEEDS={seed} cargo test -p milena-streams --test cluster a_killed_instance");
        let config = || {
            StreamsConfig::new("app")
                .commit_interval(Duration::from_millis(500))
                .session_timeout(Duration::from_secs(6))
        };
        let Survivor { cluster: _cluster, client, reader, streams, plain } = after_a_kill(seed, config).await;
        streams.close(Duration::from_secs(30)).await.unwrap();
        let (counted, _) = counts(&reader, COUNTS, 4).await;
        for (word, count) in &plain {
            assert!(
                counted.get(word).is_some_and(|counted| counted >= count),
                "seed {seed}: {word} {count} {:?}",
                counted.get(word)
            );
        }
        client.close().await;
        reader.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn commits_that_are_refused_for_minutes_end_nothing() {
    let cluster = cluster(2).start_in_memory().unwrap();
    let client = client(&cluster, 1).await;
    let (lines, plain) = text(9, 500);
    let streams = KafkaStreams::new(word_count(), config()).start(&client).await.unwrap();
    streams.running().await.unwrap();
    // What a coordinator says while the topic of the offsets lacks replicas; the group itself goes on.
    let code = ErrorCode::COORDINATOR_NOT_AVAILABLE;
    let refused = cluster.faults().when(Api::OffsetCommit).always().then(Reaction::Error(code));
    load(&client, &lines).await;
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert!(matches!(streams.state(), StreamsState::Running), "{:?}", streams.state());
    assert!(refused.fired() > 60, "asked again and again: {}", refused.fired());
    refused.remove();
    caught_up(&streams, 4).await;
    streams.close(Duration::from_secs(30)).await.unwrap();
    assert_eq!(counts(&client, COUNTS, 2).await.0, plain);
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_application_goes_on_from_its_changelog() {
    let cluster = cluster(2).start_in_memory().unwrap();
    let (client, plain) = count_in_two_runs(&cluster, config).await;
    assert_eq!(counts(&client, COUNTS, 2).await.0, plain);
    // Nothing is left to do: a third run is caught up at once, and writes nothing.
    let (_, written) = counts(&client, COUNTS, 2).await;
    run_until_caught_up(&client, config()).await;
    assert_eq!(counts(&client, COUNTS, 2).await.1, written);
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn several_threads_share_the_tasks() {
    let cluster = cluster(3).start_in_memory().unwrap();
    let client = client(&cluster, 1).await;
    let (lines, plain) = text(6, 1_000);
    let streams = KafkaStreams::new(word_count(), config().num_stream_threads(3)).start(&client).await.unwrap();
    streams.running().await.unwrap();
    load(&client, &lines).await;
    caught_up(&streams, 6).await;
    streams.close(Duration::from_secs(30)).await.unwrap();
    assert_eq!(counts(&client, COUNTS, 3).await.0, plain);
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_processed_stops_the_application_with_a_sentence() {
    let cluster = cluster(2).start_in_memory().unwrap();
    let client = client(&cluster, 1).await;
    let streams = KafkaStreams::new(word_count(), config().num_stream_threads(2)).start(&client).await.unwrap();
    streams.running().await.unwrap();
    let producer = Producer::builder(&client).build().await.unwrap();
    producer.send(&Record::to(LINES).partition(1).value(&[0xff, 0xfe])).await.unwrap().await.unwrap();
    let mut states = streams.state_changes();
    states.wait_for(|state| matches!(state, StreamsState::Error(_))).await.unwrap();
    let error = streams.close(Duration::from_secs(30)).await.unwrap_err().to_string();
    assert!(
        error.starts_with("KSTREAM-SOURCE-0000000000 at text-lines-topic-1@0: the record's value: not UTF-8"),
        "{error}"
    );
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_named_at_the_start() {
    let cluster = Cluster::builder().topic(LINES, 2).start_in_memory().unwrap();
    let client = client(&cluster, 1).await;
    let start = |config: StreamsConfig| {
        let client = client.clone();
        async move { KafkaStreams::new(word_count(), config).start(&client).await.map(drop).unwrap_err().to_string() }
    };
    let error = start(config().start_timeout(Duration::from_secs(2))).await;
    assert!(
        error.starts_with("looking for topic word-counts-output-topic, which the topology reads or writes"),
        "{error}"
    );
    cluster.create_topic(COUNTS, 1);
    cluster.create_topic("app-word-counts-changelog", 5);
    let error = start(config()).await;
    assert!(error.contains("app-word-counts-changelog has 5 partitions, and the topology needs 2"), "{error}");
    client.close().await;
}
