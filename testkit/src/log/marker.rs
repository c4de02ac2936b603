//! The bytes of a transaction marker: a control batch with one record, as Kafka's `MemoryRecords.withEndTransactionMarker` writes it.
//!
//! ```text
//! key:   version i16 = 0 | type i16: 0 abort, 1 commit
//! value: version i16 = 0 | coordinator epoch i32
//! ```

use bytes::{BufMut, Bytes, BytesMut};

use super::batch::{CONTROL, HEADER_BYTES, TRANSACTIONAL};

/// One marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    /// Commit, or abort.
    pub(crate) commit: bool,
    pub(crate) coordinator_epoch: i32,
    /// Milliseconds since the epoch.
    pub(crate) timestamp: i64,
}

impl Marker {
    /// The batch as it is stored.
    pub(crate) fn batch(&self, offset: i64, leader_epoch: i32) -> Bytes {
        let mut record = BytesMut::with_capacity(16);
        record.put_u8(16 << 1); // the bytes of the record behind its length, as a zig-zag varint
        record.put_u8(0); // attributes
        record.put_u8(0); // timestamp delta
        record.put_u8(0); // offset delta
        record.put_u8(4 << 1);
        record.put_i16(0);
        record.put_i16(i16::from(self.commit));
        record.put_u8(6 << 1);
        record.put_i16(0);
        record.put_i32(self.coordinator_epoch);
        record.put_u8(0); // headers
        let mut batch = BytesMut::with_capacity(HEADER_BYTES + record.len());
        batch.put_i64(offset);
        batch.put_i32((HEADER_BYTES - 12 + record.len()) as i32);
        batch.put_i32(leader_epoch);
        batch.put_u8(2);
        batch.put_u32(0);
        batch.put_i16(TRANSACTIONAL | CONTROL);
        batch.put_i32(0);
        batch.put_i64(self.timestamp);
        batch.put_i64(self.timestamp);
        batch.put_i64(self.producer_id);
        batch.put_i16(self.producer_epoch);
        batch.put_i32(-1);
        batch.put_i32(1);
        batch.extend_from_slice(&record);
        let crc = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        batch.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch;
    use super::*;

    #[test]
    fn a_marker_is_a_control_record_that_can_be_read_back() {
        let marker = Marker {
            producer_id: 7,
            producer_epoch: 3,
            commit: true,
            coordinator_epoch: 5,
            timestamp: 1_700_000_000_000,
        };
        let records = batch::decode(&marker.batch(42, 1));
        assert_eq!(records.len(), 1);
        assert!(records[0].control && records[0].transactional);
        assert_eq!((records[0].offset, records[0].producer_id, records[0].producer_epoch), (42, 7, 3));
        assert_eq!(records[0].key.as_deref(), Some(&[0, 0, 0, 1][..]));
        assert_eq!(records[0].value.as_deref(), Some(&[0, 0, 0, 0, 0, 5][..]));
    }
}
