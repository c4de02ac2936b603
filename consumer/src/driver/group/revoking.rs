//! What the member reads: partitions that are adopted, lost, or given up in order, their listener called and their offsets committed.

use milena_client::TopicPartition;
use tokio::time::Instant;

use super::{Driver, Event, REVOKE_RESERVE, Revocation, Step};
use crate::driver::listener::Kind;
use crate::group::Assignment;
use crate::metrics::PartitionGauges;
use crate::partitions::Stand;
use crate::shared::Shared;

impl Driver {
    pub(super) fn adopt(&mut self, added: Vec<TopicPartition>, assignment: &Assignment, generation: i32) {
        tracing::info!(group = %self.config.group, generation, added = added.len(), "assigned");
        self.counters.rebalances.add(1);
        self.counters.assigned.set(assignment.partitions.len() as i64);
        self.config.assignor.on_assignment(assignment, generation);
        // What is new waits for the listener, which may seek.
        let stand = if self.listener.is_some() { Stand::AwaitListener } else { Stand::AwaitCommitted };
        let link = self.link.clone();
        self.shared.change(|partitions| {
            partitions.assign(added.iter().map(|tp| (tp.clone(), stand.clone(), PartitionGauges::new(&link, tp))));
            None
        });
        if self.listener.is_some() {
            let (life, call) = (self.life, self.listener.call(Kind::Assigned, added.clone()));
            self.under_way.push(Box::pin(async move {
                call.await;
                Event::Prepared(life, added)
            }));
        }
    }

    pub(super) fn lose(&mut self, partitions: Vec<TopicPartition>) {
        self.revocation = None;
        self.life += 1;
        self.counters.assigned.set(0);
        self.commits.lose(&partitions);
        self.shared.change(|table| table.release(&partitions));
        if self.listener.is_some() {
            self.lost_untold.push_back(partitions.clone());
            let call = self.listener.call(Kind::Lost, partitions);
            self.under_way.push(Box::pin(async move {
                call.await;
                Event::ToldLost
            }));
        }
    }

    pub(super) fn begin_revocation(&mut self, attempt: u64, partitions: Vec<TopicPartition>) {
        if self.closing.is_some() {
            // Everything is being given up already, and this member is about to leave.
            return;
        }
        let now = self.link.now();
        let patience = self.config.max_poll_interval.saturating_sub(REVOKE_RESERVE);
        let deadline = now + patience;
        self.shared.change(|table| table.begin_revoke(&partitions));
        self.listener.revoking(&partitions);
        let shared = self.shared.clone();
        let asked = partitions.clone();
        self.revocation = Some(Revocation { attempt, partitions, deadline, told: Vec::new(), step: Step::Draining });
        self.under_way.push(Box::pin(async move {
            drained(&shared, &asked, deadline).await;
            Event::Drained(attempt)
        }));
    }

    pub(super) fn set_step(&mut self, step: Step) {
        if let Some(revocation) = &mut self.revocation {
            revocation.step = step;
        }
    }

    pub(super) fn commit_before_revoke(&mut self) {
        let Some(revocation) = &mut self.revocation else { return };
        revocation.told = self.shared.frontiers(Some(&revocation.partitions));
        let told = revocation.told.clone();
        let ticket = self.want(told);
        self.set_step(Step::Committing(ticket));
    }

    pub(super) fn advance_revocation(&mut self, now: Instant) {
        loop {
            let Some(revocation) = &self.revocation else { return };
            // A coordinator that does not answer must not keep the partitions for ever; the commit keeps a part of the reserve.
            let too_late = now >= revocation.deadline + REVOKE_RESERVE / 2;
            match &revocation.step {
                Step::Draining => return,
                Step::Listening if !too_late => return,
                Step::Committing(ticket) if too_late || self.commits.result(*ticket).is_some() => {
                    let (attempt, partitions) = (revocation.attempt, revocation.partitions.clone());
                    if !self.listener.is_some() {
                        self.finish_revocation(now);
                        return;
                    }
                    let call = self.listener.call(Kind::Revoked, partitions);
                    self.under_way.push(Box::pin(async move {
                        call.await;
                        Event::Revoked(attempt)
                    }));
                    self.set_step(Step::Listening);
                }
                Step::CommittingAgain(ticket) if too_late || self.commits.result(*ticket).is_some() => {
                    self.finish_revocation(now);
                    return;
                }
                Step::Listening => {
                    self.finish_revocation(now);
                    return;
                }
                _ => return,
            }
        }
    }

    fn finish_revocation(&mut self, now: Instant) {
        let Some(revocation) = self.revocation.take() else { return };
        self.commits.lose(&revocation.partitions);
        self.shared.change(|table| table.release(&revocation.partitions));
        self.membership.on_revoked(revocation.attempt, now, &revocation.partitions);
    }
}

/// Waits until the user has acknowledged what it has of the partitions, at most until `deadline`.
async fn drained(shared: &Shared, partitions: &[TopicPartition], deadline: Instant) {
    let mut timer = shared.link.sleep_until(deadline);
    loop {
        let acknowledged = shared.signals.drained.notified();
        tokio::pin!(acknowledged);
        // Registered before the look, or an acknowledgement between the two would be missed.
        acknowledged.as_mut().enable();
        if shared.partitions().is_drained(partitions) {
            return;
        }
        tokio::select! {
            biased;
            () = acknowledged => {}
            () = &mut timer => {
                tracing::warn!("records of revoked partitions were not acknowledged in time: they will be read again by their new owner");
                return;
            }
        }
    }
}
