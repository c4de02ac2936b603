//! The word count in process, without a broker: `cargo bench -p milena-streams`. CPU time of this thread a word, median
//! of several runs. 660,000 words, 44,000 distinct, 11 a line.
//!
//! What is measured: decoding lines, splitting, encoding to the repartition topic, counting the bytes, and at the end (or
//! after every line) the flush to changelog and output. What is not: record batches, murmur2, sockets.

use std::hint::black_box;

use milena_streams::{StreamsBuilder, Topology, TopologyTestDriver};

const LINES: usize = 60_000;
const WORDS: usize = 11;

fn main() {
    let lines = text();
    let topology = word_count();
    for (name, every) in [("one commit", usize::MAX), ("a commit every 1,000 lines", 1_000), ("a commit a line", 1)] {
        let mut figures: Vec<f64> = (0..7).map(|_| run(&topology, &lines, every)).collect();
        figures.sort_by(f64::total_cmp);
        println!("{name}: {:.0} ns/word [{:.0}..{:.0}]", figures[3], figures[0], figures[6]);
    }
}

fn word_count() -> Topology {
    let b = StreamsBuilder::new();
    b.stream::<(), String>("lines")
        .flat_map_values_with(|line: &String, emit| {
            let lower = line.to_ascii_lowercase();
            for word in lower.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty()) {
                emit.push(word.to_owned());
            }
        })
        .group_by(|_, word| word.clone())
        .count("counts")
        .to_stream()
        .to("out");
    b.build().expect("a topology")
}

fn run(topology: &Topology, lines: &[String], commit_every: usize) -> f64 {
    let mut driver = TopologyTestDriver::builder(topology).cached().build();
    let before = cpu_ns();
    for chunk in lines.chunks(commit_every.min(1_000)) {
        driver.pipe_values("lines", chunk.iter().map(|line| line.as_bytes())).expect("processed");
        if commit_every <= 1_000 {
            driver.commit().expect("committed");
        }
    }
    driver.commit().expect("committed");
    let spent = cpu_ns() - before;
    black_box(&driver);
    spent as f64 / (LINES * WORDS) as f64
}

fn text() -> Vec<String> {
    let mut rng = fastrand::Rng::with_seed(1);
    // Zipf by inversion of 1/rank: rank = distinct^u.
    let word = |rng: &mut fastrand::Rng| {
        let rank = 60_000_f64.powf(rng.f64()) as u32;
        let len = 2 + (rank.wrapping_mul(2_654_435_761) >> 29) as usize;
        format!("{rank:x}{}", &"etaoinshr"[..len.min(9)])
    };
    (0..LINES).map(|_| (0..WORDS).map(|_| word(&mut rng)).collect::<Vec<_>>().join(" ")).collect()
}

/// CPU time of this thread.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or_default()
}
