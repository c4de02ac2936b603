//! The consumer's metrics, under Java's names.

use milena_client::{Gauge, Link, TopicPartition};

use crate::shared::Counters;

const FETCH: &str = "consumer-fetch-manager-metrics";
pub(crate) const COORDINATOR: &str = "consumer-coordinator-metrics";

pub(crate) fn counters(link: &Link) -> Counters {
    let id = link.client_id().clone();
    let counter = |name| link.metrics().counter(FETCH, name, &[("client-id", &id)]);
    Counters {
        records: counter("records-consumed-total"),
        bytes: counter("bytes-consumed-total"),
        fetches: counter("fetch-total"),
        // These two have no counterpart in Java: bytes of whole batches that arrived, and those of them that nobody wanted any more.
        fetched_bytes: counter("batch-bytes-fetched-total"),
        stale_bytes: counter("batch-bytes-dropped-total"),
    }
}

/// Records between the position and the high watermark.
pub(crate) fn lag(link: &Link, tp: &TopicPartition) -> Gauge {
    let tags = [("client-id", &**link.client_id()), ("topic", &*tp.topic), ("partition", &tp.partition.to_string())];
    link.metrics().gauge(FETCH, "records-lag", &tags)
}
