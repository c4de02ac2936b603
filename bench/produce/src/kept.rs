//! The runs of each part, kept in files beside the built programs until the part is measured again.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::case::Part;
use crate::row::Row;

/// The runs of one part, and what else went on meanwhile.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Runs {
    pub(crate) rows: Vec<Row>,
    /// Cores that processes other than the benchmark's used, on average; of two.
    pub(crate) others: f64,
}

/// All parts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    parts: Vec<(Part, Runs)>,
}

impl Measured {
    pub(crate) fn part(&self, wanted: Part) -> Option<&Runs> {
        self.parts.iter().find(|(part, _)| *part == wanted).map(|(_, runs)| runs)
    }

    pub(crate) fn rows(&self, wanted: Part) -> &[Row] {
        self.part(wanted).map_or(&[], |runs| &runs.rows)
    }

    pub(crate) fn put(&mut self, part: Part, runs: Runs) {
        self.parts.retain(|(other, _)| *other != part);
        self.parts.push((part, runs));
    }
}

pub(crate) fn read_all() -> Result<Measured, String> {
    let mut measured = Measured::default();
    for part in Part::ALL {
        if let Ok(text) = fs::read_to_string(file(part)?) {
            let mut lines = text.lines();
            let others = lines.next().and_then(|line| line.parse().ok()).unwrap_or_default();
            measured.put(part, Runs { rows: lines.filter_map(Row::of_line).collect(), others });
        }
    }
    Ok(measured)
}

pub(crate) fn write(part: Part, runs: &Runs) -> Result<(), String> {
    let lines: Vec<String> = runs.rows.iter().map(Row::to_line).collect();
    let file = file(part)?;
    fs::create_dir_all(file.parent().unwrap_or(&file))
        .and_then(|()| fs::write(&file, format!("{}\n{}\n", runs.others, lines.join("\n"))))
        .map_err(|e| format!("cannot write {}: {e}", file.display()))
}

fn file(part: Part) -> Result<PathBuf, String> {
    let here = std::env::current_exe().map_err(|e| format!("where is this program? {e}"))?;
    Ok(here.with_file_name("produce-runs").join(format!("{}.tsv", part.word())))
}

/// What other processes use of the machine meanwhile.
pub(crate) struct Others {
    busy: Duration,
    ours: Duration,
    began: std::time::Instant,
}

impl Others {
    pub(crate) fn start(broker_pid: Option<u32>) -> Self {
        Self { busy: busy(), ours: ours(broker_pid), began: std::time::Instant::now() }
    }

    /// Cores that were busy with something else, on average.
    pub(crate) fn stop(&self, broker_pid: Option<u32>) -> f64 {
        let busy = busy().saturating_sub(self.busy);
        let ours = ours(broker_pid).saturating_sub(self.ours);
        busy.saturating_sub(ours).as_secs_f64() / self.began.elapsed().as_secs_f64().max(1e-9)
    }
}

/// This process, and all that it has started and waited for.
fn ours(broker_pid: Option<u32>) -> Duration {
    let own = spine::cpu_of_process(std::process::id(), true).unwrap_or_default();
    own + broker_pid.and_then(|pid| spine::cpu_of_process(pid, false)).unwrap_or_default()
}

/// Time of all cores that was neither idle nor waiting nor another machine's, since the machine started.
fn busy() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).sum();
    Duration::from_millis(busy * 10)
}
