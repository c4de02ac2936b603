//! The same raw requests about transactions to the in-process cluster and to real Kafka: every line of what comes back has to be the
//! same.
//!
//! `portable_transactions_2.txt` holds what Kafka 4.3.0 answered with transaction.version 2, `…_1.txt` and `…_0.txt` what it answered
//! with 1 and 0. The script speaks both protocols where the cluster has both. To write a file anew after adding a step, run this with
//! `KAFKA_BOOTSTRAP_SERVERS` and `PORTABLE_WRITE=1`; the cluster's transaction.version decides which file it is.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test reads the clock, waits and panics")]

mod common;

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use common::script::{Conn, Script, batch, code, compare, compare_or_write, first, text};
use common::transactional::Txn;
use common::*;
use milena_protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use milena_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use milena_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use milena_protocol::messages::describe_producers_request::TopicRequest;
use milena_protocol::messages::fetch_response::PartitionData;
use milena_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use milena_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use milena_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use milena_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use milena_protocol::messages::*;
use milena_protocol::{ErrorCode, StrBytes};
use milena_testkit::{Cluster, real_bootstrap_servers};

/// What a scenario works with: a topic's leader and one producer with its coordinator.
struct Stage {
    topic: &'static str,
    leader: Conn,
    coordinator: Conn,
    txn: Txn,
    /// In front of every line.
    what: &'static str,
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

impl Stage {
    async fn new(script: &Script, what: &'static str, v2: bool) -> Self {
        let topic = script.topic(&format!("{what}-{v2}"), 3, &[]).await;
        let leader = script.leader(topic, 0).await;
        let (coordinator, txn) = Self::producer(script, what, v2).await;
        Self { topic, leader, coordinator, txn, what }
    }

    async fn producer(script: &Script, what: &str, v2: bool) -> (Conn, Txn) {
        let txn = Txn::new(script.unique(&format!("{what}-{v2}")), v2);
        (script.transaction_coordinator(&txn.id).await, txn)
    }

    /// In front of a line: the scenario and the protocol.
    fn head(&self) -> String {
        format!("{} {}", self.what, if self.txn.v2 { "v2" } else { "v1" })
    }

    async fn init(&mut self) {
        self.coordinator.init(&mut self.txn).await;
    }

    /// Writes one batch, with the old protocol after adding the partition.
    async fn write(&mut self, values: &[&str]) -> String {
        if !self.txn.v2 {
            let added = self.coordinator.add(&self.txn, self.topic, 0).await;
            assert_eq!(added, 0, "AddPartitionsToTxn: {}", code(added));
        }
        let batch = self.txn.batch(values, now_ms());
        let answer = self.leader.write(&mut self.txn, self.topic, 0, &batch).await;
        format!("{} offset {} start {}", code(answer.error_code), answer.base_offset, answer.log_start_offset)
    }

    /// Writes without adding, as somebody, in a version.
    async fn raw_write(&mut self, txn: &Txn, version: i16) -> String {
        let answer = self.leader.write_as(txn, self.topic, 0, &txn.batch(&["x"], now_ms()), version).await;
        format!("{} offset {} start {}", code(answer.error_code), answer.base_offset, answer.log_start_offset)
    }

    async fn describe(&mut self) -> String {
        described(&mut self.coordinator, &self.txn).await
    }

    /// Ends the transaction and waits until its markers are written.
    async fn end(&mut self, commit: bool) -> String {
        let response = self.coordinator.end(&mut self.txn, commit).await;
        self.settle().await;
        format!("{} epoch {}", code(response.error_code), response.producer_epoch)
    }

    async fn settle(&mut self) {
        while self.describe().await.contains("Prepare") {
            pause().await;
        }
    }

    /// What readers see of partition 0.
    async fn offsets(&mut self) -> String {
        let committed = self.leader.latest(self.topic, 0, true).await;
        format!("stable {committed} end {}", self.leader.latest(self.topic, 0, false).await)
    }

    async fn producers(&mut self) -> String {
        let topic = TopicRequest::default().with_name(name(self.topic)).with_partition_indexes(vec![0]);
        let described = self.leader.call(0, DescribeProducersRequest::default().with_topics(vec![topic])).await;
        let of = |p: &describe_producers_response::ProducerState| {
            format!(
                "epoch {} sequence {} coordinator {} open {}",
                p.producer_epoch, p.last_sequence, p.coordinator_epoch, p.current_txn_start_offset
            )
        };
        described.topics[0].partitions[0].active_producers.iter().map(of).collect::<Vec<_>>().join(", ")
    }
}

async fn described(coordinator: &mut Conn, txn: &Txn) -> String {
    let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![txn.transactional_id()]);
    let state = coordinator.call(0, request).await.transaction_states.remove(0);
    if state.error_code != 0 {
        return code(state.error_code).to_owned();
    }
    let topics: Vec<String> = state
        .topics
        .iter()
        .map(|topic| {
            let internal = if topic.topic.starts_with("__") { topic.topic.as_str() } else { "t" };
            let mut partitions = topic.partitions.clone();
            partitions.sort();
            // Which partition a group belongs to depends on how many there are.
            if internal == "t" { format!("{internal}{partitions:?}") } else { internal.to_owned() }
        })
        .collect();
    format!(
        "{} epoch {} timeout {} started {} [{}]",
        state.transaction_state.as_str(),
        state.producer_epoch,
        state.transaction_timeout_ms,
        state.transaction_start_time_ms > 0,
        topics.join(" ")
    )
}

/// Base offset and kind of each batch, and the aborted transactions, producers counted in the order of `known`.
fn shown(data: &PartitionData, known: &[i64]) -> String {
    let mut batches = Vec::new();
    let mut bytes = data.records.clone().unwrap_or_default();
    while bytes.len() >= 61 {
        let len = 12 + i32::from_be_bytes(bytes[8..12].try_into().unwrap()) as usize;
        let batch = bytes.split_to(len.min(bytes.len()));
        let offset = i64::from_be_bytes(batch[0..8].try_into().unwrap());
        let attributes = i16::from_be_bytes(batch[21..23].try_into().unwrap());
        let kind = match attributes & 0x30 {
            0x30 if batch[batch.len() - 9] == 1 => "commit",
            0x30 => "abort",
            0x10 => "transactional",
            _ => "plain",
        };
        batches.push(format!("{offset} {kind}"));
    }
    let aborted = data.aborted_transactions.as_ref().map(|aborted| {
        let one = |a: &fetch_response::AbortedTransaction| {
            let producer = known.iter().position(|id| *id == a.producer_id.0);
            format!("p{}@{}", producer.map_or(-1, |p| p as i32), a.first_offset)
        };
        aborted.iter().map(one).collect::<Vec<_>>()
    });
    format!(
        "{} hw {} lso {} [{}] aborted {aborted:?}",
        code(data.error_code),
        data.high_watermark,
        data.last_stable_offset,
        batches.join(", ")
    )
}

/// The bytes of a marker but for those that differ from run to run: CRC, timestamps, producer id.
fn marker_bytes(batch: &Bytes) -> String {
    let mut masked = batch.to_vec();
    for range in [17..21, 27..43, 43..51] {
        masked[range].fill(0xee);
    }
    masked.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn life(script: &mut Script, v2: bool) {
    let mut s = Stage::new(script, "life", v2).await;
    let head = s.head();
    let unknown = s.describe().await;
    script.line(format_args!("{head}, before: {unknown}"));
    s.init().await;
    let (epoch, state) = (s.txn.epoch, s.describe().await);
    script.line(format_args!("{head}, initialised: epoch {epoch}; {state}"));
    let id = s.txn.producer_id;
    for (what, commit) in [("commit", true), ("abort", false), ("second commit", true), ("second abort", false)] {
        let wrote = s.write(&["a", "b"]).await;
        let (state, offsets, producers) = (s.describe().await, s.offsets().await, s.producers().await);
        script.line(format_args!("{head}, {what}, written: {wrote}; {state}; {offsets}; {producers}"));
        let wrote = s.write(&["c"]).await;
        let committed = shown(&s.leader.fetch_committed(s.topic, 0, 0).await, &[id]);
        script.line(format_args!("{head}, {what}, more: {wrote}; {committed}"));
        let ended = s.end(commit).await;
        let (state, offsets, producers) = (s.describe().await, s.offsets().await, s.producers().await);
        script.line(format_args!("{head}, {what}: {ended}; {state}; {offsets}; {producers}"));
        let same = s.txn.producer_id == id;
        let committed = shown(&s.leader.fetch_committed(s.topic, 0, 0).await, &[id]);
        let all = shown(&s.leader.fetch(s.topic, 0, 0).await, &[id]);
        script.line(format_args!("{head}, {what}, read: {committed}; all: {all}; same id {same}"));
    }
    for offset in [3, 7] {
        let data = s.leader.fetch(s.topic, 0, offset).await;
        let marker = data.records.unwrap().slice(..78);
        script.line(format_args!("{head}, marker at {offset}: {}", marker_bytes(&marker)));
    }
}

async fn fencing(script: &mut Script, v2: bool) {
    let mut s = Stage::new(script, "fencing", v2).await;
    let head = s.head();
    s.init().await;
    s.write(&["a"]).await;
    let old = s.txn.clone();
    let request = s.txn.init_request(60_000);
    let first = s.coordinator.call(5, request).await;
    let none = (first.producer_id.0, first.producer_epoch);
    script.line(format_args!("{head}, second init in a transaction: {} {none:?}", code(first.error_code)));
    s.settle().await;
    let (state, producers) = (s.describe().await, s.producers().await);
    script.line(format_args!("{head}, after it: {state}; {producers}"));
    s.init().await;
    let (state, same) = (s.describe().await, s.txn.producer_id == old.producer_id);
    script.line(format_args!("{head}, second init again: epoch {} same id {same}; {state}", s.txn.epoch));
    let other_id = Txn { producer_id: 1 << 40, ..s.txn.clone() };
    let nobody = Txn { id: format!("{}-nobody", old.id), ..s.txn.clone() };
    let nameless = Txn { id: String::new(), ..s.txn.clone() };
    for (who, txn) in [("old epoch", &old), ("other id", &other_id), ("unknown", &nobody), ("nameless", &nameless)] {
        if who == "unknown" {
            s.coordinator = script.transaction_coordinator(&txn.id).await;
        }
        let mut codes = Vec::new();
        for version in [9, 11, 12] {
            codes.push(format!("produce v{version} {}", s.raw_write(txn, version).await));
        }
        for version in [1, 3] {
            let answer = s.coordinator.call(version, txn.add_request(&[(s.topic, 1)])).await;
            let added = answer.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code;
            codes.push(format!("add v{version} {}", code(added)));
            let added = s.coordinator.call(version, txn.add_offsets_request("g")).await.error_code;
            codes.push(format!("add offsets v{version} {}", code(added)));
        }
        for version in [1, 4, 5] {
            for commit in [true, false] {
                let ended = s.coordinator.call(version, txn.end_request(commit)).await;
                let (id, epoch) = (ended.producer_id.0, ended.producer_epoch);
                let what = if commit { "commit" } else { "abort" };
                codes.push(format!("{what} v{version} {} {id} {epoch}", code(ended.error_code)));
            }
        }
        for each in codes {
            script.line(format_args!("{head}, {who}: {each}"));
        }
    }
    s.coordinator = script.transaction_coordinator(&s.txn.id).await;
    let state = s.describe().await;
    script.line(format_args!("{head}, at the end: {state}"));
    for version in [3, 5] {
        let request = old.init_request(60_000).with_producer_id(ProducerId(old.producer_id));
        let answer = s.coordinator.call(version, request.with_producer_epoch(old.epoch)).await;
        script.line(format_args!("{head}, init v{version} with the old epoch: {}", code(answer.error_code)));
    }
}

async fn initialising(script: &mut Script, v2: bool) {
    let mut s = Stage::new(script, "init", v2).await;
    let head = s.head();
    for timeout in [0, -1, 900_000, 900_001] {
        let answer = s.coordinator.call(5, s.txn.init_request(timeout)).await;
        let epoch = answer.producer_epoch;
        script.line(format_args!("{head}, timeout {timeout}: {} epoch {epoch}", code(answer.error_code)));
    }
    s.init().await;
    let first = s.txn.clone();
    script.line(format_args!("{head}, without an id: epoch {}", first.epoch));
    let id = first.producer_id;
    for (what, id, epoch) in [
        ("its id and epoch", id, first.epoch),
        ("the same again", id, first.epoch),
        ("the epoch it got", id, first.epoch + 1),
        ("an old epoch", id, first.epoch - 1),
        ("a later epoch", id, first.epoch + 9),
        ("another id", id + (1 << 40), first.epoch + 2),
        ("no epoch", id, -1),
        ("no id", -1, 0),
    ] {
        let request = first.init_request(60_000).with_producer_id(ProducerId(id)).with_producer_epoch(epoch);
        let answer = s.coordinator.call(5, request).await;
        let same = answer.producer_id.0 == first.producer_id;
        let epoch = answer.producer_epoch;
        script.line(format_args!("{head}, with {what}: {} epoch {epoch} same id {same}", code(answer.error_code)));
    }
    s.init().await;
    s.write(&["a"]).await;
    let request = s.txn.init_request(60_000).with_producer_id(ProducerId(id)).with_producer_epoch(s.txn.epoch);
    let answer = s.coordinator.call(5, request.clone()).await;
    script.line(format_args!("{head}, with its id in a transaction: {}", code(answer.error_code)));
    s.settle().await;
    let state = s.describe().await;
    let answer = s.coordinator.call(5, request).await;
    let epoch = answer.producer_epoch;
    script.line(format_args!("{head}, after it: {state}; again: {} epoch {epoch}", code(answer.error_code)));
}

async fn ends(script: &mut Script, v2: bool) {
    let mut s = Stage::new(script, "end", v2).await;
    let head = s.head();
    s.init().await;
    let version = s.txn.end_version();
    // What is sent, with an epoch relative to the current one; `write` begins a transaction before it.
    let steps = [
        ("commit of nothing", false, true, 0),
        ("abort of nothing", false, false, 0),
        ("abort of nothing, repeated", false, false, -1),
        ("abort of nothing, as commit", false, true, -1),
        ("commit", true, true, 0),
        ("commit, repeated", false, true, -1),
        ("commit, repeated again", false, true, -1),
        ("commit, as abort", false, false, -1),
        ("commit, once more with the new epoch", false, true, 0),
        ("abort with the new epoch", false, false, 0),
        ("abort", true, false, 0),
        ("abort, repeated", false, false, -1),
        ("abort, as commit", false, true, -1),
        ("commit after an abort", false, true, 0),
        ("commit two epochs back", false, true, -2),
        ("commit of a later epoch", false, true, 1),
    ];
    for (what, write, commit, epoch) in steps {
        if write {
            s.write(&["a"]).await;
        }
        // The old protocol keeps its epoch: there a repeat has the current one.
        let shift = if v2 || epoch > 0 { epoch } else { 0 };
        let who = Txn { epoch: s.txn.epoch + shift, ..s.txn.clone() };
        let response = s.coordinator.call(version, who.end_request(commit)).await;
        if response.error_code == 0 {
            s.txn.ended(&response);
        }
        s.settle().await;
        let (state, offsets) = (s.describe().await, s.offsets().await);
        script.line(format_args!(
            "{head}, {what}: {} epoch {}; {state}; {offsets}",
            code(response.error_code),
            response.producer_epoch
        ));
    }
    let wrote = s.write(&["a"]).await;
    let ended = s.end(true).await;
    script.line(format_args!("{head}, goes on: {wrote}; {ended}"));
}

async fn producing(script: &mut Script, v2: bool, level: i16) {
    let mut s = Stage::new(script, "produce", v2).await;
    let head = s.head();
    s.init().await;
    let txn = s.txn.clone();
    for version in [9, 10, 11] {
        let wrote = s.raw_write(&txn, version).await;
        script.line(format_args!("{head}, v{version} not added: {wrote}"));
    }
    let late = Txn { sequence: 5, ..txn.clone() };
    let versions: &[i16] = if v2 { &[12] } else { &[] };
    for version in versions {
        let wrote = s.raw_write(&late, *version).await;
        script.line(format_args!("{head}, v{version} first sequence 5: {wrote}"));
    }
    let state = s.describe().await;
    script.line(format_args!("{head}, state: {state}"));
    if !v2 {
        let added = s.coordinator.add(&txn, s.topic, 0).await;
        let wrote = s.raw_write(&late, 11).await;
        script.line(format_args!("{head}, added {}: first sequence 5: {wrote}", code(added)));
        s.txn.sequence = 6;
    }
    for what in ["first", "second"] {
        let before = s.txn.clone();
        let wrote = s.write(&["a", "b"]).await;
        let repeat = before.batch(&["a", "b"], now_ms());
        let again = s.leader.write_as(&before, s.topic, 0, &repeat, if v2 { 12 } else { 11 }).await;
        script.line(format_args!(
            "{head}, {what}: {wrote}; repeated: {} {}",
            code(again.error_code),
            again.base_offset
        ));
    }
    let gap = Txn { sequence: s.txn.sequence + 3, ..s.txn.clone() };
    let wrote = s.raw_write(&gap, 12).await;
    script.line(format_args!("{head}, a gap: {wrote}"));
    let mut plain = s.txn.batch(&["x"], now_ms());
    plain.attributes = 0;
    let answer = s.leader.produce(s.topic, 0, plain.bytes()).await;
    script.line(format_args!("{head}, not transactional: {}", code(answer.error_code)));
    let answer = s.leader.produce(s.topic, 0, s.txn.batch(&["x"], now_ms()).bytes()).await;
    script.line(format_args!("{head}, no transactional id: {}", code(answer.error_code)));
    let other = Txn { id: format!("{}-other", s.txn.id), ..s.txn.clone() };
    let wrote = s.raw_write(&other, 12).await;
    script.line(format_args!("{head}, another transactional id in an open transaction: {wrote}"));
    s.txn.sequence += 1;
    let last = Txn { sequence: s.txn.sequence - 1, ..s.txn.clone() };
    let ended = s.end(true).await;
    script.line(format_args!("{head}, commit: {ended}"));
    // Version 12 begins a transaction, if it can: see `new_protocol_on_an_old_cluster`.
    for version in if level >= 2 { &[11, 12][..] } else { &[11] }.iter().copied() {
        let wrote = s.raw_write(&last, version).await;
        script.line(format_args!("{head}, v{version} the last batch again: {wrote}"));
        let next = Txn { sequence: last.sequence + 1, ..last.clone() };
        let wrote = s.raw_write(&next, version).await;
        script.line(format_args!("{head}, v{version} with the epoch of before: {wrote}"));
    }
    let state = s.describe().await;
    let offsets = s.offsets().await;
    script.line(format_args!("{head}, at the end: {state}; {offsets}"));
}

async fn adding(script: &mut Script) {
    let mut s = Stage::new(script, "add", false).await;
    let head = s.head();
    s.init().await;
    for (what, partitions) in [
        ("one", vec![(s.topic, 0)]),
        ("with an unknown topic", vec![(s.topic, 1), ("no-such-topic", 0)]),
        ("with an unknown partition", vec![(s.topic, 1), (s.topic, 9)]),
        ("nothing", vec![]),
    ] {
        let response = s.coordinator.call(3, s.txn.add_request(&partitions)).await;
        let mut codes: Vec<String> = Vec::new();
        for topic in &response.results_by_topic_v3_and_below {
            for p in &topic.results_by_partition {
                codes.push(format!("{} {}", p.partition_index, code(p.partition_error_code)));
            }
        }
        codes.sort();
        let state = s.describe().await;
        script.line(format_args!("{head}, {what}: {codes:?}; {state}"));
    }
    let ended = s.end(true).await;
    let (offsets, producers) = (s.offsets().await, s.producers().await);
    script.line(format_args!("{head}, commit without a record: {ended}; {offsets}; {producers}"));
    let all = shown(&s.leader.fetch(s.topic, 0, 0).await, &[]);
    script.line(format_args!("{head}, read: {all}"));
}

/// What brokers ask one another, and what Kafka answers to everybody where nobody has to be authorised.
async fn verifying(script: &mut Script, level: i16) {
    let mut s = Stage::new(script, "verify", false).await;
    let head = s.head();
    s.init().await;
    let old = Txn { epoch: s.txn.epoch - 1, ..s.txn.clone() };
    let other = Txn { producer_id: 1 << 40, ..s.txn.clone() };
    for version in [4, 5] {
        // Both belong to the new protocol: where that cannot be stored, something has to be there to be verified.
        if level == 0 {
            s.coordinator.add(&s.txn, s.topic, 0).await;
        }
        for (what, who, verify_only, partitions) in [
            ("verify", &s.txn, true, vec![0]),
            ("add", &s.txn, false, vec![0]),
            ("verify one that is there", &s.txn, true, vec![0, 1]),
            ("verify one that does not exist", &s.txn, true, vec![0, 9]),
            ("verify an old epoch", &old, true, vec![0]),
            ("verify another id", &other, true, vec![0]),
        ] {
            if level == 0 && !verify_only {
                continue;
            }
            let topic = AddPartitionsToTxnTopic::default().with_name(name(s.topic)).with_partitions(partitions);
            let one = AddPartitionsToTxnTransaction::default()
                .with_transactional_id(who.transactional_id())
                .with_producer_id(ProducerId(who.producer_id))
                .with_producer_epoch(who.epoch)
                .with_verify_only(verify_only)
                .with_topics(vec![topic]);
            let request = AddPartitionsToTxnRequest::default().with_transactions(vec![one]);
            let response = s.coordinator.call(version, request).await;
            let mut codes: Vec<String> = Vec::new();
            for topic in response.results_by_transaction.iter().flat_map(|result| &result.topic_results) {
                let results = topic.results_by_partition.iter();
                codes.extend(results.map(|p| format!("{} {}", p.partition_index, code(p.partition_error_code))));
            }
            codes.sort();
            let top = code(response.error_code);
            script.line(format_args!("{head}, v{version} {what}: {top} {codes:?}"));
        }
        let ended = s.end(false).await;
        script.line(format_args!("{head}, v{version} abort: {ended}"));
    }
}

async fn listing(script: &mut Script) {
    let mut s = Stage::new(script, "list", false).await;
    let head = s.head();
    s.init().await;
    s.write(&["a"]).await;
    let id = s.txn.producer_id;
    for (what, states, ids, longer) in [
        ("everything", vec![], vec![], -1),
        ("its state", vec!["Ongoing"], vec![], -1),
        ("another state", vec!["CompleteCommit"], vec![], -1),
        ("an unknown state", vec!["Nonsense", "Ongoing"], vec![], -1),
        ("only unknown states", vec!["Nonsense"], vec![], -1),
        ("states that nobody sees", vec!["Dead", "PrepareEpochFence"], vec![], -1),
        ("its id", vec![], vec![id], -1),
        ("another id", vec![], vec![1 << 40], -1),
        ("running for an hour", vec![], vec![], 3_600_000),
        ("running at all", vec![], vec![id], 0),
    ] {
        pause().await; // so that it has run for longer than nothing
        let request = ListTransactionsRequest::default()
            .with_state_filters(states.iter().map(|state| text(state)).collect())
            .with_producer_id_filters(ids.into_iter().map(ProducerId).collect())
            .with_duration_filter(longer);
        let response = s.coordinator.call(1, request).await;
        let mine = response.transaction_states.iter().find(|state| state.producer_id.0 == id);
        let mine = mine.map(|state| state.transaction_state.to_string());
        let unknown: Vec<String> = response.unknown_state_filters.iter().map(|state| state.to_string()).collect();
        script.line(format_args!("{head}, {what}: {} {mine:?} unknown {unknown:?}", code(response.error_code)));
    }
    s.end(true).await;
}

/// One request with batches for several partitions, and one of them not in the transaction.
async fn several(script: &mut Script, v2: bool) {
    let mut s = Stage::new(script, "several", v2).await;
    let head = s.head();
    s.init().await;
    // One broker leads all partitions.
    let broker = s.leader.call(9, MetadataRequest::default().with_topics(None)).await.brokers[0].node_id;
    let assigned = (0..3).map(|partition| {
        CreatableReplicaAssignment::default().with_partition_index(partition).with_broker_ids(vec![broker])
    });
    s.topic = script.unique(if v2 { "by-one-2" } else { "by-one-1" });
    let topic = CreatableTopic::default()
        .with_name(name(s.topic))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_assignments(assigned.collect());
    let created =
        s.leader.call(7, CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000)).await;
    assert_eq!(created.topics[0].error_code, 0, "{:?}", created.topics[0].error_message);
    s.leader = script.leader(s.topic, 0).await;
    script.leader(s.topic, 1).await;
    script.leader(s.topic, 2).await;
    if !v2 {
        for partition in [0, 2] {
            s.coordinator.add(&s.txn, s.topic, partition).await;
        }
    }
    let mut data = Vec::new();
    for partition in [0, 1, 2, 9] {
        let bytes = s.txn.batch(&["a"], now_ms()).bytes();
        data.push(PartitionProduceData::default().with_index(partition).with_records(Some(bytes)));
    }
    let topic = TopicProduceData::default().with_name(name(s.topic)).with_partition_data(data);
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_transactional_id(Some(s.txn.transactional_id()))
        .with_topic_data(vec![topic]);
    let response = s.leader.call(if v2 { 12 } else { 11 }, request).await;
    let mut codes: Vec<String> = Vec::new();
    for p in response.responses.iter().flat_map(|topic| &topic.partition_responses) {
        codes.push(format!("{} {}", p.index, code(p.error_code)));
    }
    codes.sort();
    let state = s.describe().await;
    script.line(format_args!("{head}: {codes:?}; {state}"));
    let ended = s.end(true).await;
    script.line(format_args!("{head}, commit: {ended}"));
    for partition in [0, 1, 2] {
        let (stable, end) =
            (s.leader.latest(s.topic, partition, true).await, s.leader.latest(s.topic, partition, false).await);
        script.line(format_args!("{head}, partition {partition}: stable {stable} end {end}"));
    }
}

async fn offsets(script: &mut Script, v2: bool) {
    let mut s = Stage::new(script, "offsets", v2).await;
    let head = s.head();
    s.init().await;
    let group = script.unique(if v2 { "g2" } else { "g1" });
    let mut keeper = script.coordinator(group).await;
    let commit =
        |txn: &Txn, t: &'static str, partition: i32, offset: i64| txn.offset_request(group, t, partition, offset);
    let code_of = |r: &TxnOffsetCommitResponse| code(r.topics[0].partitions[0].error_code);
    for version in [3, 4] {
        let response = keeper.call(version, commit(&s.txn, s.topic, 0, 5)).await;
        script.line(format_args!("{head}, v{version} not added: {}", code_of(&response)));
    }
    let version = if v2 { 5 } else { 4 };
    let mut expected = Vec::new();
    for (what, end, offset) in [("commit", true, 5), ("abort", false, 7), ("second commit", true, 9)] {
        if !v2 {
            let added = s.coordinator.call(3, s.txn.add_offsets_request(group)).await.error_code;
            let state = s.describe().await;
            script.line(format_args!("{head}, {what}, add offsets: {}; {state}", code(added)));
        }
        let response = keeper.call(version, commit(&s.txn, s.topic, 0, offset)).await;
        let state = s.describe().await;
        let stable = keeper.committed(group, s.topic, 0, true).await;
        let any = keeper.committed(group, s.topic, 0, false).await;
        script.line(format_args!(
            "{head}, {what}: {}; {state}; stable {} {} any {} {}",
            code_of(&response),
            stable.0,
            code(stable.1),
            any.0,
            code(any.1)
        ));
        let ended = s.end(end).await;
        let mut stable = keeper.committed(group, s.topic, 0, true).await;
        while stable.1 == ErrorCode::UNSTABLE_OFFSET_COMMIT.0 {
            pause().await;
            stable = keeper.committed(group, s.topic, 0, true).await;
        }
        expected.push(stable.0);
        script.line(format_args!("{head}, {what}, ended: {ended}; stable {} {}", stable.0, code(stable.1)));
    }
    assert_eq!(expected, [5, 5, 9]);
    // A plain commit that comes after that of a transaction counts, also after the transaction's end.
    if !v2 {
        s.coordinator.call(3, s.txn.add_offsets_request(group)).await;
    }
    keeper.call(version, commit(&s.txn, s.topic, 0, 20)).await;
    let p = OffsetCommitRequestPartition::default().with_committed_offset(15).with_committed_metadata(Some(text("")));
    let topic = OffsetCommitRequestTopic::default().with_name(name(s.topic)).with_partitions(vec![p]);
    let plain = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    keeper.call(8, plain).await;
    for (what, topic, partition, metadata) in [
        ("unknown topic", "no-such-topic", 0, 4),
        ("unknown partition", s.topic, 9, 4),
        ("metadata of 4097 bytes", s.topic, 0, 4097),
    ] {
        let mut request = commit(&s.txn, topic, partition, 1);
        request.topics[0].partitions[0].committed_metadata = Some(text(&"m".repeat(metadata)));
        let response = keeper.call(version, request).await;
        script.line(format_args!("{head}, {what}: {}", code_of(&response)));
    }
    let old = s.txn.clone();
    s.end(true).await;
    let mut stable = keeper.committed(group, s.topic, 0, true).await;
    while stable.1 == ErrorCode::UNSTABLE_OFFSET_COMMIT.0 {
        pause().await;
        stable = keeper.committed(group, s.topic, 0, true).await;
    }
    script.line(format_args!("{head}, a plain commit in between: {} {}", stable.0, code(stable.1)));
    let strangers = [
        ("the epoch of before", old.clone()),
        ("a later epoch", Txn { epoch: s.txn.epoch + 5, ..s.txn.clone() }),
        ("another id", Txn { producer_id: 1 << 40, ..s.txn.clone() }),
        ("an unknown transactional id", Txn { id: format!("{}-nobody", s.txn.id), ..s.txn.clone() }),
    ];
    for (what, txn) in strangers {
        for version in [3, 4, 5] {
            if version == 5 && !v2 {
                continue; // it would add the partition and begin a transaction
            }
            let response = keeper.call(version, commit(&txn, s.topic, 0, 1)).await;
            script.line(format_args!("{head}, {what} v{version}: {}", code_of(&response)));
        }
    }
    let nameless = keeper.call(version, s.txn.offset_request("", s.topic, 0, 1)).await;
    script.line(format_args!("{head}, a group without a name: {}", code_of(&nameless)));
    let state = s.describe().await;
    script.line(format_args!("{head}, at the end: {state}"));
}

/// Members of a group are fenced by generation and id (KIP-447).
async fn members(script: &mut Script, v2: bool) {
    let mut s = Stage::new(script, "members", v2).await;
    let head = s.head();
    s.init().await;
    let group = script.unique(if v2 { "m2" } else { "m1" });
    let mut keeper = script.coordinator(group).await;
    let version = if v2 { 5 } else { 4 };
    if !v2 {
        s.coordinator.call(3, s.txn.add_offsets_request(group)).await;
    }
    let none = StrBytes::new();
    let commit = |txn: &Txn, t: &'static str, member: &StrBytes, generation: i32| {
        txn.offset_request(group, t, 0, 1).with_member_id(member.clone()).with_generation_id(generation)
    };
    let code_of = |r: &TxnOffsetCommitResponse| code(r.topics[0].partitions[0].error_code);
    let first = keeper.call(version, commit(&s.txn, s.topic, &none, 0)).await;
    let state = s.describe().await;
    script.line(format_args!("{head}, generation 0 of no group: {}; {state}", code_of(&first)));
    let join = |member: &StrBytes| {
        let protocol =
            JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(Bytes::from_static(b"m"));
        JoinGroupRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_session_timeout_ms(10_000)
            .with_rebalance_timeout_ms(5_000)
            .with_member_id(member.clone())
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol])
    };
    let joined = keeper.call(3, join(&none)).await;
    let (me, generation) = (joined.member_id.clone(), joined.generation_id);
    let stranger = text("stranger");
    let cases = [
        ("me", &me, generation),
        ("an old generation", &me, generation - 1),
        ("a later generation", &me, generation + 1),
        ("no generation", &me, -1),
        ("a stranger", &stranger, generation),
        ("a stranger without a generation", &stranger, -1),
        ("nobody with a generation", &none, generation),
        ("nobody", &none, -1),
    ];
    for phase in ["joined", "synced"] {
        if phase == "synced" {
            let mine = SyncGroupRequestAssignment::default().with_member_id(me.clone()).with_assignment(Bytes::new());
            let sync = SyncGroupRequest::default()
                .with_group_id(GroupId(text(group)))
                .with_member_id(me.clone())
                .with_generation_id(generation)
                .with_protocol_type(Some(text("consumer")))
                .with_protocol_name(Some(text("range")))
                .with_assignments(vec![mine]);
            keeper.call(5, sync).await;
        }
        for (what, member, generation) in cases {
            let response = keeper.call(version, commit(&s.txn, s.topic, member, generation)).await;
            script.line(format_args!("{head}, {phase}, {what}: {}", code_of(&response)));
        }
    }
    let mut request = commit(&s.txn, s.topic, &me, generation);
    request.group_instance_id = Some(text("i"));
    let response = keeper.call(version, request).await;
    script.line(format_args!("{head}, an instance that is not there: {}", code_of(&response)));
    let ended = s.end(true).await;
    script.line(format_args!("{head}, commit: {ended}"));
}

async fn timeouts(script: &mut Script, v2: bool) {
    let mut s = Stage::new(script, "timeout", v2).await;
    let head = s.head();
    let begun = s.coordinator.call(5, s.txn.init_request(300)).await;
    s.txn.began(&begun);
    let wrote = s.write(&["a"]).await;
    script.line(format_args!("{head}, written: {wrote}"));
    while !s.describe().await.starts_with("CompleteAbort") {
        pause().await;
    }
    let (state, offsets, producers) = (s.describe().await, s.offsets().await, s.producers().await);
    script.line(format_args!("{head}, over: {state}; {offsets}; {producers}"));
    let txn = s.txn.clone();
    for version in [11, 12] {
        let wrote = s.raw_write(&txn, version).await;
        script.line(format_args!("{head}, produce v{version}: {wrote}"));
    }
    let added = s.coordinator.add(&txn, s.topic, 1).await;
    script.line(format_args!("{head}, add: {}", code(added)));
    for commit in [true, false] {
        let response = s.coordinator.call(txn.end_version(), txn.end_request(commit)).await;
        let epoch = response.producer_epoch;
        let what = if commit { "commit" } else { "abort" };
        script.line(format_args!("{head}, {what}: {} epoch {epoch}", code(response.error_code)));
    }
    let request = txn.init_request(60_000).with_producer_id(ProducerId(txn.producer_id));
    let answer = s.coordinator.call(5, request.with_producer_epoch(txn.epoch)).await;
    script.line(format_args!("{head}, init with the old epoch: {} {}", code(answer.error_code), answer.producer_epoch));
    s.init().await;
    let (epoch, wrote) = (s.txn.epoch, s.write(&["b"]).await);
    let ended = s.end(true).await;
    script.line(format_args!("{head}, init: epoch {epoch}; {wrote}; {ended}"));
}

async fn interleaved(script: &mut Script, v2: bool) {
    let mut s = Stage::new(script, "interleaved", v2).await;
    let head = s.head();
    let (coordinator, txn) = Stage::producer(script, "other", v2).await;
    let mut other = Stage { topic: s.topic, leader: script.leader(s.topic, 0).await, coordinator, txn, what: s.what };
    s.init().await;
    other.init().await;
    let known = [s.txn.producer_id, other.txn.producer_id];
    let look = async |script: &mut Script, s: &mut Stage, what: &str| {
        let offsets = s.offsets().await;
        let committed = shown(&s.leader.fetch_committed(s.topic, 0, 0).await, &known);
        script.line(format_args!("{head}, {what}: {offsets}; {committed}"));
    };
    s.leader.produce(s.topic, 0, batch(&["plain"]).bytes()).await;
    s.write(&["a"]).await;
    other.write(&["b"]).await;
    s.leader.produce(s.topic, 0, batch(&["plain"]).bytes()).await;
    look(script, &mut s, "both open").await;
    other.end(false).await;
    look(script, &mut s, "the second aborted").await;
    other.write(&["c"]).await;
    other.end(true).await;
    look(script, &mut s, "the second committed").await;
    other.write(&["d"]).await;
    s.end(false).await;
    look(script, &mut s, "the first aborted").await;
    s.write(&["e"]).await;
    other.end(true).await;
    look(script, &mut s, "the second committed again").await;
    s.end(true).await;
    look(script, &mut s, "all ended").await;
    for offset in 0..13 {
        let committed = shown(&s.leader.fetch_committed(s.topic, 0, offset).await, &known);
        script.line(format_args!("{head}, from {offset}: {committed}"));
    }
    let all = shown(&s.leader.fetch(s.topic, 0, 0).await, &known);
    script.line(format_args!("{head}, all: {all}"));
}

async fn deleting(script: &mut Script, v2: bool) {
    let mut s = Stage::new(script, "delete", v2).await;
    let head = s.head();
    s.init().await;
    s.write(&["a", "b"]).await;
    s.end(false).await;
    s.write(&["c", "d", "e"]).await;
    for before in [1, 4, -1] {
        let p = DeleteRecordsPartition::default().with_partition_index(0).with_offset(before);
        let topic = DeleteRecordsTopic::default().with_name(name(s.topic)).with_partitions(vec![p]);
        let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
        let deleted = s.leader.call(2, request).await.topics[0].partitions[0].clone();
        let offsets = s.offsets().await;
        let from = deleted.low_watermark;
        let committed = shown(&s.leader.fetch_committed(s.topic, 0, from).await, &[s.txn.producer_id]);
        script
            .line(format_args!("{head}, before {before}: {from} {}; {offsets}; {committed}", code(deleted.error_code)));
    }
    let ended = s.end(true).await;
    let offsets = s.offsets().await;
    script.line(format_args!("{head}, commit: {ended}; {offsets}"));
}

/// What no correct client does.
async fn new_protocol_on_an_old_cluster(script: &mut Script) {
    let mut s = Stage::new(script, "new-on-old", false).await;
    let head = s.head();
    s.init().await;
    let (txn, topic) = (s.txn.clone(), s.topic);
    let wrote = s.raw_write(&txn, 12).await;
    script.line(format_args!("{head}, produce v12: {wrote}"));
    let (mut adder, mut txn_of) = Stage::producer(script, "new-add", false).await;
    adder.init(&mut txn_of).await;
    let (coordinator, txn) = Stage::producer(script, "new-end", false).await;
    (s.coordinator, s.txn) = (coordinator, txn);
    s.init().await;
    s.write(&["a"]).await;
    let added = AddPartitionsToTxnTopic::default().with_name(name(topic)).with_partitions(vec![1]);
    let one = AddPartitionsToTxnTransaction::default()
        .with_transactional_id(txn_of.transactional_id())
        .with_producer_id(ProducerId(txn_of.producer_id))
        .with_producer_epoch(txn_of.epoch)
        .with_topics(vec![added]);
    let response = adder.call(4, AddPartitionsToTxnRequest::default().with_transactions(vec![one])).await;
    let count = response.results_by_transaction.len();
    script.line(format_args!("{head}, add v4: {} {count} results", code(response.error_code)));
    let response = s.coordinator.call(5, s.txn.end_request(true)).await;
    script.line(format_args!("{head}, end v5: {} epoch {}", code(response.error_code), response.producer_epoch));
    let (coordinator, txn) = Stage::producer(script, "new-offsets", false).await;
    (s.coordinator, s.txn) = (coordinator, txn);
    s.init().await;
    let group = script.unique("new-group");
    let mut keeper = script.coordinator(group).await;
    let response = keeper.call(5, s.txn.offset_request(group, topic, 0, 1)).await;
    script.line(format_args!("{head}, offsets v5: {}", code(response.topics[0].partitions[0].error_code)));
}

/// The cluster's transaction.version, and what ApiVersions tells about it.
async fn version(script: &mut Script) -> i16 {
    let mut raw = script.connect().await;
    let request =
        ApiVersionsRequest::default().with_client_software_name(text("x")).with_client_software_version(text("1"));
    let mut level = 0;
    for version in [3, 4] {
        let response = raw.call(version, request.clone()).await;
        let supported = response.supported_features.iter().find(|f| f.name.as_str() == "transaction.version");
        let supported = supported.map(|f| (f.min_version, f.max_version));
        let finalised = response.finalized_features.iter().find(|f| f.name.as_str() == "transaction.version");
        let finalised = finalised.map(|f| (f.min_version_level, f.max_version_level));
        level = finalised.map_or(0, |(_, level)| level);
        script.line(format_args!("features v{version}: supported {supported:?} finalised {finalised:?}"));
        for (api, name) in [(22, "init"), (24, "add"), (25, "add offsets"), (26, "end"), (28, "offset commit")] {
            let found = response.api_keys.iter().find(|key| key.api_key == api);
            let min = found.map(|key| key.min_version);
            script.line(format_args!("versions of {name} from {min:?}"));
        }
    }
    level
}

async fn run(bootstrap: SocketAddr) -> (i16, String) {
    let mut script = Script::new(bootstrap);
    let level = version(&mut script).await;
    script.transactions_are_ready().await;
    adding(&mut script).await;
    verifying(&mut script, level).await;
    listing(&mut script).await;
    let protocols: &[bool] = if level >= 2 { &[true, false] } else { &[false] };
    for v2 in protocols.iter().copied() {
        life(&mut script, v2).await;
        fencing(&mut script, v2).await;
        initialising(&mut script, v2).await;
        ends(&mut script, v2).await;
        producing(&mut script, v2, level).await;
        several(&mut script, v2).await;
        offsets(&mut script, v2).await;
        members(&mut script, v2).await;
        timeouts(&mut script, v2).await;
        interleaved(&mut script, v2).await;
        deleting(&mut script, v2).await;
    }
    if level < 2 {
        new_protocol_on_an_old_cluster(&mut script).await;
    }
    (level, script.lines)
}

fn expected(level: i16) -> &'static str {
    match level {
        0 => include_str!("portable_transactions_0.txt"),
        1 => include_str!("portable_transactions_1.txt"),
        _ => include_str!("portable_transactions_2.txt"),
    }
}

async fn compare_in_process(level: i16) {
    let cluster = Cluster::builder().transaction_version(level).allow_backward_commits().start().await.unwrap();
    let servers = cluster.bootstrap_servers();
    let (told, lines) = run(first(&servers)).await;
    assert_eq!(told, level);
    compare("this cluster", expected(level), &lines);
    cluster.shutdown().await;
}

#[tokio::test]
async fn the_in_process_cluster_answers_as_kafka_did_with_version_2() {
    compare_in_process(2).await;
}

#[tokio::test]
async fn the_in_process_cluster_answers_as_kafka_did_with_version_1() {
    compare_in_process(1).await;
}

#[tokio::test]
async fn the_in_process_cluster_answers_as_kafka_did_with_version_0() {
    compare_in_process(0).await;
}

#[tokio::test]
async fn real_kafka_answers_as_it_did() {
    let Some(servers) = real_bootstrap_servers("portable_transactions::real_kafka_answers_as_it_did") else { return };
    let (level, lines) = run(first(&servers)).await;
    let file = format!("portable_transactions_{level}.txt");
    compare_or_write("this Kafka", &file, expected(level), &lines);
}
