//! Everything but Produce and Fetch, with the messages of the `kafka-protocol` crate.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, BrokerId, FindCoordinatorRequest, FindCoordinatorResponse, InitProducerIdRequest,
    InitProducerIdResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse,
    OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse, ProducerId, TopicName,
    api_versions_response::ApiVersion,
    find_coordinator_response::Coordinator,
    list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse},
    metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic},
    offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic},
    offset_fetch_response::{
        OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
        OffsetFetchResponseTopic, OffsetFetchResponseTopics,
    },
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use uuid::Uuid;

use crate::Shared;
use crate::fetch::HIGH_WATERMARK;

pub(crate) const API_VERSIONS: i16 = ApiKey::ApiVersions as i16;

/// What is answered, and in which versions.
const SUPPORTED: [(ApiKey, i16, i16); 9] = [
    (ApiKey::Produce, 3, 13),
    (ApiKey::Fetch, 4, 18),
    (ApiKey::ListOffsets, 1, 10),
    (ApiKey::Metadata, 0, 13),
    (ApiKey::OffsetCommit, 2, 9),
    (ApiKey::OffsetFetch, 1, 9),
    (ApiKey::FindCoordinator, 0, 6),
    (ApiKey::ApiVersions, 0, 4),
    (ApiKey::InitProducerId, 0, 5),
];

/// Names and ids of the topics that somebody has asked for.
#[derive(Default)]
pub(crate) struct Topics {
    names: Mutex<BTreeMap<Uuid, TopicName>>,
    producer_ids: AtomicI64,
}

impl Topics {
    fn id_of(&self, name: &TopicName) -> Uuid {
        // Two checksums of the name: the same in every run, never nil.
        let low = u64::from(crc32c::crc32c(name.as_bytes()));
        let high = u64::from(crc32c::crc32c_append(0x6d69_6c65, name.as_bytes()));
        let id = Uuid::from_u64_pair(1 + (high << 20), low);
        self.names.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(id, name.clone());
        id
    }

    fn name_of(&self, id: Uuid) -> Option<TopicName> {
        self.names.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get(&id).cloned()
    }
}

/// Does that version carry tags? `None` for what this broker does not know.
pub(crate) fn is_flexible(api_key: i16, version: i16) -> Option<bool> {
    let api = ApiKey::try_from(api_key).ok()?;
    Some(api.request_header_version(version) >= 2)
}

/// Appends the body of the answer to `out`; `None` ends the connection.
pub(crate) fn answer(
    api_key: i16,
    version: i16,
    body: &[u8],
    broker: i32,
    shared: &Shared,
    out: &mut Vec<u8>,
) -> Option<()> {
    let mut body = Bytes::copy_from_slice(body);
    let encoded = match ApiKey::try_from(api_key).ok()? {
        ApiKey::ApiVersions => api_versions(version),
        ApiKey::Metadata => metadata(&MetadataRequest::decode(&mut body, version).ok()?, broker, shared)(version),
        ApiKey::InitProducerId => {
            InitProducerIdRequest::decode(&mut body, version).ok()?;
            let id = shared.topics.producer_ids.fetch_add(1, Ordering::Relaxed);
            encode(&InitProducerIdResponse::default().with_producer_id(ProducerId(1000 + id)), version)
        }
        ApiKey::ListOffsets => encode(&list_offsets(&ListOffsetsRequest::decode(&mut body, version).ok()?), version),
        ApiKey::FindCoordinator => {
            encode(&coordinator(&FindCoordinatorRequest::decode(&mut body, version).ok()?, version, shared), version)
        }
        ApiKey::OffsetFetch => {
            encode(&offset_fetch(&OffsetFetchRequest::decode(&mut body, version).ok()?, version), version)
        }
        ApiKey::OffsetCommit => encode(&offset_commit(&OffsetCommitRequest::decode(&mut body, version).ok()?), version),
        _ => None,
    }?;
    out.extend_from_slice(&encoded);
    Some(())
}

fn encode(message: &impl Encodable, version: i16) -> Option<BytesMut> {
    let mut out = BytesMut::new();
    message.encode(&mut out, version).ok()?;
    Some(out)
}

fn api_versions(version: i16) -> Option<BytesMut> {
    let keys = SUPPORTED
        .iter()
        .map(|(api, min, max)| {
            ApiVersion::default().with_api_key(*api as i16).with_min_version(*min).with_max_version(*max)
        })
        .collect();
    let response = ApiVersionsResponse::default().with_api_keys(keys);
    if version <= 4 {
        return encode(&response, version);
    }
    // UNSUPPORTED_VERSION, in the oldest form, which every client can read.
    encode(&response.with_error_code(35), 0)
}

fn metadata(request: &MetadataRequest, broker: i32, shared: &Shared) -> impl FnOnce(i16) -> Option<BytesMut> {
    let options = &shared.options;
    let brokers = (0..options.brokers)
        .map(|b| {
            MetadataResponseBroker::default()
                .with_node_id(BrokerId(i32::from(b)))
                .with_host(StrBytes::from_static_str("127.0.0.1"))
                .with_port(shared.port_of(b))
        })
        .collect();
    let mut topics = Vec::new();
    for asked in request.topics.iter().flatten() {
        // By name; by id only when the id came from here.
        let name = asked.name.clone().filter(|name| !name.is_empty()).or_else(|| shared.topics.name_of(asked.topic_id));
        let Some(name) = name else {
            topics.push(MetadataResponseTopic::default().with_error_code(100).with_topic_id(asked.topic_id));
            continue;
        };
        let partitions = (0..options.partitions)
            .map(|partition| {
                let leader = BrokerId(options.leader_of(partition));
                MetadataResponsePartition::default()
                    .with_partition_index(partition)
                    .with_leader_id(leader)
                    .with_leader_epoch(0)
                    .with_replica_nodes(vec![leader])
                    .with_isr_nodes(vec![leader])
            })
            .collect();
        let id = shared.topics.id_of(&name);
        topics
            .push(MetadataResponseTopic::default().with_name(Some(name)).with_topic_id(id).with_partitions(partitions));
    }
    let response = MetadataResponse::default()
        .with_brokers(brokers)
        .with_cluster_id(Some(StrBytes::from_static_str("nullbroker")))
        .with_controller_id(BrokerId(broker))
        .with_topics(topics);
    move |version| encode(&before_ids(response, version), version)
}

/// Old versions refuse fields that they do not have.
fn before_ids(mut response: MetadataResponse, version: i16) -> MetadataResponse {
    for topic in &mut response.topics {
        if version < 10 {
            topic.topic_id = Uuid::nil();
        }
        if version < 7 {
            for partition in &mut topic.partitions {
                partition.leader_epoch = -1;
            }
        }
    }
    response
}

fn list_offsets(request: &ListOffsetsRequest) -> ListOffsetsResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            // Everything but the end (−1) and the newest record (−3) is found at the beginning.
            let offset = if matches!(partition.timestamp, -1 | -3) { HIGH_WATERMARK } else { 0 };
            ListOffsetsPartitionResponse::default().with_partition_index(partition.partition_index).with_offset(offset)
        });
        ListOffsetsTopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
    });
    ListOffsetsResponse::default().with_topics(topics.collect())
}

fn coordinator(request: &FindCoordinatorRequest, version: i16, shared: &Shared) -> FindCoordinatorResponse {
    let host = StrBytes::from_static_str("127.0.0.1");
    let port = shared.port_of(0);
    if version < 4 {
        return FindCoordinatorResponse::default().with_node_id(BrokerId(0)).with_host(host).with_port(port);
    }
    let all = request.coordinator_keys.iter().map(|key| {
        Coordinator::default().with_key(key.clone()).with_node_id(BrokerId(0)).with_host(host.clone()).with_port(port)
    });
    FindCoordinatorResponse::default().with_coordinators(all.collect())
}

/// Nothing was ever committed.
fn offset_fetch(request: &OffsetFetchRequest, version: i16) -> OffsetFetchResponse {
    if version < 8 {
        let topics = request.topics.iter().flatten().map(|topic| {
            let partitions = topic.partition_indexes.iter().map(|partition| {
                OffsetFetchResponsePartition::default()
                    .with_partition_index(*partition)
                    .with_committed_offset(-1)
                    .with_metadata(Some(StrBytes::default()))
            });
            OffsetFetchResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
        });
        return OffsetFetchResponse::default().with_topics(topics.collect());
    }
    let groups = request.groups.iter().map(|group| {
        let topics = group.topics.iter().flatten().map(|topic| {
            let partitions = topic.partition_indexes.iter().map(|partition| {
                OffsetFetchResponsePartitions::default()
                    .with_partition_index(*partition)
                    .with_committed_offset(-1)
                    .with_metadata(Some(StrBytes::default()))
            });
            OffsetFetchResponseTopics::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
        });
        OffsetFetchResponseGroup::default().with_group_id(group.group_id.clone()).with_topics(topics.collect())
    });
    OffsetFetchResponse::default().with_groups(groups.collect())
}

/// Every commit is welcome and forgotten.
fn offset_commit(request: &OffsetCommitRequest) -> OffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic
            .partitions
            .iter()
            .map(|partition| OffsetCommitResponsePartition::default().with_partition_index(partition.partition_index));
        OffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}
