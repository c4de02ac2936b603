//! Runs cases that are drawn from seeds, many at once, each under the allocator that counts.
//!
//! `MILENA_SEEDS` says which (see `seeds.rs`). A case that fails, by a panic or because there is no more memory, prints its seed and
//! the command that replays it, and the others go on.
#![allow(dead_code, reason = "every test file uses its part")]

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use super::alloc::{busy_with, measure};
use super::seeds::seeds;

/// A test whose cases are drawn from seeds.
pub(crate) struct Cases {
    /// What cargo must be told to run this test alone: `-p milena-protocol --test hostile changed_frames`.
    pub(crate) command: &'static str,
    /// So many seeds, from 0 on, when nobody asks for others.
    pub(crate) count: u64,
    /// Seeds that failed once. A seed stands for the same case only as long as the generator stays as it is, so what must not come
    /// back has a test of its own, too.
    pub(crate) regressions: &'static [u64],
}

impl Cases {
    /// Runs every case and adds up what they came to. A seed's generator is independent of its neighbours'.
    pub(crate) fn run<T: Default + Send>(
        &self,
        case: impl Fn(&mut fastrand::Rng, &mut T) + Sync,
        add: impl Fn(&mut T, T),
    ) -> T {
        let seeds = self.seeds();
        let regressions = if self.is_replay() { &[] } else { self.regressions };
        let next = AtomicU64::new(0);
        let work = || {
            let (mut told, mut failed) = (T::default(), Vec::new());
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let seed = match regressions.get(at as usize) {
                    Some(seed) => *seed,
                    None => seeds.start + (at - regressions.len() as u64),
                };
                if at >= regressions.len() as u64 && seed >= seeds.end {
                    return (told, failed);
                }
                busy_with(seed, self.command);
                let mut rng = fastrand::Rng::with_seed(mix(seed));
                if catch_unwind(AssertUnwindSafe(|| case(&mut rng, &mut told))).is_err() {
                    println!("replay it with: MILENA_SEEDS={seed} cargo test {}", self.command);
                    failed.push(seed);
                }
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let parts: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        let (mut sum, mut failed) = (T::default(), Vec::new());
        for (part, seeds) in parts {
            add(&mut sum, part);
            failed.extend(seeds);
        }
        failed.sort_unstable();
        assert!(
            failed.is_empty(),
            "{} cases failed: {:?} …; replay one with: MILENA_SEEDS=SEED cargo test {}",
            failed.len(),
            &failed[..failed.len().min(10)],
            self.command
        );
        sum
    }

    fn seeds(&self) -> Range<u64> {
        seeds(0..self.count)
    }

    /// How many cases this run has.
    pub(crate) fn len(&self) -> u64 {
        let seeds = self.seeds();
        seeds.end - seeds.start
    }

    /// One seed: tell what happens.
    pub(crate) fn is_replay(&self) -> bool {
        self.len() == 1
    }

    /// Whether the run is long enough for statements about all of its cases together.
    pub(crate) fn is_wide(&self) -> bool {
        self.len() >= self.count
    }
}

/// Holds `work` on `input` bytes to what bytes from the network may take: 40 times their size and 1 MiB, themselves included.
pub(crate) fn bounded<T>(input: usize, work: impl FnOnce() -> T) -> T {
    let (result, usage) = measure(work);
    let peak = input + usage.peak;
    assert!(peak <= 40 * input + (1 << 20), "{input} bytes took {peak} bytes of memory");
    result
}

/// A size that every power of two has the same share of: from 16 bytes to 64 KiB, and in one case of 150 from there to 4 MiB. (One
/// range for all would be 330 GiB in a long run.)
pub(crate) fn any_size(rng: &mut fastrand::Rng) -> usize {
    let (low, high) = if rng.u64(..150) == 0 { (64 * 1024, 4 << 20) } else { (16, 64 * 1024) };
    log_uniform(rng, low, high)
}

/// A number from `low` up to but not including `high`, every power of two as probable as the next.
pub(crate) fn log_uniform(rng: &mut fastrand::Rng, low: usize, high: usize) -> usize {
    let (from, to) = ((low.max(1) as f64).ln(), (high.max(2) as f64).ln());
    ((from + rng.f64() * (to - from)).exp() as usize).clamp(low, high.saturating_sub(1).max(low))
}

/// Spreads seeds that lie close together (the finaliser of SplitMix64).
fn mix(mut seed: u64) -> u64 {
    seed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    seed = (seed ^ (seed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    seed ^ (seed >> 31)
}
