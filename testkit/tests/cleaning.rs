//! Retention and compaction, when a test says so. What compaction leaves of batches is compared with real Kafka in `portable_cleaning.rs`.

#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]

mod common;

use std::time::Duration;

use common::transactional::Txn;
use common::{Raw, TestBatch, connect, produce_request};
use milena_protocol::ErrorCode;
use milena_testkit::{Cluster, MemoryStream, WALL_CLOCK_BASE_MS};

fn cluster(configs: &[(&str, &str)]) -> Cluster {
    Cluster::builder().topic_with("t", 1, configs.iter().copied()).start_in_memory().unwrap()
}

/// One record, as old as the cluster says now.
async fn write(cluster: &Cluster, raw: &mut Raw<MemoryStream>, key: &str, value: Option<&str>) -> i16 {
    let own = |text: &str| text.as_bytes().to_vec();
    let records = vec![(Some(own(key)), value.map(own))];
    let batch = TestBatch { base_timestamp: cluster.wall_clock_ms(), records, ..TestBatch::of(&[]) };
    raw.produce("t", 0, batch.bytes()).await.error_code
}

/// Offsets and values.
fn records(cluster: &Cluster) -> Vec<(i64, String)> {
    let text = |value: Option<&[u8]>| value.map_or("-".to_owned(), |value| String::from_utf8_lossy(value).into_owned());
    cluster.records("t", 0).iter().map(|record| (record.offset, text(record.value.as_deref()))).collect()
}

fn offsets(cluster: &Cluster) -> Vec<i64> {
    cluster.records("t", 0).iter().map(|record| record.offset).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_older_than_the_retention_goes_and_readers_are_out_of_range() {
    let cluster = cluster(&[("retention.ms", "60000")]);
    let mut raw = connect(&cluster, 1).await;
    for value in ["a", "b", "c"] {
        assert_eq!(write(&cluster, &mut raw, "k", Some(value)).await, 0);
        tokio::time::advance(Duration::from_secs(40)).await;
    }
    cluster.apply_retention("t");
    assert_eq!(offsets(&cluster), [2]);
    assert_eq!(ErrorCode(raw.fetch("t", 0, 1).await.error_code), ErrorCode::OFFSET_OUT_OF_RANGE);
    assert_eq!(raw.fetch("t", 0, 2).await.log_start_offset, 2);
    tokio::time::advance(Duration::from_secs(20)).await;
    cluster.apply_retention("t");
    assert_eq!(offsets(&cluster), [2], "a minute is not more than a minute");
    tokio::time::advance(Duration::from_millis(1)).await;
    cluster.apply_retention("t");
    let info = cluster.partition_info("t", 0);
    assert_eq!((info.log_start_offset, info.log_end_offset, info.bytes), (3, 3, 0));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_oldest_goes_as_long_as_enough_bytes_are_left_and_only_below_the_high_watermark() {
    let size = TestBatch::of(&["x"]).bytes().len();
    let cluster = cluster(&[("retention.bytes", (2 * size).to_string().as_str())]);
    let mut raw = connect(&cluster, 1).await;
    for _ in 0..4 {
        write(&cluster, &mut raw, "k", Some("x")).await;
    }
    cluster.apply_retention("t");
    assert_eq!(offsets(&cluster), [2, 3]);
    cluster.hold_follower("t", 0, 2);
    for _ in 0..4 {
        let batch = TestBatch::of(&["x"]).bytes();
        raw.call(9, produce_request("t", 0, batch, 1)).await;
    }
    cluster.apply_retention("t");
    assert_eq!(offsets(&cluster), [4, 5, 6, 7], "nobody has read these");
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_only_compacted_keeps_what_is_old() {
    let cluster = cluster(&[("cleanup.policy", "compact"), ("retention.ms", "1")]);
    let mut raw = connect(&cluster, 1).await;
    write(&cluster, &mut raw, "k", Some("a")).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    cluster.apply_retention("t");
    assert_eq!(offsets(&cluster), [0]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn of_each_key_the_last_value_is_left_and_a_tombstone_goes_a_while_later() {
    let cluster = cluster(&[("cleanup.policy", "compact"), ("delete.retention.ms", "1000")]);
    let mut raw = connect(&cluster, 1).await;
    for (key, value) in [("a", Some("1")), ("b", Some("2")), ("a", Some("3")), ("b", None), ("c", Some("5"))] {
        write(&cluster, &mut raw, key, value).await;
    }
    let left =
        |records: &[(i64, &str)]| records.iter().map(|(at, value)| (*at, (*value).to_owned())).collect::<Vec<_>>();
    cluster.compact("t");
    assert_eq!(records(&cluster), left(&[(2, "3"), (3, "-"), (4, "5")]));
    tokio::time::advance(Duration::from_millis(999)).await;
    cluster.compact("t");
    assert_eq!(records(&cluster), left(&[(2, "3"), (3, "-"), (4, "5")]));
    tokio::time::advance(Duration::from_millis(1)).await;
    cluster.compact("t");
    assert_eq!(records(&cluster), left(&[(2, "3"), (4, "5")]));
    // Readers find what is left from any offset, and nothing was renumbered.
    let info = cluster.partition_info("t", 0);
    assert_eq!((info.log_start_offset, info.log_end_offset), (0, 5));
    assert_eq!(raw.fetch("t", 0, 3).await.error_code, 0);
    assert_eq!(write(&cluster, &mut raw, "d", Some("6")).await, 0);
    assert_eq!(records(&cluster).last().unwrap(), &(5, "6".to_owned()));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn compressed_batches_and_their_headers_survive_the_loss_of_records() {
    let cluster = cluster(&[("cleanup.policy", "compact")]);
    let mut raw = connect(&cluster, 1).await;
    for codec in 1..=4 {
        let records = [("a", "x"), ("b", "y"), ("a", "z")]
            .map(|(k, v)| (Some(k.as_bytes().to_vec()), Some(v.as_bytes().to_vec())));
        let batch = TestBatch { attributes: codec, records: records.to_vec(), ..TestBatch::of(&[]) };
        assert_eq!(raw.produce("t", 0, batch.bytes()).await.error_code, 0);
    }
    cluster.compact("t");
    let left = cluster.records("t", 0);
    assert_eq!(
        left.iter().map(|record| (record.offset, record.timestamp)).collect::<Vec<_>>(),
        [(10, WALL_CLOCK_BASE_MS + 1), (11, WALL_CLOCK_BASE_MS + 2)]
    );
    let bytes = raw.fetch("t", 0, 0).await.records.unwrap();
    assert_eq!(crc32c::crc32c(&bytes[21..]).to_be_bytes(), bytes[17..21]);
    assert_eq!((bytes[7], bytes[22], bytes[26]), (9, 0, 2), "base offset, no codec, last offset delta");
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_open_transaction_and_what_is_too_young_stop_the_cleaner() {
    let cluster = cluster(&[("cleanup.policy", "compact"), ("min.compaction.lag.ms", "60000")]);
    let mut raw = connect(&cluster, 1).await;
    for value in ["1", "2"] {
        write(&cluster, &mut raw, "a", Some(value)).await;
    }
    cluster.compact("t");
    assert_eq!(offsets(&cluster), [0, 1], "too young");
    tokio::time::advance(Duration::from_secs(60)).await;
    let mut txn = Txn::new("x", true);
    cluster.move_coordinator("x", 1);
    raw.init(&mut txn).await;
    let batch = txn.batch(&["open"], WALL_CLOCK_BASE_MS);
    assert_eq!(raw.write(&mut txn, "t", 0, &batch).await.error_code, 0);
    for value in ["3", "4"] {
        write(&cluster, &mut raw, "a", Some(value)).await;
    }
    tokio::time::advance(Duration::from_secs(120)).await;
    cluster.compact("t");
    assert_eq!(offsets(&cluster), [1, 2, 3, 4], "the transaction is open since offset 2");
    raw.end(&mut txn, false).await;
    tokio::time::advance(Duration::from_secs(120)).await;
    cluster.compact("t");
    assert_eq!(offsets(&cluster), [4, 5], "the marker stays, as a batch of its transaction stayed until now");
    assert_eq!(cluster.committed_records("t", 0).len(), 1);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_producer_whose_records_are_gone_goes_on_with_its_sequences() {
    let cluster = cluster(&[("cleanup.policy", "compact")]);
    let mut raw = connect(&cluster, 1).await;
    let batch = |sequence| TestBatch::of(&["x"]).by_producer(7, 0, sequence).bytes();
    raw.produce("t", 0, batch(0)).await;
    raw.produce("t", 0, batch(1)).await;
    write(&cluster, &mut raw, "k", Some("the last")).await;
    cluster.compact("t");
    assert_eq!(offsets(&cluster), [2]);
    // The log is read again from its bytes, as when a broker starts: an empty batch tells the sequence.
    cluster.flush();
    raw.produce("t", 0, batch(2)).await;
    for broker in [2, 3, 1] {
        cluster.crash_losing_unflushed(broker);
    }
    cluster.restart(1);
    let mut raw = connect(&cluster, 1).await;
    let gap = raw.produce("t", 0, batch(3)).await;
    assert_eq!(ErrorCode(gap.error_code), ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_eq!(raw.produce("t", 0, batch(2)).await.base_offset, 3);
    cluster.shutdown().await;
}
