//! Kafka's wire protocol for milena: bytes only. No runtime, no clock, no I/O.

mod api_key;
mod error_code;
pub mod fetch;
pub mod frame;
pub mod produce;
pub mod records;
mod request;
mod routing;
pub mod validate;
mod versions;
mod wire;

pub use api_key::ApiKey;
pub use error_code::ErrorCode;
pub use frame::FrameError;
pub use kafka_protocol::messages;
pub use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Message, StrBytes};
pub use request::Request;
pub use routing::{LeaderHint, NodeEndpoint, TopicKey};
pub use uuid::Uuid;
pub use versions::{ApiVersions, VersionRange};
