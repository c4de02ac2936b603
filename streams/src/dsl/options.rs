//! The options of DSL operators: `Consumed`, `Produced`, `Grouped`, `Materialized`. All have defaults good enough to
//! forget.

use std::sync::Arc;

use crate::serde::{DefaultSerde, Serde, SharedSerde, default_serde};

/// How a source topic is read (Java: `Consumed`).
pub struct Consumed<K, V> {
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) name: Option<String>,
}

impl<K, V> Consumed<K, V> {
    /// With these serdes.
    pub fn with(key: impl Serde<K>, value: impl Serde<V>) -> Self {
        Self { key: Arc::new(key), value: Arc::new(value), name: None }
    }

    /// Names the source node. Default: `KSTREAM-SOURCE-` and a number.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

impl<K: DefaultSerde, V: DefaultSerde> Default for Consumed<K, V> {
    fn default() -> Self {
        Self { key: default_serde(), value: default_serde(), name: None }
    }
}

/// How a topic is written (Java: `Produced`).
pub struct Produced<K, V> {
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) name: Option<String>,
}

impl<K, V> Produced<K, V> {
    /// With these serdes.
    pub fn with(key: impl Serde<K>, value: impl Serde<V>) -> Self {
        Self { key: Arc::new(key), value: Arc::new(value), name: None }
    }

    /// Names the sink node. Default: `KSTREAM-SINK-` and a number.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

impl<K: DefaultSerde, V: DefaultSerde> Default for Produced<K, V> {
    fn default() -> Self {
        Self { key: default_serde(), value: default_serde(), name: None }
    }
}

/// How a stream is grouped (Java: `Grouped`). The serdes write the repartition topic and the store's keys.
pub struct Grouped<K, V> {
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) name: Option<String>,
}

impl<K, V> Grouped<K, V> {
    /// With these serdes.
    pub fn with(key: impl Serde<K>, value: impl Serde<V>) -> Self {
        Self { key: Arc::new(key), value: Arc::new(value), name: None }
    }

    /// Names the repartition topic (`<application id>-<name>-repartition`), which aggregates of this group then share.
    /// Default: the store's name. A name that is given stays when operators are added in front of it.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

impl<K: DefaultSerde, V: DefaultSerde> Default for Grouped<K, V> {
    fn default() -> Self {
        Self { key: default_serde(), value: default_serde(), name: None }
    }
}

macro_rules! debug {
    ($($name:ident),*) => {$(
        impl<K, V> std::fmt::Debug for $name<K, V> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).field("name", &self.name).finish_non_exhaustive()
            }
        }
    )*};
}
debug!(Consumed, Produced, Grouped);

/// How a table is kept (Java: `Materialized`). A `&str` is the short form for a store of that name.
#[derive(Debug, Clone)]
pub struct Materialized {
    pub(crate) name: Option<String>,
    pub(crate) caching: bool,
    pub(crate) logging: bool,
}

impl Default for Materialized {
    /// In memory, under a generated name, with caching and a changelog topic.
    fn default() -> Self {
        Self { name: None, caching: true, logging: true }
    }
}

impl Materialized {
    /// In a store of this name, whose changelog topic is `<application id>-<name>-changelog`.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..Self::default() }
    }

    /// Every update is written and forwarded at once. Default: only the last of a key between two commits
    /// (Java: `withCachingDisabled`).
    pub fn without_caching(mut self) -> Self {
        self.caching = false;
        self
    }

    /// No changelog topic: the store is empty after a restart (Java: `withLoggingDisabled`).
    pub fn without_logging(mut self) -> Self {
        self.logging = false;
        self
    }
}

impl From<&str> for Materialized {
    fn from(name: &str) -> Self {
        Self::named(name)
    }
}

impl From<String> for Materialized {
    fn from(name: String) -> Self {
        Self::named(name)
    }
}

/// One or more topic names.
#[derive(Debug, Clone)]
pub struct Topics(pub(crate) Vec<String>);

impl From<&str> for Topics {
    fn from(name: &str) -> Self {
        Self(vec![name.to_owned()])
    }
}

impl From<String> for Topics {
    fn from(name: String) -> Self {
        Self(vec![name])
    }
}

impl<const N: usize> From<[&str; N]> for Topics {
    fn from(names: [&str; N]) -> Self {
        Self(names.iter().map(|name| (*name).to_owned()).collect())
    }
}

impl From<Vec<String>> for Topics {
    fn from(names: Vec<String>) -> Self {
        Self(names)
    }
}
