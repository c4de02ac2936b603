//! Offsets that a user asks for: where partitions begin, end, or reach a time. Each leader is asked once for all of its partitions, all
//! leaders at once, and again where a leader has moved, until everything is known or the time is over.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use milena_client::{Backoff, Error, ErrorKind, RefreshReason, TopicPartition};
use milena_protocol::{ApiKey, ErrorCode};

use crate::StartAt;
use crate::deadline::after;
use crate::driver::offsets::{self, Place};
use crate::shared::Shared;

/// An offset and the timestamp of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct OffsetAndTimestamp {
    /// The offset.
    pub offset: i64,
    /// The record's timestamp, milliseconds since 1970.
    pub timestamp: i64,
    /// The epoch of the leader that wrote the record; `None` if the broker does not tell.
    pub leader_epoch: Option<i32>,
}

impl OffsetAndTimestamp {
    pub(crate) fn new(place: Place) -> Self {
        let leader_epoch = (place.leader_epoch >= 0).then_some(place.leader_epoch);
        Self { offset: place.offset, timestamp: place.timestamp, leader_epoch }
    }
}

/// Looks up a place in each partition. `None` in the answer: no record is that late.
pub(crate) async fn look_up(
    shared: &Arc<Shared>,
    mut open: BTreeMap<TopicPartition, StartAt>,
) -> Result<BTreeMap<TopicPartition, Option<Place>>, Error> {
    let (link, isolation) = (shared.link.clone(), shared.config.isolation);
    let deadline = after(link.now(), shared.config.api_timeout);
    let _interest = link.want_topics(open.keys().map(|tp| &*tp.topic));
    let mut changes = link.metadata_changes();
    let mut backoff = Backoff::RETRY;
    let mut rng = link.rng("look-up");
    let mut found = BTreeMap::new();
    while !open.is_empty() {
        link.check_open()?;
        changes.mark_seen();
        let metadata = link.metadata();
        let mut last = None;
        let mut by_leader: BTreeMap<i32, Vec<(TopicPartition, (StartAt, i32))>> = BTreeMap::new();
        for (tp, start) in &open {
            match metadata.leader(&tp.topic, tp.partition) {
                Some((leader, epoch)) => by_leader.entry(leader).or_default().push((tp.clone(), (*start, epoch))),
                None => {
                    let code = metadata.topic(&tp.topic).map_or(ErrorCode::NONE, |topic| topic.error);
                    if !code.is_none() && !code.is_retriable() {
                        return Err(Error::from_code(ApiKey::METADATA, code).with_topic_partition(tp.clone()));
                    }
                    last = Some(no_leader(tp));
                }
            }
        }
        let mut asked = FuturesUnordered::new();
        for (leader, partitions) in by_leader {
            let timeout = link.request_timeout().min(deadline.saturating_duration_since(link.now()));
            let link = &link;
            asked.push(async move { offsets::list(link, leader, isolation, partitions, timeout).await });
        }
        while let Some(answer) = asked.next().await {
            let answers = match answer {
                Ok(answers) => answers,
                Err(error) if error.is_retriable() => {
                    last = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            for (tp, place) in answers {
                match place {
                    Ok(place) if open.remove(&tp).is_some() => drop(found.insert(tp, place)),
                    // A broker that answers what nobody has asked.
                    Ok(_) => {}
                    Err(error) if error.is_retriable() => last = Some(error),
                    Err(error) => return Err(error),
                }
            }
        }
        if open.is_empty() {
            break;
        }
        link.refresh_metadata(RefreshReason::NoLeader);
        let again = link.now() + backoff.on_failure(&mut rng);
        if again >= deadline {
            return Err(last.unwrap_or_else(|| {
                let text = "the broker's answers leave the partition out: look at the broker's log.";
                let error = Error::new(ErrorKind::Malformed, text).with_api(ApiKey::LIST_OFFSETS);
                open.keys().next().cloned().map_or(error.clone(), |tp| error.with_topic_partition(tp))
            }));
        }
        tokio::select! {
            biased;
            () = changes.changed() => {}
            () = link.sleep_until(again) => {}
        }
    }
    Ok(found)
}

fn no_leader(tp: &TopicPartition) -> Error {
    let text = "the cluster does not know the partition, or nobody leads it at the moment: check the name and the number, or start its \
                brokers.";
    Error::new(ErrorKind::UnknownTopicOrPartition, text).with_topic_partition(tp.clone())
}
