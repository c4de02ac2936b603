//! The shapes of responses, as the message definitions of Kafka 4.3.0 have them.
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
    Message { api_key: 0, name: "ProduceResponse", versions: (3, 13), flexible: 9, root: structure(80, &[
        field("Responses", 0, LAST, Array(&Struct(&structure(96, &[
            field("Name", 0, 12, String),
            field("TopicId", 13, LAST, UUID),
            field("PartitionResponses", 0, LAST, Array(&Struct(&structure(144, &[
                field("Index", 0, LAST, I32),
                field("ErrorCode", 0, LAST, I16),
                field("BaseOffset", 0, LAST, I64),
                field("LogAppendTimeMs", 2, LAST, I64),
                field("LogStartOffset", 5, LAST, I64),
                field("RecordErrors", 8, LAST, Array(&Struct(&structure(64, &[
                    field("BatchIndex", 8, LAST, I32),
                    field("BatchIndexErrorMessage", 8, LAST, String).nullable(8, LAST),
                ])))),
                field("ErrorMessage", 8, LAST, String).nullable(8, LAST),
                field("CurrentLeader", 10, LAST, Struct(&structure(32, &[
                    field("LeaderId", 10, LAST, I32),
                    field("LeaderEpoch", 10, LAST, I32),
                ]))).tagged(0, 10, LAST),
            ])))),
        ])))),
        field("ThrottleTimeMs", 1, LAST, I32),
        field("NodeEndpoints", 10, LAST, Array(&Struct(&structure(96, &[
            field("NodeId", 10, LAST, I32),
            field("Host", 10, LAST, String),
            field("Port", 10, LAST, I32),
            field("Rack", 10, LAST, String).nullable(10, LAST),
        ])))).tagged(0, 10, LAST),
    ]) },
    Message { api_key: 1, name: "FetchResponse", versions: (4, 18), flexible: 12, root: structure(88, &[
        field("ThrottleTimeMs", 1, LAST, I32),
        field("ErrorCode", 7, LAST, I16),
        field("SessionId", 7, LAST, I32),
        field("Responses", 0, LAST, Array(&Struct(&structure(96, &[
            field("Topic", 0, 12, String),
            field("TopicId", 13, LAST, UUID),
            field("Partitions", 0, LAST, Array(&Struct(&structure(232, &[
                field("PartitionIndex", 0, LAST, I32),
                field("ErrorCode", 0, LAST, I16),
                field("HighWatermark", 0, LAST, I64),
                field("LastStableOffset", 4, LAST, I64),
                field("LogStartOffset", 5, LAST, I64),
                field("DivergingEpoch", 12, LAST, Struct(&structure(40, &[
                    field("Epoch", 12, LAST, I32),
                    field("EndOffset", 12, LAST, I64),
                ]))).tagged(0, 12, LAST),
                field("CurrentLeader", 12, LAST, Struct(&structure(32, &[
                    field("LeaderId", 12, LAST, I32),
                    field("LeaderEpoch", 12, LAST, I32),
                ]))).tagged(1, 12, LAST),
                field("SnapshotId", 12, LAST, Struct(&structure(40, &[
                    field("EndOffset", 0, LAST, I64),
                    field("Epoch", 0, LAST, I32),
                ]))).tagged(2, 12, LAST),
                field("AbortedTransactions", 4, LAST, Array(&Struct(&structure(40, &[
                    field("ProducerId", 4, LAST, I64),
                    field("FirstOffset", 4, LAST, I64),
                ])))).nullable(4, LAST),
                field("PreferredReadReplica", 11, LAST, I32),
                field("Records", 0, LAST, Bytes).nullable(0, LAST),
            ])))),
        ])))),
        field("NodeEndpoints", 16, LAST, Array(&Struct(&structure(96, &[
            field("NodeId", 16, LAST, I32),
            field("Host", 16, LAST, String),
            field("Port", 16, LAST, I32),
            field("Rack", 16, LAST, String).nullable(16, LAST),
        ])))).tagged(0, 16, LAST),
    ]) },
    Message { api_key: 2, name: "ListOffsetsResponse", versions: (1, 11), flexible: 6, root: structure(56, &[
        field("ThrottleTimeMs", 2, LAST, I32),
        field("Topics", 0, LAST, Array(&Struct(&structure(80, &[
            field("Name", 0, LAST, String),
            field("Partitions", 0, LAST, Array(&Struct(&structure(56, &[
                field("PartitionIndex", 0, LAST, I32),
                field("ErrorCode", 0, LAST, I16),
                field("Timestamp", 1, LAST, I64),
                field("Offset", 1, LAST, I64),
                field("LeaderEpoch", 4, LAST, I32),
            ])))),
        ])))),
    ]) },
    Message { api_key: 3, name: "MetadataResponse", versions: (0, 13), flexible: 9, root: structure(120, &[
        field("ThrottleTimeMs", 3, LAST, I32),
        field("Brokers", 0, LAST, Array(&Struct(&structure(96, &[
            field("NodeId", 0, LAST, I32),
            field("Host", 0, LAST, String),
            field("Port", 0, LAST, I32),
            field("Rack", 1, LAST, String).nullable(1, LAST),
        ])))),
        field("ClusterId", 2, LAST, String).nullable(2, LAST),
        field("ControllerId", 1, LAST, I32),
        field("Topics", 0, LAST, Array(&Struct(&structure(104, &[
            field("ErrorCode", 0, LAST, I16),
            field("Name", 0, LAST, String).nullable(12, LAST),
            field("TopicId", 10, LAST, UUID),
            field("IsInternal", 1, LAST, BOOL),
            field("Partitions", 0, LAST, Array(&Struct(&structure(112, &[
                field("ErrorCode", 0, LAST, I16),
                field("PartitionIndex", 0, LAST, I32),
                field("LeaderId", 0, LAST, I32),
                field("LeaderEpoch", 7, LAST, I32),
                field("ReplicaNodes", 0, LAST, Array(&I32)),
                field("IsrNodes", 0, LAST, Array(&I32)),
                field("OfflineReplicas", 5, LAST, Array(&I32)),
            ])))),
            field("TopicAuthorizedOperations", 8, LAST, I32),
        ])))),
        field("ClusterAuthorizedOperations", 8, 10, I32),
        field("ErrorCode", 13, LAST, I16),
    ]) },
    Message { api_key: 8, name: "OffsetCommitResponse", versions: (2, 10), flexible: 8, root: structure(56, &[
        field("ThrottleTimeMs", 3, LAST, I32),
        field("Topics", 0, LAST, Array(&Struct(&structure(96, &[
            field("Name", 0, 9, String),
            field("TopicId", 10, LAST, UUID),
            field("Partitions", 0, LAST, Array(&Struct(&structure(32, &[
                field("PartitionIndex", 0, LAST, I32),
                field("ErrorCode", 0, LAST, I16),
            ])))),
        ])))),
    ]) },
    Message { api_key: 9, name: "OffsetFetchResponse", versions: (1, 10), flexible: 6, root: structure(80, &[
        field("ThrottleTimeMs", 3, LAST, I32),
        field("Topics", 0, 7, Array(&Struct(&structure(80, &[
            field("Name", 0, 7, String),
            field("Partitions", 0, 7, Array(&Struct(&structure(80, &[
                field("PartitionIndex", 0, 7, I32),
                field("CommittedOffset", 0, 7, I64),
                field("CommittedLeaderEpoch", 5, 7, I32),
                field("Metadata", 0, 7, String).nullable(0, 7),
                field("ErrorCode", 0, 7, I16),
            ])))),
        ])))),
        field("ErrorCode", 2, 7, I16),
        field("Groups", 8, LAST, Array(&Struct(&structure(88, &[
            field("GroupId", 8, LAST, String),
            field("Topics", 8, LAST, Array(&Struct(&structure(96, &[
                field("Name", 8, 9, String),
                field("TopicId", 10, LAST, UUID),
                field("Partitions", 8, LAST, Array(&Struct(&structure(80, &[
                    field("PartitionIndex", 8, LAST, I32),
                    field("CommittedOffset", 8, LAST, I64),
                    field("CommittedLeaderEpoch", 8, LAST, I32),
                    field("Metadata", 8, LAST, String).nullable(8, LAST),
                    field("ErrorCode", 8, LAST, I16),
                ])))),
            ])))),
            field("ErrorCode", 8, LAST, I16),
        ])))),
    ]) },
    Message { api_key: 10, name: "FindCoordinatorResponse", versions: (0, 6), flexible: 3, root: structure(128, &[
        field("ThrottleTimeMs", 1, LAST, I32),
        field("ErrorCode", 0, 3, I16),
        field("ErrorMessage", 1, 3, String).nullable(1, 3),
        field("NodeId", 0, 3, I32),
        field("Host", 0, 3, String),
        field("Port", 0, 3, I32),
        field("Coordinators", 4, LAST, Array(&Struct(&structure(136, &[
            field("Key", 4, LAST, String),
            field("NodeId", 4, LAST, I32),
            field("Host", 4, LAST, String),
            field("Port", 4, LAST, I32),
            field("ErrorCode", 4, LAST, I16),
            field("ErrorMessage", 4, LAST, String).nullable(4, LAST),
        ])))),
    ]) },
    Message { api_key: 11, name: "JoinGroupResponse", versions: (0, 9), flexible: 6, root: structure(192, &[
        field("ThrottleTimeMs", 2, LAST, I32),
        field("ErrorCode", 0, LAST, I16),
        field("GenerationId", 0, LAST, I32),
        field("ProtocolType", 7, LAST, String).nullable(7, LAST),
        field("ProtocolName", 0, LAST, String).nullable(7, LAST),
        field("Leader", 0, LAST, String),
        field("SkipAssignment", 9, LAST, BOOL),
        field("MemberId", 0, LAST, String),
        field("Members", 0, LAST, Array(&Struct(&structure(120, &[
            field("MemberId", 0, LAST, String),
            field("GroupInstanceId", 5, LAST, String).nullable(5, LAST),
            field("Metadata", 0, LAST, Bytes),
        ])))),
    ]) },
    Message { api_key: 12, name: "HeartbeatResponse", versions: (0, 4), flexible: 4, root: structure(32, &[
        field("ThrottleTimeMs", 1, LAST, I32),
        field("ErrorCode", 0, LAST, I16),
    ]) },
    Message { api_key: 13, name: "LeaveGroupResponse", versions: (0, 5), flexible: 4, root: structure(56, &[
        field("ThrottleTimeMs", 1, LAST, I32),
        field("ErrorCode", 0, LAST, I16),
        field("Members", 3, LAST, Array(&Struct(&structure(96, &[
            field("MemberId", 3, LAST, String),
            field("GroupInstanceId", 3, LAST, String).nullable(3, LAST),
            field("ErrorCode", 3, LAST, I16),
        ])))),
    ]) },
    Message { api_key: 14, name: "SyncGroupResponse", versions: (0, 5), flexible: 4, root: structure(128, &[
        field("ThrottleTimeMs", 1, LAST, I32),
        field("ErrorCode", 0, LAST, I16),
        field("ProtocolType", 5, LAST, String).nullable(5, LAST),
        field("ProtocolName", 5, LAST, String).nullable(5, LAST),
        field("Assignment", 0, LAST, Bytes),
    ]) },
    Message { api_key: 15, name: "DescribeGroupsResponse", versions: (0, 6), flexible: 5, root: structure(56, &[
        field("ThrottleTimeMs", 1, LAST, I32),
        field("Groups", 0, LAST, Array(&Struct(&structure(216, &[
            field("ErrorCode", 0, LAST, I16),
            field("ErrorMessage", 6, LAST, String).nullable(6, LAST),
            field("GroupId", 0, LAST, String),
            field("GroupState", 0, LAST, String),
            field("ProtocolType", 0, LAST, String),
            field("ProtocolData", 0, LAST, String),
            field("Members", 0, LAST, Array(&Struct(&structure(216, &[
                field("MemberId", 0, LAST, String),
                field("GroupInstanceId", 4, LAST, String).nullable(4, LAST),
                field("ClientId", 0, LAST, String),
                field("ClientHost", 0, LAST, String),
                field("MemberMetadata", 0, LAST, Bytes),
                field("MemberAssignment", 0, LAST, Bytes),
            ])))),
            field("AuthorizedOperations", 3, LAST, I32),
        ])))),
    ]) },
    Message { api_key: 16, name: "ListGroupsResponse", versions: (0, 5), flexible: 3, root: structure(56, &[
        field("ThrottleTimeMs", 1, LAST, I32),
        field("ErrorCode", 0, LAST, I16),
        field("Groups", 0, LAST, Array(&Struct(&structure(152, &[
            field("GroupId", 0, LAST, String),
            field("ProtocolType", 0, LAST, String),
            field("GroupState", 4, LAST, String),
            field("GroupType", 5, LAST, String),
        ])))),
    ]) },
    Message { api_key: 18, name: "ApiVersionsResponse", versions: (0, 4), flexible: 3, root: structure(112, &[
        field("ErrorCode", 0, LAST, I16),
        field("ApiKeys", 0, LAST, Array(&Struct(&structure(32, &[
            field("ApiKey", 0, LAST, I16),
            field("MinVersion", 0, LAST, I16),
            field("MaxVersion", 0, LAST, I16),
        ])))),
        field("ThrottleTimeMs", 1, LAST, I32),
        field("SupportedFeatures", 3, LAST, Array(&Struct(&structure(64, &[
            field("Name", 3, LAST, String),
            field("MinVersion", 3, LAST, I16),
            field("MaxVersion", 3, LAST, I16),
        ])))).tagged(0, 3, LAST),
        field("FinalizedFeaturesEpoch", 3, LAST, I64).tagged(1, 3, LAST),
        field("FinalizedFeatures", 3, LAST, Array(&Struct(&structure(64, &[
            field("Name", 3, LAST, String),
            field("MaxVersionLevel", 3, LAST, I16),
            field("MinVersionLevel", 3, LAST, I16),
        ])))).tagged(2, 3, LAST),
        field("ZkMigrationReady", 3, LAST, BOOL).tagged(3, 3, LAST),
    ]) },
    Message { api_key: 19, name: "CreateTopicsResponse", versions: (2, 7), flexible: 5, root: structure(56, &[
        field("ThrottleTimeMs", 2, LAST, I32),
        field("Topics", 0, LAST, Array(&Struct(&structure(144, &[
            field("Name", 0, LAST, String),
            field("TopicId", 7, LAST, UUID),
            field("ErrorCode", 0, LAST, I16),
            field("ErrorMessage", 1, LAST, String).nullable(0, LAST),
            field("TopicConfigErrorCode", 5, LAST, I16).tagged(0, 5, LAST),
            field("NumPartitions", 5, LAST, I32),
            field("ReplicationFactor", 5, LAST, I16),
            field("Configs", 5, LAST, Array(&Struct(&structure(96, &[
                field("Name", 5, LAST, String),
                field("Value", 5, LAST, String).nullable(5, LAST),
                field("ReadOnly", 5, LAST, BOOL),
                field("ConfigSource", 5, LAST, I8),
                field("IsSensitive", 5, LAST, BOOL),
            ])))).nullable(5, LAST),
        ])))),
    ]) },
    Message { api_key: 20, name: "DeleteTopicsResponse", versions: (1, 6), flexible: 4, root: structure(56, &[
        field("ThrottleTimeMs", 1, LAST, I32),
        field("Responses", 0, LAST, Array(&Struct(&structure(112, &[
            field("Name", 0, LAST, String).nullable(6, LAST),
            field("TopicId", 6, LAST, UUID),
            field("ErrorCode", 0, LAST, I16),
            field("ErrorMessage", 5, LAST, String).nullable(5, LAST),
        ])))),
    ]) },
    Message { api_key: 21, name: "DeleteRecordsResponse", versions: (0, 2), flexible: 2, root: structure(56, &[
        field("ThrottleTimeMs", 0, LAST, I32),
        field("Topics", 0, LAST, Array(&Struct(&structure(80, &[
            field("Name", 0, LAST, String),
            field("Partitions", 0, LAST, Array(&Struct(&structure(40, &[
                field("PartitionIndex", 0, LAST, I32),
                field("LowWatermark", 0, LAST, I64),
                field("ErrorCode", 0, LAST, I16),
            ])))),
        ])))),
    ]) },
    Message { api_key: 22, name: "InitProducerIdResponse", versions: (0, 6), flexible: 2, root: structure(56, &[
        field("ThrottleTimeMs", 0, LAST, I32),
        field("ErrorCode", 0, LAST, I16),
        field("ProducerId", 0, LAST, I64),
        field("ProducerEpoch", 0, LAST, I16),
        field("OngoingTxnProducerId", 6, LAST, I64),
        field("OngoingTxnProducerEpoch", 6, LAST, I16),
    ]) },
    Message { api_key: 23, name: "OffsetForLeaderEpochResponse", versions: (2, 4), flexible: 4, root: structure(56, &[
        field("ThrottleTimeMs", 2, LAST, I32),
        field("Topics", 0, LAST, Array(&Struct(&structure(80, &[
            field("Topic", 0, LAST, String),
            field("Partitions", 0, LAST, Array(&Struct(&structure(48, &[
                field("ErrorCode", 0, LAST, I16),
                field("Partition", 0, LAST, I32),
                field("LeaderEpoch", 1, LAST, I32),
                field("EndOffset", 0, LAST, I64),
            ])))),
        ])))),
    ]) },
    Message { api_key: 24, name: "AddPartitionsToTxnResponse", versions: (0, 5), flexible: 3, root: structure(80, &[
        field("ThrottleTimeMs", 0, LAST, I32),
        field("ErrorCode", 4, LAST, I16),
        field("ResultsByTransaction", 4, LAST, Array(&Struct(&structure(80, &[
            field("TransactionalId", 4, LAST, String),
            field("TopicResults", 4, LAST, Array(&Struct(&structure(80, &[
                field("Name", 0, LAST, String),
                field("ResultsByPartition", 0, LAST, Array(&Struct(&structure(32, &[
                    field("PartitionIndex", 0, LAST, I32),
                    field("PartitionErrorCode", 0, LAST, I16),
                ])))),
            ])))),
        ])))),
        field("ResultsByTopicV3AndBelow", 0, 3, Array(&Struct(&structure(80, &[
            field("Name", 0, LAST, String),
            field("ResultsByPartition", 0, LAST, Array(&Struct(&structure(32, &[
                field("PartitionIndex", 0, LAST, I32),
                field("PartitionErrorCode", 0, LAST, I16),
            ])))),
        ])))),
    ]) },
    Message { api_key: 25, name: "AddOffsetsToTxnResponse", versions: (0, 4), flexible: 3, root: structure(32, &[
        field("ThrottleTimeMs", 0, LAST, I32),
        field("ErrorCode", 0, LAST, I16),
    ]) },
    Message { api_key: 26, name: "EndTxnResponse", versions: (0, 5), flexible: 3, root: structure(40, &[
        field("ThrottleTimeMs", 0, LAST, I32),
        field("ErrorCode", 0, LAST, I16),
        field("ProducerId", 5, LAST, I64),
        field("ProducerEpoch", 5, LAST, I16),
    ]) },
    Message { api_key: 28, name: "TxnOffsetCommitResponse", versions: (0, 5), flexible: 3, root: structure(56, &[
        field("ThrottleTimeMs", 0, LAST, I32),
        field("Topics", 0, LAST, Array(&Struct(&structure(80, &[
            field("Name", 0, LAST, String),
            field("Partitions", 0, LAST, Array(&Struct(&structure(32, &[
                field("PartitionIndex", 0, LAST, I32),
                field("ErrorCode", 0, LAST, I16),
            ])))),
        ])))),
    ]) },
    Message { api_key: 32, name: "DescribeConfigsResponse", versions: (1, 4), flexible: 4, root: structure(56, &[
        field("ThrottleTimeMs", 0, LAST, I32),
        field("Results", 0, LAST, Array(&Struct(&structure(120, &[
            field("ErrorCode", 0, LAST, I16),
            field("ErrorMessage", 0, LAST, String).nullable(0, LAST),
            field("ResourceType", 0, LAST, I8),
            field("ResourceName", 0, LAST, String),
            field("Configs", 0, LAST, Array(&Struct(&structure(152, &[
                field("Name", 0, LAST, String),
                field("Value", 0, LAST, String).nullable(0, LAST),
                field("ReadOnly", 0, LAST, BOOL),
                field("ConfigSource", 1, LAST, I8),
                field("IsSensitive", 0, LAST, BOOL),
                field("Synonyms", 1, LAST, Array(&Struct(&structure(96, &[
                    field("Name", 1, LAST, String),
                    field("Value", 1, LAST, String).nullable(0, LAST),
                    field("Source", 1, LAST, I8),
                ])))),
                field("ConfigType", 3, LAST, I8),
                field("Documentation", 3, LAST, String).nullable(0, LAST),
            ])))),
        ])))),
    ]) },
    Message { api_key: 33, name: "AlterConfigsResponse", versions: (0, 2), flexible: 2, root: structure(56, &[
        field("ThrottleTimeMs", 0, LAST, I32),
        field("Responses", 0, LAST, Array(&Struct(&structure(96, &[
            field("ErrorCode", 0, LAST, I16),
            field("ErrorMessage", 0, LAST, String).nullable(0, LAST),
            field("ResourceType", 0, LAST, I8),
            field("ResourceName", 0, LAST, String),
        ])))),
    ]) },
    Message { api_key: 37, name: "CreatePartitionsResponse", versions: (0, 3), flexible: 2, root: structure(56, &[
        field("ThrottleTimeMs", 0, LAST, I32),
        field("Results", 0, LAST, Array(&Struct(&structure(96, &[
            field("Name", 0, LAST, String),
            field("ErrorCode", 0, LAST, I16),
            field("ErrorMessage", 0, LAST, String).nullable(0, LAST),
        ])))),
    ]) },
    Message { api_key: 42, name: "DeleteGroupsResponse", versions: (0, 2), flexible: 2, root: structure(56, &[
        field("ThrottleTimeMs", 0, LAST, I32),
        field("Results", 0, LAST, Array(&Struct(&structure(64, &[
            field("GroupId", 0, LAST, String),
            field("ErrorCode", 0, LAST, I16),
        ])))),
    ]) },
    Message { api_key: 44, name: "IncrementalAlterConfigsResponse", versions: (0, 1), flexible: 1, root: structure(56, &[
        field("ThrottleTimeMs", 0, LAST, I32),
        field("Responses", 0, LAST, Array(&Struct(&structure(96, &[
            field("ErrorCode", 0, LAST, I16),
            field("ErrorMessage", 0, LAST, String).nullable(0, LAST),
            field("ResourceType", 0, LAST, I8),
            field("ResourceName", 0, LAST, String),
        ])))),
    ]) },
    Message { api_key: 47, name: "OffsetDeleteResponse", versions: (0, 0), flexible: LAST, root: structure(32, &[
        field("ErrorCode", 0, LAST, I16),
        field("ThrottleTimeMs", 0, LAST, I32),
        field("Topics", 0, LAST, Array(&Struct(&structure(56, &[
            field("Name", 0, LAST, String),
            field("Partitions", 0, LAST, Array(&Struct(&structure(8, &[
                field("PartitionIndex", 0, LAST, I32),
                field("ErrorCode", 0, LAST, I16),
            ])))),
        ])))),
    ]) },
    Message { api_key: 60, name: "DescribeClusterResponse", versions: (0, 2), flexible: 0, root: structure(128, &[
        field("ThrottleTimeMs", 0, LAST, I32),
        field("ErrorCode", 0, LAST, I16),
        field("ErrorMessage", 0, LAST, String).nullable(0, LAST),
        field("EndpointType", 1, LAST, I8),
        field("ClusterId", 0, LAST, String),
        field("ControllerId", 0, LAST, I32),
        field("Brokers", 0, LAST, Array(&Struct(&structure(104, &[
            field("BrokerId", 0, LAST, I32),
            field("Host", 0, LAST, String),
            field("Port", 0, LAST, I32),
            field("Rack", 0, LAST, String).nullable(0, LAST),
            field("IsFenced", 2, LAST, BOOL),
        ])))),
        field("ClusterAuthorizedOperations", 0, LAST, I32),
    ]) },
    Message { api_key: 61, name: "DescribeProducersResponse", versions: (0, 0), flexible: 0, root: structure(56, &[
        field("ThrottleTimeMs", 0, LAST, I32),
        field("Topics", 0, LAST, Array(&Struct(&structure(80, &[
            field("Name", 0, LAST, String),
            field("Partitions", 0, LAST, Array(&Struct(&structure(88, &[
                field("PartitionIndex", 0, LAST, I32),
                field("ErrorCode", 0, LAST, I16),
                field("ErrorMessage", 0, LAST, String).nullable(0, LAST),
                field("ActiveProducers", 0, LAST, Array(&Struct(&structure(64, &[
                    field("ProducerId", 0, LAST, I64),
                    field("ProducerEpoch", 0, LAST, I32),
                    field("LastSequence", 0, LAST, I32),
                    field("LastTimestamp", 0, LAST, I64),
                    field("CoordinatorEpoch", 0, LAST, I32),
                    field("CurrentTxnStartOffset", 0, LAST, I64),
                ])))),
            ])))),
        ])))),
    ]) },
    Message { api_key: 65, name: "DescribeTransactionsResponse", versions: (0, 0), flexible: 0, root: structure(56, &[
        field("ThrottleTimeMs", 0, LAST, I32),
        field("TransactionStates", 0, LAST, Array(&Struct(&structure(136, &[
            field("ErrorCode", 0, LAST, I16),
            field("TransactionalId", 0, LAST, String),
            field("TransactionState", 0, LAST, String),
            field("TransactionTimeoutMs", 0, LAST, I32),
            field("TransactionStartTimeMs", 0, LAST, I64),
            field("ProducerId", 0, LAST, I64),
            field("ProducerEpoch", 0, LAST, I16),
            field("Topics", 0, LAST, Array(&Struct(&structure(80, &[
                field("Topic", 0, LAST, String),
                field("Partitions", 0, LAST, Array(&I32)),
            ])))),
        ])))),
    ]) },
    Message { api_key: 66, name: "ListTransactionsResponse", versions: (0, 2), flexible: 0, root: structure(80, &[
        field("ThrottleTimeMs", 0, LAST, I32),
        field("ErrorCode", 0, LAST, I16),
        field("UnknownStateFilters", 0, LAST, Array(&String)),
        field("TransactionStates", 0, LAST, Array(&Struct(&structure(96, &[
            field("TransactionalId", 0, LAST, String),
            field("ProducerId", 0, LAST, I64),
            field("TransactionState", 0, LAST, String),
        ])))),
    ]) },
    Message { api_key: 68, name: "ConsumerGroupHeartbeatResponse", versions: (0, 1), flexible: 0, root: structure(160, &[
        field("ThrottleTimeMs", 0, LAST, I32),
        field("ErrorCode", 0, LAST, I16),
        field("ErrorMessage", 0, LAST, String).nullable(0, LAST),
        field("MemberId", 0, LAST, String).nullable(0, LAST),
        field("MemberEpoch", 0, LAST, I32),
        field("HeartbeatIntervalMs", 0, LAST, I32),
        field("Assignment", 0, LAST, Struct(&structure(48, &[
            field("TopicPartitions", 0, LAST, Array(&Struct(&structure(64, &[
                field("TopicId", 0, LAST, UUID),
                field("Partitions", 0, LAST, Array(&I32)),
            ])))),
        ]))).nullable(0, LAST),
    ]) },
];
