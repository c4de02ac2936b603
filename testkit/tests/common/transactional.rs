//! A transactional producer of a few lines, for tests that look at every answer.

#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses its own part of it")]

use milena_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use milena_protocol::messages::fetch_response::PartitionData;
use milena_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use milena_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use milena_protocol::messages::produce_response::PartitionProduceResponse;
use milena_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use milena_protocol::messages::*;
use milena_protocol::{ErrorCode, StrBytes};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Raw, TestBatch, fetch_request, name, produce_request};

pub(crate) fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

/// Who writes: a transactional id, the producer's id and epoch, and the next sequence (of one partition).
#[derive(Debug, Clone)]
pub(crate) struct Txn {
    pub(crate) id: String,
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
    pub(crate) sequence: i32,
    /// Speaks the protocol of transaction.version 2.
    pub(crate) v2: bool,
}

impl Txn {
    pub(crate) fn new(id: &str, v2: bool) -> Self {
        Self { id: id.to_owned(), producer_id: -1, epoch: -1, sequence: 0, v2 }
    }

    pub(crate) fn transactional_id(&self) -> TransactionalId {
        TransactionalId(text(&self.id))
    }

    pub(crate) fn init_request(&self, timeout_ms: i32) -> InitProducerIdRequest {
        InitProducerIdRequest::default()
            .with_transactional_id(Some(self.transactional_id()))
            .with_transaction_timeout_ms(timeout_ms)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1)
    }

    /// Takes over what InitProducerId has given.
    pub(crate) fn began(&mut self, response: &InitProducerIdResponse) {
        assert_eq!(response.error_code, 0, "InitProducerId: {:?}", ErrorCode(response.error_code));
        (self.producer_id, self.epoch, self.sequence) = (response.producer_id.0, response.producer_epoch, 0);
    }

    pub(crate) fn end_request(&self, commit: bool) -> EndTxnRequest {
        EndTxnRequest::default()
            .with_transactional_id(self.transactional_id())
            .with_producer_id(ProducerId(self.producer_id))
            .with_producer_epoch(self.epoch)
            .with_committed(commit)
    }

    /// Takes over what EndTxn has given.
    pub(crate) fn ended(&mut self, response: &EndTxnResponse) {
        assert_eq!(response.error_code, 0, "EndTxn: {:?}", ErrorCode(response.error_code));
        if self.v2 {
            (self.producer_id, self.epoch, self.sequence) = (response.producer_id.0, response.producer_epoch, 0);
        }
    }

    pub(crate) fn end_version(&self) -> i16 {
        if self.v2 { 5 } else { 4 }
    }

    pub(crate) fn add_request(&self, partitions: &[(&'static str, i32)]) -> AddPartitionsToTxnRequest {
        let topics = partitions.iter().map(|(topic, partition)| {
            AddPartitionsToTxnTopic::default().with_name(name(topic)).with_partitions(vec![*partition])
        });
        AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(self.transactional_id())
            .with_v3_and_below_producer_id(ProducerId(self.producer_id))
            .with_v3_and_below_producer_epoch(self.epoch)
            .with_v3_and_below_topics(topics.collect())
    }

    pub(crate) fn add_offsets_request(&self, group: &str) -> AddOffsetsToTxnRequest {
        AddOffsetsToTxnRequest::default()
            .with_transactional_id(self.transactional_id())
            .with_producer_id(ProducerId(self.producer_id))
            .with_producer_epoch(self.epoch)
            .with_group_id(GroupId(text(group)))
    }

    /// Commits an offset without naming a member.
    pub(crate) fn offset_request(
        &self,
        group: &str,
        topic: &'static str,
        partition: i32,
        offset: i64,
    ) -> TxnOffsetCommitRequest {
        let partition = TxnOffsetCommitRequestPartition::default()
            .with_partition_index(partition)
            .with_committed_offset(offset)
            .with_committed_metadata(Some(text("meta")));
        let topic = TxnOffsetCommitRequestTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
        TxnOffsetCommitRequest::default()
            .with_transactional_id(self.transactional_id())
            .with_producer_id(ProducerId(self.producer_id))
            .with_producer_epoch(self.epoch)
            .with_group_id(GroupId(text(group)))
            .with_topics(vec![topic])
    }

    /// A batch at the next sequence. `timestamp` is that of the first record.
    pub(crate) fn batch(&self, values: &[&str], timestamp: i64) -> TestBatch {
        let mut batch = TestBatch::of(values).by_producer(self.producer_id, self.epoch, self.sequence);
        batch.attributes = 0x10;
        batch.base_timestamp = timestamp;
        batch
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    /// InitProducerId until the coordinator is ready.
    pub(crate) async fn init(&mut self, txn: &mut Txn) {
        let request = txn.init_request(60_000);
        loop {
            let response = self.call(5, request.clone()).await;
            let again = [ErrorCode::CONCURRENT_TRANSACTIONS, ErrorCode::COORDINATOR_LOAD_IN_PROGRESS];
            if !again.contains(&ErrorCode(response.error_code)) {
                return txn.began(&response);
            }
            super::pause().await;
        }
    }

    pub(crate) async fn add(&mut self, txn: &Txn, topic: &'static str, partition: i32) -> i16 {
        let response = self.call(3, txn.add_request(&[(topic, partition)])).await;
        response.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code
    }

    /// Writes a batch at the next sequence, with the partition added before if the protocol is the old one.
    pub(crate) async fn write(
        &mut self,
        txn: &mut Txn,
        topic: &'static str,
        partition: i32,
        batch: &TestBatch,
    ) -> PartitionProduceResponse {
        let answer = self.write_as(txn, topic, partition, batch, if txn.v2 { 12 } else { 11 }).await;
        if answer.error_code == 0 {
            txn.sequence += batch.records.len() as i32;
        }
        answer
    }

    /// Writes a batch as it is, in a given version.
    pub(crate) async fn write_as(
        &mut self,
        txn: &Txn,
        topic: &'static str,
        partition: i32,
        batch: &TestBatch,
        version: i16,
    ) -> PartitionProduceResponse {
        let request = produce_request(topic, partition, batch.bytes(), -1)
            .with_transactional_id(Some(TransactionalId(text(&txn.id))));
        let response = self.call(version, request).await;
        response.responses[0].partition_responses[0].clone()
    }

    pub(crate) async fn end(&mut self, txn: &mut Txn, commit: bool) -> EndTxnResponse {
        let response = self.call(txn.end_version(), txn.end_request(commit)).await;
        txn.ended(&response);
        response
    }

    /// Fetches committed data of one partition without waiting.
    pub(crate) async fn fetch_committed(&mut self, topic: &'static str, partition: i32, offset: i64) -> PartitionData {
        let request = fetch_request(&[(topic, partition, offset)]).with_isolation_level(1);
        self.call(12, request).await.responses[0].partitions[0].clone()
    }

    /// The latest offset for this isolation level.
    pub(crate) async fn latest(&mut self, topic: &'static str, partition: i32, read_committed: bool) -> i64 {
        let partition = ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(-1);
        let topic = ListOffsetsTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
        let request = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_isolation_level(i8::from(read_committed))
            .with_topics(vec![topic]);
        self.call(5, request).await.topics[0].partitions[0].offset
    }

    /// A group's offset of one partition, and its error.
    pub(crate) async fn committed(
        &mut self,
        group: &str,
        topic: &'static str,
        partition: i32,
        stable: bool,
    ) -> (i64, i16) {
        let topic = OffsetFetchRequestTopics::default().with_name(name(topic)).with_partition_indexes(vec![partition]);
        let group =
            OffsetFetchRequestGroup::default().with_group_id(GroupId(text(group))).with_topics(Some(vec![topic]));
        let request = OffsetFetchRequest::default().with_groups(vec![group]).with_require_stable(stable);
        let found = self.call(8, request).await.groups[0].topics[0].partitions[0].clone();
        (found.committed_offset, found.error_code)
    }
}
