//! What ends a cluster when the program that started it is gone, however it went.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::problem;

/// A shell that waits for the end of this program, and then runs a command.
///
/// A test that is killed runs no destructor, and the brokers that it started would live on. The kernel closes the pipe to this
/// shell in every case.
#[derive(Debug)]
pub struct Watchdog(Child);

impl Watchdog {
    /// Kills the nodes whose folders are in `dir` and removes it, when this program ends or the watchdog is dropped.
    ///
    /// # Errors
    /// When no shell can be started.
    pub fn over_cluster(dir: &Path) -> io::Result<Self> {
        // A pid counts only as long as its command line names this folder, as in `Node::alive`.
        let script = r#"
            for file in "$1"/node-*/pid; do
              pid=$(cat "$file" 2>/dev/null) || continue
              ps -ww -o command= -p "$pid" 2>/dev/null | grep -qF "$1/" || tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$1/" || continue
              kill -KILL "$pid"
            done
            rm -rf "$1""#;
        Self::over(script, &[dir.to_str().ok_or_else(|| problem("the folder's name is not text"))?])
    }

    /// Runs `script` with `arguments` (as `$1`, `$2` …) when this program ends or the watchdog is dropped.
    ///
    /// # Errors
    /// When no shell can be started.
    pub fn over(script: &str, arguments: &[&str]) -> io::Result<Self> {
        let mut shell = Command::new("sh");
        // Nobody writes into the pipe, so `read` ends when the last writer, which is this program, is gone.
        shell.arg("-c").arg(format!("read -r _; {script}")).arg("watchdog").args(arguments);
        // In a group of its own: Ctrl-C at the terminal must not end it before it has done its work.
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let shell = shell.spawn().map_err(|e| problem(format!("cannot start a shell: {e}")))?;
        Ok(Self(shell))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait(); // it has ended, or was ended by somebody else
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_runs_when_it_is_dropped_and_not_before() {
        let file = std::env::temp_dir().join(format!("milena-watchdog-{}", std::process::id()));
        let watchdog = Watchdog::over(r#"echo ended >"$1""#, &[file.to_str().unwrap()]).unwrap();
        assert!(!file.exists());
        drop(watchdog);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "ended\n");
        std::fs::remove_file(&file).unwrap();
    }
}
