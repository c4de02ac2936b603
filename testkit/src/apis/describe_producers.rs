//! DescribeProducers: what a partition's leader remembers about idempotent and transactional producers: epoch, last sequence (−1 right
//! after a marker of a new epoch), and where an open transaction begins (−1: there is none).

use milena_protocol::ErrorCode;
use milena_protocol::messages::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
use milena_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse, ProducerId};

use super::{Api, Call, Names, Served, Touched, touches};
use crate::state::State;

pub(crate) struct DescribeProducers;

impl Api for DescribeProducers {
    type Request = DescribeProducersRequest;

    fn partitions(_: &dyn Names, _: &Call, request: &DescribeProducersRequest) -> Vec<Touched> {
        let topics = request.topics.iter();
        topics.flat_map(|topic| touches(&topic.name, topic.partition_indexes.iter().copied())).collect()
    }

    fn serve(state: &mut State, call: &Call, request: DescribeProducersRequest) -> Served<DescribeProducersResponse> {
        let mut response = DescribeProducersResponse::default();
        for topic in request.topics {
            let mut answered = TopicResponse::default().with_name(topic.name.clone());
            for index in topic.partition_indexes {
                let mut partition = PartitionResponse::default().with_partition_index(index);
                match producers(state, call, &topic.name, index) {
                    Ok(producers) => partition.active_producers = producers,
                    Err(code) => partition.error_code = code.0,
                }
                answered.partitions.push(partition);
            }
            response.topics.push(answered);
        }
        Served::Now(response)
    }
}

fn producers(state: &mut State, call: &Call, topic: &str, index: i32) -> Result<Vec<ProducerState>, ErrorCode> {
    call.injected(topic, index)?;
    let producers = &state.led_by(call.broker, topic, index)?.log.producers;
    let all = producers.all().map(|(id, producer)| {
        ProducerState::default()
            .with_producer_id(ProducerId(id))
            .with_producer_epoch(i32::from(producer.epoch))
            .with_last_sequence(producer.last_sequence())
            .with_last_timestamp(producer.last_timestamp)
            .with_coordinator_epoch(producer.coordinator_epoch)
            .with_current_txn_start_offset(producer.open_since.unwrap_or(-1))
    });
    Ok(all.collect())
}
