//! What a broker answers, or that it answers no more: each batch of a request ends, is sent again, or waits for what is known next.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use milena_client::{Error, Outcome, RefreshReason, RequestId};
use milena_protocol::produce::{Produced, ProducedPartition};
use milena_protocol::{ApiKey, ErrorCode};
use tokio::time::Instant;

use super::{Connection, Entry, Flight, Task};
use crate::accumulator::Part;
use crate::delivery::Ending;
use crate::driver::prepare;
use crate::sequence::{Answer, Ticket};

impl Task {
    /// The connection is gone. Whatever was under way on it has no answer.
    pub(super) fn on_lost(&mut self, error: &Error, now: Instant) {
        self.connection = Connection::Closed;
        let building = self.building.take();
        if self.flights.is_empty() && building.is_none() {
            return;
        }
        self.on_trouble(Some(error.clone()));
        tracing::debug!(broker = self.broker.id, requests = self.flights.len(), %error, "answers were lost");
        self.shared.metrics.on_requests_ended(self.flights.len());
        for flight in std::mem::take(&mut self.flights) {
            for entry in flight.entries {
                let Some(ticket) = entry.ticket else { continue };
                self.on_lost_attempt(&entry.part, ticket, now);
            }
        }
        for entry in building.into_iter().flat_map(|flight| flight.entries) {
            let Some(ticket) = entry.ticket else { continue };
            let mut state = entry.part.lock();
            let drained = state.window.on_unsent(ticket);
            state.settle_sent(&drained);
            self.requeue(&entry.part, &mut state, now);
            drop(state);
            self.shared.fail_drained(&entry.part, drained);
        }
        self.shared.link.refresh_metadata(RefreshReason::Disconnected);
    }

    fn on_lost_attempt(&mut self, part: &Arc<Part>, ticket: Ticket, now: Instant) {
        let mut state = part.lock();
        let drained = state.window.on_lost(ticket, now, &mut self.rng);
        state.settle_sent(&drained);
        self.requeue(part, &mut state, now);
        drop(state);
        self.shared.fail_drained(part, drained);
    }

    pub(super) fn on_response(&mut self, id: RequestId, body: &Bytes, now: Instant) {
        // The wire has checked that it answers the oldest request.
        let Some(mut flight) = self.flights.pop_front() else { return };
        debug_assert_eq!(flight.id, Some(id));
        let produced = match Produced::decode(body, flight.version) {
            Ok(produced) => produced,
            Err(error) => {
                self.flights.push_front(flight);
                let error = Error::from(error).with_broker(self.broker.id);
                return self.on_lost(&error, now);
            }
        };
        self.on_trouble(None);
        self.heard_at = Some(now);
        self.has_answered = true;
        self.no_version.on_success();
        let throttle = Duration::from_millis(u64::try_from(produced.throttle_ms).unwrap_or(0));
        self.shared.metrics.on_requests_ended(1);
        self.shared.metrics.on_request_answered(now - flight.sent, throttle, now);
        if !throttle.is_zero() {
            self.muted_until = Some(now + throttle);
        }
        let mut at = 0;
        for answered in &produced.partitions {
            let Some(index) = flight.find(answered, at) else { continue };
            at = index + 1;
            if let Some(ticket) = flight.entries[index].ticket.take() {
                let part = flight.entries[index].part.clone();
                self.on_answer(&part, ticket, answered, &produced, now);
            }
        }
        for entry in &mut flight.entries {
            // A partition that the broker has not answered for.
            if let Some(ticket) = entry.ticket.take() {
                let part = entry.part.clone();
                self.on_lost_attempt(&part, ticket, now);
            }
        }
        flight.entries.clear();
        self.spare.push(flight.entries);
    }

    fn on_answer(
        &mut self,
        part: &Arc<Part>,
        ticket: Ticket,
        answered: &ProducedPartition,
        produced: &Produced,
        now: Instant,
    ) {
        let mut state = part.lock();
        let answer = state.window.on_answer(ticket, answered.error, now, &mut self.rng);
        state.settle(answer.ended().map(|batch| &batch.done));
        self.requeue(part, &mut state, now);
        match answer {
            Answer::Written(slot) => {
                drop(state);
                let known = |value: i64| (value >= 0).then_some(value);
                let (base, append_time) = (known(answered.base_offset), known(answered.log_append_time));
                self.shared.end_batch(part, slot.count, slot.batch, Ending::Written { base, append_time });
            }
            Answer::Failed(slot, outcome) => {
                let error = self.error(part, answered);
                self.shared.on_records_failed(&error);
                drop(state);
                self.shared.count_failed(part, slot.count);
                self.shared.end_batch(part, slot.count, slot.batch, Ending::Failed(error.with_outcome(outcome)));
            }
            Answer::Split(number) => {
                drop(state);
                self.split(part, number, answered, now);
            }
            Answer::Again | Answer::Ignored => drop(state),
        }
        if answered.error.is_invalid_metadata() {
            self.on_old_metadata(part, answered, produced);
        }
    }

    fn error(&self, part: &Part, answered: &ProducedPartition) -> Error {
        let said = answered.record_errors.iter().find_map(|record| record.message.as_deref());
        let said = answered.error_message.as_deref().or(said);
        Error::from_code_and_message(ApiKey::PRODUCE, answered.error, said)
            .with_broker(self.broker.id)
            .with_topic_partition(part.topic_partition())
    }

    /// The broker says that it does not lead the partition, and since 3.7 also who does (KIP-951).
    fn on_old_metadata(&self, part: &Arc<Part>, answered: &ProducedPartition, produced: &Produced) {
        let link = &self.shared.link;
        if let Some(hint) = answered.current_leader.filter(|hint| hint.leader_id >= 0) {
            let endpoint = produced.node_endpoints.iter().find(|endpoint| endpoint.node_id == hint.leader_id);
            let endpoint = endpoint.and_then(|endpoint| {
                Some(milena_client::Broker {
                    id: endpoint.node_id,
                    host: endpoint.host.clone(),
                    port: u16::try_from(endpoint.port).ok()?,
                    rack: endpoint.rack.clone(),
                })
            });
            link.update_leader(&part.topic, part.id, hint.leader_id, hint.leader_epoch, endpoint);
        }
        link.refresh_metadata(RefreshReason::NotLeader);
        // The picture may name another one already, and then does not change any more.
        self.shared.follow(part);
    }

    fn split(&mut self, part: &Arc<Part>, number: u64, answered: &ProducedPartition, now: Instant) {
        let mut state = part.lock();
        let parts = match state.window.begin_preparing(number) {
            Some((batch, _)) => prepare::split(batch, &part.common.settings.codec, part.id),
            None => return,
        };
        let Some(parts) = parts else {
            let failed = state.window.split(number, []);
            state.settle(failed.iter().map(|(_, batch)| &batch.done));
            state.window.on_gap();
            self.requeue(part, &mut state, now);
            let error = self.error(part, answered);
            if failed.is_some() {
                self.shared.on_records_failed(&error);
            }
            drop(state);
            if let Some((count, batch)) = failed {
                self.shared.count_failed(part, count);
                let ending = Ending::Failed(error.with_outcome(Outcome::NotWritten));
                self.shared.end_batch(part, count, batch, ending);
            }
            return;
        };
        let whole = state.window.split(number, parts);
        self.requeue(part, &mut state, now);
        drop(state);
        tracing::debug!(topic = %part.topic, partition = part.id, "a batch was too large and is sent as two");
        self.shared.metrics.on_batch_split(now);
        if let Some(frozen) = whole.and_then(|(_, batch)| batch.frozen) {
            self.shared.pool.recycle(frozen.thaw().into_buf());
        }
    }

    /// With acks = 0: everything has been handed to the connection, and that is all there will be.
    pub(super) fn on_written(&mut self, now: Instant) {
        for mut flight in std::mem::take(&mut self.flights) {
            self.shared.metrics.on_requests_ended(1);
            self.shared.metrics.on_request_answered(now - flight.sent, Duration::ZERO, now);
            for entry in flight.entries.drain(..) {
                let Some(ticket) = entry.ticket else { continue };
                let mut state = entry.part.lock();
                let answer = state.window.on_answer(ticket, ErrorCode::NONE, now, &mut self.rng);
                state.settle(answer.ended().map(|batch| &batch.done));
                self.requeue(&entry.part, &mut state, now);
                drop(state);
                let part = entry.part.clone();
                drop(entry);
                if let Answer::Written(slot) = answer {
                    let ending = Ending::Written { base: None, append_time: None };
                    self.shared.end_batch(&part, slot.count, slot.batch, ending);
                }
            }
            self.spare.push(flight.entries);
        }
    }
}

impl Flight {
    /// The batch that an answer is for. Brokers mostly answer in the order of the request.
    fn find(&self, answered: &ProducedPartition, guess: usize) -> Option<usize> {
        let is_it = |entry: &Entry| {
            use milena_protocol::TopicKey;
            entry.part.id == answered.partition
                && match &answered.topic {
                    TopicKey::Name(name) => *entry.part.topic == **name,
                    TopicKey::Id(id) => entry.topic_id == *id,
                }
        };
        match self.entries.get(guess) {
            Some(entry) if is_it(entry) => Some(guess),
            _ => self.entries.iter().position(is_it),
        }
    }
}
