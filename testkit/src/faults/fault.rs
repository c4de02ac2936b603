//! What a test holds in its hand: a fault that is in force, and a barrier.

use std::sync::Arc;

use tokio::sync::watch;

use super::Site;
use super::rules::{Progress, Rules};

/// Does something with the faults of a site.
pub(super) fn on<T>(site: &dyn Site, f: impl FnOnce(&mut Rules) -> T) -> T {
    let (mut f, mut result) = (Some(f), None);
    site.with_rules(&mut |rules| result = f.take().map(|f| f(rules)));
    result.expect("a site does what it is asked to, once")
}

/// A fault that is in force: ask whether it fired, release what it holds, remove it.
pub struct Fault {
    pub(super) site: Arc<dyn Site>,
    pub(super) id: u64,
    pub(super) progress: watch::Receiver<Progress>,
}

impl Fault {
    /// How often it has fired.
    pub fn fired(&self) -> u64 {
        self.progress.borrow().fired
    }

    /// Waits until it has fired so many times in all.
    ///
    /// # Panics
    /// When the fault is removed, or its cluster ends, before that.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn has_fired(&self, times: u64) {
        let mut progress = self.progress.clone();
        let reached = progress.wait_for(|progress| progress.fired >= times).await.is_ok();
        assert!(reached, "the fault fired {} times and is gone; {times} were awaited", self.fired());
    }

    /// Lets everything go that [`Reaction::Hold`](crate::Reaction::Hold), [`HoldAnswer`](crate::Reaction::HoldAnswer) and
    /// [`HoldCopy`](crate::Reaction::HoldCopy) keep, in the order of arrival, and ends the fault.
    pub fn release(&self) {
        on(&*self.site, |rules| rules.release(self.id));
    }

    /// Ends the fault; what it holds goes on. That it never fired is no failure any more.
    pub fn remove(&self) {
        on(&*self.site, |rules| rules.remove(self.id));
    }
}

/// A place where a request stops until the test says "go on": from [`Cluster::stop_when`](crate::Cluster::stop_when).
///
/// ```no_run
/// # async fn f() -> std::io::Result<()> {
/// use milena_testkit::{Api, Cluster};
///
/// let cluster = Cluster::builder().topic("orders", 6).start_in_memory()?;
/// let commit = cluster.stop_when(Api::EndTxn).transactional_id("copy").before_serving();
/// // … let a producer commit, and wait until its EndTxn has come to the broker:
/// commit.reached().await;
/// cluster.move_coordinator("copy", 2);
/// commit.go_on();
/// # Ok(()) }
/// ```
///
/// Dropped, it lets go. A barrier that is never reached fails the test, as every fault does that never fires.
#[must_use = "a barrier that is dropped stops nobody"]
pub struct Barrier {
    pub(super) fault: Fault,
}

impl Barrier {
    /// Waits until a request has come to the barrier.
    ///
    /// # Panics
    /// When the cluster ends before that.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn reached(&self) {
        self.fault.has_fired(1).await;
    }

    /// Whether a request has come to the barrier.
    pub fn is_reached(&self) -> bool {
        self.fault.fired() > 0
    }

    /// Lets the request go on, and whatever else has come meanwhile; the barrier is open from now on.
    pub fn go_on(&self) {
        self.fault.release();
    }
}

impl Drop for Barrier {
    fn drop(&mut self) {
        self.fault.release();
    }
}
