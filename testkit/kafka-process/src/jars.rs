//! The jars of one Kafka release: resolved by Maven into `target/kafka/VERSION/libs`, once.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{cannot, need_maven, problem};

/// The release that is started when nobody asks for another one.
pub const DEFAULT_VERSION: &str = "4.3.0";

/// The folder `kafka` in cargo's target folder, in which jars are kept: that of the running program, which cargo has built.
pub fn kept_in_target() -> Option<PathBuf> {
    // Cargo marks the folder for programs that make backups.
    let program = env::current_exe().ok()?;
    program.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists()).map(|target| target.join("kafka"))
}

/// The folder with every jar of that release below `kafka_dir`, filled by Maven if it is not there yet. Standard error tells when it
/// is: it takes seconds, and minutes when Maven has to download 130 MB.
///
/// # Errors
/// When Maven is missing, or fails.
pub fn resolve(kafka_dir: &Path, version: &str) -> io::Result<PathBuf> {
    if let Some(libs) = resolved(kafka_dir, version) {
        return Ok(libs);
    }
    let dir = kafka_dir.join(version);
    let libs = dir.join("libs");
    let pom = pom(version);
    need_maven()?;
    eprintln!("resolving the jars of Kafka {version} with Maven (once; about 130 MB)");
    let _ = fs::remove_dir_all(&libs);
    fs::create_dir_all(&libs).map_err(cannot("create", &libs))?;
    let pom_path = dir.join("pom.xml");
    fs::write(&pom_path, &pom).map_err(cannot("write", &pom_path))?;
    let status = Command::new("mvn")
        .args(["--batch-mode", "--quiet", "--file"])
        .arg(&pom_path)
        .arg("dependency:copy-dependencies")
        .arg(format!("-DoutputDirectory={}", libs.display()))
        .arg("-DincludeScope=runtime")
        .stdin(Stdio::null())
        // Standard output is for results.
        .stdout(io::stderr())
        .status()
        .map_err(|e| problem(format!("cannot run mvn: {e}")))?;
    if !status.success() {
        return Err(problem(format!(
            "Maven could not resolve Kafka {version} (its messages are above). Is the release complete on Maven Central, and is the network there?"
        )));
    }
    let resolved = dir.join(RESOLVED);
    fs::write(&resolved, &pom).map_err(cannot("write", &resolved))?;
    Ok(libs)
}

/// The folder with every jar of that release, if it has been filled.
pub fn resolved(kafka_dir: &Path, version: &str) -> Option<PathBuf> {
    let dir = kafka_dir.join(version);
    fs::read_to_string(dir.join(RESOLVED)).is_ok_and(|text| text == pom(version)).then(|| dir.join("libs"))
}

/// A copy of the pom: written last, so it stands for a folder that is complete and still wanted.
const RESOLVED: &str = "resolved-pom.xml";

/// Broker, command line tools and Streams. `kafka-tools-api`, which holds one interface of the console producer, lags
/// behind the others on Maven Central, so it comes from one release that has it, whatever the broker's is. `log4j-slf4j-impl` is
/// added because the broker is silent without a binder, and the one that releases before 4.0 bring along is left out,
/// because it would be chosen and knows no settings.
fn pom(version: &str) -> String {
    let exclusions = "<exclusions>\
        <exclusion><groupId>org.apache.kafka</groupId><artifactId>kafka-tools-api</artifactId></exclusion>\
        <exclusion><groupId>org.slf4j</groupId><artifactId>slf4j-reload4j</artifactId></exclusion>\
        </exclusions>";
    let mut dependencies = String::new();
    for (group, artifact, version, extra) in [
        ("org.apache.kafka", "kafka_2.13", version, exclusions),
        ("org.apache.kafka", "kafka-tools", version, exclusions),
        ("org.apache.kafka", "kafka-streams", version, exclusions),
        ("org.apache.kafka", "kafka-tools-api", "4.2.0", ""),
        ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.4", ""),
    ] {
        dependencies.push_str(&format!(
            "    <dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>{extra}</dependency>\n"
        ));
    }
    format!(
        r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>milena</groupId>
  <artifactId>kafka-for-tests</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <build><pluginManagement><plugins><plugin>
    <groupId>org.apache.maven.plugins</groupId><artifactId>maven-dependency-plugin</artifactId><version>3.8.1</version>
  </plugin></plugins></pluginManagement></build>
  <dependencies>
{dependencies}  </dependencies>
</project>
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pom_names_the_asked_release_and_the_log_binder() {
        let pom = pom("3.9.1");
        assert_eq!(pom.matches("<version>3.9.1</version>").count(), 3);
        assert!(pom.contains("log4j-slf4j-impl"));
        assert_eq!(pom.matches("kafka-tools-api").count(), 4, "excluded wherever it is asked for, and added once");
    }
}
