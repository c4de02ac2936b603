//! Fetch, our own in both directions: the request is written field by field, the response is parsed while it arrives.
//!
//! A response of a busy broker is tens of megabytes long. Holding it whole costs up to four times the CPU in page faults, so
//! [`FetchParser`] (`parser.rs`) reads it in chunks and hands over each batch as soon as it is complete, undecoded.

mod parser;
mod request;

pub use parser::{
    AbortedTransaction, DivergingEpoch, FetchEnd, FetchEvent, FetchHead, FetchHints, FetchParser, FetchedPartition,
};
pub use request::{Fetch, FetchPartition, FetchTopic, ForgottenTopic};

/// The versions this module writes and reads. Kafka 4.0 removed those below 4; brokers since 0.11 have it.
pub const VERSIONS: std::ops::RangeInclusive<i16> = 4..=18;

/// Whether `version` writes tagged fields, also in its header.
pub const fn is_flexible(version: i16) -> bool {
    version >= 12
}

/// Whether `version` names topics by their ids.
pub const fn by_id(version: i16) -> bool {
    version >= 13
}
