//! The reading methods, the same for both kinds of consumers: each type has them itself, so that a user needs no trait in scope.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use milena_client::Error;

use crate::Records;
use crate::deadline::after;
use crate::reader::Reader;

macro_rules! reading_methods {
    ($consumer:ident) => {
        impl $consumer {
            /// The next record, borrowed until the next call. Asking for it acknowledges the one before.
            ///
            /// Partitions take turns batch by batch. `None` when the consumer is closed.
            ///
            /// # Errors
            /// A batch that cannot be read (naming topic, partition and offset; it comes again until somebody seeks behind it), an
            /// offset that is not in the log where no reset policy is set, a refusal by a broker or by the group. Reading may go on
            /// after an error, unless it [is fatal](milena_client::Error::is_fatal).
            ///
            /// # Cancel safety
            /// Dropped, nothing is lost: the record is lent by the next call. The record lent before counts as acknowledged.
            #[inline]
            pub async fn recv(&mut self) -> Result<Option<crate::RecordRef<'_>>, milena_client::Error> {
                if std::future::poll_fn(|cx| self.reader.poll_next(cx)).await? {
                    Ok(self.reader.lent_record())
                } else {
                    Ok(None)
                }
            }

            /// The records that are there, at most `max_poll_records`; waits for the first of them at most `max_wait`, and is empty
            /// after that.
            ///
            /// In a group, [acknowledge](crate::Records::ack) them when they are processed.
            ///
            /// # Errors
            /// As [`recv`](Self::recv).
            ///
            /// # Cancel safety
            /// Dropped, nothing is lost: records are taken only when they are returned.
            pub async fn poll(
                &mut self,
                max_wait: std::time::Duration,
            ) -> Result<crate::Records, milena_client::Error> {
                crate::reading::poll(&mut self.reader, max_wait).await
            }

            /// Like [`poll`](Self::poll), for a plain thread: blocks it.
            ///
            /// # Errors
            /// As [`recv`](Self::recv).
            pub fn poll_blocking(
                &mut self,
                max_wait: std::time::Duration,
            ) -> Result<crate::Records, milena_client::Error> {
                crate::reading::poll_blocking(&mut self.reader, max_wait)
            }

            /// What is there, without waiting; empty if nothing is.
            ///
            /// # Errors
            /// As [`recv`](Self::recv).
            pub fn try_poll(&mut self) -> Result<crate::Records, milena_client::Error> {
                let records = self.reader.try_poll(std::task::Waker::noop())?;
                Ok(records.unwrap_or_else(|| crate::Records::none(&self.reader.shared)))
            }

            /// The records, owned, as a stream. In a group each is acknowledged [by itself](crate::SharedRecord::ack).
            ///
            /// ```no_run
            /// # async fn f(consumer: &mut milena_consumer::PartitionConsumer) -> Result<(), milena_client::Error> {
            /// use futures_util::StreamExt;
            /// let mut records = consumer.stream();
            /// while let Some(record) = records.next().await {
            ///     let record = record?;
            ///     println!("{} {:?}", record.offset(), record.value());
            ///     record.ack();
            /// }
            /// # Ok(()) }
            /// ```
            pub fn stream(&mut self) -> crate::RecordStream<'_> {
                crate::RecordStream::new(&mut self.reader)
            }

            /// The same consumer with decoded keys and values. See [`TypedConsumer`](crate::TypedConsumer).
            pub fn typed<K, V>(
                self,
                key: impl milena_client::Deserializer<K> + 'static,
                value: impl milena_client::Deserializer<V> + 'static,
            ) -> crate::TypedConsumer<Self, K, V> {
                crate::TypedConsumer::new(self, Box::new(key), Box::new(value))
            }

            pub(crate) fn reader_mut(&mut self) -> &mut crate::reader::Reader {
                &mut self.reader
            }
        }
    };
}
pub(crate) use reading_methods;

pub(crate) async fn poll(reader: &mut Reader, max_wait: Duration) -> Result<Records, Error> {
    let shared = reader.shared.clone();
    let mut timer = None;
    std::future::poll_fn(|cx: &mut Context<'_>| {
        // A reader that always finds data must still let its runtime's other tasks run.
        let coop = std::task::ready!(tokio::task::coop::poll_proceed(cx));
        if let Some(records) = reader.try_poll(cx.waker())? {
            coop.made_progress();
            return Poll::Ready(Ok(records));
        }
        if max_wait.is_zero() {
            return Poll::Ready(Ok(Records::none(&shared)));
        }
        // The clock is looked at only by a poll that has to wait.
        let timer = timer.get_or_insert_with(|| shared.link.sleep_until(after(shared.link.now(), max_wait)));
        // Closing the client ends every timer.
        timer.as_mut().poll(cx).map(|()| shared.link.check_open().map(|()| Records::none(&shared)))
    })
    .await
}

/// Wakes a thread that is parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

pub(crate) fn poll_blocking(reader: &mut Reader, max_wait: Duration) -> Result<Records, Error> {
    let mut waiting: Option<(Waker, tokio::time::Instant)> = None;
    loop {
        let now = reader.shared.link.now();
        let (waker, until) = match &waiting {
            Some(waiting) => waiting,
            None => match reader.try_poll(Waker::noop())? {
                Some(records) => return Ok(records),
                None => waiting.insert((Waker::from(Arc::new(Unpark(thread::current()))), after(now, max_wait))),
            },
        };
        if let Some(records) = reader.try_poll(waker)? {
            return Ok(records);
        }
        let left = until.saturating_duration_since(now);
        if left.is_zero() {
            return Ok(Records::none(&reader.shared));
        }
        thread::park_timeout(left);
    }
}
