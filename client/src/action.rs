//! The one table from (API, error code) to what a client does about it.
//!
//! A code alone does not say what to do: INVALID_PRODUCER_EPOCH ends a producer in InitProducerId and only its transaction in
//! Produce. So there is a default row for each code and, where an API differs, a row of its own.

use milena_protocol::{ApiKey, ErrorCode};

/// What a client does about an error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Not an error.
    Proceed,
    /// Ask again, after a back-off.
    Retry,
    /// The client's picture of the cluster is old: refresh metadata, then ask again.
    RefreshMetadata,
    /// The coordinator moved: look it up, then ask again.
    FindCoordinator,
    /// The open transaction must be aborted; the producer lives.
    Abort,
    /// Somebody else has taken this client's place, or the broker will never take it again: build a new one.
    Fence,
    /// Tell the caller.
    Fail,
}

/// The action for `code` in an answer of `api`.
pub fn action_for(api: Option<ApiKey>, code: ErrorCode) -> Action {
    if code.is_none() {
        return Action::Proceed;
    }
    api.and_then(|api| special(api, code)).unwrap_or_else(|| default(code))
}

fn default(code: ErrorCode) -> Action {
    match code {
        ErrorCode::NONE => Action::Proceed,
        ErrorCode::NOT_COORDINATOR | ErrorCode::COORDINATOR_NOT_AVAILABLE => Action::FindCoordinator,
        ErrorCode::PRODUCER_FENCED
        | ErrorCode::INVALID_PRODUCER_EPOCH
        | ErrorCode::FENCED_INSTANCE_ID
        | ErrorCode::INVALID_PRODUCER_ID_MAPPING
        | ErrorCode::INVALID_TXN_STATE
        | ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED => Action::Fence,
        ErrorCode::TRANSACTION_ABORTABLE => Action::Abort,
        // KIP-1102: the next question about the cluster goes to the bootstrap servers.
        ErrorCode::REBOOTSTRAP_REQUIRED => Action::RefreshMetadata,
        code if code.is_invalid_metadata() => Action::RefreshMetadata,
        code if code.is_retriable() => Action::Retry,
        _ => Action::Fail,
    }
}

/// The rows in which an API differs from the default.
fn special(api: ApiKey, code: ErrorCode) -> Option<Action> {
    Some(match (api, code) {
        // KIP-360: the producer asks for a new epoch, it is not dead. Its sequence machine decides which batches live on.
        (ApiKey::PRODUCE, ErrorCode::INVALID_PRODUCER_EPOCH | ErrorCode::INVALID_TXN_STATE) => Action::Abort,
        (ApiKey::PRODUCE, ErrorCode::DUPLICATE_SEQUENCE_NUMBER) => Action::Proceed,
        (ApiKey::PRODUCE, ErrorCode::TOPIC_AUTHORIZATION_FAILED) => Action::Abort,
        // The coordinator's partition is still moving; asking the same broker again is right.
        (
            ApiKey::INIT_PRODUCER_ID | ApiKey::END_TXN | ApiKey::ADD_PARTITIONS_TO_TXN,
            ErrorCode::CONCURRENT_TRANSACTIONS,
        ) => Action::Retry,
        // These two say the same as NOT_COORDINATOR when a coordinator says them: its broker may be gone.
        (
            ApiKey::OFFSET_COMMIT
            | ApiKey::TXN_OFFSET_COMMIT
            | ApiKey::JOIN_GROUP
            | ApiKey::SYNC_GROUP
            | ApiKey::HEARTBEAT,
            ErrorCode::REQUEST_TIMED_OUT,
        ) => Action::FindCoordinator,
        // A committed offset of a topic that the coordinator has not heard of yet.
        (ApiKey::OFFSET_COMMIT, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => Action::Retry,
        // The group has gone on without this member: what it has read in this transaction others may have read, too.
        (
            ApiKey::TXN_OFFSET_COMMIT,
            ErrorCode::UNKNOWN_MEMBER_ID
            | ErrorCode::ILLEGAL_GENERATION
            | ErrorCode::FENCED_INSTANCE_ID
            | ErrorCode::STALE_MEMBER_EPOCH
            | ErrorCode::FENCED_MEMBER_EPOCH
            | ErrorCode::REBALANCE_IN_PROGRESS,
        ) => Action::Abort,
        // Without a right the transaction cannot become whole, and the producer is none the worse for it.
        (
            ApiKey::ADD_PARTITIONS_TO_TXN | ApiKey::ADD_OFFSETS_TO_TXN | ApiKey::TXN_OFFSET_COMMIT,
            ErrorCode::TOPIC_AUTHORIZATION_FAILED
            | ErrorCode::GROUP_AUTHORIZATION_FAILED
            | ErrorCode::OPERATION_NOT_ATTEMPTED,
        ) => Action::Abort,
        // The topic is there: for the caller of CreateTopics that is an answer and no reason to ask again.
        (ApiKey::CREATE_TOPICS, ErrorCode::TOPIC_ALREADY_EXISTS) => Action::Fail,
        (ApiKey::DELETE_TOPICS, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => Action::Fail,
        _ => return None,
    })
}

/// The likely cause of a code in plain words, and what to do.
pub(crate) fn cause(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::OFFSET_OUT_OF_RANGE => {
            "the offset is not in the log: it was deleted by retention, or the log was cut. Seek to one that is there, or choose an \
             offset_reset."
        }
        ErrorCode::CORRUPT_MESSAGE => {
            "the broker found the checksum of a batch wrong: bytes were changed on the way. Look at the network and the memory \
             between here and there."
        }
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => {
            "the broker does not know this topic or partition: check its name, or create it."
        }
        ErrorCode::LEADER_NOT_AVAILABLE => {
            "the partition has no leader at the moment: its brokers may be down; start them."
        }
        ErrorCode::NOT_LEADER_OR_FOLLOWER => {
            "the partition's leader has moved to another broker: ask again, and the new one is asked."
        }
        ErrorCode::REQUEST_TIMED_OUT => {
            "the broker did not finish in time: its replicas may be slow or down. Look at its log, or allow more time."
        }
        ErrorCode::MESSAGE_TOO_LARGE => {
            "the batch is larger than the topic allows: raise max.message.bytes of the topic, or send smaller records."
        }
        ErrorCode::COORDINATOR_LOAD_IN_PROGRESS => "the coordinator is still loading its state: ask again in a while.",
        ErrorCode::COORDINATOR_NOT_AVAILABLE => {
            "there is no coordinator yet: the internal topic may have no leader; look at the brokers, and ask again."
        }
        ErrorCode::NOT_COORDINATOR => {
            "the coordinator has moved to another broker: ask again, and the new one is asked."
        }
        ErrorCode::INVALID_TOPIC_EXCEPTION => {
            "the topic's name is not allowed: take 1 to 249 letters, digits, dots, underscores or hyphens."
        }
        ErrorCode::NOT_ENOUGH_REPLICAS => {
            "fewer replicas are in sync than min.insync.replicas asks for: a broker may be down; start it."
        }
        ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND => {
            "the leader has written the batch, but fewer replicas are in sync than min.insync.replicas asks for: a broker may be \
             down; start it."
        }
        ErrorCode::ILLEGAL_GENERATION => {
            "the group has rebalanced: this member's generation is over. Another member may have read on from the last commit."
        }
        ErrorCode::INCONSISTENT_GROUP_PROTOCOL => {
            "the group's members use another protocol or assignor: use the same one, or wait until they have left."
        }
        ErrorCode::UNKNOWN_MEMBER_ID => {
            "the coordinator does not know this member any more: it was away for longer than the session time-out. Allow more time \
             (session_timeout), or find out what blocked it."
        }
        ErrorCode::INVALID_SESSION_TIMEOUT => {
            "the session time-out is outside what the broker allows: change session_timeout, or the broker's \
             group.min/max.session.timeout.ms."
        }
        ErrorCode::REBALANCE_IN_PROGRESS => "the group is rebalancing: ask again when it has come to an end.",
        ErrorCode::TOPIC_AUTHORIZATION_FAILED => {
            "this principal may not use the topic: grant it the operation with an ACL."
        }
        ErrorCode::GROUP_AUTHORIZATION_FAILED => "this principal may not use the group: grant it READ with an ACL.",
        ErrorCode::CLUSTER_AUTHORIZATION_FAILED => {
            "this principal may not do that on the cluster: grant it with an ACL."
        }
        ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED => {
            "this principal may not use the transactional id: grant it WRITE with an ACL."
        }
        ErrorCode::UNSUPPORTED_VERSION => "the broker does not speak this version of the API: use a newer broker.",
        ErrorCode::TOPIC_ALREADY_EXISTS => "the topic exists already: use it, or choose another name.",
        ErrorCode::INVALID_PARTITIONS => {
            "the number of partitions is not allowed: give 1 or more, or -1 for the broker's default."
        }
        ErrorCode::INVALID_REPLICATION_FACTOR => {
            "the replication factor is below 1 or above the number of brokers that are up: choose another, or start more brokers."
        }
        ErrorCode::INVALID_CONFIG => {
            "a topic setting is not known or its value not allowed: compare it with the topic settings of the broker's version."
        }
        ErrorCode::POLICY_VIOLATION => {
            "the cluster's policy forbids it: ask who runs the cluster (create.topic.policy.class.name)."
        }
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER => {
            "the broker expected another sequence number of this producer: a batch before it is missing. Look at that one's error."
        }
        ErrorCode::DUPLICATE_SEQUENCE_NUMBER => "the broker has this batch already: nothing is lost.",
        ErrorCode::INVALID_PRODUCER_EPOCH => {
            "a newer epoch of this producer is known to the broker: another one with its transactional id may have begun."
        }
        ErrorCode::PRODUCER_FENCED => {
            "another producer with the same transactional id has taken over: only one may be alive, so give each its own id."
        }
        ErrorCode::INVALID_TXN_STATE => {
            "the coordinator does not expect that in the transaction's state: it may have ended it, because it lasted longer than \
             transaction_timeout."
        }
        ErrorCode::INVALID_PRODUCER_ID_MAPPING => {
            "the coordinator knows another producer id for the transactional id: it was not used for longer than \
             transactional.id.expiration.ms, or somebody else has taken it over."
        }
        ErrorCode::INVALID_TRANSACTION_TIMEOUT => {
            "transaction_timeout is longer than the brokers allow (transaction.max.timeout.ms): shorten it."
        }
        ErrorCode::CONCURRENT_TRANSACTIONS => {
            "the coordinator is still completing an earlier transaction of this transactional id: ask again in a while."
        }
        ErrorCode::TRANSACTION_ABORTABLE => "the transaction cannot go on: abort it and do its work again.",
        ErrorCode::OPERATION_NOT_ATTEMPTED => {
            "another part of the same request was refused, so nothing was done: look at that one's error."
        }
        ErrorCode::STALE_MEMBER_EPOCH | ErrorCode::FENCED_MEMBER_EPOCH => {
            "the group has gone on: this member's epoch is over. Another member may have read on from the last commit."
        }
        ErrorCode::UNKNOWN_PRODUCER_ID => {
            "the broker has forgotten this producer: it wrote nothing for longer than producer.id.expiration.ms, or its records were \
             deleted."
        }
        ErrorCode::KAFKA_STORAGE_ERROR => "the broker's disk failed: look at its log.",
        ErrorCode::FENCED_LEADER_EPOCH | ErrorCode::UNKNOWN_LEADER_EPOCH => {
            "client and broker disagree about the leader's epoch: one of them has old metadata. Ask again in a while."
        }
        ErrorCode::MEMBER_ID_REQUIRED => "the coordinator has given a member id: join again with it.",
        ErrorCode::GROUP_MAX_SIZE_REACHED => {
            "the group is full: raise the broker's group.max.size, or run fewer members."
        }
        ErrorCode::FENCED_INSTANCE_ID => {
            "another member with the same group.instance.id has taken over: give each its own."
        }
        ErrorCode::INVALID_RECORD => {
            "the broker refuses the record: a compacted topic needs keys, or its timestamp is outside the allowed range."
        }
        ErrorCode::UNSTABLE_OFFSET_COMMIT => {
            "an open transaction has offsets of this group pending: ask again when it has ended."
        }
        ErrorCode::UNKNOWN_TOPIC_ID => {
            "the broker does not know the topic's id: the topic may have been deleted and made anew. Ask again in a while."
        }
        ErrorCode::THROTTLING_QUOTA_EXCEEDED => "a quota of the cluster is used up: wait, or have it raised.",
        ErrorCode::GROUP_ID_NOT_FOUND => "there is no such group: check its name.",
        ErrorCode::NON_EMPTY_GROUP => "the group still has members: stop them first.",
        ErrorCode::REBOOTSTRAP_REQUIRED => {
            "the cluster behind this address is another one now: the client starts again from its bootstrap servers."
        }
        ErrorCode::UNKNOWN_SERVER_ERROR => "the broker failed without saying why: look at its log.",
        _ => "the broker refused: the code in brackets is Kafka's word for why. Look at the broker's log.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_kafka_4_3_has_a_row_in_every_api() {
        for api in (0..=92).map(ApiKey) {
            for code in ErrorCode::all() {
                let action = action_for(Some(api), code);
                assert_eq!(
                    action == Action::Proceed,
                    code.is_none() || (api, code) == (ApiKey::PRODUCE, ErrorCode(46))
                );
                assert!(code.is_none() || !cause(code).is_empty());
                if code.is_retriable() {
                    let told = matches!((api, code), (ApiKey::DELETE_TOPICS, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
                    assert!(told || action != Action::Fail, "{api} {code}");
                }
            }
        }
    }

    #[test]
    fn the_same_code_means_another_thing_in_another_api() {
        let code = ErrorCode::INVALID_PRODUCER_EPOCH;
        assert_eq!(action_for(Some(ApiKey::INIT_PRODUCER_ID), code), Action::Fence);
        assert_eq!(action_for(Some(ApiKey::PRODUCE), code), Action::Abort);
        assert_eq!(action_for(Some(ApiKey::OFFSET_COMMIT), ErrorCode::REQUEST_TIMED_OUT), Action::FindCoordinator);
        assert_eq!(action_for(Some(ApiKey::PRODUCE), ErrorCode::REQUEST_TIMED_OUT), Action::Retry);
    }

    #[test]
    fn a_code_from_a_newer_broker_fails_and_says_so() {
        assert_eq!(action_for(None, ErrorCode(999)), Action::Fail);
    }
}
