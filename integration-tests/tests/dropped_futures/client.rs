//! The client's calls, dropped.

#![expect(
    clippy::disallowed_methods,
    reason = "scenarios in virtual time: they sleep on the paused clock, which is free"
)]

use std::future::pending;
use std::sync::Arc;

use milena::{ErrorCode, NewTopic, OffsetSpec, TopicPartition};
use milena_client::protocol::messages::{InitProducerIdRequest, MetadataRequest};
use milena_client::{CoordinatorKind, Lane, Owner, Target};
use milena_testkit::{Api, Reaction};

use crate::cut::Cut;
use crate::world::{self, Footprint, MINUTE, SECOND, TOPIC, World, alive_tasks, settle};

pub(crate) async fn connect(cut: &Cut) -> Footprint {
    let cluster = world::cluster().start_in_memory().unwrap();
    let before = alive_tasks();
    drop(cut.of(world::client(&cluster).connect()).await);
    settle().await;
    assert_eq!((alive_tasks(), cluster.connections(1)), (before, 0), "what was started ends again");
    let client = world::client(&cluster).connect().await.unwrap();
    World { cluster, client }.end().await
}

pub(crate) async fn close(cut: &Cut) -> Footprint {
    let world = World::start().await;
    let producer = world.client.producer().build().await.unwrap();
    producer.prepare_topic(TOPIC).await.unwrap();
    let begun = cut.of(world.client.close()).await;
    settle().await;
    if begun.is_some() {
        assert_eq!((world.client.tasks(), world.client.sockets()), (0, 0));
    }
    world.client.close().await;
    assert_eq!((world.client.tasks(), world.client.sockets()), (0, 0), "closing goes on where it was dropped");
    drop(producer);
    world.end().await
}

pub(crate) async fn close_owner(cut: &Cut) -> Footprint {
    let world = World::start().await;
    let before = world.footprint().await;
    let owner = world.client.new_owner("test");
    ask(&owner).await;
    owner.spawn("test", pending());
    cut.of(owner.close()).await;
    owner.close().await;
    assert_eq!(world.footprint().await, before, "its connection and its task have gone");
    world.end().await
}

async fn ask(owner: &Owner) {
    let answer = owner.send(Target::Broker(1), Lane::Rest, MetadataRequest::default(), SECOND * 5).await.unwrap();
    assert_eq!(answer.brokers.len(), 1);
}

/// The question stays with the broker for a while.
fn slow_answers(world: &World, api: Api) {
    world.cluster.faults().when(api).client_id("milena").optional().then(Reaction::DelayAnswer(SECOND / 20));
}

pub(crate) async fn topic(cut: &Cut) -> Footprint {
    let world = World::start().await;
    let owner = world.client.new_owner("test");
    let deadline = owner.now() + MINUTE;
    let wanted = async {
        tokio::join!(owner.topic("late", deadline), async {
            tokio::time::sleep(SECOND / 4).await;
            world.cluster.create_topic("late", 7);
        })
        .0
    };
    cut.of(wanted).await;
    if world.cluster.partitions("late").is_none() {
        world.cluster.create_topic("late", 7);
    }
    assert_eq!(owner.topic("late", deadline).await.unwrap().partitions.len(), 7);
    drop(owner);
    world.end().await
}

pub(crate) async fn send(cut: &Cut) -> Footprint {
    let world = World::start().await;
    let owner = world.client.new_owner("test");
    slow_answers(&world, Api::Metadata);
    cut.of(owner.send(Target::Broker(1), Lane::Rest, MetadataRequest::default(), SECOND * 5)).await;
    ask(&owner).await;
    world.end().await
}

pub(crate) async fn send_versioned(cut: &Cut) -> Footprint {
    let world = World::start().await;
    let owner = world.client.new_owner("test");
    slow_answers(&world, Api::Metadata);
    let make = |_| MetadataRequest::default();
    cut.of(owner.send_versioned(Target::Controller, Lane::Rest, SECOND * 5, make)).await;
    ask(&owner).await;
    world.end().await
}

pub(crate) async fn send_at_most(cut: &Cut) -> Footprint {
    let world = World::start().await;
    let owner = world.client.new_owner("test");
    slow_answers(&world, Api::Metadata);
    let make = |_| MetadataRequest::default();
    cut.of(owner.send_at_most(Target::Broker(1), Lane::Rest, SECOND * 5, 12, make)).await;
    ask(&owner).await;
    world.end().await
}

pub(crate) async fn outcomes_settled(cut: &Cut) -> Footprint {
    let world = World::start().await;
    let owner = world.client.new_owner("test");
    let open = owner.open_outcome("id");
    let settled = async {
        tokio::join!(owner.outcomes_settled("id"), async {
            tokio::time::sleep(SECOND / 4).await;
            drop(open);
        });
    };
    cut.of(settled).await;
    owner.outcomes_settled("id").await;
    drop(owner);
    world.end().await
}

pub(crate) async fn call(cut: &Cut) -> Footprint {
    let world = World::start().await;
    let owner = world.client.new_owner("test");
    let deadline = owner.now() + MINUTE;
    let refused = Reaction::Error(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
    world.cluster.faults().when(Api::InitProducerId).times(2).optional().then(refused);
    let call = || {
        let make = |_| InitProducerIdRequest::default().with_transactional_id(None).with_producer_id((-1).into());
        owner.call(Target::Any, Lane::Rest, deadline, make, |answer| ErrorCode(answer.error_code))
    };
    cut.of(call()).await;
    assert!(call().await.unwrap().producer_id.0 >= 0);
    world.end().await
}

pub(crate) async fn coordinator(cut: &Cut) -> Footprint {
    let world = World::start().await;
    let owner = world.client.new_owner("test");
    let (group, deadline): (Arc<str>, _) = (Arc::from("group"), owner.now() + MINUTE);
    let refused = Reaction::Error(ErrorCode::COORDINATOR_NOT_AVAILABLE);
    world.cluster.faults().when(Api::FindCoordinator).times(2).optional().then(refused);
    cut.of(owner.coordinator(CoordinatorKind::Group, &group, deadline)).await;
    assert_eq!(owner.coordinator(CoordinatorKind::Group, &group, deadline).await.unwrap(), 1);
    world.end().await
}

pub(crate) async fn open(cut: &Cut) -> Footprint {
    let world = World::start().await;
    let owner = world.client.new_owner("test");
    let before = world.footprint().await;
    drop(cut.of(owner.open(1)).await);
    assert_eq!(world.footprint().await, before, "a half-made connection is closed");
    let wire = owner.open(1).await.unwrap();
    assert_eq!(world.client.sockets(), before.sockets() + 1);
    drop(wire);
    world.end().await
}

pub(crate) async fn create_topics(cut: &Cut) -> Footprint {
    let world = World::start().await;
    let admin = world.client.admin();
    slow_answers(&world, Api::CreateTopics);
    let topics = [NewTopic::new("a", 2), NewTopic::new("b", 3)];
    cut.of(admin.create_topics(&topics)).await;
    for result in admin.create_topics(&topics).await.unwrap() {
        assert!(result.is_ok() || result.unwrap_err().code() == Some(ErrorCode::TOPIC_ALREADY_EXISTS));
    }
    assert_eq!((world.cluster.partitions("a"), world.cluster.partitions("b")), (Some(2), Some(3)));
    drop(admin);
    world.end().await
}

pub(crate) async fn ensure_topics(cut: &Cut) -> Footprint {
    let world = World::start().await;
    let admin = world.client.admin();
    slow_answers(&world, Api::CreateTopics);
    let topics = [NewTopic::new("a", 2), NewTopic::new(TOPIC, 1)];
    cut.of(admin.ensure_topics(&topics)).await;
    admin.ensure_topics(&topics).await.unwrap();
    assert_eq!(world.client.metadata().topic("a").unwrap().partitions.len(), 2);
    drop(admin);
    world.end().await
}

pub(crate) async fn delete_topics(cut: &Cut) -> Footprint {
    let world = World::start().await;
    let admin = world.client.admin();
    slow_answers(&world, Api::DeleteTopics);
    cut.of(admin.delete_topics(&[TOPIC])).await;
    for result in admin.delete_topics(&[TOPIC]).await.unwrap() {
        assert!(result.is_ok() || result.unwrap_err().code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    }
    assert_eq!(world.cluster.partitions(TOPIC), None);
    drop(admin);
    world.end().await
}

pub(crate) async fn describe_topic(cut: &Cut) -> Footprint {
    let world = World::start().await;
    let admin = world.client.admin();
    world.cluster.create_topic("new", 2);
    slow_answers(&world, Api::Metadata);
    cut.of(admin.describe_topic("new")).await;
    assert_eq!(admin.describe_topic("new").await.unwrap().partitions.len(), 2);
    drop(admin);
    world.end().await
}

pub(crate) async fn changed(cut: &Cut) -> Footprint {
    let world = World::start().await;
    let mut changes = world.client.metadata_changes();
    world.cluster.create_topic("new", 2);
    slow_answers(&world, Api::Metadata);
    let interest = world.client.want_topics(["new"]);
    cut.of(changes.changed()).await;
    // Whoever did not hear of it hears of it now.
    if world.client.metadata().topic("new").is_none() {
        changes.changed().await;
    }
    assert_eq!(world.client.metadata().topic("new").unwrap().partitions.len(), 2);
    drop(interest);
    world.end().await
}

pub(crate) async fn sleep_until(cut: &Cut) -> Footprint {
    let world = World::start().await;
    let owner = world.client.new_owner("test");
    let until = owner.now() + SECOND;
    let mut timer = owner.sleep_until(until);
    cut.of(timer.as_mut()).await;
    // The same one, which goes on to its end.
    timer.await;
    assert!(owner.now() >= until && owner.now() < until + SECOND);
    drop(owner);
    world.end().await
}

fn orders() -> TopicPartition {
    TopicPartition::new(TOPIC, 0)
}

pub(crate) async fn list_offsets(cut: &Cut) -> Footprint {
    let world = World::start().await;
    world.write(TOPIC, 0..3).await;
    let admin = world.client.admin();
    world.cluster.faults().when(Api::ListOffsets).optional().then(Reaction::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER));
    cut.of(admin.list_offsets(&[(orders(), OffsetSpec::Latest)])).await;
    let ends = admin.list_offsets(&[(orders(), OffsetSpec::Latest)]).await.unwrap();
    assert_eq!(ends[&orders()], Some(3));
    drop(admin);
    world.end().await
}

pub(crate) async fn delete_records(cut: &Cut) -> Footprint {
    let world = World::start().await;
    world.write(TOPIC, 0..3).await;
    let admin = world.client.admin();
    slow_answers(&world, Api::DeleteRecords);
    cut.of(admin.delete_records(&[(orders(), 2)])).await;
    let starts = admin.delete_records(&[(orders(), 2)]).await.unwrap();
    assert_eq!(starts[&orders()], 2);
    assert_eq!(world.values(TOPIC), ["2"]);
    drop(admin);
    world.end().await
}
