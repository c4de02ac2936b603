//! A Kafka cluster inside the test process.
