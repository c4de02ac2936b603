//! Kafka's wire protocol for milena: bytes only. No runtime, no clock, no I/O.
//!
//! # The journey of a record
//! 1. A record is written once, into the buffer that goes to the socket: [`records::BatchBuilder`] (`records/builder.rs`).
//! 2. The batch is sealed, compressed if it pays, stamped with its producer and its checksum: [`records::SealedBatch`].
//! 3. Batches of many partitions become the chunks of one request: [`produce::Produce`] (`produce.rs`), framed by [`frame`].
//! 4. The broker keeps them, and gives them back in a Fetch response, which is parsed while it arrives: [`fetch::FetchParser`]
//!    (`fetch/parser.rs`) hands over undecoded [`records::RawBatch`]es.
//! 5. The reader opens one batch at a time and walks over its records as views: [`records::Batch`] (`records/reader.rs`).
//!
//! # The journey of every other request
//! [`ApiVersions::choose`] picks the version (`versions.rs`); a message of [`messages`] is encoded and framed ([`frame`]); the response
//! is walked over by a table of Kafka's own definitions before it is decoded ([`validate`]); its [`ErrorCode`] has Kafka's name.
//!
//! Nothing that comes from the network panics, or allocates by its word alone.

mod api_key;
mod error_code;
pub mod fetch;
pub mod frame;
pub mod planted;
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
