//! Whose turn it is, and the next request: the closed batches of all partitions that have one, fairly, compressed and stamped.

use std::sync::Arc;

use milena_client::{Error, ErrorKind, Outcome, RefreshReason};
use milena_protocol::ApiKey;
use milena_protocol::produce::{self, PartitionBatch, Produce};
use milena_protocol::records::Compression;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Connection, Entry, Flight, Task, Turn};
use crate::accumulator::{Batch, Filling, Notice, Part, PartState};
use crate::config::Acks;
use crate::delivery::Ending;
use crate::driver::prepare;
use crate::metrics::SentBatch;
use crate::sequence::{Next, Stamp};
use crate::transaction::Transactional;

/// Above this, compression by a quick codec takes longer than an answer should have to wait, and handing it to another thread pays
/// (measured: +50 % at 16 KiB, +15 % at 64 KiB). The codecs that are not quick always go to the other thread.
const COMPRESS_HERE: usize = 64 * 1024;
/// A request that holds this much goes out even if more could be compressed for it.
const ENOUGH: usize = 64 * 1024;

impl Task {
    /// Whether this task sends for the partition.
    fn is_mine(&self, state: &PartState) -> bool {
        state.broker.as_ref().is_some_and(|broker| Arc::ptr_eq(broker, &self.broker))
    }

    /// Something about the partition has changed: has it queued, or woken later, if it has something to send.
    pub(super) fn requeue(&mut self, part: &Arc<Part>, state: &mut PartState, now: Instant) {
        if !self.is_mine(state) {
            let mut notice = Notice::default();
            state.notify(&mut notice);
            if let Some(broker) = notice.ready {
                broker.push_ready(part.clone());
            }
            return;
        }
        if state.queued {
            return;
        }
        match state.next(part.sizes(), now) {
            Next::Blocked => {}
            Next::NotBefore(at) => self.rest(at, part),
            Next::Admit | Next::Prepare(_) | Next::Send(_) | Next::Bump => {
                state.queued = true;
                self.ready.push_back(part.clone());
            }
        }
    }

    fn rest(&mut self, until: Instant, part: &Arc<Part>) {
        self.next_rest += 1;
        self.resting.insert((until, self.next_rest), part.clone());
    }

    /// Takes in what the senders have queued and whose time has come. Returns the end of the next linger.
    pub(super) fn collect(&mut self, now: Instant) -> Option<Instant> {
        let mut over = Vec::new();
        let broker = self.broker.clone();
        let mut queue = broker.queue();
        self.ready.append(&mut queue.ready);
        let next = queue.take_over(now, &mut over);
        drop(queue);
        for (number, part) in over {
            let mut state = part.lock();
            if self.is_mine(&state) && state.on_linger_over(Some(number)) {
                self.requeue(&part, &mut state, now);
            }
        }
        while let Some(first) = self.resting.first_entry().filter(|first| first.key().0 <= now) {
            let part = first.remove();
            let mut state = part.lock();
            if self.is_mine(&state) {
                self.requeue(&part, &mut state, now);
            }
        }
        next
    }

    /// Puts the next request together, if there is something to send and room on the connection. Returns whether there may be more
    /// to do once the socket has had its turn.
    pub(super) fn gather(&mut self, now: Instant) -> bool {
        if self.ready.is_empty() && self.building.is_none() {
            return false;
        }
        if self.muted_until.is_some_and(|until| now < until) {
            return false;
        }
        self.muted_until = None;
        match &self.connection {
            Connection::Opening(_) => return false,
            Connection::Closed => {
                self.drop_foreign();
                if self.ready.is_empty() {
                    return false;
                }
                self.open();
                // Polled before anybody sleeps.
                return true;
            }
            // While a request is being written the next one can still grow.
            Connection::Open(wire) if !wire.is_write_idle() => return false,
            Connection::Open(_) if self.flights.len() >= self.shared.config.max_in_flight => return false,
            Connection::Open(_) => {}
        }
        let mut flight = self.building.take().unwrap_or_else(|| Flight {
            id: None,
            version: 0,
            gather: self.shared.next_gather(),
            bytes: 0,
            records: 0,
            sent: now,
            entries: self.spare.pop().unwrap_or_default(),
        });
        let mut may_compress = true;
        let (mut wants_more, mut handed) = (false, false);
        for _ in 0..self.ready.len() {
            let Some(part) = self.ready.pop_front() else { break };
            match self.turn(&part, &mut flight, &mut may_compress, now) {
                Turn::Took | Turn::Nothing => {}
                // Whoever finishes the compression does not ring for a partition that is in the queue: it must not be slept on.
                Turn::Handed => handed = true,
                Turn::NotNow => {
                    self.ready.push_front(part);
                    wants_more = !may_compress && flight.bytes < ENOUGH;
                    break;
                }
            }
        }
        if wants_more && (flight.entries.is_empty() || !self.flights.is_empty()) {
            // Nothing waits for this request but the network's turn: let it grow.
            self.building = Some(flight);
            return true;
        }
        if flight.entries.is_empty() {
            self.spare.push(flight.entries);
            return handed && !self.ready.is_empty();
        }
        self.submit(flight, now);
        !self.ready.is_empty()
    }

    /// Forgets partitions that another broker leads by now.
    fn drop_foreign(&mut self) {
        let mut ready = std::mem::take(&mut self.ready);
        ready.retain(|part| self.is_mine(&part.lock()));
        self.ready = ready;
    }

    /// A partition's turn: at most one of its batches goes into the request.
    fn turn(&mut self, part: &Arc<Part>, flight: &mut Flight, may_compress: &mut bool, now: Instant) -> Turn {
        let shared = self.shared.clone();
        let mut state = part.lock();
        if !self.is_mine(&state) {
            return Turn::Nothing;
        }
        if state.gathered == flight.gather {
            // Its next batch is for the next request.
            drop(state);
            self.ready.push_back(part.clone());
            return Turn::Nothing;
        }
        loop {
            match state.next(part.sizes(), now) {
                Next::Blocked => {
                    state.queued = false;
                    return Turn::Nothing;
                }
                Next::NotBefore(at) => {
                    state.queued = false;
                    self.rest(at, part);
                    return Turn::Nothing;
                }
                Next::Send(number) => {
                    let bytes = state.window.peek(number).map_or(0, |batch| batch.bytes);
                    if flight.bytes > 0 && flight.bytes + bytes > shared.config.max_request_size {
                        return Turn::NotNow;
                    }
                    state.queued = false;
                    if let Some((ticket, count, batch)) = state.window.send(number)
                        && let Some(frozen) = &batch.frozen
                    {
                        flight.bytes += bytes;
                        flight.records += count;
                        flight.entries.push(Entry {
                            part: part.clone(),
                            ticket: Some(ticket),
                            bytes: frozen.bytes(),
                            topic_id: Uuid::nil(),
                            sent: SentBatch::of(batch, count, ticket.is_again()),
                        });
                    }
                    state.gathered = flight.gather;
                    self.requeue(part, &mut state, now);
                    return Turn::Took;
                }
                Next::Admit => {
                    if let Some(transaction) = &shared.transaction
                        && !transaction.join(part, &mut state)
                    {
                        // It is woken when the coordinator has taken it in.
                        state.queued = false;
                        return Turn::Nothing;
                    }
                    let bytes = state.new_bytes();
                    if flight.bytes > 0 && flight.bytes + bytes > shared.config.max_request_size {
                        return Turn::NotNow;
                    }
                    let identity = if state.window.needs_identity() {
                        match shared.identity() {
                            Some(identity) => Some(identity),
                            None => return Turn::NotNow,
                        }
                    } else {
                        None
                    };
                    let codec = &part.common.settings.codec;
                    let compresses = codec.compression != Compression::None;
                    let here = codec.compression.is_quick() && bytes < COMPRESS_HERE;
                    if here && !std::mem::replace(may_compress, false) {
                        return Turn::NotNow;
                    }
                    let Some(filling) = state.take_new(part.sizes()) else {
                        state.queued = false;
                        return Turn::Nothing;
                    };
                    let Filling { builder, done, charge, opened, closed, .. } = filling;
                    shared.metrics.on_batch_closed(closed, builder.len(), part.sizes().batch, now);
                    let deadline = opened + shared.config.delivery_timeout;
                    let batch = Batch { done, charge, opened, bytes, raw_bytes: builder.len(), frozen: None };
                    let (number, stamp) = state.window.admit(builder.count(), deadline, identity, now, batch);
                    drop(state);
                    if compresses && !here {
                        return self.compress_elsewhere(part, builder, number, stamp, now);
                    }
                    let mut compressor = if compresses { codec.take() } else { None };
                    let frozen = prepare::prepare(builder, compressor.as_mut(), &shared.pool, stamp);
                    compressor.into_iter().for_each(|compressor| codec.keep(compressor));
                    state = part.lock();
                    put_back(&mut state, number, frozen);
                }
                Next::Prepare(number) => {
                    let Some((batch, stamp)) = state.window.begin_preparing(number) else {
                        state.queued = false;
                        return Turn::Nothing;
                    };
                    let frozen = batch.frozen.take();
                    drop(state);
                    let frozen = frozen.map(|frozen| prepare::restamp(frozen, stamp));
                    state = part.lock();
                    if let Some(frozen) = frozen {
                        put_back(&mut state, number, frozen);
                    }
                }
                Next::Bump => {
                    let new = match state.window.identity() {
                        Some(used_up) if state.window.needs_new_producer_id() => match shared.identity_after(used_up) {
                            Some(new) => Some(new),
                            None => return Turn::NotNow,
                        },
                        _ => None,
                    };
                    let unknown = state.window.bump(new);
                    state.settle(unknown.iter().map(|slot| &slot.batch.done));
                    drop(state);
                    tracing::debug!(topic = %part.topic, partition = part.id, unknown = unknown.len(), "a new epoch begins");
                    for slot in unknown {
                        shared.count_failed(part, slot.count);
                        shared.end_batch(part, slot.count, slot.batch, Ending::Failed(lost_track(part)));
                    }
                    state = part.lock();
                }
            }
            if !self.is_mine(&state) {
                // It moved while its lock was free.
                state.queued = false;
                self.requeue(part, &mut state, now);
                return Turn::Nothing;
            }
        }
    }

    /// Has a large batch compressed on the client's CPU thread; the batch keeps its place meanwhile.
    fn compress_elsewhere(
        &mut self,
        part: &Arc<Part>,
        builder: milena_protocol::records::BatchBuilder,
        number: u64,
        stamp: Stamp,
        now: Instant,
    ) -> Turn {
        let (shared, of) = (self.shared.clone(), part.clone());
        self.shared.link.spawner().cpu(Box::new(move || {
            let codec = &of.common.settings.codec;
            let mut compressor = codec.take();
            let frozen = prepare::prepare(builder, compressor.as_mut(), &shared.pool, stamp);
            compressor.into_iter().for_each(|compressor| codec.keep(compressor));
            let mut notice = Notice::default();
            let mut state = of.lock();
            put_back(&mut state, number, frozen);
            state.notify(&mut notice);
            drop(state);
            shared.on_notice(&of, notice);
        }));
        let mut state = part.lock();
        state.queued = false;
        self.requeue(part, &mut state, now);
        Turn::Handed
    }

    fn submit(&mut self, mut flight: Flight, now: Instant) {
        let Connection::Open(wire) = &mut self.connection else { return };
        let shared = &self.shared;
        // Batches of one topic stand together; among them their order stays.
        if flight.entries.windows(2).any(|pair| !Arc::ptr_eq(&pair[0].part.topic, &pair[1].part.topic)) {
            flight.entries.sort_by(|a, b| a.part.topic.cmp(&b.part.topic));
        }
        let theirs = wire.versions().range(ApiKey::PRODUCE).map_or(*produce::VERSIONS.start(), |range| range.max);
        let newest = shared.transaction.as_ref().map_or(i16::MAX, Transactional::newest_produce);
        let mut version = theirs.min(*produce::VERSIONS.end()).min(newest);
        if version >= FIRST_BY_ID {
            let metadata = shared.link.metadata_ref();
            let mut last: Option<(Arc<str>, Uuid)> = None;
            for entry in &mut flight.entries {
                let id = match &last {
                    Some((topic, id)) if Arc::ptr_eq(topic, &entry.part.topic) => *id,
                    _ => metadata.topic(&entry.part.topic).map_or(Uuid::nil(), |topic| topic.id),
                };
                last = Some((entry.part.topic.clone(), id));
                entry.topic_id = id;
            }
            if flight.entries.iter().any(|entry| entry.topic_id.is_nil()) {
                version = FIRST_BY_ID - 1;
            }
        }
        let batches: Vec<PartitionBatch<'_>> = flight
            .entries
            .iter_mut()
            .map(|entry| PartitionBatch {
                topic: &entry.part.topic,
                topic_id: entry.topic_id,
                partition: entry.part.id,
                batch: std::mem::take(&mut entry.bytes),
            })
            .collect();
        let request = Produce {
            transactional_id: shared.transaction.as_ref().map(Transactional::id),
            acks: match shared.config.acks {
                Acks::None => 0,
                Acks::Leader => 1,
                Acks::All => -1,
            },
            timeout_ms: i32::try_from(shared.config.request_timeout.as_millis()).unwrap_or(i32::MAX),
            batches: &batches,
        };
        let chunks = match request.encode(version) {
            Ok(chunks) => chunks,
            Err(error) => {
                drop(batches);
                return self.on_no_version(flight, &Error::new(ErrorKind::UnsupportedVersion, error.to_string()), now);
            }
        };
        let flexible = produce::is_flexible(version);
        flight.id = if shared.config.acks == Acks::None {
            wire.submit_without_response(ApiKey::PRODUCE, version, flexible, chunks);
            None
        } else {
            Some(wire.submit(ApiKey::PRODUCE, version, flexible, chunks, now + shared.config.request_timeout))
        };
        drop(batches);
        for entry in &flight.entries {
            shared.metrics.on_batch_sent(&entry.part.common.metrics, &entry.sent, now);
        }
        flight.version = version;
        flight.sent = now;
        shared.metrics.on_request_sent(flight.records, now);
        self.flights.push_back(flight);
    }

    /// The broker speaks no version of Produce that this client does, so nothing on this connection can succeed. A later one may, once
    /// the broker is upgraded, or another one may lead: that is asked, and the broker is left alone for a while, whatever partitions
    /// come next.
    fn on_no_version(&mut self, mut flight: Flight, error: &Error, now: Instant) {
        self.on_trouble(Some(error.clone()));
        for entry in flight.entries.drain(..) {
            let Some(ticket) = entry.ticket else { continue };
            let mut state = entry.part.lock();
            let drained = state.window.on_unsendable(ticket, now, &mut self.rng);
            state.settle_sent(&drained);
            self.requeue(&entry.part, &mut state, now);
            drop(state);
            self.shared.fail_drained(&entry.part, drained);
        }
        self.spare.push(flight.entries);
        self.on_lost(error, now);
        self.muted_until = Some(now + self.no_version.on_failure(&mut self.rng));
        self.shared.link.refresh_metadata(RefreshReason::Disconnected);
    }
}

/// The batch is stamped; if it has ended meanwhile, its bytes are of no more use.
fn put_back(state: &mut PartState, number: u64, frozen: milena_protocol::records::FrozenBatch) {
    if let Some(batch) = state.window.prepared(number) {
        batch.bytes = frozen.len();
        batch.frozen = Some(frozen);
    }
}

fn lost_track(part: &Part) -> Error {
    Error::new(
        ErrorKind::Disconnected,
        "the broker has lost track of this producer while the record's fate was not known: it may or may not be in the log, and \
         sending it again could double it. Look it up, or send it again if doubling does no harm.",
    )
    .with_outcome(Outcome::Unknown)
    .with_topic_partition(part.topic_partition())
}

/// The first version that names topics by id.
const FIRST_BY_ID: i16 = 13;
