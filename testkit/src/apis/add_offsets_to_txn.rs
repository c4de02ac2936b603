//! AddOffsetsToTxn: the offsets of a group belong to the transaction from now on: the group's partition of `__consumer_offsets` is
//! added to it. With transaction.version 2 nobody needs it: TxnOffsetCommit v5 does that itself.
//!
//! Another epoch is `PRODUCER_FENCED` (before v2 `INVALID_PRODUCER_EPOCH`).

use milena_protocol::ErrorCode;
use milena_protocol::messages::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};

use super::{Api, Call, Names, Served};
use crate::state::{State, coordinator_partition};
use crate::transactions::OFFSETS_TOPIC;

pub(crate) struct AddOffsetsToTxn;

impl Api for AddOffsetsToTxn {
    type Request = AddOffsetsToTxnRequest;

    fn digest(_: &dyn Names, _: &Call, request: &AddOffsetsToTxnRequest) -> String {
        let AddOffsetsToTxnRequest { transactional_id, producer_id, producer_epoch, group_id, .. } = request;
        format!("{} {}/{producer_epoch} {}", transactional_id.as_str(), producer_id.0, group_id.as_str())
    }

    fn group(request: &AddOffsetsToTxnRequest) -> Option<String> {
        Some(request.group_id.to_string())
    }

    fn transactional_id(request: &AddOffsetsToTxnRequest) -> Option<String> {
        Some(request.transactional_id.to_string())
    }

    fn serve(state: &mut State, call: &Call, request: AddOffsetsToTxnRequest) -> Served<AddOffsetsToTxnResponse> {
        let code = add(state, call, &request).err().unwrap_or(ErrorCode::NONE);
        let old = call.version < 2 && code == ErrorCode::PRODUCER_FENCED;
        let code = if old { ErrorCode::INVALID_PRODUCER_EPOCH } else { code };
        Served::Now(AddOffsetsToTxnResponse::default().with_error_code(code.0))
    }
}

fn add(state: &mut State, call: &Call, request: &AddOffsetsToTxnRequest) -> Result<(), ErrorCode> {
    call.injected_for_request()?;
    state.check_transactional_id(call.broker, &request.transactional_id)?;
    let partition = (OFFSETS_TOPIC.to_owned(), coordinator_partition(&request.group_id));
    let producer = (request.producer_id.0, request.producer_epoch);
    state.add_to_transaction(&request.transactional_id, producer, &[partition], call.now)
}
