//! What one partition remembers about idempotent producers: Kafka's `ProducerStateManager`.
//!
//! - The last five batches of a producer are remembered; a repeat of one of them succeeds and gets its original offset.
//! - A producer id the partition does not know may start at *any* sequence; a new epoch must start at 0.
//! - An older repeat, a gap or a step back is `OUT_OF_ORDER_SEQUENCE_NUMBER`; an older epoch is `INVALID_PRODUCER_EPOCH`.
//!   (Neither 2.8.2 nor a later release answers `DUPLICATE_SEQUENCE_NUMBER` or `UNKNOWN_PRODUCER_ID`: no class of its broker names them.
//!   A fault can, for clients that must understand brokers before 2.5.)
//! - A transaction marker moves the producer to the marker's epoch. If that is a new one (transaction.version 2), the sequences begin
//!   at 0 again; in the same one they go on.
//! - While a transaction is being admitted here by its coordinator, no batch may come before the one with the lowest sequence that has
//!   asked for it; and with transaction.version 2 a producer of which nothing is remembered has to start at 0.
//! - With an open transaction only transactional batches are taken, else it is `INVALID_TXN_STATE`.
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
    last_offset: i64,
    /// The batch's max timestamp, which the answer to a repeat carries as its append time.
    pub(crate) timestamp: i64,
}

/// What is remembered about one producer.
#[derive(Debug)]
pub(crate) struct Producer {
    pub(crate) epoch: i16,
    batches: VecDeque<RememberedBatch>,
    /// Where its open transaction begins in this partition.
    pub(crate) open_since: Option<i64>,
    /// Of its last marker; −1 before there was one.
    pub(crate) coordinator_epoch: i32,
    pub(crate) last_timestamp: i64,
}

impl Producer {
    fn new(epoch: i16) -> Self {
        Self { epoch, batches: VecDeque::new(), open_since: None, coordinator_epoch: -1, last_timestamp: -1 }
    }

    /// The sequence of its last record in this epoch; −1 if there is none.
    pub(crate) fn last_sequence(&self) -> i32 {
        self.batches.back().map_or(-1, |batch| batch.last_sequence)
    }

    fn begin_epoch(&mut self, epoch: i16) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.batches.clear();
        }
    }
}

/// Batches have asked to begin a transaction here, and none was appended yet: Kafka's `VerificationStateEntry`.
#[derive(Debug)]
struct Beginning {
    epoch: i16,
    lowest_sequence: i32,
    v2: bool,
}

/// All producers of a partition.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    known: BTreeMap<i64, Producer>,
    beginning: BTreeMap<i64, Beginning>,
}

impl Producers {
    /// The remembered batch that `header` repeats, if it does.
    pub(crate) fn duplicate_of(&self, header: &BatchHeader) -> Option<RememberedBatch> {
        let producer =
            self.known.get(&header.producer_id).filter(|producer| producer.epoch == header.producer_epoch)?;
        producer
            .batches
            .iter()
            .find(|b| b.first_sequence == header.base_sequence && b.last_sequence == header.last_sequence())
            .copied()
    }

    /// Whether a batch keeps what has to be known about its producer: the last of its sequences or, if there is none, of its epochs.
    pub(crate) fn needs(&self, header: &BatchHeader, last_offset: i64) -> bool {
        let Some(producer) = self.known.get(&header.producer_id) else { return false };
        match producer.batches.back() {
            Some(last) => last.last_offset == last_offset,
            None => header.is_control() && header.producer_epoch == producer.epoch,
        }
    }

    /// All producers by their ids.
    pub(crate) fn all(&self) -> impl Iterator<Item = (i64, &Producer)> {
        self.known.iter().map(|(id, producer)| (*id, producer))
    }

    /// Whether the producer has a transaction open here in this epoch.
    pub(crate) fn has_open_transaction(&self, id: i64, epoch: i16) -> bool {
        self.known.get(&id).is_some_and(|producer| producer.open_since.is_some() && producer.epoch == epoch)
    }

    /// Refuses an epoch that is older than the one known here.
    pub(crate) fn check_epoch(&self, id: i64, epoch: i16) -> Result<(), Refusal> {
        match self.known.get(&id) {
            Some(producer) if epoch < producer.epoch => Err(Refusal::new(
                ErrorCode::INVALID_PRODUCER_EPOCH,
                format!("epoch {epoch} of producer {id} is older than epoch {}", producer.epoch),
            )),
            _ => Ok(()),
        }
    }

    /// A batch asks to begin a transaction here.
    pub(crate) fn on_beginning(&mut self, header: &BatchHeader, v2: bool) {
        let BatchHeader { producer_epoch: epoch, base_sequence: lowest_sequence, .. } = *header;
        let beginning = self.beginning.entry(header.producer_id).or_insert(Beginning { epoch, lowest_sequence, v2 });
        if epoch > beginning.epoch || (epoch == beginning.epoch && lowest_sequence < beginning.lowest_sequence) {
            (beginning.epoch, beginning.lowest_sequence) = (epoch, lowest_sequence);
        }
    }

    /// Whether the batch may be appended.
    pub(crate) fn check(&self, header: &BatchHeader) -> Result<(), Refusal> {
        self.check_what_is_known(header).map_err(|refusal| Refusal { by_log: true, ..refusal })
    }

    fn check_what_is_known(&self, header: &BatchHeader) -> Result<(), Refusal> {
        let id = header.producer_id;
        self.check_epoch(id, header.producer_epoch)?;
        let out_of_order = |expected: i32| {
            Refusal::new(
                ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
                format!(
                    "producer {id} epoch {}: sequence {} was sent where {expected} was expected",
                    header.producer_epoch, header.base_sequence
                ),
            )
        };
        let known = self.known.get(&id);
        if let Some(beginning) = self.beginning.get(&id) {
            if beginning.v2 && header.base_sequence != 0 && known.is_none_or(|producer| producer.batches.is_empty()) {
                return Err(out_of_order(0));
            }
            if header.base_sequence > beginning.lowest_sequence {
                return Err(out_of_order(beginning.lowest_sequence));
            }
        }
        let Some(producer) = known else { return Ok(()) };
        let same_epoch = header.producer_epoch == producer.epoch;
        let expected = if same_epoch { next_sequence(producer.last_sequence()) } else { 0 };
        if header.base_sequence != expected {
            return Err(out_of_order(expected));
        }
        if producer.open_since.is_some() && !header.is_transactional() {
            return Err(Refusal::new(
                ErrorCode::INVALID_TXN_STATE,
                format!("producer {id} has a transaction open, and the batch does not belong to it"),
            ));
        }
        Ok(())
    }

    /// Remembers a batch that was appended. True if a transaction begins with it.
    pub(crate) fn on_appended(&mut self, header: &BatchHeader, base_offset: i64, timestamp: i64) -> bool {
        let epoch = header.producer_epoch;
        let producer = self.known.entry(header.producer_id).or_insert_with(|| Producer::new(epoch));
        producer.begin_epoch(epoch);
        producer.last_timestamp = timestamp;
        if producer.batches.len() == REMEMBERED {
            producer.batches.pop_front();
        }
        producer.batches.push_back(RememberedBatch {
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset,
            last_offset: base_offset + i64::from(header.last_offset_delta),
            timestamp,
        });
        if !header.is_transactional() {
            return false;
        }
        self.beginning.remove(&header.producer_id);
        let begins = producer.open_since.is_none();
        if begins {
            producer.open_since = Some(base_offset);
        }
        begins
    }

    /// A marker ends the producer's transaction; returns where that began, if it had one here.
    pub(crate) fn on_marker(&mut self, id: i64, epoch: i16, coordinator_epoch: i32, timestamp: i64) -> Option<i64> {
        let producer = self.known.entry(id).or_insert_with(|| Producer::new(epoch));
        producer.begin_epoch(epoch);
        producer.coordinator_epoch = coordinator_epoch;
        producer.last_timestamp = timestamp;
        // With a marker of its own epoch a producer of version 2 is beyond the transaction that this marker ends.
        if self.beginning.get(&id).is_some_and(|beginning| !(beginning.v2 && beginning.epoch == epoch)) {
            self.beginning.remove(&id);
        }
        producer.open_since.take()
    }

    /// Forgets everybody who has no open transaction, as brokers do after `producer.id.expiration.ms`.
    pub(crate) fn forget_all(&mut self) {
        self.known.retain(|_, producer| producer.open_since.is_some());
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
    fn after_a_marker_of_a_new_epoch_sequences_begin_at_zero_and_in_the_same_epoch_they_go_on() {
        let mut producers = Producers::default();
        let transactional = |epoch, sequence| BatchHeader { attributes: 0x10, ..batch(epoch, sequence, 2) };
        assert!(producers.on_appended(&transactional(0, 0), 0, 0));
        assert!(!producers.on_appended(&transactional(0, 2), 2, 0), "the transaction goes on");
        assert_eq!(producers.on_marker(7, 0, 0, 0), Some(0));
        assert_eq!(producers.check(&transactional(0, 4)), Ok(()));
        assert!(producers.on_appended(&transactional(0, 4), 5, 0));
        assert_eq!(producers.on_marker(7, 1, 0, 0), Some(5));
        assert_eq!(code(producers.check(&transactional(0, 6))), Some(ErrorCode::INVALID_PRODUCER_EPOCH));
        assert_eq!(code(producers.check(&transactional(1, 6))), Some(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
        assert_eq!(producers.check(&transactional(1, 0)), Ok(()));
        assert_eq!(producers.on_marker(7, 1, 0, 0), None, "nothing was open");
    }

    #[test]
    fn in_an_open_transaction_only_transactional_batches_are_taken() {
        let mut producers = Producers::default();
        producers.on_appended(&BatchHeader { attributes: 0x10, ..batch(0, 0, 1) }, 0, 0);
        assert_eq!(code(producers.check(&batch(0, 1, 1))), Some(ErrorCode::INVALID_TXN_STATE));
    }

    #[test]
    fn a_transaction_begins_with_the_lowest_sequence_that_asked_and_in_version_2_with_zero() {
        let mut producers = Producers::default();
        let transactional = |sequence| BatchHeader { attributes: 0x10, ..batch(0, sequence, 1) };
        producers.on_beginning(&transactional(5), false);
        producers.on_beginning(&transactional(4), false);
        assert_eq!(code(producers.check(&transactional(5))), Some(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
        assert_eq!(producers.check(&transactional(4)), Ok(()));
        producers.on_appended(&transactional(4), 0, 0);
        assert_eq!(producers.check(&transactional(5)), Ok(()));
        let mut producers = Producers::default();
        producers.on_beginning(&transactional(5), true);
        assert_eq!(code(producers.check(&transactional(5))), Some(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
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
