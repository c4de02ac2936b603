//! Real Kafka, started by the kit: as processes of this machine (feature `process`), or in a container (feature `containers`).

#[cfg(feature = "containers")]
pub mod containers;
#[cfg(feature = "process")]
pub(crate) mod process;
