//! Classic groups and their offsets against the in-process cluster, in raw frames under a paused clock.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test reads the clock, waits and panics")]

mod common;

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use common::*;
use milena_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use milena_protocol::messages::leave_group_request::MemberIdentity;
use milena_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use milena_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use milena_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use milena_protocol::messages::{
    DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest, JoinGroupRequest,
    JoinGroupResponse, LeaveGroupRequest, ListGroupsRequest, OffsetCommitRequest, OffsetFetchRequest, SyncGroupRequest,
    SyncGroupResponse,
};
use milena_protocol::{ErrorCode, StrBytes};
use milena_testkit::{Cluster, MemoryStream};

const GROUP: &str = "g";

fn id() -> GroupId {
    GroupId(StrBytes::from_static_str(GROUP))
}

fn code(code: i16) -> ErrorCode {
    ErrorCode(code)
}

/// A member with its own connection to the coordinator.
struct Member {
    raw: Raw<MemoryStream>,
    id: StrBytes,
    generation: i32,
    instance: Option<StrBytes>,
}

impl Member {
    async fn new(cluster: &Cluster) -> Self {
        let mut raw = connect(cluster, 1).await;
        let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![StrBytes::from_static_str(GROUP)]);
        let coordinator = raw.call(4, request).await.coordinators[0].node_id.0;
        Self { raw: connect(cluster, coordinator).await, id: StrBytes::new(), generation: -1, instance: None }
    }

    fn join_request(&self, protocols: &[&'static str]) -> JoinGroupRequest {
        let protocols = protocols.iter().map(|name| {
            JoinGroupRequestProtocol::default()
                .with_name(StrBytes::from_static_str(name))
                .with_metadata(Bytes::from_static(b"s"))
        });
        JoinGroupRequest::default()
            .with_group_id(id())
            .with_session_timeout_ms(10_000)
            .with_rebalance_timeout_ms(60_000)
            .with_member_id(self.id.clone())
            .with_group_instance_id(self.instance.clone())
            .with_protocol_type(StrBytes::from_static_str("consumer"))
            .with_protocols(protocols.collect())
    }

    /// Takes an id and sends the join that counts, without waiting for its end.
    async fn begin_join(&mut self) {
        if self.id.is_empty() && self.instance.is_none() {
            let request = self.join_request(&["range"]);
            let first = self.raw.call(9, request).await;
            assert_eq!(code(first.error_code), ErrorCode::MEMBER_ID_REQUIRED);
            self.id = first.member_id;
        }
        let request = self.join_request(&["range"]);
        self.raw.send(9, &request).await;
    }

    async fn end_join(&mut self) -> JoinGroupResponse {
        let response = self.raw.receive::<JoinGroupRequest>(9).await.unwrap();
        self.generation = response.generation_id;
        self.id = response.member_id.clone();
        response
    }

    async fn join(&mut self) -> JoinGroupResponse {
        self.begin_join().await;
        self.end_join().await
    }

    fn sync_request(&self, assignments: &[(&StrBytes, &[i32])]) -> SyncGroupRequest {
        let assignments = assignments.iter().map(|(member, partitions)| {
            SyncGroupRequestAssignment::default()
                .with_member_id((*member).clone())
                .with_assignment(assignment(partitions))
        });
        SyncGroupRequest::default()
            .with_group_id(id())
            .with_generation_id(self.generation)
            .with_member_id(self.id.clone())
            .with_group_instance_id(self.instance.clone())
            .with_protocol_type(Some(StrBytes::from_static_str("consumer")))
            .with_protocol_name(Some(StrBytes::from_static_str("range")))
            .with_assignments(assignments.collect())
    }

    async fn sync(&mut self, assignments: &[(&StrBytes, &[i32])]) -> SyncGroupResponse {
        let request = self.sync_request(assignments);
        self.raw.call(5, request).await
    }

    async fn heartbeat(&mut self) -> ErrorCode {
        let request = HeartbeatRequest::default()
            .with_group_id(id())
            .with_generation_id(self.generation)
            .with_member_id(self.id.clone())
            .with_group_instance_id(self.instance.clone());
        code(self.raw.call(4, request).await.error_code)
    }

    async fn commit(&mut self, offset: i64) -> ErrorCode {
        let partition = OffsetCommitRequestPartition::default()
            .with_committed_offset(offset)
            .with_committed_leader_epoch(3)
            .with_committed_metadata(Some(StrBytes::from_static_str("m")));
        let topic = OffsetCommitRequestTopic::default().with_name(name("t")).with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(id())
            .with_generation_id_or_member_epoch(self.generation)
            .with_member_id(self.id.clone())
            .with_group_instance_id(self.instance.clone())
            .with_topics(vec![topic]);
        code(self.raw.call(9, request).await.topics[0].partitions[0].error_code)
    }

    async fn leave(&mut self) -> ErrorCode {
        let member =
            MemberIdentity::default().with_member_id(self.id.clone()).with_group_instance_id(self.instance.clone());
        let request = LeaveGroupRequest::default().with_group_id(id()).with_members(vec![member]);
        code(self.raw.call(5, request).await.members[0].error_code)
    }
}

fn assignment(partitions: &[i32]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(3);
    bytes.put_i32(1);
    bytes.put_i16(1);
    bytes.put_slice(b"t");
    bytes.put_i32(partitions.len() as i32);
    partitions.iter().for_each(|p| bytes.put_i32(*p));
    bytes.put_i32(-1);
    bytes.freeze()
}

fn cluster() -> Cluster {
    Cluster::builder().topic("t", 4).start_in_memory().unwrap()
}

/// Two members in one stable generation; the first is the leader.
async fn pair(cluster: &Cluster) -> (Member, Member) {
    let mut one = Member::new(cluster).await;
    one.join().await;
    one.sync(&[(&one.id.clone(), &[0, 1, 2, 3])]).await;
    let mut two = Member::new(cluster).await;
    two.begin_join().await;
    assert_eq!(one.heartbeat().await, ErrorCode::REBALANCE_IN_PROGRESS);
    let joined = one.join().await;
    assert_eq!(joined.members.len(), 2);
    assert_eq!(joined.leader, one.id);
    let follower = two.end_join().await;
    assert!(follower.members.is_empty());
    assert_eq!((joined.generation_id, follower.generation_id), (2, 2));
    let waiting = two.sync_request(&[]);
    two.raw.send(5, &waiting).await;
    let (a, b) = (one.id.clone(), two.id.clone());
    one.sync(&[(&a, &[0, 1]), (&b, &[2, 3])]).await;
    let assigned = two.raw.receive::<SyncGroupRequest>(5).await.unwrap();
    assert_eq!(assigned.assignment, assignment(&[2, 3]));
    (one, two)
}

#[tokio::test(start_paused = true)]
async fn two_members_share_the_partitions() {
    let cluster = cluster();
    let (one, two) = pair(&cluster).await;
    let info = cluster.group_info(GROUP).unwrap();
    assert_eq!((info.state.as_str(), info.generation), ("Stable", 2));
    assert_eq!(info.members[two.id.as_str()].partitions, [("t".into(), 2), ("t".into(), 3)]);
    assert_eq!(info.leader.as_deref(), Some(one.id.as_str()));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_member_loses_its_session_and_the_other_is_asked_to_join() {
    let cluster = cluster();
    let (mut one, mut two) = pair(&cluster).await;
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(4)).await;
        one.heartbeat().await;
    }
    assert_eq!(one.heartbeat().await, ErrorCode::REBALANCE_IN_PROGRESS);
    let joined = one.join().await;
    assert_eq!((joined.generation_id, joined.members.len()), (3, 1));
    assert_eq!(two.heartbeat().await, ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(two.commit(5).await, ErrorCode::UNKNOWN_MEMBER_ID);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_does_not_join_again_is_given_up_after_the_rebalance_timeout() {
    let cluster = cluster();
    let (mut one, mut two) = pair(&cluster).await;
    let start = tokio::time::Instant::now();
    // The leader joins again; the follower only heartbeats.
    one.begin_join().await;
    let joined = loop {
        tokio::time::sleep(Duration::from_secs(3)).await;
        match two.heartbeat().await {
            ErrorCode::REBALANCE_IN_PROGRESS => {}
            ErrorCode::UNKNOWN_MEMBER_ID => break one.end_join().await,
            other => panic!("{other}"),
        }
    };
    assert_eq!(joined.members.len(), 1);
    assert_eq!(start.elapsed().as_secs(), 60);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_leaves_is_not_waited_for() {
    let cluster = cluster();
    let (mut one, mut two) = pair(&cluster).await;
    assert_eq!(two.leave().await, ErrorCode::NONE);
    assert_eq!(one.heartbeat().await, ErrorCode::REBALANCE_IN_PROGRESS);
    assert_eq!(one.join().await.members.len(), 1);
    assert_eq!(one.leave().await, ErrorCode::NONE);
    assert_eq!(one.leave().await, ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(cluster.group_info(GROUP).unwrap().state, "Empty");
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_leader_is_sent_back_when_a_third_joins() {
    let cluster = cluster();
    let (mut one, mut two) = pair(&cluster).await;
    one.begin_join().await;
    two.begin_join().await;
    one.end_join().await;
    two.end_join().await;
    let waiting = two.sync_request(&[]);
    two.raw.send(5, &waiting).await;
    let mut three = Member::new(&cluster).await;
    three.begin_join().await;
    let refused = two.raw.receive::<SyncGroupRequest>(5).await.unwrap();
    assert_eq!(code(refused.error_code), ErrorCode::REBALANCE_IN_PROGRESS);
    assert_eq!(code(one.sync(&[]).await.error_code), ErrorCode::REBALANCE_IN_PROGRESS);
    one.begin_join().await;
    two.begin_join().await;
    assert_eq!(one.end_join().await.members.len(), 3);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn another_protocol_is_inconsistent() {
    let cluster = cluster();
    let (_one, _two) = pair(&cluster).await;
    let mut three = Member::new(&cluster).await;
    let request = three.join_request(&["stream"]);
    let refused = three.raw.call(9, request).await;
    assert_eq!(code(refused.error_code), ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_static_member_that_comes_back_keeps_its_partitions_and_fences_its_past() {
    let cluster = cluster();
    let mut one = Member::new(&cluster).await;
    one.instance = Some(StrBytes::from_static_str("i"));
    one.join().await;
    one.sync(&[(&one.id.clone(), &[0, 1])]).await;
    let mut again = Member::new(&cluster).await;
    again.instance = one.instance.clone();
    let joined = again.join().await;
    assert_eq!((joined.generation_id, joined.skip_assignment), (1, true));
    assert_eq!(again.sync(&[]).await.assignment, assignment(&[0, 1]));
    assert_eq!(one.heartbeat().await, ErrorCode::FENCED_INSTANCE_ID);
    assert_eq!(again.heartbeat().await, ErrorCode::NONE);
    cluster.shutdown().await;
}

async fn fetch_offset(member: &mut Member, partition: i32) -> (i64, i32, String) {
    let topic = OffsetFetchRequestTopics::default().with_name(name("t")).with_partition_indexes(vec![partition]);
    let group = OffsetFetchRequestGroup::default().with_group_id(id()).with_topics(Some(vec![topic]));
    let response = member.raw.call(9, OffsetFetchRequest::default().with_groups(vec![group])).await;
    let found = &response.groups[0].topics[0].partitions[0];
    (found.committed_offset, found.committed_leader_epoch, found.metadata.as_ref().unwrap().to_string())
}

#[tokio::test(start_paused = true)]
async fn offsets_are_committed_by_generation_and_fetched_by_all() {
    let cluster = cluster();
    let (mut one, mut two) = pair(&cluster).await;
    assert_eq!(one.commit(7).await, ErrorCode::NONE);
    assert_eq!(fetch_offset(&mut two, 0).await, (7, 3, "m".to_owned()));
    assert_eq!(fetch_offset(&mut two, 1).await, (-1, -1, String::new()));
    one.generation -= 1;
    assert_eq!(one.commit(8).await, ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(cluster.group_info(GROUP).unwrap().offsets[&("t".to_owned(), 0)], 7);
    // Old versions ask for one group and, without topics, for everything.
    let all = OffsetFetchRequest::default().with_group_id(id()).with_topics(None);
    let response = two.raw.call(5, all).await;
    assert_eq!(response.topics[0].partitions[0].committed_offset, 7);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn groups_are_listed_described_and_deleted_by_their_coordinator() {
    let cluster = cluster();
    let (mut one, mut two) = pair(&cluster).await;
    let listed = one.raw.call(5, ListGroupsRequest::default()).await;
    assert_eq!(listed.groups[0].group_state.as_str(), "Stable");
    let described = one.raw.call(5, DescribeGroupsRequest::default().with_groups(vec![id()])).await;
    assert_eq!((described.groups[0].members.len(), described.groups[0].protocol_data.as_str()), (2, "range"));
    let delete = DeleteGroupsRequest::default().with_groups_names(vec![id()]);
    assert_eq!(code(one.raw.call(2, delete.clone()).await.results[0].error_code), ErrorCode::NON_EMPTY_GROUP);
    one.leave().await;
    two.leave().await;
    assert_eq!(code(one.raw.call(2, delete.clone()).await.results[0].error_code), ErrorCode::NONE);
    assert_eq!(code(one.raw.call(2, delete).await.results[0].error_code), ErrorCode::GROUP_ID_NOT_FOUND);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_group_moves_with_its_coordinator() {
    let cluster = cluster();
    let (mut one, mut two) = pair(&cluster).await;
    one.commit(7).await;
    let old = cluster.group_info(GROUP).unwrap().coordinator.unwrap();
    one.begin_join().await; // waits for the other member
    cluster.move_coordinator(GROUP, old % 3 + 1);
    assert_eq!(code(one.end_join().await.error_code), ErrorCode::NOT_COORDINATOR);
    assert_eq!(two.heartbeat().await, ErrorCode::NOT_COORDINATOR);
    let mut three = Member::new(&cluster).await;
    assert_eq!(fetch_offset(&mut three, 0).await.0, 7);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn what_must_not_happen_is_told() {
    let cluster = cluster();
    let mut one = Member::new(&cluster).await;
    one.join().await;
    let me = one.id.clone();
    one.sync(&[(&me, &[0]), (&StrBytes::from_static_str("somebody"), &[0])]).await;
    one.commit(7).await;
    one.commit(6).await;
    let violations = cluster.take_violations();
    assert!(violations[0].contains("t-0 is assigned to"), "{violations:?}");
    assert!(violations[1].contains("backwards, from 7 to 6"), "{violations:?}");
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_group_may_go_back_once_from_records_that_were_lost_and_from_others_never() {
    let cluster = cluster();
    let mut one = Member::new(&cluster).await;
    one.join().await;
    let me = one.id.clone();
    one.sync(&[(&me, &[0])]).await;
    for follower in [2, 3] {
        cluster.hold_follower("t", 0, follower);
        cluster.drop_from_isr("t", 0, follower);
    }
    let mut raw = connect(&cluster, 1).await;
    raw.produce("t", 0, TestBatch::of(&["a", "b", "c"]).bytes()).await;
    one.commit(3).await;
    // In epoch 4, behind that of the commits.
    (0..3).for_each(|_| cluster.move_leader("t", 0, 1));
    cluster.elect_unclean("t", 0, 2);
    one.commit(2).await;
    assert_eq!(cluster.take_violations(), [""; 0], "what it had read is lost");
    for offset in [1, 900, 100] {
        one.commit(offset).await;
    }
    let violations = cluster.take_violations();
    assert!(violations[0].contains("backwards, from 2 to 1"), "{violations:?}");
    assert!(violations[1].contains("backwards, from 900 to 100"), "{violations:?}");
    assert_eq!(violations.len(), 2);
    cluster.shutdown().await;
}
