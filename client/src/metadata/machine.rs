//! When to ask for metadata, and about which topics. Pure.
//!
//! Many ask at once and one question answers them all: requests are coalesced, a question already on its way counts only for those
//! who asked before it left, and questions that bring no news are asked ever more slowly.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::RefreshReason;
use crate::backoff::Backoff;

/// The shortest time between two questions, whoever asks.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Poll {
    /// Ask about these topics.
    Ask(Vec<Arc<str>>),
    /// Nothing before then.
    WaitUntil(Instant),
    /// Nothing until an answer comes.
    WaitForAnswer,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct MetadataMachine {
    max_age: Duration,
    interests: BTreeMap<Arc<str>, usize>,
    wanted: Option<RefreshReason>,
    in_flight: bool,
    last_success: Option<Instant>,
    not_before: Instant,
    backoff: Backoff,
}

impl MetadataMachine {
    pub(crate) fn new(now: Instant, max_age: Duration) -> Self {
        Self {
            max_age,
            interests: BTreeMap::new(),
            wanted: Some(RefreshReason::Start),
            in_flight: false,
            last_success: None,
            not_before: now,
            backoff: Backoff::RETRY,
        }
    }

    /// Somebody wants fresh metadata.
    pub(crate) fn on_request(&mut self, reason: RefreshReason) {
        if self.wanted.is_none() {
            tracing::debug!(?reason, "metadata wanted");
        }
        match reason {
            // The most urgent one: somebody's first record waits for it.
            RefreshReason::NewTopic => self.wanted = Some(reason),
            _ => drop(self.wanted.get_or_insert(reason)),
        }
    }

    /// Somebody is interested in a topic from now on; true if nobody was before.
    pub(crate) fn on_interest(&mut self, topic: &Arc<str>) -> bool {
        let count = self.interests.entry(topic.clone()).or_default();
        *count += 1;
        *count == 1
    }

    /// Somebody has lost that interest.
    pub(crate) fn on_interest_ended(&mut self, topic: &str) {
        if let Some(count) = self.interests.get_mut(topic) {
            *count -= 1;
            if *count == 0 {
                self.interests.remove(topic);
            }
        }
    }

    /// What to do now.
    pub(crate) fn poll(&mut self, now: Instant) -> Poll {
        if self.in_flight {
            return Poll::WaitForAnswer;
        }
        let old_at = self.last_success.map_or(now, |at| at + self.max_age);
        if self.wanted.is_none() && old_at <= now {
            self.wanted = Some(RefreshReason::Age);
        }
        match self.wanted {
            None => Poll::WaitUntil(old_at),
            Some(reason)
                if self.not_before > now && !(reason == RefreshReason::NewTopic && self.backoff.failures() == 0) =>
            {
                Poll::WaitUntil(self.not_before)
            }
            Some(_) => {
                self.wanted = None;
                self.in_flight = true;
                Poll::Ask(self.interests.keys().cloned().collect())
            }
        }
    }

    /// An answer came. `news` says whether it changed the picture or settled what was asked.
    pub(crate) fn on_answer(&mut self, now: Instant, news: bool, rng: &mut fastrand::Rng) {
        self.in_flight = false;
        self.last_success = Some(now);
        if news {
            self.backoff.on_success();
            self.not_before = now + MIN_INTERVAL;
        } else {
            self.not_before = now + self.backoff.on_failure(rng);
        }
    }

    /// No broker answered.
    pub(crate) fn on_failure(&mut self, now: Instant, rng: &mut fastrand::Rng) {
        self.in_flight = false;
        self.wanted.get_or_insert(RefreshReason::Disconnected);
        self.not_before = now + self.backoff.on_failure(rng);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> (MetadataMachine, Instant, fastrand::Rng) {
        #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere")]
        let now = Instant::now();
        (MetadataMachine::new(now, Duration::from_secs(300)), now, fastrand::Rng::with_seed(1))
    }

    #[test]
    fn many_requests_are_one_question() {
        let (mut machine, now, mut rng) = start();
        machine.on_interest(&Arc::from("b"));
        machine.on_interest(&Arc::from("a"));
        machine.on_interest(&Arc::from("a"));
        machine.on_request(RefreshReason::NotLeader);
        assert_eq!(machine.poll(now), Poll::Ask(vec![Arc::from("a"), Arc::from("b")]));
        machine.on_request(RefreshReason::NotLeader);
        assert_eq!(machine.poll(now), Poll::WaitForAnswer);
        machine.on_answer(now, true, &mut rng);
        assert_eq!(
            machine.poll(now),
            Poll::WaitUntil(now + MIN_INTERVAL),
            "who asked after it left asks again, not at once"
        );
        assert!(matches!(machine.poll(now + MIN_INTERVAL), Poll::Ask(_)));
        machine.on_answer(now, true, &mut rng);
        assert_eq!(machine.poll(now), Poll::WaitUntil(now + Duration::from_secs(300)));
    }

    #[test]
    fn a_new_topic_is_asked_for_at_once_but_not_again_and_again() {
        let (mut machine, now, mut rng) = start();
        assert!(matches!(machine.poll(now), Poll::Ask(_)));
        machine.on_answer(now, true, &mut rng);
        machine.on_request(RefreshReason::NotLeader);
        machine.on_request(RefreshReason::NewTopic);
        assert!(matches!(machine.poll(now), Poll::Ask(_)), "the first record waits for it");
        machine.on_answer(now, false, &mut rng);
        machine.on_request(RefreshReason::NewTopic);
        assert!(matches!(machine.poll(now), Poll::WaitUntil(_)), "it is not there yet");
    }

    #[test]
    fn questions_without_news_are_asked_ever_more_slowly() {
        let (mut machine, mut now, mut rng) = start();
        let mut questions = 0;
        let end = now + Duration::from_secs(60);
        while now < end {
            machine.on_request(RefreshReason::NoLeader);
            match machine.poll(now) {
                Poll::Ask(_) => {
                    questions += 1;
                    machine.on_answer(now, false, &mut rng);
                }
                Poll::WaitUntil(at) => now = at,
                Poll::WaitForAnswer => unreachable!(),
            }
        }
        assert!((55..=85).contains(&questions), "{questions} questions in a minute");
    }

    #[test]
    fn a_failed_question_is_asked_again_and_a_topic_is_wanted_as_long_as_somebody_wants_it() {
        let (mut machine, now, mut rng) = start();
        let topic: Arc<str> = Arc::from("t");
        assert!(machine.on_interest(&topic));
        assert!(!machine.on_interest(&topic));
        assert!(matches!(machine.poll(now), Poll::Ask(_)));
        machine.on_failure(now, &mut rng);
        let Poll::WaitUntil(again) = machine.poll(now) else { panic!("asked at once") };
        assert!(again > now && again < now + Duration::from_millis(150));
        machine.on_interest_ended("t");
        assert_eq!(machine.poll(again), Poll::Ask(vec![topic]));
        machine.on_answer(again, true, &mut rng);
        machine.on_interest_ended("t");
        machine.on_request(RefreshReason::Asked);
        assert_eq!(machine.poll(again + MIN_INTERVAL), Poll::Ask(vec![]));
    }
}
