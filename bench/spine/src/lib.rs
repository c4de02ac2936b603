//! What the measured programs share: their command line, the clock of the CPU, and the line that they print at the end.
//!
//! Each client is a program of its own, so that the CPU time of its process is the client's alone.

pub mod null_broker;
pub mod process;

use std::fmt;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Partitions of a topic, where nothing else is said.
pub const PARTITIONS: i32 = 6;
/// Length of every value.
pub const VALUE_SIZE: usize = 100;
/// The command line of a measured program.
#[derive(Debug, Clone)]
pub struct Arguments {
    /// Where the brokers are.
    pub bootstrap_servers: String,
    /// Records that are measured; a quarter as many go before them to warm up.
    pub records: u64,
}

impl Arguments {
    /// Reads `BOOTSTRAP_SERVERS RECORDS`.
    ///
    /// # Panics
    /// When they are not these; only `spine` calls these programs.
    #[must_use]
    pub fn read() -> Self {
        let mut words = std::env::args().skip(1);
        let mut next = || words.next().expect("BOOTSTRAP_SERVERS RECORDS");
        Self { bootstrap_servers: next(), records: next().parse().expect("a number of records") }
    }

    /// Records before the measurement begins.
    #[must_use]
    pub fn warm_up(&self) -> u64 {
        self.records / 4
    }
}

/// Where wall clock and CPU stood when the measurement began.
#[derive(Debug)]
pub struct Measurement {
    wall: Instant,
    cpu: Duration,
}

impl Measurement {
    /// From now on.
    #[must_use]
    pub fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu_of_this_process() }
    }

    /// Up to now, for that many records.
    #[must_use]
    pub fn stop(&self, records: u64) -> Report {
        Report {
            records,
            wall: self.wall.elapsed(),
            cpu: cpu_of_this_process().saturating_sub(self.cpu),
            peak_kilobytes: peak_kilobytes_of("self"),
        }
    }
}

/// User and system time of all threads of this process.
#[must_use]
pub fn cpu_of_this_process() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.max(0).cast_unsigned(), time.tv_nsec as u32)
}

/// User and system time that a process has used up, in Linux' clock ticks of 10 ms; with `children`, those that it has waited for,
/// too.
#[must_use]
pub fn cpu_of_process(pid: u32, children: bool) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; fields are counted from behind it.
    let ticks: Vec<u64> =
        stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(4).filter_map(|field| field.parse().ok()).collect();
    let counted = if children { ticks.get(..4)? } else { ticks.get(..2)? };
    Some(Duration::from_millis(counted.iter().sum::<u64>() * 10))
}

/// The most memory that a process has held; 0 if it is gone.
fn peak_kilobytes_of(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or_default()
}

/// What a program prints as its last line, and `spine` reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Records that were measured.
    pub records: u64,
    /// Elapsed time.
    pub wall: Duration,
    /// CPU time of the whole process.
    pub cpu: Duration,
    /// The most memory that the process has held.
    pub peak_kilobytes: u64,
}

impl Report {
    /// Reads the last line of a program's output.
    #[must_use]
    pub fn parse(output: &str) -> Option<Self> {
        let line = output.lines().rev().find(|line| line.starts_with("spine "))?;
        let value = |name: &str| -> Option<u64> {
            line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?.parse().ok()
        };
        Some(Self {
            records: value("records")?,
            wall: Duration::from_micros(value("wall_us")?),
            cpu: Duration::from_micros(value("cpu_us")?),
            peak_kilobytes: value("peak_kb")?,
        })
    }

    /// Microseconds of CPU per record.
    #[must_use]
    pub fn cpu_per_record(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.records.max(1) as f64
    }

    /// Records per second of elapsed time.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.records as f64 / self.wall.as_secs_f64().max(1e-9)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spine records={} wall_us={} cpu_us={} peak_kb={}",
            self.records,
            self.wall.as_micros(),
            self.cpu.as_micros(),
            self.peak_kilobytes
        )
    }
}

/// Writes the sixteen hexadecimal digits of `number` into `key`: a key that differs from record to record.
pub fn write_key(key: &mut [u8; 16], number: u64) {
    // Spread, so that neighbours do not land in one partition.
    let mut rest = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for digit in key {
        *digit = b"0123456789abcdef"[(rest >> 60) as usize];
        rest <<= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_back() {
        let report = Report {
            records: 7,
            wall: Duration::from_micros(1_500_000),
            cpu: Duration::from_micros(14),
            peak_kilobytes: 9,
        };
        assert_eq!(Report::parse(&format!("noise\n{report}\n")), Some(report));
        assert!((report.cpu_per_record() - 2.0).abs() < 1e-9);
    }

    #[test]
    fn keys_differ() {
        let (mut a, mut b) = ([0; 16], [0; 16]);
        write_key(&mut a, 1);
        write_key(&mut b, 2);
        assert_ne!(a, b);
    }
}
