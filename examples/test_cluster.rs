//! A Kafka cluster in the foreground, until Ctrl-C: for kcat, for Java's tools, for a service that is being written.
//!
//! ```text
//! cargo run --release --example test_cluster -- --brokers 3 --port 9092 --topic orders:6 --topic payments:2
//! echo hello | kcat -b 127.0.0.1:9092 -t orders -P
//! kcat -b 127.0.0.1:9092 -t orders -C -e
//! ```
//!
//! Nothing is kept: with the process everything is gone. `--log` prints every request when it ends.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use milena_testkit::Cluster;

/// Runs a Kafka cluster inside this process.
#[derive(Parser)]
struct Arguments {
    /// How many brokers
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    brokers: u8,
    /// The first broker's port on 127.0.0.1; the others follow it [default: free ports]
    #[arg(long)]
    port: Option<u16>,
    /// A topic that is there from the start; may be given several times
    #[arg(long, value_name = "NAME:PARTITIONS", value_parser = topic)]
    topic: Vec<(String, i32)>,
    /// Topics are made only when they are asked for by name with CreateTopics
    #[arg(long)]
    no_auto_create: bool,
    /// transaction.version
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(i16).range(0..=2))]
    transaction_version: i16,
    /// Print all requests at the end
    #[arg(long)]
    log: bool,
    /// End after so many seconds, not only by Ctrl-C
    #[arg(long)]
    seconds: Option<u64>,
}

fn topic(given: &str) -> Result<(String, i32), String> {
    let (name, partitions) = given.rsplit_once(':').unwrap_or((given, "1"));
    match partitions.parse() {
        Ok(partitions) if partitions > 0 && !name.is_empty() => Ok((name.to_owned(), partitions)),
        _ => Err(format!("{given}: give NAME or NAME:PARTITIONS, e.g. orders:6")),
    }
}

#[tokio::main]
#[expect(clippy::disallowed_methods, reason = "the program itself decides how long it runs")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Foreign clients do what they like: nobody is failed for it here.
    let mut builder = Cluster::builder()
        .brokers(arguments.brokers)
        .auto_create_topics(!arguments.no_auto_create)
        .transaction_version(arguments.transaction_version)
        .request_log(arguments.log)
        .check_invariants(false);
    if let Some(port) = arguments.port {
        builder = builder.port(port);
    }
    for (name, partitions) in arguments.topic {
        builder = builder.topic(name, partitions);
    }
    let cluster = match builder.start().await {
        Ok(cluster) => cluster,
        Err(e) => {
            eprintln!("the cluster cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    println!("bootstrap.servers={}", cluster.bootstrap_servers());
    println!("Ctrl-C ends it");
    let waited = match arguments.seconds {
        Some(seconds) => {
            let by_then = tokio::time::timeout(Duration::from_secs(seconds), tokio::signal::ctrl_c()).await;
            by_then.unwrap_or(Ok(()))
        }
        None => tokio::signal::ctrl_c().await,
    };
    if arguments.log {
        print!("{}", cluster.request_log());
    }
    cluster.shutdown().await;
    match waited {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("no signal can be waited for: {e}");
            ExitCode::FAILURE
        }
    }
}
