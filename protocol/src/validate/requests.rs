//! The shapes of requests, as the message definitions of Kafka 4.3.0 have them.
//!
//! Written by `cargo xtask schema`; do not edit. `mod.rs` says what the words mean.

use super::Kind::{Array, Bytes, String, Struct};
use super::shape::{LAST, field, structure};
use super::{Kind, Message};

const BOOL: Kind = Kind::Fixed(1);
const I8: Kind = Kind::Fixed(1);
const I16: Kind = Kind::Fixed(2);
const I32: Kind = Kind::Fixed(4);
const I64: Kind = Kind::Fixed(8);
const UUID: Kind = Kind::Fixed(16);

pub(super) static MESSAGES: [Message; 34] = [
    Message { api_key: 0, name: "ProduceRequest", versions: (3, 13), flexible: 9, root: structure(88, &[
        field("TransactionalId", 3, LAST, String).nullable(3, LAST),
        field("Acks", 0, LAST, I16),
        field("TimeoutMs", 0, LAST, I32),
        field("TopicData", 0, LAST, Array(&Struct(&structure(96, &[
            field("Name", 0, 12, String),
            field("TopicId", 13, LAST, UUID),
            field("PartitionData", 0, LAST, Array(&Struct(&structure(64, &[
                field("Index", 0, LAST, I32),
                field("Records", 0, LAST, Bytes).nullable(0, LAST),
            ])))),
        ])))),
    ]) },
    Message { api_key: 1, name: "FetchRequest", versions: (4, 18), flexible: 12, root: structure(208, &[
        field("ClusterId", 12, LAST, String).nullable(12, LAST).tagged(0, 12, LAST),
        field("ReplicaId", 0, 14, I32),
        field("ReplicaState", 15, LAST, Struct(&structure(40, &[
            field("ReplicaId", 15, LAST, I32),
            field("ReplicaEpoch", 15, LAST, I64),
        ]))).tagged(1, 15, LAST),
        field("MaxWaitMs", 0, LAST, I32),
        field("MinBytes", 0, LAST, I32),
        field("MaxBytes", 3, LAST, I32),
        field("IsolationLevel", 4, LAST, I8),
        field("SessionId", 7, LAST, I32),
        field("SessionEpoch", 7, LAST, I32),
        field("Topics", 0, LAST, Array(&Struct(&structure(96, &[
            field("Topic", 0, 12, String),
            field("TopicId", 13, LAST, UUID),
            field("Partitions", 0, LAST, Array(&Struct(&structure(80, &[
                field("Partition", 0, LAST, I32),
                field("CurrentLeaderEpoch", 9, LAST, I32),
                field("FetchOffset", 0, LAST, I64),
                field("LastFetchedEpoch", 12, LAST, I32),
                field("LogStartOffset", 5, LAST, I64),
                field("PartitionMaxBytes", 0, LAST, I32),
                field("ReplicaDirectoryId", 17, LAST, UUID).tagged(0, 17, LAST),
                field("HighWatermark", 18, LAST, I64).tagged(1, 18, LAST),
            ])))),
        ])))),
        field("ForgottenTopicsData", 7, LAST, Array(&Struct(&structure(96, &[
            field("Topic", 7, 12, String),
            field("TopicId", 13, LAST, UUID),
            field("Partitions", 7, LAST, Array(&I32)),
        ])))),
        field("RackId", 11, LAST, String),
    ]) },
    Message { api_key: 2, name: "ListOffsetsRequest", versions: (1, 11), flexible: 6, root: structure(64, &[
        field("ReplicaId", 0, LAST, I32),
        field("IsolationLevel", 2, LAST, I8),
        field("Topics", 0, LAST, Array(&Struct(&structure(80, &[
            field("Name", 0, LAST, String),
            field("Partitions", 0, LAST, Array(&Struct(&structure(40, &[
                field("PartitionIndex", 0, LAST, I32),
                field("CurrentLeaderEpoch", 4, LAST, I32),
                field("Timestamp", 0, LAST, I64),
            ])))),
        ])))),
        field("TimeoutMs", 10, LAST, I32),
    ]) },
    Message { api_key: 3, name: "MetadataRequest", versions: (0, 13), flexible: 9, root: structure(56, &[
        field("Topics", 0, LAST, Array(&Struct(&structure(72, &[
            field("TopicId", 10, LAST, UUID),
            field("Name", 0, LAST, String).nullable(10, LAST),
        ])))).nullable(1, LAST),
        field("AllowAutoTopicCreation", 4, LAST, BOOL),
        field("IncludeClusterAuthorizedOperations", 8, 10, BOOL),
        field("IncludeTopicAuthorizedOperations", 8, LAST, BOOL),
    ]) },
    Message { api_key: 8, name: "OffsetCommitRequest", versions: (2, 10), flexible: 8, root: structure(160, &[
        field("GroupId", 0, LAST, String),
        field("GenerationIdOrMemberEpoch", 1, LAST, I32),
        field("MemberId", 1, LAST, String),
        field("GroupInstanceId", 7, LAST, String).nullable(7, LAST),
        field("RetentionTimeMs", 2, 4, I64),
        field("Topics", 0, LAST, Array(&Struct(&structure(96, &[
            field("Name", 0, 9, String),
            field("TopicId", 10, LAST, UUID),
            field("Partitions", 0, LAST, Array(&Struct(&structure(72, &[
                field("PartitionIndex", 0, LAST, I32),
                field("CommittedOffset", 0, LAST, I64),
                field("CommittedLeaderEpoch", 6, LAST, I32),
                field("CommittedMetadata", 0, LAST, String).nullable(0, LAST),
            ])))),
        ])))),
    ]) },
    Message { api_key: 9, name: "OffsetFetchRequest", versions: (1, 10), flexible: 6, root: structure(112, &[
        field("GroupId", 0, 7, String),
        field("Topics", 0, 7, Array(&Struct(&structure(80, &[
            field("Name", 0, 7, String),
            field("PartitionIndexes", 0, 7, Array(&I32)),
        ])))).nullable(2, 7),
        field("Groups", 8, LAST, Array(&Struct(&structure(120, &[
            field("GroupId", 8, LAST, String),
            field("MemberId", 9, LAST, String).nullable(9, LAST),
            field("MemberEpoch", 9, LAST, I32),
            field("Topics", 8, LAST, Array(&Struct(&structure(96, &[
                field("Name", 8, 9, String),
                field("TopicId", 10, LAST, UUID),
                field("PartitionIndexes", 8, LAST, Array(&I32)),
            ])))).nullable(8, LAST),
        ])))),
        field("RequireStable", 7, LAST, BOOL),
    ]) },
    Message { api_key: 10, name: "FindCoordinatorRequest", versions: (0, 6), flexible: 3, root: structure(88, &[
        field("Key", 0, 3, String),
        field("KeyType", 1, LAST, I8),
        field("CoordinatorKeys", 4, LAST, Array(&String)),
    ]) },
    Message { api_key: 11, name: "JoinGroupRequest", versions: (0, 9), flexible: 6, root: structure(216, &[
        field("GroupId", 0, LAST, String),
        field("SessionTimeoutMs", 0, LAST, I32),
        field("RebalanceTimeoutMs", 1, LAST, I32),
        field("MemberId", 0, LAST, String),
        field("GroupInstanceId", 5, LAST, String).nullable(5, LAST),
        field("ProtocolType", 0, LAST, String),
        field("Protocols", 0, LAST, Array(&Struct(&structure(88, &[
            field("Name", 0, LAST, String),
            field("Metadata", 0, LAST, Bytes),
        ])))),
        field("Reason", 8, LAST, String).nullable(8, LAST),
    ]) },
    Message { api_key: 12, name: "HeartbeatRequest", versions: (0, 4), flexible: 4, root: structure(128, &[
        field("GroupId", 0, LAST, String),
        field("GenerationId", 0, LAST, I32),
        field("MemberId", 0, LAST, String),
        field("GroupInstanceId", 3, LAST, String).nullable(3, LAST),
    ]) },
    Message { api_key: 13, name: "LeaveGroupRequest", versions: (0, 5), flexible: 4, root: structure(112, &[
        field("GroupId", 0, LAST, String),
        field("MemberId", 0, 2, String),
        field("Members", 3, LAST, Array(&Struct(&structure(120, &[
            field("MemberId", 3, LAST, String),
            field("GroupInstanceId", 3, LAST, String).nullable(3, LAST),
            field("Reason", 5, LAST, String).nullable(5, LAST),
        ])))),
    ]) },
    Message { api_key: 14, name: "SyncGroupRequest", versions: (0, 5), flexible: 4, root: structure(216, &[
        field("GroupId", 0, LAST, String),
        field("GenerationId", 0, LAST, I32),
        field("MemberId", 0, LAST, String),
        field("GroupInstanceId", 3, LAST, String).nullable(3, LAST),
        field("ProtocolType", 5, LAST, String).nullable(5, LAST),
        field("ProtocolName", 5, LAST, String).nullable(5, LAST),
        field("Assignments", 0, LAST, Array(&Struct(&structure(88, &[
            field("MemberId", 0, LAST, String),
            field("Assignment", 0, LAST, Bytes),
        ])))),
    ]) },
    Message { api_key: 15, name: "DescribeGroupsRequest", versions: (0, 6), flexible: 5, root: structure(56, &[
        field("Groups", 0, LAST, Array(&String)),
        field("IncludeAuthorizedOperations", 3, LAST, BOOL),
    ]) },
    Message { api_key: 16, name: "ListGroupsRequest", versions: (0, 5), flexible: 3, root: structure(72, &[
        field("StatesFilter", 4, LAST, Array(&String)),
        field("TypesFilter", 5, LAST, Array(&String)),
    ]) },
    Message { api_key: 18, name: "ApiVersionsRequest", versions: (0, 4), flexible: 3, root: structure(88, &[
        field("ClientSoftwareName", 3, LAST, String),
        field("ClientSoftwareVersion", 3, LAST, String),
    ]) },
    Message { api_key: 19, name: "CreateTopicsRequest", versions: (2, 7), flexible: 5, root: structure(56, &[
        field("Topics", 0, LAST, Array(&Struct(&structure(112, &[
            field("Name", 0, LAST, String),
            field("NumPartitions", 0, LAST, I32),
            field("ReplicationFactor", 0, LAST, I16),
            field("Assignments", 0, LAST, Array(&Struct(&structure(56, &[
                field("PartitionIndex", 0, LAST, I32),
                field("BrokerIds", 0, LAST, Array(&I32)),
            ])))),
            field("Configs", 0, LAST, Array(&Struct(&structure(88, &[
                field("Name", 0, LAST, String),
                field("Value", 0, LAST, String).nullable(0, LAST),
            ])))),
        ])))),
        field("timeoutMs", 0, LAST, I32),
        field("validateOnly", 1, LAST, BOOL),
    ]) },
    Message { api_key: 20, name: "DeleteTopicsRequest", versions: (1, 6), flexible: 4, root: structure(80, &[
        field("Topics", 6, LAST, Array(&Struct(&structure(72, &[
            field("Name", 6, LAST, String).nullable(6, LAST),
            field("TopicId", 6, LAST, UUID),
        ])))),
        field("TopicNames", 0, 5, Array(&String)),
        field("TimeoutMs", 0, LAST, I32),
    ]) },
    Message { api_key: 21, name: "DeleteRecordsRequest", versions: (0, 2), flexible: 2, root: structure(56, &[
        field("Topics", 0, LAST, Array(&Struct(&structure(80, &[
            field("Name", 0, LAST, String),
            field("Partitions", 0, LAST, Array(&Struct(&structure(40, &[
                field("PartitionIndex", 0, LAST, I32),
                field("Offset", 0, LAST, I64),
            ])))),
        ])))),
        field("TimeoutMs", 0, LAST, I32),
    ]) },
    Message { api_key: 22, name: "InitProducerIdRequest", versions: (0, 6), flexible: 2, root: structure(72, &[
        field("TransactionalId", 0, LAST, String).nullable(0, LAST),
        field("TransactionTimeoutMs", 0, LAST, I32),
        field("ProducerId", 3, LAST, I64),
        field("ProducerEpoch", 3, LAST, I16),
        field("Enable2Pc", 6, LAST, BOOL),
        field("KeepPreparedTxn", 6, LAST, BOOL),
    ]) },
    Message { api_key: 23, name: "OffsetForLeaderEpochRequest", versions: (2, 4), flexible: 4, root: structure(56, &[
        field("ReplicaId", 3, LAST, I32),
        field("Topics", 0, LAST, Array(&Struct(&structure(80, &[
            field("Topic", 0, LAST, String),
            field("Partitions", 0, LAST, Array(&Struct(&structure(40, &[
                field("Partition", 0, LAST, I32),
                field("CurrentLeaderEpoch", 2, LAST, I32),
                field("LeaderEpoch", 0, LAST, I32),
            ])))),
        ])))),
    ]) },
    Message { api_key: 24, name: "AddPartitionsToTxnRequest", versions: (0, 5), flexible: 3, root: structure(120, &[
        field("Transactions", 4, LAST, Array(&Struct(&structure(96, &[
            field("TransactionalId", 4, LAST, String),
            field("ProducerId", 4, LAST, I64),
            field("ProducerEpoch", 4, LAST, I16),
            field("VerifyOnly", 4, LAST, BOOL),
            field("Topics", 4, LAST, Array(&Struct(&structure(80, &[
                field("Name", 0, LAST, String),
                field("Partitions", 0, LAST, Array(&I32)),
            ])))),
        ])))),
        field("V3AndBelowTransactionalId", 0, 3, String),
        field("V3AndBelowProducerId", 0, 3, I64),
        field("V3AndBelowProducerEpoch", 0, 3, I16),
        field("V3AndBelowTopics", 0, 3, Array(&Struct(&structure(80, &[
            field("Name", 0, LAST, String),
            field("Partitions", 0, LAST, Array(&I32)),
        ])))),
    ]) },
    Message { api_key: 25, name: "AddOffsetsToTxnRequest", versions: (0, 4), flexible: 3, root: structure(104, &[
        field("TransactionalId", 0, LAST, String),
        field("ProducerId", 0, LAST, I64),
        field("ProducerEpoch", 0, LAST, I16),
        field("GroupId", 0, LAST, String),
    ]) },
    Message { api_key: 26, name: "EndTxnRequest", versions: (0, 5), flexible: 3, root: structure(72, &[
        field("TransactionalId", 0, LAST, String),
        field("ProducerId", 0, LAST, I64),
        field("ProducerEpoch", 0, LAST, I16),
        field("Committed", 0, LAST, BOOL),
    ]) },
    Message { api_key: 28, name: "TxnOffsetCommitRequest", versions: (0, 5), flexible: 3, root: structure(192, &[
        field("TransactionalId", 0, LAST, String),
        field("GroupId", 0, LAST, String),
        field("ProducerId", 0, LAST, I64),
        field("ProducerEpoch", 0, LAST, I16),
        field("GenerationId", 3, LAST, I32),
        field("MemberId", 3, LAST, String),
        field("GroupInstanceId", 3, LAST, String).nullable(3, LAST),
        field("Topics", 0, LAST, Array(&Struct(&structure(80, &[
            field("Name", 0, LAST, String),
            field("Partitions", 0, LAST, Array(&Struct(&structure(72, &[
                field("PartitionIndex", 0, LAST, I32),
                field("CommittedOffset", 0, LAST, I64),
                field("CommittedLeaderEpoch", 2, LAST, I32),
                field("CommittedMetadata", 0, LAST, String).nullable(0, LAST),
            ])))),
        ])))),
    ]) },
    Message { api_key: 32, name: "DescribeConfigsRequest", versions: (1, 4), flexible: 4, root: structure(56, &[
        field("Resources", 0, LAST, Array(&Struct(&structure(88, &[
            field("ResourceType", 0, LAST, I8),
            field("ResourceName", 0, LAST, String),
            field("ConfigurationKeys", 0, LAST, Array(&String)).nullable(0, LAST),
        ])))),
        field("IncludeSynonyms", 1, LAST, BOOL),
        field("IncludeDocumentation", 3, LAST, BOOL),
    ]) },
    Message { api_key: 33, name: "AlterConfigsRequest", versions: (0, 2), flexible: 2, root: structure(56, &[
        field("Resources", 0, LAST, Array(&Struct(&structure(88, &[
            field("ResourceType", 0, LAST, I8),
            field("ResourceName", 0, LAST, String),
            field("Configs", 0, LAST, Array(&Struct(&structure(88, &[
                field("Name", 0, LAST, String),
                field("Value", 0, LAST, String).nullable(0, LAST),
            ])))),
        ])))),
        field("ValidateOnly", 0, LAST, BOOL),
    ]) },
    Message { api_key: 37, name: "CreatePartitionsRequest", versions: (0, 3), flexible: 2, root: structure(56, &[
        field("Topics", 0, LAST, Array(&Struct(&structure(88, &[
            field("Name", 0, LAST, String),
            field("Count", 0, LAST, I32),
            field("Assignments", 0, LAST, Array(&Struct(&structure(48, &[
                field("BrokerIds", 0, LAST, Array(&I32)),
            ])))).nullable(0, LAST),
        ])))),
        field("TimeoutMs", 0, LAST, I32),
        field("ValidateOnly", 0, LAST, BOOL),
    ]) },
    Message { api_key: 42, name: "DeleteGroupsRequest", versions: (0, 2), flexible: 2, root: structure(48, &[
        field("GroupsNames", 0, LAST, Array(&String)),
    ]) },
    Message { api_key: 44, name: "IncrementalAlterConfigsRequest", versions: (0, 1), flexible: 1, root: structure(56, &[
        field("Resources", 0, LAST, Array(&Struct(&structure(88, &[
            field("ResourceType", 0, LAST, I8),
            field("ResourceName", 0, LAST, String),
            field("Configs", 0, LAST, Array(&Struct(&structure(96, &[
                field("Name", 0, LAST, String),
                field("ConfigOperation", 0, LAST, I8),
                field("Value", 0, LAST, String).nullable(0, LAST),
            ])))),
        ])))),
        field("ValidateOnly", 0, LAST, BOOL),
    ]) },
    Message { api_key: 47, name: "OffsetDeleteRequest", versions: (0, 0), flexible: LAST, root: structure(56, &[
        field("GroupId", 0, LAST, String),
        field("Topics", 0, LAST, Array(&Struct(&structure(56, &[
            field("Name", 0, LAST, String),
            field("Partitions", 0, LAST, Array(&Struct(&structure(8, &[
                field("PartitionIndex", 0, LAST, I32),
            ])))),
        ])))),
    ]) },
    Message { api_key: 60, name: "DescribeClusterRequest", versions: (0, 2), flexible: 0, root: structure(32, &[
        field("IncludeClusterAuthorizedOperations", 0, LAST, BOOL),
        field("EndpointType", 1, LAST, I8),
        field("IncludeFencedBrokers", 2, LAST, BOOL),
    ]) },
    Message { api_key: 61, name: "DescribeProducersRequest", versions: (0, 0), flexible: 0, root: structure(48, &[
        field("Topics", 0, LAST, Array(&Struct(&structure(80, &[
            field("Name", 0, LAST, String),
            field("PartitionIndexes", 0, LAST, Array(&I32)),
        ])))),
    ]) },
    Message { api_key: 65, name: "DescribeTransactionsRequest", versions: (0, 0), flexible: 0, root: structure(48, &[
        field("TransactionalIds", 0, LAST, Array(&String)),
    ]) },
    Message { api_key: 66, name: "ListTransactionsRequest", versions: (0, 2), flexible: 0, root: structure(112, &[
        field("StateFilters", 0, LAST, Array(&String)),
        field("ProducerIdFilters", 0, LAST, Array(&I64)),
        field("DurationFilter", 1, LAST, I64),
        field("TransactionalIdPattern", 2, LAST, String).nullable(2, LAST),
    ]) },
    Message { api_key: 68, name: "ConsumerGroupHeartbeatRequest", versions: (0, 1), flexible: 0, root: structure(272, &[
        field("GroupId", 0, LAST, String),
        field("MemberId", 0, LAST, String),
        field("MemberEpoch", 0, LAST, I32),
        field("InstanceId", 0, LAST, String).nullable(0, LAST),
        field("RackId", 0, LAST, String).nullable(0, LAST),
        field("RebalanceTimeoutMs", 0, LAST, I32),
        field("SubscribedTopicNames", 0, LAST, Array(&String)).nullable(0, LAST),
        field("SubscribedTopicRegex", 1, LAST, String).nullable(1, LAST),
        field("ServerAssignor", 0, LAST, String).nullable(0, LAST),
        field("TopicPartitions", 0, LAST, Array(&Struct(&structure(64, &[
            field("TopicId", 0, LAST, UUID),
            field("Partitions", 0, LAST, Array(&I32)),
        ])))).nullable(0, LAST),
    ]) },
];
