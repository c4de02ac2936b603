//! What was counted, as `name value` lines.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Requests, bytes in and bytes out of one API.
#[derive(Default)]
struct Api {
    requests: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

#[derive(Default)]
pub(crate) struct Stats {
    produce: Api,
    fetch: Api,
    rest: Api,
    connections: AtomicU64,
    produced_partitions: AtomicU64,
    produced_batches: AtomicU64,
    produced_records: AtomicU64,
    fetched_batches: AtomicU64,
    fetched_records: AtomicU64,
}

impl Stats {
    pub(crate) fn connection(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    /// One request of that API was read and answered; lengths without the four bytes in front.
    pub(crate) fn request(&self, api_key: i16, bytes_in: usize, bytes_out: usize) {
        let api = match api_key {
            0 => &self.produce,
            1 => &self.fetch,
            _ => &self.rest,
        };
        api.requests.fetch_add(1, Relaxed);
        api.bytes_in.fetch_add(bytes_in as u64, Relaxed);
        api.bytes_out.fetch_add(bytes_out as u64, Relaxed);
    }

    pub(crate) fn produced(&self, partitions: u64, batches: u64, records: u64) {
        self.produced_partitions.fetch_add(partitions, Relaxed);
        self.produced_batches.fetch_add(batches, Relaxed);
        self.produced_records.fetch_add(records, Relaxed);
    }

    pub(crate) fn fetched(&self, batches: u64, records: u64) {
        self.fetched_batches.fetch_add(batches, Relaxed);
        self.fetched_records.fetch_add(records, Relaxed);
    }

    pub(crate) fn report(&self) -> String {
        let mut text = String::new();
        for (name, api) in [("produce", &self.produce), ("fetch", &self.fetch), ("rest", &self.rest)] {
            let _ = writeln!(text, "{name}.requests {}", api.requests.load(Relaxed));
            let _ = writeln!(text, "{name}.bytes_in {}", api.bytes_in.load(Relaxed));
            let _ = writeln!(text, "{name}.bytes_out {}", api.bytes_out.load(Relaxed));
        }
        for (name, count) in [
            ("connections", &self.connections),
            ("produced.partitions", &self.produced_partitions),
            ("produced.batches", &self.produced_batches),
            ("produced.records", &self.produced_records),
            ("fetched.batches", &self.fetched_batches),
            ("fetched.records", &self.fetched_records),
        ] {
            let _ = writeln!(text, "{name} {}", count.load(Relaxed));
        }
        text
    }
}
