//! The contenders behind one trait, so that all of them run the same loops ([`crate::load`]).
//!
//! Each is used as its documentation says is fastest among its safe ways: idempotent where it can be, every delivery awaited or
//! counted by its callback, nothing copied here that its interface does not ask for.

#[cfg(feature = "confluent")]
mod confluent;
mod krafka;
mod milena;
mod rdkafka;
mod rskafka;

use std::time::Duration;

use bytes::Bytes;

use crate::job::{Client, Job, Outcome};
use crate::load;

/// Linger of every client.
const LINGER: Duration = Duration::from_millis(5);

/// A record, borrowed: who needs it owned copies it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shot<'a> {
    pub(crate) key: Option<&'a [u8; 16]>,
    pub(crate) partition: Option<i32>,
    pub(crate) value: &'a Bytes,
    /// Microseconds after the measurement's start at which it should have been sent, and 1 more; 0 where nobody asks.
    pub(crate) due_us: u64,
}

/// A producer that is measured.
pub(crate) trait Contender: Sized {
    /// What stands for the acknowledgement to come.
    type Delivery;

    async fn connect(job: &Job) -> Self;

    /// Hands the record over; waits for room only.
    async fn send(&self, shot: Shot<'_>) -> Self::Delivery;

    /// Waits for the acknowledgement. Panics when the record was not delivered.
    async fn settle(&self, delivery: Self::Delivery);

    /// Waits until all is delivered; after the last `settle`.
    async fn finish(&self) {}

    /// Of a client that reports deliveries to a callback: the latencies, in microseconds, of all records that were due, since the
    /// last call.
    fn latencies(&self, _now_is_zero: bool) -> Option<Vec<u32>> {
        None
    }
}

/// Runs the job in this process.
pub(crate) fn run(job: &Job) -> Outcome {
    match job.client {
        // Its sockets are served by a thread of its own.
        Client::Milena => on_this_thread(load::run::<milena::Milena>(job)),
        // librdkafka has threads of its own.
        Client::RdkafkaThreaded => on_this_thread(load::run::<rdkafka::Threaded>(job)),
        Client::RdkafkaFuture => on_this_thread(load::run::<rdkafka::Future>(job)),
        // These serve their sockets on the runtime that they find.
        Client::Krafka => on_two_workers(load::run::<krafka::Krafka>(job)),
        #[cfg(feature = "confluent")]
        Client::Confluent => on_two_workers(load::run::<confluent::Confluent>(job)),
        Client::Rskafka => on_two_workers(load::run::<rskafka::Rskafka>(job)),
        #[cfg(not(feature = "confluent"))]
        Client::Confluent => {
            panic!("built without confluent-kafka: cargo xtask bench produce --with-confluent builds it")
        }
        Client::Java => panic!("it is no process of ours"),
    }
}

fn on_this_thread<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(future)
}

fn on_two_workers<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(future)
}
