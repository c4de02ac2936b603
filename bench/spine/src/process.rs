//! The measured programs as processes of their own: the benchmark itself, called again, and Java's tools.

use std::ffi::OsStr;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Report, cpu_of_process, peak_kilobytes_of};

/// A program that was built together with this one.
///
/// # Errors
/// A sentence, when nobody knows where this one is.
pub fn beside(name: &str) -> Result<PathBuf, String> {
    Ok(this_program()?.parent().unwrap_or(Path::new(".")).join(name))
}

fn this_program() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|e| format!("where is this program? {e}"))
}

/// Calls this program again as `client` with these words, and returns what it prints. `name` is for the errors.
///
/// # Errors
/// A sentence, when it does not start, fails, or has not ended within `patience`; then it is killed.
pub fn client(name: &str, words: &[String], patience: Duration) -> Result<String, String> {
    let mut child = Command::new(this_program()?)
        .arg("client")
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|e| format!("cannot start {name}: {e}"))?;
    let began = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if began.elapsed() < patience => std::thread::sleep(Duration::from_millis(10)),
            gone => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{name} did not end within {patience:?} ({gone:?}): {words:?}"));
            }
        }
    };
    let mut text = String::new();
    if let Some(mut out) = child.stdout.take() {
        out.read_to_string(&mut text).map_err(|e| format!("{name} cannot be read: {e}"))?;
    }
    if !status.success() {
        return Err(format!("{name} ended with {status}: {words:?}"));
    }
    Ok(text)
}

/// One of Java's own programs, with Kafka's jars from the folder `libs`; `has_done` finds in its output whether it has done what it
/// was to. The start of its virtual machine and all that is compiled on the way is in its figures.
///
/// # Errors
/// A sentence, when it does not start or has not done it.
pub fn java<S: AsRef<OsStr>>(
    libs: &Path,
    tool: &str,
    arguments: impl IntoIterator<Item = S>,
    records: u64,
    has_done: impl FnOnce(&str) -> bool,
) -> Result<Report, String> {
    let before = children();
    let began = Instant::now();
    let child = Command::new("java")
        .args(["-Xmx1g", "-XX:+UseG1GC", "-cp", &format!("{}/*", libs.display())])
        .arg(format!("org.apache.kafka.tools.{tool}"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("cannot start java: {e}"))?;
    let pid = child.id().to_string();
    let done = std::thread::spawn(move || child.wait_with_output());
    let mut peak = 0;
    while !done.is_finished() {
        peak = peak_kilobytes_of(&pid).max(peak);
        std::thread::sleep(Duration::from_millis(50));
    }
    let output = done.join().map_err(|_| "java was not waited for")?.map_err(|e| format!("java: {e}"))?;
    let wall = began.elapsed();
    let cpu = children().saturating_sub(before);
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || !has_done(&text) {
        return Err(format!("{tool} ended with {}:\n{text}", output.status));
    }
    Ok(Report { records, wall, cpu, peak_kilobytes: peak })
}

/// CPU time of all processes that were waited for, and of this one.
fn children() -> Duration {
    cpu_of_process(std::process::id(), true).unwrap_or_default()
}
