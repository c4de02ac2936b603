//! OffsetForLeaderEpoch: where a leader epoch ended, so that a reader can see whether its position still exists (KIP-320).
//!
//! The answer is the largest epoch not above the asked one and the offset at which the next began; the log's end for the current
//! one; −1 and −1 if the log does not know.

use milena_protocol::ErrorCode;
use milena_protocol::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use milena_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

use super::{Api, Call, Names, Served, Touched, listed, touches};
use crate::state::State;

pub(crate) struct OffsetForLeaderEpoch;

impl Api for OffsetForLeaderEpoch {
    type Request = OffsetForLeaderEpochRequest;

    fn digest(_: &dyn Names, _: &Call, request: &OffsetForLeaderEpochRequest) -> String {
        let words = request.topics.iter().flat_map(|topic| {
            let partitions = topic.partitions.iter();
            partitions.map(|p| format!("{}-{} e{}", topic.topic.as_str(), p.partition, p.leader_epoch))
        });
        listed(" ", words)
    }

    fn partitions(_: &dyn Names, _: &Call, request: &OffsetForLeaderEpochRequest) -> Vec<Touched> {
        let mut touched = Vec::new();
        for topic in &request.topics {
            touched.extend(touches(&topic.topic, topic.partitions.iter().map(|p| p.partition)));
        }
        touched
    }

    fn serve(
        state: &mut State,
        call: &Call,
        request: OffsetForLeaderEpochRequest,
    ) -> Served<OffsetForLeaderEpochResponse> {
        let mut topics = Vec::new();
        for topic in request.topics {
            let mut partitions = Vec::new();
            for asked in &topic.partitions {
                let mut end =
                    EpochEndOffset::default().with_partition(asked.partition).with_leader_epoch(-1).with_end_offset(-1);
                let found = call.injected(&topic.topic, asked.partition).and_then(|()| {
                    let epoch = asked.current_leader_epoch;
                    let partition = state.led_in_epoch(call.broker, &topic.topic, asked.partition, epoch)?;
                    Ok(partition.log.end_of_epoch(asked.leader_epoch))
                });
                match found {
                    Ok((epoch, offset)) => (end.leader_epoch, end.end_offset) = (epoch, offset),
                    Err(code) => end.error_code = code.0,
                }
                partitions.push(end);
            }
            topics.push(OffsetForLeaderTopicResult::default().with_topic(topic.topic).with_partitions(partitions));
        }
        Served::Now(OffsetForLeaderEpochResponse::default().with_topics(topics))
    }
}

/// Compares the leader epoch that a client believes in with the leader's; −1 is no belief.
///
/// # Errors
/// `FENCED_LEADER_EPOCH` if the client's is older, `UNKNOWN_LEADER_EPOCH` if it is newer.
pub(crate) fn check_epoch(client: i32, leader: i32) -> Result<(), ErrorCode> {
    match client {
        -1 => Ok(()),
        older if older < leader => Err(ErrorCode::FENCED_LEADER_EPOCH),
        newer if newer > leader => Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
        _ => Ok(()),
    }
}
