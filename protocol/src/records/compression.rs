//! Which codecs there are, and the buffers that decompression uses again and again.

use std::fmt;
use std::str::FromStr;

use bytes::{Bytes, BytesMut};

use super::error::BatchError;
#[cfg(feature = "lz4")]
use super::lz4;

/// How the records of a batch are compressed (Java's `compression.type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip. Not part of this build yet.
    Gzip,
    /// Snappy. Not part of this build yet.
    Snappy,
    /// LZ4, frame format. Needs the feature `lz4`, which is on by default.
    Lz4,
    /// Zstandard. Not part of this build yet.
    Zstd,
}

/// A codec that Kafka has and this build has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedCodec {
    /// Turned off at build time.
    #[error("records compressed with {codec} need milena's feature `{codec}`: add it to `features` in Cargo.toml")]
    Feature {
        /// Kafka's name of the codec, which is the feature's name too.
        codec: Compression,
    },
    /// Not written yet.
    #[error(
        "milena {} cannot compress or decompress {codec} yet, only none and lz4; set the topic's or producer's \
         compression.type to lz4, or use a later release, whose feature `{codec}` will bring it",
        env!("CARGO_PKG_VERSION")
    )]
    NotYet {
        /// Kafka's name of the codec.
        codec: Compression,
    },
    /// Numbers 5 to 7 have no meaning in Kafka 4.3.
    #[error("the records are compressed with codec number {bits}, which Kafka 4.3 does not have: use a newer client")]
    Unknown {
        /// The number in the attributes.
        bits: i16,
    },
}

impl Compression {
    /// All codecs of Kafka 4.3.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// Kafka's name: `none`, `gzip`, `snappy`, `lz4`, `zstd`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Whether this build can use it.
    ///
    /// # Errors
    /// [`UnsupportedCodec`] says what to do about it.
    pub const fn supported(self) -> Result<(), UnsupportedCodec> {
        match self {
            Self::None => Ok(()),
            Self::Lz4 if cfg!(feature = "lz4") => Ok(()),
            Self::Lz4 => Err(UnsupportedCodec::Feature { codec: self }),
            Self::Gzip | Self::Snappy | Self::Zstd => Err(UnsupportedCodec::NotYet { codec: self }),
        }
    }

    /// The number in the lowest three bits of a batch's attributes.
    pub(super) const fn bits(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    pub(super) const fn from_bits(bits: i16) -> Result<Self, UnsupportedCodec> {
        match bits {
            0 => Ok(Self::None),
            1 => Ok(Self::Gzip),
            2 => Ok(Self::Snappy),
            3 => Ok(Self::Lz4),
            4 => Ok(Self::Zstd),
            _ => Err(UnsupportedCodec::Unknown { bits }),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|codec| codec.name() == name)
            .ok_or_else(|| format!("compression.type {name:?} is none of none, gzip, snappy, lz4, zstd"))
    }
}

/// A codec with the tables it uses again for every batch. Keep one per thread that compresses.
pub struct Compressor {
    codec: Compression,
    #[cfg(feature = "lz4")]
    lz4: lz4::Encoder,
}

impl Compressor {
    /// Prepares a codec.
    ///
    /// # Errors
    /// [`UnsupportedCodec`] when this build has not got it.
    pub fn new(codec: Compression) -> Result<Self, UnsupportedCodec> {
        codec.supported()?;
        Ok(Self {
            codec,
            #[cfg(feature = "lz4")]
            lz4: lz4::Encoder::default(),
        })
    }

    /// The codec.
    pub fn codec(&self) -> Compression {
        self.codec
    }

    /// Compresses `input` into `out[at..]`, which is made long enough, and returns the bytes written; `None` if they would not be
    /// fewer than those of `input`.
    #[cfg_attr(
        not(feature = "lz4"),
        expect(unused_variables, clippy::ptr_arg, reason = "without a codec there is nothing to do")
    )]
    pub(super) fn compress(&mut self, input: &[u8], at: usize, out: &mut Vec<u8>) -> Option<usize> {
        match self.codec {
            #[cfg(feature = "lz4")]
            Compression::Lz4 => {
                let worst = at + lz4::worst_case(input.len());
                if out.len() < worst {
                    out.resize(worst, 0);
                }
                let written = self.lz4.compress(input, &mut out[at..])?;
                (written < input.len()).then_some(written)
            }
            _ => None,
        }
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor").field("codec", &self.codec).finish_non_exhaustive()
    }
}

/// The buffer that batches are decompressed into.
///
/// It is counted: a batch that is opened shares it, and when that batch and everything sliced out of it are gone, the next batch gets
/// the same memory, still warm and still initialised (no allocation, no zeroing). While somebody keeps a slice, the next batch
/// gets memory of its own and the old one is [pinned](Self::pinned).
#[derive(Debug, Default)]
pub struct Scratch {
    /// The whole buffer, initialised to its end.
    ///
    /// It is made through `BytesMut::split_off`, whose counted form is kept when bytes are frozen and taken back; then
    /// `try_into_mut` neither allocates nor copies. A test holds that.
    whole: Bytes,
    pinned: u64,
}

impl Scratch {
    /// An empty one; it grows with the batches it is used for.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes of the buffer at present.
    pub fn capacity(&self) -> usize {
        self.whole.len()
    }

    /// How many bytes of former buffers were left to those who still held slices of them, in all.
    pub fn pinned(&self) -> u64 {
        self.pinned
    }

    /// Runs `fill` on a growable buffer and shares what it wrote.
    #[cfg(feature = "lz4")]
    fn share(
        &mut self,
        fill: impl FnOnce(&mut lz4::Output<'_>) -> Result<usize, BatchError>,
        limit: usize,
    ) -> Result<Bytes, BatchError> {
        let mut buf = match std::mem::take(&mut self.whole).try_into_mut() {
            Ok(buf) => buf,
            Err(kept) => {
                self.pinned += kept.len() as u64;
                BytesMut::new()
            }
        };
        let result = fill(&mut lz4::Output::new(&mut buf, limit));
        self.whole = counted(buf);
        Ok(self.whole.slice(..result?))
    }
}

/// Freezes a buffer so that it can be taken back without an allocation.
#[cfg(feature = "lz4")]
fn counted(mut buf: BytesMut) -> Bytes {
    // Splitting off the empty tail makes the buffer counted, if it is not yet; the tail is dropped at once.
    drop(buf.split_off(buf.len()));
    buf.freeze()
}

/// Decompresses the records of a batch.
#[cfg_attr(not(feature = "lz4"), expect(unused_variables, reason = "without a codec there is nothing to do"))]
pub(super) fn decompress(
    codec: Compression,
    base_offset: i64,
    input: &[u8],
    scratch: &mut Scratch,
    limit: usize,
) -> Result<Bytes, BatchError> {
    codec.supported()?;
    match codec {
        #[cfg(feature = "lz4")]
        Compression::Lz4 => scratch.share(
            |out| {
                lz4::decompress(input, out).map_err(|error| match error {
                    lz4::Error::TooLarge => BatchError::TooLarge { base_offset, limit },
                    lz4::Error::Broken(reason) => BatchError::Decompress { codec: codec.name(), base_offset, reason },
                })
            },
            limit,
        ),
        _ => Err(UnsupportedCodec::NotYet { codec }.into()),
    }
}
