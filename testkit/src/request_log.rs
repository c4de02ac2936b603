//! What happened, line by line: every request, and everything a test did to the cluster.
//!
//! With the same seed on in-memory pipes the whole text is the same, byte for byte; that is the determinism test. A line of a
//! request looks so (virtual time in seconds, broker, connection, API, version, correlation id, client id, size of the frame, CRC of
//! its bytes, and what it is about):
//!
//! ```text
//!     0.012000 b2 c5 Produce v12 #3 "orders-writer" 213 bytes 9be17f02 acks=-1 orders-0:1
//! ```

use std::fmt;
use std::time::Duration;

use milena_protocol::{ApiKey, StrBytes};

/// One request as it arrived.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RequestEntry {
    /// Since the cluster's start.
    pub at: Duration,
    /// The broker that got it.
    pub broker: i32,
    /// The connection it came on, counted over the whole cluster from 1.
    pub connection: u64,
    /// The API.
    pub api: ApiKey,
    /// The API's version.
    pub version: i16,
    /// The correlation id.
    pub correlation_id: i32,
    /// The client id, empty if there is none.
    pub client_id: StrBytes,
    /// Bytes of the frame without its length field.
    pub size: usize,
    /// CRC-32C of these bytes.
    pub hash: u32,
    /// What the request is about, in a few words.
    pub digest: String,
}

impl fmt::Display for RequestEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, broker, connection, api, version, correlation_id, client_id, size, hash, digest } = self;
        let at = at.as_secs_f64();
        let client_id = client_id.as_str();
        write!(
            f,
            "{at:>12.6} b{broker} c{connection} {api} v{version} #{correlation_id} {client_id:?} {size} bytes {hash:08x}"
        )?;
        if digest.is_empty() { Ok(()) } else { write!(f, " {digest}") }
    }
}

enum Line {
    Request(RequestEntry),
    Note { at: Duration, text: String },
}

/// All lines so far.
#[derive(Default)]
pub(crate) struct RequestLog {
    lines: Vec<Line>,
    off: bool,
}

impl RequestLog {
    /// A log that keeps nothing if `off`.
    pub(crate) fn new(off: bool) -> Self {
        Self { lines: Vec::new(), off }
    }

    /// Whether entries are kept: a digest need not be written for nothing.
    pub(crate) fn is_on(&self) -> bool {
        !self.off
    }

    /// A request arrived.
    pub(crate) fn request(&mut self, entry: RequestEntry) {
        if !self.off {
            self.lines.push(Line::Request(entry));
        }
    }

    /// Something else happened: a connection, a crash, a fault that fired.
    pub(crate) fn note(&mut self, at: Duration, text: String) {
        if !self.off {
            self.lines.push(Line::Note { at, text });
        }
    }

    /// The requests so far, in the order of their arrival.
    pub(crate) fn requests(&self) -> impl Iterator<Item = &RequestEntry> {
        self.lines.iter().filter_map(|line| match line {
            Line::Request(entry) => Some(entry),
            Line::Note { .. } => None,
        })
    }
}

impl fmt::Display for RequestLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            match line {
                Line::Request(entry) => writeln!(f, "{entry}")?,
                Line::Note { at, text } => writeln!(f, "{:>12.6} -- {text}", at.as_secs_f64())?,
            }
        }
        Ok(())
    }
}
