//! Which seeds a seeded test runs.

use std::ops::Range;

/// The variable that [`seeds`] reads.
const VARIABLE: &str = "MILENA_SEEDS";
/// The variable that moves the default seeds of a whole run.
const BASE: &str = "MILENA_SEED_BASE";

/// The seeds that the environment variable `MILENA_SEEDS` asks for, or `default`: `17` is that one seed, `0..300` are the three hundred
/// from 0 on. Either number may be hexadecimal (`0x1f`).
///
/// A test that draws its faults from a seed runs over them and prints, when it fails, `MILENA_SEEDS=17 cargo test …`.
///
/// `MILENA_SEED_BASE=5000` moves `default` by so much: a run that is repeated every day need not prove the same thing every day.
///
/// # Panics
/// When a variable is something else: a run over other seeds than those that were asked for would prove nothing.
pub fn seeds(default: Range<u64>) -> Range<u64> {
    let [given, base] = [VARIABLE, BASE].map(|name| std::env::var(name).unwrap_or_default());
    if !given.trim().is_empty() {
        return parse(&given)
            .unwrap_or_else(|| panic!("{VARIABLE}={given}: give one seed (17), or a range of them (0..300)"));
    }
    if base.trim().is_empty() {
        return default;
    }
    moved(&default, &base).unwrap_or_else(|| panic!("{BASE}={base}: give the number that the first seed shall be"))
}

fn moved(default: &Range<u64>, base: &str) -> Option<Range<u64>> {
    let base = number(base)?;
    Some(default.start.checked_add(base)?..default.end.checked_add(base)?)
}

fn parse(given: &str) -> Option<Range<u64>> {
    match given.split_once("..") {
        Some((from, to)) => Some(number(from)?..number(to)?).filter(|seeds| !seeds.is_empty()),
        None => number(given).and_then(|seed| Some(seed..seed.checked_add(1)?)),
    }
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| u64::from_str_radix(hex, 16)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_a_range_of_seeds_are_read_and_nothing_else() {
        assert_eq!(parse("17"), Some(17..18));
        assert_eq!(parse(" 0 .. 300 "), Some(0..300));
        assert_eq!(parse("0x10..0x1f"), Some(16..31));
        for wrong in ["", "..", "3..", "..3", "5..5", "9..3", "-1", "seventeen", "1,2", "18446744073709551615"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_base_moves_the_default() {
        assert_eq!(moved(&(0..300), "5000"), Some(5000..5300));
        assert_eq!(moved(&(1..41), "0x10"), Some(17..57));
        assert_eq!(moved(&(0..300), "18446744073709551615"), None);
        assert_eq!(moved(&(0..300), "tomorrow"), None);
    }
}
