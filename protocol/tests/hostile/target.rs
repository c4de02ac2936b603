//! Everything that reads bytes of a peer: the message decoders behind their guard, and our own ones.

use std::sync::OnceLock;

use bytes::{Buf as _, Bytes};
use milena_protocol::fetch::{self, FetchEvent, FetchParser};
use milena_protocol::messages::*;
use milena_protocol::produce::{self, Produced};
use milena_protocol::records::{Compression, Compressor, Cursor, ProducerStamp, RawBatch, Scratch, split_batch};
use milena_protocol::{ApiKey, FrameError, HeaderVersion, Message as _, frame, validate};

use crate::generate::{Generated, Generator, Greed};
use crate::support::{build, records_of};

/// One reader of bytes, in one version.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) version: i16,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// The message crate, behind the guard.
    Message {
        api: ApiKey,
        header_tags: bool,
        decode: fn(Bytes, i16) -> Result<(), FrameError>,
    },
    Produce,
    Fetch,
    Batches,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Read,
    /// The bytes ended before the message.
    Waits,
    Refused,
    /// Not by the guard, but by the decoder behind it.
    RefusedLate,
}

/// All of them.
pub(crate) fn all() -> &'static [Target] {
    static ALL: OnceLock<Vec<Target>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = Vec::new();
        macro_rules! messages {
            ($($key:ident $request:ident $response:ident)*) => {
                $(for version in $request::VERSIONS.min..=$request::VERSIONS.max {
                    let kind = Kind::Message {
                        api: ApiKey::$key,
                        header_tags: $response::header_version(version) >= 1,
                        decode: |body, version| frame::decode_body::<$request>(body, version).map(drop),
                    };
                    all.push(Target { name: stringify!($response), version, kind });
                })*
            };
        }
        milena_protocol::every_request!(messages);
        all.extend(produce::VERSIONS.map(|version| Target { name: "Produced", version, kind: Kind::Produce }));
        all.extend(fetch::VERSIONS.map(|version| Target { name: "FetchParser", version, kind: Kind::Fetch }));
        all.push(Target { name: "record batches", version: 2, kind: Kind::Batches });
        all
    })
}

impl Target {
    /// A valid message of about `size` bytes.
    pub(crate) fn generate(self, rng: &mut fastrand::Rng, size: usize) -> Generated {
        match self.shape() {
            Some((shape, header_tags)) => Generator::message(rng, shape, self.version, header_tags, size, batches()),
            None => whole_batches(rng, size),
        }
    }

    /// A message of about `size` bytes that takes as much memory as it can, if it is a message.
    pub(crate) fn generate_greedy(self, rng: &mut fastrand::Rng, size: usize, greed: Greed) -> Option<Generated> {
        let (shape, header_tags) = self.shape()?;
        Some(Generator::greedy(rng, shape, self.version, header_tags, size, greed))
    }

    /// What the message looks like, and whether it has header tags in front.
    fn shape(self) -> Option<(&'static validate::Message, bool)> {
        let (api, header_tags) = match self.kind {
            Kind::Message { api, header_tags, .. } => (api, header_tags),
            Kind::Produce => (ApiKey::PRODUCE, produce::is_flexible(self.version)),
            Kind::Fetch => (ApiKey::FETCH, fetch::is_flexible(self.version)),
            Kind::Batches => return None,
        };
        Some((validate::shape(api).expect("every response that is decoded has a shape"), header_tags))
    }

    /// Reads a frame of which `announced` bytes should come, and `body` has come.
    pub(crate) fn read(self, rng: &mut fastrand::Rng, body: Vec<u8>, announced: usize) -> Verdict {
        let mut body = Bytes::from(body);
        match self.kind {
            Kind::Message { api, header_tags, decode } => {
                body.truncate(announced);
                match decode(body.clone(), self.version) {
                    Ok(()) => Verdict::Read,
                    Err(error) => self.late_refusal(api, header_tags, body, &error),
                }
            }
            Kind::Produce => {
                body.truncate(announced);
                if Produced::decode(&body, self.version).is_ok() { Verdict::Read } else { Verdict::Refused }
            }
            Kind::Fetch => parse_fetch(rng, body, announced, self.version),
            Kind::Batches => {
                body.truncate(announced);
                read_batches(body)
            }
        }
    }

    /// Behind the guard a decoder has two things left to complain about: bytes that are not UTF-8, and a tag whose number a later
    /// version uses. Anything else would mean that it reads other fields than the guard has walked over.
    fn late_refusal(self, api: ApiKey, header_tags: bool, mut body: Bytes, error: &FrameError) -> Verdict {
        if (header_tags && frame::skip_tags(&mut body).is_none()) || validate::check(api, self.version, &body).is_err()
        {
            return Verdict::Refused;
        }
        let error = error.to_string();
        let known = error.contains("utf-8") || error.contains("is not valid for version");
        assert!(known, "the guard let through what the decoder does not read: {error}");
        Verdict::RefusedLate
    }
}

/// Feeds the parser in pieces, as a socket would.
fn parse_fetch(rng: &mut fastrand::Rng, mut body: Bytes, announced: usize, version: i16) -> Verdict {
    let mut parser = FetchParser::new();
    parser.begin(version, announced).expect("the version is one of ours");
    let mut scratch = Scratch::new();
    let most = 1 << rng.u32(8..20);
    loop {
        loop {
            match parser.next_event() {
                Ok(Some(FetchEvent::Batch(batch))) => drop(read_batch(batch, &mut scratch)),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return Verdict::Refused,
            }
        }
        if parser.is_done() {
            return Verdict::Read;
        }
        let wanted = parser.wanted();
        let buffer = parser.buffer();
        let room = buffer.capacity() - buffer.len();
        assert!(wanted > 0 && room > 0, "the parser waits for nothing");
        let len = wanted.min(room).min(most).min(body.len());
        if len == 0 {
            return Verdict::Waits;
        }
        buffer.extend_from_slice(&body[..len]);
        body.advance(len);
    }
}

fn read_batches(mut bytes: Bytes) -> Verdict {
    let mut scratch = Scratch::new();
    let mut verdict = Verdict::Read;
    loop {
        match split_batch(&mut bytes) {
            Ok(Some(batch)) => {
                if read_batch(batch, &mut scratch).is_err() {
                    verdict = Verdict::Refused;
                }
            }
            Ok(None) => return verdict,
            Err(_) => return Verdict::Refused,
        }
    }
}

/// Goes through all records, whatever the checksum says: a peer that means harm gets it right.
fn read_batch(batch: RawBatch, scratch: &mut Scratch) -> Result<(), ()> {
    let intact = batch.verify_crc().is_ok();
    let batch = batch.open(scratch, BATCH_LIMIT).map_err(drop)?;
    let mut cursor: Cursor = batch.cursor();
    let mut bytes = 0;
    while let Some(record) = batch.next(&mut cursor).map_err(drop)? {
        bytes += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        bytes += record.headers.iter().map(|header| header.key.len()).sum::<usize>();
    }
    assert!(bytes <= BATCH_LIMIT.max(batch.owner().len()));
    batch.control().map_err(drop)?;
    if intact { Ok(()) } else { Err(()) }
}

/// The most that the records of a batch may take when they are decompressed, here.
pub(crate) const BATCH_LIMIT: usize = 512 * 1024;

fn whole_batches(rng: &mut fastrand::Rng, size: usize) -> Generated {
    let mut generated = Generated::default();
    while generated.bytes.is_empty() || generated.bytes.len() < size {
        let batch = &batches()[rng.usize(..batches().len())];
        let at = generated.bytes.len();
        // Length; magic; attributes and last offset delta; count and the first bytes of the records.
        for spot in [8..12, 16..17, 21..27, 57..63] {
            generated.spots.push(at + spot.start..at + spot.end);
        }
        generated.bytes.extend_from_slice(batch);
    }
    generated
}

/// Batches of every codec that this build has, short and long.
fn batches() -> &'static [Vec<u8>] {
    static BATCHES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    BATCHES.get_or_init(|| {
        let mut batches = Vec::new();
        for codec in Compression::ALL.into_iter().filter(|codec| codec.supported().is_ok()) {
            let mut compressor = Compressor::new(codec).expect("the codec is supported");
            for (seed, count) in [1, 2, 3, 10, 100, 400].into_iter().enumerate() {
                let (mut sealed, _) = build(&records_of(seed as u64, count), 0).compress(&mut compressor, Vec::new());
                sealed.stamp(ProducerStamp::NONE);
                batches.push(sealed.bytes().to_vec());
            }
        }
        batches
    })
}
