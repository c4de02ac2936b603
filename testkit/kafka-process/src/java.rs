//! Java and Maven: whether they are here, and the command that installs them.

use std::io;
use std::process::{Command, Stdio};

use crate::problem;

/// A Java runtime from 17 on, which Kafka 4 needs.
///
/// # Errors
/// A sentence with the command that installs one.
pub fn need_java() -> io::Result<()> {
    let hint =
        "Kafka needs a Java runtime, version 17 or later.\nInstall it:  apt-get install -y openjdk-17-jdk-headless";
    let out = Command::new("java").arg("-version").stdin(Stdio::null()).output();
    let Ok(out) = out else {
        return Err(problem(format!("java is not on the PATH. {hint}")));
    };
    // The version is on standard error: openjdk version "17.0.15" 2025-04-15
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    match major_version(&text) {
        Some(major) if major < 17 => Err(problem(format!("java is version {major}. {hint}"))),
        _ => Ok(()),
    }
}

/// Maven, which resolves Kafka's jars.
///
/// # Errors
/// A sentence with the command that installs it.
pub fn need_maven() -> io::Result<()> {
    let mut maven = Command::new("mvn");
    maven.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match maven.status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err(problem(
            "mvn is not on the PATH, or does not run. Maven resolves Kafka's jars.\nInstall it:  apt-get install -y maven",
        )),
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
