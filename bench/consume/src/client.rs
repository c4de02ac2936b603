//! The contenders behind one trait, so that all of them run the same loops, and the loops.
//!
//! Each reads assigned partitions from their beginning, with its default settings, commits nothing, and is used as its documentation
//! says is fastest. Every value is looked at, and nothing is copied here that its interface does not ask for.

mod krafka;
mod milena;
mod rdkafka;
mod rskafka;

use std::time::{Duration, Instant};

use ::milena::{Client as Milena, Record};
use spine::Measurement;

use crate::job::{Client, Job, Outcome, Until};

/// A reader that is measured.
pub(crate) trait Contender: Sized {
    async fn connect(job: &Job) -> Self;

    /// Waits for more records and shows the value of each.
    async fn read(&mut self, each: &mut impl FnMut(&[u8]));
}

/// Runs the job in this process.
pub(crate) fn run(job: &Job) -> Outcome {
    match job.client {
        // milena's sockets are served by a thread of its own, and librdkafka has threads of its own.
        Client::MilenaPoll => on_this_thread(read::<milena::Poll>(job)),
        Client::MilenaRecv => on_this_thread(read::<milena::Recv>(job)),
        Client::MilenaStream => on_this_thread(read::<milena::Stream>(job)),
        Client::RdkafkaBase => on_this_thread(read::<rdkafka::Base>(job)),
        Client::RdkafkaStream => on_this_thread(read::<rdkafka::Stream>(job)),
        // These serve their sockets on the runtime that they find.
        Client::Krafka => on_two_workers(read::<krafka::Krafka>(job)),
        Client::Rskafka => on_two_workers(read::<rskafka::Rskafka>(job)),
        Client::Java => panic!("it is no process of ours"),
    }
}

fn on_this_thread<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(future)
}

fn on_two_workers<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(future)
}

async fn read<C: Contender>(job: &Job) -> Outcome {
    match job.until {
        Until::Time { warm_up, measured } => {
            let mut client = C::connect(job).await;
            read_for(&mut client, warm_up).await;
            let measurement = Measurement::start();
            let records = read_for(&mut client, measured).await;
            Outcome { report: measurement.stop(records), p50_us: 0, p99_us: 0 }
        }
        Until::Records(records) => {
            let measurement = Measurement::start();
            let mut client = C::connect(job).await;
            let (mut count, mut bytes) = (0, 0);
            while count < records {
                client
                    .read(&mut |value| {
                        count += 1;
                        bytes += value.len();
                    })
                    .await;
            }
            assert_eq!((count, bytes as u64), (records, records * spine::VALUE_SIZE as u64), "each record once");
            Outcome { report: measurement.stop(records), p50_us: 0, p99_us: 0 }
        }
        Until::Latency(measured) => latency::<C>(job, measured).await,
    }
}

/// Reads for that long and says how many records.
async fn read_for<C: Contender>(client: &mut C, time: Duration) -> u64 {
    let began = Instant::now();
    let (mut count, mut bytes) = (0_u64, 0);
    loop {
        // A look at the clock costs some nanoseconds, too, and some clients give one record at a time.
        let enough = count + 256;
        while count < enough {
            client
                .read(&mut |value| {
                    count += 1;
                    bytes += value.len();
                })
                .await;
        }
        if began.elapsed() >= time {
            break;
        }
    }
    assert_eq!(bytes as u64, count * spine::VALUE_SIZE as u64);
    count
}

/// Between two records that are sent.
const PAUSE: Duration = Duration::from_millis(2);

/// All contenders read what milena's producer writes without linger; the time between is the producer's, the broker's and theirs.
async fn latency<C: Contender>(job: &Job, measured: Duration) -> Outcome {
    let writer = Milena::builder(&job.bootstrap_servers).connect().await.expect("a client");
    let producer = writer.producer().linger(Duration::ZERO).build().await.expect("a producer");
    let zero = Instant::now();
    let mut client = C::connect(job).await;
    let mut latencies = Vec::new();
    // What comes first finds connections that are still made, and is left out.
    let (warm_up, end) = (measured / 4, measured + measured / 4);
    let measurement = Measurement::start();
    while zero.elapsed() < end {
        let value = format!("{:0>100}", zero.elapsed().as_micros());
        let topic = job.topic.as_str();
        producer.send(&Record::to(topic).partition(0).value(&value)).await.expect("room").await.expect("an answer");
        let mut seen = false;
        while !seen {
            client
                .read(&mut |value| {
                    let sent: u128 =
                        std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).expect("a time");
                    if sent >= warm_up.as_micros() {
                        latencies.push((zero.elapsed().as_micros() - sent) as u64);
                    }
                    seen = true;
                })
                .await;
        }
        tokio::time::sleep(PAUSE).await;
    }
    let report = measurement.stop(latencies.len() as u64);
    latencies.sort_unstable();
    let at = |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or_default();
    Outcome { report, p50_us: at(0.5), p99_us: at(0.99) }
}
