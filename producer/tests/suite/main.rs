//! The producer's tests through its public interface. One program, because each one more is linked anew; a file for each subject.

#[path = "../common/mod.rs"]
mod common;

mod gates;
mod interface;
mod lessons;
mod metrics;
mod on_a_cluster;
mod on_real_kafka;
mod partitioners;
mod preflight;
mod topic_settings;
mod transactions;
mod users_code;
