//! Which codecs there are, at which levels, and the compressor that is kept for many batches.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

#[cfg(feature = "gzip")]
use super::gzip;
#[cfg(feature = "lz4")]
use super::lz4;
#[cfg(feature = "snappy")]
use super::snappy;
#[cfg(feature = "zstd")]
use super::zstd;

/// How the records of a batch are compressed (Java's `compression.type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip, at levels 1 to 9, 6 unless told otherwise. Needs the feature `gzip`.
    Gzip,
    /// Snappy, in the framing of Java's library. Needs the feature `snappy`. It has no levels.
    Snappy,
    /// LZ4, frame format. Needs the feature `lz4`. It has no levels here: always the fast method, which is also Java's default.
    Lz4,
    /// Zstandard, at levels 1 to 3, 1 unless told otherwise (Java: 3). Needs the feature `zstd`.
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
    /// Numbers 5 to 7 have no meaning in Kafka 4.3.
    #[error("the records are compressed with codec number {bits}, which Kafka 4.3 does not have: use a newer client")]
    Unknown {
        /// The number in the attributes.
        bits: i16,
    },
}

/// A level that a codec does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// The codec itself is not there.
    #[error(transparent)]
    Codec(#[from] UnsupportedCodec),
    /// The codec has no levels.
    #[error(
        "{codec} has no compression levels here, so it cannot be level {level}: leave the level out, or choose gzip or zstd"
    )]
    None {
        /// The codec.
        codec: Compression,
        /// The level that was asked for.
        level: i32,
    },
    /// The codec has levels, and not this one.
    #[error("{codec} has no compression level {level}: it must be {least} to {most}")]
    OutOfRange {
        /// The codec.
        codec: Compression,
        /// The level that was asked for.
        level: i32,
        /// The lowest, which is the fastest.
        least: i32,
        /// The highest, which compresses best.
        most: i32,
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
            Self::Gzip if cfg!(feature = "gzip") => Ok(()),
            Self::Snappy if cfg!(feature = "snappy") => Ok(()),
            Self::Lz4 if cfg!(feature = "lz4") => Ok(()),
            Self::Zstd if cfg!(feature = "zstd") => Ok(()),
            Self::Gzip | Self::Snappy | Self::Lz4 | Self::Zstd => Err(UnsupportedCodec::Feature { codec: self }),
        }
    }

    /// The levels it has, from the fastest to the one that compresses best; `None` if it has none.
    ///
    /// zstd's levels end at 3, where its encoder is still tried against the reference implementation.
    pub const fn levels(self) -> Option<RangeInclusive<i32>> {
        match self {
            Self::Gzip => Some(1..=9),
            Self::Zstd => Some(1..=3),
            Self::None | Self::Snappy | Self::Lz4 => None,
        }
    }

    /// Whether a level is one of its [`levels`](Self::levels).
    ///
    /// # Errors
    /// [`LevelError`] says which there are.
    pub fn check_level(self, level: i32) -> Result<(), LevelError> {
        match self.levels() {
            None => Err(LevelError::None { codec: self, level }),
            Some(levels) if !levels.contains(&level) => {
                Err(LevelError::OutOfRange { codec: self, level, least: *levels.start(), most: *levels.end() })
            }
            Some(_) => Ok(()),
        }
    }

    /// Whether it is so fast that handing a batch of some tens of KiB to another thread costs more than compressing it.
    pub const fn is_quick(self) -> bool {
        matches!(self, Self::Snappy | Self::Lz4)
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
    encoder: Encoder,
}

/// What each codec keeps between batches.
enum Encoder {
    /// There is nothing to do.
    None,
    #[cfg(feature = "gzip")]
    Gzip(gzip::Encoder),
    #[cfg(feature = "snappy")]
    Snappy(snappy::Encoder),
    #[cfg(feature = "lz4")]
    Lz4(Box<lz4::Encoder>),
    #[cfg(feature = "zstd")]
    Zstd(zstd::Encoder),
}

impl Compressor {
    /// Prepares a codec, at its default level if it has levels.
    ///
    /// # Errors
    /// [`UnsupportedCodec`] when this build has not got it.
    pub fn new(codec: Compression) -> Result<Self, UnsupportedCodec> {
        Self::make(codec, None)
    }

    /// Prepares a codec at a level.
    ///
    /// # Errors
    /// [`LevelError`] when the codec has not got that level, or this build not that codec.
    pub fn with_level(codec: Compression, level: i32) -> Result<Self, LevelError> {
        codec.supported()?;
        codec.check_level(level)?;
        Ok(Self::make(codec, Some(level))?)
    }

    /// The level, if there is one, has been checked.
    #[cfg_attr(
        not(any(feature = "gzip", feature = "zstd")),
        expect(unused_variables, reason = "the codecs that are left have no levels")
    )]
    fn make(codec: Compression, level: Option<i32>) -> Result<Self, UnsupportedCodec> {
        let encoder = match codec {
            Compression::None => Encoder::None,
            #[cfg(feature = "gzip")]
            Compression::Gzip => Encoder::Gzip(gzip::Encoder::new(level.unwrap_or(DEFAULT_GZIP) as u32)),
            #[cfg(feature = "snappy")]
            Compression::Snappy => Encoder::Snappy(snappy::Encoder::default()),
            #[cfg(feature = "lz4")]
            Compression::Lz4 => Encoder::Lz4(Box::default()),
            #[cfg(feature = "zstd")]
            Compression::Zstd => Encoder::Zstd(zstd::Encoder::new(level.unwrap_or(DEFAULT_ZSTD))),
            #[cfg(not(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")))]
            _ => return Err(UnsupportedCodec::Feature { codec }),
        };
        Ok(Self { codec, encoder })
    }

    /// The codec.
    pub fn codec(&self) -> Compression {
        self.codec
    }

    /// Compresses `input` into `out[at..]`, which is made long enough, and returns the bytes written; `None` if they would not be
    /// fewer than those of `input`.
    #[cfg_attr(
        not(any(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")),
        expect(unreachable_code, unused_variables, reason = "without a codec there is nothing to do")
    )]
    pub(super) fn compress(&mut self, input: &[u8], at: usize, out: &mut Vec<u8>) -> Option<usize> {
        let room = match &self.encoder {
            Encoder::None => 0,
            #[cfg(feature = "snappy")]
            Encoder::Snappy(_) => snappy::worst_case(input.len()),
            #[cfg(feature = "lz4")]
            Encoder::Lz4(_) => lz4::worst_case(input.len()),
            #[cfg(feature = "gzip")]
            Encoder::Gzip(_) => gzip::worst_case(input.len()),
            // Copied from a buffer of its own, if it is shorter.
            #[cfg(feature = "zstd")]
            Encoder::Zstd(_) => input.len(),
        };
        if out.len() < at + room {
            out.resize(at + room, 0);
        }
        let out = &mut out[at..];
        let written: usize = match &mut self.encoder {
            Encoder::None => return None,
            #[cfg(feature = "gzip")]
            Encoder::Gzip(encoder) => encoder.compress(input, out)?,
            #[cfg(feature = "snappy")]
            Encoder::Snappy(encoder) => encoder.compress(input, out)?,
            #[cfg(feature = "lz4")]
            Encoder::Lz4(encoder) => encoder.compress(input, out)?,
            #[cfg(feature = "zstd")]
            Encoder::Zstd(encoder) => encoder.compress(input, out)?,
        };
        (written < input.len()).then_some(written)
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor").field("codec", &self.codec).finish_non_exhaustive()
    }
}

/// zlib's own default, and so Java's.
#[cfg(feature = "gzip")]
const DEFAULT_GZIP: i32 = 6;
/// Twice as fast as level 3, Java's default, and on text it was measured to compress no worse.
#[cfg(feature = "zstd")]
const DEFAULT_ZSTD: i32 = 1;
