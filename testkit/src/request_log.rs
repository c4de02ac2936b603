//! What happened, line by line: every request, and everything a test did to the cluster.
//!
//! With the same seed on in-memory pipes the whole text is the same, byte for byte; that is the determinism test. A line of a
//! request looks so (time in seconds, broker, connection, API, version, correlation id, client id, size of the frame, CRC of its
//! bytes, and what it is about):
//!
//! ```text
//!     0.012000 b2 c5 Produce v12 #3 "orders-writer" 213 bytes 9be17f02 acks=-1 orders-0:1
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use milena_protocol::{ApiKey, StrBytes};

use crate::apis::Described;

/// One request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestEntry {
    /// Since the start of the cluster or the proxy.
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
    /// The partitions that it touches; of a request about whole topics, partition −1 of each.
    pub partitions: Vec<(Arc<str>, i32)>,
    /// The group that it names.
    pub group: Option<String>,
    /// The transactional id that it names.
    pub transactional_id: Option<String>,
}

impl RequestEntry {
    /// The same, with what the request is about.
    pub(crate) fn about(self, described: Described) -> Self {
        let Described { digest, partitions, group, transactional_id, .. } = described;
        Self { digest, partitions, group, transactional_id, ..self }
    }
}

impl fmt::Display for RequestEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, broker, connection, api, version, correlation_id, client_id, size, hash, digest, .. } = self;
        let at = at.as_secs_f64();
        let client_id = client_id.as_str();
        write!(
            f,
            "{at:>12.6} b{broker} c{connection} {api} v{version} #{correlation_id} {client_id:?} {size} bytes {hash:08x}"
        )?;
        if digest.is_empty() { Ok(()) } else { write!(f, " {digest}") }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Line {
    Request(RequestEntry),
    Note { at: Duration, text: String },
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(entry) => entry.fmt(f),
            Self::Note { at, text } => write!(f, "{:>12.6} -- {text}", at.as_secs_f64()),
        }
    }
}

/// The requests that have arrived, in order; printed, with everything else that happened between them.
///
/// ```no_run
/// # async fn f() -> std::io::Result<()> {
/// use milena_testkit::{Api, Cluster};
///
/// let cluster = Cluster::builder().topic("orders", 6).start_in_memory()?;
/// // … drive the clients, and then:
/// let log = cluster.request_log();
/// assert_eq!(log.api(Api::Produce).topic("orders").partition(0).count(), 3);
/// assert!(log.api(Api::Heartbeat).group("billing").broker(2).is_empty());
/// for commit in log.api(Api::EndTxn).client_id("copy") {
///     println!("{commit}");
/// }
/// println!("{log}");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestLog {
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

    /// The requests in the order of their arrival.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &RequestEntry> {
        self.lines.iter().filter_map(|line| match line {
            Line::Request(entry) => Some(entry),
            Line::Note { .. } => None,
        })
    }

    /// How many requests these are.
    pub fn count(&self) -> usize {
        self.entries().count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries().next().is_none()
    }

    /// Only the requests for which `keep` is true.
    pub fn only(&self, keep: impl Fn(&RequestEntry) -> bool) -> Self {
        let kept = self.entries().filter(|entry| keep(entry)).cloned().map(Line::Request);
        Self { lines: kept.collect(), off: self.off }
    }

    /// Only requests of this API.
    pub fn api(&self, api: impl Into<ApiKey>) -> Self {
        let api = api.into();
        self.only(|entry| entry.api == api)
    }

    /// Only requests of this version.
    pub fn version(&self, version: i16) -> Self {
        self.only(|entry| entry.version == version)
    }

    /// Only requests to this broker.
    pub fn broker(&self, broker: i32) -> Self {
        self.only(|entry| entry.broker == broker)
    }

    /// Only requests on this connection.
    pub fn connection(&self, connection: u64) -> Self {
        self.only(|entry| entry.connection == connection)
    }

    /// Only requests with this client id.
    pub fn client_id(&self, client_id: &str) -> Self {
        self.only(|entry| entry.client_id.as_str() == client_id)
    }

    /// Only requests that touch this topic.
    pub fn topic(&self, topic: &str) -> Self {
        self.only(|entry| entry.partitions.iter().any(|(name, _)| **name == *topic))
    }

    /// Only requests that touch this partition of whatever topic.
    pub fn partition(&self, partition: i32) -> Self {
        self.only(|entry| entry.partitions.iter().any(|(_, index)| *index == partition))
    }

    /// Only requests that name this group.
    pub fn group(&self, group: &str) -> Self {
        self.only(|entry| entry.group.as_deref() == Some(group))
    }

    /// Only requests that name this transactional id.
    pub fn transactional_id(&self, id: &str) -> Self {
        self.only(|entry| entry.transactional_id.as_deref() == Some(id))
    }

    /// The last `count` lines, and how many there are before them.
    pub(crate) fn tail(&self, count: usize) -> (usize, Self) {
        let before = self.lines.len().saturating_sub(count);
        (before, Self { lines: self.lines[before..].to_vec(), off: self.off })
    }
}

impl fmt::Display for RequestLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

impl IntoIterator for RequestLog {
    type Item = RequestEntry;
    type IntoIter = std::vec::IntoIter<RequestEntry>;

    fn into_iter(self) -> Self::IntoIter {
        let entries = self.lines.into_iter().filter_map(|line| match line {
            Line::Request(entry) => Some(entry),
            Line::Note { .. } => None,
        });
        entries.collect::<Vec<_>>().into_iter()
    }
}
