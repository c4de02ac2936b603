//! Transactions against the in-process cluster, with faults: in memory, on one thread, under a paused clock, in both protocols.

#![expect(clippy::disallowed_methods, reason = "tests sleep on the paused clock")]
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use milena_client::{Client, ErrorKind, GroupMetadata, OffsetAndMetadata, Outcome, TopicPartition};
use milena_producer::{
    AbortError, Backlog, CommitError, InitialiseError, Producer, Record, Transaction, TransactionalProducer,
};
use milena_testkit::{Api, ApiKey, Cluster, ErrorCode, Reaction};
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::sleep;

const ID: &str = "payments-1";
/// Java's names for the two protocols: `transaction.version` 1 and 2.
const PROTOCOLS: [i16; 2] = [1, 2];

fn cluster(transaction_version: i16) -> Cluster {
    let builder = Cluster::builder().brokers(3).topic("orders", 3).topic("input", 1).seed(1);
    builder.transaction_version(transaction_version).start_in_memory().unwrap()
}

async fn connect(cluster: &Cluster) -> Client {
    crate::common::client(cluster, 1).connect().await.unwrap()
}

async fn producer(client: &Client) -> TransactionalProducer {
    Producer::builder(client)
        .linger(Duration::ZERO)
        .request_timeout(Duration::from_secs(1))
        .max_block(Duration::from_secs(5))
        .delivery_timeout(Duration::from_secs(4))
        .transactional_id(ID)
        .build()
        .await
        .unwrap()
}

async fn scene(transaction_version: i16) -> (Cluster, Client, TransactionalProducer) {
    let cluster = cluster(transaction_version);
    let client = connect(&cluster).await;
    let producer = producer(&client).await;
    (cluster, client, producer)
}

async fn put(transaction: &Transaction, value: &str) {
    transaction.send(&Record::to("orders").partition(0).value(value)).await.unwrap().await.unwrap();
}

/// A transaction of one record.
async fn whole(producer: TransactionalProducer, value: &str) -> TransactionalProducer {
    let transaction = producer.begin();
    put(&transaction, value).await;
    transaction.commit().await.unwrap()
}

async fn committed(cluster: &Cluster) -> Vec<String> {
    // The markers are written a moment later.
    sleep(Duration::from_secs(1)).await;
    let records = cluster.committed_records("orders", 0).into_iter();
    records.map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap()).collect()
}

async fn end(cluster: Cluster, client: Client) {
    client.close().await;
    assert_eq!((client.tasks(), client.sockets()), (0, 0));
    cluster.shutdown().await;
}

fn nobody() -> GroupMetadata {
    GroupMetadata { group: "copy".into(), generation: -1, ..GroupMetadata::default() }
}

fn offset(offset: i64) -> [(TopicPartition, OffsetAndMetadata); 1] {
    [(TopicPartition::new("input", 0), OffsetAndMetadata::from(offset))]
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_depends_on_the_protocol_and_an_empty_transaction_asks_nothing() {
    for version in PROTOCOLS {
        let (cluster, client, producer) = scene(version).await;
        let producer = producer.begin().commit().await.unwrap();
        let producer = producer.begin().abort().await.unwrap();
        assert_eq!(cluster.requests(Api::EndTxn), 0);
        let transaction = producer.begin();
        put(&transaction, "a").await;
        transaction.send_offsets(offset(1), &nobody()).await.unwrap();
        let producer = whole(transaction.commit().await.unwrap(), "b").await;
        let (partitions, groups) = if version == 1 { (2, 1) } else { (0, 0) };
        assert_eq!(cluster.requests(Api::AddPartitionsToTxn), partitions);
        assert_eq!(cluster.requests(Api::AddOffsetsToTxn), groups);
        let newest = |api: ApiKey| cluster.request_log().api(api).into_iter().map(|entry| entry.version).max().unwrap();
        let versions = [ApiKey::PRODUCE, ApiKey::END_TXN, ApiKey::TXN_OFFSET_COMMIT].map(newest);
        if version == 1 {
            assert!(versions[0] <= 11 && versions[1..] == [4, 4], "{versions:?}");
        } else {
            assert!(versions[0] >= 12 && versions[1..] == [5, 5], "{versions:?}");
        }
        assert_eq!(cluster.requests(Api::InitProducerId), 1);
        drop(producer);
        end(cluster, client).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_or_a_lost_request_costs_nothing_but_time() {
    let apis = [
        Api::InitProducerId,
        Api::AddPartitionsToTxn,
        Api::AddOffsetsToTxn,
        Api::TxnOffsetCommit,
        Api::Produce,
        Api::EndTxn,
        Api::FindCoordinator,
    ];
    for version in PROTOCOLS {
        for api in apis {
            for reaction in
                [Reaction::ApplyThenDisconnect, Reaction::ApplyThenDrop, Reaction::Disconnect, Reaction::Drop]
            {
                let cluster = cluster(version);
                let client = connect(&cluster).await;
                let fault = cluster.faults().when(api).optional().then(reaction);
                let transaction = producer(&client).await.begin();
                put(&transaction, "first").await;
                transaction.send_offsets(offset(1), &nobody()).await.unwrap();
                let producer = whole(transaction.commit().await.unwrap(), "second").await;
                assert_eq!(committed(&cluster).await, ["first", "second"], "{version} {api:?} {reaction:?}");
                assert_eq!(cluster.group_info("copy").unwrap().offsets[&("input".to_owned(), 0)], 1);
                let only_in_the_old_one = matches!(api, Api::AddPartitionsToTxn | Api::AddOffsetsToTxn);
                assert_eq!(fault.fired(), u64::from(version == 1 || !only_in_the_old_one));
                drop(producer);
                end(cluster, client).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_lost_answer_the_old_protocol_takes_a_new_epoch_before_the_next_transaction() {
    // KAFKA-17754.
    for api in [Api::AddPartitionsToTxn, Api::AddOffsetsToTxn, Api::TxnOffsetCommit, Api::EndTxn] {
        let (cluster, client, producer) = scene(1).await;
        cluster.faults().when(api).then(Reaction::ApplyThenDisconnect);
        let transaction = producer.begin();
        put(&transaction, "first").await;
        transaction.send_offsets(offset(1), &nobody()).await.unwrap();
        let before = cluster.transaction_info(ID).unwrap().producer_epoch;
        let producer = transaction.commit().await.unwrap();
        let producer = whole(producer, "second").await;
        assert_eq!(cluster.requests(Api::InitProducerId), 2, "{api:?}");
        assert_eq!(cluster.transaction_info(ID).unwrap().producer_epoch, before + 1, "{api:?}");
        drop(producer);
        end(cluster, client).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_without_an_answer_is_unknown_at_its_deadline_and_initialising_decides_it() {
    for version in PROTOCOLS {
        for (reaction, expected) in [
            (Reaction::ApplyThenDrop, vec!["first", "unknown", "last"]),
            (Reaction::ApplyThenDisconnect, vec!["first", "unknown", "last"]),
            (Reaction::Disconnect, vec!["first", "last"]),
        ] {
            let (cluster, client, producer) = scene(version).await;
            let producer = whole(producer, "first").await;
            let fault = cluster.faults().when(Api::EndTxn).always().then(reaction);
            let transaction = producer.begin();
            put(&transaction, "unknown").await;
            let failed = transaction.commit().await.unwrap_err();
            let CommitError::Unknown(producer, error) = failed else { panic!("{failed}") };
            assert_eq!(error.outcome(), Outcome::Unknown);
            fault.remove();
            let producer = producer.initialise().await.unwrap();
            let _ = whole(producer, "last").await;
            assert_eq!(committed(&cluster).await, expected);
            end(cluster, client).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_refuses_for_too_long_leaves_the_choice_to_ask_again_or_to_abort() {
    for version in PROTOCOLS {
        let (cluster, client, mut producer) = scene(version).await;
        for commit in [true, false] {
            let busy = Reaction::Error(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
            let fault = cluster.faults().when(Api::EndTxn).always().then(busy);
            let transaction = producer.begin();
            put(&transaction, if commit { "first" } else { "aborted" }).await;
            let failed = transaction.commit().await.unwrap_err();
            let CommitError::Retry(transaction, error) = failed else { panic!("{failed}") };
            assert_eq!(error.outcome(), Outcome::NotWritten);
            let late = transaction.send(&Record::to("orders").value("late")).await.unwrap_err();
            assert_eq!(late.kind(), ErrorKind::TransactionEnded);
            fault.remove();
            producer = if commit { transaction.commit().await.unwrap() } else { transaction.abort().await.unwrap() };
        }
        let _ = whole(producer, "last").await;
        assert_eq!(committed(&cluster).await, ["first", "last"]);
        end(cluster, client).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_abort_without_an_answer_is_healed_by_initialising() {
    for version in PROTOCOLS {
        let (cluster, client, producer) = scene(version).await;
        let end_fault = cluster.faults().when(Api::EndTxn).always().then(Reaction::Disconnect);
        let init_fault = cluster.faults().when(Api::InitProducerId).always().then(Reaction::Disconnect);
        let transaction = producer.begin();
        put(&transaction, "aborted").await;
        let failed = transaction.abort().await.unwrap_err();
        let AbortError::Unknown(producer, _) = failed else { panic!("{failed}") };
        let failed = producer.initialise().await.unwrap_err();
        let InitialiseError::Retry(producer, _) = failed else { panic!("{failed}") };
        end_fault.remove();
        init_fault.remove();
        let _ = whole(producer.initialise().await.unwrap(), "last").await;
        assert_eq!(committed(&cluster).await, ["last"]);
        end(cluster, client).await;
    }
}

#[tokio::test(start_paused = true)]
async fn errors_of_a_produce_answer_spoil_the_transaction_and_not_the_producer() {
    let codes = [
        ErrorCode::INVALID_PRODUCER_EPOCH,
        ErrorCode::TRANSACTION_ABORTABLE,
        ErrorCode::INVALID_TXN_STATE,
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
        ErrorCode::UNKNOWN_PRODUCER_ID,
        ErrorCode::INVALID_RECORD,
        ErrorCode::TOPIC_AUTHORIZATION_FAILED,
    ];
    for version in PROTOCOLS {
        let (cluster, client, mut producer) = scene(version).await;
        for code in codes {
            let transaction = producer.begin();
            put(&transaction, "aborted").await;
            cluster.faults().when(Api::Produce).then(Reaction::Error(code));
            drop(transaction.send(&Record::to("orders").partition(0).value("failed")).await.unwrap());
            let failed = transaction.commit().await.unwrap_err();
            let CommitError::Abortable(transaction, error) = failed else { panic!("{code}: {failed}") };
            assert_eq!(error.code(), Some(code));
            producer = whole(transaction.abort().await.unwrap(), &format!("after {code}")).await;
        }
        drop(producer);
        let expected: Vec<_> = codes.iter().map(|code| format!("after {code}")).collect();
        assert_eq!(committed(&cluster).await, expected);
        end(cluster, client).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_whose_time_is_over_spoils_the_transaction_though_nobody_looks_at_it() {
    // librdkafka 1.5.2, 1.7.0.
    for version in PROTOCOLS {
        let (cluster, client, producer) = scene(version).await;
        let fault = cluster.faults().when(Api::Produce).always().then(Reaction::Disconnect);
        let transaction = producer.begin();
        let delivery = transaction.send(&Record::to("orders").partition(0).value("late")).await.unwrap();
        sleep(Duration::from_secs(10)).await;
        assert_eq!(delivery.await.unwrap_err().kind(), ErrorKind::Timeout);
        fault.remove();
        let failed = transaction.commit().await.unwrap_err();
        let CommitError::Abortable(transaction, error) = failed else { panic!("{failed}") };
        assert_eq!(error.kind(), ErrorKind::Timeout);
        let _ = whole(transaction.abort().await.unwrap(), "next").await;
        assert_eq!(committed(&cluster).await, ["next"]);
        end(cluster, client).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_sent_when_a_transaction_is_aborted_was_not_written() {
    for version in PROTOCOLS {
        let (cluster, client, producer) = scene(version).await;
        let transaction = producer.begin();
        put(&transaction, "first").await;
        let fault = cluster.faults().when(Api::Produce).then(Reaction::HoldAnswer);
        let mut deliveries = Vec::new();
        for n in 0..20 {
            deliveries.push(transaction.send(&Record::to("orders").partition(0).value(&n.to_string())).await.unwrap());
            sleep(Duration::from_millis(1)).await;
        }
        let aborting = transaction.abort();
        let releasing = async {
            sleep(Duration::from_millis(100)).await;
            fault.release();
        };
        let (producer, ()) = tokio::join!(aborting, releasing);
        let written = cluster.records("orders", 0).len();
        let mut acked = 0;
        for delivery in deliveries {
            match delivery.await {
                Ok(_) => acked += 1,
                Err(error) => {
                    assert_eq!((error.kind(), error.outcome()), (ErrorKind::TransactionEnded, Outcome::NotWritten));
                }
            }
        }
        assert!(acked > 0 && acked < 20, "{acked}");
        // The first record, those, and the marker.
        assert!(written == acked + 1 || written == acked + 2, "{written} {acked}");
        let _ = whole(producer.unwrap(), "next").await;
        assert_eq!(committed(&cluster).await, ["next"]);
        end(cluster, client).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_begins_before_the_markers_of_the_one_before_waits_for_them() {
    for version in PROTOCOLS {
        let (cluster, client, producer) = scene(version).await;
        cluster.hold_markers();
        let producer = whole(producer, "first").await;
        let transaction = producer.begin();
        let late = transaction.send(&Record::to("orders").partition(0).value("second")).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        assert!(!late.is_done(), "{version}");
        cluster.release_markers();
        late.await.unwrap();
        let _ = transaction.commit().await.unwrap();
        assert_eq!(committed(&cluster).await, ["first", "second"]);
        end(cluster, client).await;
    }
}

#[tokio::test(start_paused = true)]
async fn coordinators_and_leaders_may_move_in_the_midst_of_a_transaction() {
    for version in PROTOCOLS {
        let (cluster, client, mut producer) = scene(version).await;
        for round in 0..6 {
            let transaction = producer.begin();
            put(&transaction, &format!("{round} a")).await;
            cluster.move_coordinator(ID, 1 + round % 3);
            cluster.move_leader("orders", 0, 1 + round % 3);
            put(&transaction, &format!("{round} b")).await;
            cluster.move_coordinator("copy", 1 + (round + 1) % 3);
            transaction.send_offsets(offset(i64::from(round)), &nobody()).await.unwrap();
            cluster.move_coordinator(ID, 1 + (round + 1) % 3);
            producer = transaction.commit().await.unwrap();
        }
        drop(producer);
        assert_eq!(committed(&cluster).await.len(), 12);
        assert_eq!(cluster.group_info("copy").unwrap().offsets[&("input".to_owned(), 0)], 5);
        end(cluster, client).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_lasts_too_long_has_ended_and_so_has_its_producer() {
    for version in PROTOCOLS {
        let cluster = cluster(version);
        let client = connect(&cluster).await;
        let builder = Producer::builder(&client).transactional_id(ID).transaction_timeout(Duration::from_secs(10));
        let transaction = builder.build().await.unwrap().begin();
        put(&transaction, "late").await;
        sleep(Duration::from_secs(60)).await;
        let failed = transaction.commit().await.unwrap_err();
        assert!(matches!(failed, CommitError::Fenced(_)), "{failed}");
        let _ = whole(producer(&client).await, "next").await;
        assert_eq!(committed(&cluster).await, ["next"]);
        end(cluster, client).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_may_use_a_topic_that_its_producer_has_never_seen() {
    let (cluster, client, producer) = scene(2).await;
    let producer = whole(producer, "first").await;
    let transaction = producer.begin();
    let sender = transaction.sender();
    assert_eq!(sender.prepare_topic("input").await.unwrap(), 1);
    let mut records = Backlog::new((0..100).map(|n| milena_producer::OwnedRecord::to("input").value(n.to_string())));
    let appended = transaction.append("input", 0, &mut records).unwrap();
    assert_eq!(appended.count(), 100);
    transaction.flush().await.unwrap();
    let _ = transaction.commit().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(cluster.committed_records("input", 0).len(), 100);
    end(cluster, client).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_coordinator_began_before_it_lost_its_place_is_aborted_and_not_left_to_its_time_out() {
    for api in [Api::AddPartitionsToTxn, Api::AddOffsetsToTxn] {
        let (cluster, client, producer) = scene(1).await;
        let refused = Reaction::ApplyThenError(ErrorCode::NOT_COORDINATOR);
        let fault = cluster.faults().when(api).always().then(refused);
        let transaction = producer.begin();
        if api == Api::AddPartitionsToTxn {
            let delivery = transaction.send(&Record::to("orders").partition(0).value("a")).await.unwrap();
            delivery.await.unwrap_err();
        } else {
            transaction.send_offsets(offset(1), &nobody()).await.unwrap_err();
        }
        assert!(cluster.transaction_info(ID).unwrap().partitions.len() == 1, "the coordinator has begun it");
        fault.remove();
        let producer = transaction.abort().await.unwrap();
        // Were it still open, its time-out would end it, and the producer with it.
        sleep(Duration::from_secs(120)).await;
        drop(whole(producer, "b").await);
        assert_eq!(committed(&cluster).await, ["b"]);
        end(cluster, client).await;
    }
}

/// Woken for a record's result, it tells of that and keeps the producer's thread until it is let go.
#[derive(Debug)]
struct Lingers {
    failed: UnboundedSender<()>,
    goes_on: Mutex<mpsc::Receiver<()>>,
}

impl Wake for Lingers {
    fn wake(self: Arc<Self>) {
        self.failed.send(()).unwrap();
        let _ = self.goes_on.lock().unwrap().recv_timeout(Duration::from_millis(300));
    }
}

/// On three threads and by the real clock: what fails on one is known to who commits on another as soon as it is not waited for.
#[test]
fn no_commit_comes_between_a_record_that_fails_and_the_transaction_that_it_spoils() {
    for is_answered in [true, false] {
        let runtime = Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
        runtime.block_on(async {
            let cluster = cluster(2);
            let client = connect(&cluster).await;
            let ((failed, mut has_failed), (go_on, goes_on)) = (unbounded_channel(), mpsc::channel());
            let producer = Producer::builder(&client)
                .linger(Duration::ZERO)
                .request_timeout(Duration::from_millis(200))
                .delivery_timeout(Duration::from_millis(200))
                .transactional_id(ID)
                .build()
                .await
                .unwrap();
            let producer = whole(producer, "before").await;
            let refused = Reaction::Error(ErrorCode::INVALID_RECORD);
            let reaction = if is_answered { refused } else { Reaction::Drop };
            let fault = cluster.faults().when(Api::Produce).always().then(reaction);
            let transaction = producer.begin();
            let mut delivery = transaction.send(&Record::to("orders").partition(0).value("spoilt")).await.unwrap();
            let waker = Waker::from(Arc::new(Lingers { failed, goes_on: Mutex::new(goes_on) }));
            assert!(Pin::new(&mut delivery).poll(&mut Context::from_waker(&waker)).is_pending());
            has_failed.recv().await.unwrap();
            let committed = transaction.commit().await;
            drop(go_on);
            fault.remove();
            let Err(CommitError::Abortable(transaction, _)) = committed else { panic!("{committed:?}") };
            drop(transaction.abort().await.unwrap());
            client.close().await;
            cluster.shutdown().await;
        });
    }
}
