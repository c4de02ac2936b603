//! The part against a real Kafka of one broker, which shares the cores, so that its CPU stands beside the clients'; with Java's
//! `ProducerPerformance`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use milena::NewTopic;

use crate::Options;
use crate::case::{self, Case, Part};
use crate::job::{Client, Job};
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

/// Java's own program. The start of its virtual machine and all that is compiled on the way is in its figures.
fn java(case: &Case, topic: &str, servers: &str, options: &Options) -> Result<(Row, u64), String> {
    let libs = options.java_libs.as_deref().ok_or("where are Kafka's jars? --java-libs FOLDER")?;
    let records: u64 = if case.load.value_size > 100 { 500_000 } else { 2_000_000 };
    let before = children();
    let began = Instant::now();
    let child = Command::new("java")
        .args(["-Xmx1g", "-XX:+UseG1GC", "-cp", &format!("{}/*", Path::new(libs).display())])
        .args(["org.apache.kafka.tools.ProducerPerformance", "--topic", topic, "--throughput", "-1"])
        .args(["--num-records", &records.to_string(), "--record-size", &case.load.value_size.to_string()])
        .args(["--producer-props", &format!("bootstrap.servers={servers}"), "acks=all", "enable.idempotence=true"])
        .args(["linger.ms=5", &format!("batch.size={}", case.load.batch)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("cannot start java: {e}"))?;
    let status = format!("/proc/{}/status", child.id());
    let done = std::thread::spawn(move || child.wait_with_output());
    let mut peak = 0;
    while !done.is_finished() {
        if let Ok(text) = std::fs::read_to_string(&status) {
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
            peak = line.and_then(|kilobytes| kilobytes.trim().parse().ok()).unwrap_or(peak).max(peak);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let output = done.join().map_err(|_| "java was not waited for")?.map_err(|e| format!("java: {e}"))?;
    let wall = began.elapsed();
    let cpu = children().saturating_sub(before);
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || !text.contains(&format!("{records} records sent")) {
        return Err(format!("ProducerPerformance ended with {}:\n{text}", output.status));
    }
    let row = Row {
        case: case.id.clone(),
        client: Client::Java,
        records,
        wall_us: wall.as_micros() as u64,
        cpu_us: cpu.as_micros() as u64,
        peak_kilobytes: peak,
        p50_us: 0,
        p99_us: 0,
        requests: 0,
        batches: 0,
        produced: 0,
        broker_ns: 0,
        round_trip_us: 0,
    };
    Ok((row, records))
}

/// CPU time of all processes that were waited for, and of this one.
fn children() -> Duration {
    spine::cpu_of_process(std::process::id(), true).unwrap_or_default()
}
