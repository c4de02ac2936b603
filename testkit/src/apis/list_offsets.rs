//! ListOffsets: earliest (−2), latest (−1: high watermark, or last stable offset for read_committed), by time, and the record with
//! the largest timestamp (−3, v7). −4 (earliest local, v8) is the log start and −5 (latest tiered, v9) is unknown, as without tiered
//! storage.
//!
//! Nothing found is offset −1, not an error. v4 checks the leader epoch. While a new leader's high watermark lies before the start of its
//! epoch, the end is `OFFSET_NOT_AVAILABLE` (`LEADER_NOT_AVAILABLE` before v5), and so is a time whose record lies behind the high watermark.

use milena_protocol::ErrorCode;
use milena_protocol::messages::list_offsets_request::ListOffsetsPartition;
use milena_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use milena_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};

use super::{Api, Call, Names, Served, Touched, listed, touches};
use crate::state::State;

pub(crate) struct ListOffsets;

impl Api for ListOffsets {
    type Request = ListOffsetsRequest;

    fn digest(_: &dyn Names, _: &Call, request: &ListOffsetsRequest) -> String {
        let words = request.topics.iter().flat_map(|topic| {
            let partitions = topic.partitions.iter();
            partitions.map(|p| format!("{}-{}@{}", topic.name.as_str(), p.partition_index, p.timestamp))
        });
        listed(" ", words)
    }

    fn partitions(_: &dyn Names, _: &Call, request: &ListOffsetsRequest) -> Vec<Touched> {
        let mut touched = Vec::new();
        for topic in &request.topics {
            touched.extend(touches(&topic.name, topic.partitions.iter().map(|p| p.partition_index)));
        }
        touched
    }

    fn serve(state: &mut State, call: &Call, request: ListOffsetsRequest) -> Served<ListOffsetsResponse> {
        let mut topics = Vec::new();
        for topic in request.topics {
            let mut partitions = Vec::new();
            for asked in &topic.partitions {
                let mut found = ListOffsetsPartitionResponse::default()
                    .with_partition_index(asked.partition_index)
                    .with_offset(-1)
                    .with_timestamp(-1)
                    .with_leader_epoch(-1);
                match look(state, call, &topic.name, asked, request.isolation_level == 1) {
                    Ok((offset, timestamp, epoch)) => {
                        found.offset = offset;
                        found.timestamp = timestamp;
                        if call.version >= 4 {
                            found.leader_epoch = epoch;
                        }
                    }
                    Err(code) => found.error_code = code.0,
                }
                partitions.push(found);
            }
            topics.push(ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions));
        }
        Served::Now(ListOffsetsResponse::default().with_topics(topics))
    }
}

fn look(
    state: &mut State,
    call: &Call,
    topic: &str,
    asked: &ListOffsetsPartition,
    read_committed: bool,
) -> Result<(i64, i64, i32), ErrorCode> {
    const NONE: (i64, i64, i32) = (-1, -1, -1);
    call.injected(topic, asked.partition_index)?;
    let partition = state.led_in_epoch(call.broker, topic, asked.partition_index, asked.current_leader_epoch)?;
    let log = &partition.log;
    let end = if read_committed { log.last_stable_offset() } else { log.high_watermark() };
    let is_unknown = log.epoch_start() > log.high_watermark();
    let unknown = if call.version >= 5 { ErrorCode::OFFSET_NOT_AVAILABLE } else { ErrorCode::LEADER_NOT_AVAILABLE };
    let below_end = |found: Option<(i64, i64, i32)>| match found {
        Some(found) if found.0 < end => Ok(found),
        _ if is_unknown => Err(unknown),
        _ => Ok(NONE),
    };
    match asked.timestamp {
        -1 if is_unknown => Err(unknown),
        -1 => Ok((end, -1, partition.leader_epoch)),
        -2 | -4 => Ok((log.start(), -1, log.epoch_at(log.start()).unwrap_or(-1))),
        -3 => below_end(log.find_latest_time()),
        -5 => Ok(NONE),
        timestamp if timestamp >= 0 => below_end(log.find_by_time(timestamp)),
        _ => Err(ErrorCode::UNSUPPORTED_VERSION),
    }
}
