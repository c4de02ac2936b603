//! A fetch session (KIP-227) as a machine: broker and client both remember what is asked for, so that a request names only what has
//! changed.
//!
//! What the broker remembers is what the last *answered* request said: the state here moves on when an answer comes, never when a
//! request is built. Whatever goes wrong, the next request is a full one.

use std::collections::BTreeMap;

use milena_protocol::ErrorCode;
use uuid::Uuid;

use crate::partitions::SlotId;

/// What is asked of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The topic's id, nil where it has none.
    pub(crate) topic_id: Uuid,
    pub(crate) offset: i64,
    /// The leader's epoch as the client knows it, or −1.
    pub(crate) leader_epoch: i32,
    /// The epoch of the last record before the offset, or −1: the leader says where its log parts from it.
    pub(crate) last_epoch: i32,
    pub(crate) max_bytes: i32,
}

/// What the next request says about the session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SessionRequest {
    /// 0 asks for a new session.
    pub(crate) id: i32,
    /// 0 in a full request, −1 in one without a session.
    pub(crate) epoch: i32,
    /// The partitions to name.
    pub(crate) send: Vec<SlotId>,
    /// The partitions to take out, each with the topic id under which the broker knows it.
    pub(crate) forget: Vec<(SlotId, Uuid)>,
}

/// The session with one broker.
#[derive(Debug, Default)]
pub(crate) struct Session {
    id: i32,
    epoch: i32,
    /// What the broker remembers.
    known: BTreeMap<SlotId, Asked>,
    /// What it will remember once it has answered.
    pending: Option<BTreeMap<SlotId, Asked>>,
    /// The broker has refused to begin a session: none is asked for any more.
    is_refused: bool,
}

const FIRST_EPOCH: i32 = 0;
const NO_SESSION: i32 = -1;

impl Session {
    /// What to send so that the broker looks at exactly `wanted`.
    pub(crate) fn build(&mut self, wanted: BTreeMap<SlotId, Asked>) -> SessionRequest {
        // A topic that was made anew under its name is another topic; a new session is the simplest way to say so.
        let is_replaced = |(slot, asked): (&SlotId, &Asked)| {
            self.known.get(slot).is_some_and(|known| known.topic_id != asked.topic_id)
        };
        if wanted.iter().any(is_replaced) {
            self.reset();
        }
        let is_full = self.epoch == FIRST_EPOCH;
        let request = SessionRequest {
            id: self.id,
            epoch: if self.is_refused { NO_SESSION } else { self.epoch },
            send: wanted
                .iter()
                .filter(|(slot, asked)| is_full || self.known.get(slot) != Some(asked))
                .map(|(slot, _)| *slot)
                .collect(),
            forget: if is_full {
                Vec::new()
            } else {
                let gone = self.known.iter().filter(|(slot, _)| !wanted.contains_key(slot));
                gone.map(|(slot, known)| (*slot, known.topic_id)).collect()
            },
        };
        self.pending = Some(wanted);
        request
    }

    /// An answer has arrived, or at least its head.
    pub(crate) fn on_answer(&mut self, error: ErrorCode, session_id: i32) {
        if !error.is_none() {
            // franz-go 1.4.2: there are brokers that speak of sessions and do not know the one that they are asked to begin.
            self.is_refused |= self.epoch == FIRST_EPOCH && error == ErrorCode::FETCH_SESSION_ID_NOT_FOUND;
            return self.reset();
        }
        let Some(pending) = self.pending.take() else { return };
        if session_id == 0 || self.is_refused {
            // The broker has no room for sessions: every request is a full one.
            self.reset();
            return;
        }
        self.known = pending;
        self.id = session_id;
        self.epoch = if self.epoch == i32::MAX { 1 } else { self.epoch + 1 };
    }

    /// The connection is gone, and with it any knowledge of what the broker has seen.
    pub(crate) fn reset(&mut self) {
        *self = Self { is_refused: self.is_refused, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(offsets: &[(SlotId, i64)]) -> BTreeMap<SlotId, Asked> {
        let asked = |offset| Asked { topic_id: Uuid::nil(), offset, leader_epoch: 1, last_epoch: -1, max_bytes: 100 };
        offsets.iter().map(|&(slot, offset)| (slot, asked(offset))).collect()
    }

    fn established() -> Session {
        let mut session = Session::default();
        session.build(wanted(&[(0, 0), (1, 0), (2, 0)]));
        session.on_answer(ErrorCode::NONE, 77);
        session
    }

    #[test]
    fn the_first_request_is_full_and_the_next_names_only_what_has_changed() {
        let mut session = Session::default();
        let full = session.build(wanted(&[(0, 0), (1, 0)]));
        assert_eq!(full, SessionRequest { id: 0, epoch: 0, send: vec![0, 1], forget: vec![] });
        session.on_answer(ErrorCode::NONE, 77);
        let next = session.build(wanted(&[(0, 5), (1, 0)]));
        assert_eq!(next, SessionRequest { id: 77, epoch: 1, send: vec![0], forget: vec![] });
        session.on_answer(ErrorCode::NONE, 77);
        let idle = session.build(wanted(&[(0, 5), (1, 0)]));
        assert_eq!(idle, SessionRequest { id: 77, epoch: 2, send: vec![], forget: vec![] });
    }

    #[test]
    fn what_is_no_longer_wanted_is_forgotten_and_what_comes_back_is_named() {
        let mut session = established();
        let less = session.build(wanted(&[(1, 0)]));
        assert_eq!((less.send, less.forget), (vec![], vec![(0, Uuid::nil()), (2, Uuid::nil())]));
        session.on_answer(ErrorCode::NONE, 77);
        let more = session.build(wanted(&[(0, 0), (1, 0)]));
        assert_eq!((more.send, more.forget), (vec![0], vec![]));
    }

    #[test]
    fn a_request_without_an_answer_changes_nothing_that_is_known() {
        let mut session = established();
        session.build(wanted(&[(0, 9), (1, 0)]));
        let again = session.build(wanted(&[(0, 9), (1, 0)]));
        assert_eq!(again, SessionRequest { id: 77, epoch: 1, send: vec![0], forget: vec![(2, Uuid::nil())] });
    }

    #[test]
    fn an_error_a_lost_connection_and_a_topic_made_anew_start_a_full_session() {
        for code in [ErrorCode::FETCH_SESSION_ID_NOT_FOUND, ErrorCode::INVALID_FETCH_SESSION_EPOCH, ErrorCode(999)] {
            let mut session = established();
            session.build(wanted(&[(0, 1)]));
            session.on_answer(code, 0);
            assert_eq!(
                session.build(wanted(&[(0, 1)])),
                SessionRequest { id: 0, epoch: 0, send: vec![0], forget: vec![] }
            );
        }
        let mut session = established();
        session.reset();
        assert_eq!(session.build(wanted(&[(2, 4)])).epoch, 0);
        let mut session = established();
        let mut anew = wanted(&[(0, 0), (1, 0)]);
        anew.get_mut(&1).unwrap().topic_id = Uuid::from_u128(5);
        assert_eq!(session.build(anew), SessionRequest { id: 0, epoch: 0, send: vec![0, 1], forget: vec![] });
    }

    #[test]
    fn a_broker_without_room_for_sessions_gets_full_requests_for_ever() {
        let mut session = Session::default();
        for _ in 0..3 {
            assert_eq!(
                session.build(wanted(&[(0, 0)])),
                SessionRequest { id: 0, epoch: 0, send: vec![0], forget: vec![] }
            );
            session.on_answer(ErrorCode::NONE, 0);
        }
    }

    #[test]
    fn a_broker_that_does_not_know_a_session_that_it_is_to_begin_is_read_without_one() {
        let mut session = Session::default();
        session.build(wanted(&[(0, 0)]));
        session.on_answer(ErrorCode::FETCH_SESSION_ID_NOT_FOUND, 0);
        for _ in 0..3 {
            let request = session.build(wanted(&[(0, 0)]));
            assert_eq!(request, SessionRequest { id: 0, epoch: -1, send: vec![0], forget: vec![] });
            session.on_answer(ErrorCode::NONE, 77);
        }
        // One that it has thrown out is begun anew.
        let mut session = established();
        session.build(wanted(&[(0, 0)]));
        session.on_answer(ErrorCode::FETCH_SESSION_ID_NOT_FOUND, 0);
        assert_eq!(session.build(wanted(&[(0, 0)])).epoch, 0);
    }

    #[test]
    fn the_epoch_wraps_to_one() {
        let mut session = established();
        session.epoch = i32::MAX;
        session.build(wanted(&[(0, 0)]));
        session.on_answer(ErrorCode::NONE, 77);
        assert_eq!(session.epoch, 1);
    }
}
