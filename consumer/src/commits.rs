//! The commit queue of a group member: a machine that decides what the next OffsetCommit says.
//!
//! - One request at a time: commits of a group are strictly ordered, and one that has been sent is never cancelled.
//! - What is asked for meanwhile is gathered; of several offsets for a partition the last one asked for is sent.
//! - A refusal that may pass puts its offsets back, unless a newer one is waiting.
//! - Offsets of a partition that was lost are dropped: somebody else has it now.

use std::collections::BTreeMap;

use milena_client::{Action, Backoff, Error, OffsetAndMetadata, TopicPartition, action_for};
use milena_protocol::{ApiKey, ErrorCode};
use tokio::time::Instant;

/// Offsets to commit, by partition.
pub(crate) type Offsets = BTreeMap<TopicPartition, OffsetAndMetadata>;

/// A request that everything up to a moment be committed: resolved once the commit with this number is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// How an OffsetCommit went.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// A code for each partition.
    Codes(Vec<(TopicPartition, ErrorCode)>),
    /// No answer.
    Failed(Error),
}

/// What an answer means for the rest of the consumer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Meaning {
    /// The coordinator must be looked up again.
    pub(crate) forget_coordinator: bool,
    /// A code that is about the membership.
    pub(crate) membership: Option<ErrorCode>,
}

#[derive(Debug)]
pub(crate) struct CommitQueue {
    /// Asked for and not sent.
    waiting: Offsets,
    /// Sent and not answered.
    under_way: Option<Offsets>,
    /// The number of the request that was sent last.
    sent: u64,
    /// Acknowledged by the coordinator.
    committed: BTreeMap<TopicPartition, i64>,
    /// The number of the next request.
    next: u64,
    retry_at: Option<Instant>,
    backoff: Backoff,
    /// Everything up to this number is settled.
    settled: u64,
    /// The first error since a ticket's number, by request.
    errors: BTreeMap<u64, Error>,
}

impl Default for CommitQueue {
    fn default() -> Self {
        Self {
            waiting: Offsets::new(),
            under_way: None,
            sent: 0,
            committed: BTreeMap::new(),
            next: 1,
            retry_at: None,
            backoff: Backoff::RETRY,
            settled: 0,
            errors: BTreeMap::new(),
        }
    }
}

impl CommitQueue {
    /// Asks for these offsets to be committed. Those that are committed already are left out.
    pub(crate) fn want(&mut self, offsets: impl IntoIterator<Item = (TopicPartition, OffsetAndMetadata)>) -> Ticket {
        for (partition, offset) in offsets {
            let latest = self
                .waiting
                .get(&partition)
                .or_else(|| self.under_way.as_ref()?.get(&partition))
                .map(|offset| offset.offset)
                .or_else(|| self.committed.get(&partition).copied());
            // Metadata may change at the same offset.
            if latest != Some(offset.offset) || !offset.metadata.is_empty() {
                self.waiting.insert(partition, offset);
            }
        }
        // With nothing to say, what is under way is all there is to wait for.
        Ticket(if self.waiting.is_empty() { self.next - 1 } else { self.next })
    }

    /// What to send now, if anything.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Offsets> {
        if self.under_way.is_some() || self.waiting.is_empty() || self.retry_at.is_some_and(|at| now < at) {
            return None;
        }
        self.retry_at = None;
        let offsets = std::mem::take(&mut self.waiting);
        self.under_way = Some(offsets.clone());
        self.sent = self.next;
        self.next += 1;
        Some(offsets)
    }

    /// When [`poll`](Self::poll) has something to say that it has not now.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        self.retry_at.filter(|_| self.under_way.is_none() && !self.waiting.is_empty())
    }

    /// The request that is under way is answered.
    pub(crate) fn on_answer(&mut self, now: Instant, rng: &mut fastrand::Rng, answer: Answer) -> Meaning {
        let mut meaning = Meaning::default();
        let Some(mut offsets) = self.under_way.take() else { return meaning };
        let number = self.sent;
        let mut again = Offsets::new();
        let mut is_answered = false;
        let codes = match answer {
            Answer::Codes(codes) => {
                is_answered = true;
                codes
            }
            Answer::Failed(error) => {
                if error.is_retriable() {
                    again = std::mem::take(&mut offsets);
                    meaning.forget_coordinator = true;
                } else {
                    self.errors.insert(number, error);
                }
                Vec::new()
            }
        };
        for (partition, code) in codes {
            let Some(offset) = offsets.remove(&partition) else { continue };
            if code.is_none() {
                self.committed.insert(partition, offset.offset);
                continue;
            }
            let may_pass = match code {
                // The membership is over, or another generation has begun. In a later generation the same offset may still be
                // committed, if the partition is still ours; if not, it is dropped by `lose`.
                ErrorCode::REBALANCE_IN_PROGRESS | ErrorCode::ILLEGAL_GENERATION | ErrorCode::UNKNOWN_MEMBER_ID => {
                    meaning.membership = Some(code);
                    true
                }
                ErrorCode::FENCED_INSTANCE_ID => {
                    meaning.membership = Some(code);
                    false
                }
                code => match action_for(Some(ApiKey::OFFSET_COMMIT), code) {
                    Action::FindCoordinator => {
                        meaning.forget_coordinator = true;
                        true
                    }
                    Action::Retry | Action::RefreshMetadata => true,
                    _ => false,
                },
            };
            if may_pass {
                again.insert(partition, offset);
            } else {
                let error = Error::from_code(ApiKey::OFFSET_COMMIT, code).with_topic_partition(partition);
                self.errors.entry(number).or_insert(error);
            }
        }
        if is_answered {
            // The coordinator left them out.
            again.append(&mut offsets);
        }
        if again.is_empty() {
            self.backoff.on_success();
            // With nothing waiting, whatever was asked for meanwhile has been lost.
            self.settled = if self.waiting.is_empty() { self.next - 1 } else { number };
        } else {
            self.retry_at = Some(now + self.backoff.on_failure(rng));
            // What was asked for later counts.
            for (partition, offset) in again {
                self.waiting.entry(partition).or_insert(offset);
            }
        }
        meaning
    }

    /// These partitions are somebody else's now: nothing is committed for them any more.
    pub(crate) fn lose(&mut self, partitions: &[TopicPartition]) {
        let was_waiting = !self.waiting.is_empty();
        for partition in partitions {
            self.waiting.remove(partition);
            self.committed.remove(partition);
            // Else a refusal would put it back, and it would be sent in the next generation over what its new owner committed.
            if let Some(under_way) = &mut self.under_way {
                under_way.remove(partition);
            }
        }
        if was_waiting && self.waiting.is_empty() {
            // Somebody may wait for this request, which will never be sent.
            self.next += 1;
        }
        if self.is_idle() {
            self.settled = self.next - 1;
        }
    }

    /// Whether everything that was asked for up to the ticket is settled, and how.
    pub(crate) fn result(&self, ticket: Ticket) -> Option<Result<(), Error>> {
        (ticket.0 <= self.settled).then(|| match self.errors.range(..=ticket.0).next_back() {
            Some((number, error)) if *number == ticket.0 => Err(error.clone()),
            _ => Ok(()),
        })
    }

    /// Nobody waits for a ticket any more: errors need not be kept.
    pub(crate) fn forget_errors(&mut self) {
        self.errors.clear();
    }

    /// Whether nothing is waiting or under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_none()
    }

    /// What is known to be committed.
    #[cfg(test)]
    pub(crate) fn committed(&self, partition: &TopicPartition) -> Option<i64> {
        self.committed.get(partition).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use milena_client::ErrorKind;

    use super::*;

    struct Scene {
        queue: CommitQueue,
        now: Instant,
        rng: fastrand::Rng,
    }

    fn tp(partition: i32) -> TopicPartition {
        TopicPartition::new("t", partition)
    }

    impl Scene {
        #[expect(
            clippy::disallowed_methods,
            reason = "where a test's time begins; it moves only when the test says so"
        )]
        fn new() -> Self {
            Self { queue: CommitQueue::default(), now: Instant::now(), rng: fastrand::Rng::with_seed(1) }
        }

        fn want(&mut self, offsets: &[(i32, i64)]) -> Ticket {
            self.queue.want(offsets.iter().map(|&(partition, offset)| (tp(partition), offset.into())))
        }

        fn sent(&mut self) -> Option<Vec<(i32, i64)>> {
            let offsets = self.queue.poll(self.now)?;
            Some(offsets.iter().map(|(partition, offset)| (partition.partition, offset.offset)).collect())
        }

        fn answer(&mut self, code: ErrorCode) -> Meaning {
            let partitions: Vec<_> = self.queue.under_way.as_ref().unwrap().keys().cloned().collect();
            let codes = partitions.into_iter().map(|partition| (partition, code)).collect();
            self.queue.on_answer(self.now, &mut self.rng, Answer::Codes(codes))
        }
    }

    #[test]
    fn one_commit_is_under_way_and_what_is_asked_for_meanwhile_becomes_one_more() {
        let mut scene = Scene::new();
        let first = scene.want(&[(0, 10)]);
        assert_eq!(scene.sent(), Some(vec![(0, 10)]));
        let second = scene.want(&[(0, 11), (1, 5)]);
        assert_eq!(second, scene.want(&[(0, 12)]));
        assert_eq!(scene.sent(), None);
        scene.answer(ErrorCode::NONE);
        assert!(scene.queue.result(first).is_some() && scene.queue.result(second).is_none());
        assert_eq!(scene.sent(), Some(vec![(0, 12), (1, 5)]));
        scene.answer(ErrorCode::NONE);
        assert!(scene.queue.result(second).unwrap().is_ok());
        assert!(scene.queue.is_idle());
    }

    #[test]
    fn what_is_committed_already_is_not_sent_again_and_its_ticket_is_settled() {
        let mut scene = Scene::new();
        scene.want(&[(0, 10)]);
        scene.sent();
        let same = scene.want(&[(0, 10)]);
        assert!(scene.queue.result(same).is_none(), "it is under way");
        scene.answer(ErrorCode::NONE);
        assert!(scene.queue.result(same).unwrap().is_ok());
        let again = scene.want(&[(0, 10)]);
        assert_eq!((scene.sent(), scene.queue.result(again).is_some()), (None, true));
    }

    #[test]
    fn a_passing_refusal_is_asked_again_after_a_back_off_and_yields_to_newer_offsets() {
        let mut scene = Scene::new();
        let ticket = scene.want(&[(0, 10), (1, 1)]);
        scene.sent();
        let later = scene.want(&[(0, 20)]);
        let meaning = scene.answer(ErrorCode::NOT_COORDINATOR);
        assert!(meaning.forget_coordinator);
        assert_eq!((scene.sent(), scene.queue.result(ticket).is_some()), (None, false));
        scene.now = scene.queue.wake_at().unwrap();
        assert_eq!(scene.sent(), Some(vec![(0, 20), (1, 1)]));
        scene.answer(ErrorCode::NONE);
        assert!(scene.queue.result(ticket).unwrap().is_ok() && scene.queue.result(later).unwrap().is_ok());
    }

    #[test]
    fn a_lost_answer_is_asked_again_and_the_committed_offset_never_decreases() {
        let mut scene = Scene::new();
        scene.want(&[(0, 10)]);
        scene.sent();
        scene.want(&[(0, 20)]);
        let lost = Error::new(ErrorKind::Disconnected, "gone");
        scene.queue.on_answer(scene.now, &mut scene.rng, Answer::Failed(lost));
        scene.now += Duration::from_secs(2);
        assert_eq!(scene.sent(), Some(vec![(0, 20)]), "never 10 after 20");
        scene.answer(ErrorCode::NONE);
        assert_eq!(scene.queue.committed(&tp(0)), Some(20));
    }

    #[test]
    fn a_final_refusal_is_told_to_whoever_waits() {
        let mut scene = Scene::new();
        let ticket = scene.want(&[(0, 10)]);
        scene.sent();
        scene.answer(ErrorCode::GROUP_AUTHORIZATION_FAILED);
        let error = scene.queue.result(ticket).unwrap().unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::GROUP_AUTHORIZATION_FAILED));
        let next = scene.want(&[(0, 11)]);
        scene.sent();
        scene.answer(ErrorCode::NONE);
        assert!(scene.queue.result(next).unwrap().is_ok());
    }

    #[test]
    fn what_is_lost_while_its_commit_is_under_way_is_never_sent_again() {
        for lost_answer in [false, true] {
            let mut scene = Scene::new();
            let ticket = scene.want(&[(0, 10), (1, 10)]);
            scene.sent();
            scene.queue.lose(&[tp(0)]);
            if lost_answer {
                let error = Error::new(ErrorKind::Disconnected, "gone");
                scene.queue.on_answer(scene.now, &mut scene.rng, Answer::Failed(error));
            } else {
                let refused = [0, 1].map(|partition| (tp(partition), ErrorCode::ILLEGAL_GENERATION));
                scene.queue.on_answer(scene.now, &mut scene.rng, Answer::Codes(refused.into()));
            }
            scene.now += Duration::from_secs(2);
            assert_eq!(scene.sent(), Some(vec![(1, 10)]), "partition 0 may be another member's by now");
            scene.answer(ErrorCode::NONE);
            assert!(scene.queue.result(ticket).unwrap().is_ok());
        }
    }

    #[test]
    fn nobody_waits_for_a_commit_whose_partitions_were_lost_before_it_was_sent() {
        let mut scene = Scene::new();
        let first = scene.want(&[(0, 10)]);
        scene.queue.lose(&[tp(0)]);
        assert!(scene.queue.result(first).is_some());
        // The same behind one that is under way, whichever comes first: the loss or the answer.
        for loss_first in [true, false] {
            let mut scene = Scene::new();
            scene.want(&[(0, 10)]);
            scene.sent();
            let behind = scene.want(&[(0, 20)]);
            if loss_first {
                scene.queue.lose(&[tp(0)]);
                scene.queue.on_answer(scene.now, &mut scene.rng, Answer::Codes(Vec::new()));
            } else {
                scene.answer(ErrorCode::UNKNOWN_MEMBER_ID);
                scene.queue.lose(&[tp(0)]);
            }
            assert!(scene.queue.result(behind).is_some() && scene.queue.is_idle());
            let later = scene.want(&[(1, 1)]);
            assert!(scene.queue.result(later).is_none(), "one that is asked for afterwards is waited for");
            scene.now += Duration::from_secs(2);
            assert_eq!(scene.sent(), Some(vec![(1, 1)]));
            scene.answer(ErrorCode::NONE);
            assert!(scene.queue.result(later).is_some());
        }
    }

    #[test]
    fn a_verdict_about_the_membership_is_passed_on_and_lost_partitions_are_dropped() {
        let mut scene = Scene::new();
        let ticket = scene.want(&[(0, 10), (1, 10)]);
        scene.sent();
        let meaning = scene.answer(ErrorCode::ILLEGAL_GENERATION);
        assert_eq!(meaning.membership, Some(ErrorCode::ILLEGAL_GENERATION));
        scene.queue.lose(&[tp(0)]);
        scene.now += Duration::from_secs(2);
        assert_eq!(scene.sent(), Some(vec![(1, 10)]), "in the next generation, if it is still ours");
        scene.answer(ErrorCode::ILLEGAL_GENERATION);
        scene.queue.lose(&[tp(1)]);
        assert!(scene.queue.result(ticket).is_some(), "nobody waits for ever");
    }
}
