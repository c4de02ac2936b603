//! A number that grows, and those who wait for it to.
//!
//! tokio's `watch` wakes its receivers in an order that it draws by chance. Here it is the order in which they began to wait, so that a
//! simulation with several producers in one client has the same history in every run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// The number.
#[derive(Debug, Default)]
pub(crate) struct Version(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    number: AtomicU64,
    bell: Notify,
}

/// One who waits for the picture of the cluster to change: see [`Client::metadata_changes`](crate::Client::metadata_changes).
#[derive(Debug)]
pub struct Changes {
    version: Arc<Shared>,
    seen: u64,
}

impl Version {
    pub(crate) fn set(&self, number: u64) {
        self.0.number.store(number, Ordering::Release);
        self.0.bell.notify_waiters();
    }

    pub(crate) fn add_one(&self) {
        self.0.number.fetch_add(1, Ordering::AcqRel);
        self.0.bell.notify_waiters();
    }

    /// Waits for what changes from now on.
    pub(crate) fn changes(&self) -> Changes {
        Changes { seen: self.0.number.load(Ordering::Acquire), version: self.0.clone() }
    }
}

impl Changes {
    /// Waits for a change since the last one that was seen, or since this was made. Several are one.
    ///
    /// # Cancel safety
    /// Safe: a change that was not returned is returned by the next call.
    pub async fn changed(&mut self) {
        loop {
            let mut bell = std::pin::pin!(self.version.bell.notified());
            // In the queue before the look, or a change between the two would be missed.
            bell.as_mut().enable();
            let number = self.version.number.load(Ordering::Acquire);
            if std::mem::replace(&mut self.seen, number) != number {
                return;
            }
            bell.await;
        }
    }

    /// Takes whatever has changed so far as seen.
    pub fn mark_seen(&mut self) {
        self.seen = self.version.number.load(Ordering::Acquire);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "a test without a client, which would count its tasks")]
    async fn those_who_wait_are_woken_in_the_order_in_which_they_began_and_miss_nothing() {
        let version = Version::default();
        let woken = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..100)
            .map(|who| {
                let (mut changes, woken) = (version.changes(), woken.clone());
                tokio::task::spawn(async move {
                    changes.changed().await;
                    woken.lock().unwrap().push(who);
                })
            })
            .collect();
        let mut late = version.changes();
        // The runtime looks after other things every 61 tasks: until all of them wait.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        version.add_one();
        version.add_one();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*woken.lock().unwrap(), (0..100).collect::<Vec<_>>());
        late.changed().await;
        version.set(7);
        late.mark_seen();
        version.set(8);
        late.changed().await;
    }
}
