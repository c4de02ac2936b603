//! Time that a virtual machine's host gave to others: a budget of minutes is one of two cores that are there.

use std::fs;
use std::time::Duration;

/// Linux counts in hundredths of a second, whatever the kernel's own tick is (`USER_HZ`).
const TICKS_A_SECOND: f64 = 100.0;

/// What was stolen since the machine started, of each core on average. Zero where nobody says.
pub(crate) fn so_far() -> Duration {
    fs::read_to_string("/proc/stat").ok().and_then(|text| read(&text)).unwrap_or_default()
}

/// The eighth number of each core's line.
fn read(stat: &str) -> Option<Duration> {
    let cores = stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "));
    let stolen: Vec<f64> = cores.map(|line| line.split_whitespace().nth(8)?.parse().ok()).collect::<Option<_>>()?;
    let seconds = stolen.iter().sum::<f64>() / stolen.len() as f64 / TICKS_A_SECOND;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_the_cores_is_read_and_nonsense_is_nothing() {
        let stat = "cpu  9 9 9 9 9 9 9 900 0 0\ncpu0 1 2 3 4 5 6 7 300 0 0\ncpu1 1 2 3 4 5 6 7 600 0 0\nintr 5\n";
        assert_eq!(read(stat), Some(Duration::from_millis(4_500)));
        for nonsense in ["", "cpu  1 2 3 4 5 6 7 8 9 10\n", "cpu0 1 2 3\n", "cpu0 1 2 3 4 5 6 7 many 0 0\n"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
    }
}
