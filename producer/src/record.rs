//! What is sent: a borrowed [`Record`], an [`OwnedRecord`], or anything that can lend a view of itself.

use std::borrow::Cow;

use bytes::Bytes;

pub use milena_protocol::records::Header;

/// A record that borrows its topic, key, value and headers: what `send` encodes straight into the open batch.
///
/// ```
/// # use milena_producer::Record;
/// let record = Record::to("orders").key("o-17").value("{}").header("trace", b"4711");
/// # let _ = record;
/// ```
#[derive(Debug, Clone)]
pub struct Record<'a> {
    topic: &'a str,
    partition: Option<i32>,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: Cow<'a, [Header<'a>]>,
    timestamp: Option<i64>,
}

impl<'a> Record<'a> {
    /// A record for `topic`, with no key, no value (a tombstone) and no headers.
    pub fn to(topic: &'a str) -> Self {
        Self { topic, partition: None, key: None, value: None, headers: Cow::Borrowed(&[]), timestamp: None }
    }

    /// The partition it must go to. Without it the partitioner chooses.
    #[must_use]
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// The key. An empty key is a key; without one the record goes wherever there is room.
    #[must_use]
    pub fn key(mut self, key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.key = Some(key.as_ref());
        self
    }

    /// The value. An empty value is a value; without one the record is a tombstone.
    #[must_use]
    pub fn value(mut self, value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.value = Some(value.as_ref());
        self
    }

    /// Adds a header; order and repeats are kept. Allocates: for many records with headers, [`headers`](Self::headers) borrows.
    #[must_use]
    pub fn header(mut self, key: &'a (impl AsRef<[u8]> + ?Sized), value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.headers.to_mut().push(Header { key: key.as_ref(), value: Some(value.as_ref()) });
        self
    }

    /// Sets all headers at once, borrowed.
    #[must_use]
    pub fn headers(mut self, headers: &'a [Header<'a>]) -> Self {
        self.headers = Cow::Borrowed(headers);
        self
    }

    /// The record's time in milliseconds since 1970. Default: the client's wall clock when it is sent.
    #[must_use]
    pub fn timestamp(mut self, milliseconds: i64) -> Self {
        self.timestamp = Some(milliseconds);
        self
    }
}

/// A record that owns its parts; they are reference-counted, so that a clone copies no bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedRecord {
    /// The topic.
    pub topic: String,
    /// The partition it must go to, or `None` for the partitioner's choice.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// The headers, in order.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
    /// Milliseconds since 1970, or `None` for the time of sending.
    pub timestamp: Option<i64>,
}

impl OwnedRecord {
    /// A record for `topic`, with no key, no value and no headers.
    pub fn to(topic: impl Into<String>) -> Self {
        Self { topic: topic.into(), partition: None, key: None, value: None, headers: Vec::new(), timestamp: None }
    }

    /// The key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The value.
    #[must_use]
    pub fn value(mut self, value: impl Into<Bytes>) -> Self {
        self.value = Some(value.into());
        self
    }
}

/// What the producer looks at while it encodes a record.
#[derive(Debug, Clone, Copy)]
pub struct RecordView<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition it must go to.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub value: Option<&'a [u8]>,
    /// The headers.
    pub headers: &'a [Header<'a>],
    /// Milliseconds since 1970.
    pub timestamp: Option<i64>,
}

/// Something that can be sent: it lends a view of itself while it is encoded.
///
/// A type of one's own can implement it and be sent without being turned into another record first. It must not wait, nor send: in
/// [`send_all`](crate::Producer::send_all) and [`append`](crate::Producer::append) it may be called while a partition is locked.
pub trait AsRecord {
    /// Calls `look` with the view and returns what it returns.
    fn with_view<T>(&self, look: impl FnOnce(&RecordView<'_>) -> T) -> T;
}

impl AsRecord for Record<'_> {
    #[inline]
    fn with_view<T>(&self, look: impl FnOnce(&RecordView<'_>) -> T) -> T {
        look(&RecordView {
            topic: self.topic,
            partition: self.partition,
            key: self.key,
            value: self.value,
            headers: &self.headers,
            timestamp: self.timestamp,
        })
    }
}

impl AsRecord for RecordView<'_> {
    #[inline]
    fn with_view<T>(&self, look: impl FnOnce(&RecordView<'_>) -> T) -> T {
        look(self)
    }
}

impl AsRecord for OwnedRecord {
    #[inline]
    fn with_view<T>(&self, look: impl FnOnce(&RecordView<'_>) -> T) -> T {
        /// Records rarely have more headers; more of them cost an allocation.
        const ON_STACK: usize = 8;
        let view = RecordView {
            topic: &self.topic,
            partition: self.partition,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &[],
            timestamp: self.timestamp,
        };
        if self.headers.is_empty() {
            look(&view)
        } else if self.headers.len() <= ON_STACK {
            let mut headers: [Header<'_>; ON_STACK] = std::array::from_fn(|_| Header { key: &[], value: None });
            for (slot, (key, value)) in headers.iter_mut().zip(&self.headers) {
                *slot = borrowed(key, value);
            }
            look(&RecordView { headers: &headers[..self.headers.len()], ..view })
        } else {
            let headers: Vec<Header<'_>> = self.headers.iter().map(|(key, value)| borrowed(key, value)).collect();
            look(&RecordView { headers: &headers, ..view })
        }
    }
}

fn borrowed<'a>(key: &'a Bytes, value: &'a Option<Bytes>) -> Header<'a> {
    Header { key, value: value.as_deref() }
}

impl<R: AsRecord + ?Sized> AsRecord for &R {
    #[inline]
    fn with_view<T>(&self, look: impl FnOnce(&RecordView<'_>) -> T) -> T {
        (**self).with_view(look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_empty_differ_and_headers_keep_order_and_repeats() {
        let record = Record::to("t").key("").header("a", "1").header("b", "2").header("a", "3");
        record.with_view(|view| {
            assert_eq!((view.key, view.value), (Some(&b""[..]), None));
            let keys: Vec<_> = view.headers.iter().map(|header| (header.key, header.value)).collect();
            assert_eq!(keys, [(&b"a"[..], Some(&b"1"[..])), (b"b", Some(b"2")), (b"a", Some(b"3"))]);
        });
    }

    #[test]
    fn an_owned_record_lends_the_same_view_with_few_and_with_many_headers() {
        for headers in [0, 1, 8, 9, 30] {
            let mut record = OwnedRecord::to("t").key("k").value("v");
            record.headers =
                (0..headers).map(|n| (Bytes::from(format!("h{n}")), (n % 2 == 0).then(Bytes::new))).collect();
            record.with_view(|view| {
                assert_eq!((view.topic, view.key, view.value), ("t", Some(&b"k"[..]), Some(&b"v"[..])));
                assert_eq!(view.headers.len(), headers);
                for (n, header) in view.headers.iter().enumerate() {
                    assert_eq!((header.key, header.value.is_some()), (format!("h{n}").as_bytes(), n % 2 == 0));
                }
            });
        }
    }
}
