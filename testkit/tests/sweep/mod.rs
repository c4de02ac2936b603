//! A request of every kind in every version, most of them twice: one that is served and one that is refused.

#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses its own part of it")]

use crate::common::transactional::Txn;
use crate::common::*;
use bytes::Bytes;
use milena_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTransaction;
use milena_protocol::messages::alter_configs_request::{AlterConfigsResource as Whole, AlterableConfig as Given};
use milena_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use milena_protocol::messages::create_topics_request::CreatableTopic;
use milena_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use milena_protocol::messages::delete_topics_request::DeleteTopicState;
use milena_protocol::messages::describe_configs_request::DescribeConfigsResource;
use milena_protocol::messages::describe_producers_request::TopicRequest;
use milena_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use milena_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use milena_protocol::messages::leave_group_request::MemberIdentity;
use milena_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use milena_protocol::messages::metadata_request::MetadataRequestTopic;
use milena_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use milena_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use milena_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use milena_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use milena_protocol::messages::*;
use milena_protocol::{ApiKey, Message, Request, StrBytes};
use milena_testkit::{Cluster, MemoryStream};

fn text(s: &'static str) -> StrBytes {
    StrBytes::from_static_str(s)
}

fn group() -> GroupId {
    GroupId(text("g"))
}

/// Sends every version and counts the API as seen.
async fn sweep<R: Request>(raw: &mut Raw<MemoryStream>, seen: &mut Vec<ApiKey>, make: impl Fn(i16) -> Vec<R>) {
    for version in <R as Message>::VERSIONS.min..=<R as Message>::VERSIONS.max {
        for request in make(version) {
            raw.call(version, request).await;
        }
    }
    seen.push(R::KEY);
}

/// The transactional id is "g", so that the group's coordinator is its coordinator, too.
async fn sweep_transactions(raw: &mut Raw<MemoryStream>, seen: &mut Vec<ApiKey>) {
    let mut txn = Txn::new("g", true);
    raw.init(&mut txn).await;
    let stranger = Txn { epoch: 99, ..txn.clone() };
    let nobody = Txn::new("nobody", true);
    sweep(raw, seen, |version| {
        let mut requests = Vec::new();
        for who in [&txn, &stranger, &nobody] {
            for topic in ["t", "nothing"] {
                let mut request = who.add_request(&[(topic, 0)]);
                if version >= 4 {
                    let topics = request.v3_and_below_topics;
                    request = AddPartitionsToTxnRequest::default();
                    for verify_only in [false, true] {
                        let one = AddPartitionsToTxnTransaction::default()
                            .with_transactional_id(who.transactional_id())
                            .with_producer_id(ProducerId(who.producer_id))
                            .with_producer_epoch(who.epoch)
                            .with_verify_only(verify_only)
                            .with_topics(topics.clone());
                        request.transactions.push(one);
                    }
                }
                requests.push(request);
            }
        }
        requests
    })
    .await;
    sweep(raw, seen, |_| [&txn, &stranger, &nobody].map(|who| who.add_offsets_request("g")).to_vec()).await;
    sweep(raw, seen, |version| {
        let mut requests = Vec::new();
        for (who, group) in [(&txn, "g"), (&stranger, "g"), (&nobody, "g"), (&txn, ""), (&txn, "other")] {
            for generation in [-1, 5] {
                let mut request = who.offset_request(group, "t", 0, 1);
                if version >= 3 {
                    request.generation_id = generation;
                }
                requests.push(request);
            }
        }
        requests
    })
    .await;
    let ids = vec![txn.transactional_id(), nobody.transactional_id(), Txn::new("", true).transactional_id()];
    sweep(raw, seen, |_| vec![DescribeTransactionsRequest::default().with_transactional_ids(ids.clone())]).await;
    sweep(raw, seen, |_| {
        let topic = |topic| TopicRequest::default().with_name(name(topic)).with_partition_indexes(vec![0, 1, 99]);
        vec![DescribeProducersRequest::default().with_topics(vec![topic("t"), topic("nothing")])]
    })
    .await;
    for version in [0, 1] {
        let filters = vec![text("Ongoing"), text("Nonsense")];
        let listed = raw.call(version, ListTransactionsRequest::default().with_state_filters(filters)).await;
        assert_eq!((listed.transaction_states.len(), listed.unknown_state_filters.len()), (1, 1));
    }
    seen.push(ListTransactionsRequest::KEY);
    sweep(raw, seen, |_| {
        [&txn, &stranger, &nobody].iter().flat_map(|who| [who.end_request(true), who.end_request(false)]).collect()
    })
    .await;
}

/// What a sweep found: the APIs that it called, and its requests as they went over the wire.
pub(crate) type Swept = (Vec<ApiKey>, Vec<Bytes>);

/// Sends everything to a cluster of three brokers with a topic `t` of three partitions. Each request has to be answered.
pub(crate) async fn every_version_of_every_api(cluster: &Cluster) -> Swept {
    let mut find = connect(cluster, 1).await;
    let keys = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")]);
    let coordinator = find.call(4, keys).await.coordinators[0].node_id.0;
    cluster.move_leader("t", 0, coordinator);
    cluster.move_leader("t", 1, coordinator % 3 + 1);
    let mut raw = connect(cluster, coordinator).await;
    raw.record();
    let raw = &mut raw;
    let mut seen = Vec::new();
    let id = raw.call(12, MetadataRequest::default().with_topics(None)).await.topics[0].topic_id;

    sweep(raw, &mut seen, |_| {
        vec![ApiVersionsRequest::default().with_client_software_name(text("x")).with_client_software_version(text("1"))]
    })
    .await;
    sweep(raw, &mut seen, |version| {
        let named = |topic| vec![MetadataRequestTopic::default().with_name(Some(name(topic)))];
        let mut requests = vec![
            MetadataRequest::default().with_topics(Some(named("t"))),
            MetadataRequest::default().with_topics(Some(named("nothing"))),
            MetadataRequest::default().with_topics(Some(named("bad name"))),
        ];
        if version > 0 {
            requests.push(MetadataRequest::default().with_topics(None));
        }
        requests
    })
    .await;
    sweep(raw, &mut seen, |version| {
        let mut requests = Vec::new();
        for (topic, partition, acks) in [("t", 0, -1), ("t", 1, 1), ("nothing", 0, -1), ("t", 0, 7)] {
            let mut request = produce_request(topic, partition, TestBatch::of(&["a"]).bytes(), acks);
            if version >= 13 {
                request.topic_data[0].topic_id = if topic == "t" { id } else { uuid::Uuid::from_u128(5) };
                request.topic_data[0].name = Default::default();
            }
            requests.push(request);
        }
        requests
    })
    .await;
    sweep(raw, &mut seen, |version| {
        let mut requests = Vec::new();
        for (topic, partition, offset) in [("t", 0, 0), ("t", 1, 0), ("nothing", 0, 0), ("t", 0, 999)] {
            for session in [-1, 0, 5] {
                for isolation in [0, 1] {
                    let mut request = fetch_request(&[(topic, partition, offset)]).with_isolation_level(isolation);
                    if version >= 7 {
                        request.session_epoch = session;
                    }
                    if version >= 13 {
                        request.topics[0].topic_id = if topic == "t" { id } else { uuid::Uuid::from_u128(5) };
                        request.topics[0].topic = Default::default();
                    }
                    if version < 12 {
                        request.rack_id = StrBytes::new();
                    }
                    requests.push(request);
                }
            }
        }
        requests
    })
    .await;
    sweep(raw, &mut seen, |_| {
        let one = |topic, partition, timestamp| {
            let p = ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(timestamp);
            let topic = ListOffsetsTopic::default()
                .with_name(name(topic))
                .with_partitions(vec![p.with_current_leader_epoch(-1)]);
            ListOffsetsRequest::default().with_topics(vec![topic])
        };
        vec![one("t", 0, -1), one("t", 0, -2), one("t", 0, 5), one("t", 0, -3), one("t", 1, -1), one("nothing", 0, -1)]
    })
    .await;
    sweep(raw, &mut seen, |_| {
        let one = |topic, partition, epoch| {
            let p = OffsetForLeaderPartition::default().with_partition(partition).with_leader_epoch(epoch);
            let topic = OffsetForLeaderTopic::default()
                .with_topic(name(topic))
                .with_partitions(vec![p.with_current_leader_epoch(-1)]);
            OffsetForLeaderEpochRequest::default().with_topics(vec![topic])
        };
        vec![one("t", 0, 0), one("t", 0, 1), one("t", 0, 9), one("t", 1, 0), one("nothing", 0, 0)]
    })
    .await;
    sweep(raw, &mut seen, |version| {
        let topic = |topic| CreatableTopic::default().with_name(name(topic)).with_num_partitions(1);
        let created: &'static str = Box::leak(format!("c{version}").into_boxed_str());
        let topics = vec![topic(created).with_replication_factor(1), topic("t").with_replication_factor(9)];
        vec![CreateTopicsRequest::default().with_topics(topics)]
    })
    .await;
    sweep(raw, &mut seen, |version| {
        let created: &'static str = Box::leak(format!("c{}", version + 1).into_boxed_str());
        let names = [name(created), name("nothing")];
        if version < 6 {
            return vec![DeleteTopicsRequest::default().with_topic_names(names.to_vec())];
        }
        let mut topics: Vec<_> = names.map(|topic| DeleteTopicState::default().with_name(Some(topic))).to_vec();
        topics.push(DeleteTopicState::default().with_name(None).with_topic_id(uuid::Uuid::from_u128(5)));
        vec![DeleteTopicsRequest::default().with_topics(topics)]
    })
    .await;
    sweep(raw, &mut seen, |version| {
        let topic = |topic, count| CreatePartitionsTopic::default().with_name(name(topic)).with_count(count);
        let topics = vec![
            topic("t", 4 + i32::from(version)).with_assignments(None),
            topic("t", 1).with_assignments(None),
            topic("nothing", 1).with_assignments(None),
        ];
        vec![CreatePartitionsRequest::default().with_topics(topics)]
    })
    .await;
    sweep(raw, &mut seen, |_| {
        let p = |index| DeleteRecordsPartition::default().with_partition_index(index).with_offset(-1);
        let topic = DeleteRecordsTopic::default().with_name(name("t")).with_partitions(vec![p(0), p(1), p(99)]);
        vec![DeleteRecordsRequest::default().with_topics(vec![topic])]
    })
    .await;
    sweep(raw, &mut seen, |_| {
        let resource = |kind, name| {
            DescribeConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(text(name))
                .with_configuration_keys(None)
        };
        let resources = vec![resource(2, "t"), resource(2, "nothing"), resource(4, "1"), resource(99, "")];
        vec![DescribeConfigsRequest::default().with_resources(resources)]
    })
    .await;
    sweep(raw, &mut seen, |_| {
        let config = |operation, value: Option<&'static str>| {
            AlterableConfig::default()
                .with_name(text("cleanup.policy"))
                .with_config_operation(operation)
                .with_value(value.map(text))
        };
        let resource = |name, configs| {
            AlterConfigsResource::default().with_resource_type(2).with_resource_name(text(name)).with_configs(configs)
        };
        let resources = [
            resource("t", vec![config(0, Some("compact"))]),
            resource("t", vec![config(2, Some("delete"))]),
            resource("t", vec![config(0, Some("burn"))]),
            resource("t", vec![config(0, None)]),
            resource("t", vec![config(9, Some("x"))]),
            resource("t", vec![config(1, None), config(1, None)]),
            resource("nothing", vec![config(1, None)]),
            resource("1", vec![]).with_resource_type(4),
        ];
        resources.map(|one| IncrementalAlterConfigsRequest::default().with_resources(vec![one])).to_vec()
    })
    .await;
    assert_eq!(cluster.topic_config("t", "cleanup.policy").as_deref(), Some("compact,delete"));
    sweep(raw, &mut seen, |_| {
        let resource = |kind, name, value: Option<&'static str>| {
            let config = Given::default().with_name(text("cleanup.policy")).with_value(value.map(text));
            Whole::default().with_resource_type(kind).with_resource_name(text(name)).with_configs(vec![config])
        };
        let resources = [
            resource(2, "t", Some("delete")),
            resource(2, "t", Some("burn")),
            resource(2, "nothing", None),
            resource(4, "", Some("1")),
            resource(99, "", None),
        ];
        resources.map(|one| AlterConfigsRequest::default().with_resources(vec![one])).to_vec()
    })
    .await;
    assert_eq!(cluster.topic_config("t", "cleanup.policy").as_deref(), Some("delete"));
    sweep(raw, &mut seen, |_| {
        vec![
            InitProducerIdRequest::default().with_transactional_id(None),
            InitProducerIdRequest::default().with_transactional_id(Some(TransactionalId(text("g")))),
            InitProducerIdRequest::default().with_transactional_id(Some(TransactionalId(text("")))),
        ]
    })
    .await;
    sweep_transactions(raw, &mut seen).await;
    sweep(raw, &mut seen, |_| vec![DescribeClusterRequest::default()]).await;
    sweep(raw, &mut seen, |version| {
        if version >= 4 {
            return vec![FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g"), text("h")])];
        }
        let kind = i8::from(version > 0);
        vec![FindCoordinatorRequest::default().with_key(text("g")).with_key_type(kind)]
    })
    .await;
    sweep(raw, &mut seen, |_| {
        let protocol = JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(Bytes::new());
        let join = JoinGroupRequest::default()
            .with_group_id(group())
            .with_session_timeout_ms(6000)
            .with_rebalance_timeout_ms(6000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        vec![join.clone(), join.clone().with_member_id(text("nobody")), join.with_session_timeout_ms(1)]
    })
    .await;
    sweep(raw, &mut seen, |_| {
        vec![SyncGroupRequest::default().with_group_id(group()).with_protocol_name(None).with_protocol_type(None)]
    })
    .await;
    sweep(raw, &mut seen, |_| vec![HeartbeatRequest::default().with_group_id(group())]).await;
    sweep(raw, &mut seen, |version| {
        let leave = LeaveGroupRequest::default().with_group_id(group());
        if version < 3 {
            return vec![leave.with_member_id(text("nobody"))];
        }
        vec![leave.with_members(vec![MemberIdentity::default().with_member_id(text("nobody"))])]
    })
    .await;
    sweep(raw, &mut seen, |_| {
        let p = OffsetCommitRequestPartition::default().with_committed_offset(1);
        let topic = |topic| OffsetCommitRequestTopic::default().with_name(name(topic)).with_partitions(vec![p.clone()]);
        let commit = |group: &'static str| {
            OffsetCommitRequest::default()
                .with_group_id(GroupId(text(group)))
                .with_generation_id_or_member_epoch(-1)
                .with_topics(vec![topic("t"), topic("nothing")])
        };
        vec![commit("g"), commit("other"), commit("")]
    })
    .await;
    sweep(raw, &mut seen, |version| {
        if version >= 8 {
            let topic = OffsetFetchRequestTopics::default().with_name(name("t")).with_partition_indexes(vec![0, 1]);
            let of = |group: &'static str| OffsetFetchRequestGroup::default().with_group_id(GroupId(text(group)));
            let groups =
                vec![of("g").with_topics(Some(vec![topic])), of("other").with_topics(None), of("").with_topics(None)];
            return vec![OffsetFetchRequest::default().with_groups(groups)];
        }
        let topic = OffsetFetchRequestTopic::default().with_name(name("t")).with_partition_indexes(vec![0, 1]);
        let of = |group: &'static str| OffsetFetchRequest::default().with_group_id(GroupId(text(group)));
        vec![of("g").with_topics(Some(vec![topic.clone()])), of("").with_topics(Some(vec![topic]))]
    })
    .await;
    sweep(raw, &mut seen, |_| {
        vec![DescribeGroupsRequest::default().with_groups(vec![group(), GroupId(text("nothing")), GroupId(text(""))])]
    })
    .await;
    sweep(raw, &mut seen, |_| vec![ListGroupsRequest::default()]).await;
    sweep(raw, &mut seen, |_| {
        let p = |index| OffsetDeleteRequestPartition::default().with_partition_index(index);
        let topic = OffsetDeleteRequestTopic::default().with_name(name("t")).with_partitions(vec![p(0), p(99)]);
        let of = |group: &'static str| OffsetDeleteRequest::default().with_group_id(GroupId(text(group)));
        vec![of("g").with_topics(vec![topic.clone()]), of("nothing").with_topics(vec![topic.clone()]), of("")]
    })
    .await;
    sweep(raw, &mut seen, |_| vec![DeleteGroupsRequest::default().with_groups_names(vec![group()])]).await;

    seen.sort();
    (seen, raw.recorded())
}
