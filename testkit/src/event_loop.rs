//! The one task that owns the cluster's state, and the door through which tests reach in.
//!
//! Connections push request frames into a queue; the loop serves them one after the other, and does what is due by the clock. A test's
//! controls (`move_leader`, `crash`, faults) are closures that run between two events, on the test's own thread: the lock below is
//! held by the loop only while it serves one event, and never across an await.

#![expect(
    clippy::disallowed_methods,
    reason = "the driver of the kit: it reads the clock and spawns, all else takes `now`"
)]

use std::any::Any;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::faults::{Rules, Site};
use crate::state::State;

/// What connections tell the loop.
pub(crate) enum Event {
    Frame { connection: u64, frame: Bytes },
    Closed { connection: u64 },
}

/// The cluster's state and the ways to it.
pub(crate) struct Shared {
    state: Mutex<State>,
    events: mpsc::UnboundedSender<Event>,
    poke: Notify,
    runtime: Handle,
    /// Each task holds a clone; when all are gone, the cluster has ended.
    alive: Mutex<Option<mpsc::Sender<()>>>,
}

impl Shared {
    /// Starts the loop on `runtime`. The receiver yields `None` once every task of the cluster has ended.
    pub(crate) fn start(state: impl FnOnce(Instant) -> State, runtime: Handle) -> (Arc<Self>, mpsc::Receiver<()>) {
        let (events, queue) = mpsc::unbounded_channel();
        let (alive, ended) = mpsc::channel(1);
        let now = {
            let _clock = runtime.enter();
            Instant::now()
        };
        let shared = Arc::new(Self {
            state: Mutex::new(state(now)),
            events,
            poke: Notify::new(),
            runtime,
            alive: Mutex::new(Some(alive)),
        });
        let running = shared.runtime.spawn(run(Arc::clone(&shared), queue));
        let watching = Arc::clone(&shared);
        shared.spawn(async move {
            if let Err(end) = running.await
                && let Ok(panic) = end.try_into_panic()
            {
                watching.broken(&*panic);
            }
        });
        (shared, ended)
    }

    /// Runs a task that the end of the cluster waits for. It must end when its connection is cut or the cluster stops.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Once the cluster has stopped nothing new begins.
        if let Some(alive) = alive {
            self.runtime.spawn(async move {
                task.await;
                drop(alive);
            });
        }
    }

    /// Runs a closure between two events, and lets the loop look at the clock again.
    pub(crate) fn control<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let result = f(&mut self.lock());
        self.poke.notify_one();
        result
    }

    /// Like [`control`](Self::control), with the time of the cluster's runtime.
    pub(crate) fn control_at<T>(&self, f: impl FnOnce(&mut State, Instant) -> T) -> T {
        let now = {
            let _clock = self.runtime.enter();
            Instant::now()
        };
        self.control(|state| f(state, now))
    }

    /// Tells the loop something.
    pub(crate) fn tell(&self, event: Event) {
        let _ = self.events.send(event); // after the loop's end nobody needs to know
    }

    /// Ends the loop, all connections and all listeners.
    pub(crate) fn stop(&self) {
        self.control(State::stop);
        self.alive.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The loop has panicked: without this every client would wait for its answer for ever.
    fn broken(&self, panic: &(dyn Any + Send)) {
        let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("a panic without words");
        self.control(|state| {
            state.panicked = Some(format!("the brokers panicked, which is a bug of the kit: {text}"));
            state.stop();
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in a control closure is a panic of that test; the state it leaves is whole between two statements of ours.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Site for Shared {
    fn with_rules(&self, f: &mut dyn FnMut(&mut Rules)) {
        self.control(|state| {
            f(&mut state.faults);
            let freed = state.faults.take_freed();
            state.resume(freed);
        });
    }
}

async fn run(shared: Arc<Shared>, mut queue: mpsc::UnboundedReceiver<Event>) {
    loop {
        let wake = {
            let mut state = shared.lock();
            state.on_time(Instant::now());
            if state.stopped {
                return;
            }
            state.next_wake()
        };
        let due = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            event = queue.recv() => {
                let Some(event) = event else { return };
                let mut state = shared.lock();
                let now = Instant::now();
                match event {
                    Event::Frame { connection, frame } => state.on_frame(connection, frame, now),
                    Event::Closed { connection } => state.on_closed(connection, now),
                }
            }
            () = shared.poke.notified() => {}
            () = due => {}
        }
    }
}
