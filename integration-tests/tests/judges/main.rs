//! Foreign clients as judges of the in-process cluster: what kcat (librdkafka) and Java's own tools make of it over TCP.
//!
//! They were written against Kafka and know nothing of this project, so what they send is what users' clients send, and what they refuse
//! is wrong here. Each says which APIs it called in which versions, and none of them may be told that a version is not supported.
//!
//! `MILENA_JUDGE_RECORDS` is how many records kcat writes in each codec (default 2,000; `cargo xtask accept judges` takes 100,000).

#![allow(clippy::unwrap_used, reason = "a test panics")]

mod compressed;
mod example;
mod java_tools;
mod kcat;

use std::collections::BTreeMap;

use milena_testkit::{Cluster, RequestLog};

/// Each API that was called since then, with its highest version, but for those that every client begins with, and for heartbeats, which
/// come when it takes longer.
fn called(cluster: &Cluster, before: usize) -> BTreeMap<String, i16> {
    let log = cluster.request_log();
    let mut called = BTreeMap::new();
    for entry in log.entries().skip(before) {
        let api = entry.api.to_string();
        if !matches!(api.as_str(), "ApiVersions" | "Metadata" | "Heartbeat") {
            let version = called.entry(api).or_insert(entry.version);
            *version = entry.version.max(*version);
        }
    }
    called
}

/// Nobody was turned away for a version or for an API.
fn nobody_was_turned_away(log: &RequestLog) {
    let refused = ["version not supported", "cannot be read"];
    let refused = log.only(|entry| refused.iter().any(|word| entry.digest.contains(word)));
    assert!(refused.is_empty(), "{refused}");
    let text = log.to_string();
    assert!(!text.contains("is not an API of this cluster"), "{text}");
}
