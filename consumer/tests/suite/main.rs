//! The consumer's tests through its public interface. One program, because each one more is linked anew; a file for each subject.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod between;
mod closing;
mod forms;
mod gates;
mod groups;
mod lessons;
mod pinned;
mod positions;
mod reading;
mod tables;
