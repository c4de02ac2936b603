//! `cargo xtask kafka image`: a container image of Kafka, made of what this machine has. It takes the same environment as the official
//! `apache/kafka` image, so that one description starts either of them; no registry is asked.
//!
//! The journey of the image: a Java runtime with the modules that a broker needs (jlink) → Kafka's jars → the shared libraries that the
//! runtime is linked with → a shell, which runs Kafka's own `KafkaDockerWrapper` and then the broker → `docker import`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use milena_kafka_process::{jars, need_java};

use crate::docker::Docker;
use crate::{Result, say, told, workspace};

/// What a broker uses of Java; `java.desktop` for `java.beans`.
const MODULES: &str = "java.base,java.logging,java.management,java.naming,java.sql,java.xml,java.desktop,java.security.jgss,\
                       java.security.sasl,java.rmi,jdk.management,jdk.unsupported,jdk.crypto.ec";

/// What the shell needs beside itself: Kafka's folders are made by it, and a container is looked into with the rest.
const PROGRAMS: [&str; 4] = ["/bin/sh", "/bin/mkdir", "/bin/cat", "/bin/ls"];

/// Libraries that `ldd` does not name: the codecs in Kafka's jars are linked with them, or libc loads them by itself.
const LOADED_LATER: [&str; 6] =
    ["libpthread.so.0", "libdl.so.2", "libm.so.6", "librt.so.1", "libnss_files.so.2", "libresolv.so.2"];

/// Where the official image has it, too.
const RUN: &str = "/etc/kafka/docker/run";

/// The folder whose properties are used as they are when no `KAFKA_…` variable is given.
const SERVER_PROPERTIES: &str = "\
node.id=1
process.roles=broker,controller
controller.quorum.voters=1@localhost:9093
listeners=PLAINTEXT://:9092,CONTROLLER://:9093
advertised.listeners=PLAINTEXT://localhost:9092
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=/tmp/kraft-combined-logs
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
";

const LOG4J2: &str = "\
Configuration:
  Appenders:
    Console:
      name: STDOUT
      PatternLayout:
        pattern: \"[%d] %p %m (%c)%n\"
  Loggers:
    Root:
      level: INFO
      AppenderRef:
        - ref: STDOUT
";

/// `setup` writes the properties of the `KAFKA_…` variables and formats the storage, as in the official image.
const SCRIPT: &str = "\
#!/bin/sh
set -e
/opt/java/bin/java -Xmx200m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp '/opt/kafka/libs/*' kafka.docker.KafkaDockerWrapper setup \\
  --default-configs-dir /etc/kafka/docker --mounted-configs-dir /mnt/shared/config --final-configs-dir /opt/kafka/config
exec /opt/java/bin/java ${KAFKA_HEAP_OPTS:--Xmx400m} -XX:+UseSerialGC ${KAFKA_OPTS:-} \\
  -Dlog4j2.configurationFile=/opt/kafka/config/log4j2.yaml -cp '/opt/kafka/libs/*' kafka.Kafka /opt/kafka/config/server.properties
";

/// The name of the image of a release.
pub(crate) fn name(version: &str) -> String {
    format!("milena-kafka:{version}")
}

/// Builds the image of that release, unless the engine has it already. Returns its name.
pub(crate) fn build(docker: &Docker, version: &str, again: bool) -> Result<String> {
    let name = name(version);
    if !again && docker.run(&["image", "inspect", &name]).is_ok() {
        return Ok(name);
    }
    need_java().map_err(told)?;
    let libs = jars::resolve(&workspace::kafka_dir(), version).map_err(told)?;
    let root = workspace::kafka_dir().join("image");
    say(&format!("building the image {name}"));
    let _ = fs::remove_dir_all(&root);
    let done = fill(&root, &libs).and_then(|()| import(docker, &root, &name));
    let _ = fs::remove_dir_all(&root);
    done.map(|()| name)
}

fn fill(root: &Path, libs: &Path) -> Result<()> {
    for dir in
        ["opt/kafka/libs", "opt/kafka/config", "etc/kafka/docker", "mnt/shared/config", "tmp", "bin", "proc", "sys"]
    {
        fs::create_dir_all(root.join(dir)).map_err(|e| format!("cannot create {dir} in {}: {e}", root.display()))?;
    }
    run(
        Command::new("jlink")
            .args(["--add-modules", MODULES, "--strip-debug", "--no-header-files", "--no-man-pages", "--output"])
            .arg(root.join("opt/java")),
        "jlink makes the image's Java runtime.\nInstall it:  apt-get install -y openjdk-17-jdk-headless binutils",
    )?;
    for jar in files(libs)? {
        let file_name = jar.file_name().unwrap_or_default();
        copy(&jar, &root.join("opt/kafka/libs").join(file_name))?;
    }
    let mut linked = BTreeSet::new();
    for program in PROGRAMS {
        copy(Path::new(program), &root.join(&program[1..]))?;
        linked.append(&mut shared_libraries(Path::new(program))?);
    }
    for file in files(&root.join("opt/java/bin"))?.into_iter().chain(files_below(&root.join("opt/java/lib"))?) {
        if is_elf(&file) {
            linked.append(&mut shared_libraries(&file)?);
        }
    }
    let besides: Vec<PathBuf> = linked
        .iter()
        .filter_map(|library| library.parent())
        .flat_map(|dir| LOADED_LATER.map(|name| dir.join(name)))
        .collect();
    linked.extend(besides.into_iter().filter(|library| library.is_file()));
    for library in &linked {
        copy(library, &root.join(library.strip_prefix("/").unwrap_or(library)))?;
    }
    for (path, text) in [
        ("etc/kafka/docker/server.properties", SERVER_PROPERTIES),
        ("etc/kafka/docker/log4j2.yaml", LOG4J2),
        ("etc/kafka/docker/tools-log4j2.yaml", LOG4J2),
        (&RUN[1..], SCRIPT),
        ("etc/passwd", "root:x:0:0:root:/:/bin/sh\n"),
    ] {
        let path = root.join(path);
        fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    }
    let script = root.join(&RUN[1..]);
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))
        .map_err(|e| format!("{}: {e}", script.display()))?;
    // On the systems of today, where the loader's path begins with /lib64, that is a link.
    if !root.join("usr/bin").exists() {
        fs::create_dir_all(root.join("usr")).and_then(|()| symlink("../bin", root.join("usr/bin"))).map_err(told)?;
    }
    Ok(())
}

fn import(docker: &Docker, root: &Path, name: &str) -> Result<()> {
    let mut tar = Command::new("tar")
        .args(["--create", "--owner=0", "--group=0", "--directory"])
        .arg(root)
        .arg(".")
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot start tar: {e}"))?;
    let archive = tar.stdout.take().ok_or("tar has no output")?;
    let command = format!("CMD [\"{RUN}\"]");
    let changes = ["--change", &command, "--change", "EXPOSE 9092", "--change", "ENV PATH=/opt/java/bin:/bin"];
    docker.import(&changes, archive, name)?;
    let status = tar.wait().map_err(|e| format!("cannot wait for tar: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("tar ended with {status}")) }
}

/// What a program or a library is linked with, the loader included, by absolute paths.
fn shared_libraries(file: &Path) -> Result<BTreeSet<PathBuf>> {
    let out = Command::new("ldd").arg(file).output().map_err(|e| format!("cannot start ldd: {e}"))?;
    // libjli.so => /usr/lib/…/libjli.so (0x…)     or     /lib64/ld-linux-x86-64.so.2 (0x…)
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    // The runtime brings its own libraries and finds them by itself.
    Ok(paths.map(PathBuf::from).filter(|path| path.is_file() && !path.starts_with(workspace::kafka_dir())).collect())
}

fn is_elf(file: &Path) -> bool {
    use std::io::Read as _;
    let mut head = [0; 4];
    fs::File::open(file).and_then(|mut file| file.read_exact(&mut head)).is_ok() && head == *b"\x7fELF"
}

/// Copies what the path leads to, with its permissions.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
    }
    fs::copy(from, to).map(drop).map_err(|e| format!("cannot copy {} to {}: {e}", from.display(), to.display()))
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).map_err(|e| format!("cannot read {}: {e}", dir.display()))?;
    Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect())
}

fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = files(dir)?;
    let entries = fs::read_dir(dir).map_err(|e| format!("cannot read {}: {e}", dir.display()))?;
    for below in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
        found.append(&mut files_below(&below)?);
    }
    Ok(found)
}

fn run(command: &mut Command, hint: &str) -> Result<()> {
    let out = command.stdin(Stdio::null()).output().map_err(|e| format!("{hint}\n({e})"))?;
    if out.status.success() {
        return Ok(());
    }
    Err(format!("{}{}\n{hint}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)))
}
