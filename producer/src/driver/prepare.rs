//! From a batch that takes no more records to bytes that can be sent: seal, compress, stamp, checksum. Outside all locks.

use std::sync::Arc;

use milena_protocol::records::{
    BatchBuilder, Compressor, FrozenBatch, Header, ProducerStamp, Scratch, SealedBatch, split_batch,
};

use crate::accumulator::Batch;
use crate::delivery::Done;
use crate::pool::{Charge, Pool};
use crate::sequence::Stamp;
use crate::settings::Codec;

/// Seals, compresses and stamps a new batch.
pub(super) fn prepare(
    builder: BatchBuilder,
    compressor: Option<&mut Compressor>,
    pool: &Pool,
    stamp: Stamp,
) -> FrozenBatch {
    let mut sealed = builder.seal();
    if let Some(compressor) = compressor {
        sealed = compress(sealed, compressor, pool);
    }
    sealed.stamp(producer_stamp(stamp));
    sealed.freeze()
}

fn compress(sealed: SealedBatch, compressor: &mut Compressor, pool: &Pool) -> SealedBatch {
    let (compressed, old) = sealed.compress(compressor, pool.scratch());
    // Whichever of the two is left over: each finds its own shelf by its length.
    pool.recycle(old);
    compressed
}

/// Stamps a batch anew; its records stay as they are encoded.
pub(super) fn restamp(batch: FrozenBatch, stamp: Stamp) -> FrozenBatch {
    let mut sealed = batch.thaw();
    sealed.stamp(producer_stamp(stamp));
    sealed.freeze()
}

fn producer_stamp(stamp: Stamp) -> ProducerStamp {
    ProducerStamp {
        producer_id: stamp.producer_id,
        epoch: stamp.epoch,
        base_sequence: stamp.base_sequence,
        transactional: stamp.transactional,
    }
}

/// Cuts a batch that the broker finds too large into two, whose completions become parts of the batch's own. `None` if it cannot be
/// read back, which would be a bug of this crate.
pub(super) fn split(batch: &mut Batch, codec: &Codec, partition: i32) -> Option<[(u32, Batch); 2]> {
    let frozen = batch.frozen.take()?;
    let count = frozen.count();
    let half = count / 2;
    let sealed = frozen.thaw();
    let mut raw = bytes::Bytes::copy_from_slice(sealed.bytes());
    let length = sealed.len();
    batch.frozen = Some(sealed.freeze());
    let read = split_batch(&mut raw).ok()??.open(&mut Scratch::new(), usize::MAX).ok()?;

    let mut halves = [BatchBuilder::new(vec![0; length], 0), BatchBuilder::new(vec![0; length], 0)];
    let mut cursor = read.cursor();
    let mut index = 0;
    while let Some(record) = read.next(&mut cursor).ok()? {
        let headers: Vec<Header<'_>> = record.headers.iter().collect();
        let builder = &mut halves[usize::from(index >= half)];
        let size = builder.record_size(record.timestamp, record.key, record.value, &headers);
        builder.grow(builder.len() + size);
        builder.append(record.timestamp, record.key, record.value, &headers).ok()?;
        index += 1;
    }
    let mut compressor = codec.compressor()?;
    let dones = [Done::new(partition), Done::new(partition)];
    let mut charge = std::mem::replace(&mut batch.charge, Charge::none());
    let mut make = |builder: BatchBuilder, done: &Arc<Done>| {
        let raw_bytes = builder.len();
        let frozen = builder.seal().compress(&mut compressor, Vec::new()).0.freeze();
        let charge = std::mem::replace(&mut charge, Charge::none());
        let (done, bytes) = (done.clone(), frozen.len());
        Batch { done, charge, opened: batch.opened, bytes, raw_bytes, frozen: Some(frozen) }
    };
    let [left, right] = halves;
    let parts = [(half, make(left, &dones[0])), (count - half, make(right, &dones[1]))];
    let [left, right] = dones;
    batch.done.split(vec![(0, left), (half, right)]);
    Some(parts)
}
