//! The markers of decided transactions: written to every partition of the transaction, and only then is it complete.
//!
//! Kafka's coordinator answers EndTxn when the decision is in its log, and lets the markers follow. Here they follow at once, unless a
//! test holds them ([`Cluster::hold_markers`](crate::Cluster::hold_markers)), a partition has no leader, or it has not enough replicas
//! in sync or one of them is held back: then its marker waits. A coordinator writes markers with `acks=all`, and tries until it was heard;
//! that the marker stands in the leader's log meanwhile, where no reader of committed data sees it, is not modelled.

use tokio::time::Instant;

use super::{OFFSETS_TOPIC, Phase};
use crate::log::marker::Marker;
use crate::state::State;

/// Writes the markers of a transaction that is decided, as far as that is possible now.
pub(crate) fn write(state: &mut State, id: &str, now: Instant) {
    if state.transactions.markers_are_held {
        return;
    }
    let timestamp = state.wall_clock_ms(now);
    let Some(coordinated) = state.transactions.ids.get(id) else { return };
    let transaction = &coordinated.transaction;
    let Some(coordinator) = coordinated.coordinator.filter(|_| transaction.is_decided()) else { return };
    let marker = Marker {
        producer_id: transaction.producer_id,
        producer_epoch: transaction.epoch,
        commit: transaction.phase == Phase::PrepareCommit,
        coordinator_epoch: coordinated.coordinator_epoch,
        timestamp,
    };
    for partition in transaction.partitions.clone() {
        if !write_one(state, coordinator, &partition, &marker, now) {
            continue;
        }
        if let Some(coordinated) = state.transactions.ids.get_mut(id) {
            coordinated.transaction.partitions.remove(&partition);
        }
    }
    if let Some(coordinated) = state.transactions.ids.get_mut(id).filter(|c| c.transaction.partitions.is_empty()) {
        coordinated.transaction.complete();
    }
}

/// False if the partition has no leader now that the coordinator reaches, or its in-sync replicas do not get the marker now.
fn write_one(
    state: &mut State,
    coordinator: i32,
    (topic, index): &(String, i32),
    marker: &Marker,
    now: Instant,
) -> bool {
    if topic == OFFSETS_TOPIC {
        crate::groups::on_marker(state, *index, marker, now);
        return true;
    }
    let Some(found) = state.topics.get_mut(topic) else { return true }; // deleted: there is nothing to mark
    let min_in_sync = found.min_in_sync();
    let Some(partition) = found.partition_mut(*index) else { return true };
    if partition.leader.is_none_or(|leader| !state.network.reaches(coordinator, leader))
        || !partition.replicates_at_once(min_in_sync)
    {
        return false;
    }
    let offset = partition.log.append_marker(marker, partition.leader_epoch);
    let what = if marker.commit { "commit" } else { "abort" };
    let Marker { producer_id, producer_epoch, .. } = marker;
    state.note(now, format!("{topic}-{index}: {what} marker of {producer_id}/{producer_epoch} at {offset}"));
    state.advance(topic, *index);
    state.on_partition_changed(topic, *index, now);
    true
}

/// Writes what can be written of all decided transactions: a partition got a leader, or markers are held no longer.
pub(crate) fn write_all(state: &mut State, now: Instant) {
    let decided = state.transactions.ids.iter().filter(|(_, coordinated)| coordinated.transaction.is_decided());
    for id in decided.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
        write(state, &id, now);
    }
}

/// Keeps all markers back from now on, or lets them go.
pub(crate) fn hold(state: &mut State, hold: bool, now: Instant) {
    state.transactions.markers_are_held = hold;
    state.note(now, format!("markers are {}", if hold { "held" } else { "held no longer" }));
    write_all(state, now);
}
