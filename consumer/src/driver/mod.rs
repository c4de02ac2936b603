//! The tasks of a consumer, on the client's thread. They wait for sockets and timers; what they do is decided by the machines.

pub(crate) mod fetch_loop;
pub(crate) mod group;
pub(crate) mod listener;
pub(crate) mod offsets;
pub(crate) mod upkeep;
