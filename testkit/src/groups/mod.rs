//! Groups and their coordinators.

use tokio::time::Instant;

use crate::state::State;

pub(crate) struct Group;

pub(crate) fn on_time(_state: &mut State, _group: &str, _now: Instant) {}

pub(crate) fn on_coordinators_changed(_state: &mut State, _now: Instant) {}
