//! EndTxn: commits or aborts the open transaction. The answer comes when that is decided; the markers follow.
//!
//! - v5 (KIP-890) bumps the epoch and tells the producer its id and epoch for the next transaction: the same id, or a new one with
//!   epoch 0 when the epochs are used up. Repeated with the old epoch it is answered the same; the old epoch with the other decision is
//!   `INVALID_TXN_STATE`. An abort of nothing bumps the epoch as well, a commit of nothing is `INVALID_TXN_STATE`.
//! - Before v5 the epoch stays, and a repeat is answered by what was decided last; anything else without a transaction is
//!   `INVALID_TXN_STATE`.
//! - While markers are still to be written a repeat is `CONCURRENT_TRANSACTIONS`. Another epoch is `PRODUCER_FENCED` (before v2
//!   `INVALID_PRODUCER_EPOCH`), another producer id `INVALID_PRODUCER_ID_MAPPING`.

use milena_protocol::ErrorCode;
use milena_protocol::messages::{EndTxnRequest, EndTxnResponse, ProducerId};

use super::{Api, Call, Names, Served};
use crate::state::State;
use crate::transactions::End;

pub(crate) struct EndTxn;

impl Api for EndTxn {
    type Request = EndTxnRequest;

    fn digest(_: &dyn Names, _: &Call, request: &EndTxnRequest) -> String {
        let what = if request.committed { "commit" } else { "abort" };
        format!("{} {}/{} {what}", request.transactional_id.as_str(), request.producer_id.0, request.producer_epoch)
    }

    fn transactional_id(request: &EndTxnRequest) -> Option<String> {
        Some(request.transactional_id.to_string())
    }

    fn serve(state: &mut State, call: &Call, request: EndTxnRequest) -> Served<EndTxnResponse> {
        let mut response = EndTxnResponse::default();
        let (id, epoch) = end(state, call, &request).unwrap_or_else(|code| {
            let old = call.version < 2 && code == ErrorCode::PRODUCER_FENCED;
            response.error_code = if old { ErrorCode::INVALID_PRODUCER_EPOCH.0 } else { code.0 };
            (-1, -1)
        });
        if call.version >= 5 {
            response.producer_id = ProducerId(id);
            response.producer_epoch = epoch;
        }
        Served::Now(response)
    }
}

fn end(state: &mut State, call: &Call, request: &EndTxnRequest) -> Result<(i64, i16), ErrorCode> {
    call.injected_for_request()?;
    state.check_transactional_id(call.broker, &request.transactional_id)?;
    let producer = (request.producer_id.0, request.producer_epoch);
    let end = End { commit: request.committed, bumps_epoch: call.version >= 5 };
    state.end_transaction(&request.transactional_id, producer, end, call.now)
}
