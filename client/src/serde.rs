//! Values to bytes and back: one fallible, synchronous pair of traits for producer, consumer and Streams.

use bytes::Bytes;

/// A value that could not be turned into bytes, or bytes that are no such value.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct SerializeError {
    message: String,
}

impl SerializeError {
    /// An error that says what was expected and what was found (never the value itself: it may be a secret).
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

/// Turns a `T` into bytes (Java's `Serializer`).
pub trait Serializer<T: ?Sized>: Send + Sync {
    /// Appends the bytes of `value` to `out`.
    ///
    /// # Errors
    /// When the value has no bytes in this format.
    fn serialize(&self, topic: &str, value: &T, out: &mut Vec<u8>) -> Result<(), SerializeError>;
}

/// Turns bytes into a `T` (Java's `Deserializer`).
pub trait Deserializer<T>: Send + Sync {
    /// Reads a value from `bytes`. `owner` holds those bytes: only a type that keeps a slice of them without a copy needs it
    /// (`owner.slice_ref(bytes)`), all others are spared two atomic operations.
    ///
    /// # Errors
    /// When the bytes are no such value.
    fn deserialize(&self, topic: &str, bytes: &[u8], owner: &Bytes) -> Result<T, SerializeError>;
}

/// UTF-8 text (Java's `StringSerializer` with its default encoding).
#[derive(Debug, Clone, Copy, Default)]
pub struct Text;

impl Serializer<String> for Text {
    fn serialize(&self, _topic: &str, value: &String, out: &mut Vec<u8>) -> Result<(), SerializeError> {
        out.extend_from_slice(value.as_bytes());
        Ok(())
    }
}

impl Serializer<str> for Text {
    fn serialize(&self, _topic: &str, value: &str, out: &mut Vec<u8>) -> Result<(), SerializeError> {
        out.extend_from_slice(value.as_bytes());
        Ok(())
    }
}

impl Deserializer<String> for Text {
    fn deserialize(&self, _topic: &str, bytes: &[u8], _owner: &Bytes) -> Result<String, SerializeError> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(SerializeError::new(format!("not UTF-8 text after byte {}", error.valid_up_to()))),
        }
    }
}

/// A 64-bit integer, big-endian, 8 bytes (Java's `LongSerializer`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Long;

impl Serializer<i64> for Long {
    fn serialize(&self, _topic: &str, value: &i64, out: &mut Vec<u8>) -> Result<(), SerializeError> {
        out.extend_from_slice(&value.to_be_bytes());
        Ok(())
    }
}

impl Deserializer<i64> for Long {
    fn deserialize(&self, _topic: &str, bytes: &[u8], _owner: &Bytes) -> Result<i64, SerializeError> {
        let bytes = bytes.try_into().map_err(|_| {
            SerializeError::new(format!("a 64-bit integer has 8 bytes, here are {}: is it another type?", bytes.len()))
        })?;
        Ok(i64::from_be_bytes(bytes))
    }
}

/// Bytes as they are (Java's `ByteArraySerializer`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Raw;

impl Serializer<Vec<u8>> for Raw {
    fn serialize(&self, _topic: &str, value: &Vec<u8>, out: &mut Vec<u8>) -> Result<(), SerializeError> {
        out.extend_from_slice(value);
        Ok(())
    }
}

impl Serializer<Bytes> for Raw {
    fn serialize(&self, _topic: &str, value: &Bytes, out: &mut Vec<u8>) -> Result<(), SerializeError> {
        out.extend_from_slice(value);
        Ok(())
    }
}

impl Deserializer<Vec<u8>> for Raw {
    fn deserialize(&self, _topic: &str, bytes: &[u8], _owner: &Bytes) -> Result<Vec<u8>, SerializeError> {
        Ok(bytes.to_vec())
    }
}

impl Deserializer<Bytes> for Raw {
    fn deserialize(&self, _topic: &str, bytes: &[u8], owner: &Bytes) -> Result<Bytes, SerializeError> {
        Ok(owner.slice_ref(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_is_eight_bytes_big_endian_and_nothing_else() {
        let mut out = Vec::new();
        Long.serialize("t", &258, &mut out).unwrap();
        assert_eq!(out, [0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(Long.deserialize("t", &out, &Bytes::new()).unwrap(), 258);
        assert!(Long.deserialize("t", &out[1..], &Bytes::new()).unwrap_err().to_string().contains("here are 7"));
    }

    #[test]
    fn text_that_is_not_utf_8_says_where() {
        let error = Text.deserialize("t", b"ab\xff", &Bytes::new()).unwrap_err();
        assert_eq!(error.to_string(), "not UTF-8 text after byte 2");
    }
}
