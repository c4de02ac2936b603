//! Quotas: what a throttled client is told, and for how long nobody reads it.

#![expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]
#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]

mod common;

use std::time::Duration;

use common::{TestBatch, connect, fetch_request, only, produce_request};
use milena_protocol::messages::{MetadataRequest, ProduceRequest};
use milena_testkit::{Api, Cluster};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

fn cluster() -> Cluster {
    Cluster::builder().brokers(1).topic("t", 1).start_in_memory().unwrap()
}

fn produce(acks: i16) -> ProduceRequest {
    produce_request("t", 0, TestBatch::of(&["a"]).bytes(), acks)
}

#[tokio::test(start_paused = true)]
async fn a_throttled_request_is_answered_at_once_and_its_connection_is_not_read_for_a_while() {
    let cluster = cluster();
    let (mut raw, mut other) = (connect(&cluster, 1).await, connect(&cluster, 1).await);
    cluster.throttle(Api::Produce, 2 * SECOND);
    let start = Instant::now();
    let answer = raw.call(9, produce(-1)).await;
    assert_eq!((answer.throttle_time_ms, start.elapsed()), (2_000, Duration::ZERO));
    assert_eq!(other.call(9, MetadataRequest::default()).await.throttle_time_ms, 0);
    assert_eq!(start.elapsed(), Duration::ZERO, "another connection");
    raw.call(9, MetadataRequest::default()).await;
    assert_eq!(start.elapsed(), 2 * SECOND);
    cluster.throttle(Api::Produce, Duration::ZERO);
    assert_eq!(raw.call(9, produce(-1)).await.throttle_time_ms, 0);
    raw.call(9, MetadataRequest::default()).await;
    assert_eq!(start.elapsed(), 2 * SECOND);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_throttled_fetch_gives_nothing_and_the_next_one_is_served() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    raw.call(9, produce(-1)).await;
    cluster.throttle(Api::Fetch, SECOND);
    let start = Instant::now();
    for round in 1..=3 {
        let throttled = raw.call(12, fetch_request(&[("t", 0, 0)])).await;
        assert_eq!((throttled.throttle_time_ms, throttled.responses.len()), (1_000, 0));
        let served = raw.call(12, fetch_request(&[("t", 0, 0)])).await;
        assert_eq!((served.throttle_time_ms, start.elapsed()), (0, round * SECOND));
        assert!(!only(&served).records.as_ref().unwrap().is_empty());
    }
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_fetch_session_survives_its_throttling() {
    let cluster = cluster();
    let mut raw = connect(&cluster, 1).await;
    let session = raw.call(12, fetch_request(&[("t", 0, 0)]).with_session_epoch(0)).await.session_id;
    raw.call(9, produce(-1)).await;
    cluster.throttle(Api::Fetch, SECOND);
    let next = |epoch| fetch_request(&[]).with_session_id(session).with_session_epoch(epoch);
    let throttled = raw.call(12, next(1)).await;
    assert_eq!((throttled.session_id, throttled.error_code, throttled.responses.len()), (session, 0, 0));
    let served = raw.call(12, next(2)).await;
    assert!(!only(&served).records.as_ref().unwrap().is_empty());
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn one_client_can_be_throttled_also_when_it_wants_no_answer_or_is_too_old_to_be_told() {
    let cluster = cluster();
    cluster.throttle_client("greedy", Api::Produce, SECOND);
    let (mut greedy, mut modest) = (connect(&cluster, 1).await.named("greedy"), connect(&cluster, 1).await);
    let start = Instant::now();
    modest.call(9, produce(-1)).await;
    modest.call(9, produce(-1)).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    greedy.send(9, &produce(0)).await;
    greedy.call(9, MetadataRequest::default()).await;
    assert_eq!(start.elapsed(), SECOND);
    cluster.throttle_client("greedy", Api::ApiVersions, SECOND);
    let asked = milena_protocol::messages::ApiVersionsRequest::default();
    assert_eq!(greedy.call(0, asked).await.throttle_time_ms, 0);
    greedy.call(9, MetadataRequest::default()).await;
    assert_eq!(start.elapsed(), 2 * SECOND);
    cluster.shutdown().await;
}
