//! What a consumer was told: plain data.

use std::str::FromStr;
use std::time::Duration;

use milena_client::{Error, ErrorKind};

/// Where reading starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartAt {
    /// With the first record that is still there.
    Beginning,
    /// With the first record that is written from now on.
    End,
    /// With this offset.
    Offset(i64),
    /// With the first record whose timestamp (milliseconds since 1970) is this or later; at the end if there is none.
    Timestamp(i64),
}

impl StartAt {
    pub(crate) fn check(self) -> Result<(), Error> {
        match self {
            Self::Offset(offset) if offset < 0 => {
                Err(Error::new(ErrorKind::Config, "an offset is not negative: give one from 0 on, or StartAt::End."))
            }
            Self::Timestamp(time) if time < 0 => {
                let text =
                    "a time is milliseconds since 1970 and not negative: give a later one, or StartAt::Beginning.";
                Err(Error::new(ErrorKind::Config, text))
            }
            _ => Ok(()),
        }
    }
}

/// What to do where no offset is committed, or the log does not have it any more (`auto.offset.reset`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OffsetReset {
    /// Start with the first record that is there.
    Earliest,
    /// Start with the first record that is written from now on.
    Latest,
    /// Start with the first record that is not older than this, by its timestamp and the client's wall clock at that moment; with the
    /// next one that is written if there is none (KIP-1106: `by_duration:PT1H`).
    ByDuration(Duration),
    /// Give the user an error.
    None,
}

impl OffsetReset {
    /// Where the policy leads, at this time by the wall clock (ms since 1970).
    pub(crate) fn start(self, now_ms: i64) -> Option<StartAt> {
        match self {
            Self::Earliest => Some(StartAt::Beginning),
            Self::Latest => Some(StartAt::End),
            Self::ByDuration(ago) => {
                let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
                Some(StartAt::Timestamp(now_ms.saturating_sub(ago).max(0)))
            }
            Self::None => None,
        }
    }
}

impl FromStr for OffsetReset {
    type Err = Error;

    /// Java's words for `auto.offset.reset`: `earliest`, `latest`, `none`, or `by_duration:` and a duration of ISO 8601 that is not
    /// negative (`by_duration:P1DT2H30M`), as `java.time.Duration` reads it; and librdkafka's `beginning`, `smallest`, `end`, `largest`
    /// and `error`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for anything else.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "earliest" | "beginning" | "smallest" => return Ok(Self::Earliest),
            "latest" | "end" | "largest" => return Ok(Self::Latest),
            "none" | "error" => return Ok(Self::None),
            _ => {}
        }
        text.strip_prefix("by_duration:").and_then(duration_of).map(Self::ByDuration).ok_or_else(|| {
            let text = format!(
                "auto.offset.reset cannot be {text:?}: say earliest, latest, none, or by_duration: and a duration that is not negative, \
                 such as by_duration:PT1H or by_duration:P7D."
            );
            Error::new(ErrorKind::Config, text)
        })
    }
}

/// A duration in days, hours, minutes and seconds, with up to nine digits behind the seconds' point: `P1DT2H3M4.5S`. At least one of
/// them is there, and one behind a `T`.
fn duration_of(text: &str) -> Option<Duration> {
    let text = text.strip_prefix(['P', 'p'])?;
    let (days, time) = match text.split_once(['T', 't']) {
        Some((_, "")) => return None,
        Some((days, time)) => (days, time),
        None if text.is_empty() => return None,
        None => (text, ""),
    };
    let whole = |digits: &str| {
        // `parse` alone would take a sign.
        let are_digits = digits.bytes().all(|digit| digit.is_ascii_digit());
        are_digits.then(|| digits.parse::<u64>().ok()).flatten()
    };
    let mut seconds = if days.is_empty() { 0 } else { whole(days.strip_suffix(['D', 'd'])?)?.checked_mul(86_400)? };
    let mut rest = time;
    for (unit, length) in [('H', 3600), ('M', 60)] {
        if let Some((number, behind)) = rest.split_once([unit, unit.to_ascii_lowercase()]) {
            seconds = seconds.checked_add(whole(number)?.checked_mul(length)?)?;
            rest = behind;
        }
    }
    let mut nanos = 0;
    if !rest.is_empty() {
        let number = rest.strip_suffix(['S', 's'])?;
        let (number, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.len() > 9 {
            return None;
        }
        seconds = seconds.checked_add(whole(number)?)?;
        nanos = whole(&format!("{fraction:0<9}"))? as u32;
    }
    Some(Duration::new(seconds, nanos))
}

/// Which records of transactions are read (`isolation.level`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum IsolationLevel {
    /// All that is written, also what is aborted later.
    #[default]
    ReadUncommitted,
    /// Only what is committed. Reading stops in front of the first open transaction of a partition, until it is decided.
    ReadCommitted,
}

/// Settings of reading, the same for both kinds of consumers.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) max_wait: Duration,
    pub(crate) min_bytes: i32,
    pub(crate) max_bytes: i32,
    pub(crate) max_partition_bytes: usize,
    pub(crate) budget: usize,
    pub(crate) max_poll_records: usize,
    pub(crate) check_crcs: bool,
    pub(crate) max_batch_bytes: usize,
    pub(crate) reset: OffsetReset,
    pub(crate) isolation: IsolationLevel,
    pub(crate) rack: String,
    pub(crate) api_timeout: Duration,
}

impl Config {
    /// Whether the settings make sense together.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let text = if self.min_bytes > self.max_bytes {
            "min_bytes is above max_bytes: no answer could ever be large enough, and each would take max_wait. Lower min_bytes."
        } else if self.max_bytes == 0 || self.max_partition_bytes == 0 {
            "max_bytes and max_partition_bytes must be above zero: leave them away for 50 MiB and 1 MiB."
        } else if self.budget == 0 {
            "buffer_memory must be above zero: nothing could be fetched. Leave it away for 64 MiB."
        } else if i64::from(self.min_bytes) > self.budget as i64 {
            "min_bytes is above buffer_memory: no fetch may be that large. Lower min_bytes, or allow more memory."
        } else if self.max_wait > Duration::from_secs(600) {
            "max_wait is above 10 min: a broker that is gone would not be noticed before. Shorten it; new records are answered at once anyway."
        } else if self.max_batch_bytes == 0 {
            "max_batch_bytes must be above zero: no compressed batch could be read. Leave it away for 256 MiB."
        } else if self.api_timeout.is_zero() {
            "api_timeout must be above zero: leave it away for 60 s."
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Config, text))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_wait: Duration::from_millis(500),
            min_bytes: 1,
            max_bytes: 50 << 20,
            max_partition_bytes: 1 << 20,
            budget: 64 << 20,
            max_poll_records: 500,
            check_crcs: true,
            max_batch_bytes: 256 << 20,
            reset: OffsetReset::Latest,
            isolation: IsolationLevel::ReadUncommitted,
            rack: String::new(),
            api_timeout: Duration::from_secs(60),
        }
    }
}

/// The setters that both builders have.
macro_rules! fetch_settings {
    ($builder:ident) => {
        impl $builder {
            /// How long a broker may hold a fetch while it has fewer than [`min_bytes`](Self::min_bytes) (`fetch.max.wait.ms`).
            /// Default: 500 ms. Longer costs fewer requests at idle topics and delays nothing else.
            pub fn max_wait(mut self, wait: std::time::Duration) -> Self {
                self.config.max_wait = wait;
                self
            }

            /// How many bytes a broker gathers before it answers a fetch (`fetch.min.bytes`). Default: 1: at once. More saves
            /// requests and costs up to [`max_wait`](Self::max_wait) of latency.
            pub fn min_bytes(mut self, bytes: u32) -> Self {
                self.config.min_bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
                self
            }

            /// How many bytes one fetch may return (`fetch.max.bytes`). Default: 50 MiB.
            pub fn max_bytes(mut self, bytes: u32) -> Self {
                self.config.max_bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
                self
            }

            /// How many bytes of one partition one fetch may return (`max.partition.fetch.bytes`). Default: 1 MiB. A batch that is
            /// larger arrives all the same. A partition of which more than this waits to be read is not asked for more.
            pub fn max_partition_bytes(mut self, bytes: u32) -> Self {
                self.config.max_partition_bytes = bytes.min(i32::MAX as u32) as usize;
                self
            }

            /// How many fetched bytes may wait to be read, compressed as they came. Default: 64 MiB. Java has no such bound.
            ///
            /// Records that are kept when they have been read are not in it, and never stop the reading. When they
            /// [pin](crate::ReaderHandle::pinned_bytes) more than this (and than 4 MiB), what is handed out to be kept is copied out of
            /// its batch, so that memory stays within twice this and what is really kept.
            pub fn buffer_memory(mut self, bytes: usize) -> Self {
                self.config.budget = bytes;
                self
            }

            /// How many records one poll returns at most (`max.poll.records`). Default: 500. It does not change what is fetched.
            pub fn max_poll_records(mut self, records: usize) -> Self {
                self.config.max_poll_records = records.max(1);
                self
            }

            /// Whether checksums are compared (`check.crcs`). Default: true; it costs 1.4 ns per 100-byte record.
            pub fn check_crcs(mut self, check: bool) -> Self {
                self.config.check_crcs = check;
                self
            }

            /// How large a batch may become when it is decompressed. Default: 256 MiB. A larger one is an error, not an allocation.
            pub fn max_batch_bytes(mut self, bytes: usize) -> Self {
                self.config.max_batch_bytes = bytes;
                self
            }

            /// What to do where no offset is known, or the log does not have it any more (`auto.offset.reset`). Default:
            /// [`OffsetReset::Latest`](crate::OffsetReset::Latest), as in Java.
            pub fn offset_reset(mut self, reset: crate::OffsetReset) -> Self {
                self.config.reset = reset;
                self
            }

            /// Where this client runs (`client.rack`): leaders in other racks name an in-sync follower in this one, which is then read
            /// instead (KIP-392; the brokers need `replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector` and
            /// `broker.rack`). Default: none; leaders are read. It saves traffic between racks and costs up to 500 ms of latency, because a
            /// follower knows later what is replicated. The leader is asked again after
            /// `metadata_max_age`, and at once when the follower fails.
            pub fn rack(mut self, rack: impl Into<String>) -> Self {
                self.config.rack = rack.into();
                self
            }

            /// How long to wait for what the cluster does not know or not answer (`default.api.timeout.ms`). Default: 60 s. A partition
            /// that the cluster does not know is reported as an error after that time (and read nevertheless once it is there);
            /// look-ups of offsets end after it.
            pub fn api_timeout(mut self, timeout: std::time::Duration) -> Self {
                self.config.api_timeout = timeout;
                self
            }

            /// Which records of transactions are read (`isolation.level`). Default:
            /// [`IsolationLevel::ReadUncommitted`](crate::IsolationLevel::ReadUncommitted), as in Java: all of them.
            pub fn isolation_level(mut self, level: crate::IsolationLevel) -> Self {
                self.config.isolation = level;
                self
            }
        }
    };
}
pub(crate) use fetch_settings;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_read_as_java_and_librdkafka_write_it() {
        let seconds = |seconds| OffsetReset::ByDuration(Duration::from_secs(seconds));
        for (text, reset) in [
            ("earliest", OffsetReset::Earliest),
            ("smallest", OffsetReset::Earliest),
            ("latest", OffsetReset::Latest),
            ("none", OffsetReset::None),
            ("by_duration:PT1H", seconds(3600)),
            ("by_duration:P7D", seconds(7 * 86_400)),
            ("by_duration:p1dt2h3m4s", seconds(86_400 + 2 * 3600 + 3 * 60 + 4)),
            ("by_duration:PT0.25S", OffsetReset::ByDuration(Duration::from_millis(250))),
            ("by_duration:PT90M", seconds(5400)),
            ("by_duration:PT0S", seconds(0)),
        ] {
            assert_eq!(text.parse::<OffsetReset>().unwrap(), reset, "{text}");
        }
        for text in [
            "",
            "Earliest",
            "by_duration",
            "by_duration:",
            "by_duration:1h",
            "by_duration:P",
            "by_duration:PT",
            "by_duration:P1DT",
            "by_duration:PT-1H",
            "by_duration:-PT1H",
            "by_duration:PT1",
            "by_duration:P1H",
            "by_duration:PT1M1H",
            "by_duration:PTH",
            "by_duration:PT1.0000000001S",
            "by_duration:PT99999999999999999999S",
            "by_duration:P999999999999999999D",
            "by_duration:PT.5S",
        ] {
            assert_eq!(text.parse::<OffsetReset>().unwrap_err().kind(), ErrorKind::Config, "{text}");
        }
    }
}
