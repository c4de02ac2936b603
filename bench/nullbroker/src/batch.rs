//! The batch that the endless log is made of.

use std::io::Write as _;

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

/// Where the base offset stands; it is outside the checksum, so handing out another offset costs eight bytes.
pub(crate) const BASE_OFFSET: std::ops::Range<usize> = 0..8;
/// The checksum covers everything from here on.
const ATTRIBUTES: usize = 21;

/// A batch (format 2) of records without keys, their values like JSON.
pub(crate) fn build(records: usize, value_size: usize, lz4: bool) -> Vec<u8> {
    let mut body = Vec::new();
    for offset_delta in 0..records {
        let mut record = vec![0]; // attributes
        put_varint(&mut record, 0); // timestamp delta
        put_varint(&mut record, offset_delta as i64);
        put_varint(&mut record, -1); // no key
        put_varint(&mut record, value_size as i64);
        record.extend_from_slice(&nullbroker::value(offset_delta as u64, value_size));
        put_varint(&mut record, 0); // headers
        put_varint(&mut body, record.len() as i64);
        body.extend_from_slice(&record);
    }
    if lz4 {
        body = framed(&body);
    }
    let timestamp = 1_700_000_000_000_i64;
    let mut batch = Vec::new();
    batch.extend_from_slice(&0_i64.to_be_bytes()); // base offset
    batch.extend_from_slice(&(49 + body.len() as i32).to_be_bytes()); // length of what follows
    batch.extend_from_slice(&0_i32.to_be_bytes()); // partition leader epoch
    batch.push(2); // magic
    batch.extend_from_slice(&0_u32.to_be_bytes()); // checksum, below
    batch.extend_from_slice(&(if lz4 { 3_i16 } else { 0 }).to_be_bytes()); // attributes: the codec
    batch.extend_from_slice(&(records as i32 - 1).to_be_bytes()); // last offset delta
    batch.extend_from_slice(&timestamp.to_be_bytes());
    batch.extend_from_slice(&timestamp.to_be_bytes());
    batch.extend_from_slice(&(-1_i64).to_be_bytes()); // producer id
    batch.extend_from_slice(&(-1_i16).to_be_bytes()); // producer epoch
    batch.extend_from_slice(&(-1_i32).to_be_bytes()); // base sequence
    batch.extend_from_slice(&(records as i32).to_be_bytes());
    batch.extend_from_slice(&body);
    let checksum = crc32c::crc32c(&batch[ATTRIBUTES..]);
    batch[ATTRIBUTES - 4..ATTRIBUTES].copy_from_slice(&checksum.to_be_bytes());
    batch
}

/// As Java compresses: one frame of independent blocks of 64 KB.
fn framed(body: &[u8]) -> Vec<u8> {
    let info = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(body).and_then(|()| Ok(encoder.finish()?)).unwrap_or_else(|e| panic!("into memory: {e}"))
}

fn put_varint(out: &mut Vec<u8>, value: i64) {
    crate::wire::put_uvarint(out, ((value << 1) ^ (value >> 63)) as usize);
}

/// Batches and records in the record bytes of a Produce request, told by the batch headers.
pub(crate) fn count(mut records: &[u8]) -> (u64, u64) {
    let (mut batches, mut count) = (0, 0);
    while let (Some(length), Some(n)) = (records.get(8..12), records.get(57..61)) {
        let int = |bytes: &[u8]| bytes.iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
        batches += 1;
        count += u64::from(int(n));
        records = records.get(12 + int(length) as usize..).unwrap_or_default();
    }
    (batches, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_batch_is_16_kilobytes_and_counts_its_records() {
        let batch = build(150, 100, false);
        assert!((16_000..16_700).contains(&batch.len()), "{}", batch.len());
        assert!(build(150, 100, true).len() < batch.len());
        assert_eq!(count(&[batch.clone(), batch].concat()), (2, 300));
    }

    #[test]
    fn a_cut_batch_does_not_hang_the_count() {
        let batch = build(3, 10, false);
        assert_eq!(count(&batch[..70]), (1, 3));
        assert_eq!(count(&batch[..50]), (0, 0));
    }
}
