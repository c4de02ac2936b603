//! What a broken or hostile peer makes of a valid message.

use crate::generate::Generated;

/// A message with one to four changes.
pub(crate) fn mutate(rng: &mut fastrand::Rng, valid: &Generated) -> Vec<u8> {
    let mut bytes = valid.bytes.clone();
    // Half of all changes hit a length, a count or a tag; the first of them at the place where it was written.
    let mut aim = (!valid.spots.is_empty() && rng.bool()).then(|| valid.spots[rng.usize(..valid.spots.len())].clone());
    let changes = if rng.bool() { 1 } else { rng.usize(2..=4) };
    for _ in 0..changes {
        let at = match aim.take() {
            Some(spot) if rng.bool() => {
                overwrite(rng, &mut bytes, spot.start, spot.len());
                continue;
            }
            Some(spot) => spot.start,
            None => rng.usize(..=bytes.len()),
        };
        change(rng, &mut bytes, at);
    }
    bytes
}

fn change(rng: &mut fastrand::Rng, bytes: &mut Vec<u8>, at: usize) {
    let rest = bytes.len() - at;
    let some = |rng: &mut fastrand::Rng, most: usize| rng.usize(..=most.min(64));
    match rng.u8(..10) {
        0 if rest > 0 => bytes[at] ^= 1 << rng.u8(..8),
        1 if rest > 0 => bytes[at] = EDGES[rng.usize(..EDGES.len())],
        2 if rest > 0 => bytes[at] = rng.u8(..),
        3 => overwrite(rng, bytes, at, 2),
        4 => overwrite(rng, bytes, at, 4),
        5 => {
            let len = some(rng, rest);
            bytes.drain(at..at + len);
        }
        6 => {
            let noise: Vec<u8> = (0..some(rng, 64)).map(|_| rng.u8(..)).collect();
            bytes.splice(at..at, noise);
        }
        7 => {
            let again = bytes[at..at + some(rng, rest)].to_vec();
            bytes.splice(at..at, again);
        }
        8 => {
            let end = at + some(rng, rest);
            rng.fill(&mut bytes[at..end]);
        }
        9 if rng.u8(..4) == 0 => bytes.truncate(at),
        // A count that takes five bytes as a varint.
        _ => {
            let huge = [0xff, 0xff, 0xff, 0xff, [0x07, 0x0f, 0x7f][rng.usize(..3)]];
            bytes.splice(at..at + rest.min(1), huge);
        }
    }
}

/// Writes a number there that a length should not have, as long as there are bytes.
fn overwrite(rng: &mut fastrand::Rng, bytes: &mut [u8], at: usize, len: usize) {
    let number: u64 = match rng.u8(..6) {
        0 => u64::MAX >> rng.u32(..64),
        1 => 1 << rng.u32(..32),
        2 => (i32::MAX as u64) - rng.u64(..3),
        3 => rng.u64(..),
        4 => rng.u64(..0x1_0000),
        _ => 0x7f7f_7f7f_7f7f_7f7f,
    };
    let end = bytes.len().min(at + len);
    let room = &mut bytes[at..end];
    room.copy_from_slice(&number.to_be_bytes()[8 - room.len().min(8)..][..room.len().min(8)]);
}

const EDGES: [u8; 8] = [0, 1, 2, 0x7e, 0x7f, 0x80, 0xfe, 0xff];
