//! What this machine lacks, and the command that installs it.

use std::process::{Command, Stdio};

use crate::Result;

/// `cargo fmt` and `cargo clippy` are components of a toolchain.
pub(crate) fn need_component(program: &str, component: &str) -> Result<()> {
    need(program, "--version", &format!("Install it:  rustup component add {component}"))
}

/// What the C code of the peers in `bench/` is built with.
pub(crate) fn need_c_compiler() -> Result<()> {
    for program in ["cc", "make"] {
        need(
            program,
            "--version",
            "librdkafka, which is measured beside milena, is written in C.\nInstall it:  apt-get install -y gcc make",
        )?;
    }
    Ok(())
}

/// One of the judges of the in-process cluster.
pub(crate) fn need_kcat() -> Result<()> {
    need("kcat", "-V", "It judges the in-process cluster.\nInstall it:  apt-get install -y kcat")
}

fn need(program: &str, argument: &str, hint: &str) -> Result<()> {
    let status =
        Command::new(program).arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!("{program} is not on the PATH, or does not run. {hint}")),
    }
}
