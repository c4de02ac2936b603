//! What the producer counts, under Java's names, and only once per batch or request.

use std::time::Duration;

use milena_client::{Counter, Gauge, Metrics as Registry};

const GROUP: &str = "producer-metrics";

/// The handles; asked from the registry once.
#[derive(Debug)]
pub(crate) struct Metrics {
    record_send_total: Counter,
    record_error_total: Counter,
    record_retry_total: Counter,
    byte_total: Counter,
    request_total: Counter,
    batch_total: Counter,
    batch_split_total: Counter,
    queue_time_total: Counter,
    request_latency_total: Counter,
    batch_size_avg: Gauge,
    batch_size_max: Gauge,
    records_per_request_avg: Gauge,
    record_queue_time_avg: Gauge,
    request_latency_avg: Gauge,
    produce_throttle_time_max: Gauge,
    pub(crate) requests_in_flight: Gauge,
    pub(crate) waiting_threads: Gauge,
    pub(crate) buffer_total_bytes: Gauge,
    pub(crate) buffer_available_bytes: Gauge,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry, client_id: &str) -> Self {
        let tags = [("client-id", client_id)];
        let counter = |name| registry.counter(GROUP, name, &tags);
        let gauge = |name| registry.gauge(GROUP, name, &tags);
        Self {
            record_send_total: counter("record-send-total"),
            record_error_total: counter("record-error-total"),
            record_retry_total: counter("record-retry-total"),
            byte_total: counter("outgoing-byte-total"),
            request_total: counter("request-total"),
            // Not Java's, but the averages below are their quotients.
            batch_total: counter("batch-total"),
            batch_split_total: counter("batch-split-total"),
            queue_time_total: counter("record-queue-time-total"),
            request_latency_total: counter("request-latency-total"),
            batch_size_avg: gauge("batch-size-avg"),
            batch_size_max: gauge("batch-size-max"),
            records_per_request_avg: gauge("records-per-request-avg"),
            record_queue_time_avg: gauge("record-queue-time-avg"),
            request_latency_avg: gauge("request-latency-avg"),
            produce_throttle_time_max: gauge("produce-throttle-time-max"),
            requests_in_flight: gauge("requests-in-flight"),
            waiting_threads: gauge("waiting-threads"),
            buffer_total_bytes: gauge("buffer-total-bytes"),
            buffer_available_bytes: gauge("buffer-available-bytes"),
        }
    }

    /// A batch is sent for the first time, or again. Times are in milliseconds, as Java's are.
    pub(crate) fn on_batch_sent(&self, bytes: usize, records: u32, queued: Duration, again: bool) {
        if again {
            self.record_retry_total.add(u64::from(records));
            return;
        }
        self.batch_total.add(1);
        self.byte_total.add(bytes as u64);
        self.record_send_total.add(u64::from(records));
        self.queue_time_total.add(queued.as_millis() as u64);
        if bytes as i64 > self.batch_size_max.value() {
            self.batch_size_max.set(bytes as i64);
        }
    }

    pub(crate) fn on_request_answered(&self, latency: Duration, throttle_ms: i32) {
        self.request_total.add(1);
        self.request_latency_total.add(latency.as_millis() as u64);
        let requests = self.request_total.value();
        self.request_latency_avg.set(self.request_latency_total.value() / requests.max(1));
        self.records_per_request_avg.set(self.record_send_total.value() / requests.max(1));
        let batches = self.batch_total.value().max(1);
        self.batch_size_avg.set(self.byte_total.value() / batches);
        self.record_queue_time_avg.set(self.queue_time_total.value() / batches);
        if i64::from(throttle_ms) > self.produce_throttle_time_max.value() {
            self.produce_throttle_time_max.set(i64::from(throttle_ms));
        }
    }

    pub(crate) fn on_batch_failed(&self, records: u32) {
        self.record_error_total.add(u64::from(records));
    }

    pub(crate) fn on_batch_split(&self) {
        self.batch_split_total.add(1);
    }
}
