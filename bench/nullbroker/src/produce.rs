//! Produce v3 to v13: every batch is welcome and forgotten.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::Shared;
use crate::batch;
use crate::wire::{Reader, put_count, put_no_tags, put_string};

/// The next offset of every partition that was written to, by topic (its name, or the 16 bytes of its id).
#[derive(Default)]
pub(crate) struct Offsets(Mutex<HashMap<Vec<u8>, Vec<i64>>>);

impl Offsets {
    /// Takes `records` offsets and gives back the first of them.
    fn take(&self, topic: &[u8], partition: i32, records: u64) -> i64 {
        let mut topics = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !topics.contains_key(topic) {
            topics.insert(topic.to_vec(), Vec::new());
        }
        let Some(partitions) = topics.get_mut(topic) else { return 0 };
        let at = partition.clamp(0, 100_000) as usize;
        if partitions.len() <= at {
            partitions.resize(at + 1, 0);
        }
        let base = partitions[at];
        partitions[at] += records as i64;
        base
    }
}

/// Appends the body of the answer to `out`; `Some(false)` when the client wants none.
pub(crate) fn answer(body: &[u8], version: i16, shared: &Shared, out: &mut Vec<u8>) -> Option<bool> {
    let compact = version >= 9;
    let by_id = version >= 13;
    let mut request = Reader::new(body).compact(compact);
    request.string()?; // transactional id
    let acks = request.i16()?;
    request.i32()?; // time-out
    let topics = request.count()?;
    put_count(out, topics, compact);
    let (mut all_partitions, mut all_batches, mut all_records) = (0, 0, 0);
    for _ in 0..topics {
        let topic = if by_id { request.take(16)? } else { request.string()? };
        if by_id {
            out.extend_from_slice(topic);
        } else {
            put_string(out, topic, compact);
        }
        let partitions = request.count()?;
        put_count(out, partitions, compact);
        for _ in 0..partitions {
            let partition = request.i32()?;
            let (batches, records) = batch::count(request.bytes()?);
            request.skip_tags()?;
            all_partitions += 1;
            all_batches += batches;
            all_records += records;
            let base = shared.offsets.take(topic, partition, records);
            out.extend_from_slice(&partition.to_be_bytes());
            out.extend_from_slice(&0_i16.to_be_bytes()); // no error
            out.extend_from_slice(&base.to_be_bytes());
            out.extend_from_slice(&(-1_i64).to_be_bytes()); // no log append time
            if version >= 5 {
                out.extend_from_slice(&0_i64.to_be_bytes()); // log start offset
            }
            if version >= 8 {
                put_count(out, 0, compact); // no errors of single records
                // No error message: null.
                if compact {
                    out.push(0);
                } else {
                    out.extend_from_slice(&(-1_i16).to_be_bytes());
                }
            }
            put_no_tags(out, compact);
        }
        request.skip_tags()?;
        put_no_tags(out, compact);
    }
    out.extend_from_slice(&0_i32.to_be_bytes()); // throttle
    put_no_tags(out, compact);
    shared.stats.produced(all_partitions, all_batches, all_records);
    Some(acks != 0)
}
