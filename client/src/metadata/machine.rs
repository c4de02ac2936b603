//! When to ask for metadata, and about which topics. Pure.
//!
//! Many ask at once and one question answers them all: requests are coalesced, a question already on its way counts only for those
//! who asked before it left, and questions that bring no news are asked ever more slowly.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::RefreshReason;
use super::recovery::Recovery;
use crate::backoff::Backoff;

/// The shortest time between two questions, whoever asks.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Poll {
    /// Ask about these topics.
    Ask(Vec<Arc<str>>),
    /// The same, but give up every connection and every address first, and ask the bootstrap servers.
    AskBootstrap(Vec<Arc<str>>),
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
    recovery: Recovery,
    /// Since when metadata has been asked for without an answer.
    failing_since: Option<Instant>,
    /// A broker has told the client to start again.
    must_rebootstrap: bool,
}

impl MetadataMachine {
    pub(crate) fn new(now: Instant, max_age: Duration, recovery: Recovery) -> Self {
        Self {
            max_age,
            interests: BTreeMap::new(),
            wanted: Some(RefreshReason::Start),
            in_flight: false,
            last_success: None,
            not_before: now,
            backoff: Backoff::RETRY,
            recovery,
            failing_since: None,
            must_rebootstrap: false,
        }
    }

    /// The time since the last answer.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        self.last_success.map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
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
                let topics = self.interests.keys().cloned().collect();
                let since = *self.failing_since.get_or_insert(now);
                if std::mem::take(&mut self.must_rebootstrap) || self.recovery.is_due(since, now) {
                    // Once in that time: whoever does not answer is not helped by being asked for the way every second.
                    self.failing_since = Some(now);
                    return Poll::AskBootstrap(topics);
                }
                Poll::Ask(topics)
            }
        }
    }

    /// An answer came. `news` says whether it changed the picture or settled what was asked.
    pub(crate) fn on_answer(&mut self, now: Instant, news: bool, rng: &mut fastrand::Rng) {
        self.in_flight = false;
        self.last_success = Some(now);
        self.failing_since = None;
        if news {
            self.backoff.on_success();
            self.not_before = now + MIN_INTERVAL;
        } else {
            self.not_before = now + self.backoff.on_failure(rng);
        }
    }

    /// A broker answered REBOOTSTRAP_REQUIRED (KIP-1102): what this client knows is of another time. Counts as a failure, too.
    pub(crate) fn on_rebootstrap_required(&mut self) {
        self.must_rebootstrap = self.recovery.is_on();
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
        (MetadataMachine::new(now, Duration::from_secs(300), Recovery::DEFAULT), now, fastrand::Rng::with_seed(1))
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
                Poll::AskBootstrap(_) | Poll::WaitForAnswer => unreachable!(),
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

    /// Fails every question for that long; says when the bootstrap servers were asked, in seconds.
    fn outage(machine: &mut MetadataMachine, start: Instant, seconds: u64, rng: &mut fastrand::Rng) -> Vec<u64> {
        let (mut now, mut asked) = (start, Vec::new());
        while now < start + Duration::from_secs(seconds) {
            match machine.poll(now) {
                Poll::Ask(_) => machine.on_failure(now, rng),
                Poll::AskBootstrap(_) => {
                    asked.push((now - start).as_secs());
                    machine.on_failure(now, rng);
                }
                Poll::WaitUntil(at) => now = at,
                Poll::WaitForAnswer => unreachable!(),
            }
        }
        asked
    }

    #[test]
    fn an_outage_of_five_minutes_leads_back_to_the_bootstrap_servers_and_then_once_in_five_minutes() {
        let (mut machine, now, mut rng) = start();
        assert!(matches!(machine.poll(now), Poll::Ask(_)));
        machine.on_answer(now, true, &mut rng);
        machine.on_request(RefreshReason::Disconnected);
        let asked = outage(&mut machine, now, 1_000, &mut rng);
        assert_eq!(asked.len(), 3, "{asked:?}");
        assert!(asked[0] >= 300 && asked[0] <= 301 && asked[1] - asked[0] >= 300, "{asked:?}");
        assert!(matches!(machine.poll(now + Duration::from_secs(1_002)), Poll::Ask(_)));
        machine.on_answer(now + Duration::from_secs(1_002), true, &mut rng);
        machine.on_request(RefreshReason::Disconnected);
        let asked = outage(&mut machine, now + Duration::from_secs(1_003), 299, &mut rng);
        assert_eq!(asked, [], "an answer ends the outage");
    }

    #[test]
    fn a_client_that_shall_not_recover_never_goes_back() {
        let (_, now, mut rng) = start();
        let recovery = Recovery { strategy: super::super::MetadataRecoveryStrategy::None, ..Recovery::DEFAULT };
        let mut machine = MetadataMachine::new(now, Duration::from_secs(300), recovery);
        assert_eq!(outage(&mut machine, now, 1_000, &mut rng), []);
        machine.on_rebootstrap_required();
        machine.on_request(RefreshReason::Asked);
        assert!(matches!(machine.poll(now + Duration::from_secs(1_002)), Poll::Ask(_)));
    }

    #[test]
    fn a_broker_that_always_asks_for_a_new_start_is_not_asked_without_end() {
        let (mut machine, mut now, mut rng) = start();
        let (end, mut starts) = (now + Duration::from_secs(60), 0);
        while now < end {
            match machine.poll(now) {
                Poll::WaitUntil(at) => now = at,
                Poll::WaitForAnswer => unreachable!(),
                asked => {
                    starts += usize::from(matches!(asked, Poll::AskBootstrap(_)));
                    machine.on_rebootstrap_required();
                    machine.on_failure(now, &mut rng);
                }
            }
        }
        assert!((55..=85).contains(&starts), "{starts} new starts in a minute");
    }
}
