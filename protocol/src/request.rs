//! Which response belongs to which request.

use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Message};

use crate::ApiKey;

/// A request that a client can send.
///
/// The message crate has such a trait too, but only for those who can also decode requests; a client pays for that half in build
/// time and never uses it.
pub trait Request: Message + Encodable + HeaderVersion + Send + 'static {
    /// The API's number.
    const KEY: ApiKey;
    /// What a broker answers.
    type Response: Message + Decodable + HeaderVersion + Send + 'static;

    /// For how long the broker asks the client to keep still (KIP-219), in milliseconds; 0 where an API has no such field.
    fn throttle_time_ms(response: &Self::Response) -> i32;
}

/// Gives the list of requests to another macro: for each the name of its [`ApiKey`], its type and the type of its response.
///
/// `cargo xtask schema` reads this list, too. Run it after a change: a response is not decoded before its shape is known.
#[doc(hidden)]
#[macro_export]
macro_rules! every_request {
    ($then:ident) => {
        $then! {
            PRODUCE ProduceRequest ProduceResponse
            FETCH FetchRequest FetchResponse
            LIST_OFFSETS ListOffsetsRequest ListOffsetsResponse
            METADATA MetadataRequest MetadataResponse
            OFFSET_COMMIT OffsetCommitRequest OffsetCommitResponse
            OFFSET_FETCH OffsetFetchRequest OffsetFetchResponse
            FIND_COORDINATOR FindCoordinatorRequest FindCoordinatorResponse
            JOIN_GROUP JoinGroupRequest JoinGroupResponse
            HEARTBEAT HeartbeatRequest HeartbeatResponse
            LEAVE_GROUP LeaveGroupRequest LeaveGroupResponse
            SYNC_GROUP SyncGroupRequest SyncGroupResponse
            DESCRIBE_GROUPS DescribeGroupsRequest DescribeGroupsResponse
            LIST_GROUPS ListGroupsRequest ListGroupsResponse
            API_VERSIONS ApiVersionsRequest ApiVersionsResponse
            CREATE_TOPICS CreateTopicsRequest CreateTopicsResponse
            DELETE_TOPICS DeleteTopicsRequest DeleteTopicsResponse
            DELETE_RECORDS DeleteRecordsRequest DeleteRecordsResponse
            INIT_PRODUCER_ID InitProducerIdRequest InitProducerIdResponse
            OFFSET_FOR_LEADER_EPOCH OffsetForLeaderEpochRequest OffsetForLeaderEpochResponse
            ADD_PARTITIONS_TO_TXN AddPartitionsToTxnRequest AddPartitionsToTxnResponse
            ADD_OFFSETS_TO_TXN AddOffsetsToTxnRequest AddOffsetsToTxnResponse
            END_TXN EndTxnRequest EndTxnResponse
            TXN_OFFSET_COMMIT TxnOffsetCommitRequest TxnOffsetCommitResponse
            DESCRIBE_CONFIGS DescribeConfigsRequest DescribeConfigsResponse
            ALTER_CONFIGS AlterConfigsRequest AlterConfigsResponse
            CREATE_PARTITIONS CreatePartitionsRequest CreatePartitionsResponse
            DELETE_GROUPS DeleteGroupsRequest DeleteGroupsResponse
            INCREMENTAL_ALTER_CONFIGS IncrementalAlterConfigsRequest IncrementalAlterConfigsResponse
            OFFSET_DELETE OffsetDeleteRequest OffsetDeleteResponse
            DESCRIBE_CLUSTER DescribeClusterRequest DescribeClusterResponse
            DESCRIBE_PRODUCERS DescribeProducersRequest DescribeProducersResponse
            DESCRIBE_TRANSACTIONS DescribeTransactionsRequest DescribeTransactionsResponse
            LIST_TRANSACTIONS ListTransactionsRequest ListTransactionsResponse
            CONSUMER_GROUP_HEARTBEAT ConsumerGroupHeartbeatRequest ConsumerGroupHeartbeatResponse
        }
    };
}

macro_rules! implement {
    ($($key:ident $request:ident $response:ident)*) => {
        $(impl Request for $request {
            const KEY: ApiKey = ApiKey::$key;
            type Response = $response;

            fn throttle_time_ms(response: &$response) -> i32 {
                response.throttle_time_ms
            }
        })*
    };
}

every_request!(implement);
