//! Both sides in turn, a hundred times ten batches: the least and the median CPU time of a record, and the ratio of theirs to ours.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::measurement::Measurement;
use kafka_protocol::records::RecordBatchDecoder;
use milena_protocol::records::Scratch;

use crate::cpu_time::CpuTime;
use crate::{Input, RECORDS, encode, ours, read_ours, their_records};

const ROUNDS: usize = 100;
const BATCHES: usize = 10;

pub(crate) fn print() {
    let inputs = Input::all();
    println!("ns of CPU a record, least and median of {ROUNDS} interleaved rounds; ratio of the medians");
    for headers in [0, 2] {
        let bytes = Bytes::copy_from_slice(ours(&inputs, headers, vec![0; 256 * 1024]).bytes());
        let mut pooled = Some(vec![0; 256 * 1024]);
        let mut out = BytesMut::with_capacity(256 * 1024);
        let mut scratch = Scratch::new();
        let mut samples: [Vec<f64>; 5] = Default::default();
        for _ in 0..ROUNDS {
            samples[0].push(of(|| {
                let sealed = ours(&inputs, headers, pooled.take().expect("it comes back"));
                pooled = Some(sealed.into_buf());
            }));
            for (sample, copy) in [(1, true), (2, false)] {
                samples[sample].push(of(|| {
                    out.clear();
                    encode(&their_records(&inputs, headers, copy), &mut out);
                    black_box(out.len());
                }));
            }
            samples[3].push(of(|| {
                read_ours(bytes.clone(), true, &mut scratch);
            }));
            samples[4].push(of(|| {
                let set = RecordBatchDecoder::decode(&mut bytes.clone()).expect("the batch is sound");
                black_box(set.records.len());
            }));
        }
        let [write, copied, counted, read, decoded] = samples.map(least_and_median);
        println!("{headers} headers");
        println!("  write: milena                              {}", line(write, write));
        println!("  write: kafka-protocol, Records from slices {}", line(copied, write));
        println!("  write: kafka-protocol, Records from Bytes  {}", line(counted, write));
        println!("  read:  milena, with CRC                    {}", line(read, read));
        println!("  read:  kafka-protocol                      {}", line(decoded, read));
    }
}

/// Nanoseconds a record, after one batch that does not count.
fn of(mut batch: impl FnMut()) -> f64 {
    batch();
    let start = CpuTime.start();
    for _ in 0..BATCHES {
        batch();
    }
    CpuTime.end(start) as f64 / (BATCHES * RECORDS) as f64
}

fn least_and_median(mut samples: Vec<f64>) -> (f64, f64) {
    samples.sort_by(f64::total_cmp);
    (samples[0], samples[samples.len() / 2])
}

fn line((least, median): (f64, f64), ours: (f64, f64)) -> String {
    format!("{least:7.1} {median:7.1}  {:5.1} x", median / ours.1)
}
