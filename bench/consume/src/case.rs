//! What is measured: the cases, by part.

use std::time::Duration;

use crate::job::Until;

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Partitions and codecs, an endless log that costs nothing to serve.
    Null,
    /// From a record's sending to its reading, with and without a second broker that has nothing to say.
    Latency,
    /// Real Kafka, and Java's consumer.
    Kafka,
}

impl Part {
    pub(crate) const ALL: [Self; 3] = [Self::Null, Self::Latency, Self::Kafka];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Latency => "latency",
            Self::Kafka => "kafka",
        }
    }
}

/// One table: the same for every client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) title: String,
    pub(crate) partitions: i32,
    pub(crate) lz4: bool,
    pub(crate) until: Until,
}

/// The case that the goals are about.
pub(crate) const CENTRE: &str = "null broker, 12 partitions, none";
/// One partition, which the busy broker leads.
pub(crate) const ALONE: &str = "latency, the busy broker alone";
/// Another partition, to which nobody writes, led by another broker.
pub(crate) const WITH_IDLE: &str = "latency, with an idle second broker";

pub(crate) fn cases(part: Part, quick: bool) -> Vec<Case> {
    let case = |title: &str, partitions, lz4, until| Case { title: title.to_owned(), partitions, lz4, until };
    let codec = |lz4| if lz4 { "lz4" } else { "none" };
    match part {
        Part::Null => {
            let (warm_up, measured) = (Duration::from_millis(200), Duration::from_millis(500));
            let until = Until::Time { warm_up, measured };
            let sizes: &[i32] = if quick { &[12] } else { &[1, 12, 100] };
            let both = sizes.iter().flat_map(|partitions| [(*partitions, false), (*partitions, true)]);
            let named = both.map(|(partitions, lz4)| {
                let noun = if partitions == 1 { "partition" } else { "partitions" };
                case(&format!("null broker, {partitions} {noun}, {}", codec(lz4)), partitions, lz4, until)
            });
            named.collect()
        }
        Part::Latency => {
            let until = Until::Latency(Duration::from_millis(if quick { 1000 } else { 3000 }));
            vec![case(ALONE, 1, false, until), case(WITH_IDLE, 2, false, until)]
        }
        Part::Kafka => {
            let records = if quick { 1_000_000 } else { 5_000_000 };
            let named = [false, true].map(|lz4| {
                let title = format!("real Kafka, {records} records of 12 partitions, {}", codec(lz4));
                case(&title, 12, lz4, Until::Records(records))
            });
            named.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_case_of_the_goals_is_in_both_forms() {
        for quick in [true, false] {
            assert_eq!(cases(Part::Null, quick).iter().filter(|case| case.title == CENTRE).count(), 1);
        }
    }
}
