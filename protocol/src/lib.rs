//! Kafka's wire protocol for milena: bytes only. No runtime, no clock, no I/O.

mod api_key;
mod error_code;
pub mod fetch;
pub mod frame;
pub mod produce;
pub mod records;
mod request;
mod versions;

pub use api_key::ApiKey;
pub use error_code::ErrorCode;
pub use kafka_protocol::messages;
pub use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Message, StrBytes};
pub use request::Request;
pub use versions::{ApiVersions, VersionRange};
