//! When a client goes back to its bootstrap servers, because the brokers it knows are of no use any more. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// What a client does when none of the brokers that it knows can be reached (`metadata.recovery.strategy`, KIP-899).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MetadataRecoveryStrategy {
    /// It goes on trying the brokers it knows. For a cluster whose bootstrap address may lead to another cluster later.
    None,
    /// It asks the bootstrap servers again, whose names are looked up anew: the cluster may have moved as a whole.
    #[default]
    Rebootstrap,
}

/// The strategy, and how long metadata may fail before nothing that was known is trusted any more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recovery {
    pub(crate) strategy: MetadataRecoveryStrategy,
    pub(crate) trigger: Duration,
}

impl Recovery {
    pub(crate) const DEFAULT: Self =
        Self { strategy: MetadataRecoveryStrategy::Rebootstrap, trigger: Duration::from_secs(300) };

    /// Whether metadata, asked for since `since` without an answer, has failed for too long (KIP-1102).
    pub(crate) fn is_due(&self, since: Instant, now: Instant) -> bool {
        self.is_on() && now.saturating_duration_since(since) >= self.trigger
    }

    pub(crate) fn is_on(&self) -> bool {
        self.strategy == MetadataRecoveryStrategy::Rebootstrap
    }
}
