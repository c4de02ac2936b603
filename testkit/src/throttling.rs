//! Quotas, as a test decides them: answers say `throttle_time_ms`, and the connection is not read for that time (KIP-219, Kafka 2.0).
//!
//! A broker answers a throttled request at once and mutes its connection; a client that knows waits before it sends the next request, and
//! one that does not finds that nobody reads it. A throttled Fetch is answered without partitions, as in Kafka; the next one of its
//! connection is served, since with a real quota the time that was waited brings the rate down again.

use std::collections::BTreeMap;
use std::time::Duration;

use milena_protocol::messages::*;
use milena_protocol::{ApiKey, every_request};

use crate::state::State;

/// A response that can say for how long its client is throttled.
pub(crate) trait Throttled: Clone {
    fn set_throttle_time_ms(&mut self, time: i32);
}

macro_rules! implement {
    ($($key:ident $request:ident $response:ident)*) => {
        $(impl Throttled for $response {
            fn set_throttle_time_ms(&mut self, time: i32) {
                self.throttle_time_ms = time;
            }
        })*
    };
}

every_request!(implement);

/// What is throttled, and for how long.
#[derive(Debug, Default)]
pub(crate) struct Throttles {
    /// By API, and by client id or for all.
    times: BTreeMap<(i16, Option<String>), Duration>,
}

impl Throttles {
    pub(crate) fn set(&mut self, api: ApiKey, client_id: Option<&str>, time: Duration) {
        let key = (api.0, client_id.map(str::to_owned));
        if time.is_zero() {
            self.times.remove(&key);
        } else {
            self.times.insert(key, time);
        }
    }

    fn time_for(&self, api: ApiKey, client_id: &str) -> Option<Duration> {
        if self.times.is_empty() {
            return None; // the ordinary path
        }
        let of_client = self.times.get(&(api.0, Some(client_id.to_owned())));
        of_client.or_else(|| self.times.get(&(api.0, None))).copied()
    }
}

impl State {
    /// A request has come: whether its connection will be throttled for it.
    pub(crate) fn judge_quota(&mut self, connection: u64, api: ApiKey, client_id: &str) {
        let time = self.throttles.time_for(api, client_id);
        let Some(entry) = self.connections.get_mut(&connection) else { return };
        let is_spared = api == ApiKey::FETCH && std::mem::take(&mut entry.fetch_was_throttled);
        entry.throttle = time.filter(|_| !is_spared);
        entry.fetch_was_throttled = api == ApiKey::FETCH && entry.throttle.is_some();
    }

    /// For how long the connection is throttled for the request that it is being served.
    pub(crate) fn throttle_of(&self, connection: u64) -> Option<Duration> {
        self.connections.get(&connection)?.throttle
    }
}
