//! The part against a real Kafka of one broker, which shares the cores, so that its CPU stands beside the clients'; with Java's
//! `ConsumerPerformance`.

use std::time::Duration;

use milena::{Compression, NewTopic, Record};

use crate::Options;
use crate::case::{self, Case, Part};
use crate::job::{Client, Outcome, Until};
use crate::measure::{process, rounds};
use crate::row::Row;

pub(crate) fn measure(options: &Options, problems: &mut Vec<String>) -> Result<Vec<Row>, String> {
    let servers = options.kafka.as_deref().ok_or("which Kafka? cargo xtask bench consume --part kafka starts one")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let mut rows = Vec::new();
    for case in case::cases(Part::Kafka, options.quick) {
        let Until::Records(records) = case.until else { continue };
        let topic = if case.lz4 { "bench-consume-lz4" } else { "bench-consume" };
        eprintln!("{}: writing it", case.title);
        runtime.block_on(write(servers, topic, &case, records)).map_err(|e| e.to_string())?;
        rows.extend(rounds(&case, options, problems, |client| {
            let broker_cpu =
                || options.broker_pid.and_then(|pid| spine::cpu_of_process(pid, false)).unwrap_or_default();
            let before = broker_cpu();
            let outcome = if client == Client::Java {
                java(topic, records, servers, options)?
            } else {
                process(&case.job(client, servers, topic))?
            };
            let broker_us = broker_cpu().saturating_sub(before).as_secs_f64() * 1e6 / records as f64;
            Ok(Row { case: case.title.clone(), client, outcome, bytes_per_record: 0.0, broker_us })
        }));
        let deleted = runtime.block_on(async {
            let client = milena::Client::builder(servers).connect().await?;
            client.admin().delete_topics(&[topic]).await
        });
        deleted.map_err(|e| e.to_string())?;
    }
    Ok(rows)
}

/// The same records for all: as many in each partition, in batches of 16 KB.
async fn write(servers: &str, topic: &str, case: &Case, records: u64) -> Result<(), milena::Error> {
    let client = milena::Client::builder(servers).connect().await?;
    client.admin().ensure_topics(&[NewTopic::new(topic, case.partitions)]).await?;
    let codec = if case.lz4 { Compression::Lz4 } else { Compression::None };
    let builder = client.producer().linger(Duration::from_millis(5)).compression(codec);
    let producer = builder.batch_size(16 * 1024).max_batch_size(16 * 1024).build().await?;
    for n in 0..records {
        let value = nullbroker::value(n, spine::VALUE_SIZE);
        let record = Record::to(topic).partition((n % case.partitions as u64) as i32).value(&value);
        drop(producer.send(&record).await?);
    }
    producer.flush().await?;
    producer.close(Duration::from_secs(60)).await?;
    client.close().await;
    Ok(())
}

fn java(topic: &str, records: u64, servers: &str, options: &Options) -> Result<Outcome, String> {
    let libs = options.java_libs.as_deref().ok_or("where are Kafka's jars? --java-libs FOLDER")?;
    let count = records.to_string();
    let arguments = ["--topic", topic, "--bootstrap-server", servers, "--messages", &count, "--timeout", "30000"];
    // start.time, end.time, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg, …
    let read = |text: &str| -> Option<u64> { text.lines().last()?.split(", ").nth(4)?.trim().parse().ok() };
    let has_read = |text: &str| read(text).is_some_and(|read| read >= records);
    let report = spine::process::java(libs, "ConsumerPerformance", arguments, records, has_read)?;
    Ok(Outcome { report, p50_us: 0, p99_us: 0 })
}
