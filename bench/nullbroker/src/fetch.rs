//! Fetch v4 to v18: one ready-made response per shape of request; each answer only patches its offsets.
//!
//! No fetch session is ever granted (session id 0), so every request names all its partitions.

use std::ops::Range;

use crate::Shared;
use crate::batch::BASE_OFFSET;
use crate::wire::{Reader, put_count, put_no_tags, put_string};

/// The end of the endless log.
pub(crate) const HIGH_WATERMARK: i64 = 1 << 60;

/// The last response of a connection, kept to be patched when the next request has the same shape.
#[derive(Default)]
pub(crate) struct ReadyMade {
    version: i16,
    /// The request, but for its offsets.
    shape: Vec<u8>,
    body: Vec<u8>,
    /// Where each partition's batches stand in `body`, in the order of the request.
    partitions: Vec<Range<usize>>,
    /// Reused between requests.
    asked: Asked,
}

/// What a request asks for.
#[derive(Default)]
struct Asked {
    shape: Vec<u8>,
    /// In the order of the request.
    offsets: Vec<i64>,
}

impl ReadyMade {
    /// The body of the answer.
    pub(crate) fn answer(&mut self, body: &[u8], version: i16, shared: &Shared) -> Option<&[u8]> {
        self.asked.read(body, version)?;
        if self.version != version || self.shape != self.asked.shape {
            self.version = version;
            self.shape.clone_from(&self.asked.shape);
            self.body.clear();
            self.partitions.clear();
            self.build(body, version, shared)?;
        }
        let records = shared.options.records_per_batch as i64;
        let mut batches = 0;
        for (range, offset) in self.partitions.iter().zip(&self.asked.offsets) {
            for (at, batch) in self.body[range.clone()].chunks_mut(shared.batch.len()).enumerate() {
                batch[BASE_OFFSET].copy_from_slice(&(offset + at as i64 * records).to_be_bytes());
                batches += 1;
            }
        }
        shared.stats.fetched(batches, batches * records as u64);
        Some(&self.body)
    }

    fn build(&mut self, body: &[u8], version: i16, shared: &Shared) -> Option<()> {
        let compact = version >= 12;
        let out = &mut self.body;
        let mut partition_ranges = Vec::new();
        out.extend_from_slice(&0_i32.to_be_bytes()); // throttle
        if version >= 7 {
            out.extend_from_slice(&0_i16.to_be_bytes()); // no error
            out.extend_from_slice(&0_i32.to_be_bytes()); // no session
        }
        let mut room = 0;
        walk(body, version, |part| match part {
            Part::MaxBytes(max) => room = max.max(0) as usize,
            Part::Topics(count) => put_count(out, count, compact),
            Part::Topic(topic, partitions) => {
                if version >= 13 {
                    out.extend_from_slice(topic);
                } else {
                    put_string(out, topic, compact);
                }
                put_count(out, partitions, compact);
            }
            Part::Partition { partition, max_bytes, .. } => {
                out.extend_from_slice(&partition.to_be_bytes());
                out.extend_from_slice(&0_i16.to_be_bytes()); // no error
                out.extend_from_slice(&HIGH_WATERMARK.to_be_bytes());
                out.extend_from_slice(&HIGH_WATERMARK.to_be_bytes()); // last stable offset
                if version >= 5 {
                    out.extend_from_slice(&0_i64.to_be_bytes()); // log start offset
                }
                // No aborted transactions: null in compact form, an empty list before.
                if compact {
                    out.push(0);
                } else {
                    out.extend_from_slice(&0_i32.to_be_bytes());
                }
                if version >= 11 {
                    out.extend_from_slice(&(-1_i32).to_be_bytes()); // no better replica
                }
                // Whole batches; the first one even when the limits are smaller, as in Kafka.
                let limit = room.min(max_bytes.max(0) as usize) / shared.batch.len();
                let least = usize::from(partition_ranges.is_empty());
                let batches = limit.clamp(least, shared.options.batches_per_partition.max(least));
                room = room.saturating_sub(batches * shared.batch.len());
                put_count(out, batches * shared.batch.len(), compact);
                let start = out.len();
                for _ in 0..batches {
                    out.extend_from_slice(&shared.batch);
                }
                partition_ranges.push(start..out.len());
                put_no_tags(out, compact);
            }
            Part::TopicEnd => put_no_tags(out, compact),
        })?;
        put_no_tags(out, compact);
        self.partitions = partition_ranges;
        Some(())
    }
}

impl Asked {
    fn read(&mut self, body: &[u8], version: i16) -> Option<()> {
        self.shape.clear();
        self.offsets.clear();
        let Self { shape, offsets } = self;
        walk(body, version, |part| match part {
            Part::MaxBytes(max) => shape.extend_from_slice(&max.to_be_bytes()),
            Part::Topics(_) | Part::TopicEnd => {}
            Part::Topic(topic, partitions) => {
                shape.extend_from_slice(&(topic.len() as u32).to_be_bytes());
                shape.extend_from_slice(topic);
                shape.extend_from_slice(&(partitions as u32).to_be_bytes());
            }
            Part::Partition { partition, offset, max_bytes } => {
                shape.extend_from_slice(&partition.to_be_bytes());
                shape.extend_from_slice(&max_bytes.to_be_bytes());
                offsets.push(offset);
            }
        })
    }
}

enum Part<'a> {
    MaxBytes(i32),
    Topics(usize),
    /// Name or id, and the number of partitions that follow.
    Topic(&'a [u8], usize),
    Partition {
        partition: i32,
        offset: i64,
        max_bytes: i32,
    },
    TopicEnd,
}

/// Walks the body of a request from front to back.
fn walk<'a>(body: &'a [u8], version: i16, mut each: impl FnMut(Part<'a>)) -> Option<()> {
    let mut request = Reader::new(body).compact(version >= 12);
    if version <= 14 {
        request.i32()?; // replica id
    }
    request.i32()?; // longest wait
    request.i32()?; // least bytes
    each(Part::MaxBytes(request.i32()?));
    request.i8()?; // isolation level
    if version >= 7 {
        request.i32()?; // session id
        request.i32()?; // session epoch
    }
    let topics = request.count()?;
    each(Part::Topics(topics));
    for _ in 0..topics {
        let topic = if version >= 13 { request.take(16)? } else { request.string()? };
        let partitions = request.count()?;
        each(Part::Topic(topic, partitions));
        for _ in 0..partitions {
            let partition = request.i32()?;
            if version >= 9 {
                request.i32()?; // current leader epoch
            }
            let offset = request.i64()?;
            if version >= 12 {
                request.i32()?; // last fetched epoch
            }
            if version >= 5 {
                request.i64()?; // log start offset
            }
            let max_bytes = request.i32()?;
            request.skip_tags()?;
            each(Part::Partition { partition, offset, max_bytes });
        }
        request.skip_tags()?;
        each(Part::TopicEnd);
    }
    Some(())
}
