//! Fetching: what to ask a broker for, and under which byte budget.

pub(crate) mod aborted;
pub(crate) mod budget;
pub(crate) mod session;
