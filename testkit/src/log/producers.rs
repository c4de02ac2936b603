//! What one partition remembers about idempotent producers: Kafka's `ProducerStateManager`.
//!
//! - The last five batches of a producer are remembered; a repeat of one of them succeeds and gets its original offset.
//! - A producer id the partition does not know may start at *any* sequence; a new epoch must start at 0.
//! - An older repeat, a gap or a step back is `OUT_OF_ORDER_SEQUENCE_NUMBER`; an older epoch is `INVALID_PRODUCER_EPOCH`.
//!   (Kafka 4.x never answers `DUPLICATE_SEQUENCE_NUMBER` or `UNKNOWN_PRODUCER_ID`.)
//! - The state survives DeleteRecords.

use std::collections::{BTreeMap, VecDeque};

use milena_protocol::ErrorCode;

use super::batch::{BatchHeader, Refusal};

/// Batches remembered per producer: the most that a Java producer has in flight.
const REMEMBERED: usize = 5;

/// One remembered batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RememberedBatch {
    first_sequence: i32,
    last_sequence: i32,
    /// The offset the batch got.
    pub(crate) base_offset: i64,
    /// The batch's max timestamp, which the answer to a repeat carries as its append time.
    pub(crate) timestamp: i64,
}

#[derive(Debug)]
struct Producer {
    epoch: i16,
    batches: VecDeque<RememberedBatch>,
}

/// All producers of a partition.
#[derive(Debug, Default)]
pub(crate) struct Producers(BTreeMap<i64, Producer>);

impl Producers {
    /// The remembered batch that `header` repeats, if it does.
    pub(crate) fn duplicate_of(&self, header: &BatchHeader) -> Option<RememberedBatch> {
        let producer = self.0.get(&header.producer_id).filter(|producer| producer.epoch == header.producer_epoch)?;
        producer
            .batches
            .iter()
            .find(|b| b.first_sequence == header.base_sequence && b.last_sequence == header.last_sequence())
            .copied()
    }

    /// Whether the batch may be appended.
    pub(crate) fn check(&self, header: &BatchHeader) -> Result<(), Refusal> {
        let Some(producer) = self.0.get(&header.producer_id) else { return Ok(()) };
        let id = header.producer_id;
        if header.producer_epoch < producer.epoch {
            return Err(Refusal::new(
                ErrorCode::INVALID_PRODUCER_EPOCH,
                format!("epoch {} of producer {id} is older than epoch {}", header.producer_epoch, producer.epoch),
            ));
        }
        let out_of_order = |expected: i32| {
            Refusal::new(
                ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
                format!(
                    "producer {id} epoch {}: sequence {} was sent where {expected} was expected",
                    header.producer_epoch, header.base_sequence
                ),
            )
        };
        if header.producer_epoch > producer.epoch {
            return if header.base_sequence == 0 { Ok(()) } else { Err(out_of_order(0)) };
        }
        match producer.batches.back() {
            Some(last) if next_sequence(last.last_sequence) != header.base_sequence => {
                Err(out_of_order(next_sequence(last.last_sequence)))
            }
            _ => Ok(()),
        }
    }

    /// Remembers a batch that was appended.
    pub(crate) fn on_appended(&mut self, header: &BatchHeader, base_offset: i64, timestamp: i64) {
        let epoch = header.producer_epoch;
        let producer = self.0.entry(header.producer_id).or_insert(Producer { epoch, batches: VecDeque::new() });
        if producer.epoch != epoch {
            *producer = Producer { epoch, batches: VecDeque::new() };
        }
        if producer.batches.len() == REMEMBERED {
            producer.batches.pop_front();
        }
        producer.batches.push_back(RememberedBatch {
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset,
            timestamp,
        });
    }

    /// Forgets everybody, as brokers do after `producer.id.expiration.ms`.
    pub(crate) fn forget_all(&mut self) {
        self.0.clear();
    }
}

/// The sequence after `last`: after `i32::MAX` comes 0.
pub(crate) fn next_sequence(last: i32) -> i32 {
    last.wrapping_add(1) & i32::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(epoch: i16, sequence: i32, count: i32) -> BatchHeader {
        BatchHeader {
            base_offset: 0,
            length: 0,
            magic: 2,
            crc: 0,
            attributes: 0,
            last_offset_delta: count - 1,
            base_timestamp: 0,
            max_timestamp: 0,
            producer_id: 7,
            producer_epoch: epoch,
            base_sequence: sequence,
            count,
        }
    }

    fn code(result: Result<(), Refusal>) -> Option<ErrorCode> {
        result.err().map(|refusal| refusal.code)
    }

    #[test]
    fn an_unknown_producer_may_start_anywhere_and_a_new_epoch_only_at_zero() {
        let mut producers = Producers::default();
        assert_eq!(producers.check(&batch(0, 5, 1)), Ok(()));
        producers.on_appended(&batch(0, 5, 1), 0, 0);
        assert_eq!(code(producers.check(&batch(0, 0, 1))), Some(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
        assert_eq!(code(producers.check(&batch(1, 3, 1))), Some(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
        assert_eq!(producers.check(&batch(1, 0, 1)), Ok(()));
        producers.on_appended(&batch(1, 0, 1), 1, 0);
        assert_eq!(code(producers.check(&batch(0, 6, 1))), Some(ErrorCode::INVALID_PRODUCER_EPOCH));
    }

    #[test]
    fn a_repeat_of_the_last_five_gets_its_offset_and_an_older_one_an_error() {
        let mut producers = Producers::default();
        for n in 0..6 {
            producers.on_appended(&batch(0, n * 10, 10), i64::from(n) * 10, 0);
        }
        assert_eq!(producers.duplicate_of(&batch(0, 10, 10)).map(|b| b.base_offset), Some(10));
        assert_eq!(producers.duplicate_of(&batch(0, 0, 10)), None);
        assert_eq!(code(producers.check(&batch(0, 0, 10))), Some(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
        assert_eq!(producers.duplicate_of(&batch(0, 10, 9)), None, "the same start with another end is no repeat");
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let mut producers = Producers::default();
        producers.on_appended(&batch(0, i32::MAX - 1, 4), 0, 0);
        assert_eq!(batch(0, i32::MAX - 1, 4).last_sequence(), 1);
        assert_eq!(producers.check(&batch(0, 2, 1)), Ok(()));
        assert_eq!(next_sequence(i32::MAX), 0);
    }
}
