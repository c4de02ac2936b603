//! `cargo xtask bench …`: the workspace in `bench/`, built optimised and run.

use std::path::PathBuf;
use std::process::Command;

use crate::arguments::Arguments;
use crate::steps::succeed;
use crate::{Result, missing, say, workspace};

pub(crate) const HELP: &str = "\
cargo xtask bench: milena side by side with its peers

  spine [ARGUMENTS…]   client CPU per 100-byte record through send and poll against the null broker, librdkafka beside
                       milena in the same run; about two minutes after a build of three (needs a C compiler and make)
                         --records N   measured in each run (default 2000000)
                         --rounds N    how often every contender runs (default 5)
                         --only WORD   only contenders whose name contains it
";

pub(crate) fn main(mut arguments: Arguments) -> Result<()> {
    match arguments.next_word().as_deref() {
        Some("spine") if arguments.asks_for_help() => {
            print!("{HELP}");
            Ok(())
        }
        Some("spine") => spine(arguments),
        None | Some("help" | "--help" | "-h") => {
            print!("{HELP}");
            Ok(())
        }
        Some(other) => Err(arguments.unknown(other, HELP)),
    }
}

fn spine(arguments: Arguments) -> Result<()> {
    missing::need_c_compiler()?;
    say("building the benchmarks, optimised");
    let manifest = workspace::root().join("bench/Cargo.toml");
    succeed(
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--release", "--package", "nullbroker", "--package", "spine", "--manifest-path"])
            .arg(manifest)
            .env("CARGO_TARGET_DIR", target_dir()),
    )?;
    succeed(Command::new(target_dir().join("release/spine")).args(arguments.rest()))
}

/// A target folder of its own, since the benchmarks have a lock file of their own.
fn target_dir() -> PathBuf {
    workspace::target_dir().join("bench")
}
