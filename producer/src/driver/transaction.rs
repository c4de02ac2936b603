//! The task that asks the coordinators what the transaction machine wants to know, and does what follows from the answers.

#![expect(clippy::disallowed_methods, reason = "a driver: it reads the clock and awaits timers")]

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use milena_client::{CoordinatorKind, Error, ErrorKind, Lane, Link, Outcome, Target, TopicPartition};
use milena_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use milena_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use milena_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, EndTxnRequest, GroupId, InitProducerIdRequest, ProducerId,
    TopicName, TransactionalId, TxnOffsetCommitRequest,
};
use milena_protocol::{ErrorCode, Request, StrBytes};
use tokio::time::Instant;

use crate::producer::settled;
use crate::sequence::Identity;
use crate::shared::Shared;
use crate::transaction::{Ask, Effect, GroupOffsets, NoReply, Protocol, Reply, Step, Transactional};

type Settling = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs until the producer ends.
pub(crate) fn run(shared: Arc<Shared>) -> impl Future<Output = ()> + Send {
    // Made here, so that it is dropped also if the task never runs.
    let end = End(shared);
    async move { ask_and_act(&end.0).await }
}

async fn ask_and_act(shared: &Shared) {
    let Some(transaction) = &shared.transaction else { return };
    let mut rng = shared.link.rng("transaction");
    let mut settling: Option<Settling> = None;
    loop {
        let (step, effects, unsettled) = {
            let mut state = transaction.lock();
            let step = state.machine.next(Instant::now());
            if !state.machine.is_ending() {
                state.outcome = None;
            }
            (step, state.machine.take_effects(), state.unsettled.take())
        };
        let had_effects = !effects.is_empty();
        for effect in effects {
            perform(shared, transaction, effect);
        }
        transaction.tell_results();
        if let Some(unsettled) = unsettled {
            settling = Some(Box::pin(async move { settled(&unsettled).await }));
        }
        if had_effects {
            continue;
        }
        match step {
            Step::Ask { ask, identity, protocol, deadline } => {
                let question = Question { shared, transaction, identity, protocol, deadline };
                let reply = question.ask(&ask).await;
                transaction.lock().machine.on_reply(ask, reply, Instant::now(), &mut rng);
            }
            Step::Rest(until) => {
                tokio::select! {
                    biased;
                    () = async { if let Some(settling) = &mut settling { settling.await } }, if settling.is_some() => {
                        settling = None;
                        transaction.lock().machine.on_settled();
                    }
                    () = transaction.bell.notified() => {}
                    () = async { tokio::time::sleep_until(until.unwrap_or_else(Instant::now)).await }, if until.is_some() => {}
                }
            }
        }
    }
}

fn perform(shared: &Shared, transaction: &Transactional, effect: Effect) {
    match effect {
        Effect::Restart(identity) => {
            shared.restart_sequences(identity);
            transaction.lock().machine.on_restarted();
        }
        Effect::WakeParts => shared.wake_parts(),
        Effect::Drain => {
            let pending = shared.drain_transaction(transaction);
            let mut state = transaction.lock();
            if state.machine.is_ending() {
                state.unsettled = Some(pending);
            }
        }
        Effect::Forget(CoordinatorKind::Transaction, _) => {
            shared.link.forget_coordinator(CoordinatorKind::Transaction, transaction.id());
        }
        Effect::Forget(kind, key) => shared.link.forget_coordinator(kind, &key),
    }
}

/// A request, with what every request of a transaction says.
struct Question<'a> {
    shared: &'a Shared,
    transaction: &'a Transactional,
    identity: Identity,
    protocol: Protocol,
    deadline: Instant,
}

impl Question<'_> {
    async fn ask(&self, ask: &Ask) -> Result<Reply, NoReply> {
        match ask {
            Ask::Init(from) => self.initialise(*from).await,
            Ask::AddPartitions(partitions) => {
                let reply = self.add_partitions(partitions).await;
                // Records wait for it: what is wrong here is why they are given up.
                let trouble = reply.as_ref().err().map(|no_reply| no_reply.error.clone());
                *self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
                reply
            }
            Ask::AddOffsets(group) => self.add_offsets(group).await,
            Ask::CommitOffsets(what) => self.commit_offsets(what).await,
            Ask::End { commit } => self.end(*commit).await,
        }
    }

    async fn initialise(&self, from: Option<Identity>) -> Result<Reply, NoReply> {
        let id = self.transactional_id();
        let timeout = i32::try_from(self.transaction.timeout().as_millis()).unwrap_or(i32::MAX);
        let answer = self
            .send(CoordinatorKind::Transaction, self.transaction.shared_id(), i16::MAX, move |version| {
                let request = InitProducerIdRequest::default()
                    .with_transactional_id(Some(id))
                    .with_transaction_timeout_ms(timeout);
                match from {
                    // KIP-360: brokers since 2.5.
                    Some(from) if version >= 3 => {
                        request.with_producer_id(ProducerId(from.producer_id)).with_producer_epoch(from.epoch)
                    }
                    _ => request,
                }
            })
            .await?;
        let identity = Identity { producer_id: answer.producer_id.0, epoch: answer.producer_epoch };
        Ok(Reply::Initialised(ErrorCode(answer.error_code), identity))
    }

    async fn add_partitions(&self, partitions: &[TopicPartition]) -> Result<Reply, NoReply> {
        let topics: Vec<_> = partitions
            .chunk_by(|a, b| a.topic == b.topic)
            .map(|topic| {
                AddPartitionsToTxnTopic::default()
                    .with_name(topic_name(&topic[0].topic))
                    .with_partitions(topic.iter().map(|partition| partition.partition).collect())
            })
            .collect();
        let (id, Identity { producer_id, epoch }) = (self.transactional_id(), self.identity);
        let answer = self
            .send(CoordinatorKind::Transaction, self.transaction.shared_id(), NEWEST_ADD_PARTITIONS, move |_| {
                AddPartitionsToTxnRequest::default()
                    .with_v3_and_below_transactional_id(id)
                    .with_v3_and_below_producer_id(ProducerId(producer_id))
                    .with_v3_and_below_producer_epoch(epoch)
                    .with_v3_and_below_topics(topics)
            })
            .await?;
        let answers = answer.results_by_topic_v3_and_below.iter().flat_map(|topic| {
            let name: Arc<str> = Arc::from(topic.name.as_str());
            topic.results_by_partition.iter().map(move |partition| {
                let code = ErrorCode(partition.partition_error_code);
                (TopicPartition::new(name.clone(), partition.partition_index), code)
            })
        });
        Ok(Reply::Partitions(answers.collect()))
    }

    async fn add_offsets(&self, group: &Arc<str>) -> Result<Reply, NoReply> {
        let (id, group_id, Identity { producer_id, epoch }) = (self.transactional_id(), group_id(group), self.identity);
        let answer = self
            .send(CoordinatorKind::Transaction, self.transaction.shared_id(), NEWEST_ADD_OFFSETS, move |_| {
                AddOffsetsToTxnRequest::default()
                    .with_transactional_id(id)
                    .with_producer_id(ProducerId(producer_id))
                    .with_producer_epoch(epoch)
                    .with_group_id(group_id)
            })
            .await?;
        Ok(Reply::Group(ErrorCode(answer.error_code)))
    }

    async fn commit_offsets(&self, what: &Arc<GroupOffsets>) -> Result<Reply, NoReply> {
        let newest = match self.protocol {
            Protocol::V1 => 4,
            Protocol::V2 => i16::MAX,
        };
        let (id, Identity { producer_id, epoch }) = (self.transactional_id(), self.identity);
        let sent = what.clone();
        let make = move |version| {
            let GroupOffsets { group, offsets } = &*sent;
            let request = TxnOffsetCommitRequest::default()
                .with_transactional_id(id)
                .with_group_id(group_id(&group.group))
                .with_producer_id(ProducerId(producer_id))
                .with_producer_epoch(epoch)
                .with_topics(offsets_by_topic(offsets, version));
            if version < 3 {
                return request;
            }
            // KIP-447: fences a member that was replaced.
            request
                .with_generation_id(group.generation)
                .with_member_id(str_bytes(&group.member_id))
                .with_group_instance_id(group.instance_id.as_deref().map(str_bytes))
        };
        let answer = self.send(CoordinatorKind::Group, &what.group.group, newest, make).await?;
        let answers = answer.topics.iter().flat_map(|topic| {
            let name: Arc<str> = Arc::from(topic.name.as_str());
            topic.partitions.iter().map(move |partition| {
                (TopicPartition::new(name.clone(), partition.partition_index), ErrorCode(partition.error_code))
            })
        });
        Ok(Reply::Offsets(answers.collect()))
    }

    async fn end(&self, commit: bool) -> Result<Reply, NoReply> {
        let newest = match self.protocol {
            Protocol::V1 => 4,
            Protocol::V2 => i16::MAX,
        };
        let (id, Identity { producer_id, epoch }) = (self.transactional_id(), self.identity);
        let answer = self
            .send(CoordinatorKind::Transaction, self.transaction.shared_id(), newest, move |_| {
                EndTxnRequest::default()
                    .with_transactional_id(id)
                    .with_producer_id(ProducerId(producer_id))
                    .with_producer_epoch(epoch)
                    .with_committed(commit)
            })
            .await?;
        let next = Identity { producer_id: answer.producer_id.0, epoch: answer.producer_epoch };
        Ok(Reply::Ended(ErrorCode(answer.error_code), (next.producer_id >= 0).then_some(next)))
    }

    /// Sends to the coordinator, once. That it cannot be found is known to be no lost answer.
    async fn send<R: Request>(
        &self,
        kind: CoordinatorKind,
        key: &Arc<str>,
        newest: i16,
        make: impl FnOnce(i16) -> R + Send + 'static,
    ) -> Result<R::Response, NoReply> {
        let link: &Link = &self.shared.link;
        let unsent = |error| NoReply { error, lost: false };
        let broker = link.coordinator(kind, key, self.deadline).await.map_err(unsent)?;
        let timeout = self.deadline.saturating_duration_since(Instant::now());
        if timeout < Duration::from_millis(1) {
            let error = Error::new(ErrorKind::Timeout, "the coordinator was found too late to be asked.");
            return Err(unsent(error.with_outcome(Outcome::NotWritten)));
        }
        link.send_at_most(Target::Broker(broker), Lane::Rest, timeout, newest, make).await.map_err(|error| {
            link.on_coordinator_error(kind, key, broker, &error);
            let lost = error.outcome() == Outcome::Unknown;
            NoReply { error, lost }
        })
    }

    fn transactional_id(&self) -> TransactionalId {
        TransactionalId(str_bytes(self.transaction.id()))
    }
}

fn offsets_by_topic(
    offsets: &std::collections::BTreeMap<TopicPartition, milena_client::OffsetAndMetadata>,
    version: i16,
) -> Vec<TxnOffsetCommitRequestTopic> {
    let mut topics: Vec<TxnOffsetCommitRequestTopic> = Vec::new();
    for (partition, offset) in offsets {
        let entry = TxnOffsetCommitRequestPartition::default()
            .with_partition_index(partition.partition)
            .with_committed_offset(offset.offset)
            .with_committed_metadata(Some(str_bytes(&offset.metadata)));
        let entry = if version >= 2 { entry.with_committed_leader_epoch(offset.leader_epoch) } else { entry };
        match topics.last_mut().filter(|topic| *topic.name.0 == *partition.topic) {
            Some(topic) => topic.partitions.push(entry),
            None => topics.push(
                TxnOffsetCommitRequestTopic::default()
                    .with_name(topic_name(&partition.topic))
                    .with_partitions(vec![entry]),
            ),
        }
    }
    topics
}

fn str_bytes(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic_name(name: &str) -> TopicName {
    TopicName(str_bytes(name))
}

fn group_id(group: &str) -> GroupId {
    GroupId(str_bytes(group))
}

/// From v4 on AddPartitionsToTxn is for brokers.
const NEWEST_ADD_PARTITIONS: i16 = 3;
/// From v4 on AddOffsetsToTxn may answer TRANSACTION_ABORTABLE, which is understood.
const NEWEST_ADD_OFFSETS: i16 = i16::MAX;

/// However the task ends, nobody waits for ever.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        if let Some(transaction) = &self.0.transaction {
            transaction.close();
        }
    }
}
