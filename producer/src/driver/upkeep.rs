//! The task that looks after everything but sending: new leaders, the producer id, batches whose time is over.

#![expect(clippy::disallowed_methods, reason = "a driver: it reads the clock and awaits timers")]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use milena_client::{Error, Lane, Link, Target};
use milena_protocol::ErrorCode;
use milena_protocol::messages::InitProducerIdRequest;
use tokio::time::Instant;

use crate::sequence::Identity;
use crate::shared::Shared;

/// While senders wait for room nothing lingers for longer than this, or they could wait for one another.
const LONGEST_LINGER_WHEN_FULL: Duration = Duration::from_millis(5);

type Asking = Pin<Box<dyn Future<Output = Result<Identity, Error>> + Send>>;

/// Runs until the producer ends.
pub(crate) async fn run(shared: Arc<Shared>) {
    let _end = End(shared.clone());
    let link = shared.link.clone();
    let mut changes = link.metadata_changes();
    let mut asking: Option<Asking> = None;
    let mut expire_at = None;
    let lingers = shared.settings.longest_linger() > LONGEST_LINGER_WHEN_FULL;
    loop {
        let now = Instant::now();
        if expire_at.is_none_or(|at| at <= now) {
            expire_at = look_for_expired(&shared, now);
        }
        if asking.is_none() && shared.is_identity_wanted() {
            asking = Some(Box::pin(ask(link.clone(), now + shared.config.delivery_timeout)));
        }
        let full = shared.waiters.load(Ordering::Acquire) > 0 && lingers;
        let sweep_at = full.then(|| now + LONGEST_LINGER_WHEN_FULL);
        let wake_at = [expire_at, sweep_at].into_iter().flatten().min();
        tokio::select! {
            biased;
            () = changes.changed() => shared.on_metadata(),
            result = async { asking.as_mut()?.await.into() }, if asking.is_some() => {
                asking = None;
                on_identity(&shared, result);
            }
            () = shared.upkeep.notified() => {}
            () = async { tokio::time::sleep_until(wake_at.unwrap_or(now)).await }, if wake_at.is_some() => {
                if full {
                    shared.hurry();
                }
            }
        }
    }
}

/// Fails what is too old and says when to look again; `None` if there is nothing, and then whoever opens a batch calls.
fn look_for_expired(shared: &Shared, now: Instant) -> Option<Instant> {
    if let Some(next) = shared.expire(now) {
        return Some(next);
    }
    shared.expiry_armed.store(false, Ordering::Relaxed);
    // A batch that was opened between the look and the store would otherwise be watched by nobody.
    let next = shared.expire(now);
    if next.is_some() {
        shared.expiry_armed.store(true, Ordering::Relaxed);
    }
    next
}

async fn ask(link: Link, deadline: Instant) -> Result<Identity, Error> {
    let answer = link
        .call(
            Target::Any,
            Lane::Rest,
            deadline,
            |_| InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(i32::MAX),
            |answer| ErrorCode(answer.error_code),
        )
        .await?;
    Ok(Identity { producer_id: answer.producer_id.0, epoch: answer.producer_epoch })
}

fn on_identity(shared: &Arc<Shared>, result: Option<Result<Identity, Error>>) {
    match result {
        Some(Ok(identity)) => shared.on_identity(Some(identity)),
        Some(Err(error)) => {
            tracing::warn!(%error, "the cluster gives no producer id");
            shared.on_identity(None);
            if !error.is_retriable() {
                // Nothing that waits can ever be sent; what comes later asks again.
                shared.abandon(&error);
            }
        }
        None => {}
    }
}

/// However the task ends, nobody waits for ever for what will not be sent any more.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.end();
    }
}
