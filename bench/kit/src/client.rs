//! A client that costs next to nothing and is not measured: frames that were encoded before, answers that are only counted.

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::{BufMut as _, Bytes, BytesMut};
use milena_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use milena_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use milena_protocol::messages::{FetchRequest, ProduceRequest, TopicName};
use milena_protocol::records::{BatchBuilder, ProducerStamp};
use milena_protocol::{Request, StrBytes, frame};
use milena_testkit::Cluster;

pub const TOPIC: &str = "spine";
pub const PARTITIONS: i32 = 6;
/// 100-byte values that fill a batch of 16 KB.
pub const BATCH_RECORDS: u64 = 148;

const PRODUCE_VERSION: i16 = 9;
const FETCH_VERSION: i16 = 12;
const IN_FLIGHT: u64 = 5;

/// A connection to the leader of one partition.
pub struct Connection {
    stream: TcpStream,
    partition: i32,
    offset: i64,
    answer: Vec<u8>,
}

impl Connection {
    pub fn to_leader(cluster: &Cluster, partition: i32) -> Self {
        let servers = cluster.bootstrap_servers();
        let servers: Vec<&str> = servers.split(',').collect();
        // Partition p is led by the p mod n-th of n brokers.
        let stream = TcpStream::connect(servers[partition as usize % servers.len()]).expect("the broker listens");
        stream.set_nodelay(true).expect("an option of the socket");
        Self { stream, partition, offset: 0, answer: Vec::new() }
    }

    fn write(&mut self, frame: &[u8]) {
        self.stream.write_all(frame).expect("the broker reads");
    }

    /// The next answer, without its length.
    fn read(&mut self) -> &[u8] {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).expect("the broker answers");
        self.answer.resize(u32::from_be_bytes(length) as usize, 0);
        self.stream.read_exact(&mut self.answer).expect("the broker answers");
        &self.answer
    }
}

/// Writes so many batches to each partition, at most five of each unanswered.
pub fn produce(connections: &mut [Connection], batches: u64) {
    let batch = batch();
    let frames: Vec<Bytes> = connections.iter().map(|connection| produce_frame(connection.partition, &batch)).collect();
    for n in 0..batches + IN_FLIGHT {
        for (connection, frame) in connections.iter_mut().zip(&frames) {
            if n >= IN_FLIGHT {
                let answer = frame::decode_body::<ProduceRequest>(body(connection.read()), PRODUCE_VERSION);
                let answer = &answer.expect("a Produce answer").responses[0].partition_responses[0];
                assert_eq!((answer.error_code, answer.base_offset), (0, ((n - IN_FLIGHT) * BATCH_RECORDS) as i64));
            }
            if n < batches {
                connection.write(frame);
            }
        }
    }
}

/// Reads all that is there, a megabyte a time from each partition.
pub fn fetch(connections: &mut [Connection], batches: u64) {
    let end = (batches * BATCH_RECORDS) as i64;
    while connections.iter().any(|connection| connection.offset < end) {
        for connection in connections.iter_mut().filter(|connection| connection.offset < end) {
            let frame = fetch_frame(connection.partition, connection.offset);
            connection.write(&frame);
        }
        for connection in connections.iter_mut().filter(|connection| connection.offset < end) {
            let answer = frame::decode_body::<FetchRequest>(body(connection.read()), FETCH_VERSION);
            let answer = &answer.expect("a Fetch answer").responses[0].partitions[0];
            assert_eq!(answer.error_code, 0);
            let records = answer.records.clone().expect("there are some");
            connection.offset += (records.len() / batch().len()) as i64 * BATCH_RECORDS as i64;
        }
    }
}

/// An answer behind its correlation id.
fn body(answer: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&answer[4..])
}

fn batch() -> Bytes {
    let mut builder = BatchBuilder::new(vec![0; 32 * 1024], 8);
    for index in 0..BATCH_RECORDS {
        let value = [b'v'; 100];
        builder.append(1_767_225_600_000 + index as i64, None, Some(&value), &[]).expect("there is room");
    }
    let mut sealed = builder.seal();
    sealed.stamp(ProducerStamp::NONE);
    assert!((16_000..16_384).contains(&sealed.bytes().len()), "a batch of 16 KB: {}", sealed.bytes().len());
    Bytes::copy_from_slice(sealed.bytes())
}

fn produce_frame(partition: i32, batch: &Bytes) -> Bytes {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch.clone()));
    let topic = TopicProduceData::default().with_name(topic()).with_partition_data(vec![data]);
    encoded(
        PRODUCE_VERSION,
        &ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic]),
    )
}

fn fetch_frame(partition: i32, offset: i64) -> Bytes {
    let partition = FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(offset)
        .with_current_leader_epoch(-1)
        .with_last_fetched_epoch(-1)
        .with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic(topic()).with_partitions(vec![partition]);
    let request = FetchRequest::default().with_max_wait_ms(500).with_min_bytes(1).with_max_bytes(50 << 20);
    encoded(FETCH_VERSION, &request.with_session_epoch(-1).with_topics(vec![topic]))
}

fn topic() -> TopicName {
    TopicName(StrBytes::from_static_str(TOPIC))
}

fn encoded<R: Request>(version: i16, request: &R) -> Bytes {
    let body = frame::encode_body(request, version).expect("this version has these fields");
    let mut frame = BytesMut::new();
    frame::put_request_header(&mut frame, R::KEY, version, frame::request_is_flexible::<R>(version), 1, "kit");
    frame::seal(&mut frame, body.len());
    frame.put_slice(&body);
    frame.freeze()
}
