//! Committed offsets of a group, those that wait for the end of their transaction, and what the partitions of `__consumer_offsets`
//! know about the producers of such transactions. Kafka's `OffsetMetadataManager`.

use std::collections::BTreeMap;

use milena_protocol::{ErrorCode, StrBytes};

/// One committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: StrBytes,
}

type Place = (String, i32);

/// A group's offsets by topic and partition.
#[derive(Debug, Default)]
pub(crate) struct Offsets {
    committed: BTreeMap<Place, Recorded>,
    /// By producer id.
    pending: BTreeMap<i64, BTreeMap<Place, Recorded>>,
    /// How many commits there were.
    commits: u64,
}

/// A commit with its number: of an offset that is committed twice, the later commit counts, whenever its transaction ends.
#[derive(Debug, Clone)]
struct Recorded {
    number: u64,
    by_member: bool,
    committed: Committed,
}

impl Offsets {
    /// Stores an offset and returns the one before.
    pub(crate) fn commit(&mut self, topic: &str, partition: i32, committed: Committed) -> Option<Committed> {
        let recorded = self.record(committed, false);
        self.committed.insert((topic.to_owned(), partition), recorded).map(|before| before.committed)
    }

    /// Stores an offset that becomes visible when the producer's transaction is committed.
    pub(crate) fn commit_in_transaction(
        &mut self,
        producer_id: i64,
        by_member: bool,
        topic: &str,
        partition: i32,
        committed: Committed,
    ) {
        let recorded = self.record(committed, by_member);
        self.pending.entry(producer_id).or_default().insert((topic.to_owned(), partition), recorded);
    }

    /// A producer's transaction ended. Returns which offsets of members went from where (and which leader epoch) to where.
    pub(crate) fn on_marker(&mut self, producer_id: i64, commit: bool) -> Vec<(Place, (i64, i32), i64)> {
        let mut moved = Vec::new();
        let ended = self.pending.remove(&producer_id).unwrap_or_default();
        for (place, recorded) in ended.into_iter().filter(|_| commit) {
            if self.committed.get(&place).is_none_or(|known| known.number < recorded.number) {
                let (offset, by_member) = (recorded.committed.offset, recorded.by_member);
                let before = self.committed.insert(place.clone(), recorded).filter(|_| by_member);
                let before = before.map(|before| (before.committed.offset, before.committed.leader_epoch));
                moved.extend(before.map(|before| (place, before, offset)));
            }
        }
        moved
    }

    fn record(&mut self, committed: Committed, by_member: bool) -> Recorded {
        self.commits += 1;
        Recorded { number: self.commits, by_member, committed }
    }

    pub(crate) fn get(&self, topic: &str, partition: i32) -> Option<&Committed> {
        self.committed.get(&(topic.to_owned(), partition)).map(|recorded| &recorded.committed)
    }

    /// Whether a transaction that has not ended has committed an offset of this partition.
    pub(crate) fn is_pending(&self, topic: &str, partition: i32) -> bool {
        let place = (topic.to_owned(), partition);
        self.pending.values().any(|pending| pending.contains_key(&place))
    }

    /// The offset of one partition is not wanted any more; one that waits for the end of its transaction goes, too.
    pub(crate) fn forget(&mut self, topic: &str, partition: i32) {
        let place = (topic.to_owned(), partition);
        self.committed.remove(&place);
        self.pending.values_mut().for_each(|pending| drop(pending.remove(&place)));
    }

    /// A topic was deleted.
    pub(crate) fn forget_topic(&mut self, topic: &str) {
        self.committed.retain(|(name, _), _| name != topic);
        self.pending.values_mut().for_each(|pending| pending.retain(|(name, _), _| name != topic));
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&Place, &Committed)> {
        self.committed.iter().map(|(place, recorded)| (place, &recorded.committed))
    }

    /// Offsets that wait for the end of their transaction; of several for one partition, the latest.
    pub(crate) fn all_pending(&self) -> BTreeMap<Place, i64> {
        let mut all: Vec<_> = self.pending.values().flatten().collect();
        all.sort_by_key(|(_, recorded)| recorded.number);
        all.into_iter().map(|(place, recorded)| (place.clone(), recorded.committed.offset)).collect()
    }
}

/// What the partitions of `__consumer_offsets` know about transactional producers.
#[derive(Debug, Default)]
pub(crate) struct OffsetProducers(BTreeMap<(i32, i64), OffsetProducer>);

#[derive(Debug)]
struct OffsetProducer {
    epoch: i16,
    /// It has a transaction open there.
    open: bool,
}

impl OffsetProducers {
    /// Whether a producer has written in this transaction already: then nobody asks the coordinator again.
    ///
    /// # Errors
    /// `INVALID_PRODUCER_EPOCH` if its epoch is an old one.
    pub(crate) fn is_open(&self, partition: i32, id: i64, epoch: i16) -> Result<bool, ErrorCode> {
        match self.0.get(&(partition, id)) {
            Some(known) if epoch < known.epoch => Err(ErrorCode::INVALID_PRODUCER_EPOCH),
            Some(known) => Ok(known.open && known.epoch == epoch),
            None => Ok(false),
        }
    }

    /// A producer wrote offsets.
    pub(crate) fn on_written(&mut self, partition: i32, id: i64, epoch: i16) {
        self.0.insert((partition, id), OffsetProducer { epoch, open: true });
    }

    /// A producer's transaction ended.
    pub(crate) fn on_marker(&mut self, partition: i32, id: i64, epoch: i16) {
        self.0.insert((partition, id), OffsetProducer { epoch, open: false });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: i64) -> Committed {
        Committed { offset, leader_epoch: -1, metadata: StrBytes::new() }
    }

    #[test]
    fn offsets_of_a_transaction_are_visible_after_its_commit_and_gone_after_its_abort() {
        let mut offsets = Offsets::default();
        offsets.commit_in_transaction(1, true, "t", 0, at(5));
        offsets.commit_in_transaction(2, true, "t", 1, at(7));
        assert_eq!(offsets.get("t", 0), None);
        assert!(offsets.is_pending("t", 0));
        offsets.on_marker(1, true);
        offsets.on_marker(2, false);
        assert_eq!(offsets.get("t", 0), Some(&at(5)));
        assert_eq!(offsets.get("t", 1), None);
        assert!(!offsets.is_pending("t", 1));
    }

    #[test]
    fn a_plain_commit_after_that_of_a_transaction_stays_when_the_transaction_ends() {
        let mut offsets = Offsets::default();
        offsets.commit_in_transaction(1, true, "t", 0, at(5));
        offsets.commit("t", 0, at(3));
        offsets.on_marker(1, true);
        assert_eq!(offsets.get("t", 0), Some(&at(3)));
    }

    #[test]
    fn a_transaction_of_a_member_tells_where_its_offsets_went() {
        let mut offsets = Offsets::default();
        offsets.commit("t", 0, at(7));
        offsets.commit_in_transaction(1, true, "t", 0, at(5));
        offsets.commit_in_transaction(2, false, "t", 0, at(4));
        assert_eq!(offsets.on_marker(1, true), [(("t".to_owned(), 0), (7, -1), 5)]);
        assert_eq!(offsets.on_marker(2, true), [], "who is no member may go anywhere");
    }
}
