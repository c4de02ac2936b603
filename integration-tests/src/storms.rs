//! What several storms on real brokers have in common.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use milena::{Client, Record};

use crate::xtask;

/// How often a storm does its worst: `MILENA_STORM_ROUNDS`, or once.
pub fn rounds() -> usize {
    std::env::var("MILENA_STORM_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

/// Kills a broker of the real cluster (`kill -9`) and starts it again four seconds later.
///
/// # Panics
/// When that fails.
#[expect(clippy::disallowed_methods, reason = "part of a test that lives by the real clock")]
pub async fn kill_and_start(broker: i32) {
    println!("broker {broker} is killed");
    on_broker("kill", broker).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    on_broker("start", broker).await;
    println!("broker {broker} is back");
}

/// `cargo xtask kafka ACTION BROKER`: kills a broker of the real cluster (`kill -9`), starts, freezes or thaws it.
///
/// # Panics
/// When that fails.
pub async fn on_broker(action: &str, broker: i32) {
    let mut command = xtask();
    command.args(["kafka", action, &broker.to_string()]);
    let ended = tokio::process::Command::from(command).status().await.expect("xtask can be started");
    assert!(ended.success(), "cargo xtask kafka {action} {broker}: {ended}");
}

/// Sends numbers from 0 on until it is over, partition after partition, one each `pause`. All of them are acknowledged, each within
/// `deadline`. How many there were.
///
/// # Panics
/// When one of them is not.
#[expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "part of a test that lives by the real clock")]
pub async fn produce_until(
    over: &AtomicBool,
    client: &Client,
    (topic, partitions): (&str, i32),
    pause: Duration,
    deadline: Duration,
) -> usize {
    let builder = client.producer().request_timeout(Duration::from_secs(10)).delivery_timeout(deadline);
    let producer = builder.linger(Duration::from_millis(10)).build().await.unwrap();
    let mut deliveries = Vec::new();
    while !over.load(Ordering::Acquire) {
        let number = deliveries.len();
        let (partition, value) = (number as i32 % partitions, number.to_string());
        deliveries.push(producer.send(&Record::to(topic).partition(partition).value(&value)).await.unwrap());
        tokio::time::sleep(pause).await;
    }
    let sent = deliveries.len();
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    producer.close(deadline).await.unwrap();
    sent
}
