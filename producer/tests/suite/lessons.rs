//! What other clients learnt as bugs of their producers, as scenarios in virtual time. The numbers are those of the list that they
//! were collected in; 3 and 4 follow our own rule, which their tests state.

#![expect(clippy::disallowed_methods, reason = "tests read the paused clock and sleep on it")]
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

use std::time::Duration;

use futures_util::future::join_all;
use milena_client::protocol::messages::create_partitions_request::CreatePartitionsTopic;
use milena_client::protocol::messages::{CreatePartitionsRequest, TopicName};
use milena_client::protocol::{ErrorCode, StrBytes};
use milena_client::{Client, ErrorKind, Lane, Outcome, RefreshReason, Target};
use milena_producer::{Acks, Compression, Delivery, Producer, ProducerBuilder, Record};
use milena_testkit::{Api, Cluster, Fault, Reaction, RequestLog};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// One topic, `orders`, on three brokers.
fn cluster(partitions: i32) -> Cluster {
    let builder = Cluster::builder().brokers(3).topic("orders", partitions).seed(1);
    builder.latency(2 * MILLISECOND).start_in_memory().unwrap()
}

/// A producer that sends each record as soon as it can, with what `set` changes.
async fn producer_with(cluster: &Cluster, set: impl FnOnce(ProducerBuilder) -> ProducerBuilder) -> (Client, Producer) {
    let client = crate::common::client(cluster, 1).connect().await.unwrap();
    let producer = set(Producer::builder(&client).linger(Duration::ZERO)).build().await.unwrap();
    (client, producer)
}

async fn producer(cluster: &Cluster) -> (Client, Producer) {
    producer_with(cluster, |builder| builder).await
}

async fn send(producer: &Producer, partition: i32, value: &str) -> Delivery {
    producer.send(&Record::to("orders").partition(partition).value(value)).await.unwrap()
}

/// Sends numbers to partition 0, each a batch of its own while there is a place in flight.
async fn send_numbers(producer: &Producer, numbers: std::ops::Range<u32>) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for n in numbers {
        deliveries.push(send(producer, 0, &n.to_string()).await);
        sleep(MILLISECOND / 4).await;
    }
    deliveries
}

async fn all_written(deliveries: Vec<Delivery>) {
    for delivery in deliveries {
        delivery.await.unwrap();
    }
}

fn values(cluster: &Cluster, partition: i32) -> Vec<String> {
    let records = cluster.records("orders", partition).into_iter();
    records.map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap()).collect()
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

fn on_produce(cluster: &Cluster, nth: u64, reaction: Reaction) -> Fault {
    cluster.faults().when(Api::Produce).nth(nth).then(reaction)
}

fn produces(cluster: &Cluster) -> RequestLog {
    cluster.request_log().api(Api::Produce)
}

/// Everything is given back.
async fn end(cluster: Cluster, client: Client, producer: Producer) {
    assert_eq!(producer.room(), 32 << 20);
    producer.close(60 * SECOND).await.unwrap();
    client.close().await;
    assert_eq!((client.tasks(), client.sockets()), (0, 0));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn lesson_1_what_was_appended_without_a_clear_answer_is_not_given_up_and_what_follows_has_a_place_of_its_own() {
    for reaction in [
        Reaction::ApplyThenError(ErrorCode::REQUEST_TIMED_OUT),
        Reaction::ApplyThenError(ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND),
        Reaction::ApplyThenDisconnect,
    ] {
        let cluster = cluster(1);
        on_produce(&cluster, 1, reaction);
        let (client, producer) = producer(&cluster).await;
        // The caller loses interest, which un-sends nothing.
        drop(send(&producer, 0, "a").await);
        let placed = send(&producer, 0, "b").await.await.unwrap();
        assert_eq!(
            (values(&cluster, 0), placed.offset),
            (vec!["a".to_owned(), "b".to_owned()], Some(1)),
            "{reaction:?}"
        );
        end(cluster, client, producer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn lesson_2_sequences_go_on_from_zero_after_the_largest_one() {
    for before in [0, 1, 4, 7] {
        let cluster = cluster(1);
        let (client, producer) = producer_with(&cluster, |builder| builder.first_sequence(i32::MAX - before)).await;
        // Batches of several records: some straddle the end.
        let mut deliveries = Vec::new();
        for n in 0..40 {
            deliveries.push(send(&producer, 0, &n.to_string()).await);
            if n % 3 == 0 {
                sleep(MILLISECOND).await;
            }
        }
        all_written(deliveries).await;
        let records = cluster.records("orders", 0);
        assert_eq!(values(&cluster, 0), numbers(0..40));
        let sequences: Vec<_> = records.iter().map(|record| record.sequence).collect();
        let at = before as usize;
        assert_eq!((sequences[at], sequences[at + 1]), (i32::MAX, 0));
        assert!(records.iter().all(|record| record.producer_epoch == 0), "no epoch was needed");
        end(cluster, client, producer).await;
    }
}

/// The rule: the old leader may be frozen, so the whole window goes to the new one at once, in the order of its sequences, before
/// anything new. What the old one says late changes nothing.
#[tokio::test(start_paused = true)]
async fn lesson_3_after_a_move_the_window_goes_to_the_new_leader_in_order_and_late_answers_of_the_old_one_change_nothing()
 {
    let cluster = cluster(1);
    let (client, producer) = producer(&cluster).await;
    send(&producer, 0, "0").await.await.unwrap();
    let old = cluster.partition_info("orders", 0).leader.unwrap();
    let held = cluster.faults().when(Api::Produce).broker(old).always().then(Reaction::HoldAnswer);
    let deliveries = send_numbers(&producer, 1..4).await;
    held.has_fired(1).await;
    cluster.move_leader("orders", 0, old % 3 + 1);
    client.refresh_metadata(RefreshReason::Asked);
    sleep(10 * MILLISECOND).await;
    let later = send_numbers(&producer, 4..8).await;
    all_written(deliveries).await;
    held.release();
    all_written(later).await;
    assert_eq!(values(&cluster, 0), numbers(0..8));
    end(cluster, client, producer).await;
}

/// The rule: one batch alone until the broker is known to know the producer, or it would take a later one as the first.
#[tokio::test(start_paused = true)]
async fn lesson_4_nothing_is_pipelined_before_the_first_ack_nor_after_a_refusal() {
    let cluster = cluster(1);
    let first = on_produce(&cluster, 1, Reaction::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER));
    let slow = cluster.faults().when(Api::Produce).always().then(Reaction::DelayAnswer(50 * MILLISECOND));
    let (client, producer) = producer(&cluster).await;
    let mut deliveries = send_numbers(&producer, 0..3).await;
    first.has_fired(1).await;
    while produces(&cluster).count() < 2 {
        deliveries.push(send(&producer, 0, &deliveries.len().to_string()).await);
        sleep(MILLISECOND).await;
    }
    // The repeat is on its way, and records that could go with the next request wait for its answer.
    for _ in 0..40 {
        deliveries.push(send(&producer, 0, &deliveries.len().to_string()).await);
        sleep(MILLISECOND).await;
        assert_eq!(produces(&cluster).count(), 2);
    }
    let count = deliveries.len() as u32;
    all_written(deliveries).await;
    slow.remove();
    assert_eq!(values(&cluster, 0), numbers(0..count));
    end(cluster, client, producer).await;
}

/// The same rule for a topic that is made anew: its leader takes whatever comes first.
#[tokio::test(start_paused = true)]
async fn lesson_4_nothing_is_pipelined_to_a_topic_that_was_made_anew_before_its_first_ack() {
    let cluster = cluster(1);
    let (client, producer) = producer(&cluster).await;
    all_written(send_numbers(&producer, 0..5).await).await;
    cluster.delete_topic("orders");
    cluster.create_topic("orders", 1);
    client.refresh_metadata(RefreshReason::Asked);
    sleep(SECOND).await;
    let slow = cluster.faults().when(Api::Produce).always().then(Reaction::DelayAnswer(50 * MILLISECOND));
    let deliveries = send_numbers(&producer, 5..20).await;
    // The broker serves one after the other, and so does not show what is on its way to it.
    let in_flight = client.metrics().snapshot().into_iter().find(|(name, _)| name.name == "requests-in-flight");
    assert_eq!(in_flight.unwrap().1, 1.0);
    all_written(deliveries).await;
    slow.remove();
    assert_eq!(values(&cluster, 0), numbers(5..20));
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn lesson_5_no_batch_of_the_next_transaction_has_the_epoch_of_the_one_before() {
    let cluster = cluster(3);
    let client = crate::common::client(&cluster, 1).connect().await.unwrap();
    // Compressed elsewhere, so that a batch takes its time between its identity and its request.
    let builder = Producer::builder(&client).linger(Duration::ZERO).compression(Compression::Gzip);
    let mut producer = builder.transactional_id("t").build().await.unwrap();
    for n in 0..20 {
        let transaction = producer.begin();
        let mut deliveries = Vec::new();
        for partition in 0..3 {
            let value = format!("{n}");
            let record = Record::to("orders").partition(partition).value(&value);
            deliveries.push(transaction.send(&record).await.unwrap());
        }
        producer = transaction.commit().await.unwrap();
        all_written(deliveries).await;
    }
    for partition in 0..3 {
        let records = cluster.records("orders", partition);
        let own: Vec<_> = records.iter().filter(|record| !record.control).collect();
        assert_eq!(own.len(), 20);
        // A new epoch for each (KIP-890), which its marker ends.
        assert!(own.windows(2).all(|pair| pair[0].producer_epoch < pair[1].producer_epoch));
    }
    producer.close(60 * SECOND).await.unwrap();
    client.close().await;
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn lesson_6_a_batch_that_fails_while_it_waits_for_its_request_takes_no_other_with_it() {
    let cluster = cluster(4);
    let (client, producer) = producer_with(&cluster, |builder| {
        builder.request_timeout(4 * SECOND).delivery_timeout(10 * SECOND).max_in_flight(1)
    })
    .await;
    // Partitions 0 and 3 have the same leader, which is busy with the first request.
    send(&producer, 0, "first").await.await.unwrap();
    let silent = cluster.faults().when(Api::Produce).always().then(Reaction::Hold);
    let held = send(&producer, 0, "held").await;
    sleep(MILLISECOND).await;
    let old = send(&producer, 0, "old").await;
    sleep(6 * SECOND).await;
    let young = send(&producer, 3, "young").await;
    sleep(5 * SECOND).await;
    // Until now their requests time out and are repeated; the old one's time is over.
    assert_eq!(old.await.unwrap_err().outcome(), Outcome::NotWritten);
    assert_eq!(held.await.unwrap_err().outcome(), Outcome::Unknown);
    silent.release();
    young.await.unwrap();
    assert_eq!(values(&cluster, 3), ["young"]);
    send(&producer, 0, "last").await.await.unwrap();
    assert_eq!(values(&cluster, 0).last().unwrap(), "last");
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn lesson_7_sequences_go_on_when_a_topic_leaves_the_metadata_for_a_while() {
    let cluster = cluster(1);
    let (client, producer) = producer(&cluster).await;
    all_written(send_numbers(&producer, 0..5).await).await;
    let gone = Reaction::Error(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let gone = cluster.faults().when(Api::Metadata).topic("orders").times(3).then(gone);
    let mut deliveries = Vec::new();
    while gone.fired() < 3 {
        client.refresh_metadata(RefreshReason::Asked);
        let next = 5 + deliveries.len() as u32;
        deliveries.extend(send_numbers(&producer, next..next + 1).await);
        sleep(20 * MILLISECOND).await;
    }
    let next = 5 + deliveries.len() as u32;
    deliveries.extend(send_numbers(&producer, next..next + 5).await);
    all_written(deliveries).await;
    let records = cluster.records("orders", 0);
    assert_eq!(values(&cluster, 0), numbers(0..next + 5));
    assert!(records.iter().enumerate().all(|(n, record)| (record.sequence, record.producer_epoch) == (n as i32, 0)));
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn lessons_8_and_19_a_repeat_that_the_broker_recognises_is_written_once_and_its_place_is_unknown_if_it_is_not_told()
 {
    for answer in [None, Some(ErrorCode::DUPLICATE_SEQUENCE_NUMBER)] {
        let cluster = cluster(1);
        let (client, producer) = producer(&cluster).await;
        send(&producer, 0, "0").await.await.unwrap();
        on_produce(&cluster, 1, Reaction::ApplyThenDisconnect);
        let repeat = answer.map(|code| on_produce(&cluster, 2, Reaction::ApplyThenError(code)));
        let lost = send_numbers(&producer, 1..2).await.remove(0);
        let placed = lost.await.unwrap();
        // Brokers since 1.0 tell the place of a repeat; with the code of older ones there is none, and none is made up.
        assert_eq!(placed.offset, if answer.is_some() { None } else { Some(1) });
        assert!(repeat.is_none_or(|repeat| repeat.fired() == 1));
        all_written(send_numbers(&producer, 2..6).await).await;
        assert_eq!(values(&cluster, 0), numbers(0..6));
        end(cluster, client, producer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn lesson_9_records_that_time_out_behind_one_whose_fate_is_unknown_leave_no_sequence_that_nobody_can_cure() {
    let cluster = cluster(1);
    let (client, producer) =
        producer_with(&cluster, |builder| builder.request_timeout(2 * SECOND).delivery_timeout(5 * SECOND)).await;
    send(&producer, 0, "0").await.await.unwrap();
    let lost = on_produce(&cluster, 1, Reaction::ApplyThenDrop);
    let silent = cluster.faults().when(Api::Produce).always().then(Reaction::Drop);
    let unknown = send(&producer, 0, "1").await;
    sleep(10 * MILLISECOND).await;
    let mut queued = Vec::new();
    for n in 2..30 {
        queued.push(send(&producer, 0, &n.to_string()).await);
        sleep(10 * MILLISECOND).await;
    }
    assert_eq!(unknown.await.unwrap_err().outcome(), Outcome::Unknown);
    let mut not_written = 0;
    for delivery in queued {
        not_written += usize::from(delivery.await.unwrap_err().outcome() == Outcome::NotWritten);
    }
    assert!(not_written >= 20, "what was never sent is known not to be there: {not_written}");
    assert_eq!(lost.fired(), 1);
    silent.remove();
    for n in 0..10 {
        send(&producer, 0, &format!("later {n}")).await.await.unwrap();
    }
    let values = values(&cluster, 0);
    assert_eq!(values[..2], ["0", "1"]);
    assert_eq!(values.iter().filter(|value| value.starts_with("later")).count(), 10);
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn lesson_10_a_repeat_has_the_same_bytes_whatever_has_timed_out_since() {
    let cluster = cluster(1);
    let (client, producer) =
        producer_with(&cluster, |builder| builder.request_timeout(2 * SECOND).delivery_timeout(5 * SECOND)).await;
    send(&producer, 0, "0").await.await.unwrap();
    on_produce(&cluster, 1, Reaction::Drop);
    on_produce(&cluster, 2, Reaction::Drop);
    let before = produces(&cluster).count();
    // One batch of three records, sent again twice while others come and go.
    let deliveries = join_all(["1", "2", "3"].map(|value| send(&producer, 0, value))).await;
    sleep(SECOND).await;
    let others = send_numbers(&producer, 4..20).await;
    all_written(deliveries).await;
    for other in others {
        let _ = other.await;
    }
    let log = produces(&cluster);
    let repeats: Vec<_> = log.entries().skip(before).take(3).map(|entry| (&entry.digest, entry.size)).collect();
    assert!(repeats.len() == 3 && repeats.iter().all(|repeat| repeat == &repeats[0]), "{repeats:?}");
    assert_eq!(values(&cluster, 0)[..4], ["0", "1", "2", "3"]);
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn lesson_11_a_broker_that_forgot_the_producer_with_its_records_gets_a_new_epoch_silently() {
    for code in [None, Some(ErrorCode::UNKNOWN_PRODUCER_ID), Some(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER)] {
        let cluster = cluster(1);
        let (client, producer) = producer(&cluster).await;
        all_written(send_numbers(&producer, 0..5).await).await;
        cluster.delete_records("orders", 0, 5);
        // A broker of today takes whatever comes first; older ones say that they do not know it.
        match code {
            None => cluster.forget_producers("orders", 0),
            Some(code) => drop(on_produce(&cluster, 1, Reaction::Error(code))),
        }
        all_written(send_numbers(&producer, 5..10).await).await;
        assert_eq!(values(&cluster, 0), numbers(5..10));
        let epoch = cluster.records("orders", 0)[0].producer_epoch;
        assert_eq!(epoch, i16::from(code.is_some()));
        end(cluster, client, producer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn lesson_12_of_fifty_who_wait_for_room_any_may_leave_and_what_cannot_be_sent_blocks_nobody() {
    let cluster = cluster(3);
    let (client, producer) = producer_with(&cluster, |builder| builder.buffer_memory(64 << 10)).await;
    let silent = cluster.faults().when(Api::Produce).always().then(Reaction::Hold);
    let value = vec![b'x'; 4000];
    let mut taken = 0;
    while producer.try_send(&Record::to("orders").value(&value)).is_ok() || taken == 0 {
        taken += 1;
        sleep(MILLISECOND).await;
    }
    let mut rng = fastrand::Rng::with_seed(1);
    let waiting = (0..50).map(|n| {
        let patience = if rng.bool() { Duration::from_millis(rng.u64(1..1000)) } else { 3600 * SECOND };
        let (producer, value) = (&producer, &value);
        async move {
            // Every tenth has nowhere to go at all.
            let record = Record::to(if n % 10 == 0 { "" } else { "orders" }).value(value);
            let sent = tokio::time::timeout(patience, producer.send(&record)).await;
            match sent {
                Ok(Ok(delivery)) => Some(delivery.await.unwrap()),
                Ok(Err(error)) => {
                    assert_eq!(error.kind(), ErrorKind::UnknownTopicOrPartition);
                    None
                }
                Err(_) => None,
            }
        }
    });
    let release = async {
        sleep(2 * SECOND).await;
        silent.release();
    };
    let (results, ()) = tokio::join!(biased; join_all(waiting), release);
    assert!(results.iter().flatten().count() > 10);
    producer.flush().await.unwrap();
    assert_eq!(producer.room(), 64 << 10);
    producer.close(SECOND).await.unwrap();
    client.close().await;
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn lesson_13_a_trickle_makes_one_batch_a_linger_and_many_who_wait_for_their_acks_share_batches() {
    let cluster = cluster(1);
    let (client, producer) = producer_with(&cluster, |builder| builder.linger(100 * MILLISECOND)).await;
    send(&producer, 0, "warm").await.await.unwrap();
    let before = produces(&cluster).count();
    let mut deliveries = Vec::new();
    for n in 0..1000 {
        deliveries.push(send(&producer, 0, &n.to_string()).await);
        sleep(2 * MILLISECOND).await;
    }
    all_written(deliveries).await;
    let requests = produces(&cluster).count() - before;
    assert!((19..=21).contains(&requests), "2 s of records, a batch each 100 ms: {requests}");
    end(cluster, client, producer).await;

    let cluster = self::cluster(1);
    let (client, producer) =
        producer_with(&cluster, |builder| builder.linger(10 * MILLISECOND).buffer_memory(512 << 10)).await;
    let value = vec![b'x'; 90];
    let everybody = (0..10_000).map(async |_| {
        producer.send(&Record::to("orders").partition(0).value(&value)).await.unwrap().await.unwrap();
    });
    join_all(everybody).await;
    let log = produces(&cluster);
    assert!(log.count() < 200, "{} requests for 10,000 records", log.count());
    producer.close(SECOND).await.unwrap();
    client.close().await;
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn lesson_14_records_wait_while_no_partition_has_a_leader() {
    let cluster = Cluster::builder().brokers(4).topic("orders", 1).seed(1).start_in_memory().unwrap();
    let (client, producer) = producer(&cluster).await;
    send(&producer, 0, "0").await.await.unwrap();
    // Broker 4 has no replica, and goes on telling that there is no leader.
    (1..=3).for_each(|broker| cluster.crash(broker));
    let deliveries = send_numbers(&producer, 1..20).await;
    let asked = cluster.requests(Api::Metadata);
    sleep(20 * SECOND).await;
    assert!(deliveries.iter().all(|delivery| !delivery.is_done()));
    let asked = cluster.requests(Api::Metadata) - asked;
    assert!((5..=250).contains(&asked), "it looks for a leader, and not all the time: {asked}");
    (1..=3).for_each(|broker| cluster.restart(broker));
    all_written(deliveries).await;
    assert_eq!(values(&cluster, 0), numbers(0..20));
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn lesson_15_records_of_a_new_partition_survive_a_broker_that_does_not_know_it_yet() {
    let cluster = cluster(1);
    let (client, producer) = producer(&cluster).await;
    send(&producer, 0, "0").await.await.unwrap();
    let owner = client.new_owner("admin");
    let topic = CreatePartitionsTopic::default()
        .with_name(TopicName(StrBytes::from_static_str("orders")))
        .with_count(2)
        .with_assignments(None);
    let request = CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(1000);
    let deadline = owner.link().now() + SECOND;
    let answer = owner
        .link()
        .call(Target::Controller, Lane::Rest, deadline, move |_| request.clone(), |_| ErrorCode::NONE)
        .await
        .unwrap();
    assert_eq!(answer.results[0].error_code, 0);
    owner.close().await;
    client.refresh_metadata(RefreshReason::Asked);
    sleep(100 * MILLISECOND).await;
    let unknown = Reaction::Error(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let produce = cluster.faults().when(Api::Produce).topic("orders").partition(1).times(3).then(unknown);
    let metadata = cluster.faults().when(Api::Metadata).topic("orders").times(3).then(unknown);
    let delivery = send(&producer, 1, "new").await;
    delivery.await.unwrap();
    assert_eq!((produce.fired(), metadata.fired() >= 1), (3, true));
    metadata.remove();
    assert_eq!(values(&cluster, 1), ["new"]);
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn lesson_16_the_first_record_waits_for_round_trips_only_and_no_rate_meets_a_pause() {
    let cluster = cluster(1);
    let (client, producer) = producer(&cluster).await;
    let started = Instant::now();
    send(&producer, 0, "0").await.await.unwrap();
    // Metadata, a connection with its hand-shake, a producer id, the request: of 4 ms each.
    assert!(started.elapsed() <= 40 * MILLISECOND, "{:?}", started.elapsed());
    for every in [1, 7, 13, 50, 333] {
        for n in 0..(2000 / every).max(10) {
            let started = Instant::now();
            let delivery = send(&producer, 0, &n.to_string()).await;
            assert_eq!(started.elapsed(), Duration::ZERO);
            delivery.await.unwrap();
            assert!(started.elapsed() <= 6 * MILLISECOND, "every {every} ms: {:?}", started.elapsed());
            sleep(MILLISECOND * every).await;
        }
    }
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn lesson_17_without_acks_nothing_is_waited_for_and_nothing_gets_out_of_step() {
    let cluster = cluster(1);
    let (client, producer) = producer_with(&cluster, |builder| builder.acks(Acks::None)).await;
    send(&producer, 0, "0").await.await.unwrap();
    let connected = cluster.requests(Api::ApiVersions);
    let deliveries = send_numbers(&producer, 1..100).await;
    all_written(deliveries).await;
    producer.flush().await.unwrap();
    sleep(SECOND).await;
    assert_eq!(values(&cluster, 0), numbers(0..100));
    // No connection was given up and made anew.
    assert_eq!(cluster.requests(Api::ApiVersions), connected);
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn lesson_18_after_a_close_every_send_fails_every_delivery_ends_and_flush_returns() {
    let cluster = cluster(1);
    let (client, producer) = producer(&cluster).await;
    send(&producer, 0, "0").await.await.unwrap();
    let slow = cluster.faults().when(Api::Produce).always().then(Reaction::DelayAnswer(50 * MILLISECOND));
    let mut deliveries = send_numbers(&producer, 1..10).await;
    let closing = producer.close(10 * SECOND);
    let meanwhile = async {
        sleep(MILLISECOND).await;
        let record = Record::to("orders").partition(0).value("late");
        assert_eq!(producer.send(&record).await.unwrap_err().kind(), ErrorKind::Closed);
    };
    let (closed, ()) = tokio::join!(biased; closing, meanwhile);
    closed.unwrap();
    let record = Record::to("orders").partition(0).value("later");
    assert_eq!(producer.try_send(&record).unwrap_err().kind(), ErrorKind::Closed);
    producer.flush().await.unwrap();
    assert!(deliveries.iter().all(Delivery::is_done));
    all_written(std::mem::take(&mut deliveries)).await;
    assert_eq!(values(&cluster, 0), numbers(0..10));
    slow.remove();
    end(cluster, client, producer).await;
}

#[tokio::test(start_paused = true)]
async fn lesson_20_a_topic_that_stays_unknown_fails_its_records_in_time_whatever_is_said_between() {
    for idempotent in [true, false] {
        let cluster = cluster(1);
        let (client, producer) = producer_with(&cluster, |builder| {
            builder.idempotence(idempotent).request_timeout(2 * SECOND).delivery_timeout(10 * SECOND)
        })
        .await;
        send(&producer, 0, "0").await.await.unwrap();
        let unknown = Reaction::Error(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        let moved = Reaction::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        let faults = [
            cluster.faults().when(Api::Produce).probability(0.5).then(unknown),
            cluster.faults().when(Api::Produce).always().then(moved),
        ];
        let started = Instant::now();
        let error = send(&producer, 0, "1").await.await.unwrap_err();
        assert_eq!((error.kind(), started.elapsed().as_secs()), (ErrorKind::Timeout, 10), "{error}");
        faults.iter().for_each(Fault::remove);
        send(&producer, 0, "2").await.await.unwrap();
        assert_eq!(values(&cluster, 0).last().unwrap(), "2");
        end(cluster, client, producer).await;
    }
}
