//! An end for what does not end by itself: a test that hangs must not take a whole run's findings with it.

use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::say;

static UNTIL: OnceLock<Instant> = OnceLock::new();

/// From now on every program that this one waits for is ended, with all that it has started, at this moment.
pub(crate) fn set(until: Instant) {
    let _ = UNTIL.set(until); // the first chore of this program says it
}

/// Watches a child while it lives, to be dropped when it has ended.
pub(crate) struct Watch(Option<(Sender<()>, JoinHandle<()>)>);

pub(crate) fn watch(child: &Child) -> Watch {
    Watch(UNTIL.get().map(|until| {
        let (ended, has_ended) = mpsc::channel();
        let (root, until) = (child.id(), *until);
        let thread = thread::spawn(move || {
            let left = until.saturating_duration_since(Instant::now());
            if has_ended.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                end(root);
            }
        });
        (ended, thread)
    }))
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some((ended, thread)) = self.0.take() {
            drop(ended);
            let _ = thread.join();
        }
    }
}

/// Kills a process and all below it, and says which they were.
fn end(root: u32) {
    let list = Command::new("ps").args(["-A", "-ww", "-o", "pid=,ppid=,args="]).output();
    let list = list.map_or_else(|_| String::new(), |list| String::from_utf8_lossy(&list.stdout).into_owned());
    let mut all = tree(&list, root);
    if all.is_empty() {
        all.push((root, "the program that was started last")); // without `ps` nobody says what it has started
    }
    for (pid, what) in all {
        say(&format!("the time for everything is over; ending {}", what.chars().take(200).collect::<String>()));
        // The shell's own: the program of that name is missing on small systems.
        let _ = Command::new("sh").args(["-c", "kill -KILL \"$0\"", &pid.to_string()]).status();
    }
}

/// The processes at and below `root`, each after the one that started it: pid and command line.
fn tree(list: &str, root: u32) -> Vec<(u32, &str)> {
    let all: Vec<(u32, u32, &str)> = list
        .lines()
        .filter_map(|line| {
            let (pid, rest) = line.trim_start().split_once(' ')?;
            let (parent, what) = rest.trim_start().split_once(' ')?;
            Some((pid.parse().ok()?, parent.parse().ok()?, what.trim()))
        })
        .collect();
    let mut found: Vec<(u32, &str)> = all.iter().filter(|it| it.0 == root).map(|it| (it.0, it.2)).collect();
    let mut next = 0;
    while let Some(&(above, _)) = found.get(next) {
        found.extend(all.iter().filter(|it| it.1 == above).map(|it| (it.0, it.2)));
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_has_started_is_found_and_nothing_else() {
        let list = "    1     0 init\n   20     1 cargo test\n  300    20 target/recovery\n  301   300 java kafka.Kafka\n   21     1 cargo doc\n";
        let found: Vec<u32> = tree(list, 20).iter().map(|it| it.0).collect();
        assert_eq!(found, [20, 300, 301]);
        assert_eq!(tree(list, 300)[0].1, "target/recovery");
        assert!(tree(list, 7).is_empty() && tree("nonsense\n", 1).is_empty());
    }
}
