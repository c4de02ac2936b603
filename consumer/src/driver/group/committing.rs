//! When offsets are committed, and who waits for it.

use milena_client::{Error, ErrorKind, Lane, OffsetAndMetadata, TopicPartition};
use milena_protocol::ApiKey;
use tokio::time::Instant;

use super::requests::{commit_request, read_commit};
use super::{COMMIT_TIMEOUT, Driver, Event};
use crate::commits::{Answer, Ticket};

impl Driver {
    pub(super) fn want_frontiers(&mut self) -> Ticket {
        let frontiers = self.shared.frontiers(None);
        self.want(frontiers)
    }

    pub(super) fn want(&mut self, mut frontiers: Vec<(TopicPartition, i64, i32)>) -> Ticket {
        if !self.config.commits {
            frontiers.clear();
        }
        self.commits.want(frontiers.into_iter().map(|(tp, offset, leader_epoch)| {
            (tp, OffsetAndMetadata { offset, leader_epoch, metadata: String::new() })
        }))
    }

    pub(super) fn auto_commit(&mut self, now: Instant) {
        if let (Some(at), Some(interval)) = (self.auto_commit_at, self.config.auto_commit)
            && at <= now
        {
            self.auto_commit_at = Some(now + interval);
            if self.membership.may_commit() {
                self.want_frontiers();
            }
        }
    }

    pub(super) fn send_commit(&mut self, now: Instant) {
        if !self.membership.may_commit() {
            return;
        }
        let Some(offsets) = self.commits.poll(now) else { return };
        self.counters.commits.add(1);
        let (member_id, generation) = self.membership.identity();
        let sent = self.link.now();
        let request = commit_request(self.group_id(), &member_id, generation, self.instance_id(), offsets.clone());
        let (link, target, timeout) = (self.link.clone(), self.target(), self.link.request_timeout());
        self.under_way.push(Box::pin(async move {
            let answer = match link.send_versioned(target, Lane::Heartbeat, timeout, request).await {
                Ok(response) => Answer::Codes(read_commit(response)),
                Err(error) => Answer::Failed(error),
            };
            Event::Committed(generation, sent, answer)
        }));
    }

    pub(super) fn answer_waiters(&mut self, now: Instant) {
        for waiter in std::mem::take(&mut self.waiting) {
            let result = self.commits.result(waiter.ticket);
            match result.or_else(|| (waiter.deadline <= now).then(|| Err(self.late()))) {
                Some(result) => drop(waiter.reply.send(result)),
                None => self.waiting.push(waiter),
            }
        }
        if self.waiting.is_empty() && self.revocation.is_none() && self.commits.is_idle() {
            self.commits.forget_errors();
        }
    }

    /// Why a commit that somebody waits for has taken too long.
    fn late(&self) -> Error {
        let text = format!(
            "the coordinator has not confirmed the commit within {} s. It is asked on; what it has not been told when this consumer \
             ends is read again.",
            COMMIT_TIMEOUT.as_secs()
        );
        match self.commit_trouble.last() {
            Some(trouble) => {
                let text = format!("{text} What was wrong last: {trouble}");
                Error::new(ErrorKind::Timeout, text).with_api(ApiKey::OFFSET_COMMIT).with_source(trouble)
            }
            None => Error::new(ErrorKind::Timeout, text).with_api(ApiKey::OFFSET_COMMIT),
        }
    }
}
