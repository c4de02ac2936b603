//! Every public async call of every crate is dropped at every await, and nothing is lost by it.
//!
//! [`table`] names the calls, each with a short scenario: it makes the call through a [`Cut`](cut::Cut), which polls it a number of
//! times and drops it, makes the next call on the same client, producer or consumer, and looks whether anything was lost or doubled.
//! [`cut`] runs a scenario with every number of polls until the call completes, each time in a fresh cluster in memory under a paused
//! clock, and compares what is alive in the end with an undisturbed run: no task and no connection may be left over.
//!
//! `cargo xtask check` reads the table, too: a `pub async fn` that it does not name fails the check. To add one, write its scenario
//! into the file of its crate and its row into the table.
//!
//! One crate's scenarios alone: `cargo test -p milena-integration-tests --test dropped_futures -- producer`.

#![expect(clippy::unwrap_used, reason = "scenarios fail like the tests they are")]

mod client;
mod consumer;
mod cut;
mod producer;
mod streams;
mod table;
mod testkit;
mod transaction;
mod world;

use table::TABLE;

fn run_all_of(krate: &str) {
    let rows: Vec<_> = TABLE.iter().filter(|row| row.call.split("::").next() == Some(krate)).collect();
    assert!(!rows.is_empty(), "the table has nothing of {krate}");
    let runs: usize = rows
        .iter()
        .map(|row| {
            let runs = cut::at_every_await(row);
            println!("{}: dropped at {runs} places", row.call);
            runs
        })
        .sum();
    println!("{krate}: {} scenarios, dropped at {runs} places", rows.len());
}

#[test]
fn client() {
    run_all_of("client");
}

#[test]
fn producer() {
    run_all_of("producer");
}

#[test]
fn consumer() {
    run_all_of("consumer");
}

#[test]
fn streams() {
    run_all_of("streams");
}

#[test]
fn testkit() {
    run_all_of("testkit");
}

#[test]
fn every_row_belongs_to_a_crate_that_is_run() {
    for row in TABLE {
        let krate = row.call.split("::").next();
        assert!(matches!(krate, Some("client" | "producer" | "consumer" | "streams" | "testkit")), "{}", row.call);
    }
}
