//! What this machine lacks, and the command that installs it.

use std::process::{Command, Stdio};

use crate::Result;

/// A JDK from 17 on, which Kafka 4 needs.
pub(crate) fn need_java() -> Result<()> {
    let hint =
        "Kafka needs a Java runtime, version 17 or later.\nInstall it:  apt-get install -y openjdk-17-jdk-headless";
    let out = Command::new("java").arg("-version").stdin(Stdio::null()).output();
    let Ok(out) = out else {
        return Err(format!("java is not on the PATH. {hint}"));
    };
    // The version is on standard error: openjdk version "17.0.15" 2025-04-15
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    match major_version(&text) {
        Some(major) if major < 17 => Err(format!("java is version {major}. {hint}")),
        _ => Ok(()),
    }
}

pub(crate) fn need_maven() -> Result<()> {
    need("mvn", "--version", "Maven resolves Kafka's jars.\nInstall it:  apt-get install -y maven")
}

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

fn need(program: &str, argument: &str, hint: &str) -> Result<()> {
    let status =
        Command::new(program).arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!("{program} is not on the PATH, or does not run. {hint}")),
    }
}

fn major_version(text: &str) -> Option<u32> {
    let quoted = text.split('"').nth(1)?;
    let mut parts = quoted.split(|c: char| !c.is_ascii_digit());
    match parts.next()?.parse().ok()? {
        // Up to Java 8 the version was called 1.8.
        1 => parts.next()?.parse().ok(),
        major => Some(major),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_versions_old_and_new_are_read() {
        assert_eq!(major_version("openjdk version \"17.0.15\" 2025-04-15"), Some(17));
        assert_eq!(major_version("java version \"1.8.0_402\""), Some(8));
        assert_eq!(major_version("openjdk version \"21\" 2023-09-19"), Some(21));
        assert_eq!(major_version("Picked up nothing"), None);
    }
}
