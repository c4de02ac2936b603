//! milena's producer.

mod delivery;
mod partitioner;
mod pool;
mod record;
mod sequence;

pub use delivery::{Delivery, Placed};
pub use partitioner::{Choice, ClusterView, Murmur2, Partitioner, Unplaced, murmur2_partition};
pub use record::{AsRecord, Header, OwnedRecord, Record, RecordView};
