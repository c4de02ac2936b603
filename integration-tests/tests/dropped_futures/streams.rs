//! Streams' calls, dropped. The counts are a plain count's, whatever is guaranteed: nothing is killed here.

#![expect(
    clippy::disallowed_methods,
    reason = "scenarios in virtual time: they sleep on the paused clock, which is free"
)]

use std::collections::BTreeMap;

use milena::streams::{
    KafkaStreams, ProcessingGuarantee, RunningStreams, StreamsBuilder, StreamsConfig, StreamsState, Topology,
};
use milena_client::Client;

use crate::cut::Cut;
use crate::world::{self, Footprint, MINUTE, SECOND, TOPIC, World};

const COUNTS: &str = "counts";

/// Counts the values of the topic.
fn topology() -> Topology {
    let builder = StreamsBuilder::new();
    builder.stream::<(), String>(TOPIC).group_by(|_, value| value.clone()).count("counts-store").to_stream().to(COUNTS);
    builder.build().unwrap()
}

async fn start_world() -> World {
    let world = World::with(world::cluster().topic(COUNTS, 1)).await;
    world.write(TOPIC, 0..3).await;
    world.write(TOPIC, 0..2).await;
    world
}

fn application(guarantee: ProcessingGuarantee) -> KafkaStreams {
    let config = StreamsConfig::new("app").replication_factor(1).commit_interval(SECOND).session_timeout(SECOND * 10);
    KafkaStreams::new(topology(), config.processing_guarantee(guarantee))
}

fn client(world: &World) -> &Client {
    &world.client
}

/// Waits until everything is counted and committed, closes, and compares.
async fn finish(world: &World, streams: RunningStreams) {
    streams.running().await.unwrap();
    caught_up(&streams).await;
    streams.close(MINUTE).await.unwrap();
    assert_counted(world);
}

async fn caught_up(streams: &RunningStreams) {
    for _ in 0..200 {
        let left = streams.uncommitted_records().await.unwrap();
        if left.len() == 2 && left.values().all(|left| *left == 0) {
            return;
        }
        tokio::time::sleep(SECOND).await;
    }
    panic!("not caught up: {:?}", streams.state());
}

/// The last count of each value is right, and no count is above it.
fn assert_counted(world: &World) {
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for record in world.cluster.committed_records(COUNTS, 0) {
        let key = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
        let count = i64::from_be_bytes(record.value.unwrap().as_ref().try_into().unwrap());
        let before = counts.insert(key, count).unwrap_or(0);
        assert!(before <= count, "a count never falls");
    }
    let plain = [("0", 2), ("1", 2), ("2", 1)].map(|(value, count)| (value.to_owned(), count));
    assert_eq!(counts, BTreeMap::from(plain));
}

pub(crate) async fn start(cut: &Cut, guarantee: ProcessingGuarantee) -> Footprint {
    let world = start_world().await;
    let before = world.footprint().await;
    let started = cut.of(application(guarantee).start(client(&world))).await;
    let streams = match started {
        Some(streams) => streams.unwrap(),
        None => {
            assert_eq!(world.footprint().await, before, "no thread was started");
            application(guarantee).start(client(&world)).await.unwrap()
        }
    };
    finish(&world, streams).await;
    world.end().await
}

pub(crate) async fn running(cut: &Cut, guarantee: ProcessingGuarantee) -> Footprint {
    let world = start_world().await;
    let streams = application(guarantee).start(client(&world)).await.unwrap();
    cut.of(streams.running()).await;
    finish(&world, streams).await;
    world.end().await
}

pub(crate) async fn uncommitted(cut: &Cut, guarantee: ProcessingGuarantee) -> Footprint {
    let world = start_world().await;
    let streams = application(guarantee).start(client(&world)).await.unwrap();
    streams.running().await.unwrap();
    cut.of(streams.uncommitted_records()).await;
    finish(&world, streams).await;
    world.end().await
}

pub(crate) async fn close(cut: &Cut, guarantee: ProcessingGuarantee) -> Footprint {
    let world = start_world().await;
    let before = world.footprint().await;
    let streams = application(guarantee).start(client(&world)).await.unwrap();
    streams.running().await.unwrap();
    let mut state = streams.state_changes();
    cut.of(streams.close(MINUTE)).await;
    // Dropped, the threads still end.
    state.wait_for(|state| matches!(state, StreamsState::NotRunning)).await.unwrap();
    assert_eq!(world.footprint().await, before);
    let again = application(guarantee).start(client(&world)).await.unwrap();
    finish(&world, again).await;
    world.end().await
}
