//! The part against a real Kafka of one broker, which shares the cores, so that its CPU stands beside the clients'; with Java's
//! `ProducerPerformance`.

use milena::NewTopic;

use crate::Options;
use crate::case::{self, Case, Part};
use crate::job::{Client, Job, Outcome};
use crate::kept::{Others, Runs};
use crate::measure::{process, row};
use crate::row::Row;

pub(crate) fn measure(options: &Options, problems: &mut Vec<String>) -> Result<Runs, String> {
    let servers = options.kafka.as_deref().ok_or("which Kafka? cargo xtask bench produce --part kafka starts one")?;
    let others = Others::start(options.broker_pid);
    let mut rows = Vec::new();
    for case in case::cases(Part::Kafka, options.quick) {
        for round in 1..=options.rounds {
            for client in Client::RUST.into_iter().chain([Client::Java]).filter(|client| options.includes(*client)) {
                eprintln!("kafka, round {round} of {}: {}, {client}", options.rounds, case.title);
                match one(&case, client, servers, options) {
                    Ok(row) => rows.push(row),
                    Err(problem) => {
                        eprintln!("bench-produce: {problem}");
                        problems.push(problem);
                    }
                }
            }
        }
    }
    Ok(Runs { rows, others: others.stop(options.broker_pid) })
}

/// A topic of its own for each run, deleted afterwards: no run finds the page cache full of another's records.
fn one(case: &Case, client: Client, servers: &str, options: &Options) -> Result<Row, String> {
    let topic = format!("bench-{client}");
    on_topics(servers, |admin| async move {
        admin.ensure_topics(&[NewTopic::new(format!("bench-{client}"), case.load.partitions)]).await
    })?;
    let broker_cpu = || options.broker_pid.and_then(|pid| spine::cpu_of_process(pid, false)).unwrap_or_default();
    let before = broker_cpu();
    let measured = if client == Client::Java {
        java(case, &topic, servers, options)
    } else {
        let job = Job { client, bootstrap_servers: servers.to_owned(), topic: topic.clone(), load: case.load };
        process(&job).map(|outcome| (row(case, client, &outcome), outcome.sent))
    };
    let broker = broker_cpu().saturating_sub(before);
    on_topics(servers, |admin| async move { admin.delete_topics(&[&topic]).await.map(drop) })?;
    let (mut row, sent) = measured?;
    row.broker_ns = broker.as_nanos() as u64 / sent.max(1);
    Ok(row)
}

fn on_topics<F: Future<Output = Result<(), milena::Error>>>(
    servers: &str,
    work: impl FnOnce(milena::Admin) -> F,
) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let done = runtime.block_on(async {
        let client = milena::Client::builder(servers).connect().await?;
        work(client.admin()).await
    });
    done.map_err(|e| e.to_string())
}

fn java(case: &Case, topic: &str, servers: &str, options: &Options) -> Result<(Row, u64), String> {
    let libs = options.java_libs.as_deref().ok_or("where are Kafka's jars? --java-libs FOLDER")?;
    let records: u64 = if case.load.value_size > 100 { 500_000 } else { 2_000_000 };
    let (count, size) = (records.to_string(), case.load.value_size.to_string());
    let (servers, batch) = (format!("bootstrap.servers={servers}"), format!("batch.size={}", case.load.batch));
    let mut arguments = vec!["--topic", topic, "--throughput", "-1", "--num-records", &count, "--record-size", &size];
    arguments.extend(["--producer-props", &servers, "acks=all", "enable.idempotence=true", "linger.ms=5", &batch]);
    let has_sent = |text: &str| text.contains(&format!("{records} records sent"));
    let report = spine::process::java(libs, "ProducerPerformance", arguments, records, has_sent)?;
    let outcome = Outcome { report, sent: records, p50_us: 0, p99_us: 0 };
    Ok((row(case, Client::Java, &outcome), records))
}
