//! Asks brokers for metadata: the one task that changes the picture.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use milena_protocol::messages::metadata_request::MetadataRequestTopic;
use milena_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};
use milena_protocol::{ApiKey, ErrorCode, StrBytes};

use super::machine::Poll;
use crate::core::Core;
use crate::link::{Link, PATIENCE, Target};
use crate::{Error, ErrorKind, Lane};

/// Runs until the client closes.
pub(crate) async fn run(core: Arc<Core>, link: Link) {
    let mut rng = core.rng("metadata");
    loop {
        let now = core.spawner.now();
        // Before the look at what is wanted: who wants something and then reads the number knows that the next question has it.
        let question = core.question.fetch_add(1, Ordering::AcqRel) + 1;
        let poll = core.machine().poll(now);
        let starts_again = matches!(poll, Poll::AskBootstrap(_));
        match poll {
            Poll::Ask(topics) | Poll::AskBootstrap(topics) => {
                let brokers = if starts_again {
                    core.rebootstrap();
                    core.bootstrap_ids().collect()
                } else {
                    candidates(&core, &mut rng)
                };
                let result = ask(&core, &link, &topics, brokers).await;
                let now = core.spawner.now();
                match result {
                    Ok(response) => {
                        let changed = core.on_metadata(&response);
                        core.answered.store(question, Ordering::Release);
                        if starts_again {
                            core.rebootstrapped();
                        }
                        // A question about a topic that is not there yet has not been settled, though the picture may have changed.
                        let settled = response.topics.iter().all(|topic| topic.error_code == 0);
                        core.machine().on_answer(now, changed && settled, &mut rng);
                    }
                    Err(error) => {
                        tracing::debug!(%error, "no broker answered for metadata");
                        if error.code() == Some(ErrorCode::REBOOTSTRAP_REQUIRED) {
                            core.machine().on_rebootstrap_required();
                        }
                        core.on_metadata_failed(error);
                        core.machine().on_failure(now, &mut rng);
                    }
                }
                core.refreshed.add_one();
            }
            Poll::WaitUntil(at) => {
                let timer = core.spawner.sleep_until(at);
                tokio::select! {
                    biased;
                    () = core.metadata_wanted.notified() => {}
                    () = timer => {}
                }
            }
            Poll::WaitForAnswer => core.metadata_wanted.notified().await,
        }
    }
}

/// Asks one broker after the other until one answers.
async fn ask(core: &Core, link: &Link, topics: &[Arc<str>], brokers: Vec<i32>) -> Result<MetadataResponse, Error> {
    let request = MetadataRequest::default()
        .with_allow_auto_topic_creation(core.config.allow_auto_create_topics)
        .with_topics(Some(
            topics
                .iter()
                .map(|topic| {
                    let name = TopicName(StrBytes::from_string(topic.to_string()));
                    MetadataRequestTopic::default().with_name(Some(name))
                })
                .collect(),
        ));
    let mut last = None;
    for broker in brokers {
        match link.send(Target::Broker(broker), Lane::Rest, request.clone(), PATIENCE).await {
            Ok(response) if response.error_code != 0 => {
                // For the whole answer, since v13 (KIP-1102).
                let code = ErrorCode(response.error_code);
                let error = Error::from_code(ApiKey::METADATA, code).with_broker(broker);
                if code == ErrorCode::REBOOTSTRAP_REQUIRED {
                    return Err(error);
                }
                last = Some(error);
            }
            Ok(response) if response.brokers.is_empty() => {
                last = Some(
                    Error::new(ErrorKind::Malformed, "the broker knows of no broker, not even itself: it is starting.")
                        .with_broker(broker),
                );
            }
            Ok(response) => return Ok(response),
            Err(error) => last = Some(error),
        }
    }
    Err(last
        .unwrap_or_else(|| Error::new(ErrorKind::Config, "there is no bootstrap server to ask: give at least one.")))
}

/// Brokers in the order to ask them: those that answer, then those that did not, then the bootstrap servers, for a cluster whose
/// brokers have all moved (KIP-899).
fn candidates(core: &Core, rng: &mut fastrand::Rng) -> Vec<i32> {
    let metadata = core.metadata.load();
    let mut known: Vec<i32> = metadata.brokers.keys().copied().collect();
    if !known.is_empty() {
        let start = rng.usize(..known.len());
        known.rotate_left(start);
    }
    known.sort_by_key(|broker| core.pool.failures(*broker));
    known.extend(core.bootstrap_ids());
    known
}
