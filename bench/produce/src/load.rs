//! The two loops that every client runs: as fast as it can, and at a given rate.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use spine::{Measurement, write_key};
use tokio::sync::mpsc;

use crate::client::{Contender, Shot};
use crate::job::{Job, Load, Outcome};

/// Bytes of the different values that are sent in turn: enough that a batch hardly repeats itself, few enough to stay in the cache.
const BYTES_OF_VALUES: usize = 32 * 1024;

pub(crate) async fn run<C: Contender>(job: &Job) -> Outcome {
    let client = C::connect(job).await;
    let source = Source::new(job.load);
    if job.load.rate > 0 {
        return at_a_rate(&client, job, &source).await;
    }
    let warmed_up = as_fast_as_it_can(&client, job, &source, 0, job.load.warm_up).await;
    let measurement = Measurement::start();
    let sent = as_fast_as_it_can(&client, job, &source, warmed_up, job.load.measured).await;
    Outcome { report: measurement.stop(sent), sent: warmed_up + sent, p50_us: 0, p99_us: 0 }
}

/// Sends for that long, waits until all is delivered, and says how many were sent.
async fn as_fast_as_it_can<C: Contender>(client: &C, job: &Job, source: &Source, first: u64, time: Duration) -> u64 {
    let window = job.window();
    let mut outstanding: VecDeque<C::Delivery> = VecDeque::with_capacity(window);
    let mut key = [0; 16];
    let began = Instant::now();
    let mut n = first;
    // A look at the clock costs some nanoseconds, too.
    while !n.is_multiple_of(256) || n == first || began.elapsed() < time {
        if outstanding.len() == window
            && let Some(oldest) = outstanding.pop_front()
        {
            client.settle(oldest).await;
        }
        outstanding.push_back(client.send(source.shot(n, &mut key, 0)).await);
        n += 1;
    }
    for delivery in outstanding {
        client.settle(delivery).await;
    }
    client.finish().await;
    n - first
}

/// Sends at the job's rate, in bursts of a millisecond, and measures from the moment at which each record was due: what waits because
/// the client is slow is not left out.
async fn at_a_rate<C: Contender>(client: &C, job: &Job, source: &Source) -> Outcome {
    let warmed_up = paced(client, job, source, job.load.warm_up).await.len() as u64;
    let measurement = Measurement::start();
    let mut latencies = paced(client, job, source, job.load.measured).await;
    let report = measurement.stop(latencies.len() as u64);
    latencies.sort_unstable();
    let at = |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or_default();
    let (p50_us, p99_us) = (u64::from(at(0.5)), u64::from(at(0.99)));
    Outcome { report, sent: warmed_up + report.records, p50_us, p99_us }
}

async fn paced<C: Contender>(client: &C, job: &Job, source: &Source, time: Duration) -> Vec<u32> {
    let all = (job.load.rate as f64 * time.as_secs_f64()) as u64;
    let by_callback = client.latencies(true).is_some();
    let began = Instant::now();
    let now_us = || began.elapsed().as_micros() as u64;
    let (sent, mut acknowledged) = mpsc::unbounded_channel();
    let send = async move {
        let mut key = [0; 16];
        let mut n = 0;
        while n < all {
            let due = (now_us() * job.load.rate / 1_000_000).min(all);
            while n < due {
                let due_us = n * 1_000_000 / job.load.rate;
                let delivery = client.send(source.shot(n, &mut key, due_us + 1)).await;
                let _ = sent.send((due_us, delivery));
                n += 1;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let settle = async {
        let mut latencies = Vec::with_capacity(all as usize);
        while let Some((due_us, delivery)) = acknowledged.recv().await {
            client.settle(delivery).await;
            latencies.push(now_us().saturating_sub(due_us) as u32);
        }
        latencies
    };
    let ((), latencies) = tokio::join!(biased; send, settle);
    client.finish().await;
    if by_callback { client.latencies(false).unwrap_or_default() } else { latencies }
}

/// The records, by number.
struct Source {
    load: Load,
    values: Vec<Bytes>,
}

impl Source {
    fn new(load: Load) -> Self {
        let count = (BYTES_OF_VALUES / load.value_size.max(1)).next_power_of_two();
        Self { load, values: (0..count as u64).map(|n| value(n, load.value_size).into()).collect() }
    }

    // What this loop itself costs is in every client's figure: nothing is divided, and nothing goes through memory.
    #[inline(always)]
    fn shot<'a>(&'a self, n: u64, key: &'a mut [u8; 16], due_us: u64) -> Shot<'a> {
        let value = &self.values[n as usize & (self.values.len() - 1)];
        if self.load.keyed {
            write_key(key, n);
            return Shot { key: Some(key), partition: None, value, due_us };
        }
        Shot { key: None, partition: Some((n % self.load.partitions as u64) as i32), value, due_us }
    }
}

/// Something like the JSON of an event, cut or repeated to that many bytes: a codec finds in it what it finds in real ones.
fn value(number: u64, size: usize) -> Vec<u8> {
    let mut value = Vec::with_capacity(size + 128);
    let mut seed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    while value.len() < size {
        seed ^= seed >> 29;
        seed = seed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let (user, cents, kind) =
            (seed % 99_991, seed >> 40, ["view", "click", "order", "cancel"][(seed >> 20 & 3) as usize]);
        value.extend_from_slice(
            format!(r#"{{"user":{user},"event":"{kind}","cents":{cents},"page":"/goods/{seed:x}"}}"#).as_bytes(),
        );
    }
    value.truncate(size);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_size_and_differ() {
        assert_eq!(value(1, 100).len(), 100);
        assert_eq!(value(1, 1024).len(), 1024);
        assert_ne!(value(1, 100), value(2, 100));
    }
}
