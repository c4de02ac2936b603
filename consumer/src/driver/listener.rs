//! Runs the user's rebalance listener: one call after the other, on the runtime that built the consumer and never on the client's
//! thread, so that a listener that blocks holds up a revocation and nothing else.

use std::sync::Arc;

use milena_client::TopicPartition;
use tokio::sync::{mpsc, oneshot};

use crate::{ConsumerHandle, RebalanceListener};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Assigned,
    Revoked,
    Lost,
}

#[derive(Debug)]
struct Call {
    kind: Kind,
    partitions: Vec<TopicPartition>,
    done: oneshot::Sender<()>,
}

/// The way to the listener, if there is one.
#[derive(Clone)]
pub(crate) struct Calls(Option<(mpsc::UnboundedSender<Call>, Arc<dyn RebalanceListener>)>);

impl Calls {
    /// Starts the listener's task on `runtime`. It ends when the last clone of the result is dropped.
    pub(crate) fn start(
        listener: Option<Arc<dyn RebalanceListener>>,
        runtime: &tokio::runtime::Handle,
        handle: ConsumerHandle,
    ) -> Self {
        let Some(listener) = listener else { return Self(None) };
        let (sender, mut calls) = mpsc::unbounded_channel::<Call>();
        let kept = listener.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "the user's code belongs on the user's runtime, not on the client's"
        )]
        runtime.spawn(async move {
            while let Some(call) = calls.recv().await {
                match call.kind {
                    Kind::Assigned => listener.on_assigned(&call.partitions, &handle).await,
                    Kind::Revoked => listener.on_revoked(&call.partitions, &handle).await,
                    Kind::Lost => listener.on_lost(&call.partitions, &handle).await,
                }
                let _ = call.done.send(());
            }
        });
        Self(Some((sender, kept)))
    }

    /// Whether there is a listener.
    pub(crate) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Tells the listener at once that a revocation begins.
    pub(crate) fn revoking(&self, partitions: &[TopicPartition]) {
        if let Some((_, listener)) = &self.0 {
            listener.on_revoking(partitions);
        }
    }

    /// Calls the listener, after all calls before; ready when it has returned, or if there is none (any more: it has panicked).
    pub(crate) fn call(
        &self,
        kind: Kind,
        partitions: Vec<TopicPartition>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let done = self.0.as_ref().and_then(|(calls, _)| {
            let (done, waiting) = oneshot::channel();
            calls.send(Call { kind, partitions, done }).ok().map(|()| waiting)
        });
        async move {
            if let Some(done) = done {
                // An error means that the listener panicked: as good as returned.
                let _ = done.await;
            }
        }
    }
}
