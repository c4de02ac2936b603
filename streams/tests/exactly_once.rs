//! Exactly-once on the in-process cluster: whatever fails, who reads committed records counts every word once.

#![expect(clippy::disallowed_methods, reason = "a test waits by the paused clock")]
#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]

mod common;

use std::time::Duration;

use common::{
    COUNTS, Survivor, after_a_kill, caught_up, client, cluster, committed_counts, count_in_two_runs, counts, kill,
    load, run_until_caught_up, text, word_count,
};
use milena_streams::{KafkaStreams, ProcessingGuarantee, StreamsConfig, StreamsState};
use milena_testkit::{Api, ErrorCode, Reaction};

const CHANGELOG: &str = "app-word-counts-changelog";

fn config() -> StreamsConfig {
    StreamsConfig::new("app")
        .processing_guarantee(ProcessingGuarantee::ExactlyOnce)
        .session_timeout(Duration::from_secs(6))
}

#[tokio::test(start_paused = true)]
async fn counts_offsets_and_state_are_committed_together() {
    let cluster = cluster(3).start_in_memory().unwrap();
    let client = client(&cluster, 1).await;
    let (lines, plain) = text(1, 2_000);
    load(&client, &lines).await;
    let streams = KafkaStreams::new(word_count(), config()).start(&client).await.unwrap();
    streams.running().await.unwrap();
    caught_up(&streams, 6).await;
    // While it runs: nothing waits for the close.
    assert_eq!(committed_counts(&client, COUNTS, 3).await, plain);
    streams.close(Duration::from_secs(30)).await.unwrap();
    assert_eq!(committed_counts(&client, CHANGELOG, 3).await, plain, "the changelog says the same");
    assert_eq!(client.spawner().threads(), 0);
    client.close().await;
    assert_eq!(client.tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_killed_instance_doubles_nothing() {
    for seed in 0..8 {
        let Survivor { cluster: _cluster, client, reader, streams, plain } = after_a_kill(seed, config).await;
        assert_eq!(committed_counts(&reader, COUNTS, 4).await, plain, "seed {seed}");
        streams.close(Duration::from_secs(30)).await.unwrap();
        assert_eq!(committed_counts(&reader, CHANGELOG, 4).await, plain, "seed {seed}");
        client.close().await;
        reader.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_instance_had_begun_is_waited_for_and_left_out() {
    let cluster = cluster(2).start_in_memory().unwrap();
    let (one, two, writer) = (client(&cluster, 1).await, client(&cluster, 2).await, client(&cluster, 3).await);
    let (lines, plain) = text(4, 500);
    load(&writer, &lines).await;
    // It writes, and never commits.
    let never = config().commit_interval(Duration::from_secs(3_600)).cache_max_bytes(0);
    let killed = KafkaStreams::new(word_count(), never).start(&one).await.unwrap();
    killed.running().await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(killed.processed_records() > 0);
    kill(&one, killed).await;
    // Its successor commits so often that no read of an empty changelog waits to its end.
    let often = config().commit_interval(Duration::from_millis(10));
    let streams = KafkaStreams::new(word_count(), often).start(&two).await.unwrap();
    streams.running().await.unwrap();
    caught_up(&streams, 4).await;
    assert_eq!(committed_counts(&writer, COUNTS, 2).await, plain);
    streams.close(Duration::from_secs(30)).await.unwrap();
    for client in [two, writer] {
        client.close().await;
    }
}

/// Everything that can go wrong with a transaction, one after the other: the work is done again, and seen once.
#[tokio::test(start_paused = true)]
async fn a_transaction_that_fails_is_done_again() {
    let error = Reaction::Error;
    let troubles = [
        (Api::Produce, error(ErrorCode::INVALID_PRODUCER_EPOCH), "the producer was replaced"),
        (Api::Produce, Reaction::ApplyThenDisconnect, "the answer to the records is lost"),
        (Api::TxnOffsetCommit, error(ErrorCode::ILLEGAL_GENERATION), "the group has moved on"),
        (Api::TxnOffsetCommit, Reaction::ApplyThenDisconnect, "the answer to the offsets is lost"),
        (Api::EndTxn, error(ErrorCode::TRANSACTION_ABORTABLE), "the coordinator wants an abort"),
        (Api::EndTxn, Reaction::ApplyThenDisconnect, "the answer to the commit is lost"),
        (Api::EndTxn, Reaction::Disconnect, "the commit is lost"),
        (Api::EndTxn, error(ErrorCode::PRODUCER_FENCED), "the transaction took too long"),
        (Api::Heartbeat, error(ErrorCode::UNKNOWN_MEMBER_ID), "the member was given up"),
    ];
    for (seed, (api, reaction, what)) in troubles.into_iter().enumerate() {
        let cluster = cluster(2).start_in_memory().unwrap();
        let (app, writer) = (client(&cluster, seed as u64).await, client(&cluster, 99).await);
        let (lines, plain) = text(seed as u64, 1_000);
        let streams = KafkaStreams::new(word_count(), config()).start(&app).await.unwrap();
        streams.running().await.unwrap();
        load(&writer, &lines[..300]).await;
        caught_up(&streams, 4).await;
        let fault = cluster.faults().when(api).nth(2).then(reaction);
        for chunk in lines[300..].chunks(100) {
            load(&writer, chunk).await;
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        caught_up(&streams, 4).await;
        assert!(fault.fired() > 0, "{what}");
        assert!(matches!(streams.state(), StreamsState::Running), "{what}: {:?}", streams.state());
        assert_eq!(committed_counts(&writer, COUNTS, 2).await, plain, "{what}");
        streams.close(Duration::from_secs(30)).await.unwrap();
        assert_eq!(committed_counts(&writer, CHANGELOG, 2).await, plain, "{what}");
        app.close().await;
        writer.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_restarted_application_goes_on_where_it_had_committed() {
    let cluster = cluster(2).start_in_memory().unwrap();
    let (client, plain) = count_in_two_runs(&cluster, config).await;
    assert_eq!(committed_counts(&client, COUNTS, 2).await, plain);
    let (_, written) = counts(&client, COUNTS, 2).await;
    run_until_caught_up(&client, config()).await;
    assert_eq!(counts(&client, COUNTS, 2).await.1, written, "nothing is left to do, and nothing is written");
    client.close().await;
}

/// A commit that asks for the group's generation holds it until its offsets are there: the members that join wait for it.
#[tokio::test(start_paused = true)]
async fn members_that_join_cost_no_transaction() {
    let mut rejoined = 0;
    for seed in 0..6 {
        let cluster = cluster(6).latency(Duration::from_millis(5)).start_in_memory().unwrap();
        let mut rng = fastrand::Rng::with_seed(seed);
        let (lines, plain) = text(seed, 3_000);
        let writer = client(&cluster, 99).await;
        let loading = async {
            for chunk in lines.chunks(10) {
                load(&writer, chunk).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let delays: Vec<Duration> = (0..3).map(|n| Duration::from_millis(n * 2_500 + rng.u64(0..1_000))).collect();
        let starting = async {
            let mut running = Vec::new();
            for (number, delay) in delays.into_iter().enumerate() {
                let app = client(&cluster, number as u64).await;
                tokio::time::sleep(delay).await;
                let streams = KafkaStreams::new(word_count(), config()).start(&app).await.unwrap();
                streams.running().await.unwrap();
                running.push((app, streams));
            }
            running
        };
        let ((), mut running) = tokio::join!(loading, starting);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let log = cluster.request_log();
        let aborts = log.api(Api::EndTxn).only(|entry| entry.digest.ends_with("abort"));
        assert!(aborts.is_empty(), "seed {seed}:\n{aborts}");
        rejoined += log.api(Api::JoinGroup).count();
        assert_eq!(committed_counts(&writer, COUNTS, 6).await, plain, "seed {seed}");
        while let Some((app, streams)) = running.pop() {
            streams.close(Duration::from_secs(30)).await.unwrap();
            app.close().await;
        }
        writer.close().await;
    }
    assert!(rejoined > 60, "there were rebalances while it worked: {rejoined}");
}
