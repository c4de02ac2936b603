//! How bytes come in: TCP on the loopback interface, or pipes inside the process.

pub(crate) mod connection;
pub(crate) mod memory;
pub(crate) mod tcp;
