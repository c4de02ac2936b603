//! DeleteRecords: moves a log's start. −1 means the high watermark. The sequences of idempotent producers are kept. A topic that is only
//! compacted refuses it.

use milena_protocol::ErrorCode;
use milena_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use milena_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};

use super::{Api, Call, Names, Served, Touched, listed, touches};
use crate::state::State;

pub(crate) struct DeleteRecords;

impl Api for DeleteRecords {
    type Request = DeleteRecordsRequest;

    fn digest(_: &dyn Names, _: &Call, request: &DeleteRecordsRequest) -> String {
        let words = request.topics.iter().flat_map(|topic| {
            let partitions = topic.partitions.iter();
            partitions.map(|p| format!("{}-{}<{}", topic.name.as_str(), p.partition_index, p.offset))
        });
        listed(" ", words)
    }

    fn partitions(_: &dyn Names, _: &Call, request: &DeleteRecordsRequest) -> Vec<Touched> {
        let topics = request.topics.iter();
        topics.flat_map(|topic| touches(&topic.name, topic.partitions.iter().map(|p| p.partition_index))).collect()
    }

    fn serve(state: &mut State, call: &Call, request: DeleteRecordsRequest) -> Served<DeleteRecordsResponse> {
        let mut topics = Vec::new();
        for topic in request.topics {
            let mut partitions = Vec::new();
            for asked in &topic.partitions {
                let deleted = delete(state, call, &topic.name, asked.partition_index, asked.offset);
                let (low_watermark, code) = match deleted {
                    Ok(low_watermark) => (low_watermark, 0),
                    Err(code) => (-1, code.0),
                };
                partitions.push(
                    DeleteRecordsPartitionResult::default()
                        .with_partition_index(asked.partition_index)
                        .with_low_watermark(low_watermark)
                        .with_error_code(code),
                );
            }
            topics.push(DeleteRecordsTopicResult::default().with_name(topic.name).with_partitions(partitions));
        }
        Served::Now(DeleteRecordsResponse::default().with_topics(topics))
    }
}

fn delete(state: &mut State, call: &Call, topic: &str, partition: i32, offset: i64) -> Result<i64, ErrorCode> {
    call.injected(topic, partition)?;
    let compacts_only = state.topics.get(topic).is_some_and(|topic| topic.is_compacted() && !topic.deletes());
    let led = state.led_by(call.broker, topic, partition)?;
    let high_watermark = led.log.high_watermark();
    if compacts_only {
        return Err(ErrorCode::POLICY_VIOLATION);
    }
    let before = if offset == -1 { high_watermark } else { offset };
    if before < 0 || before > high_watermark {
        return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
    }
    led.log.delete_before(before);
    let start = led.log.start();
    state.on_partition_changed(topic, partition, call.now);
    Ok(start)
}
