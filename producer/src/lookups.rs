//! Topics that calls which do not wait have asked for: one look-up each at a time, and how the last one has failed.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use milena_client::Error;

/// By topic: `None` while its look-up is under way, or why it failed, until somebody has been told.
#[derive(Debug, Default)]
pub(crate) struct LookUps(Mutex<BTreeMap<String, Option<Error>>>);

/// What there is to do for who wants a topic.
#[derive(Debug)]
pub(crate) enum LookUp {
    /// Nobody is looking: look, and tell [`LookUps::end`].
    Begin,
    /// Somebody is.
    UnderWay,
    /// Somebody has. Who asks after this one begins anew.
    Failed(Error),
}

/// Failures that nobody has asked for are forgotten when there are more.
const MOST: usize = 1000;

impl LookUps {
    pub(crate) fn begin(&self, topic: &str) -> LookUp {
        let mut all = self.lock();
        match all.remove(topic) {
            Some(Some(error)) => LookUp::Failed(error),
            under_way => {
                all.insert(topic.to_owned(), None);
                if under_way.is_some() { LookUp::UnderWay } else { LookUp::Begin }
            }
        }
    }

    pub(crate) fn end(&self, topic: &str, result: Result<(), Error>) {
        let mut all = self.lock();
        all.remove(topic);
        let Err(error) = result else { return };
        if all.len() >= MOST {
            all.retain(|_, failed| failed.is_none());
        }
        all.insert(topic.to_owned(), Some(error));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Option<Error>>> {
        // Nothing under it can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use milena_client::ErrorKind;

    use super::*;

    #[test]
    fn a_topic_is_looked_up_once_at_a_time_and_its_failure_told_once() {
        let look_ups = LookUps::default();
        assert!(matches!(look_ups.begin("a"), LookUp::Begin));
        assert!(matches!(look_ups.begin("a"), LookUp::UnderWay));
        assert!(matches!(look_ups.begin("b"), LookUp::Begin), "another topic");
        look_ups.end("a", Err(Error::new(ErrorKind::Limit, "no")));
        assert!(matches!(look_ups.begin("a"), LookUp::Failed(error) if error.kind() == ErrorKind::Limit));
        assert!(matches!(look_ups.begin("a"), LookUp::Begin), "then it is looked up again");
        look_ups.end("b", Ok(()));
        assert!(matches!(look_ups.begin("b"), LookUp::Begin));
    }

    #[test]
    fn failures_that_nobody_asks_for_do_not_pile_up() {
        let look_ups = LookUps::default();
        for n in 0..3 * MOST {
            look_ups.end(&n.to_string(), Err(Error::new(ErrorKind::Limit, "no")));
        }
        assert!(look_ups.lock().len() <= MOST);
    }
}
