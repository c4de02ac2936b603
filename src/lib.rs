//! milena: the Kafka SDK for Rust.
