//! What a consumer was told: plain data.

use std::time::Duration;

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

/// What to do where no offset is committed, or the log does not have it any more (`auto.offset.reset`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OffsetReset {
    /// Start with the first record that is there.
    Earliest,
    /// Start with the first record that is written from now on.
    Latest,
    /// Give the user an error.
    None,
}

impl OffsetReset {
    pub(crate) fn start(self) -> Option<StartAt> {
        match self {
            Self::Earliest => Some(StartAt::Beginning),
            Self::Latest => Some(StartAt::End),
            Self::None => None,
        }
    }
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
