//! How a test is told that it has failed, and what it needs to know then: the last lines of the request log, and the command that runs
//! it again.

use std::path::Path;

use crate::request_log::RequestLog;

/// Lines of the request log that a failing test prints; `MILENA_FULL_LOG=1` prints all.
const LINES: usize = 200;

/// What a failing test prints: what was seen, the request log, the command.
pub(crate) fn story(what: &[String], log: &RequestLog, seed: u64) -> String {
    let all = std::env::var_os("MILENA_FULL_LOG").is_some_and(|value| value == "1");
    let (before, tail) = log.tail(if all { usize::MAX } else { LINES });
    let mut text = String::new();
    for sentence in what {
        text.push_str(sentence);
        text.push('\n');
    }
    text.push_str("request log:\n");
    if before > 0 {
        text.push_str(&format!("        … {before} lines before these (MILENA_FULL_LOG=1 prints them)\n"));
    }
    text.push_str(&tail.to_string());
    text.push_str(&replay(seed));
    text
}

/// The command that runs the test of this thread again, as far as cargo and the test harness say which it is.
fn replay(seed: u64) -> String {
    let exe = std::env::current_exe().ok();
    let target = exe.as_deref().and_then(Path::file_stem).and_then(|stem| stem.to_str());
    let target = target.map(|stem| stem.rsplit_once('-').map_or(stem, |(name, _)| name));
    let package = std::env::var("CARGO_PKG_NAME").ok();
    let thread = std::thread::current();
    let test = thread.name().filter(|name| *name != "main");
    let (Some(package), Some(target), Some(test)) = (package, target, test) else {
        return format!("the cluster's seed was {seed}\n");
    };
    let target = if package.replace('-', "_") == target { "--lib".to_owned() } else { format!("--test {target}") };
    format!("again with: MILENA_SEEDS={seed} cargo test -p {package} {target} -- --exact {test}\n")
}

/// Ends a test: panics with what was seen, if anything was. A test that is failing already keeps its own panic, and gets the story on
/// its standard error.
pub(crate) fn judge(what: &[String], log: &RequestLog, seed: u64) {
    if std::thread::panicking() {
        // A second panic while the first unwinds would abort the whole run.
        return eprintln!("{}", story(what, log, seed));
    }
    assert!(what.is_empty(), "{}", story(what, log, seed));
}
