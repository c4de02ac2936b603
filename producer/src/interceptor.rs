//! The user's own code around sending and acknowledging (Java's `ProducerInterceptor`). It runs outside of all locks, and where there
//! is none it costs nothing.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use milena_client::Error;

use crate::delivery::Placed;
use crate::record::{AsRecord, Header, RecordView};

/// Sees every record before its partition is chosen, and may add headers to it; sees what became of every batch.
///
/// Both methods run in the way of the records: they must not block. A panic in one is logged and otherwise ignored, as Java ignores
/// an exception. Interceptors run in the order in which they were [given](crate::ProducerBuilder::interceptor).
pub trait Interceptor: Send + Sync + fmt::Debug {
    /// A record is about to be sent. `added` takes headers that come behind the record's own and those of the interceptors before.
    ///
    /// Called once for a record, in the task or on the thread that sends it; only for one that
    /// [`append`](crate::Producer::append) had no room for, once more when it is tried again.
    fn on_send(&self, record: &RecordView<'_>, added: &mut AddedHeaders) {
        let _ = (record, added);
    }

    /// Records have their result. Called once for each batch, on the producer's own thread (or that of whoever closes or purges),
    /// before those who await the records are woken; and once for each record that was shown to [`on_send`](Self::on_send) and then
    /// refused, where it was refused. Dropping the future of a `send` that still waits refuses its record
    /// ([`ErrorKind::Purged`](milena_client::ErrorKind::Purged)). A record that [`append`](crate::Producer::append) had no room for
    /// was not refused: it stays with its owner, who may try again.
    ///
    /// (Java calls it for each record. Here a batch is what the broker acknowledges, and its records have offsets in a row.)
    fn on_acknowledgement(&self, acknowledged: &Acknowledged<'_>) {
        let _ = acknowledged;
    }
}

/// What became of the records of one batch, or of a record that was refused.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Acknowledged<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition; `None` for a record that was refused before it had one.
    pub partition: Option<i32>,
    /// How many records.
    pub records: u32,
    /// Where the first of them is, or why none is anywhere.
    pub result: Result<Placed, &'a Error>,
}

/// Headers that an interceptor adds.
#[derive(Debug, Clone, Default)]
pub struct AddedHeaders(Vec<(Bytes, Option<Bytes>)>);

impl AddedHeaders {
    /// Adds a header behind all others; a repeated name stays a repeated header.
    pub fn add(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.0.push((key.into(), Some(value.into())));
    }

    /// Adds a header without a value.
    pub fn add_null(&mut self, key: impl Into<Bytes>) {
        self.0.push((key.into(), None));
    }
}

/// The interceptors of a producer, in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interceptors(Vec<Arc<dyn Interceptor>>);

impl Interceptors {
    pub(crate) fn push(&mut self, interceptor: impl Interceptor + 'static) {
        self.0.push(Arc::new(interceptor));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Shows a record to all of them; `place` is where it goes if that is not the record's to say.
    pub(crate) fn on_send<'a, R: AsRecord>(&self, record: &'a R, place: Option<(&'a str, i32)>) -> Intercepted<'a, R> {
        let mut intercepted = Intercepted { record, place, added: AddedHeaders::default() };
        for interceptor in &self.0 {
            let mut added = AddedHeaders::default();
            let shown =
                intercepted.with_view(|view| catch_unwind(AssertUnwindSafe(|| interceptor.on_send(view, &mut added))));
            match shown {
                Ok(()) => intercepted.added.0.append(&mut added.0),
                Err(_) => {
                    tracing::warn!(?interceptor, "an interceptor panicked in on_send; the record is sent without it")
                }
            }
        }
        intercepted
    }

    pub(crate) fn on_acknowledgement(&self, acknowledged: &Acknowledged<'_>) {
        for interceptor in &self.0 {
            if catch_unwind(AssertUnwindSafe(|| interceptor.on_acknowledgement(acknowledged))).is_err() {
                tracing::warn!(?interceptor, "an interceptor panicked in on_acknowledgement");
            }
        }
    }

    /// A record that all have seen is not taken after all.
    pub(crate) fn on_refused(&self, record: &impl AsRecord, error: &Error) {
        record.with_view(|view| self.on_refused_at(view.topic, view.partition, error));
    }

    /// The same, by the record's place.
    pub(crate) fn on_refused_at(&self, topic: &str, partition: Option<i32>, error: &Error) {
        self.on_acknowledgement(&Acknowledged { topic, partition, records: 1, result: Err(error) });
    }
}

/// A record with the headers that interceptors have added.
pub(crate) struct Intercepted<'a, R> {
    record: &'a R,
    place: Option<(&'a str, i32)>,
    added: AddedHeaders,
}

impl<R: AsRecord> AsRecord for Intercepted<'_, R> {
    fn with_view<T>(&self, look: impl FnOnce(&RecordView<'_>) -> T) -> T {
        self.record.with_view(|view| {
            let (topic, partition) = match self.place {
                Some((topic, partition)) => (topic, Some(partition)),
                None => (view.topic, view.partition),
            };
            let added = self.added.0.iter().map(|(key, value)| Header { key, value: value.as_deref() });
            let headers: Vec<Header<'_>> = view.headers.iter().copied().chain(added).collect();
            look(&RecordView { topic, partition, headers: &headers, ..*view })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::record::Record;

    /// Adds a header with the number of headers it has seen.
    #[derive(Debug)]
    struct Counts;

    impl Interceptor for Counts {
        fn on_send(&self, record: &RecordView<'_>, added: &mut AddedHeaders) {
            added.add("seen", record.headers.len().to_string());
        }
    }

    #[derive(Debug, Default)]
    struct Panics(Mutex<u32>);

    impl Interceptor for Panics {
        fn on_send(&self, _: &RecordView<'_>, added: &mut AddedHeaders) {
            added.add("half", "done");
            panic!("on purpose");
        }

        fn on_acknowledgement(&self, acknowledged: &Acknowledged<'_>) {
            if let Ok(mut count) = self.0.lock() {
                *count += acknowledged.records;
            }
            panic!("on purpose");
        }
    }

    #[test]
    fn each_sees_the_headers_of_those_before_and_one_that_panics_changes_nothing() {
        let mut interceptors = Interceptors::default();
        interceptors.push(Counts);
        interceptors.push(Panics::default());
        interceptors.push(Counts);
        let record = Record::to("t").partition(1).header("own", "x");
        interceptors.on_send(&record, None).with_view(|view| {
            let headers: Vec<_> = view.headers.iter().map(|header| (header.key, header.value)).collect();
            let expected = [("own", "x"), ("seen", "1"), ("seen", "2")];
            assert_eq!(headers, expected.map(|(key, value)| (key.as_bytes(), Some(value.as_bytes()))));
            assert_eq!((view.topic, view.partition), ("t", Some(1)));
        });
        interceptors.on_send(&record, Some(("other", 7))).with_view(|view| {
            assert_eq!((view.topic, view.partition), ("other", Some(7)));
        });
        let error = Error::new(milena_client::ErrorKind::Limit, "no");
        interceptors.on_refused(&record, &error);
    }
}
