//! OffsetDelete: committed offsets of single partitions are forgotten, whether there were any or not.
//!
//! - Nobody may be in a group of another protocol type than `consumer` (`NON_EMPTY_GROUP`); in a group of consumers the topics that a
//!   member subscribes to keep their offsets (`GROUP_SUBSCRIBED_TO_TOPIC`).
//! - What concerns the whole group is the answer's own code, without a topic.

use bytes::{Buf, Bytes};
use milena_protocol::ErrorCode;
use milena_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use milena_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

use super::{Api, Call, Names, Served, Touched, listed, touches};
use crate::groups::Phase;
use crate::state::State;

pub(crate) struct OffsetDelete;

impl Api for OffsetDelete {
    type Request = OffsetDeleteRequest;

    fn digest(_: &dyn Names, _: &Call, request: &OffsetDeleteRequest) -> String {
        let topics = listed(",", request.topics.iter().map(|topic| topic.name.as_str()));
        format!("{} {topics}", request.group_id.as_str())
    }

    fn partitions(_: &dyn Names, _: &Call, request: &OffsetDeleteRequest) -> Vec<Touched> {
        let mut touched = Vec::new();
        for topic in &request.topics {
            touched.extend(touches(&topic.name, topic.partitions.iter().map(|p| p.partition_index)));
        }
        touched
    }

    fn group(request: &OffsetDeleteRequest) -> Option<String> {
        Some(request.group_id.to_string())
    }

    fn serve(state: &mut State, call: &Call, request: OffsetDeleteRequest) -> Served<OffsetDeleteResponse> {
        if let Err(code) = check(state, call, &request) {
            return Served::Now(OffsetDeleteResponse::default().with_error_code(code.0));
        }
        let mut response = OffsetDeleteResponse::default();
        for topic in &request.topics {
            let mut answered = OffsetDeleteResponseTopic::default().with_name(topic.name.clone());
            for partition in &topic.partitions {
                let index = partition.partition_index;
                let code = delete(state, call, &request.group_id, &topic.name, index).err().unwrap_or(ErrorCode::NONE);
                let partition = OffsetDeleteResponsePartition::default().with_partition_index(index);
                answered.partitions.push(partition.with_error_code(code.0));
            }
            response.topics.push(answered);
        }
        Served::Now(response)
    }
}

fn check(state: &State, call: &Call, request: &OffsetDeleteRequest) -> Result<(), ErrorCode> {
    call.injected_at_the_top(|_| true)?;
    state.check_group(call.broker, &request.group_id)?;
    let group = state.groups.get(request.group_id.as_str()).ok_or(ErrorCode::GROUP_ID_NOT_FOUND)?;
    let of_consumers = group.classic.protocol_type.as_deref() == Some("consumer");
    if group.classic.phase != Phase::Empty && !of_consumers {
        return Err(ErrorCode::NON_EMPTY_GROUP);
    }
    Ok(())
}

fn delete(state: &mut State, call: &Call, group: &str, topic: &str, index: i32) -> Result<(), ErrorCode> {
    call.injected(topic, index)?;
    if state.topics.get(topic).and_then(|topic| topic.partition(index)).is_none() {
        return Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    }
    let group = state.groups.get_mut(group).ok_or(ErrorCode::GROUP_ID_NOT_FOUND)?;
    let protocol = group.classic.protocol.as_deref().unwrap_or_default();
    let mut members = group.classic.members.values();
    if members.any(|member| subscribes_to(member.metadata(protocol), topic)) {
        return Err(ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC);
    }
    group.offsets.forget(topic, index);
    Ok(())
}

/// Whether a `ConsumerProtocolSubscription` names the topic. One that cannot be read names none.
fn subscribes_to(mut subscription: Bytes, topic: &str) -> bool {
    let mut look = || {
        let _version = subscription.try_get_i16().ok()?;
        for _ in 0..subscription.try_get_i32().ok()? {
            let len =
                usize::try_from(subscription.try_get_i16().ok()?).ok().filter(|len| *len <= subscription.len())?;
            if subscription.split_to(len) == topic {
                return Some(());
            }
        }
        None
    };
    look().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_is_read_as_far_as_it_goes() {
        let subscription = Bytes::from_static(b"\0\x03\0\0\0\x02\0\x01a\0\x02bc\xff\xff\xff\xff");
        assert!(subscribes_to(subscription.clone(), "a"));
        assert!(subscribes_to(subscription.clone(), "bc"));
        assert!(!subscribes_to(subscription.clone(), "b"));
        for len in 0..10 {
            assert!(!subscribes_to(subscription.slice(..len), "bc"), "cut after {len} bytes");
        }
    }
}
