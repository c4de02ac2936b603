//! Subscriptions and assignments come from other members: changed ones never panic, never end the process, and buy no memory; and
//! whatever can be read of them, a leader can assign by.
//!
//! Every case is drawn from its seed; `cases.rs` says how one is replayed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../protocol/tests/support/alloc.rs"]
mod alloc;
#[path = "../../protocol/tests/support/cases.rs"]
mod cases;
mod seeds {
    pub(crate) use milena_testkit::seeds;
}

use std::sync::Arc;

use alloc::Counting;
use bytes::Bytes;
use cases::{Cases, any_size, bounded, log_uniform};
use milena_client::TopicPartition;
use milena_consumer::{Assignment, Assignor, CooperativeSticky, Member, Subscription};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BLOBS: Cases =
    Cases { command: "-p milena-consumer --test hostile_blobs changed_subscriptions", count: 10_000, regressions: &[] };
/// Changed blobs of each valid one.
const VARIANTS: usize = 4;

#[derive(Debug, Default)]
struct Tally {
    read: u64,
    refused: u64,
    /// Above 1 MiB.
    giants: u64,
}

#[test]
fn changed_subscriptions_and_assignments_neither_panic_nor_buy_memory() {
    let talk = BLOBS.is_replay();
    let tally: Tally = BLOBS.run(
        |rng, tally: &mut Tally| {
            let is_subscription = rng.bool();
            let size = any_size(rng);
            let valid = if is_subscription { subscription(rng, size).encode() } else { assignment(rng, size).encode() };
            if talk {
                println!("{} bytes, a subscription: {is_subscription}", valid.len());
            }
            assert!(read(is_subscription, valid.to_vec()), "a valid blob of {} bytes is refused", valid.len());
            for _ in 0..VARIANTS {
                let blob = changed(&valid, rng);
                tally.giants += u64::from(blob.len() > 1 << 20);
                let read = read(is_subscription, blob);
                if talk {
                    println!("read: {read}");
                }
                *if read { &mut tally.read } else { &mut tally.refused } += 1;
            }
        },
        |sum, part| {
            sum.read += part.read;
            sum.refused += part.refused;
            sum.giants += part.giants;
        },
    );
    println!("{tally:?}");
    if BLOBS.is_wide() {
        assert!(tally.read > 5_000 && tally.refused > 5_000, "{tally:?}: some changes are noticed, some are not");
        assert!(tally.giants > 50, "{tally:?}");
    }
}

#[test]
fn a_leader_assigns_by_whatever_can_be_read_of_changed_subscriptions() {
    let cases = Cases { command: "-p milena-consumer --test hostile_blobs a_leader_assigns", count: 2_000, ..BLOBS };
    let assigned: u64 = cases.run(
        |rng, assigned: &mut u64| {
            let topics = TOPICS.iter().map(|topic| (Arc::from(*topic), rng.i32(-1..50))).collect();
            let (mut members, mut input) = (Vec::new(), 0);
            for number in 0..rng.usize(1..6) {
                let size = log_uniform(rng, 16, 64 * 1024);
                let blob = Bytes::from(changed(&subscription(rng, size).encode(), rng));
                input += blob.len();
                // The leader takes what it cannot read for a member that wants nothing.
                let subscription = Subscription::decode(&blob).unwrap_or_default();
                members.push(Member { id: format!("m{number}").into(), instance_id: None, subscription });
            }
            let assignments = bounded(input, || CooperativeSticky.assign(&topics, &members)).unwrap();
            let mut given: Vec<&TopicPartition> = assignments.values().flat_map(|given| &given.partitions).collect();
            *assigned += given.len() as u64;
            given.sort_unstable();
            let exists = |given: &TopicPartition| {
                topics.get(&given.topic).is_some_and(|size| (0..*size).contains(&given.partition))
            };
            assert!(given.iter().all(|given| exists(given)), "what does not exist is assigned to nobody");
            assert!(given.windows(2).all(|pair| pair[0] != pair[1]), "and nothing to two");
        },
        |sum, part| *sum += part,
    );
    assert!(assigned > cases.len(), "an assignor that assigns nothing proves nothing: {assigned}");
}

fn read(is_subscription: bool, blob: Vec<u8>) -> bool {
    bounded(blob.len(), || {
        let blob = Bytes::from(blob);
        if is_subscription { Subscription::decode(&blob).is_ok() } else { Assignment::decode(&blob).is_ok() }
    })
}

/// About `size` bytes of one, shared at random between what can grow.
fn subscription(rng: &mut fastrand::Rng, size: usize) -> Subscription {
    let mut room = size;
    let mut share = |rng: &mut fastrand::Rng| {
        let share = rng.usize(..=room);
        room -= share;
        share
    };
    let (for_owned, for_topics, for_data) = (share(rng), share(rng), share(rng));
    let mut topics = Vec::new();
    let mut left = for_topics;
    while left > 0 {
        topics.push(topic(rng));
        left = left.saturating_sub(2 + topics[topics.len() - 1].len());
    }
    Subscription {
        topics,
        user_data: rng.bool().then(|| vec![rng.u8(..); for_data].into()),
        owned: partitions(rng, for_owned),
        generation: rng.i32(..),
        rack: rng.bool().then(|| topic(rng)),
    }
}

fn assignment(rng: &mut fastrand::Rng, size: usize) -> Assignment {
    let for_data = rng.usize(..=size);
    Assignment {
        partitions: partitions(rng, size - for_data),
        user_data: rng.bool().then(|| vec![rng.u8(..); for_data].into()),
    }
}

/// Four bytes each: many of a few topics, or many topics with few.
fn partitions(rng: &mut fastrand::Rng, size: usize) -> Vec<TopicPartition> {
    let few = rng.bool();
    let mut left = size;
    let mut partitions = Vec::new();
    while left >= 4 {
        let topic =
            if few { TOPICS[rng.usize(..TOPICS.len())].into() } else { format!("t{}", partitions.len()).into() };
        left = left.saturating_sub(if few { 4 } else { 12 });
        let partition = if rng.u8(..20) == 0 { rng.i32(..) } else { rng.i32(..100) };
        partitions.push(TopicPartition { topic, partition });
    }
    partitions
}

const TOPICS: [&str; 5] = ["orders", "t", "", "a-topic-with-a-longer-name-than-others", "größe"];

fn topic(rng: &mut fastrand::Rng) -> Arc<str> {
    TOPICS[rng.usize(..TOPICS.len())].into()
}

/// A few bytes changed, taken away or put in; half of the changes hit the first bytes, where the version and the first counts are.
fn changed(bytes: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.usize(1..4) {
        let most = if rng.bool() { bytes.len().min(40) } else { bytes.len() };
        let at = rng.usize(..=most);
        let end = bytes.len().min(at + 4);
        match rng.u8(..7) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.u8(..)),
            2 => bytes[at..end].fill(0x7f),
            3 => bytes[at..end].copy_from_slice(&rng.i32(..).to_be_bytes()[..end - at]),
            4 => bytes[at..end].copy_from_slice(&rng.i32(..0x1_0000).to_be_bytes()[..end - at]),
            // A count that cannot be told from one that is true by the bytes that are left alone.
            5 => {
                let left = (bytes.len() - end) as i32;
                let count = left / [1, 2, 4, 6, 8][rng.usize(..5)];
                bytes[at..end].copy_from_slice(&count.to_be_bytes()[..end - at]);
            }
            _ if end > at => bytes[at] ^= 1 << rng.u8(..8),
            _ => {}
        }
    }
    bytes
}
