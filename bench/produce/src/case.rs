//! What is measured: the cases, by part.

use std::time::Duration;

use crate::job::Load;

const SMALL_BATCH: usize = 16 * 1024;
const GROWN_BATCH: usize = 64 * 1024;

/// A part of the benchmark that can be measured by itself; the others' figures are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Sizes, partitions and codecs, as fast as each client can.
    Matrix,
    /// Latency at a given rate.
    Latency,
    /// One partition, 10 ms away.
    Delay,
    /// Real Kafka, and Java's producer.
    Kafka,
}

impl Part {
    pub(crate) const ALL: [Self; 4] = [Self::Matrix, Self::Latency, Self::Delay, Self::Kafka];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Matrix => "matrix",
            Self::Latency => "latency",
            Self::Delay => "delay",
            Self::Kafka => "kafka",
        }
    }
}

/// One line of every client: the same for all of them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Case {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) load: Load,
    /// Of the null broker.
    pub(crate) delay: Delay,
}

/// Where the null broker's time goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delay {
    None,
    /// 10 ms of network: who has more requests under way gains.
    Network,
    /// 10 ms inside the broker, one request of a connection after the other: who has fuller requests gains.
    Broker,
}

impl Delay {
    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::None => &[],
            Self::Network => &["--rtt", "10"],
            Self::Broker => &["--service-time", "10000"],
        }
    }
}

/// The case whose CPU per record has a ceiling.
pub(crate) const CENTRE: &str = "100B, 6 partitions, none, keyed";
/// The delayed cases.
pub(crate) const NETWORK_16: &str = "10 ms of network, 16 KB batches";
pub(crate) const NETWORK_64: &str = "10 ms of network, batches up to 64 KB";
/// The cases of the part [`Part::Latency`].
pub(crate) const HALF: &str = "half of the client's own rate";
pub(crate) const SAME: &str = "100,000 records/s for all";

fn load(value_size: usize, partitions: i32, keyed: bool, lz4: bool) -> Load {
    Load {
        value_size,
        partitions,
        keyed,
        lz4,
        batch: SMALL_BATCH,
        max_batch: GROWN_BATCH,
        warm_up: Duration::from_millis(100),
        measured: Duration::from_millis(300),
        rate: 0,
    }
}

fn named(load: Load) -> Case {
    let size = if load.value_size == 1024 { "1KiB".to_owned() } else { format!("{}B", load.value_size) };
    let partitions =
        if load.partitions == 1 { "1 partition".to_owned() } else { format!("{} partitions", load.partitions) };
    let codec = if load.lz4 { "lz4" } else { "none" };
    let choice = if load.keyed { "keyed" } else { "partition named" };
    let title = format!("{size}, {partitions}, {codec}, {choice}");
    Case { id: title.clone(), title, load, delay: Delay::None }
}

/// All cases of a part; few of them for a quick look.
pub(crate) fn cases(part: Part, quick: bool) -> Vec<Case> {
    match part {
        Part::Matrix => matrix(quick),
        Part::Latency => latency(quick),
        Part::Delay => delay(quick),
        Part::Kafka => kafka(quick),
    }
}

fn matrix(quick: bool) -> Vec<Case> {
    if quick {
        return vec![named(load(100, 6, true, false)), named(load(1024, 6, true, true))];
    }
    let mut cases = Vec::new();
    for value_size in [100, 1024] {
        for lz4 in [false, true] {
            for partitions in [1, 6, 100] {
                cases.push(named(load(value_size, partitions, true, lz4)));
                if (value_size, partitions, lz4) == (100, 6, false) {
                    cases.push(named(load(value_size, partitions, false, lz4)));
                }
            }
        }
    }
    cases
}

fn latency(quick: bool) -> Vec<Case> {
    let mut load = load(100, 6, true, false);
    load.measured = Duration::from_millis(700);
    // The rate of the first one is each client's own, and found in the matrix.
    let half = Case { id: HALF.to_owned(), title: HALF.to_owned(), load, delay: Delay::None };
    load.rate = 100_000;
    let same = Case { id: SAME.to_owned(), title: SAME.to_owned(), load, delay: Delay::None };
    if quick { vec![half] } else { vec![half, same] }
}

fn delay(quick: bool) -> Vec<Case> {
    let mut load = load(100, 1, true, false);
    load.warm_up = Duration::from_millis(300);
    load.measured = Duration::from_millis(1500);
    let case = |id: &str, batch: usize, delay: Delay| Case {
        id: id.to_owned(),
        title: id.to_owned(),
        load: Load { batch, max_batch: batch, ..load },
        delay,
    };
    let mut grown = case(NETWORK_64, GROWN_BATCH, Delay::Network);
    let mut grown_in_broker = case("10 ms in the broker, batches up to 64 KB", GROWN_BATCH, Delay::Broker);
    if quick {
        return vec![case(NETWORK_16, SMALL_BATCH, Delay::Network)];
    }
    // For milena: its default, batches of 16 KB that grow to 64 KB while five are in flight. The others get batches of 64 KB.
    grown.load.max_batch = GROWN_BATCH;
    grown_in_broker.load.max_batch = GROWN_BATCH;
    vec![
        case(NETWORK_16, SMALL_BATCH, Delay::Network),
        grown,
        case("10 ms in the broker, 16 KB batches", SMALL_BATCH, Delay::Broker),
        grown_in_broker,
    ]
}

fn kafka(quick: bool) -> Vec<Case> {
    let longer = |mut case: Case| {
        case.load.warm_up = Duration::from_millis(1000);
        case.load.measured = Duration::from_millis(2000);
        case
    };
    let mut cases = vec![longer(named(load(100, 6, true, false)))];
    if !quick {
        cases.push(longer(named(load(1024, 6, true, false))));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_case_with_the_ceiling_is_in_both_forms_of_the_matrix() {
        for quick in [true, false] {
            assert_eq!(cases(Part::Matrix, quick).iter().filter(|case| case.id == CENTRE).count(), 1);
        }
    }

    #[test]
    fn no_two_cases_of_a_part_have_one_name() {
        for part in Part::ALL {
            let mut ids: Vec<String> = cases(part, false).into_iter().map(|case| case.id).collect();
            let all = ids.len();
            ids.sort();
            ids.dedup();
            assert_eq!(ids.len(), all, "{}", part.word());
        }
    }
}
