//! Which batches of a partition a reader of committed records does not get to see.
//!
//! A broker sends aborted records, too, with a list of the aborted transactions they may belong to: producer and first offset. A
//! producer's batches are aborted from there on until the marker that says so.

use std::collections::BTreeSet;

use milena_protocol::fetch::AbortedTransaction;
use milena_protocol::planted;
use milena_protocol::records::{BatchError, Control, RawBatch, Scratch};

/// The aborted transactions of one partition in one answer. Empty unless the reader wants committed records only.
#[derive(Debug, Default)]
pub(crate) struct Aborted {
    /// Those whose first record has not come yet, the next one last.
    ahead: Vec<AbortedTransaction>,
    /// The producers whose transaction, at this place in the log, is an aborted one.
    producers: BTreeSet<i64>,
    check_crcs: bool,
}

/// A marker has a few bytes; what wants to be much larger is none.
const MOST_MARKER_BYTES: usize = 64 << 10;

impl Aborted {
    pub(crate) fn new(mut transactions: Vec<AbortedTransaction>, check_crcs: bool) -> Self {
        // Kafka sorts them. Redpanda did not always.
        transactions.sort_unstable_by_key(|aborted| (std::cmp::Reverse(aborted.first_offset), aborted.producer_id));
        Self { ahead: transactions, producers: BTreeSet::new(), check_crcs }
    }

    /// Whether the next batch holds aborted records. (A marker does not: it holds none.)
    ///
    /// # Errors
    /// A marker that cannot be read.
    #[inline]
    pub(crate) fn hides(&mut self, batch: &RawBatch) -> Result<bool, BatchError> {
        if (self.ahead.is_empty() && self.producers.is_empty()) || planted::is("aborted_list_ignored") {
            return Ok(false);
        }
        self.look_at(batch)
    }

    fn look_at(&mut self, batch: &RawBatch) -> Result<bool, BatchError> {
        while let Some(next) = self.ahead.pop_if(|next| next.first_offset <= batch.last_offset()) {
            self.producers.insert(next.producer_id);
        }
        if !batch.is_transactional() || !self.producers.contains(&batch.producer_id()) {
            return Ok(false);
        }
        if !batch.is_control() {
            return Ok(true);
        }
        if self.check_crcs {
            batch.verify_crc()?;
        }
        let marker = batch.open(&mut Scratch::new(), MOST_MARKER_BYTES)?;
        if marker.control()? == Some(Control::Abort) {
            self.producers.remove(&batch.producer_id());
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use milena_protocol::records::{BatchBuilder, ProducerStamp, split_batch};

    use super::*;

    const ABORT: [u8; 4] = [0, 0, 0, 0];
    const COMMIT: [u8; 4] = [0, 0, 0, 1];
    const TRANSACTIONAL: u8 = 0x10;
    const CONTROL: u8 = 0x20;

    fn batch(offset: i64, producer_id: i64, attributes: u8, key: Option<&[u8]>) -> RawBatch {
        let mut builder = BatchBuilder::new(vec![0; 256], 0);
        builder.append(0, key, Some(b"x"), &[]).unwrap();
        let mut sealed = builder.seal();
        sealed.stamp(ProducerStamp { producer_id, epoch: 0, base_sequence: 0, transactional: false });
        let mut bytes = sealed.bytes().to_vec();
        bytes[..8].copy_from_slice(&offset.to_be_bytes());
        bytes[22] |= attributes;
        split_batch(&mut Bytes::from(bytes)).unwrap().unwrap()
    }

    fn data(offset: i64, producer_id: i64) -> RawBatch {
        batch(offset, producer_id, TRANSACTIONAL, None)
    }

    fn marker(offset: i64, producer_id: i64, key: &[u8]) -> RawBatch {
        batch(offset, producer_id, TRANSACTIONAL | CONTROL, Some(key))
    }

    fn aborted(transactions: &[(i64, i64)]) -> Aborted {
        let transaction = |&(producer_id, first_offset)| AbortedTransaction { producer_id, first_offset };
        Aborted::new(transactions.iter().map(transaction).collect(), false)
    }

    /// The offsets that are seen.
    fn seen(aborted: &mut Aborted, batches: &[RawBatch]) -> Vec<i64> {
        let shown = batches.iter().filter(|batch| !aborted.hides(batch).unwrap() && !batch.is_control());
        shown.map(RawBatch::base_offset).collect()
    }

    #[test]
    fn an_aborted_transaction_is_hidden_from_its_first_record_to_its_marker() {
        let log = [data(0, 7), marker(1, 7, &COMMIT), data(2, 7), data(3, 7), marker(4, 7, &ABORT), data(5, 7)];
        assert_eq!(seen(&mut aborted(&[(7, 2)]), &log), [0, 5]);
    }

    #[test]
    fn interleaved_transactions_and_plain_records_are_told_apart() {
        let log = [data(0, 7), data(1, 8), batch(2, 7, 0, None), batch(3, -1, 0, None), marker(4, 8, &COMMIT)];
        assert_eq!(seen(&mut aborted(&[(7, 0)]), &log), [1, 2, 3]);
    }

    #[test]
    fn the_list_may_be_in_any_order() {
        // franz-go 1.21.4: Redpanda did not sort it.
        let log =
            [data(0, 7), marker(1, 7, &ABORT), data(2, 8), marker(3, 8, &ABORT), data(4, 7), marker(5, 7, &ABORT)];
        for list in [[(7, 0), (8, 2), (7, 4)], [(7, 4), (8, 2), (7, 0)], [(8, 2), (7, 4), (7, 0)]] {
            assert_eq!(seen(&mut aborted(&list), &log), [0i64; 0]);
        }
    }

    #[test]
    fn a_marker_of_a_producer_without_records_here_hides_nothing_behind_it() {
        // librdkafka 1.7.0.
        let log = [marker(10, 7, &ABORT), data(11, 7), data(12, 8)];
        assert_eq!(seen(&mut aborted(&[(7, 3)]), &log), [11, 12]);
        // Two markers for one transaction, as a coordinator may write them.
        let log = [marker(10, 7, &ABORT), marker(11, 7, &ABORT), data(12, 7)];
        assert_eq!(seen(&mut aborted(&[(7, 3)]), &log), [12]);
    }

    #[test]
    fn a_marker_that_cannot_be_read_is_an_error_and_no_record_is_shown_or_hidden_by_guessing() {
        assert!(aborted(&[(7, 0)]).hides(&marker(1, 7, &[0])).is_err());
        // Somebody else's markers need not be read.
        assert!(!aborted(&[(7, 0)]).hides(&marker(1, 8, &[0])).unwrap());
    }
}
