//! Connections, metadata, crashes and faults of the in-process cluster.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test reads the clock, waits and panics")]

mod common;

use std::time::Duration;

use common::*;
use milena_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use milena_protocol::messages::describe_configs_request::DescribeConfigsResource;
use milena_protocol::messages::metadata_request::MetadataRequestTopic;
use milena_protocol::messages::{
    ApiVersionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest, MetadataRequest,
    MetadataResponse,
};
use milena_protocol::{ApiKey, ErrorCode, StrBytes};
use milena_testkit::{Api, Cluster, Reaction};
use tokio::io::AsyncWriteExt;

fn versions_request() -> ApiVersionsRequest {
    ApiVersionsRequest::default()
        .with_client_software_name(StrBytes::from_static_str("milena"))
        .with_client_software_version(StrBytes::from_static_str("0.1.0"))
}

async fn metadata<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(raw: &mut Raw<S>) -> MetadataResponse {
    raw.call(12, MetadataRequest::default().with_topics(None)).await
}

#[tokio::test(start_paused = true)]
async fn api_versions_lists_what_is_registered_and_falls_back() {
    let cluster = Cluster::builder().feature("transaction.version", 2).start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    let response = raw.call(4, versions_request()).await;
    assert_eq!(response.error_code, 0);
    let produce = response.api_keys.iter().find(|api| api.api_key == 0).unwrap();
    assert_eq!((produce.min_version, produce.max_version), (0, 13));
    assert_eq!(response.finalized_features[0].max_version_level, 2);
    // A version from the future is answered in version 0.
    raw.stream.write_all(b"\0\0\0\x11\0\x12\0\x63\0\0\0\x02\0\0\0\0\0\0\0\0\0").await.unwrap();
    let mut length = [0; 4];
    tokio::io::AsyncReadExt::read_exact(&mut raw.stream, &mut length).await.unwrap();
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    tokio::io::AsyncReadExt::read_exact(&mut raw.stream, &mut body).await.unwrap();
    assert_eq!(&body, &[0, 0, 0, 2, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn garbage_closes_the_connection_and_nothing_else() {
    let cluster = Cluster::builder().topic("t", 1).start_in_memory().unwrap();
    let mut good = connect(&cluster, 1).await;
    for garbage in [
        &b"\0\0\0\x08\x7f\xff\0\0\0\0\0\0"[..],                     // an API that is not
        &b"GET / HTTP/1.1\r\n\r\n"[..],                             // another protocol: an absurd length
        &b"\xff\xff\xff\xff"[..],                                   // a negative length
        &b"\0\0\0\x02\0\x03"[..],                                   // half a header
        &b"\0\0\0\x0e\0\0\0\x63\0\0\0\x01\xff\xff\0\0\0\0"[..],     // Produce v99
        &b"\0\0\0\x0e\0\x03\0\x04\0\0\0\x01\xff\xff\0\0\0\x09"[..], // Metadata with a list that is cut off
    ] {
        let mut raw = connect(&cluster, 1).await;
        raw.stream.write_all(garbage).await.unwrap();
        assert!(raw.is_closed().await, "{garbage:?}");
    }
    assert_eq!(metadata(&mut good).await.topics.len(), 1);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn metadata_knows_topics_by_name_and_id_and_creates_none_unasked() {
    let cluster = Cluster::builder().topic("t", 4).start_in_memory().unwrap();
    let mut raw = connect(&cluster, 2).await;
    let all = metadata(&mut raw).await;
    assert_eq!(all.brokers.iter().map(|b| b.node_id.0).collect::<Vec<_>>(), [1, 2, 3]);
    let leaders: Vec<i32> = all.topics[0].partitions.iter().map(|p| p.leader_id.0).collect();
    assert_eq!(leaders, [1, 2, 3, 1]);
    let id = all.topics[0].topic_id;

    let asked = vec![
        MetadataRequestTopic::default().with_name(Some(name("u"))),
        MetadataRequestTopic::default().with_name(Some(name("bad name"))),
        MetadataRequestTopic::default().with_name(None).with_topic_id(id),
        MetadataRequestTopic::default().with_name(None).with_topic_id(uuid::Uuid::from_u128(9)),
    ];
    let response = raw.call(12, MetadataRequest::default().with_topics(Some(asked))).await;
    let codes: Vec<ErrorCode> = response.topics.iter().map(|t| ErrorCode(t.error_code)).collect();
    assert_eq!(
        codes,
        [
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            ErrorCode::INVALID_TOPIC_EXCEPTION,
            ErrorCode::NONE,
            ErrorCode::UNKNOWN_TOPIC_ID,
        ]
    );
    assert_eq!(cluster.topics(), ["t"]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn topics_are_created_described_and_deleted() {
    let cluster = Cluster::builder().start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    let config = CreatableTopicConfig::default()
        .with_name(StrBytes::from_static_str("cleanup.policy"))
        .with_value(Some(StrBytes::from_static_str("compact")));
    let topic = CreatableTopic::default().with_name(name("t")).with_num_partitions(2).with_replication_factor(3);
    let create = CreateTopicsRequest::default().with_topics(vec![
        topic.clone().with_configs(vec![config]),
        topic.clone().with_name(name("u")).with_replication_factor(4),
        topic.clone().with_name(name("v")).with_num_partitions(0),
        topic.clone().with_name(name("w")).with_num_partitions(-1).with_replication_factor(-1),
    ]);
    let response = raw.call(7, create.clone()).await;
    let codes: Vec<ErrorCode> = response.topics.iter().map(|t| ErrorCode(t.error_code)).collect();
    assert_eq!(
        codes,
        [ErrorCode::NONE, ErrorCode::INVALID_REPLICATION_FACTOR, ErrorCode::INVALID_PARTITIONS, ErrorCode::NONE,]
    );
    let again = raw.call(7, create).await;
    assert_eq!(ErrorCode(again.topics[0].error_code), ErrorCode::TOPIC_ALREADY_EXISTS);

    let resource = DescribeConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(StrBytes::from_static_str("t"))
        .with_configuration_keys(None);
    let described = raw.call(4, DescribeConfigsRequest::default().with_resources(vec![resource])).await;
    let row = described.results[0].configs.iter().find(|row| row.name.as_str() == "cleanup.policy").unwrap();
    assert_eq!((row.value.as_ref().unwrap().as_str(), row.config_source), ("compact", 1));

    let deleted = raw.call(5, DeleteTopicsRequest::default().with_topic_names(vec![name("t"), name("x")])).await;
    let codes: Vec<ErrorCode> = deleted.responses.iter().map(|t| ErrorCode(t.error_code)).collect();
    assert_eq!(codes, [ErrorCode::NONE, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION]);
    assert_eq!(cluster.topics(), ["w"]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_moves_leaders_and_breaks_connections_and_a_restart_heals() {
    let cluster = Cluster::builder().topic("t", 3).start_in_memory().unwrap();
    let mut on_one = connect(&cluster, 1).await;
    let mut on_two = connect(&cluster, 2).await;
    on_one.produce("t", 0, TestBatch::of(&["a"]).bytes()).await;
    cluster.crash(1);
    assert!(on_one.is_closed().await);
    assert_eq!(try_connect(&cluster, 1).await.err().unwrap().kind(), std::io::ErrorKind::ConnectionRefused);
    let info = cluster.partition_info("t", 0);
    assert_eq!((info.leader, info.leader_epoch, info.log_end_offset), (Some(2), 1, 1));
    let seen = metadata(&mut on_two).await;
    assert_eq!(seen.brokers.len(), 2);
    assert_eq!(seen.topics[0].partitions[0].isr_nodes.len(), 2);
    cluster.crash(2);
    cluster.crash(3);
    assert_eq!(cluster.partition_info("t", 0).leader, None);
    cluster.restart(1);
    assert_eq!(cluster.partition_info("t", 0).leader, None, "broker 1 was not in sync when the last one died");
    cluster.restart(3);
    assert_eq!(cluster.partition_info("t", 0).leader, Some(3));
    assert_eq!(cluster.records("t", 0).len(), 1);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn faults_count_delay_hold_and_release() {
    let cluster = Cluster::builder().topic("t", 1).start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    let third = cluster.faults().when(Api::Metadata).nth(3).then(Reaction::Delay(Duration::from_secs(5)));
    for expected in [0, 0, 5, 0] {
        let start = tokio::time::Instant::now();
        metadata(&mut raw).await;
        assert_eq!(start.elapsed(), Duration::from_secs(expected));
    }
    assert_eq!(third.fired(), 1);

    let held = cluster.faults().when(Api::Metadata).then(Reaction::HoldAnswer);
    raw.send(12, &MetadataRequest::default().with_topics(None)).await;
    assert!(raw.is_silent_for(Duration::from_secs(60)).await);
    held.release();
    assert_eq!(raw.receive::<MetadataRequest>(12).await.unwrap().topics.len(), 1);

    let error = cluster.faults().when(Api::Produce).topic("t").then(Reaction::Error(ErrorCode::REQUEST_TIMED_OUT));
    assert_eq!(raw.produce("t", 0, TestBatch::of(&["a"]).bytes()).await.error_code, 7);
    assert_eq!((error.fired(), cluster.partition_info("t", 0).log_end_offset), (1, 0));
    assert_eq!(raw.produce("t", 0, TestBatch::of(&["a"]).bytes()).await.error_code, 0);

    let never = cluster.faults().when(Api::Produce).topic("other").always().optional().then(Reaction::Drop);
    raw.produce("t", 0, TestBatch::of(&["b"]).bytes()).await;
    assert_eq!(never.fired(), 0);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn latency_is_paid_in_each_direction() {
    let cluster = Cluster::builder().latency(Duration::from_millis(20)).start_in_memory().unwrap();
    let start = tokio::time::Instant::now();
    let mut raw = connect(&cluster, 1).await;
    assert_eq!(start.elapsed(), Duration::from_millis(40));
    metadata(&mut raw).await;
    assert_eq!(start.elapsed(), Duration::from_millis(80));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_same_requests_write_the_same_log() {
    let mut logs = Vec::new();
    for _ in 0..2 {
        let cluster = Cluster::builder().seed(9).topic("t", 3).start_in_memory().unwrap();
        let mut raw = connect(&cluster, 1).await.named("writer");
        cluster.faults().when(Api::Produce).probability(0.5).then(Reaction::Delay(Duration::from_millis(10)));
        for _ in 0..20 {
            raw.produce("t", 0, TestBatch::of(&["a"]).bytes()).await;
        }
        metadata(&mut raw).await;
        assert_eq!(cluster.requests(ApiKey::PRODUCE), 20);
        logs.push(cluster.request_log());
        cluster.shutdown().await;
    }
    assert_eq!(logs[0].client_id("writer").count(), logs[0].count());
    assert_eq!(logs[0], logs[1]);
}

#[tokio::test]
async fn the_same_cluster_speaks_over_tcp_and_ends_with_its_sockets() {
    let cluster = Cluster::builder().topic("t", 3).start().await.unwrap();
    let servers = cluster.bootstrap_servers();
    let first: std::net::SocketAddr = servers.split(',').next().unwrap().parse().unwrap();
    let mut raw = connect_tcp(first).await;
    assert_eq!(raw.produce("t", 0, TestBatch::of(&["a", "b"]).bytes()).await.error_code, 0);
    assert_eq!(raw.fetch("t", 0, 0).await.high_watermark, 2);
    assert_eq!(metadata(&mut raw).await.brokers[0].port, i32::from(first.port()));
    cluster.crash(1);
    assert!(raw.is_closed().await);
    while tokio::net::TcpStream::connect(first).await.is_ok() {}
    cluster.restart(1);
    while tokio::net::TcpStream::connect(first).await.is_err() {}
    let mut raw = connect_tcp(first).await;
    assert_eq!(metadata(&mut raw).await.brokers.len(), 3);
    cluster.shutdown().await;
    assert!(tokio::net::TcpStream::connect(first).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_cluster_hangs_up_and_refuses() {
    let cluster = Cluster::builder().start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    let connector = cluster.connector();
    metadata(&mut raw).await;
    drop(cluster);
    assert!(raw.is_closed().await);
    let refused = tower::ServiceExt::oneshot(connector, "10.0.0.1:9092".parse().unwrap()).await;
    assert_eq!(refused.err().unwrap().kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test(start_paused = true)]
async fn a_session_error_that_is_injected_stands_at_the_top() {
    let cluster = Cluster::builder().topic("t", 1).start_in_memory().unwrap();
    let mut raw = connect(&cluster, 1).await;
    let code = ErrorCode::FETCH_SESSION_ID_NOT_FOUND;
    let fault = cluster.faults().when(Api::Fetch).then(Reaction::Error(code));
    let response = raw.call(12, fetch_request(&[("t", 0, 0)])).await;
    assert_eq!((ErrorCode(response.error_code), response.responses.len()), (code, 0));
    assert_eq!(fault.fired(), 1);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_cut_off_anywhere_close_their_connection_only() {
    let cluster = Cluster::builder().topic("t", 1).start_in_memory().unwrap();
    let mut good = connect(&cluster, 1).await;
    let topic = CreatableTopic::default().with_name(name("u")).with_num_partitions(1).with_replication_factor(1);
    let requests = [
        (
            ApiKey::PRODUCE,
            9,
            milena_protocol::frame::encode_body(&produce_request("t", 0, TestBatch::of(&["a"]).bytes(), -1), 9),
        ),
        (ApiKey::FETCH, 12, milena_protocol::frame::encode_body(&fetch_request(&[("t", 0, 0)]), 12)),
        (
            ApiKey::CREATE_TOPICS,
            7,
            milena_protocol::frame::encode_body(&CreateTopicsRequest::default().with_topics(vec![topic]), 7),
        ),
        (ApiKey::API_VERSIONS, 3, milena_protocol::frame::encode_body(&versions_request(), 3)),
    ];
    for (api, version, body) in requests {
        let body = body.unwrap();
        for cut in 0..body.len() {
            let mut frame = bytes::BytesMut::new();
            milena_protocol::frame::put_request_header(&mut frame, api, version, true, 1, "cut");
            milena_protocol::frame::seal(&mut frame, cut);
            frame.extend_from_slice(&body[..cut]);
            let mut raw = connect(&cluster, 1).await;
            raw.stream.write_all(&frame).await.unwrap();
            assert!(raw.is_closed().await, "{api} cut after {cut} bytes");
        }
    }
    let seen = metadata(&mut good).await;
    assert_eq!(seen.topics.len(), 1);
    assert_eq!(cluster.partition_info("t", 0).log_end_offset, 0);
    cluster.shutdown().await;
}
