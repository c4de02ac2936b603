//! What a user does with a producer beside `send`: many records at once, room in advance, values instead of bytes, purges, code of
//! one's own around it; and what a producer says to bad input. On the in-process cluster, under a paused clock.

#![expect(clippy::disallowed_methods, reason = "tests read the paused clock and sleep on it")]
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use milena_client::serde::{Long, Text};
use milena_client::{Client, Error, ErrorKind, Outcome, RefreshReason, SerializeError, Serializer};
use milena_producer::{
    Acknowledged, AddedHeaders, Backlog, Compression, Delivery, Interceptor, OwnedRecord, Producer, ProducerBuilder,
    Purge, Record, RecordView, TypedRecord, murmur2_partition,
};
use milena_testkit::{Api, Cluster, ErrorCode, Reaction};
use tokio::time::{Instant, sleep};

const MINUTE: Duration = Duration::from_secs(60);

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn cluster() -> Cluster {
    Cluster::builder().brokers(1).topic("orders", 3).seed(1).start_in_memory().unwrap()
}

async fn producer(cluster: &Cluster, set: impl FnOnce(ProducerBuilder) -> ProducerBuilder) -> (Client, Producer) {
    let client = crate::common::client(cluster, 1).connect().await.unwrap();
    let producer = set(Producer::builder(&client)).build().await.unwrap();
    (client, producer)
}

fn values(cluster: &Cluster, partition: i32) -> Vec<String> {
    let records = cluster.records("orders", partition).into_iter();
    records.map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap()).collect()
}

/// Closes everything and sees that nothing forbidden has happened at the brokers.
async fn end(cluster: Cluster, client: Client, producer: Producer) {
    producer.close(MINUTE).await.unwrap();
    client.close().await;
    assert_eq!(client.tasks(), 0);
    assert_eq!(cluster.violations(), Vec::<String>::new());
    cluster.shutdown().await;
}

// ---- many at once

#[tokio::test(start_paused = true)]
async fn many_records_are_taken_in_order_wherever_they_go() {
    let cluster = cluster();
    let (client, producer) = producer(&cluster, |builder| builder.batch_size(1024).max_batch_size(1024)).await;
    // Keys, places of their own and neither, changing all the time and staying for a while.
    let values_sent: Vec<String> = (0..2000).map(|n| format!("{n}")).collect();
    let records: Vec<Record<'_>> = values_sent
        .iter()
        .enumerate()
        .map(|(n, value)| match n / 20 % 4 {
            0 => Record::to("orders").partition(1).value(value),
            1 => Record::to("orders").key("k").value(value),
            2 => Record::to("orders").value(value),
            _ => Record::to("orders").partition((n % 3) as i32).value(value),
        })
        .collect();
    let mut deliveries = Vec::new();
    producer.send_all(&records, &mut deliveries).await.unwrap();
    assert_eq!(deliveries.len(), records.len());
    let mut last = BTreeMap::new();
    for (delivery, value) in deliveries.into_iter().zip(&values_sent) {
        let placed = delivery.await.unwrap();
        let offset = placed.offset.unwrap();
        assert!(last.insert(placed.partition, offset).is_none_or(|before| before < offset), "{value} is behind");
        assert_eq!(&values(&cluster, placed.partition)[offset as usize], value);
    }
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn one_refused_among_many_says_which_and_leaves_the_others() {
    let cluster = cluster();
    let (client, producer) = producer(&cluster, |builder| builder).await;
    let records: Vec<_> =
        [0, 0, 9, 0].into_iter().map(|partition| Record::to("orders").partition(partition).value("x")).collect();
    let mut deliveries = Vec::new();
    let error = producer.send_all(&records, &mut deliveries).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownTopicOrPartition);
    assert_eq!(deliveries.len(), 2, "the third one failed, and the fourth was not looked at");
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    assert_eq!(values(&cluster, 0).len(), 2);
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn many_records_wait_for_room_and_the_memory_stays_within_its_budget() {
    let cluster = Cluster::builder().brokers(1).topic("orders", 1).latency(millis(20)).start_in_memory().unwrap();
    let (client, producer) =
        producer(&cluster, |builder| builder.buffer_memory(64 << 10).max_batch_size(16 << 10)).await;
    let all: Vec<String> = (0..1000).map(|n| format!("{n:0>1000}")).collect();
    let mut deliveries = Vec::new();
    let records = all.iter().map(|value| Record::to("orders").partition(0).value(value));
    producer.send_all(records, &mut deliveries).await.unwrap();
    assert_eq!(deliveries.len(), 1000);
    for (n, delivery) in deliveries.into_iter().enumerate() {
        assert_eq!(delivery.await.unwrap().offset, Some(n as i64));
    }
    assert_eq!(values(&cluster, 0), all);
    assert_eq!(producer.room(), 64 << 10);
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn a_transaction_takes_many_and_typed_ones_too() {
    let cluster = cluster();
    let client = crate::common::client(&cluster, 1).connect().await.unwrap();
    let producer = Producer::builder(&client).transactional_id("id").build().await.unwrap();
    let transaction = producer.begin();
    let mut deliveries = Vec::new();
    transaction
        .send_all(["a", "b"].map(|value| Record::to("orders").partition(0).value(value)), &mut deliveries)
        .await
        .unwrap();
    let typed = transaction.typed(Text, Text);
    deliveries.push(typed.send(&TypedRecord::<str, str>::to("orders").partition(0).value("c")).await.unwrap());
    let producer = transaction.commit().await.unwrap();
    let late = typed.send(&TypedRecord::<str, str>::to("orders").partition(0).value("d")).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::TransactionEnded);
    assert!(deliveries.iter().all(Delivery::is_done));
    assert_eq!(cluster.committed_records("orders", 0).len(), 3);
    producer.close(MINUTE).await.unwrap();
}

// ---- room in advance

#[tokio::test(start_paused = true)]
async fn a_permit_takes_its_record_without_waiting_however_full_the_memory_is() {
    let cluster = cluster();
    let (client, producer) =
        producer(&cluster, |builder| builder.buffer_memory(64 << 10).max_batch_size(16 << 10)).await;
    producer.prepare_topic("orders").await.unwrap();
    cluster.faults().when(Api::Produce).always().then(Reaction::DelayAnswer(millis(500)));
    let permit = producer.reserve(15 << 10).await.unwrap();
    let large = "x".repeat(15 << 10);
    let record = Record::to("orders").partition(0).value(&large);
    let mut deliveries = Vec::new();
    while let Ok(delivery) = producer.try_send(&record) {
        deliveries.push(delivery);
    }
    assert_eq!((deliveries.len(), producer.room()), (3, 0), "a quarter is reserved");
    deliveries.push(permit.send(&record).unwrap());
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    assert_eq!(producer.room(), 64 << 10);
    // One that is dropped, and one whose record fits into the open batch, give the room back.
    drop(producer.reserve(1).await.unwrap());
    drop(producer.send(&Record::to("orders").partition(0).value("opens")).await.unwrap());
    let room = producer.room();
    let permit = producer.reserve(1).await.unwrap();
    assert_eq!(producer.room(), room - (16 << 10));
    drop(permit.send(&Record::to("orders").partition(0).value("y")).unwrap());
    assert_eq!(producer.room(), room);
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn a_permit_larger_than_a_batch_and_one_that_can_never_be() {
    let cluster = cluster();
    let (client, producer) = producer(&cluster, |builder| builder.buffer_memory(128 << 10)).await;
    producer.prepare_topic("orders").await.unwrap();
    let error = producer.reserve(1 << 20).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Limit, Outcome::NotWritten));
    let permit = producer.reserve(100_000).await.unwrap();
    assert!(producer.room() < 31 << 10);
    let delivery = permit.send(&Record::to("orders").partition(0).value(&vec![7; 100_000])).unwrap();
    delivery.await.unwrap();
    assert_eq!(producer.room(), 128 << 10);
    let permit = producer.reserve(10).await.unwrap();
    drop(producer.reserve(90_000).await.unwrap());
    let _most = producer.reserve(80_000).await.unwrap();
    let error = permit.send(&Record::to("orders").partition(0).value(&vec![7; 60_000])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    end(cluster, client, producer).await;
}

// ---- values instead of bytes

/// Refuses odd numbers.
#[derive(Debug, Clone, Copy)]
struct Even;

impl Serializer<i64> for Even {
    fn serialize(&self, topic: &str, value: &i64, out: &mut Vec<u8>) -> Result<(), SerializeError> {
        if value % 2 != 0 {
            // What it has written until then is not sent.
            out.push(0);
            return Err(SerializeError::new("an odd number"));
        }
        Long.serialize(topic, value, out)
    }
}

#[tokio::test(start_paused = true)]
async fn keys_and_values_are_serialized_and_nothing_is_null_that_was_not() {
    let cluster = cluster();
    let (client, producer) = producer(&cluster, |builder| builder).await;
    let typed = producer.typed(Text, Even);
    for (key, value) in [(Some("a"), Some(2)), (None, Some(4)), (Some(""), None)] {
        let mut record = TypedRecord::to("orders").partition(0).header("h", "1").timestamp(5);
        if let Some(key) = key {
            record = record.key(key);
        }
        if let Some(value) = &value {
            record = record.value(value);
        }
        drop(typed.send(&record).await.unwrap());
    }
    producer.flush().await.unwrap();
    let stored = cluster.records("orders", 0);
    let parts: Vec<_> = stored.iter().map(|record| (record.key.as_deref(), record.value.as_deref())).collect();
    let (two, four) = (2_i64.to_be_bytes(), 4_i64.to_be_bytes());
    assert_eq!(parts, [(Some(&b"a"[..]), Some(&two[..])), (None, Some(&four[..])), (Some(&b""[..]), None)]);
    assert!(stored.iter().all(|record| record.headers.len() == 1));
    // The partition is that of the key's bytes.
    let delivery = typed.send(&TypedRecord::<str, i64>::to("orders").key("a")).await.unwrap();
    assert_eq!(delivery.await.unwrap().partition, murmur2_partition(b"a", 3));
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn a_value_that_cannot_be_serialized_stays_with_its_owner_and_harms_nothing() {
    let cluster = cluster();
    let (client, producer) = producer(&cluster, |builder| builder).await;
    let typed = producer.typed(Text, Even);
    let record = TypedRecord::to("orders").partition(0).key("k").value(&3);
    for error in [typed.send(&record).await.unwrap_err(), typed.try_send(&record).unwrap_err()] {
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Serialization, Outcome::NotWritten));
        assert!(std::error::Error::source(&error).unwrap().is::<SerializeError>());
        assert!(error.to_string().contains("an odd number"), "{error}");
    }
    typed.send(&record.value(&4)).await.unwrap().await.unwrap();
    assert_eq!(cluster.records("orders", 0).len(), 1);
    end(cluster, client, producer).await;
}

// ---- purges

/// Sends records to partition 0, one batch each.
async fn send_each(producer: &Producer, range: std::ops::Range<u32>) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for n in range {
        let value = n.to_string();
        deliveries.push(producer.send(&Record::to("orders").partition(0).value(&value)).await.unwrap());
        sleep(millis(1)).await;
    }
    deliveries
}

/// How many of the deliveries were written, purged as not written, and purged as unknown.
async fn outcomes(deliveries: Vec<Delivery>) -> (u64, u64, u64) {
    let (mut written, mut not_written, mut unknown) = (0, 0, 0);
    for delivery in deliveries {
        match delivery.await {
            Ok(_) => written += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Purged);
                match error.outcome() {
                    Outcome::NotWritten => not_written += 1,
                    _ => unknown += 1,
                }
            }
        }
    }
    (written, not_written, unknown)
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_gives_no_producer_id_is_not_waited_for_long() {
    let cluster = Cluster::builder().brokers(3).topic("orders", 3).seed(1).start_in_memory().unwrap();
    // Frozen: it takes the question and says nothing. Any other could answer.
    let silent = cluster.faults().when(Api::InitProducerId).nth(1).then(Reaction::Hold);
    let began = Instant::now();
    let (client, producer) = producer(&cluster, |builder| builder.linger(Duration::ZERO)).await;
    producer.send(&Record::to("orders").value("x")).await.unwrap().await.unwrap();
    assert_eq!(silent.fired(), 1);
    let waited = began.elapsed();
    assert!((millis(5000)..millis(6000)).contains(&waited), "{waited:?}, and not request_timeout");
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_made_anew_with_fewer_partitions_is_written_in_those() {
    let cluster = cluster();
    let (client, producer) =
        producer(&cluster, |builder| builder.request_timeout(millis(5000)).delivery_timeout(millis(20_000))).await;
    let key = (0..).map(|n: u32| n.to_string()).find(|key| murmur2_partition(key.as_bytes(), 3) == 2).unwrap();
    let (keyed, any) = (Record::to("orders").key(&key).value("k"), Record::to("orders").value("v"));
    assert_eq!(producer.send(&keyed).await.unwrap().await.unwrap().partition, 2);
    producer.send(&any).await.unwrap().await.unwrap();
    cluster.delete_topic("orders");
    cluster.create_topic("orders", 1);
    // One has to find out, and waits for its partition in vain.
    let late = producer.send(&keyed).await.unwrap();
    sleep(millis(5000)).await;
    for n in 0..20 {
        let record = if n % 2 == 0 { &keyed } else { &any };
        assert_eq!(producer.send(record).await.unwrap().await.unwrap().partition, 0);
    }
    let error = producer.send(&any.clone().partition(2)).await.unwrap_err();
    assert!(error.to_string().contains("has 1 partition"), "{error}");
    assert_eq!(late.await.unwrap_err().kind(), ErrorKind::Timeout);
    // And in more of them again.
    cluster.grow_topic("orders", 3);
    client.refresh_metadata(RefreshReason::Asked);
    sleep(millis(5000)).await;
    assert_eq!(producer.send(&keyed).await.unwrap().await.unwrap().partition, 2);
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_speaks_no_version_of_produce_that_we_do_has_got_nothing() {
    let cluster = Cluster::builder()
        .brokers(1)
        .topic("orders", 3)
        .newest_version(Api::Produce, 2)
        .seed(1)
        .start_in_memory()
        .unwrap();
    let (client, producer) = producer(&cluster, |builder| {
        // One small batch is compressed at a time, and so each would get a connection of its own.
        let builder = builder.linger(Duration::ZERO).compression(Compression::Lz4);
        builder.request_timeout(millis(5000)).delivery_timeout(millis(20_000))
    })
    .await;
    let mut deliveries = Vec::new();
    for partition in 0..3 {
        deliveries.push(producer.send(&Record::to("orders").partition(partition).value("x")).await.unwrap());
    }
    for delivery in deliveries {
        let error = delivery.await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotWritten), "{error}");
        assert!(error.to_string().contains("Produce"), "what to do about it must be there: {error}");
    }
    // The back-off grows to a second: this is no loop that connects again and again.
    let asked = cluster.request_log().api(Api::ApiVersions).count();
    assert!((5..=30).contains(&asked), "{asked} connections");
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn a_purge_of_the_queue_leaves_what_is_in_flight() {
    let cluster = cluster();
    let (client, producer) = producer(&cluster, |builder| builder.linger(Duration::ZERO)).await;
    send_each(&producer, 0..1).await.pop().unwrap().await.unwrap();
    cluster.faults().when(Api::Produce).times(5).then(Reaction::DelayAnswer(Duration::from_secs(1)));
    let deliveries = send_each(&producer, 1..21).await;
    let purged = producer.purge(Purge::Queued);
    assert_eq!((purged.not_written, purged.unknown), (15, 0), "five batches are in flight");
    assert_eq!(outcomes(deliveries).await, (5, 15, 0));
    assert_eq!(producer.room(), 32 << 20);
    // The sequence goes on, in a new epoch.
    let after = send_each(&producer, 21..31).await;
    assert_eq!(outcomes(after).await, (10, 0, 0));
    let expected: Vec<String> = (0..6).chain(21..31).map(|n| n.to_string()).collect();
    assert_eq!(values(&cluster, 0), expected);
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn a_purged_batch_in_flight_is_unknown_and_is_never_sent_again() {
    let cluster = cluster();
    let (client, producer) = producer(&cluster, |builder| builder.linger(Duration::ZERO)).await;
    send_each(&producer, 0..1).await.pop().unwrap().await.unwrap();
    // Some are applied and some are not, and no answer comes.
    cluster.faults().when(Api::Produce).times(3).then(Reaction::HoldAnswer);
    let deliveries = send_each(&producer, 1..21).await;
    let before = values(&cluster, 0);
    let room = producer.room();
    let purged = producer.purge(Purge::QueuedAndInFlight);
    assert_eq!(purged.not_written + purged.unknown, 20);
    assert!(purged.unknown > 0 && purged.unknown <= 5 && producer.room() > room, "{purged:?}");
    assert_eq!(outcomes(deliveries).await, (0, purged.not_written, purged.unknown));
    assert_eq!(producer.room(), 32 << 20, "their memory is free again");
    let started = Instant::now();
    producer.flush().await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO, "nothing is left to wait for");
    cluster.disconnect(1);
    let after = send_each(&producer, 21..31).await;
    assert_eq!(outcomes(after).await, (10, 0, 0));
    let now = values(&cluster, 0);
    let expected: Vec<String> = before.into_iter().chain((21..31).map(|n| n.to_string())).collect();
    assert_eq!(now, expected, "what was purged is there at most as it was");
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn a_purge_lets_go_on_whoever_waits_for_room() {
    let cluster = cluster();
    let (client, producer) =
        producer(&cluster, |builder| builder.buffer_memory(64 << 10).max_batch_size(16 << 10)).await;
    producer.prepare_topic("orders").await.unwrap();
    let held = cluster.faults().when(Api::Produce).always().then(Reaction::DelayAnswer(Duration::from_secs(20)));
    let large = "x".repeat(15 << 10);
    let record = Record::to("orders").partition(0).value(&large);
    let mut deliveries = Vec::new();
    while let Ok(delivery) = producer.try_send(&record) {
        deliveries.push(delivery);
    }
    let started = Instant::now();
    let (sent, ()) = tokio::join!(producer.send(&record), async {
        sleep(millis(100)).await;
        producer.purge(Purge::QueuedAndInFlight);
    });
    assert_eq!(started.elapsed(), millis(100));
    assert_eq!(outcomes(deliveries).await.0, 0);
    sent.unwrap().await.unwrap();
    assert!(held.fired() > 0);
    end(cluster, client, producer).await;
}

// ---- code of one's own

#[derive(Debug, Default)]
struct Seen {
    sent: Vec<String>,
    acknowledged: Vec<(Option<i32>, u32, Result<Option<i64>, ErrorKind>)>,
}

/// Adds a header, and writes down what it sees. Asks the producer things under no lock.
#[derive(Debug, Clone, Default)]
struct Witness(Arc<Mutex<Seen>>, Arc<Mutex<Option<Producer>>>);

impl Interceptor for Witness {
    fn on_send(&self, record: &RecordView<'_>, added: &mut AddedHeaders) {
        added.add("trace", "4711");
        self.0.lock().unwrap().sent.push(String::from_utf8(record.value.unwrap_or_default().to_vec()).unwrap());
    }

    fn on_acknowledgement(&self, acknowledged: &Acknowledged<'_>) {
        if let Some(producer) = &*self.1.lock().unwrap() {
            // Would never come back under a partition's lock.
            assert!(producer.queues().len() <= 3);
        }
        let result = acknowledged.result.map(|placed| placed.offset).map_err(Error::kind);
        self.0.lock().unwrap().acknowledged.push((acknowledged.partition, acknowledged.records, result));
    }
}

#[tokio::test(start_paused = true)]
async fn interceptors_are_told_once_of_each_record_that_was_refused_after_they_saw_it() {
    let cluster = cluster();
    let witness = Witness::default();
    let (client, producer) = producer(&cluster, |builder| {
        let small = builder.buffer_memory(16 << 10).max_batch_size(16 << 10).max_block(millis(100));
        small.interceptor(witness.clone())
    })
    .await;
    let refused = || {
        let seen = std::mem::take(&mut *witness.0.lock().unwrap());
        let errors: Vec<_> =
            seen.acknowledged.iter().filter_map(|one| one.2.err().map(|kind| (one.0, one.1, kind))).collect();
        (seen.sent.len(), errors)
    };
    // Nobody sees a record of a topic that must be looked up first.
    let mut run = Backlog::new([OwnedRecord::to("").value("a")]);
    producer.append("orders", 0, &mut run).unwrap_err();
    assert_eq!(refused(), (0, vec![]));
    producer.prepare_topic("orders").await.unwrap();
    // One that waits for room and is dropped meanwhile.
    cluster.faults().when(Api::Produce).times(1).then(Reaction::DelayAnswer(Duration::from_secs(1)));
    let large = "x".repeat(9 << 10);
    let record = Record::to("orders").partition(0).value(&large);
    let first = producer.send(&record).await.unwrap();
    assert!(tokio::time::timeout(millis(10), producer.send(&record)).await.is_err());
    assert_eq!(refused(), (2, vec![(Some(0), 1, ErrorKind::Purged)]));
    // One that there was no room for, and that is tried again, was not refused; one that waited in vain was.
    let mut run = Backlog::new([&record]);
    assert!(producer.append("orders", 0, &mut run).unwrap().is_full());
    assert_eq!(refused(), (1, vec![]));
    assert_eq!(producer.send(&record).await.unwrap_err().kind(), ErrorKind::Limit);
    assert_eq!(refused(), (1, vec![(Some(0), 1, ErrorKind::Limit)]));
    first.await.unwrap();
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn a_topic_is_looked_up_once_at_a_time_and_the_next_call_is_told_why_that_failed() {
    let cluster = cluster();
    let (client, producer) = producer(&cluster, |builder| builder.max_block(millis(500))).await;
    let record = Record::to("no/such/name").value("x");
    let before = client.tasks();
    for _ in 0..10 {
        let error = producer.try_send(&record).unwrap_err();
        assert!(error.to_string().contains("is being looked up"), "{error}");
    }
    assert_eq!(client.tasks(), before + 1);
    sleep(Duration::from_secs(1)).await;
    let error = producer.try_send(&record).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Broker(ErrorCode::INVALID_TOPIC_EXCEPTION)), "{error}");
    let mut run = Backlog::new([&record]);
    let error = producer.append("no/such/name", 0, &mut run).unwrap_err();
    assert!(error.to_string().contains("is being looked up"), "a new one: {error}");
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_blocking_append_has_taken_before_it_failed_is_not_lost() {
    let cluster = cluster();
    let (client, producer) = producer(&cluster, |builder| builder.max_request_size(16 << 10)).await;
    producer.prepare_topic("orders").await.unwrap();
    let large = "x".repeat(20 << 10);
    let mut run = Backlog::new(["a", "b", &large, "c"].into_iter().map(|value| Record::to("orders").value(value)));
    let appended = producer.append_blocking("orders", 0, &mut run).unwrap();
    assert_eq!((appended.count(), appended.is_full()), (2, false));
    assert_eq!(appended.error().map(Error::kind), Some(ErrorKind::Limit));
    appended.delivered().await.unwrap();
    assert_eq!(producer.append_blocking("orders", 0, &mut run).unwrap_err().kind(), ErrorKind::Limit);
    assert_eq!(run.count(), 2, "the large one is still there");
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_set_after_a_profile_counts_and_any_deadline_is_one() {
    let cluster = cluster();
    let (client, producer) = producer(&cluster, |builder| {
        builder.idempotence(true).profile(milena_producer::Profile::Throughput).acks(milena_producer::Acks::Leader)
    })
    .await;
    producer.close(Duration::MAX).await.unwrap();
    let transactional = Producer::builder(&client).transactional_id("id").build().await.unwrap();
    transactional.close(Duration::MAX).await.unwrap();
    client.close().await;
}

#[derive(Debug)]
struct Panics;

impl Interceptor for Panics {
    fn on_send(&self, _: &RecordView<'_>, _: &mut AddedHeaders) {
        panic!("an interceptor's own fault");
    }

    fn on_acknowledgement(&self, _: &Acknowledged<'_>) {
        panic!("an interceptor's own fault");
    }
}

#[tokio::test(start_paused = true)]
async fn interceptors_add_headers_and_see_what_became_of_the_records() {
    let cluster = cluster();
    let witness = Witness::default();
    let (client, producer) =
        producer(&cluster, |builder| builder.interceptor(Panics).interceptor(witness.clone())).await;
    *witness.1.lock().unwrap() = Some(producer.clone());
    producer.prepare_topic("orders").await.unwrap();
    let to = |value| Record::to("orders").partition(0).header("own", "1").value(value);
    drop(producer.send(&to("a")).await.unwrap());
    drop(producer.try_send(&to("b")).unwrap());
    let mut deliveries = Vec::new();
    producer.send_all(["c", "d"].map(to), &mut deliveries).await.unwrap();
    let mut run = Backlog::new(["e", "f"].map(|value| OwnedRecord::to("ignored").value(value)));
    assert_eq!(producer.append("orders", 0, &mut run).unwrap().count(), 2);
    producer.reserve(10).await.unwrap().send(&to("g")).unwrap().await.unwrap();
    let refused = producer.send(&Record::to("orders").partition(9).value("h")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::UnknownTopicOrPartition);
    producer.flush().await.unwrap();
    let stored = cluster.records("orders", 0);
    assert_eq!(values(&cluster, 0), ["a", "b", "c", "d", "e", "f", "g"]);
    for (record, own) in stored.iter().zip([1, 1, 1, 1, 0, 0, 1]) {
        let names: Vec<_> = record.headers.iter().map(|(name, _)| name.to_vec()).collect();
        assert_eq!(names.len(), own + 1);
        assert_eq!(names.last().unwrap(), b"trace", "behind the record's own");
    }
    *witness.1.lock().unwrap() = None;
    let seen = std::mem::take(&mut *witness.0.lock().unwrap());
    assert_eq!(seen.sent, ["a", "b", "c", "d", "e", "f", "g", "h"], "each once");
    let written: u32 = seen.acknowledged.iter().filter(|one| one.2.is_ok()).map(|one| one.1).sum();
    assert_eq!(written, 7);
    assert_eq!(seen.acknowledged.iter().find_map(|one| one.2.ok()), Some(Some(0)));
    assert!(seen.acknowledged.contains(&(Some(9), 1, Err(ErrorKind::UnknownTopicOrPartition))));
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn an_interceptor_sees_failed_and_purged_records() {
    let cluster = cluster();
    let witness = Witness::default();
    let (client, producer) = producer(&cluster, |builder| builder.interceptor(witness.clone())).await;
    cluster.faults().when(Api::Produce).nth(1).then(Reaction::Error(ErrorCode::INVALID_RECORD));
    let mut deliveries = send_each(&producer, 0..1).await;
    assert!(deliveries.pop().unwrap().await.is_err());
    let waiting = producer.send(&Record::to("orders").partition(0).value("x")).await.unwrap();
    producer.purge(Purge::Queued);
    assert!(waiting.await.is_err());
    let seen = std::mem::take(&mut *witness.0.lock().unwrap());
    let broker = ErrorKind::Broker(ErrorCode::INVALID_RECORD);
    assert_eq!(seen.acknowledged, [(Some(0), 1, Err(broker)), (Some(0), 1, Err(ErrorKind::Purged))]);
    end(cluster, client, producer).await;
}

// ---- bad input

/// What is refused costs no room, and the record after it is written.
async fn unharmed(cluster: Cluster, client: Client, producer: Producer, room: usize) {
    assert_eq!(producer.room(), room);
    producer.send(&Record::to("orders").partition(2).value("after")).await.unwrap().await.unwrap();
    assert_eq!(cluster.records("orders", 2).len(), 1);
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_too_large_is_refused_and_given_back() {
    let cluster = cluster();
    let (client, producer) = producer(&cluster, |builder| builder.max_request_size(32 << 10)).await;
    producer.prepare_topic("orders").await.unwrap();
    let record = OwnedRecord::to("orders").key("k").value(vec![7; 40 << 10]);
    let (error, back) = producer.try_send_owned(record.clone()).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Limit, Outcome::NotWritten));
    assert!(error.to_string().contains("max_request_size"), "{error}");
    assert_eq!(back, record);
    assert_eq!(producer.send(&record).await.unwrap_err().kind(), ErrorKind::Limit);
    unharmed(cluster, client, producer, 32 << 20).await;
}

#[tokio::test(start_paused = true)]
async fn a_record_beyond_the_broker_s_limit_fails_alone() {
    let cluster = Cluster::builder()
        .brokers(1)
        .topic_with("orders", 3, [("max.message.bytes", "10000")])
        .start_in_memory()
        .unwrap();
    let (client, producer) = producer(&cluster, |builder| builder).await;
    let large = producer.send(&Record::to("orders").partition(0).value(&vec![7; 12_000])).await.unwrap();
    let small = producer.send(&Record::to("orders").partition(1).value("x")).await.unwrap();
    let error = large.await.unwrap_err();
    assert_eq!((error.code(), error.outcome()), (Some(ErrorCode::MESSAGE_TOO_LARGE), Outcome::NotWritten));
    small.await.unwrap();
    unharmed(cluster, client, producer, 32 << 20).await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_topic_is_refused_after_max_block_and_a_wrong_name_at_once() {
    let cluster = cluster();
    let (client, producer) = producer(&cluster, |builder| builder.max_block(Duration::from_secs(3))).await;
    let started = Instant::now();
    let error = producer.send(&Record::to("no-such-topic").value("x")).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::UnknownTopicOrPartition, Outcome::NotWritten));
    assert_eq!(started.elapsed(), Duration::from_secs(3));
    for name in [String::new(), "x".repeat(250), "no spaces".to_owned()] {
        let started = Instant::now();
        let record = OwnedRecord::to(name).value("x");
        assert_eq!(producer.send(&record).await.unwrap_err().outcome(), Outcome::NotWritten);
        assert!(started.elapsed() < Duration::from_secs(1), "it does not wait for what cannot be");
        let (error, back) = producer.try_send_owned(record.clone()).unwrap_err();
        assert_eq!((error.kind(), back), (ErrorKind::UnknownTopicOrPartition, record));
    }
    unharmed(cluster, client, producer, 32 << 20).await;
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_the_topic_does_not_have_is_refused_and_the_record_given_back() {
    let cluster = cluster();
    let (client, producer) = producer(&cluster, |builder| builder).await;
    producer.prepare_topic("orders").await.unwrap();
    for partition in [3, -1, i32::MAX, i32::MIN] {
        let mut record = OwnedRecord::to("orders").value("x");
        record.partition = Some(partition);
        let (error, back) = producer.try_send_owned(record.clone()).unwrap_err();
        assert_eq!((error.kind(), back), (ErrorKind::UnknownTopicOrPartition, record.clone()));
        assert_eq!(error.topic_partition().map(|at| at.partition), Some(partition));
        assert!(error.to_string().contains("3 partitions"), "{error}");
        assert_eq!(producer.send(&record).await.unwrap_err().kind(), ErrorKind::UnknownTopicOrPartition);
        let mut run = Backlog::new([record]);
        assert!(producer.append("orders", partition, &mut run).is_err());
        assert!(run.next().is_some(), "what was not taken stays");
    }
    unharmed(cluster, client, producer, 32 << 20).await;
}

#[tokio::test(start_paused = true)]
async fn a_closed_producer_takes_nothing_by_any_way() {
    let cluster = cluster();
    let (client, producer) = producer(&cluster, |builder| builder).await;
    producer.prepare_topic("orders").await.unwrap();
    let permit = producer.reserve(10).await.unwrap();
    producer.close(MINUTE).await.unwrap();
    let record = OwnedRecord::to("orders").value("x");
    let (error, back) = producer.try_send_owned(record.clone()).unwrap_err();
    assert_eq!(back, record);
    let mut run = Backlog::new([record.clone()]);
    let errors = [
        error,
        producer.send(&record).await.unwrap_err(),
        producer.send_all([&record], &mut Vec::new()).await.unwrap_err(),
        producer.append("orders", 0, &mut run).unwrap_err(),
        producer.reserve(10).await.unwrap_err(),
        permit.send(&record).unwrap_err(),
        producer.prepare_topic("other").await.unwrap_err(),
        producer.typed(Text, Text).send(&TypedRecord::<str, str>::to("orders").value("x")).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Closed, Outcome::NotWritten), "{error}");
    }
    assert_eq!(producer.purge(Purge::QueuedAndInFlight).unknown, 0);
    client.close().await;
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_budget_smaller_than_a_batch_is_refused_when_the_producer_is_built() {
    let cluster = cluster();
    let client = crate::common::client(&cluster, 1).connect().await.unwrap();
    let error = Producer::builder(&client).buffer_memory(1000).build().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("buffer_memory (1000)"), "{error}");
    // One that holds exactly one batch works, a record at a time.
    let producer = Producer::builder(&client).buffer_memory(16 << 10).max_batch_size(16 << 10).build().await.unwrap();
    for n in 0..20 {
        let delivery = producer.send(&Record::to("orders").partition(n % 3).value("x")).await.unwrap();
        delivery.await.unwrap();
    }
    let error = producer.try_send(&Record::to("orders").partition(0).value(&vec![7; 17 << 10])).unwrap_err();
    assert!(error.kind() == ErrorKind::Limit && error.to_string().contains("buffer_memory"), "{error}");
    unharmed_small(&producer).await;
    end(cluster, client, producer).await;
}

async fn unharmed_small(producer: &Producer) {
    assert_eq!(producer.room(), 16 << 10);
    producer.send(&Record::to("orders").partition(0).value("x")).await.unwrap().await.unwrap();
}
