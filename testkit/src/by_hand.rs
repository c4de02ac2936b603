//! What a test does to topics and logs by its own hand, where a client would only be in the way: it writes batches and markers, turns
//! bits over on a broker's disk, and makes topics larger or new.

use std::sync::Arc;

use bytes::BytesMut;
use milena_protocol::ErrorCode;

use crate::apis::{delete_topics, produce};
use crate::cluster::Cluster;
use crate::log::marker::Marker;
use crate::topics::Partition;

impl Cluster {
    /// Appends one record batch to a partition, as its leader does for a producer with `acks=1`, and returns its base offset. The batch is
    /// validated as one of a client is, its sequences, too; a transactional one opens a transaction in the partition that no
    /// coordinator knows of, until [`append_marker`](Self::append_marker) ends it.
    ///
    /// For what needs many records, or records that no producer writes.
    ///
    /// # Errors
    /// `LEADER_NOT_AVAILABLE` if the partition has no leader; why the batch is refused.
    ///
    /// # Panics
    /// When there is no such partition.
    pub fn append(&self, topic: &str, partition: i32, batch: &[u8]) -> Result<i64, ErrorCode> {
        self.with_partition(topic, partition, |_| ());
        self.shared.control_at(|state, now| produce::append(state, topic, partition, batch, now))
    }

    /// Appends the marker that commits or aborts a producer's transaction in a partition, as its coordinator does, and returns its
    /// offset. A marker without a transaction is appended, too.
    ///
    /// # Errors
    /// `LEADER_NOT_AVAILABLE` if the partition has no leader.
    ///
    /// # Panics
    /// When there is no such partition.
    pub fn append_marker(
        &self,
        topic: &str,
        partition: i32,
        (producer_id, producer_epoch): (i64, i16),
        commit: bool,
    ) -> Result<i64, ErrorCode> {
        let offset = self.with_partition_at(topic, partition, |p, timestamp| {
            let marker = Marker { producer_id, producer_epoch, commit, coordinator_epoch: 0, timestamp };
            p.leader.map(|_| p.log.append_marker(&marker, p.leader_epoch)).ok_or(ErrorCode::LEADER_NOT_AVAILABLE)
        })?;
        self.shared.control_at(|state, now| {
            state.advance(topic, partition);
            state.on_partition_changed(topic, partition, now);
        });
        Ok(offset)
    }

    /// Turns one bit over in the last byte of the stored batch that holds `offset`: what a disk does that nobody has checked. Done twice,
    /// the batch is what it was. False if there is no such batch.
    ///
    /// # Panics
    /// When there is no such partition.
    pub fn turn_bit_over(&self, topic: &str, partition: i32, offset: i64) -> bool {
        self.spoil(topic, partition, offset, |bytes| {
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
        })
    }

    /// Changes the bytes of the stored batch that holds `offset`, header included, as they lie on the leader's disk; nothing validates
    /// them again, and their number stays. False if there is no such batch.
    ///
    /// # Panics
    /// When there is no such partition.
    pub fn spoil(&self, topic: &str, partition: i32, offset: i64, change: impl FnOnce(&mut [u8])) -> bool {
        self.with_partition(topic, partition, |p| {
            let Some(stored) = p.log.batch_with(offset) else { return false };
            let mut bytes = BytesMut::from(&stored[..]);
            change(&mut bytes);
            *stored = bytes.freeze();
            true
        })
    }

    /// Deletes a topic at once, as DeleteTopics does.
    ///
    /// # Panics
    /// When there is no such topic.
    pub fn delete_topic(&self, topic: &str) {
        let deleted = self.shared.control_at(|state, now| delete_topics::remove(state, topic, now));
        assert!(deleted, "there is no topic {topic}");
    }

    /// Makes a topic have so many partitions, as CreatePartitions does.
    ///
    /// # Panics
    /// When there is no such topic, or it has so many already.
    pub fn grow_topic(&self, topic: &str, partitions: i32) {
        let have = self.partitions(topic).unwrap_or_else(|| panic!("there is no topic {topic}"));
        assert!(have < partitions, "topic {topic} has {have} partitions already");
        self.shared.control(|state| {
            let factor = state.topics.get(topic).and_then(|topic| topic.partitions.first()).map(|p| p.replicas.len());
            let added = state.new_partitions(state.place(have, partitions, factor.unwrap_or(1)));
            if let Some(topic) = state.topics.get_mut(topic) {
                topic.partitions.extend(added);
            }
        });
    }

    fn with_partition_at<T>(&self, topic: &str, partition: i32, f: impl FnOnce(&mut Partition, i64) -> T) -> T {
        let found = Arc::clone(&self.shared).control_at(|state, now| {
            let wall_clock = state.wall_clock_ms(now);
            state.topics.get_mut(topic).and_then(|t| t.partition_mut(partition)).map(|p| f(p, wall_clock))
        });
        found.unwrap_or_else(|| panic!("there is no partition {topic}-{partition}"))
    }
}

#[cfg(test)]
mod tests {
    use milena_protocol::records::{BatchBuilder, ProducerStamp};

    use super::*;

    fn batch(producer_id: i64, base_sequence: i32) -> Vec<u8> {
        let mut builder = BatchBuilder::new(vec![0; 256], 0);
        builder.append(7, Some(b"k"), Some(b"v"), &[]).unwrap();
        let mut sealed = builder.seal();
        let transactional = producer_id >= 0;
        let epoch = if transactional { 0 } else { -1 };
        sealed.stamp(ProducerStamp { producer_id, epoch, base_sequence, transactional });
        sealed.bytes().to_vec()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_appended_by_hand_is_there_and_a_marker_ends_its_transaction() {
        let cluster = Cluster::builder().topic("t", 1).start_in_memory().unwrap();
        assert_eq!(cluster.append("t", 0, &batch(-1, -1)), Ok(0));
        assert_eq!(cluster.append("t", 0, &batch(5, 0)), Ok(1));
        assert_eq!(cluster.append("t", 0, &batch(5, 7)), Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
        assert_eq!(cluster.partition_info("t", 0).last_stable_offset, 1);
        assert_eq!(cluster.append_marker("t", 0, (5, 0), false), Ok(2));
        assert_eq!(cluster.partition_info("t", 0).last_stable_offset, 3);
        assert_eq!(cluster.committed_records("t", 0).len(), 1);
        assert_eq!(cluster.append("t", 0, b"no batch"), Err(ErrorCode::INVALID_RECORD));
        cluster.shutdown().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_bit_is_turned_over_and_back_and_topics_grow_and_go() {
        let cluster = Cluster::builder().topic("t", 1).start_in_memory().unwrap();
        cluster.append("t", 0, &batch(-1, -1)).unwrap();
        let stored = || cluster.with_partition("t", 0, |p| p.log.batch_at(0).cloned().unwrap());
        let before = stored();
        assert!(cluster.turn_bit_over("t", 0, 0) && before != stored());
        assert!(cluster.turn_bit_over("t", 0, 0) && before == stored());
        assert!(!cluster.turn_bit_over("t", 0, 1));
        cluster.grow_topic("t", 3);
        assert_eq!(cluster.append("t", 2, &batch(-1, -1)), Ok(0));
        cluster.delete_topic("t");
        assert_eq!(cluster.partitions("t"), None);
        cluster.shutdown().await;
    }
}
