//! Faults are data: *when* a request looks like this, *then* react like that.
//!
//! ```no_run
//! # async fn f() -> std::io::Result<()> {
//! use std::time::Duration;
//! use milena_testkit::{Api, Cluster, ErrorCode, Reaction};
//!
//! let cluster = Cluster::builder().topic("orders", 6).start_in_memory()?;
//! let lost_ack = cluster.faults().when(Api::Produce).topic("orders").nth(3).then(Reaction::ApplyThenDisconnect);
//! let slow = cluster.faults().when(Api::Fetch).broker(2).always().then(Reaction::Delay(Duration::from_millis(200)));
//! cluster.faults().when(Api::OffsetCommit).times(2).then(Reaction::Error(ErrorCode::NOT_COORDINATOR));
//! cluster.faults().when(Api::EndTxn).versions(..=4).then(Reaction::LateCopy(Duration::from_secs(3)));
//! // … drive the client. Where the number matters, ask for it:
//! assert_eq!(lost_ack.fired(), 1);
//! slow.remove();
//! // The end of the cluster panics if the commit was never refused, or no EndTxn ever came twice.
//! cluster.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! A request is compared with the faults in the order in which they were made. The first that fires decides; only errors and copies
//! add up, so that two partitions of one request can fail in two ways, and a request that is cut off can still arrive late. Errors are
//! injected where the broker itself would find them, per partition: the other partitions of the request are served, and a refused
//! batch is not appended.
//!
//! **A fault that never fires fails the test**: its premise did not come true. The end of the cluster (or of the proxy) panics with the
//! fault and the line that made it, unless it is [`optional`](FaultBuilder::optional), has a
//! [`probability`](FaultBuilder::probability), or was [removed](Fault::remove). A test that fails anyway keeps its own panic.
//!
//! **A request that gets no answer** (Produce with acks=0) can be dropped, cut off, delayed and copied as others can; a reaction that does
//! something with the answer ([`DelayAnswer`](Reaction::DelayAnswer), [`HoldAnswer`](Reaction::HoldAnswer) and the damages) does not fire
//! at it, and an error closes the connection, as brokers do.
//!
//! The conditions are in `when.rs`, the comparison in `rules.rs`, what a test holds in its hand in `fault.rs`, and what happens to the
//! bytes of an answer in `damage.rs`. Who does what a fault wants is the in-process cluster's `serving.rs`, or the proxy.

pub(crate) mod damage;
mod fault;
mod rules;
mod when;

use std::time::Duration;

use milena_protocol::ErrorCode;

pub use fault::{Barrier, Fault};
pub(crate) use rules::{Chosen, Held, InjectedError, Rules};
pub(crate) use when::Facts;
pub use when::{FaultBuilder, Faults};

/// Where faults live: a cluster in this process, or a proxy.
pub(crate) trait Site: Send + Sync {
    /// Does something with the faults, and goes on with what they let go.
    fn with_rules(&self, f: &mut dyn FnMut(&mut Rules));

    /// Why this reaction cannot be had here, if it cannot.
    fn refuses(&self, _reaction: Reaction) -> Option<&'static str> {
        None
    }
}

/// What the broker does when a fault fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reaction {
    /// Answers with this code: for the partitions that the fault names, or for all of them, or for the whole request where the API
    /// has no partitions. Nothing is applied there. Codes of fetch sessions stand at the top of a Fetch response, and an error of
    /// OffsetFetch that names no topic is the group's. A request whose answer has no place for the code does not match: Metadata that
    /// asks for brokers only (but for `REBOOTSTRAP_REQUIRED` from v13 on).
    Error(ErrorCode),
    /// Neither applies nor answers; the connection stays open and, as a broker serves one request at a time, silent.
    Drop,
    /// Closes the connection without applying anything.
    Disconnect,
    /// Applies, and never answers.
    ApplyThenDrop,
    /// Applies, and closes the connection instead of answering: the client cannot know.
    ApplyThenDisconnect,
    /// Applies, and then answers with this code, for the whole request, as if it had not: as a coordinator does that loses its place
    /// between writing to its log and hearing of its followers.
    ApplyThenError(ErrorCode),
    /// Waits before it applies. Later requests of the connection wait behind it.
    Delay(Duration),
    /// Applies at once, and waits before it answers.
    DelayAnswer(Duration),
    /// Waits before it applies until [`Fault::release`].
    Hold,
    /// Applies at once, and waits with the answer until [`Fault::release`].
    HoldAnswer,
    /// Serves the request, and so much later the same bytes come once more, on another connection, whose answer nobody reads: what a
    /// network does that has delivered a retry before the request it repeats. Adds up with other reactions: with
    /// [`Disconnect`](Self::Disconnect), only the late copy arrives.
    LateCopy(Duration),
    /// As [`LateCopy`](Self::LateCopy), at [`Fault::release`].
    HoldCopy,
    /// One bit of the request, behind its header, is turned over on its way. The bit is drawn from the seed.
    CorruptRequest,
    /// One bit of the answer, behind its header, is turned over on its way. The bit is drawn from the seed.
    CorruptAnswer,
    /// Half of the answer arrives; then the connection is closed.
    TruncateAnswer,
    /// Applies, and answers with the correlation id of no request.
    WrongCorrelationId,
    /// The connection dies in this moment without either side being told, as when a machine is unplugged: this request is not applied,
    /// what the client writes goes nowhere, nothing comes back, and the broker does not see the client hang up.
    HalfOpen,
    /// From this request on the connection carries so many bytes per second in each direction.
    Bandwidth(u32),
}

impl Reaction {
    /// Whether it can be had of this request: what is to be done with an answer needs one, and a code needs a place in it.
    fn fits(self, facts: &Facts<'_>) -> bool {
        match self {
            Self::Error(code) | Self::ApplyThenError(code) => {
                facts.tells_only.is_none_or(|codes| codes.contains(&code))
            }
            Self::DelayAnswer(_)
            | Self::HoldAnswer
            | Self::CorruptAnswer
            | Self::TruncateAnswer
            | Self::WrongCorrelationId => facts.is_answered,
            _ => true,
        }
    }

    /// Whether it adds up with the reaction of another fault.
    fn adds_up(self) -> bool {
        matches!(self, Self::Error(_) | Self::LateCopy(_) | Self::HoldCopy)
    }
}
