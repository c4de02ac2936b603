//! What happens to the bytes of a frame on their way. Frames of answers begin with their length, those of requests come without it.

use bytes::{Bytes, BytesMut};
use milena_protocol::frame::LENGTH_BYTES;

/// The length and the correlation id of an answer.
const ANSWER_HEADER: usize = LENGTH_BYTES + 4;

/// Turns one bit over behind the first `header` bytes: which one is drawn by `lot`.
pub(crate) fn corrupt(frame: &Bytes, header: usize, lot: u64) -> Bytes {
    let mut damaged = BytesMut::from(&frame[..]);
    let bits = (frame.len().saturating_sub(header) as u64) * 8;
    if bits > 0 {
        let bit = lot % bits;
        damaged[header + (bit / 8) as usize] ^= 1 << (bit % 8);
    }
    damaged.freeze()
}

/// Turns one bit of an answer over.
pub(crate) fn corrupt_answer(frame: &Bytes, lot: u64) -> Bytes {
    corrupt(frame, ANSWER_HEADER, lot)
}

/// The first half of an answer.
pub(crate) fn truncate(frame: &Bytes) -> Bytes {
    frame.slice(..frame.len() / 2)
}

/// An answer with a correlation id that its client has not used: another upper half.
pub(crate) fn wrong_correlation_id(frame: &Bytes) -> Bytes {
    let mut wrong = BytesMut::from(&frame[..]);
    wrong[LENGTH_BYTES] ^= 0x55;
    wrong.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: Bytes = Bytes::from_static(b"\0\0\0\x08\0\0\0\x07body");

    #[test]
    fn one_bit_of_the_body_is_turned_over_and_every_lot_finds_one() {
        for lot in 0..100 {
            let damaged = corrupt_answer(&ANSWER, lot);
            assert_eq!(damaged[..8], ANSWER[..8]);
            let turned: u32 = damaged.iter().zip(&ANSWER).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert_eq!(turned, 1);
        }
        assert_eq!(corrupt_answer(&ANSWER.slice(..8), 3), ANSWER[..8]);
    }

    #[test]
    fn a_wrong_correlation_id_is_all_that_changes() {
        let wrong = wrong_correlation_id(&ANSWER);
        assert_eq!((&wrong[..4], &wrong[5..]), (&ANSWER[..4], &ANSWER[5..]));
        assert_ne!(wrong[4], ANSWER[4]);
        assert_eq!(truncate(&ANSWER).len(), 6);
    }
}
