//! Faults, barriers and the request log: each condition, each reaction, and what a test is told whose premise never came true.

#![expect(clippy::disallowed_methods, reason = "tests wait")]
#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use common::{TestBatch, connect, connect_tcp, produce_request};
use milena_protocol::ErrorCode;
use milena_protocol::messages::{MetadataRequest, ProduceRequest};
use milena_testkit::{Api, Cluster, Proxy, Reaction};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

const SECOND: Duration = Duration::from_secs(1);

fn cluster() -> Cluster {
    Cluster::builder().brokers(2).topic("t", 2).start_in_memory().unwrap()
}

fn batch(value: &str) -> bytes::Bytes {
    TestBatch::of(&[value]).bytes()
}

/// What the end of a cluster panics with.
fn told_at_the_end(cluster: Cluster) -> String {
    let panic = catch_unwind(AssertUnwindSafe(|| drop(cluster))).unwrap_err();
    *panic.downcast::<String>().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_fault_that_never_fires_fails_the_test_with_its_line_and_the_log() {
    let cluster = Cluster::builder().seed(7).topic("t", 1).start_in_memory().unwrap();
    cluster.faults().when(Api::Produce).topic("t").nth(2).then(Reaction::Drop);
    let mut raw = connect(&cluster, 1).await;
    raw.produce("t", 0, batch("a")).await;
    let told = told_at_the_end(cluster);
    assert!(told.contains("testkit/tests/faults.rs:"), "{told}");
    assert!(
        told.contains("never fired: when Produce, topic t, number 2, then Drop; 1 request was like that"),
        "{told}"
    );
    assert!(told.contains(" Produce v9 #1 \"raw\""), "{told}");
    let again = "MILENA_SEEDS=7 cargo test -p milena-testkit --test faults -- --exact \
                 a_fault_that_never_fires_fails_the_test_with_its_line_and_the_log";
    assert!(told.contains(again), "{told}");
}

#[tokio::test(start_paused = true)]
async fn optional_removed_and_drawn_faults_may_stay_silent_and_a_barrier_may_not() {
    let cluster = cluster();
    cluster.faults().when(Api::Produce).optional().then(Reaction::Drop);
    cluster.faults().when(Api::Produce).probability(0.5).then(Reaction::Drop);
    cluster.faults().when(Api::Fetch).then(Reaction::Drop).remove();
    cluster.shutdown().await;
    let cluster = self::cluster();
    let barrier = cluster.stop_when(Api::Fetch).before_serving();
    assert!(!barrier.is_reached());
    drop(barrier);
    assert!(told_at_the_end(cluster).contains("when Fetch, then Hold; no request was like that"));
}

#[test]
fn a_test_that_fails_keeps_its_own_panic_and_is_not_aborted() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let panic = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let cluster = cluster();
            let _second = self::cluster();
            cluster.faults().when(Api::Produce).then(Reaction::Drop);
            panic!("the test's own words");
        });
    }));
    assert_eq!(*panic.unwrap_err().downcast::<&str>().unwrap(), "the test's own words");
}

#[tokio::test(start_paused = true)]
async fn a_fault_sees_version_broker_connection_and_client() {
    let cluster = cluster();
    let (mut one, mut two) = (connect(&cluster, 1).await, connect(&cluster, 2).await.named("other"));
    let old = cluster.faults().when(Api::Metadata).versions(..=8).always().optional().then(Reaction::Drop);
    let exact = cluster.faults().any().version(12).always().then(Reaction::Delay(SECOND));
    let second = cluster.faults().any().connection(2).version(11).then(Reaction::Delay(SECOND * 2));
    let named = cluster.faults().any().client_id("other").broker(2).version(10).then(Reaction::Delay(SECOND * 3));
    for (version, expected) in [(9, [0, 0]), (10, [0, 3]), (11, [0, 2]), (12, [1, 1])] {
        let started = Instant::now();
        one.call(version, MetadataRequest::default()).await;
        let first = started.elapsed();
        let started = Instant::now();
        two.call(version, MetadataRequest::default()).await;
        assert_eq!([first, started.elapsed()], expected.map(|seconds| SECOND * seconds), "v{version}");
    }
    assert_eq!([old.fired(), exact.fired(), second.fired(), named.fired()], [0, 2, 1, 1]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_late_copy_comes_after_its_time_and_a_held_one_when_it_is_let_go() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    let end = || cluster.partition_info("t", 0).log_end_offset;
    cluster.faults().when(Api::Produce).then(Reaction::LateCopy(SECOND * 3));
    raw.produce("t", 0, batch("a")).await;
    assert_eq!(end(), 1);
    tokio::time::sleep(SECOND * 4).await;
    assert_eq!(end(), 2, "without a producer id nobody knows that it is a copy");
    assert_eq!(cluster.connections(1), 1, "the copy's connection is gone");

    // With Disconnect only the late copy arrives: a request that was lost, and was not.
    cluster.faults().when(Api::Produce).then(Reaction::Disconnect);
    let copy = cluster.faults().when(Api::Produce).then(Reaction::HoldCopy);
    raw.send(9, &produce_request("t", 0, batch("b"), -1)).await;
    assert!(raw.is_closed().await);
    assert_eq!(end(), 2);
    copy.release();
    tokio::time::sleep(SECOND).await;
    assert_eq!(end(), 3);
    assert_eq!(cluster.request_log().api(Api::Produce).topic("t").count(), 4);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_corrupted_on_its_way_is_refused_and_every_seed_has_its_own_bit() {
    let mut refused = 0;
    for seed in 0..40 {
        let cluster = Cluster::builder().brokers(1).seed(seed).topic("t", 1).start_in_memory().unwrap();
        let mut raw = connect(&cluster, 1).await;
        cluster.faults().when(Api::Produce).then(Reaction::CorruptRequest);
        raw.send(9, &produce_request("t", 0, batch(&"x".repeat(1000)), -1)).await;
        // Most bits are of the record batch, which has a checksum; a few are of the request around it.
        match raw.receive::<ProduceRequest>(9).await {
            Some(response) => {
                let code = response.responses.first().map(|topic| topic.partition_responses[0].error_code);
                refused += usize::from(code == Some(ErrorCode::CORRUPT_MESSAGE.0));
            }
            None => assert_eq!(cluster.partition_info("t", 0).log_end_offset, 0),
        }
        cluster.take_violations();
        cluster.shutdown().await;
    }
    assert!(refused > 30, "{refused} of 40");
}

#[tokio::test(start_paused = true)]
async fn answers_come_damaged_cut_in_half_or_with_another_correlation_id() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    let mut answer = async |reaction: Option<Reaction>| {
        if let Some(reaction) = reaction {
            cluster.faults().when(Api::Metadata).then(reaction);
        }
        raw.send(9, &MetadataRequest::default()).await;
        let length = raw.stream.read_i32().await.unwrap();
        let mut body = Vec::new();
        while body.len() < length as usize {
            match timeout(SECOND, raw.stream.read_u8()).await.unwrap() {
                Ok(byte) => body.push(byte),
                Err(_) => break,
            }
        }
        (length as usize, body)
    };
    let (length, whole) = answer(None).await;
    let (_, wrong) = answer(Some(Reaction::WrongCorrelationId)).await;
    assert_ne!(wrong[0], 0, "no client counts that far");
    assert_eq!(wrong[4..], whole[4..]);
    let (_, damaged) = answer(Some(Reaction::CorruptAnswer)).await;
    let turned: u32 = damaged[4..].iter().zip(&whole[4..]).map(|(a, b)| (a ^ b).count_ones()).sum();
    assert_eq!(turned, 1);
    let (announced, half) = answer(Some(Reaction::TruncateAnswer)).await;
    assert_eq!((announced, half.len()), (length, (length + 4) / 2 - 4));
    assert!(raw.is_closed().await);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_half_open_connection_swallows_everything_and_the_broker_does_not_see_its_end() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    cluster.faults().when(Api::Produce).then(Reaction::HalfOpen);
    raw.send(9, &produce_request("t", 0, batch("a"), -1)).await;
    // Much more than a pipe holds: somebody takes it.
    timeout(SECOND, raw.stream.write_all(&vec![0; 4 << 20])).await.unwrap().unwrap();
    assert!(raw.is_silent_for(SECOND * 60).await);
    drop(raw);
    tokio::time::sleep(SECOND).await;
    assert_eq!((cluster.connections(1), cluster.partition_info("t", 0).log_end_offset), (1, 0));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_narrow_connection_takes_its_time_in_both_directions() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    cluster.faults().when(Api::Produce).then(Reaction::Bandwidth(1_000));
    raw.produce("t", 0, TestBatch::of(&["x".repeat(5_000).as_str()]).bytes()).await;
    let started = Instant::now();
    raw.fetch("t", 0, 0).await;
    let took = started.elapsed();
    assert!(took > SECOND * 5 && took < SECOND * 6, "5 KB at 1 KB/s took {took:?}");
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_barrier_stops_a_request_before_or_after_it_is_served_and_lets_it_go_on() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    let end = || cluster.partition_info("t", 0).log_end_offset;

    let before = cluster.stop_when(Api::Produce).topic("t").before_serving();
    let (answer, ()) = tokio::join!(raw.produce("t", 0, batch("a")), async {
        before.reached().await;
        tokio::time::sleep(SECOND * 60).await;
        assert_eq!(end(), 0);
        before.go_on();
    });
    assert_eq!((answer.error_code, end()), (0, 1));

    let after = cluster.stop_when(Api::Produce).topic("t").before_answering();
    let (answer, ()) = tokio::join!(raw.produce("t", 0, batch("b")), async {
        after.reached().await;
        tokio::time::sleep(SECOND * 60).await;
        assert_eq!(end(), 2, "it is served already");
        after.go_on();
    });
    assert_eq!(answer.base_offset, 1);

    // Who forgets a barrier has let go.
    let forgotten = cluster.stop_when(Api::Produce).before_serving();
    let (answer, ()) = tokio::join!(raw.produce("t", 0, batch("c")), async {
        forgotten.reached().await;
        drop(forgotten);
    });
    assert_eq!(answer.base_offset, 2);
    cluster.shutdown().await;
}

#[tokio::test]
async fn the_same_faults_work_over_tcp() {
    let cluster = Cluster::builder().brokers(1).topic("t", 1).start().await.unwrap();
    let address = cluster.bootstrap_servers().parse().unwrap();
    let mut raw = connect_tcp(address).await;
    let end = || cluster.partition_info("t", 0).log_end_offset;
    let copy = cluster.faults().when(Api::Produce).then(Reaction::HoldCopy);
    cluster.faults().when(Api::Produce).then(Reaction::ApplyThenDisconnect);
    raw.send(9, &produce_request("t", 0, batch("a"), -1)).await;
    assert!(raw.is_closed().await);
    assert_eq!(end(), 1);
    copy.release();
    while end() < 2 {
        common::pause().await;
    }
    let mut raw = connect_tcp(address).await;
    let stopped = cluster.stop_when(Api::Produce).before_answering();
    let (answer, ()) = tokio::join!(raw.produce("t", 0, batch("b")), async {
        stopped.reached().await;
        assert_eq!(end(), 3);
        stopped.go_on();
    });
    assert_eq!(answer.base_offset, 2);
    cluster.faults().when(Api::Metadata).then(Reaction::TruncateAnswer);
    raw.send(9, &MetadataRequest::default()).await;
    assert!(raw.receive::<MetadataRequest>(9).await.is_none());
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_without_an_answer_can_be_cut_off_and_there_is_nothing_to_hold() {
    let cluster = cluster();
    let faults = cluster.faults();
    let end = || cluster.partition_info("t", 0).log_end_offset;
    let unanswered = async |reaction: Reaction| {
        let mut raw = connect(&cluster, 1).await;
        let fault = faults.when(Api::Produce).optional().then(reaction);
        raw.send(9, &produce_request("t", 0, batch("a"), 0)).await;
        tokio::time::sleep(SECOND).await;
        let fired = fault.fired();
        fault.remove();
        (raw, fired)
    };
    for reaction in [
        Reaction::DelayAnswer(SECOND * 60),
        Reaction::HoldAnswer,
        Reaction::CorruptAnswer,
        Reaction::TruncateAnswer,
        Reaction::WrongCorrelationId,
    ] {
        let before = end();
        let (mut raw, fired) = unanswered(reaction).await;
        assert_eq!((fired, end()), (0, before + 1), "{reaction:?}");
        raw.call(9, MetadataRequest::default()).await;
    }
    for reaction in
        [Reaction::ApplyThenDisconnect, Reaction::ApplyThenError(ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND)]
    {
        let before = end();
        let (mut raw, fired) = unanswered(reaction).await;
        assert_eq!((fired, end()), (1, before + 1), "{reaction:?}");
        assert!(raw.is_closed().await, "{reaction:?}");
    }
    let (mut raw, fired) = unanswered(Reaction::ApplyThenDrop).await;
    raw.send(9, &MetadataRequest::default()).await;
    assert!(fired == 1 && raw.is_silent_for(SECOND * 60).await);

    let barrier = cluster.stop_when(Api::Produce).before_answering();
    let (_, fired) = unanswered(Reaction::Drop).await;
    assert_eq!((fired, barrier.is_reached()), (1, false));
    drop(barrier);
    assert!(told_at_the_end(cluster).contains("when Produce, then HoldAnswer; no request was like that"));
}

#[tokio::test]
async fn a_proxy_cuts_off_behind_a_request_without_an_answer() {
    let cluster = Cluster::builder().brokers(1).topic("t", 1).start().await.unwrap();
    let proxy = Proxy::builder(cluster.bootstrap_servers()).start().await.unwrap();
    let mut raw = connect_tcp(proxy.bootstrap_servers().parse().unwrap()).await;
    let held = proxy.stop_when(Api::Produce).optional().before_answering();
    let cut = proxy.faults().when(Api::Produce).then(Reaction::ApplyThenDisconnect);
    raw.send(9, &produce_request("t", 0, batch("a"), 0)).await;
    assert!(raw.is_closed().await);
    assert_eq!((cut.fired(), held.is_reached()), (1, false));
    let applied = async {
        while cluster.partition_info("t", 0).log_end_offset < 1 {
            common::pause().await;
        }
    };
    timeout(SECOND * 60, applied).await.expect("it is applied");
    let mut raw = connect_tcp(proxy.bootstrap_servers().parse().unwrap()).await;
    let silent = proxy.faults().when(Api::Produce).then(Reaction::ApplyThenDrop);
    raw.send(9, &produce_request("t", 0, batch("b"), 0)).await;
    raw.send(9, &MetadataRequest::default()).await;
    assert!(raw.is_silent_for(SECOND).await && silent.fired() == 1);
    proxy.shutdown();
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_error_for_metadata_waits_for_an_answer_that_has_a_place_for_it() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    let brokers_only = || MetadataRequest::default().with_topics(Some(Vec::new()));
    let all = || MetadataRequest::default().with_topics(None);
    let code = ErrorCode::LEADER_NOT_AVAILABLE;
    let error = cluster.faults().when(Api::Metadata).then(Reaction::Error(code));
    raw.call(12, brokers_only()).await;
    raw.call(13, brokers_only()).await;
    assert_eq!(error.fired(), 0);
    let answer = raw.call(12, all()).await;
    assert_eq!((error.fired(), answer.topics[0].error_code), (1, code.0));
    assert_eq!(answer.topics[0].name.as_ref().map(|name| name.as_str()), Some("t"));

    let code = ErrorCode::REBOOTSTRAP_REQUIRED;
    let whole = cluster.faults().when(Api::Metadata).then(Reaction::Error(code));
    raw.call(12, brokers_only()).await;
    assert_eq!(whole.fired(), 0);
    assert_eq!((raw.call(13, brokers_only()).await.error_code, whole.fired()), (code.0, 1));
    cluster.shutdown().await;

    let cluster = Cluster::builder().brokers(1).start_in_memory().unwrap();
    cluster.faults().when(Api::Metadata).then(Reaction::Error(ErrorCode::LEADER_NOT_AVAILABLE));
    connect(&cluster, 1).await.call(12, all()).await;
    assert!(told_at_the_end(cluster).contains("never fired"), "there are no topics");
}

#[tokio::test(start_paused = true)]
async fn the_log_tells_who_asked_whom_for_what() {
    let cluster = cluster();
    let (mut one, mut two) = (connect(&cluster, 1).await, connect(&cluster, 2).await.named("writer"));
    two.produce("t", 1, batch("a")).await;
    two.produce("t", 1, batch("b")).await;
    one.fetch("t", 0, 0).await;
    let log = cluster.request_log();
    assert_eq!(log.api(Api::Produce).topic("t").partition(1).broker(2).client_id("writer").version(9).count(), 2);
    assert_eq!(log.connection(1).entries().map(|entry| entry.api.to_string()).collect::<Vec<_>>(), ["Fetch"]);
    assert!(log.topic("other").is_empty() && log.group("g").is_empty() && log.transactional_id("x").is_empty());
    assert_eq!(log.api(Api::Produce).to_string().lines().count(), 2, "a part of the log has no notes");
    assert!(log.to_string().contains("-- b1 c1 connected\n"), "{log}");
    cluster.shutdown().await;
}
