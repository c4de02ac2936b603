//! What can be wrong with a batch.

use super::UnsupportedCodec;

/// A batch that cannot be read.
///
/// The frame around it was sound: other partitions of the same response are not affected. A reader stops at the batch, says so, and
/// leaves the decision to skip it to the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// A message set of a format older than Kafka 0.11.
    #[error(
        "these records are stored in message format {magic}, which Kafka replaced in 0.11 and which this client does not read; \
         let a broker before 4.0 convert the topic (message.format.version), or copy it with a client of that time"
    )]
    OldFormat {
        /// The magic byte: 0 or 1.
        magic: i8,
    },
    /// A format this client does not know yet.
    #[error("these records are stored in message format {magic}; this client reads format 2: use a newer client")]
    UnknownFormat {
        /// The magic byte.
        magic: i8,
    },
    /// The checksum does not fit the bytes: they were damaged on a disk or on the way.
    #[error(
        "the batch at offset {base_offset} is damaged: its CRC32C is {stored:08x}, its bytes give {computed:08x}; \
         read the partition from another replica, or skip the batch"
    )]
    Crc {
        /// The batch's base offset.
        base_offset: i64,
        /// The checksum in the header.
        stored: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// The codec is known but not part of this build.
    #[error(transparent)]
    Codec(#[from] UnsupportedCodec),
    /// The compressed bytes are broken.
    #[error(
        "the {codec} data of the batch at offset {base_offset} cannot be decompressed: {reason}; it was damaged, or written by a \
         broken client: read the partition from another replica, or skip the batch"
    )]
    Decompress {
        /// Kafka's name of the codec.
        codec: &'static str,
        /// The batch's base offset.
        base_offset: i64,
        /// What is wrong with them.
        reason: &'static str,
    },
    /// Decompressed, the batch is larger than the reader allows.
    #[error(
        "the batch at offset {base_offset} is larger than {limit} bytes once decompressed; raise the limit if you trust its producer"
    )]
    TooLarge {
        /// The batch's base offset.
        base_offset: i64,
        /// The limit in bytes.
        limit: usize,
    },
    /// A field says something that the bytes around it exclude.
    #[error(
        "the batch at offset {base_offset} is malformed: {reason}; it was damaged, or written by a broken client: read the partition \
         from another replica, or skip the batch"
    )]
    Malformed {
        /// The batch's base offset.
        base_offset: i64,
        /// What is wrong.
        reason: &'static str,
    },
}
