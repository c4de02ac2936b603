//! Membership in a group: the blobs that members exchange, and the classic protocol as a machine.

mod blob;
pub(crate) mod classic;

pub use self::blob::{Assignment, MalformedBlob, Subscription};
