//! Fetch sessions (KIP-227): a client names its partitions once, and later only what changed; the broker answers only what changed.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use milena_protocol::ErrorCode;
use uuid::Uuid;

/// Sessions a broker keeps (`max.incremental.fetch.session.cache.slots`).
const SLOTS: usize = 1_000;

/// A partition as a client names it: by topic id from v13 on, by name before. Of a topic that is gone the id is all that is left, and a
/// client can still forget it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) name: Arc<str>,
    pub(crate) id: Uuid,
    pub(crate) partition: i32,
}

impl Place {
    fn key(&self) -> (Uuid, &str, i32) {
        (self.id, if self.id.is_nil() { &self.name } else { "" }, self.partition)
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Place {}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// What a client wants of one partition.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) place: Place,
    pub(crate) current_leader_epoch: i32,
    /// The epoch of the last record that the client has; −1 if it does not say.
    pub(crate) last_fetched_epoch: i32,
    pub(crate) offset: i64,
    pub(crate) max_bytes: i32,
    /// What the session has told the client last; −1 is nothing.
    pub(crate) told_high_watermark: i64,
    pub(crate) told_log_start: i64,
}

impl Wanted {
    /// Takes over what the client says anew, and keeps what it was told.
    fn update(&mut self, new: Self) {
        self.current_leader_epoch = new.current_leader_epoch;
        self.last_fetched_epoch = new.last_fetched_epoch;
        self.offset = new.offset;
        self.max_bytes = new.max_bytes;
    }
}

/// One client's session.
#[derive(Debug)]
pub(crate) struct Session {
    epoch: i32,
    by_id: bool,
    /// In the order in which they are read.
    partitions: BTreeMap<u64, Wanted>,
    places: BTreeMap<Place, u64>,
    next: u64,
}

impl Session {
    fn new(by_id: bool, wanted: Vec<Wanted>) -> Self {
        let mut session = Self { epoch: 1, by_id, partitions: BTreeMap::new(), places: BTreeMap::new(), next: 0 };
        wanted.into_iter().for_each(|wanted| session.put(wanted));
        session
    }

    /// All partitions in the order in which they are read.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = &Wanted> {
        self.partitions.values()
    }

    pub(crate) fn get_mut(&mut self, place: &Place) -> Option<&mut Wanted> {
        self.places.get(place).and_then(|order| self.partitions.get_mut(order))
    }

    /// Adds a partition at the end, or updates it where it is.
    fn put(&mut self, wanted: Wanted) {
        match self.get_mut(&wanted.place) {
            Some(known) => known.update(wanted),
            None => {
                self.places.insert(wanted.place.clone(), self.next);
                self.partitions.insert(self.next, wanted);
                self.next += 1;
            }
        }
    }

    /// A partition that gave data goes to the end, so that none starves.
    pub(crate) fn put_last(&mut self, place: &Place) {
        if let Some(wanted) = self.remove(place) {
            self.put(wanted);
        }
    }

    fn remove(&mut self, place: &Place) -> Option<Wanted> {
        self.places.remove(place).and_then(|order| self.partitions.remove(&order))
    }
}

/// A broker's sessions.
#[derive(Debug, Default)]
pub(crate) struct FetchSessions {
    sessions: BTreeMap<i32, Session>,
    opened: i32,
}

/// How a request is to be served.
#[derive(Debug)]
pub(crate) enum Context {
    /// Without a session: everything that was asked is answered.
    Sessionless(Vec<Wanted>),
    /// The first request of a session: everything is answered.
    Full { session: i32 },
    /// A later one: what changed is answered.
    Incremental { session: i32 },
}

/// The session fields of a request.
pub(crate) struct Asked {
    pub(crate) session_id: i32,
    pub(crate) epoch: i32,
    pub(crate) by_id: bool,
    pub(crate) wanted: Vec<Wanted>,
    pub(crate) forgotten: Vec<Place>,
}

const FIRST_EPOCH: i32 = 0;
const FINAL_EPOCH: i32 = -1;

impl FetchSessions {
    /// Opens, continues or closes a session.
    pub(crate) fn context(&mut self, broker: i32, asked: Asked) -> Result<Context, ErrorCode> {
        if asked.epoch == FINAL_EPOCH || asked.epoch == FIRST_EPOCH {
            if asked.session_id != 0 {
                self.sessions.remove(&asked.session_id);
            }
            if asked.epoch == FINAL_EPOCH || self.sessions.len() >= SLOTS {
                return Ok(Context::Sessionless(asked.wanted));
            }
            // Kafka draws ids by chance; a broker's number and a count are as unique, and the same in every run.
            self.opened = self.opened.wrapping_add(1) & 0x00ff_ffff;
            let id = ((broker & 0x3f) << 24) | self.opened.max(1);
            self.sessions.insert(id, Session::new(asked.by_id, asked.wanted));
            return Ok(Context::Full { session: id });
        }
        let session = self.sessions.get_mut(&asked.session_id).ok_or(ErrorCode::FETCH_SESSION_ID_NOT_FOUND)?;
        if session.epoch != asked.epoch {
            return Err(ErrorCode::INVALID_FETCH_SESSION_EPOCH);
        }
        if session.by_id != asked.by_id {
            return Err(ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR);
        }
        asked.wanted.into_iter().for_each(|wanted| session.put(wanted));
        for place in &asked.forgotten {
            session.remove(place);
        }
        if session.partitions.is_empty() {
            self.sessions.remove(&asked.session_id);
            return Ok(Context::Sessionless(Vec::new()));
        }
        session.epoch = if session.epoch == i32::MAX { 1 } else { session.epoch + 1 };
        Ok(Context::Incremental { session: asked.session_id })
    }

    pub(crate) fn get(&self, session: i32) -> Option<&Session> {
        self.sessions.get(&session)
    }

    pub(crate) fn get_mut(&mut self, session: i32) -> Option<&mut Session> {
        self.sessions.get_mut(&session)
    }
}
