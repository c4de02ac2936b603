//! One Kafka process: its folder, its start, whether it still lives, its end.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, sleep};
use std::time::Duration;

use crate::settings::BROKER_LOG4J;
use crate::{Shape, cannot, problem};

/// A node of a cluster, known by its folder `node-N`.
#[derive(Clone, Debug)]
pub struct Node {
    id: u16,
    dir: PathBuf,
}

impl Node {
    /// The node of the cluster whose folder is `cluster`; whether it is there or not.
    pub fn new(cluster: &Path, id: u16) -> Self {
        Self { id, dir: cluster.join(format!("node-{id}")) }
    }

    /// Its `node.id`.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// The folder with its settings, its log and its data.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it stores.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Its settings.
    pub fn properties(&self) -> PathBuf {
        self.dir.join("server.properties")
    }

    /// What it said.
    pub fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("pid")
    }

    /// Starts the process in a process group of its own, with nothing of this terminal, and writes its pid down.
    pub(crate) fn start(&self, shape: &Shape, class_path: &str) -> io::Result<()> {
        let log4j = self.dir.join("log4j2.properties");
        fs::write(&log4j, BROKER_LOG4J).map_err(cannot("write", &log4j))?;
        let log = File::options().create(true).append(true).open(self.log()).map_err(cannot("open", &self.log()))?;
        let errors = log.try_clone().map_err(cannot("share", &self.log()))?;
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
            .map_err(|e| problem(format!("cannot start java: {e}")))?;
        fs::write(self.pid_file(), child.id().to_string()).map_err(cannot("write", &self.pid_file()))?;
        // For a moment after the start the kernel shows an empty command line.
        while self.alive().is_none() && matches!(child.try_wait(), Ok(None)) {
            sleep(Duration::from_millis(5));
        }
        // Nobody else will ever ask how it ended, and what nobody waits for stays in the table of processes.
        thread::spawn(move || child.wait());
        Ok(())
    }

    /// The pid of the running process. A pid file that a crash or a reboot left behind does not count, nor does
    /// another program that got the same pid: its command line must name this node's settings.
    pub fn alive(&self) -> Option<u32> {
        let pid: u32 = fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        let settings = self.properties();
        command_line(pid)?.contains(settings.to_str()?).then_some(pid)
    }

    /// `kill -9`; waits until the process is gone. Its data stays.
    pub fn kill(&self) {
        if let Some(pid) = self.alive() {
            signal("KILL", pid);
            while !has_ended(pid) {
                sleep(Duration::from_millis(5));
            }
        }
        let _ = fs::remove_file(self.pid_file());
    }

    /// Stops the process where it is (`SIGSTOP`): it answers nothing, and its connections stay open. `false` when it does not run.
    pub fn freeze(&self) -> bool {
        self.alive().is_some_and(|pid| signal("STOP", pid))
    }

    /// Lets a frozen process go on (`SIGCONT`). `false` when it does not run.
    pub fn thaw(&self) -> bool {
        self.alive().is_some_and(|pid| signal("CONT", pid))
    }

    /// The last lines of the node's log: what one wants to see when it does not start.
    pub fn last_words(&self) -> String {
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

/// Whether a process is no more, or only waits to be reaped. A dying process loses its command line first; its sockets are closed
/// with its last thread, which may be later than the end of its first.
fn has_ended(pid: u32) -> bool {
    if Path::new("/proc/self").exists() {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
        // The state follows the name, which is in brackets and may hold anything.
        let is_dead = stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']));
        return is_dead && fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count) <= 1;
    }
    command_line(pid).is_none_or(|line| line.trim().is_empty() || line.contains("<defunct>"))
}

/// Through the shell's own `kill`: the program of that name is missing on small systems.
fn signal(name: &str, pid: u32) -> bool {
    let sent = Command::new("sh").args(["-c", "kill -\"$0\" \"$1\"", name, &pid.to_string()]).status();
    sent.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_that_names_another_program_does_not_count() {
        let dir = std::env::temp_dir().join(format!("milena-node-{}", std::process::id()));
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
