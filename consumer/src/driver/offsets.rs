//! Looking up offsets: where the log begins and ends (ListOffsets), what a group has committed (OffsetFetch), and where a leader epoch
//! ended (OffsetForLeaderEpoch).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use milena_client::{CoordinatorKind, Error, Lane, Link, Target, TopicPartition};
use milena_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use milena_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use milena_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use milena_protocol::messages::{
    BrokerId, GroupId, ListOffsetsRequest, OffsetFetchRequest, OffsetFetchResponse, OffsetForLeaderEpochRequest,
    TopicName,
};
use milena_protocol::{ApiKey, ErrorCode, StrBytes};

use crate::{IsolationLevel, StartAt};

/// `ListOffsets` names the ends of the log by these timestamps.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// What a broker says about partitions.
pub(crate) type Found<T> = Vec<(TopicPartition, Result<T, Error>)>;

/// A place in the log, as ListOffsets tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: i64,
    /// The record's, for a question about a time; −1 otherwise.
    pub(crate) timestamp: i64,
    /// −1 before v4.
    pub(crate) leader_epoch: i32,
}

pub(crate) fn str_bytes(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Groups partitions by topic, in order.
pub(crate) fn by_topic<T>(
    partitions: impl IntoIterator<Item = (TopicPartition, T)>,
) -> BTreeMap<Arc<str>, Vec<(i32, T)>> {
    let mut topics: BTreeMap<Arc<str>, Vec<(i32, T)>> = BTreeMap::new();
    for (tp, item) in partitions {
        topics.entry(tp.topic).or_default().push((tp.partition, item));
    }
    topics
}

fn timestamp(start: StartAt) -> i64 {
    match start {
        StartAt::Beginning => EARLIEST,
        StartAt::End => LATEST,
        StartAt::Timestamp(timestamp) => timestamp.max(0),
        // Never looked up: the offset is known.
        StartAt::Offset(offset) => offset,
    }
}

/// Where to start reading partitions: asks their leader where they begin, end, or reach a timestamp. One that has no record that late
/// starts at its end.
///
/// That end is asked for first: if it were asked for afterwards, records that have come in between, or have become visible, would be
/// left out.
pub(crate) async fn starts(
    link: &Link,
    leader: i32,
    isolation: IsolationLevel,
    partitions: Vec<(TopicPartition, (StartAt, i32))>,
) -> Result<Found<Option<Place>>, Error> {
    let timeout = link.request_timeout();
    let timed = partitions.iter().filter(|(_, (start, _))| matches!(start, StartAt::Timestamp(_)));
    let ends: Vec<_> = timed.map(|(tp, (_, epoch))| (tp.clone(), (StartAt::End, *epoch))).collect();
    if ends.is_empty() {
        return list(link, leader, isolation, partitions, timeout).await;
    }
    let ends: BTreeMap<_, _> = list(link, leader, isolation, ends, timeout).await?.into_iter().collect();
    let mut found = list(link, leader, isolation, partitions, timeout).await?;
    for (tp, start) in &mut found {
        if let (Ok(None), Some(end)) = (&start, ends.get(tp)) {
            *start = end.clone();
        }
    }
    Ok(found)
}

/// Asks the leader where partitions begin, end, or reach a timestamp. `None` in the answer: no record is that late.
///
/// `partitions` are given with the leader's epoch.
pub(crate) async fn list(
    link: &Link,
    leader: i32,
    isolation: IsolationLevel,
    partitions: Vec<(TopicPartition, (StartAt, i32))>,
    timeout: Duration,
) -> Result<Found<Option<Place>>, Error> {
    let topics = by_topic(partitions);
    let request = move |version: i16| {
        let partition = |(index, (start, epoch)): &(i32, (StartAt, i32))| {
            let partition =
                ListOffsetsPartition::default().with_partition_index(*index).with_timestamp(timestamp(*start));
            if version >= 4 { partition.with_current_leader_epoch(*epoch) } else { partition }
        };
        let topic = |(topic, partitions): (&Arc<str>, &Vec<_>)| {
            ListOffsetsTopic::default()
                .with_name(TopicName(str_bytes(topic)))
                .with_partitions(partitions.iter().map(partition).collect())
        };
        let request =
            ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(topics.iter().map(topic).collect());
        // For a reader of committed records the log ends at the last stable offset.
        if version >= 2 && isolation == IsolationLevel::ReadCommitted {
            request.with_isolation_level(1)
        } else {
            request
        }
    };
    let response = link.send_versioned(Target::Broker(leader), Lane::Rest, timeout, request).await?;
    let mut found = Vec::new();
    for topic in response.topics {
        let name: Arc<str> = Arc::from(topic.name.as_str());
        for partition in topic.partitions {
            let tp = TopicPartition { topic: name.clone(), partition: partition.partition_index };
            let result = match ErrorCode(partition.error_code) {
                ErrorCode::NONE => Ok((partition.offset >= 0).then_some(Place {
                    offset: partition.offset,
                    timestamp: partition.timestamp,
                    leader_epoch: partition.leader_epoch,
                })),
                code => Err(Error::from_code(ApiKey::LIST_OFFSETS, code)
                    .with_topic_partition(tp.clone())
                    .with_broker(leader)),
            };
            found.push((tp, result));
        }
    }
    Ok(found)
}

/// Asks the leader where epochs ended that records were read of: the largest epoch it has that is not larger, and where that one ends;
/// −1 and −1 if it cannot say (KIP-320).
///
/// `partitions` are given with the epoch of the last record that was read, and the leader's.
pub(crate) async fn epoch_ends(
    link: &Link,
    leader: i32,
    partitions: Vec<(TopicPartition, (i32, i32))>,
) -> Result<Found<(i32, i64)>, Error> {
    let topics = by_topic(partitions);
    let request = move |version: i16| {
        let partition = |(index, (epoch, leader_epoch)): &(i32, (i32, i32))| {
            let partition = OffsetForLeaderPartition::default().with_partition(*index).with_leader_epoch(*epoch);
            if version >= 2 { partition.with_current_leader_epoch(*leader_epoch) } else { partition }
        };
        let topic = |(topic, partitions): (&Arc<str>, &Vec<_>)| {
            OffsetForLeaderTopic::default()
                .with_topic(TopicName(str_bytes(topic)))
                .with_partitions(partitions.iter().map(partition).collect())
        };
        let request = OffsetForLeaderEpochRequest::default().with_topics(topics.iter().map(topic).collect());
        // A consumer, and no broker that replicates.
        if version >= 3 { request.with_replica_id(BrokerId(-1)) } else { request }
    };
    let response = link.send_versioned(Target::Broker(leader), Lane::Rest, link.request_timeout(), request).await?;
    let mut found = Vec::new();
    for topic in response.topics {
        let name: Arc<str> = Arc::from(topic.topic.as_str());
        for partition in topic.partitions {
            let tp = TopicPartition { topic: name.clone(), partition: partition.partition };
            let result = match ErrorCode(partition.error_code) {
                ErrorCode::NONE => Ok((partition.leader_epoch, partition.end_offset)),
                code => Err(Error::from_code(ApiKey::OFFSET_FOR_LEADER_EPOCH, code)
                    .with_topic_partition(tp.clone())
                    .with_broker(leader)),
            };
            found.push((tp, result));
        }
    }
    Ok(found)
}

/// Asks the coordinator what the group has committed, with the epoch of the record before it (−1 if unknown). `None` in the answer:
/// nothing.
pub(crate) async fn committed(
    link: &Link,
    group: &Arc<str>,
    partitions: Vec<TopicPartition>,
) -> Result<Found<Option<(i64, i32)>>, Error> {
    let topics = by_topic(partitions.into_iter().map(|tp| (tp, ())));
    let name = group.clone();
    let request = move |version: i16| {
        let indexes = |partitions: &Vec<(i32, ())>| partitions.iter().map(|(index, ())| *index).collect();
        let id = GroupId(str_bytes(&name));
        // Offsets of a transaction that is still open are waited for (KIP-447): reading from before them would read twice.
        let stable = version >= 7;
        let request = OffsetFetchRequest::default().with_require_stable(stable);
        if version >= 8 {
            let topic = |(topic, partitions): (&Arc<str>, &Vec<(i32, ())>)| {
                OffsetFetchRequestTopics::default()
                    .with_name(TopicName(str_bytes(topic)))
                    .with_partition_indexes(indexes(partitions))
            };
            let group = OffsetFetchRequestGroup::default()
                .with_group_id(id)
                .with_topics(Some(topics.iter().map(topic).collect()));
            return request.with_groups(vec![group]);
        }
        let topic = |(topic, partitions): (&Arc<str>, &Vec<(i32, ())>)| {
            OffsetFetchRequestTopic::default()
                .with_name(TopicName(str_bytes(topic)))
                .with_partition_indexes(indexes(partitions))
        };
        request.with_group_id(id).with_topics(Some(topics.iter().map(topic).collect()))
    };
    let target = Target::Coordinator(CoordinatorKind::Group, group.clone());
    let response = link.send_versioned(target, Lane::Heartbeat, link.request_timeout(), request).await?;
    read_committed_offsets(response)
}

fn read_committed_offsets(response: OffsetFetchResponse) -> Result<Found<Option<(i64, i32)>>, Error> {
    let error = |code: i16| match ErrorCode(code) {
        ErrorCode::NONE => Ok(()),
        code => Err(Error::from_code(ApiKey::OFFSET_FETCH, code)),
    };
    let result = |tp: &TopicPartition, committed: (i64, i32), code: i16| {
        let known = error(code).map(|()| (committed.0 >= 0).then_some(committed));
        known.map_err(|error| error.with_topic_partition(tp.clone()))
    };
    let mut found = Vec::new();
    error(response.error_code)?;
    for topic in response.topics {
        for partition in topic.partitions {
            let tp = TopicPartition::new(topic.name.as_str(), partition.partition_index);
            let committed = (partition.committed_offset, partition.committed_leader_epoch);
            let result = result(&tp, committed, partition.error_code);
            found.push((tp, result));
        }
    }
    for group in response.groups {
        error(group.error_code)?;
        for topic in group.topics {
            for partition in topic.partitions {
                let tp = TopicPartition::new(topic.name.as_str(), partition.partition_index);
                let committed = (partition.committed_offset, partition.committed_leader_epoch);
                let result = result(&tp, committed, partition.error_code);
                found.push((tp, result));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use milena_protocol::messages::offset_fetch_response::{
        OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
        OffsetFetchResponseTopic, OffsetFetchResponseTopics,
    };

    use super::*;

    #[test]
    fn both_shapes_of_an_offset_fetch_response_are_read() {
        let name = || TopicName(StrBytes::from_static_str("t"));
        let partition = OffsetFetchResponsePartition::default()
            .with_partition_index(2)
            .with_committed_offset(7)
            .with_committed_leader_epoch(4);
        let topic = OffsetFetchResponseTopic::default().with_name(name()).with_partitions(vec![partition]);
        let old = read_committed_offsets(OffsetFetchResponse::default().with_topics(vec![topic])).unwrap();
        assert_eq!(*old[0].1.as_ref().unwrap(), Some((7, 4)));

        let none = OffsetFetchResponsePartitions::default().with_partition_index(3).with_committed_offset(-1);
        let unstable = OffsetFetchResponsePartitions::default().with_partition_index(4).with_error_code(88);
        let topic = OffsetFetchResponseTopics::default().with_name(name()).with_partitions(vec![none, unstable]);
        let group = OffsetFetchResponseGroup::default().with_topics(vec![topic]);
        let new = read_committed_offsets(OffsetFetchResponse::default().with_groups(vec![group])).unwrap();
        assert_eq!(*new[0].1.as_ref().unwrap(), None);
        assert!(new[1].1.as_ref().unwrap_err().is_retriable());
    }

    #[test]
    fn a_group_that_is_refused_is_an_error_of_the_whole() {
        let group = OffsetFetchResponseGroup::default().with_error_code(30);
        assert!(read_committed_offsets(OffsetFetchResponse::default().with_groups(vec![group])).is_err());
    }
}
