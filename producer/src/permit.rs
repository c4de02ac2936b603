//! Room for one record, waited for before there is one.

use std::fmt;
use std::sync::Arc;

use milena_client::{Error, ErrorKind};
use milena_protocol::records::BATCH_HEADER_BYTES;

use crate::accumulator::Anyone;
use crate::delivery::Delivery;
use crate::record::AsRecord;
use crate::sending::{Prepaid, Sending};
use crate::shared::Shared;

/// Room for one record: [`Producer::reserve`](crate::Producer::reserve) waits for it, [`send`](Self::send) does not wait any more.
/// Dropped, the room goes back.
#[must_use = "dropped, the room goes back"]
pub struct Permit {
    room: Prepaid<Arc<Shared>>,
    bytes: usize,
}

/// What a record takes beside its key, its value and its headers: the header of a batch that it may have to open, and the lengths of
/// its parts.
const ENVELOPE: usize = BATCH_HEADER_BYTES + 40;

impl Permit {
    pub(crate) async fn wait_for(shared: &Arc<Shared>, bytes: usize) -> Result<Self, Error> {
        if shared.owes() {
            shared.give_way().await;
        }
        let needed = bytes.saturating_add(ENVELOPE);
        let most = shared.config.max_request_size.min(shared.config.buffer_memory);
        if needed > most {
            return Err(Error::new(
                ErrorKind::Limit,
                format!(
                    "there is never room for a record of {bytes} bytes: max_request_size and buffer_memory leave {most} of them. \
                     Raise them, or send smaller records."
                ),
            ));
        }
        // The record may open a batch, of any topic.
        let needed = needed.max(shared.settings.largest_batch());
        let deadline = shared.link.now() + shared.config.max_block;
        let charge = Sending { shared, claim: Anyone }.wait_for_room(needed, deadline).await?;
        Ok(Self { room: Prepaid { shared: shared.clone(), charge: Some(charge) }, bytes })
    }

    /// Takes a record, without waiting. Its key, value and headers (their names, their values, and 10 bytes for each) may have as
    /// many bytes as were reserved; headers that interceptors and the partitioner add count. The topic must have been
    /// [prepared](crate::Producer::prepare_topic) or sent to: one that the producer has not seen is looked up meanwhile, and is an error.
    ///
    /// # Errors
    /// [`ErrorKind::Limit`] when it has more than were reserved, and there is no room for it; else as
    /// [`Producer::try_send`](crate::Producer::try_send). Nothing was taken then, and the room goes back.
    pub fn send(mut self, record: &impl AsRecord) -> Result<Delivery, Error> {
        let Prepaid { shared, charge } = &mut self.room;
        Sending { shared, claim: Anyone }.try_send_with(record, charge, "beyond what was reserved")
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
