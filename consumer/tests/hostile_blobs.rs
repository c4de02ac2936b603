//! Subscriptions and assignments come from other members: changed ones never panic and buy no memory.
//!
//! `MILENA_SEED=n` draws other changes; a failure prints the seed that replays it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../protocol/tests/support/alloc.rs"]
mod alloc;

use std::sync::Arc;

use alloc::{Counting, busy_with, measure};
use bytes::Bytes;
use milena_client::TopicPartition;
use milena_consumer::{Assignment, Subscription};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Rounds; every one is another seed.
const ROUNDS: u64 = 10_000;

#[test]
fn changed_subscriptions_and_assignments() {
    let base: u64 = std::env::var("MILENA_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut outcomes = [0; 2];
    for seed in base..base + ROUNDS {
        busy_with(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let is_subscription = rng.bool();
        let blob = if is_subscription { subscription(&mut rng).encode() } else { assignment(&mut rng).encode() };
        let blob = changed(&blob, &mut rng);
        let len = blob.len();
        let (read, usage) = measure(|| {
            let blob = Bytes::from(blob);
            if is_subscription { Subscription::decode(&blob).is_ok() } else { Assignment::decode(&blob).is_ok() }
        });
        let replay = "MILENA_SEED=… cargo test -p milena-consumer --test hostile_blobs";
        assert!(usage.peak <= 40 * len + (1 << 16), "seed {seed}: {len} bytes took {usage:?}; replay: {replay}");
        outcomes[usize::from(read)] += 1;
    }
    assert!(outcomes.iter().all(|count| *count > 500), "{outcomes:?}: some changes are noticed, some are not");
}

fn subscription(rng: &mut fastrand::Rng) -> Subscription {
    Subscription {
        topics: (0..rng.usize(..20)).map(|_| topic(rng)).collect(),
        user_data: rng.bool().then(|| vec![rng.u8(..); rng.usize(..100)].into()),
        owned: partitions(rng),
        generation: rng.i32(..),
        rack: rng.bool().then(|| topic(rng)),
    }
}

fn assignment(rng: &mut fastrand::Rng) -> Assignment {
    Assignment { partitions: partitions(rng), user_data: rng.bool().then(|| vec![rng.u8(..); rng.usize(..100)].into()) }
}

fn partitions(rng: &mut fastrand::Rng) -> Vec<TopicPartition> {
    let most = 1 << rng.u32(..11);
    (0..rng.usize(..most)).map(|_| TopicPartition { topic: topic(rng), partition: rng.i32(..100) }).collect()
}

fn topic(rng: &mut fastrand::Rng) -> Arc<str> {
    ["orders", "t", "", "a-topic-with-a-longer-name-than-others", "größe"][rng.usize(..5)].into()
}

/// A few bytes changed, taken away or put in.
fn changed(bytes: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(..bytes.len().max(1)).min(bytes.len());
        let end = bytes.len().min(at + 4);
        match rng.u8(..6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.u8(..)),
            2 => bytes[at..end].fill(0x7f),
            3 => bytes[at..end].copy_from_slice(&rng.i32(..).to_be_bytes()[..end - at]),
            4 => bytes[at..end].copy_from_slice(&rng.i32(..0x1_0000).to_be_bytes()[..end - at]),
            _ if end > at => bytes[at] ^= 1 << rng.u8(..8),
            _ => {}
        }
    }
    bytes
}
