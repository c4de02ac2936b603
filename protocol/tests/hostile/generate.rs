//! Draws valid messages from a seed, by the same table that the guard walks by.

use std::ops::Range;

use milena_protocol::validate::{Field, Kind, Message, Structure};

use crate::support::cases::log_uniform;

/// A message, and where its lengths, counts and tags stand: the bytes that are worth changing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Generated {
    pub(crate) bytes: Vec<u8>,
    pub(crate) spots: Vec<Range<usize>>,
}

/// Writes one message.
pub(crate) struct Generator<'a> {
    rng: &'a mut fastrand::Rng,
    version: i16,
    flexible: bool,
    /// What fields with record batches hold.
    batches: &'a [Vec<u8>],
    greed: Greed,
    out: Generated,
}

impl<'a> Generator<'a> {
    /// A message of about `size` bytes, as far as it has anything that can grow; with empty header tags in front if asked for.
    pub(crate) fn message(
        rng: &'a mut fastrand::Rng,
        message: &Message,
        version: i16,
        header_tags: bool,
        size: usize,
        batches: &'a [Vec<u8>],
    ) -> Generated {
        let flexible = message.is_flexible(version);
        let generator = Self { rng, version, flexible, batches, greed: Greed::None, out: Generated::default() };
        generator.write(message, header_tags, size)
    }

    /// A message that takes as much memory for its bytes as it can. The guard may refuse it.
    pub(crate) fn greedy(
        rng: &'a mut fastrand::Rng,
        message: &Message,
        version: i16,
        header_tags: bool,
        size: usize,
        greed: Greed,
    ) -> Generated {
        let flexible = message.is_flexible(version);
        let generator = Self { rng, version, flexible, batches: &[], greed, out: Generated::default() };
        generator.write(message, header_tags, size)
    }

    fn write(mut self, message: &Message, header_tags: bool, size: usize) -> Generated {
        if header_tags {
            self.spot(|generator| generator.uvarint(0));
        }
        self.structure(&message.root, size);
        self.out
    }

    /// Writes a structure into about `size` bytes.
    fn structure(&mut self, structure: &Structure, size: usize) {
        let version = self.version;
        let room = size.saturating_sub(self.least(structure));
        // Tags of a newer broker, where there is room: in a small structure they would take more memory than it is worth.
        let unknown = match self.flexible {
            true if self.greed == Greed::Tags => 1,
            true if self.greed == Greed::None && room >= 64 && self.rng.u8(..4) == 0 => self.rng.usize(1..4),
            _ => 0,
        };
        let tagged: Vec<&Field> =
            structure.fields.iter().filter(|field| field.tag(version).is_some() && self.rng.bool()).collect();
        let in_place = || structure.fields.iter().filter(|field| field.is_in_place(version));

        // What can grow shares the room.
        let mut weights: Vec<usize> =
            in_place().chain(tagged.iter().copied()).map(|field| self.weight(&field.kind)).collect();
        weights.extend(std::iter::repeat_n(1, unknown));
        let sum = weights.iter().sum::<usize>().max(1);
        let mut shares = weights.into_iter().map(|weight| room * weight / sum);

        for field in in_place() {
            let share = shares.next().unwrap();
            self.field(field, share);
        }
        if self.flexible {
            self.spot(|generator| generator.uvarint((tagged.len() + unknown) as u32));
            for field in tagged {
                let share = shares.next().unwrap();
                self.tag(field.tag(version).unwrap(), |generator| generator.field(field, share));
            }
            let mut number = 100;
            for share in shares {
                number += self.rng.u32(1..1000);
                let len = if self.greed == Greed::Tags { 0 } else { share };
                self.tag(number, |generator| generator.noise(len));
            }
        }
    }

    fn tag(&mut self, number: u32, write: impl FnOnce(&mut Self)) {
        // Its length goes in front, so it is written aside.
        let outer = std::mem::take(&mut self.out);
        write(self);
        let value = std::mem::replace(&mut self.out, outer);
        self.spot(|generator| generator.uvarint(number));
        self.spot(|generator| generator.uvarint(value.bytes.len() as u32));
        let at = self.out.bytes.len();
        self.out.spots.extend(value.spots.iter().map(|spot| spot.start + at..spot.end + at));
        self.out.bytes.extend(value.bytes);
    }

    fn field(&mut self, field: &Field, share: usize) {
        let nullable = field.is_nullable(self.version);
        if nullable && self.rng.u8(..8) == 0 {
            return self.null(&field.kind);
        }
        match &field.kind {
            Kind::Bytes if field.name == "Records" => self.records(share),
            // Groups have different names. Many with an empty one would take more memory than any message may.
            Kind::String if field.name == "GroupId" && self.greed == Greed::None => {
                let len = share.clamp(2, 1000);
                if self.flexible {
                    self.count(len)
                } else {
                    self.short_count(len)
                }
                self.text(len);
            }
            Kind::Struct(structure) => {
                if nullable {
                    self.out.bytes.push(1);
                }
                self.structure(structure, share);
            }
            kind => self.value(kind, share),
        }
    }

    fn null(&mut self, kind: &Kind) {
        match kind {
            Kind::Struct(_) => self.out.bytes.push(0xff),
            _ if self.flexible => self.spot(|generator| generator.uvarint(0)),
            Kind::String => self.spot(|generator| generator.out.bytes.extend((-1i16).to_be_bytes())),
            _ => self.spot(|generator| generator.out.bytes.extend((-1i32).to_be_bytes())),
        }
    }

    fn value(&mut self, kind: &Kind, share: usize) {
        match kind {
            // 0 and 1 are the only booleans.
            Kind::Fixed(1) => self.out.bytes.push(self.rng.u8(..2)),
            Kind::Fixed(len) => self.noise(*len),
            Kind::String => {
                let most = if self.flexible { usize::MAX } else { i16::MAX as usize };
                let len = if self.rng.u8(..3) == 0 { share.min(self.rng.usize(..24)) } else { share.min(most) };
                if self.flexible {
                    self.count(len)
                } else {
                    self.short_count(len)
                }
                self.text(len);
            }
            Kind::Bytes => {
                self.count(share);
                self.noise(share);
            }
            Kind::Array(element) => {
                let least = self.least_value(element).max(1);
                let (count, each) = if share < least {
                    (0, 0)
                } else if self.greed != Greed::None {
                    (share / (least + if self.greed == Greed::Tags { GREEDY_TAG_BYTES } else { 0 }), least)
                } else {
                    let each = log_uniform(self.rng, least, share.max(least + 1));
                    (share / each, each)
                };
                self.count(count);
                for _ in 0..count {
                    self.value(element, each.saturating_sub(least));
                }
            }
            Kind::Struct(structure) => {
                let least = self.least(structure);
                self.structure(structure, least + share);
            }
        }
    }

    /// Whole batches, and now and then one that is cut off.
    fn records(&mut self, share: usize) {
        let mut records = Vec::new();
        while records.len() < share && !self.batches.is_empty() {
            let batch = &self.batches[self.rng.usize(..self.batches.len())];
            records.extend_from_slice(&batch[..batch.len().min(share - records.len())]);
        }
        self.count(records.len());
        let at = self.out.bytes.len();
        // The lengths and the counts of the first batch.
        for (start, end) in [(8, 12), (16, 17), (21, 27), (57, 63)] {
            if end <= records.len() {
                self.out.spots.push(at + start..at + end);
            }
        }
        self.out.bytes.extend(records);
    }

    fn noise(&mut self, len: usize) {
        let at = self.out.bytes.len();
        self.out.bytes.resize(at + len, 0);
        self.rng.fill(&mut self.out.bytes[at..]);
    }

    /// UTF-8 of that many bytes.
    fn text(&mut self, len: usize) {
        let at = self.out.bytes.len();
        self.out.bytes.resize(at + len, b'a' + self.rng.u8(..26));
        if len >= 3 && self.rng.u8(..4) == 0 {
            self.out.bytes[at + len - 3..].copy_from_slice("€".as_bytes());
        }
    }

    /// A length in front of bytes, or a count in front of elements.
    fn count(&mut self, count: usize) {
        self.spot(|generator| {
            if generator.flexible {
                generator.uvarint(count as u32 + 1);
            } else {
                generator.out.bytes.extend((count as i32).to_be_bytes());
            }
        });
    }

    fn short_count(&mut self, count: usize) {
        self.spot(|generator| generator.out.bytes.extend((count as i16).to_be_bytes()));
    }

    fn uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.bytes.push(value as u8);
    }

    fn spot(&mut self, write: impl FnOnce(&mut Self)) {
        let start = self.out.bytes.len();
        write(self);
        let end = self.out.bytes.len();
        self.out.spots.push(start..end);
    }

    fn weight(&mut self, kind: &Kind) -> usize {
        match kind {
            Kind::Fixed(_) => 0,
            Kind::String => 1,
            Kind::Bytes | Kind::Struct(_) => 2,
            Kind::Array(_) => self.rng.usize(1..10),
        }
    }

    /// The bytes of a structure whose strings and arrays are empty.
    fn least(&self, structure: &Structure) -> usize {
        let fields = structure.fields.iter().filter(|field| field.is_in_place(self.version));
        fields.map(|field| self.least_value(&field.kind)).sum::<usize>() + usize::from(self.flexible)
    }

    fn least_value(&self, kind: &Kind) -> usize {
        match kind {
            Kind::Fixed(len) => *len,
            Kind::Struct(structure) => self.least(structure),
            _ if self.flexible => 1,
            Kind::String => 2,
            Kind::Bytes | Kind::Array(_) => 4,
        }
    }
}

/// Whether a message takes as much memory for its bytes as it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Greed {
    None,
    /// Elements as short as possible.
    Elements,
    /// And each of them with a tag that nobody knows.
    Tags,
}

/// Number and length of a tag without a value.
const GREEDY_TAG_BYTES: usize = 3;
