//! Moments that lie so far away that no clock counts to them.

use std::time::Duration;

use tokio::time::Instant;

/// So long is for ever: what the runtime's timers take for it, too.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// `wait` from `now` on. `Duration::MAX`, with which a user says that it waits for however long it takes, is a moment like any other.
pub(crate) fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait.min(FOR_EVER)).unwrap_or(now)
}
