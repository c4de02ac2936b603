//! Bytes of a peer that is broken or means harm never panic, never end the process, and buy no memory.
//!
//! Every case is drawn from one seed: a reader, a valid message for it (which must be read), and a few changed ones (which may be
//! read or refused, whichever it is). A counting allocator watches. When a case fails it prints its seed and how to run it again
//! (`support/cases.rs`); add the seed to the test's regressions then.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod generate;
mod mutate;
mod own;
#[path = "../support/mod.rs"]
mod support;
mod target;

use std::collections::BTreeMap;

use milena_protocol::fetch::FetchParser;
use milena_protocol::messages::*;
use milena_protocol::validate::{EXPANSION, Field, Kind, Structure};
use milena_protocol::{ApiKey, Message as _, Request as _, frame, validate};

use generate::Greed;
use support::alloc::{Counting, measure};
use support::cases::{Cases, any_size, log_uniform};
use target::{Target, Verdict};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Changed frames of each valid message.
const VARIANTS: u64 = 8;
const FRAMES: Cases = Cases {
    command: "-p milena-protocol --test hostile changed_frames",
    count: 50_000 / VARIANTS,
    regressions: &[
        // A tag of a later version.
        0x9e37_79b9_7f4a_4d24,
        // The fetch parser bought 1.25 MiB for a batch that only announced itself.
        0x9e37_79b9_7f4a_fc0a,
        0x9e37_79b9_7f4b_a78b,
        // The name of a topic, megabytes long and in small pieces, was copied for each of its bytes.
        2752,
    ],
};
/// From this number of frames on the run is one that a release rests on, and must have been wide enough for that.
const FULL_RUN: u64 = 1_000_000;

#[test]
fn changed_frames_neither_panic_nor_buy_memory() {
    let talk = FRAMES.is_replay();
    let tally = FRAMES.run(|rng, tally| run_case(rng, talk, tally), Tally::add);
    println!("{tally:?}");
    if FRAMES.is_wide() {
        tally.assert_wide();
    }
}

/// What one case, or many, came to.
#[derive(Default)]
struct Tally {
    frames: u64,
    bytes: u64,
    /// Frames above 1 MiB.
    giants: u64,
    /// Frames whose outer length was right.
    outer_valid: u64,
    /// Verdicts about changed frames.
    read: u64,
    waits: u64,
    refused: u64,
    refused_late: u64,
    /// The worst peak, in bytes for each byte of the frame above 1 MiB.
    worst_factor: f64,
    each: BTreeMap<(&'static str, i16), u64>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.giants += other.giants;
        self.outer_valid += other.outer_valid;
        self.read += other.read;
        self.waits += other.waits;
        self.refused += other.refused;
        self.refused_late += other.refused_late;
        self.worst_factor = self.worst_factor.max(other.worst_factor);
        for (target, frames) in other.each {
            *self.each.entry(target).or_default() += frames;
        }
    }

    /// Enough of everything.
    fn assert_wide(&self) {
        let is_full = self.frames >= FULL_RUN;
        let least = if is_full { 200 } else { 20 };
        for target in target::all() {
            let seen = self.each.get(&(target.name, target.version)).copied().unwrap_or(0);
            assert!(seen >= least, "{} v{} was tried only {seen} times", target.name, target.version);
        }
        assert!(self.read * 20 > self.frames && self.refused * 5 > self.frames, "the changes are too hard or too soft");
        assert!(self.outer_valid.abs_diff(self.frames / 2) < self.frames / 20);
        if is_full {
            assert!(self.giants >= 1_000);
            assert!(self.bytes / self.frames * FULL_RUN <= 16 << 30);
        }
    }
}

impl std::fmt::Debug for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} frames of {} MiB ({} above 1 MiB, {} with a valid outer length), {} readers: {} read, {} wait for more, {} \
             refused, {} of them behind the guard; worst peak {:.1} x frame",
            self.frames,
            self.bytes >> 20,
            self.giants,
            self.outer_valid,
            self.each.len(),
            self.read,
            self.waits,
            self.refused + self.refused_late,
            self.refused_late,
            self.worst_factor
        )
    }
}

fn run_case(rng: &mut fastrand::Rng, talk: bool, tally: &mut Tally) {
    let target = target::all()[rng.usize(..target::all().len())];
    let size = any_size(rng);
    let valid = target.generate(rng, size);
    if talk {
        println!("{} v{}, {} bytes (aimed at {size})", target.name, target.version, valid.bytes.len());
    }
    let verdict = read(rng, target, valid.bytes.clone(), valid.bytes.len(), tally);
    assert_eq!(verdict, Verdict::Read, "a valid {} v{} of {} bytes", target.name, target.version, valid.bytes.len());

    for _ in 0..VARIANTS {
        let mut body = mutate::mutate(rng, &valid);
        let mut announced = body.len();
        if rng.bool() {
            tally.outer_valid += 1;
        } else if rng.bool() {
            announced = rng.usize(..=announced);
        } else {
            // What follows in the stream is read as if it belonged to this message, as far as it has arrived.
            announced += 1 + log_uniform(rng, 1, 1 << 30);
            body.extend((0..rng.usize(..64)).map(|_| rng.u8(..)));
        }
        tally.frames += 1;
        tally.bytes += body.len() as u64;
        tally.giants += u64::from(body.len() > 1 << 20);
        let verdict = read(rng, target, body, announced, tally);
        if talk {
            println!("{verdict:?}");
        }
        match verdict {
            Verdict::Read => tally.read += 1,
            Verdict::Waits => tally.waits += 1,
            Verdict::Refused => tally.refused += 1,
            Verdict::RefusedLate => tally.refused_late += 1,
        }
    }
    *tally.each.entry((target.name, target.version)).or_default() += VARIANTS;
}

/// Reads a frame and looks at the memory that took.
fn read(rng: &mut fastrand::Rng, target: Target, body: Vec<u8>, announced: usize, tally: &mut Tally) -> Verdict {
    let len = body.len();
    // The frame itself counts, too.
    let (verdict, usage) = measure(|| target.read(rng, body, announced));
    let peak = usage.peak + len;
    assert!(
        peak <= 40 * len + (1 << 20),
        "{} v{}: a frame of {len} bytes took {peak} bytes of memory",
        target.name,
        target.version
    );
    if len > 1024 * 1024 {
        tally.worst_factor = tally.worst_factor.max(peak as f64 / len as f64);
    }
    verdict
}

#[test]
fn the_table_knows_how_much_memory_a_message_takes() {
    macro_rules! compare {
        ($($key:ident $request:ident $response:ident)*) => {
            $(
                let shape = validate::shape(ApiKey::$key).unwrap();
                assert_eq!(shape.name, stringify!($response));
                let (ours, real) = (shape.root.memory, size_of::<$response>());
                assert!(ours >= real && ours <= real + 64, "{}: {ours} bytes in the table, {real} in truth", shape.name);
                assert!($request::VERSIONS.max <= shape.versions.1 && $request::VERSIONS.min >= shape.versions.0);
                assert_eq!($request::KEY, ApiKey::$key);
            )*
        };
    }
    milena_protocol::every_request!(compare);
}

#[test]
fn no_element_that_is_written_as_short_as_possible_is_refused_for_its_memory() {
    fn least(kind: &Kind, version: i16, flexible: bool) -> usize {
        match kind {
            Kind::Fixed(len) => *len,
            Kind::Struct(structure) => {
                let fields = structure.fields.iter().filter(|field| field.is_in_place(version));
                // Groups have different names, and there are only 256 of a byte.
                let name = |field: &Field| if field.name == "GroupId" { 2 } else { 0 };
                let bytes = fields.map(|field| name(field) + least(&field.kind, version, flexible)).sum::<usize>();
                bytes + usize::from(flexible)
            }
            _ if flexible => 1,
            Kind::String => 2,
            Kind::Bytes | Kind::Array(_) => 4,
        }
    }
    fn walk(structure: &Structure, version: i16, flexible: bool, worst: &mut f64) {
        for field in structure.fields.iter().filter(|field| field.is_in_place(version) || field.tag(version).is_some())
        {
            match &field.kind {
                Kind::Struct(inner) => walk(inner, version, flexible, worst),
                Kind::Array(element) => {
                    let memory = match element {
                        Kind::Struct(inner) => {
                            walk(inner, version, flexible, worst);
                            inner.memory
                        }
                        Kind::Fixed(len) => *len,
                        _ => 32,
                    };
                    *worst = worst.max(memory as f64 / least(element, version, flexible) as f64);
                }
                _ => {}
            }
        }
    }
    let mut worst = 0.0;
    macro_rules! walk_all {
        ($($key:ident $request:ident $response:ident)*) => {
            $(for version in $request::VERSIONS.min..=$request::VERSIONS.max {
                let shape = validate::shape(ApiKey::$key).unwrap();
                walk(&shape.root, version, shape.is_flexible(version), &mut worst);
            })*
        };
    }
    milena_protocol::every_request!(walk_all);
    println!("worst: {worst:.1} bytes of memory for a byte of the message");
    assert!(worst <= EXPANSION as f64, "{worst}");
}

#[test]
fn messages_of_nothing_but_small_elements_stay_within_the_bound() {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut refused = [0; 2];
    for target in target::all() {
        for (greed, refused) in [Greed::Elements, Greed::Tags].into_iter().zip(&mut refused) {
            for size in [1_000, 150_000] {
                let Some(greedy) = target.generate_greedy(&mut rng, size, greed) else { continue };
                let len = greedy.bytes.len();
                let verdict = read(&mut rng, *target, greedy.bytes, len, &mut Tally::default());
                *refused += u32::from(verdict == Verdict::Refused);
            }
        }
    }
    // Without tags, only groups that all have the same empty name go too far, in one version.
    assert!(refused[0] == 1 && refused[1] > 20, "{refused:?} were refused");
}

#[test]
fn a_fetched_batch_buys_no_memory_by_its_length_alone() {
    // Fetch v4: throttle time, one topic "t", one partition with 1 GB of records, of which one batch of 500 MB says its length.
    let mut body = vec![0, 0, 0, 0, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1];
    body.extend([0; 22]);
    body.extend([0xff; 4]);
    body.extend(1_000_000_000u32.to_be_bytes());
    body.extend([0; 8]);
    body.extend(500_000_000u32.to_be_bytes());
    body.extend([0, 0, 0, 0, 2, 0, 0, 0, 0]);
    let target = target::all().iter().find(|target| target.name == "FetchParser" && target.version == 4).unwrap();
    let verdict = read(&mut fastrand::Rng::with_seed(1), *target, body, 1_000_000_100, &mut Tally::default());
    assert_eq!(verdict, Verdict::Waits);
}

#[test]
fn a_long_value_is_not_copied_for_every_piece_that_arrives() {
    // Fetch v12: tags, throttle time, no error, session, one topic, whose name has two million bytes.
    let mut body = vec![0; 11];
    body.extend([2, 0x81, 0x89, 0x7a]);
    body.resize(2_000_000, b'n');
    let mut parser = FetchParser::new();
    parser.begin(12, body.len() + 1000).unwrap();
    let ((), usage) = measure(|| {
        let mut rest = &body[..];
        while !rest.is_empty() {
            let buffer = parser.buffer();
            let room = buffer.capacity() - buffer.len();
            let (now, later) = rest.split_at(room.min(200).min(rest.len()));
            buffer.extend_from_slice(now);
            rest = later;
            assert!(parser.next_event().is_ok());
        }
    });
    assert!(usage.allocations < 10, "{usage:?}");
}

#[test]
fn ten_bytes_do_not_ask_for_290_gigabytes() {
    // Metadata v9: no header tags, throttle time, and 2^32 - 2 brokers.
    let body = bytes::Bytes::from_static(&[0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    let (refused, usage) = measure(|| frame::decode_body::<MetadataRequest>(body, 9).unwrap_err().to_string());
    assert!(refused.contains("Brokers"), "{refused}");
    assert!(usage.peak < 4096, "{usage:?}");
}
