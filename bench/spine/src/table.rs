//! Medians and their spread, as a table.

use std::fmt::Write as _;

use crate::Run;

/// Rows of one group; the first row is what the others are compared with. Bytes are those fetched per record read: what
/// was fetched in vain shows there.
pub(crate) fn render(title: &str, rows: &[(&str, &[Run])]) -> String {
    let mut text = String::new();
    let mut line = |columns: [&str; 7]| {
        let [name, cpu, ratio, rate, memory, batches, bytes] = columns;
        let line = format!("{name:<36} {cpu:>22} {ratio:>7} {rate:>10} {memory:>8} {batches:>9} {bytes:>9}");
        let _ = writeln!(text, "{}", line.trim_end());
    };
    line([title, "CPU µs per record", "ratio", "records/s", "peak MB", "batches", "bytes"]);
    line(["", "median [least..most]", "", "", "", "/request", "/record"]);
    let first = rows.first().map_or(1.0, |(_, runs)| median(runs, |run| run.report.cpu_per_record()));
    for (name, runs) in rows {
        let cpu = |run: &Run| run.report.cpu_per_record();
        let least = runs.iter().map(cpu).fold(f64::INFINITY, f64::min);
        let most = runs.iter().map(cpu).fold(0.0, f64::max);
        let cpu = median(runs, cpu);
        let requests = |run: &Run| (run.counts.produce_requests + run.counts.fetch_requests).max(1) as f64;
        let batches = median(runs, |run| run.counts.batches as f64 / requests(run));
        // Of what was asked for: the warm-up is in it, too.
        let bytes = median(runs, |run| run.counts.fetched_bytes as f64 / (run.report.records as f64 * 1.25));
        line([
            name,
            &format!("{cpu:.3} [{least:.3}..{most:.3}]"),
            &format!("{:.1} x", cpu / first),
            &format!("{:.0}", median(runs, |run| run.report.rate())),
            &format!("{:.0}", median(runs, |run| run.report.peak_kilobytes as f64 / 1024.0)),
            &format!("{batches:.1}"),
            &if bytes > 0.0 { format!("{bytes:.0}") } else { String::new() },
        ]);
    }
    text
}

fn median(runs: &[Run], value: impl FnMut(&Run) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
