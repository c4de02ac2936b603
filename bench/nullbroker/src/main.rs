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
    /// Of the brokers, in their order.
    pub(crate) ports: Vec<u16>,
    pub(crate) topics: cold::Topics,
    pub(crate) offsets: produce::Offsets,
    /// One batch of the endless log, complete but for its base offset.
    pub(crate) batch: Vec<u8>,
    pub(crate) stats: Stats,
}

impl Shared {
    fn bootstrap_servers(&self) -> String {
        let all: Vec<String> = self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        all.join(",")
    }

    /// Where a broker listens; brokers have the numbers from 0 on.
    pub(crate) fn port_of(&self, broker: u16) -> i32 {
        self.ports.get(usize::from(broker)).copied().map_or(-1, i32::from)
    }
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
    // The last one tells statistics.
    for n in 0..=options.brokers {
        let port = if options.port == 0 { 0 } else { options.port + n };
        match TcpListener::bind(("127.0.0.1", port)).and_then(|listener| Ok((listener.local_addr()?.port(), listener)))
        {
            Ok(listener) => listeners.push(listener),
            Err(problem) => {
                eprintln!("nullbroker: cannot listen on 127.0.0.1:{port}: {problem}; choose another --port");
                return ExitCode::FAILURE;
            }
        }
    }
    let Some((statistics_port, stats_listener)) = listeners.pop() else { return ExitCode::FAILURE };

    let shared = Arc::new(Shared {
        batch: batch::build(options.records_per_batch, options.value_size, options.lz4),
        topics: cold::Topics::default(),
        offsets: produce::Offsets::default(),
        stats: Stats::default(),
        ports: listeners.iter().map(|(port, _)| *port).collect(),
        options,
    });
    for (broker, (_, listener)) in (0_i32..).zip(listeners) {
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
    println!("bootstrap.servers={}", shared.bootstrap_servers());
    println!("statistics=127.0.0.1:{statistics_port}");

    // Runs until its standard input is closed, so that it never outlives the program that started it.
    let mut ignored = [0; 256];
    while std::io::stdin().read(&mut ignored).is_ok_and(|n| n > 0) {}
    print!("{}", shared.stats.report());
    ExitCode::SUCCESS
}
