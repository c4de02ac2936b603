//! Polls a future a number of times and drops it; and does so with every number until the future completes.

#![expect(
    clippy::disallowed_methods,
    reason = "a harness in virtual time: it sleeps on the paused clock, which is free"
)]

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Builder;

use crate::world::Footprint;

/// One row of the table: a call, and the scenario that cuts it.
pub(crate) struct Row {
    /// `crate::Type::function`, as `cargo xtask check` finds it in the sources.
    pub(crate) call: &'static str,
    pub(crate) scenario: for<'a> fn(&'a Cut) -> Pin<Box<dyn Future<Output = Footprint> + 'a>>,
}

/// Polls one future of the scenario and drops it.
pub(crate) struct Cut {
    after: usize,
    state: Cell<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    NotReached,
    Dropped,
    Completed,
}

/// Polls without letting any time pass, with one poll of one other task in between: enough for whatever a cluster without latency
/// has to say.
const TURNS_AT_FIRST: usize = 150;
/// After them time passes, each time more than before, with some single turns in between.
const TURNS_BETWEEN: usize = 16;
const LONGEST_SLEEP: Duration = Duration::from_secs(2);
/// A call that takes more polls than this never completes.
const MOST_POLLS: usize = 1_000;

impl Cut {
    fn new(after: usize) -> Self {
        Self { after, state: Cell::new(State::NotReached) }
    }

    /// Whether this cut's future is polled at all before it is dropped.
    pub(crate) fn was_polled(&self) -> bool {
        self.after > 0
    }

    /// Polls `future`, letting everything else run in between, and drops it after as many polls as it is this cut's turn to. The
    /// output, if the future was ready before.
    pub(crate) async fn of<F: Future>(&self, future: F) -> Option<F::Output> {
        assert_eq!(self.state.get(), State::NotReached, "a scenario cuts one call");
        let mut future = Box::pin(future);
        let mut sleep = Duration::from_millis(1);
        for polls in 0.. {
            assert!(self.after == usize::MAX || polls < MOST_POLLS, "not ready after {polls} polls");
            if polls == self.after {
                self.state.set(State::Dropped);
                break;
            }
            if let Poll::Ready(output) = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
                self.state.set(State::Completed);
                return Some(output);
            }
            if polls < TURNS_AT_FIRST || polls % TURNS_BETWEEN != 0 {
                one_turn().await;
            } else {
                tokio::time::sleep(sleep).await;
                sleep = (sleep * 2).min(LONGEST_SLEEP);
            }
        }
        None
    }
}

/// One other task is polled once; the clock stands still. (`yield_now` would let all of them run until none has anything to do.)
async fn one_turn() {
    let mut waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Runs a scenario with every number of polls, until its call completes. Returns how often the call was dropped.
pub(crate) fn at_every_await(row: &Row) -> usize {
    let (undisturbed, _) = run(row, usize::MAX);
    for after in 0.. {
        let (footprint, state) = run(row, after);
        assert_eq!(
            footprint, undisturbed,
            "{}: dropped after {after} polls, it leaves something else behind than an undisturbed run",
            row.call
        );
        if state == State::Completed {
            return after;
        }
    }
    unreachable!("a call completes at some time");
}

fn run(row: &Row, after: usize) -> (Footprint, State) {
    let _told = Told { call: row.call, after };
    let cut = Cut::new(after);
    // The scenario is looked at after each poll of another task, and not after 61 of them.
    let runtime = Builder::new_current_thread().enable_all().event_interval(1).start_paused(true).build();
    let runtime = runtime.expect("a runtime needs a poller only");
    let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(600), (row.scenario)(&cut)).await });
    let footprint = ended.expect("the scenario hangs");
    assert_ne!(cut.state.get(), State::NotReached, "the scenario does not cut anything");
    (footprint, cut.state.get())
}

/// Says where it was when the scenario panics.
struct Told {
    call: &'static str,
    after: usize,
}

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            match self.after {
                usize::MAX => eprintln!("{}: it was not dropped at all", self.call),
                after => eprintln!("{}: it was dropped after {after} polls", self.call),
            }
        }
    }
}
