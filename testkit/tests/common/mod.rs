//! A client of a few lines: one request at a time on one connection, frames written by the protocol crate, batches by hand.

#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses its own part of it")]
#![expect(clippy::disallowed_methods, reason = "tests wait")]

pub(crate) mod script;
pub(crate) mod transactional;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use milena_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use milena_protocol::messages::fetch_response::PartitionData;
use milena_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use milena_protocol::messages::produce_response::PartitionProduceResponse;
use milena_protocol::messages::{FetchRequest, FetchResponse, ProduceRequest, TopicName};
use milena_protocol::{Request, StrBytes, frame};
use milena_testkit::{Cluster, MemoryStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tower::{Service, ServiceExt};

/// One connection.
pub(crate) struct Raw<S> {
    pub(crate) stream: S,
    correlation_id: i32,
    client_id: &'static str,
    recording: Option<Vec<Bytes>>,
}

/// Connects to a broker of a cluster in memory.
pub(crate) async fn connect(cluster: &Cluster, broker: i32) -> Raw<MemoryStream> {
    try_connect(cluster, broker).await.unwrap()
}

pub(crate) async fn try_connect(cluster: &Cluster, broker: i32) -> std::io::Result<Raw<MemoryStream>> {
    let addresses = cluster.resolver().oneshot((format!("broker-{broker}"), 9092)).await?;
    let stream = cluster.connector().ready().await?.call(addresses[0]).await?;
    Ok(Raw { stream, correlation_id: 0, client_id: "raw", recording: None })
}

pub(crate) async fn connect_tcp(address: SocketAddr) -> Raw<tokio::net::TcpStream> {
    Raw {
        stream: tokio::net::TcpStream::connect(address).await.unwrap(),
        correlation_id: 0,
        client_id: "raw",
        recording: None,
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub(crate) fn named(mut self, client_id: &'static str) -> Self {
        self.client_id = client_id;
        self
    }

    /// Keeps the requests that are sent from now on.
    pub(crate) fn record(&mut self) {
        self.recording = Some(Vec::new());
    }

    /// The requests that were kept, each with its length in front.
    pub(crate) fn recorded(&mut self) -> Vec<Bytes> {
        self.recording.take().unwrap_or_default()
    }

    /// Writes a request and does not wait.
    pub(crate) async fn send<R: Request>(&mut self, version: i16, request: &R) {
        self.correlation_id += 1;
        let mut head = BytesMut::new();
        let flexible = frame::request_is_flexible::<R>(version);
        frame::put_request_header(&mut head, R::KEY, version, flexible, self.correlation_id, self.client_id);
        let body = frame::encode_body(request, version).unwrap();
        frame::seal(&mut head, body.len());
        head.extend_from_slice(&body);
        self.stream.write_all(&head).await.unwrap();
        if let Some(requests) = &mut self.recording {
            requests.push(head.freeze());
        }
    }

    /// Reads the answer to the last request; `None` if the connection ends.
    pub(crate) async fn receive<R: Request>(&mut self, version: i16) -> Option<R::Response> {
        let length = self.stream.read_i32().await.ok()?;
        let mut body = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut body).await.ok()?;
        let mut body = Bytes::from(body);
        assert_eq!(body.get_i32(), self.correlation_id);
        Some(frame::decode_body::<R>(body, version).unwrap())
    }

    /// Reads an answer that is in the first of these versions that fits it.
    pub(crate) async fn receive_any<R: Request>(&mut self, versions: &[i16]) -> R::Response {
        let length = self.stream.read_i32().await.unwrap();
        let mut body = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut body).await.unwrap();
        let mut body = Bytes::from(body);
        assert_eq!(body.get_i32(), self.correlation_id);
        let fitting = versions.iter().find_map(|version| frame::decode_body::<R>(body.clone(), *version).ok());
        fitting.expect("an answer in one of these versions")
    }

    pub(crate) async fn call<R: Request>(&mut self, version: i16, request: R) -> R::Response {
        self.send(version, &request).await;
        self.receive::<R>(version).await.expect("the broker closed the connection")
    }

    /// Whether nothing comes for a while.
    pub(crate) async fn is_silent_for(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.stream.read_u8()).await.is_err()
    }

    pub(crate) async fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        matches!(tokio::time::timeout(Duration::from_secs(60), self.stream.read_to_end(&mut rest)).await, Ok(Ok(0)))
    }

    /// Produces one batch and returns the partition's answer (v9: by name, flexible).
    pub(crate) async fn produce(
        &mut self,
        topic: &'static str,
        partition: i32,
        batch: Bytes,
    ) -> PartitionProduceResponse {
        let response = self.call(9, produce_request(topic, partition, batch, -1)).await;
        response.responses[0].partition_responses[0].clone()
    }

    /// Fetches one partition without a session (v12) and returns its data.
    pub(crate) async fn fetch(&mut self, topic: &'static str, partition: i32, offset: i64) -> PartitionData {
        let response = self.call(12, fetch_request(&[(topic, partition, offset)])).await;
        response.responses[0].partitions[0].clone()
    }
}

/// Waits a little before something is asked again.
pub(crate) async fn pause() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

pub(crate) fn name(topic: &'static str) -> TopicName {
    TopicName(StrBytes::from_static_str(topic))
}

pub(crate) fn produce_request(topic: &'static str, partition: i32, batch: Bytes, acks: i16) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch));
    let topic = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(30_000).with_topic_data(vec![topic])
}

/// A fetch without session that does not wait.
pub(crate) fn fetch_request(wanted: &[(&'static str, i32, i64)]) -> FetchRequest {
    let topics = wanted.iter().map(|(topic, partition, offset)| {
        let partition = FetchPartition::default()
            .with_partition(*partition)
            .with_fetch_offset(*offset)
            .with_partition_max_bytes(1 << 20);
        FetchTopic::default().with_topic(name(topic)).with_partitions(vec![partition])
    });
    FetchRequest::default().with_max_bytes(50 << 20).with_topics(topics.collect()).with_session_epoch(-1)
}

pub(crate) fn only(response: &FetchResponse) -> &PartitionData {
    assert_eq!(response.responses.len(), 1);
    assert_eq!(response.responses[0].partitions.len(), 1);
    &response.responses[0].partitions[0]
}

type KeyValue = (Option<Vec<u8>>, Option<Vec<u8>>);

/// A record batch written by hand.
#[derive(Clone)]
pub(crate) struct TestBatch {
    pub(crate) base_timestamp: i64,
    pub(crate) producer: (i64, i16, i32),
    pub(crate) attributes: i16,
    pub(crate) records: Vec<KeyValue>,
}

impl TestBatch {
    pub(crate) fn of(values: &[&str]) -> Self {
        let records = values.iter().map(|value| (Some(b"k".to_vec()), Some(value.as_bytes().to_vec()))).collect();
        Self { base_timestamp: milena_testkit::WALL_CLOCK_BASE_MS, producer: (-1, -1, -1), attributes: 0, records }
    }

    pub(crate) fn by_producer(mut self, id: i64, epoch: i16, sequence: i32) -> Self {
        self.producer = (id, epoch, sequence);
        self
    }

    /// Record `n` is `n` milliseconds younger than the first.
    pub(crate) fn bytes(&self) -> Bytes {
        let records = self.records();
        self.with_records(&compress(self.attributes & 7, &records))
    }

    /// The records, not compressed.
    pub(crate) fn records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        for (delta, (key, value)) in self.records.iter().enumerate() {
            let mut body = vec![0];
            varint(&mut body, delta as i64);
            varint(&mut body, delta as i64);
            for field in [key, value] {
                match field {
                    Some(field) => {
                        varint(&mut body, field.len() as i64);
                        body.extend_from_slice(field);
                    }
                    None => varint(&mut body, -1),
                }
            }
            varint(&mut body, 0);
            varint(&mut records, body.len() as i64);
            records.extend_from_slice(&body);
        }
        records
    }

    /// The batch with these bytes for its records.
    pub(crate) fn with_records(&self, records: &[u8]) -> Bytes {
        let last = self.records.len() as i32 - 1;
        let mut batch = Vec::new();
        batch.extend_from_slice(&0i64.to_be_bytes());
        batch.extend_from_slice(&(49 + records.len() as i32).to_be_bytes());
        batch.extend_from_slice(&(-1i32).to_be_bytes());
        batch.push(2);
        batch.extend_from_slice(&[0; 4]);
        batch.extend_from_slice(&self.attributes.to_be_bytes());
        batch.extend_from_slice(&last.to_be_bytes());
        batch.extend_from_slice(&self.base_timestamp.to_be_bytes());
        batch.extend_from_slice(&(self.base_timestamp + i64::from(last)).to_be_bytes());
        batch.extend_from_slice(&self.producer.0.to_be_bytes());
        batch.extend_from_slice(&self.producer.1.to_be_bytes());
        batch.extend_from_slice(&self.producer.2.to_be_bytes());
        batch.extend_from_slice(&(last + 1).to_be_bytes());
        batch.extend_from_slice(records);
        sign(&mut batch);
        batch.into()
    }
}

/// Compresses with one of Kafka's codecs, by the number it has in the attributes.
pub(crate) fn compress(codec: i16, records: &[u8]) -> Vec<u8> {
    use std::io::Write;
    match codec {
        1 => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(records).unwrap();
            encoder.finish().unwrap()
        }
        2 => {
            let block = snap::raw::Encoder::new().compress_vec(records).unwrap();
            let size = (block.len() as u32).to_be_bytes();
            [b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01", &size[..], &block].concat()
        }
        3 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(records).unwrap();
            encoder.finish().unwrap()
        }
        4 => structured_zstd::encoding::compress_slice_to_vec(
            records,
            structured_zstd::encoding::CompressionLevel::Fastest,
        ),
        _ => records.to_vec(),
    }
}

/// Writes the CRC of a batch whose bytes were changed.
pub(crate) fn sign(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// A zig-zag varint, as records have them.
pub(crate) fn varint(out: &mut Vec<u8>, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)) as u64;
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}
