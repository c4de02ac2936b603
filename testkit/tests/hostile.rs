//! Requests of a peer that is broken or means harm: the brokers answer them or hang up, as Kafka does, and never panic, and buy no memory
//! by the word of the network.
//!
//! Valid requests of every API in every version are changed in a few places, by a seed; a counting allocator watches the cluster, which
//! runs on the thread of the test. `cargo xtask accept frames` is the long run. What a broker does with nonsense of several kinds is
//! compared with what Kafka 4.3.0 did (`tests/hostile.txt`; `PORTABLE_WRITE=1` with `KAFKA_BOOTSTRAP_SERVERS` writes it anew).

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test reads the clock, waits and panics")]

#[allow(dead_code, reason = "it measures more than is asked here")]
#[path = "../../protocol/tests/support/alloc.rs"]
mod alloc;
mod common;
mod sweep;

use std::net::SocketAddr;
use std::time::Duration;

use alloc::Counting;
use bytes::{BufMut, Bytes, BytesMut};
use common::script::{Script, code, compare, compare_or_write, first, text};
use common::*;
use milena_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use milena_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use milena_protocol::messages::create_topics_request::CreatableTopic;
use milena_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use milena_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use milena_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use milena_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use milena_protocol::messages::metadata_request::MetadataRequestTopic;
use milena_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use milena_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use milena_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use milena_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use milena_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use milena_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use milena_protocol::messages::*;
use milena_protocol::{Request, StrBytes};
use milena_testkit::{Cluster, MemoryStream, Reaction, real_bootstrap_servers, seeds};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Changed requests of one seed; they all go to one cluster.
const REQUESTS: usize = 50;
/// What a request may cost beyond its own bytes: the answer, the log of a new partition, a codec's window.
const ALLOWANCE: usize = 4 << 20;
/// How many bytes of memory a byte of a request may turn into: what it decodes to, and a copy.
const FACTOR: usize = 64;

fn cluster(seed: u64) -> Cluster {
    // Hostile clients do what the invariants forbid; what the cluster says about itself is looked at.
    Cluster::builder().topic("t", 3).seed(seed).start_in_memory().unwrap()
}

/// One virtual second on pipes.
fn simulate<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(work)
}

#[test]
fn changed_requests_neither_panic_nor_buy_memory() {
    let valid = simulate(async {
        let cluster = cluster(0);
        let (_, requests) = sweep::every_version_of_every_api(&cluster).await;
        cluster.shutdown().await;
        requests
    });
    let (mut answered, mut closed, mut silent) = (0u64, 0u64, 0u64);
    for seed in seeds(0..300) {
        alloc::busy_with(seed, "-p milena-testkit --test hostile changed_requests");
        println!("seed {seed}: MILENA_SEEDS={seed} cargo test -p milena-testkit --test hostile changed_requests");
        simulate(async {
            let mut rng = fastrand::Rng::with_seed(seed);
            let cluster = cluster(seed);
            for _ in 0..REQUESTS {
                let which = rng.usize(..valid.len());
                let request = changed(&mut rng, &valid[which]);
                let mut raw = connect(&cluster, rng.i32(1..=3)).await;
                alloc::begin();
                raw.stream.write_all(&request).await.unwrap();
                let outcome = outcome(&mut raw.stream, &request).await;
                let used = alloc::used();
                match outcome {
                    Outcome::Answered => answered += 1,
                    Outcome::Closed => closed += 1,
                    Outcome::Silent => silent += 1,
                }
                let limit = ALLOWANCE + FACTOR * request.len();
                assert!(used.peak <= limit, "{} bytes for a request of {}: {request:?}", used.peak, request.len());
            }
            for broker in 1..=3 {
                let mut raw = connect(&cluster, broker).await;
                let metadata = raw.call(12, MetadataRequest::default().with_topics(None));
                let metadata = tokio::time::timeout(Duration::from_secs(60), metadata).await.expect("brokers answer");
                assert_eq!(metadata.brokers.len(), 3);
            }
            let bugs: Vec<String> = cluster.take_violations();
            let bugs: Vec<_> = bugs.iter().filter(|violation| violation.contains("bug of the kit")).collect();
            assert!(bugs.is_empty(), "{bugs:?}");
            cluster.shutdown().await;
        });
    }
    println!("{answered} answered, {closed} closed, {silent} silent");
    assert!(answered > 0 && closed > 0);
}

/// How many partitions a request names of one topic: each is a few bytes there, and the name 32 KiB.
const PARTITIONS: i32 = 20_000;

async fn is_cheap<R: Request>(raw: &mut Raw<MemoryStream>, version: i16, request: R) -> R::Response {
    raw.record();
    alloc::begin();
    let answer = raw.call(version, request).await;
    let used = alloc::used();
    let sent = raw.recorded()[0].len();
    let limit = ALLOWANCE + FACTOR * sent;
    assert!(used.peak <= limit, "{} v{version}: {} bytes for a request of {sent}", R::KEY, used.peak);
    answer
}

/// A request of each API that names partitions, for very many of a topic with a very long name.
async fn long_names(raw: &mut Raw<MemoryStream>) {
    let long = || TopicName(StrBytes::from_string("x".repeat(i16::MAX as usize)));
    let all = || 0..PARTITIONS;

    let topic = OffsetFetchRequestTopics::default().with_name(long()).with_partition_indexes(all().collect());
    let group = OffsetFetchRequestGroup::default().with_group_id(GroupId(text("g"))).with_topics(Some(vec![topic]));
    is_cheap(raw, 8, OffsetFetchRequest::default().with_groups(vec![group])).await;

    let topic = describe_producers_request::TopicRequest::default().with_name(long());
    let topic = topic.with_partition_indexes(all().collect());
    is_cheap(raw, 0, DescribeProducersRequest::default().with_topics(vec![topic])).await;

    let partitions = all().map(|p| ListOffsetsPartition::default().with_partition_index(p)).collect();
    let topic = ListOffsetsTopic::default().with_name(long()).with_partitions(partitions);
    is_cheap(raw, 6, ListOffsetsRequest::default().with_topics(vec![topic])).await;

    let partitions = all().map(|p| FetchPartition::default().with_partition(p)).collect();
    let topic = FetchTopic::default().with_topic(long()).with_partitions(partitions);
    is_cheap(raw, 12, FetchRequest::default().with_session_epoch(-1).with_topics(vec![topic])).await;

    let partitions = all().map(|p| PartitionProduceData::default().with_index(p).with_records(None)).collect();
    let topic = TopicProduceData::default().with_name(long()).with_partition_data(partitions);
    is_cheap(raw, 9, ProduceRequest::default().with_acks(1).with_topic_data(vec![topic])).await;

    let partitions = all().map(|p| OffsetCommitRequestPartition::default().with_partition_index(p)).collect();
    let topic = OffsetCommitRequestTopic::default().with_name(long()).with_partitions(partitions);
    let commit = OffsetCommitRequest::default().with_group_id(GroupId(text("g"))).with_topics(vec![topic]);
    is_cheap(raw, 8, commit.with_generation_id_or_member_epoch(-1)).await;

    let topic = AddPartitionsToTxnTopic::default().with_name(long()).with_partitions(all().collect());
    is_cheap(raw, 3, AddPartitionsToTxnRequest::default().with_v3_and_below_topics(vec![topic])).await;

    let partitions = all().map(|p| DeleteRecordsPartition::default().with_partition_index(p)).collect();
    let topic = DeleteRecordsTopic::default().with_name(long()).with_partitions(partitions);
    is_cheap(raw, 2, DeleteRecordsRequest::default().with_topics(vec![topic])).await;

    let partitions = all().map(|p| OffsetForLeaderPartition::default().with_partition(p)).collect();
    let topic = OffsetForLeaderTopic::default().with_topic(long()).with_partitions(partitions);
    is_cheap(raw, 4, OffsetForLeaderEpochRequest::default().with_topics(vec![topic])).await;

    let partitions = all().map(|p| OffsetDeleteRequestPartition::default().with_partition_index(p)).collect();
    let topic = OffsetDeleteRequestTopic::default().with_name(long()).with_partitions(partitions);
    is_cheap(raw, 0, OffsetDeleteRequest::default().with_group_id(GroupId(text("g"))).with_topics(vec![topic])).await;
}

#[test]
fn a_long_name_of_many_partitions_is_kept_once() {
    simulate(async {
        // On for the log, off for the log but on for a fault that compares, and off for both.
        for (log, fault) in [(true, false), (false, true), (false, false)] {
            let cluster = Cluster::builder().brokers(1).request_log(log).start_in_memory().unwrap();
            if fault {
                cluster.faults().any().topic("another").optional().then(Reaction::Drop);
            }
            let mut raw = connect(&cluster, 1).await;
            long_names(&mut raw).await;
            cluster.shutdown().await;
        }
    });
}

#[test]
fn an_assignment_of_one_partition_many_times_buys_no_memory_and_is_told_a_few_times() {
    simulate(async {
        let cluster = Cluster::builder().brokers(1).start_in_memory().unwrap();
        let mut raw = connect(&cluster, 1).await;
        let protocol = JoinGroupRequestProtocol::default().with_name(text("range"));
        let join = JoinGroupRequest::default()
            .with_group_id(GroupId(text("g")))
            .with_session_timeout_ms(10_000)
            .with_rebalance_timeout_ms(60_000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        let joined = raw.call(3, join).await;
        let mut assignment = BytesMut::new();
        assignment.put_slice(&[0, 0, 0, 0, 0, 1, 0x7f, 0xff]); // version, topics, length of the name
        assignment.put_bytes(b'x', i16::MAX as usize);
        assignment.put_i32(PARTITIONS);
        assignment.put_bytes(0, 4 * PARTITIONS as usize);
        let assignment = SyncGroupRequestAssignment::default()
            .with_member_id(joined.member_id.clone())
            .with_assignment(assignment.freeze());
        let sync = SyncGroupRequest::default()
            .with_group_id(GroupId(text("g")))
            .with_generation_id(joined.generation_id)
            .with_member_id(joined.member_id)
            .with_assignments(vec![assignment]);
        assert_eq!(is_cheap(&mut raw, 3, sync).await.error_code, 0);
        assert_eq!(cluster.take_violations().len(), 10);
        cluster.shutdown().await;
    });
}

/// Compressed records whose first bytes promise more than a machine has.
fn promises() -> Vec<(&'static str, i16, Vec<u8>)> {
    let zstd = [0x28, 0xb5, 0x2f, 0xfd];
    let nothing = [1, 0, 0]; // a last block, raw, without a byte
    let exabyte = (1_u64 << 60).to_le_bytes();
    let mut lz4 = vec![0x04, 0x22, 0x4d, 0x18, 0x68, 0x70];
    lz4.extend_from_slice(&exabyte);
    lz4.extend_from_slice(&[0, 0xff, 0xff, 0xff, 0x7f]);
    let framed = |size: u32| [b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01", &size.to_be_bytes()[..], &[0; 40]].concat();
    vec![
        ("zstd, a window of a gigabyte", 4, [&zstd[..], &[0x00, 20 << 3], &nothing].concat()),
        ("zstd, a window of terabytes", 4, [&zstd[..], &[0x00, 31 << 3], &nothing].concat()),
        ("zstd, an exabyte of content", 4, [&zstd[..], &[0xe0], &exabyte, &nothing].concat()),
        ("zstd, a block of 128 KiB from one byte", 4, [&zstd[..], &[0x00, 0], &[0x03, 0x00, 0x10, 0]].concat()),
        ("lz4, an exabyte of content", 3, lz4),
        ("snappy, a block of four gigabytes", 2, framed(u32::MAX)),
        ("snappy without frames, four gigabytes", 2, vec![0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0]),
        ("gzip, an extra field that is not there", 1, vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
    ]
}

#[test]
fn compressed_records_that_promise_much_buy_no_memory() {
    simulate(async {
        let cluster = cluster(0);
        let mut raw = connect(&cluster, 1).await;
        for (what, codec, stream) in promises() {
            let batch = TestBatch { attributes: codec, ..TestBatch::of(&["a"]) }.with_records(&stream);
            alloc::begin();
            let answer = raw.produce("t", 0, batch).await;
            let used = alloc::used();
            assert_ne!(answer.error_code, 0, "{what}");
            assert!(used.peak <= ALLOWANCE, "{what}: {} bytes", used.peak);
        }
        cluster.shutdown().await;
    });
}

enum Outcome {
    Answered,
    Closed,
    /// A join, a long poll, a request without acks, or a frame that announces more than has come.
    Silent,
}

async fn outcome(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &[u8]) -> Outcome {
    let answer = tokio::time::timeout(Duration::from_secs(1), async {
        let length = stream.read_i32().await?;
        let mut body = vec![0; usize::try_from(length).expect("the length of an answer")];
        stream.read_exact(&mut body).await?;
        std::io::Result::Ok(body)
    });
    match answer.await {
        Err(_) => Outcome::Silent,
        Ok(Err(_)) => Outcome::Closed,
        Ok(Ok(body)) => {
            assert_eq!(body[..4], request[8..12], "the correlation id of the request");
            Outcome::Answered
        }
    }
}

/// One to four changes behind the length, which is that of the changed request but for one in twenty.
fn changed(rng: &mut fastrand::Rng, valid: &Bytes) -> Vec<u8> {
    let mut body = valid[4..].to_vec();
    for _ in 0..if rng.bool() { 1 } else { rng.usize(2..=4) } {
        // Most of the time what is changed is behind the API's number, or nearly every request would be one that does not exist.
        let from = if rng.u8(..10) == 0 { 0 } else { 8.min(body.len()) };
        let at = rng.usize(from..=body.len());
        let rest = body.len() - at;
        match rng.u8(..9) {
            0 if rest > 0 => body[at] ^= 1 << rng.u8(..8),
            1 if rest > 0 => body[at] = [0, 1, 2, 0x7e, 0x7f, 0x80, 0xfe, 0xff][rng.usize(..8)],
            2 if rest > 0 => body[at] = rng.u8(..),
            3 => overwrite(rng, &mut body[at..], 2),
            4 => overwrite(rng, &mut body[at..], 4),
            5 => drop(body.drain(at..at + rng.usize(..=rest.min(64)))),
            6 => {
                let again = body[at..at + rng.usize(..=rest.min(64))].to_vec();
                drop(body.splice(at..at, again));
            }
            7 if rng.u8(..4) == 0 => body.truncate(at),
            // A count that takes five bytes as a varint.
            _ => drop(body.splice(at..at + rest.min(1), [0xff, 0xff, 0xff, 0xff, [0x07, 0x0f, 0x7f][rng.usize(..3)]])),
        }
    }
    let announced = if rng.u8(..20) == 0 { rng.i32(..) } else { body.len() as i32 };
    [&announced.to_be_bytes(), &body[..]].concat()
}

/// Writes a number there that a length or a count should not be.
fn overwrite(rng: &mut fastrand::Rng, room: &mut [u8], len: usize) {
    let number: u64 = match rng.u8(..5) {
        0 => u64::MAX >> rng.u32(..64),
        1 => 1 << rng.u32(..32),
        2 => i32::MAX as u64 - rng.u64(..3),
        3 => rng.u64(..),
        _ => rng.u64(..0x1_0000),
    };
    let len = len.min(room.len());
    room[..len].copy_from_slice(&number.to_be_bytes()[8 - len..]);
}

/// A request of these bytes.
fn frame(parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&(body.len() as i32).to_be_bytes(), &body[..]].concat()
}

/// The header of a request from a client without a name.
fn header(api: i16, version: i16) -> Vec<u8> {
    let mut header = BytesMut::new();
    header.put_i16(api);
    header.put_i16(version);
    header.put_i32(77);
    header.put_i16(-1);
    header.to_vec()
}

/// Whether a broker answers these bytes, hangs up or waits for more.
async fn nonsense(script: &mut Script) {
    let metadata = |topics: &[u8]| frame(&[&header(3, 1), topics]);
    let big = (101_i32 << 20).to_be_bytes();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("metadata for no topic", metadata(&[0, 0, 0, 0])),
        ("metadata and three bytes more", metadata(&[0, 0, 0, 0, 1, 2, 3])),
        ("metadata that is cut off", metadata(&[0, 0, 0])),
        ("metadata of one topic that is not there", metadata(&[0, 0, 0, 1])),
        ("metadata of two billion topics", metadata(&[0x7f, 0xff, 0xff, 0xff])),
        ("metadata of minus two topics", metadata(&[0xff, 0xff, 0xff, 0xfe])),
        ("metadata of a topic without a name", metadata(&[0, 0, 0, 1, 0xff, 0xff])),
        ("metadata of a topic with a name that is no text", metadata(&[0, 0, 0, 1, 0, 2, 0xff, 0xfe])),
        ("metadata v99", frame(&[&header(3, 99), &[0, 0, 0, 0]])),
        ("metadata v-1", frame(&[&header(3, -1), &[0, 0, 0, 0]])),
        ("produce v0", frame(&[&header(0, 0), &[0, 1, 0, 0, 0, 1, 0, 0, 0, 0]])),
        ("fetch v3", frame(&[&header(1, 3), &[0; 40]])),
        ("an API that nobody has", frame(&[&header(9999, 0), &[0; 8]])),
        ("a negative API", frame(&[&header(-5, 0), &[0; 8]])),
        ("an API between brokers", frame(&[&header(6, 0), &[0; 8]])),
        ("a client with a name that is no text", frame(&[&header(3, 1)[..8], &[0, 2, 0xff, 0xfe], &[0, 0, 0, 0]])),
        ("a client with a name that is longer than the frame", frame(&[&header(3, 1)[..8], &[0, 99, 65]])),
        ("a header that is cut off", frame(&[&header(3, 1)[..6]])),
        ("tags in the header that are cut off", frame(&[&header(3, 9), &[5, 1, 99]])),
        ("a frame of no bytes", frame(&[])),
        ("a frame of minus one byte", (-1_i32).to_be_bytes().to_vec()),
        ("a frame of a hundred and one MiB", [&big[..], &[0; 100]].concat()),
        ("a frame of which a part comes", [&[0, 0, 4, 0], &header(3, 1)[..]].concat()),
        ("a web browser", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
    ];
    for (what, bytes) in cases {
        let mut raw = script.connect().await;
        raw.stream.write_all(&bytes).await.unwrap();
        let first = tokio::time::timeout(Duration::from_millis(700), raw.stream.read_i32()).await;
        let outcome = match first {
            Err(_) => "waits".to_owned(),
            Ok(Err(_)) => "closed".to_owned(),
            Ok(Ok(_)) => "answered".to_owned(),
        };
        script.line(format_args!("{what}: {outcome}"));
    }
    let mut raw = script.connect().await;
    for (what, name, version) in
        [("good", "a.b-c", "1.0"), ("empty", "", ""), ("bad", "-a", "1"), ("worse", "a b", "1")]
    {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(text(name))
            .with_client_software_version(text(version));
        let answer = raw.call(3, request).await;
        script.line(format_args!("client software with a {what} name: {}", code(answer.error_code)));
    }
    for partitions in [10_001, i32::MAX] {
        let topic = CreatableTopic::default().with_name(name("huge")).with_num_partitions(partitions);
        let topics = vec![topic.with_replication_factor(1)];
        let request = CreateTopicsRequest::default().with_topics(topics).with_validate_only(true);
        let answer = raw.call(7, request.with_timeout_ms(10_000)).await;
        script.line(format_args!("a topic with {partitions} partitions: {}", code(answer.topics[0].error_code)));
    }
    let small = script.topic("small", 1, &[]).await;
    for count in [10_000, 10_001, 10_002, i32::MAX] {
        let topic = CreatePartitionsTopic::default().with_name(name(small)).with_count(count).with_assignments(None);
        let request = CreatePartitionsRequest::default().with_topics(vec![topic]).with_validate_only(true);
        let answer = raw.call(3, request.with_timeout_ms(30_000)).await;
        script.line(format_args!("{count} partitions instead of one: {}", code(answer.results[0].error_code)));
    }
    let asked = |topic: &str| MetadataRequestTopic::default().with_name(Some(TopicName(text(topic))));
    for (what, topic) in [("no name", ""), ("a long name", &"x".repeat(250)), ("dots", "..")] {
        let request = MetadataRequest::default().with_topics(Some(vec![asked(topic)]));
        let answer = raw.call(9, request).await;
        script.line(format_args!("metadata of a topic with {what}: {}", code(answer.topics[0].error_code)));
    }
}

async fn run(bootstrap: SocketAddr) -> String {
    let mut script = Script::new(bootstrap);
    nonsense(&mut script).await;
    script.lines
}

const EXPECTED: &str = include_str!("hostile.txt");

/// The message crate reads no string that is not UTF-8, where Java puts a question mark, and no length below −1, which Java takes for none.
const NOT_MODELLED: [&str; 2] = ["metadata of a topic with a name that is no text:", "metadata of minus two topics:"];

fn modelled(lines: &str) -> String {
    let lines = lines.lines().filter(|line| !NOT_MODELLED.iter().any(|not| line.starts_with(not)));
    lines.fold(String::new(), |text, line| text + line + "\n")
}

#[tokio::test]
async fn nonsense_is_answered_or_closed_as_kafka_did() {
    let cluster = Cluster::builder().start().await.unwrap();
    let servers = cluster.bootstrap_servers();
    let lines = run(first(&servers)).await;
    compare("this cluster", &modelled(EXPECTED), &modelled(&lines));
    assert_eq!(cluster.take_violations().len(), 1, "the three bytes too many");
    cluster.shutdown().await;
}

#[tokio::test]
async fn kafka_answers_nonsense_or_closes_as_it_did() {
    let Some(servers) = real_bootstrap_servers("hostile::kafka_answers_nonsense_or_closes_as_it_did") else { return };
    let lines = run(first(&servers)).await;
    compare_or_write("this Kafka", "hostile.txt", EXPECTED, &lines);
}
