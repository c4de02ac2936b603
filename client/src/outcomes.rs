//! Transactions whose outcome is open: who begins again with the same transactional id in this client waits for them first, because
//! taking an id over ends whatever was under way.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The open outcomes of one client, by transactional id.
#[derive(Debug, Default)]
pub(crate) struct Outcomes(Mutex<BTreeMap<String, Vec<watch::Receiver<()>>>>);

/// The outcome of a transaction is open while this lives.
#[derive(Debug)]
#[must_use = "the outcome counts as known when this is dropped"]
pub struct OpenOutcome {
    /// Dropped with this, which is what the receivers wait for.
    _open: watch::Sender<()>,
}

impl Outcomes {
    pub(crate) fn open(&self, transactional_id: &str) -> OpenOutcome {
        let (open, settled) = watch::channel(());
        self.lock().entry(transactional_id.to_owned()).or_default().push(settled);
        OpenOutcome { _open: open }
    }

    pub(crate) async fn settled(&self, transactional_id: &str) {
        while let Some(mut open) = self.first_open(transactional_id) {
            while open.changed().await.is_ok() {}
        }
    }

    /// One that is open still; forgets those that are not.
    fn first_open(&self, transactional_id: &str) -> Option<watch::Receiver<()>> {
        let mut all = self.lock();
        let open = all.get_mut(transactional_id)?;
        open.retain(|open| open.has_changed().is_ok());
        let first = open.first().cloned();
        if first.is_none() {
            all.remove(transactional_id);
        }
        first
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<watch::Receiver<()>>>> {
        // Every change is one push or a removal: a panic elsewhere leaves the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn who_waits_for_an_id_waits_for_all_of_its_open_outcomes_and_for_no_others() {
        let outcomes = Outcomes::default();
        let (first, second, other) = (outcomes.open("a"), outcomes.open("a"), outcomes.open("b"));
        let mut settled = Box::pin(outcomes.settled("a"));
        assert!(settled.as_mut().now_or_never().is_none());
        drop(first);
        assert!(settled.as_mut().now_or_never().is_none());
        drop(second);
        assert!(settled.as_mut().now_or_never().is_some());
        assert!(outcomes.settled("c").now_or_never().is_some());
        assert!(outcomes.settled("b").now_or_never().is_none());
        drop(other);
        assert!(outcomes.settled("b").now_or_never().is_some());
    }
}
