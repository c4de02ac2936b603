//! What must be true of every cluster and of every client, whatever a test does to them. It is looked for all the time, in what was
//! stored and in what is answered, and not in what the brokers' own checks remember:
//!
//! - The sequences of a producer follow each other in a partition, and its epoch never goes back.
//! - No offset has two values: what was acknowledged or read once is there unchanged, as long as it is there, but for what a
//!   machine has lost that [lost its power](crate::Cluster::crash_losing_unflushed), or a leader did not have that was elected, or for what compaction took.
//! - What was acknowledged with `acks=all` is in as many in-sync replicas as `min.insync.replicas` asks for, and in all of them. That, and
//!   what was read, no election takes away, but for an unclean one, or of a replica that has lost its power.
//! - A leader tells no high watermark beyond what its in-sync replicas have, gives nothing beyond the high watermark, or beyond the last
//!   stable offset to a reader of committed records, and nothing to a client that knows another leader epoch than its own.
//! - No partition has two owners in one generation of a group: looked for where the assignment arrives, `groups/classic.rs`.
//! - No member commits a smaller offset than was committed before, in a transaction or without. Whoever is no member (generation −1, as
//!   admin tools and Java's `alterConsumerGroupOffsets` are) may do that, and a group may once from records that were lost. A test
//!   whose members seek back on purpose says so: [`allow_backward_commits`](crate::ClusterBuilder::allow_backward_commits).
//!
//! A violation is a sentence; the end of the cluster panics with it and the request log.

use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;

use crate::log::batch::BatchHeader;
use crate::log::next_sequence;
use crate::state::State;

/// What has been acknowledged or read: by topic id and partition, the CRC of the batch at each base offset.
#[derive(Default)]
pub(crate) struct Invariants {
    seen: BTreeMap<(Uuid, i32), BTreeMap<i64, u32>>,
}

impl Invariants {
    /// Everything from `end` on was lost, and may be written again.
    pub(crate) fn on_truncated(&mut self, topic: Uuid, partition: i32, end: i64) {
        if let Some(seen) = self.seen.get_mut(&(topic, partition)) {
            seen.split_off(&end);
        }
    }

    /// These batches were cleaned, and are not what they were.
    pub(crate) fn on_compacted(&mut self, topic: Uuid, partition: i32, base_offsets: &[i64]) {
        if let Some(seen) = self.seen.get_mut(&(topic, partition)) {
            seen.retain(|offset, _| !base_offsets.contains(offset));
        }
    }

    /// A batch was seen at an offset; false if there was another.
    fn see(&mut self, topic: Uuid, partition: i32, header: &BatchHeader, log_start: i64) -> bool {
        let seen = self.seen.entry((topic, partition)).or_default();
        if seen.first_key_value().is_some_and(|(first, _)| *first < log_start) {
            // But for the batch that the start lies in.
            let first = seen.range(..=log_start).next_back().map_or(log_start, |(first, _)| *first);
            *seen = seen.split_off(&first);
        }
        *seen.entry(header.base_offset).or_insert(header.crc) == header.crc
    }
}

/// What a Fetch answers about one partition.
pub(crate) struct Fetched<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    /// The leader epoch that the client knows; −1 for none.
    pub(crate) client_epoch: i32,
    pub(crate) high_watermark: i64,
    pub(crate) read_committed: bool,
    pub(crate) records: &'a Bytes,
}

impl State {
    /// A batch was appended.
    pub(crate) fn check_appended(&mut self, topic: &str, index: i32, header: &BatchHeader, base_offset: i64) {
        if !self.settings.check_invariants {
            return;
        }
        let Some(found) = self.topics.get(topic) else { return };
        let (id, Some(partition)) = (found.id, found.partition(index)) else { return };
        let mut wrong = Vec::new();
        let stored = partition.log.batch_at(base_offset).and_then(|bytes| BatchHeader::read(bytes));
        if let Some(stored) = stored
            && !self.invariants.see(id, index, &stored, partition.log.start())
        {
            wrong.push(format!("{topic}-{index}: offset {base_offset} had another value before"));
        }
        if header.producer_id >= 0
            && let Some(before) = partition.log.previous_of(header.producer_id, base_offset)
        {
            let same_epoch = before.producer_epoch == header.producer_epoch;
            let expected = if same_epoch { next_sequence(before.last_sequence()) } else { 0 };
            if before.producer_epoch > header.producer_epoch || expected != header.base_sequence {
                wrong.push(format!(
                    "{topic}-{index}: producer {} wrote sequence {} of epoch {} at offset {base_offset} behind sequence {} of epoch {}",
                    header.producer_id,
                    header.base_sequence,
                    header.producer_epoch,
                    before.last_sequence(),
                    before.producer_epoch
                ));
            }
        }
        wrong.into_iter().for_each(|sentence| self.violation(sentence));
    }

    /// A partition is about to be answered.
    pub(crate) fn check_fetched(&mut self, fetched: &Fetched<'_>) {
        let Fetched { topic, partition: index, client_epoch, high_watermark, read_committed, records } = *fetched;
        if !self.settings.check_invariants {
            return;
        }
        let Some(found) = self.topics.get(topic) else { return };
        let (id, Some(partition)) = (found.id, found.partition(index)) else { return };
        let mut wrong = Vec::new();
        if client_epoch >= 0 && client_epoch != partition.leader_epoch {
            wrong.push(format!(
                "{topic}-{index}: a client that knows leader epoch {client_epoch} was served in epoch {}",
                partition.leader_epoch
            ));
        }
        let in_sync_end = partition.in_sync_end();
        if high_watermark > in_sync_end {
            wrong.push(format!(
                "{topic}-{index}: the high watermark was told to be {high_watermark}, and the in-sync replicas end at {in_sync_end}"
            ));
        }
        let (below, what) = match read_committed {
            true => (partition.log.last_stable_offset(), "last stable offset"),
            false => (high_watermark, "high watermark"),
        };
        let log_start = partition.log.start();
        let mut read_to = 0;
        let mut rest = &records[..];
        while let Some(header) = BatchHeader::read(rest) {
            if header.base_offset >= below {
                wrong.push(format!(
                    "{topic}-{index}: offset {} was given to a reader, beyond the {what} {below}",
                    header.base_offset
                ));
            }
            if !self.invariants.see(id, index, &header, log_start) {
                wrong.push(format!("{topic}-{index}: offset {} has another value now", header.base_offset));
            }
            // The last one may be cut.
            let size = usize::try_from(header.length).unwrap_or(0) + 12;
            if rest.len() >= size {
                read_to = header.base_offset + i64::from(header.last_offset_delta) + 1;
            }
            rest = rest.get(size..).unwrap_or_default();
        }
        if let Some(partition) = self.topics.get_mut(topic).and_then(|topic| topic.partition_mut(index)) {
            partition.promise(read_to);
        }
        wrong.into_iter().for_each(|sentence| self.violation(sentence));
    }

    /// Everything below `end` is about to be acknowledged to somebody who wants all in-sync replicas to have it.
    pub(crate) fn check_acknowledged(&mut self, topic: &str, index: i32, end: i64) {
        if !self.settings.check_invariants {
            return;
        }
        let Some(found) = self.topics.get_mut(topic) else { return };
        let min_in_sync = found.min_in_sync();
        let Some(partition) = found.partition_mut(index) else { return };
        partition.promise(end);
        let in_sync_end = partition.in_sync_end();
        let wrong = if in_sync_end < end {
            format!("the in-sync replicas end at {in_sync_end}")
        } else if !partition.has_enough_in_sync(min_in_sync) {
            format!("min.insync.replicas is {min_in_sync}, and {:?} are in sync", partition.isr)
        } else {
            return;
        };
        self.violation(format!(
            "{topic}-{index}: everything below offset {end} was acknowledged with acks=all, and {wrong}"
        ));
    }

    /// Somebody committed `offset` where `before` was committed, with the leader epoch of the record in front of it.
    pub(crate) fn check_committed(
        &mut self,
        group: &str,
        who: &str,
        topic: &str,
        index: i32,
        (before, epoch): (i64, i32),
        offset: i64,
    ) {
        let partition = self.topics.get_mut(topic).and_then(|topic| topic.partition_mut(index));
        let lost = partition.and_then(|partition| partition.lost.as_mut());
        let is_excused = lost.is_some_and(|lost| lost.excuses(group, (before, epoch), offset));
        if offset < before && !is_excused && !self.settings.backward_commits {
            self.violation(format!(
                "group {group}: {who} commits {topic}-{index} backwards, from {before} to {offset}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: Uuid = Uuid::from_u128(7);

    fn batch(base_offset: i64, crc: u32) -> BatchHeader {
        BatchHeader {
            base_offset,
            length: 0,
            magic: 2,
            crc,
            attributes: 0,
            last_offset_delta: 0,
            base_timestamp: 0,
            max_timestamp: 0,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            count: 1,
        }
    }

    #[test]
    fn an_offset_keeps_its_value_unless_it_was_lost() {
        let mut invariants = Invariants::default();
        assert!(invariants.see(TOPIC, 0, &batch(0, 1), 0));
        assert!(invariants.see(TOPIC, 0, &batch(1, 2), 0));
        assert!(invariants.see(TOPIC, 0, &batch(0, 1), 0), "read again");
        assert!(!invariants.see(TOPIC, 0, &batch(1, 3), 0), "another value");
        assert!(invariants.see(TOPIC, 1, &batch(1, 3), 0), "of another partition");
        invariants.on_truncated(TOPIC, 0, 1);
        assert!(invariants.see(TOPIC, 0, &batch(1, 3), 0), "written anew");
        assert!(!invariants.see(TOPIC, 0, &batch(0, 9), 0), "what was kept is kept");
    }

    #[test]
    fn what_was_deleted_at_the_start_is_forgotten_but_for_the_batch_it_lies_in() {
        let mut invariants = Invariants::default();
        for offset in [0, 10, 20] {
            assert!(invariants.see(TOPIC, 0, &batch(offset, 1), 0));
        }
        assert!(!invariants.see(TOPIC, 0, &batch(10, 2), 15));
        assert_eq!(invariants.seen[&(TOPIC, 0)].keys().copied().collect::<Vec<_>>(), [10, 20]);
    }
}
