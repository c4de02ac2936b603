//! Serdes: how keys and values become bytes in topics and stores, and back. The bytes are those of Java's `Serdes`.

use std::sync::Arc;

use bytes::Bytes;
use milena_client::{
    Deserializer, SerializeError, Serializer,
    serde::{Long, Raw, Text},
};

/// Writes and reads values of `T`. It is a value, not an impl on `T`, so that foreign types can have one.
///
/// Every `Serializer<T>` that is also a `Deserializer<T>` is one; only a serde that knows null implements this itself.
pub trait Serde<T>: Send + Sync + 'static {
    /// Appends the bytes of `value`, which is not null, to `out`. `topic` is where they go: for a store, its changelog.
    fn encode(&self, topic: &str, value: &T, out: &mut Vec<u8>) -> Result<(), SerializeError>;

    /// Reads a value. `raw` lies within `owner`: a type that is a slice of the record (and only that) keeps
    /// `owner.slice_ref(raw)`; every other type ignores `owner` and so pays no reference count.
    fn decode(&self, topic: &str, raw: &[u8], owner: &Bytes) -> Result<T, SerializeError>;

    /// Whether `value` is written as null. Only types with a null (`Option<T>`, `()`) say yes.
    fn is_null(&self, _value: &T) -> bool {
        false
    }

    /// The value that null bytes stand for; `None` where `T` has none, which is an error of the record.
    fn decode_null(&self) -> Option<T> {
        None
    }
}

/// The serde that is used where none is given (Java: `default.key.serde`, but by type).
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no default serde",
    label = "a topic or a store must encode `{Self}` here",
    note = "give one (`Consumed::with`, `Produced::with`, `Grouped::with`) or implement `DefaultSerde` for `{Self}`"
)]
pub trait DefaultSerde: Sized + Send + 'static {
    /// Its type.
    type Serde: Serde<Self> + Default;
}

/// A serde that many nodes share.
pub(crate) type SharedSerde<T> = Arc<dyn Serde<T>>;

/// The default serde of `T`, shared.
pub(crate) fn default_serde<T: DefaultSerde>() -> SharedSerde<T> {
    Arc::new(T::Serde::default())
}

/// One pair of traits serves producer, consumer and Streams.
impl<T, S: Serializer<T> + Deserializer<T> + 'static> Serde<T> for S {
    fn encode(&self, topic: &str, value: &T, out: &mut Vec<u8>) -> Result<(), SerializeError> {
        self.serialize(topic, value, out)
    }

    fn decode(&self, topic: &str, raw: &[u8], owner: &Bytes) -> Result<T, SerializeError> {
        self.deserialize(topic, raw, owner)
    }
}

/// UTF-8 text (Java: `Serdes.String`).
impl DefaultSerde for String {
    type Serde = Text;
}

/// Eight bytes, big-endian (Java: `Serdes.Long`).
impl DefaultSerde for i64 {
    type Serde = Long;
}

/// Bytes as they are (Java: `Serdes.ByteArray`).
impl DefaultSerde for Vec<u8> {
    type Serde = Raw;
}

/// Bytes as they are, without a copy: a slice of the batch they came in, which they keep in memory.
impl DefaultSerde for Bytes {
    type Serde = Raw;
}

/// "I do not look at it": reads anything, null too, and writes null (Java: `Serdes.Void`, which refuses to read bytes).
#[derive(Debug, Clone, Copy, Default)]
pub struct UnitSerde;

impl Serde<()> for UnitSerde {
    fn encode(&self, _topic: &str, _value: &(), _out: &mut Vec<u8>) -> Result<(), SerializeError> {
        Ok(())
    }

    fn decode(&self, _topic: &str, _raw: &[u8], _owner: &Bytes) -> Result<(), SerializeError> {
        Ok(())
    }

    fn is_null(&self, _value: &()) -> bool {
        true
    }

    fn decode_null(&self) -> Option<()> {
        Some(())
    }
}

impl DefaultSerde for () {
    type Serde = UnitSerde;
}

/// What the inner serde reads and writes, and null as `None`.
#[derive(Debug, Clone, Copy, Default)]
pub struct NullableSerde<S>(S);

impl<S> NullableSerde<S> {
    /// Wraps `inner`.
    pub fn new(inner: S) -> Self {
        Self(inner)
    }
}

impl<T: Send + 'static, S: Serde<T>> Serde<Option<T>> for NullableSerde<S> {
    fn encode(&self, topic: &str, value: &Option<T>, out: &mut Vec<u8>) -> Result<(), SerializeError> {
        value.as_ref().map_or(Ok(()), |value| self.0.encode(topic, value, out))
    }

    fn decode(&self, topic: &str, raw: &[u8], owner: &Bytes) -> Result<Option<T>, SerializeError> {
        self.0.decode(topic, raw, owner).map(Some)
    }

    fn is_null(&self, value: &Option<T>) -> bool {
        value.as_ref().is_none_or(|value| self.0.is_null(value))
    }

    fn decode_null(&self) -> Option<Option<T>> {
        Some(None)
    }
}

impl<T: DefaultSerde> DefaultSerde for Option<T> {
    type Serde = NullableSerde<T::Serde>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round<T: DefaultSerde + PartialEq + std::fmt::Debug>(value: T, bytes: &[u8]) {
        let serde = default_serde::<T>();
        let mut out = Vec::new();
        serde.encode("t", &value, &mut out).unwrap();
        assert_eq!(out, bytes);
        let owner = Bytes::from(out);
        assert_eq!(serde.decode("t", &owner, &owner).unwrap(), value);
    }

    #[test]
    fn the_bytes_are_javas() {
        round("Élan".to_owned(), "Élan".as_bytes());
        round(258_i64, &[0, 0, 0, 0, 0, 0, 1, 2]);
        round(vec![1_u8, 2], &[1, 2]);
        round(Bytes::from_static(b"ab"), b"ab");
        round(Some(7_i64), &7_i64.to_be_bytes());
    }

    #[test]
    fn null_is_none_and_unit_but_no_string() {
        assert_eq!(default_serde::<Option<i64>>().decode_null(), Some(None));
        assert!(default_serde::<Option<i64>>().is_null(&None));
        assert!(!default_serde::<Option<i64>>().is_null(&Some(1)));
        assert_eq!(default_serde::<()>().decode_null(), Some(()));
        assert_eq!(default_serde::<String>().decode_null(), None);
    }

    #[test]
    fn wrong_bytes_are_an_error_that_says_what_was_expected() {
        let owner = Bytes::from_static(&[0xff]);
        assert_eq!(
            default_serde::<i64>().decode("t", &owner, &owner).unwrap_err().to_string(),
            "a 64-bit integer has 8 bytes, here are 1: is it another type?"
        );
        assert!(
            default_serde::<String>().decode("t", &owner, &owner).unwrap_err().to_string().starts_with("not UTF-8")
        );
    }
}
