//! The tasks of a producer: one per broker that sends, one that looks after everything else, and one for transactions. They read the
//! clock and await sockets and timers; what to do about it is decided in `accumulator.rs`, `sequence.rs` and `transaction/machine.rs`.

pub(crate) mod broker;
mod prepare;
pub(crate) mod transaction;
pub(crate) mod upkeep;
