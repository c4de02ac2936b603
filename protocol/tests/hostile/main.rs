//! Bytes of a peer that is broken or means harm never panic, never end the process, and buy no memory.
//!
//! Every case is drawn from one seed: a reader, a valid message for it (which must be read), and a few changed ones (which may be
//! read or refused, whichever it is). A counting allocator watches. When a case fails it prints its seed and how to run it again;
//! add the seed to [`REGRESSIONS`] then.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod generate;
mod mutate;
mod own;
#[path = "../support/mod.rs"]
mod support;
mod target;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use milena_protocol::messages::*;
use milena_protocol::validate::{EXPANSION, Field, Kind, Structure};
use milena_protocol::{ApiKey, Message as _, Request as _, frame, validate};

use generate::{Greed, log_uniform};
use support::alloc::{Counting, busy_with, measure};
use target::{Target, Verdict};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Seeds of cases that failed once. A seed stands for the same case only as long as the readers and the generator stay as they are, so
/// what must not come back has a test of its own, too.
const REGRESSIONS: &[u64] = &[
    // A tag of a later version.
    0x56e9_0999_ff1e_7358,
    // The fetch parser bought 1.25 MiB for a batch that only announced itself.
    0x58e8_9a54_85b7_99b2,
    0x7ca1_2003_55ff_3d6f,
];

/// How many changed frames are read when nobody asks for another number (`MILENA_HOSTILE_FRAMES`).
const FRAMES: u64 = 50_000;
/// From this number on the run is one that a release rests on, and must have been wide enough for that.
const FULL_RUN: u64 = 1_000_000;
/// Changed frames of each valid message.
const VARIANTS: u64 = 8;

const REPLAY: &str =
    "replay it with: MILENA_HOSTILE_CASE=SEED cargo test -p milena-protocol --test hostile changed_frames";

/// Sizes are log-uniform between these; one case of `GIANTS` draws from the second range, which goes on where the first ends. (One range
/// for all would be 330 GiB in a long run.)
const SIZES: (usize, usize) = (16, 64 * 1024);
const GIANTS: u64 = 150;
const GIANT_SIZES: (usize, usize) = (64 * 1024, 4 << 20);

#[test]
fn changed_frames_neither_panic_nor_buy_memory() {
    if let Some(seed) = number("MILENA_HOSTILE_CASE") {
        println!("case {seed:#x}: {:?}", run_case(seed, true));
        return;
    }
    for &seed in REGRESSIONS {
        assert!(survives(seed).is_some(), "case {seed:#x} fails again; {REPLAY}");
    }
    let frames = number("MILENA_HOSTILE_FRAMES").unwrap_or(FRAMES);
    let run_seed = number("MILENA_HOSTILE_SEED").unwrap_or(1);
    println!("{frames} frames of MILENA_HOSTILE_SEED={run_seed}");

    let (next, cases) = (AtomicU64::new(0), frames.div_ceil(VARIANTS));
    let work = || {
        let mut tally = Tally::default();
        loop {
            let case = next.fetch_add(1, Ordering::Relaxed);
            if case >= cases {
                return tally;
            }
            let seed = mix(run_seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ case);
            match survives(seed) {
                Some(part) => tally.add(part),
                None => tally.failed.push(seed),
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let tally = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().fold(Tally::default(), |mut sum, worker| {
            sum.add(worker.join().unwrap());
            sum
        })
    });
    println!("{tally:?}");
    assert!(tally.failed.is_empty(), "cases {:#x?} failed; {REPLAY}", tally.failed);
    tally.assert_wide(frames);
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
    failed: Vec<u64>,
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
        self.failed.extend(other.failed);
    }

    /// Enough of everything.
    fn assert_wide(&self, frames: u64) {
        if frames < FRAMES {
            return;
        }
        let least = if frames >= FULL_RUN { 200 } else { 20 };
        for target in target::all() {
            let seen = self.each.get(&(target.name, target.version)).copied().unwrap_or(0);
            assert!(seen >= least, "{} v{} was tried only {seen} times", target.name, target.version);
        }
        assert!(self.read * 20 > self.frames && self.refused * 5 > self.frames, "the changes are too hard or too soft");
        assert!(self.outer_valid.abs_diff(self.frames / 2) < self.frames / 20);
        if frames >= FULL_RUN {
            assert!(self.giants >= 1_000);
            assert!(self.bytes / frames * FULL_RUN <= 16 << 30);
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

fn survives(seed: u64) -> Option<Tally> {
    busy_with(seed);
    match catch_unwind(AssertUnwindSafe(|| run_case(seed, false))) {
        Ok(tally) => Some(tally),
        Err(_) => {
            println!("case {seed:#x} failed");
            None
        }
    }
}

fn run_case(seed: u64, talk: bool) -> Tally {
    let mut rng = fastrand::Rng::with_seed(seed);
    let rng = &mut rng;
    let target = target::all()[rng.usize(..target::all().len())];
    let (low, high) = if rng.u64(..GIANTS) == 0 { GIANT_SIZES } else { SIZES };
    let size = log_uniform(rng, low, high);
    let valid = target.generate(rng, size);
    let mut tally = Tally::default();
    if talk {
        println!("{} v{}, {} bytes (aimed at {size})", target.name, target.version, valid.bytes.len());
    }
    let verdict = read(rng, target, valid.bytes.clone(), valid.bytes.len(), &mut tally);
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
        let verdict = read(rng, target, body, announced, &mut tally);
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
    tally.each.insert((target.name, target.version), VARIANTS);
    tally
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

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let parsed = text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| u64::from_str_radix(hex, 16));
    Some(parsed.unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

/// Spreads seeds that lie close together (the finaliser of SplitMix64).
fn mix(mut seed: u64) -> u64 {
    seed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    seed = (seed ^ (seed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    seed ^ (seed >> 31)
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
fn ten_bytes_do_not_ask_for_290_gigabytes() {
    // Metadata v9: no header tags, throttle time, and 2^32 - 2 brokers.
    let body = bytes::Bytes::from_static(&[0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    let (refused, usage) = measure(|| frame::decode_body::<MetadataRequest>(body, 9).unwrap_err().to_string());
    assert!(refused.contains("Brokers"), "{refused}");
    assert!(usage.peak < 4096, "{usage:?}");
}
