//! The words of the table: what a message consists of, version by version.

use super::Kind;

/// A message.
#[derive(Debug)]
pub struct Message {
    /// The API it answers.
    pub api_key: i16,
    /// Kafka's name for it.
    pub name: &'static str,
    /// The first and the last version that Kafka 4.3 has.
    pub versions: (i16, i16),
    /// The first version with compact lengths and tagged fields (KIP-482); `i16::MAX` if there is none.
    pub flexible: i16,
    /// Its fields.
    pub root: Structure,
}

/// Fields one behind the other.
#[derive(Debug)]
pub struct Structure {
    /// Bytes that the decoded structure takes, without what its strings, arrays and tags point to.
    pub memory: usize,
    /// The fields in the order in which they are written.
    pub fields: &'static [Field],
}

/// A field.
#[derive(Debug)]
pub struct Field {
    /// Kafka's name for it.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    versions: (i16, i16),
    nullable: (i16, i16),
    tag: u32,
    tagged: (i16, i16),
}

impl Message {
    /// Whether `version` has compact lengths and tagged fields.
    pub const fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible
    }
}

impl Field {
    /// Whether the field has its place among the others in `version`: it exists and is not tagged.
    pub fn is_in_place(&self, version: i16) -> bool {
        within(self.versions, version) && !within(self.tagged, version)
    }

    /// The number under which the field stands among the tagged ones in `version`, if it does.
    pub fn tag(&self, version: i16) -> Option<u32> {
        (within(self.versions, version) && within(self.tagged, version)).then_some(self.tag)
    }

    /// Whether it may be null in `version`.
    pub fn is_nullable(&self, version: i16) -> bool {
        within(self.nullable, version)
    }

    pub(super) const fn nullable(mut self, since: i16, until: i16) -> Self {
        self.nullable = (since, until);
        self
    }

    pub(super) const fn tagged(mut self, tag: u32, since: i16, until: i16) -> Self {
        self.tag = tag;
        self.tagged = (since, until);
        self
    }
}

fn within((since, until): (i16, i16), version: i16) -> bool {
    (since..=until).contains(&version)
}

/// A field that exists from one version to another.
pub(super) const fn field(name: &'static str, since: i16, until: i16, kind: Kind) -> Field {
    Field { name, kind, versions: (since, until), nullable: NO_VERSION, tag: 0, tagged: NO_VERSION }
}

pub(super) const fn structure(memory: usize, fields: &'static [Field]) -> Structure {
    Structure { memory, fields }
}

const NO_VERSION: (i16, i16) = (1, 0);
/// As the end of a range of versions: it has none. As its beginning: it never begins.
pub(super) const LAST: i16 = i16::MAX;
