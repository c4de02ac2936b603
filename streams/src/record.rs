//! The record that flows through a topology: typed key and value, timestamp, headers.

use bytes::Bytes;

/// A record between two operators (Java: `org.apache.kafka.streams.processor.api.Record`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<K, V> {
    /// The key. A key that may be null is an `Option`.
    pub key: K,
    /// The value. A value that may be null (a tombstone) is an `Option`.
    pub value: V,
    /// Milliseconds since 1970, never negative: the input record's, or the largest of those an aggregate has seen.
    pub timestamp: i64,
    /// The input record's headers, handed on by every operator but aggregates.
    pub headers: Headers,
}

/// A record's headers, in order, duplicates kept. Eight bytes when empty, which nearly all are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(
    clippy::box_collection,
    reason = "the box is what makes it 8 bytes: a Vec is 24, in every record that is pushed on"
)]
pub struct Headers(Option<Box<Vec<(Bytes, Option<Bytes>)>>>);

impl Headers {
    /// Adds a header at the end. The key is bytes, because a broker does not check that it is UTF-8.
    pub fn push(&mut self, key: impl Into<Bytes>, value: Option<Bytes>) {
        self.0.get_or_insert_default().push((key.into(), value));
    }

    /// All headers in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.0.iter().flat_map(|all| all.iter()).map(|(key, value)| (&key[..], value.as_deref()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|all| all.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_two_strings_stays_small() {
        assert_eq!(size_of::<Headers>(), 8);
        assert_eq!(size_of::<Record<String, String>>(), 64);
    }

    #[test]
    fn headers_keep_order_and_duplicates() {
        let mut headers = Headers::default();
        assert!(headers.is_empty());
        headers.push("a", Some(Bytes::from_static(b"1")));
        headers.push("a", None);
        assert_eq!(headers.iter().collect::<Vec<_>>(), [(&b"a"[..], Some(&b"1"[..])), (b"a", None)]);
    }
}
