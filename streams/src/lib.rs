//! milena's Streams: a DSL like Kafka Streams', topologies that Java would name the same, tasks, and state stores.
//!
//! # The journey of a topology
//!
//! 1. `StreamsBuilder` (`dsl/builder.rs`) and the handles it gives out (`dsl/kstream.rs`, `dsl/kgrouped.rs`,
//!    `dsl/ktable.rs`) write nodes into a graph (`topology/graph.rs`), each with a function that will build it.
//! 2. `build` cuts the graph into sub-topologies at repartition topics (`topology/mod.rs`); `Topology::describe`
//!    (`topology/describe.rs`) prints it letter for letter as Java does.
//! 3. For each sub-topology and partition a task (`task/mod.rs`) builds a tree of typed processors
//!    (`processor/mod.rs`) and picks records by timestamp from its partition queues (`task/queue.rs`).
//! 4. A record goes from a source (`processor/source.rs`) through operators (`processor/operators.rs`) to a sink
//!    (`processor/sink.rs`) or an aggregate (`processor/count.rs`) with its store (`store/memory.rs`), which is the
//!    record cache as well: the flush at commit writes one changelog record and one result for each key that changed.
//! 5. Two drivers run tasks: `TopologyTestDriver` (`test_driver.rs`), without a broker and in virtual time, and
//!    `KafkaStreams` (`runtime/`).

mod dsl;
mod error;
mod processor;
mod record;
mod runtime;
mod serde;
mod store;
mod task;
mod test_driver;
mod topology;

pub use dsl::{Consumed, Grouped, KGrouped, KStream, KTable, Materialized, Produced, StreamsBuilder, Topics};
pub use error::{ProcessingError, StreamsError, TopologyError};
pub use milena_client::SerializeError;
pub use processor::Emit;
pub use record::{Headers, Record};
pub use runtime::{KafkaStreams, ProcessingGuarantee, RunningStreams, StreamsConfig, StreamsState};
pub use serde::{DefaultSerde, NullableSerde, Serde, UnitSerde};
pub use test_driver::{StoreView, TestDriverBuilder, TopologyTestDriver};
pub use topology::Topology;
