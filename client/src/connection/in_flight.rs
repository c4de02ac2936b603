//! Which requests wait for an answer on one connection, in what order, and until when.
//!
//! Pure: the wire feeds it what it sent and what came. A broker answers in the order of the requests, so the first answer belongs to
//! the first request, and anything else means that the two sides no longer talk about the same thing.

use std::collections::VecDeque;

use milena_protocol::ApiKey;
use tokio::time::Instant;

/// A request of one wire; unique on that wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(crate) i32);

/// A request that waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    pub(crate) id: RequestId,
    pub(crate) api: ApiKey,
    pub(crate) deadline: Instant,
}

/// The requests that wait, oldest first.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    pending: VecDeque<Pending>,
    next: i32,
}

impl InFlight {
    /// The id for a new request. Ids wrap; a wrap takes 2³¹ requests, far more than can wait at a time.
    pub(crate) fn next_id(&mut self) -> RequestId {
        let id = self.next;
        self.next = self.next.checked_add(1).unwrap_or(0);
        RequestId(id)
    }

    /// Notes that a request was queued and its answer is due by `deadline`.
    pub(crate) fn on_submitted(&mut self, id: RequestId, api: ApiKey, deadline: Instant) {
        self.pending.push_back(Pending { id, api, deadline });
    }

    /// Takes the request that an answer with `correlation_id` belongs to; `Err` with the id that was due, if it is another.
    pub(crate) fn on_answer(&mut self, correlation_id: i32) -> Result<Pending, Option<RequestId>> {
        match self.pending.front() {
            Some(first) if first.id.0 == correlation_id => Ok(*first),
            Some(first) => Err(Some(first.id)),
            None => Err(None),
        }
        .inspect(|_| {
            self.pending.pop_front();
        })
    }

    /// The oldest request whose deadline has passed.
    pub(crate) fn expired(&self, now: Instant) -> Option<Pending> {
        self.pending.iter().find(|pending| pending.deadline <= now).copied()
    }

    /// The earliest deadline.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.pending.iter().map(|pending| pending.deadline).min()
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere")]
    async fn answers_come_in_order_or_not_at_all() {
        let now = Instant::now();
        let mut in_flight = InFlight::default();
        let (a, b) = (in_flight.next_id(), in_flight.next_id());
        in_flight.on_submitted(a, ApiKey::METADATA, now + Duration::from_secs(9));
        in_flight.on_submitted(b, ApiKey::HEARTBEAT, now + Duration::from_secs(3));
        assert_eq!(in_flight.next_deadline(), Some(now + Duration::from_secs(3)));
        assert_eq!(in_flight.on_answer(b.0).unwrap_err(), Some(a));
        assert_eq!(in_flight.on_answer(a.0).unwrap().api, ApiKey::METADATA);
        assert!(in_flight.expired(now + Duration::from_millis(2999)).is_none());
        assert_eq!(in_flight.expired(now + Duration::from_secs(3)).unwrap().id, b);
        assert_eq!(in_flight.on_answer(b.0).unwrap().api, ApiKey::HEARTBEAT);
        assert_eq!(in_flight.on_answer(7).unwrap_err(), None);
    }

    #[test]
    fn ids_start_again_after_two_thousand_million() {
        let mut in_flight = InFlight { next: i32::MAX, ..InFlight::default() };
        assert_eq!(in_flight.next_id(), RequestId(i32::MAX));
        assert_eq!(in_flight.next_id(), RequestId(0));
    }
}
