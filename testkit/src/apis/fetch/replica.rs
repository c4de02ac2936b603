//! What one broker can give of a partition, as its leader or as a follower in it, and whom a leader names instead (KIP-392).
//!
//! Kafka's `Partition.fetchRecords`, and its `RackAwareReplicaSelector`, which is configured wherever brokers have racks here.

use milena_protocol::ErrorCode;

use super::ParkedFetch;
use super::sessions::{Place, Wanted};
use crate::apis::check_epoch;
use crate::log::Log;
use crate::planted::Defect;
use crate::state::State;
use crate::topics::Partition;

/// A partition on one broker, for one reader.
pub(super) struct Replica<'a> {
    /// The leader's log, of which this broker has the beginning.
    pub(super) log: &'a Log,
    /// As this broker knows it.
    pub(super) high_watermark: i64,
    /// The follower that the reader should ask instead.
    pub(super) preferred: Option<i32>,
    /// The epoch and offset behind which the reader's log is not this one.
    pub(super) diverging: Option<(i32, i64)>,
}

impl Replica<'_> {
    /// Whether this is an answer with records, if there are any.
    pub(super) fn gives_records(&self) -> bool {
        self.preferred.is_none() && self.diverging.is_none()
    }

    pub(super) fn last_stable_offset(&self) -> i64 {
        self.log.last_stable_offset().min(self.high_watermark)
    }

    /// Where a reader has to stop.
    pub(super) fn readable_below(&self, read_committed: bool) -> i64 {
        if read_committed { self.last_stable_offset() } else { self.high_watermark }
    }
}

impl ParkedFetch {
    /// A partition, if it may be read here from the wanted offset on.
    pub(super) fn look<'a>(&self, state: &'a State, wanted: &Wanted) -> Result<Replica<'a>, ErrorCode> {
        let Place { name, partition, .. } = &wanted.place;
        let (broker, version) = (self.call.broker, self.call.version);
        self.call.injected(name, *partition)?;
        let unknown = if version >= 13 { ErrorCode::UNKNOWN_TOPIC_ID } else { ErrorCode::UNKNOWN_TOPIC_OR_PARTITION };
        let topic = state.topics.get(&**name).ok_or(unknown)?;
        if version >= 13 && topic.id != wanted.place.id {
            return Err(ErrorCode::UNKNOWN_TOPIC_ID); // deleted and made again
        }
        let found = topic.partition(*partition).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        if !found.replicas.contains(&broker) {
            return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        }
        if state.settings.planted != Some(Defect::LeaderEpochIgnored) {
            check_epoch(wanted.current_leader_epoch, found.leader_epoch)?;
        }
        let is_leader = found.leader == Some(broker);
        if !is_leader && version < 11 {
            return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        }
        let (log, end) = (&found.log, found.end_of(broker));
        let high_watermark = log.high_watermark().min(end);
        // Before the log is looked at, and instead of it (`ReplicaManager.readFromLog`): not even epochs are compared.
        let preferred = if is_leader { self.preferred(state, found, broker, wanted.offset) } else { None };
        if preferred.is_some() {
            return Ok(Replica { log, high_watermark, preferred, diverging: None });
        }
        if wanted.last_fetched_epoch >= 0 {
            let (epoch, end) = log.end_of_epoch(wanted.last_fetched_epoch);
            if (epoch, end) == (-1, -1) {
                return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
            }
            if epoch < wanted.last_fetched_epoch || end < wanted.offset {
                return Ok(Replica { log, high_watermark, preferred: None, diverging: Some((epoch, end)) });
            }
        }
        if wanted.offset < log.start() || wanted.offset > end {
            return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
        }
        Ok(Replica { log, high_watermark, preferred: None, diverging: None })
    }

    /// The follower in sync in the reader's rack that has the most, if the leader is in another one.
    fn preferred(&self, state: &State, partition: &Partition, leader: i32, offset: i64) -> Option<i32> {
        if self.rack.is_empty() {
            return None;
        }
        let rack_of = |id: &i32| state.brokers.get(id).filter(|broker| broker.up).and_then(|b| b.rack.as_deref());
        let is_near = |id: &i32| rack_of(id) == Some(self.rack.as_str()) && state.network.is_inside(*id);
        if is_near(&leader) {
            return None;
        }
        let near = partition.replicas.iter().copied().filter(|id| {
            // Out of sync it may never get what the reader asks for (`findPreferredReadReplica`).
            partition.isr.contains(id)
                && is_near(id)
                && partition.end_of(*id) >= offset
                && partition.log.start() <= offset
        });
        // The first of those that have equally much.
        near.rev().max_by_key(|id| partition.end_of(*id))
    }
}
