//! The null broker as a child process, and what it counts.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running null broker; it ends when this is dropped.
#[derive(Debug)]
pub struct NullBroker {
    process: Child,
    bootstrap_servers: String,
    statistics: String,
}

impl NullBroker {
    /// Starts `program` on free ports; `arguments` as its own help says.
    ///
    /// # Errors
    /// A sentence, when it does not start.
    pub fn start(program: &Path, arguments: &[&str]) -> Result<Self, String> {
        let mut process = Command::new(program)
            .args(["--port", "0"])
            .args(arguments)
            // It runs until its input is closed.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| {
                format!("cannot run {}: {e}; build the workspace `bench` with --release first", program.display())
            })?;
        let out = process.stdout.take().ok_or("the null broker has no output")?;
        let mut lines = BufReader::new(out).lines();
        let mut value = |name: &str| -> Result<String, String> {
            let line = lines.next().and_then(Result::ok).ok_or("the null broker did not start")?;
            line.strip_prefix(name).map(str::to_owned).ok_or_else(|| format!("the null broker said: {line}"))
        };
        let bootstrap_servers = value("bootstrap.servers=")?;
        let statistics = value("statistics=")?;
        Ok(Self { process, bootstrap_servers, statistics })
    }

    /// For the clients.
    #[must_use]
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// What it has seen until now.
    ///
    /// # Errors
    /// A sentence, when it does not answer.
    pub fn counts(&self) -> Result<Counts, String> {
        let mut text = String::new();
        TcpStream::connect(&self.statistics)
            .and_then(|mut stream| stream.read_to_string(&mut text))
            .map_err(|e| format!("the null broker does not tell its counts: {e}"))?;
        let value = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()).unwrap_or_default()
        };
        Ok(Counts {
            produce_requests: value("produce.requests"),
            batches: value("produced.batches") + value("fetched.batches"),
            produced_records: value("produced.records"),
            fetch_requests: value("fetch.requests"),
            fetched_bytes: value("fetch.bytes_out"),
            fetched_records: value("fetched.records"),
        })
    }
}

impl Drop for NullBroker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the broker saw.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Produce requests.
    pub produce_requests: u64,
    /// Batches, produced or handed out.
    pub batches: u64,
    /// Records produced.
    pub produced_records: u64,
    /// Fetch requests.
    pub fetch_requests: u64,
    /// Bytes of the answers to them.
    pub fetched_bytes: u64,
    /// Records in them.
    pub fetched_records: u64,
}

impl Counts {
    /// What was counted after `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            produce_requests: self.produce_requests - before.produce_requests,
            batches: self.batches - before.batches,
            produced_records: self.produced_records - before.produced_records,
            fetch_requests: self.fetch_requests - before.fetch_requests,
            fetched_bytes: self.fetched_bytes - before.fetched_bytes,
            fetched_records: self.fetched_records - before.fetched_records,
        }
    }
}
