//! Suites that run on the in-process cluster and on real Kafka.
