//! A Kafka broker that keeps nothing and answers at once: what a client costs, without what a broker costs.
//!
//! The journey of a request: a connection thread reads one frame ([`connection`]) → Produce is walked and acknowledged
//! ([`produce`]), Fetch gets a ready-made response with its offsets patched ([`fetch`]), all else goes through the
//! `kafka-protocol` crate ([`cold`]) → the answer is written before the next request is looked at, as in Kafka.
//! Everything is counted ([`stats`]).
//!
//! Blocking threads and plain sockets: there is nothing here that could schedule badly.

mod batch;
mod cold;
mod connection;
mod fetch;
mod options;
mod produce;
mod stats;
mod wire;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use options::Options;
use stats::Stats;

/// What all connections of all brokers share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) topics: cold::Topics,
    pub(crate) offsets: produce::Offsets,
    /// One batch of the endless log, complete but for its base offset.
    pub(crate) batch: Vec<u8>,
    pub(crate) stats: Stats,
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::FAILURE;
        }
    };
    let mut listeners = Vec::new();
    for broker in 0..options.brokers {
        let port = options.port + broker;
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => listeners.push((i32::from(broker), listener)),
            Err(problem) => {
                eprintln!("nullbroker: cannot listen on 127.0.0.1:{port}: {problem}; choose another --port");
                return ExitCode::FAILURE;
            }
        }
    }
    let stats_listener = match TcpListener::bind(("127.0.0.1", options.port + options.brokers)) {
        Ok(listener) => listener,
        Err(problem) => {
            eprintln!("nullbroker: cannot listen for statistics: {problem}; choose another --port");
            return ExitCode::FAILURE;
        }
    };

    let shared = Arc::new(Shared {
        batch: batch::build(options.records_per_batch, options.value_size),
        topics: cold::Topics::default(),
        offsets: produce::Offsets::default(),
        stats: Stats::default(),
        options,
    });
    for (broker, listener) in listeners {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || connection::serve(stream, broker, &shared));
            }
        });
    }
    {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            for mut stream in stats_listener.incoming().flatten() {
                let _ = stream.write_all(shared.stats.report().as_bytes());
            }
        });
    }
    println!("bootstrap.servers={}", shared.options.bootstrap_servers());
    println!("statistics=127.0.0.1:{}", shared.options.port + shared.options.brokers);

    // Runs until its standard input is closed, so that it never outlives the program that started it.
    let mut ignored = [0; 256];
    while std::io::stdin().read(&mut ignored).is_ok_and(|n| n > 0) {}
    print!("{}", shared.stats.report());
    ExitCode::SUCCESS
}
