//! One Kafka process: its folder, its start, whether it still lives, its end.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::config::{BROKER_LOG4J, Shape};
use crate::Result;

/// A node of the cluster, known by its folder `target/kafka/run/node-N`.
pub(crate) struct Node {
    pub(crate) id: u16,
    dir: PathBuf,
}

impl Node {
    pub(crate) fn new(run_dir: &Path, id: u16) -> Self {
        Self { id, dir: run_dir.join(format!("node-{id}")) }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub(crate) fn properties(&self) -> PathBuf {
        self.dir.join("server.properties")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("pid")
    }

    /// Starts the process in a process group of its own, with nothing of this terminal, and writes its pid down.
    pub(crate) fn start(&self, shape: &Shape, class_path: &str) -> Result<()> {
        let log4j = self.dir.join("log4j2.properties");
        fs::write(&log4j, BROKER_LOG4J).map_err(|e| format!("cannot write {}: {e}", log4j.display()))?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .map_err(|e| format!("cannot open {}: {e}", self.log().display()))?;
        let errors = log.try_clone().map_err(|e| format!("cannot share {}: {e}", self.log().display()))?;
        let mut child = Command::new("java")
            .args(shape.jvm_flags())
            .arg(format!("-Dlog4j2.configurationFile={}", log4j.display()))
            .arg(format!("-Dkafka.logs.dir={}", self.dir.display()))
            .args(["-cp", class_path, "kafka.Kafka"])
            .arg(self.properties())
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|e| format!("cannot start java: {e}"))?;
        fs::write(self.pid_file(), child.id().to_string())
            .map_err(|e| format!("cannot write {}: {e}", self.pid_file().display()))?;
        // For a moment after the start the kernel shows an empty command line.
        while self.alive().is_none() && matches!(child.try_wait(), Ok(None)) {
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The pid of the running process. A pid file that a crash or a reboot left behind does not count, nor does
    /// another program that got the same pid: its command line must name this node's settings.
    pub(crate) fn alive(&self) -> Option<u32> {
        let pid: u32 = fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        let settings = self.properties();
        command_line(pid)?.contains(settings.to_str()?).then_some(pid)
    }

    /// Ends the process and waits until it is gone.
    pub(crate) fn kill(&self) {
        while let Some(pid) = self.alive() {
            signal("KILL", pid);
            sleep(Duration::from_millis(10));
        }
        let _ = fs::remove_file(self.pid_file());
    }

    /// The last lines of the node's log: what one wants to see when it does not start.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// The command line of a process, or `None` when there is no such process or it is only waiting to be reaped.
fn command_line(pid: u32) -> Option<String> {
    if Path::new("/proc/self").exists() {
        let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        return Some(String::from_utf8_lossy(&bytes).into_owned());
    }
    let out = Command::new("ps").args(["-ww", "-o", "command=", "-p", &pid.to_string()]).output().ok()?;
    Some(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Through the shell's own `kill`: the program of that name is missing on small systems.
fn signal(name: &str, pid: u32) {
    let _ = Command::new("sh").args(["-c", "kill -\"$0\" \"$1\"", name, &pid.to_string()]).status();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_that_names_another_program_does_not_count() {
        let dir = std::env::temp_dir().join(format!("xtask-node-{}", std::process::id()));
        let node = Node::new(&dir, 1);
        fs::create_dir_all(node.dir()).unwrap();
        assert_eq!(node.alive(), None, "no pid file at all");
        fs::write(node.pid_file(), std::process::id().to_string()).unwrap();
        assert_eq!(node.alive(), None, "this test is no Kafka");
        fs::write(node.pid_file(), "not a number").unwrap();
        assert_eq!(node.alive(), None);
        fs::remove_dir_all(&dir).unwrap();
    }
}
