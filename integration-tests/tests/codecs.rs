//! Every codec between milena and Java: Java's tools read what milena compresses, at every level and size. The other way round:
//! `judges/compressed.rs`.

#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]
#![expect(clippy::disallowed_methods, reason = "a test on real Kafka lives by the real clock, and Java's tools block")]

use std::fs;
use std::time::Duration;

use milena::{Client, Compression, NewTopic, Record};
use milena_integration_tests::{java_tool, real_kafka, unique};
use milena_protocol::records::{BatchBuilder, Compressor, ProducerStamp};

const CONSOLE_CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";
const DUMP_LOG: &str = "org.apache.kafka.tools.DumpLogSegments";

const SECOND: Duration = Duration::from_secs(1);

/// One log segment of batches by every codec, at every level, of many sizes: Java goes through all of their records.
#[test]
fn java_dumps_a_log_segment_of_every_codec_level_and_size() {
    if real_kafka("java_dumps_a_log_segment_of_every_codec_level_and_size").is_none() {
        return;
    }
    let (mut segment, mut expected, mut batches) = (Vec::new(), Vec::new(), 0);
    for (codec, level) in everything() {
        let mut compressor = compressor(codec, level);
        for count in [1, 2, 10, 100, 1_000, 3_000] {
            let mut builder = BatchBuilder::new(vec![0; 1 << 20], 0);
            let base_offset = expected.len() as i64;
            for n in 0..count {
                let value =
                    format!("{codec}/{level:?} {n} of {count}, {}", "a text that repeats itself ".repeat(n % 7));
                builder.append(1_790_000_000_000, Some(b"key"), Some(value.as_bytes()), &[]).unwrap();
                expected.push(value);
            }
            let (mut sealed, _) = builder.seal().compress(&mut compressor, Vec::new());
            sealed.stamp(ProducerStamp::NONE);
            let at = segment.len();
            segment.extend_from_slice(sealed.bytes());
            // What the broker sets, outside the checksum.
            segment[at..at + 8].copy_from_slice(&base_offset.to_be_bytes());
            batches += 1;
        }
    }
    let dir = std::env::temp_dir().join(unique("milena-segment"));
    fs::create_dir(&dir).unwrap();
    let file = dir.join("00000000000000000000.log");
    fs::write(&file, segment).unwrap();
    let dump = java_tool(DUMP_LOG, &["--files", file.to_str().unwrap(), "--print-data-log"], "");
    fs::remove_dir_all(&dir).unwrap();

    assert_eq!(dump.matches("isvalid: true").count(), batches, "{dump:.2000}");
    let payloads: Vec<&str> = dump.lines().filter_map(|line| Some(line.split_once("payload: ")?.1)).collect();
    assert_eq!(payloads.len(), expected.len());
    assert!(payloads == expected, "Java reads other records");
    for codec in Compression::ALL {
        assert!(dump.contains(&format!("compresscodec: {codec}")), "no batch by {codec}");
    }
}

/// Through a broker, which checks every record of a compressed batch.
#[tokio::test]
async fn java_reads_what_milena_sends_by_every_codec() {
    let Some(servers) = real_kafka("java_reads_what_milena_sends_by_every_codec") else { return };
    let client = Client::builder(servers.as_str()).connect().await.unwrap();
    let topic = unique("compressed");
    client.admin().ensure_topics(&[NewTopic::new(&topic, 1)]).await.unwrap();
    let mut sent = Vec::new();
    for (codec, level) in everything() {
        let builder = client.producer().compression(codec);
        let producer =
            level.into_iter().fold(builder, |builder, level| builder.compression_level(level)).build().await.unwrap();
        for n in 0..300 {
            let value = format!("{codec}/{level:?} {n} {}", "a text that repeats itself ".repeat(n % 7));
            drop(producer.send(&Record::to(&topic).value(&value)).await.unwrap());
            sent.push(value);
        }
        producer.close(10 * SECOND).await.unwrap();
    }
    let (count, to) = (sent.len().to_string(), topic.clone());
    let at = servers.clone();
    let read = tokio::task::spawn_blocking(move || {
        let from = ["--bootstrap-server", &at, "--topic", &to, "--partition", "0", "--offset", "earliest"];
        java_tool(CONSOLE_CONSUMER, &[&from[..], &["--max-messages", &count, "--timeout-ms", "30000"]].concat(), "")
    });
    assert!(read.await.unwrap().lines().eq(sent), "Java reads other records");
    client.close().await;
}

/// Every codec, with every level that it has and without one.
fn everything() -> Vec<(Compression, Option<i32>)> {
    let mut all = Vec::new();
    for codec in Compression::ALL {
        all.push((codec, None));
        all.extend(codec.levels().into_iter().flatten().map(|level| (codec, Some(level))));
    }
    all
}

fn compressor(codec: Compression, level: Option<i32>) -> Compressor {
    match level {
        Some(level) => Compressor::with_level(codec, level).unwrap(),
        None => Compressor::new(codec).unwrap(),
    }
}
