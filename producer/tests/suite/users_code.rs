//! Iterators and records of the user's own, which may wait, send or panic: whatever they do, no partition is locked for others meanwhile,
//! and none is forgotten. On the in-process cluster, under a paused clock.

#![expect(
    clippy::disallowed_methods,
    reason = "tests read the paused clock, and look at a producer from another thread"
)]
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Waker};
use std::time::Duration;

use milena_client::Client;
use milena_producer::{Acknowledged, AsRecord, Backlog, Interceptor, Producer, Purge, Record, RecordView};
use milena_testkit::{Api, Cluster, ErrorCode, Reaction};
use tokio::time::{sleep, timeout};

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

async fn start() -> (Cluster, Client, Producer) {
    let cluster = Cluster::builder().brokers(1).topic("orders", 2).seed(1).start_in_memory().unwrap();
    let client = crate::common::client(&cluster, 1).connect().await.unwrap();
    let producer = Producer::builder(&client).build().await.unwrap();
    producer.prepare_topic("orders").await.unwrap();
    (cluster, client, producer)
}

async fn end(cluster: Cluster, client: Client, producer: Producer) {
    producer.close(MINUTE).await.unwrap();
    client.close().await;
    assert_eq!(cluster.violations(), Vec::<String>::new());
    cluster.shutdown().await;
}

/// Fails unless another thread gets hold of every partition now.
fn nothing_is_locked(producer: &Producer) {
    let (sender, receiver) = mpsc::channel();
    let producer = producer.clone();
    std::thread::spawn(move || sender.send(producer.queues().len()));
    assert_eq!(receiver.recv_timeout(10 * SECOND), Ok(2), "a partition is locked while the user's code runs");
}

#[tokio::test(start_paused = true)]
async fn an_iterator_may_take_its_time_and_send() {
    let (cluster, client, producer) = start().await;
    let record = || Record::to("orders").partition(0).value("x");
    let looks = |n: usize| {
        nothing_is_locked(&producer);
        if n.is_multiple_of(3) {
            drop(producer.try_send(&record()).unwrap());
        }
        record()
    };
    let appended = producer.append("orders", 0, &mut Backlog::new((0..10).map(looks))).unwrap();
    assert_eq!(appended.count(), 10);
    let mut deliveries = Vec::new();
    producer.send_all((0..20).map(looks), &mut deliveries).await.unwrap();
    assert_eq!(deliveries.len(), 20);
    producer.flush().await.unwrap();
    assert_eq!(cluster.records("orders", 0).len(), 10 + 4 + 20 + 7);
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn an_iterator_that_panics_loses_nothing_of_what_was_taken() {
    let (cluster, client, producer) = start().await;
    let record = || Record::to("orders").partition(0).value("x");
    let panics = |n| if n < 2 { record() } else { panic!("on purpose") };
    let mut records = Backlog::new((0..5).filter(|_| true).map(panics));
    catch_unwind(AssertUnwindSafe(|| producer.append("orders", 0, &mut records))).unwrap_err();
    let delivery = producer.try_send(&record()).unwrap();
    let placed = timeout(SECOND, delivery).await.expect("its batch goes out").unwrap();
    assert_eq!(placed.offset, Some(2), "behind the two before the panic");
    // This one says how many there are. What has been asked for in advance is not taken, and still there.
    let mut records = Backlog::new((0..5).map(panics));
    catch_unwind(AssertUnwindSafe(|| producer.append("orders", 0, &mut records))).unwrap_err();
    assert!(records.next().is_some() && records.next().is_some());
    let delivery = producer.try_send(&record()).unwrap();
    assert_eq!(timeout(SECOND, delivery).await.expect("its batch goes out").unwrap().offset, Some(3));
    end(cluster, client, producer).await;
}

/// Panics once it has been looked at.
struct Fragile<'a>(Record<'a>);

impl AsRecord for Fragile<'_> {
    fn with_view<T>(&self, look: impl FnOnce(&RecordView<'_>) -> T) -> T {
        drop(self.0.with_view(look));
        panic!("on purpose");
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_panics_leaves_its_partition_in_order() {
    let (cluster, client, producer) = start().await;
    let record = || Record::to("orders").partition(0).value("x");
    catch_unwind(AssertUnwindSafe(|| producer.try_send(&Fragile(record())))).unwrap_err();
    let mut run = Backlog::new([Fragile(record())]);
    catch_unwind(AssertUnwindSafe(|| producer.append("orders", 1, &mut run))).unwrap_err();
    for partition in 0..2 {
        let delivery = producer.try_send(&record().partition(partition)).unwrap();
        let placed = timeout(SECOND, delivery).await.expect("its batch goes out").unwrap();
        assert_eq!(placed.offset, Some(1));
    }
    end(cluster, client, producer).await;
}

/// Flushes while it is told of a result.
#[derive(Debug, Clone, Default)]
struct Flushes {
    producer: Arc<Mutex<Option<Producer>>>,
    has_waited: Arc<Mutex<Vec<bool>>>,
}

impl Interceptor for Flushes {
    fn on_acknowledgement(&self, _: &Acknowledged<'_>) {
        let Some(producer) = self.producer.lock().unwrap().clone() else { return };
        let poll = pin!(producer.flush()).poll(&mut Context::from_waker(Waker::noop()));
        self.has_waited.lock().unwrap().push(poll.is_pending());
    }
}

#[tokio::test(start_paused = true)]
async fn a_flush_waits_for_results_that_are_being_told() {
    let flushes = Flushes::default();
    let cluster = Cluster::builder().brokers(1).topic("orders", 1).seed(1).start_in_memory().unwrap();
    let client = crate::common::client(&cluster, 1).connect().await.unwrap();
    let builder = Producer::builder(&client).request_timeout(SECOND).delivery_timeout(3 * SECOND);
    let producer = builder.interceptor(flushes.clone()).build().await.unwrap();
    producer.prepare_topic("orders").await.unwrap();
    *flushes.producer.lock().unwrap() = Some(producer.clone());
    let send = || producer.try_send(&Record::to("orders").value("x")).unwrap();
    // Written; refused; too late, first at the broker and then behind it; purged.
    send().await.unwrap();
    cluster.faults().when(Api::Produce).nth(1).then(Reaction::Error(ErrorCode::INVALID_RECORD));
    send().await.unwrap_err();
    let silent = cluster.faults().when(Api::Produce).always().then(Reaction::Drop);
    let (sent, ()) = (send(), sleep(SECOND / 2).await);
    let queued = send();
    sent.await.unwrap_err();
    queued.await.unwrap_err();
    silent.remove();
    let purged = send();
    producer.purge(Purge::QueuedAndInFlight);
    purged.await.unwrap_err();
    // Nothing of that is waited for any more.
    producer.flush().await.unwrap();
    *flushes.producer.lock().unwrap() = None;
    let has_waited = std::mem::take(&mut *flushes.has_waited.lock().unwrap());
    assert_eq!(has_waited, [true; 5]);
    end(cluster, client, producer).await;
}
