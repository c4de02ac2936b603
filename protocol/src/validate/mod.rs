//! The guard in front of the message decoders.
//!
//! The decoders of the message crate reserve memory for as many elements as an array announces, before they have seen one: ten bytes
//! can ask for 290 GB, and a failed allocation ends the process. So [`frame::decode_body`](crate::frame::decode_body) first lets
//! [`check`] walk over the bytes, by a table of what each response consists of (`table.rs`, and `requests.rs` for who plays a broker,
//! written by `cargo xtask schema` from the definitions inside Kafka's own jar; `shape.rs` has its words). The walk goes the way the decoder will go, allocates nothing, and
//! finds out that
//!
//! - every length lies inside the message, and every tagged field fills its bytes exactly;
//! - no array announces more elements than the rest of the message can hold;
//! - what is decoded from it takes at most [`EXPANSION`] times the message's bytes, and [`ALLOWANCE`].
//!
//! The last is a matter of judgement. A member in a JoinGroup response, written as short as possible, takes 4 bytes and 120 when
//! decoded; no element of any response goes above a factor of 32, but for thousands of groups with the same empty name in ListGroups,
//! and for elements that all carry tags which nobody knows. A frame and what is decoded from it together stay below 40 times the
//! frame and 1 MiB; `tests/hostile` holds all of this to its word.
//!
//! Whether strings are UTF-8 is left to the decoders.

#[cfg(feature = "broker")]
#[rustfmt::skip]
mod requests;
mod shape;
#[rustfmt::skip]
mod table;

use std::fmt;

use crate::ApiKey;
use crate::wire::{Reader, Stop};

pub use shape::{Field, Message, Structure};

/// What a field or an array's element holds.
#[derive(Debug)]
pub enum Kind {
    /// That many bytes.
    Fixed(usize),
    /// A length and UTF-8.
    String,
    /// A length and bytes.
    Bytes,
    /// A count and elements.
    Array(&'static Self),
    /// Fields.
    Struct(&'static Structure),
}

/// How many bytes of memory a byte of a message may turn into.
pub const EXPANSION: usize = 38;
/// Bytes of memory that any message may turn into.
pub const ALLOWANCE: usize = 256 * 1024;

/// Why a message is refused before it is decoded.
#[derive(Debug)]
pub struct Refusal(Box<Problem>);

#[derive(Debug)]
struct Problem {
    /// The way to the field, innermost first.
    path: Vec<Step>,
    reason: Reason,
}

#[derive(Debug)]
enum Step {
    Field(&'static str),
    Element(usize),
    UnknownTag(u32),
}

#[derive(Debug)]
enum Reason {
    NoShape,
    NoVersion(i16),
    Wire(&'static str),
    Null,
    Presence(u8),
    TooManyElements { count: usize, left: usize },
    TagNotFilled { left: usize },
    TooMuchMemory { bytes: usize },
    LeftOver(usize),
}

/// The shape of the response of an API.
pub fn shape(api: ApiKey) -> Option<&'static Message> {
    let found = table::MESSAGES.binary_search_by_key(&api.0, |message| message.api_key).ok()?;
    table::MESSAGES.get(found)
}

/// Walks over the message of a response (no header in front of it), and refuses what a decoder must not see.
///
/// # Errors
/// [`Refusal`], which says where the message is not what it should be.
pub fn check(api: ApiKey, version: i16, body: &[u8]) -> Result<(), Refusal> {
    match walk(shape(api).ok_or(Reason::NoShape)?, version, body)? {
        0 => Ok(()),
        left => Err(Reason::LeftOver(left).into()),
    }
}

/// Walks over the message of a request (no header in front of it), and refuses what a decoder must not see: for who plays a broker.
/// Returns how many bytes stand behind the last field; Kafka does not look at them.
///
/// # Errors
/// [`Refusal`], which says where the message is not what it should be.
#[cfg(feature = "broker")]
pub fn check_request(api: ApiKey, version: i16, body: &[u8]) -> Result<usize, Refusal> {
    let found = requests::MESSAGES.binary_search_by_key(&api.0, |message| message.api_key).ok();
    walk(found.and_then(|at| requests::MESSAGES.get(at)).ok_or(Reason::NoShape)?, version, body)
}

/// Returns how many bytes are left.
fn walk(message: &Message, version: i16, body: &[u8]) -> Result<usize, Refusal> {
    if version < message.versions.0 || version > message.versions.1 {
        return Err(Reason::NoVersion(version).into());
    }
    let flexible = message.is_flexible(version);
    let mut walk = Walk {
        reader: Reader::new(body, 0, flexible),
        version,
        flexible,
        memory_left: body.len().saturating_mul(EXPANSION).saturating_add(ALLOWANCE),
    };
    walk.spend(1, message.root.memory)?;
    walk.structure(&message.root)?;
    Ok(walk.reader.left())
}

struct Walk<'a> {
    reader: Reader<'a>,
    version: i16,
    flexible: bool,
    /// Bytes of memory that the decoder may still use.
    memory_left: usize,
}

impl Walk<'_> {
    /// The table is finite and has no loops, so neither has this recursion: it goes six levels deep at most.
    fn structure(&mut self, structure: &Structure) -> Result<(), Refusal> {
        for field in structure.fields {
            if field.is_in_place(self.version) {
                let nullable = field.is_nullable(self.version);
                self.value(&field.kind, nullable).map_err(|refusal| refusal.inside(Step::Field(field.name)))?;
            }
        }
        if self.flexible { self.tags(structure) } else { Ok(()) }
    }

    fn value(&mut self, kind: &Kind, nullable: bool) -> Result<(), Refusal> {
        match kind {
            Kind::Fixed(len) => self.skip(*len),
            Kind::String => {
                let len = self.reader.string_len()?;
                self.skip(present(len, nullable)?)
            }
            Kind::Bytes => {
                let len = self.reader.bytes_len()?;
                self.skip(present(len, nullable)?)
            }
            Kind::Array(element) => {
                let count = self.reader.bytes_len()?;
                self.elements(element, present(count, nullable)?)
            }
            Kind::Struct(structure) if nullable => match self.byte()? {
                // Kafka writes 1 and -1; other numbers mean something to some readers and nothing to others.
                1 => self.structure(structure),
                0xff => Ok(()),
                other => Err(Reason::Presence(other).into()),
            },
            Kind::Struct(structure) => self.structure(structure),
        }
    }

    fn elements(&mut self, element: &Kind, count: usize) -> Result<(), Refusal> {
        let left = self.reader.left();
        let (least, memory) = match element {
            Kind::Fixed(len) => (*len, *len),
            Kind::String | Kind::Bytes => (if self.flexible { 1 } else { 2 }, SLICE_BYTES),
            Kind::Array(_) => (1, VEC_BYTES),
            // A structure has a field or tags in every version in which it exists.
            Kind::Struct(structure) => (1, structure.memory),
        };
        if count > left / least.max(1) {
            return Err(Reason::TooManyElements { count, left }.into());
        }
        self.spend(count, memory)?;
        if let Kind::Fixed(len) = element {
            return self.skip(count * len);
        }
        for index in 0..count {
            self.value(element, false).map_err(|refusal| refusal.inside(Step::Element(index)))?;
        }
        Ok(())
    }

    fn tags(&mut self, structure: &Structure) -> Result<(), Refusal> {
        let count = self.reader.uvarint()?;
        let mut tag_bytes = FIRST_TAG_BYTES;
        for _ in 0..count {
            let (tag, len) = self.reader.tag()?;
            let field = structure.fields.iter().find(|field| field.tag(self.version) == Some(tag));
            let Some(field) = field else {
                self.skip(len).map_err(|refusal| refusal.inside(Step::UnknownTag(tag)))?;
                self.spend(1, tag_bytes)?;
                tag_bytes = TAG_BYTES;
                continue;
            };
            let inner = Reader::new(self.reader.take(len)?, 0, self.flexible);
            let outer = std::mem::replace(&mut self.reader, inner);
            let done = match self.value(&field.kind, field.is_nullable(self.version)) {
                Ok(()) if self.reader.left() > 0 => Err(Reason::TagNotFilled { left: self.reader.left() }.into()),
                other => other,
            };
            self.reader = outer;
            done.map_err(|refusal| refusal.inside(Step::Field(field.name)))?;
        }
        Ok(())
    }

    fn skip(&mut self, len: usize) -> Result<(), Refusal> {
        self.reader.take(len)?;
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, Refusal> {
        Ok(self.reader.take(1)?[0])
    }

    /// Counts the memory of `count` elements that the decoder will reserve.
    fn spend(&mut self, count: usize, each: usize) -> Result<(), Refusal> {
        let bytes = count.saturating_mul(each);
        self.memory_left = self.memory_left.checked_sub(bytes).ok_or(Reason::TooMuchMemory { bytes })?;
        Ok(())
    }
}

/// The length of a value that must be there, or 0 for null where that is allowed.
fn present(len: Option<usize>, nullable: bool) -> Result<usize, Refusal> {
    match len {
        Some(len) => Ok(len),
        None if nullable => Ok(0),
        None => Err(Reason::Null.into()),
    }
}

impl Refusal {
    #[cold]
    fn inside(mut self, step: Step) -> Self {
        self.0.path.push(step);
        self
    }
}

impl From<Reason> for Refusal {
    #[cold]
    fn from(reason: Reason) -> Self {
        Self(Box::new(Problem { path: Vec::new(), reason }))
    }
}

impl From<Stop> for Refusal {
    #[cold]
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Broken(reason) => Reason::Wire(reason).into(),
            // The whole message is there, so nothing is waited for.
            Stop::More => Reason::Wire("it is cut off").into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for step in self.0.path.iter().rev() {
            match step {
                Step::Field(name) => write!(f, "{between}{name}")?,
                Step::Element(index) => write!(f, "[{index}]")?,
                Step::UnknownTag(tag) => write!(f, "{between}tag {tag}")?,
            }
            between = ".";
        }
        if !self.0.path.is_empty() {
            f.write_str(": ")?;
        }
        match &self.0.reason {
            Reason::NoShape => f.write_str("the shape of this message is not known; cargo xtask schema writes it down"),
            Reason::NoVersion(version) => write!(f, "version {version} of this message is not known"),
            Reason::Wire(reason) => f.write_str(reason),
            Reason::Null => f.write_str("it is null, which this version does not allow"),
            Reason::Presence(byte) => write!(f, "{byte:#04x} says neither that it is there nor that it is null"),
            Reason::TooManyElements { count, left } => {
                write!(f, "it announces {count} elements, but only {left} bytes are left")
            }
            Reason::TagNotFilled { left } => write!(f, "{left} bytes are left behind the tagged field"),
            Reason::TooMuchMemory { bytes } => write!(
                f,
                "with its {bytes} bytes, the decoded message would take more than {EXPANSION} times the memory of the message itself"
            ),
            Reason::LeftOver(left) => write!(f, "{left} bytes are left after the last field"),
        }
    }
}

impl std::error::Error for Refusal {}

/// What a decoded string or piece of bytes takes: a counted slice of the frame.
const SLICE_BYTES: usize = 32;
/// What an array in an array takes beside its elements.
const VEC_BYTES: usize = 24;
/// Tags that nobody knows are kept in a B-tree: its first node holds eleven, the others are half full at worst.
const FIRST_TAG_BYTES: usize = 432;
const TAG_BYTES: usize = 104;

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(api: ApiKey, version: i16, body: &[u8]) -> String {
        check(api, version, body).unwrap_err().to_string()
    }

    #[test]
    fn the_table_is_sorted_for_the_search() {
        assert!(table::MESSAGES.is_sorted_by_key(|message| message.api_key));
        assert_eq!(shape(ApiKey::METADATA).unwrap().name, "MetadataResponse");
        assert!(shape(ApiKey(-1)).is_none());
    }

    #[test]
    fn a_refusal_says_where_and_why() {
        // ListGroups v3: throttle time, no error, one group without a name, of a type that ends behind the message.
        let head = [0, 0, 0, 0, 0, 0];
        let body = [&head[..], &[2, 1, 9]].concat();
        let cut = "Groups[0].ProtocolType: a field is longer than the rest of its message";
        assert_eq!(refusal(ApiKey::LIST_GROUPS, 3, &body), cut);
        let body = [&head[..], &[4, 1, 1]].concat();
        assert_eq!(
            refusal(ApiKey::LIST_GROUPS, 3, &body),
            "Groups: it announces 3 elements, but only 2 bytes are left"
        );
        assert_eq!(
            refusal(ApiKey::LIST_GROUPS, 3, &[&head[..], &[0]].concat()),
            "Groups: it is null, which this version does not allow"
        );
        assert_eq!(
            refusal(ApiKey::LIST_GROUPS, 3, &[&head[..], &[1, 0, 7]].concat()),
            "1 bytes are left after the last field"
        );
        assert!(refusal(ApiKey::LIST_GROUPS, 99, &head).contains("version 99"));
        assert!(refusal(ApiKey(12_345), 0, &head).contains("cargo xtask schema"));
    }

    #[test]
    fn tagged_fields_fill_their_bytes() {
        // ApiVersions v3: no error, no APIs, throttle time, then tag 1, the epoch of the features, of 8 bytes.
        let head = [0, 0, 1, 0, 0, 0, 0];
        let with = |tags: &[u8]| check(ApiKey::API_VERSIONS, 3, &[&head[..], tags].concat());
        with(&[1, 1, 8, 0, 0, 0, 0, 0, 0, 0, 1]).unwrap();
        with(&[1, 99, 2, 1, 2]).unwrap();
        let long = with(&[1, 1, 9, 0, 0, 0, 0, 0, 0, 0, 1, 0]).unwrap_err().to_string();
        assert_eq!(long, "FinalizedFeaturesEpoch: 1 bytes are left behind the tagged field");
        let short = with(&[1, 1, 7, 0, 0, 0, 0, 0, 0, 0, 1]).unwrap_err().to_string();
        assert_eq!(short, "FinalizedFeaturesEpoch: a field is longer than the rest of its message");
        assert!(with(&[0xff, 0xff, 0xff, 0xff, 0x0f]).is_err(), "four billion tags");
        assert!(with(&[1, 99, 3, 1, 2]).is_err(), "a tag that is cut off");
    }

    #[test]
    fn memory_is_refused_where_it_would_be_reserved() {
        // ListGroups v3 with two million groups of three bytes each: 304 MB.
        let mut body = vec![0, 0, 0, 0, 0, 0, 0x81, 0x89, 0x7a];
        for _ in 0..2_000_000 {
            body.extend([1, 1, 0]);
        }
        let refusal = refusal(ApiKey::LIST_GROUPS, 3, &body);
        assert!(refusal.starts_with("Groups: with its 304000000 bytes"), "{refusal}");
    }

    #[test]
    fn a_structure_that_may_be_null_is_there_or_not() {
        // ConsumerGroupHeartbeat v0: throttle time, no error, no message, no member id, epoch, interval.
        let head = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let with = |tail: &[u8]| check(ApiKey::CONSUMER_GROUP_HEARTBEAT, 0, &[&head[..], tail].concat());
        with(&[0xff, 0]).unwrap();
        with(&[1, 1, 0, 0]).unwrap();
        assert!(with(&[2, 1, 0, 0]).unwrap_err().to_string().starts_with("Assignment: 0x02 says"));
    }
}
